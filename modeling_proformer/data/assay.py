"""A plain table of somebody's assay to what a model is fine-tuned on: checked, its construct found, split honestly."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from huggingface_hub.dataclasses import strict

from ..tokenization import InvalidSequenceError, ProformerTokenizer
from .constructs import construct_tokenizer, detect_construct, orientation_of
from .homology import homology_groups, near_twins
from .splits import ThreeWaySplit, hold_out_groups, split_groups
from .tables import InputError, Row, measured_value, no_weight, read_rows, require_columns, sequence_text, weight_value
from .training_data import require_variation


# Fewer held-out rows give neither a correlation nor an interval worth the name.
FEWEST_ROWS = 50
FEWEST_HELD_OUT = 5
# Attention over the k-mers of both strands takes memory with the square of their number.
MOST_LETTERS = 1000
# Beyond it, a training in float32 would only see infinity.
GREATEST = float(np.finfo(np.float32).max)

SIDES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}


@dataclass
class TableColumns:
    """
    Which columns of a table are what.

    Attributes:
        sequence: the sequences.
        targets: the measurements, one column for each output; with `bins`, the reads counted in each sorting bin.
        bins: the bins' centres in the assay's units, ascending and evenly spaced.
        weight: how much each row counts (replicates, reads), on any scale.
        standard_error: of the measurement, from which the weight follows.
        split: the side of each row: train, validation or test.
        group: the family of each row, none of which is divided between the sides.
    """

    sequence: str
    targets: Sequence[str]
    bins: Sequence[float] | None = None
    weight: str | None = None
    standard_error: str | None = None
    split: str | None = None
    group: str | None = None

    def __post_init__(self):
        if self.bins is not None:
            self.bins = [np.asarray(bin).item() for bin in self.bins]
        if not isinstance(self.targets, str):
            self.targets = [str(target) for target in self.targets]

    @property
    def outputs(self) -> list[str]:
        """Names of what the model predicts."""
        return self.targets if self.bins is None else ["mean_bin"]

    def named(self) -> list[str]:
        others = (self.weight, self.standard_error, self.split, self.group)
        return [self.sequence, *self.targets, *filter(None, others)]


@dataclass
class AssayTable:
    """
    The rows of a table that have a measurement, in their order.

    Attributes:
        source: the file.
        places: where in it each row is, such as "line 7".
        sequences: inserts or whole constructs, as the table has them.
        labels: (rows, columns) of float64, NaN where missing.
        weights: (rows,), if there are any.
        sides: the side of each row, if the table says.
        groups: the family of each row, if the table says.
        binary: whether all measurements are 0 or 1.
        unmeasured: how many rows were left out, because they have no measurement.
    """

    source: Path
    places: list[str]
    sequences: list[str]
    labels: np.ndarray
    weights: np.ndarray | None
    sides: list[str] | None
    groups: list[str] | None
    binary: bool
    unmeasured: int

    def __len__(self) -> int:
        return len(self.sequences)

    def take(self, rows: Sequence[int] | np.ndarray) -> "AssayTable":
        """Some of its rows."""
        rows = np.asarray(rows)
        listed = {name: getattr(self, name) for name in ("places", "sequences", "sides", "groups")}
        arrays = {name: getattr(self, name) for name in ("labels", "weights")}
        return AssayTable(
            source=self.source,
            binary=self.binary,
            unmeasured=self.unmeasured,
            **{name: None if values is None else [values[row] for row in rows] for name, values in listed.items()},
            **{name: None if values is None else values[rows] for name, values in arrays.items()},
        )


@strict
@dataclass
class Preparation:
    """
    What is made of a table. A construct that is not given is found out from the sequences.

    Attributes:
        insert_width: width that inserts are padded to.
        five_prime_flank: constant letters before every insert; "" for none.
        three_prime_flank: constant letters after every insert; "" for none.
        too_long: what to do with inserts longer than an `insert_width` that was given: "refuse", "leave_out" or "cut".
        strands: "both"; or "forward", for assays of RNA.
        duplicates: of different measurements of one insert: "refuse" them, or take their "average".
        split_by: where no column says it: "homology", so that no two sides share related sequences; or "random".
        validation_fraction: share of the rows by which the best step is chosen and intervals are calibrated.
        test_fraction: share of the rows that tell how good the model is.
        train_rows: train on so many rows, chosen at random, and as large a share of those for validation; to see what
            more of them bring. The test rows stay the same.
        seed: of the split.
    """

    insert_width: int | None = None
    five_prime_flank: str | None = None
    three_prime_flank: str | None = None
    too_long: Literal["refuse", "leave_out", "cut"] = "refuse"
    strands: Literal["both", "forward"] = "both"
    duplicates: Literal["refuse", "average"] = "refuse"
    split_by: Literal["homology", "random"] = "homology"
    validation_fraction: float | int = 0.15
    test_fraction: float | int = 0.15
    train_rows: int | None = None
    seed: int = 0


class PreparedAssay(NamedTuple):
    """
    What a model is fine-tuned on.

    Attributes:
        table: its rows, one for each insert.
        tokenizer: of the construct.
        families: (rows,) number of each row's family: the table's groups, or those of related sequences.
        split: the rows on each side.
        test_twins: how many test rows have a near twin on another side.
        findings: what was found and done, in sentences.
    """

    table: AssayTable
    tokenizer: ProformerTokenizer
    families: np.ndarray
    split: ThreeWaySplit
    test_twins: int
    findings: list[str]


def prepare_assay(
    path: str | os.PathLike, columns: TableColumns, options: Preparation, reference: ProformerTokenizer
) -> PreparedAssay:
    """
    Reads a table, finds its construct, and splits it.

    Args:
        path: TSV, CSV, Parquet or Arrow file.
        columns: of the table.
        options: what to make of it.
        reference: tokenizer of the checkpoint to start from: gives the k-mers, and the width where the construct is
            the same.

    Raises:
        InputError: see `read_table`, `fit_construct`, `merge_duplicates` and `split_table`; or an option would have no
            effect.
    """
    refuse_idle_options(Path(path), columns, options)
    table = read_table(path, columns)
    findings = [f"{len(table):,} rows with measurements of {', '.join(columns.outputs)}."]
    if table.unmeasured:
        findings.append(f"{table.unmeasured:,} rows without a measurement are left out.")
    if table.weights is not None and not table.weights.all():
        findings.append(f"{(table.weights == 0).sum():,} rows of weight 0 are left out.")
        table = table.take(np.flatnonzero(table.weights))
        require_rows(table.source, len(table))
    tokenizer, table, found = fit_construct(table, options, reference)
    require_rows(table.source, len(table))
    findings += found
    inserts = tokenizer.inserts(table.sequences)
    merged = merge_duplicates(table, inserts, columns, options.duplicates)
    require_rows(table.source, len(merged))
    if len(merged) < len(table):
        findings.append(f"{len(table) - len(merged):,} rows repeat an insert and are merged with its first.")
        inserts = tokenizer.inserts(merged.sequences)
    families, split = split_table(merged, inserts, options)
    if options.train_rows is not None:
        there = len(split.train)
        split = thinned(split, options.train_rows, options.seed)
        findings.append(f"{len(split.train):,} of {there:,} rows for training are used, chosen at random.")
    others = np.concatenate([split.train, split.validation])
    twins = near_twins([inserts[row] for row in split.test], [inserts[row] for row in others])
    findings += describe_split(merged, families, split, options, int(twins.sum()))
    return PreparedAssay(merged, tokenizer, families, split, int(twins.sum()), findings)


def refuse_idle_options(path: Path, columns: TableColumns, options: Preparation):
    if options.split_by == "random" and columns.group:
        raise InputError(f"{path}: the column {columns.group!r} splits the rows, not chance; leave out one of both.")
    if options.train_rows is not None and options.train_rows < FEWEST_HELD_OUT:
        raise InputError(f"{path}: train_rows is {options.train_rows}; {FEWEST_HELD_OUT} is the least.")
    if options.too_long != "refuse" and options.insert_width is None:
        raise InputError(f"{path}: too_long {options.too_long} is about an insert_width; give one.")


def fit_construct(
    table: AssayTable, options: Preparation, reference: ProformerTokenizer
) -> tuple[ProformerTokenizer, AssayTable, list[str]]:
    """
    The tokenizer of a table's construct, the rows that it takes, and what was found.

    Raises:
        InputError: a sequence cannot be read or is too long, or an option does not fit.
    """
    try:
        construct = detect_construct(table.sequences, options.five_prime_flank, options.three_prime_flank)
        make = partial(
            construct_tokenizer, construct, reference.kmer_size, reference.kmer_stride, strands=options.strands
        )
        lengths = make().insert_lengths(table.sequences)
        findings = construct.describe().splitlines()
        if options.insert_width is not None:
            refuse_giants(table, options.insert_width)
            kept, found = rows_within(table, lengths, options)
            return make(insert_width=options.insert_width), table.take(kept), findings + found
        width = width_of_all(table, lengths)
        refuse_giants(table, width)
        orientation = orientation_of(construct, reference)
        if orientation == "forward" and width <= reference.insert_width:
            width = reference.insert_width
            findings.append("This is the checkpoint's own construct.")
        if orientation == "reverse":
            findings.append("The flanks are those of the checkpoint's construct, read from its other end.")
        return make(insert_width=width), table, findings
    except InvalidSequenceError as error:
        raise InputError(f"{table.source}, {table.places[error.row]}: {error.reason}") from error
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{table.source}: {error}") from error


def rows_within(table: AssayTable, lengths: np.ndarray, options: Preparation) -> tuple[np.ndarray, list[str]]:
    """Rows that are kept under an insert width given by hand, and what is told of the others."""
    longer = lengths > options.insert_width
    if not longer.any():
        return np.arange(len(table)), []
    others = f"{longer.sum():,} rows have inserts longer than {options.insert_width} letters"
    if options.too_long == "refuse":
        row = int(longer.argmax())
        raise InputError(
            f"{table.source}, {table.places[row]}: the insert has {lengths[row]:,} letters; {others}. Make the "
            "insert_width larger, or decide what to do with them (too_long leave_out or cut)."
        )
    if options.too_long == "cut":
        return np.arange(len(table)), [f"{others}, whose ends are cut off."]
    return np.flatnonzero(~longer), [f"{others} and are left out."]


def refuse_giants(table: AssayTable, width: int):
    if width > MOST_LETTERS:
        raise InputError(
            f"{table.source}: inserts of {width:,} letters are more than the {MOST_LETTERS:,} that a model is made "
            "for. Give a smaller insert_width, and decide on longer inserts (too_long leave_out or cut)."
        )


def width_of_all(table: AssayTable, lengths: np.ndarray) -> int:
    """The longest insert's length, unless it is so far from the others that all would pay for it."""
    longest, usual = int(lengths.max()), int(np.quantile(lengths, 0.99, method="lower"))
    if longest > 2 * usual:
        raise InputError(
            f"{table.source}, {table.places[int(lengths.argmax())]}: the insert has {longest:,} letters, 99 % of all "
            f"have {usual:,} at most. Give an insert_width, and decide on longer ones (too_long leave_out or cut)."
        )
    return longest


