"""An assay: one checked table with its tokenizer, its groups of related sequences and its split."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..tokenization import ProformerTokenizer
from .checking import SPLIT_NAMES, find_bad_rows
from .config import DataConfig, count_of
from .rows import quote_rows
from .sequences import Sequences
from .sources import SourceTable, as_dataset, content_digest, flat_numbers, load_table, name_of, require_datasets
from .splits import ThreeWaySplit, number_groups
from .tables import InputError


if TYPE_CHECKING:
    import datasets


# Fewer rows are too few to train and to test a model.
MIN_ROWS = 50

# Splits that rows are assigned to, in the order of `SPLIT_NAMES`.
UNASSIGNED = -1
TRAIN, VALIDATION, TEST = range(3)


@dataclass
class Assay:
    """
    What a model is trained on.

    Attributes:
        config: options that the assay was made with.
        sources: tables that it was made of.
        table: the rows, see `checking.checked_schema`; one for each insert where duplicates are merged.
        source_of: (rows,) number of the source of each row.
        labels: (rows, targets) of float64, NaN where missing; a class is its number.
        weights: (rows,), or None.
        inserts: the insert of each row.
        tokenizer: of the construct.
        groups: (rows,) number of each row's group: the table's own, or that of related sequences; -1 where unknown.
        split: numbers of the rows of each split. A table that was given twice has its training rows twice.
        test_homologs: number of test rows with a homolog in another split.
        binary: whether every measurement in the sources is 0 or 1.
        findings: what was found and done, in sentences.
    """

    config: DataConfig
    sources: list[SourceTable]
    table: "datasets.Dataset"
    source_of: np.ndarray
    labels: np.ndarray
    weights: np.ndarray | None
    inserts: Sequences
    tokenizer: ProformerTokenizer
    groups: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    split: ThreeWaySplit = field(default_factory=lambda: ThreeWaySplit(*np.empty((3, 0), dtype=np.int64)))
    test_homologs: int = 0
    binary: bool = False
    findings: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.table)

    @property
    def name(self) -> str:
        """Name of the table; of several, their names in a row."""
        return ", ".join(source.name for source in self.sources)

    @property
    def sequences(self) -> list[str]:
        """Sequence of each row, as the table has it."""
        return self.table["sequence"][:]

    def sequences_of(self, rows: np.ndarray) -> list[str]:
        """Return the sequences of some rows, as the table has them."""
        return self.table.select(rows)["sequence"][:]

    @property
    def locations(self) -> list[str]:
        """Location of each row in its source, such as "line 7"."""
        return self.table["location"][:]

    def location(self, row: int) -> str:
        """Return the source of a row and its location there, for an error."""
        return f"{self.sources[self.source_of[row]].name}, {self.table[int(row)]['location']}"

    def by_source(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the name of each source that has rows, and which rows these are, (rows,) of bool."""
        for number, source in enumerate(self.sources):
            rows = self.source_of == number
            if rows.any():
                yield source.name, rows

    @cached_property
    def measured(self) -> np.ndarray:
        """Measured values of what a model predicts, (rows, outputs) of float64, NaN where missing."""
        return self.measured_of(self.labels)

    def measured_of(self, labels: np.ndarray) -> np.ndarray:
        """Return the measured values of labels, (rows, outputs), see `measured_of`."""
        return measured_of(labels, self.config)

    def rows(self, numbers: np.ndarray) -> "datasets.Dataset":
        """Return rows as `ProformerCollator` takes them: `sequence`, `labels` and, if there are any, `weight`."""
        names = ["sequence", "labels", *(["weight"] if self.weights is not None else [])]
        return self.table.select(numbers).select_columns(names)

    def take(self, numbers: np.ndarray) -> "Assay":
        """Return the assay with some of its rows, before they are grouped and split."""
        if len(numbers) == len(self):
            return self
        return replace(
            self,
            table=self.table.select(numbers),
            source_of=self.source_of[numbers],
            labels=self.labels[numbers],
            weights=None if self.weights is None else self.weights[numbers],
            inserts=self.inserts.take(numbers),
        )


