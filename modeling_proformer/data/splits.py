"""Splits that keep groups of related sequences whole, so that test sequences are unlike those of the training."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa


class ThreeWaySplit(NamedTuple):
    """Row numbers of each split, in ascending order."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def split_groups(
    groups: Sequence | pa.ChunkedArray, validation_fraction: float, test_fraction: float = 0.0, seed: int = 0
) -> ThreeWaySplit:
    """
    Split rows at random into training, validation and test rows, without dividing a group.

    scikit-learn's group splitters do not serve here: `GroupShuffleSplit` takes a share of the groups, which may have
    most of the rows, and `GroupKFold` and `StratifiedGroupKFold` only make splits of equal size.

    Args:
        groups: the group of each row, see `homology.homology_groups`. Names of millions of rows fit into memory as a
            column of a table (`Dataset.data.column`); lists and arrays of them take gigabytes.
        validation_fraction: share of all rows. Groups are added as long as they fit, so it is not exceeded.
        test_fraction: the same for the test rows; 0 for none.
        seed: of the choice.

    Raises:
        ValueError: the fractions are out of range; there are no rows, or not one group for each row; or the groups are
            so large that a split would have less than half of its share.
    """
    if not (validation_fraction > 0 and test_fraction >= 0 and validation_fraction + test_fraction < 1):
        raise ValueError(
            "The validation fraction must be above 0, the test fraction must not be below 0, and their sum must be "
            f"below 1; got {validation_fraction} and {test_fraction}."
        )
    if not len(groups):
        raise ValueError("There are no rows to split.")
    numbers = number_groups(groups)
    sizes = np.bincount(numbers)
    order = np.random.default_rng(seed).permutation(len(sizes))
    test = _choose_groups(sizes, order, room=test_fraction * len(numbers))
    validation = _choose_groups(sizes, order[~test[order]], room=validation_fraction * len(numbers))
    if test_fraction > 0:
        _require_share("test", test_fraction, test, sizes)
    _require_share("validation", validation_fraction, validation, sizes)
    train = ~(validation | test)
    return ThreeWaySplit(*(np.flatnonzero(chosen[numbers]) for chosen in (train, validation, test)))


def number_groups(groups: Sequence | pa.ChunkedArray) -> np.ndarray:
    """
    Return the number of each row's group, (rows,), counted from 0 in the order of first appearance.

    Raises:
        ValueError: there is not one group for each row.
    """
    column = groups if isinstance(groups, pa.ChunkedArray) else pa.chunked_array([pa.array(groups)])
    if pa.types.is_nested(column.type):
        raise ValueError(f"One group for each row is needed, got a column of type {column.type}.")
    if column.null_count:
        raise ValueError(f"Row {column.is_null().index(True).as_py() + 1} has no group.")
    # Arrow encodes a column in 4 bytes a row, whatever the names of the groups.
    return column.dictionary_encode().combine_chunks().indices.to_numpy()


def _choose_groups(sizes: np.ndarray, order: np.ndarray, room: float) -> np.ndarray:
    """
    Choose groups as long as they fit.

    Args:
        sizes: (groups,) number of rows in each.
        order: numbers of the groups to choose from, in the order in which they are tried.
        room: number of rows that may be chosen.

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


def _require_share(split: str, fraction: float, chosen: np.ndarray, sizes: np.ndarray):
    """
    Check that the groups chosen for a split, (groups,) of bool, have at least half of the rows it should have.

    Raises:
        ValueError: they have fewer.
    """
    share, found = fraction * sizes.sum(), sizes[chosen].sum()
    if found == 0 or found < share / 2:
        raise ValueError(
            f"Whole groups fill only {found} of the {share:.6g} rows of the {split} split; the largest group has "
            f"{sizes.max(initial=0)} of all {sizes.sum()} rows. Give a larger fraction, or a column that assigns each "
            "row to a split. A random split ignores groups, but tests the model on homologs of its training rows."
        )


def sample_rows(rows: np.ndarray, count: int, seed: int | np.random.Generator) -> np.ndarray:
    """Return at most `count` of the rows, chosen at random, in their order."""
    return np.sort(np.random.default_rng(seed).permutation(rows)[:count])


__all__ = ["ThreeWaySplit", "number_groups", "sample_rows", "split_groups"]
