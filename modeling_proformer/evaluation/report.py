"""Write what is kept next to a trained model: `metrics.json`, predictions of held-out rows, figures and card."""

import csv
import json
import os
import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import PreTrainedModel

from ..configuration_proformer import ProformerConfig
from ..data.assay import Assay
from ..data.sources import SourceTable, is_hub_dataset
from ..intervals import prediction_interval, transformed
from ..loading import checkpoint_path
from ..version import __version__
from .bootstrap import Interval, usable_groups
from .cards import CARD, LEVEL, RECORD, digest_card, render_card, run_example
from .figures import ComparedOutput, learning_curve, roc_curves, scatter_plots
from .metrics import (
    accuracy,
    accuracy_intervals,
    correlation,
    correlation_intervals,
    roc_auc,
    roc_auc_interval,
)


HELD_OUT = ("validation", "test")


def write_report(
    folder: Path,
    model: PreTrainedModel,
    assay: Assay,
    predicted: np.ndarray,
    log_history: Sequence[Mapping[str, Any]],
    record: Mapping[str, Any],
):
    """
    Write what is kept next to a fine-tuned model: `metrics.json`, `log_history.json`, `predictions.tsv`, figures and
    the card `README.md`.

    None of them names a folder of this machine.

    Args:
        folder: where the model and its tokenizer were saved; its name is the model's.
        model: the fine-tuned model.
        assay: what it was fine-tuned on.
        predicted: (rows, outputs) of validation and test rows, in the assay's units.
        log_history: of the Trainer.
        record: what else belongs into `metrics.json`, such as the options.

    Raises:
        InputError: the model's predictions are not finite.
    """
    config, split = model.config, assay.split
    scored = split.test if len(split.test) else split.validation

    def held_out(rows: np.ndarray) -> dict[str, dict[str, Any]]:
        return held_out_metrics(assay.measured[rows], predicted[rows], assay.groups[rows], config)

    def accuracies(rows: np.ndarray) -> dict[str, Any]:
        return class_accuracies(assay.labels[rows, 0], predicted[rows], assay.groups[rows])

    is_class = config.problem_type == "single_label_classification"
    metrics = {
        **model_record("fine-tuned", model, assay.tokenizer, [source_record(each) for each in assay.sources]),
        **record,
        "findings": [line for finding in assay.findings for line in finding.splitlines()],
        "rows": {name: len(rows) for name, rows in split._asdict().items()},
        "groups": {name: len(np.unique(assay.groups[rows])) for name, rows in split._asdict().items()},
        "test_homologs": assay.test_homologs,
        "measurements": [
            {"output": name, **(shares if is_class else distribution)(assay.measured[split.train, number])}
            for number, name in config.id2label.items()
        ],
        "by_group": usable_groups(assay.groups[scored]) is not None,
        "held_out": {name: held_out(getattr(split, name)) for name in HELD_OUT},
        "accuracy": {name: accuracies(getattr(split, name)) for name in HELD_OUT} if is_class else None,
    }
    (folder / "log_history.json").write_text(json.dumps(log_history, indent=1))
    _write_predictions(folder / "predictions.tsv", config, assay, predicted)
    _draw_figures(folder, config, assay.measured[scored], predicted[scored], log_history)
    write_record_and_card(folder, metrics)


def model_record(
    kind: str, model: PreTrainedModel, tokenizer: Any, tables: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """
    Return the part of a record that every trained model has.

    Args:
        kind: "fine-tuned" or "trained".
        model, tokenizer: on which the card's example is computed.
        tables: as `source_record` returns them.

    Raises:
        InputError: the model's predictions are not finite.
    """
    return {
        "kind": kind,
        "modeling_proformer": __version__,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "table": ", ".join(table["name"] for table in tables),
        "tables": list(tables),
        "problem_type": model.config.problem_type,
        "scale": _scale_of(model.config),
        "parameters": model.num_parameters(),
        "example": run_example(model, tokenizer)._asdict(),
    }


def write_record_and_card(folder: Path, record: Mapping[str, Any]):
    """Write `metrics.json`, in which every number is finite, and the card `README.md` that is rendered from it."""
    _write_record(folder, record)
    render_card(folder).save(folder / CARD)
    # Shows later that nobody has edited the card, also in a folder of another name.
    _write_record(folder, {**record, "card_digest": digest_card(folder)})


def _write_record(folder: Path, record: Mapping[str, Any]):
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False)
    (folder / RECORD).write_text(text + "\n", encoding="utf-8")


