"""Groups of related sequences, found by the bases they share."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ..tokenization.tokenization_proformer import COMPLEMENT, NUCLEOTIDE_M, NUCLEOTIDE_N
from .sequences import Sequences


# A window's number takes two bits a base, in a signed integer of 64 bits.
MAX_SHARED_BASES = 31

# Sequences and pairs that are processed at a time, so that the work stays in the processor's cache.
SEQUENCES_PER_BATCH = 512
PAIRS_PER_BATCH = 16384

# Two sequences are homologs if at least this share of their bases is the same in an alignment without gaps.
MIN_IDENTITY = 0.75
# The alignment covers at least this many bases and half of the shorter sequence, or all of a shorter one.
MIN_OVERLAP = 30

# Number of bases by which positions are sorted: the most that fit a base-5 number in a signed integer of 64 bits.
SORTED_BASES = 27
# Number of neighbours on either side, in that order, that are compared with a position.
MAX_NEIGHBOURS = 3
# Fewer equal bases in a row are no reason to compare the rest.
MIN_SEED = 6
# An odd multiplier without a pattern: the upper bits of its products depend on all bases.
HASH_MULTIPLIER = np.int64(0x2545F4914F6CDD1D)
# Seed of the multipliers, one for each position, by which whole sequences are hashed.
HASH_SEED = 0
# Maximum size of the suffix index. Beyond it, positions are subsampled by a hash of the following bases.
MAX_POSITIONS = 20_000_000


def homology_groups(sequences: Sequences | Sequence[str], shared_bases: int = 20) -> np.ndarray:
    """
    Find groups of related sequences, none of which should be divided between the splits of a data set.

    Two sequences are homologs, on either strand,

    - if they are the same, N at their ends aside;
    - if both are shorter than twice `shared_bases` and one base apart: one base is replaced, inserted or deleted;
    - if they share a stretch of `shared_bases` bases, as overlapping tiles and longer sequences one base apart do;
    - or if three quarters of their bases are the same in an alignment without gaps, as in variants of one promoter
      with mutations all over it. The alignment covers at least half of the shorter one and 30 bases, or all of the
      shorter one.

    Homologs of homologs belong to one group. A stretch with an N, or one of low complexity (`_informative_windows`),
    is not evidence of homology: unrelated genomic sequences share such stretches.

    Pairs of the first three kinds are all found. For the fourth, not all pairs are compared: candidates are the
    sequences that agree the longest from any of their positions on, see `_find_similar`. Variants of one promoter with
    more changes than that (two sequences of 80 bases that differ in 21), or short ones with two changes or more, may
    be in one group only through others: give a column that says what they are variants of.

    Args:
        sequences: inserts, without the construct's flanks, which would put all of them into one group.
        shared_bases: 1 to 31. Among 100,000 random sequences of 80 bases, about 10,000 pairs share 16 bases by chance,
            and about 30 share 20.

    Returns:
        (sequences,) number of each sequence's group, counted from 0 in the order of first appearance.

    Raises:
        ValueError: `shared_bases` is outside its range.
        InvalidSequenceError: text has a character other than A C G T U N.
    """
    distinct, rows = _distinct(sequences)
    windows = _informative_windows(distinct, shared_bases)
    keys = _short_keys(distinct, shared_bases)
    shortened, whole = _find_equal(keys.shortened[0], keys.whole[0])
    pairs = [
        _link_owners(*windows),
        _link_owners(*keys.masked),
        np.stack([keys.shortened[1][shortened], keys.whole[1][whole]]),
    ]
    ones, others = np.concatenate(pairs, axis=1)
    similar_ones, similar_others = _find_similar(distinct, distinct, connect(ones, others, len(distinct)))
    links = np.concatenate([ones, similar_ones]), np.concatenate([others, similar_others])
    return connect(*links, len(distinct))[rows]


def _find_equal(numbers: np.ndarray, among: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where there are `numbers` that are also in `among`, which ascends, and where each is there first."""
    if not len(among):
        return np.empty(0, dtype=np.intp), np.empty(0, dtype=np.intp)
    places = np.minimum(np.searchsorted(among, numbers), len(among) - 1)
    ones = np.flatnonzero(among[places] == numbers)
    return ones, places[ones]


