"""Inputs and outputs of `proformer predict`."""

import gzip
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from processes import run_in_process
from scipy import stats

from modeling_proformer import ProformerForPreTraining, ProformerTokenizer, predict
from modeling_proformer.cli import main


pytestmark = pytest.mark.usefixtures("at_work")

FIVE, THREE = "TGCATTTTTTTCACATC", "GGTTACGGCTGTT"
SEQUENCES = ["ACGTACGT", "GGGGCCCC", "ttttACACAA", "ANA"]


@pytest.fixture
def tokenizer() -> ProformerTokenizer:
    return ProformerTokenizer(kmer_size=3, insert_width=12, five_prime_flank=FIVE, three_prime_flank=THREE)


@pytest.fixture
def model(tiny_config) -> ProformerForPreTraining:
    torch.manual_seed(0)
    tiny_config.id2label = {0: "expression"}
    return ProformerForPreTraining(tiny_config)


@pytest.fixture
def proformer(checkpoint, run_quietly):
    """Return a function that runs the command in this folder, and returns its status, output and error."""

    return lambda *arguments: run_quietly("predict", *arguments, "--model", checkpoint)


class TestTheNameOfTheOutputIsItsFormat:
    @pytest.fixture(autouse=True)
    def table(self, at_work):
        pq.write_table(
            pa.table({"sequence": SEQUENCES, "n": [1, 2, None, 4], "note": ["a\tb", 'c"', None, "d, e"]}), "in.parquet"
        )

    def read(self, name: str) -> pd.DataFrame:
        delimiter = "\t" if ".tsv" in name else ","
        frame = pd.read_parquet(name) if name.endswith(".parquet") else pd.read_csv(name, sep=delimiter)
        return frame.astype({"predicted_expression": "float64"})

    @pytest.mark.parametrize("name", ["o.tsv", "o.csv", "o.tsv.gz", "O.CSV.GZ", "o.parquet"])
    def test_it_is_written_as_its_name_says(self, proformer, model, tokenizer, name):
        assert proformer("in.parquet", "-o", name, "--batch-size", 3) == (0, "", "")
        assert (Path(name).read_bytes()[:2] == b"\x1f\x8b") == name.lower().endswith(".gz")
        name = Path(name).rename(name.lower()).name
        found = self.read(name)
        assert list(found) == ["sequence", "n", "note", "predicted_expression"]
        np.testing.assert_allclose(
            found["predicted_expression"], predict(model, tokenizer, SEQUENCES)[:, 0], rtol=1e-4
        )
        assert found["n"].isna().tolist() == [False, False, True, False]
        assert found["note"][0] == ("a b" if ".tsv" in name else "a\tb")
        assert found["note"][1] == 'c"' and found["note"][3] == "d, e"

    def test_parquet_keeps_the_types_of_its_columns(self, proformer):
        assert proformer("in.parquet", "-o", "o.parquet")[0] == 0
        assert pq.read_schema("o.parquet").types == [pa.string(), pa.int64(), pa.string(), pa.float32()]

    @pytest.mark.parametrize("name", ["o.xlsx", "o", "o.fasta", "o.tsv.bz2", "o.parquet.gz"])
    def test_another_is_refused_before_anything_is_read(self, proformer, name, folder):
        code, out, error = proformer("missing.tsv", "-o", name)
        assert (code, out) == (1, "")
        assert error == (
            f"proformer: {name}: the name says the format, so it must end in one of .tsv, .csv, .tsv.gz, .csv.gz, "
            ".parquet.\n"
        )
        assert [path.name for path in folder.iterdir()] == ["in.parquet"]

    def test_the_figure_has_the_name_of_the_table(self, proformer, folder):
        assert proformer("in.parquet", "--measured", "n", "-o", "o.tsv.gz")[0] == 0
        assert {path.name for path in folder.iterdir()} == {"in.parquet", "o.tsv.gz", "o.png"}


def test_fasta_with_tabs_and_a_name_twice_is_predicted_with_one_warning(proformer):
    Path("in.fa").write_text(">a\tone\nACGT\n>b\nGGGG\n>b\nCCCC\n")
    code, out, error = proformer("in.fa")
    assert code == 0
    # As `cut -f 1,3` sees it.
    assert [line.split("\t")[0] for line in out.splitlines()] == ["name", "a one", "b", "b"]
    assert {len(line.split("\t")) for line in out.splitlines()} == {3}
    assert error == (
        "in.fa: records share a name, the first of them in lines 3 and 5 (such names: 1). Each record has "
        "a row of its own.\n"
    )


