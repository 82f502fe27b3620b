"""Signals that end a command: it cleans up first, as after Ctrl-C."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Stopped(KeyboardInterrupt):
    """A signal ends this process; `signal` is which."""

    def __init__(self, signal: signal.Signals):
        super().__init__(signal.name)
        self.signal = signal


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """
    Raise `Stopped` at SIGINT, SIGTERM and SIGHUP within the context, so that everything on the way cleans up.

    Further signals are ignored while it does: a logout sends several. A signal that is ignored, as under nohup, stays
    ignored. Each of several processes of a training has the system's own handlers, because a process that waits for
    another one cannot clean up.
    """
    ours = os.getpid()

    def stop(number: int, frame):
        if os.getpid() != ours:  # a loader's process has this handler too
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        for each in before:
            signal.signal(each, signal.SIG_IGN)
        raise Stopped(signal.Signals(number))

    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread() or int(os.environ.get("WORLD_SIZE", 1)) > 1:
        numbers = []
    before = {number: signal.getsignal(number) for number in numbers}
    before = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


__all__ = ["Stopped", "stop_on_signals"]
