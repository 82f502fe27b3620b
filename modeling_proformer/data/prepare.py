"""A table to an assay: its construct is detected, duplicates are merged, and the rows are split."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ..tokenization import InvalidSequenceError, ProformerTokenizer
from .assay import (
    TEST,
    TRAIN,
    UNASSIGNED,
    VALIDATION,
    Assay,
    load_assay,
    number_names,
    require_rows,
    require_variation,
    rows_of_inserts,
    with_columns,
)
from .barcodes import combine_barcodes
from .config import DataConfig, count_of
from .constructs import construct_tokenizer, detect_construct, orientation_of
from .homology import find_homologs, homology_groups
from .sources import load_table
from .splits import ThreeWaySplit, sample_rows, split_groups
from .tables import InputError


if TYPE_CHECKING:
    import datasets


# Fewer held-out rows give neither a correlation nor an interval.
MIN_HELD_OUT = 5
# Attention over the k-mers of both strands takes memory with the square of their number.
MAX_INSERT_WIDTH = 1000
# More sequences do not change what is detected as the construct.
MAX_ROWS_FOR_CONSTRUCT = 1_000_000


def prepare_assay(
    data: Any,
    config: DataConfig,
    reference: ProformerTokenizer,
    *,
    validation_data: Any = None,
    seed: int = 0,
    load: "Callable[[Any, DataConfig], datasets.Dataset]" = load_table,
) -> Assay:
    """
    Read a table, detect its construct, and split its rows.

    Args:
        data: table, see `load_table`; or a list of tables. A table that is listed twice counts twice in training.
        config: what to make of the table.
        reference: tokenizer of the checkpoint to start from. It gives the k-mers, and the width where the construct is
            the same.
        validation_data: table of the validation rows; the rows of `data` are then all trained on.
        seed: of the split.
        load: loads each table of `data`; only its first rows, if it is streamed.

    Raises:
        ImportError: the datasets library is missing.
        InputError: a table or a row is refused, see `load_table`; the sequences do not fit the construct; duplicates
            differ; or the rows cannot be split as the configuration says.
    """
    assay, assigned = load_assay(data, config, validation_data, load)
    for number, target in enumerate([] if config.counts_reads or config.classes else config.targets):
        require_variation(assay.name, target, assay.labels[:, number])
    _require_every_class(assay, np.arange(len(assay)), "row")
    if assay.weights is not None and not assay.weights.all():
        counted = np.flatnonzero(assay.weights)
        assay.findings.append(f"Rows of weight 0: {len(assay) - len(counted):,}; they are left out.")
        assay, assigned = assay.take(counted), assigned[counted]
        require_rows(assay)
    assay, kept = _fit_construct(assay, reference)
    assigned = assigned[kept]
    require_rows(assay)
    if config.rna:
        assay, assigned = combine_barcodes(assay, assigned)
        require_rows(assay)
        require_variation(assay.name, config.outputs[0], assay.labels)
    elif config.duplicates != "keep":
        assay, assigned = _merge_duplicates(assay, assigned)
        require_rows(assay)
    assay.sources = [
        source._replace(left_out=source.rows - int((assay.source_of == number).sum()))
        for number, source in enumerate(assay.sources)
    ]
    if validation_data is not None and not (assigned == VALIDATION).any():
        raise InputError(
            f"{assay.sources[-1].name}: none of the rows that should validate the model is left: they have no "
            "measurement, their inserts are longer than `insert_width`, or their weights are 0."
        )
    _split(assay, assigned, seed)
    return assay


def _fit_construct(assay: Assay, reference: ProformerTokenizer) -> tuple[Assay, np.ndarray]:
    """
    Return the assay with its tokenizer and its inserts, and the numbers of the rows that fit.

    Raises:
        InputError: a sequence does not fit the construct or is too long, or an option does not suit the sequences.
    """
    config = assay.config
    rows = np.linspace(0, len(assay) - 1, min(len(assay), MAX_ROWS_FOR_CONSTRUCT)).astype(np.int64)
    try:
        construct = detect_construct(
            assay.inserts.take(rows), config.five_prime_flank, config.three_prime_flank, config.missing_flanks
        )
        make = partial(
            construct_tokenizer, construct, reference.kmer_size, reference.kmer_stride, strands=config.strands
        )
        inserts = assay.inserts.inserts(make())
    except InvalidSequenceError as error:
        raise InputError(f"{assay.location(error.row)}: {error.reason}") from error
    except ValueError as error:
        raise InputError(f"{assay.name}: {error}") from error
    assay.inserts = inserts
    assay.findings += construct.describe().splitlines()
    if len(rows) < len(assay):
        assay.findings.append(f"These lines are about {len(rows):,} of the {len(assay):,} sequences.")
    if config.insert_width is not None:
        kept = _rows_within(assay, config.insert_width)
        _require_possible_width(assay, config.insert_width)
        width = config.insert_width
    else:
        kept = np.arange(len(assay))
        width = _width_of_longest(assay)
        _require_possible_width(assay, width)
        orientation = orientation_of(construct, reference)
        if orientation == "forward" and width <= reference.insert_width:
            width = reference.insert_width
            assay.findings.append("This is the checkpoint's own construct.")
        if orientation == "reverse":
            assay.findings.append("The flanks are those of the checkpoint's construct, read from its other end.")
    try:
        assay.tokenizer = make(insert_width=width)
    except ValueError as error:
        raise InputError(f"{assay.name}: {error}") from error
    if assay.tokenizer.insert_width > width:
        assay.findings.append(
            f"Inserts are padded to {assay.tokenizer.insert_width:,} bases, a multiple of the stride of the k-mers."
        )
    return assay.take(kept), kept


def _rows_within(assay: Assay, width: int) -> np.ndarray:
    """Return the numbers of the rows that are kept under a given insert width."""
    lengths = assay.inserts.lengths
    longer = lengths > width
    if not longer.any():
        return np.arange(len(assay))
    others = f"Inserts longer than {count_of(width, 'base')}: {longer.sum():,}"
    if assay.config.too_long == "refuse":
        row = int(longer.argmax())
        raise InputError(
            f"{assay.location(row)}: the insert has {count_of(lengths[row], 'base')}. {others}. Give a larger "
            '`insert_width`, or `too_long="leave_out"` or "cut".'
        )
    if assay.config.too_long == "cut":
        assay.findings.append(f"{others}; their ends are cut off.")
        return np.arange(len(assay))
    for name, rows in assay.by_source():
        if longer[rows].all():
            raise InputError(
                f"{name}: no insert fits the construct's {count_of(width, 'base')}. Are there flanks to trim "
                "(`five_prime_flank`, `three_prime_flank`), or is `insert_width` too small?"
            )
    assay.findings.append(f"{others}; they are left out.")
    return np.flatnonzero(~longer)


def _require_possible_width(assay: Assay, width: int):
    if width > MAX_INSERT_WIDTH:
        raise InputError(
            f"{assay.name}: inserts of {width:,} bases are longer than the {MAX_INSERT_WIDTH:,} that a model is made "
            'for. Give a smaller `insert_width` and `too_long="leave_out"` or "cut".'
        )


def _width_of_longest(assay: Assay) -> int:
    """Return the length of the longest insert, unless it is so far from the others that all would pay for it."""
    lengths = assay.inserts.lengths
    longest, usual = int(lengths.max()), int(np.quantile(lengths, 0.99, method="lower"))
    if longest > 2 * usual:
        raise InputError(
            f"{assay.location(int(lengths.argmax()))}: the insert has {count_of(longest, 'base')}, but 99 % of all "
            f'have {usual:,} at most. Give an `insert_width`, and `too_long="leave_out"` or "cut" for longer inserts.'
        )
    return longest


def _merge_duplicates(assay: Assay, assigned: np.ndarray) -> tuple[Assay, np.ndarray]:
    """
    Return the assay with one row for each insert, at the location of the first; and the splits of these rows.

    The reads of an insert add up, and so do its weights; other measurements are averaged by weight. Rows in different
    splits or groups stay apart.

    Raises:
        InputError: measurements of an insert differ, and `duplicates` is "refuse", or they are classes.
    """
    config, inserts = assay.config, assay.inserts.numbers
    if config.classes or (config.duplicates == "refuse" and not config.bins):
        _refuse_conflicts(assay, inserts)
    kept, members = rows_of_inserts(assay, assigned)
    if len(kept) == len(assay):
        return assay, assigned
    present = ~np.isnan(assay.labels)
    weights = np.ones(len(assay)) if assay.weights is None else assay.weights
    shares = present * (1 if config.bins else weights[:, None])
    sums, mass = (np.zeros((len(kept), assay.labels.shape[1])) for _ in range(2))
    np.add.at(sums, members, np.where(present, assay.labels, 0) * shares)
    np.add.at(mass, members, shares)
    merged = assay.take(kept)
    if config.bins:
        merged.labels = sums
    elif not config.classes:
        merged.labels = np.divide(sums, mass, out=merged.labels.copy(), where=mass > 0)
    columns = {"labels": pa.FixedSizeListArray.from_arrays(pa.array(merged.labels.ravel()), len(config.targets))}
    if assay.weights is not None:
        merged.weights = np.bincount(members, weights)
        columns["weight"] = pa.array(merged.weights)
    merged.table = with_columns(merged.table, **columns)
    merged.findings.append(
        f"Rows that repeat an insert: {len(assay) - len(merged):,}; each is merged with the insert's first row."
    )
    return merged, assigned[kept]


def _refuse_conflicts(assay: Assay, inserts: np.ndarray):
    """Refuse different measurements of the same insert; `inserts` are the inserts' numbers, (rows,)."""
    labels = assay.labels
    lowest = np.full((inserts.max() + 1, labels.shape[1]), np.inf)
    np.fmin.at(lowest, inserts, labels)
    conflicts = np.argwhere(labels > lowest[inserts])
    if len(conflicts):
        row, column = conflicts[0]
        other = int(np.flatnonzero((inserts == inserts[row]) & (labels[:, column] < labels[row, column]))[0])
        first, second = sorted((int(row), other))
        classes, values = assay.config.classes, labels[[first, second], column]
        if classes:
            what, (one, two) = "classes", (classes[int(value)] for value in values)
            remedy = 'An average is no class: keep them all (`duplicates="keep"`)'
        else:
            what, (one, two) = "measurements", (f"{value:g}" for value in values)
            remedy = 'Average them (`duplicates="average"`)'
        raise InputError(
            f"{assay.location(first)} and {assay.table[second]['location']} have the same insert and different "
            f"{what} ({assay.config.targets[column]} {one} and {two}). Inserts with such a conflict: "
            f"{len(np.unique(inserts[conflicts[:, 0]])):,}. {remedy}, or leave the wrong rows out."
        )


