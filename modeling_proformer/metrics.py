"""How well predictions agree with measurements: pure functions of two arrays."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy import stats


# Weight of each subset in the score of the Random Promoter DREAM Challenge 2022 (Rafi et al., Nature Biotechnology
# 2024, doi 10.1038/s41587-024-02414-w). The last three are scored on differences between paired sequences.
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
DREAM_PAIRS = ("snv", "motif_perturbation", "motif_tiling")


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


def correlation(measured: np.ndarray, predicted: np.ndarray) -> Correlation:
    """
    Pearson's r and Spearman's ρ (tied ranks averaged) of two arrays of the same length. Both are NaN where they are
    not defined: for fewer than two values, or where either array is constant.

    Raises:
        ValueError: the arrays are not one-dimensional, differ in length or hold a value that is not finite.
    """
    measured, predicted = np.asarray(measured, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    if measured.ndim != 1 or measured.shape != predicted.shape:
        raise ValueError(f"Two arrays of one length are needed, got shapes {measured.shape} and {predicted.shape}.")
    for name, values in (("measured", measured), ("predicted", predicted)):
        if not np.isfinite(values).all():
            position = int((~np.isfinite(values)).argmax())
            raise ValueError(f"The {name} value at position {position + 1} is {values[position]}, not a number.")
    if len(measured) < 2 or np.ptp(measured) == 0 or np.ptp(predicted) == 0:
        return Correlation(float("nan"), float("nan"), len(measured))
    return Correlation(
        float(stats.pearsonr(measured, predicted).statistic),
        float(stats.spearmanr(measured, predicted).statistic),
        len(measured),
    )


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
    measured, predicted = np.asarray(measured, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    given = {"all", *subsets, *pairs}
    if given != DREAM_WEIGHTS.keys():
        raise ValueError(f"The score needs the subsets {', '.join(DREAM_WEIGHTS)}; got {', '.join(sorted(given))}.")
    correlations = {}
    for name in DREAM_WEIGHTS:
        if name in DREAM_PAIRS:
            first, second = np.asarray(pairs[name]).T
            correlations[name] = correlation(measured[first] - measured[second], predicted[first] - predicted[second])
        else:
            members = slice(None) if name == "all" else np.asarray(subsets[name])
            correlations[name] = correlation(measured[members], predicted[members])
        if np.isnan(correlations[name].pearson_r):
            raise ValueError(f"The subset {name!r} has no correlation: it is constant or has fewer than two members.")
    weights = np.array(list(DREAM_WEIGHTS.values()))
    return DreamScore(
        float(np.average([found.pearson_r**2 for found in correlations.values()], weights=weights)),
        float(np.average([found.spearman_rho for found in correlations.values()], weights=weights)),
        correlations,
    )


__all__ = ["DREAM_PAIRS", "DREAM_WEIGHTS", "Correlation", "DreamScore", "correlation", "dream_score"]
