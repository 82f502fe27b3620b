"""What lies beside a fine-tuned model: metrics, predictions of the rows held out, figures and the model card."""

import csv
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import PreTrainedModel

from . import __version__
from .configuration_proformer import ProformerConfig
from .finetuning import FineTuned, Recipe
from .finetuning_data import Preparation, TableColumns
from .intervals import prediction_interval, transformed
from .metrics import Interval, correlation, correlation_intervals, roc_auc, roc_auc_interval
from .prediction import checkpoint_path
from .report import MOST_PANELS, ComparedOutput, learning_curve, roc_curves, scatter_plots
from .tokenization import ProformerTokenizer


TEMPLATE = Path(__file__).parent / "templates" / "finetuned_card.md"
TAGS = ["biology", "genomics", "dna", "gene-expression", "regulatory-genomics", "proformer"]
HELD_OUT = ("validation", "test")

# Of the interval in the table of predictions.
LEVEL = 0.9

# Name and identifier, at hf.co/metrics, of each metric that says how well an output is predicted.
METRICS = {
    "pearson_r": ("Pearson r", "pearsonr"),
    "spearman_rho": ("Spearman ρ", "spearmanr"),
    "roc_auc": ("ROC AUC", "roc_auc"),
}

METHODS = {
    "full": "all weights",
    "head": "the head alone, on the encoder as it was",
    "lora": "low-rank changes of the encoder's matrices, merged into them, and the head",
}

# Outputs that are named one by one in a sentence.
MOST_NAMES = 6

EXAMPLE_INSERT = "ACGTTACCCGGTAAAT"


def write_report(output: Path, fine_tuned: FineTuned, columns: TableColumns, preparation: Preparation, recipe: Recipe):
    """
    Writes `metrics.json`, `predictions.tsv`, `scatter.png` or, for classification, `roc_curve.png`,
    `learning_curve.png` and the model card `README.md`. None of them holds a path.

    Args:
        output: folder, which is there; its name is the model's.
        fine_tuned: the model, and what it predicts for the rows held out.
        columns, preparation, recipe: those of `finetune`.
    """
    metrics = metrics_of(fine_tuned)
    text = json.dumps(metrics, indent=1, ensure_ascii=False, allow_nan=False)
    (output / "metrics.json").write_text(text + "\n", encoding="utf-8")
    write_predictions(output / "predictions.tsv", fine_tuned)
    draw_figures(output, fine_tuned)
    card = model_card(output.resolve().name, metrics, fine_tuned, columns, preparation, recipe)
    card.save(output / "README.md")


def metrics_of(fine_tuned: FineTuned) -> dict[str, Any]:
    """The content of `metrics.json`; what is not defined is None."""
    model, assay, config = fine_tuned.model, fine_tuned.assay, fine_tuned.model.config
    return {
        "modeling_proformer": __version__,
        "table": assay.table.source.name,
        "problem_type": config.problem_type,
        "scale": scale_of(config),
        "parameters": model.num_parameters(),
        "steps": max((entry["step"] for entry in fine_tuned.log_history), default=0),
        "best_step": best_step(fine_tuned.log_history),
        "seconds": None if fine_tuned.seconds is None else round(fine_tuned.seconds, 1),
        "rows": {side: len(rows) for side, rows in assay.split._asdict().items()},
        "test_twins": assay.test_twins,
        "held_out": {
            side: {
                name: output_metrics(fine_tuned, getattr(assay.split, side), number)
                for number, name in config.id2label.items()
            }
            for side in HELD_OUT
        },
    }


def scale_of(config: ProformerConfig) -> str:
    """On which scale correlations and errors are computed."""
    if config.problem_type != "regression":
        return "probability"
    return f"{config.label_transform} of the measurements" if config.label_transform else "as measured"