def split_table(table: AssayTable, inserts: Sequence[str], options: Preparation) -> tuple[np.ndarray, ThreeWaySplit]:
    """
    The family of each row, (rows,), and the sides of the split.

    Raises:
        InputError: the rows cannot be split so, or a side has too few of them.
    """
    families = homology_groups(inserts) if table.groups is None else np.unique(table.groups, return_inverse=True)[1]
    try:
        if table.sides is not None:
            split = split_as_given(table.sides, families, options)
        else:
            groups = np.arange(len(table)) if options.split_by == "random" else families
            split = split_groups(groups, options.validation_fraction, options.test_fraction, options.seed)
    except ValueError as error:
        raise InputError(f"{table.source}: {error}") from error
    if table.groups is not None:
        refuse_divided_groups(table, split)
    for side, rows in split._asdict().items():
        measured = (~np.isnan(table.labels[rows])).sum(axis=0).min()
        if measured < FEWEST_HELD_OUT:
            raise InputError(
                f"{table.source}: {measured} rows are left for {side}, or have a measurement of one of the outputs; "
                f"{FEWEST_HELD_OUT} is the least."
            )
    return families, split


def refuse_divided_groups(table: AssayTable, split: ThreeWaySplit):
    first_of = {}
    for side, rows in split._asdict().items():
        for row in rows:
            there, other = first_of.setdefault(table.groups[row], (side, row))
            if there != side:
                raise InputError(
                    f"{table.source}: {table.places[other]} and {table.places[row]} are of the same group "
                    f"{table.groups[row]!r}, but the table puts one into {there} and the other into {side}."
                )


