"""Files of sequences and measurements: FASTA, TSV, CSV, Parquet and Arrow, read and checked row by row."""

import csv
import gzip
import io
import os
import zlib
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


FASTA_SUFFIXES = (".fa", ".fasta", ".fna")
DELIMITERS = {".tsv": "\t", ".txt": "\t", ".csv": ","}
COLUMNAR_KINDS = {".parquet": "Parquet", ".arrow": "Arrow"}
SUFFIXES = (*FASTA_SUFFIXES, *DELIMITERS, *COLUMNAR_KINDS)
MISSING = {"", "na", "n/a", "nan", "null", "none"}

#: Name of the standard input.
STANDARD_INPUT = "/dev/stdin"

NO_STREAM = "Parquet and Arrow cannot be read from a pipe; give the name of a file."

# Number of rows that are read and checked at a time.
READ_ROWS = 8192


class InputError(ValueError):
    """An input is wrong. The message says in one line what is wrong, where, and what to do about it."""


class MissingFileError(InputError, FileNotFoundError):
    """Error about an input that is not there."""


class Row(NamedTuple):
    """A row of a table, or a record of a FASTA file with the columns `name` (its whole header) and `sequence`."""

    location: str
    cells: dict[str, Any]


def is_table(path: str | os.PathLike) -> bool:
    """Return whether a file of this name can be read here; a `.gz` at its end makes no difference."""
    return table_suffix(path) in SUFFIXES


def is_stream(path: str | os.PathLike) -> bool:
    """Return whether a path is a pipe or the standard input, which can be read only once and may have any name."""
    path = Path(path)
    if not path.exists() or path.is_dir():
        return False
    return not path.is_file() or path.parent in (Path("/dev"), Path("/dev/fd"))


def table_suffix(path: str | os.PathLike) -> str:
    """Return the end of a file's name that tells its format, in lower case."""
    return Path(str(path).lower().removesuffix(".gz")).suffix


def read_rows(path: str | os.PathLike) -> Iterator[Row]:
    """
    Stream the rows of a FASTA, TSV, CSV, Parquet or Arrow file.

    Text may be gzipped, and may have a byte-order mark and any line ends. The format of a pipe, whose name does not
    tell it, is recognised by its content: FASTA, TSV or CSV.

    Raises:
        MissingFileError: there is no such file.
        InputError: the file is empty, damaged or not in the format of its name. A name that several FASTA records
            share is found at the end.
    """
    path = Path(path)
    suffix = kind_of_file(path)
    rows = _read_columnar(path) if suffix in COLUMNAR_KINDS else _read_text(path, suffix)
    empty = True
    for row in rows:
        empty = False
        yield row
    if empty:
        raise InputError(f"{path}: there are no rows in it.")


def kind_of_file(path: Path) -> str:
    """
    Return the suffix that tells how to read a file, or "" for a pipe that its content has to tell.

    Raises:
        MissingFileError: there is no such file.
        InputError: the file is empty, or its name ends in no known suffix.
    """
    if is_stream(path):
        suffix = table_suffix(path)
        if suffix in COLUMNAR_KINDS:
            raise InputError(f"{path}: {NO_STREAM}")
        return suffix if suffix in SUFFIXES else ""
    if not path.is_file():
        if path.exists():
            raise InputError(f"{path}: this is not a file.")
        raise MissingFileError(f"{path}: no such file.")
    if not is_table(path):
        raise InputError(f"{path}: the format is unknown; the name should end in one of {', '.join(SUFFIXES)}.")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty.")
    return table_suffix(path)


def _read_columnar(path: Path) -> Iterator[Row]:
    number = 0
    with readable(path):
        for batch in record_batches(path):
            for cells in batch.to_pylist():
                number += 1
                yield Row(f"row {number}", cells)


@contextmanager
def readable(path: Path):
    """Turn what a damaged Parquet or Arrow file raises into an InputError."""
    try:
        yield
    except InputError:
        raise
    # Values may be invalid too: text that is not UTF-8, or a date out of range.
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        kind = COLUMNAR_KINDS[table_suffix(path)]
        raise InputError(f"{path}: not a readable {kind} file ({first_line(error)}).") from error


