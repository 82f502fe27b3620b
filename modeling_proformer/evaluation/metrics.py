"""Agreement of predictions with measurements: pure functions of two arrays."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from ..data.homology import connect
from ..data.sources import require_datasets
from ..modeling_proformer import IGNORED
from .bootstrap import (
    Interval,
    Subset,
    bootstrap_intervals,
    percentile_intervals,
    resample_statistic,
    weighted_accuracies,
    weighted_correlations,
    weighted_roc_auc,
)


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
#: The subsets that are some of the sequences.
DREAM_SUBSETS = tuple(name for name in DREAM_WEIGHTS if name not in ("all", *DREAM_PAIRS))


class Correlation(NamedTuple):
    """Pearson's r and Spearman's ρ over `count` sequences or pairs of sequences."""

    pearson_r: float
    spearman_rho: float
    count: int  # type: ignore[assignment]  # a tuple has a method of this name


class DreamScore(NamedTuple):
    """The challenge's two scores, and the correlations of the subsets they are averaged from."""

    pearson_score: float
    spearman_score: float
    subsets: dict[str, Correlation]


class CorrelationIntervals(NamedTuple):
    """Confidence intervals of a `Correlation`."""

    pearson_r: Interval
    spearman_rho: Interval


class Accuracy(NamedTuple):
    """Share of the sequences whose class is predicted, and the mean of this share over the classes."""

    accuracy: float
    balanced_accuracy: float


class AccuracyIntervals(NamedTuple):
    """Confidence intervals of an `Accuracy`."""

    accuracy: Interval
    balanced_accuracy: Interval


class DreamScoreIntervals(NamedTuple):
    """Confidence intervals of a `DreamScore`."""

    pearson_score: Interval
    spearman_score: Interval
    subsets: dict[str, CorrelationIntervals]


def correlation(measured: np.ndarray, predicted: np.ndarray) -> Correlation:
    """
    Return Pearson's r and Spearman's ρ of two arrays of the same length; tied values share their mean rank.

    Both are NaN where they are not defined: for fewer than two values, or where either array is constant.

    Raises:
        ValueError: the arrays are not (sequences,) or (sequences, 1), differ in length or have a value that is not
            finite.
    """
    measured, predicted = _as_checked_values(measured, predicted)
    if not has_correlation(measured, predicted):
        return Correlation(float("nan"), float("nan"), len(measured))
    return Correlation(
        float(stats.pearsonr(measured, predicted).statistic),
        float(stats.spearmanr(measured, predicted).statistic),
        len(measured),
    )


def has_correlation(measured: np.ndarray, predicted: np.ndarray) -> bool:
    """Return whether the correlation is defined: there are two values or more, and neither array is constant."""
    return len(measured) >= 2 and np.ptp(measured) > 0 and np.ptp(predicted) > 0


def correlation_intervals(
    measured: np.ndarray,
    predicted: np.ndarray,
    groups: Sequence | None = None,
    replicates: int = 1000,
    confidence_level: float = 0.95,
    seed: int = 0,
) -> CorrelationIntervals:
    """
    Bootstrap confidence intervals of `correlation`: where r and ρ would lie for other sequences of the same kind.

    They are NaN where the correlation is not defined, and where there is only one group. A replicate without a
    correlation, which can occur among a handful of values, is left out.

    Args:
        measured: (sequences,) measured expression.
        predicted: (sequences,) predicted expression.
        groups: the group of each sequence. Whole groups are drawn, because related sequences carry less information
            than as many unrelated ones, and intervals that ignore this are too narrow. By default, all sequences are
            unrelated.
        replicates: how often the groups are drawn, with replacement.
        confidence_level: between 0 and 1.
        seed: of the draws; the same seed gives the same intervals.

    Raises:
        ValueError: see `correlation`; or `groups` has another length, or `replicates` or `confidence_level` is out of
            range.
    """
    values = _as_checked_values(measured, predicted)
    return CorrelationIntervals(
        *bootstrap_intervals(weighted_correlations, 2, *values, groups, replicates, confidence_level, seed)
    )


