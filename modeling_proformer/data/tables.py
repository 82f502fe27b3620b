"""Sequences and measurements from files and the Hub, checked row by row."""

import csv
import gzip
import hashlib
import os
import uuid
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq


if TYPE_CHECKING:
    import datasets


FASTA_SUFFIXES = (".fa", ".fasta", ".fna")
DELIMITERS = {".tsv": "\t", ".txt": "\t", ".csv": ","}
COLUMNAR_KINDS = {".parquet": "Parquet", ".arrow": "Arrow"}
SUFFIXES = (*FASTA_SUFFIXES, *DELIMITERS, *COLUMNAR_KINDS)
MISSING = {"", "na", "n/a", "nan", "null", "none"}

# Rows that are read and checked at a time.
READ_ROWS = 8192


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
    Streams a FASTA, TSV, CSV, Parquet or Arrow file; text may be gzipped, have a byte-order mark and any line ends.

    Raises:
        InputError: there is no such file, or it is empty, damaged or not of the kind that its name says. Names that
            several FASTA records share are found at the end.
    """
    path = Path(path)
    suffix = kind_of_file(path)
    if suffix in COLUMNAR_KINDS:
        rows = read_columnar(path)
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


def kind_of_file(path: Path) -> str:
    """
    The suffix that says how to read a file.

    Raises:
        InputError: there is no such file, it is empty, or its name ends in no suffix that is known.
    """
    if not path.is_file():
        raise InputError(f"{path}: {'this is not a file' if path.exists() else 'no such file'}.")
    if not is_table(path):
        raise InputError(f"{path}: cannot tell what it is; its name should end in one of {', '.join(SUFFIXES)}.")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty.")
    return table_suffix(path)


def read_columnar(path: Path) -> Iterator[Row]:
    number = 0
    with readable(path):
        for batch in record_batches(path):
            for cells in batch.to_pylist():
                number += 1
                yield Row(f"row {number}", cells)


@contextmanager
def readable(path: Path):
    """Turns what a damaged Parquet or Arrow file raises into an InputError."""
    try:
        yield
    except InputError:
        raise
    # Text may not be text, nor a date a date.
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        kind = COLUMNAR_KINDS[table_suffix(path)]
        raise InputError(f"{path}: not a readable {kind} file ({first_line(error)}).") from error


def record_batches(path: Path, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """
    A Parquet or Arrow file piece by piece, whatever its own pieces are.

    Raises:
        InputError: a column is missing, or there twice.
        pa.ArrowException, OSError: the file is damaged.
    """
    if table_suffix(path) == ".parquet":
        with pq.ParquetFile(path, memory_map=True) as file:
            check_header(path, file.schema_arrow.names, columns or ())
            yield from map(validated, file.iter_batches(READ_ROWS, columns=columns))
        return
    with pa.memory_map(str(path)) as file:
        try:
            reader = pa.ipc.open_file(file)
            batches = map(reader.get_batch, range(reader.num_record_batches))
        except pa.ArrowInvalid:
            # Without an index at its end, as the datasets library writes it.
            file.seek(0)
            batches = reader = pa.ipc.open_stream(file)
        check_header(path, reader.schema.names, columns or ())
        for batch in batches:
            piece = validated(batch if columns is None else batch.select(columns))
            for first in range(0, len(piece), READ_ROWS):
                yield piece.slice(first, READ_ROWS)


def validated(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch, once its offsets lie within it and its text is UTF-8: nothing that reads it later looks again."""
    batch.validate(full=True)
    return batch


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


