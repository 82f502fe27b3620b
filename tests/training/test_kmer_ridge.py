"""Test examples/kmer_ridge.py, which trains the baseline: ridge regression on k-mer counts."""

import csv
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

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
    """Return an expression that is linear in the counts of two 3-mers of the strand as given."""
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


def test_it_learns_a_linear_expression_from_tables_on_different_scales(run, tmp_path, capsys):
    generator = np.random.default_rng(0)
    first, second, asked = (random_inserts(count, seed) for seed, count in enumerate((600, 300, 100)))
    constructs = [FIVE_PRIME_FLANK + insert + THREE_PRIME_FLANK for insert in first]
    first_labels = [f"{value:.3f}" for value in 5 + 2 * true_expression(first) + generator.normal(scale=0.1, size=600)]
    first_labels[7] = "NA"
    other_labels = [*first_labels[:7], "1", *first_labels[8:]]
    groups = np.arange(600) // 3
    tables = [
        write(
            tmp_path / "first.tsv",
            ["sequence", "expression", "again", "family"],
            [constructs, first_labels, other_labels, groups],
        ),
        # This table is on another scale and has neither flanks nor groups.
        write(
            tmp_path / "second.tsv",
            ["sequence", "expression", "again"],
            [second, *2 * [-100 + 0.5 * true_expression(second)]],
        ),
    ]
    asked_path = write(tmp_path / "asked.tsv", ["name", "sequence"], [range(100), asked])
    output = tmp_path / "predicted.tsv"
    options = ["--group", "family", "--targets", "expression", "again", "--kmer_size", 3]
    run(*tables, *options, "--predict", asked_path, "--output", output)

    table = read(output)
    assert list(table) == ["name", "sequence", "predicted_expression", "predicted_again"]
    assert list(table["sequence"]) == asked
    for column in ("predicted_expression", "predicted_again"):
        predicted = np.array(table[column], dtype=float)
        assert correlation(true_expression(asked), predicted).pearson_r > 0.97
        # Predictions are in the units of the first table. With so few rows, both scales are not exactly the same.
        assert np.abs(predicted - (5 + 2 * true_expression(asked))).mean() < 0.5
    printed = capsys.readouterr().out
    # 5 % of each table are validation rows, and the row without a measurement is left out.
    assert "854 training rows, penalty 0.1; validation rows:\n" in printed
    assert f"{tables[1]}, expression: Pearson r 1.0000, Spearman ρ 0.9" in printed


@pytest.mark.parametrize(
    ("header", "cells", "complaint"),
    [
        (["sequence"], ["ACGT", "ACXT"], "line 3, column 'sequence': 'X' at position 3"),
        (["sequence", "predicted_expression"], ["ACGT", 1], "rename the column 'predicted_expression'"),
        (["dna"], ["ACGT"], "there is no column 'sequence'"),
    ],
)
def test_errors_in_the_table_to_predict_are_reported_before_training(run, tmp_path, header, cells, complaint):
    rows = np.reshape(cells, (-1, len(header))).T
    asked = write(tmp_path / "asked.tsv", header, rows)
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path / "none.tsv", "--predict", asked, "--output", tmp_path / "out.tsv")
    assert stopped.value.code.startswith(f"kmer_ridge.py: {asked}")
    assert complaint in stopped.value.code
    assert not (tmp_path / "out.tsv").exists()


@pytest.mark.parametrize(
    ("option", "value", "complaint"),
    [
        ("--group", "famly", "None of the tables to train on has the column 'famly'"),
        ("--output", "no/such/folder.tsv", "there is no folder no/such to write to"),
        ("--five_prime_flank", "XYZ", "kmer_ridge.py: `five_prime_flank` must be made of A C G T, got 'XYZ'."),
        ("--validation_fraction", "2", "`validation_fraction` must be above 0"),
    ],
)
def test_errors_in_an_option_are_reported_before_training(run, tmp_path, option, value, complaint):
    table = write(tmp_path / "table.tsv", ["sequence", "expression"], [random_inserts(60, seed=0), range(60)])
    with pytest.raises(SystemExit) as stopped:
        run(table, "--predict", table, "--output", tmp_path / "out.tsv", option, value)
    assert complaint in stopped.value.code
