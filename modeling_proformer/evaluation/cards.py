"""Model cards, and what else lies beside a fine-tuned model: metrics, predictions of the rows held out, figures."""

import csv
import json
import os
import platform
import re
import shlex
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from transformers import PreTrainedModel

from .. import __version__
from ..configuration_proformer import ProformerConfig
from ..data.assay import Preparation, TableColumns
from ..data.tables import InputError
from ..intervals import prediction_interval, transformed
from ..pipeline_proformer import PromoterExpressionPipeline
from ..prediction import checkpoint_path, load_checkpoint
from ..tokenization import ProformerTokenizer
from ..training.finetune import MOST_ROWS_TO_CHOOSE_BY, FineTuned, Recipe, criterion
from .figures import MOST_PANELS, ComparedOutput, learning_curve, roc_curves, scatter_plots
from .metrics import Interval, correlation, correlation_intervals, drawn_whole, roc_auc, roc_auc_interval


TAGS = ["biology", "genomics", "dna", "gene-expression", "regulatory-genomics", "proformer"]
HELD_OUT = ("validation", "test")

# Of the interval in the table of predictions.
LEVEL = 0.9

# Name and identifier, at hf.co/metrics where it has one, of each metric that says how well an output is predicted.
METRICS = {
    "pearson_score": ("DREAM Pearson score", "dream_pearson_score"),
    "spearman_score": ("DREAM Spearman score", "dream_spearman_score"),
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


class Example(NamedTuple):
    """
    What the examples of a card compute, and what they print.

    Attributes:
        sequence: a made-up construct, as a Python expression.
        position: of the variant in it, counted from 1.
        allele: the alternate letter there.
        predicted: the values of each output, with the ends of their intervals where there are any.
        effect: the alternate allele's values less the reference's.
    """

    sequence: str
    position: int
    allele: str
    predicted: str
    effect: str


def write_report(output: Path, fine_tuned: FineTuned, columns: TableColumns, preparation: Preparation, recipe: Recipe):
    """
    Writes `metrics.json`, `predictions.tsv`, `scatter.png` or, for classification, `roc_curve.png`,
    `learning_curve.png` and the model card `README.md`. None of them holds a path.

    Args:
        output: folder that the model and its tokenizer were saved in; its name is the model's.
        fine_tuned: the model, and what it predicts for the rows held out.
        columns, preparation, recipe: those of `finetune`.
    """
    metrics = metrics_of(fine_tuned)
    write_metrics(output, metrics)
    write_predictions(output / "predictions.tsv", fine_tuned)
    draw_figures(output, fine_tuned)
    card = finetuned_card(output, metrics, fine_tuned, columns, preparation, recipe)
    card.save(output / "README.md")


def write_metrics(output: Path, metrics: Mapping[str, Any]):
    text = json.dumps(metrics, indent=1, ensure_ascii=False, allow_nan=False)
    (output / "metrics.json").write_text(text + "\n", encoding="utf-8")


def metrics_of(fine_tuned: FineTuned) -> dict[str, Any]:
    """The content of `metrics.json`; what is not defined is None."""
    model, assay, config = fine_tuned.model, fine_tuned.assay, fine_tuned.model.config
    values = fine_tuned.measured, fine_tuned.predicted, assay.families
    return {
        **software(),
        "table": assay.table.source.name,
        "problem_type": config.problem_type,
        "scale": scale_of(config),
        "parameters": model.num_parameters(),
        "steps": max((entry["step"] for entry in fine_tuned.log_history), default=0),
        "best_step": best_step(fine_tuned.log_history, config),
        "hardware": hardware(model.device),
        "seconds": None if fine_tuned.seconds is None else round(fine_tuned.seconds, 1),
        "rows": {side: len(rows) for side, rows in assay.split._asdict().items()},
        "test_twins": assay.test_twins,
        "held_out": {
            side: held_out_metrics(*(each[getattr(assay.split, side)] for each in values), config) for side in HELD_OUT
        },
    }


def software() -> dict[str, str]:
    """Versions of what a model was trained with."""
    return {
        "modeling_proformer": __version__,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
    }


def hardware(device: torch.device, devices: int = 1) -> str:
    """What a model was trained on, such as `8 × NVIDIA H100`; of a CPU, how many of its cores."""
    if device.type == "cpu":
        return f"{processor()}, {devices * torch.get_num_threads()} of {os.cpu_count()} cores"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return f"{devices} × {name}" if devices > 1 else name


def processor() -> str:
    """Name of the CPU, as far as the system tells it."""
    information = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.+)$", information.read_text() if information.exists() else "", re.M)
    return f"CPU {' '.join(names[0].split()) if names else platform.processor() or platform.machine()}"


