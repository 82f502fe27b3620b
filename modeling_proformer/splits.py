"""Hold-outs that a model is tested on without having seen their like."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from .tokenization import InvalidSequenceError
from .tokenization.tokenization_proformer import ALPHABET, DIGIT_OF_BYTE


FOREIGN_LETTER = re.compile("[^ACGTUNacgtun]")
COMPLEMENTS = str.maketrans("ACGT", "TGCA")

# A window's number has two bits a letter, in 64 bits with a sign.
MAX_SHARED_LETTERS = 31

# Sequences whose windows are computed at a time, so that the work stays in the processor's cache.
SEQUENCES_AT_A_TIME = 512


class Split(NamedTuple):
    """Row numbers on each side, in ascending order."""

    train: np.ndarray
    held_out: np.ndarray


class ThreeWaySplit(NamedTuple):
    """Row numbers on each side, in ascending order."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def hold_out_groups(groups: Sequence | pa.ChunkedArray, fraction: float, seed: int = 0) -> Split:
    """
    Holds out whole groups of related sequences (families, variants of one promoter), chosen at random.

    Args:
        groups: the group of each row. Names of millions of rows fit into memory as a column of a table
            (`Dataset.data.column`); lists and arrays of them take gigabytes.
        fraction: share of the rows to hold out; groups are added as long as they fit, so that it is not exceeded.
        seed: of the choice.

    Raises:
        ValueError: `fraction` is not between 0 and 1, or a side would be empty.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"The fraction to hold out must lie between 0 and 1, got {fraction}.")
    members, sizes = group_sizes(groups)
    order = np.random.default_rng(seed).permutation(len(sizes))
    chosen = choose_groups(sizes, order, room=fraction * len(members))
    if not chosen.any():
        raise ValueError(
            f"{len(members)} rows in {len(sizes)} groups cannot be split with {fraction:.3g} of them held out."
        )
    return Split(np.flatnonzero(~chosen[members]), np.flatnonzero(chosen[members]))


def split_groups(
    groups: Sequence | pa.ChunkedArray, validation_fraction: float, test_fraction: float, seed: int = 0
) -> ThreeWaySplit:
    """
    Splits whole groups of related sequences three ways, at random: to train on, to choose a model by, and to judge
    the chosen one by.

    Args:
        groups: the group of each row, see `hold_out_groups` and `homology_groups`.
        validation_fraction, test_fraction: shares of all rows, which are not exceeded.
        seed: of the choice.

    Raises:
        ValueError: the fractions are not above 0 or leave nothing to train on; or the groups are so large that a side
            would have less than half of its share.
    """
    if not (validation_fraction > 0 and test_fraction > 0 and validation_fraction + test_fraction < 1):
        raise ValueError(
            "The validation and test fractions must be above 0 and leave some rows to train on, got "
            f"{validation_fraction} and {test_fraction}."
        )
    members, sizes = group_sizes(groups)
    order = np.random.default_rng(seed).permutation(len(sizes))
    test = choose_groups(sizes, order, room=test_fraction * len(members))
    validation = choose_groups(sizes, order[~test[order]], room=validation_fraction * len(members))
    require_share("test", test_fraction, test, sizes)
    require_share("validation", validation_fraction, validation, sizes)
    train = ~(validation | test)
    return ThreeWaySplit(*(np.flatnonzero(chosen[members]) for chosen in (train, validation, test)))


def require_share(side: str, fraction: float, chosen: np.ndarray, sizes: np.ndarray):
    """
    Raises:
        ValueError: the groups chosen for a side, (groups,) of bool, have less than half of the rows it should have.
    """
    share, found = fraction * sizes.sum(), sizes[chosen].sum()
    if found == 0 or found < share / 2:
        raise ValueError(
            f"Whole families fill only {found} of the {share:.6g} rows of the {side} side; the largest family has "
            f"{sizes.max(initial=0)} of all {sizes.sum()} rows: give a column that says which rows are for what, or "
            "split at random, knowing that what is tested then has close relatives in training."
        )


def group_sizes(groups: Sequence | pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """
    The number of each row's group, (rows,), and how many rows each group has, (groups,).

    Raises:
        ValueError: there is not one group for each row.
    """
    if not isinstance(groups, pa.ChunkedArray):
        names, groups = groups, np.asarray(groups)
        if groups.dtype.kind == "U" and groups.ndim == 1:
            # numpy drops null characters at the end, which makes two names one.
            groups = pa.chunked_array([pa.array(map(str, names))])
    if isinstance(groups, pa.ChunkedArray):
        groups = ranks(groups)
    if groups.ndim != 1:
        raise ValueError(f"One group for each row is needed, got an array of shape {groups.shape}.")
    _, members, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    return members, sizes


def ranks(column: pa.ChunkedArray) -> np.ndarray:
    """The place of each row's value among all values sorted, which takes 4 bytes a row whatever the values."""
    encoded = pa.chunked_array(column.dictionary_encode()).combine_chunks()
    places = pc.rank(encoded.dictionary, tiebreaker="dense").to_numpy().astype(np.int32)
    return places[encoded.indices.to_numpy()]


def choose_groups(sizes: np.ndarray, order: np.ndarray, room: float) -> np.ndarray:
    """
    Takes groups as long as they fit.

    Args:
        sizes: (groups,) rows in each.
        order: numbers of the groups to choose from, in the order in which they are tried.
        room: for so many rows.

    Returns:
        (groups,) of bool.
    """
    chosen = np.zeros(len(sizes), dtype=bool)
    smallest = sizes[order].min(initial=sizes.sum())
    for group in order:
        if room < smallest:
            break
        if sizes[group] <= room:
            chosen[group] = True
            room -= sizes[group]
    return chosen


def homology_groups(sequences: Sequence[str], shared_letters: int = 20) -> np.ndarray:
    """
    Finds the families of related sequences, for `hold_out_groups` and `split_groups`.

    Two sequences are related where they are the same or share a stretch of `shared_letters` letters, on either strand:
    variants of one promoter, overlapping tiles, an element in both orientations. Relatives of relatives are of one
    family. A stretch with an N is no sign of kinship, nor is one of low complexity (`telling_windows`), which
    unrelated genomic sequences have in common. Variants with mutations all over may share none (of two sequences of 80
    letters that differ in 8, one pair in three): have a column that says what they are variants of.

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
    links = coo_array((np.ones(same.sum()), (owners[:-1][same], owners[1:][same])), shape=(len(distinct),) * 2)
    _, families = connected_components(links, directed=False)
    return families[rows]


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


__all__ = [
    "Split",
    "ThreeWaySplit",
    "hold_out_groups",
    "homology_groups",
    "near_twins",
    "split_groups",
]