def split_as_given(sides: Sequence[str], families: np.ndarray, options: Preparation) -> ThreeWaySplit:
    """
    As a column says; where it names no rows for validation, whole families of the training rows, or random ones.

    Raises:
        ValueError: the families are too large, or nothing is left to be split at random.
    """
    train, validation, test = (np.flatnonzero(np.array(sides) == side) for side in SIDES)
    if len(validation) and options.split_by == "random":
        raise ValueError("the column of sides splits all rows, not chance; leave out one of both.")
    if len(validation) == 0 and len(train):
        groups = np.arange(len(train)) if options.split_by == "random" else families[train]
        held_out = hold_out_groups(groups, options.validation_fraction, options.seed)
        if len(held_out.held_out) < options.validation_fraction * len(train) / 2:
            raise ValueError(
                f"whole families of the training rows fill only {len(held_out.held_out):,} of the "
                f"{options.validation_fraction * len(train):,.0f} rows for validation. Say in the column of sides "
                "which rows are for it, or have them chosen at random (split random)."
            )
        train, validation = train[held_out.train], train[held_out.held_out]
    return ThreeWaySplit(train, validation, test)


def thinned(split: ThreeWaySplit, train_rows: int, seed: int) -> ThreeWaySplit:
    """The same split with so many training rows, if there are more, and as large a share of the validation rows."""
    share = min(1.0, train_rows / len(split.train))
    generator = np.random.default_rng(seed)

    def some(rows: np.ndarray) -> np.ndarray:
        count = max(FEWEST_HELD_OUT, round(share * len(rows)))
        return np.sort(generator.permutation(rows)[:count])

    return ThreeWaySplit(some(split.train), some(split.validation), split.test)


