"""Runs functions in processes that are forked from one which has imported the package: the imports take seconds."""

import multiprocessing
import os
import runpy
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TextIO

from torch.multiprocessing import start_processes


multiprocessing.set_forkserver_preload(["modeling_proformer.cli", "modeling_proformer.training.pretrain"])

STREAMS = ("stdin", "stdout", "stderr")


@contextmanager
def process_of(
    function: Callable, *arguments, cwd: Path | None = None, **streams: str | Path
) -> Iterator[BaseProcess]:
    """
    Call a function in a process, whose exit status is what the function returns; what is left over is killed.

    `stdin` names the file or named pipe to read from, `stdout` and `stderr` the files to write to. The process ends
    without what Python does at its end.
    """
    # On macOS, libraries that use its frameworks do not survive a fork.
    context = multiprocessing.get_context("spawn" if sys.platform == "darwin" else "forkserver")
    process = context.Process(target=_call_as_command, args=(function, arguments, cwd, streams))
    process.start()
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.join()
        if "stderr" in streams:
            print(Path(streams["stderr"]).read_text()[-3000:], file=sys.stderr)


def run_in_process(function: Callable, *arguments, **options) -> int:
    """Call a function in a process, as `process_of` does; return its exit status, or None after five minutes."""
    with process_of(function, *arguments, **options) as process:
        process.join(300)
        return process.exitcode


def open_pipe(path: Path) -> TextIO:
    """Make a named pipe and open it to write."""
    os.mkfifo(path)
    # To open it for writing alone would wait for a reader, even for one that has failed.
    return os.fdopen(os.open(path, os.O_RDWR), "w")


def run_script(*words, **options) -> int:
    """Run a Python script with its arguments in a process, until it ends; return its exit status."""
    return run_in_process(_run_script, list(map(str, words)), **options)


def _run_script(words: list[str]):
    sys.argv = words
    sys.path.insert(0, str(Path(words[0]).parent))
    runpy.run_path(words[0], run_name="__main__")


def _call_as_command(function: Callable, arguments: tuple, cwd: Path | None, streams: dict[str, str | Path]):
    for each in (signal.SIGHUP, signal.SIGTERM):
        signal.signal(each, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.setsid()
    os.chdir(cwd or os.curdir)
    for name, path in streams.items():
        flags = os.O_RDONLY if name == "stdin" else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        os.dup2(os.open(path, flags), STREAMS.index(name))
    # multiprocessing gives its processes no standard input.
    with open(0, encoding="utf-8", closefd=False) as sys.stdin:
        sys.exit(function(*arguments))


def run_in_processes(number: int, function: Callable, *arguments, **options):
    """Call a function in each of several processes that torch.distributed connects; an error in one is raised here."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    start_processes(_call_as_rank, (number, port, function, arguments, options), number, start_method="forkserver")


def _call_as_rank(rank: int, number: int, port: int, function: Callable, arguments: tuple, options: dict):
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": number, "LOCAL_WORLD_SIZE": number}
    os.environ |= {name: str(value) for name, value in ranks.items()}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "CUDA_VISIBLE_DEVICES": ""}
    # Loader workers start in the usual way of the platform.
    multiprocessing.set_start_method(None, force=True)
    function(*arguments, **options)
