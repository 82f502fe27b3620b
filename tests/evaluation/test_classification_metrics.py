"""Agreement of classes with predicted probabilities and classes."""

import sys

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, roc_auc_score, roc_curve

from modeling_proformer.evaluation.bootstrap import (
    weighted_accuracies,
    weighted_roc_auc,
)
from modeling_proformer.evaluation.metrics import (
    accuracy,
    accuracy_intervals,
    roc_auc,
    roc_auc_interval,
    roc_points,
)


def classified(rows: int, seed: int, separation: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Return classes, a third of them 1, and scores that are `separation` standard deviations higher for class 1."""
    generator = np.random.default_rng(seed)
    measured = (generator.random(rows) < 1 / 3).astype(float)
    return measured, generator.normal(size=rows) + separation * measured


@pytest.mark.parametrize("seed", range(5))
def test_roc_auc_equals_that_of_scikit_learn(seed):
    measured, predicted = classified(200, seed)
    for scores in (predicted, np.round(predicted), 1 / (1 + np.exp(-predicted)), np.zeros(200)):
        assert roc_auc(measured, scores) == pytest.approx(roc_auc_score(measured, scores), abs=1e-12)


def test_a_replicates_roc_auc_is_that_of_the_drawn_values():
    measured, predicted = classified(50, 0)
    predicted = np.round(4 * predicted) / 4
    counts = np.random.default_rng(1).multinomial(50, np.full(50, 1 / 50), size=20)
    for (found,), drawn in zip(weighted_roc_auc(measured, predicted, counts), counts, strict=True):
        expected = roc_auc_score(np.repeat(measured, drawn), np.repeat(predicted, drawn))
        assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("measured", "predicted"), [([], []), ([1], [0.3]), ([0, 0, 0], [0.1, 0.2, 0.3])])
def test_roc_auc_of_one_class_is_nan(measured, predicted):
    assert np.isnan(roc_auc(measured, predicted))
    assert np.isnan(roc_auc_interval(measured, predicted)).all()
    assert [len(rates) for rates in roc_points(measured, predicted)] == [0, 0]


@pytest.mark.parametrize(
    ("measured", "predicted", "complaint"),
    [
        ([0, 1, 1], [1, 2], r"\(3,\) and \(2,\)"),
        ([0, 1, 1], [1, np.inf, 3], "predicted value at position 2 is inf"),
        ([0, 1, 0.5], [1, 2, 3], "measured value at position 3 is 0.5, neither 0 nor 1"),
    ],
)
def test_roc_auc_refuses(measured, predicted, complaint):
    for function in (roc_auc, roc_auc_interval, roc_points):
        with pytest.raises(ValueError, match=complaint):
            function(measured, predicted)


def test_roc_auc_intervals_cover_the_truth_as_often_as_they_say():
    truth = roc_auc(*classified(200_000, 0))
    found = [roc_auc_interval(*classified(100, seed), replicates=200, confidence_level=0.9) for seed in range(1, 201)]
    # Three standard errors around 90 %, less what the percentile bootstrap falls short at a hundred values.
    assert 0.82 < np.mean([low <= truth <= high for low, high in found]) < 0.97


def test_roc_auc_intervals_account_for_groups():
    measured, predicted = classified(60, 0)
    copies = np.repeat(measured, 10), np.repeat(predicted, 10)
    groups = np.repeat([f"group {number}" for number in range(60)], 10)
    options = {"replicates": 300, "seed": 1}
    alone, honest = roc_auc_interval(measured, predicted, **options), roc_auc_interval(*copies, groups, **options)
    assert honest == pytest.approx(alone, abs=0.03)
    ignorant = roc_auc_interval(*copies, **options)
    assert ignorant.high - ignorant.low < 0.5 * (honest.high - honest.low)
    assert np.isnan(roc_auc_interval(measured, predicted, np.zeros(60))).all()
    with pytest.raises(ValueError, match="2 for 60 sequences"):
        roc_auc_interval(measured, predicted, groups=[1, 2])


def test_roc_points_are_those_of_scikit_learn():
    measured, predicted = classified(200, 0)
    false, true, _ = roc_curve(measured, predicted)
    np.testing.assert_array_equal(roc_points(measured, predicted), (false, true))


def test_roc_auc_without_scikit_learn_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match=r"scikit-learn: pip install 'modeling-proformer\[train\]'"):
        roc_auc([0, 1], [0, 1])


def test_accuracies_are_those_of_scikit_learn_in_every_replicate():
    generator = np.random.default_rng(0)
    measured = generator.choice(4, 60, p=[0.6, 0.2, 0.15, 0.05])
    predicted = np.where(generator.random(60) < 0.6, measured, generator.integers(0, 4, 60))
    counts = generator.integers(0, 3, (50, 60))
    assert accuracy(measured, predicted) == pytest.approx(
        (accuracy_score(measured, predicted), balanced_accuracy_score(measured, predicted))
    )
    lacking = 0
    for found, drawn in zip(weighted_accuracies(measured, predicted, counts), counts, strict=True):
        repeated = np.repeat(measured, drawn), np.repeat(predicted, drawn)
        recalls = [np.mean(repeated[1][repeated[0] == number] == number) for number in set(repeated[0])]
        lacking += len(recalls) < 4
        assert found == pytest.approx([accuracy_score(*repeated), np.mean(recalls)])
    assert 0 < lacking < 50
    low, high = accuracy_intervals(measured, predicted, groups=np.arange(60) // 2).balanced_accuracy
    assert 0.3 < low < accuracy(measured, predicted).balanced_accuracy < high < 1


@pytest.mark.filterwarnings("error")
def test_accuracies_of_no_sequences_are_nan():
    assert np.isnan(accuracy([], [])).all()
    assert np.isnan(accuracy_intervals([], [])).all()
