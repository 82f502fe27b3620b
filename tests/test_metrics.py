"""Agreement of predictions with measurements."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import rankdata

from modeling_proformer.metrics import correlation, dream_score


WEIGHTS = {
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
SUBSETS = ("high", "low", "yeast", "random", "challenging")
PAIRS = ("snv", "motif_perturbation", "motif_tiling")


@pytest.fixture
def leaderboard(shared) -> dict:
    """The challenge's public test set, with a predictor that is right but for noise and, in eighths, for ties."""
    folder = shared / "data" / "yeast"
    table = pd.read_csv(folder / "dream_public.tsv", sep="\t")
    place = pd.Series(np.arange(len(table)), index=table["row"])
    noise = np.random.default_rng(0).normal(scale=0.5, size=len(table))
    pairs = {name: pd.read_csv(folder / f"dream_public_pairs_{name}.tsv", sep="\t") for name in PAIRS}
    return {
        "measured": table["expression"].to_numpy(),
        "predicted": np.round(8 * (table["expression"].to_numpy() + noise)) / 8,
        "subsets": {name: table[name].to_numpy() for name in SUBSETS},
        "pairs": {name: place[pair.to_numpy().ravel()].to_numpy().reshape(-1, 2) for name, pair in pairs.items()},
    }


def pearson(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x - x.mean(), y - y.mean()
    return (x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum())


def expected_correlations(measured, predicted, subsets, pairs) -> dict[str, tuple[float, float]]:
    values = {"all": (measured, predicted)}
    values |= {name: (measured[members], predicted[members]) for name, members in subsets.items()}
    # As the challenge scored them: the differences of the pairs as they are listed.
    values |= {name: tuple(x[p[:, 1]] - x[p[:, 0]] for x in (measured, predicted)) for name, p in pairs.items()}
    return {name: (pearson(x, y), pearson(rankdata(x), rankdata(y))) for name, (x, y) in values.items()}


def test_dream_score_is_that_of_the_formula(leaderboard):
    expected = expected_correlations(**leaderboard)
    score = dream_score(**leaderboard)
    found = {name: (subset.pearson_r, subset.spearman_rho) for name, subset in score.subsets.items()}
    assert found.keys() == expected.keys()
    for name in expected:
        assert found[name] == pytest.approx(expected[name], abs=1e-12), name
    assert score.subsets["snv"].count == 4670
    assert score.subsets["high"].count == leaderboard["subsets"]["high"].sum()
    assert score.pearson_score == pytest.approx(sum(WEIGHTS[name] * r**2 for name, (r, _) in expected.items()) / 4.65)
    assert score.spearman_score == pytest.approx(
        sum(WEIGHTS[name] * rho for name, (_, rho) in expected.items()) / 4.65
    )


def test_dream_score_of_perfect_predictions_is_one_on_any_rising_scale(leaderboard):
    score = dream_score(**leaderboard | {"predicted": 40 * leaderboard["measured"] - 7})
    assert score.pearson_score == pytest.approx(1)
    assert score.spearman_score == pytest.approx(1)


def test_dream_score_does_not_depend_on_how_the_data_are_written(leaderboard):
    score = dream_score(**leaderboard)
    shuffled = np.random.default_rng(1)
    for name, variant in {
        "predictions on another scale": {"predicted": 0.25 * leaderboard["predicted"] + 8},
        "subsets as indices": {
            "subsets": {name: np.flatnonzero(mask) for name, mask in leaderboard["subsets"].items()}
        },
        "pairs in another order": {
            "pairs": {name: shuffled.permutation(p) for name, p in leaderboard["pairs"].items()}
        },
        "reference before alternate": {"pairs": {name: p[:, ::-1] for name, p in leaderboard["pairs"].items()}},
    }.items():
        assert dream_score(**leaderboard | variant)[:2] == pytest.approx(score[:2], abs=1e-9), name


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"subsets": {"high": [0, 1]}}, "low"),
        ({"pairs": {}}, "motif_tiling"),
        ({"pairs": {"unheard_of": [[0, 1]]}}, "unheard_of"),
    ],
)
def test_dream_score_wants_the_challenges_subsets(changes, complaint):
    complete = {
        "subsets": {name: [0, 1, 2] for name in SUBSETS},
        "pairs": {name: [[0, 1], [0, 2]] for name in PAIRS},
    }
    measured = np.array([0.0, 1.0, 3.0])
    assert dream_score(measured, measured, **complete).pearson_score == pytest.approx(1)
    with pytest.raises(ValueError, match=complaint):
        dream_score(measured, measured, **complete | changes)


def test_dream_score_names_the_subset_that_has_no_correlation():
    measured = np.array([0.0, 1.0, 3.0])
    subsets = {name: [0, 1, 2] for name in SUBSETS} | {"high": [1]}
    with pytest.raises(ValueError, match="'high' has no correlation"):
        dream_score(measured, measured, subsets, {name: [[0, 1], [0, 2]] for name in PAIRS})


def test_correlation_by_hand():
    assert correlation([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx((0.8, 0.8, 4))
    # A monotone curve has ρ = 1; ties share their mean rank: ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4.
    assert correlation([1, 2, 3, 4], [1, 10, 100, 1000]).spearman_rho == pytest.approx(1)
    assert correlation([1, 2, 3, 4], [0, 5, 5, 9]).spearman_rho == pytest.approx(4.5 / np.sqrt(4.5 * 5))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("measured", "predicted"), [([], []), ([1], [2]), ([3, 3, 3], [1, 2, 3]), ([1, 2], [5, 5])])
def test_correlation_that_is_not_defined_is_nan(measured, predicted):
    pearson_r, spearman_rho, count = correlation(measured, predicted)
    assert np.isnan([pearson_r, spearman_rho]).all()
    assert count == len(measured)


@pytest.mark.parametrize(
    ("measured", "predicted", "complaint"),
    [
        ([1, 2, 3], [1, 2], r"\(3,\) and \(2,\)"),
        ([[1], [2]], [[1], [2]], "shapes"),
        ([1, 2, 3], [1, np.nan, 3], "predicted value at position 2 is nan"),
        ([1, 2, np.inf], [1, 2, 3], "measured value at position 3 is inf"),
    ],
)
def test_correlation_refuses(measured, predicted, complaint):
    with pytest.raises(ValueError, match=complaint):
        correlation(measured, predicted)