def _require_every_class(assay: Assay, rows: np.ndarray, kind: str):
    """Check that each class occurs among some rows, of this kind."""
    present = np.isin(np.arange(len(assay.config.classes or [])), assay.labels[rows])
    if not present.all():
        name = assay.config.outputs[int(present.argmin())]
        raise InputError(
            f"{assay.name}: no {kind} is of the class {name!r}. Leave it out of `classes`, or add rows of it."
        )


def _split(assay: Assay, assigned: np.ndarray, seed: int):
    """
    Set the groups, the split and the test rows' homologs of an assay.

    Raises:
        InputError: the rows cannot be split as the configuration says, or a split has too few rows.
    """
    config = assay.config
    by_group = config.group is not None
    if by_group:
        assay.groups = number_names(assay, "group")
    elif config.split_by == "homology":
        assay.groups = homology_groups(assay.inserts)
    units = assay.groups if len(assay.groups) else np.arange(len(assay))
    try:
        split = _split_as_assigned(assigned, units, config, seed) or _split_at_random(units, config, seed)
    except ValueError as error:
        raise InputError(f"{assay.name}: {error}") from error
    if by_group:
        _refuse_divided_groups(assay, split)
    if config.validation_rows is not None and config.validation_rows < len(split.validation):
        split = split._replace(validation=sample_rows(split.validation, config.validation_rows, seed))
    if not len(assay.groups):
        # Where a split may divide groups, only the held-out rows are grouped, for the intervals of their scores.
        held_out = np.concatenate([split.validation, split.test])
        assay.groups = np.full(len(assay), -1)
        assay.groups[held_out] = homology_groups(assay.inserts.take(held_out))
    for name, rows in split._asdict().items():
        measured = (~np.isnan(assay.labels[rows])).sum(axis=0).min()
        if measured < MIN_HELD_OUT and not (name == "test" and len(rows) == 0 and config.test_fraction == 0):
            raise InputError(
                f"{assay.name}: in the {name} split, one of the outputs has "
                f"{count_of(measured, 'measurement')}, but at least {MIN_HELD_OUT} are needed. Assign more rows to it"
                f"{', or go without a test (`test_fraction=0`)' if name == 'test' else ''}."
            )
    if config.train_rows is not None:
        available = len(split.train)
        split = _thin_out(split, config.train_rows, seed)
        assay.findings.append(f"{len(split.train):,} of {available:,} training rows are used, chosen at random.")
    _require_every_class(assay, split.train, "training row")
    assay.split = split
    if len(split.test):
        others = np.concatenate([split.train, split.validation])
        assay.test_homologs = int(find_homologs(assay.inserts.take(split.test), assay.inserts.take(others)).sum())
    times = np.array([source.times for source in assay.sources])
    if (times > 1).any():
        assay.split = split._replace(train=np.repeat(split.train, times[assay.source_of[split.train]]))
    assay.findings += _describe_split(assay, assigned)


