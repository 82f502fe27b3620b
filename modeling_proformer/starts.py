"""Sequences that designs start from, and those that they have to differ from."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from .constraints import encode_bases
from .data.sequences import Sequences
from .tokenization import InvalidSequenceError, ProformerTokenizer


class GivenSequenceError(ValueError):
    """
    A sequence that a design is to start from or to differ from is wrong.

    Attributes:
        argument: the argument that it is given with.
        row: index of the sequence there.
        reason: what is wrong, without the place.
    """

    def __init__(self, argument: str, row: int, name: str, reason: str):
        super().__init__(f"{name}: {reason}")
        self.argument, self.row, self.reason = argument, row, reason


class Start(NamedTuple):
    """
    What a design starts from.

    Attributes:
        name: of the sequence; None for random inserts.
        size: bases of the insert.
        codes: (bases,) of the insert; None for random inserts.
    """

    name: str | None
    size: int
    codes: np.ndarray | None


def read_starts(starts: Mapping[str, str] | Sequence[str], tokenizer: ProformerTokenizer) -> list[Start]:
    """
    Return the inserts of sequences to start from.

    Raises:
        ValueError: there is none, or (`GivenSequenceError`) one cannot be read, does not fit the construct or has N.
    """
    named = starts if isinstance(starts, Mapping) else {str(number): each for number, each in enumerate(starts, 1)}
    if not named:
        raise ValueError("`starts` is empty; give at least one sequence.")
    found = []
    for row, (name, sequence) in enumerate(named.items()):
        try:
            tokenizer.encode_letters([sequence])
            (insert,) = tokenizer.inserts([sequence])
            if "N" in insert:
                raise InvalidSequenceError(0, f"N at position {insert.index('N') + 1} of its insert; give a base.")
        except InvalidSequenceError as error:
            raise GivenSequenceError("starts", row, f"the start {name!r}", error.reason) from None
        found.append(Start(name, len(insert), encode_bases(insert)))
    return found


def read_existing(existing: Iterable[str], tokenizer: ProformerTokenizer) -> list[np.ndarray]:
    """
    Return the codes of the inserts of sequences, an array for each length; N is 4.

    Raises:
        GivenSequenceError: one cannot be read.
    """
    try:
        inserts = Sequences.encode(list(existing)).inserts(tokenizer)
    except InvalidSequenceError as error:
        name = f"`existing`: Sequence {error.row + 1}"
        raise GivenSequenceError("existing", error.row, name, error.reason) from None
    groups = (inserts.take(inserts.lengths == length) for length in np.unique(inserts.lengths))
    return [group.codes[group.starts[:, None] + np.arange(group.lengths[0])] - 1 for group in groups]


def nearest(insert: np.ndarray, others: Iterable[np.ndarray]) -> int:
    """
    Return the number of bases in which an insert differs from the most similar of others. Where lengths differ, two
    are compared at the offset where they fit best, without gaps.

    Args:
        insert: (bases,) its codes.
        others: arrays (sequences, bases) of codes, each of another length.
    """
    least = len(insert)
    for codes in others:
        shorter = min(len(insert), codes.shape[1])
        for offset in range(abs(len(insert) - codes.shape[1]) + 1):
            inside = slice(offset, offset + shorter)
            pair = (insert, codes[:, inside]) if len(insert) == shorter else (insert[inside], codes)
            matches = np.count_nonzero(pair[0] == pair[1], axis=1)
            least = min(least, len(insert) - int(matches.max(initial=0)))
    return least


__all__ = ["GivenSequenceError", "Start", "nearest", "read_existing", "read_starts"]
