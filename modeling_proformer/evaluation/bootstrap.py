"""
Percentile bootstrap over groups of related sequences.

The libraries' functions (`scipy.stats.bootstrap`, `sklearn.utils.resample`) draw single rows. Here, whole groups are
drawn, the same ones for all subsets of the DREAM score, and a statistic is computed for many replicates at once.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np


#: `statistic(measured, predicted, counts) -> (replicates, values)`. `measured` and `predicted` are (rows,), and
#: `counts[r, i]` is how often row i was drawn in replicate r.
Statistic = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]

# So many replicates are computed at a time that their arrays stay in the processor's cache.
REPLICATES_PER_BATCH = 16


class Interval(NamedTuple):
    """A confidence interval; NaN where it is not defined."""

    low: float
    high: float


class Subset(NamedTuple):
    """Values that a statistic is computed from; `rows` are the rows they belong to, for a pair that of its first."""

    measured: np.ndarray
    predicted: np.ndarray
    rows: np.ndarray


def usable_groups(groups: np.ndarray) -> np.ndarray | None:
    """
    Return the groups if a bootstrap or a cross-validation can be over them, else None.

    It cannot where one group has more than half of the rows: an interval would only reflect how often that group is
    drawn. Rows are then treated as unrelated.

    Args:
        groups: (rows,) number of each row's group.
    """
    dominated = len(groups) and np.unique(groups, return_counts=True)[1].max() > len(groups) / 2
    return None if dominated else groups


def bootstrap_intervals(
    statistic: Statistic,
    num_values: int,
    measured: np.ndarray,
    predicted: np.ndarray,
    groups: Sequence | None,
    replicates: int,
    confidence_level: float,
    seed: int,
) -> list[Interval]:
    """
    Return a confidence interval of each value of a statistic.

    Args:
        statistic, num_values: see `resample_statistic`.
        measured, predicted, groups, replicates, confidence_level, seed: see `metrics.correlation_intervals`.

    Raises:
        ValueError: `groups` has another length than `measured`, or `replicates` or `confidence_level` is out of range.
    """
    if groups is not None and len(groups) != len(measured):
        raise ValueError(f"One group for each sequence is needed, got {len(groups)} for {len(measured)} sequences.")
    rows = np.arange(len(measured))
    numbers = rows if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    subsets = [Subset(measured, predicted, rows)]
    samples = resample_statistic(statistic, num_values, subsets, numbers, replicates, seed)
    return percentile_intervals(samples[:, 0], confidence_level)


def resample_statistic(
    statistic: Statistic,
    num_values: int,
    subsets: Sequence[Subset],
    groups: np.ndarray,
    replicates: int,
    seed: int,
) -> np.ndarray:
    """
    Return a statistic of each subset in each bootstrap replicate, (replicates, subsets, num_values).

    It is NaN where it is not defined, and for a subset of a single group, whose draws are all the same.

    Args:
        statistic: such as `weighted_correlations`.
        num_values: number of values that the statistic has.
        subsets: what the statistic is computed of.
        groups: (rows,) number of each row's group, counted from 0.
        replicates: number of replicates.
        seed: of the draws.

    Raises:
        ValueError: `replicates` is less than 1.
    """
    if replicates < 1:
        raise ValueError(f"There must be at least one replicate, got {replicates}.")
    generator = np.random.default_rng(seed)
    samples = np.full((replicates, len(subsets), num_values), np.nan)
    varying = [number for number, subset in enumerate(subsets) if len(np.unique(groups[subset.rows])) > 1]
    for first in range(0, replicates if varying else 0, REPLICATES_PER_BATCH):
        batch = range(first, min(first + REPLICATES_PER_BATCH, replicates))
        counts = _draw_counts(groups.max() + 1, len(batch), generator)[:, groups]
        for number in varying:
            measured, predicted, rows = subsets[number]
            samples[batch, number] = statistic(measured, predicted, counts[:, rows])
    return samples


def _draw_counts(num_groups: int, replicates: int, generator: np.random.Generator) -> np.ndarray:
    """Draw each replicate's groups with replacement; return how often each was drawn, (replicates, num_groups)."""
    draws = (generator.integers(num_groups, size=num_groups) for _ in range(replicates))
    return np.stack([np.bincount(drawn, minlength=num_groups) for drawn in draws])


