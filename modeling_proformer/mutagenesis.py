"""Saturation mutagenesis: the effect of every substitution and deletion of single bases on expression."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from transformers import BatchEncoding, PreTrainedModel

from .data.screening import OnError, Screening
from .data.tables import Row
from .prediction import as_paths, count_rows_from, predict_tokens, prepare_model, require_finite
from .tokenization import ProformerTokenizer
from .tokenization.tokenization_proformer import ALPHABET, COMPLEMENT, NUCLEOTIDE_N


#: The bases in the order of the second axis of a saturation mutagenesis.
BASES = "ACGT"
#: The alternate of a deletion.
DELETED = "-"
# Their codes in the tokenizer's alphabet.
NUCLEOTIDES = np.arange(1, 5)

# Rows of a file that are checked at a time.
ROWS_AT_A_TIME = 64


class Mutagenesis(NamedTuple):
    """
    Predictions of all single changes of an insert.

    Attributes:
        insert: its bases A C G T N, as the model reads them: without flanks, and cut if it was too long.
        reference: (outputs,), the expression of the sequence itself.
        expression: (bases, 4, outputs), the expression with A, C, G or T at each position; with deletions (bases, 5,
            outputs), where the last is the expression without the base. It is NaN where nothing would be left.
    """

    insert: str
    reference: np.ndarray
    expression: np.ndarray

    @property
    def effects(self) -> np.ndarray:
        """Expression with each change minus that of the sequence itself, with the shape of `expression`."""
        return self.expression - self.reference

    @property
    def contributions(self) -> np.ndarray:
        """
        Contribution of each base, (bases, outputs): minus the mean effect of its three substitutions, so it is
        positive where the base raises expression. It is 0 for N.
        """
        is_known = np.array([base != "N" for base in self.insert])
        # The base itself is one of the four, and has no effect.
        return np.where(is_known[:, None], -self.effects[:, : len(BASES)].sum(axis=1) / 3, 0)

    def changes(self) -> Iterator[tuple[int, str, str, np.ndarray, np.ndarray]]:
        """
        Yield the position of each change, counted from 1, its reference and alternate base (`DELETED` for a deletion),
        the expression and the effect, (outputs,) each.
        """
        alternates = (BASES + DELETED)[: self.expression.shape[1]]
        for position, (base, expression, effects) in enumerate(
            zip(self.insert, self.expression, self.effects, strict=True), start=1
        ):
            for alternate, predicted, effect in zip(alternates, expression, effects, strict=True):
                if alternate != base:
                    yield position, base, alternate, predicted, effect


def mutate(
    model: PreTrainedModel,
    tokenizer: ProformerTokenizer,
    sequences: Iterable[str],
    *,
    deletions: bool = False,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    truncation: bool = False,
) -> Iterator[Mutagenesis]:
    """
    Yield the predictions of all single changes of each sequence's insert, one sequence after the other.

    An insert of 80 bases has 240 substitutions; they are computed in batches, and the sequence itself once.

    Args:
        model, tokenizer, batch_size, device, dtype, truncation: see `predict`.
        sequences: inserts or whole constructs; the flanks of a construct stay as they are.
        deletions: delete each base too. What is left lies where the tokenizer puts an insert of this length, as
            in `predict`, so the bases on one side move by one.

    Raises:
        InvalidSequenceError: a sequence cannot be tokenized; `row` is its index among all the sequences.
    """
    model, batch_size = prepare_model(model, tokenizer, sequences, batch_size, device)
    for row, sequence in enumerate(sequences):
        with count_rows_from(row):
            insert = _insert_codes(tokenizer, sequence, truncation)
        yield _mutate_insert(model, tokenizer, insert, deletions, batch_size, dtype)


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
    Yield the expression of all single-nucleotide variants of each sequence's insert, one sequence after the other:
    `Mutagenesis.expression` of what `mutate` yields.

    Args:
        model, tokenizer, batch_size, device, dtype, truncation: see `predict`.
        sequences: inserts or whole constructs; the flanks of a construct stay as they are.

    Yields:
        (bases of the insert, 4, outputs) of float32, in the units of `predict`: the expression with A, C, G or T at
        each position. For the base that the sequence has there, it is the expression of the sequence itself.

    Raises:
        InvalidSequenceError: a sequence cannot be tokenized; `row` is its index among all the sequences.
    """
    results = mutate(
        model, tokenizer, sequences, batch_size=batch_size, device=device, dtype=dtype, truncation=truncation
    )
    return (result.expression for result in results)


