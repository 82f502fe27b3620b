"""How well a checkpoint knows an assay before it has been trained on it, beside what the assay's own rows teach."""

import math

import numpy as np

from ..data.homology import all_windows
from ..evaluation.metrics import correlation, drawn_whole


LETTERS = 5
FOLDS = 5
# In standard errors of a rank correlation of 0.
MORE_THAN_CHANCE = 3


def compare_with_ridge(
    measured: np.ndarray, predicted: np.ndarray, inserts: list[str], families: np.ndarray
) -> tuple[float, float, float]:
    """
    Rank correlations with one output's measurements: of a checkpoint; of a ridge regression cross-validated on these
    rows; and the one that a checkpoint must exceed to know the assay, which is the latter's, or chance.

    All are means over five folds, between which families are not divided, and by how much these differ from fold to
    fold does not count. The checkpoint's is that of its output that agrees best, in either direction.

    Args:
        measured: (rows,).
        predicted: (rows, outputs of the checkpoint).
        inserts: (rows,).
        families: (rows,) number of each row's family.
    """
    folds = folds_of(families)
    of_checkpoint = max(abs(rank_correlation(measured, values, folds)) for values in predicted.T)
    of_ridge = rank_correlation(measured, ridge_predictions(inserts, measured, folds), folds)
    return of_checkpoint, of_ridge, max(of_ridge, MORE_THAN_CHANCE / math.sqrt(max(len(measured), 1)))


def folds_of(families: np.ndarray) -> np.ndarray:
    """Number of each row's fold, (rows,), of five at most. Where one family has most of the rows, it is divided."""
    whole = drawn_whole(families)
    numbers, family = np.unique(np.arange(len(families)) if whole is None else whole, return_inverse=True)
    return np.random.default_rng(0).permutation(len(numbers))[family] % FOLDS


def rank_correlation(measured: np.ndarray, predicted: np.ndarray, folds: np.ndarray) -> float:
    """Mean over the folds, by their rows; that of a fold that has none is 0. All arrays are (rows,)."""
    total = 0.0
    for fold in np.unique(folds):
        rows = folds == fold
        total += rows.sum() * np.nan_to_num(correlation(measured[rows], predicted[rows]).spearman_rho)
    return float(total / max(len(folds), 1))


def ridge_predictions(inserts: list[str], measured: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """
    What a ridge regression on counts of 5-mers, of either strand, predicts of each fold when trained on the others,
    (rows,). Its penalty is the mean square of a row's centred counts.

    Args:
        inserts: (rows,).
        measured, folds: (rows,).
    """
    predicted = np.zeros(len(measured))
    if len(measured) < FOLDS:
        return predicted
    numbers, owners = all_windows(inserts, LETTERS)
    counts = np.zeros((len(inserts), 4**LETTERS))
    np.add.at(counts, (owners, numbers), 1)
    counts -= counts.mean(axis=0)
    similarity = counts @ counts.T
    # Inserts may have no 5-mer, or all the same ones.
    penalty = max(similarity.trace() / len(similarity), 1e-6)
    for fold in np.unique(folds):
        test, train = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        mean = measured[train].mean()
        known = similarity[np.ix_(train, train)] + penalty * np.eye(len(train))
        predicted[test] = mean + similarity[np.ix_(test, train)] @ np.linalg.solve(known, measured[train] - mean)
    return predicted


__all__ = ["compare_with_ridge", "folds_of", "rank_correlation", "ridge_predictions"]
