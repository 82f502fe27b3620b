"""`proformer predict --devices` computes on several devices what one device computes, and leaves no process behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from modeling_proformer import predict_file


@pytest.fixture
def table(folder) -> Path:
    bases = np.random.default_rng(0).choice(list("ACGT"), (1000, 12))
    rows = [f"{number}\t{''.join(each)}\n" for number, each in enumerate(bases)]
    rows[500] = "500\tACGX\n"
    path = folder / "in.tsv"
    path.write_text("".join(["number\tsequence\n", *rows]))
    return path


def children_of(process: int) -> set[int]:
    """Return the processes that a process has started and that still run."""
    running = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name is in parentheses, and may hold blanks.
            state, parent = status.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(parent) == process and state != "Z":
            running.add(int(status.parent.name))
    return running


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(happened):
    for _ in range(2400):
        if happened():
            return
        time.sleep(0.05)
    raise TimeoutError


def test_the_output_is_that_of_one_device(proformer, table, folder):
    options = ["--on_error", "mark", "--orientation", "both", "--batch_size", 32, "--quiet"]
    assert proformer(table, "-o", folder / "one.tsv", *options).code == 0
    assert proformer(table, "-o", folder / "two.tsv", *options, "--devices", "cpu", "cpu").code == 0
    assert (folder / "two.tsv").read_bytes() == (folder / "one.tsv").read_bytes()
    assert not [child for child in children_of(os.getpid()) if b"resource_tracker" not in command_of(child)]


def command_of(process: int) -> bytes:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--devices", "cpu", "--device", "cpu"], "Give one --device or several --devices, but not both."),
        (["--devices", "0"], "--devices must name at least one."),
        (["--devices", "cpu", "abacus"], "--devices 'abacus' cannot be used here: "),
        (["--devices", "99"], "--devices 'cuda:"),
    ],
)
def test_devices_that_cannot_be_used_are_refused(refused, table, options, reason):
    assert refused(table, *options).startswith(f"proformer: {reason}")


def test_an_iterator_that_is_left_early_ends_its_processes(model, tiny_tokenizer, table):
    before = children_of(os.getpid())
    batches = predict_file(model, tiny_tokenizer, table, on_error="skip", batch_size=2, devices=["cpu", "cpu"])
    next(batches)
    assert len([child for child in children_of(os.getpid()) - before if b"spawn_main" in command_of(child)]) == 2
    batches.close()
    assert not [child for child in children_of(os.getpid()) - before if b"spawn_main" in command_of(child)]


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["worker", "Ctrl-C", "killed"])
def test_whatever_is_killed_no_process_stays_and_nothing_is_half_written(checkpoint, folder, victim):
    output = folder / "out.tsv"
    output.write_text("an earlier run")
    command = [sys.executable, "-m", "modeling_proformer.cli", "predict", "-", "--model", str(checkpoint)]
    process = subprocess.Popen(
        [*command, "-o", str(output), "--devices", "cpu", "cpu", "--on_error", "skip", "--batch_size", "4", "--quiet"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        # The input never ends.
        process.stdin.write("sequence\n" + "ACGTACGTACGT\n" * 1000)
        process.stdin.flush()
        workers: set[int] = set()

        def has_begun() -> bool:
            workers.update(child for child in children_of(process.pid) if b"spawn_main" in command_of(child))
            return any(each.name.startswith(".out.tsv") and each.stat().st_size for each in folder.iterdir())

        wait_for(has_begun)
        assert len(workers) == 2
        if victim == "worker":
            os.kill(min(workers), signal.SIGKILL)
            process.stdin.write("ACGTACGTACGT\n" * 1000)
            process.stdin.close()
        elif victim == "Ctrl-C":
            # A terminal sends it to all processes.
            os.killpg(process.pid, signal.SIGINT)
        else:
            process.kill()
        code = process.wait(timeout=60)
        error = process.stderr.read()
    wait_for(lambda: not any(map(is_running, workers)))
    assert output.read_text() == "an earlier run"
    if victim == "killed":
        return
    assert os.listdir(folder) == ["out.tsv"]
    assert error.count("\n") == 1
    if victim == "worker":
        assert code == 1
        assert error.startswith(
            "proformer: A process on one of the devices cpu, cpu has ended, perhaps because memory"
        )
    else:
        assert (code, error) == (130, "proformer: stopped by SIGINT.\n")
