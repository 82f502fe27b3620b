"""`proformer embed` writes what the library computes, as Parquet or npz."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny import TINY, save_tiny

from modeling_proformer import ProformerConfig, ProformerForSequenceClassification, ProformerTokenizer, embed
from modeling_proformer.cli import main


SEQUENCES = ["ACGT", "GG", "TTTTTTTTTTTT"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("model"))


@pytest.fixture
def table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "table.tsv"
    path.write_text("id\tsequence\n" + "".join(f"p{row}\t{each}\n" for row, each in enumerate(SEQUENCES)))
    return path


def run(folder, *arguments) -> int:
    return main(["embed", *map(str, arguments), "--model", str(folder), "--quiet"])


def expected(folder, positions: str) -> np.ndarray:
    model = ProformerForSequenceClassification.from_pretrained(folder)
    return embed(model, ProformerTokenizer(3, insert_width=12), SEQUENCES, positions=positions)


@pytest.mark.parametrize("positions", ["mean", "expression", "all"])
def test_both_formats_have_the_embeddings(folder, table, positions):
    options = ["--positions", positions, "--batch_size", "2"]
    assert run(folder, table, "-o", "out.npz", "--name", "id", *options) == 0
    with np.load("out.npz") as archive:
        assert archive["name"].tolist() == ["p0", "p1", "p2"]
        assert archive["embedding"].dtype == np.float32
        np.testing.assert_allclose(archive["embedding"], expected(folder, positions), atol=1e-6)
    assert run(folder, table, "-o", "out.parquet", *options) == 0
    read = pq.read_table("out.parquet")
    assert read.column_names == ["id", "sequence", "embedding"]
    vectors = np.array(read["embedding"].to_pylist())
    np.testing.assert_allclose(vectors, expected(folder, positions), atol=1e-6)
    assert pa.types.is_fixed_size_list(read.schema.field("embedding").type)
    assert len(pd.read_parquet("out.parquet").embedding) == 3


def test_marked_rows_are_missing(folder, table):
    table.write_text("id\tsequence\na\tACGT\nb\tX\n")
    assert run(folder, table, "-o", "out.parquet") == 1
    assert run(folder, table, "-o", "out.parquet", "--on_error", "mark") == 0
    good, bad = pq.read_table("out.parquet").to_pylist()
    assert len(good["embedding"]) == 16 and good["error"] == ""
    assert bad["embedding"] is None and "'X' at position 1" in bad["error"]
    assert run(folder, table, "-o", "out.npz", "--on_error", "mark") == 0
    with np.load("out.npz") as archive:
        assert archive["name"].tolist() == ["line 2", "line 3"]
        assert np.isnan(archive["embedding"]).all(axis=1).tolist() == [False, True]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["-o", "out.tsv"], "out.tsv: the name says the format, so it must end in .parquet or .npz"),
        (["-o", "out.parquet", "--name", "id"], "--name is for .npz"),
        (["-o", "none/out.npz"], "there is no folder none to write to"),
        (["-o", "out.npz", "--name", "none"], "there is no column 'none'"),
    ],
)
def test_options_that_do_not_fit_are_refused(folder, table, tmp_path, options, reason, capsys):
    assert run(folder, table, *options) == 1
    error = capsys.readouterr().err
    assert reason in error and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["table.tsv"]


def test_a_column_of_the_same_name_is_refused(folder, table, capsys):
    table.write_text("sequence\tembedding\nACGT\t1\n")
    assert run(folder, table, "-o", "out.parquet") == 1
    assert "rename the column 'embedding'" in capsys.readouterr().err


def test_a_model_without_expression_tokens_says_what_to_do(folder, table, tmp_path, capsys):
    other = tmp_path / "other"
    config = ProformerConfig(**TINY | {"num_expression_tokens": 0})
    ProformerForSequenceClassification(config).save_pretrained(other)
    ProformerTokenizer(kmer_size=3, insert_width=12).save_pretrained(other)
    assert run(other, table, "-o", "out.npz", "--positions", "expression") == 1
    assert "no expression tokens to embed; use --positions mean or --positions all" in capsys.readouterr().err