def describe_split(
    table: AssayTable, families: np.ndarray, split: ThreeWaySplit, options: Preparation, twins: int
) -> list[str]:
    if table.sides is not None:
        how = "as the table says"
    elif table.groups is not None:
        how = f"by the table's {families.max() + 1:,} groups"
    elif options.split_by == "homology":
        how = f"by homology, {families.max() + 1:,} families"
    else:
        how = "at random"
    sizes = ", ".join(f"{len(rows):,} rows for {side}" for side, rows in split._asdict().items())
    near = f"{twins:,} test rows ({twins / len(split.test):.0%}) have a near twin on another side"
    mostly = twins > len(split.test) / 2
    warning = ": the test says how well twins are predicted, not new sequences" if mostly else ""
    return [f"Split {how}: {sizes}.", f"{near}{warning}."]


def read_table(path: str | os.PathLike, columns: TableColumns) -> AssayTable:
    """
    Reads a TSV, CSV, Parquet or Arrow file.

    Raises:
        InputError: see `read_rows`; or the columns contradict each other or are missing, a cell is not a sequence, a
            number, a weight, a side or a group, reads are negative, or there are too few rows with measurements. Says
            in which row and column.
    """
    path = Path(path)
    check_columns(path, columns)
    kept, unmeasured = [], 0
    for row in read_rows(path):
        require_columns(path, row.cells, columns.named())
        labels = [label_of(path, row, target) for target in columns.targets]
        if columns.bins:
            labels = checked_reads(path, row, columns.targets, labels)
        if np.isnan(labels).all():
            unmeasured += 1
            continue
        side = None if columns.split is None else side_of(path, row, columns.split)
        group = None if columns.group is None else group_of(path, row, columns.group)
        sequence = sequence_text(path, row, columns.sequence)
        if not sequence.strip("Nn"):
            raise InputError(f"{path}, {row.place}, column {columns.sequence!r}: the sequence has no letter but N.")
        kept.append((row.place, sequence, labels, weight_of(path, row, columns), side, group))
    require_rows(path, len(kept))
    places, sequences, labels, weights, sides, groups = (list(column) for column in zip(*kept, strict=True))
    table = AssayTable(
        path,
        places,
        sequences,
        np.array(labels),
        weights=np.array(weights) if columns.weight or columns.standard_error else None,
        sides=sides if columns.split else None,
        groups=groups if columns.group else None,
        binary=bool((np.isin(labels, (0, 1)) | np.isnan(labels)).all()),
        unmeasured=unmeasured,
    )
    if columns.standard_error:
        table.weights = precision_weights(path, columns.standard_error, table.weights)
    if columns.weight and not table.weights.any():
        raise InputError(no_weight(str(path), columns.weight))
    for number, target in enumerate([] if columns.bins else columns.targets):
        require_variation(f"{path}", target, table.labels[:, number])
    return table


