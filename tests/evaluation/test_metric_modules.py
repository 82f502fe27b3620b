"""Test the metrics as the evaluate library opens them, without a network."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from modeling_proformer.evaluation.metrics import DREAM_PAIRS, DREAM_SUBSETS, correlation, dream_score, metric_module


NAMES = ("pearson_r", "spearman_rho", "dream_score")

# This runs in its own process, because evaluate replaces the transformers library by a stand-in, which other tests
# would find.
SESSION = """
import json
import sys

import evaluate
import numpy as np

from modeling_proformer.evaluation.metrics import metric_module

given = {name: np.array(values) for name, values in json.load(sys.stdin).items()}
measured, predicted = given.pop("measured"), given.pop("predicted")
pairs = {name: given.pop(name) for name in ("snv", "motif_perturbation", "motif_tiling")}
test = {"subsets": given, "pairs": pairs}
inputs = {"predictions": predicted, "references": measured}


def message_of(compute, **inputs):
    try:
        return compute(**inputs)
    except ValueError as error:
        return str(error)


def load(name, **options):
    return evaluate.load(str(metric_module(name)), **options)


found = {name: load(name).compute(**inputs) for name in ("pearson_r", "spearman_rho")}
found["dream_score"] = load("dream_score").compute(**inputs, **test)
found["dream_score, test set given on loading"] = load("dream_score", **test).compute(**inputs)

for name, options in {"pearson_r": {}, "spearman_rho": {}, "dream_score": test}.items():
    metric = load(name, **options)
    for rows in np.array_split(np.arange(len(measured)), 3):
        metric.add_batch(predictions=predicted[rows].astype(np.float32), references=measured[rows].tolist())
    found[f"{name}, in batches"] = metric.compute()

combined = evaluate.combine([load("pearson_r"), str(metric_module("spearman_rho")), load("dream_score", **test)])
combined.add_batch(**inputs)
found["combined"] = combined.compute()

with_missing = {"predictions": [1, 2, 5, 3], "references": [1, 2, -100, 4]}
columns = {name: np.array(values, dtype=float)[:, None] for name, values in with_missing.items()}
nan = {**with_missing, "references": [1, 2, float("nan"), 4]}
for name in ("pearson_r", "spearman_rho"):
    found[f"{name}, missing"] = [
        load(name).compute(**given)[name]
        for given in (with_missing, nan, columns, {**columns, "references": with_missing["references"]})
    ]
found["dream_score of a column"] = load("dream_score", **test).compute(
    predictions=predicted[:, None], references=measured
)
found["a missing DREAM reference"] = message_of(
    load("dream_score", **test).compute, predictions=predicted, references=np.where(measured > 1, -100, measured)
)
constant = np.ones(len(measured))
metric = load("pearson_r")
found["constant predictions"] = [
    load(name).compute(predictions=constant, references=measured) for name in ("pearson_r", "spearman_rho")
]
score = load("dream_score", **test)
found["a constant DREAM prediction"] = message_of(score.compute, predictions=constant, references=measured)
found["no subsets"] = message_of(load("dream_score").compute, **inputs)
predicted[2] = np.nan
found["a prediction of NaN"] = message_of(metric.compute, **inputs)
predicted[2] = 0
found["after an error"] = metric.compute(predictions=measured, references=measured)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def given() -> dict:
    generator = np.random.default_rng(0)
    measured = generator.normal(size=60)
    predicted = np.float32(measured + generator.normal(size=60)).astype(float)
    subsets = {name: generator.random(60) < 0.5 for name in DREAM_SUBSETS}
    pairs = {name: generator.integers(60, size=(20, 2)) for name in DREAM_PAIRS}
    return {"measured": measured, "predicted": predicted, **subsets, **pairs}


@pytest.fixture(scope="module")
def found(given, tmp_path_factory) -> dict:
    home = tmp_path_factory.mktemp("home")
    environment = os.environ | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "HF_EVALUATE_OFFLINE": "1"}
    # It runs in another folder, so that no metric is found by its name alone.
    session = subprocess.run(
        [sys.executable, "-c", SESSION],
        input=json.dumps({name: values.tolist() for name, values in given.items()}),
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=home,
        env=environment,
    )
    assert session.returncode == 0, session.stderr
    return json.loads(session.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def expected(given) -> dict:
    score = dream_score(
        given["measured"],
        given["predicted"],
        {name: given[name] for name in DREAM_SUBSETS},
        {name: given[name] for name in DREAM_PAIRS},
    )
    agreement = correlation(given["measured"], given["predicted"])
    return {
        "pearson_r": {"pearson_r": agreement.pearson_r},
        "spearman_rho": {"spearman_rho": agreement.spearman_rho},
        "dream_score": {"pearson_score": score.pearson_score, "spearman_score": score.spearman_score}
        | {f"pearson_r_{name}": subset.pearson_r for name, subset in score.subsets.items()}
        | {f"spearman_rho_{name}": subset.spearman_rho for name, subset in score.subsets.items()},
    }


@pytest.mark.parametrize("name", NAMES)
def test_metrics_equal_those_of_the_package_at_once_or_in_batches(name, found, expected):
    assert found[name] == pytest.approx(expected[name])
    assert found[f"{name}, in batches"] == pytest.approx(expected[name])


def test_a_missing_reference_does_not_count_and_a_single_output_may_be_a_column(found):
    assert found["pearson_r, missing"] == pytest.approx([np.corrcoef([1, 2, 3], [1, 2, 4])[0, 1]] * 4)
    assert found["pearson_r, missing"][0] == pytest.approx(0.98, abs=0.005)
    assert found["spearman_rho, missing"] == pytest.approx([1] * 4)
    assert found["dream_score of a column"] == found["dream_score"]
    assert found["a missing DREAM reference"].startswith("A reference is missing (-100 or NaN), but the DREAM score")


def test_the_test_set_can_be_given_on_loading(found):
    assert found["dream_score, test set given on loading"] == found["dream_score"]


def test_metrics_combine(found, expected):
    assert found["combined"] == pytest.approx(
        expected["pearson_r"] | expected["spearman_rho"] | expected["dream_score"]
    )


def test_values_without_a_correlation_give_nan_or_an_error(found):
    assert [list(answer) for answer in found["constant predictions"]] == [["pearson_r"], ["spearman_rho"]]
    assert np.isnan([value for answer in found["constant predictions"] for value in answer.values()]).all()
    assert "'all' has no correlation" in found["a constant DREAM prediction"]
    assert "needs `subsets` and `pairs`" in found["no subsets"]
    assert found["a prediction of NaN"] == "The predicted value at position 3 is nan, which is not a finite number."
    assert found["after an error"] == {"pearson_r": pytest.approx(1)}


def test_a_module_is_found_by_its_name():
    for name in NAMES:
        assert {path.name for path in metric_module(name).iterdir() if path.is_file()} == {f"{name}.py", "README.md"}
    with pytest.raises(
        ValueError, match=r"no metric 'accuracy'; choose one of dream_score, pearson_r, spearman_rho\."
    ):
        metric_module("accuracy")


def test_the_cards_name_what_the_metrics_return(found):
    for name in NAMES:
        card = (metric_module(name) / "README.md").read_text(encoding="utf-8")
        assert f'metric_module("{name}")' in card
        assert all(f"`{key}`" in card for key in list(found[name])[:2])
