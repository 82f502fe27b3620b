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
    order = np.random.default_rng(seed).permutation(len(sizes))
    room = fraction * len(members)
    chosen = np.zeros(len(sizes), dtype=bool)
    smallest = sizes.min(initial=len(members))
    for group in order:
        if room < smallest:
            break
        if sizes[group] <= room:
            chosen[group] = True
            room -= sizes[group]
    if not chosen.any():
        raise ValueError(
            f"{len(members)} rows in {len(sizes)} groups cannot be split with {fraction:.3g} of them held out."
        )
    return Split(np.flatnonzero(~chosen[members]), np.flatnonzero(chosen[members]))


def ranks(column: pa.ChunkedArray) -> np.ndarray:
    """The place of each row's value among all values sorted, which takes 4 bytes a row whatever the values."""
    encoded = pa.chunked_array(column.dictionary_encode()).combine_chunks()
    places = pc.rank(encoded.dictionary, tiebreaker="dense").to_numpy().astype(np.int32)
    return places[encoded.indices.to_numpy()]


__all__ = ["Split", "hold_out_groups"]
