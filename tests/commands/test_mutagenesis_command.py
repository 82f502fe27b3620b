"""`proformer mutagenesis` writes what the library predicts, as tables and figures."""

import csv

import numpy as np
import pyarrow.parquet as pq
import pytest
from meme import write_meme
from tiny import save_tiny

from modeling_proformer import ProformerForSequenceClassification, ProformerTokenizer, mutate
from modeling_proformer.cli import main


SEQUENCES = {"first one": "ACGTNACG", "second": "GG", "third": "TTTTTTTTTTTT"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("model"), num_labels=2, id2label={0: "ypd", 1: "must"})


@pytest.fixture
def fasta(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "promoters.fasta"
    path.write_text("".join(f">{name}\n{sequence}\n" for name, sequence in SEQUENCES.items()))
    return path


def run(folder, *arguments) -> int:
    return main(["mutagenesis", *map(str, arguments), "--model", str(folder), "--quiet"])


def read_tsv(path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


@pytest.fixture
def expected(folder):
    model = ProformerForSequenceClassification.from_pretrained(folder)
    return dict(
        zip(
            SEQUENCES,
            mutate(model, ProformerTokenizer(3, insert_width=12), SEQUENCES.values(), deletions=True),
            strict=True,
        )
    )


def test_the_table_has_a_row_for_each_change(folder, fasta, expected):
    assert run(folder, fasta, "--deletions", "-o", "out.tsv") == 0
    rows = read_tsv("out.tsv")
    assert list(rows[0]) == [
        "name", "position", "reference", "alternate", "predicted_ypd", "predicted_must", "effect_ypd", "effect_must",
    ]  # fmt: skip
    # Of each base three substitutions, of N four, and one deletion.
    assert len(rows) == (7 * 4 + 5) + 2 * 4 + 12 * 4
    for row in rows:
        result, position = expected[row["name"]], int(row["position"]) - 1
        assert row["reference"] == SEQUENCES[row["name"]][position] != row["alternate"]
        change = "ACGT-".index(row["alternate"])
        found = [float(row[name]) for name in ("predicted_ypd", "predicted_must", "effect_ypd", "effect_must")]
        values = [*result.expression[position, change], *result.effects[position, change]]
        np.testing.assert_allclose(found, values, atol=1e-5)


def test_a_parquet_file_has_numbers(folder, fasta):
    assert run(folder, fasta, "-o", "out.parquet") == 0
    table = pq.read_table("out.parquet")
    types = dict(zip(table.schema.names, map(str, table.schema.types), strict=True))
    assert types["position"] == "int32" and types["effect_ypd"] == "float" and types["name"] == "string"
    assert pq.ParquetFile("out.parquet").num_row_groups == 1


def test_rows_that_cannot_be_predicted_are_refused_skipped_or_marked(folder, fasta, capsys):
    with fasta.open("a") as file:
        file.write(">bad\nACXT\n")
    assert run(folder, fasta, "-o", "out.tsv") == 1
    assert "promoters.fasta, line 7, column 'sequence': 'X' at position 3" in capsys.readouterr().err
    assert run(folder, fasta, "-o", "out.tsv", "--on_error", "skip") == 0
    assert {row["name"] for row in read_tsv("out.tsv")} == set(SEQUENCES)
    assert run(folder, fasta, "-o", "out.tsv", "--on_error", "mark") == 0
    rows = read_tsv("out.tsv")
    assert rows[-1] | {"error": ""} == dict.fromkeys(rows[-1], "") | {"name": "bad"}
    assert "'X' at position 3" in rows[-1]["error"]
    assert not any(row["error"] for row in rows[:-1])


def test_names_come_from_a_column_or_the_place(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.tsv").write_text("id\tsequence\np1\tAC\np2\tGG\n")
    assert run(folder, "a.tsv", "-o", "out.tsv", "--name", "id") == 0
    assert [row["name"] for row in read_tsv("out.tsv")] == ["p1"] * 6 + ["p2"] * 6
    assert run(folder, "a.tsv", "-o", "out.tsv") == 0
    assert [row["name"] for row in read_tsv("out.tsv")] == ["line 2"] * 6 + ["line 3"] * 6
    assert run(folder, "a.tsv", "a.tsv", "-o", "both.tsv") == 1
    assert "say which column has them with --name" in capsys.readouterr().err
    assert run(folder, "a.tsv", "-o", "both.tsv", "--name", "none") == 1
    assert "there is no column 'none'" in capsys.readouterr().err
    assert not (tmp_path / "both.tsv").exists()


def test_figures_are_drawn_of_each_output_up_to_a_number(folder, fasta, tmp_path, caplog):
    pytest.importorskip("logomaker")
    assert run(folder, fasta, "-o", "out.tsv", "--figures", "figures", "--max_figures", "5") == 0
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == [
        "0001_first_one_ypd.png",
        "0002_first_one_must.png",
        "0003_second_ypd.png",
        "0004_second_must.png",
        "0005_third_ypd.png",
    ]
    assert "Drew the first 5 of 6 figures" in caplog.text


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--max_figures", "0"], "--max_figures is 0, but must be at least 1"),
        (["--max_e_value", "0"], "--max_e_value is 0.0, but must be above 0"),
        (["--seqlets", "s.tsv"], "--seqlets needs a file of motifs: give one with --motifs"),
        (["--motifs", "m.meme"], "--motifs names motifs in figures or in a table: give --figures, --seqlets or both"),
        (["--motifs", "m.meme", "--seqlets", "s.txt"], "s.txt: the name says the format"),
        (["--motifs", "m.meme", "--seqlets", "s.tsv"], "m.meme: no such file"),
        (["--figures", "promoters.fasta"], "promoters.fasta"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_anything_is_computed(
    folder, fasta, tmp_path, options, reason, capsys
):
    assert run(folder, fasta, "-o", "out.tsv", *options) == 1
    error = capsys.readouterr().err
    assert reason in error and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["promoters.fasta"]


def test_a_table_of_seqlets_without_any_is_complete(folder, fasta, tmp_path):
    pytest.importorskip("tangermeme")
    fasta.write_text(">short\nACG\n")
    write_meme(tmp_path / "yeast.meme")
    for name in ("s.tsv", "s.parquet"):
        assert run(folder, fasta, "-o", "out.tsv", "--motifs", "yeast.meme", "--seqlets", name) == 0
    assert (tmp_path / "s.tsv").read_text().startswith("name\toutput\tstart\tend\tsequence\tcontribution\tmotif\t")
    table = pq.read_table("s.parquet")
    assert len(table) == 0 and str(table.schema.field("start").type) == "int32"
