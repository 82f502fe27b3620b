"""Every number next to a fine-tuned model is that of its rows, and the card's examples and commands run."""

import json
import re
import shlex
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from datasets import Dataset
from datasets.table import InMemoryTable
from fresh_process import make_python_without_package, run
from huggingface_hub import ModelCard
from matplotlib.image import imread
from sklearn.metrics import roc_auc_score
from tiny import TINY

from modeling_proformer import (
    ProformerConfig,
    ProformerForSequenceClassification,
    ProformerTokenizer,
    PromoterExpressionPipeline,
    checkpoint_path,
    predict,
)
from modeling_proformer.cli import parse
from modeling_proformer.data.assay import Assay
from modeling_proformer.data.config import DataConfig
from modeling_proformer.data.sequences import Sequences
from modeling_proformer.data.sources import SourceTable
from modeling_proformer.data.splits import ThreeWaySplit
from modeling_proformer.data.tables import InputError
from modeling_proformer.evaluation import report
from modeling_proformer.evaluation.cards import card_data, eval_results, render_card
from modeling_proformer.evaluation.metrics import correlation, correlation_intervals, roc_auc_interval
from modeling_proformer.evaluation.report import best_step, describe_checkpoint, write_report
from modeling_proformer.intervals import half_widths, prediction_interval
from modeling_proformer.loading import load_checkpoint


ROWS = 300
SPLIT = ThreeWaySplit(np.arange(200), np.arange(200, 250), np.arange(250, ROWS))
GROUPS = np.arange(ROWS) // 2
LOG = [
    {"step": 10, "loss": 1.2},
    {"step": 10, "eval_score": float("nan"), "eval_loss": 1.1},
    {"step": 20, "loss": 0.8},
    {"step": 20, "eval_score": 0.6, "eval_loss": 0.4},
    {"step": 30, "loss": 0.7},
    {"step": 30, "eval_score": 0.7, "eval_loss": 0.5},
    {"step": 30, "train_loss": 0.9},
]
OPTIONS = {"sequence": "construct", "method": "full", "layer_decay": 0.8, "seed": 0, "keep": 0.6, "split_by": "random"}
OFF = dict.fromkeys(["weight", "standard_error", "from_scratch", "bf16"])


class FineTuned(NamedTuple):
    model: ProformerForSequenceClassification
    assay: Assay
    predicted: np.ndarray


def fine_tuned(measured: np.ndarray, predicted: np.ndarray, data: DataConfig, **config) -> FineTuned:
    """Return a model that was never trained, and made-up predictions of the rows held out."""
    generator = np.random.default_rng(1)
    config = ProformerConfig(**TINY, id2label=dict(enumerate(data.outputs)), **config)
    predicted = predicted.copy()
    predicted[SPLIT.train] = np.nan
    if config.problem_type == "regression":
        config.interval_half_widths = half_widths(measured[SPLIT.validation], predicted[SPLIT.validation], config)
    model = ProformerForSequenceClassification(config).eval()
    model.name_or_path = str(checkpoint_path())
    inserts = ["".join(generator.choice(list("ACGT"), size=12)) for _ in range(ROWS)]
    sequences = [f"ACGTACGT{insert}TTGACCAA" for insert in inserts]
    assay = Assay(
        config=data,
        sources=[SourceTable("/home/somebody/data/liver MPRA.tsv.gz", 1, ROWS, 0, "")],
        table=Dataset(
            InMemoryTable(pa.table({"sequence": sequences, "location": [f"line {row + 2}" for row in range(ROWS)]}))
        ),
        source_of=np.zeros(ROWS, dtype=np.int32),
        labels=measured,
        weights=None,
        inserts=Sequences.encode(inserts),
        tokenizer=ProformerTokenizer(3, 1, 12, "ACGTACGT", "TTGACCAA", missing_flanks="cut"),
        groups=GROUPS,
        split=SPLIT,
        test_homologs=3,
        findings=["300 rows have measurements.", "Trimmed: the 5′ flank ACGTACGT.\nAnd the 3′ flank TTGACCAA."],
    )
    return FineTuned(model, assay, predicted)


def regression(outputs: int = 2, **config) -> FineTuned:
    """Two of three measurements are there; the second output has only one in the test rows."""
    generator = np.random.default_rng(0)
    truth, noise = generator.normal(size=(2, ROWS, outputs))
    measured = np.where(generator.random((ROWS, outputs)) < 2 / 3, truth, np.nan)
    measured[SPLIT.test[1:], 1:2], measured[SPLIT.test[0], 1:2] = np.nan, 0.25
    predicted = truth + 0.5 * noise
    if config.get("label_transform"):
        measured, predicted = np.exp(measured), np.exp(predicted)
    data = DataConfig(sequence="construct", targets=[f"cell|type_{number}" for number in range(outputs)])
    return fine_tuned(measured, predicted, data, **config)


