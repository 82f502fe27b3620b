"""The record and the card of a model that was trained from new weights."""

import csv
import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainingArguments
from transformers.trainer_utils import PredictionOutput

from ..configuration_proformer import ProformerConfig
from ..evaluation.bootstrap import usable_groups
from ..evaluation.cards import code
from ..evaluation.report import (
    describe_hardware,
    estimate,
    held_out_metrics,
    model_record,
    source_record,
    write_record_and_card,
)
from ..modeling_proformer import IGNORED, ProformerForPreTraining
from ..pipeline_proformer import PromoterExpressionPipeline
from .config import TrainConfig
from .rows import TrainingRows
from .trainer import ProformerTrainer


# Options that name files, which are on the machine of the training alone.
FILES = {"validation_data", "dream_pairs"}

# These arguments of the Trainer make a difference to the weights, whatever the machine.
ARGUMENTS = (
    "seed", "data_seed", "max_steps", "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps",
    "learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "optim", "adam_beta1", "adam_beta2",
    "adam_epsilon", "weight_decay", "max_grad_norm", "bf16", "fp16", "eval_strategy", "eval_steps",
    "load_best_model_at_end", "metric_for_best_model",
)  # fmt: skip


def write_pretrain_report(
    trainer: ProformerTrainer, rows: TrainingRows, config: TrainConfig, evaluation: PredictionOutput, resumed: bool
):
    """
    Write the code of the pipeline, `metrics.json` and the card `README.md` next to a trained model.

    None of them names a folder of this machine. Of several processes, one calls it.

    Args:
        trainer: after its training, with the tokenizer as its `processing_class`. The folder of its arguments holds
            the model, and its name is the model's.
        rows: what was trained and evaluated on.
        config: options of the training.
        evaluation: of the held-out rows by the trained model.
        resumed: whether training was interrupted, so that its duration is not known.

    Raises:
        InputError: training has diverged.
    """
    arguments, tokenizer = trainer.args, trainer.processing_class
    folder = Path(arguments.output_dir)
    model = type(trainer.accelerator.unwrap_model(trainer.model)).from_pretrained(folder)
    tables = [source_record(source) for source in rows.sources]
    record = model_record("trained", model, tokenizer, tables)
    PromoterExpressionPipeline(model, tokenizer, device="cpu").save_pretrained(folder)
    held_out_table = config.validation_data is not None
    record |= {
        # The table of the scores, where the rows held out have one of their own.
        "table": tables[-1]["name"] if held_out_table else record["table"],
        "training_tables": [table["name"] for table in (tables[:-1] if held_out_table else tables)],
        "table_rows": [
            _table_row(table, held_out=held_out_table and table is tables[-1], streamed=config.streaming)
            for table in tables
        ],
        "options": {**asdict(config), "validation_data": held_out_table, "dream_pairs": bool(config.dream_pairs)},
        "yaml": _options_as_yaml(config, arguments),
        "steps": trainer.state.global_step,
        "best_step": trainer.state.best_global_step if arguments.load_best_model_at_end else None,
        "rows_per_step": rows_per_step(arguments),
        "arithmetic": "bfloat16" if arguments.bf16 else "float16" if arguments.fp16 else "float32",
        "hardware": describe_hardware(arguments.device, arguments.world_size * max(arguments.n_gpu, 1)),
        "seconds": None if resumed else _seconds_of_training(trainer),
        "grams_of_co2": None if resumed else _grams_of_co2(folder),
        "rows": {"train": rows.num_train, "validation": len(rows.held_out)},
        "scales": list(zip(config.outputs, rows.label_mean, rows.label_std, strict=True)),
        "fills_in": isinstance(model, ProformerForPreTraining),
        "seen_in_training": rows.seen_in_training,
        "by_group": usable_groups(rows.groups) is not None,
        "held_out": {"validation": _evaluated_outputs(evaluation, rows, model.config)},
    }
    write_record_and_card(folder, record)


def rows_per_step(arguments: TrainingArguments) -> int:
    """Return the number of rows in a step, over all its micro-batches and processes."""
    return arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size


def _table_row(table: Mapping[str, Any], held_out: bool, streamed: bool) -> dict[str, str]:
    """Return what a table held, as cells of the card's table; `held_out` if none of its rows were trained on."""
    times = "" if table["times"] == 1 else f", {table['times']} times"
    counted = not streamed or held_out
    return {
        "table": code(table["name"]),
        "rows": f"{table['rows']:,}" if counted else "streamed",
        "left out": f"{table['left_out']:,}" if counted else "",
        "used for": "evaluation" if held_out else f"training{times}",
    }


def _evaluated_outputs(
    evaluation: PredictionOutput, rows: TrainingRows, config: ProformerConfig
) -> dict[str, dict[str, Any]]:
    """Return how well each output is predicted on the held-out rows, with the DREAM scores of that test set."""
    predicted = np.asarray(evaluation.predictions, dtype=np.float64)
    labels = np.asarray(evaluation.label_ids, dtype=np.float64)
    measured = rows.measured_of(np.where(labels == IGNORED, np.nan, labels).reshape(len(predicted), -1))
    found = held_out_metrics(measured, predicted, rows.groups, config)
    for score in ("pearson_score", "spearman_score"):
        if f"eval_{score}" in evaluation.metrics:
            found[config.id2label[0]][score] = estimate(evaluation.metrics[f"eval_{score}"])
    return found


def _seconds_of_training(trainer: ProformerTrainer) -> float | None:
    return next((entry["train_runtime"] for entry in trainer.state.log_history if "train_runtime" in entry), None)


def _grams_of_co2(folder: Path) -> float | None:
    """Return the CO₂ equivalent of the training as codecarbon estimates it, where the Trainer reports to it."""
    path = folder / "emissions.csv"
    if not path.exists():
        return None
    with open(path, newline="", encoding="utf-8") as file:
        # Each training in this folder adds a row.
        *_, latest = csv.DictReader(file)
        return 1000 * float(latest["emissions"])


def _options_as_yaml(config: TrainConfig, arguments: TrainingArguments) -> str:
    """Return the options of a training that differ from the defaults, without its files, for `--config`."""
    defaults = TrainConfig()
    # The groups keep the order of the command's help.
    names = [option.name for group in TrainConfig.groups for option in fields(group) if option.name not in FILES]
    chosen = {name: getattr(config, name) for name in names if getattr(config, name) != getattr(defaults, name)}
    chosen |= {name: getattr(arguments, name) for name in ARGUMENTS}
    del chosen["num_train_epochs" if arguments.max_steps > 0 else "max_steps"]
    if chosen["lr_scheduler_kwargs"]:
        chosen["lr_scheduler_kwargs"] = json.dumps(chosen["lr_scheduler_kwargs"])
    # bf16 is chosen by the processor unless it is given.
    given = {
        name: value
        for name, value in chosen.items()
        if name == "bf16" or (value is not False and value not in (None, [], {}))
    }
    return "\n".join(f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in given.items())


__all__ = ["rows_per_step", "write_pretrain_report"]
