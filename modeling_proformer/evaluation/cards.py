"""Model cards, rendered from what lies in a model's folder: its record `metrics.json`, configuration and tokenizer."""

import hashlib
import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from transformers import PreTrainedModel

from ..configuration_proformer import ProformerConfig
from ..data.tables import InputError, first_line
from ..pipeline_proformer import PromoterExpressionPipeline
from ..tokenization import ProformerTokenizer
from .figures import MAX_PANELS


#: The card and the record of a model, in its folder.
CARD, RECORD = "README.md", "metrics.json"
TAGS = ["biology", "genomics", "dna", "gene-expression", "regulatory-genomics", "proformer"]

# Name and identifier, at hf.co/metrics where it has one, of each metric of how well an output is predicted.
METRICS = {
    "pearson_score": ("DREAM Pearson score", "dream_pearson_score"),
    "spearman_score": ("DREAM Spearman score", "dream_spearman_score"),
    "pearson_r": ("Pearson r", "pearsonr"),
    "spearman_rho": ("Spearman ρ", "spearmanr"),
    "roc_auc": ("ROC AUC", "roc_auc"),
}
# The same of how well the class is predicted, where there are classes.
CLASS_METRICS = {
    "balanced_accuracy": ("Balanced accuracy", "balanced_accuracy"),
    "accuracy": ("Accuracy", "accuracy"),
}
TEMPLATES = {"fine-tuned": "finetuned_card.md", "trained": "trained_card.md"}
METHODS = {
    "full": "all weights",
    "head": "the head alone, on the encoder as it was",
    "lora": "low-rank updates of the encoder's matrices, merged into them, and the head",
}
# Level of the intervals that a card and the table of predictions speak of, if the model has them.
LEVEL = 0.9
# More outputs are not named one by one in a sentence.
MAX_NAMES = 6
EXAMPLE_INSERT = "ACGTTACCCGGTAAAT"


class Example(NamedTuple):
    """
    What the examples of a card compute, and what they print.

    Attributes:
        sequence: a made-up construct, as a Python expression.
        position: of the variant in it, counted from 1.
        allele: the alternate base there.
        predicted: what the first example prints: the values of each output, with the ends of their intervals.
        effect: what the second prints: the alternate allele's values less the reference's.
    """

    sequence: str
    position: int
    allele: str
    predicted: str
    effect: str


def render_card(folder: str | os.PathLike, repo_id: str | None = None, license: str | None = None) -> ModelCard | None:
    """
    Return the card of a model that `finetune` or `train` made, or None for a folder without a whole record.

    Args:
        folder: of the model, with `metrics.json`.
        repo_id: repository on the Hub that the card's code opens the model from; by default the folder's name.
        license: identifier of a licence on the Hub; by default the card asks for one.

    Raises:
        OSError, ValueError: the folder's files cannot be read.
    """
    folder = Path(folder).resolve()
    record = read_record(folder)
    if record.get("kind") not in TEMPLATES:
        return None
    config, tokenizer = ProformerConfig.from_pretrained(folder), ProformerTokenizer.from_pretrained(folder)
    scored, outputs = _evaluated(record)
    accuracy = (record.get("accuracy") or {}).get(scored)
    levels = config.interval_half_widths or {}
    checkpoint = record.get("checkpoint")
    text = ENVIRONMENT.get_template(TEMPLATES[record["kind"]]).render(
        card_data=card_data(folder.name, record, license),
        name=folder.name,
        opened=repo_id or folder.name,
        license=license,
        record=record,
        options=record["options"],
        config=config,
        tokenizer=tokenizer,
        regression=config.problem_type == "regression",
        classes=config.problem_type == "single_label_classification",
        outputs=_describe_outputs(config, record),
        flanks=_describe_flanks(tokenizer),
        level=str(LEVEL) if str(LEVEL) in levels else max(levels, key=float, default=None),
        example=Example(**record["example"]),
        scored=scored,
        headline=_headline_of_classes(accuracy) if accuracy else _headline(outputs) if outputs else None,
        accuracy=accuracy
        and {label: _with_interval(accuracy[metric]) for metric, (label, _) in CLASS_METRICS.items()},
        chance=accuracy and accuracy["chance"],
        results=[_results_row(*each) for each in outputs.items()],
        measurements=[{**row, "output": code(row["output"])} for row in record.get("measurements", [])],
        checkpoint=checkpoint and _describe_checkpoint(checkpoint),
        methods=METHODS,
        max_panels=MAX_PANELS,
    )
    return ModelCard(text)


