"""Tables that are read again in each epoch instead of copied, because they do not fit the disk a second time."""

import os
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from ..tokenization import InvalidSequenceError, ProformerTokenizer
from .checking import checked_schema, refuse_bad_rows
from .config import DataConfig, count_of
from .sources import as_dataset, check_numbered, is_hub_dataset, map_checked, name_of, require_datasets
from .tables import COLUMNAR_KINDS, READ_ROWS, InputError, first_line, kind_of_file, require_columns
from .text import check_header


if TYPE_CHECKING:
    import datasets


# Rows at the beginning of a stream that stand for all of it, and rows among which it is shuffled.
BLOCK_ROWS = 65_536
# Files that are read at the same time, so that their rows mix.
MAX_OPEN_FILES = 8


class StreamedFile(NamedTuple):
    """A file of a table, with its name in errors and its checked rows."""

    name: str
    rows: "datasets.IterableDataset"

    def read(self) -> Iterator[pa.Table]:
        """
        Yield the rows, see `checked_schema`, some thousand at a time.

        Raises:
            InputError: the file is damaged or out of reach, or a row is refused.
        """
        try:
            yield from self.rows.with_format("arrow").iter(READ_ROWS)
        except InputError:
            raise
        except (pa.ArrowException, OSError, ValueError) as error:
            raise InputError(f"{self.name}: the rows cannot be read ({first_line(error)}).") from error


def stream_table(data: Any, config: DataConfig, tokenizer: ProformerTokenizer | None = None) -> list[StreamedFile]:
    """
    Return the files of a table, whose rows are checked when they are read.

    Args:
        data: Parquet, Arrow or Feather file, or name of a dataset on the Hub, of which the split "train" is read.
        config: names the columns.
        tokenizer: of the construct. With it, the files have only the rows that `prepare_assay` would train on.
            Without it, they have all rows with a measurement.

    Raises:
        ImportError: the datasets library is missing.
        InputError: the table cannot be opened.
        TypeError: `data` is not a name.
    """
    name = name_of(data)
    try:
        builder = _builder_of(data)
        if hasattr(builder.config, "batch_size"):
            # As a batch, Parquet reads a row group, and it reads many batches ahead.
            builder.config.batch_size = READ_ROWS
        stream = builder.as_streaming_dataset(split="train")
        columns = stream.column_names or list(next(iter(stream)))
    except InputError:
        raise
    except (OSError, ValueError, StopIteration) as error:
        raise InputError(f"{name}: neither a table nor a dataset on the Hub: {first_line(error)}") from error
    check_header(Path(name), columns)
    require_columns(name, columns, config.columns)
    check, count = partial(_check_fitting, tokenizer=tokenizer), stream.num_shards
    names = [name] if count == 1 else [f"{name}, file {number} of {count}" for number in range(1, count + 1)]
    return [
        StreamedFile(file, map_checked(check, stream.shard(count, number), file, config))
        for number, file in enumerate(names)
    ]


def _builder_of(data: Any) -> "datasets.DatasetBuilder":
    datasets = require_datasets()
    name = name_of(data)
    if not isinstance(data, str | os.PathLike):
        raise TypeError(f"A table that is streamed is a file or the name of a dataset on the Hub, not {name}.")
    if is_hub_dataset(name):
        repository, _, configuration = name.partition(":")
        return datasets.load_dataset_builder(repository, configuration or None)
    suffix = kind_of_file(Path(name))
    if suffix not in COLUMNAR_KINDS:
        raise InputError(
            f"{name}: a table that is streamed is a Parquet, Arrow or Feather file, or a dataset on the Hub."
        )
    kind = "parquet" if suffix == ".parquet" else "arrow"
    return datasets.load_dataset_builder(kind, data_files={"train": name})


def version_of(data: str | os.PathLike) -> str:
    """Return what tells this version of a stream's table from others without reading it."""
    if is_hub_dataset(data):
        # The hash is that of the commit; for a folder, the configuration's name holds one of its files' times.
        builder = _builder_of(data)
        return f"{builder.config_id} {builder.hash}"
    status = os.stat(data)
    return f"{status.st_size} bytes of {status.st_mtime_ns}"


def load_first_rows(data: Any, config: DataConfig) -> "datasets.Dataset":
    """
    Return the first 65,536 rows with a measurement of a table that is streamed; see `stream_table`.

    Raises:
        InputError: no row has a measurement.
    """
    parts, missing = [checked_schema(config).empty_table()], BLOCK_ROWS
    for table in _mix_files(stream_table(data, config)):
        parts.append(table.slice(0, missing))
        missing -= len(parts[-1])
        if not missing:
            break
    if missing == BLOCK_ROWS:
        columns = ", ".join(map(repr, config.targets))
        raise InputError(f"{name_of(data)}: no row has a measurement in the columns {columns}.")
    return as_dataset(pa.concat_tables(parts).combine_chunks())


