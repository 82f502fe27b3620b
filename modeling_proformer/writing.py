"""Files that get their names only once they are complete, and tables in the format that a name says."""

import csv
import gzip
import io
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .data.genome import import_pysam
from .data.tables import InputError, first_line, is_stream
from .data.vcf import VcfFile


# The delimiter of each format; Parquet has none.
FORMATS = {".tsv": "\t", ".csv": ",", ".tsv.gz": "\t", ".csv.gz": ",", ".parquet": None}

# A part of a Parquet file is written once it has so many bytes; very many small parts are slow to read.
PART_BYTES = 2**24

# In a TSV, a cell has no tab and no line end; tools such as cut know no quotes.
BLANKS = str.maketrans("\t\n\r", "   ")


def is_standard(path: str | os.PathLike | None) -> bool:
    """Return whether an output is the standard output."""
    return path in (None, "-")


def table_suffix_of(output: str | os.PathLike | None) -> str:
    """
    Return the end of an output's name that says its format, one of `FORMATS`; ".tsv" for the standard output, a pipe
    or a device.

    Raises:
        IsADirectoryError: it is the name of a folder.
        ValueError: the name ends otherwise.
    """
    if is_standard(output) or is_stream(output):
        return ".tsv"
    if os.path.isdir(output):
        raise IsADirectoryError(f"{output}: this is a folder; name a file in it.")
    name = str(output).lower()
    suffix = next((suffix for suffix in FORMATS if name.endswith(suffix)), None)
    if suffix is None:
        raise ValueError(f"{output}: the name says the format, so it must end in one of {', '.join(FORMATS)}.")
    return suffix


@contextmanager
def output_file(name: str | os.PathLike | None, binary: bool = False) -> Iterator[IO]:
    """Open a file that gets its name only once it is complete; without a name, or for "-", the standard output."""
    if is_standard(name):
        if sys.stdout is None:
            raise OSError("The standard output is closed; name a file with `output`.")
        yield sys.stdout
        return
    path = Path(name)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {path.parent} to write to.")
    if path.is_dir():
        raise IsADirectoryError(f"{path}: this is a folder; name a file in it.")
    text: dict[str, Any] = {"mode": "wb"} if binary else {"mode": "w", "encoding": "utf-8", "newline": ""}
    if is_stream(path):
        # A pipe or a device, such as /dev/null, is written to as it is.
        with open(path, **text) as file:
            yield file
        return
    # The target of a link is written, not the link.
    path = path.resolve()
    handle, unfinished = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(handle, **text) as file:
            yield file
        # Only the user can read the files of mkstemp; the result has the usual permissions.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(unfinished, 0o666 & ~mask)
        os.replace(unfinished, path)
    except BaseException:
        os.unlink(unfinished)
        raise


class TableWriter(Protocol):
    """Writes a table a few rows at a time."""

    def write(self, columns: Sequence[str], rows: Sequence[Sequence[Any]]):
        """Write rows, if there are any, and before the first of them the names of the columns."""


@contextmanager
def output_table(name: str | os.PathLike | None, types: Mapping[str, pa.DataType]) -> Iterator[TableWriter]:
    """
    Open a table in the format that its name says.

    Args:
        name: see `output_file`.
        types: types of some columns of a Parquet file; the others are text.
    """
    suffix = table_suffix_of(name)
    delimiter = FORMATS[suffix]
    if delimiter is None:
        with output_file(name, binary=True) as file:
            table = _ParquetTable(name, file, types)
            try:
                yield table
                table.close()
            except BaseException:
                table.abandon()
                raise
    elif suffix.endswith(".gz"):
        # Without a time and a name in it, equal tables are equal files.
        with (
            output_file(name, binary=True) as file,
            gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed,
            io.TextIOWrapper(packed, encoding="utf-8", newline="") as text,
        ):
            yield _TextTable(text, delimiter)
    else:
        with output_file(name) as file:
            yield _TextTable(file, delimiter)


class _TextTable:
    """A TSV or CSV file, in which NumPy's numbers have six digits, and are empty where they are NaN."""

    def __init__(self, file: IO[str], delimiter: str):
        self.writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
        self.format = _tsv_cell if delimiter == "\t" else _csv_cell
        self.is_empty = True

    def write(self, columns: Sequence[str], rows: Sequence[Sequence[Any]]):
        if self.is_empty:
            self.writer.writerow(map(self.format, columns))
            self.is_empty = False
        self.writer.writerows(map(self.format, row) for row in rows)


def _csv_cell(cell: Any) -> Any:
    if isinstance(cell, np.floating):
        return "" if np.isnan(cell) else f"{cell:.6g}"
    return cell


def _tsv_cell(cell: Any) -> Any:
    return cell.translate(BLANKS) if isinstance(cell, str) else _csv_cell(cell)


