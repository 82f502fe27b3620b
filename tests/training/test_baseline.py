"""Whether a checkpoint knows an assay, beside what a ridge regression learns of it."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from modeling_proformer.training.baseline import compare_with_ridge, folds_of, rank_correlation, ridge_predictions


@pytest.fixture
def inserts() -> list[str]:
    generator = np.random.default_rng(0)
    return ["".join(letters) for letters in generator.choice(list("ACGT"), (200, 40))]


def test_the_output_that_agrees_best_counts_in_either_direction(inserts):
    measured = np.arange(200.0)
    outputs = np.stack([np.ones(200), np.roll(measured, 50), -(measured**3)], axis=1)
    assert compare_with_ridge(measured, outputs, inserts, np.arange(200))[0] == pytest.approx(1)
    assert compare_with_ridge(measured, outputs[:, :1], inserts, np.arange(200))[0] == 0


def test_the_ridge_regression_is_that_of_a_well_kept_library(inserts):
    """With the penalty that the docstring names."""
    measured = with_motifs(inserts)
    occurring = [[min(kmer, reverse_complement(kmer)) for kmer in kmers_of(insert)] for insert in inserts]
    kmers = sorted({kmer for of_insert in occurring for kmer in of_insert})
    counts = np.array([[of_insert.count(kmer) for kmer in kmers] for of_insert in occurring], dtype=float)
    counts -= counts.mean(axis=0)
    families = np.arange(200) // 2
    folds, expected = folds_of(families), np.empty(200)
    assert len(np.unique(folds)) == 5 and (folds[::2] == folds[1::2]).all()
    for fold in range(5):
        train = folds != fold
        ridge = Ridge(alpha=(counts**2).sum(axis=1).mean(), fit_intercept=False)
        mean = measured[train].mean()
        expected[~train] = mean + ridge.fit(counts[train], measured[train] - mean).predict(counts[~train])
    np.testing.assert_allclose(ridge_predictions(inserts, measured, folds), expected)
    assert rank_correlation(measured, expected, folds) > 0.3


def test_relatives_teach_nothing_of_each_other(inserts):
    """Twins with the same noise: learned by heart, they would be told."""
    twice = [insert for insert in inserts for _ in range(2)]
    noise = np.repeat(np.random.default_rng(2).normal(size=200), 2)
    taught = {}
    for name, families in (("twins", np.repeat(np.arange(200), 2)), ("rows", np.arange(400)), ("one", np.zeros(400))):
        _, taught[name], _ = compare_with_ridge(noise, noise[:, None], twice, families)
    assert taught["twins"] < 0.25 < 0.6 < min(taught["rows"], taught["one"])


@pytest.mark.parametrize("families", [2, 3])
def test_how_families_differ_from_each_other_does_not_count(inserts, families):
    family = np.arange(200) % families
    levels = 10 * np.random.default_rng(3).normal(size=families)
    measured = levels[family] + with_motifs(inserts)
    _, taught, _ = compare_with_ridge(measured, np.zeros((200, 1)), inserts, family)
    assert taught > 0.1


@pytest.mark.parametrize("outputs", [1, 8])
@pytest.mark.parametrize("rows", [0, 1, 2, 4, 5, 30, 200])
def test_nothing_is_known_by_chance(inserts, rows, outputs):
    known = 0
    for seed in range(20):
        noise = np.random.default_rng(seed).normal(size=(rows, outputs + 1))
        agreement, _, needed = compare_with_ridge(noise[:, 0], noise[:, 1:], inserts[:rows], np.arange(rows))
        known += agreement > needed
    assert known <= 1


@pytest.mark.parametrize("insert", ["ACG", "NNNNNNNN", "ACGTACGT"])
def test_inserts_that_are_all_alike_teach_nothing(insert):
    measured = np.arange(20.0)
    assert ridge_predictions([insert] * 20, measured, np.arange(20) % 5) == pytest.approx(9.5, abs=3)


def with_motifs(inserts: list[str]) -> np.ndarray:
    noise = np.random.default_rng(1).normal(size=len(inserts))
    return np.array([insert.count("GG") + insert.count("CC") for insert in inserts]) + noise


def kmers_of(insert: str) -> list[str]:
    return [insert[start : start + 5] for start in range(len(insert) - 4)]


def reverse_complement(kmer: str) -> str:
    return kmer.translate(str.maketrans("ACGT", "TGCA"))[::-1]