def require_rows(path: Path, rows: int):
    if rows < FEWEST_ROWS:
        raise InputError(
            f"{path}: {rows} rows with measurements are too few to train on and to test with; there should be "
            f"{FEWEST_ROWS} at the very least, and some hundreds for a model worth having."
        )


def check_columns(path: Path, columns: TableColumns):
    if isinstance(columns.targets, str):
        raise InputError(f"{path}: targets are a list, such as [{columns.targets!r}].")
    if len(set(columns.targets)) < len(columns.targets):
        raise InputError(f"{path}: a target is named twice among {', '.join(columns.targets)}.")
    if columns.weight and columns.standard_error:
        raise InputError(f"{path}: weights come from a weight column or a standard_error column, not from both.")
    if columns.bins is not None and len(columns.bins) != len(columns.targets):
        raise InputError(f"{path}: {len(columns.bins)} bins for {len(columns.targets)} columns of reads.")
    if columns.bins is not None and not (len(columns.bins) > 1 and np.isfinite(columns.bins).all()):
        raise InputError(f"{path}: bins are the centres, two or more finite numbers, not {columns.bins}.")


def weight_of(path: Path, row: Row, columns: TableColumns) -> float | None:
    if columns.standard_error is None:
        if columns.weight is None:
            return None
        return fit_for_float32(path, row, columns.weight, weight_value(path, row, columns.weight))
    error = measured_value(path, row, columns.standard_error, required=True)
    if error < 0:
        raise InputError(f"{path}, {row.place}, column {columns.standard_error!r}: the error {error:g} is below 0.")
    return error


def label_of(path: Path, row: Row, column: str) -> float:
    return fit_for_float32(path, row, column, measured_value(path, row, column))


def fit_for_float32(path: Path, row: Row, column: str, value: float) -> float:
    if abs(value) > GREATEST:
        raise InputError(f"{path}, {row.place}, column {column!r}: {value:g} is too large.")
    return value


def group_of(path: Path, row: Row, column: str) -> str:
    group = "" if row.cells[column] is None else str(row.cells[column]).strip()
    if not group:
        raise InputError(f"{path}, {row.place}, column {column!r}: the group is missing.")
    return group


