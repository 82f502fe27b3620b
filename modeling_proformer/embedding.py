"""Embeddings: the model's internal representation of sequences."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import numpy as np
import torch
from torch import nn
from transformers import BatchEncoding, PreTrainedModel

from .data.config import require_choice
from .data.screening import OnError, Screening
from .data.tables import InputError, Row
from .prediction import Computation, as_paths, compute_rows, inference, place_model, token_batches
from .tokenization import ProformerTokenizer


#: What of a sequence is embedded.
Positions: TypeAlias = Literal["mean", "expression", "all"]


def embed(
    model: PreTrainedModel,
    tokenizer: ProformerTokenizer,
    sequences: Iterable[str],
    *,
    positions: Positions = "mean",
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    truncation: bool = False,
) -> np.ndarray:
    """
    Return the hidden states of the last layer for each sequence.

    Args:
        model: a Proformer with or without a head, also in a wrapper such as `DistributedDataParallel`.
        tokenizer, sequences, batch_size, device, dtype, truncation: see `predict`.
        positions: `"mean"`: the mean over the k-mers of the construct, on all strands; the N that fill it count, as
            they do for the model. `"expression"`: the mean over the expression tokens, from which the head
            predicts. `"all"`: each k-mer, from the start of the forward strand to the end of the reverse strand.

    Returns:
        (sequences, hidden size) of float32, with `"all"` (sequences, k-mers, hidden size).

    Raises:
        InvalidSequenceError: a sequence cannot be tokenized; `row` is its index among all the sequences.
        TypeError: the model is no Proformer, or `sequences` is one string.
        ValueError: `positions` is something else, the model has no expression tokens, or see `predict`.
    """
    model, batch_size = place_model(encoder_of(model), tokenizer, sequences, batch_size, device)
    shape = embedding_shape(model, tokenizer, positions)
    batches = token_batches(tokenizer, sequences, batch_size, truncation)
    embedded = (_embed_tokens(model, inputs, dtype, positions) for inputs in batches)
    return np.concatenate([np.empty((0, *shape), dtype=np.float32), *embedded])


def embed_file(
    model: PreTrainedModel,
    tokenizer: ProformerTokenizer,
    path: str | Path | Sequence[str | Path],
    *,
    positions: Positions = "mean",
    sequence: str = "sequence",
    on_error: OnError = "refuse",
    iupac_as_n: bool = False,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    truncation: bool = False,
) -> Iterator[tuple[list[Row], np.ndarray]]:
    """
    Stream FASTA files or tables: yield their rows, and what `embed` returns for their sequences, `batch_size` at a
    time. Rows that are marked are NaN.

    Args:
        model, tokenizer, positions, batch_size, device, dtype, truncation: see `embed`.
        path, sequence, on_error, iupac_as_n: see `predict_file`.

    Raises:
        InputError, ValueError: see `predict_file` and `embed`.
    """
    screening = Screening(
        tokenizer=tokenizer, sequence=sequence, on_error=on_error, iupac_as_n=iupac_as_n, truncation=truncation
    )
    model, batch_size = place_model(encoder_of(model), tokenizer, (), batch_size, device)
    computation = embedding_computation(model, tokenizer, positions, dtype, truncation)
    yield from compute_rows(computation, screening, screening.read(as_paths(path), batch_size))


def embedding_computation(
    model: PreTrainedModel,
    tokenizer: ProformerTokenizer,
    positions: Positions,
    dtype: torch.dtype | None,
    truncation: bool,
) -> Computation:
    """Return the computation of embeddings by a model without a head."""
    return Computation(
        model=model,
        tokenizer=tokenizer,
        compute=partial(_embed_tokens, positions=positions),
        shape=embedding_shape(model, tokenizer, positions),
        dtype=dtype,
        truncation=truncation,
    )


def embedding_shape(model: PreTrainedModel, tokenizer: ProformerTokenizer, positions: Positions) -> tuple[int, ...]:
    """
    Return the shape of the embedding of one sequence, see `embed`.

    Raises:
        InputError: the model has no expression tokens to embed.
        ValueError: `positions` is something else.
    """
    require_choice("positions", positions, get_args(Positions))
    if positions == "expression" and model.config.num_expression_tokens == 0:
        raise InputError('The model has no expression tokens to embed; use `positions="mean"` or `positions="all"`.')
    hidden = model.config.hidden_size
    return (tokenizer.num_tokens, hidden) if positions == "all" else (hidden,)


def encoder_of(model: nn.Module) -> PreTrainedModel:
    """
    Return the model that computes hidden states, without head and wrapper.

    Raises:
        TypeError: the model is no Proformer.
    """
    given = model
    while not isinstance(model, PreTrainedModel) and isinstance(getattr(model, "module", None), nn.Module):
        model = model.module
    encoder = model.base_model if isinstance(model, PreTrainedModel) else None
    # Recognised by its name: the model of remote code has another class.
    if encoder is None or encoder.config.model_type != "proformer":
        raise TypeError(f"{type(given).__name__} is no Proformer, so it has no embeddings.")
    return encoder


def _embed_tokens(
    model: PreTrainedModel, inputs: BatchEncoding, dtype: torch.dtype | None, positions: Positions
) -> np.ndarray:
    with inference(model, dtype):
        outputs = model(**inputs.to(model.device), expression_tokens_only=positions == "expression", return_dict=True)
        hidden_states = outputs.last_hidden_state.float()
        expression, kmers = hidden_states.tensor_split([model.config.num_expression_tokens], dim=1)
        embedded = kmers if positions == "all" else (kmers if positions == "mean" else expression).mean(dim=1)
    return embedded.cpu().numpy()


__all__ = ["Positions", "embed", "embed_file", "embedding_shape"]