class _ParquetTable:
    """A Parquet file, in which NumPy's numbers are float32, and null where they are NaN."""

    def __init__(self, name: Any, file: IO[bytes], types: Mapping[str, pa.DataType]):
        self.name, self.file, self.types = name, file, types
        self.writer: pq.ParquetWriter | None = None
        # One buffer. Many small tables that stay between what a model needs for a moment would fragment the memory.
        self.waiting: pa.BufferOutputStream | None = None
        self.batches: pa.ipc.RecordBatchStreamWriter | None = None

    def write(self, columns: Sequence[str], rows: Sequence[Sequence[Any]]):
        if self.writer is None:
            first = rows[0] if rows else [None] * len(columns)
            kinds = [
                pa.float32() if isinstance(cell, np.floating) else self.types.get(column, pa.string())
                for column, cell in zip(columns, first, strict=True)
            ]
            self.writer = pq.ParquetWriter(self.file, pa.schema(zip(columns, kinds, strict=True)))
        if not rows:
            return
        arrays = []
        for (column, kind), cells in zip(self._fields(), zip(*rows, strict=True), strict=True):
            if kind == pa.string():
                cells = tuple(None if cell is None else str(cell) for cell in cells)
            try:
                # Among Python's objects, the NaN of NumPy would not become null.
                values = np.array(cells, np.float32) if kind == pa.float32() else cells
                arrays.append(pa.array(values, kind, from_pandas=kind == pa.float32()))
            except (pa.ArrowException, TypeError, ValueError) as error:
                raise InputError(
                    f"{self.name}: the column {column!r} does not have one type in all inputs ({first_line(error)}); "
                    "write a TSV instead."
                ) from error
        if self.waiting is None:
            self.waiting = pa.BufferOutputStream()
            self.batches = pa.ipc.new_stream(self.waiting, self.writer.schema)
        self.batches.write_table(pa.table(arrays, schema=self.writer.schema))
        if self.waiting.tell() >= PART_BYTES:
            self._write_waiting()

    def _write_waiting(self):
        if self.waiting is not None:
            self.batches.close()
            self.writer.write_table(pa.ipc.open_stream(self.waiting.getvalue()).read_all())
            self.waiting = self.batches = None

    def _fields(self) -> Iterator[tuple[str, pa.DataType]]:
        return ((field.name, field.type) for field in self.writer.schema)

    def close(self):
        if self.writer is not None:
            self._write_waiting()
            self.writer.close()

    def abandon(self):
        """Leave the file as it is; the writer's destructor would complete it, when it is closed already."""
        if self.writer is not None:
            self.writer.is_open = False


class VcfWriter:
    """
    Writes the records of a VCF with more INFO fields.

    Args:
        write: writes text.
        vcf: the file that the records are from; its header has the fields.
    """

    def __init__(self, write: Callable[[str], Any], vcf: VcfFile):
        self._write = write
        self._write(vcf.header)

    def write(self, record: Any, fields: Mapping[str, Sequence[float | int | str]]):
        """Write a record of pysam. Numbers that are NaN, and text that is empty, are missing."""
        for name, values in fields.items():
            record.info[name] = tuple(map(_info_value, values))
        self._write(str(record))


def _info_value(value: float | int | str) -> float | int | str | None:
    if isinstance(value, int):
        return value
    if isinstance(value, str):
        # These characters divide fields and values.
        return re.sub(r"[\s,;=]+", "_", value) or "."
    return None if np.isnan(value) else float(value)


@contextmanager
def output_vcf(name: str | os.PathLike, vcf: VcfFile) -> Iterator[VcfWriter]:
    """Open a VCF, compressed by bgzip if its name ends in .gz, that gets its name only once it is complete."""
    with output_file(name, binary=True) as file:
        if not str(name).lower().endswith(".gz"):
            yield VcfWriter(lambda text: file.write(text.encode()), vcf)
            return
        # pysam writes only to files that have a name.
        with import_pysam().BGZFile(f"/dev/fd/{file.fileno()}", "wb") as packed:
            yield VcfWriter(lambda text: packed.write(text.encode()), vcf)


class BedGraphWriter:
    """
    Writes the values of overlapping windows as a track, in which each base has the value of the nearest window, and N
    has none.

    Args:
        file: where it is written to.
    """

    def __init__(self, file: IO[str]):
        self._file = file
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
            self._file.write(f"{chromosome}\t{start + known.start()}\t{start + known.end()}\t{value:.6g}\n")


@contextmanager
def output_bedgraph(name: str | os.PathLike) -> Iterator[BedGraphWriter]:
    """Open a bedGraph file that gets its name only once it is complete."""
    with output_file(name) as file:
        track = BedGraphWriter(file)
        yield track
        track.close()


__all__ = [
    "BedGraphWriter",
    "VcfWriter",
    "is_standard",
    "output_bedgraph",
    "output_file",
    "output_table",
    "output_vcf",
    "table_suffix_of",
]