def _link_owners(numbers: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """Return pairs of the owners of equal numbers, (2, pairs), from numbers in ascending order and their owners."""
    # Each owner is linked to the next one only: the groups are the same, with fewer links.
    same = numbers[1:] == numbers[:-1]
    return np.stack([owners[:-1][same], owners[1:][same]])


def connect(ones: np.ndarray, others: np.ndarray, count: int) -> np.ndarray:
    """Return the group of each of `count` sequences, (count,), from pairs that belong together, (pairs,) each."""
    links = coo_array((np.ones(len(ones)), (ones, others)), shape=(count, count))
    return connected_components(links, directed=False)[1]


def find_homologs(
    sequences: Sequences | Sequence[str], others: Sequences | Sequence[str], shared_bases: int = 20
) -> np.ndarray:
    """
    Return which sequences have a homolog among `others`, directly and not through a third sequence.

    Args:
        sequences, others, shared_bases: see `homology_groups`.

    Returns:
        (sequences,) of bool.

    Raises:
        ValueError, InvalidSequenceError: see `homology_groups`.
    """
    distinct, rows = _distinct(sequences)
    distinct_others, _ = _distinct(others)
    known = set(distinct_others)
    found = np.array([sequence in known for sequence in distinct], dtype=bool)
    windows, other_windows = (_informative_windows(each, shared_bases) for each in (distinct, distinct_others))
    keys, other_keys = (_short_keys(each, shared_bases) for each in (distinct, distinct_others))
    for (numbers, owners), (other_numbers, _) in (
        (windows, other_windows),
        (keys.masked, other_keys.masked),
        (keys.shortened, other_keys.whole),
        (keys.whole, other_keys.shortened),
    ):
        found[owners[_find_equal(numbers, other_numbers)[0]]] = True
    remaining = np.flatnonzero(~found)
    similar, _ = _find_similar([distinct[number] for number in remaining], distinct_others)
    found[remaining[similar]] = True
    return found[rows]


def _distinct(sequences: Sequences | Sequence[str]) -> tuple[list[bytes], np.ndarray]:
    """
    Return the codes of each different sequence, on the strand that comes first in order and without N at its ends, and
    which one each row is.

    Raises:
        InvalidSequenceError: text has a character other than A C G T U N.
    """
    encoded = Sequences.of(sequences)
    numbers: dict[bytes, int] = {}
    strands = zip(encoded.to_bytes(), encoded.reverse_complements().to_bytes(), strict=True)
    padding = bytes([NUCLEOTIDE_N])
    rows = [numbers.setdefault(min(strand.strip(padding) for strand in both), len(numbers)) for both in strands]
    return list(numbers), np.array(rows, dtype=np.intp)


def _informative_windows(sequences: Sequence[bytes], size: int) -> tuple[np.ndarray, np.ndarray]:
    """
    Return the windows that are evidence of homology where two sequences share one.

    A window of low complexity is not: it has less than half of the different trinucleotides that it has room for
    (fewer than 9 of 18 in 20 bases), like poly-A and other short repeats. One in 11,000 random windows is of this
    kind, and one in 35 of the fruit fly's.

    Args:
        sequences: codes of each.
        size: bases in a window, 1 to 31.

    Returns:
        (windows,) numbers in ascending order, the same for both strands; and (windows,) the sequence each is in.

    Raises:
        ValueError: `size` is outside its range.
    """
    if not 1 <= size <= MAX_SHARED_BASES:
        raise ValueError(f"`shared_bases` must be 1 to {MAX_SHARED_BASES}, got {size}.")
    numbers, owners = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int32)]
    for first in range(0, len(sequences), SEQUENCES_PER_BATCH):
        batch_numbers, batch_owners = kmer_windows(sequences[first : first + SEQUENCES_PER_BATCH], size)
        informative = 2 * _count_trinucleotides(batch_numbers, size) >= size - 2
        numbers.append(batch_numbers[informative])
        owners.append(batch_owners[informative] + np.int32(first))
    return _sort_by_number(np.concatenate(numbers), np.concatenate(owners))


class _ShortKeys(NamedTuple):
    """
    Keys by which short sequences one base apart are found. Each is numbers in ascending order, (keys,), and the
    sequence that each belongs to, (keys,).

    Attributes:
        whole: of each sequence.
        masked: of each sequence with one base masked. Two that differ in one base have one of these in common.
        shortened: of each sequence without one base. It equals the whole of a sequence that lacks this base.
    """

    whole: tuple[np.ndarray, np.ndarray]
    masked: tuple[np.ndarray, np.ndarray]
    shortened: tuple[np.ndarray, np.ndarray]


