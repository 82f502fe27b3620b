"""Training with the library's Trainer."""

import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from torch import nn
from transformers import EvalPrediction, Trainer, TrainerCallback, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..data.collator import ProformerCollator
from ..data.tables import InputError, first_line
from ..evaluation.dream import DreamTest
from ..evaluation.metrics import correlation, dream_score
from ..modeling_proformer import IGNORED


#: What `dream_metrics` gives.
DREAM_METRICS = ("pearson_score", "spearman_score", "pearson_r", "spearman_rho")


class CheckpointError(Exception):
    """Why a checkpoint could not be written, and what there is to go on from, in one line."""


class ProformerTrainer(Trainer):
    """
    The library's Trainer, with what makes this training exact: the same rows and seed lead to the same weights however
    a step is cut up into micro-batches and over processes, and wherever it was interrupted. Masked letters are counted
    over the whole step; every step has the same number of rows (but for a stream's last of an epoch); an epoch's order
    and masks are drawn from the seed and its number; a run that was finished is not trained any further. Nothing is
    masked in an evaluation, and a full disk is told in one line.

    Args:
        eval_data_collator: makes the batches of evaluations and predictions.
        args, kwargs: those of `transformers.Trainer`.

    Raises:
        InputError: there are fewer rows than one step takes (not of a stream).
        CheckpointError: a checkpoint could not be written. Those before it are as they were.
    """

    def __init__(self, *args, eval_data_collator: ProformerCollator, **kwargs):
        super().__init__(*args, **kwargs)
        self.eval_data_collator = eval_data_collator
        self.train_sampler = None
        self.add_callback(EpochStart(self))
        # transformers 5.4 and 5.5 let accelerate divide each loss by the number of micro-batches once more.
        self.accelerator.gradient_accumulation_steps = 1

    def train(self, resume_from_checkpoint: str | None = None, **kwargs):
        state_file = Path(resume_from_checkpoint or "", TRAINER_STATE_NAME)
        if resume_from_checkpoint is None or not state_file.exists():
            return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        state = TrainerState.load_from_json(str(state_file))
        stopped = state.stateful_callbacks.get("TrainerControl", {}).get("args", {}).get("should_training_stop", False)
        # The library would take one step more, each time that a finished run is started again.
        if 0 < self.args.max_steps <= state.global_step or (stopped and state.global_step < state.max_steps):
            best = state.best_model_checkpoint if self.args.load_best_model_at_end else None
            self._load_from_checkpoint(best or resume_from_checkpoint)
            self.state = state
            return None
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

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

    def _get_train_sampler(self, train_dataset=None) -> torch.utils.data.Sampler | None:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if isinstance(dataset, torch.utils.data.IterableDataset) or self.args.train_sampling_strategy != "random":
            return super()._get_train_sampler(dataset)
        args = self.args
        seed = args.seed if args.data_seed is None else args.data_seed
        self.train_sampler = FullSteps(
            len(dataset), args.train_batch_size * args.gradient_accumulation_steps * args.world_size, seed
        )
        return self.train_sampler

    def evaluation_loop(self, dataloader, *args, metric_key_prefix: str = "eval", **kwargs):
        output = super().evaluation_loop(dataloader, *args, metric_key_prefix=metric_key_prefix, **kwargs)
        # The rows that fill up the processes' last batches count once more in the library's mean loss, and in nothing
        # else: no loss is better than a wrong one.
        if self.args.world_size > 1 and output.num_samples % (self.args.eval_batch_size * self.args.world_size):
            output.metrics.pop(f"{metric_key_prefix}_loss", None)
        return output

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
            if isinstance(error, RuntimeError) and "inline_container" not in str(error):
                raise
            last = last_checkpoint(self.args.output_dir)
            go_on = f"goes on from {last}" if last else "starts anew, there is no earlier checkpoint"
            raise CheckpointError(
                f"{folder} could not be written ({first_line(error)}). Is the disk full? Make room and give the same "
                f"command again: training then {go_on}."
            ) from error

    def end_processes(self):
        """Takes down what the processes of a torchrun share; the last thing that a script does.

        `Accelerator.end_training` alone leaves the process group to `DistributedDataParallel`, which holds it too, and
        a process that exits with the group's threads alive is aborted now and then (pytorch/pytorch#190489).
        """
        self.model_wrapped = self.model
        self.accelerator.end_training()


