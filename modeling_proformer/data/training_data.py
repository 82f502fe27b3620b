"""Tables to train on: what fits the construct, what is held out, the scale of the labels, and what each table held."""

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..tokenization import InvalidSequenceError, ProformerTokenizer
from .splits import hold_out_groups
from .tables import InputError, content_digest, first_line, load_assay


if TYPE_CHECKING:
    import datasets
    import torch


RECORD = "training.json"


class TrainingTable(NamedTuple):
    """A table as it was when it was trained on: rows, those left out as too long, and a digest of the content."""

    source: str
    times: int
    rows: int
    left_out: int
    digest: str


class TrainingData(NamedTuple):
    """
    Rows of both sides, and the training rows' scale: mean and standard deviation of each output, mean weight. Of a
    validation table, how many rows have a sequence that the training tables have too; it is not counted of a stream.
    """

    train: "datasets.Dataset | torch.utils.data.IterableDataset"
    held_out: "datasets.Dataset"
    label_mean: list[float]
    label_std: list[float]
    mean_weight: float
    tables: list[TrainingTable]
    seen_in_training: int = 0


def load_training_data(
    sources: Sequence[str],
    tokenizer: ProformerTokenizer,
    sequence_column: str = "sequence",
    label_columns: Sequence[str] = ("expression",),
    weight_column: str | None = None,
    group_column: str | None = None,
    validation_source: str | None = None,
    validation_fraction: float = 0.05,
    max_validation_rows: int | None = None,
    seed: int = 0,
) -> TrainingData:
    """
    Reads tables to train on and holds a part of each out.

    Args:
        sources: files or Hub datasets, see `load_assay`; one that is listed twice counts twice.
        tokenizer: of the construct, which longer inserts are left out of.
        sequence_column, label_columns, weight_column, group_column: see `load_assay`.
        validation_source: table to hold out instead, whole and in its order.
        validation_fraction: share of each table's rows to hold out, whole groups where there is a group column.
        max_validation_rows: hold out at most so many, chosen at random; the others are not trained on either.
        seed: of what is held out.

    Raises:
        InputError: see `load_assay`, `rows_that_fit`, `hold_out_groups` and `label_scale`.
    """
    import datasets

    tables, train_parts, held_out_parts, train_values = [], [], [], []
    for source, times in Counter(sources).items():
        assay = load_assay(
            source, sequence_column, label_columns, group_column=group_column, weight_column=weight_column
        )
        rows = rows_that_fit(source, assay[sequence_column], tokenizer)
        tables.append(TrainingTable(source, times, len(assay), len(assay) - len(rows), content_digest(assay)))
        if validation_source is None:
            groups = assay.data.column(group_column).take(rows) if group_column else np.arange(len(rows))
            try:
                split = hold_out_groups(groups, validation_fraction, seed=seed)
            except ValueError as error:
                raise InputError(f"{source}: {error}") from error
            held_out_parts.append(assay.select(rows[split.held_out]))
            rows = rows[split.train]
        train_parts += [assay.select(rows)] * times
        # From the table itself: the datasets library would gather the rows of a selection one by one.
        columns = [*label_columns, *([weight_column] if weight_column else [])]
        train_values += [np.stack([assay.data.column(column).to_numpy()[rows] for column in columns])] * times
    values = np.concatenate(train_values, axis=1)
    label_mean, label_std = label_scale(label_columns, values[: len(label_columns)])
    mean_weight = float(values[-1].mean()) if weight_column else 1.0
    if mean_weight == 0:
        raise InputError(f"In the training rows, all weights of the column {weight_column!r} are 0.")
    train = datasets.concatenate_datasets(train_parts)
    seen = 0
    if validation_source is None:
        held_out = sample_held_out(
            datasets.concatenate_datasets(held_out_parts), label_columns, max_validation_rows, seed
        )
    else:
        held_out, table = load_validation_data(
            validation_source, tokenizer, sequence_column, label_columns, max_validation_rows, seed
        )
        tables.append(table)
        # Rows that do not fit are searched as well, but no validation row is as long as they are.
        seen = count_present(held_out[sequence_column][:], train.data.column(sequence_column))
    return TrainingData(train, held_out, label_mean, label_std, mean_weight, tables, seen)


def load_validation_data(
    source: str,
    tokenizer: ProformerTokenizer,
    sequence_column: str = "sequence",
    label_columns: Sequence[str] = ("expression",),
    max_validation_rows: int | None = None,
    seed: int = 0,
) -> tuple["datasets.Dataset", TrainingTable]:
    """
    A table to evaluate on, in its order, and what it held; of a Hub dataset, the split `validation`. The arguments and
    errors are those of `load_training_data`.
    """
    assay = load_assay(source, sequence_column, label_columns, split="validation")
    rows = rows_that_fit(source, assay[sequence_column], tokenizer)
    table = TrainingTable(source, 1, len(assay), len(assay) - len(rows), content_digest(assay))
    return sample_held_out(assay.select(rows), label_columns, max_validation_rows, seed), table


