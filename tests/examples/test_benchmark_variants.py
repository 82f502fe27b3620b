"""`examples/benchmark_variants.py` scores a few variants in each way; how fast they come is not tested."""

import re
import subprocess
import sys
from pathlib import Path

import pytest


SCRIPT = Path(__file__).parents[2] / "examples" / "benchmark_variants.py"


@pytest.mark.slow
def test_variants_are_scored_in_each_way():
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
    finished = subprocess.run([sys.executable, SCRIPT, *small], capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr[-3000:]
    rows = re.findall(r"^\| (.*?) \| ([\d.,]+) \|.* \| (\S+) \|", finished.stdout, re.MULTILINE)
    assert [unit for _, _, unit in rows] == ["sequences/s", *["variants/s"] * 5]
    assert all(float(rate.replace(",", "")) > 0 for _, rate, _ in rows)
