"""Sequences of a genome (FASTA), and regions of it (BED), by pysam."""

import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from ..tokenization.tokenization_proformer import COMPLEMENT_OF_TEXT
from .rows import InputError, MissingFileError, Row, name_columns
from .text import TextLines


logger = logging.getLogger(__name__)

# Bases that are read and kept at a time. Sorted variants find theirs in the same block, which matters with bgzip.
BLOCK_BASES = 2**14
BLOCKS_KEPT = 64

# The last block of every file that bgzip writes, so that a file without it was cut short.
BGZIP_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")

# Case marks repeats, and ambiguous bases are N to a model.
KNOWN_BASES = str.maketrans({code: "N" for code in map(chr, range(33, 127)) if code not in "ACGTacgt"})

COORDINATES_OF_BED = "BED counts from 0 and leaves the end out, so a region of a 1-based table starts one base earlier"


def import_pysam() -> ModuleType:
    """
    Return pysam, whose C library then prints no messages of its own.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import pysam
    except ImportError as error:
        raise ImportError(
            "Genomes, VCF and BCF are read by pysam: pip install 'modeling-proformer[genome]'"
        ) from error
    pysam.set_verbosity(0)
    return pysam


class RefusedError(InputError):
    """A variant or region is refused for this reason, and the next one follows. Its kind stands before a colon."""


def is_bgzip(start: bytes) -> bool:
    """Return whether a file with these first bytes was compressed by bgzip, and not by gzip alone."""
    return start[:4] == b"\x1f\x8b\x08\x04" and start[12:14] == b"BC"


def reverse_complement(bases: str) -> str:
    """Return the other strand of upper-case bases."""
    return bases.translate(COMPLEMENT_OF_TEXT)[::-1]


class Genome:
    """
    The sequences of a FASTA file, which may be compressed by bgzip, read at any position.

    A missing index is made, and put next to the file where that is possible. An index that is older than the file is
    not used, because it may be of other sequences.

    Args:
        path: the file.

    Attributes:
        path: the file.
        lengths: number of bases of each chromosome, by its name.

    Raises:
        ImportError: pysam is not installed.
        InputError: there is no such file, it is not FASTA, it was cut short, or compressed by gzip instead of bgzip.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self._file = _open_fasta(self.path)
        self.lengths = dict(zip(self._file.references, self._file.lengths, strict=True))
        self._names: dict[str, list[str]] = {}
        for name in self.lengths:
            self._names.setdefault(_without_chr(name), []).append(name)
        self._read_block = lru_cache(BLOCKS_KEPT)(self._read_block)  # type: ignore[method-assign]

    def find(self, chromosome: str) -> str:
        """
        Return a chromosome's name in this genome; `chr1` and `1` are the same, unless the genome has both.

        Raises:
            RefusedError: there is no such chromosome, or there are several.
        """
        if chromosome in self.lengths:
            return chromosome
        found = self._names.get(_without_chr(chromosome), [])
        if len(found) > 1:
            raise RefusedError(f"ambiguous chromosome: {chromosome!r} may be {' or '.join(map(repr, found))}")
        if not found:
            raise RefusedError(f"unknown chromosome: {chromosome!r}; the genome has {name_columns(self.lengths)}")
        return found[0]

    def fetch(self, name: str, start: int, end: int) -> str:
        """
        Return bases in upper case A C G T N, where N is any other character.

        Args:
            name: a name of this genome, see `find`.
            start, end: positions of the chromosome, counted from 0, without the end.

        Raises:
            InputError: the file has fewer bases than its index says.
        """
        first, last = start // BLOCK_BASES, max(end - 1, start) // BLOCK_BASES
        text = "".join([self._read_block(name, number) for number in range(first, last + 1)])
        return text[start - first * BLOCK_BASES : end - first * BLOCK_BASES]

    def _read_block(self, name: str, number: int) -> str:
        start = number * BLOCK_BASES
        end = min(start + BLOCK_BASES, self.lengths[name])
        try:
            text = self._file.fetch(name, start, end)
        except (OSError, ValueError, KeyError):
            text = ""
        if len(text) != end - start:
            raise InputError(
                f"{self.path}: {name}, positions {start + 1:,} to {end:,}, cannot be read; the file is damaged, or "
                "its index is of another file: delete the index, and copy the file again."
            )
        return text.translate(KNOWN_BASES).upper()


def _without_chr(name: str) -> str:
    return re.sub("^chr", "", name, flags=re.IGNORECASE)


def _open_fasta(path: Path):
    pysam = import_pysam()
    if not path.is_file():
        raise MissingFileError(f"{path}: no such file.")
    is_compressed = _check_fasta(path)
    indexes = [Path(f"{path}{suffix}") for suffix in ([".fai", ".gzi"] if is_compressed else [".fai"])]
    with tempfile.TemporaryDirectory() as folder:
        is_indexed = all(map(Path.exists, indexes))
        if is_indexed and min(map(_time, indexes)) < _time(path):
            logger.warning(
                f"{path}: its index is older than the file, so another one is made for this run; `samtools faidx` "
                "makes one that stays."
            )
            is_indexed = False
        if not is_indexed:
            indexes = _make_indexes(path, indexes, Path(folder))
        try:
            return pysam.FastaFile(str(path), *map(str, indexes))
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: its index {indexes[0]} cannot be read; delete it.") from error


def _time(path: Path) -> float:
    return path.stat().st_mtime


