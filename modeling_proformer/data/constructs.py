"""The construct of an assay, found in its sequences: inserts that vary between flanks that do not."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from ..tokenization import ProformerTokenizer
from ..tokenization.tokenization_proformer import ALPHABET, COMPLEMENT, DIGIT_OF_BYTE, NUCLEOTIDE_N


# Fewer may agree because they are related, and 95 % of fewer leave no room for a single exception.
MIN_SEQUENCES = 20
# Shorter stretches may be conserved in the inserts themselves: start codons, restriction sites.
MIN_FLANK_LETTERS = 8
# Share of the sequences that have a flank letter for letter.
MIN_SHARE_WITH_FLANK = 0.95
# Mean share of the commonest letter at each position of the insert beside a flank. It is 0.25 to 0.45 in libraries of
# random, genomic or designed elements, and above 0.8 in those of one promoter's variants.
MAX_INSERT_AGREEMENT = 0.6
# Two constructs are told to be the same by no fewer letters of a flank.
MIN_COMMON_LETTERS = 6


class InsertLengths(NamedTuple):
    """Letters in the inserts of a table."""

    smallest: int
    median: int
    greatest: int


class Construct(NamedTuple):
    """
    What the sequences of an assay have in common, and what a tokenizer needs to know of it.

    Attributes:
        five_prime_flank: constant letters before the inserts, if any.
        three_prime_flank: constant letters after the inserts, if any.
        missing_flanks: the tokenizer's setting that reads every sequence to its true insert. `"keep"`: a sequence has
            either the flanks or none of them, being an insert on its own. `"cut"`: all have them, some with errors,
            so they are trimmed by length. `"refuse"`: no setting reads them all, as some are inserts on their own and
            others have errors, or have something else in the place of a flank, or nothing between the flanks.
        lengths: letters in the inserts; with `"refuse"`, in those between exact flanks.
        sequences: how many there are.
        without_flanks: how many do not have the flanks exactly, with an insert between them.
        reverse_complements: how many have the reverse complement of their insert in the table too, which is an element
            measured in both orientations.
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
        """Letters of the longest insert, which is the width that the tokenizer pads to."""
        return self.lengths.greatest

    def describe(self) -> str:
        """The construct in a few lines of plain text, for a person to confirm or correct."""
        smallest, median, greatest = self.lengths
        if smallest == greatest:
            lengths = f"{letters_of(greatest)} in every insert"
        else:
            lengths = f"{smallest:,} to {letters_of(greatest)} in an insert, median {median:,}"
        lines = [f"{self.sequences:,} sequences, {lengths}.", self._describe_flanks()]
        if self.reverse_complements:
            lines.append(
                f"{self.reverse_complements:,} sequences have the reverse complement of their insert in the table "
                "too: the two orientations of an element belong on one side of a split."
            )
        return "\n".join(lines)

    def _describe_flanks(self) -> str:
        flanks = {"5′": self.five_prime_flank, "3′": self.three_prime_flank}
        found = " and ".join(f"the {end} flank {flank}" for end, flank in flanks.items() if flank)
        if not found:
            return "No constant flanks: each sequence is read as an insert."
        if not self.without_flanks:
            return f"Trimmed: {found}, exact in every sequence."
        consequence = {
            "keep": "lack them and are read as inserts on their own",
            "cut": "have them with errors, so that as many letters are cut off every sequence, whatever they are: "
            "give whole constructs, never inserts alone",
            "refuse": "do not have them exactly, for different reasons (an error, an insert on its own, no insert), "
            "and are refused: mend or leave out these sequences",
        }[self.missing_flanks]
        return f"Trimmed: {found}. {self.without_flanks:,} of the {self.sequences:,} sequences {consequence}."


class Letters(NamedTuple):
    """Sequences as the tokenizer reads them: digits of all end to end, and where in them each starts and how long."""

    digits: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray

    def backwards(self) -> "Letters":
        """Each sequence from its 3′ end to its 5′ end."""
        return Letters(self.digits[::-1], len(self.digits) - self.starts - self.lengths, self.lengths)

    def reverse_complements(self) -> "Letters":
        backwards = self.backwards()
        return backwards._replace(digits=COMPLEMENT[backwards.digits])

    def column(self, place: int) -> np.ndarray:
        """The digit at one place of each sequence, counted from 0; 0 in sequences that are shorter."""
        inside = self.lengths > place
        column = np.zeros(len(self.starts), dtype=np.uint8)
        column[inside] = self.digits[self.starts[inside] + place]
        return column

    def texts(self) -> list[bytes]:
        digits = self.digits.tobytes()
        ends = self.starts + self.lengths
        return [digits[start:end] for start, end in zip(self.starts.tolist(), ends.tolist(), strict=True)]