def roc_auc(measured: np.ndarray, predicted: np.ndarray) -> float:
    """
    Return the area under the ROC curve: how often a sequence of class 1 has a higher prediction than one of class 0.

    Ties count half. The area is NaN unless both classes are present.

    Args:
        measured: (sequences,) of 0 and 1.
        predicted: (sequences,) probabilities, or scores on any scale.

    Raises:
        ImportError: scikit-learn is missing.
        ValueError: see `correlation`; or a measured value is neither 0 nor 1.
    """
    require_scikit_learn()
    from sklearn.metrics import roc_auc_score

    measured, predicted = _as_checked_classes(measured, predicted)
    return float(roc_auc_score(measured, predicted)) if _has_both_classes(measured) else float("nan")


def roc_points(measured: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    Return the false and the true positive rates along the ROC curve, (points,) each; no points without both classes.

    Args, Raises: see `roc_auc`.
    """
    require_scikit_learn()
    from sklearn.metrics import roc_curve

    measured, predicted = _as_checked_classes(measured, predicted)
    if not _has_both_classes(measured):
        return np.empty(0), np.empty(0)
    return roc_curve(measured, predicted)[:2]


def roc_auc_interval(
    measured: np.ndarray,
    predicted: np.ndarray,
    groups: Sequence | None = None,
    replicates: int = 1000,
    confidence_level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """
    Bootstrap a confidence interval of `roc_auc`; NaN where the area is not defined, and where there is only one group.

    Args:
        measured: (sequences,) of 0 and 1.
        predicted: (sequences,) probabilities, or scores on any scale.
        groups, replicates, confidence_level, seed: see `correlation_intervals`.

    Raises:
        ValueError: see `roc_auc`; or `groups` has another length, or `replicates` or `confidence_level` is out of
            range.
    """
    values = _as_checked_classes(measured, predicted)
    (interval,) = bootstrap_intervals(weighted_roc_auc, 1, *values, groups, replicates, confidence_level, seed)
    return interval


def accuracy(measured: np.ndarray, predicted: np.ndarray) -> Accuracy:
    """
    Return how often the predicted class is the measured one: over all sequences, and as the mean over the classes.

    The second, the balanced accuracy, is 1 / classes for predictions by chance, however frequent each class is. A
    class that was never measured does not count. Both are NaN without sequences.

    Args:
        measured, predicted: (sequences,) numbers of classes.

    Raises:
        ValueError: see `correlation`.
    """
    measured, predicted = _as_checked_values(measured, predicted)
    if not len(measured):
        return Accuracy(float("nan"), float("nan"))
    ((all_rows, balanced),) = weighted_accuracies(measured, predicted, np.ones((1, len(measured)), dtype=int))
    return Accuracy(float(all_rows), float(balanced))


def accuracy_intervals(
    measured: np.ndarray,
    predicted: np.ndarray,
    groups: Sequence | None = None,
    replicates: int = 1000,
    confidence_level: float = 0.95,
    seed: int = 0,
) -> AccuracyIntervals:
    """
    Bootstrap confidence intervals of `accuracy`; NaN where there is only one group.

    Args:
        measured, predicted: (sequences,) numbers of classes.
        groups, replicates, confidence_level, seed: see `correlation_intervals`.

    Raises:
        ValueError: see `correlation_intervals`.
    """
    values = _as_checked_values(measured, predicted)
    return AccuracyIntervals(
        *bootstrap_intervals(weighted_accuracies, 2, *values, groups, replicates, confidence_level, seed)
    )


def dream_score(
    measured: np.ndarray,
    predicted: np.ndarray,
    subsets: Mapping[str, np.ndarray],
    pairs: Mapping[str, np.ndarray],
) -> DreamScore:
    """
    Return the scores of the Random Promoter DREAM Challenge: the weighted means of r² and of ρ over its subsets.

    Args:
        measured: (sequences,) measured expression; any linear scale.
        predicted: (sequences,) predicted expression; any linear scale.
        subsets: which sequences belong to `"high"`, `"low"`, `"yeast"`, `"random"` and `"challenging"`: masks
            (sequences,) or indices.
        pairs: (pairs, 2) indices of the sequences whose expression difference is scored, for `"snv"`,
            `"motif_perturbation"` and `"motif_tiling"`. The challenge lists the alternate sequence of a pair before
            the reference. The order matters unless all pairs are reversed, because the differences have a sign.

    Raises:
        ValueError: a subset is missing, unknown or so small or constant that it has no correlation.
    """
    values = _dream_values(measured, predicted, subsets, pairs)
    found = {name: correlation(subset.measured, subset.predicted) for name, subset in values.items()}
    ((pearson_score, spearman_score),) = _average_subsets(np.array([[each[:2] for each in found.values()]]))
    return DreamScore(float(pearson_score), float(spearman_score), found)


def dream_score_intervals(
    measured: np.ndarray,
    predicted: np.ndarray,
    subsets: Mapping[str, np.ndarray],
    pairs: Mapping[str, np.ndarray],
    replicates: int = 1000,
    confidence_level: float = 0.95,
    seed: int = 0,
) -> DreamScoreIntervals:
    """
    Bootstrap confidence intervals of `dream_score` and of the correlations it is averaged from.

    Sequences that are connected by pairs, directly or through others, belong to one group: most of them differ by one
    base or one motif. Whole groups are drawn, once per replicate for all subsets, because neither the sequences of a
    group nor the pairs that share one are independent. A replicate in which a subset has no correlation is left out.
    In the challenge's test set this is one in twenty, because all tiled motifs lie in three groups; their intervals
    are rough for the same reason.

    Args:
        measured, predicted, subsets, pairs: see `dream_score`.
        replicates, confidence_level, seed: see `correlation_intervals`.

    Raises:
        ValueError: see `dream_score`; or `replicates` or `confidence_level` is out of range.
    """
    values = _dream_values(measured, predicted, subsets, pairs)
    ones, others = np.concatenate([pairs[name] for name in DREAM_PAIRS]).T
    groups = connect(ones, others, len(values["all"].rows))
    correlations = resample_statistic(weighted_correlations, 2, list(values.values()), groups, replicates, seed)
    pearson_score, spearman_score = percentile_intervals(_average_subsets(correlations), confidence_level)
    return DreamScoreIntervals(
        pearson_score,
        spearman_score,
        {
            name: CorrelationIntervals(*percentile_intervals(correlations[:, number], confidence_level))
            for number, name in enumerate(values)
        },
    )


def metric_module(name: str) -> Path:
    """
    Return the folder of a metric that `evaluate.load(str(folder))` opens, also without a network.

    Args:
        name: `"pearson_r"`, `"spearman_rho"` or `"dream_score"`. The README.md of each folder shows how to use it.

    Raises:
        ValueError: there is no such metric.
    """
    folders = {script.stem: script.parent for script in (Path(__file__).parent / "metric_modules").glob("*/*.py")}
    if name not in folders:
        raise ValueError(f"There is no metric {name!r}; choose one of {', '.join(sorted(folders))}.")
    return folders[name]


def metric_features() -> list[Any]:
    """Return the forms in which the metrics of `metric_module` take values: one output as (n,) or as (n, 1)."""
    datasets = require_datasets()
    forms = [datasets.Value("float64"), datasets.Sequence(datasets.Value("float64"))]
    return [
        datasets.Features({"predictions": predictions, "references": references})
        for predictions in forms
        for references in forms
    ]


def require_scikit_learn():
    """
    Check that scikit-learn is installed; predicting does not need it.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import_module("sklearn")
    except ImportError as error:
        raise ImportError(
            "ROC curves and ridge regressions need scikit-learn: pip install 'modeling-proformer[train]'"
        ) from error


def _as_checked_values(measured: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both as float64, (sequences,), or raise the errors of `correlation`."""
    measured, predicted = as_column(measured), as_column(predicted)
    if measured.ndim != 1 or measured.shape != predicted.shape:
        raise ValueError(f"Two arrays of one length are needed, got shapes {measured.shape} and {predicted.shape}.")
    for name, values in (("measured", measured), ("predicted", predicted)):
        if not np.isfinite(values).all():
            position = int((~np.isfinite(values)).argmax())
            raise ValueError(
                f"The {name} value at position {position + 1} is {values[position]}, which is not a finite number."
            )
    return measured, predicted


def as_column(values: np.ndarray) -> np.ndarray:
    """Return values as float64, those of a single output (sequences, 1) as (sequences,)."""
    values = np.asarray(values, dtype=np.float64)
    return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values


def drop_missing(references: np.ndarray, predictions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    Return references and predictions, both (sequences,), without those whose reference is missing: NaN, or -100 as the
    labels of a model have it.

    Raises:
        ValueError: see `correlation`.
    """
    references = as_column(references)
    missing = np.isnan(references) | (references == IGNORED)
    references, predictions = _as_checked_values(np.where(missing, 0.0, references), predictions)
    return references[~missing], predictions[~missing]


def _as_checked_classes(measured: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both as float64, or raise the errors of `roc_auc`."""
    measured, predicted = _as_checked_values(measured, predicted)
    others = ~np.isin(measured, (0, 1))
    if others.any():
        position = int(others.argmax())
        raise ValueError(f"The measured value at position {position + 1} is {measured[position]:g}, neither 0 nor 1.")
    return measured, predicted


def _has_both_classes(measured: np.ndarray) -> bool:
    return len(np.unique(measured)) == 2


def _dream_values(
    measured: np.ndarray,
    predicted: np.ndarray,
    subsets: Mapping[str, np.ndarray],
    pairs: Mapping[str, np.ndarray],
) -> dict[str, Subset]:
    """Return the values that each correlation of `dream_score` is computed from, in the order of `DREAM_WEIGHTS`."""
    measured, predicted = _as_checked_values(measured, predicted)
    given = {"all", *subsets, *pairs}
    if given != DREAM_WEIGHTS.keys():
        raise ValueError(f"The score needs the subsets {', '.join(DREAM_WEIGHTS)}; got {', '.join(sorted(given))}.")
    rows = np.arange(len(measured))
    values = {}
    for name in DREAM_WEIGHTS:
        if name in DREAM_PAIRS:
            if np.ndim(pairs[name]) != 2 or np.shape(pairs[name])[1] != 2:
                raise ValueError(f"The {name!r} pairs must be (pairs, 2) indices, got shape {np.shape(pairs[name])}.")
            first, second = np.asarray(pairs[name], dtype=np.int64).T
            values[name] = Subset(
                measured[first] - measured[second], predicted[first] - predicted[second], rows[first]
            )
        else:
            members = rows if name == "all" else rows[np.asarray(subsets[name])]
            values[name] = Subset(measured[members], predicted[members], members)
        if not has_correlation(values[name].measured, values[name].predicted):
            raise ValueError(f"The subset {name!r} has no correlation: it is constant or has fewer than two members.")
    return values


def _average_subsets(correlations: np.ndarray) -> np.ndarray:
    """Return both scores, (replicates, 2), from r and ρ of each subset, (replicates, subsets, 2)."""
    weights = np.array(list(DREAM_WEIGHTS.values()))
    pearson_r, spearman_rho = np.moveaxis(correlations, -1, 0)
    return np.stack([np.average(each, axis=1, weights=weights) for each in (pearson_r**2, spearman_rho)], axis=1)


__all__ = [
    "DREAM_PAIRS",
    "DREAM_SUBSETS",
    "DREAM_WEIGHTS",
    "Accuracy",
    "AccuracyIntervals",
    "Correlation",
    "CorrelationIntervals",
    "DreamScore",
    "DreamScoreIntervals",
    "Interval",
    "accuracy",
    "accuracy_intervals",
    "correlation",
    "correlation_intervals",
    "dream_score",
    "dream_score_intervals",
    "metric_module",
    "roc_auc",
    "roc_auc_interval",
    "roc_points",
]
