"""The library's Trainer, made exact: the same rows and seed lead to the same weights."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import nn
from transformers import Trainer, TrainerCallback, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..data.collator import ProformerCollator
from ..data.tables import InputError, MissingFileError, first_line
from ..modeling_proformer import IGNORED


class CheckpointError(OSError):
    """A checkpoint could not be written; the message says where training resumes."""


class ProformerTrainer(Trainer):
    """
    The library's Trainer, with what makes the training of a Proformer exact.

    The same rows and seed lead to the same weights, however a step is divided into micro-batches and over processes,
    and wherever it was interrupted. Masked bases are counted over the whole step; every step has the same number of
    rows; the order and the masks of an epoch follow from the seed and the epoch's number; and a run that was finished
    is not trained any further. Nothing is masked in an evaluation, whose loss is the mean over all labels; and a full
    disk is reported in one line.

    Args:
        eval_data_collator: makes the batches of evaluations and predictions; by default like `data_collator`, but
            without masks.
        args, kwargs: those of `transformers.Trainer`.

    Raises:
        InputError: there are fewer rows than one step takes (not for a stream).
        CheckpointError: a checkpoint could not be written. Earlier checkpoints stay as they are.
    """

    def __init__(self, *args, eval_data_collator: ProformerCollator | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        if eval_data_collator is None and isinstance(self.data_collator, ProformerCollator):
            eval_data_collator = self.data_collator.without_masks()
        self.eval_data_collator = eval_data_collator or self.data_collator
        self.train_sampler: FullSteps | None = None
        # The loss and the number of labels of each batch of an evaluation.
        self.evaluated_losses: list[tuple[float, int]] = []
        # A run that is resumed has its best checkpoint here.
        self.best_before: str | None = None
        self.add_callback(_EpochStart(self))
        # transformers 5.4 and 5.5 let accelerate divide each loss by the number of micro-batches once more.
        self.accelerator.gradient_accumulation_steps = 1

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs):
        """Train, or resume from what `find_checkpoint` returns; a run that was finished is not trained any further."""
        if not resume_from_checkpoint:
            return super().train(**kwargs)
        resume_from_checkpoint = find_checkpoint(resume_from_checkpoint, self.args.output_dir)
        state_file = Path(resume_from_checkpoint, TRAINER_STATE_NAME)
        state = TrainerState.load_from_json(str(state_file))
        state.best_model_checkpoint = _best_checkpoint(state, resume_from_checkpoint, self.args.output_dir)
        self.best_before = state.best_model_checkpoint
        stopped = state.stateful_callbacks.get("TrainerControl", {}).get("args", {}).get("should_training_stop", False)
        # The library would train one step more each time that a finished run is started again.
        if 0 < self.args.max_steps <= state.global_step or (stopped and state.global_step < state.max_steps):
            best = state.best_model_checkpoint if self.args.load_best_model_at_end else None
            self._load_from_checkpoint(best or resume_from_checkpoint)
            self.state = state
            return None
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    @contextmanager
    def _collating_for_evaluation(self):
        collator, self.data_collator = self.data_collator, self.eval_data_collator
        try:
            yield
        finally:
            self.data_collator = collator

    def get_eval_dataloader(self, *args, **kwargs):
        with self._collating_for_evaluation():
            return super().get_eval_dataloader(*args, **kwargs)

    def get_test_dataloader(self, *args, **kwargs):
        with self._collating_for_evaluation():
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

    def prediction_step(self, model: nn.Module, inputs: dict[str, Any], *args, **kwargs):
        step = super().prediction_step(model, inputs, *args, **kwargs)
        labels = inputs.get("labels")
        if step[0] is not None and labels is not None:
            self.evaluated_losses.append((step[0].item(), int(((labels != IGNORED) & ~labels.isnan()).sum())))
        return step

    def evaluation_loop(self, dataloader, *args, metric_key_prefix: str = "eval", **kwargs):
        self.evaluated_losses = []
        output = super().evaluation_loop(dataloader, *args, metric_key_prefix=metric_key_prefix, **kwargs)
        losses, counts = np.array(self.evaluated_losses).reshape(-1, 2).T
        # The Trainer weights each batch by its rows, although some have fewer labels.
        if self.args.world_size == 1 and counts.any():
            output.metrics[f"{metric_key_prefix}_loss"] = float(
                np.average(losses[counts > 0], weights=counts[counts > 0])
            )
        # The Trainer counts the padding rows of the last distributed batch twice in its mean loss, so drop that loss.
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
        with self._writing(output_dir or self.args.output_dir):
            super().save_model(output_dir, _internal_call)

    def _save_checkpoint(self, model: nn.Module, trial):
        folder = Path(self._get_output_dir(trial=trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        with self._writing(folder):
            super()._save_checkpoint(model, trial)

    @contextmanager
    def _writing(self, folder: str | os.PathLike):
        try:
            yield
        # safetensors and torch raise errors of their own where the disk is full.
        except (OSError, RuntimeError, SafetensorError) as error:
            if isinstance(error, RuntimeError) and "inline_container" not in str(error):
                raise
            last = last_checkpoint(self.args.output_dir)
            resume = f"resumes from {last}" if last else "starts again, because there is no earlier checkpoint"
            raise CheckpointError(
                f"{folder} could not be written ({first_line(error)}). Is the disk full? Make room and give the same "
                f"command again: training then {resume}."
            ) from error

    def end_processes(self):
        """
        Take down what the processes of a torchrun share; the last thing that a script does.

        `Accelerator.end_training` alone leaves the process group to `DistributedDataParallel`, which holds it too, and
        a process that exits with the group's threads alive is aborted now and then (pytorch/pytorch#190489).
        """
        self.model_wrapped = self.model
        self.accelerator.end_training()


class _EpochStart(TrainerCallback):
    """Tells the state where the best checkpoint is, and sampler and collator the epoch before its first batch."""

    def __init__(self, trainer: ProformerTrainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        # The library forgets the best step of a run whose folder was moved, or is named from another folder.
        if self.trainer.best_before:
            state.best_model_checkpoint = self.trainer.best_before

    def on_epoch_begin(self, args, state, control, **kwargs):
        # The state holds a fraction where training resumes within an epoch, and nothing at the start.
        epoch = int(state.epoch or 0)
        for part in (self.trainer.train_sampler, self.trainer.data_collator):
            if hasattr(part, "set_epoch"):
                part.set_epoch(epoch)


class FullSteps(torch.utils.data.Sampler):
    """
    Samples all rows in an order of each epoch's own, without the few that would not fill a step.

    Args:
        rows: number of rows.
        rows_per_step: number of rows in a step, over all its micro-batches and processes.
        seed: of the orders.

    Raises:
        InputError: there are fewer rows than one step takes.
    """

    def __init__(self, rows: int, rows_per_step: int, seed: int):
        if rows < rows_per_step:
            raise InputError(
                f"{rows} training rows are fewer than the {rows_per_step} of one step (batch size x accumulated "
                "batches x processes). Make the batch smaller."
            )
        self.rows, self.rows_per_step, self.seed, self.epoch = rows, rows_per_step, seed, 0

    def set_epoch(self, epoch: int):
        self.epoch = epoch

    def __len__(self) -> int:
        return self.rows // self.rows_per_step * self.rows_per_step

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.rows)[: len(self)]
        # In pieces, because millions of Python integers at once would take ten times the memory of the order itself.
        for first in range(0, len(order), 8192):
            yield from order[first : first + 8192].tolist()


def last_checkpoint(output_dir: str | os.PathLike) -> str | None:
    """
    Return the newest checkpoint of a run that was written to its end, or None.

    The Trainer writes its state last, so a checkpoint whose writing was interrupted lacks it or has only a part of it.
    """
    folders = sorted(Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*"), key=_step_of, reverse=True)
    return next((str(folder) for folder in folders if _is_whole(folder)), None)


def find_checkpoint(resume_from_checkpoint: str | os.PathLike | bool, output_dir: str | os.PathLike) -> str:
    """
    Return the folder of a checkpoint to resume from.

    Args:
        resume_from_checkpoint: the folder, or that of a run, whose newest whole checkpoint is taken; or True (or its
            text, as on a command line) for the run in `output_dir`.
        output_dir: folder of the Trainer's output.

    Raises:
        MissingFileError: there is no such checkpoint, or none that was written to its end.
    """
    text = str(resume_from_checkpoint)
    given = Path(output_dir if text.lower() == "true" else text)
    found = str(given) if _is_whole(given) else last_checkpoint(given)
    if found is None:
        raise MissingFileError(f"{given}: there is no checkpoint to resume from that was written to its end.")
    return found


def _best_checkpoint(state: TrainerState, resumed: str, output_dir: str | os.PathLike) -> str | None:
    """Return where the best checkpoint of a run lies now, next to the one that is resumed; its folder may be moved."""
    if state.best_model_checkpoint is None:
        return None
    folder = Path(resumed).parent
    # The library compares names when it removes old checkpoints.
    folder = Path(output_dir) if folder.resolve() == Path(output_dir).resolve() else folder
    best = folder / Path(state.best_model_checkpoint).name
    return str(best) if best.is_dir() else None


def _is_whole(folder: Path) -> bool:
    """Return whether a checkpoint was written to its end."""
    try:
        json.loads((folder / TRAINER_STATE_NAME).read_text())
        return True
    except (OSError, ValueError):
        return False


def _step_of(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])


__all__ = ["CheckpointError", "ProformerTrainer", "find_checkpoint", "last_checkpoint"]