def classification() -> FineTuned:
    generator = np.random.default_rng(0)
    measured = (generator.random((ROWS, 1)) < 0.3).astype(float)
    predicted = 1 / (1 + np.exp(-(generator.normal(size=(ROWS, 1)) + 2 * measured - 1)))
    data = DataConfig(sequence="construct", targets=["active"])
    return fine_tuned(measured, predicted, data, problem_type="multi_label_classification")


def sorted_into_bins() -> FineTuned:
    generator = np.random.default_rng(0)
    reads = generator.integers(0, 9, size=(ROWS, 4)).astype(float)
    data = DataConfig(sequence="construct", targets=["b0", "b1", "b2", "b3"], bins=[0, 1, 2, 3])
    mean_bins = (reads @ np.arange(4) / reads.sum(axis=1))[:, None]
    predicted = mean_bins + 0.3 * generator.normal(size=(ROWS, 1))
    found = fine_tuned(mean_bins, predicted, data, expression_bins=[0, 1, 2, 3])
    found.assay.labels = reads
    return found


def written(folder: Path, found: FineTuned, **options) -> tuple[dict, pd.DataFrame, ModelCard]:
    """Return record, predictions and card, as they are read from a folder with the model."""
    folder.mkdir(exist_ok=True)
    model, assay, predicted = found
    PromoterExpressionPipeline(model, assay.tokenizer).save_pretrained(folder)
    data = {"targets": assay.config.targets, "bins": assay.config.bins}
    metric = "score" if model.config.problem_type == "regression" else "loss"
    record = {
        "options": OFF | OPTIONS | data | options,
        "checkpoint": describe_checkpoint(model),
        "hardware": "CPU",
        "seconds": 75.0,
        "steps": 30,
        "best_step": best_step(LOG, metric),
        "max_steps": 40,
        "batch_size": 32,
        "evaluated_rows": 50,
        "learning_rate": 1e-3,
    }
    write_report(folder, model, assay, predicted, LOG, record)

    def refuse(constant: str):
        raise AssertionError(f"{constant} is not JSON")

    metrics = json.loads((folder / "metrics.json").read_text(), parse_constant=refuse)
    predictions = pd.read_csv(folder / "predictions.tsv", sep="\t")
    return metrics, predictions, ModelCard.load(folder / "README.md")


@pytest.mark.parametrize("transform", [None, "log1p"])
def test_metrics_are_those_of_the_rows(tmp_path, transform):
    found = regression(label_transform=transform)
    metrics, _, _ = written(tmp_path / "model", found)
    assert metrics["scale"] == ("log1p of the measurements" if transform else "as measured")
    assert metrics["rows"] == {"train": 200, "validation": 50, "test": 50}
    assert [metrics[name] for name in ("steps", "best_step", "seconds", "test_homologs")] == [30, 30, 75.0, 3]
    assert metrics["parameters"] == sum(parameter.numel() for parameter in found.model.parameters())
    for side in ("validation", "test"):
        rows = getattr(SPLIT, side)
        rows = rows[~np.isnan(found.assay.measured[rows, 0])]
        values = [each[rows, 0] for each in (found.assay.measured, found.predicted)]
        measured, predicted = map(np.log1p, values) if transform else values
        of_output = metrics["held_out"][side]["cell|type_0"]
        assert of_output["rows"] == len(rows)
        expected = correlation(measured, predicted), correlation_intervals(measured, predicted, GROUPS[rows])
        for name in ("pearson_r", "spearman_rho"):
            value, interval = (getattr(each, name) for each in expected)
            assert list(of_output[name].values()) == pytest.approx([value, *interval])
        assert of_output["root_mean_square_error"] == pytest.approx(np.sqrt(np.mean((measured - predicted) ** 2)))
        for level, coverage in of_output["coverage"].items():
            low, high = prediction_interval(found.predicted, found.model.config, float(level))
            inside = (low[rows, 0] <= values[0]) & (values[0] <= high[rows, 0])
            # The ends, which one validation row lies on, are rounded on their way through the logarithm.
            assert coverage == pytest.approx(inside.mean(), abs=1.01 / len(rows))


