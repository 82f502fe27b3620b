"""Where tables come from: files, data frames, datasets and the Hub; each becomes one checked `datasets.Dataset`."""

import hashlib
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa

from ..version import __version__
from .checking import check_rows, check_table, checked_schema, refuse_bad_rows
from .config import DataConfig
from .tables import (
    COLUMNAR_KINDS,
    READ_ROWS,
    InputError,
    first_line,
    is_stream,
    is_table,
    kind_of_file,
    read_rows,
    readable,
    record_batches,
    require_columns,
)


if TYPE_CHECKING:
    import datasets
    import pandas as pd

    #: What a table may be given as.
    Data: TypeAlias = str | os.PathLike | pd.DataFrame | pa.Table | datasets.Dataset


# Checked tables of larger files are kept on disk and memory-mapped.
MAX_BYTES_IN_MEMORY = 64 * 2**20


class SourceTable(NamedTuple):
    """
    A table as it was when it was trained on.

    Attributes:
        name: file, Hub dataset, or kind of object.
        times: how often it was given; each time its training rows count once more.
        rows: number of rows; 0 if they are streamed, and so not counted.
        left_out: number of these that are not used, because they have no measurement, are too long, have weight 0, or
            are merged with an earlier row of the same insert.
        digest: of the rows' content; of a stream, see `streams.version_of`.
    """

    name: str
    times: int
    rows: int
    left_out: int
    digest: str


def load_table(data: "Data", config: DataConfig, split: str = "train") -> "datasets.Dataset":
    """
    Return the checked rows of a table, see `checked_schema`. Those to skip have no measurement.

    Files of more than 64 MiB, also after unpacking, and Hub datasets are memory-mapped: their checked copy is kept in
    the cache of the datasets library, and found there the next time.

    Args:
        data: a table file (TSV, CSV, Excel, Parquet, Arrow), a `pandas.DataFrame`, a `pyarrow.Table`, a
            `datasets.Dataset`, or the name of a dataset on the Hub (`"owner/name"` or `"owner/name:configuration"`, or
            a folder with such a dataset's files).
        config: names the columns.
        split: of a Hub dataset.

    Raises:
        ImportError: the datasets library is missing.
        InputError: the table cannot be read or has no rows, or rows are refused, see `refuse_bad_rows`.
        TypeError: `data` is something else.
    """
    table = _check_data(data, config, split)
    refuse_bad_rows(name_of(data), table.data, config)
    return table


def _check_data(data: "Data", config: DataConfig, split: str) -> "datasets.Dataset":
    """Return what `load_table` does, also where rows have errors."""
    name = name_of(data)
    if isinstance(data, str | os.PathLike):
        if is_hub_dataset(data):
            return _load_hub_dataset(str(data), config, split)
        if os.path.exists(data) and os.path.getsize(data) > MAX_BYTES_IN_MEMORY:
            return as_dataset(_checked_copy(Path(data), config))
        parts: list[pa.Table] = []
        for part in read_checked(Path(data), config):
            parts.append(part)
            # A small compressed file may hold a large table.
            if sum(each.nbytes for each in parts) > MAX_BYTES_IN_MEMORY and not is_stream(data):
                return as_dataset(_checked_copy(Path(data), config))
    elif isinstance(data, pa.Table):
        parts = [check_table(name, data, config)]
    elif isinstance(data, require_datasets().Dataset):
        require_columns(name, dict.fromkeys(data.column_names), config.columns)
        parts = [*_checked_batches(name, data.select_columns(config.columns).with_format("arrow"), config)]
    elif _is_data_frame(data):
        parts = [check_table(name, _arrow_of(name, data, config), config)]
    else:
        raise TypeError(
            f"Expected a file, a pandas.DataFrame, a datasets.Dataset or the name of a Hub dataset, got {name}."
        )
    table = pa.concat_tables([checked_schema(config).empty_table(), *parts])
    return as_dataset(table.combine_chunks())


def as_dataset(table: pa.Table | Path) -> "datasets.Dataset":
    """Return a dataset with the rows of a table, or with those of an Arrow file, which is memory-mapped."""
    datasets = require_datasets()
    kinds = datasets.table
    rows = kinds.InMemoryTable(table) if isinstance(table, pa.Table) else kinds.MemoryMappedTable.from_file(str(table))
    # By default, the library would read all the rows to name a cache that is not used.
    return datasets.Dataset(rows, fingerprint=datasets.fingerprint.generate_random_fingerprint())


