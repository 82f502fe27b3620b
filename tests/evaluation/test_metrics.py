"""Test the agreement of predictions with measurements, and reading the challenge's test set."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import rankdata

from modeling_proformer.data.tables import InputError
from modeling_proformer.evaluation.bootstrap import (
    usable_groups,
    weighted_correlations,
)
from modeling_proformer.evaluation.dream import read_dream_test
from modeling_proformer.evaluation.metrics import (
    correlation,
    correlation_intervals,
    dream_score,
    dream_score_intervals,
    roc_auc,
)


EXAMPLE = Path(__file__).parents[2] / "examples" / "dream_score.py"
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


def public_files(shared: Path) -> tuple[Path, dict[str, Path]]:
    folder = shared / "data" / "yeast"
    return folder / "dream_public.tsv", {name: folder / f"dream_public_pairs_{name}.tsv" for name in PAIRS}


@pytest.fixture
def leaderboard(shared) -> dict:
    """The challenge's public test set, with predictions that have noise and, as they are eighths, ties."""
    test = read_dream_test(*public_files(shared))
    noise = np.random.default_rng(0).normal(scale=0.5, size=len(test.measured))
    return {
        "measured": test.measured,
        "predicted": np.round(8 * (test.measured + noise)) / 8,
        "subsets": test.subsets,
        "pairs": test.pairs,
    }


@pytest.fixture
def made_up() -> dict[str, pd.DataFrame]:
    """A made-up test set of 40 sequences, whose rows are not numbered in order, and its pairs of rows."""
    generator = np.random.default_rng(0)
    rows = generator.permutation(np.arange(500, 540))
    measured = generator.normal(size=40)
    table = {"row": rows, "sequence": ["ACGT" * 20] * 40, "expression": measured}
    table |= {name: generator.random(40) < 0.5 for name in SUBSETS}
    table |= {"predicted_expression": measured + generator.normal(size=40)}
    # Five pairs of each kind; no sequence is in two pairs.
    indices = np.arange(30).reshape(3, 5, 2)
    pairs = {name: pd.DataFrame(rows[of], columns=["row_a", "row_b"]) for name, of in zip(PAIRS, indices, strict=True)}
    return {"test": pd.DataFrame(table), **pairs}


def written(folder: Path, tables: dict[str, pd.DataFrame]) -> tuple[Path, dict[str, Path]]:
    paths = {name: folder / f"{name}.tsv" for name in tables}
    for name, table in tables.items():
        table.to_csv(paths[name], sep="\t", index=False)
    return paths.pop("test"), paths


def pearson(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x - x.mean(), y - y.mean()
    return (x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum())


def expected_correlations(measured, predicted, subsets, pairs) -> dict[str, tuple[float, float]]:
    values = {"all": (measured, predicted)}
    values |= {name: (measured[members], predicted[members]) for name, members in subsets.items()}
    # The challenge scored the differences of the pairs as they are listed.
    values |= {name: tuple(x[p[:, 1]] - x[p[:, 0]] for x in (measured, predicted)) for name, p in pairs.items()}
    return {name: (pearson(x, y), pearson(rankdata(x), rankdata(y))) for name, (x, y) in values.items()}


def test_dream_score_follows_the_formula(leaderboard):
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


def test_dream_score_does_not_depend_on_the_form_of_the_data(leaderboard):
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
        ({"pairs": {name: [[0, 1, 2]] for name in PAIRS}}, r"'snv' pairs must be \(pairs, 2\)"),
    ],
)
def test_dream_score_needs_the_challenges_subsets(changes, complaint):
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


def test_a_single_output_may_be_a_column_as_predict_returns_it():
    measured, predicted = np.array([1.0, 2.0, 3.0]), np.array([[1.0], [3.0], [2.0]])
    assert correlation(measured, predicted) == correlation(measured, predicted[:, 0])
    assert correlation(measured[:, None], predicted) == correlation(measured, predicted[:, 0])
    assert roc_auc([0, 1, 1], predicted) == roc_auc([0, 1, 1], predicted[:, 0]) == 1
    assert correlation_intervals(measured, predicted) == correlation_intervals(measured, predicted[:, 0])