def test_what_is_not_defined_is_null(tmp_path):
    """One row of the second output is left to test on."""
    found = regression()
    metrics, predictions, card = written(tmp_path / "model", found)
    single = metrics["held_out"]["test"]["cell|type_1"]
    undefined = {"value": None, "low": None, "high": None}
    assert single["rows"] == 1
    assert single["pearson_r"] == single["spearman_rho"] == undefined
    error = abs(found.predicted[SPLIT.test[0], 1] - 0.25)
    assert single["root_mean_square_error"] == pytest.approx(error)
    assert {result.metric_name for result in card.data.eval_results} == {
        "Pearson r of cell|type_0",
        "Spearman ρ of cell|type_0",
    }
    assert predictions["measured_cell|type_1"].notna().sum() == (~np.isnan(found.assay.measured[200:, 1])).sum()
    assert predictions["predicted_cell|type_1"].notna().all()
    found.assay.labels[SPLIT.test] = np.nan
    metrics, _, card = written(tmp_path / "none", found)
    for none in metrics["held_out"]["test"].values():
        assert none["rows"] == 0
        assert none["root_mean_square_error"] is None
        assert set(none["coverage"].values()) == {None}
    assert card.data.to_dict()["model-index"] == [{"name": "none", "results": []}]
    assert "**no Pearson r**" in card.text


def test_predictions_are_those_of_the_rows_held_out(tmp_path):
    found = regression(label_transform="log")
    _, predictions, _ = written(tmp_path / "model", found)
    rows = np.concatenate([SPLIT.validation, SPLIT.test])
    kinds = ("measured", "predicted", "low", "high")
    names = [f"{kind}_{output}" for output in found.assay.config.outputs for kind in kinds]
    assert predictions.columns.tolist() == ["row", "split", "sequence", *names]
    assert predictions["row"].tolist() == [f"line {row + 2}" for row in rows]
    assert predictions["split"].tolist() == ["validation"] * 50 + ["test"] * 50
    assert predictions["sequence"].tolist() == found.assay.sequences_of(rows)
    low, high = prediction_interval(found.predicted, found.model.config)
    for kind, values in zip(kinds, (found.assay.measured, found.predicted, low, high), strict=True):
        written_values = predictions[[f"{kind}_{output}" for output in found.assay.config.outputs]].to_numpy()
        np.testing.assert_allclose(written_values, values[rows], rtol=1e-7)


def test_few_rows_leave_out_what_they_cannot_vouch_for(tmp_path):
    found = sorted_into_bins()
    found.model.config.interval_half_widths = {"0.5": [0.2], "0.8": [0.4]}
    _, predictions, card = written(tmp_path / "model", found)
    assert predictions.columns.tolist()[3:] == ["measured_mean_bin", "predicted_mean_bin"]
    assert "contains the measurement in 80 % of cases" in card.text
    assert "--interval 0.8 " in card.text


def test_classes(tmp_path):
    found = classification()
    metrics, predictions, card = written(tmp_path / "model", found)
    of_output = metrics["held_out"]["test"]["active"]
    measured, predicted = (values[SPLIT.test, 0] for values in (found.assay.measured, found.predicted))
    interval = roc_auc_interval(measured, predicted, GROUPS[SPLIT.test])
    assert list(of_output["roc_auc"].values()) == pytest.approx([roc_auc_score(measured, predicted), *interval])
    assert of_output["ones"] == measured.sum()
    assert of_output["coverage"] == {}
    assert (metrics["scale"], metrics["best_step"]) == ("probability", 20)  # that of the lowest loss
    assert predictions.columns.tolist()[3:] == ["measured_active", "predicted_active"]
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value) == ("roc_auc", round(of_output["roc_auc"]["value"], 4))
    assert "--interval" not in card.text
    assert "as the probability of a 1" in card.text


@pytest.mark.parametrize("make", [regression, classification, sorted_into_bins])
def test_the_card_shows_figures_that_are_there_and_no_path(tmp_path, make):
    found = make()
    folder = tmp_path / "model"
    _, _, card = written(folder, found)
    shown, told = (set(re.findall(rf"{sign}\[[^]]+\]\((\w[^:)]+)\)", card.text)) for sign in ("!", "[^!]"))
    assert told == {"metrics.json", "predictions.tsv"}
    for name in shown:
        assert imread(folder / name).size
    for name in (*told, "README.md"):
        text = (folder / name).read_text()
        assert not re.search(r"/home|/tmp|somebody", text)
        assert str(tmp_path) not in text
        assert str(checkpoint_path()) not in text


