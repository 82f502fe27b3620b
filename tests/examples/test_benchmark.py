"""`examples/benchmark.py` on a handful of short promoters: that it measures, not how fast."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from modeling_proformer.data.tables import InputError


SCRIPT = Path(__file__).parents[2] / "examples" / "benchmark.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def benchmark(script, tmp_path, monkeypatch, capsys):
    fasta = tmp_path / "promoters.fasta"
    fasta.write_text(">one\nACGTTGCAAT\n>two\nTTGACATATA\n>three\nGGGCCCATAT\n>four\nTATAATGCGC\n")
    threads = torch.get_num_threads()

    def benchmark(*options: str) -> dict[str, list[str]]:
        """The table's lines by their first cell."""
        small = ["--number", "4", "--batch-size", "2", "--promoters", "1", "--repeats", "2", "--threads", "1"]
        monkeypatch.setattr("sys.argv", ["benchmark.py", "--sequences", str(fasta), *small, *options])
        script.main()
        lines = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line[:2] == "| "]
        return {what: cells for what, *cells in lines[1:]}

    yield benchmark
    torch.set_num_threads(threads)


PRODUCTS = [
    f"{dtype} matrix product, {shape}"
    for dtype in ("bfloat16", "float32")
    for shape in ("464 × 512 × 4,096", "464 × 4,096 × 512", "2,048 × 2,048 × 2,048")
]


def test_parts(benchmark):
    lines = benchmark(
        "--only", "tokenizer", "prediction", "variants", "training", "--steps", "3", "--train", "embedded bfloat16"
    )
    assert list(lines) == [
        "tokenizer, to tensors of both strands, one core",
        "embedded model, forward passes alone",
        "embedded model, from a FASTA file",
        "30 variants, saturation_mutagenesis",
        "30 variants, predict, all variants at once",
        "30 variants, predict, one variant after the other",
        *PRODUCTS[:3],
        "embedded bfloat16, training, a bare loop",
        "embedded bfloat16, training, Trainer",
        "embedded bfloat16, training, Trainer / a bare loop",
    ]
    assert all(float(median.replace(",", "")) > 0 for median, *_ in lines.values())
    assert re.search(r"\d+% of the rate", lines["embedded model, from a FASTA file"][-1])
    difference = re.search(r"differs by at most (\S+)", lines["30 variants, saturation_mutagenesis"][-1])
    assert float(difference[1]) < 1e-4


def test_inference(benchmark):
    lines = benchmark("--only", "inference", "--repeats", "1")
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


def test_turns_go_forwards_and_backwards(script):
    done = []
    tasks = {name: lambda name=name: done.append(name) or len(done) for name in "ab"}
    # Once to warm up.
    assert script.take_turns(tasks, 2) == {"a": [3, 6], "b": [4, 5]} and "".join(done) == "abab" + "ba"


def test_profile(benchmark):
    lines = benchmark("--only", "profile")
    shares = [float(median) for median, *_ in lines.values()]
    assert shares == sorted(shares, reverse=True) and min(shares) >= 1 and 80 < sum(shares) <= 100.5
    assert any("convolution" in name for name in lines)


def test_two_modes_take_turns(benchmark):
    lines = benchmark("--compare", "embedded float32", "embedded bfloat16")
    assert list(lines) == ["embedded float32", "embedded bfloat16", "embedded bfloat16 / embedded float32"]
    low, high = map(float, lines["embedded bfloat16 / embedded float32"][1].split(" to "))
    assert 0 < low <= float(lines["embedded bfloat16 / embedded float32"][0]) <= high


BAD_TABLE = ["--only", "tokenizer", "--sequences", "bad.tsv"]


@pytest.fixture
def bad_table(tmp_path, monkeypatch):
    (tmp_path / "bad.tsv").write_text("sequence\nACGT\nAXGT\n")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--only", "memory"], "give --device cuda"),
        (["--compare", "embedded float32", "embedded float32"], "name two different modes"),
        (["--compare", "embedded float32", "embedded bfloat16", "--only", "tokenizer"], "leave out --only"),
        (["--repeats", "0"], "'0' is not a whole number"),
        (BAD_TABLE, "bad.tsv, line 3, column 'sequence': 'X' at position 2"),
        (["--only", "tokenizer", "--sequences", "none.tsv"], "none.tsv"),
    ],
)
def test_bad_input_is_told(script, bad_table, monkeypatch, capsys, options, reason):
    monkeypatch.setattr("sys.argv", ["benchmark.py", *options])
    with pytest.raises((InputError, SystemExit)) as raised:
        script.main()
    assert reason in f"{raised.value} {capsys.readouterr().err}"


def test_bad_input_ends_the_command_without_a_traceback(bad_table):
    done = subprocess.run([sys.executable, SCRIPT, *BAD_TABLE], capture_output=True, text=True)
    assert done.returncode != 0 and "line 3" in done.stderr and "Traceback" not in done.stderr