def best_step(log_history: Sequence[Mapping[str, Any]]) -> int | None:
    """The step that the Trainer goes back to: the first with the lowest loss."""
    losses = {entry["step"]: entry["eval_loss"] for entry in log_history if "eval_loss" in entry}
    defined = {step: loss for step, loss in losses.items() if not np.isnan(loss)}
    return min(defined, key=defined.get, default=None)


def output_metrics(fine_tuned: FineTuned, rows: np.ndarray, output: int) -> dict[str, Any]:
    """How well an output is predicted on those of the rows that have a measurement of it."""
    config = fine_tuned.model.config
    rows = measured_rows(fine_tuned, rows, output)
    _, measured, predicted = compared(fine_tuned, rows, output)
    errors = np.abs(measured - predicted)
    return {
        "rows": len(rows),
        **agreement(measured, predicted, fine_tuned.assay.families[rows], config),
        "root_mean_square_error": float(np.sqrt(np.mean(errors**2))) if len(rows) else None,
        "coverage": {
            level: float(np.mean(errors <= half_widths[output])) if len(rows) else None
            for level, half_widths in (config.interval_half_widths or {}).items()
        },
    }


def agreement(
    measured: np.ndarray, predicted: np.ndarray, families: np.ndarray, config: ProformerConfig
) -> dict[str, Any]:
    """Correlations, or the area under the ROC curve and the number of ones."""
    families = drawn_whole(families)
    if config.problem_type == "regression":
        found, intervals = correlation(measured, predicted), correlation_intervals(measured, predicted, families)
        return {
            name: estimate(getattr(found, name), getattr(intervals, name)) for name in ("pearson_r", "spearman_rho")
        }
    area, interval = roc_auc(measured, predicted), roc_auc_interval(measured, predicted, families)
    return {"ones": int(measured.sum()), "roc_auc": estimate(area, interval)}


def drawn_whole(families: np.ndarray) -> np.ndarray | None:
    """
    The families, for a bootstrap over them; None, for one over rows, where one family has most of the rows: how often
    it is drawn would be all that such an interval tells.
    """
    dominated = len(families) and np.unique(families, return_counts=True)[1].max() > len(families) / 2
    return None if dominated else families


def estimate(value: float, interval: Interval) -> dict[str, float | None]:
    """A value with its 95 % interval; None, which JSON knows, in the place of NaN, which it does not."""
    ends = {"value": value, **interval._asdict()}
    return {name: None if np.isnan(end) else end for name, end in ends.items()}


def measured_rows(fine_tuned: FineTuned, rows: np.ndarray, output: int) -> np.ndarray:
    """Those of the rows that have a measurement of an output."""
    return rows[~np.isnan(fine_tuned.measured[rows, output])]


def compared(fine_tuned: FineTuned, rows: np.ndarray, output: int) -> ComparedOutput:
    """An output of rows that have a measurement of it, on the scale that the model is trained on."""
    config = fine_tuned.model.config
    values = (transformed(each[rows, output], config) for each in (fine_tuned.measured, fine_tuned.predicted))
    name = config.id2label[output]
    return ComparedOutput(f"{config.label_transform}({name})" if config.label_transform else name, *values)


def write_predictions(path: Path, fine_tuned: FineTuned):
    """One line for each row held out: where the table has it, and what was measured and predicted of each output."""
    assay, config = fine_tuned.assay, fine_tuned.model.config
    kinds = {"measured": fine_tuned.measured, "predicted": fine_tuned.predicted}
    if str(LEVEL) in (config.interval_half_widths or {}):
        kinds["low"], kinds["high"] = prediction_interval(fine_tuned.predicted, config, LEVEL)
    names = [f"{kind}_{name}" for name in config.id2label.values() for kind in kinds]
    values = np.stack(list(kinds.values()), axis=-1)  # (rows, outputs, kinds)
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(["row", "side", "sequence", *names])
        for side in HELD_OUT:
            for row in getattr(assay.split, side):
                cells = ("" if np.isnan(value) else f"{value:.8g}" for value in values[row].ravel())
                writer.writerow([assay.table.places[row], side, assay.table.sequences[row], *cells])