def percentile_intervals(samples: np.ndarray, confidence_level: float) -> list[Interval]:
    """
    Return the interval that holds the middle `confidence_level` of each column of (replicates, columns).

    Replicates with a NaN are left out.

    Raises:
        ValueError: `confidence_level` is not between 0 and 1.
    """
    if not 0 < confidence_level < 1:
        raise ValueError(f"The confidence level must lie between 0 and 1, got {confidence_level}.")
    defined = samples[~np.isnan(samples).any(axis=1)]
    if not len(defined):
        return [Interval(float("nan"), float("nan"))] * samples.shape[1]
    low, high = np.quantile(defined, [(1 - confidence_level) / 2, (1 + confidence_level) / 2], axis=0)
    return [Interval(*ends) for ends in zip(low.tolist(), high.tolist(), strict=True)]


def weighted_correlations(measured: np.ndarray, predicted: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """
    Return Pearson's r and Spearman's ρ in each replicate, (replicates, 2); a `Statistic`.

    Args:
        measured, predicted: (rows,).
        counts: (replicates, rows) of integers.
    """
    pearson_r = _weighted_pearson_r(measured, predicted, counts)
    spearman_rho = _weighted_pearson_r(_weighted_ranks(measured, counts), _weighted_ranks(predicted, counts), counts)
    # The mean of ranks is exact, unlike that of values: only ρ is sure to be NaN in a replicate of equal values.
    return np.stack([np.where(np.isnan(spearman_rho), np.nan, pearson_r), spearman_rho], axis=1)


def weighted_roc_auc(measured: np.ndarray, predicted: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the area under the ROC curve in each replicate, (replicates, 1); see `weighted_correlations`."""
    # Mann and Whitney's U counts the pairs of a positive and a negative that are in order. It is the rank sum of the
    # positives less the smallest possible one.
    positives = (counts * measured).sum(axis=1)
    negatives = counts.sum(axis=1) - positives
    rank_sum = (counts * measured * _weighted_ranks(predicted, counts)).sum(axis=1)
    with np.errstate(invalid="ignore"):
        return ((rank_sum - positives * (positives + 1) / 2) / (positives * negatives))[:, None]


def weighted_accuracies(measured: np.ndarray, predicted: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """
    Return accuracy and balanced accuracy in each replicate, (replicates, 2); see `weighted_correlations`.

    Args:
        measured, predicted: (rows,) numbers of classes.
        counts: (replicates, rows) of integers.
    """
    of_class = measured == np.unique(measured)[:, None]  # (classes, rows)
    rows, right = counts @ of_class.T, counts @ (of_class & (measured == predicted)).T  # (replicates, classes)
    with np.errstate(invalid="ignore"):
        # A replicate may lack a class.
        recall = np.ma.masked_invalid(right / rows).mean(axis=1).filled(np.nan)
        return np.stack([right.sum(axis=1) / rows.sum(axis=1), recall], axis=1)


def _weighted_pearson_r(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return Pearson's r in each replicate, (replicates,); x and y are (rows,) or (replicates, rows)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        x, y = (values - ((counts * values).sum(axis=1) / counts.sum(axis=1))[:, None] for values in (x, y))
        return (counts * x * y).sum(axis=1) / np.sqrt((counts * x * x).sum(axis=1) * (counts * y * y).sum(axis=1))


def _weighted_ranks(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the rank of each value in each replicate, (replicates, rows); ties share their mean rank."""
    _, numbers, sizes = np.unique(values, return_inverse=True, return_counts=True)
    tied = np.add.reduceat(counts[:, np.argsort(numbers)], np.cumsum(sizes) - sizes, axis=1)
    return (tied.cumsum(axis=1) - (tied - 1) / 2)[:, numbers]


__all__ = ["Interval", "usable_groups"]