def _check_fasta(path: Path) -> bool:
    """Return whether a FASTA file is compressed, after a check that it can be read at any position."""
    with open(path, "rb") as file:
        start = file.read(18)
        file.seek(-min(len(BGZIP_END), path.stat().st_size), os.SEEK_END)
        end = file.read()
    if not start:
        raise InputError(f"{path}: the file is empty.")
    if is_bgzip(start):
        if end != BGZIP_END:
            raise InputError(
                f"{path}: the file was cut short, because the end mark of bgzip is missing; copy it again."
            )
        return True
    if start[:2] == b"\x1f\x8b":
        raise InputError(f"{path}: in a file compressed by gzip, no position can be found; use bgzip, or unpack it.")
    if not start.lstrip().startswith(b">"):
        raise InputError(f"{path}: this is not FASTA, which begins with '>'.")
    return False


def _make_indexes(path: Path, indexes: list[Path], folder: Path) -> list[Path]:
    """Return new indexes in a folder. Where the file has none, they are copied next to it, if that is possible."""
    pysam = import_pysam()
    made = [folder / f"index{index.suffix}" for index in indexes]
    flags = [
        word for flag, index in zip(("--fai-idx", "--gzi-idx"), made, strict=False) for word in (flag, str(index))
    ]
    try:
        pysam.faidx(str(path), *flags)
    except pysam.SamtoolsError as error:
        raise InputError(
            f"{path}: no index can be made of it. All lines of a record but the last must have the same length; "
            "`samtools faidx` says more."
        ) from error
    for index, new in zip(indexes, made, strict=True):
        if not index.exists():
            with suppress(OSError):
                # A copy that is interrupted would pass for an index.
                unfinished = shutil.copyfile(new, index.with_name(f".{index.name}.{os.getpid()}"))
                os.replace(unfinished, index)
    return made


class Region(NamedTuple):
    """
    A line of a BED file.

    Attributes:
        location: where it is, such as "line 7".
        chromosome: its name in the genome.
        start, end: counted from 0, without the end.
        name: its name; empty if it has none.
        strand: "+" or "-"; "+" if the line has none.
        error: why it is no region of the genome; empty if it is one.
    """

    location: str
    chromosome: str = ""
    start: int = 0
    end: int = 0
    name: str = ""
    strand: str = "+"
    error: str = ""


def read_bed(path: str | os.PathLike, genome: Genome) -> Iterator[Region]:
    """
    Stream the regions of a BED file with 3 columns or more, which may be gzipped.

    Comments, and lines that begin with "track" or "browser", are skipped.

    Raises:
        InputError: there is no such file, it is not text, or there is no region in it.
    """
    path = Path(path)
    if not path.exists():
        raise MissingFileError(f"{path}: no such file.")
    empty = True
    with TextLines(path) as lines:
        for line in lines:
            fields = line.rstrip("\n").split("\t" if "\t" in line else None)
            if not line.strip() or fields[0].startswith("#") or fields[0].split(" ")[0] in ("track", "browser"):
                continue
            empty = False
            location = f"line {lines.number}"
            try:
                yield _parse_region(location, fields, genome)
            except RefusedError as error:
                yield Region(location, error=str(error))
    if empty:
        raise InputError(f"{path}: there are no regions in it.")


def _parse_region(location: str, fields: list[str], genome: Genome) -> Region:
    if len(fields) < 3:
        raise RefusedError(f"{len(fields)} columns; a BED file has at least chromosome, start and end, between tabs")
    for title, text in zip(("start", "end"), fields[1:3], strict=True):
        if not re.fullmatch(r"-?\d+", text.strip(), re.ASCII):
            raise RefusedError(f"the {title} {text!r} is not a whole number")
    start, end = int(fields[1]), int(fields[2])
    strand = fields[5].strip() if len(fields) > 5 else "."
    if strand not in ("+", "-", "."):
        raise RefusedError(f"the strand {strand!r} (column 6) is not +, - or .")
    if start < 0:
        raise RefusedError(f"the start {start:,} is below 0")
    if start >= end:
        raise RefusedError(f"the start {start:,} is not below the end {end:,}; {COORDINATES_OF_BED}")
    chromosome = genome.find(fields[0].strip())
    length = genome.lengths[chromosome]
    if end > length:
        raise RefusedError(f"the end {end:,} is beyond the {length:,} bases of {chromosome}; {COORDINATES_OF_BED}")
    name = fields[3].strip() if len(fields) > 3 else ""
    return Region(location, chromosome, start, end, name, "-" if strand == "-" else "+")


def read_regions(path: str | os.PathLike, genome: Genome) -> Iterator[Row]:
    """
    Stream the regions of a BED file as rows with the columns chromosome, start, end, name, strand and sequence, which
    is read on the region's strand. A row that is no region has an error.
    """
    for region in read_bed(path, genome):
        location, chromosome, start, end, name, strand, error = region
        bases = "" if error else genome.fetch(chromosome, start, end)
        cells = {
            "chromosome": chromosome,
            "start": start,
            "end": end,
            "name": name,
            "strand": strand,
            "sequence": reverse_complement(bases) if strand == "-" else bases,
        }
        yield Row(location, cells, error=error)


__all__ = [
    "Genome",
    "RefusedError",
    "Region",
    "import_pysam",
    "is_bgzip",
    "read_bed",
    "read_regions",
    "reverse_complement",
]
