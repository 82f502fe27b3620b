"""Fine-tuning on classes: one column of names becomes a model of their probabilities, with a record and a card."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, balanced_accuracy_score, roc_auc_score
from tiny import save_tiny
from transformers import pipeline

from modeling_proformer import cli
from modeling_proformer.hub.publish import publish
from modeling_proformer.training.finetune import FineTuned, finetune


NAMES = ["low", "mid range", "high"]
QUICK = {"steps": 60, "learning_rate": 1e-2, "targets": ["level"], "classes": NAMES}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    """Return 400 inserts whose class follows from the number of their Gs; a few have none."""
    sequences = ["".join(bases) for bases in np.random.default_rng(0).choice(list("ACGT"), (400, 16))]
    levels = [NAMES[np.searchsorted([2.5, 4.5], sequence.count("G"))] for sequence in sequences]
    frame = pd.DataFrame({"sequence": sequences, "level": levels})
    frame.loc[5:9, "level"] = None
    return frame


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, frame, checkpoint) -> tuple[FineTuned, Path]:
    folder = tmp_path_factory.mktemp("tuned") / "model"
    return finetune(frame, folder, model=checkpoint, **QUICK), folder


def test_the_model_predicts_probabilities_that_are_mostly_right(tuned):
    fine_tuned, folder = tuned
    config = fine_tuned.model.config
    assert config.problem_type == "single_label_classification" and list(config.id2label.values()) == NAMES
    test = fine_tuned.assay.split.test
    predicted = fine_tuned.predicted[test]
    np.testing.assert_allclose(predicted.sum(axis=1), 1, atol=1e-5)
    right = fine_tuned.assay.measured[test].argmax(axis=1)
    assert balanced_accuracy_score(right, predicted.argmax(axis=1)) > 0.7  # by chance 0.33
    assert {"predictions.tsv", "roc_curve.png", "README.md"} <= {path.name for path in folder.iterdir()}


def test_record_and_card_have_the_scores_of_the_predictions(tuned):
    fine_tuned, folder = tuned
    metrics = json.loads((folder / "metrics.json").read_text())
    table = pd.read_csv(folder / "predictions.tsv", sep="\t")
    for split in ("validation", "test"):
        rows = table[table.split == split]
        measured, predicted = (
            rows[[f"{kind}_{name}" for name in NAMES]].to_numpy() for kind in ("measured", "predicted")
        )
        classes = measured.argmax(axis=1), predicted.argmax(axis=1)
        for kind, numbers in zip(("measured", "predicted"), classes, strict=True):
            assert rows[f"class_{kind}"].tolist() == [NAMES[number] for number in numbers]
        found = metrics["accuracy"][split]
        assert found["accuracy"]["value"] == pytest.approx(accuracy_score(*classes))
        assert found["balanced_accuracy"]["value"] == pytest.approx(balanced_accuracy_score(*classes))
        assert found["balanced_accuracy"]["low"] <= found["balanced_accuracy"]["value"]
        assert found["chance"] == pytest.approx(1 / 3)
        for number, name in enumerate(NAMES):
            area = metrics["held_out"][split][name]["roc_auc"]["value"]
            assert area == pytest.approx(roc_auc_score(measured[:, number], predicted[:, number]), abs=1e-3)
    counts = [row["rows"] for row in metrics["measurements"]]
    train = fine_tuned.assay.labels[fine_tuned.assay.split.train, 0]
    assert counts == np.bincount(train.astype(int)).tolist()
    text = " ".join((folder / "README.md").read_text().split())
    balanced = metrics["accuracy"]["test"]["balanced_accuracy"]["value"]
    assert "predicts the class `level` (`low`, `mid range` and `high`) of DNA sequences, as the probability" in text
    assert f"a balanced accuracy of {balanced:.3f} (" in text and "where chance is 0.333" in text
    results = {
        result.metric_name: result.metric_value for result in ModelCard.load(folder / "README.md").data.eval_results
    }
    assert results["Balanced accuracy of level"] == pytest.approx(balanced, abs=1e-4)
    assert "ROC AUC of mid range" in results and len(results) == 5


def test_command_and_pipeline_predict_it_by_name(tuned, frame, tmp_path, monkeypatch):
    fine_tuned, folder = tuned
    frame.to_csv(tmp_path / "assay.tsv", sep="\t", index=False)
    output = tmp_path / "predicted.tsv"
    assert (
        cli.main(["predict", str(tmp_path / "assay.tsv"), "--model", str(folder), "-o", str(output), "--quiet"]) == 0
    )
    predicted = pd.read_csv(output, sep="\t")[[f"predicted_{name}" for name in NAMES]].to_numpy()
    np.testing.assert_allclose(predicted.sum(axis=1), 1, atol=1e-5)
    measured = frame.dropna().reset_index(drop=True)
    row = int(fine_tuned.assay.split.test[0])
    found = pipeline("promoter-expression", model=str(folder))(measured.sequence[row])
    assert [found[name]["value"] for name in NAMES] == pytest.approx(fine_tuned.predicted[row], abs=1e-5)


def test_a_finished_folder_is_opened_again_and_not_with_other_names(tuned, frame, checkpoint):
    fine_tuned, folder = tuned
    again = finetune(frame, folder, model=checkpoint, **QUICK)
    np.testing.assert_allclose(again.predicted, fine_tuned.predicted, atol=1e-6)
    with pytest.raises(FileExistsError, match="holds another finished model"):
        finetune(frame, folder, model=checkpoint, **QUICK | {"classes": NAMES[::-1]})


@pytest.mark.slow
def test_frame_file_flags_and_yaml_lead_to_the_same_weights(tmp_path, frame, checkpoint, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Numbers of classes in a column with gaps are 0.0, 1.0 and 2.0.
    numbered = frame.assign(level=frame.level.map({name: number for number, name in enumerate(NAMES)}))
    assert numbered.level.dtype == float
    numbered.to_csv("assay.csv", index=False)
    finetune(numbered, "frame", model=checkpoint, **QUICK | {"steps": 5, "classes": [0, 1, 2]})
    flags = ["--targets", "level", "--classes", "0", "1", "2", "--steps", "5", "--learning-rate", "0.01"]
    assert cli.main(["finetune", "assay.csv", "-o", "flags", "--model", str(checkpoint), *flags]) == 0
    Path("options.yaml").write_text(
        "data: assay.csv\noutput: yaml\ntargets: [level]\nclasses: [0, 1, 2]\nsteps: 5\nlearning_rate: 0.01\n"
    )
    assert cli.main(["finetune", "--config", "options.yaml", "--model", str(checkpoint)]) == 0
    weights = [load_file(f"{folder}/model.safetensors") for folder in ("frame", "flags", "yaml")]
    for name, weight in weights[0].items():
        assert torch.equal(weight, weights[1][name]) and torch.equal(weight, weights[2][name]), name


def test_two_classes_and_a_model_of_classes_to_start_from(tmp_path, tuned, frame, caplog):
    weak = frame.assign(level=np.where(frame.level == "high", "strong", "weak"))
    options = QUICK | {"steps": 40, "classes": ["weak", "strong"]}
    fine_tuned = finetune(weak, tmp_path / "two", model=tuned[1], **options)
    assert "Training a classifier, which chooses one of the classes for each sequence, with" in caplog.text
    test = fine_tuned.assay.split.test
    np.testing.assert_allclose(fine_tuned.predicted[test].sum(axis=1), 1, atol=1e-5)
    measured = fine_tuned.assay.measured[test]
    assert roc_auc_score(measured[:, 1], fine_tuned.predicted[test, 1]) > 0.8


@pytest.mark.slow
def test_it_can_be_published(tuned):
    assert publish(tuned[1], "someone/levels", license="cc-by-4.0", dry_run=True) is None
