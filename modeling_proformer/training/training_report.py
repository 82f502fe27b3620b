"""What lies beside a model that `examples/train.py` trained from new weights: its metrics and its card."""

import csv
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizer, TrainingArguments
from transformers.trainer_utils import PredictionOutput

from ..configuration_proformer import ProformerConfig
from ..data.homology import homology_groups
from ..data.tables import is_hub_dataset
from ..data.training_data import TrainingData, TrainingTable
from ..evaluation.cards import (
    code,
    estimate,
    hardware,
    held_out_metrics,
    model_card,
    run_examples,
    scale_of,
    software,
    write_metrics,
)
from ..evaluation.metrics import Interval, drawn_whole
from ..modeling_proformer import IGNORED, ProformerForPreTraining
from ..pipeline_proformer import PromoterExpressionPipeline
from .trainer import ProformerTrainer


# Options of examples/train.py that name files, which are on the machine of the training alone.
FILES = {"recipe", "train_file", "validation_file", "dream_pairs"}

# Those of the Trainer's arguments that make a difference to the weights, whatever the machine.
ARGUMENTS = (
    "do_train", "do_eval", "seed", "data_seed", "max_steps", "num_train_epochs", "per_device_train_batch_size",
    "gradient_accumulation_steps", "learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps",
    "optim", "adam_beta1", "adam_beta2", "adam_epsilon", "weight_decay", "max_grad_norm", "bf16", "fp16",
    "eval_strategy", "eval_steps", "load_best_model_at_end", "metric_for_best_model",
)  # fmt: skip


def write_training_report(
    trainer: ProformerTrainer,
    data: TrainingData,
    options: Mapping[str, Any],
    evaluation: PredictionOutput | None,
    resumed: bool,
):
    """
    Puts beside a trained model the code of its pipeline, `metrics.json` and the model card `README.md`. None of them
    holds a path. Of several processes, it is for one.

    Args:
        trainer: after its training, with the tokenizer as its `processing_class`. The folder of its arguments holds
            the model, and its name is the model's.
        data: what was trained and evaluated on.
        options: of the tables and of the model, by their names in `examples/train.py`.
        evaluation: of the rows held out by the trained model, if there was any.
        resumed: the training was taken up again, so that nobody knows how long it took in all.

    Raises:
        InputError: training has diverged, see `run_examples`.
    """
    output, arguments, tokenizer = Path(trainer.args.output_dir), trainer.args, trainer.processing_class
    model = type(trainer.accelerator.unwrap_model(trainer.model)).from_pretrained(output)
    example = run_examples(model, tokenizer)
    PromoterExpressionPipeline(model, tokenizer, device="cpu").save_pretrained(output)
    names = [name_of(table.source) for table in data.tables]
    families = families_held_out(data, options, tokenizer)
    found = {} if evaluation is None else {"validation": evaluated_outputs(evaluation, families, model.config)}
    metrics = {
        **software(),
        "table": names[-1] if options["validation_file"] else ", ".join(names),
        "tables": [table._replace(source=name)._asdict() for table, name in zip(data.tables, names, strict=True)],
        "problem_type": model.config.problem_type,
        "scale": scale_of(model.config),
        "parameters": model.num_parameters(),
        "steps": trainer.state.global_step,
        "best_step": trainer.state.best_global_step if arguments.load_best_model_at_end else None,
        "hardware": hardware(arguments.device, arguments.world_size * max(arguments.n_gpu, 1)),
        "seconds": None if resumed else seconds_of_training(trainer),
        "grams_of_co2": None if resumed else grams_of_co2(output),
        "rows": {"train": len(data.train), "validation": len(data.held_out)},
        "held_out": found,
    }
    write_metrics(output, metrics)
    card = model_card(
        "trained_card.md",
        output.resolve().name,
        model.config,
        tokenizer,
        metrics,
        example,
        metadata_of(data, metrics),
        options=options,
        arguments=arguments,
        tables=names[:-1] if options["validation_file"] else names,
        table_rows=[
            table_row(name, table, held_out=bool(options["validation_file"]) and table is data.tables[-1])
            for name, table in zip(names, data.tables, strict=True)
        ],
        seen_in_training=data.seen_in_training,
        scales=list(zip(options["label_columns"], data.label_mean, data.label_std, strict=True)),
        fills_in=isinstance(model, ProformerForPreTraining),
        by_family=drawn_whole(families) is not None,
        rows_in_step=arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size,
        recipe=recipe_of(options, arguments),
    )
    card.save(output / "README.md")