def source_record(source: SourceTable) -> dict[str, Any]:
    """Return what a record says of a table, with the name of a file without its folder, or the kind of an object."""
    if kind := re.fullmatch(r"the (\w+)", source.name):  # such as "the DataFrame"
        return {**source._asdict(), "name": kind[1], "on_the_hub": False}
    on_the_hub = is_hub_dataset(source.name) and not os.path.exists(source.name.partition(":")[0])
    name = source.name if on_the_hub else Path(source.name).name
    return {**source._asdict(), "name": name, "on_the_hub": on_the_hub}


def describe_checkpoint(model: PreTrainedModel) -> dict[str, Any]:
    """Return the name of the checkpoint that a model started from, and where that is; of a folder only its name."""
    source = model.name_or_path
    if not Path(source).is_dir():
        return {"name": source, "on_the_hub": True, "embedded": False}
    return {
        "name": Path(source).resolve().name,
        "on_the_hub": False,
        "embedded": Path(source) == checkpoint_path(),
    }


def describe_hardware(device: torch.device, devices: int = 1) -> str:
    """Return what a model was trained on, such as `8 × NVIDIA H100`; of a CPU, how many of its cores."""
    if device.type == "cpu":
        return f"{_processor()}, {devices * torch.get_num_threads()} of {os.cpu_count()} cores"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return f"{devices} × {name}" if devices > 1 else name


def _processor() -> str:
    """Return the name of the CPU, as far as the system reports it."""
    information = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.+)$", information.read_text() if information.exists() else "", re.M)
    return f"CPU {' '.join(names[0].split()) if names else platform.processor() or platform.machine()}"


def _scale_of(config: ProformerConfig) -> str:
    """Return the scale on which correlations and errors are computed."""
    if config.problem_type != "regression":
        return "probability"
    return f"{config.label_transform} of the measurements" if config.label_transform else "as measured"


def best_step(log_history: Sequence[Mapping[str, Any]], metric: str) -> int | None:
    """Return the step that the Trainer goes back to: the first with the lowest `loss`, or the highest `score`."""
    found = {entry["step"]: entry[f"eval_{metric}"] for entry in log_history if f"eval_{metric}" in entry}
    defined = {step: value for step, value in found.items() if not np.isnan(value)}
    return (min if metric == "loss" else max)(defined, key=defined.get, default=None)


def held_out_metrics(
    measured: np.ndarray, predicted: np.ndarray, groups: np.ndarray, config: ProformerConfig
) -> dict[str, dict[str, Any]]:
    """
    Return how well each output is predicted, on the rows that have a measurement of it.

    Args:
        measured, predicted: (rows, outputs) in the assay's units; missing measurements are NaN.
        groups: (rows,) number of each row's group of related sequences.
        config: of the model.
    """
    return {
        name: _output_metrics(measured, predicted, groups, config, output) for output, name in config.id2label.items()
    }


def _output_metrics(
    measured: np.ndarray, predicted: np.ndarray, groups: np.ndarray, config: ProformerConfig, output: int
) -> dict[str, Any]:
    groups = groups[~np.isnan(measured[:, output])]
    _, values, guesses = _compared(measured, predicted, config, output)
    errors = np.abs(values - guesses)
    return {
        "rows": len(errors),
        **_agreement(values, guesses, groups, config),
        "root_mean_square_error": float(np.sqrt(np.mean(errors**2))) if len(errors) else None,
        "coverage": {
            level: float(np.mean(errors <= half_widths[output])) if len(errors) else None
            for level, half_widths in (config.interval_half_widths or {}).items()
        },
    }


def _agreement(
    measured: np.ndarray, predicted: np.ndarray, groups: np.ndarray, config: ProformerConfig
) -> dict[str, Any]:
    """Return correlations, or the area under the ROC curve and the number of ones."""
    resampled = usable_groups(groups)
    if config.problem_type == "regression":
        found, intervals = correlation(measured, predicted), correlation_intervals(measured, predicted, resampled)
        return {
            name: estimate(getattr(found, name), getattr(intervals, name)) for name in ("pearson_r", "spearman_rho")
        }
    area, interval = roc_auc(measured, predicted), roc_auc_interval(measured, predicted, resampled)
    return {"ones": int(measured.sum()), "roc_auc": estimate(area, interval)}