class EpochStart(TrainerCallback):
    """Tells sampler and collator the epoch, before its first batch is made."""

    def __init__(self, trainer: ProformerTrainer):
        self.trainer = trainer

    def on_epoch_begin(self, args, state, control, **kwargs):
        # Resumed within an epoch, the state holds a broken number; at the start of a training, none.
        epoch = int(state.epoch or 0)
        for part in (self.trainer.train_sampler, self.trainer.data_collator):
            if hasattr(part, "set_epoch"):
                part.set_epoch(epoch)


class FullSteps(torch.utils.data.Sampler):
    """
    All rows in an order of each epoch's own, but for the few that would not fill a step: other ones in each epoch.

    Args:
        rows: how many there are.
        rows_in_step: how many a step takes, over all its micro-batches and processes.
        seed: of the orders.

    Raises:
        InputError: there are fewer rows than one step takes.
    """

    def __init__(self, rows: int, rows_in_step: int, seed: int):
        if rows < rows_in_step:
            raise InputError(
                f"{rows} rows for training are fewer than the {rows_in_step} of one step (batch size x accumulated "
                "batches x processes): make the batch smaller."
            )
        self.rows, self.rows_in_step, self.seed, self.epoch = rows, rows_in_step, seed, 0

    def set_epoch(self, epoch: int):
        self.epoch = epoch

    def __len__(self) -> int:
        return self.rows // self.rows_in_step * self.rows_in_step

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.rows)[: len(self)]
        # Piece by piece: millions of Python integers at once would take ten times the memory of the order itself.
        for first in range(0, len(order), 8192):
            yield from order[first : first + 8192].tolist()


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


def compute_metrics(evaluation: EvalPrediction) -> dict[str, float]:
    """Pearson's r and Spearman's ρ; of several outputs, their means as well as each (`pearson_r_1`, …)."""
    predicted, measured = np.asarray(evaluation.predictions), np.asarray(evaluation.label_ids)
    # A model that has diverged correlates with nothing: its metrics are NaN, and its training goes on.
    predicted = np.where(np.isfinite(predicted).all(), predicted, 0.0)
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


def dream_metrics(test: DreamTest) -> Callable[[EvalPrediction], dict[str, float]]:
    """
    `compute_metrics` for evaluations on the DREAM challenge's test set: its two scores, `pearson_score` and
    `spearman_score`, and `pearson_r` and `spearman_rho` over all sequences.
    """

    def compute_dream_metrics(evaluation: EvalPrediction) -> dict[str, float]:
        predicted = np.asarray(evaluation.predictions)[:, 0]
        try:
            score = dream_score(test.measured, predicted, test.subsets, test.pairs)
        except ValueError:  # collapsed or diverged, but training may yet recover
            return dict.fromkeys(DREAM_METRICS, float("nan"))
        return {
            "pearson_score": score.pearson_score,
            "spearman_score": score.spearman_score,
            "pearson_r": score.subsets["all"].pearson_r,
            "spearman_rho": score.subsets["all"].spearman_rho,
        }

    return compute_dream_metrics


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
            parameter.grad.mul_((clip_norm / parameter.grad.norm().clamp(min=1e-12)).clamp(max=1.0))
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
    model: nn.Module, hidden_size: int, warmup_steps: int = 12_500, steps_at_once: float = 1.0
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    """
    Adam and the schedule of Vaswani et al. 2017 as published (betas 0.9 and 0.98, epsilon 1e-9). Steps are counted
    from 0, so that the first changes no weight. For `Trainer(optimizers=…)`, beside `PublishedGradientClipping`.

    Args:
        model: whose parameters are trained.
        hidden_size: its width, on which the learning rate depends.
        warmup_steps: number of steps up to the highest rate.
        steps_at_once: how many steps of the schedule each step takes, for runs that are shorter than the published
            one and yet come through the same rates.
    """

    def learning_rate(step: int) -> float:
        step = step * steps_at_once
        if step == 0:
            return 0.0
        return min(1 / math.sqrt(step), step * warmup_steps**-1.5) / math.sqrt(hidden_size)

    optimizer = torch.optim.Adam(model.parameters(), lr=1.0, betas=(0.9, 0.98), eps=1e-9)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, learning_rate)


__all__ = [
    "DREAM_METRICS",
    "CheckpointError",
    "ProformerTrainer",
    "PublishedGradientClipping",
    "clip_gradients_as_published",
    "compute_metrics",
    "dream_metrics",
    "last_checkpoint",
    "published_optimization",
]