def check_header(path: Path, header: Sequence[str], required: Sequence[str] = ()):
    for name in header:
        if header.count(name) > 1:
            raise InputError(f"{path}: the column {name!r} occurs {header.count(name)} times in the header.")
    require_columns(path, dict.fromkeys(header), required)


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
        InputError: the cell is empty, says that the sequence is missing (NA), or is not text.
    """
    sequence = row.cells[column]
    if sequence is not None and not isinstance(sequence, str):
        raise InputError(f"{path}, {row.place}, column {column!r}: {sequence!r} is not a sequence.")
    sequence = (sequence or "").strip()
    if sequence.lower() in MISSING:
        raise InputError(f"{path}, {row.place}, column {column!r}: the sequence is empty.")
    return sequence


def weight_value(path: str | os.PathLike, row: Row, column: str) -> float:
    """
    A cell's weight.

    Raises:
        InputError: the cell is missing, negative or not a finite number.
    """
    weight = measured_value(path, row, column)
    if np.isnan(weight):
        raise InputError(
            f"{path}, {row.place}, column {column!r}: the weight is missing; a row that should not count has 0."
        )
    if weight < 0:
        raise InputError(f"{path}, {row.place}, column {column!r}: the weight is {weight:g}, which is below 0.")
    return weight


class AssayColumns(NamedTuple):
    """The columns of a table that a training reads; see `load_assay`."""

    sequence: str
    labels: tuple[str, ...]
    weight: str | None = None
    group: str | None = None

    @property
    def schema(self) -> pa.Schema:
        """Their names and types in the checked table: text for sequences and groups, float64 for numbers."""
        numbers = [*self.labels, *([self.weight] if self.weight else [])]
        texts = [self.sequence, *([self.group] if self.group else [])]
        types = dict.fromkeys(texts, pa.string()) | dict.fromkeys(numbers, pa.float64())
        return pa.schema([(name, types[name]) for name in dict.fromkeys([self.sequence, *numbers, *texts])])


class Part(NamedTuple):
    """Some of a table's rows in a row, checked, and where in the table each is (counted from 0)."""

    table: pa.Table
    place: Callable[[int], str]


def check_rows(source: str | os.PathLike, rows: Iterable[Row], columns: AssayColumns) -> pa.Table:
    """
    Rows as they are trained on: sequences without blanks at their ends, missing measurements NaN.

    Raises:
        InputError: a column is missing, a cell is not a sequence, number or weight, or a row has no measurement.
    """
    checked = []
    for row in rows:
        require_columns(source, row.cells, columns.schema.names)
        cells = {column: measured_value(source, row, column) for column in columns.labels}
        if all(np.isnan(value) for value in cells.values()):
            raise InputError(f"{source}, {row.place}: no measurement in {', '.join(map(repr, columns.labels))}.")
        cells[columns.sequence] = sequence_text(source, row, columns.sequence)
        if columns.weight:
            cells[columns.weight] = weight_value(source, row, columns.weight)
        if columns.group:
            cells[columns.group] = str(row.cells[columns.group])
        checked.append(cells)
    return pa.Table.from_pylist(checked, schema=columns.schema)


def check_table(source: str | os.PathLike, table: pa.Table, columns: AssayColumns, first_row: int) -> pa.Table:
    """`check_rows`, at once where nothing is the matter. `first_row` is the number of the rows before these."""
    checked = checked_at_once(table, columns)
    if checked is None:
        rows = (Row(f"row {number}", cells) for number, cells in enumerate(table.to_pylist(), start=first_row + 1))
        checked = check_rows(source, rows, columns)
    return checked