def _short_keys(sequences: Sequence[bytes], shared_bases: int) -> _ShortKeys:
    """Return the keys of the sequences of less than twice `shared_bases`. Longer ones a base apart share a window."""
    max_bases = 2 * shared_bases - 1
    multipliers = np.random.default_rng(HASH_SEED).integers(2**64, size=max_bases, dtype=np.uint64) | np.uint64(1)
    short = [number for number, sequence in enumerate(sequences) if 0 < len(sequence) <= max_bases]
    batches = [(*(np.empty(0, dtype=np.uint64) for _ in range(3)), *(np.empty(0, dtype=np.intp) for _ in range(2)))]
    for first in range(0, len(short), SEQUENCES_PER_BATCH):
        owners = np.array(short[first : first + SEQUENCES_PER_BATCH])
        lengths = np.array([len(sequences[number]) for number in owners])
        text = b"".join(sequences[number].ljust(max_bases, b"\0") for number in owners)
        codes = np.frombuffer(text, dtype=np.uint8).reshape(len(owners), max_bases)
        whole, masked, shortened = _hash_short(codes, lengths, multipliers)
        present = codes > 0
        batches.append((whole, masked[present], shortened[present], owners, np.repeat(owners, lengths)))
    whole, masked, shortened, owners, owners_of_bases = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    by_base = ((numbers, owners_of_bases) for numbers in (masked, shortened))
    return _ShortKeys(*(_sort_by_number(*each) for each in ((whole, owners), *by_base)))


