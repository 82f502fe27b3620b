"""The folder of a run: one process at a time owns it, and a kill at any moment leaves nothing half-written in it."""

import errno
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from transformers.utils import logging


try:
    import fcntl
except ImportError:  # not a Unix system
    fcntl = None  # type: ignore[assignment]


logger = logging.get_logger(__name__)

#: A file that is locked while a process owns the folder; one that a killed process left is not locked. Uploads of the
#: library's Trainer leave out names that begin so.
LOCK = "_proformer.lock"

# A file system without locks answers with one of these errors.
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


@contextmanager
def own_folder(folder: str | os.PathLike) -> Iterator[None]:
    """
    Make a folder if there is none, and own it within the context: a second process is refused until the first ends.

    The system takes the lock back when a process ends, however it ends. A folder that was made and is still empty at
    the end is removed again.

    Raises:
        BlockingIOError: another process owns the folder.
        FileExistsError: the name is that of a file.
        OSError: the folder cannot be written.
    """
    folder = Path(folder)
    if str(folder) == "-":
        raise FileExistsError("-: this is the standard output; name a folder.")
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder}: this is a file; name a folder.")
    made = not folder.exists()
    handle = _lock(folder)
    try:
        yield
    finally:
        # The lock is still held, so the file that is removed is no other process's.
        (folder / LOCK).unlink(missing_ok=True)
        os.close(handle)
        if made:
            with suppress(OSError):
                folder.rmdir()


def _lock(folder: Path) -> int:
    """Return the handle of the folder's lock."""
    path = folder / LOCK
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # another process has just removed the empty folder
            continue
        if fcntl is None:
            return handle
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in NO_LOCKS:
                logger.warning(f"{folder}: this file system has no locks, so start no second run in this folder.")
                return handle
            owner = os.read(handle, 200).decode(errors="replace").strip()
            os.close(handle)
            if not isinstance(error, BlockingIOError):
                raise
            raise BlockingIOError(
                f"{folder}: another process{f' ({owner})' if owner else ''} is writing this folder. Wait until it "
                "ends, or name another folder."
            ) from None
        # The owner before may have removed the file after it was opened here.
        if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
            os.truncate(handle, 0)
            os.write(handle, f"{os.getpid()} on {socket.gethostname()}\n".encode())
            return handle
        os.close(handle)


def move_contents(source: Path, target: Path, last: str):
    """Move what is in a folder into another of the same file system, one file of it as the last."""
    for path in sorted(source.iterdir(), key=lambda path: (path.name == last, path.name)):
        os.replace(path, target / path.name)


def remove_folder(folder: Path):
    """Remove a folder that may be large. A kill leaves it whole, or renamed to what `removed_name` returns."""
    renamed = removed_name(folder)
    shutil.rmtree(renamed, ignore_errors=True)
    if folder.exists():
        os.replace(folder, renamed)
        shutil.rmtree(renamed)


def removed_name(folder: Path) -> Path:
    """Return what a folder is called while it is being removed."""
    return folder.with_name(f".{folder.name}.removed")


__all__ = ["move_contents", "own_folder", "remove_folder", "removed_name"]