def scale_of(config: ProformerConfig) -> str:
    """On which scale correlations and errors are computed."""
    if config.problem_type != "regression":
        return "probability"
    return f"{config.label_transform} of the measurements" if config.label_transform else "as measured"


def best_step(log_history: Sequence[Mapping[str, Any]], config: ProformerConfig) -> int | None:
    """The step that the Trainer goes back to: the first with the lowest loss, or the highest score."""
    name = f"eval_{criterion(config)}"
    found = {entry["step"]: entry[name] for entry in log_history if name in entry}
    defined = {step: value for step, value in found.items() if not np.isnan(value)}
    return (min if name == "eval_loss" else max)(defined, key=defined.get, default=None)


def held_out_metrics(
    measured: np.ndarray, predicted: np.ndarray, families: np.ndarray, config: ProformerConfig
) -> dict[str, dict[str, Any]]:
    """
    How well each output is predicted, on those rows that have a measurement of it.

    Args:
        measured, predicted: (rows, outputs) in the assay's units; measurements that are missing are NaN.
        families: (rows,) which of them are related.
        config: of the model.
    """
    return {
        name: output_metrics(measured, predicted, families, config, output) for output, name in config.id2label.items()
    }


def output_metrics(
    measured: np.ndarray, predicted: np.ndarray, families: np.ndarray, config: ProformerConfig, output: int
) -> dict[str, Any]:
    families = families[~np.isnan(measured[:, output])]
    _, measured, predicted = compared(measured, predicted, config, output)
    errors = np.abs(measured - predicted)
    return {
        "rows": len(errors),
        **agreement(measured, predicted, families, config),
        "root_mean_square_error": float(np.sqrt(np.mean(errors**2))) if len(errors) else None,
        "coverage": {
            level: float(np.mean(errors <= half_widths[output])) if len(errors) else None
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


def estimate(value: float, interval: Interval) -> dict[str, float | None]:
    """A value with its 95 % interval; None, which JSON knows, in the place of NaN, which it does not."""
    ends = {"value": value, **interval._asdict()}
    return {name: None if np.isnan(end) else end for name, end in ends.items()}


def compared(measured: np.ndarray, predicted: np.ndarray, config: ProformerConfig, output: int) -> ComparedOutput:
    """An output of those rows that have a measurement of it, on the scale that the model is trained on."""
    name, rows = config.id2label[output], ~np.isnan(measured[:, output])
    values = (transformed(each[rows, output], config) for each in (measured, predicted))
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
    measured, predicted = fine_tuned.measured[test], fine_tuned.predicted[test]
    outputs = [compared(measured, predicted, config, output) for output in config.id2label]
    if config.problem_type == "regression":
        scatter_plots(output / "scatter.png", outputs)
    else:
        roc_curves(output / "roc_curve.png", outputs)
    score = METRICS["pearson_r" if config.problem_type == "regression" else "roc_auc"][0]
    label = f"validation {score}" + (", mean of outputs" if len(outputs) > 1 else "")
    learning_curve(output / "learning_curve.png", fine_tuned.log_history, "eval_score", label)


def finetuned_card(
    output: Path,
    metrics: Mapping[str, Any],
    fine_tuned: FineTuned,
    columns: TableColumns,
    preparation: Preparation,
    recipe: Recipe,
) -> ModelCard:
    """
    The card of a fine-tuned model.

    Args:
        output, fine_tuned, columns, preparation, recipe: those of `write_report`.
        metrics: those of `metrics_of`.
    """
    model, assay = fine_tuned.model, fine_tuned.assay
    train, test = assay.split.train, assay.split.test
    on_the_hub = not Path(model.name_or_path).is_dir()
    return model_card(
        "finetuned_card.md",
        output.resolve().name,
        model.config,
        assay.tokenizer,
        metrics,
        run_examples(*load_checkpoint(output)),
        {"base_model": model.name_or_path} if on_the_hub and not recipe.from_scratch else {},
        columns=columns,
        preparation=preparation,
        recipe=recipe,
        checkpoint=checkpoint_of(model),
        embedded=Path(model.name_or_path) == checkpoint_path(),
        by_family=drawn_whole(assay.families[test]) is not None,
        findings=[line for finding in assay.findings for line in finding.splitlines()],
        families={side: len(np.unique(assay.families[rows])) for side, rows in assay.split._asdict().items()},
        measurements=[
            {"output": code(name), **distribution(fine_tuned.measured[train, number])}
            for number, name in model.config.id2label.items()
        ],
        method=METHODS[recipe.method],
        learning_rate=recipe.highest_rate(),
        batch_size=min(recipe.batch_size, metrics["rows"]["train"]),
        most_steps=recipe.most_steps(metrics["rows"]["train"]),
        chosen_by=min(metrics["rows"]["validation"], MOST_ROWS_TO_CHOOSE_BY),
        panels=min(len(columns.outputs), MOST_PANELS),
    )


def model_card(
    template: str,
    name: str,
    config: ProformerConfig,
    tokenizer: ProformerTokenizer,
    metrics: Mapping[str, Any],
    example: Example,
    metadata: Mapping[str, Any],
    **details,
) -> ModelCard:
    """
    The card of a model.

    Args:
        template: file in `templates`, an extension of `model_card.md`.
        name: of the model.
        config, tokenizer: of the model.
        metrics: content of its `metrics.json`.
        example: see `run_examples`.
        metadata: more of them, see `card_data`.
        details: what the template asks for, beyond what all cards of models do.
    """
    _, outputs = evaluated(metrics)
    levels = config.interval_half_widths or {}
    text = ENVIRONMENT.get_template(template).render(
        card_data=card_data(name, metrics, **metadata),
        name=name,
        metrics=metrics,
        config=config,
        tokenizer=tokenizer,
        regression=config.problem_type == "regression",
        outputs=listed(list(config.id2label.values())),
        flanks=flanks_of(tokenizer),
        level=str(LEVEL) if str(LEVEL) in levels else max(levels, key=float, default=None),
        example=example,
        headline=headline(outputs) if outputs else None,
        results=[results_row(*each) for each in outputs.items()],
        **details,
    )
    return ModelCard(text)


def card_data(name: str, metrics: Mapping[str, Any], **metadata) -> ModelCardData:
    """
    Metadata of a model.

    Args:
        name: of the model.
        metrics: the content of its `metrics.json`.
        metadata: more of them, such as `base_model`, the repository on the Hub that it was fine-tuned from.
    """
    results = eval_results(metrics)
    return ModelCardData(
        library_name="transformers",
        pipeline_tag="text-classification",
        tags=TAGS,
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
        model_name=name,
        eval_results=results,
        **metadata,
    )


def evaluated(metrics: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The side that tells how good a model is, the test rows if there are any, and each output's metrics on it."""
    side = "test" if "test" in metrics["held_out"] else "validation"
    return side, metrics["held_out"].get(side, {})


def eval_results(metrics: Mapping[str, Any]) -> list[EvalResult]:
    """The metrics of a model as the Hub lists them; those that are not defined are left out."""
    kind = "regression" if metrics["problem_type"] == "regression" else "classification"
    side, outputs = evaluated(metrics)
    return [
        EvalResult(
            task_type="text-classification",
            task_name=f"Activity of DNA sequences ({kind})",
            dataset_type=re.sub(r"[^\w.-]+", "-", metrics["table"]),
            dataset_name=metrics["table"],
            dataset_split=side,
            metric_type=identifier,
            metric_name=f"{label} of {output}",
            metric_value=round(found[metric]["value"], 4),
        )
        for output, found in outputs.items()
        for metric, (label, identifier) in METRICS.items()
        if metric in found and found[metric]["value"] is not None
    ]


def run_examples(model: PreTrainedModel, tokenizer: ProformerTokenizer) -> Example:
    """
    Computes what the examples of a card do: the expression of a made-up construct, and the effect of a variant of it.

    Raises:
        InputError: the weights are not sound.
    """
    pipe = PromoterExpressionPipeline(model=model, tokenizer=tokenizer, device="cpu")
    flanks = [tokenizer.five_prime_flank or "", tokenizer.three_prime_flank or ""]
    times = max(tokenizer.insert_width // len(EXAMPLE_INSERT), 1)
    part = EXAMPLE_INSERT[: tokenizer.insert_width]
    sequence = flanks[0] + part * times + flanks[1]
    written = [f'"{flanks[0]}"', f'"{part}" * {times}' if times > 1 else f'"{part}"', f'"{flanks[1]}"']
    place = len(flanks[0]) + len(part) * times // 2
    allele = "A" if sequence[place] == "T" else "T"
    reference, alternate = pipe([sequence, sequence[:place] + allele + sequence[place + 1 :]])
    effects = {name: alternate[name]["value"] - found["value"] for name, found in reference.items()}
    if not np.isfinite(list(effects.values())).all():
        raise InputError("Predictions are nan or infinite: training has diverged. Give a lower learning_rate.")
    return Example(
        sequence=" + ".join(each for each in written if each != '""'),
        position=place + 1,
        allele=allele,
        predicted="\n".join(
            " ".join([name, *(f"{kind} {value:.6f}" for kind, value in found.items())])
            for name, found in reference.items()
        ),
        effect="\n".join(f"{name} {effect:+.6f}" for name, effect in effects.items()),
    )


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


def distribution(values: np.ndarray) -> dict[str, str]:
    """Where measurements lie, as cells of a table; missing ones are NaN."""
    present = values[~np.isnan(values)]
    numbers = {
        "lowest": present.min(),
        "median": np.median(present),
        "highest": present.max(),
        "mean": present.mean(),
        "standard deviation": present.std(),
    }
    return {"rows": f"{len(present):,}", **{name: f"{number:.4g}" for name, number in numbers.items()}}


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
    """Text as it is; between more backticks than it has in a row."""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{text}{fence}" if fence == "`" else f"{fence} {text} {fence}"


def listed(names: Sequence[str], kind: str = "outputs") -> str:
    """Names in a sentence; of many, the first and the last."""
    if len(names) == 1:
        return code(names[0])
    if len(names) > MOST_NAMES:
        return f"{len(names):,} {kind} ({code(names[0])}, {code(names[1])} … {code(names[-1])})"
    return f"{', '.join(map(code, names[:-1]))} and {code(names[-1])}"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "not known: training was taken up again"
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


ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
ENVIRONMENT.filters |= {
    "code": code,
    "count": "{:,}".format,
    "duration": duration,
    "listed": listed,
    "percent": percent,
    "python": partial(json.dumps, ensure_ascii=False),
    "shell": shlex.quote,
    "table": markdown_table,
}


__all__ = ["card_data", "eval_results", "write_report"]