def class_accuracies(classes: np.ndarray, predicted: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    """
    Return how often the most probable class is the measured one, and how often it would be by chance.

    Args:
        classes: (rows,) number of each row's class.
        predicted: (rows, classes) probabilities.
        groups: (rows,) number of each row's group of related sequences.
    """
    guesses = predicted.argmax(axis=1)
    found = accuracy(classes, guesses)
    intervals = accuracy_intervals(classes, guesses, usable_groups(groups))
    return {
        **{name: estimate(value, getattr(intervals, name)) for name, value in found._asdict().items()},
        "chance": 1 / predicted.shape[1],
    }


def estimate(value: float, interval: Interval | None = None) -> dict[str, float | None]:
    """Return a value with its 95 % interval; None instead of NaN, which JSON does not have."""
    ends = {"value": value, **(interval or Interval(np.nan, np.nan))._asdict()}
    return {name: None if np.isnan(end) else end for name, end in ends.items()}


def _compared(measured: np.ndarray, predicted: np.ndarray, config: ProformerConfig, output: int) -> ComparedOutput:
    """Return an output of the rows that have a measurement of it, on the scale that the model is trained on."""
    name, rows = config.id2label[output], ~np.isnan(measured[:, output])
    values = (transformed(each[rows, output], config) for each in (measured, predicted))
    return ComparedOutput(f"{config.label_transform}({name})" if config.label_transform else name, *values)


def distribution(values: np.ndarray) -> dict[str, float]:
    """Return where measurements lie; missing ones are NaN."""
    present = values[~np.isnan(values)]
    return {
        "rows": len(present),
        "lowest": float(present.min()),
        "median": float(np.median(present)),
        "highest": float(present.max()),
        "mean": float(present.mean()),
        "standard deviation": float(present.std()),
    }


def shares(values: np.ndarray) -> dict[str, float]:
    """Return how many rows are of a class, for which their values are 1 and otherwise 0."""
    return {"rows": int(values.sum()), "share": float(values.mean())}


def _write_predictions(path: Path, config: ProformerConfig, assay: Assay, predicted: np.ndarray):
    """
    Write a line for each held-out row: its location, and what was measured and predicted of each output; of exclusive
    classes, also which was measured, and which is the most probable.
    """
    kinds = {"measured": assay.measured, "predicted": predicted}
    if str(LEVEL) in (config.interval_half_widths or {}):
        kinds["low"], kinds["high"] = prediction_interval(predicted, config, LEVEL)
    names = [f"{kind}_{name}" for name in config.id2label.values() for kind in kinds]
    values = np.stack(list(kinds.values()), axis=-1)  # (rows, outputs, kinds)
    chosen = np.empty((len(values), 0), dtype=str)
    if config.problem_type == "single_label_classification":
        # These names are not those of any output's columns.
        names += ["class_measured", "class_predicted"]
        held_out = ~np.isnan(predicted).any(axis=1)
        chosen = np.full((len(values), 2), "", dtype=object)
        classes = np.array([*config.id2label.values()], dtype=object)
        for column, scores in enumerate((assay.measured, predicted)):
            chosen[held_out, column] = classes[scores[held_out].argmax(axis=1)]
    locations, sequences = assay.locations, assay.sequences
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(["row", "split", "sequence", *names])
        for name in HELD_OUT:
            for row in getattr(assay.split, name):
                cells = ("" if np.isnan(value) else f"{value:.8g}" for value in values[row].ravel())
                writer.writerow([locations[row], name, sequences[row], *cells, *chosen[row]])


def _draw_figures(
    folder: Path,
    config: ProformerConfig,
    measured: np.ndarray,
    predicted: np.ndarray,
    log_history: Sequence[Mapping[str, Any]],
):
    outputs = [_compared(measured, predicted, config, output) for output in config.id2label]
    if config.problem_type == "regression":
        scatter_plots(folder / "scatter.png", outputs)
    else:
        roc_curves(folder / "roc_curve.png", outputs)
    score = "Pearson r" if config.problem_type == "regression" else "ROC AUC"
    label = f"validation {score}" + (", mean of outputs" if len(outputs) > 1 else "")
    learning_curve(folder / "learning_curve.png", log_history, "eval_score", label)


__all__ = [
    "best_step",
    "describe_checkpoint",
    "describe_hardware",
    "estimate",
    "held_out_metrics",
    "model_record",
    "source_record",
    "write_record_and_card",
    "write_report",
]