def read_record(folder: Path) -> dict[str, Any]:
    """
    Return the content of a folder's `metrics.json`; nothing if there is none.

    Raises:
        InputError: the file is damaged.
    """
    path = folder / RECORD
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: this is not JSON that can be read: {first_line(error)}") from error
    if not isinstance(record, dict):
        raise InputError(f"{path}: this is not the record of a model.")
    return record


def digest_card(folder: Path) -> str | None:
    """Return the digest of a folder's `README.md`; None if there is none."""
    path = folder / CARD
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def card_data(name: str, record: Mapping[str, Any], license: str | None = None) -> ModelCardData:
    """
    Return the metadata of a model.

    Args:
        name: of the model.
        record: content of its `metrics.json`.
        license: identifier of a licence on the Hub.
    """
    results = eval_results(record)
    more: dict[str, Any] = {}
    if license is not None:
        more["license"] = license
    checkpoint = record.get("checkpoint")
    if checkpoint and checkpoint["on_the_hub"] and not record["options"].get("from_scratch"):
        more["base_model"] = checkpoint["name"]
    if datasets := [table["name"].partition(":")[0] for table in record["tables"] if table["on_the_hub"]]:
        more["datasets"] = list(dict.fromkeys(datasets))
    if record.get("grams_of_co2") is not None:
        more["co2_eq_emissions"] = {
            "emissions": record["grams_of_co2"],
            "source": "codecarbon",
            "training_type": "pre-training" if record["kind"] == "trained" else "fine-tuning",
            "hardware_used": record["hardware"],
        }
    return ModelCardData(
        library_name="transformers",
        pipeline_tag="text-classification",
        tags=TAGS,
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
        model_name=name,
        eval_results=results,
        **more,
    )