@pytest.mark.parametrize(
    ("measured", "predicted", "complaint"),
    [
        ([1, 2, 3], [1, 2], r"\(3,\) and \(2,\)"),
        ([[1, 2], [2, 1]], [[1, 2], [2, 1]], "shapes"),
        ([1, 2, 3], [1, np.nan, 3], "predicted value at position 2 is nan"),
        ([1, 2, np.inf], [1, 2, 3], "measured value at position 3 is inf"),
    ],
)
def test_correlation_refuses(measured, predicted, complaint):
    with pytest.raises(ValueError, match=complaint):
        correlation(measured, predicted)


def test_the_public_test_set_is_read_completely(shared):
    table_path, pair_paths = public_files(shared)
    table = pd.read_csv(table_path, sep="\t")
    test = read_dream_test(table_path, pair_paths)
    assert test.sequences == table["sequence"].tolist()
    assert test.measured == pytest.approx(table["expression"].to_numpy(), rel=1e-15)
    assert {name: mask.sum() for name, mask in test.subsets.items()} == {name: table[name].sum() for name in SUBSETS}
    for name, path in pair_paths.items():
        assert (table["row"].to_numpy()[test.pairs[name]] == pd.read_csv(path, sep="\t").to_numpy()).all()


def test_test_set_can_be_a_parquet_file_with_other_names(made_up, tmp_path):
    expected = read_dream_test(*written(tmp_path, made_up))
    path = tmp_path / "test.parquet"
    made_up["test"].rename(columns={"sequence": "dna", "expression": "maude"}).to_parquet(path)
    found = read_dream_test(path, {name: tmp_path / f"{name}.tsv" for name in PAIRS}, "dna", "maude")
    assert found.sequences == expected.sequences
    for name, mask in expected.subsets.items():
        assert (found.subsets[name] == mask).all()
    for name, indices in expected.pairs.items():
        assert (found.pairs[name] == indices).all()
    assert dream_score(found.measured, found.measured, found.subsets, found.pairs).pearson_score == pytest.approx(1)


def change(table: str, line: int, column: str, cell):
    """Return a function that changes one cell, by its line in the file."""

    def apply(tables: dict[str, pd.DataFrame]):
        tables[table] = tables[table].astype({column: object})
        tables[table].loc[line - 2, column] = cell

    return apply


@pytest.mark.parametrize(
    ("apply", "complaint"),
    [
        (lambda tables: tables["test"].drop(columns="yeast", inplace=True), r"test\.tsv: there is no column 'yeast'"),
        (lambda tables: tables["snv"].drop(columns="row_b", inplace=True), r"snv\.tsv: there is no column 'row_b'"),
        (change("test", 7, "high", "maybe"), r"test\.tsv, line 7, column 'high': 'maybe' is neither True nor False"),
        (change("test", 8, "expression", ""), r"test\.tsv, line 8, column 'expression': the measurement is missing"),
        (
            change("test", 8, "expression", "strong"),
            r"test\.tsv, line 8, column 'expression': 'strong' is not a finite",
        ),
        (change("test", 9, "sequence", ""), r"test\.tsv, line 9, column 'sequence': the sequence is empty"),
        (change("test", 5, "row", ""), r"test\.tsv, line 5, column 'row': the row number is missing"),
        (change("snv", 4, "row_b", 999), r"snv\.tsv, line 4, column 'row_b': \S*test\.tsv has no row 999"),
        (lambda tables: tables.pop("snv"), r"test\.tsv: files of the pairs snv, .* are needed, got motif_pert"),
    ],
)
def test_errors_in_a_test_set_are_located_in_one_line(made_up, tmp_path, apply, complaint):
    apply(made_up)
    with pytest.raises(InputError, match=complaint) as caught:
        read_dream_test(*written(tmp_path, made_up))
    assert "\n" not in str(caught.value)


def test_two_rows_with_the_same_number_are_refused(made_up, tmp_path):
    change("test", 6, "row", made_up["test"]["row"][1])(made_up)
    with pytest.raises(InputError, match=r"line 6, column 'row': \d+ is already the number of line 3"):
        read_dream_test(*written(tmp_path, made_up))


