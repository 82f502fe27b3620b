"""Families of related sequences, found by what they have in common."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ..tokenization import InvalidSequenceError
from ..tokenization.tokenization_proformer import ALPHABET, DIGIT_OF_BYTE


FOREIGN_LETTER = re.compile("[^ACGTUNacgtun]")
COMPLEMENTS = str.maketrans("ACGT", "TGCA")

# A window's number has two bits a letter, in 64 bits with a sign.
MAX_SHARED_LETTERS = 31

# Sequences whose windows are computed at a time, so that the work stays in the processor's cache.
SEQUENCES_AT_A_TIME = 512
PAIRS_AT_A_TIME = 16384

# Two sequences laid on each other are related if so large a share of their letters is the same,
MIN_IDENTITY = 0.75
# where they overlap in so many letters or more, and in half of the shorter one; or in all of it, if it is shorter.
MIN_OVERLAP = 30

# Letters by which places in sequences are sorted, as many as a base-5 number in 64 bits with a sign holds.
LETTERS_SORTED_BY = 27
# Places after and before each in that order, which are looked at to find what is alike.
NEIGHBOURS = 3
# Fewer letters in a row that are the same are no reason to compare the others.
MIN_SEED = 6
# An odd number without a pattern: the upper bits of its products depend on all letters.
HASH = np.int64(0x2545F4914F6CDD1D)
# Of more, on both strands, only those are sorted whose next letters have a number (a hash) that is divisible.
MOST_PLACES = 20_000_000


def homology_groups(sequences: Sequence[str], shared_letters: int = 20) -> np.ndarray:
    """
    Finds the families of related sequences, for `splits.hold_out_groups` and `splits.split_groups`.

    Two sequences are related, on either strand, where they are the same; or share a stretch of `shared_letters`
    letters, as overlapping tiles do; or where three quarters of their letters are the same, laid on each other without
    gaps, as in variants of one promoter with mutations all over: over at least half of the shorter one and 30 letters,
    or over all of it. Relatives of relatives are of one family. A stretch with an N is no sign of kinship, nor is
    one of low complexity (`telling_windows`), which unrelated genomic sequences have in common.

    Pairs are not all compared: those alike are looked for among the sequences that agree the longest from any of
    their letters on, see `alike`. Variants of one promoter with more changes than that (of two sequences of 80 letters
    that differ in 21) are of one family only by way of others: have a column that says what they are variants of.

    Args:
        sequences: inserts, without the construct's constant flanks: with these left on, all are one family. Lower case
            and U are read as upper case and T.
        shared_letters: 1 to 31. Of 100,000 random sequences of 80 letters, some 10,000 pairs share 16 letters by
            chance, and some 30 share 20.

    Returns:
        (rows,) number of each sequence's family, counted from 0 in the order of their first rows.

    Raises:
        ValueError: `shared_letters` is outside its range.
        InvalidSequenceError: a sequence holds a letter other than A C G T U N.
    """
    distinct, rows = distinct_sequences(sequences)
    windows, owners = telling_windows(distinct, shared_letters)
    # Each owner of a window is linked to the next, not to every other: the family is the same, the links are fewer.
    same = windows[1:] == windows[:-1]
    ones, others = owners[:-1][same], owners[1:][same]
    stretches = families_of(ones, others, len(distinct))
    alike_ones, alike_others = alike(distinct, distinct, stretches)
    families = families_of(np.concatenate([ones, alike_ones]), np.concatenate([others, alike_others]), len(distinct))
    return families[rows]


def families_of(ones: np.ndarray, others: np.ndarray, count: int) -> np.ndarray:
    """Number of the family of each of so many sequences, (count,), from pairs of relatives, (pairs,) each."""
    links = coo_array((np.ones(len(ones)), (ones, others)), shape=(count, count))
    return connected_components(links, directed=False)[1]


def near_twins(sequences: Sequence[str], others: Sequence[str], shared_letters: int = 20) -> np.ndarray:
    """
    Finds the sequences that are related to one of `others`, themselves and not by way of a third: in a test set, those
    whose like a model has seen in training.

    Args:
        sequences, others, shared_letters: see `homology_groups`.

    Returns:
        (rows,) of bool, for `sequences`.

    Raises:
        ValueError, InvalidSequenceError: see `homology_groups`.
    """
    distinct, rows = distinct_sequences(sequences)
    distinct_others, _ = distinct_sequences(others)
    known = set(distinct_others)
    related = np.array([sequence in known for sequence in distinct], dtype=bool)
    windows, owners = telling_windows(distinct, shared_letters)
    other_windows, _ = telling_windows(distinct_others, shared_letters)
    shared = np.searchsorted(other_windows, windows, "left") < np.searchsorted(other_windows, windows, "right")
    related[owners[shared]] = True
    unrelated = np.flatnonzero(~related)
    found, _ = alike([distinct[number] for number in unrelated], distinct_others)
    related[unrelated[found]] = True
    return related[rows]


def distinct_sequences(sequences: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """
    Each sequence once, in upper case, on the strand that comes first in the alphabet; and which of them each row is.

    Raises:
        InvalidSequenceError: a sequence holds a letter other than A C G T U N.
    """
    numbers: dict[str, int] = {}
    rows = np.empty(len(sequences), dtype=np.intp)
    for row, sequence in enumerate(sequences):
        if foreign := FOREIGN_LETTER.search(sequence):
            raise InvalidSequenceError(
                row, f"{foreign[0]!r} at position {foreign.start() + 1} is not one of A C G T U N."
            )
        forward = sequence.upper().replace("U", "T")
        reverse = forward.translate(COMPLEMENTS)[::-1]
        rows[row] = numbers.setdefault(min(forward, reverse), len(numbers))
    return list(numbers), rows


def telling_windows(sequences: Sequence[str], size: int) -> tuple[np.ndarray, np.ndarray]:
    """
    The windows that tell kinship where two sequences share one. One of low complexity does not: it has less than half
    of the different trinucleotides that there is room for (fewer than 9 of 18 in 20 letters), like poly-A and other
    short repeats. Of random windows, these are one in 11,000; of the fruit fly's, one in 35.

    Args:
        sequences: of the upper-case letters A C G T N.
        size: letters in a window, 1 to 31.

    Returns:
        (windows,) numbers in ascending order, the same for both strands; and (windows,) which sequence each is in.

    Raises:
        ValueError: `size` is outside its range.
    """
    if not 1 <= size <= MAX_SHARED_LETTERS:
        raise ValueError(f"`shared_letters` must be 1 to {MAX_SHARED_LETTERS}, got {size}.")
    numbers, owners = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int32)]
    for first in range(0, len(sequences), SEQUENCES_AT_A_TIME):
        some_numbers, some_owners = all_windows(sequences[first : first + SEQUENCES_AT_A_TIME], size)
        telling = 2 * different_trinucleotides(some_numbers, size) >= size - 2
        numbers.append(some_numbers[telling])
        owners.append(some_owners[telling] + np.int32(first))
    numbers, owners = np.concatenate(numbers), np.concatenate(owners)
    order = np.argsort(numbers)
    return numbers[order], owners[order]


def all_windows(sequences: Sequence[str], size: int) -> tuple[np.ndarray, np.ndarray]:
    """
    Every window without N: its number in base 4, the smaller of its two strands' numbers; and which sequence it is in.
    """
    # An N after each sequence, so that no window lies across two.
    text = "N".join([*sequences, "N" * size])
    digits = DIGIT_OF_BYTE[np.frombuffer(text.encode(), dtype=np.uint8)].astype(np.int64) - ALPHABET.index("A")
    owners = np.repeat(np.arange(len(sequences), dtype=np.int32), [len(sequence) + 1 for sequence in sequences])
    forward, reverse = np.zeros((2, len(owners)), dtype=np.int64)
    known = np.ones(len(owners), dtype=bool)
    for place in range(size):
        letters = digits[place : place + len(owners)]
        forward = (forward << 2) | letters
        reverse |= (3 - letters) << (2 * place)
        known &= letters < 4
    return np.minimum(forward, reverse)[known], owners[known]


def different_trinucleotides(numbers: np.ndarray, size: int) -> np.ndarray:
    """How many different trinucleotides each window has, (windows,), from its number in base 4."""
    different = np.zeros(len(numbers), dtype=np.int64)
    seen = np.zeros(len(numbers), dtype=np.int64)
    for place in range(size - 2):
        # One bit for each of the 64.
        trinucleotide = np.int64(1) << ((numbers >> (2 * place)) & 63)
        different += (seen & trinucleotide) == 0
        seen |= trinucleotide
    return different


def alike(
    sequences: Sequence[str],
    others: Sequence[str],
    families: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """
    Finds pairs of which `MIN_IDENTITY` of the letters are the same, laid on each other without gaps on either strand.

    All places in `others`, on both strands, are sorted by the letters that follow. Each place in `sequences` is looked
    up among them; its neighbours there are the places that agree with it the longest. Where one agrees for longer than
    chance would have it, both sequences are compared letter by letter as they lie on each other there.

    Args:
        sequences, others: of the upper-case letters A C G T N.
        families: (rows,) where both are the same sequences; pairs within one family are not of interest.

    Returns:
        (pairs,) numbers of sequences, and (pairs,) of the others.
    """
    # Where several of the others have the same letters, one stands for all: the first in the alphabet, in any order.
    sorted_others = np.array(sorted(range(len(others)), key=others.__getitem__), dtype=np.int64)
    ours = complex_strands(sequences)
    theirs = both_strands(complex_strands([others[number] for number in sorted_others]))
    there_are = int(theirs.lengths.sum())
    seed = max(MIN_SEED, int(np.ceil(np.log(max(min(there_are, MOST_PLACES), 1)) / np.log(4))))
    one_in = max(1, -(-there_are // MOST_PLACES))
    beyond_the_seed = 5 ** (LETTERS_SORTED_BY - seed)
    keys, strands, starts = places(theirs, seed, one_in)
    keys, first = np.unique(keys, return_index=True)
    strands, starts, seeds = strands[first], starts[first], keys // beyond_the_seed
    pairs = [np.empty((2, 0), dtype=np.int64)]
    for chunk in range(0, len(sequences), SEQUENCES_AT_A_TIME):
        rows = slice(chunk, chunk + SEQUENCES_AT_A_TIME)
        our_places = places(Strands(ours.letters[rows], ours.lengths[rows]), seed, one_in)
        order = np.argsort(our_places[0])  # looked up in order, they are found several times as fast
        our_keys, our_rows, our_starts = (column[order] for column in our_places)
        our_rows += chunk
        middle, our_seeds = np.searchsorted(keys, our_keys), our_keys // beyond_the_seed
        laid = [np.empty((3, 0), dtype=np.int64)]
        for step in range(-NEIGHBOURS, NEIGHBOURS + 1):
            there = middle + step
            close = np.flatnonzero((there >= 0) & (there < len(keys)))
            close = close[our_seeds[close] == seeds[there[close]]]
            if families is not None:
                others_there = sorted_others[strands[there[close]] % len(others)]
                close = close[families[our_rows[close]] != families[others_there]]
            there = there[close]
            laid.append(np.stack([our_rows[close], strands[there], our_starts[close] - starts[there]]))
        ones, another, offsets = distinct_columns(np.concatenate(laid, axis=1))
        for first in range(0, len(ones), PAIRS_AT_A_TIME):
            some = slice(first, first + PAIRS_AT_A_TIME)
            agree = identical_enough(ours, theirs, ones[some], another[some], offsets[some])
            pairs.append(np.stack([ones[some][agree], sorted_others[another[some][agree] % len(others)]]))
    return tuple(np.concatenate(pairs, axis=1))


def distinct_columns(columns: np.ndarray) -> np.ndarray:
    """Each column of small whole numbers, (3, columns), once."""
    if columns.shape[1] == 0:
        return columns
    lowest = columns.min(axis=1, keepdims=True)
    shape = (columns - lowest).max(axis=1) + 1
    numbers = np.unique(np.ravel_multi_index(tuple(columns - lowest), shape))
    return np.stack(np.unravel_index(numbers, shape)) + lowest


class Strands(NamedTuple):
    """
    Strands of sequences.

    Attributes:
        letters: (strands, greatest length) digits 1 to 4 of A C G T, 0 of N and after the end.
        lengths: (strands,).
    """

    letters: np.ndarray
    lengths: np.ndarray


def complex_strands(sequences: Sequence[str]) -> Strands:
    """
    The forward strands. Nothing is known of the letters of one that as a whole has less than half of the different
    trinucleotides that would make a window of 20 letters telling: it is like too many others.
    """
    lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int32)
    width = int(lengths.max(initial=0))
    text = "".join(sequence.ljust(width, "N") for sequence in sequences)
    digits = DIGIT_OF_BYTE[np.frombuffer(text.encode(), dtype=np.uint8)].reshape(len(sequences), width)
    letters = np.where(digits <= 4, digits, 0).astype(np.uint8)
    first, second, third = (letters[:, place : place + max(width - 2, 0)] for place in range(3))
    known = (first > 0) & (second > 0) & (third > 0)
    numbers = np.where(known, 25 * first.astype(np.intp) + 5 * second + third, 0)
    present = np.zeros((len(letters), 125), dtype=bool)
    np.put_along_axis(present, numbers, True, axis=1)
    letters[2 * present[:, 1:].sum(axis=1) < np.minimum(lengths - 2, 18)] = 0
    return Strands(letters, lengths)


def both_strands(forward: Strands) -> Strands:
    """The same strands, and after them their reverse complements."""
    mirrored = forward.lengths[:, None] - 1 - np.arange(forward.letters.shape[1])
    letters = np.take_along_axis(forward.letters, np.maximum(mirrored, 0), axis=1)
    reverse = np.where((mirrored >= 0) & (letters > 0), 5 - letters, 0).astype(np.uint8)
    return Strands(np.concatenate([forward.letters, reverse]), np.tile(forward.lengths, 2))


def places(strands: Strands, seed: int, one_in: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Each place in a strand from which on `seed` letters are known and of no low complexity, or one in so many of them,
    as the letters decide: the number of the `LETTERS_SORTED_BY` letters from there on in base 5, which strand it is
    in, and where; (places,) each.
    """
    found = [(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int32), np.empty(0, dtype=np.int32))]
    width = strands.letters.shape[1]
    for first in range(0, len(strands.letters), SEQUENCES_AT_A_TIME):
        letters = np.pad(strands.letters[first : first + SEQUENCES_AT_A_TIME], ((0, 0), (0, LETTERS_SORTED_BY)))
        keys = np.zeros((len(letters), width), dtype=np.int64)
        numbers = np.zeros_like(keys)
        known = np.ones(keys.shape, dtype=bool)
        for place in range(LETTERS_SORTED_BY):
            there = letters[:, place : place + width]
            keys = 5 * keys + there
            if place < seed:
                numbers = (numbers << 2) | ((there - 1) & 3)
                known &= there > 0
        rows, starts = np.nonzero(known)
        numbers = numbers[known]
        telling = 2 * different_trinucleotides(numbers, seed) >= seed - 2
        telling &= (numbers * HASH >> 32) % one_in == 0
        rows, starts = (rows[telling] + first).astype(np.int32), starts[telling].astype(np.int32)
        found.append((keys[known][telling], rows, starts))
    return tuple(np.concatenate(column) for column in zip(*found, strict=True))


def identical_enough(
    ours: Strands, theirs: Strands, ones: np.ndarray, others: np.ndarray, offsets: np.ndarray
) -> np.ndarray:
    """
    Whether enough letters are the same where two strands lie on each other, the other one beginning `offsets` letters
    after the one; (pairs,) of bool.
    """
    lengths, other_lengths = ours.lengths[ones], theirs.lengths[others]
    overlap = np.minimum(lengths, offsets + other_lengths) - np.maximum(offsets, 0)
    shorter = np.minimum(lengths, other_lengths)
    enough = overlap >= np.minimum(shorter, np.maximum(MIN_OVERLAP, -(-shorter // 2)))
    places = np.arange(ours.letters.shape[1]) - offsets[:, None]
    inside = (places >= 0) & (places < theirs.letters.shape[1])
    one = ours.letters[ones]
    other = theirs.letters[others[:, None], np.where(inside, places, 0)]
    same = ((one == other) & (one > 0) & inside).sum(axis=1)
    return enough & (same >= MIN_IDENTITY * overlap)


__all__ = ["homology_groups", "near_twins"]