@pytest.mark.parametrize("make", [regression, classification, sorted_into_bins])
@pytest.mark.parametrize("options", [{}, {"from_scratch": True, "bf16": True, "method": "head"}])
def test_nothing_in_the_card_is_left_to_fill_in_but_the_licence(tmp_path, make, options):
    _, _, card = written(tmp_path / "model", make(), **options)
    assert not re.search(r"\{\{|\{%|None|nan\b|undefined|TODO|\[More Information Needed\]", card.text)
    (licence,) = [part for part in card.text.split("\n\n") if part.startswith("No licence is stated yet. ")]
    assert licence.replace("\n", " ").endswith("of this file, or give it to `proformer publish`.")
    assert "license" not in card.data.to_dict()


def test_the_metadata_are_those_of_the_test_rows(tmp_path):
    found = sorted_into_bins()
    metrics, _, card = written(tmp_path / "liver-mpra", found)
    data = card.data.to_dict()
    assert data["library_name"] == "transformers"
    assert data["pipeline_tag"] == "text-classification"
    assert "proformer" in data["tags"]
    assert data["metrics"] == ["pearsonr", "spearmanr"]
    assert not {"license", "base_model"} & data.keys()
    (model,) = data["model-index"]
    assert model["name"] == "liver-mpra"
    (result,) = model["results"]
    assert result["dataset"] == {"name": "liver MPRA.tsv.gz", "type": "liver-MPRA.tsv.gz", "split": "test"}
    of_output = metrics["held_out"]["test"]["mean_bin"]
    assert result["metrics"] == [
        {"type": kind, "value": round(of_output[metric]["value"], 4), "name": f"{name} of mean_bin"}
        for metric, name, kind in (("pearson_r", "Pearson r", "pearsonr"), ("spearman_rho", "Spearman ρ", "spearmanr"))
    ]
    # What a folder holds is enough to make them again.
    assert card_data("liver-mpra", metrics).to_dict() == data
    assert eval_results(metrics) == card.data.eval_results


def test_without_test_rows_the_scores_are_those_of_the_validation_rows(tmp_path):
    found = sorted_into_bins()
    training = np.concatenate([SPLIT.train, SPLIT.test])
    found.assay.split, found.assay.test_homologs = ThreeWaySplit(training, SPLIT.validation, SPLIT.test[:0]), 0
    metrics, predictions, card = written(tmp_path / "model", found)
    text = " ".join(card.text.split())
    value = metrics["held_out"]["validation"]["mean_bin"]["pearson_r"]["value"]
    assert "On 50 validation rows, which were not trained on but were used to choose the best step, it reaches" in text
    assert f"**Pearson r {value:.3f} (" in text
    assert "No rows were held out for a test. The validation rows also chose the best step" in text
    assert "| 50 |" in card.text and "test row" not in text.replace("for a test row", "")
    result = card.data.eval_results[0]
    assert (result.dataset_split, result.metric_value) == ("validation", round(value, 4))
    assert predictions["split"].unique().tolist() == ["validation"]


@pytest.mark.parametrize(
    ("source", "name", "on_the_hub"),
    [
        ("/home/somebody/liver.tsv", "liver.tsv", False),
        ("the DataFrame", "DataFrame", False),
        ("somelab/liver:small", "somelab/liver:small", True),
    ],
)
def test_a_table_is_named_without_its_folder(source, name, on_the_hub):
    found = report.source_record(SourceTable(source, 1, ROWS, 0, ""))
    assert (found["name"], found["on_the_hub"]) == (name, on_the_hub)


def test_the_card_says_where_the_model_started(tmp_path):
    found = sorted_into_bins()
    _, _, card = written(tmp_path / "embedded", found)
    assert "the checkpoint `proformer-yeast-small` within the package" in card.text
    assert "de Boer" in card.text
    _, _, card = written(tmp_path / "scratch", found, from_scratch=True)
    assert "trained from new weights" in card.text
    assert "de Boer" not in card.text
    found.model.name_or_path = str(tmp_path / "embedded")
    _, _, card = written(tmp_path / "local", found)
    assert "the checkpoint `embedded` on" in " ".join(card.text.split())
    assert card.data.base_model is None
    found.model.name_or_path = "somelab/proformer-liver"
    _, _, card = written(tmp_path / "hub", found)
    assert card.data.base_model == "somelab/proformer-liver"
    assert "https://huggingface.co/somelab/proformer-liver" in card.text


# Neither an identifier nor anything that Python or a shell would take as it is.
AWKWARD = 'it\'s "my" model|v1'
NUMBER = re.compile(r"[-+]?\d+\.\d{6}")


