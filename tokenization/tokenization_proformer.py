"""k-mer tokenizer of Proformer.

This file travels to the Hub with every checkpoint: it imports only numpy and transformers.
"""

from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from typing import Literal

import numpy as np
from transformers.utils.versions import require_version


# An older library does not call `_encode_plus` for a list of sequences, and gives both strands the same type.
require_version("transformers>=5.4.0", "Proformer needs transformers 5.4 or newer: pip install -U 'transformers>=5.4'")

from transformers import BatchEncoding, PreTrainedTokenizer  # noqa: E402
from transformers.models.auto.tokenization_auto import get_tokenizer_config  # noqa: E402
from transformers.tokenization_utils_base import PaddingStrategy, TruncationStrategy  # noqa: E402
from transformers.utils import is_torch_available  # noqa: E402


# The code of a base is its index here; "-" stands for a position outside the sequence, and M for a masked base.
ALPHABET = "-ACGTNM"
PAD_TOKEN = "[PAD]"
NUCLEOTIDE_N = ALPHABET.index("N")
NUCLEOTIDE_M = ALPHABET.index("M")
COMPLEMENT = np.array([ALPHABET.index(base) for base in "-TGCANM"], dtype=np.uint8)

COMPLEMENT_OF_TEXT = str.maketrans("ACGTRYKMBVDH", "TGCAYRMKVBHD")

# The code of each byte of text; bytes that stand for no base have the code INVALID, which is above all others.
INVALID = 255
CODE_OF_BYTE = np.full(256, INVALID, dtype=np.uint8)
for _base, _code in [*((base, ALPHABET.index(base)) for base in "ACGTNM"), ("U", ALPHABET.index("T"))]:
    CODE_OF_BYTE[[ord(_base), ord(_base.lower())]] = _code

# Both flanks together have this many bases or more where a construct is looked for within a longer sequence, so that
# they are hardly ever there by chance.
MIN_FLANK_BASES = 16

# Rows computed at a time, so that the work stays in the processor's cache and takes little memory.
ROWS_AT_A_TIME = 512


class InvalidSequenceError(ValueError):
    """
    Error about a sequence that cannot be tokenized.

    Attributes:
        row (`int`): index of the sequence among those given, counted from 0.
        reason (`str`): what is wrong and what to do, without the row.
    """

    def __init__(self, row: int, reason: str):
        super().__init__(f"Sequence {row + 1}: {reason}")
        self.row = row
        self.reason = reason