def test_the_example_prints_scores_and_intervals(made_up, tmp_path, monkeypatch, capsys):
    table, pairs = written(tmp_path, made_up)
    test = read_dream_test(table, pairs)
    inputs = test.measured, made_up["test"]["predicted_expression"].to_numpy(), test.subsets, test.pairs
    score, intervals = dream_score(*inputs), dream_score_intervals(*inputs, replicates=50, seed=3)

    def run(*options: str) -> str:
        files = [argument for name, path in pairs.items() for argument in (f"--{name}", str(path))]
        monkeypatch.setattr(sys, "argv", ["dream_score.py", str(table), *files, *options])
        runpy.run_path(str(EXAMPLE), run_name="__main__")
        return capsys.readouterr().out

    plain = run()
    assert plain.splitlines()[-1] == (
        f"DREAM Pearson score {score.pearson_score:.4f}, Spearman score {score.spearman_score:.4f}"
    )
    printed = run("--bootstrap", "50", "--seed", "3")
    assert printed.startswith(plain)
    for name, (pearson, spearman) in {**intervals.subsets, "DREAM score": intervals[:2]}.items():
        ends = [f"{low:.4f} to {high:.4f}" for low, high in (pearson, spearman)]
        assert any(line.startswith(name) and all(end in line for end in ends) for line in printed.splitlines())
    with pytest.raises(SystemExit) as stopped:
        run("--predicted", "no_such")
    assert stopped.value.code.startswith(f"dream_score.py: {table}: there is no column 'no_such'")
    assert "\n" not in stopped.value.code


def test_the_example_tells_how_many_measurements_the_intervals_cover(made_up, tmp_path, monkeypatch, capsys):
    """Measurements of noisy rows, on a scale of their own, are covered as often as on that of the predictions."""
    generator = np.random.default_rng(1)
    predicted, noise = generator.normal(9, 2, 40), generator.normal(0, 3, 40)
    # Noise that has nothing to do with the predictions, in these rows too.
    noise -= np.poly1d(np.polyfit(predicted, noise, deg=1))(predicted)
    columns = {"expression": (predicted + noise - 9) / 4, "predicted_expression": predicted}
    columns |= {"predicted_expression_low": predicted - 3, "predicted_expression_high": predicted + 3}
    made_up["test"] = made_up["test"].assign(**columns)
    table, pairs = written(tmp_path, made_up)
    files = [argument for name, path in pairs.items() for argument in (f"--{name}", str(path))]
    monkeypatch.setattr(sys, "argv", ["dream_score.py", str(table), *files, "--intervals"])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    covered = np.mean(np.abs(noise) < 3)
    assert 0.4 < covered < 0.9
    assert capsys.readouterr().out.endswith(f"The intervals cover {covered:.3f} of the measurements.\n")


def test_a_replicate_is_the_correlation_of_the_drawn_values():
    generator = np.random.default_rng(0)
    # Values in eighths have ties.
    measured, predicted = np.round(8 * generator.normal(size=(2, 50))) / 8 + [[1e3], [0]]
    counts = generator.multinomial(50, np.full(50, 1 / 50), size=20)
    found = weighted_correlations(measured, predicted, counts)
    for row, drawn in zip(found, counts, strict=True):
        again = correlation(np.repeat(measured, drawn), np.repeat(predicted, drawn))
        assert row == pytest.approx(again[:2], abs=1e-9)


def test_correlation_intervals_cover_the_truth_as_often_as_they_say():
    """The values are normal with r = 0.6, for which ρ is known."""
    truth = 0.6, 6 / np.pi * np.arcsin(0.6 / 2)
    generator = np.random.default_rng(0)
    covered = np.zeros((200, 2))
    for trial in covered:
        measured, noise = generator.normal(size=(2, 100))
        intervals = correlation_intervals(measured, 0.6 * measured + 0.8 * noise, replicates=300, confidence_level=0.9)
        trial[:] = [low <= true <= high for (low, high), true in zip(intervals, truth, strict=True)]
    # Three standard errors around 90 %, less what the percentile bootstrap falls short at a hundred values.
    assert (covered.mean(axis=0) > 0.82).all()
    assert (covered.mean(axis=0) < 0.97).all()


