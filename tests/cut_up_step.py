"""Trains three steps of 16 rows, divided by accumulation and processes."""

import gc
import os
from pathlib import Path

import torch
from tiny import TINY
from transformers import Trainer, TrainingArguments, set_seed

from modeling_proformer import (
    ProformerConfig,
    ProformerForMaskedLM,
    ProformerForPreTraining,
    ProformerForSequenceClassification,
)
from modeling_proformer.training.scores import compute_metrics
from modeling_proformer.training.trainer import ProformerTrainer


def collate(rows):
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def make_rows() -> list[dict[str, torch.Tensor]]:
    """Missing labels and masks are spread unevenly, so that no two micro-batches weigh the same."""
    rows = []
    for row in range(48):
        labels = 5 + torch.randn(2)
        if row % 3 == 0:
            labels[row % 2] = -100
        masked = torch.where(torch.rand(24) < row / 80, torch.randint(0, 4, (24,)), -100)
        rows.append({"input_ids": torch.randint(0, 7**3, (24,)), "labels": labels, "masked_nucleotides": masked})
    return rows


def train(output: Path, accumulation: int, model_class, trainer_class, rows, **trainer_arguments) -> dict:
    set_seed(0)
    model = model_class(ProformerConfig(**TINY, num_labels=2, label_mean=[5.0, 1.0], label_std=[2.0, 0.5]))
    # From zero, where a fresh model has them, the expression tokens' first gradient is thousands of times the others.
    torch.nn.init.normal_(model.proformer.embeddings.expression_projection.bias)
    start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    trainer = trainer_class(
        model=model,
        args=TrainingArguments(
            output_dir=output,
            per_device_train_batch_size=16 // num_processes() // accumulation,
            gradient_accumulation_steps=accumulation,
            max_steps=3,
            optim="sgd",
            learning_rate=0.01,
            lr_scheduler_type="constant",
            max_grad_norm=0.0,
            save_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
            seed=0,
        ),
        data_collator=collate,
        train_dataset=rows,
        eval_dataset=rows[:33],
        **trainer_arguments,
    )
    trainer.train()
    metrics = trainer.evaluate()
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    return {"start": start, "weights": weights, "metrics": metrics}


def train_each_kind(output: Path, accumulation: int) -> dict[str, dict]:
    set_seed(1)
    rows = make_rows()
    expression = [{"input_ids": row["input_ids"], "labels": row["labels"]} for row in rows]
    masked = [{"input_ids": row["input_ids"], "labels": row["masked_nucleotides"]} for row in rows]
    scored = {"compute_metrics": compute_metrics}
    return {
        "expression": train(output, accumulation, ProformerForSequenceClassification, Trainer, expression, **scored),
        "masked": train(output, accumulation, ProformerForMaskedLM, Trainer, masked),
        "pretraining": train(output, accumulation, ProformerForPreTraining, ProformerTrainer, rows, **scored),
    }


def num_processes() -> int:
    return int(os.environ.get("WORLD_SIZE", 1))


def train_divided(output: Path, accumulations: list[int]):
    """Write the weights and metrics of each kind of model and each number of accumulations to `results.pt`."""
    results = {accumulation: train_each_kind(output, accumulation) for accumulation in accumulations}
    if int(os.environ.get("RANK", 0)) == 0:
        torch.save({"processes": num_processes(), **results}, output / "results.pt")
    if num_processes() > 1:
        torch.distributed.destroy_process_group()
        # The group's threads end with the trainers, whose models hold it too; see ProformerTrainer.end_processes.
        gc.collect()