def _split_as_assigned(
    assigned: np.ndarray, groups: np.ndarray, config: DataConfig, seed: int
) -> ThreeWaySplit | None:
    """
    Return the split that the rows are assigned to; None if none is. Where no row is assigned to validation, whole
    groups of the training rows, or random ones, are held out.

    Raises:
        ValueError: the groups are too large, or nothing is left to be split at random.
    """
    if (assigned == UNASSIGNED).all():
        return None
    train, validation, test = (np.flatnonzero(assigned == number) for number in (TRAIN, VALIDATION, TEST))
    if len(validation) == 0 and len(train):
        units = np.arange(len(train)) if config.split_by == "random" else groups[train]
        held_out = split_groups(units, config.validation_fraction, seed=seed)
        train, validation = train[held_out.train], train[held_out.validation]
    return ThreeWaySplit(train, validation, test)


def _split_at_random(groups: np.ndarray, config: DataConfig, seed: int) -> ThreeWaySplit:
    """Return a split of whole groups; without a test split where `test_fraction` is 0."""
    units = np.arange(len(groups)) if config.split_by == "random" and not config.group else groups
    return split_groups(units, config.validation_fraction, config.test_fraction, seed)


def _refuse_divided_groups(assay: Assay, split: ThreeWaySplit):
    """Refuse a split column that divides a group of the group column."""
    first_of: dict[int, tuple[str, int]] = {}
    for name, rows in split._asdict().items():
        groups, firsts = np.unique(assay.groups[rows], return_index=True)
        for group, row in zip(groups.tolist(), rows[firsts].tolist(), strict=True):
            other_name, other = first_of.setdefault(group, (name, row))
            if other_name != name:
                raise InputError(
                    f"{assay.location(other)} and {assay.table[row]['location']} belong to the same group "
                    f"{assay.table[row]['group']!r}, but one is in the {other_name} split and the other in the {name} "
                    "split."
                )


