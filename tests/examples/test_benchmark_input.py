"""`examples/benchmark_input.py` loads a few promoters in both ways; how fast they come is not tested."""

import importlib
import re
import sys
from pathlib import Path

import pytest


EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.slow
@pytest.mark.pages
def test_promoters_are_loaded_with_and_without_workers(tmp_path, monkeypatch, capfd):
    small = ["--rows", "2000", "--measured-rows", "500", "--batch-size", "50", "--model-batch-size", "0"]
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.setattr(sys, "argv", ["benchmark_input", *small, "--workers", "0", "2", "--folder", str(tmp_path)])
    # The processes that measure import it by this name.
    importlib.import_module("benchmark_input").main()
    _, mapped, streamed = re.split("^memory-mapped|^streamed", capfd.readouterr().out, flags=re.MULTILINE)
    for part in (mapped, streamed):
        rates = re.findall(r"^batches of 50, (\d) loader workers +([\d,]+) rows/s", part, re.MULTILINE)
        assert [workers for workers, _ in rates] == ["0", "2"]
        assert all(int(rate.replace(",", "")) > 0 for _, rate in rates)
        assert re.search(r"^until the first batch +\d+\.\d s", part, re.MULTILINE)
    assert not list(tmp_path.iterdir())
