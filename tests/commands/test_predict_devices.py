"""`proformer predict --devices` computes on several devices what one device computes, and leaves no process behind."""

import os
import signal
from pathlib import Path
from threading import Thread

import numpy as np
import psutil
import pytest
from processes import open_pipe, process_of
from waiting import wait_for

from modeling_proformer.cli import main


@pytest.fixture
def table(folder) -> Path:
    bases = np.random.default_rng(0).choice(list("ACGT"), (1000, 12))
    rows = [f"{number}\t{''.join(each)}\n" for number, each in enumerate(bases)]
    rows[500] = "500\tACGX\n"
    path = folder / "in.tsv"
    path.write_text("".join(["number\tsequence\n", *rows]))
    return path


def workers_of(process: int) -> set[psutil.Process]:
    """Return the processes on devices that a process has started."""
    try:
        children = psutil.Process(process).children()
    except psutil.NoSuchProcess:
        return set()
    return {child for child in children if is_running(child) and any("spawn_main" in word for word in command(child))}


def command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def is_running(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_the_output_is_that_of_one_device(proformer, table, folder):
    options = ["--on_error", "mark", "--orientation", "both", "--batch_size", 32, "--quiet"]
    assert proformer(table, "-o", folder / "one.tsv", *options).code == 0
    assert proformer(table, "-o", folder / "two.tsv", *options, "--devices", "cpu", "cpu").code == 0
    assert (folder / "two.tsv").read_bytes() == (folder / "one.tsv").read_bytes()
    assert not workers_of(os.getpid())


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


def test_a_process_that_is_killed_ends_the_command_in_one_line(refused, table):
    def kill():
        wait_for(lambda: workers_of(os.getpid()))
        for worker in workers_of(os.getpid()):
            worker.kill()

    killer = Thread(target=kill)
    killer.start()
    error = refused(table, "--devices", "cpu", "--on_error", "mark")
    killer.join()
    assert error.startswith("proformer: A process on one of the devices cpu has ended, perhaps because memory did not")
    assert not workers_of(os.getpid())


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_processes_end_with_the_command(checkpoint, folder, number):
    output = folder / "out.tsv"
    output.write_text("an earlier run")
    pipe, errors = folder.parent / "pipe", folder.parent / "errors"
    words = ["predict", "-", "--model", str(checkpoint), "-o", str(output), "--devices", "cpu", "--on_error", "skip"]
    words += ["--batch_size", "4", "--quiet"]
    with open_pipe(pipe) as file, process_of(main, words, stdin=pipe, stderr=errors) as process:
        # The input never ends. A pipe of macOS holds 8 kB.
        file.write("sequence\n" + "ACGTACGTACGT\n" * 600)
        file.flush()
        wait_for(lambda: any(each.name.startswith(".out.tsv") and each.stat().st_size for each in folder.iterdir()))
        (worker,) = workers_of(process.pid)
        if number == signal.SIGINT:
            # A terminal sends it to all processes.
            os.killpg(process.pid, signal.SIGINT)
            process.join(60)
            assert process.exitcode == 130
            assert errors.read_text() == "proformer: stopped by SIGINT.\n"
            assert os.listdir(folder) == ["out.tsv"]
        else:
            process.kill()
    wait_for(lambda: not is_running(worker))
    assert output.read_text() == "an earlier run"