def require_datasets():
    """
    Return the datasets library.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import datasets
    except ImportError as error:
        raise ImportError(
            "Tables for training need the datasets library: pip install 'modeling-proformer[train]'"
        ) from error
    return datasets


def name_of(data: Any) -> str:
    """Return the name of a table in messages: its path, or the kind of object it is."""
    if isinstance(data, str | os.PathLike):
        return os.fspath(data)
    return f"the {type(data).__name__}"


def is_hub_dataset(source: str | os.PathLike) -> bool:
    """Return whether a name is that of a Hub dataset, or of a folder of the same shape, rather than of a file."""
    return not (is_table(source) or os.path.isfile(source) or is_stream(source))


def _is_data_frame(data: Any) -> bool:
    """Tell a DataFrame without importing pandas, which need not be installed."""
    return type(data).__name__ == "DataFrame" and hasattr(data, "iloc")


def _arrow_of(name: str, frame: "pd.DataFrame", config: DataConfig) -> pa.Table:
    columns = [str(column) for column in frame.columns]
    require_columns(name, dict.fromkeys(columns), config.columns)
    if repeated := [column for column in config.columns if columns.count(column) > 1]:
        raise InputError(f"{name}: the column {repeated[0]!r} occurs more than once; rename one of them.")
    frame = frame.rename(columns=str)[config.columns]
    try:
        return pa.Table.from_pandas(frame, preserve_index=False)
    except pa.ArrowException:
        # A column has mixed types: as text, each cell is checked on its own.
        return pa.table({column: [None if cell is None else str(cell) for cell in frame[column]] for column in frame})


def read_checked(path: Path, config: DataConfig) -> Iterator[pa.Table]:
    """
    Yield the checked rows of a file, some at a time.

    Raises:
        InputError: see `read_rows` and `check_rows`.
    """
    if kind_of_file(path) not in COLUMNAR_KINDS:
        rows = read_rows(path)
        while batch := list(islice(rows, READ_ROWS)):
            yield check_rows(str(path), batch, config)
        return
    with readable(path):
        batches = (pa.Table.from_batches([batch]) for batch in record_batches(path, config.columns))
        empty = True
        for table in _number_batches(str(path), batches, config):
            empty = False
            yield table
    if empty:
        raise InputError(f"{path}: the file has no rows.")


def _number_batches(name: str, batches: Iterable[pa.Table], config: DataConfig) -> Iterator[pa.Table]:
    first_row = 0
    for table in batches:
        yield check_table(name, table, config, first_row)
        first_row += len(table)


def _checked_batches(name: str, dataset: "datasets.Dataset", config: DataConfig) -> Iterator[pa.Table]:
    yield from _number_batches(name, dataset.iter(batch_size=READ_ROWS), config)


def _checked_copy(path: Path, config: DataConfig) -> Path:
    """Return an Arrow file with the checked rows of a table, in the cache of the datasets library."""
    datasets = require_datasets()
    kind_of_file(path)
    status = path.stat()
    schema = checked_schema(config)
    # An edited file, other columns, and another version of the checks have another copy.
    kind = (config.columns, config.bins, config.classes, config.rna, schema.names)
    key = repr((__version__, path.resolve(), status.st_mtime_ns, status.st_size, *kind))
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "proformer"
    copy = folder / f"{hashlib.blake2b(key.encode(), digest_size=16).hexdigest()}.arrow"
    if not copy.exists():
        folder.mkdir(parents=True, exist_ok=True)
        # The copy gets its name only once it is whole: a run may be stopped, and another may be writing the same.
        unfinished = copy.with_suffix(f".{uuid.uuid4().hex}")
        try:
            with open(unfinished, "wb") as file, pa.ipc.new_stream(file, schema) as writer:
                for table in read_checked(path, config):
                    writer.write_table(table)
            unfinished.replace(copy)
        finally:
            unfinished.unlink(missing_ok=True)
    return copy


def _load_hub_dataset(source: str, config: DataConfig, split: str) -> "datasets.Dataset":
    datasets = require_datasets()
    name, _, configuration = source.partition(":")
    try:
        dataset = datasets.load_dataset(name, configuration or None, split=split)
    except (OSError, ValueError) as error:
        raise InputError(f"{source}: neither a table nor a dataset on the Hub: {first_line(error)}") from error
    require_columns(source, dict.fromkeys(dataset.column_names), config.columns)
    if len(dataset) == 0:
        raise InputError(f"{source}: its split {split!r} has no rows.")
    return map_checked(check_numbered, dataset, source, config, writer_batch_size=READ_ROWS, desc=f"checking {source}")


def map_checked(check: Callable[..., pa.Table], dataset: Any, source: str, config: DataConfig, **arguments) -> Any:
    """Return a dataset, or a stream of one, whose rows `check` checks; `arguments` are those of its `map`."""
    schema = checked_schema(config)
    return (
        dataset.select_columns(config.columns)
        .with_format("arrow")
        .map(
            check,
            with_indices=True,
            batched=True,
            batch_size=READ_ROWS,
            remove_columns=[name for name in config.columns if name not in schema.names],
            features=require_datasets().Features.from_arrow_schema(schema),
            fn_kwargs={"source": source, "config": config},
            **arguments,
        )
        .with_format(None)
    )


def check_numbered(table: pa.Table, numbers: Sequence[int], source: str, config: DataConfig) -> pa.Table:
    return check_table(source, table, config, first_row=numbers[0])


def content_digest(dataset: "datasets.Dataset") -> str:
    """
    Return a digest of a checked table's rows, in order; the places of the rows in a file do not count.

    Cutting the rows into batches differently makes no difference, nor do the bits of a missing number.
    """
    hashes: dict[str, list[Any]] = {}
    for table in dataset.with_format("arrow").iter(batch_size=READ_ROWS):
        for name, column in zip(table.column_names, table.columns, strict=True):
            if name in ("location", "error"):
                continue
            values, lengths = hashes.setdefault(name, [hashlib.blake2b(), hashlib.blake2b()])
            if pa.types.is_string(column.type):
                cells = column.to_pylist()
                lengths.update(np.array([*map(len, cells)], dtype=np.int32))
                values.update("".join(cells).encode())
            else:
                numbers = flat_numbers(column)
                values.update(np.where(np.isnan(numbers), np.nan, numbers))
    whole = hashlib.blake2b(digest_size=16)
    for name, parts in sorted(hashes.items()):
        whole.update(name.encode() + b"\0" + b"".join(part.digest() for part in parts))
    return whole.hexdigest()


def flat_numbers(column: pa.ChunkedArray) -> np.ndarray:
    """Return the numbers of a column of float64 or of lists of them, end to end."""
    parts = [chunk.flatten() if pa.types.is_fixed_size_list(chunk.type) else chunk for chunk in column.chunks]
    return np.concatenate([np.empty(0), *(part.to_numpy(zero_copy_only=False) for part in parts)])


__all__ = ["SourceTable", "content_digest", "is_hub_dataset", "load_table", "name_of"]
