"""Sequences to expression."""

import contextlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BatchEncoding,
    PreTrainedModel,
)
from transformers.utils import cached_file

from .configuration_proformer import ProformerConfig
from .data.tables import InputError, Row, first_line, read_rows, require_columns, sequence_text
from .linear_layers import fastest_linear_layers
from .modeling_proformer import predictions, require_expression_head
from .tokenization import InvalidSequenceError, ProformerTokenizer


EMBEDDED_CHECKPOINT = "proformer-yeast-small"


def checkpoint_path() -> Path:
    """Folder of the pretrained checkpoint that comes with this package; its README.md says what it is."""
    return Path(__file__).parent / "checkpoints" / EMBEDDED_CHECKPOINT


def load_checkpoint(folder_or_repo: str | Path | None = None) -> tuple[PreTrainedModel, ProformerTokenizer]:
    """
    A model that predicts expression, in evaluation mode, and its tokenizer.

    Args:
        folder_or_repo: a folder, or the name of a repository on the Hub; by default the embedded checkpoint.

    Raises:
        InputError: there is no such checkpoint, it is not a Proformer, or it is incomplete or damaged.
    """
    source = str(checkpoint_path() if folder_or_repo is None else folder_or_repo)
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        if not isinstance(config, ProformerConfig):
            raise InputError(f"{source}: this checkpoint is a {config.model_type!r} model, not a Proformer.")
        # Without its file, a tokenizer of the default construct would be made up.
        cached_file(source, "tokenizer_config.json")
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        model, loading = AutoModelForSequenceClassification.from_pretrained(
            source, trust_remote_code=False, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except InputError:
        raise
    # A damaged checkpoint shows in as many ways as it has files: JSON, safetensors, shapes, names.
    except Exception as error:
        raise InputError(
            f"{source}: no readable Proformer checkpoint, neither a folder nor a repository on the Hub "
            f"({first_line(error)})"
        ) from error
    if loading["missing_keys"]:
        raise InputError(
            f"{source}: the checkpoint lacks {len(loading['missing_keys'])} weights, among them "
            f"{min(loading['missing_keys'])}; it cannot predict expression."
        )
    misfits = sorted(loading["unexpected_keys"]) + sorted(name for name, *_ in loading["mismatched_keys"])
    if misfits:
        raise InputError(
            f"{source}: {len(misfits)} of the checkpoint's weights have no place or another shape in the model of its "
            f"config.json, among them {misfits[0]}."
        )
    fits = all(getattr(tokenizer, name) == getattr(config, name) for name in ("kmer_size", "kmer_stride"))
    if not fits or tokenizer.num_tokens > config.max_position_embeddings:
        raise InputError(
            f"{source}: its tokenizer gives {tokenizer.num_tokens} tokens of {tokenizer.kmer_size} letters, its model "
            f"takes {config.max_position_embeddings} of {config.kmer_size}; are all files of one checkpoint?"
        )
    return model.eval(), tokenizer


def predict(
    model: PreTrainedModel,
    tokenizer: ProformerTokenizer,
    sequences: Iterable[str],
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    truncation: bool = False,
) -> np.ndarray:
    """
    Expression of each sequence, in the units the model was trained on; of classes, their probabilities.

    Args:
        model: a `ProformerForSequenceClassification` or `ProformerForPreTraining`; put in evaluation mode.
        tokenizer: the one saved beside the model.
        sequences: inserts or whole constructs, as the tokenizer takes them; read and tokenized a batch ahead, in
            another thread.
        batch_size: sequences computed at a time; by default, 64 on a CPU, whose caches larger batches overflow, and
            512 on other devices.
        device: where to compute, such as `"cuda"`; the model is moved there. By default, where it is.
        dtype: `torch.bfloat16` or `torch.float16` to compute with autocast; the weights stay as they are.
        truncation: cut inserts that are longer than the construct, instead of refusing them.

    Returns:
        (sequences, outputs) of float32.

    Raises:
        InvalidSequenceError: a sequence cannot be tokenized; `row` counts through all the sequences.
    """
    outputs = [np.empty((0, model.config.num_labels), dtype=np.float32)]
    outputs += predict_batches(model, tokenizer, sequences, batch_size, device, dtype, truncation)
    return np.concatenate(outputs)


def predict_batches(
    model: PreTrainedModel,
    tokenizer: ProformerTokenizer,
    sequences: Iterable[str],
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    truncation: bool = False,
) -> Iterator[np.ndarray]:
    """`predict` for more sequences than memory holds: one array for each `batch_size` of them, as soon as known."""
    batch_size = make_ready(model, sequences, batch_size, device)
    for inputs in made_ahead(token_batches(tokenizer, sequences, batch_size, truncation)):
        yield predict_tokens(model, inputs, dtype)


def token_batches(
    tokenizer: ProformerTokenizer, sequences: Iterable[str], batch_size: int, truncation: bool
) -> Iterator[BatchEncoding]:
    sequences = iter(sequences)
    row = 0
    while batch := list(islice(sequences, batch_size)):
        with counted_from(row):
            # No attention mask: a construct has no padding, and without one faster attention can be chosen.
            yield tokenizer(batch, return_tensors="pt", truncation=truncation, return_attention_mask=False)
        row += len(batch)


def made_ahead(batches: Iterator[BatchEncoding]) -> Iterator[BatchEncoding]:
    """The same batches, each made in another thread while the one before is worked on."""
    with ThreadPoolExecutor(max_workers=1) as executor:
        upcoming = executor.submit(next, batches, None)
        while (batch := upcoming.result()) is not None:
            upcoming = executor.submit(next, batches, None)
            yield batch


@contextlib.contextmanager
def counted_from(first: int) -> Iterator[None]:
    """Makes the `row` of a sequence that cannot be tokenized count through all sequences, not those of one call."""
    try:
        yield
    except ValueError as error:
        # Told by its row: a tokenizer that came with a checkpoint's own code has another class of this name.
        if not hasattr(error, "row"):
            raise
        raise InvalidSequenceError(first + error.row, error.reason) from None


def make_ready(
    model: PreTrainedModel, sequences: Iterable[str], batch_size: int | None, device: str | torch.device | None
) -> int:
    """
    Puts a model in evaluation mode, where it is to compute, or says why it cannot predict these sequences; gives the
    size of batches.
    """
    if isinstance(sequences, str):
        raise TypeError("Expected several sequences, got one string; put it in a list.")
    require_expression_head(model)
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
    model.eval()
    if device is not None:
        model.to(device)
    return batch_size or (64 if model.device.type == "cpu" else 512)


def predict_tokens(model: PreTrainedModel, inputs: BatchEncoding, dtype: torch.dtype | None = None) -> np.ndarray:
    """`predict` for a batch of tokens: (sequences, outputs)."""
    layers = fastest_linear_layers(model) if dtype is None else contextlib.nullcontext()
    with torch.inference_mode(), torch.autocast(model.device.type, dtype, enabled=dtype is not None), layers:
        outputs = predictions(model(**inputs.to(model.device)).logits, model.config)
    return outputs.float().cpu().numpy()


def predict_file(
    model: PreTrainedModel,
    tokenizer: ProformerTokenizer,
    path: str | Path,
    sequence_column: str = "sequence",
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    truncation: bool = False,
) -> Iterator[tuple[list[Row], np.ndarray]]:
    """
    Streams a FASTA file or table: its rows, and `predict_batches` of their sequences, `batch_size` at a time.

    Raises:
        InputError: see `read_rows`; or there is no such column, a sequence cannot be tokenized, or a prediction is not
            finite. Says in which line or row.
    """
    waiting: list[Row] = []

    def sequences() -> Iterator[str]:
        for row in read_rows(path):
            require_columns(path, row.cells, [sequence_column])
            waiting.append(row)
            yield sequence_text(path, row, sequence_column)

    done = 0
    try:
        for predicted in predict_batches(model, tokenizer, sequences(), batch_size, device, dtype, truncation):
            rows = waiting[: len(predicted)]
            del waiting[: len(predicted)]
            unsound = ~np.isfinite(predicted).all(axis=1)
            if unsound.any():
                raise InputError(
                    f"{path}, {rows[int(unsound.argmax())].place}: the prediction is nan or infinite; the weights of "
                    f"{model.name_or_path} are not sound{'' if dtype is None else f' in {dtype}'}."
                )
            done += len(rows)
            yield rows, predicted
    except InvalidSequenceError as error:
        place = waiting[error.row - done].place
        raise InputError(f"{path}, {place}, column {sequence_column!r}: {error.reason}") from error


__all__ = ["checkpoint_path", "load_checkpoint", "predict", "predict_batches", "predict_file"]
