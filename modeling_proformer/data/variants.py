"""Variants of VCF files and of tables."""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from .rows import InputError, Row, name_columns, require_columns, sequence_text
from .tables import read_rows
from .vcf import Variant, VcfFile, is_vcf


# Names of columns that are recognised, whatever their case.
COLUMN_NAMES = {
    "chromosome": ("chromosome", "chrom", "#chrom", "chr", "contig", "seqnames"),
    "position": ("position", "pos"),
    "reference": ("reference", "ref", "reference_allele"),
    "alternate": ("alternate", "alt", "alternate_allele", "alternative"),
}


@dataclass(frozen=True, kw_only=True)
class VariantColumns:
    """
    Columns of a table of variants; one that is not given is recognised by its name.

    With columns of chromosomes and positions, the other two hold alleles, and otherwise whole sequences.

    Attributes:
        chromosome: column of the chromosomes.
        position: column of the positions, counted from 1 as in VCF.
        reference: column of the reference alleles or sequences.
        alternate: column of the alternate alleles or sequences.
    """

    chromosome: str | None = None
    position: str | None = None
    reference: str | None = None
    alternate: str | None = None


def read_variants(path: str | os.PathLike, columns: VariantColumns | None = None) -> Iterator[Variant]:
    """
    Stream the variants of a VCF, BCF or table, each alternate allele by itself.

    A variant that cannot be read has an `error`.

    Args:
        path: the file.
        columns: columns of a table.

    Raises:
        ImportError: VCF needs pysam.
        InputError: the file cannot be read, or has not the columns.
    """
    if is_vcf(path):
        yield from VcfFile(path)
        return
    yield from rows_to_variants(path, read_rows(path), columns)


def rows_to_variants(
    path: str | os.PathLike, rows: Iterable[Row], columns: VariantColumns | None = None
) -> Iterator[Variant]:
    """
    Yield what `read_variants` does, of rows of a table.

    Args:
        path: name of the table, for errors.
        rows: the rows.
        columns: see `read_variants`.

    Raises:
        InputError: the table has not the columns.
    """
    names: dict[str, str] | None = None
    for row in rows:
        names = names or _find_columns(path, row, columns or VariantColumns())
        try:
            yield from _variants_of(path, row, names)
        except InputError as error:
            yield Variant("", None, location=row.location, source=row, error=str(error))


def _find_columns(path: str | os.PathLike, row: Row, columns: VariantColumns) -> dict[str, str]:
    """Return the columns that a table has, by what they hold."""
    found: dict[str, str] = {}
    for what, names in COLUMN_NAMES.items():
        given = getattr(columns, what)
        alike = [given] if given else [column for column in row.cells if column.strip().lower() in names]
        require_columns(path, row.cells, alike)
        if len(alike) > 1:
            raise InputError(
                f"{path}: the columns {' and '.join(map(repr, alike))} may both be the {what}; name one with `{what}`."
            )
        if alike:
            found[what] = alike[0]
    if missing := [what for what in ("reference", "alternate") if what not in found]:
        raise InputError(
            f"{path}: no column has the name {' or '.join(map(repr, COLUMN_NAMES[missing[0]]))}; name the "
            f"{missing[0]} with `{missing[0]}`. There are {name_columns(row.cells)}."
        )
    if ("chromosome" in found) != ("position" in found):
        (there,) = {"chromosome", "position"} & set(found)
        (absent,) = {"chromosome", "position"} - set(found)
        raise InputError(
            f"{path}: the column {found[there]!r} holds the {there}, but no column the {absent}; name it with "
            f"`{absent}`."
        )
    return found


def _variants_of(path: str | os.PathLike, row: Row, names: dict[str, str]) -> Iterator[Variant]:
    if "position" not in names:
        reference, alternate = (_sequence(path, row, names[allele]) for allele in ("reference", "alternate"))
        yield Variant(reference, alternate, location=row.location, source=row)
        return
    chromosome, position, reference, alternates = (_text(row.cells[names[what]]) for what in COLUMN_NAMES)
    # Of a column with empty cells, pandas makes decimals.
    if not re.fullmatch(r"\d+(\.0)?", position, re.ASCII):
        raise InputError(f"unreadable position: {position!r} is not a whole number")
    several = alternates.split(",")
    for alternate in several:
        source = row._replace(cells={**row.cells, names["alternate"]: alternate}) if len(several) > 1 else row
        yield Variant(
            reference,
            alternate or None,
            chromosome,
            int(position.removesuffix(".0")),
            location=row.location,
            source=source,
        )


def _sequence(path: str | os.PathLike, row: Row, column: str) -> str:
    try:
        return sequence_text(path, row, column)
    except InputError as error:
        raise InputError(f"unreadable sequence: {error.reason}") from None


def _text(cell: Any) -> str:
    return "" if cell is None else str(cell).strip()


__all__ = ["VariantColumns", "read_variants", "rows_to_variants"]
