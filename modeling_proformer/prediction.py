"""Expression of sequences, and of the sequences of a file."""

import contextlib
import copy
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from threading import Thread
from typing import Literal, TypeAlias, TypeVar, get_args

import numpy as np
import torch
from transformers import BatchEncoding, PreTrainedModel

from .data.config import require_choice
from .data.genome import Genome, reverse_complement
from .data.screening import OnError, ScreenedRow, Screening, is_bed
from .data.tables import InputError, Row
from .devices import available_device, run_on_devices
from .hardware import keep_freed_memory
from .modeling_proformer import (
    evaluation_mode,
    predict_from_logits,
    require_same_kmers,
    unwrap_expression_model,
)
from .tokenization import InvalidSequenceError, ProformerTokenizer


Batch = TypeVar("Batch")
Rows = TypeVar("Rows")

#: Which strand of inserts is read.
Orientation: TypeAlias = Literal["given", "reverse", "both"]


def predict(
    model: PreTrainedModel,
    tokenizer: ProformerTokenizer,
    sequences: Iterable[str],
    *,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    truncation: bool = False,
) -> np.ndarray:
    """
    Return the expression of each sequence, in the assay's units; a classifier returns probabilities of its classes.

    These arguments have the same meaning in every function that runs a model over sequences. All of them leave the
    model as they found it.

    Args:
        model: a `ProformerForSequenceClassification` or `ProformerForPreTraining`, also in a wrapper such as
            `DistributedDataParallel` or `AveragedModel`. It predicts in evaluation mode, whatever mode it is in;
            several threads may share a model that is in evaluation mode already.
        tokenizer: the tokenizer that was saved with the model.
        sequences: inserts or whole constructs, as the tokenizer reads them. They are read and tokenized one batch
            ahead, in another thread.
        batch_size: number of sequences computed at a time. By default 64 on a CPU, whose caches larger batches
            overflow, and 512 on other devices.
        device: where to compute, such as `"cuda"`. If the model is somewhere else, a copy of it is made there. By
            default, where the model is.
        dtype: `torch.bfloat16` or `torch.float16` to compute with autocast; the weights stay as they are.
        truncation: cut inserts that are longer than the construct instead of raising an error.

    Returns:
        (sequences, outputs) of float32.

    Raises:
        InvalidSequenceError: a sequence cannot be tokenized; `row` is its index among all the sequences.
        TypeError: the model does not predict expression, or `sequences` is one string.
        ValueError: `batch_size` is below 1, `device` cannot be used here, the model cannot read the tokenizer's
            k-mers, or a CPU cannot compute its weights, which are in one short type, in another.
    """
    model = unwrap_expression_model(model)
    batches = predict_batches(
        model, tokenizer, sequences, batch_size=batch_size, device=device, dtype=dtype, truncation=truncation
    )
    return np.concatenate([np.empty((0, model.config.num_labels), dtype=np.float32), *batches])


def predict_batches(
    model: PreTrainedModel,
    tokenizer: ProformerTokenizer,
    sequences: Iterable[str],
    *,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    truncation: bool = False,
) -> Iterator[np.ndarray]:
    """Yield what `predict` returns, one array for each `batch_size` sequences, for more of them than memory holds."""
    model, batch_size = prepare_model(model, tokenizer, sequences, batch_size, device)
    for inputs in prefetch(token_batches(tokenizer, sequences, batch_size, truncation)):
        yield predict_tokens(model, inputs, dtype)


def prepare_model(
    model: PreTrainedModel,
    tokenizer: ProformerTokenizer,
    sequences: Iterable[str],
    batch_size: int | None,
    device: str | torch.device | None,
) -> tuple[PreTrainedModel, int]:
    """
    Check the arguments of `predict` and return the model without a wrapper and on the device, which is a copy if it
    was somewhere else, and the number of sequences to compute at a time.
    """
    return place_model(unwrap_expression_model(model), tokenizer, sequences, batch_size, device)


def place_model(
    model: PreTrainedModel,
    tokenizer: ProformerTokenizer,
    sequences: Iterable[str],
    batch_size: int | None,
    device: str | torch.device | None,
) -> tuple[PreTrainedModel, int]:
    """Do what `prepare_model` does with a model without a wrapper, which need not predict expression."""
    if isinstance(sequences, str):
        raise TypeError("Expected several sequences, got one string; put it in a list.")
    require_same_kmers(model.config, tokenizer)
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
    if device is not None and available_device(device) != model.device:
        model = copy.deepcopy(model).to(device)
    return model, batch_size or default_batch_size(model.device)


