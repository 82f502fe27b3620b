"""`examples/benchmark.py` on a handful of short promoters: that it measures, not how fast."""

import re
import subprocess
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]


@pytest.fixture
def benchmark(tmp_path):
    fasta = tmp_path / "promoters.fasta"
    fasta.write_text(">one\nACGTTGCAAT\n>two\nTTGACATATA\n>three\nGGGCCCATAT\n>four\nTATAATGCGC\n")

    def benchmark(*options: str) -> dict[str, list[str]]:
        """The table's lines by their first cell."""
        command = [sys.executable, ROOT / "examples" / "benchmark.py", "--sequences", fasta]
        small = ["--number", "4", "--batch-size", "2", "--promoters", "1", "--repeats", "2"]
        done = subprocess.run([*command, *small, *options], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        lines = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]
        return {what: cells for what, *cells in lines[1:]}

    return benchmark


def test_parts(benchmark):
    lines = benchmark("--only", "tokenizer", "prediction", "variants", "training")
    assert list(lines) == [
        "tokenizer, to tensors of both strands, one core",
        "embedded model, forward passes alone",
        "embedded model, from a FASTA file",
        "30 variants, saturation_mutagenesis",
        "30 variants, predict, all variants at once",
        "30 variants, predict, one variant after the other",
        "training, embedded architecture, a bare loop",
        "training, embedded architecture, Trainer",
    ]
    assert all(float(median.replace(",", "")) > 0 for median, *_ in lines.values())
    assert re.search(r"\d+% of the rate", lines["embedded model, from a FASTA file"][-1])
    difference = re.search(r"differs by at most (\S+)", lines["30 variants, saturation_mutagenesis"][-1])
    assert float(difference[1]) < 1e-4


def test_two_modes_take_turns(benchmark):
    lines = benchmark("--compare", "embedded float32", "embedded bfloat16")
    assert list(lines) == ["embedded float32", "embedded bfloat16", "embedded bfloat16 / embedded float32"]
    low, high = map(float, lines["embedded bfloat16 / embedded float32"][1].split(" to "))
    assert 0 < low <= float(lines["embedded bfloat16 / embedded float32"][0]) <= high


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--compare", "embedded float32", "embedded float32"], "name two different modes"),
        (["--repeats", "0"], "'0' is not a whole number"),
        (["--sequences", "bad.tsv"], "bad.tsv, line 3, column 'sequence': 'X' at position 2"),
        (["--sequences", "none.tsv"], "none.tsv"),
    ],
)
def test_bad_input_is_told(tmp_path, options, reason):
    (tmp_path / "bad.tsv").write_text("sequence\nACGT\nAXGT\n")
    command = [sys.executable, ROOT / "examples" / "benchmark.py", "--only", "tokenizer", *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode != 0 and reason in done.stderr and "Traceback" not in done.stderr