class KmerVocabulary(Mapping):
    """
    Mapping from each k-mer to its id that computes ids on demand: a table of the published k-mers would have
    7^10 = 282,475,249 rows. `[PAD]` is the k-mer that lies wholly outside the sequence.
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
        return sum(ALPHABET.index(base) * len(ALPHABET) ** power for power, base in enumerate(reversed(token)))

    def token(self, token_id: int) -> str:
        if not 0 <= token_id < len(self):
            raise ValueError(f"{token_id} is not the id of a {self.kmer_size}-mer: ids go from 0 to {len(self) - 1}.")
        if token_id == 0:
            return PAD_TOKEN
        bases = [ALPHABET[token_id // len(ALPHABET) ** power % len(ALPHABET)] for power in range(self.kmer_size)]
        return "".join(reversed(bases))

    def copy(self) -> "KmerVocabulary":
        return self


class ProformerTokenizer(PreTrainedTokenizer):
    r"""
    Turns DNA into the k-mers of both strands.

    The insert is padded on both sides with N to the width of the construct (an odd N goes to the side that Python's
    `str.center` chooses, as in the published data), and its reverse complement follows. A window of `kmer_size`
    bases slides over both strands as one string, junction included. The id of a k-mer is its number in base 7, where
    `- A C G T N M` are the digits 0 to 6 and the first base is the most significant one. Every sequence becomes
    exactly `num_tokens` tokens, whatever its length. Lower case and U are read as upper case and T.

    Args:
        kmer_size (`int`, defaults to 10):
            Bases in one token, 1 to 22.
        kmer_stride (`int`, defaults to 1):
            Bases from the start of one token to the start of the next; must divide `insert_width`.
        insert_width (`int`, defaults to 100):
            Width to which inserts are padded. A longer insert is an error, or is cut with `truncation=True`.
        five_prime_flank (`str`, *optional*):
            Constant bases before every insert in the construct of this assay. They are trimmed. N at the ends of a
            sequence is padding, which is set aside before flanks are looked for.
        three_prime_flank (`str`, *optional*):
            Constant bases after every insert. They are trimmed.
        missing_flanks (`"keep"`, `"cut"` or `"refuse"`, defaults to `"keep"`):
            What to do with a sequence that lacks these flanks. `"keep"`: a sequence with neither flank is an insert
            on its own; a sequence with one of two is an error. `"cut"`: the same, but flanks may have errors
            (`resembles_flank`): as many bases as they have are cut off, as in the published data. `"refuse"`: a
            missing flank is an error.
        strands (`"both"` or `"forward"`, defaults to `"both"`):
            `"forward"` leaves out the reverse complement, for assays of RNA, which has no other strand.

    Raises:
        ValueError: an argument is outside its range, or a call asks for a layout that a construct does not have
            (pairs, other lengths, overflowing tokens).
        InvalidSequenceError: a sequence is empty, is too long, or holds a character other than A C G T U N (and M
            with `allow_mask=True`). The error says which sequence, position and character.

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
        # These are notes of the loader, which would otherwise be saved as if they were settings.
        for name in ("is_local", "local_files_only"):
            kwargs.pop(name, None)
        # The only length there is. A saved one is that of the construct with which the tokenizer was saved.
        kwargs["model_max_length"] = self.num_tokens
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

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | PathLike, *init_inputs, **kwargs
    ) -> "ProformerTokenizer":
        """
        Return the tokenizer that was saved in a folder or a repository on the Hub.

        Args:
            pretrained_model_name_or_path: the folder or the name of the repository.
            init_inputs, kwargs: as in `PreTrainedTokenizer.from_pretrained`; arguments of the tokenizer replace those
                with which it was saved.

        Raises:
            FileNotFoundError: no tokenizer was saved there. One with the default construct would disagree with the
                model without a sign.
        """
        if "insert_width" not in get_tokenizer_config(pretrained_model_name_or_path, **kwargs):
            raise FileNotFoundError(
                f"{pretrained_model_name_or_path}: no tokenizer of Proformer was saved here (tokenizer_config.json is "
                "missing or has no `insert_width`). Save the tokenizer next to its model with `save_pretrained`."
            )
        return super().from_pretrained(pretrained_model_name_or_path, *init_inputs, **kwargs)

    @property
    def num_tokens(self) -> int:
        """Number of tokens of every sequence, over all strands."""
        return self.num_strands * self.insert_width // self.kmer_stride

    @property
    def num_strands(self) -> int:
        """2, or 1 if the reverse complement is left out."""
        return 2 if self.strands == "both" else 1

    def encode_letters(
        self, sequences: Sequence[str], truncation: bool = False, allow_mask: bool = False
    ) -> np.ndarray:
        """
        Return the codes of each construct's bases, on both strands or on the forward strand alone.

        Args:
            sequences: inserts, with or without the flanks of the construct.
            truncation: cut inserts that do not fit the construct, at the side named by `truncation_side`.
            allow_mask: accept M, a base that the model has to predict. Its complement is M too.

        Returns:
            (batch, strands * insert_width) of uint8: 1 to 6 for A C G T N M, one strand after the other.

        Raises:
            InvalidSequenceError: a sequence cannot be encoded; the first such sequence is reported.
        """
        codes, starts, lengths = self.read_codes(sequences, allow_mask)
        starts, lengths = self.trim_flanks(codes, starts, lengths)
        excess = np.maximum(lengths - self.insert_width, 0)
        if excess.any():
            if not truncation:
                row = int((excess > 0).argmax())
                raise InvalidSequenceError(row, self._describe_excess(int(lengths[row])))
            starts = starts + (excess if self.truncation_side == "left" else 0)
            lengths = lengths - excess

        left = self.insert_starts(lengths)
        columns = np.arange(self.insert_width)
        constructs = np.empty((len(sequences), self.num_strands, self.insert_width), dtype=np.uint8)
        for rows in _slice_rows(len(sequences)):
            inside = (columns >= left[rows, None]) & (columns < (left + lengths)[rows, None])
            # Codes taken from outside an insert are not used.
            forward = np.where(inside, codes.take((starts - left)[rows, None] + columns, mode="clip"), NUCLEOTIDE_N)
            constructs[rows, 0] = forward
            if self.strands == "both":
                constructs[rows, 1] = COMPLEMENT.take(forward[:, ::-1])
        return constructs.reshape(len(sequences), self.num_strands * self.insert_width)

    def _describe_excess(self, length: int) -> str:
        """Return what is wrong with an insert of so many bases, which is too long, and what to do."""
        reason = f"its insert has {length} bases, but the construct has room for {self.insert_width}."
        flanks = (self.five_prime_flank or "") + (self.three_prime_flank or "")
        if not flanks or length <= self.insert_width + len(flanks):
            return f"{reason} Trim its flanks, or cut it with `truncation=True`."
        end = "last" if self.truncation_side == "left" else "first"
        return (
            f"{reason} There is no insert that fits between two exact flanks: give the construct or its insert alone. "
            f"`truncation=True` would keep its {end} {self.insert_width} bases, whatever they are."
        )

    def insert_starts(self, lengths: np.ndarray) -> np.ndarray:
        """Return the position on the forward strand, counted from 0, where an insert of each length starts."""
        padding = self.insert_width - lengths
        return padding // 2 + (padding & self.insert_width & 1)

    def insert_lengths(self, sequences: Sequence[str]) -> np.ndarray:
        """
        Return the number of bases in each insert, (batch,), whether or not it fits the construct.

        Raises:
            InvalidSequenceError: a sequence cannot be read; the first such sequence is reported.
        """
        return self.trim_flanks(*self.read_codes(sequences))[1]

    def inserts(self, sequences: Sequence[str]) -> list[str]:
        """
        Return the insert of each sequence, without flanks and in upper-case A C G T N, whether or not it fits the
        construct.

        Raises:
            InvalidSequenceError: a sequence cannot be read; the first such sequence is reported.
        """
        codes, starts, lengths = self.read_codes(sequences)
        starts, lengths = self.trim_flanks(codes, starts, lengths)
        bases = codes.tobytes().translate(ALPHABET.encode().ljust(256)).decode()
        ends = starts + lengths
        return [bases[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]

    def find_constructs(self, sequence: str) -> list[tuple[int, int, str]]:
        """
        Find whole constructs in a sequence, on both strands: the two flanks, without errors, and an insert between
        them that fits. Flanks that together have fewer than 16 bases are not looked for.

        Returns:
            for each construct, where it starts in `sequence`, where it ends, and its text on the forward strand of the
            construct, in upper case.
        """
        found = []
        text = sequence.upper().replace("U", "T")
        codes = text.encode("ascii", "replace").translate(CODE_OF_BYTE.tobytes())
        for start, end, is_forward in self._find_constructs_in_codes(codes):
            part = text[start:end]
            found.append((start, end, part if is_forward else part.translate(COMPLEMENT_OF_TEXT)[::-1]))
        return found

    def _find_constructs_in_codes(self, codes: bytes) -> Iterator[tuple[int, int, bool]]:
        """Yield where each construct starts and ends, and whether it is on the forward strand."""
        for first, second, is_forward in self._flank_pairs():
            start = codes.find(first)
            while start >= 0:
                inside = start + len(first) + 1
                window = inside, inside - 1 + self.insert_width + len(second)
                ends = {codes.find(second, *window), codes.rfind(second, *window)} - {-1}
                yield from ((start, end + len(second), is_forward) for end in sorted(ends))
                start = codes.find(first, start + 1)

    def _flank_pairs(self) -> list[tuple[bytes, bytes, bool]]:
        """Return the codes before and after an insert, on each strand; nothing if flanks may be there by chance."""
        flanks = [codes_of(flank or "") for flank in (self.five_prime_flank, self.three_prime_flank)]
        if not all(map(len, flanks)) or sum(map(len, flanks)) < MIN_FLANK_BASES:
            return []
        forward = [flank.tobytes() for flank in flanks]
        reverse = [COMPLEMENT[flank[::-1]].tobytes() for flank in reversed(flanks)]
        return [(*forward, True), (*reverse, False)]

    @staticmethod
    def read_codes(sequences: Sequence[str], allow_mask: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """
        Check whole sequences and return the codes of their bases. Flanks stay: see `trim_flanks`.

        Args:
            sequences: inserts, with or without the flanks of the construct.
            allow_mask: accept M, a masked base.

        Returns:
            codes (bases,) of uint8, all sequences end to end: 1 to 6 for A C G T N M; and the start of each sequence
            in them and its length, both (batch,) of int64.

        Raises:
            InvalidSequenceError: a sequence is not a string, is empty, or holds another character; the first such
                sequence is reported.
        """
        for row, sequence in enumerate(sequences):
            if not isinstance(sequence, str):
                raise InvalidSequenceError(row, f"expected a string, got {type(sequence).__name__} {sequence!r}.")
        lengths = np.fromiter(map(len, sequences), dtype=np.int64, count=len(sequences))
        starts = np.cumsum(lengths) - lengths
        # Each character becomes one byte, so positions hold; what is not ASCII becomes "?", which is refused below.
        text = "".join(sequences).encode("ascii", "replace")
        codes = np.frombuffer(text.translate(CODE_OF_BYTE.tobytes()), dtype=np.uint8)
        largest = NUCLEOTIDE_M if allow_mask else NUCLEOTIDE_N
        if codes.max(initial=0) > largest:
            offset = int((codes > largest).argmax())
            row = int(np.searchsorted(starts + lengths, offset, side="right"))
            position = offset - int(starts[row])
            masked = "; M is a masked base" if codes[offset] == NUCLEOTIDE_M else ""
            raise InvalidSequenceError(
                row,
                f"{sequences[row][position]!r} at position {position + 1} is not one of A C G T U N. Write N for an "
                f"unknown base{masked}.",
            )
        if not lengths.all():
            raise InvalidSequenceError(int((lengths == 0).argmax()), "it is empty.")
        return codes, starts, lengths

    def trim_flanks(self, codes: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """
        Find the insert of each sequence, as `missing_flanks` says.

        Args:
            codes, starts, lengths: what `read_codes` returned, or some of its rows.

        Returns:
            the start of each insert in `codes` and its length, both (batch,).

        Raises:
            InvalidSequenceError: a sequence lacks a flank, or has no insert between its flanks; the first such
                sequence is reported.
        """
        inner_starts, inner_lengths = set_padding_aside(codes, starts, lengths)
        ends, inner_ends = starts + lengths, inner_starts + inner_lengths
        if self.five_prime_flank or self.three_prime_flank:
            trimmed, first, last = self._find_flanks(codes, starts, ends, inner_starts, inner_ends)
            starts = np.where(trimmed, first, starts) if self.five_prime_flank else starts
            ends = np.where(trimmed, last, ends) if self.three_prime_flank else ends
        # At an end without a flank, N gives the insert its place in the construct, as long as it fits.
        too_long = ends - starts > self.insert_width
        starts = np.where(too_long, np.maximum(starts, inner_starts), starts)
        return starts, np.where(too_long, np.minimum(ends, inner_ends), ends) - starts

    def _find_flanks(
        self, codes: np.ndarray, starts: np.ndarray, ends: np.ndarray, inner_starts: np.ndarray, inner_ends: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """
        Return which sequences have the flanks, and where the inserts between them begin and end, (batch,) each.

        Args:
            codes: of all sequences.
            starts, ends, inner_starts, inner_ends: of each sequence with and without the N at its ends.

        Raises:
            InvalidSequenceError: see `trim_flanks`.
        """
        five_prime, three_prime = (codes_of(flank or "") for flank in (self.five_prime_flank, self.three_prime_flank))
        lengths = inner_ends - inner_starts
        has_five_prime = _find_flank(codes, inner_starts, lengths, five_prime)
        has_three_prime = _find_flank(codes, inner_ends - len(three_prime), lengths, three_prime)
        first, last = inner_starts + len(five_prime), inner_ends - len(three_prime)
        incomplete = ~(has_five_prime & has_three_prime)
        rows = np.flatnonzero(incomplete)
        if self.missing_flanks != "refuse":
            # An insert on its own has neither.
            incomplete &= (has_five_prime & (len(five_prime) > 0)) | (has_three_prime & (len(three_prime) > 0))
        if self.missing_flanks == "cut" and len(rows):
            size = len(codes)
            has_five_prime[rows], first[rows] = _find_damaged_flank(
                codes, starts[rows], inner_starts[rows], lengths[rows], five_prime
            )
            has_three_prime[rows], from_end = _find_damaged_flank(
                codes[::-1], size - ends[rows], size - inner_ends[rows], lengths[rows], three_prime[::-1]
            )
            last[rows] = size - from_end
        trimmed = has_five_prime & has_three_prime
        self._refuse_constructs_within(codes, starts, ends, np.flatnonzero(~trimmed))
        incomplete &= ~trimmed
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
            alone = ", or give the insert alone" if self.missing_flanks != "refuse" else ""
            damaged = '; `missing_flanks="cut"` reads flanks with errors' if self.missing_flanks != "cut" else ""
            raise InvalidSequenceError(row, f"{' and '.join(missing)}. Complete the construct{alone}{damaged}.")
        hollow = trimmed & (last <= first)
        if hollow.any():
            raise InvalidSequenceError(int(hollow.argmax()), "there is no insert between its flanks.")
        return trimmed, first, last

    def _refuse_constructs_within(self, codes: np.ndarray, starts: np.ndarray, ends: np.ndarray, rows: np.ndarray):
        """Refuse rows that hold a construct somewhere else than from end to end: its insert is not all of them."""
        if not len(rows):
            return
        text = codes.tobytes()
        # Most tables hold bare inserts alone, with no flank in any of them.
        if not any(first in text for first, _, _ in self._flank_pairs()):
            return
        for row in rows.tolist():
            found = [*self._find_constructs_in_codes(text[starts[row] : ends[row]])]
            if found:
                start, end, is_forward = found[0]
                strand = "" if is_forward else " on the other strand"
                times = f"{len(found)} times, first" if len(found) > 1 else "with both flanks"
                raise InvalidSequenceError(
                    row,
                    f"it holds the construct {times} at positions {start + 1} to {end}{strand}. Give "
                    f"{'one construct' if len(found) > 1 else 'that part'} alone, on the forward strand.",
                )

    def encode_kmers(self, codes: np.ndarray) -> np.ndarray:
        """
        Return the ids of the k-mers along rows of codes. Windows lie as in TensorFlow's SAME padding; outside is "-".

        Args:
            codes: (batch, positions), as `encode_letters` returns them.

        Returns:
            (batch, positions / kmer_stride) of int64.
        """
        batch_size, length = codes.shape
        padding = max(self.kmer_size - self.kmer_stride, 0)
        padded = np.pad(codes, ((0, 0), (padding // 2, padding - padding // 2)))
        ids = np.empty((batch_size, length // self.kmer_stride), dtype=np.int64)
        for rows in _slice_rows(batch_size):
            ids[rows] = _number_windows(padded[rows], self.kmer_size)[:, : length : self.kmer_stride]
        return ids

    def token_type_ids(self, batch_size: int) -> np.ndarray:
        """Return the strand of each token, (batch, num_tokens): 0 forward, 1 reverse."""
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
                f"Not supported: {names}. Every sequence becomes the {self.num_tokens} tokens of one construct; for "
                "another length, make a tokenizer with another `insert_width`."
            )
        sequences = [text] if isinstance(text, str) else list(text)
        codes = self.encode_letters(
            sequences,
            truncation=truncation_strategy != TruncationStrategy.DO_NOT_TRUNCATE,
            allow_mask=allow_mask,
        )
        arrays = {"input_ids": self.encode_kmers(codes)}
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

            # Tensors, because the library would look at every row of an array and copy them all.
            arrays = {name: torch.from_numpy(array) for name, array in arrays.items()}
        return BatchEncoding(arrays, tensor_type=return_tensors)

    def pad(self, encoded_inputs, *args, pad_to_multiple_of: int | None = None, **kwargs) -> BatchEncoding:
        """
        Return a batch of tokenized sequences, as the library's collators ask for it.

        All sequences have the same number of tokens, so `pad_to_multiple_of` is left aside: the model may have no
        positions for more. The other arguments are those of `PreTrainedTokenizer.pad`.
        """
        return super().pad(encoded_inputs, *args, **kwargs)

    @property
    def vocab_size(self) -> int:
        return len(self._vocabulary)

    def get_vocab(self) -> KmerVocabulary:
        """Return the mapping from k-mers to ids. Do not iterate over it: see `KmerVocabulary`."""
        return self._vocabulary

    def _add_tokens(self, new_tokens, special_tokens: bool = False) -> int:
        foreign = [str(token) for token in new_tokens if str(token) not in self._vocabulary]
        if foreign:
            raise ValueError(
                f"Cannot add {', '.join(map(repr, foreign))}: tokens are the {self.kmer_size}-mers and {PAD_TOKEN}; "
                "the model has no embedding for others."
            )
        return super()._add_tokens(new_tokens, special_tokens=special_tokens)

    def tokenize(self, text: str, **kwargs) -> list[str]:
        return self.convert_ids_to_tokens(self(text, **kwargs)["input_ids"])

    def _convert_token_to_id(self, token: str) -> int:
        return self._vocabulary[token]

    def _convert_id_to_token(self, index: int) -> str:
        return self._vocabulary.token(index)

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Return the bases that the windows stand on, with all strands and the N around the insert."""
        left = max(self.kmer_size - self.kmer_stride, 0) // 2
        return "".join(token[left : left + self.kmer_stride] for token in tokens if token != PAD_TOKEN)

    def build_inputs_with_special_tokens(self, token_ids_0: list[int], token_ids_1: list[int] | None = None):
        if token_ids_1 is not None:
            raise ValueError("A construct is one sequence, not a pair: give one sequence at a time.")
        return token_ids_0

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        """Save nothing, because the k-mers follow from `kmer_size`."""
        return ()


def _slice_rows(rows: int) -> Iterator[slice]:
    for first in range(0, rows, ROWS_AT_A_TIME):
        yield slice(first, first + ROWS_AT_A_TIME)


def _find_flank(codes: np.ndarray, starts: np.ndarray, lengths: np.ndarray, flank: np.ndarray) -> np.ndarray:
    """Return which sequences, each `lengths` long, hold the flank at `starts` in `codes`, (batch,) of bool."""
    found = lengths >= len(flank)
    for rows in _slice_rows(len(starts)):
        # In a sequence that is too short, the position may lie outside `codes`.
        windows = codes.take(starts[rows, None] + np.arange(len(flank)), mode="clip")
        found[rows] &= (windows == flank).all(axis=1)
    return found


def codes_of(text: str) -> np.ndarray:
    """Return the code of each character, (characters,) of uint8; `INVALID` for what is not a base."""
    return CODE_OF_BYTE[np.frombuffer(text.encode("ascii", "replace"), dtype=np.uint8)]


def set_padding_aside(codes: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    Return where each sequence begins without the N at its ends, and its length, (batch,) each. N alone stays whole.
    """
    starts, lengths = starts.copy(), lengths.copy()
    padded = (codes[starts] == NUCLEOTIDE_N) | (codes[starts + lengths - 1] == NUCLEOTIDE_N)
    padding = bytes([NUCLEOTIDE_N])
    for row in np.flatnonzero(padded).tolist():
        bases = codes[starts[row] : starts[row] + lengths[row]].tobytes()
        if inside := bases.lstrip(padding):
            starts[row] += len(bases) - len(inside)
            lengths[row] = len(inside.rstrip(padding))
    return starts, lengths


def resembles_flank(codes: np.ndarray, starts: np.ndarray, lengths: np.ndarray, flank: np.ndarray) -> np.ndarray:
    """
    Return which sequences begin with a flank that may have errors, (batch,) of bool.

    These are errors that an insert alone would hardly have by chance: at most a quarter of the flank's bases are
    replaced (one base of a flank with fewer than 12); one base is deleted or inserted (from 10 bases on); or one half
    of at least 8 bases is whole, the inner half at most one base out of place.
    """
    text = flank.tobytes()
    found = np.zeros(len(starts), dtype=bool)
    for row, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True)):
        found[row] = _is_flank(codes[start : start + min(length, len(flank) + 1)].tobytes(), text)
    return found


def _is_flank(beginning: bytes, flank: bytes) -> bool:
    """Return what `resembles_flank` does for the beginning of one sequence, one base longer than the flank."""
    size = len(flank)
    differing = sum(one != other for one, other in zip(beginning, flank, strict=False))
    if len(beginning) >= size and differing <= (size // 4 if size >= 12 else 1):
        return True
    same = _count_same(beginning, flank)
    for end in (size - 1, size + 1) if size >= 10 else ():
        same_end = _count_same(beginning[:end][::-1], flank[::-1])
        if len(beginning) >= end and same + same_end >= min(end, size):
            return True
    outer, inner = flank[: (size + 1) // 2], flank[(size + 1) // 2 :]
    return len(inner) >= 8 and (beginning.startswith(outer) or inner in beginning[len(outer) - 1 :])


def _count_same(one: bytes, other: bytes) -> int:
    """Return how many bases two texts share before they first differ."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (left, right) in pairs if left != right), min(len(one), len(other)))


def _find_damaged_flank(
    codes: np.ndarray, starts: np.ndarray, inner_starts: np.ndarray, lengths: np.ndarray, flank: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """
    Return which sequences begin with a flank that may have errors, and where it ends, (batch,) each.

    Args:
        codes: of all sequences.
        starts, inner_starts: where each begins with and without the N before it, which are padding or errors.
        lengths: of each without N at its ends.
        flank: its codes.
    """
    found = resembles_flank(codes, inner_starts, lengths, flank)
    padded = np.flatnonzero(starts < inner_starts)
    found[padded] |= resembles_flank(codes, starts[padded], (lengths + inner_starts - starts)[padded], flank)
    # The N are errors in the flank where more of its bases agree with them than without.
    begins = np.where(
        _count_equal(codes, starts, flank) > _count_equal(codes, inner_starts, flank), starts, inner_starts
    )
    return found, begins + len(flank)


def _count_equal(codes: np.ndarray, starts: np.ndarray, flank: np.ndarray) -> np.ndarray:
    """Return how many bases of a flank are the same at `starts` in `codes`, (batch,)."""
    return (codes.take(starts[:, None] + np.arange(len(flank)), mode="clip") == flank).sum(axis=1)


def _number_windows(codes: np.ndarray, size: int) -> np.ndarray:
    """Return the base-7 number of each window of `size` codes, (rows, columns) to (rows, columns - size + 1)."""
    number_type = np.int32 if len(ALPHABET) ** size <= 2**31 else np.int64
    columns = codes.shape[1] - size + 1
    numbers = codes[:, :columns].astype(number_type)
    for offset in range(1, size):
        numbers *= len(ALPHABET)
        numbers += codes[:, offset : offset + columns]
    return numbers


__all__ = ["InvalidSequenceError", "ProformerTokenizer", "codes_of", "resembles_flank", "set_padding_aside"]
