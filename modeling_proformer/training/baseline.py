"""Ridge regression on counts of k-mers: the baseline that a model of an assay has to beat."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import sparse

from ..data.homology import kmer_windows
from ..data.sequences import Sequences
from ..evaluation.bootstrap import usable_groups
from ..evaluation.metrics import correlation, require_scikit_learn


if TYPE_CHECKING:
    from sklearn.linear_model import Ridge


SEQUENCES_COUNTED_AT_ONCE = 8192

# The ridge regression that a checkpoint is compared with: its k-mers, and the folds of its cross-validation.
COMPARED_KMER_SIZE = 5
MAX_FOLDS = 5
# A rank correlation of more standard errors than this is not a matter of chance.
STANDARD_ERRORS_ABOVE_CHANCE = 3


class RidgeComparison(NamedTuple):
    """
    Mean rank correlations with measurements, see `compare_with_ridge`.

    Attributes:
        of_checkpoint: that of the checkpoint.
        of_ridge: that of the ridge regression.
        needed: what the checkpoint must exceed to know the assay.
    """

    of_checkpoint: float
    of_ridge: float
    needed: float


def count_kmers(inserts: Sequences | Sequence[str], kmer_size: int, both_strands: bool = False) -> sparse.csr_array:
    """
    Count the k-mers of each insert; those with an N are left out.

    Args:
        inserts: sequences without the construct's flanks.
        kmer_size: number of bases, 1 to 10.
        both_strands: count a k-mer and its reverse complement as one, the first of both in alphabetical order. By
            default, the k-mers of the strand as given are counted, because a promoter has a direction.

    Returns:
        (inserts, 4^k) of float32, in alphabetical order of the k-mers.

    Raises:
        ValueError: `kmer_size` is out of range.
        InvalidSequenceError: an insert is empty, or has a character other than A C G T U N.
    """
    if not 1 <= kmer_size <= 10:
        raise ValueError(f"`kmer_size` must be 1 to 10, got {kmer_size}.")
    encoded = Sequences.of(inserts)
    blocks = [sparse.csr_array((0, 4**kmer_size), dtype=np.float32)]
    for first in range(0, len(encoded), SEQUENCES_COUNTED_AT_ONCE):
        batch = encoded.take(slice(first, first + SEQUENCES_COUNTED_AT_ONCE))
        kmers, rows = kmer_windows(batch.to_bytes(), kmer_size, both_strands)
        ones = np.ones(len(kmers), dtype=np.float32)
        blocks.append(sparse.coo_array((ones, (rows, kmers)), shape=(len(batch), 4**kmer_size)).tocsr())
    return sparse.vstack(blocks, format="csr")


def fit_ridge(
    counts: sparse.csr_array,
    measured: np.ndarray,
    validation_counts: sparse.csr_array,
    validation_measured: np.ndarray,
    alphas: Sequence[float] = (1.0, 10.0, 100.0, 1000.0, 10_000.0),
) -> "Ridge":
    """
    Return the ridge regression whose penalty has the smallest squared error on validation rows.

    Args:
        counts: (rows, k-mers) of the training rows, see `count_kmers`.
        measured: (rows,) or (rows, outputs).
        validation_counts, validation_measured: the same of the validation rows.
        alphas: penalties to try, above 0.

    Raises:
        ImportError: scikit-learn is missing.
    """
    require_scikit_learn()
    from sklearn.linear_model import Ridge
    from sklearn.metrics import mean_squared_error

    # Sparse counts are not changed when an intercept is fitted, so they need not be copied.
    estimators = [Ridge(alpha=alpha, solver="sparse_cg", tol=1e-6, copy_X=False) for alpha in alphas]
    fitted = [ridge.fit(counts, measured) for ridge in estimators]
    return min(fitted, key=lambda ridge: mean_squared_error(validation_measured, ridge.predict(validation_counts)))


def compare_with_ridge(
    measured: np.ndarray, predicted: np.ndarray, inserts: Sequences | Sequence[str], groups: np.ndarray
) -> RidgeComparison:
    """
    Compare a checkpoint's predictions with those of a ridge regression that is cross-validated on the same rows.

    All rank correlations are means over five folds, between which no group is divided, so that differences in level
    between folds do not count. The checkpoint's is that of its best output, in either direction. The checkpoint knows
    the assay if its correlation exceeds both the ridge regression's and chance.

    Args:
        measured: (rows,) measurements of one output, of some hundred rows.
        predicted: (rows, outputs of the checkpoint).
        inserts: (rows,) sequences without the construct's flanks.
        groups: (rows,) number of each row's group.

    Raises:
        ImportError: scikit-learn is missing.
    """
    chance = STANDARD_ERRORS_ABOVE_CHANCE / math.sqrt(max(len(measured), 1))
    if len(measured) < MAX_FOLDS:
        return RidgeComparison(0.0, 0.0, chance)
    folds = _split_into_folds(groups)
    of_checkpoint = max(abs(_mean_rank_correlation(measured, values, folds)) for values in predicted.T)
    of_ridge = _mean_rank_correlation(measured, _cross_validate_ridge(inserts, measured, folds), folds)
    return RidgeComparison(of_checkpoint, of_ridge, max(of_ridge, chance))


def _split_into_folds(groups: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the training and test rows of each fold. Only a group that has most of the rows is divided."""
    require_scikit_learn()
    from sklearn.model_selection import GroupKFold

    groups = np.arange(len(groups)) if usable_groups(groups) is None else groups
    folds = GroupKFold(min(MAX_FOLDS, len(np.unique(groups))), shuffle=True, random_state=0)
    return list(folds.split(groups, groups=groups))


def _mean_rank_correlation(
    measured: np.ndarray, predicted: np.ndarray, folds: Sequence[tuple[np.ndarray, np.ndarray]]
) -> float:
    """Return the mean over the folds, weighted by their test rows; a fold without a correlation counts as 0."""
    found = [correlation(measured[test], predicted[test]).spearman_rho for _, test in folds]
    return float(np.average(np.nan_to_num(found), weights=[len(test) for _, test in folds]))


def _cross_validate_ridge(
    inserts: Sequences | Sequence[str], measured: np.ndarray, folds: Sequence[tuple[np.ndarray, np.ndarray]]
) -> np.ndarray:
    """Return what a ridge regression predicts of each fold's test rows from its training rows, (rows,)."""
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import cross_val_predict

    counts = count_kmers(inserts, COMPARED_KMER_SIZE, both_strands=True).toarray().astype(np.float64)
    # The penalty is the mean square of a row's centred counts. Inserts may have no k-mer, or all the same ones.
    penalty = max(float(counts.var(axis=0).sum()), 1e-6)
    return cross_val_predict(Ridge(alpha=penalty), counts, measured, cv=folds)


__all__ = ["RidgeComparison", "compare_with_ridge", "count_kmers", "fit_ridge"]
