"""Training rows that are read as they are needed, from the Hub or from a file of any size."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.utils.data import IterableDataset, get_worker_info

from ..tokenization import InvalidSequenceError, ProformerTokenizer
from .tables import (
    READ_ROWS,
    AssayColumns,
    InputError,
    Part,
    TableDigest,
    check_header,
    checked_batches,
    first_line,
    is_hub_dataset,
    kind_of_file,
    no_weight,
    read_assay_file,
    readable,
    require_columns,
    validated,
)
from .training_data import TrainingData, TrainingTable, load_validation_data, nothing_fits, require_variation


# Parts of a table that are read at the same time, so that rows from far apart meet in a block of the shuffle.
OPEN_SHARDS = 8
# Rows that are turned to Python objects at a time.
PYTHON_ROWS = 1024

# The checked rows of a part of a table, given how many of the table's rows come before it.
Reader = Callable[[int], Iterator[Part]]


class Moments(NamedTuple):
    """
    Of columns, missing values left out; every field is (columns,), `low` and `high` NaN where there are no values.
    Those of pieces merge without losing digits.
    """

    count: np.ndarray
    mean: np.ndarray
    squares: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> "Moments":
        """Of (rows, columns), NaN where missing."""
        count = (~np.isnan(values)).sum(axis=0)
        mean = np.nansum(values, axis=0) / np.maximum(count, 1)
        squares = np.nansum((values - mean) ** 2, axis=0)
        low = np.fmin.reduce(values, axis=0, initial=np.nan)
        return cls(count, mean, squares, low, np.fmax.reduce(values, axis=0, initial=np.nan))

    def merged(self, other: "Moments") -> "Moments":
        count = self.count + other.count
        apart, share = other.mean - self.mean, other.count / np.maximum(count, 1)
        return Moments(
            count,
            self.mean + apart * share,
            self.squares + other.squares + apart**2 * self.count * share,
            np.fmin(self.low, other.low),
            np.fmax(self.high, other.high),
        )

    def scale(self, columns: Sequence[str]) -> tuple[list[float], list[float]]:
        """
        Mean and population standard deviation of each column.

        Raises:
            InputError: a column has no values, or is constant.
        """
        for column, extremes in zip(columns, np.stack([self.low, self.high], axis=1), strict=True):
            require_variation("the training rows", column, extremes)
        return self.mean.tolist(), np.sqrt(self.squares / self.count).tolist()


class Shard(NamedTuple):
    """A part of a source that is read on its own."""

    source: str
    read: Callable[[], Iterator[Part]]
    # (rows,) of bool: whose inserts fit the construct.
    fits: np.ndarray

    def tables(self) -> Iterator[pa.Table]:
        """
        Its rows that fit, in their order.

        Raises:
            InputError: there are no longer as many rows as there were.
        """
        row = 0
        for part in self.read():
            fits = self.fits[row : row + len(part.table)]
            row += len(part.table)
            if row > len(self.fits):
                break
            yield part.table if fits.all() else part.table.filter(pa.array(fits))
        if row != len(self.fits):
            raise InputError(f"{self.source}: it has changed since the training read it first; start anew.")


class Cursor:
    """The next `remaining` of a shard's rows that fit, after the first `skipped`."""

    def __init__(self, shard: Shard, skipped: int, remaining: int):
        self.tables = shard.tables()
        self.table, self.drawn = None, 0
        self.skipped, self.remaining = skipped, remaining

    def draw(self, rows: int) -> list[pa.Table]:
        self.remaining -= rows
        self.read(self.skipped)
        self.skipped = 0
        return self.read(rows)

    def read(self, rows: int) -> list[pa.Table]:
        pieces = []
        while rows:
            if self.table is None or self.drawn == len(self.table):
                self.table, self.drawn = next(self.tables), 0
            pieces.append(self.table.slice(self.drawn, rows))
            self.drawn += len(pieces[-1])
            rows -= len(pieces[-1])
        return pieces