def test_dream_intervals_cover_the_truth_as_often_as_they_say():
    """As above. All subsets are alike, so the scores are r² and ρ; there are 200 groups of two."""
    truth = 0.6**2, 6 / np.pi * np.arcsin(0.6 / 2)
    generator = np.random.default_rng(0)
    subsets = {name: np.arange(first, 400, 3) for first, name in enumerate(SUBSETS[:3])}
    subsets |= {name: np.arange(400) < 150 for name in SUBSETS[3:]}
    pairs = {name: np.arange(400).reshape(2, 200).T for name in PAIRS}
    covered = np.zeros((80, 2))
    for trial in covered:
        measured, noise = generator.normal(size=(2, 400))
        found = dream_score_intervals(measured, 0.6 * measured + 0.8 * noise, subsets, pairs, replicates=100)
        trial[:] = [low <= true <= high for (low, high), true in zip(found[:2], truth, strict=True)]
    # Three standard errors below 95 %, less what a hundred replicates fall short.
    assert (covered.mean(axis=0) > 0.84).all()


def test_correlation_intervals_account_for_groups():
    """Ten copies of a sequence carry the information of one."""
    measured, noise = np.random.default_rng(0).normal(size=(2, 60))
    predicted = measured + noise
    copies = np.repeat(measured, 10), np.repeat(predicted, 10)
    groups = np.repeat([f"group {number}" for number in range(60)], 10)
    options = {"replicates": 300, "seed": 1}
    honest = np.ravel(correlation_intervals(*copies, groups, **options))
    assert honest == pytest.approx(np.ravel(correlation_intervals(measured, predicted, **options)), abs=0.05)
    ignorant = np.ravel(correlation_intervals(*copies, **options))
    assert (ignorant[1::2] - ignorant[::2] < 0.5 * (honest[1::2] - honest[::2])).all()
    # One group says nothing about others.
    assert np.isnan(correlation_intervals(measured, predicted, np.zeros(60))).all()


def test_intervals_lie_around_the_estimate_and_depend_on_the_seed(leaderboard):
    score = dream_score(**leaderboard)
    intervals = dream_score_intervals(**leaderboard, replicates=200)
    assert intervals.subsets.keys() == score.subsets.keys()
    for name, estimate in score.subsets.items():
        for interval, value in zip(intervals.subsets[name], estimate[:2], strict=True):
            assert interval.low < value < interval.high, name
            # The width of the normal approximation, which ignores groups.
            width = 2 * 1.96 * (1 - value**2) / np.sqrt(estimate.count)
            assert 0.3 < (interval.high - interval.low) / width < 3, name
    for interval, value in zip(intervals[:2], score[:2], strict=True):
        assert interval.low < value < interval.high
        assert 0.01 < interval.high - interval.low < 0.1
    assert dream_score_intervals(**leaderboard, replicates=200) == intervals
    assert dream_score_intervals(**leaderboard, replicates=200, seed=1) != intervals


def test_more_confidence_gives_a_wider_interval():
    measured, noise = np.random.default_rng(0).normal(size=(2, 50))
    narrow, wide = (correlation_intervals(measured, measured + noise, confidence_level=level) for level in (0.5, 0.99))
    for inner, outer in zip(narrow, wide, strict=True):
        assert outer.low < inner.low < inner.high < outer.high


@pytest.mark.filterwarnings("error")
def test_intervals_of_very_few_values():
    for measured, predicted in (([], []), ([1], [2]), ([3, 3, 3], [1, 2, 3])):
        assert np.isnan(correlation_intervals(measured, predicted)).all()
    # In a ninth of the replicates of three values, all three draws are the same.
    for interval in correlation_intervals([0.1, 0.2, 0.3], [0.1, 0.3, 0.2]):
        assert interval == pytest.approx((-1, 1))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"replicates": 0}, "replicate"),
        ({"confidence_level": 95}, "confidence level"),
        ({"groups": [1, 2]}, "2 for 3 sequences"),
    ],
)
def test_intervals_refuse(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        correlation_intervals([1, 2, 3], [1, 3, 2], **options)


def test_a_group_with_most_rows_is_not_drawn_whole():
    groups = np.array([0] * 60 + list(range(1, 41)))
    assert usable_groups(groups) is None
    np.testing.assert_array_equal(usable_groups(groups[30:]), groups[30:])
