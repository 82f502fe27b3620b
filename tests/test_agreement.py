"""Whether a checkpoint knows an assay, beside what a ridge regression learns of it."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from modeling_proformer.agreement import best_rank_correlation, folds_of, ridge_rank_correlation


@pytest.fixture
def inserts() -> list[str]:
    generator = np.random.default_rng(0)
    return ["".join(letters) for letters in generator.choice(list("ACGT"), (200, 40))]


def test_the_output_that_agrees_best_counts_in_either_direction():
    measured = np.arange(6.0)
    outputs = np.stack([np.ones(6), [0, 1, 2, 3, 5, 4], -(measured**3)], axis=1)
    assert best_rank_correlation(measured, outputs) == pytest.approx(1)
    assert best_rank_correlation(measured, outputs[:, :1]) == 0
    assert best_rank_correlation(measured[:1], outputs[:1]) == 0


def test_the_ridge_regression_is_that_of_a_well_kept_library(inserts):
    """Families left out, with the penalty that the docstring names."""
    generator = np.random.default_rng(1)
    measured = np.array([insert.count("GG") + insert.count("CC") for insert in inserts]) + generator.normal(size=200)
    families = np.arange(200) // 2
    occurring = [[min(kmer, reverse_complement(kmer)) for kmer in kmers_of(insert)] for insert in inserts]
    kmers = sorted({kmer for of_insert in occurring for kmer in of_insert})
    counts = np.array([[of_insert.count(kmer) for kmer in kmers] for of_insert in occurring], dtype=float)
    counts -= counts.mean(axis=0)
    folds, predicted = folds_of(families), np.empty(200)
    assert len(np.unique(folds)) == 5 and (folds[::2] == folds[1::2]).all()
    for fold in range(5):
        train = folds != fold
        # The intercept is not penalized there, but of centred counts, here.
        ridge = Ridge(alpha=(counts**2).sum(axis=1).mean(), fit_intercept=False)
        mean = measured[train].mean()
        predicted[~train] = mean + ridge.fit(counts[train], measured[train] - mean).predict(counts[~train])
    ranks = [np.argsort(np.argsort(values)) for values in (measured, predicted)]
    found = ridge_rank_correlation(inserts, measured, families)
    assert found == pytest.approx(np.corrcoef(ranks)[0, 1]) and found > 0.3


def test_relatives_teach_nothing_of_each_other(inserts):
    """Twins with the same noise: learned by heart, they would be told."""
    twice = [insert for insert in inserts for _ in range(2)]
    noise = np.repeat(np.random.default_rng(2).normal(size=200), 2)
    assert ridge_rank_correlation(twice, noise, np.repeat(np.arange(200), 2)) < 0.25
    assert ridge_rank_correlation(twice, noise, np.arange(400)) > 0.6
    # All of one family, as variants of one promoter are.
    assert ridge_rank_correlation(twice, noise, np.zeros(400)) > 0.6


@pytest.mark.parametrize("rows", [0, 1, 4])
def test_few_rows_teach_nothing(inserts, rows):
    assert ridge_rank_correlation(inserts[:rows], np.arange(float(rows)), np.arange(rows)) == 0


def kmers_of(insert: str) -> list[str]:
    return [insert[start : start + 5] for start in range(len(insert) - 4)]


def reverse_complement(kmer: str) -> str:
    return kmer.translate(str.maketrans("ACGT", "TGCA"))[::-1]
