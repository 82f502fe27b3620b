"""`examples/benchmark_variants.py` scores a few variants in each way; how fast they come is not tested."""

import re
from pathlib import Path

import pytest
from processes import run_script


SCRIPT = Path(__file__).parents[2] / "examples" / "benchmark_variants.py"


@pytest.mark.slow
def test_variants_are_scored_in_each_way(tmp_path):
    pytest.importorskip("pysam")
    small = [
        "--variants",
        "40",
        "--genome-bases",
        "5000",
        "--offsets",
        "2",
        "--repeats",
        "1",
        "--batch-size",
        "16",
        "--processor-time",
    ]
    assert run_script(SCRIPT, *small, stdout=tmp_path / "printed") == 0
    printed = (tmp_path / "printed").read_text()
    rows = re.findall(r"^\| (.*?) \| ([\d.,]+) \|.* \| (\S+) \|", printed, re.MULTILINE)
    assert [unit for _, _, unit in rows] == ["sequences/s", *["variants/s"] * 5]
    assert all(float(rate.replace(",", "")) > 0 for _, rate, _ in rows)
