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


PRODUCTS = [
    f"{dtype} matrix product, {shape}"
    for dtype in ("bfloat16", "float32")
    for shape in ("464 × 512 × 4,096", "464 × 4,096 × 512", "2,048 × 2,048 × 2,048")
]


def test_parts(benchmark):
    lines = benchmark("--only", "tokenizer", "prediction", "variants", "training", "--steps", "3")
    assert list(lines) == [
        "tokenizer, to tensors of both strands, one core",
        "embedded model, forward passes alone",
        "embedded model, from a FASTA file",
        "30 variants, saturation_mutagenesis",
        "30 variants, predict, all variants at once",
        "30 variants, predict, one variant after the other",
        *PRODUCTS[3:],
        "embedded float32, training, a bare loop",
        "embedded float32, training, Trainer",
    ]
    assert all(float(median.replace(",", "")) > 0 for median, *_ in lines.values())
    assert re.search(r"\d+% of the rate", lines["embedded model, from a FASTA file"][-1])
    difference = re.search(r"differs by at most (\S+)", lines["30 variants, saturation_mutagenesis"][-1])
    assert float(difference[1]) < 1e-4


def test_inference(benchmark):
    lines = benchmark("--only", "inference", "--threads", "1", "--repeats", "1")
    modes = [f"{model} {dtype}" for model in ("published", "embedded") for dtype in ("float32", "bfloat16")]
    assert list(lines) == [*PRODUCTS, *(f"{mode}, forward passes" for mode in modes)]
    best = max(float(lines[product][0].replace(",", "")) for product in PRODUCTS[3:])
    rate, *_, remark = lines["published float32, forward passes"]
    share, mean, most = re.search(r"(\d+)% of the peak; .* mean (\S+), at most (\S+)", remark).groups()
    # 25 GFLOP a sequence, as in the paper's architecture.
    assert int(share) == pytest.approx(100 * float(rate) * 25 / best, rel=0.1)
    assert 0 <= float(mean) <= float(most) < 1e-4
    changed = re.search(r"mean (\S+), at most", lines["published bfloat16, forward passes"][-1])
    assert 1e-4 < float(changed[1]) < 1
    assert "flash_attention_for_cpu" in remark


def test_two_modes_take_turns(benchmark):
    lines = benchmark("--compare", "embedded float32", "embedded bfloat16")
    assert list(lines) == ["embedded float32", "embedded bfloat16", "embedded bfloat16 / embedded float32"]
    low, high = map(float, lines["embedded bfloat16 / embedded float32"][1].split(" to "))
    assert 0 < low <= float(lines["embedded bfloat16 / embedded float32"][0]) <= high


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--compare", "embedded float32", "embedded float32"], "name two different modes"),
        (["--only", "memory"], "give --device cuda"),
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
