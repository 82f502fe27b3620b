"""Effects of variants on expression: alternate against reference alleles."""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedModel

from .prediction import predict
from .tokenization import InvalidSequenceError, ProformerTokenizer


def variant_effects(
    model: PreTrainedModel,
    tokenizer: ProformerTokenizer,
    references: Sequence[str],
    alternates: Sequence[str],
    *,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    truncation: bool = False,
) -> np.ndarray:
    """
    Return the expression of each alternate allele minus that of its reference. A sequence that occurs several times,
    such as the reference of many variants, is computed once.

    Args:
        model, tokenizer, batch_size, device, dtype, truncation: see `predict`.
        references, alternates: inserts or whole constructs, (variants,); the two alleles may differ in length.

    Returns:
        (variants, outputs) of float32, in the units of `predict`.

    Raises:
        InvalidSequenceError: a sequence cannot be tokenized; `row` is the index of the variant.
        TypeError: the references or alternates are one string.
        ValueError: the numbers of references and alternates differ.
    """
    if isinstance(references, str) or isinstance(alternates, str):
        raise TypeError("Expected several references and alternates, got one string; put each in a list.")
    if len(references) != len(alternates):
        raise ValueError(f"{len(references):,} references and {len(alternates):,} alternates: give pairs of them.")
    # Both alleles of a variant follow each other, so they are in one batch or in two consecutive ones.
    alleles = [allele for pair in zip(references, alternates, strict=True) for allele in pair]
    rows = {allele: row for row, allele in enumerate(dict.fromkeys(alleles))}
    distinct = list(rows)
    try:
        predicted = predict(
            model, tokenizer, distinct, batch_size=batch_size, device=device, dtype=dtype, truncation=truncation
        )
    except InvalidSequenceError as error:
        variant, allele = divmod(alleles.index(distinct[error.row]), 2)
        raise InvalidSequenceError(variant, f"{('reference', 'alternate')[allele]}: {error.reason}") from None
    return predicted[[rows[allele] for allele in alternates]] - predicted[[rows[allele] for allele in references]]


__all__ = ["variant_effects"]
