"""How well a checkpoint knows an assay before it has been trained on it, beside what the assay's own rows teach."""

import numpy as np

from .homology import all_windows
from .metrics import correlation, drawn_whole


LETTERS = 5
FOLDS = 5


def best_rank_correlation(measured: np.ndarray, predicted: np.ndarray) -> float:
    """
    Highest absolute rank correlation of measurements with any output of a checkpoint; 0 where there is none.

    Args:
        measured: (rows,).
        predicted: (rows, outputs).
    """
    found = [abs(correlation(measured, values).spearman_rho) for values in predicted.T]
    return float(np.nan_to_num(found).max())


def ridge_rank_correlation(inserts: list[str], measured: np.ndarray, families: np.ndarray) -> float:
    """
    Rank correlation of measurements with what a ridge regression on 5-mers, of either strand, predicts of rows that it
    was not trained on, nor on others of their families; 0 where there is none. Its penalty is the mean square of the
    (centred) counts of a row: of few rows, the best one is hardly better.

    Args:
        inserts: (rows,).
        measured: (rows,).
        families: (rows,) number of each row's family.
    """
    if len(measured) < FOLDS:
        return 0.0
    numbers, owners = all_windows(inserts, LETTERS)
    counts = np.zeros((len(inserts), 4**LETTERS))
    np.add.at(counts, (owners, numbers), 1)
    counts -= counts.mean(axis=0)
    similarity = counts @ counts.T
    penalty = similarity.trace() / len(similarity) * np.eye(len(similarity))
    folds, predicted = folds_of(families), np.zeros(len(measured))
    for fold in np.unique(folds):
        test, train = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        mean = measured[train].mean()
        known = similarity[np.ix_(train, train)] + penalty[np.ix_(train, train)]
        predicted[test] = mean + similarity[np.ix_(test, train)] @ np.linalg.solve(known, measured[train] - mean)
    return float(np.nan_to_num(correlation(measured, predicted).spearman_rho))


def folds_of(families: np.ndarray) -> np.ndarray:
    """Number of each row's fold, (rows,), of five at most: families stay whole, unless one has most of the rows."""
    whole = drawn_whole(families)
    _, family = np.unique(np.arange(len(families)) if whole is None else whole, return_inverse=True)
    return np.random.default_rng(0).permutation(family.max() + 1)[family] % FOLDS


__all__ = ["best_rank_correlation", "ridge_rank_correlation"]
