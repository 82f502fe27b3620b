"""Hold-outs that a model is tested on without having seen their like."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Split(NamedTuple):
    """Row numbers on each side, in ascending order."""

    train: np.ndarray
    held_out: np.ndarray


def hold_out_groups(groups: Sequence, fraction: float, seed: int = 0) -> Split:
    """
    Holds out whole groups of related sequences (families, variants of one promoter), chosen at random.

    Args:
        groups: the group of each row.
        fraction: share of the rows to hold out; groups are added as long as they fit, so that it is not exceeded.
        seed: of the choice.

    Raises:
        ValueError: `fraction` is not between 0 and 1, or a side would be empty.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"The fraction to hold out must lie between 0 and 1, got {fraction}.")
    groups = np.asarray(groups)
    if groups.ndim != 1:
        raise ValueError(f"One group for each row is needed, got an array of shape {groups.shape}.")
    _, members, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(sizes))
    room = fraction * len(members)
    chosen = np.zeros(len(sizes), dtype=bool)
    for group in order:
        if sizes[group] <= room:
            chosen[group] = True
            room -= sizes[group]
    if not chosen.any():
        raise ValueError(
            f"{len(members)} rows in {len(sizes)} groups cannot be split with {fraction:.3g} of them held out."
        )
    return Split(np.flatnonzero(~chosen[members]), np.flatnonzero(chosen[members]))


__all__ = ["Split", "hold_out_groups"]
