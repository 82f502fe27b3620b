"""k-mer tokenizer of Proformer.

This file travels to the Hub with every checkpoint: it imports only numpy and transformers.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
from transformers.utils.versions import require_version


# An older library would not ask `_encode_plus` for a list of sequences, and give both strands the same type.
require_version("transformers>=5.4.0", "Proformer needs transformers 5.4 or newer: pip install -U 'transformers>=5.4'")

from transformers import BatchEncoding, PreTrainedTokenizer  # noqa: E402
from transformers.tokenization_utils_base import PaddingStrategy, TruncationStrategy  # noqa: E402
from transformers.utils import is_torch_available  # noqa: E402


# A letter's digit is its place here; "-" stands for a position outside the sequence.
ALPHABET = "-ACGTNM"
PAD_TOKEN = "[PAD]"
NUCLEOTIDE_N = ALPHABET.index("N")
NUCLEOTIDE_M = ALPHABET.index("M")
COMPLEMENT = np.array([ALPHABET.index(letter) for letter in "-TGCANM"], dtype=np.uint8)

INVALID = 255
DIGIT_OF_BYTE = np.full(256, INVALID, dtype=np.uint8)
for _letter, _digit in [*((letter, ALPHABET.index(letter)) for letter in "ACGTNM"), ("U", ALPHABET.index("T"))]:
    DIGIT_OF_BYTE[[ord(_letter), ord(_letter.lower())]] = _digit

# Rows that are computed at a time, so that the work stays in the processor's cache.
ROWS_AT_A_TIME = 512


class InvalidSequenceError(ValueError):
    """
    A sequence that cannot be tokenized.

    Attributes:
        row (`int`): which sequence of those given, counted from 0.
        reason (`str`): what is wrong and what to do, without the row.
    """

    def __init__(self, row: int, reason: str):
        super().__init__(f"Sequence {row + 1}: {reason}")
        self.row = row
        self.reason = reason


class KmerVocabulary(Mapping):
    """
    All k-mers and their ids, computed when asked for: a table of the published 7^10 would hold 282,475,249 rows.
    `[PAD]` is the k-mer wholly outside the sequence.
    """

    def __init__(self, kmer_size: int):
        self.kmer_size = kmer_size

    def __len__(self) -> int:
        return len(ALPHABET) ** self.kmer_size

    def __iter__(self) -> Iterator[str]:
        return map(self.token, range(len(self)))

    def __contains__(self, token: object) -> bool:
        return token == PAD_TOKEN or (
            isinstance(token, str) and len(token) == self.kmer_size and set(token) <= set(ALPHABET)
        )

    def __getitem__(self, token: str) -> int:
        if token not in self:
            raise KeyError(token)
        if token == PAD_TOKEN:
            return 0
        return sum(ALPHABET.index(letter) * len(ALPHABET) ** place for place, letter in enumerate(reversed(token)))

    def token(self, token_id: int) -> str:
        if not 0 <= token_id < len(self):
            raise ValueError(f"{token_id} is not the id of a {self.kmer_size}-mer: ids go from 0 to {len(self) - 1}.")
        if token_id == 0:
            return PAD_TOKEN
        letters = [ALPHABET[token_id // len(ALPHABET) ** place % len(ALPHABET)] for place in range(self.kmer_size)]
        return "".join(reversed(letters))

    def copy(self) -> "KmerVocabulary":
        return self


class ProformerTokenizer(PreTrainedTokenizer):
    r"""
    Turns DNA into the k-mers of both strands.

    An insert is centred in the construct's width with N (the odd letter of padding lies where Python's `str.center`
    puts it, as in the published data) and followed by its reverse complement. A window of `kmer_size` letters runs
    over both strands as one string, junction included; a k-mer's id is its number in base 7 with the digits
    `- A C G T N M`, first letter most significant. Every sequence becomes exactly `num_tokens` tokens, whatever its
    length. Lower case and U are read as upper case and T.

    Args:
        kmer_size (`int`, defaults to 10):
            Letters in one token, 1 to 22.
        kmer_stride (`int`, defaults to 1):
            Letters from one token to the next; divides `insert_width`.
        insert_width (`int`, defaults to 100):
            Width that inserts are padded to; a longer one is refused, or cut at its end with `truncation=True`.
        five_prime_flank (`str`, *optional*):
            Constant letters before every insert in this assay's construct, trimmed.
        three_prime_flank (`str`, *optional*):
            Constant letters after every insert, trimmed.
        missing_flanks (`"keep"`, `"cut"` or `"refuse"`, defaults to `"keep"`):
            What to do with a sequence that does not have these flanks. `"keep"`: with neither, it is an insert on
            its own; with one of two, it is refused. `"cut"`: as many letters are cut off as the flanks have, as in
            the published data, whatever they are. `"refuse"`: it is an error.
        strands (`"both"` or `"forward"`, defaults to `"both"`):
            `"forward"` leaves the reverse complement out, for assays of RNA, of which there is no other strand.

    Raises:
        ValueError: an argument outside its range, or a call asking for a layout that a construct does not have
            (pairs, other lengths, overflowing tokens).
        InvalidSequenceError: a sequence that is empty, too long, or holds a letter other than A C G T U N (and M
            with `allow_mask=True`); says which sequence, position and letter.

    Example:

    >>> tokenizer = ProformerTokenizer(kmer_size=3, insert_width=4)
    >>> tokenizer.tokenize("ACG")
    ['-AC', 'ACG', 'CGN', 'GNN', 'NNC', 'NCG', 'CGT', 'GT-']
    """

    vocab_files_names = {}
    model_input_names = ["input_ids", "token_type_ids", "attention_mask"]

    def __init__(
        self,
        kmer_size: int = 10,
        kmer_stride: int = 1,
        insert_width: int = 100,
        five_prime_flank: str | None = None,
        three_prime_flank: str | None = None,
        missing_flanks: Literal["keep", "cut", "refuse"] = "keep",
        strands: Literal["both", "forward"] = "both",
        pad_token: str = PAD_TOKEN,
        **kwargs,
    ):
        if not 1 <= kmer_size <= 22:
            raise ValueError(f"`kmer_size` must be 1 to 22, got {kmer_size}.")
        if insert_width < 1:
            raise ValueError(f"`insert_width` must be at least 1, got {insert_width}.")
        if kmer_stride < 1 or insert_width % kmer_stride:
            raise ValueError(f"`kmer_stride` must divide the `insert_width` of {insert_width}, got {kmer_stride}.")
        if missing_flanks not in ("keep", "cut", "refuse"):
            raise ValueError(f'`missing_flanks` must be "keep", "cut" or "refuse", got {missing_flanks!r}.')
        if strands not in ("both", "forward"):
            raise ValueError(f'`strands` must be "both" or "forward", got {strands!r}.')
        for name, flank in (("five_prime_flank", five_prime_flank), ("three_prime_flank", three_prime_flank)):
            if not set((flank or "").upper()) <= set("ACGTU"):
                raise ValueError(f"`{name}` must be made of A C G T, got {flank!r}.")
        self.kmer_size = kmer_size
        self.kmer_stride = kmer_stride
        self.insert_width = insert_width
        self.five_prime_flank = five_prime_flank
        self.three_prime_flank = three_prime_flank
        self.missing_flanks = missing_flanks
        self.strands = strands
        self._vocabulary = KmerVocabulary(kmer_size)
        # Bookkeeping of the loader, which would otherwise be saved as if it were a setting.
        for name in ("is_local", "local_files_only"):
            kwargs.pop(name, None)
        kwargs.setdefault("model_max_length", self.num_tokens)
        super().__init__(
            kmer_size=kmer_size,
            kmer_stride=kmer_stride,
            insert_width=insert_width,
            five_prime_flank=five_prime_flank,
            three_prime_flank=three_prime_flank,
            missing_flanks=missing_flanks,
            strands=strands,
            pad_token=pad_token,
            **kwargs,
        )

    @property
    def num_tokens(self) -> int:
        """Tokens of every sequence, both strands counted."""
        return self.num_strands * self.insert_width // self.kmer_stride

    @property
    def num_strands(self) -> int:
        return 2 if self.strands == "both" else 1

    def encode_letters(
        self, sequences: Sequence[str], truncation: bool = False, allow_mask: bool = False
    ) -> np.ndarray:
        """
        Both strands of each construct, or its forward strand alone, letter by letter.

        Args:
            sequences: inserts, with or without the construct's flanks.
            truncation: cut what does not fit the construct, at the side named by `truncation_side`.
            allow_mask: accept M, a nucleotide to be predicted; its complement is M too.

        Returns:
            (batch, strands * insert_width) of digits: 1 to 6 for A C G T N M, the strands one after the other.

        Raises:
            InvalidSequenceError: the first sequence that cannot be encoded.
        """
        digits, starts, lengths = self.read_inserts(sequences, allow_mask)
        excess = np.maximum(lengths - self.insert_width, 0)
        if excess.any():
            if not truncation:
                row = int((excess > 0).argmax())
                raise InvalidSequenceError(
                    row,
                    f"its insert of {lengths[row]} letters is longer than the construct's {self.insert_width}. "
                    "Are there flanks to trim (five_prime_flank, three_prime_flank)? Or ask for truncation=True "
                    "(--truncate on the command line).",
                )
            starts = starts + (excess if self.truncation_side == "left" else 0)
            lengths = lengths - excess

        left = self.insert_starts(lengths)
        columns = np.arange(self.insert_width)
        letters = np.empty((len(sequences), self.num_strands, self.insert_width), dtype=np.uint8)
        for rows in slices(len(sequences)):
            inside = (columns >= left[rows, None]) & (columns < (left + lengths)[rows, None])
            # Outside an insert, whatever digit is there is not used.
            forward = np.where(inside, digits.take((starts - left)[rows, None] + columns, mode="clip"), NUCLEOTIDE_N)
            letters[rows, 0] = forward
            if self.strands == "both":
                letters[rows, 1] = COMPLEMENT.take(forward[:, ::-1])
        return letters.reshape(len(sequences), self.num_strands * self.insert_width)

    def insert_starts(self, lengths: np.ndarray) -> np.ndarray:
        """Where inserts of these lengths begin on the forward strand, counted from 0: at the N's end."""
        padding = self.insert_width - lengths
        return padding // 2 + (padding & self.insert_width & 1)

    def insert_lengths(self, sequences: Sequence[str]) -> np.ndarray:
        """
        Letters in each insert, (batch,), whether or not it fits the construct.

        Raises:
            InvalidSequenceError: the first sequence that cannot be read.
        """
        return self.read_inserts(sequences, allow_mask=False)[2]

    def inserts(self, sequences: Sequence[str]) -> list[str]:
        """
        The insert of each sequence, without flanks, of the letters A C G T N, whether or not it fits the construct.

        Raises:
            InvalidSequenceError: the first sequence that cannot be read.
        """
        digits, starts, lengths = self.read_inserts(sequences, allow_mask=False)
        letters = np.frombuffer(ALPHABET.encode(), dtype=np.uint8)[digits].tobytes().decode()
        return [letters[start : start + length] for start, length in zip(starts, lengths, strict=True)]

    def read_inserts(self, sequences: Sequence[str], allow_mask: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Digits of all sequences, end to end; and where in them each insert starts, and how long it is."""
        for row, sequence in enumerate(sequences):
            if not isinstance(sequence, str):
                raise InvalidSequenceError(row, f"expected a string, got {type(sequence).__name__} {sequence!r}.")
        lengths = np.fromiter(map(len, sequences), dtype=np.int64, count=len(sequences))
        ends = np.cumsum(lengths)
        # One byte a letter, so that positions hold; what is not ASCII becomes "?", which is refused below.
        letters = np.frombuffer("".join(sequences).encode("ascii", "replace"), dtype=np.uint8)
        digits = DIGIT_OF_BYTE[letters]
        refused = digits == INVALID if allow_mask else (digits == INVALID) | (digits == NUCLEOTIDE_M)
        if refused.any():
            offset = int(refused.argmax())
            row = int(np.searchsorted(ends, offset, side="right"))
            position = offset - int(ends[row] - lengths[row])
            masked = "; M is a masked one" if digits[offset] == NUCLEOTIDE_M else ""
            letter = sequences[row][position]
            raise InvalidSequenceError(
                row,
                f"{letter!r} at position {position + 1} is not one of A C G T U N. An unknown letter is N{masked}.",
            )
        if not lengths.all():
            raise InvalidSequenceError(int((lengths == 0).argmax()), "it is empty.")

        return digits, *self._trim_flanks(digits, ends - lengths, lengths)

    def _trim_flanks(
        self, digits: np.ndarray, starts: np.ndarray, lengths: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Where each insert starts in `digits`, and how long it is, without the construct's flanks."""
        five_prime = DIGIT_OF_BYTE[np.frombuffer((self.five_prime_flank or "").encode(), dtype=np.uint8)]
        three_prime = DIGIT_OF_BYTE[np.frombuffer((self.three_prime_flank or "").encode(), dtype=np.uint8)]
        if not len(five_prime) + len(three_prime):
            return starts, lengths
        inserts = lengths - len(five_prime) - len(three_prime)
        if self.missing_flanks == "cut":
            trimmed = np.ones(len(starts), dtype=bool)
        else:
            has_five_prime = matches(digits, starts, lengths, five_prime)
            has_three_prime = matches(digits, starts + lengths - len(three_prime), lengths, three_prime)
            trimmed = has_five_prime & has_three_prime
            found = np.stack([has_five_prime & (len(five_prime) > 0), has_three_prime & (len(three_prime) > 0)])
            incomplete = ~trimmed & (found.any(axis=0) if self.missing_flanks == "keep" else True)
            if incomplete.any():
                row = int(incomplete.argmax())
                missing = [
                    f"the {end}′ flank {flank} is missing"
                    for end, flank, present in (
                        ("5", self.five_prime_flank, has_five_prime[row]),
                        ("3", self.three_prime_flank, has_three_prime[row]),
                    )
                    if not present
                ]
                alone = ", or give the insert alone" if self.missing_flanks == "keep" else ""
                raise InvalidSequenceError(row, f"{' and '.join(missing)}. Complete the construct{alone}.")
        hollow = trimmed & (inserts < 1)
        if hollow.any():
            raise InvalidSequenceError(int(hollow.argmax()), "there is no insert between its flanks.")
        return np.where(trimmed, starts + len(five_prime), starts), np.where(trimmed, inserts, lengths)

    def encode_kmers(self, letters: np.ndarray) -> np.ndarray:
        """
        Ids of the k-mers over a string of letters: windows as TensorFlow's SAME padding sets them, "-" outside.

        Args:
            letters: (batch, positions) of digits, as `encode_letters` gives them.

        Returns:
            (batch, positions / kmer_stride) of int64.
        """
        batch_size, length = letters.shape
        padding = max(self.kmer_size - self.kmer_stride, 0)
        padded = np.pad(letters, ((0, 0), (padding // 2, padding - padding // 2)))
        ids = np.empty((batch_size, length // self.kmer_stride), dtype=np.int64)
        for rows in slices(batch_size):
            ids[rows] = sliding_numbers(padded[rows], self.kmer_size)[:, : length : self.kmer_stride]
        return ids

    def token_type_ids(self, batch_size: int) -> np.ndarray:
        """Strand of each token, (batch, num_tokens): 0 forward, 1 reverse."""
        strands = np.repeat(np.arange(self.num_strands), self.num_tokens // self.num_strands)
        return np.tile(strands, (batch_size, 1))

    def _encode_plus(
        self,
        text,
        text_pair=None,
        padding_strategy=PaddingStrategy.DO_NOT_PAD,
        truncation_strategy=TruncationStrategy.DO_NOT_TRUNCATE,
        max_length=None,
        stride=0,
        is_split_into_words=False,
        pad_to_multiple_of=None,
        return_tensors=None,
        return_token_type_ids=None,
        return_attention_mask=None,
        return_overflowing_tokens=False,
        return_special_tokens_mask=False,
        return_length=False,
        allow_mask=False,
        **kwargs,
    ) -> BatchEncoding:
        unsupported = {
            "text_pair": text_pair is not None,
            "is_split_into_words": is_split_into_words,
            "return_overflowing_tokens": return_overflowing_tokens,
            "stride": stride != 0,
            "max_length": max_length not in (None, self.num_tokens)
            and (
                padding_strategy == PaddingStrategy.MAX_LENGTH
                or (truncation_strategy != TruncationStrategy.DO_NOT_TRUNCATE and max_length < self.num_tokens)
            ),
            "pad_to_multiple_of": padding_strategy != PaddingStrategy.DO_NOT_PAD
            and bool(self.num_tokens % (pad_to_multiple_of or 1)),
        }
        if any(unsupported.values()):
            names = ", ".join(name for name, asked in unsupported.items() if asked)
            raise ValueError(
                f"Not supported: {names}. Every sequence becomes both strands of one construct, {self.num_tokens} "
                "tokens; for another length, make a tokenizer with another `insert_width`."
            )
        sequences = [text] if isinstance(text, str) else list(text)
        letters = self.encode_letters(
            sequences,
            truncation=truncation_strategy != TruncationStrategy.DO_NOT_TRUNCATE,
            allow_mask=allow_mask,
        )
        arrays = {"input_ids": self.encode_kmers(letters)}
        if return_token_type_ids is not False:
            arrays["token_type_ids"] = self.token_type_ids(len(sequences))
        if return_attention_mask is not False:
            arrays["attention_mask"] = np.ones_like(arrays["input_ids"])
        if return_special_tokens_mask:
            arrays["special_tokens_mask"] = np.zeros_like(arrays["input_ids"])
        if return_length:
            arrays["length"] = np.full(len(sequences), self.num_tokens)
        if return_tensors is None:
            lists = {name: array.tolist() for name, array in arrays.items()}
            return BatchEncoding({name: rows[0] for name, rows in lists.items()} if isinstance(text, str) else lists)
        if return_tensors == "pt" and is_torch_available():
            import torch

            # The library would look at every row, and copy all of them.
            arrays = {name: torch.from_numpy(array) for name, array in arrays.items()}
        return BatchEncoding(arrays, tensor_type=return_tensors)

    @property
    def vocab_size(self) -> int:
        return len(self._vocabulary)

    def get_vocab(self) -> KmerVocabulary:
        """All k-mers and their ids. Do not iterate over it: see `KmerVocabulary`."""
        return self._vocabulary

    def _add_tokens(self, new_tokens, special_tokens: bool = False) -> int:
        foreign = [str(token) for token in new_tokens if str(token) not in self._vocabulary]
        if foreign:
            raise ValueError(
                f"Cannot add {', '.join(map(repr, foreign))}: tokens are the {self.kmer_size}-mers and {PAD_TOKEN}; "
                "the model has no place for others."
            )
        return super()._add_tokens(new_tokens, special_tokens=special_tokens)

    def tokenize(self, text: str, **kwargs) -> list[str]:
        return self.convert_ids_to_tokens(self(text, **kwargs)["input_ids"])

    def _convert_token_to_id(self, token: str) -> int:
        return self._vocabulary[token]

    def _convert_id_to_token(self, index: int) -> str:
        return self._vocabulary.token(index)

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """The letters the windows stand on, both strands and padding included."""
        left = max(self.kmer_size - self.kmer_stride, 0) // 2
        return "".join(token[left : left + self.kmer_stride] for token in tokens if token != PAD_TOKEN)

    def build_inputs_with_special_tokens(self, token_ids_0: list[int], token_ids_1: list[int] | None = None):
        if token_ids_1 is not None:
            raise ValueError("A construct has no pair: give one sequence at a time.")
        return token_ids_0

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        """Nothing to save: the k-mers follow from `kmer_size`."""
        return ()


def slices(rows: int) -> Iterator[slice]:
    for first in range(0, rows, ROWS_AT_A_TIME):
        yield slice(first, first + ROWS_AT_A_TIME)


def matches(digits: np.ndarray, starts: np.ndarray, lengths: np.ndarray, flank: np.ndarray) -> np.ndarray:
    """Which of the sequences, each `lengths` long, hold `flank` from position `starts` of `digits` on."""
    found = lengths >= len(flank)
    windows = starts[found, None] + np.arange(len(flank))
    found[found] = (digits[windows] == flank).all(axis=1)
    return found


def sliding_numbers(digits: np.ndarray, size: int) -> np.ndarray:
    """The base-7 number of each window of `size` digits, (rows, columns) to (rows, columns - size + 1)."""
    number_type = np.int32 if len(ALPHABET) ** size <= 2**31 else np.int64
    columns = digits.shape[1] - size + 1
    numbers = digits[:, :columns].astype(number_type)
    for place in range(1, size):
        numbers *= len(ALPHABET)
        numbers += digits[:, place : place + columns]
    return numbers


__all__ = ["InvalidSequenceError", "ProformerTokenizer"]