class Flank(NamedTuple):
    """Constant letters that sequences begin with; which begin with them exactly, and which at least nearly."""

    digits: np.ndarray
    exact: np.ndarray
    similar: np.ndarray


def detect_construct(
    sequences: Sequence[str], five_prime_flank: str | None = None, three_prime_flank: str | None = None
) -> Construct:
    """
    Finds the flanks of an assay's construct, and how long its inserts are, from the sequences alone.

    A flank is the longest stretch from an end on that 95 % of the sequences have letter for letter. It must be at
    least 8 letters long, and the 8 letters of the insert beside it must vary freely from sequence to sequence. The
    last tells a flank from conserved sequence: in a library of one promoter's variants, as in saturation mutagenesis,
    any stretch is the same in nearly all sequences, but so are the letters beside it. When in doubt there is no flank,
    thus also around the variants of one promoter, and in fewer than 20 different sequences: constant letters left in
    the insert do no harm, whereas letters that are trimmed are lost to the model. Only rare variants of a stretch
    beside inserts that vary freely cannot be told from errors in a flank.

    A sequence is taken to have a flank with errors if one half of the flank is whole, the inner one at most a letter
    out of place: a single error, be it a deletion or an insertion, leaves the other half as it was.

    Args:
        sequences: of the table, in any order, inserts of different lengths included. Case, and U for T, do not matter.
        five_prime_flank, three_prime_flank: where they are known; "" for none.

    Raises:
        ValueError: there are no sequences; or most of them do not have a flank that is said to be known.
        InvalidSequenceError: the first sequence that is empty, or holds a letter other than A C G T U N.
    """
    if not len(sequences):
        raise ValueError("There are no sequences to find a construct in.")
    letters = read_letters(sequences)
    enough = len(set(letters.texts())) >= MIN_SEQUENCES
    five_prime, three_prime = (
        (find_flank(side) if enough else None) if known is None else known_flank(side, known, end)
        for side, known, end in (
            (letters, five_prime_flank, "5′"),
            (letters.backwards(), None if three_prime_flank is None else three_prime_flank[::-1], "3′"),
        )
    )
    flanks = [flank for flank in (five_prime, three_prime) if flank]
    exact, missing_flanks = judge_flanks(flanks, letters.lengths)
    settings = {
        "five_prime_flank": spelt(five_prime.digits) if five_prime else None,
        "three_prime_flank": spelt(three_prime.digits[::-1]) if three_prime else None,
        "missing_flanks": missing_flanks,
    }
    if missing_flanks == "refuse":
        sequences = [sequences[row] for row in np.flatnonzero(exact)]
    inserts = read_letters(sequences, **settings)
    return Construct(
        **settings,
        lengths=insert_lengths(inserts),
        sequences=len(exact),
        without_flanks=int((~exact).sum()),
        reverse_complements=count_reverse_complements(inserts),
    )


def read_letters(sequences: Sequence[str], **construct) -> Letters:
    """The inserts of sequences, as a tokenizer with these flanks finds them."""
    return Letters(*ProformerTokenizer(**construct).read_inserts(sequences, allow_mask=False))


def find_flank(letters: Letters) -> Flank | None:
    """The flank that the sequences begin with, if any; see `detect_construct` for the rule."""
    flank, exact = [], np.ones(len(letters.starts), dtype=bool)
    while True:
        column = letters.column(len(flank))
        commonest = 1 + int(count_letters(column)[: NUCLEOTIDE_N - 1].argmax())
        still_exact = exact & (column == commonest)
        if still_exact.mean() < MIN_SHARE_WITH_FLANK:
            break
        flank.append(commonest)
        exact = still_exact
    if len(flank) < MIN_FLANK_LETTERS or insert_agreement(letters, exact, len(flank)) > MAX_INSERT_AGREEMENT:
        return None
    flank = np.array(flank, dtype=np.uint8)
    return Flank(flank, exact, exact | has_half(letters, flank, ~exact))


def known_flank(letters: Letters, spelling: str, end: str) -> Flank | None:
    """The flank that the sequences are said to begin with; none if it has no letters."""
    if not spelling:
        return None
    flank = DIGIT_OF_BYTE[np.frombuffer(spelling.encode("ascii", "replace"), dtype=np.uint8)]
    exact = np.logical_and.reduce([letters.column(place) == digit for place, digit in enumerate(flank)])
    if exact.mean() < 0.5:
        raise ValueError(f"Only {exact.sum():,} of {len(exact):,} sequences have the {end} flank that was given.")
    return Flank(flank, exact, exact | has_half(letters, flank, ~exact))


def count_letters(column: np.ndarray) -> np.ndarray:
    """How often A C G T N occur at one place, (5,)."""
    return np.bincount(column, minlength=NUCLEOTIDE_N + 1)[1:]


