"""How well predictions agree with measurements: pure functions of two arrays."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


#: Weight of each subset in the score of the Random Promoter DREAM Challenge 2022 (Rafi et al., Nature Biotechnology
#: 2024, doi 10.1038/s41587-024-02414-w). The last three are scored on differences between paired sequences.
DREAM_WEIGHTS = {
    "all": 1.0,
    "high": 0.3,
    "low": 0.3,
    "yeast": 0.3,
    "random": 0.3,
    "challenging": 0.5,
    "snv": 1.25,
    "motif_perturbation": 0.3,
    "motif_tiling": 0.4,
}
#: The subsets that are pairs of sequences.
DREAM_PAIRS = ("snv", "motif_perturbation", "motif_tiling")
#: The others, but for all of the sequences.
DREAM_SUBSETS = tuple(name for name in DREAM_WEIGHTS if name not in ("all", *DREAM_PAIRS))

# Of measured and predicted values, and how often each occurs in each replicate: (replicates, values of the statistic).
Statistic = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]

# Bootstrap replicates computed at a time: their arrays stay in the processor's cache.
REPLICATES_AT_A_TIME = 16


class Correlation(NamedTuple):
    """Agreement over `count` sequences, or pairs of them."""

    pearson_r: float
    spearman_rho: float
    count: int


class DreamScore(NamedTuple):
    """The challenge's two scores, and the correlations they are made of."""

    pearson_score: float
    spearman_score: float
    subsets: dict[str, Correlation]


class Interval(NamedTuple):
    """A confidence interval; NaN where it is not defined."""

    low: float
    high: float


class CorrelationIntervals(NamedTuple):
    """Confidence intervals of a `Correlation`."""

    pearson_r: Interval
    spearman_rho: Interval


class DreamScoreIntervals(NamedTuple):
    """Confidence intervals of a `DreamScore`."""

    pearson_score: Interval
    spearman_score: Interval
    subsets: dict[str, CorrelationIntervals]


class ScoredValues(NamedTuple):
    """What one statistic is made of; `members` are indices of the sequences, of a pair that of its first."""

    measured: np.ndarray
    predicted: np.ndarray
    members: np.ndarray


def correlation(measured: np.ndarray, predicted: np.ndarray) -> Correlation:
    """
    Pearson's r and Spearman's ρ (tied ranks averaged) of two arrays of the same length. Both are NaN where they are
    not defined: for fewer than two values, or where either array is constant.

    Raises:
        ValueError: the arrays are not one-dimensional, differ in length or hold a value that is not finite.
    """
    measured, predicted = checked_values(measured, predicted)
    if not has_correlation(measured, predicted):
        return Correlation(float("nan"), float("nan"), len(measured))
    return Correlation(
        float(stats.pearsonr(measured, predicted).statistic),
        float(stats.spearmanr(measured, predicted).statistic),
        len(measured),
    )


