"""The construct of an assay, detected from its sequences: inserts that vary between flanks that do not."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from ..tokenization import ProformerTokenizer
from ..tokenization.tokenization_proformer import (
    ALPHABET,
    COMPLEMENT,
    NUCLEOTIDE_N,
    codes_of,
    resembles_flank,
)
from .config import count_of
from .sequences import ROWS_PER_BATCH, Sequences


# Fewer sequences may agree because they are related, and 95 % of fewer leave no room for a single exception.
MIN_SEQUENCES = 20
# Shorter stretches may be conserved in the inserts themselves: start codons, restriction sites.
MIN_FLANK_BASES = 8
# Share of the sequences that have exactly the flank.
MIN_SHARE_WITH_FLANK = 0.95
# Mean share of the most frequent base at each position of the insert next to a flank. It is 0.25 to 0.45 in libraries
# of random, genomic or designed elements, and above 0.8 in libraries of one promoter's variants.
MAX_INSERT_AGREEMENT = 0.6
# Two constructs are recognised as the same by at least this many bases of a flank.
MIN_COMMON_BASES = 6


class InsertLengths(NamedTuple):
    """Numbers of bases in the inserts of an assay."""

    shortest: int
    median: int
    longest: int


class Construct(NamedTuple):
    """
    What the sequences of an assay have in common, and what a tokenizer needs to know about it.

    Attributes:
        five_prime_flank: constant bases before the inserts, if any.
        three_prime_flank: constant bases after the inserts, if any.
        missing_flanks: the tokenizer's setting that reads every sequence to its true insert. `"keep"`: a sequence has
            both flanks, or neither because it is an insert on its own. `"cut"`: the same, but some sequences have
            errors in their flanks, which are trimmed by length. `"refuse"`: no setting reads all sequences, because
            some have one flank alone, another sequence instead of it, or no insert.
        lengths: of the inserts, without N at their ends; with `"refuse"`, of those between exact flanks.
        sequences: number of sequences.
        without_flanks: number of sequences that do not have an insert between the exact flanks.
        reverse_complements: number of sequences whose insert is also there as its reverse complement, because an
            element was measured in both orientations.
    """

    five_prime_flank: str | None
    three_prime_flank: str | None
    missing_flanks: Literal["keep", "cut", "refuse"]
    lengths: InsertLengths
    sequences: int
    without_flanks: int
    reverse_complements: int

    @property
    def insert_width(self) -> int:
        """Number of bases of the longest insert, which is the width that the tokenizer pads to."""
        return self.lengths.longest

    def describe(self) -> str:
        """Return the construct in a few lines of plain text, for a person to confirm or correct."""
        shortest, median, longest = self.lengths
        if shortest == longest:
            lengths = f"every insert has {count_of(longest, 'base')}"
        else:
            lengths = f"inserts have {shortest:,} to {count_of(longest, 'base')}, median {median:,}"
        lines = [f"{self.sequences:,} sequences; {lengths}.", self._describe_flanks()]
        if self.reverse_complements:
            lines.append(
                f"For {self.reverse_complements:,} sequences, the reverse complement of the insert is in the table "
                "too: both orientations of an element belong in one split."
            )
        return "\n".join(lines)

    def _describe_flanks(self) -> str:
        flanks = {"5′": self.five_prime_flank, "3′": self.three_prime_flank}
        found = " and ".join(f"the {end} flank {flank}" for end, flank in flanks.items() if flank)
        if not found:
            return "No constant flanks were found: each sequence is read as an insert."
        if not self.without_flanks:
            return f"Trimmed: {found}, exact in every sequence."
        consequence = {
            "keep": "lack them and are read as inserts on their own",
            "cut": "have them with errors, and as many bases are cut off, or lack both and are read as inserts on "
            "their own",
            "refuse": "do not have them exactly, for different reasons (one flank alone, another sequence instead of "
            "it, no insert), and are refused: correct these sequences or leave them out",
        }[self.missing_flanks]
        return f"Trimmed: {found}. {self.without_flanks:,} of the {self.sequences:,} sequences {consequence}."


class Flank(NamedTuple):
    """Constant bases that sequences begin with; which sequences begin with them exactly, and which at least nearly."""

    codes: np.ndarray
    exact: np.ndarray
    similar: np.ndarray


def detect_construct(
    sequences: Sequences | Sequence[str],
    five_prime_flank: str | None = None,
    three_prime_flank: str | None = None,
    missing_flanks: Literal["keep", "cut", "refuse"] | None = None,
) -> Construct:
    """
    Detect the flanks of an assay's construct, and the lengths of its inserts, from the sequences alone.

    A flank is the longest stretch from an end on that 95 % of the sequences share exactly. It must have at least 8
    bases, and the 8 bases of the insert next to it must vary freely from sequence to sequence. The second condition
    tells a flank from conserved sequence: in a library of one promoter's variants, as in saturation mutagenesis, any
    stretch is the same in nearly all sequences, but so are the bases next to it. When in doubt there is no flank, and
    so around the variants of one promoter and in fewer than 20 different sequences: constant bases that stay in the
    insert do no harm, whereas bases that are trimmed are lost to the model. Only rare variants of a stretch next to
    inserts that vary freely cannot be told from errors in a flank.

    What counts as a flank with errors, `resembles_flank` says. N at the ends of a sequence is padding.

    Args:
        sequences: in any order, inserts of different lengths included.
        five_prime_flank, three_prime_flank: where they are known; "" for none.
        missing_flanks: how to read sequences without the exact flanks, where it is known. Most of them may then lack
            a flank that is given, such as inserts on their own.

    Raises:
        ValueError: there are no sequences, or most of them do not have a flank that was given.
        InvalidSequenceError: text is not a sequence; or a sequence lacks a flank, and `missing_flanks` is "refuse".
    """
    if not len(sequences):
        raise ValueError("There are no sequences to detect a construct in.")
    sequences = Sequences.of(sequences).without_padding()
    enough = _count_distinct(sequences, at_most=MIN_SEQUENCES) == MIN_SEQUENCES
    five_prime, three_prime = (
        (_find_flank(end) if enough else None)
        if given is None
        else _given_flank(end, given, name, required=missing_flanks is None)
        for end, given, name in (
            (sequences, five_prime_flank, "5′"),
            (sequences.backwards(), None if three_prime_flank is None else three_prime_flank[::-1], "3′"),
        )
    )
    flanks = [flank for flank in (five_prime, three_prime) if flank]
    exact, judged = _judge_flanks(flanks, sequences.lengths)
    settings: dict[str, Any] = {
        "five_prime_flank": _spell(five_prime.codes) if five_prime else None,
        "three_prime_flank": _spell(three_prime.codes[::-1]) if three_prime else None,
        "missing_flanks": missing_flanks or judged,
    }
    if missing_flanks is None and judged == "refuse":
        sequences = sequences.take(np.flatnonzero(exact))
    inserts = sequences.inserts(ProformerTokenizer(**settings))
    ascending = np.sort(inserts.lengths)
    return Construct(
        **settings,
        lengths=InsertLengths(*(int(ascending[place]) for place in (0, len(ascending) // 2, -1))),
        sequences=len(exact),
        without_flanks=int((~exact).sum()),
        reverse_complements=_count_reverse_complements(inserts),
    )


def _count_distinct(sequences: Sequences, at_most: int) -> int:
    """Return the number of different sequences, or `at_most` where they are more."""
    distinct: set[bytes] = set()
    for first in range(0, len(sequences), ROWS_PER_BATCH):
        distinct.update(sequences.take(slice(first, first + ROWS_PER_BATCH)).to_bytes())
        if len(distinct) >= at_most:
            return at_most
    return len(distinct)


def _find_flank(sequences: Sequences) -> Flank | None:
    """Find the flank that the sequences begin with, if any, by the rule of `detect_construct`."""
    flank, exact = [], np.ones(len(sequences), dtype=bool)
    while True:
        column = sequences.column(len(flank))
        commonest = 1 + int(_count_bases(column)[: NUCLEOTIDE_N - 1].argmax())
        still_exact = exact & (column == commonest)
        if still_exact.mean() < MIN_SHARE_WITH_FLANK:
            break
        flank.append(commonest)
        exact = still_exact
    if len(flank) < MIN_FLANK_BASES or _insert_agreement(sequences, exact, len(flank)) > MAX_INSERT_AGREEMENT:
        return None
    codes = np.array(flank, dtype=np.uint8)
    return Flank(codes, exact, _mark_similar(sequences, codes, exact))


def _given_flank(sequences: Sequences, spelling: str, end: str, required: bool) -> Flank | None:
    """Return the flank that the sequences are said to begin with; None if it has no bases."""
    if not spelling:
        return None
    flank = codes_of(spelling)
    exact = np.logical_and.reduce([sequences.column(position) == code for position, code in enumerate(flank)])
    if required and exact.mean() < 0.5:
        raise ValueError(
            f"Only {exact.sum():,} of {len(exact):,} sequences have the {end} flank that was given. If most of "
            'them are inserts alone, give `missing_flanks="keep"`.'
        )
    return Flank(flank, exact, _mark_similar(sequences, flank, exact))


def _mark_similar(sequences: Sequences, flank: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Return which sequences begin with a flank, exactly or with errors, (sequences,); `exact` is known already."""
    similar, others = exact.copy(), sequences.take(~exact)
    similar[~exact] = resembles_flank(others.codes, others.starts, others.lengths, flank)
    return similar