def sample_held_out(
    held_out: "datasets.Dataset", label_columns: Sequence[str], max_validation_rows: int | None, seed: int
) -> "datasets.Dataset":
    if max_validation_rows is not None and len(held_out) > max_validation_rows:
        chosen = np.random.default_rng(seed).choice(len(held_out), max_validation_rows, replace=False)
        held_out = held_out.select(np.sort(chosen))
    for column in label_columns:
        require_variation("the held-out rows", column, np.array(held_out[column][:], dtype=np.float64))
    return held_out


def count_present(sequences: Sequence[str], table_column: pa.ChunkedArray) -> int:
    """How many of the sequences a column of a table has too, letter by letter; the column is not copied."""
    sequences = pa.array(sequences, type=table_column.type)
    present = table_column.filter(pc.is_in(table_column, value_set=sequences))
    return pc.sum(pc.is_in(sequences, value_set=present)).as_py()


def rows_that_fit(
    name: str, sequences: Sequence[str], tokenizer: ProformerTokenizer, batch_size: int = 8192
) -> np.ndarray:
    """
    Numbers of the rows whose inserts fit the construct, counted from 0. Longer ones are left out, as published (1,690
    of the challenge's 6,739,258).

    Raises:
        InputError: a sequence cannot be read, which found here does not stop a training hours later; or none fits.
    """
    lengths = [np.empty(0, dtype=np.int64)]
    for first in range(0, len(sequences), batch_size):
        try:
            lengths.append(tokenizer.insert_lengths(sequences[first : first + batch_size]))
        except InvalidSequenceError as error:
            raise InputError(f"{name}, row {first + error.row + 1}: {error.reason}") from error
    fitting = np.flatnonzero(np.concatenate(lengths) <= tokenizer.insert_width)
    if len(fitting) == 0:
        raise InputError(nothing_fits(name, tokenizer))
    return fitting


def nothing_fits(name: str, tokenizer: ProformerTokenizer) -> str:
    return (
        f"{name}: no insert fits the construct's {tokenizer.insert_width} letters. Are there flanks to trim "
        "(five_prime_flank, three_prime_flank), or is insert_width too small?"
    )


def label_scale(names: Sequence[str], measured: Sequence[np.ndarray]) -> tuple[list[float], list[float]]:
    """
    Mean and population standard deviation of each output, for `ProformerConfig.label_mean` and `label_std`.

    Args:
        names: of the outputs.
        measured: (rows,) of the training rows alone, NaN where missing, for each output.

    Raises:
        InputError: an output has no values, or is constant.
    """
    for name, values in zip(names, measured, strict=True):
        require_variation("the training rows", name, values)
    return [float(np.nanmean(values)) for values in measured], [float(np.nanstd(values)) for values in measured]


def require_variation(rows: str, column: str, values: np.ndarray):
    """
    Raises:
        InputError: a column has no values, or is constant, if only in float32, in which models are trained: there is
            nothing to learn, and no correlation.
    """
    if not varies(values):
        raise InputError(f"In {rows}, the column {column!r} has no two different values.")


def varies(values: np.ndarray) -> bool:
    return not np.isnan(values).all() and np.float32(np.nanmin(values)) != np.float32(np.nanmax(values))


def record_training(folder: str | os.PathLike, tables: Sequence[TrainingTable], settings: Mapping[str, Any]):
    """
    Writes down what is trained on and how, for `check_training` and for whoever finds the folder.

    Args:
        folder: of the run.
        tables: that are trained and evaluated on.
        settings: what else must stay the same, as JSON.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    record = {"tables": [table._asdict() for table in tables], "settings": dict(settings)}
    (Path(folder) / RECORD).write_text(json.dumps(record, indent=1) + "\n")


def check_training(folder: str | os.PathLike, tables: Sequence[TrainingTable], settings: Mapping[str, Any]):
    """
    Compares tables and settings with those that the training in `folder` began with.

    Raises:
        InputError: a table differs in content, order or number, or a setting does; going on would mix two trainings.
    """
    path = Path(folder) / RECORD
    try:
        record = json.loads(path.read_text())
        before = [TrainingTable(**table) for table in record["tables"]]
        settings_before = record["settings"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} should say what the training in this folder began with, but cannot be read "
            f"({first_line(error)}). Train in another folder."
        ) from error
    for number in range(max(len(before), len(tables))):
        then, now = before[number : number + 1], list(tables[number : number + 1])
        # A file may have been moved.
        if [table._replace(source="") for table in then] != [table._replace(source="") for table in now]:
            found = f"{now[0].source} has changed since, or was no part of it" if now else f"{then[0].source} is gone"
            raise InputError(
                f"{folder} holds a training on other tables: {found}. Give the tables as they were, or train in "
                "another folder."
            )
    for name, value in json.loads(json.dumps(dict(settings))).items():
        if value != settings_before.get(name):
            raise InputError(
                f"{folder} holds a training with {name} {settings_before.get(name)!r}, not {value!r}. Leave it as it "
                "was, or train in another folder."
            )


__all__ = [
    "TrainingData",
    "TrainingTable",
    "check_training",
    "label_scale",
    "load_training_data",
    "load_validation_data",
    "record_training",
    "rows_that_fit",
]
