"""Windows that a model reads: those of a variant's two alleles in a genome, and those along a sequence."""

import os
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

from .genome import Genome, RefusedError, Region, read_bed, reverse_complement
from .rows import InputError, Row, require_columns, sequence_text
from .vcf import Variant


# If this share of the first variants has another reference allele than the genome, it is another genome. By chance, a
# quarter of all bases agree.
VARIANTS_CHECKED = 1000
MIN_VARIANTS_CHECKED = 20
MAX_MISMATCHES = 0.5

BASES = re.compile("[ACGTN]+")


class VariantWindows(NamedTuple):
    """
    The windows of a variant.

    Attributes:
        variant: the variant.
        pairs: windows of the reference and the alternate allele, as they are read.
        promoter: the promoter that they are in; None without promoters.
        window: where those of the reference allele lie, such as "chrI:101-180", from the first base of the first to
            the last base of the last, counted from 1.
        strand: the strand that they are of.
        error: why there are none, with the kind before the first colon; empty if there are some.
    """

    variant: Variant
    pairs: Sequence[tuple[str, str]] = ()
    promoter: Region | None = None
    window: str = ""
    strand: str = ""
    error: str = ""


class Promoters:
    """
    Regions of a genome, to be found by position.

    Raises:
        InputError: a file of them cannot be read, or a line of it is no region of the genome.
    """

    def __init__(self, genome: Genome, regions: str | os.PathLike | Iterable[Region]):
        path = f"{regions}, " if isinstance(regions, str | os.PathLike) else ""
        self._regions: dict[str, list[Region]] = {}
        for region in read_bed(regions, genome) if isinstance(regions, str | os.PathLike) else regions:
            if region.error:
                raise InputError(f"{path}{region.location}: {region.error}.")
            self._regions.setdefault(region.chromosome, []).append(region)
        for of_chromosome in self._regions.values():
            of_chromosome.sort(key=lambda region: region.start)
        self._starts = {name: [region.start for region in regions] for name, regions in self._regions.items()}
        self._longest = max(
            (region.end - region.start for each in self._regions.values() for region in each), default=0
        )

    def find(self, chromosome: str, start: int, end: int) -> list[Region]:
        """Return the regions that have a base between these positions, or hold both where start and end are one."""
        starts = self._starts.get(chromosome, [])
        near = slice(bisect_left(starts, start - self._longest), bisect_right(starts, end))
        return [region for region in self._regions.get(chromosome, [])[near] if _overlaps(region, start, end)]


def _overlaps(region: Region, start: int, end: int) -> bool:
    return region.start < end and start < region.end if start < end else region.start < start < region.end