def mutate_file(
    model: PreTrainedModel,
    tokenizer: ProformerTokenizer,
    path: str | Path | Sequence[str | Path],
    *,
    sequence: str = "sequence",
    on_error: OnError = "refuse",
    iupac_as_n: bool = False,
    deletions: bool = False,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    truncation: bool = False,
) -> Iterator[tuple[Row, Mutagenesis | None]]:
    """
    Stream FASTA files or tables: yield each row, and what `mutate` yields for its sequence; None for a row that cannot
    be predicted, whose `error` says why.

    Args:
        model, tokenizer, batch_size, device, dtype, truncation: see `predict`.
        path, sequence, on_error, iupac_as_n: see `predict_file`.
        deletions: see `mutate`.

    Raises:
        InputError, ValueError: see `predict_file`.
    """
    screening = Screening(
        tokenizer=tokenizer, sequence=sequence, on_error=on_error, iupac_as_n=iupac_as_n, truncation=truncation
    )
    model, batch_size = prepare_model(model, tokenizer, (), batch_size, device)
    for rows in screening.read(as_paths(path), ROWS_AT_A_TIME):
        for each in screening.keep(rows):
            if each.row.error:
                yield each.row, None
                continue
            insert = _insert_codes(tokenizer, each.sequence, truncation)
            result = _mutate_insert(model, tokenizer, insert, deletions, batch_size, dtype)
            require_finite(result.expression[None, :, : len(BASES)], model, dtype, [each])
            yield each.row, result


def _insert_codes(tokenizer: ProformerTokenizer, sequence: str, truncation: bool) -> np.ndarray:
    """Return the codes of an insert's bases, (bases,)."""
    construct = tokenizer.encode_letters([sequence], truncation=truncation)[0]
    length = min(int(tokenizer.insert_lengths([sequence])[0]), tokenizer.insert_width)
    start = int(tokenizer.insert_starts(np.array(length)))
    return construct[start : start + length]


def _mutate_insert(
    model: PreTrainedModel,
    tokenizer: ProformerTokenizer,
    insert: np.ndarray,
    deletions: bool,
    batch_size: int,
    dtype: torch.dtype | None,
) -> Mutagenesis:
    length = len(insert)
    positions, columns = np.nonzero(insert[:, None] != NUCLEOTIDES)
    # The first row stays the sequence itself.
    variants = np.tile(insert, (1 + len(positions), 1))
    variants[np.arange(1, len(variants)), positions] = NUCLEOTIDES[columns]
    constructs = _constructs(tokenizer, variants)
    # Equal bases in a row leave the same sequence, whichever of them is deleted.
    begins_run = np.append(True, insert[1:] != insert[:-1])
    if deletions and length > 1:
        shorter = np.array([np.delete(insert, position) for position in np.flatnonzero(begins_run)])
        constructs = np.concatenate([constructs, _constructs(tokenizer, shorter)])
    predicted = np.concatenate(
        [
            predict_tokens(model, _tokenize_codes(tokenizer, constructs[first : first + batch_size]), dtype)
            for first in range(0, len(constructs), batch_size)
        ]
    )
    substituted, deleted = np.split(predicted, [len(variants)])
    expression = np.tile(substituted[0], (length, len(NUCLEOTIDES) + deletions, 1))
    expression[positions, columns] = substituted[1:]
    if deletions:
        expression[:, -1] = deleted[begins_run.cumsum() - 1] if len(deleted) else np.nan
    return Mutagenesis("".join(ALPHABET[code] for code in insert), substituted[0], expression)


def _constructs(tokenizer: ProformerTokenizer, inserts: np.ndarray) -> np.ndarray:
    """Return the codes of the constructs of inserts, (sequences, bases), as `encode_letters` returns them."""
    forward = np.full((len(inserts), tokenizer.insert_width), NUCLEOTIDE_N, dtype=np.uint8)
    start = int(tokenizer.insert_starts(np.array(inserts.shape[1])))
    forward[:, start : start + inserts.shape[1]] = inserts
    return forward if tokenizer.num_strands == 1 else np.concatenate([forward, COMPLEMENT[forward[:, ::-1]]], axis=1)


def _tokenize_codes(tokenizer: ProformerTokenizer, codes: np.ndarray) -> BatchEncoding:
    """Return the tokens of constructs whose codes are known, as `encode_letters` returns them."""
    arrays = {"input_ids": tokenizer.encode_kmers(codes), "token_type_ids": tokenizer.token_type_ids(len(codes))}
    return BatchEncoding(arrays, tensor_type="pt")


__all__ = ["BASES", "DELETED", "Mutagenesis", "mutate", "mutate_file", "saturation_mutagenesis"]
