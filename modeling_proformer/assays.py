"""Sequences and measurements from files and the Hub, checked row by row."""

import csv
import gzip
import os
import zlib
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


if TYPE_CHECKING:
    import datasets


FASTA_SUFFIXES = (".fa", ".fasta", ".fna")
DELIMITERS = {".tsv": "\t", ".txt": "\t", ".csv": ","}
SUFFIXES = (*FASTA_SUFFIXES, *DELIMITERS, ".parquet")
MISSING = {"", "na", "n/a", "nan", "null", "none"}


class InputError(ValueError):
    """What is wrong with an input, where, and what to do about it, in one line."""


class Row(NamedTuple):
    """A row of a table; of a FASTA file, a record with the columns `name` (all of its header) and `sequence`."""

    place: str
    cells: dict[str, Any]


def is_table(path: str | os.PathLike) -> bool:
    """Whether the name is that of a file this module reads; a `.gz` at its end does not matter."""
    return table_suffix(path) in SUFFIXES


def table_suffix(path: str | os.PathLike) -> str:
    return Path(str(path).lower().removesuffix(".gz")).suffix


def read_rows(path: str | os.PathLike) -> Iterator[Row]:
    """
    Streams a FASTA, TSV, CSV or Parquet file; text may be gzipped, have a byte-order mark and any line ends.

    Raises:
        InputError: there is no such file, or it is empty, damaged or not of the kind that its name says. Names that
            several FASTA records share are found at the end.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: {'this is not a file' if path.exists() else 'no such file'}.")
    if not is_table(path):
        raise InputError(f"{path}: cannot tell what it is; its name should end in one of {', '.join(SUFFIXES)}.")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty.")
    suffix = table_suffix(path)
    if suffix == ".parquet":
        rows = read_parquet(path)
    elif suffix in FASTA_SUFFIXES:
        rows = read_fasta(path)
    else:
        rows = read_delimited(path, DELIMITERS[suffix])
    nothing = True
    for row in rows:
        nothing = False
        yield row
    if nothing:
        raise InputError(f"{path}: there are no rows in it.")


def read_parquet(path: Path) -> Iterator[Row]:
    try:
        number = 0
        with pq.ParquetFile(path) as file:
            check_header(path, file.schema_arrow.names)
            for batch in file.iter_batches(batch_size=4096):
                for cells in batch.to_pylist():
                    number += 1
                    yield Row(f"row {number}", cells)
    except InputError:
        raise
    # Of a damaged file, text may not be text, nor a date a date.
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise InputError(f"{path}: not a readable Parquet file ({first_line(error)}).") from error


def read_delimited(path: Path, delimiter: str) -> Iterator[Row]:
    lines = TextLines(path)
    with lines:
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        try:
            header = next((values for values in reader if values), [])
            check_header(path, header)
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


def check_header(path: Path, header: Sequence[str]):
    for name in header:
        if header.count(name) > 1:
            raise InputError(f"{path}: the column {name!r} occurs {header.count(name)} times in the header.")


def read_fasta(path: Path) -> Iterator[Row]:
    # 8 bytes a record, so that even a large file can be searched for names that occur twice.
    names = array("q")
    header, header_line, parts = None, 0, []

    def record() -> Row:
        if not parts:
            raise InputError(f"{path}, line {header_line}: the record {header!r} has no sequence.")
        return Row(f"line {header_line}", {"name": header, "sequence": "".join(parts)})

    with TextLines(path) as lines:
        for number, line in enumerate(lines, start=1):
            line = line.strip()
            if line.startswith(">"):
                if header is not None:
                    yield record()
                header, header_line, parts = line[1:].strip(), number, []
                if not header:
                    raise InputError(f"{path}, line {number}: a record without a name.")
                names.append(hash(header))
            elif line and header is None:
                raise InputError(f"{path}, line {number}: expected a FASTA header that starts with '>'.")
            elif line:
                parts.append(line)
    if header is not None:
        yield record()
    if len(np.unique(np.frombuffer(names, dtype=np.int64))) < len(names):
        report_duplicate_name(path)


def report_duplicate_name(path: Path):
    """Reads a FASTA file anew for the first name that occurs twice."""
    first_line_of = {}
    with TextLines(path) as lines:
        for number, line in enumerate(lines, start=1):
            line = line.strip()
            if line.startswith(">"):
                name = line[1:].strip()
                if name in first_line_of:
                    raise InputError(
                        f"{path}, line {number}: the name {name!r} was already used in line {first_line_of[name]}; "
                        "give every record its own."
                    )
                first_line_of[name] = number


class TextLines:
    """Lines of a text file, gzipped or not, with errors that say where it is damaged."""

    def __init__(self, path: Path):
        self.path = path
        with open(path, "rb") as file:
            gzipped = file.read(2) == b"\x1f\x8b"
        opener = gzip.open if gzipped else open
        self.file: TextIO = opener(path, "rt", encoding="utf-8-sig", newline=None)
        self.number = 0

    def __enter__(self) -> "TextLines":
        return self

    def __exit__(self, *exception):
        self.file.close()

    def __iter__(self) -> "TextLines":
        return self

    def __next__(self) -> str:
        try:
            line = next(self.file)
        except EOFError as error:
            raise InputError(
                f"{self.path}: the gzip data ends early, after line {self.number}; copy or compress it anew."
            ) from error
        except (gzip.BadGzipFile, zlib.error) as error:
            raise InputError(f"{self.path}: damaged gzip data after line {self.number} ({error}).") from error
        except UnicodeDecodeError as error:
            raise InputError(
                f"{self.path}: not UTF-8 text after line {self.number} ({error.reason}); save it as UTF-8."
            ) from error
        self.number += 1
        return line


def require_columns(path: str | os.PathLike, cells: dict[str, Any], columns: Sequence[str]):
    """
    Raises:
        InputError: a column is missing.
    """
    for column in columns:
        if column not in cells:
            raise InputError(f"{path}: there is no column {column!r}; there are {', '.join(map(repr, cells))}.")


def measured_value(path: str | os.PathLike, row: Row, column: str, required: bool = False) -> float:
    """
    A cell's number, NaN where it is missing (empty, NA, NaN, null or none) and not required.

    Raises:
        InputError: the cell holds something else, or is missing but required.
    """
    cell = row.cells[column]
    if cell is None or str(cell).strip().lower() in MISSING:
        if required:
            raise InputError(f"{path}, {row.place}, column {column!r}: the measurement is missing; leave the row out.")
        return float("nan")
    try:
        value = float(cell)
    except (TypeError, ValueError):
        value = float("inf")
    if not np.isfinite(value):
        raise InputError(f"{path}, {row.place}, column {column!r}: {cell!r} is not a finite number.")
    return value


def sequence_text(path: str | os.PathLike, row: Row, column: str) -> str:
    """
    A cell's sequence, without blanks at its ends.

    Raises:
        InputError: the cell is empty or not text.
    """
    sequence = row.cells[column]
    if sequence is not None and not isinstance(sequence, str):
        raise InputError(f"{path}, {row.place}, column {column!r}: {sequence!r} is not a sequence.")
    sequence = (sequence or "").strip()
    if not sequence:
        raise InputError(f"{path}, {row.place}, column {column!r}: the sequence is empty.")
    return sequence


def load_assay(
    source: str,
    sequence_column: str = "sequence",
    label_columns: Sequence[str] = ("expression",),
    group_column: str | None = None,
    split: str = "train",
) -> "datasets.Dataset":
    """
    A table to train on, memory-mapped: a file that `read_rows` reads, or the name of a dataset on the Hub
    (`"owner/name"`, or `"owner/name:configuration"`).

    Args:
        source: file or Hub dataset.
        sequence_column: where the sequences are.
        label_columns: where the measurements are; missing ones become NaN.
        group_column: where the families are that must not be split.
        split: of a Hub dataset.

    Returns:
        the columns named, and no others.

    Raises:
        InputError: see `read_rows`; or a column is missing, a cell is not a number, a row has no measurement at all.
    """
    import datasets

    columns = [sequence_column, *label_columns, *([group_column] if group_column else [])]
    features = datasets.Features(
        {sequence_column: datasets.Value("string")}
        | {column: datasets.Value("float64") for column in label_columns}
        | ({group_column: datasets.Value("string")} if group_column else {})
    )
    if not (is_table(source) or os.path.exists(source)):
        name, _, configuration = source.partition(":")
        try:
            dataset = datasets.load_dataset(name, configuration or None, split=split)
        except (OSError, ValueError) as error:
            raise InputError(f"{source}: neither a table nor a dataset on the Hub: {first_line(error)}") from error
        require_columns(source, dict.fromkeys(dataset.column_names), columns)
        try:
            return dataset.select_columns(columns).cast(features)
        except (TypeError, ValueError, pa.ArrowException) as error:
            raise InputError(f"{source}: a column is not of numbers or text: {first_line(error)}") from error
    path = Path(source)
    try:
        return datasets.Dataset.from_generator(
            training_rows,
            features=features,
            gen_kwargs={
                "path": str(path.resolve()),
                "sequence_column": sequence_column,
                # A list would be taken for shards, to be read one by one.
                "label_columns": tuple(label_columns),
                "group_column": group_column,
                # Part of the cache's key, so that an edited file is read anew.
                "modified": path.stat().st_mtime_ns if path.exists() else 0,
            },
        )
    except datasets.exceptions.DatasetGenerationError as error:
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from None
        raise


def training_rows(
    path: str, sequence_column: str, label_columns: Sequence[str], group_column: str | None, modified: int
) -> Iterator[dict[str, Any]]:
    for row in read_rows(path):
        require_columns(path, row.cells, [sequence_column, *label_columns, *([group_column] if group_column else [])])
        labels = {column: measured_value(path, row, column) for column in label_columns}
        if all(np.isnan(value) for value in labels.values()):
            raise InputError(f"{path}, {row.place}: no measurement in {', '.join(map(repr, label_columns))}.")
        group = {group_column: str(row.cells[group_column])} if group_column else {}
        yield {sequence_column: sequence_text(path, row, sequence_column), **labels, **group}


def first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


__all__ = ["InputError", "Row", "load_assay", "measured_value", "read_rows", "require_columns", "sequence_text"]
