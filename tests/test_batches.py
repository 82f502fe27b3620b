"""Arrow tables get the columns that the commands write, and a bad row costs nothing but itself."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from modeling_proformer import InputError, ProformerTokenizer, PromoterEmbedder, PromoterPredictor, VariantScorer
from modeling_proformer.cli import main


FIVE, THREE = "TGCATTTTTTTCACATC", "GGTTACGGCTGTT"
# Inserts, a construct, a construct within others, and rows that cannot be predicted.
SEQUENCES = [
    "ACGTACGTACGT",
    "ggtt",
    FIVE + "AAACCC" + THREE,
    "C" * 20 + FIVE + "AAACCC" + THREE + "C" * 20,
    "ACGX",
    None,
    "A" * 50,
]
BAD = 3


@pytest.fixture(scope="module")
def checkpoint(two_outputs, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    two_outputs.save_pretrained(folder)
    ProformerTokenizer(
        kmer_size=3, insert_width=12, five_prime_flank=FIVE, three_prime_flank=THREE, missing_flanks="keep"
    ).save_pretrained(folder)
    return folder


@pytest.fixture
def table() -> pa.Table:
    numbers = pa.array([*range(len(SEQUENCES))], pa.int16())
    return pa.table({"number": numbers, "sequence": pa.array(SEQUENCES).dictionary_encode()})


def run_command(command: str, table: pa.Table, checkpoint: Path, folder: Path, *options: str) -> pa.Table:
    pq.write_table(table, folder / "in.parquet")
    output = folder / "out.parquet"
    words = [command, folder / "in.parquet", "-o", output, "--model", checkpoint, "--quiet", *options]
    assert main([*map(str, words)]) == 0
    written = pq.read_table(output)
    # The command's reasons name flags.
    reasons = [reason.as_py().replace("--truncation", "`truncation=True`") for reason in written["error"]]
    return written.set_column(written.num_columns - 1, "error", pa.array(reasons, pa.string()))


def test_options_that_are_something_else_are_refused(checkpoint):
    with pytest.raises(ValueError, match="`orientation` is 'Given', but must be 'given' or 'reverse' or 'both'"):
        PromoterPredictor(checkpoint, orientation="Given")
    for function in (PromoterPredictor, PromoterEmbedder, VariantScorer):
        with pytest.raises(ValueError, match="`missing_flanks` is 'trim', but must be 'keep' or 'cut' or 'refuse'"):
            function(checkpoint, missing_flanks="trim")


@pytest.mark.parametrize("orientation", ["given", "both"])
def test_predictions_are_those_of_the_command(table, checkpoint, tmp_path, orientation):
    options = ["--on_error", "mark", "--batch_size", "2", "--orientation", orientation]
    expected = run_command("predict", table, checkpoint, tmp_path, *options)
    predict = PromoterPredictor(checkpoint, batch_size=2, orientation=orientation)
    found = predict(table)
    assert found.to_pylist() == expected.to_pylist()
    assert found.schema.types[2:] == expected.schema.types[2:]
    assert found.column_names == ["number", "sequence", "predicted_LABEL_0", "predicted_LABEL_1", "error"]
    assert found["predicted_LABEL_1"].null_count == BAD
    assert found["error"][4].as_py().startswith("column 'sequence': 'X' at position 4 is not one of A C G T U N.")
    # A batch may consist of bad rows, or be empty.
    assert predict(table.slice(4)).equals(found.slice(4))
    assert predict(table.slice(0, 0)).schema == found.schema


@pytest.mark.parametrize("positions", ["mean", "all"])
def test_embeddings_are_those_of_the_command(table, checkpoint, tmp_path, positions):
    options = ["--on_error", "mark", "--batch_size", "2", "--positions", positions]
    expected = run_command("embed", table, checkpoint, tmp_path, *options)
    embed = PromoterEmbedder(checkpoint, batch_size=2, positions=positions)
    found = embed(table)
    assert found["embedding"].to_pylist() == expected["embedding"].to_pylist()
    assert found["error"].to_pylist() == expected["error"].to_pylist()
    assert found["embedding"].null_count == BAD
    assert embed(table.slice(0, 0)).schema == found.schema


def test_pairs_of_sequences_are_scored_as_by_the_command(checkpoint, tmp_path):
    pairs = pa.table({"reference": ["ACGT", "ACGX", "AAAA"], "alternate": ["ACCT", "ACGT", "AAAT"]})
    expected = run_command("variants", pairs, checkpoint, tmp_path)
    score = VariantScorer(checkpoint)
    assert score(pairs).to_pylist() == expected.to_pylist()
    assert score(pairs.slice(1, 1))["error"][0].as_py().startswith("unreadable sequence: reference: 'X'")
    assert score(pairs.slice(0, 0)).schema == expected.schema


def test_variants_in_promoters_are_scored_as_by_the_command(checkpoint, tmp_path):
    pytest.importorskip("pysam")
    genome = tmp_path / "genome.fa"
    genome.write_text(">chrI\n" + "ACGGTTCA" * 20 + "\n")
    (tmp_path / "promoters.bed").write_text("chrI\t10\t30\tp1\t0\t+\nchrI\t12\t40\tp2\t0\t-\n")
    variants = pa.table(
        {"chrom": ["chrI"] * 3, "pos": [18, 21, 100], "ref": ["C", "T", "G"], "alt": ["A,G", "C", "T"], "n": [1, 2, 3]}
    )
    places = {"genome": str(genome), "promoters": str(tmp_path / "promoters.bed")}
    options = [word for name, path in places.items() for word in (f"--{name}", path)]
    expected = run_command("variants", variants, checkpoint, tmp_path, *options, "--offsets", "2")
    score = VariantScorer(checkpoint, offsets=2, **places)
    found = score(variants)
    assert found.to_pylist() == expected.to_pylist()
    assert found["n"].to_pylist() == [1, 1, 1, 1, 2, 2, 3]
    assert found["error"][6].as_py()


def test_columns_that_are_missing_or_taken_are_refused(table, checkpoint):
    with pytest.raises(InputError, match="the batch: there is no column 'dna'; there are 'number', 'sequence'"):
        PromoterPredictor(checkpoint, sequence="dna")(table)
    with pytest.raises(InputError, match="the batch: rename the column 'error', because predictions take that name"):
        PromoterEmbedder(checkpoint)(table.append_column("error", table["number"]))