def _check_fitting(
    table: pa.Table, numbers: Sequence[int], source: str, config: DataConfig, tokenizer: ProformerTokenizer | None
) -> pa.Table:
    """Check rows, and leave out those without a measurement, of weight 0, and too long for the construct."""
    checked = check_numbered(table, numbers, source, config)
    refuse_bad_rows(source, checked, config, is_part=True)
    checked = checked.filter(pc.not_equal(checked["sequence"], ""))
    if tokenizer is None:
        return checked
    if config.weight:
        checked = checked.filter(pc.greater(checked["weight"], 0))
    try:
        lengths = tokenizer.insert_lengths(checked["sequence"].to_pylist())
    except InvalidSequenceError as error:
        place = f"{source}, {checked['location'][error.row]}, column {config.sequence!r}"
        raise InputError(f"{place}: {error.reason}") from error
    longer = lengths > tokenizer.insert_width
    if config.too_long == "cut" or not longer.any():
        return checked
    if config.too_long == "refuse":
        row = int(longer.argmax())
        raise InputError(
            f"{source}, {checked['location'][row]}, column {config.sequence!r}: the insert has "
            f"{count_of(lengths[row], 'base')}, but the construct {tokenizer.insert_width:,}. Give a larger "
            '`insert_width`, or `too_long="leave_out"` or "cut".'
        )
    return checked.filter(pa.array(~longer))


def _mix_files(files: Sequence[StreamedFile]) -> Iterator[pa.Table]:
    """Yield the rows of several files in turn, some thousand at a time."""
    for first in range(0, len(files), MAX_OPEN_FILES):
        for tables in zip_longest(*(file.read() for file in files[first : first + MAX_OPEN_FILES])):
            yield from (table for table in tables if table is not None)


class EndlessStream(torch.utils.data.IterableDataset):
    """
    The rows of streams, epoch after epoch, each in its own order and with the number of its `epoch`.

    Files are read in an order of each epoch's own, up to 8 at the same time, and rows are shuffled among 65,536. Each
    loader worker reads all rows, but makes only the batches whose turn it is. So the batches depend on the seed alone,
    not on the number of workers. Because the stream has no end, no batch is incomplete, and the Trainer need not know
    how long an epoch is.

    The `shuffle`, shards and state of the datasets library would be less exact. The rows in the buffer are not part of
    the state, so that a resumed training would not see them. The order depends on the version of the library. And its
    workers take whole files: batches would depend on their number, and a worker without a file would have none.

    Args:
        files: see `stream_table`; a table that counts twice has its files twice.
        columns: those of the rows.
        batch_size: number of rows in a batch of the loader.
        seed: of the order.

    Raises:
        InputError: a row is refused, or no row fits the construct.
    """

    def __init__(self, files: Sequence[StreamedFile], columns: Sequence[str], batch_size: int, seed: int):
        self.files, self.columns, self.batch_size, self.seed = list(files), list(columns), batch_size, seed
        self.start = 0

    def skip_rows(self, count: int):
        """Begin after this many rows, where an interrupted training was."""
        self.start = count

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = torch.utils.data.get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        for epoch, first, block in self._blocks():
            batches = (np.arange(first, first + len(block)) - self.start) // self.batch_size
            turn = np.flatnonzero((batches >= 0) & (batches % workers == number))
            for row in block.take(turn).select(self.columns).to_pylist():
                yield {**row, "epoch": epoch}

    def _blocks(self) -> Iterator[tuple[int, int, pa.Table]]:
        """Yield the epoch, the number of rows before, and the next shuffled rows."""
        epoch = rows = 0
        while True:
            before = rows
            for block in self._shuffled_blocks(epoch):
                yield epoch, rows, block
                rows += len(block)
            length = rows - before
            if length == 0:
                raise InputError("No insert of the streamed tables fits the construct.")
            # The epochs that a resumed training has behind it are as long as this one, and need not be read.
            behind = max(0, self.start - rows) // length
            epoch, rows = epoch + 1 + behind, rows + behind * length

    def _shuffled_blocks(self, epoch: int) -> Iterator[pa.Table]:
        generator = np.random.default_rng((self.seed, epoch))
        parts: list[pa.Table] = []
        for table in _mix_files([self.files[number] for number in generator.permutation(len(self.files))]):
            parts.append(table)
            if sum(map(len, parts)) >= BLOCK_ROWS:
                yield _shuffle(parts, generator)
                parts = []
        if parts:
            yield _shuffle(parts, generator)


def _shuffle(parts: Sequence[pa.Table], generator: np.random.Generator) -> pa.Table:
    block = pa.concat_tables(parts).combine_chunks()
    return block.take(generator.permutation(len(block)))


__all__ = ["EndlessStream", "StreamedFile", "load_first_rows", "stream_table", "version_of"]