def _count_bases(column: np.ndarray) -> np.ndarray:
    """Return how often A C G T N occur at one position, (5,)."""
    return np.bincount(column, minlength=NUCLEOTIDE_N + 1)[1:]


def _insert_agreement(sequences: Sequences, rows: np.ndarray, first: int) -> float:
    """Return the mean share of the most frequent base at the positions next to a flank that ends before `first`."""
    columns = (sequences.column(position)[rows] for position in range(first, first + MIN_FLANK_BASES))
    counts = [_count_bases(column) for column in columns]
    # Where no sequence is that long, nothing varies.
    return float(np.mean([count.max() / count.sum() if count.any() else 1.0 for count in counts]))


def _judge_flanks(flanks: Sequence[Flank], lengths: np.ndarray) -> tuple[np.ndarray, Literal["keep", "cut", "refuse"]]:
    """Return which sequences have an insert between all exact flanks, and the setting that `Construct` describes."""
    has_room = lengths > sum(len(flank.codes) for flank in flanks)
    exact = np.logical_and.reduce([has_room, *(flank.exact for flank in flanks)])
    similar = np.logical_and.reduce([has_room, *(flank.similar for flank in flanks)])
    partly_exact = np.logical_or.reduce([np.zeros_like(has_room), *(flank.exact for flank in flanks)])
    insert_alone = ~similar & ~partly_exact
    if (exact | insert_alone).all():
        return exact, "keep"
    return exact, "cut" if (similar | insert_alone).all() else "refuse"