def draw_figures(output: Path, fine_tuned: FineTuned):
    config, test = fine_tuned.model.config, fine_tuned.assay.split.test
    outputs = [compared(fine_tuned, measured_rows(fine_tuned, test, number), number) for number in config.id2label]
    if config.problem_type == "regression":
        scatter_plots(output / "scatter.png", outputs)
    else:
        roc_curves(output / "roc_curve.png", outputs)
    score = METRICS["pearson_r" if config.problem_type == "regression" else "roc_auc"][0]
    label = f"validation {score}" + (", mean of outputs" if len(outputs) > 1 else "")
    learning_curve(output / "learning_curve.png", fine_tuned.log_history, "eval_score", label)


def model_card(
    name: str,
    metrics: Mapping[str, Any],
    fine_tuned: FineTuned,
    columns: TableColumns,
    preparation: Preparation,
    recipe: Recipe,
) -> ModelCard:
    """
    The card of a fine-tuned model.

    Args:
        name: of the model.
        metrics: those of `metrics_of`.
        fine_tuned, columns, preparation, recipe: those of `write_report`.
    """
    model, assay, outputs = fine_tuned.model, fine_tuned.assay, metrics["held_out"]["test"]
    on_the_hub = not Path(model.name_or_path).is_dir()
    return ModelCard.from_template(
        card_data(name, metrics, model.name_or_path if on_the_hub and not recipe.from_scratch else None),
        template_path=str(TEMPLATE),
        name=name,
        name_in_shell=shlex.quote(name),
        metrics=metrics,
        config=model.config,
        tokenizer=assay.tokenizer,
        columns=columns,
        preparation=preparation,
        recipe=recipe,
        checkpoint=checkpoint_of(model),
        embedded=Path(model.name_or_path) == checkpoint_path(),
        regression=model.config.problem_type == "regression",
        outputs=listed(list(outputs)),
        targets=listed(columns.targets, "columns"),
        by_family=drawn_whole(assay.families[assay.split.test]) is not None,
        flanks=flanks_of(assay.tokenizer),
        example=example_sequence(assay.tokenizer),
        findings=[line for finding in assay.findings for line in finding.splitlines()],
        families={side: len(np.unique(assay.families[rows])) for side, rows in assay.split._asdict().items()},
        method=METHODS[recipe.method],
        learning_rate=recipe.highest_rate(),
        batch_size=min(recipe.batch_size, metrics["rows"]["train"]),
        most_steps=recipe.most_steps(metrics["rows"]["train"]),
        duration=duration(fine_tuned.seconds),
        headline=headline(outputs),
        results=markdown_table([results_row(*each) for each in outputs.items()]),
        panels=min(len(outputs), MOST_PANELS),
        code=code,
    )


def card_data(name: str, metrics: Mapping[str, Any], base_model: str | None = None) -> ModelCardData:
    """
    Metadata of a fine-tuned model.

    Args:
        name: of the model.
        metrics: the content of its `metrics.json`.
        base_model: repository on the Hub that it was fine-tuned from.
    """
    results = eval_results(metrics)
    return ModelCardData(
        library_name="transformers",
        pipeline_tag="text-classification",
        tags=TAGS,
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
        base_model=base_model,
        model_name=name,
        eval_results=results or None,
    )


def eval_results(metrics: Mapping[str, Any]) -> list[EvalResult]:
    """The metrics of the test rows as the Hub lists them; those that are not defined are left out."""
    kind = "regression" if metrics["problem_type"] == "regression" else "classification"
    return [
        EvalResult(
            task_type="text-classification",
            task_name=f"Activity of DNA sequences ({kind})",
            dataset_type=re.sub(r"[^\w.-]+", "-", metrics["table"]),
            dataset_name=metrics["table"],
            dataset_split="test",
            metric_type=identifier,
            metric_name=f"{label} of {output}",
            metric_value=round(found[metric]["value"], 4),
        )
        for output, found in metrics["held_out"]["test"].items()
        for metric, (label, identifier) in METRICS.items()
        if metric in found and found[metric]["value"] is not None
    ]