def load_assay(
    data: Any, config: DataConfig, validation_data: Any, load: "Callable[[Any, DataConfig], datasets.Dataset]"
) -> tuple[Assay, np.ndarray]:
    """
    Return all rows, with their constructs instead of inserts, and the split each is assigned to, (rows,). `load` loads
    each table of `data`.
    """
    datasets = require_datasets()
    if config.split and validation_data is not None:
        raise ValueError(f"The column {config.split!r} assigns the splits; leave out `split` or `validation_data`.")
    given = list(data) if isinstance(data, list | tuple) else [data]
    distinct = [each for number, each in enumerate(given) if not any(_is_same(each, one) for one in given[:number])]
    times = [sum(_is_same(each, one) for one in given) for each in distinct]
    tables = [load(each, config) for each in distinct]
    if validation_data is not None:
        distinct, times = [*distinct, validation_data], [*times, 1]
        tables.append(load_table(validation_data, config, split="validation"))
    sources = [
        SourceTable(name_of(each), count, len(table), 0, content_digest(table))
        for each, count, table in zip(distinct, times, tables, strict=True)
    ]
    table = datasets.concatenate_datasets(tables) if len(tables) > 1 else tables[0]
    source_of = np.repeat(np.arange(len(tables), dtype=np.int32), [len(each) for each in tables])
    weights = flat_numbers(table.data.column("weight")) if "weight" in table.column_names else None
    assigned = np.full(len(table), UNASSIGNED, dtype=np.int8)
    if config.split:
        names = pc.index_in(table.data.column("split"), value_set=pa.array(list(SPLIT_NAMES)))
        assigned = names.fill_null(UNASSIGNED).to_numpy().astype(np.int8)
    elif validation_data is not None:
        assigned = np.where(source_of == len(tables) - 1, VALIDATION, TRAIN).astype(np.int8)
    assay = Assay(
        config=config,
        sources=sources,
        table=table,
        source_of=source_of,
        labels=flat_numbers(table.data.column("labels")).reshape(-1, len(config.measured_columns)),
        weights=weights,
        inserts=Sequences(*np.zeros((3, len(table)), dtype=np.uint8)),
        tokenizer=ProformerTokenizer(),
    )
    measured = np.flatnonzero(~np.isnan(assay.labels).all(axis=1))
    what = f"a class of {config.targets[0]}" if config.classes else f"measurements of {', '.join(config.outputs)}"
    assay.findings.append(f"{len(measured):,} rows have {what}.")
    skipped = 0
    for source, rows in zip(sources, tables, strict=True):
        found, count = find_bad_rows(rows.data)
        skipped += count
        if count:
            # Without the folder, because findings are published with the card.
            of_table = f" of {os.path.basename(source.name)}" if len(sources) > 1 else ""
            quoted = quote_rows(found, count)
            assay.findings.append(f"{count:,} of {len(rows):,} rows{of_table} are left out: {quoted}")
    if len(measured) + skipped < len(assay):
        missing = len(assay) - len(measured) - skipped
        assay.findings.append(f"Rows without a measurement: {missing:,}; they are left out.")
    if len(measured) < len(assay):
        assay, assigned = assay.take(measured), assigned[measured]
    if config.iupac_as_n:
        ambiguous = pc.sum(table.data.column("ambiguous")).as_py() or 0
        assay.findings.append(f"Rows with IUPAC codes: {ambiguous:,}; the codes are read as N.")
    require_rows(assay)
    if config.standard_error:
        assay.weights = precision_weights(assay.name, config.standard_error, assay.weights)
        assay.table = with_columns(assay.table, weight=pa.array(assay.weights))
    for name, rows in assay.by_source() if config.weight else ():
        if not assay.weights[rows].any():
            raise InputError(f"{name}, column {config.weight!r}: every weight is 0, so no row counts.")
    assay.binary = not (config.rna or config.classes) and bool(
        (np.isin(assay.labels, (0, 1)) | np.isnan(assay.labels)).all()
    )
    assay.inserts = Sequences.encode(assay.table["sequence"])
    return assay, assigned


def _is_same(one: Any, other: Any) -> bool:
    if isinstance(one, str | os.PathLike) and isinstance(other, str | os.PathLike):
        return os.path.abspath(one) == os.path.abspath(other)
    return one is other


def with_columns(table: "datasets.Dataset", **columns: pa.Array) -> "datasets.Dataset":
    """Return a dataset with other contents of some of its columns."""
    arrow = table.with_format("arrow")[:]
    for name, values in columns.items():
        arrow = arrow.set_column(arrow.schema.get_field_index(name), arrow.schema.field(name), values)
    return as_dataset(arrow)


def number_names(assay: Assay, column: str) -> np.ndarray:
    """Return the number of each row's name in a column of text, (rows,)."""
    return number_groups(assay.table.select_columns([column]).with_format("arrow")[:][column]).astype(np.int64)


def rows_of_inserts(assay: Assay, assigned: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    Return the first row of each insert, (inserts,), and the number of each row's insert among these, (rows,).

    Rows of an insert in different splits (`assigned`) or groups count as those of different inserts.
    """
    inserts = assay.inserts.numbers
    keys = np.stack(
        [inserts, assigned, number_names(assay, "group") if assay.config.group else np.zeros_like(inserts)]
    )
    _, kept, members = np.unique(keys, axis=1, return_index=True, return_inverse=True)
    order = np.argsort(kept)
    return kept[order], np.argsort(order)[members.ravel()]


def require_rows(assay: Assay):
    if len(assay) < MIN_ROWS:
        raise InputError(
            f"{assay.name}: {count_of(len(assay), 'row')} with measurements {'is' if len(assay) == 1 else 'are'} too "
            f"few to train and test a model; at least {MIN_ROWS} are needed, and some hundreds for a useful one."
        )


def measured_of(labels: np.ndarray, config: DataConfig) -> np.ndarray:
    """
    Return the measured values of labels, (rows, outputs): the labels themselves, the mean bin of reads, or 1 for the
    class of a row and 0 for the others.
    """
    if config.classes:
        return np.where(np.isnan(labels), np.nan, labels == np.arange(len(config.classes)))
    if config.bins is None:
        return labels
    return (labels @ np.array(config.bins) / labels.sum(axis=1))[:, None]


def require_variation(rows: str, column: str, values: np.ndarray):
    """
    Check that there is something to learn: that a column has values, and is not constant in float32.

    Raises:
        InputError: the column is constant.
    """
    if not varies(values):
        raise InputError(f"{rows}: column {column!r} is constant, so there is nothing to learn from it.")


def varies(values: np.ndarray) -> bool:
    """Return whether a column has two different values in float32, in which models are trained."""
    return not np.isnan(values).all() and np.float32(np.nanmin(values)) != np.float32(np.nanmax(values))


def precision_weights(name: str, column: str, errors: np.ndarray) -> np.ndarray:
    """
    Return the weights 1 / (error² + median error²). A precise measurement counts at most twice as much as a usual one,
    because the error of measurement is not all that a model gets wrong.
    """
    usual = np.median(errors**2)
    if usual == 0:
        raise InputError(f"{name}, column {column!r}: half of the standard errors are 0; leave the column out.")
    return 1 / (errors**2 + usual)


__all__ = ["Assay", "load_assay", "measured_of", "require_variation", "varies"]