def _spell(codes: np.ndarray) -> str:
    return "".join(ALPHABET[code] for code in codes)


def _count_reverse_complements(inserts: Sequences) -> int:
    """Count the inserts whose reverse complement is another of the inserts."""
    texts = inserts.to_bytes()
    known = set(texts)
    pairs = zip(texts, inserts.reverse_complements().to_bytes(), strict=True)
    return sum(reverse in known and reverse != forward for forward, reverse in pairs)


def orientation_of(construct: Construct, reference: ProformerTokenizer) -> Literal["forward", "reverse", "unknown"]:
    """
    Return whether inserts lie in the direction that a checkpoint was trained on.

    `"forward"`: between the checkpoint's own flanks; `"reverse"`: between their reverse complements. A flank may have
    been recorded farther out in one than in the other, so only the bases next to the insert are compared, as many as
    both have. Flanks at both ends must agree as far as there are any, and one of them in at least 6 bases; otherwise
    the orientation is `"unknown"`.
    """
    flanks = _outward_flanks(construct)
    five_prime, three_prime = _outward_flanks(reference)
    if _flanks_agree(flanks, (five_prime, three_prime)):
        return "forward"
    if _flanks_agree(flanks, (COMPLEMENT[three_prime], COMPLEMENT[five_prime])):
        return "reverse"
    return "unknown"


def _outward_flanks(construct: Construct | ProformerTokenizer) -> tuple[np.ndarray, np.ndarray]:
    """Return the codes of the 5′ and the 3′ flank, each from the insert outwards."""
    five_prime, three_prime = (
        codes_of(flank or "") for flank in (construct.five_prime_flank, construct.three_prime_flank)
    )
    return five_prime[::-1], three_prime


def _flanks_agree(flanks: Sequence[np.ndarray], reference_flanks: Sequence[np.ndarray]) -> bool:
    pairs = list(zip(flanks, reference_flanks, strict=True))
    common = [min(len(flank), len(reference)) for flank, reference in pairs]
    return max(common) >= MIN_COMMON_BASES and all(
        np.array_equal(flank[:bases], reference[:bases])
        for (flank, reference), bases in zip(pairs, common, strict=True)
    )


def construct_tokenizer(
    construct: Construct,
    kmer_size: int,
    kmer_stride: int,
    insert_width: int | None = None,
    strands: Literal["both", "forward"] = "both",
) -> ProformerTokenizer:
    """
    Return the tokenizer of a construct.

    Args:
        construct: gives the flanks.
        kmer_size, kmer_stride, strands: of the tokenizer.
        insert_width: by default that of the longest insert; it is rounded up to a multiple of `kmer_stride`.

    Raises:
        ValueError: an argument is outside its range.
    """
    width = construct.insert_width if insert_width is None else insert_width
    return ProformerTokenizer(
        kmer_size=kmer_size,
        kmer_stride=kmer_stride,
        insert_width=width + -width % max(kmer_stride, 1),
        five_prime_flank=construct.five_prime_flank,
        three_prime_flank=construct.three_prime_flank,
        missing_flanks=construct.missing_flanks,
        strands=strands,
    )


__all__ = ["Construct", "InsertLengths", "construct_tokenizer", "detect_construct", "orientation_of"]
