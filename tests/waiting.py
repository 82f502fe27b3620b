"""Waits for what another process or thread does."""

import time
from collections.abc import Callable


def wait_for(happened: Callable[[], object]):
    """
    Return as soon as something has happened.

    Raises:
        TimeoutError: it has not within two minutes.
    """
    for _ in range(12000):
        if happened():
            return
        time.sleep(0.01)
    raise TimeoutError