def checked_at_once(table: pa.Table, columns: AssayColumns) -> pa.Table | None:
    """`check_rows` of a whole table; None where one of its rows or types wants a closer look."""
    plain = {name: table[name] for name in columns.schema.names}
    for name, column in plain.items():
        if pa.types.is_dictionary(column.type):
            plain[name] = column.cast(column.type.value_type)

    sequences = plain[columns.sequence]
    if not is_text(sequences.type) or sequences.null_count:
        return None
    sequences = pc.utf8_trim_whitespace(sequences).cast(pa.string())
    if pc.any(pc.equal(pc.binary_length(sequences), 0)).as_py():
        return None

    checked = {columns.sequence: sequences}
    for name in (*columns.labels, *([columns.weight] if columns.weight else [])):
        kind = plain[name].type
        if not (pa.types.is_integer(kind) or pa.types.is_float32(kind) or pa.types.is_float64(kind)):
            return None
        checked[name] = pc.fill_null(plain[name].cast(pa.float64(), safe=False), float("nan"))
        if pc.any(pc.is_inf(checked[name])).as_py():
            return None
    unmeasured = np.logical_and.reduce([np.isnan(checked[name].to_numpy()) for name in columns.labels])
    if unmeasured.any() or (columns.weight and not (checked[columns.weight].to_numpy() >= 0).all()):
        return None

    if columns.group:
        groups = plain[columns.group]
        if groups.null_count or not (is_text(groups.type) or pa.types.is_integer(groups.type)):
            return None
        checked[columns.group] = groups.cast(pa.string())
    return pa.table(checked).select(columns.schema.names)


def is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def read_assay_file(path: Path, columns: AssayColumns) -> Iterator[Part]:
    """
    Streams the checked rows of a file.

    Raises:
        InputError: see `read_rows` and `check_rows`.
    """
    if kind_of_file(path) not in COLUMNAR_KINDS:
        rows = read_rows(path)
        while some := list(islice(rows, READ_ROWS)):
            yield Part(check_rows(path, some, columns), [row.place for row in some].__getitem__)
        return
    number = 0
    with readable(path):
        for part in checked_batches(path, record_batches(path, columns.schema.names), columns):
            number += len(part.table)
            yield part
    if number == 0:
        raise InputError(f"{path}: there are no rows in it.")


def checked_batches(
    source: str | os.PathLike,
    batches: Iterable[pa.RecordBatch | pa.Table],
    columns: AssayColumns,
    first_row: int = 0,
) -> Iterator[Part]:
    for batch in batches:
        table = batch if isinstance(batch, pa.Table) else pa.Table.from_batches([batch])
        yield Part(check_table(source, table, columns, first_row), partial(row_number, first_row))
        first_row += len(table)


def row_number(first_row: int, row: int) -> str:
    return f"row {first_row + row + 1}"


def is_hub_dataset(source: str) -> bool:
    """Whether `load_assay` takes it for a dataset repository: on the Hub, or a local folder of the same shape."""
    return not (is_table(source) or os.path.isfile(source))


def load_assay(
    source: str,
    sequence_column: str = "sequence",
    label_columns: Sequence[str] = ("expression",),
    group_column: str | None = None,
    split: str = "train",
    weight_column: str | None = None,
) -> "datasets.Dataset":
    """
    A table to train on, memory-mapped: a file that `read_rows` reads, or the name of a dataset on the Hub
    (`"owner/name"`, or `"owner/name:configuration"`; a folder with such a dataset's files will do). Its checked copy
    is kept in the cache of the datasets library and found there the next time.

    Args:
        source: file or Hub dataset.
        sequence_column: where the sequences are.
        label_columns: where the measurements are; missing ones become NaN.
        group_column: where the families are that must not be split.
        split: of a Hub dataset.
        weight_column: where it is said how much each row counts (replicates, read counts).

    Returns:
        the columns named, and no others.

    Raises:
        InputError: see `read_rows`; or a column is missing, a cell is not a number, a row has no measurement at all, a
            weight is missing or negative, or all are 0.
    """
    import datasets

    columns = AssayColumns(sequence_column, tuple(label_columns), weight_column, group_column)
    if is_hub_dataset(source):
        assay = load_hub_dataset(source, columns, split)
    else:
        assay = datasets.Dataset.from_file(str(checked_copy(Path(source), columns)))
    if weight_column and pc.max(assay.data.column(weight_column)).as_py() == 0:
        raise InputError(no_weight(source, weight_column))
    return assay