def _thin_out(split: ThreeWaySplit, train_rows: int, seed: int) -> ThreeWaySplit:
    """Return the split with `train_rows` training rows, if there are more, and the same share of validation rows."""
    if train_rows < MIN_HELD_OUT:
        raise InputError(f"`train_rows` is {train_rows}, but at least {MIN_HELD_OUT} are needed.")
    share = min(1.0, train_rows / len(split.train))
    generator = np.random.default_rng(seed)
    train, validation = (
        sample_rows(rows, max(MIN_HELD_OUT, round(share * len(rows))), generator)
        for rows in (split.train, split.validation)
    )
    return ThreeWaySplit(train, validation, split.test)


def _describe_split(assay: Assay, assigned: np.ndarray) -> list[str]:
    config, split = assay.config, assay.split
    known = assay.groups[assay.groups >= 0]
    if config.split:
        how = "as the table says"
    elif (assigned != UNASSIGNED).any():
        how = "by table"
    elif config.group:
        how = f"by the table's {len(np.unique(known)):,} groups"
    elif config.split_by == "homology":
        how = f"by homology into {len(np.unique(known)):,} groups"
    else:
        how = "at random"
    sizes = ", ".join(count_of(len(rows), f"{name} row") for name, rows in split._asdict().items() if len(rows))
    described = [f"Split {how}: {sizes}."]
    if len(split.test):
        homologs = assay.test_homologs
        have = "has" if homologs == 1 else "have"
        share = homologs / len(split.test)
        found = f"{count_of(homologs, 'test row')} ({share:.0%}) {have} a homolog in another split"
        mostly = homologs > len(split.test) / 2
        warning = ": the test shows how well homologs are predicted, not new sequences" if mostly else ""
        described.append(f"{found}{warning}.")
    return described


__all__ = ["prepare_assay"]
