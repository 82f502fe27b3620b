"""`examples/benchmark_versions.py` compares this version with itself; how fast it is is not tested."""

import re
import subprocess
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[2]


def compare(*arguments) -> subprocess.CompletedProcess:
    script = ROOT / "examples" / "benchmark_versions.py"
    return subprocess.run([sys.executable, script, *map(str, arguments)], capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.pages
def test_a_version_predicts_what_it_does():
    finished = compare(ROOT, ROOT, "--number", 8, "--repeats", 1, "--busy")
    assert finished.returncode == 0, finished.stderr[-3000:]
    for version in ("before", "after"):
        assert re.search(rf"^\| 1 thread, {version} \| [\d.,]+ \|", finished.stdout, re.MULTILINE)
    assert "of 8 predictions 0 change, by 0 at most" in finished.stdout
