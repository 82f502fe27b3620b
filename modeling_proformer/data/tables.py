"""Files of sequences and measurements: FASTA, TSV, CSV, Excel, Parquet and Arrow, read and checked row by row."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from .rows import (
    InputError,
    MissingFileError,
    Row,
    cell_error,
    first_line,
    measured_value,
    require_columns,
    sequence_text,
    weight_value,
)
from .text import check_header, read_text


FASTA_SUFFIXES = (".fa", ".fasta", ".fna", ".fas", ".ffn", ".fsa")
DELIMITERS = {".tsv": "\t", ".txt": "\t", ".csv": ","}
COLUMNAR_KINDS = {".parquet": "Parquet", ".arrow": "Arrow", ".feather": "Feather"}
EXCEL_SUFFIX = ".xlsx"
SUFFIXES = (*FASTA_SUFFIXES, *DELIMITERS, *COLUMNAR_KINDS, EXCEL_SUFFIX)
# bgzip writes gzip.
COMPRESSED_SUFFIXES = (".gz", ".bgz")

# These files are not read; an error says so, and what to do instead.
OTHER_KINDS = {
    (".xls", ".xlsm", ".xlsb", ".ods", ".numbers"): "a spreadsheet; save its sheet as CSV or .xlsx",
    (".zip", ".bz2", ".xz", ".zst", ".7z", ".tar", ".tgz"): "compressed; unpack it, or compress it with gzip",
    (".fastq", ".fq", ".sam", ".bam", ".cram"): "reads of a sequencer; make a FASTA file of its sequences",
    (".gb", ".gbk", ".genbank", ".embl", ".dna", ".ape"): "annotated sequences; export them as FASTA",
    (".vcf", ".bcf"): "variants, which `proformer variants` scores",
    (".bed", ".gff", ".gtf", ".2bit"): "no sequences to predict; extract them as FASTA",
    (".rds", ".rdata", ".rda", ".pkl", ".pickle", ".h5", ".hdf5", ".h5ad", ".npz", ".json", ".jsonl"): (
        "no table; write one as TSV, CSV or Parquet"
    ),
}

# Number of rows that are read and checked at a time, and of bytes from which they are fewer.
READ_ROWS = 8192
MAX_BATCH_BYTES = 2**26


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
    name = str(path).lower()
    for suffix in COMPRESSED_SUFFIXES:
        name = name.removesuffix(suffix)
    return Path(name).suffix


def read_rows(path: str | os.PathLike, *, warn: bool = True) -> Iterator[Row]:
    """
    Stream the rows of a FASTA, TSV, CSV, Excel, Parquet or Arrow file.

    Text may be gzipped, and may have a byte-order mark and any line ends. A table may have another delimiter than its
    name says, decimal commas between semicolons, comment lines (#) or a title before its header, a header that is such
    a comment, names of rows as R writes them, or no header: then the columns get names, which are logged. FASTA, TSV
    and CSV in a pipe, or FASTA under the name of a table, are recognised by their content.

    Args:
        path: the file.
        warn: log a table without a header, and names that several FASTA records share.

    Raises:
        ImportError: an Excel workbook needs openpyxl.
        MissingFileError: there is no such file.
        InputError: the file is empty, damaged, too large in some way, or not in the format of its name.
    """
    path = Path(path)
    suffix = kind_of_file(path)
    if suffix in COLUMNAR_KINDS:
        rows = _read_columnar(path)
    elif suffix == EXCEL_SUFFIX:
        from .excel import read_workbook

        rows = read_workbook(path, warn)
    else:
        delimiter = "" if suffix in FASTA_SUFFIXES else DELIMITERS.get(suffix)
        rows = read_text(path, delimiter, is_stream(path), warn)
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
    suffix = table_suffix(path)
    if is_stream(path):
        if suffix in COLUMNAR_KINDS or suffix == EXCEL_SUFFIX:
            raise InputError(f"{path}: a pipe holds text alone; give the name of a file.")
        return suffix if suffix in SUFFIXES else ""
    if not path.is_file():
        if path.exists():
            raise InputError(f"{path}: this is not a file.")
        raise MissingFileError(f"{path}: no such file.")
    if not is_table(path):
        for suffixes, kind in OTHER_KINDS.items():
            if suffix in suffixes:
                raise InputError(f"{path}: by its name, this file is {kind}.")
        raise InputError(f"{path}: the format is unknown; the name should end in one of {', '.join(SUFFIXES)}.")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty.")
    if suffix not in (*FASTA_SUFFIXES, *DELIMITERS) and str(path).lower().endswith(COMPRESSED_SUFFIXES):
        raise InputError(f"{path}: only text is read from a compressed file; unpack it.")
    return suffix


def column_types(path: str | os.PathLike) -> dict[str, pa.DataType]:
    """Return the types of a Parquet or Arrow file's columns; none for other files, which state no types."""
    path = Path(path)
    if kind_of_file(path) not in COLUMNAR_KINDS:
        return {}
    with readable(path):
        batch = next(record_batches(path), None)
    return {} if batch is None else dict(zip(batch.schema.names, batch.schema.types, strict=True))


def _read_columnar(path: Path) -> Iterator[Row]:
    number = 0
    with readable(path):
        for batch in record_batches(path):
            # As Python's objects, repeated values take their full size.
            for first in range(0, len(batch), _rows_that_fit(batch)):
                for cells in batch.slice(first, _rows_that_fit(batch)).to_pylist():
                    number += 1
                    yield Row(f"row {number}", cells)


@contextmanager
def readable(path: Path):
    """Turn what a damaged Parquet or Arrow file raises into an InputError."""
    try:
        yield
    except InputError:
        raise
    except MemoryError as error:
        raise InputError(
            f"{path}: some of its rows do not fit the memory; leave out columns that are not needed."
        ) from error
    # Values may be invalid too: text that is not UTF-8, or a date out of range.
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        kind = COLUMNAR_KINDS[table_suffix(path)]
        raise InputError(f"{path}: not a readable {kind} file ({first_line(error)}).") from error


def record_batches(path: Path, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """
    Stream a Parquet or Arrow file in batches of at most `READ_ROWS` rows, whatever its own batches are.

    Raises:
        InputError: a column is missing, or occurs twice.
        MemoryError, pa.ArrowException, OSError: the file is damaged, or takes more memory than there is.
    """
    if table_suffix(path) == ".parquet":
        with pq.ParquetFile(path, memory_map=True) as file:
            _check_columns(path, file.schema_arrow.names, columns)
            yield from map(_validate, file.iter_batches(_rows_at_a_time(file, columns), columns=columns))
        return
    with pa.memory_map(str(path)) as file:
        try:
            reader = pa.ipc.open_file(file)
            batches = map(reader.get_batch, range(reader.num_record_batches))
        except pa.ArrowInvalid:
            # The datasets library writes files without an index at the end.
            file.seek(0)
            batches = reader = pa.ipc.open_stream(file)
        _check_columns(path, reader.schema.names, columns)
        for batch in batches:
            piece = _validate(batch if columns is None else batch.select(columns))
            for first in range(0, len(piece), READ_ROWS):
                yield piece.slice(first, READ_ROWS)


def _check_columns(path: Path, header: Sequence[str], required: Sequence[str] | None):
    check_header(path, header)
    require_columns(path, header, required or ())


def _rows_at_a_time(file: pq.ParquetFile, columns: Sequence[str] | None) -> int:
    """Return how many rows of a Parquet file to decode at a time: compressed, large cells take next to no space."""
    first = next(file.iter_batches(16, columns=columns), None)
    return READ_ROWS if first is None else _rows_that_fit(first)


def _rows_that_fit(batch: pa.RecordBatch) -> int:
    """Return how many rows like these, at most `READ_ROWS`, take no more than `MAX_BATCH_BYTES`."""
    return int(min(READ_ROWS, max(1, MAX_BATCH_BYTES * len(batch) // max(batch.nbytes, 1))))


def _validate(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return the batch after a check that its offsets lie within it and its text is UTF-8; no later reader checks."""
    batch.validate(full=True)
    return batch


__all__ = [
    "InputError",
    "MissingFileError",
    "Row",
    "cell_error",
    "column_types",
    "first_line",
    "is_stream",
    "is_table",
    "kind_of_file",
    "measured_value",
    "read_rows",
    "readable",
    "record_batches",
    "require_columns",
    "sequence_text",
    "table_suffix",
    "weight_value",
]