class VariantLocator:
    """
    Finds the windows of variants in a genome.

    Args:
        genome: the genome.
        promoters: the promoters whose windows are used; None for windows around the variants.
        width: bases of a window.
        offsets: number of windows of a variant, in which it lies at evenly spaced positions.
    """

    def __init__(self, genome: Genome, promoters: Promoters | None, width: int, offsets: int = 1):
        self.genome, self.promoters, self.width, self.offsets = genome, promoters, width, offsets
        self._compared = self._mismatched = 0
        self._last: tuple[str, int, str] | None = None

    def locate_all(self, variants: Iterable[Variant]) -> Iterator[VariantWindows]:
        """
        Yield the windows of each variant, in each promoter that holds it; see `score_variants`.

        Raises:
            InputError: too many of the first reference alleles are not those of the genome.
        """
        for variant in variants:
            yield from self._locate(variant)
            if self._compared == VARIANTS_CHECKED:
                self._require_same_genome()
        if MIN_VARIANTS_CHECKED <= self._compared < VARIANTS_CHECKED:
            self._require_same_genome()

    def _require_same_genome(self):
        if self._mismatched > MAX_MISMATCHES * self._compared:
            raise InputError(
                f"{self.genome.path}: {self._mismatched:,} of the first {self._compared:,} reference alleles are not "
                "what this genome has there; the variants are of another build, or do not count positions from 1."
            )

    def _locate(self, variant: Variant) -> Iterator[VariantWindows]:
        try:
            chromosome = self._check(variant)
            start, end, alternate = self._align_left(chromosome, *_trim(variant))
            regions: Sequence[Region | None] = [None]
            if self.promoters is not None and not (regions := self.promoters.find(chromosome, start, end)):
                raise RefusedError("no promoter")
        except RefusedError as error:
            yield VariantWindows(variant, error=str(error))
            return
        for region in regions:
            strand = "+" if region is None else region.strand
            try:
                yield self._read_windows(variant, chromosome, start, end, alternate, region)
            except RefusedError as error:
                yield VariantWindows(variant, promoter=region, strand=strand, error=str(error))

    def _check(self, variant: Variant) -> str:
        """Return the name of a variant's chromosome in the genome, if the variant can be read there."""
        reference, alternate = variant.reference.upper(), (variant.alternate or ".").upper()
        if variant.error:
            raise RefusedError(variant.error)
        if variant.chromosome is None or variant.position is None:
            raise RefusedError("no position: it is a pair of sequences, which needs no genome")
        if alternate == ".":
            raise RefusedError("no alternate allele")
        if alternate == "*":
            raise RefusedError("spanning deletion: another record has the deletion that * stands for")
        if re.search(r"[<>\[\].]", alternate):
            raise RefusedError(f"symbolic allele: {variant.alternate}")
        for allele in (reference, alternate):
            if not BASES.fullmatch(allele):
                raise RefusedError(f"not bases: {allele!r}")
        chromosome = self.genome.find(variant.chromosome)
        length = self.genome.lengths[chromosome]
        start = variant.position - 1
        if not 0 <= start <= length - len(reference):
            raise RefusedError(f"beyond the chromosome: {chromosome} has positions 1 to {length:,}")
        found = self.genome.fetch(chromosome, start, start + len(reference))
        # A record has as many variants as alternate alleles.
        if self._last != (last := (chromosome, start, reference)):
            self._last = last
            self._compared += 1
            self._mismatched += found != reference
        if found != reference:
            raise RefusedError(f"reference mismatch: the genome has {found} and not {reference}")
        return chromosome

    def _align_left(self, chromosome: str, start: int, end: int, alternate: str) -> tuple[int, int, str]:
        """
        Return a trimmed variant where it lies if it is written as far to the left as it can be, as `bcftools norm`
        writes it. In a repeat, the same insertion or deletion can be written in several places.
        """
        if start < end and alternate:
            return start, end, alternate
        while start > 0:
            before = self.genome.fetch(chromosome, start - 1, start)
            last = alternate[-1:] or self.genome.fetch(chromosome, end - 1, end)
            if before != last or before == "N":
                break
            start, end, alternate = start - 1, end - 1, (last + alternate)[: len(alternate)]
        return start, end, alternate

    def _read_windows(
        self, variant: Variant, chromosome: str, start: int, end: int, alternate: str, region: Region | None
    ) -> VariantWindows:
        forward = region is None or region.strand == "+"
        after, width = self._place(start, end, len(alternate), region)
        lows = [end + bases - width if forward else start - bases for bases in after]
        # By so much, a window of the alternate allele reaches further on the genome than that of the reference.
        further = end - start - len(alternate)
        first, last = min(lows), max(lows) + width
        window = f"{chromosome}:{first + 1}-{last}"
        if forward:
            first -= max(further, 0)
        else:
            last += max(further, 0)
        length = self.genome.lengths[chromosome]
        if first < 0 or last > length:
            raise RefusedError(f"end of chromosome: a window reaches beyond positions 1 to {length:,} of {chromosome}")
        text = self.genome.fetch(chromosome, first, last)
        pairs = []
        for low in lows:
            high = low + width
            changed_low, changed_high = (low - further, high) if forward else (low, high + further)
            reference = text[low - first : high - first]
            pairs.append(
                (
                    reference,
                    text[changed_low - first : start - first] + alternate + text[end - first : changed_high - first],
                )
            )
        if not forward:
            pairs = [(reverse_complement(one), reverse_complement(other)) for one, other in pairs]
        if any(not reference.strip("N") for reference, _ in pairs):
            raise RefusedError("only N: the genome has no bases there")
        return VariantWindows(variant, pairs, region, window, "+" if forward else "-")

    def _place(self, start: int, end: int, bases: int, region: Region | None) -> tuple[list[int], int]:
        """
        Return how many bases of each window are read after the variant, and the windows' width.

        Args:
            start, end: where the reference allele lies.
            bases: length of the alternate allele.
            region: the promoter that holds the windows of the reference allele.
        """
        width = self.width
        longest = max(end - start, bases)
        lowest, highest = 0, width - longest
        if region is not None:
            if not (region.start <= start and end <= region.end):
                raise RefusedError("end of promoter: the variant reaches beyond the promoter")
            width = min(width, region.end - region.start)
            before, behind = start - region.start, region.end - end
            if region.strand == "-":
                before, behind = behind, before
            lowest, highest = max(0, width - (end - start) - before), min(width - longest, behind)
            if highest < lowest and longest <= width:
                raise RefusedError(
                    f"allele too long: {bases:,} bases do not fit between the promoter's 5′ end and the end of the "
                    f"variant, where there is room for {before + end - start:,}"
                )
        if highest < lowest:
            raise RefusedError(f"allele too long: {longest:,} bases do not fit the window of {width:,}")
        count = highest - lowest + 1
        windows = min(self.offsets, count)
        return [lowest + ((2 * number + 1) * count - 1) // (2 * windows) for number in range(windows)], width


def _trim(variant: Variant) -> tuple[int, int, str]:
    """
    Return where the reference allele starts and ends, counted from 0, and the alternate allele, without the bases that
    both have at their ends. So a variant has the same windows however many bases around it its record gives.
    """
    start, reference, alternate = variant.position - 1, variant.reference.upper(), variant.alternate.upper()
    if reference == alternate:
        return start, start + len(reference), alternate
    shorter = min(len(reference), len(alternate))
    same_end = _count_equal(reference[::-1], alternate[::-1], shorter)
    same_start = _count_equal(reference, alternate, shorter - same_end)
    end = start + len(reference) - same_end
    return start + same_start, end, alternate[same_start : len(alternate) - same_end]


def _count_equal(one: str, other: str, most: int) -> int:
    """Return how many bases two alleles have in common at their start, at most so many."""
    return next((number for number in range(most) if one[number] != other[number]), most)


def cut_windows(
    path: str | os.PathLike, rows: Iterable[Row], column: str, width: int, stride: int, *, of_genome: bool
) -> Iterator[Row]:
    """
    Yield a row for each window of each row's sequence, with the columns start and end, counted from 0 without the end.

    Windows start at the sequence's first base, every `stride` bases after it, and where the last one ends with the
    sequence. A sequence that is not longer than a window is one window. Windows of N alone are left out.

    Args:
        path: the file of the rows.
        rows: the rows, as `read_rows` or `read_regions` returns them.
        column: column of the sequences.
        width: bases of a window.
        stride: bases from the start of a window to that of the next one.
        of_genome: whether rows are regions of a genome, whose columns start, end and strand say where they lie. Their
            windows then start and end there.

    Raises:
        InputError: a table has columns start and end of its own, or there is no window with a base.
    """
    empty = True
    for row in rows:
        if not of_genome and (taken := {"start", "end"} & set(row.cells)):
            raise InputError(f"{path}: rename the column {min(taken)!r}, because windows take that name.")
        require_columns(path, row.cells, [column])
        try:
            text = "" if row.error else sequence_text(path, row, column)
        except InputError:
            # Whoever reads the sequence next finds the same.
            text = ""
        if not text:
            empty = False
            yield row._replace(cells={**row.cells, "start": None, "end": None})
            continue
        last = max(len(text) - width, 0)
        starts = range(0, last, stride)
        is_reverse = of_genome and row.cells["strand"] == "-"
        # Windows follow each other along the genome.
        for start in chain([last], reversed(starts)) if is_reverse else chain(starts, [last]):
            bases = text[start : start + width]
            if bases.strip("Nn"):
                empty = False
                place = {"start": start, "end": start + len(bases)}
                if of_genome:
                    before = len(text) - place["end"] if is_reverse else start
                    place = {end: row.cells["start"] + before + place[end] - start for end in place}
                location = f"{row.location}, bases {start + 1:,} to {start + len(bases):,}"
                yield row._replace(location=location, cells={**row.cells, **place, column: bases})
    if empty:
        raise InputError(f"{path}: there is no window with a base.")


__all__ = ["Promoters", "VariantLocator", "VariantWindows", "cut_windows"]