class AssayStream(IterableDataset):
    """
    Rows to train on, anew from their sources in each epoch; made by `stream_assay`. Shards are read in an order drawn
    for the epoch, a few at a time, and their rows shuffled block by block. The order is a matter of seed, epoch and
    number of loader workers alone, and with several workers, of the rows in a step.

    Each worker reads its own stretch of the shards, which is a whole number of steps, so that an epoch has one
    incomplete batch at most, and has it last, however many workers there are.

    Attributes:
        tables: what the first pass found in each of the sources.
        label_mean: of each label, over the rows that are given.
        label_std: of each label, over the rows that are given.
        mean_weight: of the rows that are given; 1 without a weight column.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        tables: Sequence[TrainingTable],
        label_scale: tuple[list[float], list[float]],
        mean_weight: float,
        filler: Mapping[str, Any],
        batch_size: int,
        processes: int,
        shuffle_buffer: int,
        seed: int,
    ):
        self.shards = list(shards)
        self.rows_of_shards = [int(shard.fits.sum()) for shard in self.shards]
        self.tables = list(tables)
        self.label_mean, self.label_std = label_scale
        self.mean_weight = mean_weight
        self.filler = dict(filler)
        self.rows_per_step = batch_size * processes
        self.processes = processes
        self.shuffle_buffer = shuffle_buffer
        self.seed = seed
        # Shared, because persistent workers keep the copy of this object that they began with.
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        """Rows of an epoch, fillers not counted."""
        return sum(self.rows_of_shards)

    def set_epoch(self, epoch: int):
        self.epoch.fill_(epoch)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        return self.rows_of_worker(worker.id, worker.num_workers) if worker else self.rows_of_worker(0, 1)

    def rows_of_worker(self, number: int, workers: int) -> Iterator[dict[str, Any]]:
        """Those of one of so many loader workers, counted from 0."""
        epoch = int(self.epoch)
        steps = math.ceil(len(self) / self.rows_per_step)
        first, last = (min(steps * n // workers * self.rows_per_step, len(self)) for n in (number, number + 1))
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.shards))
        generator = np.random.default_rng([self.seed, epoch, workers, number])
        for block in self.blocks(self.cursors(order, first, last), generator):
            shuffled = generator.permutation(len(block))
            for start in range(0, len(block), PYTHON_ROWS):
                rows = block.take(pa.array(shuffled[start : start + PYTHON_ROWS]))
                for cells in zip(*(column.to_pylist() for column in rows.columns), strict=True):
                    yield dict(zip(rows.column_names, cells, strict=True))
        if self.processes > 1 and number == workers - 1:
            for _ in range(-len(self) % self.rows_per_step):
                yield dict(self.filler)

    def cursors(self, order: Iterable[int], first: int, last: int) -> Iterator[Cursor]:
        """Over the shards in this order, from their `first` row to before their `last`."""
        start = 0
        for index in order:
            stop = start + self.rows_of_shards[index]
            if max(start, first) < min(stop, last):
                skipped = max(first - start, 0)
                yield Cursor(self.shards[index], skipped, min(stop, last) - start - skipped)
            start = stop

    def blocks(self, cursors: Iterator[Cursor], generator: np.random.Generator) -> Iterator[pa.Table]:
        """
        Of `shuffle_buffer` rows, the last of what is left. Those that are read at the same time give rows in
        proportion to what they have left, so that none is used up long before the others.
        """
        reading: list[Cursor] = []
        pieces, size = [], 0
        while reading := [*reading, *islice(cursors, OPEN_SHARDS - len(reading))]:
            left = [cursor.remaining for cursor in reading]
            wanted = min(self.shuffle_buffer - size, sum(left))
            for cursor, rows in zip(reading, generator.multivariate_hypergeometric(left, wanted), strict=True):
                pieces += cursor.draw(int(rows))
            size += wanted
            reading = [cursor for cursor in reading if cursor.remaining]
            if size == self.shuffle_buffer:
                yield pa.concat_tables(pieces).combine_chunks()
                pieces, size = [], 0
        if pieces:
            yield pa.concat_tables(pieces).combine_chunks()


def stream_assay(
    sources: str | Sequence[str],
    tokenizer: ProformerTokenizer,
    sequence_column: str = "sequence",
    label_columns: Sequence[str] = ("expression",),
    weight_column: str | None = None,
    split: str = "train",
    *,
    batch_size: int,
    processes: int = 1,
    shuffle_buffer: int = 65_536,
    seed: int = 0,
) -> AssayStream:
    """
    What `load_assay` and `rows_that_fit` give, without a copy on this machine. All of it is read once here, to check
    and count the rows and to fit the label scale, and once more in every epoch.

    Loader workers share the row groups of Parquet files, and the files of another dataset on the Hub; a local file of
    another kind each of them reads on its own. Rows shuffle less thoroughly than those of `load_assay`: only within
    blocks, each from 8 shards at a time. A table in one piece and sorted, say by expression, should be shuffled first.

    With several processes, `accelerator_config={"dispatch_batches": False}` lets each make its own part of every
    step's batch, from all of the rows (by default, the first makes all batches and sends them). The batches of all
    processes together are then those that one process would have with `processes` times the batch size. The last of an
    epoch is filled up with rows that have an insert of N, no measurements, and weight 0: they add nothing to any loss,
    where accelerate would take rows from the epoch's beginning a second time.

    Args:
        sources: files or Hub datasets, as for `load_assay`; one given twice counts twice.
        tokenizer: of the assay's construct.
        sequence_column: where the sequences are.
        label_columns: where the measurements are; missing ones become NaN.
        weight_column: where it is said how much each row counts.
        split: of a Hub dataset.
        batch_size: rows that a process takes at a time (`TrainingArguments.train_batch_size`).
        processes: that train together (`TrainingArguments.world_size`).
        shuffle_buffer: rows in a block that are shuffled together; each worker holds one.
        seed: of the shuffling.

    Raises:
        InputError: see `load_assay` and `rows_that_fit`; or a label is constant.
    """
    if min(batch_size, processes, shuffle_buffer) < 1:
        raise ValueError("`batch_size`, `processes` and `shuffle_buffer` must be at least 1.")
    columns = AssayColumns(sequence_column, tuple(label_columns), weight_column)
    counted = Counter([sources] if isinstance(sources, str) else sources)
    shards, tables = [], []
    moments = Moments.of(np.empty((0, len(columns.labels))))
    weights = 0.0
    for source, times in counted.items():
        survey = Survey(source, tokenizer, columns)
        for reader in readers_of(source, columns, split):
            survey.read(reader)
        tables.append(survey.table(times))
        for _ in range(times):
            shards += survey.shards
            moments = moments.merged(survey.moments)
            weights += survey.weights
    flanks = tokenizer.five_prime_flank or "", tokenizer.three_prime_flank or ""
    filler = {sequence_column: "N".join(flanks)} | dict.fromkeys(columns.labels, float("nan"))
    if weight_column:
        filler[weight_column] = 0.0
    rows = sum(int(shard.fits.sum()) for shard in shards)
    return AssayStream(
        shards,
        tables,
        moments.scale(columns.labels),
        weights / rows if weight_column else 1.0,
        filler,
        batch_size,
        processes,
        shuffle_buffer,
        seed,
    )


def stream_training_data(
    sources: Sequence[str],
    tokenizer: ProformerTokenizer,
    sequence_column: str = "sequence",
    label_columns: Sequence[str] = ("expression",),
    weight_column: str | None = None,
    validation_source: str | None = None,
    max_validation_rows: int | None = None,
    *,
    batch_size: int,
    processes: int = 1,
    seed: int = 0,
) -> TrainingData:
    """
    What `load_training_data` gives, with training rows from `stream_assay`; the arguments are theirs.

    Raises:
        InputError: see there; or there is no table to evaluate on: of a stream, nothing is held out.
    """
    if validation_source is None:
        raise InputError("Nothing is held out of tables that are streamed: name a table to evaluate on.")
    stream = stream_assay(
        sources,
        tokenizer,
        sequence_column,
        label_columns,
        weight_column,
        batch_size=batch_size,
        processes=processes,
        seed=seed,
    )
    held_out, table = load_validation_data(
        validation_source, tokenizer, sequence_column, label_columns, max_validation_rows, seed
    )
    return TrainingData(
        stream, held_out, stream.label_mean, stream.label_std, stream.mean_weight, [*stream.tables, table]
    )


class Survey:
    """The first pass over a source."""

    def __init__(self, source: str, tokenizer: ProformerTokenizer, columns: AssayColumns):
        self.source = source
        self.tokenizer = tokenizer
        self.columns = columns
        self.shards: list[Shard] = []
        self.rows = 0
        self.weights = 0.0
        self.moments = Moments.of(np.empty((0, len(columns.labels))))
        self.digest = TableDigest()

    def read(self, reader: Reader):
        read = partial(reader, self.rows)
        fits = [np.empty(0, dtype=bool)]
        for part in read():
            fits.append(self.which_fit(part))
            self.digest.update(part.table)
            table = part.table.filter(pa.array(fits[-1]))
            labels = np.stack([table[column].to_numpy() for column in self.columns.labels], axis=1)
            self.moments = self.moments.merged(Moments.of(labels))
            if self.columns.weight:
                self.weights += float(table[self.columns.weight].to_numpy().sum())
        self.shards.append(Shard(self.source, read, np.concatenate(fits)))
        self.rows += len(self.shards[-1].fits)

    def which_fit(self, part: Part) -> np.ndarray:
        try:
            lengths = self.tokenizer.insert_lengths(part.table[self.columns.sequence].to_pylist())
        except InvalidSequenceError as error:
            place = f"{part.place(error.row)}, column {self.columns.sequence!r}"
            raise InputError(f"{self.source}, {place}: {error.reason}") from error
        return lengths <= self.tokenizer.insert_width

    def table(self, times: int) -> TrainingTable:
        fitting = sum(int(shard.fits.sum()) for shard in self.shards)
        if self.rows == 0:
            raise InputError(f"{self.source}: there are no rows in it.")
        if fitting == 0:
            raise InputError(nothing_fits(self.source, self.tokenizer))
        if self.columns.weight and self.weights == 0:
            raise InputError(no_weight(self.source, self.columns.weight))
        return TrainingTable(self.source, times, self.rows, self.rows - fitting, self.digest.hexdigest())


def readers_of(source: str, columns: AssayColumns, split: str) -> list[Reader]:
    """Of the parts of a source, in their order."""
    if is_hub_dataset(source):
        stream = open_hub_stream(source, columns, split)
        return [partial(read_hub_shard, source, stream, index, columns) for index in range(stream.num_shards)]
    path = Path(source)
    if kind_of_file(path) != ".parquet":
        return [partial(read_file, path, columns)]
    with readable(path):
        metadata = pq.read_metadata(path)
        check_header(path, metadata.schema.to_arrow_schema().names, columns.schema.names)
    return [partial(read_row_group, path, metadata, group, columns) for group in range(metadata.num_row_groups)]


def open_hub_stream(source: str, columns: AssayColumns, split: str):
    """A `datasets.IterableDataset` of as many shards as its files allow."""
    import datasets
    from datasets.packaged_modules.parquet.parquet import Parquet

    name, _, configuration = source.partition(":")
    names = columns.schema.names
    try:
        builder = datasets.load_dataset_builder(name, configuration or None)
        stream = builder.as_streaming_dataset(split=split)
        if isinstance(builder, Parquet):
            require_columns(source, dict.fromkeys(stream.column_names), names)
            # Else all columns cross the network, and come to memory a row group at a time.
            only = {"columns": names, "batch_size": READ_ROWS}
            stream = datasets.load_dataset_builder(name, configuration or None, **only).as_streaming_dataset(split)
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"{source}: neither a table nor a dataset on the Hub: {first_line(error)}") from error
    # Row groups instead of files; before datasets 5, files it is.
    return stream.reshard() if hasattr(stream, "reshard") else stream


def read_hub_shard(source: str, stream, index: int, columns: AssayColumns, first_row: int) -> Iterator[Part]:
    shard = stream.shard(num_shards=stream.num_shards, index=index).with_format("arrow")
    yield from checked_batches(source, shard.iter(batch_size=READ_ROWS), columns, first_row)


def read_row_group(
    path: Path, metadata: pq.FileMetaData, group: int, columns: AssayColumns, first_row: int
) -> Iterator[Part]:
    with readable(path), pq.ParquetFile(path, metadata=metadata, memory_map=True) as file:
        batches = file.iter_batches(READ_ROWS, row_groups=[group], columns=columns.schema.names)
        yield from checked_batches(path, map(validated, batches), columns, first_row)


def read_file(path: Path, columns: AssayColumns, first_row: int) -> Iterator[Part]:
    """A file that has no parts: nothing comes before its first row."""
    yield from read_assay_file(path, columns)


__all__ = ["AssayStream", "stream_assay", "stream_training_data"]
