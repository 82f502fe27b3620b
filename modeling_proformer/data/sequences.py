"""Sequences that are encoded once, for everything that looks at their bases."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..tokenization import InvalidSequenceError, ProformerTokenizer
from ..tokenization.tokenization_proformer import COMPLEMENT, set_padding_aside


# Rows encoded and trimmed at a time, which bounds the memory for intermediate results.
ROWS_PER_BATCH = 65_536


@dataclass(frozen=True)
class Sequences:
    """
    DNA sequences as the tokenizer's codes: 1 to 5 for A C G T N.

    Attributes:
        codes: (bases,) of uint8; the sequences end to end, perhaps with other bases between them.
        starts: (sequences,) where each begins in `codes`.
        lengths: (sequences,) how many bases each has.
    """

    codes: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray

    @classmethod
    def encode(cls, sequences: Sequence[str]) -> "Sequences":
        """
        Encode text, in which case does not matter and U is read as T.

        Raises:
            InvalidSequenceError: a sequence is empty, or has a character other than A C G T U N; the first such one.
        """
        # It grows in place, where a list of arrays would take the memory twice when they are joined.
        codes = bytearray()
        lengths = [np.empty(0, dtype=np.int64)]
        for first in range(0, len(sequences), ROWS_PER_BATCH):
            try:
                batch, _, batch_lengths = ProformerTokenizer.read_codes(sequences[first : first + ROWS_PER_BATCH])
            except InvalidSequenceError as error:
                raise InvalidSequenceError(first + error.row, error.reason) from None
            codes += batch.tobytes()
            lengths.append(batch_lengths)
        joined = np.concatenate(lengths)
        return cls(np.frombuffer(codes, dtype=np.uint8), np.cumsum(joined) - joined, joined)

    @classmethod
    def of(cls, sequences: "Sequences | Sequence[str]") -> "Sequences":
        """Return encoded sequences as they are, and text encoded."""
        return sequences if isinstance(sequences, Sequences) else cls.encode(sequences)

    def __len__(self) -> int:
        return len(self.starts)

    def take(self, rows: np.ndarray | slice) -> "Sequences":
        """Return some of the sequences, without a copy of their codes."""
        return Sequences(self.codes, self.starts[rows], self.lengths[rows])

    def inserts(self, tokenizer: ProformerTokenizer) -> "Sequences":
        """
        Return the insert of each construct, without the flanks that `tokenizer` trims; the codes are not copied.

        Raises:
            InvalidSequenceError: a sequence lacks the flanks, and the tokenizer refuses such sequences.
        """
        starts, lengths = self.starts.copy(), self.lengths.copy()
        for first in range(0, len(self), ROWS_PER_BATCH):
            rows = slice(first, first + ROWS_PER_BATCH)
            try:
                starts[rows], lengths[rows] = tokenizer.trim_flanks(self.codes, self.starts[rows], self.lengths[rows])
            except InvalidSequenceError as error:
                raise InvalidSequenceError(first + error.row, error.reason) from None
        return Sequences(self.codes, starts, lengths)

    def without_padding(self) -> "Sequences":
        """Return each sequence without the N at its ends, unless it is N alone; the codes are not copied."""
        return Sequences(self.codes, *set_padding_aside(self.codes, self.starts, self.lengths))

    def backwards(self) -> "Sequences":
        """Return each sequence from its 3′ end to its 5′ end."""
        return Sequences(self.codes[::-1], len(self.codes) - self.starts - self.lengths, self.lengths)

    def reverse_complements(self) -> "Sequences":
        """Return the reverse complement of each sequence."""
        backwards = self.backwards()
        return Sequences(COMPLEMENT[backwards.codes], backwards.starts, backwards.lengths)

    def column(self, position: int) -> np.ndarray:
        """Return the code at a position (from 0) of each sequence, (sequences,); 0 beyond the sequence's end."""
        inside = self.lengths > position
        column = np.zeros(len(self), dtype=np.uint8)
        column[inside] = self.codes[self.starts[inside] + position]
        return column

    def to_bytes(self) -> list[bytes]:
        """Return the codes of each sequence, by which equal sequences are found."""
        if not len(self):
            return []
        ends = self.starts + self.lengths
        first, last = int(self.starts.min()), int(ends.max())
        codes = self.codes[first:last].tobytes()
        places = zip((self.starts - first).tolist(), (ends - first).tolist(), strict=True)
        return [codes[start:end] for start, end in places]

    @cached_property
    def numbers(self) -> np.ndarray:
        """The number of each sequence among the different ones, (sequences,), in the order of first appearance."""
        first: dict[bytes, int] = {}
        return np.array([first.setdefault(text, len(first)) for text in self.to_bytes()], dtype=np.int64)

    def count_among(self, others: "Sequences") -> int:
        """Count the sequences that are also among `others`."""
        texts = self.to_bytes()
        known, found = set(texts), set()
        for first in range(0, len(others), ROWS_PER_BATCH):
            found |= known.intersection(others.take(slice(first, first + ROWS_PER_BATCH)).to_bytes())
        return sum(text in found for text in texts)


__all__ = ["Sequences"]
