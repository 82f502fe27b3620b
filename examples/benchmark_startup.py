"""Measure the seconds and the memory that Python needs to start with this package, next to the libraries below it.

    python examples/benchmark_startup.py

Each line of the table is a process of its own. They run by turns; the table has the medians of the time that passed,
of the time on the processor, and of the largest memory.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


PROFORMER = [sys.executable, "-m", "modeling_proformer.cli"]


def run(command: list[str]) -> tuple[float, float, float]:
    """Return the seconds that a command took, those on the processor, and its largest memory in MiB."""
    # A process counts the memory of this one until its program is loaded, so this script must not import torch.
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    # In KiB, but on macOS in bytes.
    memory = usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, memory


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="number of turns (%(default)s)")
    repeats = parser.parse_args().repeats
    if repeats < 1:
        parser.error("--repeats must be at least 1.")
    with tempfile.TemporaryDirectory() as folder:
        fasta = Path(folder, "one.fasta")
        fasta.write_text(">one\n" + "ACGTTGCA" * 10 + "\n")
        commands = {
            "python": [sys.executable, "-c", ""],
            "import torch": [sys.executable, "-c", "import torch"],
            "import modeling_proformer": [sys.executable, "-c", "import modeling_proformer"],
            "proformer --help": [*PROFORMER, "--help"],
            "proformer predict, one sequence": [*PROFORMER, "predict", str(fasta), "-o", str(Path(folder, "out.tsv"))],
        }
        for command in commands.values():
            run(command)
        measured = {name: [] for name in commands}
        for _ in range(repeats):
            for name, command in commands.items():
                measured[name].append(run(command))
    print("| | seconds | on the processor | memory, MiB |\n|---|---:|---:|---:|")
    for name, turns in measured.items():
        passed, computed, memory = map(statistics.median, zip(*turns, strict=True))
        print(f"| {name} | {passed:.2f} | {computed:.2f} | {memory:,.0f} |")


if __name__ == "__main__":
    main()