def precision_weights(path: Path, column: str, errors: np.ndarray) -> np.ndarray:
    """
    Weights 1 / (error² + median error²): a precise measurement counts for more, but at most twice as much as a usual
    one, because what a model gets wrong is not the error of measurement alone.
    """
    usual = np.median(errors**2)
    if usual == 0:
        raise InputError(f"{path}, column {column!r}: half of the standard errors are 0; leave the column out.")
    return 1 / (errors**2 + usual)


def checked_reads(path: Path, row: Row, targets: Sequence[str], reads: list[float]) -> list[float]:
    """Reads in each bin, 0 where the cell is empty; NaN in all bins if there are none at all."""
    counted = np.nan_to_num(np.array(reads))
    if (counted < 0).any():
        column = targets[int((counted < 0).argmax())]
        raise InputError(f"{path}, {row.place}, column {column!r}: there cannot be {counted.min():g} reads.")
    return counted.tolist() if counted.any() else [float("nan")] * len(reads)


def side_of(path: Path, row: Row, column: str) -> str:
    written = str(row.cells[column]).strip()
    for side, names in SIDES.items():
        if written.lower() in names:
            return side
    raise InputError(
        f"{path}, {row.place}, column {column!r}: {written!r} is no side of a split; expected one of "
        f"{', '.join(names[0] for names in SIDES.values())}."
    )


def merge_duplicates(
    table: AssayTable, inserts: Sequence[str], columns: TableColumns, duplicates: Literal["refuse", "average"]
) -> AssayTable:
    """
    One row for each insert, in the place of its first. Reads of an insert add up, and so do weights. Where the table
    has sides or groups, rows of different ones stay apart.

    Args:
        table: with rows that may share an insert.
        inserts: of each row, without flanks.
        columns: of the table.
        duplicates: "average" takes the (weighted) mean of measurements of an insert; "refuse" does so only where they
            are equal.

    Raises:
        InputError: measurements of an insert differ, and are not to be averaged.
    """
    keys = list(zip(inserts, table.sides or inserts, table.groups or inserts, strict=True))
    first_row = {}
    firsts = np.array([first_row.setdefault(key, row) for row, key in enumerate(keys)])
    kept, members = np.unique(firsts, return_inverse=True)
    if duplicates == "refuse" and not columns.bins:
        refuse_conflicts(table, columns, np.unique(np.asarray(inserts), return_inverse=True)[1])
    if len(kept) == len(table):
        return table
    present = ~np.isnan(table.labels)
    weights = np.ones(len(table)) if table.weights is None else table.weights
    shares = present * (1 if columns.bins else weights[:, None])
    sums, mass = (np.zeros((len(kept), table.labels.shape[1])) for _ in range(2))
    np.add.at(sums, members, np.where(present, table.labels, 0) * shares)
    np.add.at(mass, members, shares)
    merged = table.take(kept)
    merged.labels = sums if columns.bins else np.divide(sums, mass, out=merged.labels, where=mass > 0)
    if table.weights is not None:
        merged.weights = np.bincount(members, weights)
    return merged


def refuse_conflicts(table: AssayTable, columns: TableColumns, members: np.ndarray):
    """Refuses different measurements of the same insert; `members` numbers the inserts, (rows,)."""
    lowest = np.full((members.max() + 1, table.labels.shape[1]), np.inf)
    np.fmin.at(lowest, members, table.labels)
    conflicts = np.argwhere(table.labels > lowest[members])
    if len(conflicts):
        row, column = conflicts[0]
        other = int(
            np.flatnonzero((members == members[row]) & (table.labels[:, column] < table.labels[row, column]))[0]
        )
        first, second = sorted((int(row), other))
        raise InputError(
            f"{table.source}: {table.places[first]} and {table.places[second]} have the same insert and different "
            f"measurements ({columns.targets[column]} {table.labels[first, column]:g} and "
            f"{table.labels[second, column]:g}). Such inserts in all: {len(np.unique(members[conflicts[:, 0]])):,}. "
            "Average them (duplicates average), or leave the wrong ones out."
        )


__all__ = ["AssayTable", "Preparation", "PreparedAssay", "TableColumns", "prepare_assay", "read_table"]
