"""The baseline in the examples: ridge regression on k-mer counts."""

import csv
import runpy
import sys
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from modeling_proformer import ProformerTokenizer
from modeling_proformer.evaluation.metrics import correlation


EXAMPLE = str(Path(__file__).parents[2] / "examples" / "kmer_ridge.py")
FIVE_PRIME_FLANK, THREE_PRIME_FLANK = "TTGGTTGGTT", "CCAACCAACC"


@pytest.fixture
def run(monkeypatch):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["kmer_ridge.py", *map(str, arguments)])
        runpy.run_path(EXAMPLE, run_name="__main__")

    return run


def random_inserts(count: int, seed: int) -> list[str]:
    generator = np.random.default_rng(seed)
    return ["".join(generator.choice(list("ACGT"), length)) for length in generator.integers(25, 31, count)]


def true_expression(inserts: list[str]) -> np.ndarray:
    """Linear in the counts of two 3-mers of the strand as given."""
    return np.array([insert.count("TAC") - 2.0 * insert.count("CAG") for insert in inserts])


def write(path: Path, header: list[str], columns: list) -> Path:
    with open(path, "w", newline="") as file:
        writer = csv.writer(file, delimiter="\t")
        writer.writerows([header, *zip(*columns, strict=True)])
    return path


def read(path: Path) -> dict[str, list[str]]:
    with open(path, newline="") as file:
        header, *rows = csv.reader(file, delimiter="\t")
    return dict(zip(header, zip(*rows, strict=True), strict=True))


@pytest.mark.parametrize("gaps", [[], [1, 4]])
def test_kmers_are_counted_one_by_one(gaps):
    example = runpy.run_path(EXAMPLE)
    inserts = [*random_inserts(20, seed=0), "ACGNACGTT", "AC", "A" * 30]
    letters = example["forward_letters"](inserts, ProformerTokenizer(insert_width=30))
    counts = example["kmer_counts"](letters, 3, gaps).toarray()
    kmers = ["".join(kmer) for kmer in product("ACGT", repeat=3)]
    for row, insert in zip(counts, inserts, strict=True):
        expected = []
        for gap in (0, *gaps):
            # The odd letter is in the second half.
            windows = (insert[first : first + 3 + gap] for first in range(len(insert) - 2 - gap))
            found = Counter(window[:1] + window[1 + gap :] for window in windows)
            expected += [found[kmer] for kmer in kmers]
        assert row.tolist() == expected


def test_it_predicts_what_is_linear_from_tables_on_different_scales(run, tmp_path, capsys):
    generator = np.random.default_rng(0)
    first, second, asked = (random_inserts(count, seed) for seed, count in enumerate((600, 300, 100)))
    constructs = [FIVE_PRIME_FLANK + insert + THREE_PRIME_FLANK for insert in first]
    first_labels = [f"{value:.3f}" for value in 5 + 2 * true_expression(first) + generator.normal(scale=0.1, size=600)]
    first_labels[7] = "NA"
    other_labels = [*first_labels[:7], "1", *first_labels[8:]]
    families = np.arange(600) // 3
    tables = [
        write(
            tmp_path / "first.tsv",
            ["sequence", "expression", "again", "family"],
            [constructs, first_labels, other_labels, families],
        ),
        # On another scale, without flanks and families.
        write(
            tmp_path / "second.tsv",
            ["sequence", "expression", "again"],
            [second, *2 * [-100 + 0.5 * true_expression(second)]],
        ),
    ]
    asked_path = write(tmp_path / "asked.tsv", ["name", "sequence"], [range(100), asked])
    output = tmp_path / "predicted.tsv"
    options = ["--group_column", "family", "--label_columns", "expression", "again", "--kmer_size", 3]
    options += ["--five_prime_flank", FIVE_PRIME_FLANK, "--three_prime_flank", THREE_PRIME_FLANK]
    run("--train_file", *tables, *options, "--predict_file", asked_path, "--output", output)

    table = read(output)
    assert list(table) == ["name", "sequence", "predicted_expression", "predicted_again"]
    assert list(table["sequence"]) == asked
    for column in ("predicted_expression", "predicted_again"):
        predicted = np.array(table[column], dtype=float)
        assert correlation(true_expression(asked), predicted).pearson_r > 0.97
        # In the units of the first table; its scale and the second's are not quite one, of so few rows.
        assert np.abs(predicted - (5 + 2 * true_expression(asked))).mean() < 0.5
    said = capsys.readouterr().out
    assert f"{tables[0]}: 569 rows to train on, 30 held out" in said
    assert f"{tables[1]}, expression: Pearson r 0.9" in said

    run("--train_file", *tables, *options, "--predict_file", asked_path, "--output", output, "--max_rows", 50)
    assert f"{tables[0]}: 49 rows to train on, 30 held out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("header", "cells", "complaint"),
    [
        (["sequence"], ["ACGT", "ACXT"], "line 3, column 'sequence': 'X' at position 3"),
        (["sequence", "predicted_expression"], ["ACGT", 1], "rename the column 'predicted_expression'"),
        (["dna"], ["ACGT"], "there is no column 'sequence'"),
    ],
)
def test_what_cannot_be_predicted_is_said_before_training(run, tmp_path, header, cells, complaint):
    rows = np.reshape(cells, (-1, len(header))).T
    asked = write(tmp_path / "asked.tsv", header, rows)
    with pytest.raises(SystemExit) as stopped:
        run("--train_file", tmp_path / "none.tsv", "--predict_file", asked, "--output", tmp_path / "out.tsv")
    assert stopped.value.code.startswith(f"kmer_ridge.py: {asked}")
    assert complaint in stopped.value.code
    assert not (tmp_path / "out.tsv").exists()


@pytest.mark.parametrize(
    ("option", "value", "complaint"),
    [
        ("--group_column", "famly", "None of the tables to train on has the column 'famly'"),
        ("--output", "no/such/folder.tsv", "there is no folder no/such to write to"),
        ("--five_prime_flank", "XYZ", "kmer_ridge.py: `five_prime_flank` must be made of A C G T, got 'XYZ'."),
    ],
)
def test_a_slip_in_an_option_is_said_before_training(run, tmp_path, option, value, complaint):
    table = write(tmp_path / "table.tsv", ["sequence", "expression"], [["ACGT", "GATT"], [1, 2]])
    with pytest.raises(SystemExit) as stopped:
        run("--train_file", table, "--predict_file", table, "--output", tmp_path / "out.tsv", option, value)
    assert complaint in stopped.value.code
