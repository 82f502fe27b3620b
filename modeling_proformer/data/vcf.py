"""Variants of VCF and BCF files, by pysam."""

import gzip
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from .genome import import_pysam, is_bgzip
from .rows import InputError, MissingFileError


VCF_SUFFIXES = (".vcf", ".vcf.gz", ".vcf.bgz", ".bcf")


class Variant(NamedTuple):
    """
    A variant: one alternate allele at a position of a genome, or a pair of sequences.

    Attributes:
        reference: the reference allele, or the sequence with it.
        alternate: the alternate allele, or the sequence with it; None if there is none.
        chromosome: its name; None for a pair of sequences.
        position: of the reference allele's first base, counted from 1.
        id: its name, if it has one.
        location: where it is in its file, such as "line 7".
        source: the record of a VCF or the row of a table that it is from.
        error: why it cannot be read; empty if it can.
    """

    reference: str
    alternate: str | None
    chromosome: str | None = None
    position: int | None = None
    id: str = ""
    location: str = ""
    source: Any = None
    error: str = ""


def is_vcf(path: str | os.PathLike) -> bool:
    """Return whether a file is VCF or BCF by its name."""
    return str(path).lower().endswith(VCF_SUFFIXES)


class VcfFile:
    """
    The variants of a VCF or BCF file, each alternate allele by itself.

    Args:
        path: the file; VCF may be compressed by bgzip or gzip.

    Raises:
        ImportError: pysam is not installed.
        InputError: there is no such file, it has no header of a VCF, or it was cut short.
    """

    def __init__(self, path: str | os.PathLike):
        pysam = import_pysam()
        self.path = Path(path)
        if not self.path.is_file():
            raise MissingFileError(f"{path}: no such file.")
        with open(self.path, "rb") as file:
            start = file.read(18)
        try:
            if start[:2] == b"\x1f\x8b" and not is_bgzip(start):
                # pysam reads no plain gzip. The file stays open after its name is gone.
                with _unpacked(self.path) as unpacked:
                    self._file = pysam.VariantFile(unpacked)
            else:
                self._file = pysam.VariantFile(str(path))
        except ValueError as error:
            raise InputError(
                f"{path}: this is no VCF, which begins with '##fileformat=VCFv4.' and a line '#CHROM POS ID REF ALT'. "
                "Put its header back; a table of variants needs another name."
            ) from error
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({_reason(error)}); copy or compress it again.") from error

    def declare(self, fields: Mapping[str, tuple[str, str, str]]):
        """Add INFO fields to the header: by their names, how many values they have, their type and what they are."""
        for name, field in fields.items():
            if name in self._file.header.info:
                raise InputError(
                    f"{self.path}: the INFO field {name} is there already; remove it with bcftools annotate."
                )
            self._file.header.info.add(name, *field)

    @property
    def header(self) -> str:
        """The header's text."""
        return str(self._file.header)

    def __iter__(self) -> Iterator[Variant]:
        number, last = 0, "the header"
        while True:
            try:
                record = next(self._file, None)
            except (OSError, ValueError) as error:
                raise InputError(
                    f"{self.path}, record {number + 1}: cannot be read, after {last}; it has no eight columns between "
                    "tabs, its position is no number, or the file was cut short."
                ) from error
            if record is None:
                break
            number += 1
            last = f"{record.chrom}:{record.pos}"
            for alternate in record.alts or (None,):
                yield Variant(
                    record.ref or "",
                    alternate,
                    record.chrom,
                    record.pos,
                    record.id or "",
                    f"record {number} ({last})",
                    record,
                )
        if not number:
            raise InputError(f"{self.path}: there are no variants in it.")


def _reason(error: OSError) -> str:
    return "the end mark of bgzip is missing: it was cut short" if "EOF marker" in str(error) else str(error)


@contextmanager
def _unpacked(path: Path) -> Iterator[str]:
    with tempfile.NamedTemporaryFile(suffix=".vcf") as unpacked:
        try:
            with gzip.open(path) as packed:
                shutil.copyfileobj(packed, unpacked)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise InputError(f"{path}: the gzip data are damaged or end early; copy or compress it again.") from error
        unpacked.flush()
        yield unpacked.name


__all__ = ["Variant", "VcfFile", "is_vcf"]
