"""Training with the library's Trainer."""

import json
import math
import os
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from torch import nn
from transformers import EvalPrediction, Trainer, TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from .assays import InputError, first_line
from .collation import ProformerCollator
from .metrics import correlation
from .modeling_proformer import IGNORED
from .tokenization import InvalidSequenceError, ProformerTokenizer


class CheckpointError(Exception):
    """Why a checkpoint could not be written, and what there is to go on from, in one line."""


class ProformerTrainer(Trainer):
    """
    The library's Trainer, with what it does not know of this training: masked letters are counted over the whole
    step, all micro-batches and processes, so that their loss is exact however a step is cut up; each epoch masks other
    letters, and an evaluation none; and a full disk is told in one line.

    Args:
        eval_data_collator: makes the batches of evaluations and predictions.
        *args, **kwargs: those of `transformers.Trainer`.

    Raises:
        CheckpointError: a checkpoint could not be written. Those before it are as they were.
    """

    def __init__(self, *args, eval_data_collator: ProformerCollator, **kwargs):
        super().__init__(*args, **kwargs)
        self.eval_data_collator = eval_data_collator
        if isinstance(self.data_collator, ProformerCollator):
            self.add_callback(EpochOfMasks(self.data_collator))
        # transformers 5.4 and 5.5 let accelerate divide each loss by the number of micro-batches once more.
        self.accelerator.gradient_accumulation_steps = 1

    @contextmanager
    def collating_for_evaluation(self):
        collator, self.data_collator = self.data_collator, self.eval_data_collator
        try:
            yield
        finally:
            self.data_collator = collator

    def get_eval_dataloader(self, *args, **kwargs):
        with self.collating_for_evaluation():
            return super().get_eval_dataloader(*args, **kwargs)

    def get_test_dataloader(self, *args, **kwargs):
        with self.collating_for_evaluation():
            return super().get_test_dataloader(*args, **kwargs)

    def get_batch_samples(self, epoch_iterator, num_batches: int, device: torch.device):
        batches, num_items_in_batch = super().get_batch_samples(epoch_iterator, num_batches, device)
        # torch's DataParallel cannot hand a single number to several devices: there, each batch counts by its share.
        if batches and "masked_nucleotides" in batches[0] and self.args.n_gpu <= 1:
            num_masked = sum((batch["masked_nucleotides"] != IGNORED).sum() for batch in batches)
            if self.args.average_tokens_across_devices:
                num_masked = self.accelerator.gather(num_masked.to(device)).sum()
            for batch in batches:
                batch["num_masked_in_batch"] = num_masked
        return batches, num_items_in_batch

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False):
        with self.writing(output_dir or self.args.output_dir):
            super().save_model(output_dir, _internal_call)

    def _save_checkpoint(self, model: nn.Module, trial):
        folder = Path(self._get_output_dir(trial=trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        with self.writing(folder):
            super()._save_checkpoint(model, trial)

    @contextmanager
    def writing(self, folder: str | os.PathLike):
        try:
            yield
        # safetensors and torch have errors of their own for a disk that is full.
        except (OSError, RuntimeError, SafetensorError) as error:
            last = last_checkpoint(self.args.output_dir)
            go_on = f"goes on from {last}" if last else "starts anew, there is no earlier checkpoint"
            raise CheckpointError(
                f"{folder} could not be written ({first_line(error)}). Make room on the disk and give the same "
                f"command again: training then {go_on}."
            ) from error


class EpochOfMasks(TrainerCallback):
    """Tells a collator the epoch, before its first batch is made."""

    def __init__(self, collator: ProformerCollator):
        self.collator = collator

    def on_epoch_begin(self, args, state, control, **kwargs):
        # Resumed within an epoch, the state holds a broken number; at the start of a training, none.
        self.collator.set_epoch(int(state.epoch or 0))


def last_checkpoint(output_dir: str | os.PathLike) -> str | None:
    """
    The newest checkpoint that was written to its end. One whose writing was interrupted lacks the Trainer's state,
    which comes last, or has only a part of it.
    """
    for folder in sorted(Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*"), key=checkpoint_step, reverse=True):
        try:
            json.loads((folder / TRAINER_STATE_NAME).read_text())
            return str(folder)
        except (OSError, ValueError):
            continue
    return None


def checkpoint_step(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])


def label_scale(measured: np.ndarray) -> tuple[list[float], list[float]]:
    """
    Mean and population standard deviation of each output, for `ProformerConfig.label_mean` and `label_std`.

    Args:
        measured: (rows, outputs) of the training rows alone, NaN where missing.

    Raises:
        ValueError: an output has no values, or is constant.
    """
    for output, values in enumerate(measured.T, start=1):
        if np.isnan(values).all() or np.nanstd(values) == 0:
            raise ValueError(f"Output {output} has no two different values to learn from.")
    return np.nanmean(measured, axis=0).tolist(), np.nanstd(measured, axis=0).tolist()


def rows_that_fit(
    name: str, sequences: Sequence[str], tokenizer: ProformerTokenizer, batch_size: int = 8192
) -> np.ndarray:
    """
    Numbers of the rows whose inserts fit the construct, counted from 0. Longer ones are left out, as published (1,690
    of the challenge's 6,739,258).

    Raises:
        InputError: a sequence cannot be read, which found here does not stop a training hours later; or none fits.
    """
    lengths = [np.empty(0, dtype=np.int64)]
    for first in range(0, len(sequences), batch_size):
        try:
            lengths.append(tokenizer.insert_lengths(sequences[first : first + batch_size]))
        except InvalidSequenceError as error:
            raise InputError(f"{name}, row {first + error.row + 1}: {error.reason}") from error
    fitting = np.flatnonzero(np.concatenate(lengths) <= tokenizer.insert_width)
    if len(fitting) == 0:
        raise InputError(
            f"{name}: no insert fits the construct's {tokenizer.insert_width} letters. Are there flanks to trim "
            "(five_prime_flank, three_prime_flank), or is insert_width too small?"
        )
    return fitting


def compute_metrics(evaluation: EvalPrediction) -> dict[str, float]:
    """Pearson's r and Spearman's ρ; of several outputs, their means as well as each (`pearson_r_1`, …)."""
    predicted, measured = np.asarray(evaluation.predictions), np.asarray(evaluation.label_ids)
    measured = measured.reshape(predicted.shape)
    found = []
    for output in range(predicted.shape[1]):
        present = measured[:, output] != IGNORED
        found.append(correlation(measured[present, output], predicted[present, output]))
    metrics = {
        "pearson_r": float(np.mean([each.pearson_r for each in found])),
        "spearman_rho": float(np.mean([each.spearman_rho for each in found])),
    }
    if len(found) > 1:
        metrics |= {f"pearson_r_{number}": each.pearson_r for number, each in enumerate(found, start=1)}
        metrics |= {f"spearman_rho_{number}": each.spearman_rho for number, each in enumerate(found, start=1)}
    return metrics


@torch.no_grad()
def clip_gradients_as_published(model: nn.Module, clip_value: float = 0.5, clip_norm: float = 1.0):
    """
    Clips as the published optimizer does, Keras 2.6's with both `clipvalue` and `clipnorm`: each variable on its own,
    first its elements, then its norm. A global norm would shrink all other gradients about 5,000-fold at the start,
    because the expression tokens are zero vectors then.

    Quirk: Keras clips an embedding's gradient before it sums it over the positions that share a row. For the strand
    embedding that is the clipped gradient of the position embedding, summed over each strand (as long as inputs fill
    all positions, as published).
    """
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad.clamp_(-clip_value, clip_value)
            parameter.grad.mul_(min(1.0, clip_norm / max(float(parameter.grad.norm()), 1e-12)))
    embeddings = getattr(model, model.base_model_prefix, model).embeddings
    strand, position = embeddings.strand_embeddings.weight, embeddings.position_embeddings.weight
    if strand.grad is not None and position.grad is not None:
        strand.grad.copy_(torch.stack([half.sum(dim=0) for half in position.grad.chunk(2)]))


class PublishedGradientClipping(TrainerCallback):
    """
    `clip_gradients_as_published` before each step; with it, set `max_grad_norm=0`.

    The published run clipped the sum of the gradients of four replicas' mean losses, at 0.5 and 1. Here the gradient
    is that of the mean over the whole step, a quarter of it, and so are the thresholds; Adam sees no factor.
    """

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        model = model.module if hasattr(model, "module") else model
        clip_gradients_as_published(model, clip_value=0.5 / 4, clip_norm=1 / 4)


def published_optimization(
    model: nn.Module, hidden_size: int, warmup_steps: int = 12_500
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    """
    Adam and the schedule of Vaswani et al. 2017 as published (betas 0.9 and 0.98, epsilon 1e-9). Steps are counted
    from 0, so that the first changes no weight. For `Trainer(optimizers=…)`, beside `PublishedGradientClipping`.
    """

    def learning_rate(step: int) -> float:
        if step == 0:
            return 0.0
        return min(1 / math.sqrt(step), step * warmup_steps**-1.5) / math.sqrt(hidden_size)

    optimizer = torch.optim.Adam(model.parameters(), lr=1.0, betas=(0.9, 0.98), eps=1e-9)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, learning_rate)


__all__ = [
    "CheckpointError",
    "ProformerTrainer",
    "PublishedGradientClipping",
    "clip_gradients_as_published",
    "compute_metrics",
    "label_scale",
    "last_checkpoint",
    "published_optimization",
    "rows_that_fit",
]
