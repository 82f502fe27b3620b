"""The devices of this machine, and several of them at once: a process on each computes some of the batches."""

import multiprocessing
import os
import pickle
import signal
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import resource_tracker
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from .data.rows import first_line


if TYPE_CHECKING:
    from .prediction import Computation

Rows = TypeVar("Rows")

# Batches that wait for each device, so that none of them waits for the next one.
BATCHES_AHEAD = 2


def available_device(name: str | torch.device, option: str = "device") -> torch.device:
    """
    Return the device that an option names, with its number where there may be several of its kind.

    Raises:
        ValueError: it cannot be used here.
    """
    try:
        return torch.zeros(1, device=name).device
    # Torch raises different errors for different kinds of device, and in different builds.
    except Exception as error:
        reason = first_line(error).split(". ")[0].removesuffix(".")
        raise ValueError(f"`{option}` {str(name)!r} cannot be used here: {reason}.") from error


def run_on_devices(
    computation: "Computation", devices: Sequence[str], batches: Iterable[tuple[Rows, Sequence[str]]]
) -> Iterator[tuple[Rows, np.ndarray]]:
    """
    Yield what `Computation.run_all` does, in the same order, computed by a process on each of the devices.

    The processes end with this one, however it ends. The CPU may be among the devices, and more than once; its threads
    are then shared out.

    Raises:
        RuntimeError: one of the processes has ended, for example because memory did not suffice.
    """
    context = multiprocessing.get_context("spawn")
    threads = max(1, torch.get_num_threads() // max(1, sum(torch.device(each).type == "cpu" for each in devices)))
    unused = context.SimpleQueue()
    for device in devices:
        unused.put(device)
    others = multiprocessing.active_children()
    with tempfile.TemporaryDirectory() as folder:
        # As a file: a start waits for ever if a process is killed before it has read long arguments from its pipe.
        path = Path(folder) / "computation.pickle"
        path.write_bytes(pickle.dumps(computation))
        pool = ProcessPoolExecutor(len(devices), context, initializer=_start, initargs=(path, unused, threads))
        try:
            # They start now, while the first rows are read.
            with _keep_from_children(signal.SIGINT):
                for _ in devices:
                    pool.submit(_compute, ())
            waiting: deque[tuple[Rows, Future]] = deque()
            for rows, sequences in batches:
                waiting.append((rows, pool.submit(_compute, sequences)))
                if len(waiting) == BATCHES_AHEAD * len(devices):
                    rows, computed = waiting.popleft()
                    yield rows, computed.result()
            for rows, computed in waiting:
                yield rows, computed.result()
        except BrokenProcessPool:
            raise RuntimeError(
                f"A process on one of the devices {', '.join(devices)} has ended, perhaps because memory did not "
                "suffice; a smaller `batch_size` needs less."
            ) from None
        except BaseException:
            # Otherwise, they would first compute the batches that they have.
            for process in set(multiprocessing.active_children()).difference(others):
                process.kill()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _keep_from_children(number: signal.Signals) -> Iterator[None]:
    """Start processes within the context that never receive a signal, which a terminal sends to all of them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # It would unblock the signal.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# A process on a device keeps its model here between batches.
_worker: dict[str, Any] = {}


def _start(path: Path, unused, threads: int):
    Thread(target=_end_with_parent, daemon=True).start()
    _worker.update(path=path, device=unused.get(), threads=threads)


def _end_with_parent():
    multiprocessing.parent_process().join()
    os._exit(1)


def _compute(sequences: Sequence[str]) -> np.ndarray:
    if "computation" not in _worker:
        torch.set_num_threads(_worker["threads"])
        computation = pickle.loads(_worker["path"].read_bytes())
        _worker["computation"] = replace(computation, model=computation.model.to(_worker["device"]))
    computation = _worker["computation"]
    return computation.run(computation.tokenize(sequences))


__all__ = ["available_device", "run_on_devices"]