def _sort_by_number(numbers: np.ndarray, owners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(numbers)
    return numbers[order], owners[order]


def _hash_short(codes: np.ndarray, lengths: np.ndarray, multipliers: np.ndarray) -> tuple[np.ndarray, ...]:
    """
    Return hashes of 64 bits that are the same for both strands: the sum of a strand's codes, each times the multiplier
    of its position; of the two strands, the smaller sum.

    Args:
        codes: (sequences, positions), 0 after the end.
        lengths: (sequences,).
        multipliers: (positions,) odd numbers.

    Returns:
        (sequences,) of the whole; and (sequences, positions) with the base at a position masked, and without it.
    """
    positions = np.arange(codes.shape[1])
    from_end = np.maximum(lengths[:, None] - 1 - positions, 0)
    forward, reverse = codes.astype(np.uint64), COMPLEMENT[codes].astype(np.uint64)
    at, moved = multipliers, multipliers[np.maximum(positions - 1, 0)]
    reverse_at, reverse_moved = multipliers[from_end], multipliers[np.maximum(from_end - 1, 0)]
    whole, reverse_whole = (forward * at).sum(axis=1), (reverse * reverse_at).sum(axis=1)
    mask = np.uint64(NUCLEOTIDE_M)
    masked = np.minimum(whole[:, None] + (mask - forward) * at, reverse_whole[:, None] + (mask - reverse) * reverse_at)
    # Where one base is left out, those that follow it on the strand move up by one position.
    shortened = np.minimum(
        _sum_around(forward * at, forward * moved), _sum_around(reverse * reverse_moved, reverse * reverse_at)
    )
    return np.minimum(whole, reverse_whole), masked, shortened


def _sum_around(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return, for each column of a row, the sum of `before` left of it and of `after` right of it."""
    return before.cumsum(axis=1) - before + after.sum(axis=1, keepdims=True) - after.cumsum(axis=1)


def kmer_windows(sequences: Sequence[bytes], size: int, both_strands: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """
    Return every window of `size` bases without N, and the number of the sequence that it is in; (windows,) each.

    Args:
        sequences: codes of each, as `Sequences.to_bytes` gives them.
        size: 1 to 31.
        both_strands: a window's number, in base 4, is the smaller one of its two strands; otherwise that of the
            strand as given.
    """
    # An N after each sequence, so that no window reaches into the next.
    separator = bytes([NUCLEOTIDE_N])
    bases = np.frombuffer(separator.join([*sequences, separator * size]), dtype=np.uint8).astype(np.int64) - 1
    owners = np.repeat(np.arange(len(sequences), dtype=np.int32), [len(sequence) + 1 for sequence in sequences])
    forward, reverse = np.zeros((2, len(owners)), dtype=np.int64)
    known = np.ones(len(owners), dtype=bool)
    for offset in range(size):
        there = bases[offset : offset + len(owners)]
        forward = (forward << 2) | there
        reverse |= (3 - there) << (2 * offset)
        known &= there < 4
    numbers = np.minimum(forward, reverse) if both_strands else forward
    return numbers[known], owners[known]


def _count_trinucleotides(numbers: np.ndarray, size: int) -> np.ndarray:
    """Return how many different trinucleotides each window has, (windows,), from its number in base 4."""
    different = np.zeros(len(numbers), dtype=np.int64)
    seen = np.zeros(len(numbers), dtype=np.int64)
    for offset in range(size - 2):
        # One bit for each of the 64.
        trinucleotide = np.int64(1) << ((numbers >> (2 * offset)) & 63)
        different += (seen & trinucleotide) == 0
        seen |= trinucleotide
    return different


def _find_similar(
    sequences: Sequence[bytes], others: Sequence[bytes], groups: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """
    Find pairs of which `MIN_IDENTITY` of the bases are the same, in an alignment without gaps on either strand.

    All positions in `others`, on both strands, are sorted by the bases that follow. Each position in `sequences` is
    looked up among them: its neighbours there are the positions that agree with it the longest. Where one agrees for
    longer than chance explains, both sequences are compared base by base in that alignment.

    Args:
        sequences, others: codes of each.
        groups: (sequences,) where both are the same sequences; pairs within a group are skipped.

    Returns:
        (pairs,) numbers of sequences, and (pairs,) numbers of others.
    """
    # Where several of the others have the same bases, one stands for all: the first in order, whatever their order.
    sorted_others = np.array(sorted(range(len(others)), key=others.__getitem__), dtype=np.int64)
    ours = _complex_strands(sequences)
    theirs = _both_strands(_complex_strands([others[number] for number in sorted_others]))
    num_positions = int(theirs.lengths.sum())
    seed = max(MIN_SEED, int(np.ceil(np.log(max(min(num_positions, MAX_POSITIONS), 1)) / np.log(4))))
    one_in = max(1, -(-num_positions // MAX_POSITIONS))
    beyond_seed = 5 ** (SORTED_BASES - seed)
    keys, strands, starts = _positions(theirs, seed, one_in)
    keys, first = np.unique(keys, return_index=True)
    strands, starts, seeds = strands[first], starts[first], keys // beyond_seed
    pairs = [np.empty((2, 0), dtype=np.int64)]
    for first_row in range(0, len(sequences), SEQUENCES_PER_BATCH):
        rows = slice(first_row, first_row + SEQUENCES_PER_BATCH)
        our_positions = _positions(_Strands(ours.bases[rows], ours.lengths[rows]), seed, one_in)
        order = np.argsort(our_positions[0])  # looked up in order, they are found several times as fast
        our_keys, our_rows, our_starts = (column[order] for column in our_positions)
        our_rows += first_row
        middle, our_seeds = np.searchsorted(keys, our_keys), our_keys // beyond_seed
        alignments = [np.empty((3, 0), dtype=np.int64)]
        for step in range(-MAX_NEIGHBOURS, MAX_NEIGHBOURS + 1):
            there = middle + step
            close = np.flatnonzero((there >= 0) & (there < len(keys)))
            close = close[our_seeds[close] == seeds[there[close]]]
            if groups is not None:
                others_there = sorted_others[strands[there[close]] % len(others)]
                close = close[groups[our_rows[close]] != groups[others_there]]
            there = there[close]
            alignments.append(np.stack([our_rows[close], strands[there], our_starts[close] - starts[there]]))
        ones, another, offsets = _distinct_columns(np.concatenate(alignments, axis=1))
        for first_pair in range(0, len(ones), PAIRS_PER_BATCH):
            batch = slice(first_pair, first_pair + PAIRS_PER_BATCH)
            similar = _are_similar(ours, theirs, ones[batch], another[batch], offsets[batch])
            pairs.append(np.stack([ones[batch][similar], sorted_others[another[batch][similar] % len(others)]]))
    found = np.concatenate(pairs, axis=1)
    return found[0], found[1]


def _distinct_columns(columns: np.ndarray) -> np.ndarray:
    """Return each different column of (3, columns) whole numbers once."""
    if columns.shape[1] == 0:
        return columns
    lowest = columns.min(axis=1, keepdims=True)
    shape = (columns - lowest).max(axis=1) + 1
    numbers = np.unique(np.ravel_multi_index(tuple(columns - lowest), shape))
    return np.stack(np.unravel_index(numbers, shape)) + lowest


class _Strands(NamedTuple):
    """
    Strands of sequences.

    Attributes:
        bases: (strands, greatest length) 1 to 4 for A C G T, 0 for N and after the end.
        lengths: (strands,).
    """

    bases: np.ndarray
    lengths: np.ndarray


def _complex_strands(sequences: Sequence[bytes]) -> _Strands:
    """
    Return the forward strands; one of low complexity as if all its bases were N, because it is similar to too many.

    A sequence is of low complexity if it has less than half of the different trinucleotides that would make a window
    of 20 bases informative.
    """
    lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int32)
    width = int(lengths.max(initial=0))
    text = b"".join(sequence.ljust(width, bytes([NUCLEOTIDE_N])) for sequence in sequences)
    codes = np.frombuffer(text, dtype=np.uint8).reshape(len(sequences), width)
    bases = np.where(codes <= 4, codes, 0).astype(np.uint8)
    first, second, third = (bases[:, offset : offset + max(width - 2, 0)] for offset in range(3))
    known = (first > 0) & (second > 0) & (third > 0)
    numbers = np.where(known, 25 * first.astype(np.intp) + 5 * second + third, 0)
    present = np.zeros((len(bases), 125), dtype=bool)
    np.put_along_axis(present, numbers, True, axis=1)
    bases[2 * present[:, 1:].sum(axis=1) < np.minimum(lengths - 2, 18)] = 0
    return _Strands(bases, lengths)


def _both_strands(forward: _Strands) -> _Strands:
    """Return the same strands, followed by their reverse complements."""
    mirrored = forward.lengths[:, None] - 1 - np.arange(forward.bases.shape[1])
    bases = np.take_along_axis(forward.bases, np.maximum(mirrored, 0), axis=1)
    reverse = np.where(mirrored >= 0, COMPLEMENT[bases], 0)
    return _Strands(np.concatenate([forward.bases, reverse]), np.tile(forward.lengths, 2))


def _positions(strands: _Strands, seed: int, one_in: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Return the positions where `seed` known bases of sufficient complexity begin, (positions,) each: the number of the
    next `SORTED_BASES` bases in base 5, the strand, and the position in it.

    With `one_in` above 1, about one in so many positions is kept, chosen by a hash of the bases.
    """
    found = [(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int32), np.empty(0, dtype=np.int32))]
    width = strands.bases.shape[1]
    for first in range(0, len(strands.bases), SEQUENCES_PER_BATCH):
        bases = np.pad(strands.bases[first : first + SEQUENCES_PER_BATCH], ((0, 0), (0, SORTED_BASES)))
        keys = np.zeros((len(bases), width), dtype=np.int64)
        numbers = np.zeros_like(keys)
        known = np.ones(keys.shape, dtype=bool)
        for offset in range(SORTED_BASES):
            there = bases[:, offset : offset + width]
            keys = 5 * keys + there
            if offset < seed:
                numbers = (numbers << 2) | ((there - 1) & 3)
                known &= there > 0
        rows, starts = np.nonzero(known)
        numbers = numbers[known]
        kept = 2 * _count_trinucleotides(numbers, seed) >= seed - 2
        kept &= (numbers * HASH_MULTIPLIER >> 32) % one_in == 0
        rows, starts = (rows[kept] + first).astype(np.int32), starts[kept].astype(np.int32)
        found.append((keys[known][kept], rows, starts))
    keys, rows, starts = (np.concatenate(column) for column in zip(*found, strict=True))
    return keys, rows, starts


def _are_similar(
    ours: _Strands, theirs: _Strands, ones: np.ndarray, others: np.ndarray, offsets: np.ndarray
) -> np.ndarray:
    """Return which pairs of strands are similar, (pairs,), if the other begins `offsets` bases after the one."""
    lengths, other_lengths = ours.lengths[ones], theirs.lengths[others]
    overlap = np.minimum(lengths, offsets + other_lengths) - np.maximum(offsets, 0)
    shorter = np.minimum(lengths, other_lengths)
    enough = overlap >= np.minimum(shorter, np.maximum(MIN_OVERLAP, -(-shorter // 2)))
    positions = np.arange(ours.bases.shape[1]) - offsets[:, None]
    inside = (positions >= 0) & (positions < theirs.bases.shape[1])
    one = ours.bases[ones]
    other = theirs.bases[others[:, None], np.where(inside, positions, 0)]
    same = ((one == other) & (one > 0) & inside).sum(axis=1)
    return enough & (same >= MIN_IDENTITY * overlap)


__all__ = ["connect", "find_homologs", "homology_groups", "kmer_windows"]