def record_batches(path: Path, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """
    Stream a Parquet or Arrow file in batches of at most `READ_ROWS` rows, whatever its own batches are.

    Raises:
        InputError: a column is missing, or occurs twice.
        pa.ArrowException, OSError: the file is damaged.
    """
    if table_suffix(path) == ".parquet":
        with pq.ParquetFile(path, memory_map=True) as file:
            _check_header(path, file.schema_arrow.names, columns or ())
            yield from map(_validate, file.iter_batches(READ_ROWS, columns=columns))
        return
    with pa.memory_map(str(path)) as file:
        try:
            reader = pa.ipc.open_file(file)
            batches = map(reader.get_batch, range(reader.num_record_batches))
        except pa.ArrowInvalid:
            # The datasets library writes files without an index at the end.
            file.seek(0)
            batches = reader = pa.ipc.open_stream(file)
        _check_header(path, reader.schema.names, columns or ())
        for batch in batches:
            piece = _validate(batch if columns is None else batch.select(columns))
            for first in range(0, len(piece), READ_ROWS):
                yield piece.slice(first, READ_ROWS)


def _validate(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return the batch after a check that its offsets lie within it and its text is UTF-8; no later reader checks."""
    batch.validate(full=True)
    return batch


def _read_text(path: Path, suffix: str) -> Iterator[Row]:
    with _TextLines(path) as lines:
        suffix = suffix or lines.guess_suffix()
        if suffix in FASTA_SUFFIXES:
            yield from _read_fasta(path, lines)
        else:
            yield from _read_delimited(path, lines, DELIMITERS[suffix])


def _read_delimited(path: Path, lines: "_TextLines", delimiter: str) -> Iterator[Row]:
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        header = next((values for values in reader if values), [])
        _check_header(path, header)
        for values in reader:
            if not values:
                continue
            if len(values) != len(header):
                raise InputError(
                    f"{path}, line {reader.line_num}: {len(values)} cells under a header of {len(header)} columns."
                )
            yield Row(f"line {reader.line_num}", dict(zip(header, values, strict=True)))
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: not a well-formed table ({error}).") from error


def _check_header(path: Path, header: Sequence[str], required: Sequence[str] = ()):
    for name in header:
        if header.count(name) > 1:
            raise InputError(f"{path}: the column {name!r} occurs {header.count(name)} times in the header.")
    require_columns(path, dict.fromkeys(header), required)


def _read_fasta(path: Path, lines: "_TextLines") -> Iterator[Row]:
    # These take 16 bytes a record, so that repeated names are found in a large file too.
    names, header_lines = array("q"), array("q")
    header, parts = None, []

    def record() -> Row:
        location = f"line {header_lines[-1]}"
        if not parts:
            raise InputError(f"{path}, {location}: the record {header!r} has no sequence.")
        return Row(location, {"name": header, "sequence": "".join(parts)})

    for number, line in enumerate(lines, start=1):
        line = line.strip()
        if line.startswith(">"):
            if header is not None:
                yield record()
            header, parts = line[1:].strip(), []
            if not header:
                raise InputError(f"{path}, line {number}: the record has no name.")
            names.append(hash(header))
            header_lines.append(number)
        elif line and header is None:
            raise InputError(f"{path}, line {number}: expected a FASTA header that starts with '>'.")
        elif line:
            parts.append(line)
    if header is not None:
        yield record()
    if len(np.unique(np.frombuffer(names, dtype=np.int64))) < len(names):
        _report_repeated_name(path, names, header_lines)


def _report_repeated_name(path: Path, names: "array[int]", header_lines: "array[int]"):
    first_line_of: dict[int, int] = {}
    for name, number in zip(names, header_lines, strict=True):
        if name in first_line_of:
            raise InputError(
                f"{path}, line {number}: the name{_quote_name(path, number)} was already used in line "
                f"{first_line_of[name]}; give each record its own."
            )
        first_line_of[name] = number


def _quote_name(path: Path, number: int) -> str:
    """Return the name of the FASTA record in this line; a pipe cannot be read again to find it."""
    if is_stream(path):
        return ""
    with _TextLines(path) as lines:
        return f" {next(islice(lines, number - 1, None)).strip()[1:].strip()!r}"


class _TextLines:
    """The lines of a text file or pipe, gzipped or not; errors say where the file is damaged."""

    def __init__(self, path: Path):
        self.path = path
        # The standard input can be read even where it cannot be opened again: as a socket, or as another user's pipe.
        name = 0 if str(path) == STANDARD_INPUT else path
        self.binary = open(name, "rb", closefd=name != 0)  # noqa: SIM115
        gzipped = self.binary.peek(2)[:2] == b"\x1f\x8b"
        content = gzip.GzipFile(fileobj=self.binary) if gzipped else self.binary
        self.file = io.TextIOWrapper(content, encoding="utf-8-sig", newline=None)
        self.number = 0
        self.peeked: list[str] = []

    def __enter__(self) -> "_TextLines":
        return self

    def __exit__(self, *exception):
        self.file.close()
        self.binary.close()

    def __iter__(self) -> "_TextLines":
        return self

    def __next__(self) -> str:
        line = self.peeked.pop(0) if self.peeked else self._read()
        if not line:
            raise StopIteration
        self.number += 1
        return line

    def guess_suffix(self) -> str:
        """Return the suffix of the format that the first line which is not blank looks like."""
        if self.binary.peek(6).startswith((b"PAR1", b"ARROW1")):
            raise InputError(f"{self.path}: {NO_STREAM}")
        line = "\n"
        while line and not line.strip():
            line = self._read()
            self.peeked.append(line)
        if line.lstrip().startswith(">"):
            return ".fa"
        return ".tsv" if "\t" in line else ".csv"

    def _read(self) -> str:
        """Return the next line, or "" at the end."""
        try:
            return self.file.readline()
        except EOFError as error:
            raise InputError(
                f"{self.path}: the gzip data ends early, after line {self.number}; copy or compress it again."
            ) from error
        except (gzip.BadGzipFile, zlib.error) as error:
            raise InputError(f"{self.path}: damaged gzip data after line {self.number} ({error}).") from error
        except UnicodeDecodeError as error:
            raise InputError(
                f"{self.path}: not UTF-8 text after line {self.number} ({error.reason}); save it as UTF-8."
            ) from error


def require_columns(path: str | os.PathLike, cells: dict[str, Any], columns: Sequence[str]):
    """
    Check that a table has these columns.

    Raises:
        InputError: a column is missing.
    """
    for column in columns:
        if column not in cells:
            raise InputError(f"{path}: there is no column {column!r}; there are {', '.join(map(repr, cells))}.")


def measured_value(path: str | os.PathLike, row: Row, column: str, required: bool = False) -> float:
    """
    Return a cell's number; NaN if it is missing (empty, NA, NaN, null or none) and not required.

    Raises:
        InputError: the cell holds something else, or is missing but required.
    """
    cell = row.cells[column]
    if cell is None or str(cell).strip().lower() in MISSING:
        if required:
            raise InputError(
                f"{path}, {row.location}, column {column!r}: the measurement is missing; leave the row out."
            )
        return float("nan")
    try:
        value = float(cell)
    except (TypeError, ValueError):
        value = float("inf")
    if not np.isfinite(value):
        raise InputError(f"{path}, {row.location}, column {column!r}: {cell!r} is not a finite number.")
    return value


def sequence_text(path: str | os.PathLike, row: Row, column: str) -> str:
    """
    Return a cell's sequence without white space at its ends.

    Raises:
        InputError: the cell is empty, says that the sequence is missing (NA), or is not text.
    """
    sequence = row.cells[column]
    if sequence is not None and not isinstance(sequence, str):
        raise InputError(f"{path}, {row.location}, column {column!r}: {sequence!r} is not a sequence.")
    sequence = (sequence or "").strip()
    if sequence.lower() in MISSING:
        raise InputError(f"{path}, {row.location}, column {column!r}: the sequence is empty.")
    return sequence


def weight_value(path: str | os.PathLike, row: Row, column: str) -> float:
    """
    Return a cell's weight.

    Raises:
        InputError: the cell is missing, negative or not a finite number.
    """
    weight = measured_value(path, row, column)
    if np.isnan(weight):
        raise InputError(
            f"{path}, {row.location}, column {column!r}: the weight is missing; give 0 to a row that should not count."
        )
    if weight < 0:
        raise InputError(f"{path}, {row.location}, column {column!r}: the weight is {weight:g}, which is below 0.")
    return weight


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its class if it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]


__all__ = [
    "InputError",
    "MissingFileError",
    "Row",
    "is_table",
    "measured_value",
    "read_rows",
    "require_columns",
    "sequence_text",
    "weight_value",
]
