"""`examples/benchmark.py` measures a handful of short promoters; how fast they are is not tested."""

import importlib
import re
from pathlib import Path

import pytest
import torch

from modeling_proformer.hardware import has_fast_bfloat16


EXAMPLES = Path(__file__).parents[2] / "examples"
DTYPES = ["bfloat16", "float32"] if has_fast_bfloat16() else ["float32"]


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        timing = importlib.import_module("timing")
        # One run in each turn, and small products, are enough.
        patch.setattr(timing, "MIN_TURN_SECONDS", 0)
        patch.setattr(timing, "CPU_SQUARE", 512)
        yield importlib.import_module("benchmark")


@pytest.fixture
def benchmark(script, tmp_path, monkeypatch, capsys):
    fasta = tmp_path / "promoters.fasta"
    fasta.write_text(">one\nACGTTGCAAT\n>two\nTTGACATATA\n")
    threads = torch.get_num_threads()

    def benchmark(*options: str) -> dict[str, list[str]]:
        """Return the cells of the table's lines by their first cell."""
        small = ["--number", "2", "--batch-size", "1", "--promoters", "1", "--repeats", "1", "--threads", "1"]
        monkeypatch.setattr("sys.argv", ["benchmark.py", "--sequences", str(fasta), *small, *options])
        script.main()
        lines = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line[:2] == "| "]
        return {what: cells for what, *cells in lines[1:]}

    yield benchmark
    torch.set_num_threads(threads)


PRODUCTS = [
    f"{dtype} matrix product, {shape}"
    for dtype in DTYPES
    for shape in ("232 × 512 × 4,096", "232 × 4,096 × 512", "512 × 512 × 512")
]


def test_parts(benchmark):
    trained = f"embedded {DTYPES[0]}"
    lines = benchmark("--only", "tokenizer", "prediction", "variants", "training", "--steps", "1", "--train", trained)
    assert list(lines) == [
        "tokenizer, to tensors of both strands, one core",
        "embedded model, forward passes alone",
        "embedded model, from a FASTA file",
        "30 variants, saturation_mutagenesis",
        "30 variants, predict, all variants at once",
        "30 variants, predict, one variant after the other",
        *PRODUCTS[:3],
        f"{trained}, training, a bare loop",
        f"{trained}, training, Trainer",
        f"{trained}, training, Trainer / a bare loop",
    ]
    assert all(float(median.replace(",", "")) > 0 for median, *_ in lines.values())
    assert re.search(r"\d+% of the rate", lines["embedded model, from a FASTA file"][-1])
    difference = re.search(r"differs by (\S+) at most", lines["30 variants, saturation_mutagenesis"][-1])
    assert float(difference[1]) < 1e-4


def test_inference(benchmark):
    lines = benchmark("--only", "inference")
    modes = [f"{model} {dtype}" for model in ("published", "embedded") for dtype in reversed(DTYPES)]
    assert list(lines) == [*PRODUCTS, *(f"{mode}, forward passes" for mode in modes)]
    best = max(float(lines[product][0].replace(",", "")) for product in PRODUCTS[-3:])
    rate, *_, remark = lines["published float32, forward passes"]
    share, mean, most = re.search(r"(\d+)% of the peak; .* (\S+) on average, (\S+) at most", remark).groups()
    # 25 GFLOP a sequence, as in the paper's architecture, less what the last block need not compute.
    assert int(share) == pytest.approx(100 * float(rate) * 22.4 / best, rel=0.1)
    assert 0 <= float(mean) <= float(most) < 1e-4
    assert "flash_attention_for_cpu" in remark
    if has_fast_bfloat16():
        changed = re.search(r"(\S+) on average", lines["published bfloat16, forward passes"][-1])
        assert 1e-4 < float(changed[1]) < 1


def test_the_other_models_predict_as_many_as_they_are_given(script):
    for model in importlib.import_module("other_models").make_models().values():
        assert model(torch.zeros(2, 6, 150)).shape == (2,)


def test_turns_go_forwards_and_backwards(script):
    done = []
    tasks = {name: lambda name=name: done.append(name) or len(done) for name in "ab"}
    # Once to warm up.
    assert script.take_turns(tasks, 2) == {"a": [3, 6], "b": [4, 5]} and "".join(done) == "abab" + "ba"


def test_profile(benchmark):
    lines = benchmark("--only", "profile")
    shares = [float(median) for median, *_ in lines.values()]
    assert shares == sorted(shares, reverse=True) and min(shares) >= 1 and 80 < sum(shares) <= 100.5
    assert any(re.search("convolution|mm", name) for name in lines)


def test_two_modes_take_turns(benchmark):
    lines = benchmark("--compare", "published float32", "embedded float32", "--repeats", "2")
    assert list(lines) == ["published float32", "embedded float32", "embedded float32 / published float32"]
    ratio, spread, *_ = lines["embedded float32 / published float32"]
    low, high = map(float, spread.split(" to "))
    assert 1 < low <= float(ratio) <= high


def test_bfloat16_is_left_out_where_it_is_slow(script, monkeypatch, capsys):
    monkeypatch.setattr(script, "has_fast_bfloat16", lambda: False)
    monkeypatch.setattr("sys.argv", ["benchmark.py", "--compiled", "--only", "tokenizer", "--number", "2"])
    assert script.parse_arguments().modes == ["float32", "float32 compiled"]
    script.main()
    assert "so it is not measured." in capsys.readouterr().out
    for chosen in (["--train", "embedded bfloat16"], ["--compare", "embedded float32", "embedded bfloat16"]):
        monkeypatch.setattr("sys.argv", ["benchmark.py", *chosen])
        with pytest.raises(SystemExit):
            script.main()
        assert "so it is not measured. Choose float32." in capsys.readouterr().err


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
        (["--compare", "embedded float32", "published float32", "--only", "tokenizer"], "leave out --only"),
        (["--repeats", "0"], "--repeats is 0, but must be at least 1."),
        (BAD_TABLE, "bad.tsv, line 3, column 'sequence': 'X' at position 2"),
        (["--only", "tokenizer", "--sequences", "none.tsv"], "none.tsv"),
    ],
)
def test_bad_input_is_reported_without_a_traceback(script, bad_table, monkeypatch, capsys, options, reason):
    monkeypatch.setattr("sys.argv", ["benchmark.py", *options])
    with pytest.raises(SystemExit) as raised:
        script.main()
    assert raised.value.code and reason in f"{raised.value} {capsys.readouterr().err}"
