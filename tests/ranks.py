"""Runs a function in several processes that torch.distributed connects, as torchrun does."""

import multiprocessing
import os
import socket
from collections.abc import Callable

from torch.multiprocessing import start_processes


# Each process is forked from one that has imported the package, because the imports take longer than the tests.
multiprocessing.set_forkserver_preload(["modeling_proformer.cli", "modeling_proformer.training.pretrain"])


def run_in_processes(number: int, function: Callable, *arguments, **options):
    """Call a function in each of several processes; an error in one of them is raised here."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    start_processes(_call, (number, port, function, arguments, options), number, start_method="forkserver")


def _call(rank: int, number: int, port: int, function: Callable, arguments: tuple, options: dict):
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": number, "LOCAL_WORLD_SIZE": number}
    os.environ |= {name: str(value) for name, value in ranks.items()}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "CUDA_VISIBLE_DEVICES": ""}
    # Loader workers start in the usual way of the platform.
    multiprocessing.set_start_method(None, force=True)
    function(*arguments, **options)
