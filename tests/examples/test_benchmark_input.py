"""`examples/benchmark_input.py` loads a few promoters in both ways; how fast they come is not tested."""

import re
import subprocess
import sys
from pathlib import Path

import pytest


SCRIPT = Path(__file__).parents[2] / "examples" / "benchmark_input.py"


@pytest.mark.slow
def test_promoters_are_loaded_with_and_without_workers(tmp_path):
    small = ["--rows", "2000", "--measured-rows", "500", "--batch-size", "50", "--model-batch-size", "0"]
    finished = subprocess.run(
        [sys.executable, SCRIPT, *small, "--workers", "0", "2", "--folder", tmp_path],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    _, mapped, streamed = re.split("^memory-mapped|^streamed", finished.stdout, flags=re.MULTILINE)
    for part in (mapped, streamed):
        rates = re.findall(r"^batches of 50, (\d) loader workers +([\d,]+) rows/s", part, re.MULTILINE)
        assert [workers for workers, _ in rates] == ["0", "2"]
        assert all(int(rate.replace(",", "")) > 0 for _, rate in rates)
        assert re.search(r"^until the first batch +\d+\.\d s", part, re.MULTILINE)
    assert not list(tmp_path.iterdir())