def correlation_intervals(
    measured: np.ndarray,
    predicted: np.ndarray,
    groups: Sequence | None = None,
    replicates: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> CorrelationIntervals:
    """
    Intervals of `correlation` by the percentile bootstrap: where r and ρ would lie had other sequences of the same
    kind been measured. NaN where the correlation is, and for one family alone. A replicate without correlation, which
    a handful of values can give, is left out.

    Args:
        measured: (sequences,) measured expression.
        predicted: (sequences,) predicted expression.
        groups: the family of each sequence. Families are drawn whole, because related sequences tell less than as
            many unrelated ones, and intervals that ignore it are too narrow. By default, all are unrelated.
        replicates: how often the sequences are drawn anew, with replacement, and ranked anew.
        level: of confidence, between 0 and 1.
        seed: of the draws; the same seed gives the same intervals.

    Raises:
        ValueError: as `correlation`; or `groups` has another length, or `replicates` or `level` is out of range.
    """
    values = checked_values(measured, predicted)
    return CorrelationIntervals(
        *bootstrap_intervals(weighted_correlations, 2, *values, groups, replicates, level, seed)
    )


def roc_auc(measured: np.ndarray, predicted: np.ndarray) -> float:
    """
    Area under the ROC curve: how often a sequence of class 1 has a higher prediction than one of class 0, counting
    ties half. NaN unless there are both classes.

    Raises:
        ValueError: as `correlation`; or a measured value is neither 0 nor 1.
    """
    measured, predicted = checked_classes(measured, predicted)
    if len(np.unique(measured)) < 2:
        return float("nan")
    return weighted_roc_auc(measured, predicted, np.ones((1, len(measured)), dtype=np.int64)).item()


def roc_auc_interval(
    measured: np.ndarray,
    predicted: np.ndarray,
    groups: Sequence | None = None,
    replicates: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """
    Interval of `roc_auc` by the percentile bootstrap; NaN where the area is, and for one family alone.

    Args:
        measured: (sequences,) of 0 and 1.
        predicted: (sequences,) probabilities, or scores on any scale.
        groups, replicates, level, seed: those of `correlation_intervals`.

    Raises:
        ValueError: as `roc_auc`; or `groups` has another length, or `replicates` or `level` is out of range.
    """
    values = checked_classes(measured, predicted)
    (interval,) = bootstrap_intervals(weighted_roc_auc, 1, *values, groups, replicates, level, seed)
    return interval


def dream_score(
    measured: np.ndarray,
    predicted: np.ndarray,
    subsets: Mapping[str, np.ndarray],
    pairs: Mapping[str, np.ndarray],
) -> DreamScore:
    """
    Score of the Random Promoter DREAM Challenge: the weighted mean of r² over its subsets, and that of ρ.

    Args:
        measured: (sequences,) measured expression; any linear scale.
        predicted: (sequences,) predicted expression; any linear scale.
        subsets: which sequences belong to `"high"`, `"low"`, `"yeast"`, `"random"` and `"challenging"`: masks
            (sequences,) or indices.
        pairs: (pairs, 2) indices of the sequences whose expression difference is scored, for `"snv"`,
            `"motif_perturbation"` and `"motif_tiling"`. Within a pair, the challenge lists the alternate sequence
            before the reference; the order matters (though not if all pairs are reversed), because r and ρ are those
            of signed differences.

    Raises:
        ValueError: a subset is missing, unknown or so small or constant that it has no correlation.
    """
    scored = dream_values(measured, predicted, subsets, pairs)
    found = {name: correlation(values.measured, values.predicted) for name, values in scored.items()}
    ((pearson_score, spearman_score),) = dream_averages(np.array([[each[:2] for each in found.values()]]))
    return DreamScore(float(pearson_score), float(spearman_score), found)


def dream_score_intervals(
    measured: np.ndarray,
    predicted: np.ndarray,
    subsets: Mapping[str, np.ndarray],
    pairs: Mapping[str, np.ndarray],
    replicates: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> DreamScoreIntervals:
    """
    Intervals of `dream_score`, and of the correlations it is made of, by the percentile bootstrap.

    Sequences that pairs connect, directly or over others, are a family: most differ by one letter or motif. Families
    are drawn whole, once in each replicate for all subsets, because neither the sequences of a family nor the pairs
    that share one are independent. A replicate that leaves a subset without correlation is left out: in the challenge,
    one in twenty, because all its tiled motifs lie in three families. For the same reason their intervals are rough.

    Args:
        measured, predicted, subsets, pairs: those of `dream_score`.
        replicates, level, seed: those of `correlation_intervals`.

    Raises:
        ValueError: as `dream_score`; or `replicates` or `level` is out of range.
    """
    scored = dream_values(measured, predicted, subsets, pairs)
    families = connected_families(len(scored["all"].members), np.concatenate([pairs[name] for name in DREAM_PAIRS]))
    correlations = resampled_statistics(weighted_correlations, 2, list(scored.values()), families, replicates, seed)
    return DreamScoreIntervals(
        *percentile_intervals(dream_averages(correlations), level),
        {
            name: CorrelationIntervals(*percentile_intervals(correlations[:, subset], level))
            for subset, name in enumerate(scored)
        },
    )


def metric_module(name: str) -> Path:
    """
    Folder of a metric that `evaluate.load(str(folder))` opens, offline too: `"pearson_r"`, `"spearman_rho"` or
    `"dream_score"`; its README.md says how to use it.

    Raises:
        ValueError: there is no such metric.
    """
    folders = {script.stem: script.parent for script in (Path(__file__).parent / "metric_modules").glob("*/*.py")}
    if name not in folders:
        raise ValueError(f"There is no metric {name!r}; there are {', '.join(sorted(folders))}.")
    return folders[name]


def checked_values(measured: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64; see `correlation` for what is refused."""
    measured, predicted = np.asarray(measured, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    if measured.ndim != 1 or measured.shape != predicted.shape:
        raise ValueError(f"Two arrays of one length are needed, got shapes {measured.shape} and {predicted.shape}.")
    for name, values in (("measured", measured), ("predicted", predicted)):
        if not np.isfinite(values).all():
            position = int((~np.isfinite(values)).argmax())
            raise ValueError(f"The {name} value at position {position + 1} is {values[position]}, not a number.")
    return measured, predicted


def checked_classes(measured: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64; see `roc_auc` for what is refused."""
    measured, predicted = checked_values(measured, predicted)
    others = ~np.isin(measured, (0, 1))
    if others.any():
        position = int(others.argmax())
        raise ValueError(f"The measured value at position {position + 1} is {measured[position]:g}, neither 0 nor 1.")
    return measured, predicted


def drawn_whole(families: np.ndarray) -> np.ndarray | None:
    """
    The families, for a bootstrap over them; None, for one over rows, where one family has most of the rows: how often
    it is drawn would be all that such an interval tells.
    """
    dominated = len(families) and np.unique(families, return_counts=True)[1].max() > len(families) / 2
    return None if dominated else families


def has_correlation(measured: np.ndarray, predicted: np.ndarray) -> bool:
    return len(measured) >= 2 and np.ptp(measured) > 0 and np.ptp(predicted) > 0


def dream_values(
    measured: np.ndarray,
    predicted: np.ndarray,
    subsets: Mapping[str, np.ndarray],
    pairs: Mapping[str, np.ndarray],
) -> dict[str, ScoredValues]:
    """What each correlation of the DREAM score is made of, in the order of `DREAM_WEIGHTS`; see `dream_score`."""
    measured, predicted = checked_values(measured, predicted)
    given = {"all", *subsets, *pairs}
    if given != DREAM_WEIGHTS.keys():
        raise ValueError(f"The score needs the subsets {', '.join(DREAM_WEIGHTS)}; got {', '.join(sorted(given))}.")
    sequences = np.arange(len(measured))
    scored = {}
    for name in DREAM_WEIGHTS:
        if name in DREAM_PAIRS:
            if np.ndim(pairs[name]) != 2 or np.shape(pairs[name])[1] != 2:
                raise ValueError(f"The {name!r} pairs must be (pairs, 2) indices, got shape {np.shape(pairs[name])}.")
            first, second = np.asarray(pairs[name], dtype=np.int64).T
            scored[name] = ScoredValues(
                measured[first] - measured[second], predicted[first] - predicted[second], sequences[first]
            )
        else:
            members = sequences if name == "all" else sequences[np.asarray(subsets[name])]
            scored[name] = ScoredValues(measured[members], predicted[members], members)
        if not has_correlation(scored[name].measured, scored[name].predicted):
            raise ValueError(f"The subset {name!r} has no correlation: it is constant or has fewer than two members.")
    return scored


def dream_averages(correlations: np.ndarray) -> np.ndarray:
    """Both scores, (replicates, 2), from r and ρ of each subset: (replicates, subsets, 2)."""
    weights = np.array(list(DREAM_WEIGHTS.values()))
    pearson_r, spearman_rho = np.moveaxis(correlations, -1, 0)
    return np.stack([np.average(each, axis=1, weights=weights) for each in (pearson_r**2, spearman_rho)], axis=1)


def connected_families(num_sequences: int, pairs: np.ndarray) -> np.ndarray:
    """Number of the family that each sequence belongs to, (sequences,)."""
    graph = coo_array((np.ones(len(pairs)), tuple(pairs.T)), shape=(num_sequences, num_sequences))
    return connected_components(graph, directed=False)[1]


def bootstrap_intervals(
    statistic: Statistic,
    size: int,
    measured: np.ndarray,
    predicted: np.ndarray,
    groups: Sequence | None,
    replicates: int,
    level: float,
    seed: int,
) -> list[Interval]:
    """
    Intervals of a statistic's values, by the percentile bootstrap over families.

    Args:
        statistic, size: see `resampled_statistics`.
        measured, predicted, groups, replicates, level, seed: see `correlation_intervals`.
    """
    if groups is not None and len(groups) != len(measured):
        raise ValueError(f"One group for each sequence is needed, got {len(groups)} for {len(measured)} sequences.")
    everything = np.arange(len(measured))
    families = everything if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    scored = [ScoredValues(measured, predicted, everything)]
    samples = resampled_statistics(statistic, size, scored, families, replicates, seed)
    return percentile_intervals(samples[:, 0], level)


def resampled_statistics(
    statistic: Statistic,
    size: int,
    scored: Sequence[ScoredValues],
    families: np.ndarray,
    replicates: int,
    seed: int,
) -> np.ndarray:
    """
    A statistic of each item in each bootstrap replicate, (replicates, items, size); NaN where it is not defined, and
    for an item of one family, of which no draw can differ.

    Args:
        statistic: such as `weighted_correlations`.
        size: how many values it has.
        scored: the items.
        families: (sequences,) number of each one's family, counted from 0.
    """
    if replicates < 1:
        raise ValueError(f"There must be at least one replicate, got {replicates}.")
    generator = np.random.default_rng(seed)
    samples = np.full((replicates, len(scored), size), np.nan)
    several = [item for item, values in enumerate(scored) if len(np.unique(families[values.members])) > 1]
    for first in range(0, replicates if several else 0, REPLICATES_AT_A_TIME):
        rows = range(first, min(first + REPLICATES_AT_A_TIME, replicates))
        times = times_drawn(families.max() + 1, len(rows), generator)[:, families]
        for item in several:
            measured, predicted, members = scored[item]
            samples[rows, item] = statistic(measured, predicted, times[:, members])
    return samples


def times_drawn(count: int, replicates: int, generator: np.random.Generator) -> np.ndarray:
    """How often each of `count` items is among as many draws with replacement, (replicates, count)."""
    return np.stack([np.bincount(generator.integers(count, size=count), minlength=count) for _ in range(replicates)])


def weighted_correlations(measured: np.ndarray, predicted: np.ndarray, times: np.ndarray) -> np.ndarray:
    """
    r and ρ, (replicates, 2), where each value occurs so many times.

    Args:
        measured, predicted: (values,).
        times: (replicates, values) of whole numbers.
    """
    pearson_r = weighted_pearson_r(measured, predicted, times)
    spearman_rho = weighted_pearson_r(weighted_ranks(measured, times), weighted_ranks(predicted, times), times)
    # Unlike a mean of values, one of ranks is exact: what is constant in a replicate shows there.
    return np.stack([np.where(np.isnan(spearman_rho), np.nan, pearson_r), spearman_rho], axis=1)


def weighted_roc_auc(measured: np.ndarray, predicted: np.ndarray, times: np.ndarray) -> np.ndarray:
    """`roc_auc`, (replicates, 1), where each value occurs so many times; see `weighted_correlations`."""
    # The ones' sum of ranks above its least possible value counts the zeros below each of them (Mann and Whitney's U).
    ones = (times * measured).sum(axis=1)
    zeros = times.sum(axis=1) - ones
    ranks = (times * measured * weighted_ranks(predicted, times)).sum(axis=1)
    with np.errstate(invalid="ignore"):
        return ((ranks - ones * (ones + 1) / 2) / (ones * zeros))[:, None]


def weighted_pearson_r(x: np.ndarray, y: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Pearson's r in each replicate of `times`; x and y are (values,) or (replicates, values)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        x, y = (each - ((times * each).sum(axis=1) / times.sum(axis=1))[:, None] for each in (x, y))
        return (times * x * y).sum(axis=1) / np.sqrt((times * x * x).sum(axis=1) * (times * y * y).sum(axis=1))


def weighted_ranks(values: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Rank of each value in each replicate, (replicates, values), where it occurs so many times; ties averaged."""
    _, level, sizes = np.unique(values, return_inverse=True, return_counts=True)
    tied = np.add.reduceat(times[:, np.argsort(level)], np.cumsum(sizes) - sizes, axis=1)
    return (tied.cumsum(axis=1) - (tied - 1) / 2)[:, level]


def percentile_intervals(samples: np.ndarray, level: float) -> list[Interval]:
    """The middle `level` of each column of (replicates, columns), without the replicates that are not defined."""
    if not 0 < level < 1:
        raise ValueError(f"The level of confidence must lie between 0 and 1, got {level}.")
    defined = samples[~np.isnan(samples).any(axis=1)]
    if not len(defined):
        return [Interval(float("nan"), float("nan"))] * samples.shape[1]
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return [Interval(*ends) for ends in zip(low.tolist(), high.tolist(), strict=True)]


__all__ = [
    "DREAM_PAIRS",
    "DREAM_SUBSETS",
    "DREAM_WEIGHTS",
    "Correlation",
    "CorrelationIntervals",
    "DreamScore",
    "DreamScoreIntervals",
    "Interval",
    "correlation",
    "correlation_intervals",
    "dream_score",
    "dream_score_intervals",
    "metric_module",
    "roc_auc",
    "roc_auc_interval",
]