@pytest.mark.slow
def test_the_cards_examples_print_what_it_says_where_the_package_is_unknown(tmp_path):
    makes = {AWKWARD: regression, "classes": classification, "bins.v2": sorted_into_bins}
    cards = [written(tmp_path / name, make())[2] for name, make in makes.items()]
    embedded = checkpoint_path()
    PromoterExpressionPipeline(*load_checkpoint(embedded)).save_pretrained(tmp_path / "ACCOUNT" / "NAME")
    cards.append(ModelCard.load(embedded / "README.md"))
    script, said = "", ""
    for card in cards:
        examples = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", card.text, re.DOTALL)
        assert card.text.partition("```python\n")[2].startswith(examples[0][0])
        assert len(examples) == 2
        for code, prints in examples:
            script += code
            said += prints
    outcome = run(make_python_without_package(tmp_path), script, tmp_path)
    assert outcome.returncode == 0, outcome.stderr
    assert NUMBER.split(outcome.stdout) == NUMBER.split(said)
    numbers = [[float(number) for number in NUMBER.findall(text)] for text in (outcome.stdout, said)]
    # Each card prints its predictions, those of a regression with the two ends of an interval, and a variant's effect.
    assert len(numbers[0]) == (2 * 3 + 2) + (1 + 1) + (3 + 1) + (3 + 1)
    assert numbers[0] == pytest.approx(numbers[1], abs=1e-5)


def test_the_example_is_the_models_own_prediction(tmp_path):
    found = regression()
    _, _, card = written(tmp_path / "model", found)
    code, prints = re.search(r"```python\n(.*?)```\n\n```text\n(.*?)```", card.text, re.DOTALL).groups()
    (sequence,) = re.findall("^sequence = (.*)$", code, re.MULTILINE)
    predicted = predict(found.model, found.assay.tokenizer, [eval(sequence)])
    low, high = prediction_interval(predicted, found.model.config)
    said = np.array([[float(number) for number in NUMBER.findall(line)] for line in prints.splitlines()])
    np.testing.assert_allclose(said, np.stack([predicted[0], low[0], high[0]], axis=1), atol=1e-5)


def test_the_cards_commands_are_understood(tmp_path):
    _, _, card = written(tmp_path / AWKWARD, regression())
    (commands,) = re.findall(r"```bash\n(.*?)```", card.text, re.DOTALL)
    (_, (predicting,)), (_, (_, tuning)) = (parse(shlex.split(line)[1:]) for line in commands.splitlines())
    assert predicting.model == tuning.model == AWKWARD
    assert str(predicting.interval) == "0.9"


def test_the_card_is_rendered_again_from_the_folder_alone(tmp_path):
    _, _, card = written(tmp_path / "liver", regression())
    assert str(render_card(tmp_path / "liver")) == str(card)
    published = render_card(tmp_path / "liver", "somelab/proformer-liver", "cc-by-4.0")
    assert published.data.license == "cc-by-4.0" and "Its licence is `cc-by-4.0`." in published.text
    assert published.text.count('model="somelab/proformer-liver"') == 2
    assert "--model somelab/proformer-liver " in published.text and "No licence" not in published.text
    assert published.data.eval_results == card.data.eval_results
    assert render_card(checkpoint_path()) is None
    (tmp_path / "liver" / "metrics.json").write_text('{"held_out": {}}')
    assert render_card(tmp_path / "liver") is None


def test_weights_that_are_not_sound_have_no_card(tmp_path):
    found = sorted_into_bins()
    with torch.no_grad():
        found.model.expression_head.dense.bias.fill_(float("nan"))
    with pytest.raises(InputError, match="training has diverged"):
        written(tmp_path / "model", found)
    assert not (tmp_path / "model" / "README.md").exists()


def test_a_card_of_many_outputs_is_a_table(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "_draw_figures", lambda *_: None)
    found = regression(outputs=30)
    _, _, card = written(tmp_path / "model", found)
    assert "predicts 30 outputs" in card.text
    assert "The figure shows the first 24 outputs." in card.text
    for section in ("## What it was trained on", "## How good it is"):
        table = card.text.partition(section)[2].partition("\n## ")[0].splitlines()
        lines = [line for line in table if line.startswith(r"| `cell\|type_")]
        assert len(lines) == 30
        (header,) = [line for line in table if line.startswith("| output |")]
        assert {line.replace(r"\|", "").count("|") for line in lines} == {header.count("|")}
    assert "None" not in card.text


def test_a_folder_may_be_named_by_where_one_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written(Path("."), sorted_into_bins())
    assert ModelCard.load(tmp_path / "README.md").data.model_name == tmp_path.name