def headline(outputs: Mapping[str, Mapping[str, Any]]) -> str:
    """The first metric in a few words: of one output with its interval, of several from the least to the greatest."""
    metric = next(metric for metric in METRICS if metric in next(iter(outputs.values())))
    label, _ = METRICS[metric]
    defined = [found[metric] for found in outputs.values() if found[metric]["value"] is not None]
    if len(defined) < 2:
        return f"{label} {written(defined[0])}" if defined else f"no {label}"
    values = [found["value"] for found in defined]
    return f"{label} {min(values):.3f} to {max(values):.3f} over its outputs"


def results_row(name: str, found: Mapping[str, Any]) -> dict[str, str]:
    """How well an output is predicted, as cells of a table; empty where something is not defined."""
    error = found["root_mean_square_error"]
    return {
        "output": code(name),
        **{count: f"{found[count]:,}" for count in ("rows", "ones") if count in found},
        **{label: written(found[metric]) for metric, (label, _) in METRICS.items() if metric in found},
        "root mean square error": "" if error is None else f"{error:.3g}",
        **{percent(level): "" if share is None else percent(share) for level, share in found["coverage"].items()},
    }


def markdown_table(rows: Sequence[Mapping[str, str]]) -> str:
    """Rows with the same columns."""
    lines = [rows[0], ["---"] * len(rows[0]), *(row.values() for row in rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |" for cells in lines)


def written(found: Mapping[str, float | None]) -> str:
    """A value with its 95 % interval, as far as they are defined."""
    if found["value"] is None:
        return ""
    return f"{found['value']:.3f}" + ("" if found["low"] is None else f" ({found['low']:.3f} to {found['high']:.3f})")


def percent(share: float | str) -> str:
    return f"{100 * float(share):.3g} %"


def code(text: str) -> str:
    return f"`{text}`"


def listed(names: Sequence[str], kind: str = "outputs") -> str:
    """Names in a sentence; of many, the first and the last."""
    if len(names) == 1:
        return code(names[0])
    if len(names) > MOST_NAMES:
        return f"{len(names):,} {kind} ({code(names[0])}, {code(names[1])} … {code(names[-1])})"
    return f"{', '.join(map(code, names[:-1]))} and {code(names[-1])}"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "not known: training was interrupted"
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def checkpoint_of(model: PreTrainedModel) -> str:
    """The checkpoint that a model started from, in a sentence; of a folder no more than its name."""
    source = model.name_or_path
    if not Path(source).is_dir():
        return f"the checkpoint [{source}](https://huggingface.co/{source})"
    within = " within the package modeling_proformer" if Path(source) == checkpoint_path() else ""
    return f"the checkpoint {code(Path(source).resolve().name)}{within}"


def flanks_of(tokenizer: ProformerTokenizer) -> str:
    """The constant letters around the inserts, in a sentence; empty if there are none."""
    flanks = {"5′": tokenizer.five_prime_flank, "3′": tokenizer.three_prime_flank}
    return " and ".join(f"{end} flank {code(flank)}" for end, flank in flanks.items() if flank)


def example_sequence(tokenizer: ProformerTokenizer) -> str:
    """A made-up construct that the tokenizer takes, as a Python expression."""
    repeats = tokenizer.insert_width // len(EXAMPLE_INSERT)
    insert = f'"{EXAMPLE_INSERT}" * {repeats}' if repeats else f'"{EXAMPLE_INSERT[: tokenizer.insert_width]}"'
    flanks = [f'"{flank}"' if flank else "" for flank in (tokenizer.five_prime_flank, tokenizer.three_prime_flank)]
    return " + ".join(filter(None, (flanks[0], insert, flanks[1])))


__all__ = ["card_data", "eval_results", "write_report"]