def load_hub_dataset(source: str, columns: AssayColumns, split: str) -> "datasets.Dataset":
    import datasets

    name, _, configuration = source.partition(":")
    try:
        dataset = datasets.load_dataset(name, configuration or None, split=split)
    except (OSError, ValueError) as error:
        raise InputError(f"{source}: neither a table nor a dataset on the Hub: {first_line(error)}") from error
    require_columns(source, dict.fromkeys(dataset.column_names), columns.schema.names)
    if len(dataset) == 0:
        raise InputError(f"{source}: there are no rows in its split {split!r}.")
    checked = (
        dataset.select_columns(columns.schema.names)
        .with_format("arrow")
        .map(
            check_numbered_rows,
            with_indices=True,
            batched=True,
            batch_size=READ_ROWS,
            writer_batch_size=READ_ROWS,
            features=datasets.Features.from_arrow_schema(columns.schema),
            fn_kwargs={"source": source, "columns": columns},
            desc=f"checking {source}",
        )
    )
    return checked.with_format(None)


def check_numbered_rows(table: pa.Table, numbers: Sequence[int], source: str, columns: AssayColumns) -> pa.Table:
    return check_table(source, table, columns, first_row=numbers[0])


def checked_copy(path: Path, columns: AssayColumns) -> Path:
    """An Arrow file with the checked rows of a table, in the cache of the datasets library."""
    import datasets

    kind_of_file(path)
    status = path.stat()
    # Of an edited file, and of other columns, there is another copy.
    key = hashlib.blake2b(repr((path.resolve(), status.st_mtime_ns, status.st_size, columns)).encode(), digest_size=16)
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "proformer"
    copy = folder / f"{key.hexdigest()}.arrow"
    if not copy.exists():
        folder.mkdir(parents=True, exist_ok=True)
        # Under its name only once it is whole: a run may be stopped, and another may be writing the same.
        unfinished = copy.with_suffix(f".{uuid.uuid4().hex}")
        try:
            with open(unfinished, "wb") as file, pa.ipc.new_stream(file, columns.schema) as writer:
                for part in read_assay_file(path, columns):
                    writer.write_table(part.table)
            unfinished.replace(copy)
        finally:
            unfinished.unlink(missing_ok=True)
    return copy


def no_weight(source: str, column: str) -> str:
    return f"{source}, column {column!r}: every weight is 0, so that no row counts."


class TableDigest:
    """
    Tells tables apart by their columns' names and all their rows, in order. How the rows are cut into batches makes no
    difference, nor with what bits a missing number was written.
    """

    def __init__(self):
        self.hashes: dict[str, list] = {}

    def update(self, table: pa.Table):
        for name, column in zip(table.column_names, table.columns, strict=True):
            values, lengths = self.hashes.setdefault(name, [hashlib.blake2b(), hashlib.blake2b()])
            for chunk in column.chunks:
                if pa.types.is_string(chunk.type):
                    _, ends, letters = chunk.buffers()
                    ends = np.frombuffer(ends, np.int32, len(chunk) + 1, offset=4 * chunk.offset)
                    lengths.update(np.diff(ends))
                    if ends[-1] > ends[0]:
                        values.update(memoryview(letters)[ends[0] : ends[-1]])
                else:
                    numbers = chunk.to_numpy(zero_copy_only=False)
                    values.update(np.where(np.isnan(numbers), np.nan, numbers))

    def hexdigest(self) -> str:
        whole = hashlib.blake2b(digest_size=16)
        for name, parts in sorted(self.hashes.items()):
            whole.update(name.encode() + b"\0" + b"".join(part.digest() for part in parts))
        return whole.hexdigest()


def content_digest(assay: "datasets.Dataset") -> str:
    """
    Of a table as `load_assay` gives it, to tell that it is no longer what a training began with; `stream_assay` gives
    the same for the same table.
    """
    digest = TableDigest()
    for table in assay.with_format("arrow").iter(batch_size=READ_ROWS):
        digest.update(table)
    return digest.hexdigest()


def first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


__all__ = [
    "InputError",
    "Row",
    "content_digest",
    "load_assay",
    "measured_value",
    "read_rows",
    "require_columns",
    "sequence_text",
]
