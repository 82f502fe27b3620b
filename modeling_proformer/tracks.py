"""Write predictions along sequences as a track of a genome browser: bedGraph or bigWig."""

import os
import re
import shutil
import tempfile
from array import array
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import numpy as np

from .writing import output_file


BEDGRAPH, BIGWIG = (".bedgraph", ".bdg"), (".bw", ".bigwig")
TRACKS = (*BEDGRAPH, *BIGWIG)


def is_track(name: str | os.PathLike) -> bool:
    """Return whether the name is that of a track."""
    return str(name).lower().endswith(TRACKS)


class TrackWriter:
    """
    Writes the values of overlapping windows as a track, in which each base has the value of the nearest window, and N
    has none.

    Args:
        write_interval: takes a chromosome, the start and end of an interval in it, and the value there.
    """

    def __init__(self, write_interval: Callable[[str, int, int, float], object]):
        self._write_interval = write_interval
        self._last: tuple[str, int, str, float] | None = None
        self._start = 0

    def write(self, chromosome: str, start: int, bases: str, value: float):
        """Write a window, whose bases are in the order of the chromosome. The window before it may end earlier."""
        first = start
        if self._last is not None:
            name, last_start, last_bases, _ = self._last
            border = last_end = last_start + len(last_bases)
            # A smaller start is that of another region.
            if name == chromosome and last_start < start < last_end:
                border = first = (start + last_end) // 2
            self._write_last(border)
        self._last, self._start = (chromosome, start, bases, value), first

    def close(self):
        """Write the last window."""
        if self._last is not None:
            _, start, bases, _ = self._last
            self._write_last(start + len(bases))

    def _write_last(self, end: int):
        chromosome, start, bases, value = self._last
        for known in re.compile("[^Nn]+").finditer(bases, self._start - start, end - start):
            self._write_interval(chromosome, start + known.start(), start + known.end(), value)


@contextmanager
def output_track(name: str | os.PathLike, lengths: Mapping[str, int]) -> Iterator[TrackWriter]:
    """
    Open a track that gets its name only once it is complete: a bigWig if that ends in .bw or .bigwig, or a bedGraph.

    Args:
        lengths: number of bases of the chromosomes, for a bigWig; one that is not among them ends with its last value.

    Raises:
        ImportError: a bigWig is wanted, and pyBigWig is not installed.
    """
    if str(name).lower().endswith(BIGWIG):
        library = _import_bigwig()
        intervals: dict[str, _Intervals] = {}
        with output_file(name, binary=True) as file:
            track = TrackWriter(lambda chromosome, *each: intervals.setdefault(chromosome, _Intervals()).add(*each))
            yield track
            track.close()
            with tempfile.TemporaryDirectory() as folder:
                # pyBigWig writes only to files that have a name.
                path = Path(folder) / "track.bw"
                _write_bigwig(library, path, intervals, lengths)
                with open(path, "rb") as written:
                    shutil.copyfileobj(written, file)
        return
    with output_file(name) as file:
        track = TrackWriter(
            lambda chromosome, start, end, value: file.write(f"{chromosome}\t{start}\t{end}\t{value:.6g}\n")
        )
        yield track
        track.close()


class _Intervals:
    """The intervals of a chromosome, in 12 bytes each."""

    def __init__(self):
        self.starts, self.ends, self.values = array("I"), array("I"), array("f")

    def add(self, start: int, end: int, value: float):
        self.starts.append(start)
        self.ends.append(end)
        self.values.append(value)


def _import_bigwig() -> ModuleType:
    try:
        import pyBigWig
    except ImportError as error:
        raise ImportError("bigWig is written by pyBigWig: pip install 'modeling-proformer[genome]'") from error
    return pyBigWig


def _write_bigwig(library: ModuleType, path: Path, intervals: Mapping[str, _Intervals], lengths: Mapping[str, int]):
    # Browsers look chromosomes up in alphabetical order.
    names = sorted(intervals)
    with library.open(str(path), "w") as track:
        track.addHeader([(name, lengths.get(name) or max(intervals[name].ends)) for name in names])
        for name in names:
            of_chromosome = intervals[name]
            starts = np.asarray(of_chromosome.starts, dtype=np.int64)
            order = np.argsort(starts)
            track.addEntries(
                np.full(len(order), name),
                starts[order],
                ends=np.asarray(of_chromosome.ends, dtype=np.int64)[order],
                values=np.asarray(of_chromosome.values, dtype=np.float64)[order],
            )


__all__ = ["TRACKS", "TrackWriter", "is_track", "output_track"]