def _evaluated(record: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Return the split that shows how good a model is, the test split if it has rows, and the metrics on it."""
    split = "test" if record["rows"].get("test") else "validation"
    return split, record["held_out"].get(split, {})


def eval_results(record: Mapping[str, Any]) -> list[EvalResult]:
    """Return the metrics of a model as the Hub lists them, without those that are not defined."""
    kind = "regression" if record["problem_type"] == "regression" else "classification"
    split, outputs = _evaluated(record)
    scores = [(output, METRICS, found) for output, found in outputs.items()]
    if record.get("accuracy"):
        scores.insert(0, (record["options"]["targets"][0], CLASS_METRICS, record["accuracy"][split]))
    return [
        EvalResult(
            task_type="text-classification",
            task_name=f"Activity of DNA sequences ({kind})",
            dataset_type=re.sub(r"[^\w.-]+", "-", record["table"]),
            dataset_name=record["table"],
            dataset_split=split,
            metric_type=identifier,
            metric_name=f"{label} of {name}",
            metric_value=round(found[metric]["value"], 4),
        )
        for name, metrics, found in scores
        for metric, (label, identifier) in metrics.items()
        if metric in found and found[metric]["value"] is not None
    ]


def run_example(model: PreTrainedModel, tokenizer: ProformerTokenizer) -> Example:
    """
    Compute what the examples of a card print: the expression of a made-up construct, and the effect of a variant.

    Raises:
        InputError: a prediction is not finite.
    """
    pipe: Any = PromoterExpressionPipeline(model=model, tokenizer=tokenizer, device="cpu")
    flanks = [tokenizer.five_prime_flank or "", tokenizer.three_prime_flank or ""]
    times = max(tokenizer.insert_width // len(EXAMPLE_INSERT), 1)
    part = EXAMPLE_INSERT[: tokenizer.insert_width]
    sequence = flanks[0] + part * times + flanks[1]
    terms = [f'"{flanks[0]}"', f'"{part}" * {times}' if times > 1 else f'"{part}"', f'"{flanks[1]}"']
    position = len(flanks[0]) + len(part) * times // 2
    allele = "A" if sequence[position] == "T" else "T"
    reference, alternate = pipe([sequence, sequence[:position] + allele + sequence[position + 1 :]])
    effects = {name: alternate[name]["value"] - found["value"] for name, found in reference.items()}
    if not np.isfinite(list(effects.values())).all():
        raise InputError("Predictions are nan or infinite: training has diverged. Give a lower `learning_rate`.")
    return Example(
        sequence=" + ".join(term for term in terms if term != '""'),
        position=position + 1,
        allele=allele,
        predicted="\n".join(
            " ".join([name, *(f"{kind} {value:.6f}" for kind, value in found.items())])
            for name, found in reference.items()
        ),
        effect="\n".join(f"{name} {effect:+.6f}" for name, effect in effects.items()),
    )


def _headline_of_classes(accuracy: Mapping[str, Any]) -> str:
    """Return the balanced accuracy in a few words, with its interval and that of chance."""
    balanced = _with_interval(accuracy["balanced_accuracy"]) or "no value"
    return f"a balanced accuracy of {balanced}, where chance is {accuracy['chance']:.3f}"


def _describe_outputs(config: ProformerConfig, record: Mapping[str, Any]) -> str:
    """Return the names of the outputs in a sentence; of classes, after that of their column."""
    names = list(config.id2label.values())
    if config.problem_type != "single_label_classification":
        return _list_names(names)
    return f"the class {code(record['options']['targets'][0])} ({_list_names(names, 'classes')})"


def _headline(outputs: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the first metric in a few words: of one output with its interval, of several the range."""
    metric = next(metric for metric in METRICS if metric in next(iter(outputs.values())))
    label, _ = METRICS[metric]
    defined = [found[metric] for found in outputs.values() if found[metric]["value"] is not None]
    if len(defined) < 2:
        return f"{label} {_with_interval(defined[0])}" if defined else f"no {label}"
    values = [found["value"] for found in defined]
    return f"{label} {min(values):.3f} to {max(values):.3f} over its outputs"


def _results_row(name: str, found: Mapping[str, Any]) -> dict[str, str]:
    """Return how well an output is predicted, as cells of a table; empty where something is not defined."""
    error = found["root_mean_square_error"]
    return {
        "output": code(name),
        **{count: f"{found[count]:,}" for count in ("rows", "ones") if count in found},
        **{label: _with_interval(found[metric]) for metric, (label, _) in METRICS.items() if metric in found},
        "root mean square error": "" if error is None else f"{error:.3g}",
        **{percent(level): "" if share is None else percent(share) for level, share in found["coverage"].items()},
    }


def _with_interval(found: Mapping[str, float | None]) -> str:
    """Return a value with its 95 % interval, as far as they are defined."""
    if found["value"] is None:
        return ""
    return f"{found['value']:.3f}" + ("" if found["low"] is None else f" ({found['low']:.3f} to {found['high']:.3f})")


def _describe_checkpoint(checkpoint: Mapping[str, Any]) -> str:
    """Return the checkpoint that a model started from, in a sentence."""
    name = checkpoint["name"]
    if checkpoint["on_the_hub"]:
        return f"the checkpoint [{name}](https://huggingface.co/{name})"
    return f"the checkpoint {code(name)}{' within the package modeling_proformer' if checkpoint['embedded'] else ''}"


def _describe_flanks(tokenizer: ProformerTokenizer) -> str:
    """Return the constant bases around the inserts, in a sentence; empty if there are none."""
    flanks = {"5′": tokenizer.five_prime_flank, "3′": tokenizer.three_prime_flank}
    return " and ".join(f"{end} flank {code(flank)}" for end, flank in flanks.items() if flank)


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows with the same columns as a table; numbers are shortened."""
    lines = [rows[0], ["---"] * len(rows[0]), *(row.values() for row in rows)]
    return "\n".join("| " + " | ".join(map(_cell, cells)) + " |" for cells in lines)


def _cell(value: Any) -> str:
    text = f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", r"\|")


def percent(share: float | str) -> str:
    return f"{100 * float(share):.3g} %"


def code(text: str) -> str:
    """Return text as Markdown code, between more backticks than it has in a row."""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{text}{fence}" if fence == "`" else f"{fence} {text} {fence}"


def _list_names(names: Sequence[str], kind: str = "outputs") -> str:
    """Return names in a sentence; of many, the first and the last."""
    if len(names) == 1:
        return code(names[0])
    if len(names) > MAX_NAMES:
        return f"{len(names):,} {kind} ({code(names[0])}, {code(names[1])} … {code(names[-1])})"
    return f"{', '.join(map(code, names[:-1]))} and {code(names[-1])}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "not known, because training was interrupted and resumed"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


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
    "duration": _duration,
    "listed": _list_names,
    "numbers": lambda numbers: ", ".join(f"{number:g}" for number in numbers),
    "percent": percent,
    "python": partial(json.dumps, ensure_ascii=False),
    "shell": shlex.quote,
    "table": markdown_table,
}


__all__ = ["CARD", "RECORD", "card_data", "digest_card", "eval_results", "read_record", "render_card", "run_example"]
