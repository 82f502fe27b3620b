"""Effects of single bases on expression: alternate against reference alleles, and saturation mutagenesis."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from transformers import BatchEncoding, PreTrainedModel

from .prediction import count_rows_from, predict, predict_tokens, prepare_model
from .tokenization import InvalidSequenceError, ProformerTokenizer
from .tokenization.tokenization_proformer import COMPLEMENT


# Codes of A C G T in the tokenizer's alphabet, in the order of the second axis of a saturation mutagenesis.
NUCLEOTIDES = np.arange(1, 5)


def saturation_mutagenesis(
    model: PreTrainedModel,
    tokenizer: ProformerTokenizer,
    sequences: Iterable[str],
    *,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    truncation: bool = False,
) -> Iterator[np.ndarray]:
    """
    Yield the expression of all single-nucleotide variants of each sequence's insert, one sequence after the other. An
    insert of 80 bases has 240 variants; they are computed in batches, and the sequence itself once.

    Args:
        model, tokenizer, batch_size, device, dtype, truncation: see `predict`.
        sequences: inserts or whole constructs; the flanks of a construct stay as they are.

    Yields:
        (bases of the insert, 4, outputs) of float32, in the units of `predict`: the expression with A, C, G or T at
        each position. For the base that the sequence has there, it is the expression of the sequence itself.

    Raises:
        InvalidSequenceError: a sequence cannot be tokenized; `row` is its index among all the sequences.
    """
    model, batch_size = prepare_model(model, tokenizer, sequences, batch_size, device)
    for row, sequence in enumerate(sequences):
        with count_rows_from(row):
            construct = tokenizer.encode_letters([sequence], truncation=truncation)[0]
            length = min(tokenizer.insert_lengths([sequence])[0], tokenizer.insert_width)
        insert = tokenizer.insert_starts(length) + np.arange(length)
        positions, columns = np.nonzero(construct[insert, None] != NUCLEOTIDES)
        # The first row stays the sequence itself.
        variants = np.tile(construct, (1 + len(positions), 1))
        numbers = np.arange(1, len(variants))
        variants[numbers, insert[positions]] = NUCLEOTIDES[columns]
        if tokenizer.num_strands == 2:
            variants[numbers, -1 - insert[positions]] = COMPLEMENT[NUCLEOTIDES[columns]]
        predicted = np.concatenate(
            [
                predict_tokens(model, _tokenize_codes(tokenizer, variants[first : first + batch_size]), dtype)
                for first in range(0, len(variants), batch_size)
            ]
        )
        expression = np.tile(predicted[0], (length, len(NUCLEOTIDES), 1))
        expression[positions, columns] = predicted[1:]
        yield expression


def _tokenize_codes(tokenizer: ProformerTokenizer, codes: np.ndarray) -> BatchEncoding:
    """Return the tokens of constructs whose codes are known, as `encode_letters` returns them."""
    arrays = {"input_ids": tokenizer.encode_kmers(codes), "token_type_ids": tokenizer.token_type_ids(len(codes))}
    return BatchEncoding(arrays, tensor_type="pt")


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


__all__ = ["saturation_mutagenesis", "variant_effects"]
