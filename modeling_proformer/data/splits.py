"""Hold-outs that a model is tested on without having seen their like."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


class Split(NamedTuple):
    """Row numbers on each side, in ascending order."""

    train: np.ndarray
    held_out: np.ndarray


class ThreeWaySplit(NamedTuple):
    """Row numbers on each side, in ascending order."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def hold_out_groups(groups: Sequence | pa.ChunkedArray, fraction: float, seed: int = 0) -> Split:
    """
    Holds out whole groups of related sequences (families, variants of one promoter), chosen at random.

    Args:
        groups: the group of each row. Names of millions of rows fit into memory as a column of a table
            (`Dataset.data.column`); lists and arrays of them take gigabytes.
        fraction: share of the rows to hold out; groups are added as long as they fit, so that it is not exceeded.
        seed: of the choice.

    Raises:
        ValueError: `fraction` is not between 0 and 1, or a side would be empty.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"The fraction to hold out must lie between 0 and 1, got {fraction}.")
    members, sizes = group_sizes(groups)
    order = np.random.default_rng(seed).permutation(len(sizes))
    chosen = choose_groups(sizes, order, room=fraction * len(members))
    if not chosen.any():
        raise ValueError(
            f"{len(members)} rows in {len(sizes)} groups cannot be split with {fraction:.3g} of them held out."
        )
    return Split(np.flatnonzero(~chosen[members]), np.flatnonzero(chosen[members]))


def split_groups(
    groups: Sequence | pa.ChunkedArray, validation_fraction: float, test_fraction: float, seed: int = 0
) -> ThreeWaySplit:
    """
    Splits whole groups of related sequences three ways, at random: to train on, to choose a model by, and to judge
    the chosen one by.

    Args:
        groups: the group of each row, see `hold_out_groups` and `homology.homology_groups`.
        validation_fraction, test_fraction: shares of all rows, which are not exceeded.
        seed: of the choice.

    Raises:
        ValueError: the fractions are not above 0 or leave nothing to train on; or the groups are so large that a side
            would have less than half of its share.
    """
    if not (validation_fraction > 0 and test_fraction > 0 and validation_fraction + test_fraction < 1):
        raise ValueError(
            "The validation and test fractions must be above 0 and leave some rows to train on, got "
            f"{validation_fraction} and {test_fraction}."
        )
    members, sizes = group_sizes(groups)
    order = np.random.default_rng(seed).permutation(len(sizes))
    test = choose_groups(sizes, order, room=test_fraction * len(members))
    validation = choose_groups(sizes, order[~test[order]], room=validation_fraction * len(members))
    require_share("test", test_fraction, test, sizes)
    require_share("validation", validation_fraction, validation, sizes)
    train = ~(validation | test)
    return ThreeWaySplit(*(np.flatnonzero(chosen[members]) for chosen in (train, validation, test)))


def require_share(side: str, fraction: float, chosen: np.ndarray, sizes: np.ndarray):
    """
    Raises:
        ValueError: the groups chosen for a side, (groups,) of bool, have less than half of the rows it should have.
    """
    share, found = fraction * sizes.sum(), sizes[chosen].sum()
    if found == 0 or found < share / 2:
        raise ValueError(
            f"Whole families fill only {found} of the {share:.6g} rows of the {side} side; the largest family has "
            f"{sizes.max(initial=0)} of all {sizes.sum()} rows: give a column that says which rows are for what, or "
            "split at random, knowing that what is tested then has close relatives in training."
        )


def group_sizes(groups: Sequence | pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """
    The number of each row's group, (rows,), and how many rows each group has, (groups,).

    Raises:
        ValueError: there is not one group for each row.
    """
    if not isinstance(groups, pa.ChunkedArray):
        names, groups = groups, np.asarray(groups)
        if groups.dtype.kind == "U" and groups.ndim == 1:
            # numpy drops null characters at the end, which makes two names one.
            groups = pa.chunked_array([pa.array(map(str, names))])
    if isinstance(groups, pa.ChunkedArray):
        groups = ranks(groups)
    if groups.ndim != 1:
        raise ValueError(f"One group for each row is needed, got an array of shape {groups.shape}.")
    _, members, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    return members, sizes


def ranks(column: pa.ChunkedArray) -> np.ndarray:
    """The place of each row's value among all values sorted, which takes 4 bytes a row whatever the values."""
    encoded = pa.chunked_array(column.dictionary_encode()).combine_chunks()
    places = pc.rank(encoded.dictionary, tiebreaker="dense").to_numpy().astype(np.int32)
    return places[encoded.indices.to_numpy()]


def choose_groups(sizes: np.ndarray, order: np.ndarray, room: float) -> np.ndarray:
    """
    Takes groups as long as they fit.

    Args:
        sizes: (groups,) rows in each.
        order: numbers of the groups to choose from, in the order in which they are tried.
        room: for so many rows.

    Returns:
        (groups,) of bool.
    """
    chosen = np.zeros(len(sizes), dtype=bool)
    smallest = sizes[order].min(initial=sizes.sum())
    for group in order:
        if room < smallest:
            break
        if sizes[group] <= room:
            chosen[group] = True
            room -= sizes[group]
    return chosen


__all__ = [
    "Split",
    "ThreeWaySplit",
    "hold_out_groups",
    "split_groups",
]
