"""Test the k-mer ridge regression, and whether a checkpoint knows an assay better than it does."""

from collections import Counter
from itertools import product

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import mean_squared_error

from modeling_proformer import InvalidSequenceError
from modeling_proformer.training.baseline import compare_with_ridge, count_kmers, fit_ridge


@pytest.fixture
def inserts() -> list[str]:
    generator = np.random.default_rng(0)
    return ["".join(bases) for bases in generator.choice(list("ACGT"), (200, 40))]


@pytest.mark.parametrize("both_strands", [False, True])
@pytest.mark.parametrize("kmer_size", [1, 3, 4])
def test_kmers_are_counted_one_by_one(inserts, kmer_size, both_strands):
    inserts = [*inserts[:20], "ACGNACGTT", "AC", "N", "A" * 30, inserts[0].lower()]
    kmers = ["".join(kmer) for kmer in product("ACGT", repeat=kmer_size)]
    counts = count_kmers(inserts, kmer_size, both_strands)
    assert counts.shape == (len(inserts), len(kmers))
    for row, insert in zip(counts.toarray(), inserts, strict=True):
        found = kmers_of(insert.upper(), kmer_size)
        found = Counter(min(kmer, reverse_complement(kmer)) if both_strands else kmer for kmer in found)
        assert row.tolist() == [found[kmer] for kmer in kmers]


def test_counts_do_not_depend_on_the_batches(inserts, monkeypatch):
    whole = count_kmers(inserts, 5).toarray()
    monkeypatch.setattr("modeling_proformer.training.baseline.SEQUENCES_COUNTED_AT_ONCE", 7)
    np.testing.assert_array_equal(count_kmers(inserts, 5).toarray(), whole)


def test_what_cannot_be_counted_is_refused():
    with pytest.raises(ValueError, match="`kmer_size` must be 1 to 10, got 11"):
        count_kmers(["ACGT"], 11)
    with pytest.raises(InvalidSequenceError, match="'X' at position 3"):
        count_kmers(["ACGT", "ACXT"], 2)


@pytest.mark.parametrize("outputs", [1, 2])
def test_the_penalty_is_the_best_on_the_validation_rows(inserts, outputs):
    counts, measured = count_kmers(inserts, 3), np.repeat(with_motifs(inserts)[:, None], outputs, axis=1)
    measured = measured[:, 0] if outputs == 1 else measured
    train, validation = slice(0, 150), slice(150, None)
    ridge = fit_ridge(counts[train], measured[train], counts[validation], measured[validation], [0.1, 10.0, 1e5])
    predicted = {}
    for alpha in (0.1, 10.0, 1e5):
        exact = Ridge(alpha=alpha).fit(counts[train].toarray(), measured[train])
        predicted[alpha] = exact.predict(counts[validation].toarray())
    errors = {alpha: mean_squared_error(measured[validation], values) for alpha, values in predicted.items()}
    assert ridge.alpha == min(errors, key=errors.get)
    np.testing.assert_allclose(ridge.predict(counts[validation]), predicted[ridge.alpha], atol=1e-3)


def test_the_output_that_agrees_best_counts_in_either_direction(inserts):
    measured = np.arange(200.0)
    outputs = np.stack([np.ones(200), np.roll(measured, 50), -(measured**3)], axis=1)
    assert compare_with_ridge(measured, outputs, inserts, np.arange(200)).of_checkpoint == pytest.approx(1)
    assert compare_with_ridge(measured, outputs[:, :1], inserts, np.arange(200)).of_checkpoint == 0


def test_a_checkpoint_must_be_better_than_the_ridge_regression_and_than_chance(inserts):
    measured = with_motifs(inserts)
    found = compare_with_ridge(measured, measured[:, None], inserts, np.arange(200) // 2)
    assert found.of_checkpoint == pytest.approx(1)
    assert found.needed == found.of_ridge > 0.3
    noise = np.random.default_rng(5).normal(size=200)
    assert compare_with_ridge(noise, noise[:, None], inserts, np.arange(200)).needed == pytest.approx(3 / 200**0.5)


def test_homologs_do_not_predict_each_other(inserts):
    """Every sequence is there twice, with the same noise, which could be memorised."""
    twice = [insert for insert in inserts for _ in range(2)]
    noise = np.repeat(np.random.default_rng(2).normal(size=200), 2)
    of_ridge = {}
    for name, groups in (("pairs", np.repeat(np.arange(200), 2)), ("rows", np.arange(400)), ("one", np.zeros(400))):
        of_ridge[name] = compare_with_ridge(noise, noise[:, None], twice, groups).of_ridge
    assert of_ridge["pairs"] < 0.25 < 0.6 < min(of_ridge["rows"], of_ridge["one"])


@pytest.mark.parametrize("count", [2, 3])
def test_differences_in_level_between_groups_do_not_count(inserts, count):
    groups = np.arange(200) % count
    levels = 10 * np.random.default_rng(3).normal(size=count)
    measured = levels[groups] + with_motifs(inserts)
    assert compare_with_ridge(measured, np.zeros((200, 1)), inserts, groups).of_ridge > 0.1


@pytest.mark.parametrize("outputs", [1, 8])
@pytest.mark.parametrize("rows", [0, 1, 2, 4, 5, 30, 200])
def test_noise_is_not_known(inserts, rows, outputs):
    known = 0
    for seed in range(20):
        noise = np.random.default_rng(seed).normal(size=(rows, outputs + 1))
        found = compare_with_ridge(noise[:, 0], noise[:, 1:], inserts[:rows], np.arange(rows))
        known += found.of_checkpoint > found.needed
    assert known <= 1


@pytest.mark.parametrize("insert", ["ACG", "NNNNNNNN", "ACGTACGT"])
def test_nothing_is_learned_from_inserts_that_are_all_the_same(insert):
    measured = np.random.default_rng(4).normal(size=20)
    assert compare_with_ridge(measured, np.zeros((20, 1)), [insert] * 20, np.arange(20)).of_ridge == 0


def with_motifs(inserts: list[str]) -> np.ndarray:
    noise = np.random.default_rng(1).normal(size=len(inserts))
    return np.array([insert.count("GG") + insert.count("CC") for insert in inserts]) + noise


def kmers_of(insert: str, kmer_size: int) -> list[str]:
    kmers = [insert[start : start + kmer_size] for start in range(len(insert) - kmer_size + 1)]
    return [kmer for kmer in kmers if "N" not in kmer]


def reverse_complement(kmer: str) -> str:
    return kmer.translate(str.maketrans("ACGT", "TGCA"))[::-1]