def name_of(source: str) -> str:
    """A table's name: of a file or folder, the last part of its path; of a Hub dataset, what it is called there."""
    return source if is_on_the_hub(source) else Path(source).name


def is_on_the_hub(source: str) -> bool:
    return is_hub_dataset(source) and not os.path.exists(source.partition(":")[0])


def table_row(name: str, table: TrainingTable, held_out: bool) -> dict[str, str]:
    """What a table held, as cells of the card's; `held_out` if none of its rows were trained on."""
    times = "" if table.times == 1 else f", {table.times} times"
    return {
        "table": code(name),
        "rows": f"{table.rows:,}",
        "left out, too long": f"{table.left_out:,}",
        "for": "evaluation" if held_out else f"training{times}",
    }


def families_held_out(data: TrainingData, options: Mapping[str, Any], tokenizer: PreTrainedTokenizer) -> np.ndarray:
    """The family of each row held out, (rows,): as the table says or, where it does not, as the inserts show."""
    if options["group_column"]:
        return np.unique(data.held_out[options["group_column"]][:], return_inverse=True)[1]
    return homology_groups(tokenizer.inserts(data.held_out[options["sequence_column"]][:]))


def evaluated_outputs(
    evaluation: PredictionOutput, families: np.ndarray, config: ProformerConfig
) -> dict[str, dict[str, Any]]:
    """How well each output is predicted on the rows held out; the DREAM scores too, where these are its test set."""
    predicted = np.asarray(evaluation.predictions, dtype=np.float64)
    labels = np.asarray(evaluation.label_ids, dtype=np.float64).reshape(predicted.shape)
    found = held_out_metrics(np.where(labels == IGNORED, np.nan, labels), predicted, families, config)
    for score in ("pearson_score", "spearman_score"):
        if f"eval_{score}" in evaluation.metrics:
            found[config.id2label[0]][score] = estimate(evaluation.metrics[f"eval_{score}"], Interval(np.nan, np.nan))
    return found


def seconds_of_training(trainer: ProformerTrainer) -> float | None:
    return next((entry["train_runtime"] for entry in trainer.state.log_history if "train_runtime" in entry), None)


def grams_of_co2(output: Path) -> float | None:
    """CO₂ equivalent of the training as codecarbon estimates it, where the Trainer was told to report to it."""
    path = output / "emissions.csv"
    if not path.exists():
        return None
    with open(path, newline="", encoding="utf-8") as file:
        # Each training in this folder adds a row.
        *_, latest = csv.DictReader(file)
        return 1000 * float(latest["emissions"])


def metadata_of(data: TrainingData, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What the card's metadata say besides: datasets of the Hub that were trained on, and emissions."""
    datasets = dict.fromkeys(table.source.partition(":")[0] for table in data.tables if is_on_the_hub(table.source))
    metadata = {"datasets": list(datasets)} if datasets else {}
    if metrics["grams_of_co2"] is not None:
        metadata["co2_eq_emissions"] = {
            "emissions": metrics["grams_of_co2"],
            "source": "codecarbon",
            "training_type": "pre-training",
            "hardware_used": metrics["hardware"],
        }
    return metadata


def recipe_of(options: Mapping[str, Any], arguments: TrainingArguments) -> str:
    """The options of a training, but for its files, as a recipe of `examples/train.py`."""
    chosen = {name: value for name, value in options.items() if name not in FILES}
    chosen |= {name: getattr(arguments, name) for name in ARGUMENTS}
    del chosen["num_train_epochs" if arguments.max_steps > 0 else "max_steps"]
    if chosen["lr_scheduler_kwargs"]:
        chosen["lr_scheduler_kwargs"] = json.dumps(chosen["lr_scheduler_kwargs"])
    # Without what is off by default.
    chosen = {name: value for name, value in chosen.items() if value is not False and value not in (None, [], {})}
    return "\n".join(f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in chosen.items())


__all__ = ["write_training_report"]