def default_batch_size(device: str | torch.device) -> int:
    """Return how many sequences to compute at a time: larger batches overflow the caches of a CPU."""
    return 64 if torch.device(device).type == "cpu" else 512


def token_batches(
    tokenizer: ProformerTokenizer, sequences: Iterable[str], batch_size: int, truncation: bool
) -> Iterator[BatchEncoding]:
    """Yield the tokens of `batch_size` sequences at a time."""
    sequences = iter(sequences)
    row = 0
    while batch := list(islice(sequences, batch_size)):
        with count_rows_from(row):
            # No attention mask: a construct has no padding, and without a mask faster attention can be chosen.
            yield tokenizer(batch, return_tensors="pt", truncation=truncation, return_attention_mask=False)
        row += len(batch)


def prefetch(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Yield the same batches, each of them made in another thread while the caller works on the one before."""
    upcoming = _start_next(batches)
    while (batch := upcoming.result()) is not None:
        upcoming = _start_next(batches)
        yield batch


def _start_next(batches: Iterator[Batch]) -> "Future[Batch | None]":
    """
    Make the next batch, or None at the end, in another thread.

    Python would wait at its end for an executor's thread, which may wait for a pipe that gives nothing.
    """
    upcoming: Future[Batch | None] = Future()

    def make():
        try:
            upcoming.set_result(next(batches, None))
        except BaseException as error:  # the caller gets it
            upcoming.set_exception(error)

    Thread(target=make, daemon=True).start()
    return upcoming


@contextlib.contextmanager
def count_rows_from(first: int) -> Iterator[None]:
    """Add `first` to the `row` of an error about a sequence, so that it counts through several calls."""
    try:
        yield
    except ValueError as error:
        # Recognised by its row: the tokenizer of remote code has another class of this name.
        if not hasattr(error, "row"):
            raise
        raise InvalidSequenceError(first + error.row, error.reason) from None  # type: ignore[attr-defined]


@contextlib.contextmanager
def inference(model: PreTrainedModel, dtype: torch.dtype | None) -> Iterator[None]:
    """
    Compute within the context as `predict` does: in evaluation mode, without gradients, and with autocast to `dtype`
    if there is one.

    Raises:
        ValueError: a CPU cannot compute the weights, which are in one short type, in another.
    """
    other_short_types = {torch.float16, torch.bfloat16} - {dtype}
    if dtype is not None and model.dtype in other_short_types and model.device.type == "cpu":
        raise ValueError(
            f"The weights are in {model.dtype}, which cannot be computed in {dtype}: use `model.float()`."
        )
    keep_freed_memory()
    autocast = torch.autocast(model.device.type, dtype, enabled=dtype is not None)
    with evaluation_mode(model), torch.inference_mode(), autocast:
        yield


def predict_tokens(model: PreTrainedModel, inputs: BatchEncoding, dtype: torch.dtype | None = None) -> np.ndarray:
    """Return what `predict` does for one batch of tokens, (sequences, outputs), where the model is."""
    with inference(model, dtype):
        outputs = predict_from_logits(model(**inputs.to(model.device), return_dict=True).logits, model.config)
    return outputs.float().cpu().numpy()


def window_width(tokenizer: ProformerTokenizer, width: int | None) -> int:
    """
    Return the bases of a window, by default as many as an insert may have.

    Raises:
        InputError: an insert cannot have so many.
    """
    if width is not None and not 1 <= width <= tokenizer.insert_width:
        raise InputError(f"`width` is {width}, but must be 1 to {tokenizer.insert_width}, the bases of an insert.")
    return width or tokenizer.insert_width


def without_flanks(tokenizer: ProformerTokenizer) -> ProformerTokenizer:
    """Return a tokenizer of the same construct that takes every sequence for an insert."""
    tokenizer = copy.copy(tokenizer)
    tokenizer.five_prime_flank = tokenizer.three_prime_flank = None
    return tokenizer


def predict_file(
    model: PreTrainedModel,
    tokenizer: ProformerTokenizer,
    path: str | Path | Sequence[str | Path],
    *,
    sequence: str = "sequence",
    measured: str | None = None,
    on_error: OnError = "refuse",
    iupac_as_n: bool = False,
    genome: str | os.PathLike | None = None,
    windows: int | None = None,
    width: int | None = None,
    orientation: Orientation = "given",
    devices: Sequence[str] = (),
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    truncation: bool = False,
) -> Iterator[tuple[list[Row], np.ndarray]]:
    """
    Stream FASTA files, tables or BED files: yield rows, and the expression of their sequences, `batch_size` at a time.

    A sequence that holds the construct of the tokenizer, with both flanks, among other bases or on the other strand is
    predicted as this construct alone; in a circular sequence, it may lie over the origin. It is logged how many these
    are, how many inserts are cut and how much, and how many rows cannot be predicted.

    Args:
        model, tokenizer, batch_size, device, dtype, truncation: see `predict`.
        path: the file, or several with the same columns. A BED file has regions of the genome, which are inserts on
            their strands, with the columns chromosome, start, end, name, strand and sequence.
        sequence: column of the sequences.
        measured: column of measurements, if there is one; its cells must be numbers, or empty.
        on_error: what to do with rows whose sequence cannot be tokenized or whose measurement is no number.
            `"refuse"`: an error, before anything is computed. `"skip"`: they are left out. `"mark"`: their `error`
            says why they have no prediction, which is NaN.
        iupac_as_n: read the IUPAC codes R Y S W K M B D H V as N.
        genome: FASTA file of the genome, for BED files.
        windows: predict windows of the insert's width along each sequence instead, which start so many bases after
            each other; see `cut_windows`. Sequences are then read without looking for flanks.
        width: bases of these windows, if they are to have fewer than the tokenizer has room for.
        orientation: `"given"`: inserts as they are; `"reverse"`: their reverse complements; `"both"`: the means of the
            predictions of the two.
        devices: several devices of this machine instead of `device`, such as `["cuda:0", "cuda:1"]`. A process of its
            own computes on each of them.

    Raises:
        ImportError: a genome needs pysam.
        InputError: a file cannot be read (see `read_rows`) or has no such column, its columns differ from those of the
            first, a prediction is not finite, no row can be predicted, or rows are refused. The error says in which
            line or row, and how many there are.
        RuntimeError: a process on one of several devices has ended.
        ValueError: `on_error` or `orientation` is something else, `windows` is below 1, `devices` is no list, there
            are both `device` and `devices`, or one of them cannot be used here.
    """
    if windows is not None and windows < 1:
        raise ValueError(f"`windows` is {windows}, but must be at least 1.")
    if devices:
        if isinstance(devices, str):
            raise ValueError(f"`devices` is {devices!r}, but must be a list of names, such as ['cuda:0', 'cuda:1'].")
        if device is not None:
            raise ValueError("Give one `device` or several `devices`, but not both.")
        for each in devices:
            available_device(each, "devices")
        batch_size = batch_size or default_batch_size(devices[0])
    paths = as_paths(path)
    model, batch_size = prepare_model(model, tokenizer, (), batch_size, device)
    if windows is not None or all(map(is_bed, paths)):
        tokenizer = without_flanks(tokenizer)
    screening = Screening(
        tokenizer=tokenizer,
        sequence=sequence,
        measured=measured,
        on_error=on_error,
        iupac_as_n=iupac_as_n,
        truncation=truncation,
        genome=None if genome is None else Genome(genome),
        windows=windows,
        width=window_width(tokenizer, width),
    )
    computation = expression_computation(model, tokenizer, dtype, truncation, orientation)
    yield from compute_rows(computation, screening, screening.read(paths, batch_size), devices)


def as_paths(path: str | Path | Sequence[str | Path]) -> list[str]:
    """Return the names of one or several files."""
    return [os.fspath(each) for each in ([path] if isinstance(path, str | os.PathLike) else path)]


@dataclass(frozen=True, kw_only=True)
class Computation:
    """
    What is computed of sequences that are checked already. It can be pickled for other processes.

    Attributes:
        model: as `prepare_model` returns it.
        tokenizer: reads the sequences.
        compute: returns (sequences, *shape) for the tokens of a batch.
        shape: of one sequence.
        dtype, truncation: see `predict`.
        orientation: see `predict_file`.
    """

    model: PreTrainedModel
    tokenizer: ProformerTokenizer
    compute: Callable[[PreTrainedModel, BatchEncoding, torch.dtype | None], np.ndarray]
    shape: tuple[int, ...]
    dtype: torch.dtype | None = None
    truncation: bool = False
    orientation: Orientation = "given"

    def tokenize(self, sequences: Sequence[str]) -> list[BatchEncoding]:
        """Return the tokens of a batch in each orientation that is read; none for no sequences."""
        inputs = []
        if self.orientation != "reverse":
            inputs += token_batches(self.tokenizer, sequences, len(sequences), self.truncation)
        if self.orientation != "given":
            inserts = self._reverse_inserts(sequences)
            inputs += token_batches(without_flanks(self.tokenizer), inserts, len(inserts), False)
        return inputs

    def _reverse_inserts(self, sequences: Sequence[str]) -> list[str]:
        """Return the reverse complements of inserts, which are cut before that if they do not fit."""
        inserts = self.tokenizer.inserts(sequences) if sequences else []
        if self.truncation:
            width = self.tokenizer.insert_width
            from_left = self.tokenizer.truncation_side == "left"
            inserts = [insert[-width:] if from_left else insert[:width] for insert in inserts]
        return [*map(reverse_complement, inserts)]

    def run(self, inputs: Sequence[BatchEncoding]) -> np.ndarray:
        """Return (sequences, *shape) for tokens of `tokenize`."""
        if not inputs:
            return np.empty((0, *self.shape), dtype=np.float32)
        return np.mean([self.compute(self.model, each, self.dtype) for each in inputs], axis=0)

    def run_all(self, batches: Iterable[tuple[Rows, Sequence[str]]]) -> Iterator[tuple[Rows, np.ndarray]]:
        """Yield what is computed of each batch, with what came with its sequences. Tokens are made a batch ahead."""
        for rows, inputs in prefetch((rows, self.tokenize(sequences)) for rows, sequences in batches):
            yield rows, self.run(inputs)


def expression_computation(
    model: PreTrainedModel,
    tokenizer: ProformerTokenizer,
    dtype: torch.dtype | None,
    truncation: bool,
    orientation: Orientation,
) -> Computation:
    """
    Return the computation of expression.

    Raises:
        ValueError: `orientation` is something else.
    """
    require_choice("orientation", orientation, get_args(Orientation))
    return Computation(
        model=model,
        tokenizer=tokenizer,
        compute=predict_tokens,
        shape=(model.config.num_labels,),
        dtype=dtype,
        truncation=truncation,
        orientation=orientation,
    )


def compute_rows(
    computation: Computation,
    screening: Screening,
    batches: Iterable[list[ScreenedRow]],
    devices: Sequence[str] = (),
) -> Iterator[tuple[list[Row], np.ndarray]]:
    """
    Yield the rows that the output has, and what is computed of them, (rows, *shape), a batch at a time.

    Args:
        computation: what is computed.
        screening: has checked the rows. Those that it marks are NaN.
        batches: the rows that are computed at a time.
        devices: compute on these, see `predict_file`.

    Raises:
        InputError: see `predict_file`.
    """
    pairs = ((rows, [each.sequence for each in rows if not each.row.error]) for rows in batches)
    results = run_on_devices(computation, devices, pairs) if devices else computation.run_all(pairs)
    for rows, computed in results:
        sound = [each for each in rows if not each.row.error]
        require_finite(computed, computation.model, computation.dtype, sound)
        kept = screening.keep(rows)
        values = np.full((len(kept), *computation.shape), np.nan, dtype=np.float32)
        values[[not each.row.error for each in kept]] = computed
        if kept:
            yield [each.row for each in kept], values


def require_finite(
    computed: np.ndarray,
    model: PreTrainedModel,
    dtype: torch.dtype | None = None,
    rows: Sequence[ScreenedRow] = (),
):
    """
    Check what a model computed of sequences.

    Args:
        computed: (sequences, ...).
        model, dtype: that computed it.
        rows: where each sequence is from, if it is from a file.

    Raises:
        InputError: a number is nan or infinite. The error says in which row.
    """
    infinite = ~np.isfinite(computed).all(axis=tuple(range(1, computed.ndim)))
    if infinite.any():
        what = f"{rows[int(infinite.argmax())].place}: the" if rows else "A"
        raise InputError(
            f"{what} prediction is nan or infinite; the weights of {model.name_or_path or 'the model'} are not "
            f"sound{'' if dtype is None else f' in {dtype}'}."
        )


__all__ = ["predict", "predict_batches", "predict_file"]
