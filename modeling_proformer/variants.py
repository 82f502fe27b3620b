"""What single letters do to expression: alternate against reference alleles, and saturation mutagenesis."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from transformers import BatchEncoding, PreTrainedModel

from .prediction import counted_from, make_ready, predict, predict_tokens
from .tokenization import InvalidSequenceError, ProformerTokenizer
from .tokenization.tokenization_proformer import COMPLEMENT


# As numbers of the tokenizer's alphabet, in the order of the second axis of a saturation mutagenesis.
NUCLEOTIDES = np.arange(1, 5)  # A C G T


def saturation_mutagenesis(
    model: PreTrainedModel,
    tokenizer: ProformerTokenizer,
    sequences: Iterable[str],
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> Iterator[np.ndarray]:
    """
    Expression of all single-nucleotide variants of each sequence's insert, one sequence after the other. An insert of
    80 letters has 240 of them; they are computed in batches, and the sequence itself once.

    Args:
        model, tokenizer, batch_size, device, dtype: as of `predict`.
        sequences: inserts or whole constructs; the flanks of a construct stay as they are.

    Yields:
        (letters of the insert, 4, outputs) of float32, in the units of `predict`: expression with A, C, G or T in this
        position, which is the sequence's own in the place of its own letter.

    Raises:
        InvalidSequenceError: a sequence cannot be tokenized; `row` counts through all the sequences.
    """
    batch_size = make_ready(model, sequences, batch_size, device)
    for row, sequence in enumerate(sequences):
        with counted_from(row):
            construct = tokenizer.encode_letters([sequence])[0]
            length = tokenizer.insert_lengths([sequence])[0]
        places = tokenizer.insert_starts(length) + np.arange(length)
        positions, columns = np.nonzero(construct[places, None] != NUCLEOTIDES)
        # The first row stays the sequence itself.
        variants = np.tile(construct, (1 + len(positions), 1))
        numbers = np.arange(1, len(variants))
        variants[numbers, places[positions]] = NUCLEOTIDES[columns]
        if tokenizer.num_strands == 2:
            variants[numbers, -1 - places[positions]] = COMPLEMENT[NUCLEOTIDES[columns]]
        predicted = np.concatenate(
            [
                predict_tokens(model, tokens_of(tokenizer, variants[first : first + batch_size]), dtype)
                for first in range(0, len(variants), batch_size)
            ]
        )
        expression = np.tile(predicted[0], (length, len(NUCLEOTIDES), 1))
        expression[positions, columns] = predicted[1:]
        yield expression


def tokens_of(tokenizer: ProformerTokenizer, letters: np.ndarray) -> BatchEncoding:
    """What the tokenizer makes of constructs that are already letters, as `encode_letters` gives them."""
    arrays = {"input_ids": tokenizer.encode_kmers(letters), "token_type_ids": tokenizer.token_type_ids(len(letters))}
    return BatchEncoding(arrays, tensor_type="pt")


def variant_effects(
    model: PreTrainedModel,
    tokenizer: ProformerTokenizer,
    references: Sequence[str],
    alternates: Sequence[str],
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> np.ndarray:
    """
    How much the expression of each alternate allele exceeds that of its reference. A sequence that occurs several
    times, such as the reference of many variants, is computed once.

    Args:
        model, tokenizer, batch_size, device, dtype: as of `predict`.
        references, alternates: inserts or whole constructs of the same length or others; (variants,).

    Returns:
        (variants, outputs) of float32, in the units of `predict`.

    Raises:
        ValueError: there are not as many alternates as references.
        InvalidSequenceError: a sequence cannot be tokenized; `row` is that of the variant.
    """
    if len(references) != len(alternates):
        raise ValueError(f"{len(references):,} references and {len(alternates):,} alternates: give pairs of them.")
    # Both alleles of a variant beside each other, and so in one batch or in two that follow.
    alleles = [allele for pair in zip(references, alternates, strict=True) for allele in pair]
    places = {allele: place for place, allele in enumerate(dict.fromkeys(alleles))}
    try:
        predicted = predict(model, tokenizer, list(places), batch_size, device, dtype)
    except InvalidSequenceError as error:
        variant, allele = divmod(alleles.index(list(places)[error.row]), 2)
        raise InvalidSequenceError(variant, f"{('reference', 'alternate')[allele]}: {error.reason}") from None
    return predicted[[places[allele] for allele in alternates]] - predicted[[places[allele] for allele in references]]


__all__ = ["saturation_mutagenesis", "variant_effects"]