def test_bad_rows_are_skipped_or_marked(proformer):
    Path("in.tsv").write_text("sequence\tid\nACGT\t1\nACRT\t2\nGGGG\t3\n")
    code, out, error = proformer("in.tsv", "-o", "o.tsv")
    assert (code, out) == (1, "") and "'R' at position 3" in error and not Path("o.tsv").exists()
    for arguments in (["--on-error", "skip"], ["--on_error", "mark"], ["--iupac_as_n"]):
        code, out, error = proformer("in.tsv", "-o", "o.tsv", *arguments)
        assert code == 0 and error.count("\n") == 1
        found = pd.read_csv("o.tsv", sep="\t")
        assert found["id"].tolist() == ([1, 3] if "skip" in arguments else [1, 2, 3])
        assert found["predicted_expression"].isna().tolist() == [False, "mark" in arguments, False][: len(found)] or (
            "skip" in arguments
        )
        if "mark" in arguments:
            assert found["error"][1].startswith("column 'sequence': 'R' at position 3")
            assert found["error"].isna().tolist() == [True, False, True]


def test_reasons_in_the_table_and_on_the_console_name_flags(run_quietly, checkpoint):
    damaged = f"{'GATTACA' * 9}{FIVE}{'ACGT'}{'A' + THREE[1:]}"
    Path("in.tsv").write_text(f"sequence\n{FIVE}ACGT\n{'ACGT' * 4}\n{damaged}\nACGT\n")
    code, out, error = run_quietly("predict", "in.tsv", "--model", checkpoint, "--on_error", "mark")
    one_flank, long, plasmid = [line.split("\t")[2].strip('"') for line in out.splitlines()[1:4]]
    assert one_flank.endswith("or give the insert alone; --missing_flanks cut reads flanks with errors.")
    assert long.endswith("has room for 12. Trim its flanks, or cut it with --truncation.")
    # A part of a plasmid is hardly what is meant.
    assert "There is no insert that fits between two exact flanks: give the construct or its insert alone." in plasmid
    assert plasmid.endswith("--truncation would keep its first 12 bases, whatever they are.")
    assert code == 0 and error.count("--truncation") == 2 and "`" not in out + error


def test_damaged_flanks_are_predicted_with_missing_flanks(proformer, model, tokenizer):
    damaged = "A" + FIVE[1:8] + "A" + FIVE[9:] + "ACGTACGT" + THREE
    Path("in.tsv").write_text(f"sequence\n{damaged}\n")
    code, _, error = proformer("in.tsv")
    assert code == 1 and "the 5′ flank" in error and "--missing_flanks cut reads flanks with errors" in error
    code, out, error = proformer("in.tsv", "--missing_flanks", "cut")
    assert (code, error) == (0, "")
    expected = predict(model, tokenizer, ["ACGTACGT"])[0, 0]
    assert float(out.split()[-1]) == pytest.approx(expected, rel=1e-4)
    Path("in.tsv").write_text("sequence\nACGT\n")
    assert proformer("in.tsv")[0] == 0
    assert "flank" in proformer("in.tsv", "--missing_flanks", "refuse")[2]


def test_missing_flanks_of_a_model_without_flanks_are_refused(proformer, checkpoint):
    ProformerTokenizer(kmer_size=3, insert_width=12).save_pretrained(checkpoint)
    Path("in.tsv").write_text("sequence\nACGT\n")
    assert proformer("in.tsv", "--missing_flanks", "cut") == (
        1,
        "",
        "proformer: --missing_flanks: the construct of this model has no flanks.\n",
    )


def test_rows_without_a_measurement_are_predicted_and_not_compared(proformer):
    measured = ["1", "", "-3", "NA"]
    rows = [f"{sequence}\t{value}" for sequence, value in zip(SEQUENCES, measured, strict=True)]
    Path("in.tsv").write_text("\n".join(["sequence\ty", *rows, "TTTT\t2"]))
    code, _, error = proformer("in.tsv", "--measured", "y", "-o", "o.tsv")
    assert code == 0
    found = pd.read_csv("o.tsv", sep="\t")
    assert found["predicted_expression"].notna().all() and len(found) == 5
    compared = found.dropna()
    expected = stats.pearsonr(compared["y"], compared["predicted_expression"]).statistic
    assert f"Pearson r {expected:.4f}" in error
    assert "over 3 sequences (and 2 without a measurement); figure: o.png" in error


def test_several_inputs_and_the_standard_input(proformer, checkpoint):
    Path("a.fa").write_text(">a\nACGT\n")
    Path("b.fa.gz").write_bytes(gzip.compress(b">b\nGGGG\n"))
    code, out, _ = proformer("a.fa", "b.fa.gz")
    assert code == 0 and [line.split("\t")[0] for line in out.splitlines()] == ["name", "a", "b"]
    words = ["predict", "a.fa", "-", "--model", str(checkpoint), "--quiet"]
    assert run_in_process(main, words, cwd=Path.cwd(), stdin="b.fa.gz", stdout="out.tsv") == 0
    assert Path("out.tsv").read_text() == out
    command = f'"{sys.executable}" -m modeling_proformer.cli predict --model "{checkpoint}" --quiet'
    words = "<(cat a.fa) /dev/stdin -o /dev/stdout < <(zcat b.fa.gz) | cat"
    done = subprocess.run(["bash", "-c", f"{command} {words}"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, out), done.stderr
    code, _, error = proformer("-", "/dev/stdin")
    assert code == 1 and "--input names the standard input more than once" in error