def insert_agreement(letters: Letters, rows: np.ndarray, first: int) -> float:
    """Share of the commonest letter in these rows, mean over the places beside a flank that ends before `first`."""
    columns = (letters.column(place)[rows] for place in range(first, first + MIN_FLANK_LETTERS))
    counts = [count_letters(column) for column in columns]
    # Where no sequence is as long, nothing varies.
    return float(np.mean([count.max() / count.sum() if count.any() else 1.0 for count in counts]))


def has_half(letters: Letters, flank: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Which of these rows begin with the outer half of a flank, or have the inner half where an error may move it."""
    outer, inner = (half.tobytes() for half in np.array_split(flank, 2))
    reach = np.minimum(letters.lengths[rows], len(flank) + 1)
    beginnings = Letters(letters.digits, letters.starts[rows], reach).texts()
    found = np.zeros(len(rows), dtype=bool)
    found[rows] = [text.startswith(outer) or inner in text[len(outer) - 1 :] for text in beginnings]
    return found


def judge_flanks(flanks: Sequence[Flank], lengths: np.ndarray) -> tuple[np.ndarray, Literal["keep", "cut", "refuse"]]:
    """Which sequences have all flanks exactly, with an insert between them; and the setting, as `Construct` says."""
    has_room = lengths > sum(len(flank.digits) for flank in flanks)
    exact = np.logical_and.reduce([has_room, *(flank.exact for flank in flanks)])
    similar = np.logical_and.reduce([has_room, *(flank.similar for flank in flanks)])
    partly_exact = np.logical_or.reduce([np.zeros_like(has_room), *(flank.exact for flank in flanks)])
    insert_alone = ~similar & ~partly_exact
    if (exact | insert_alone).all():
        return exact, "keep"
    return exact, "cut" if similar.all() else "refuse"


def spelt(digits: np.ndarray) -> str:
    return "".join(ALPHABET[digit] for digit in digits)


def insert_lengths(inserts: Letters) -> InsertLengths:
    ascending = np.sort(inserts.lengths)
    return InsertLengths(*(int(ascending[place]) for place in (0, len(ascending) // 2, -1)))


def count_reverse_complements(inserts: Letters) -> int:
    """How many of the inserts have their reverse complement among the others; being one's own does not count."""
    texts = inserts.texts()
    known = set(texts)
    pairs = zip(texts, inserts.reverse_complements().texts(), strict=True)
    return sum(reverse in known and reverse != forward for forward, reverse in pairs)


def letters_of(count: int) -> str:
    return f"{count:,} letter{'s' * (count != 1)}"


def orientation_of(
    construct: Construct, reference_tokenizer: ProformerTokenizer
) -> Literal["forward", "reverse", "unknown"]:
    """
    Whether a table's inserts lie in the direction that a checkpoint was trained on.

    `"forward"`: between the checkpoint's own flanks; `"reverse"`: between their reverse complements. A flank may have
    been recorded farther out in one than in the other, so only the letters beside the insert are compared, as many as
    both have. Flanks at both ends must agree as far as there are any, and one of them in at least 6 letters; otherwise
    the orientation is `"unknown"`.
    """
    flanks = outward_flanks(construct)
    five_prime, three_prime = outward_flanks(reference_tokenizer)
    if flanks_agree(flanks, (five_prime, three_prime)):
        return "forward"
    if flanks_agree(flanks, (COMPLEMENT[three_prime], COMPLEMENT[five_prime])):
        return "reverse"
    return "unknown"


def outward_flanks(construct: Construct | ProformerTokenizer) -> tuple[np.ndarray, np.ndarray]:
    """Digits of the 5′ and the 3′ flank, each from the insert outwards."""
    five_prime, three_prime = (
        DIGIT_OF_BYTE[np.frombuffer((flank or "").encode(), dtype=np.uint8)]
        for flank in (construct.five_prime_flank, construct.three_prime_flank)
    )
    return five_prime[::-1], three_prime


def flanks_agree(flanks: Sequence[np.ndarray], reference_flanks: Sequence[np.ndarray]) -> bool:
    pairs = list(zip(flanks, reference_flanks, strict=True))
    common = [min(len(flank), len(reference)) for flank, reference in pairs]
    return max(common) >= MIN_COMMON_LETTERS and all(
        np.array_equal(flank[:letters], reference[:letters])
        for (flank, reference), letters in zip(pairs, common, strict=True)
    )


def construct_tokenizer(
    construct: Construct,
    kmer_size: int,
    kmer_stride: int,
    insert_width: int | None = None,
    strands: Literal["both", "forward"] = "both",
) -> ProformerTokenizer:
    """
    The tokenizer of a construct.

    Args:
        construct: gives the flanks.
        kmer_size, kmer_stride, strands: of the tokenizer.
        insert_width: by default the longest insert's; rounded up to a multiple of `kmer_stride`.

    Raises:
        ValueError: an argument is out of its range.
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
