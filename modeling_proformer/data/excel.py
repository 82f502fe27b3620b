"""Sheets of Excel workbooks."""

import logging
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .config import count_of
from .rows import InputError, Row, first_line
from .text import check_header, number_unnamed


logger = logging.getLogger(__name__)

# Unpacked, a sheet with Excel's greatest number of rows (1,048,576) takes about as much as this.
MAX_UNPACKED_BYTES = 2**30


def read_workbook(path: Path, warn: bool) -> Iterator[Row]:
    """
    Stream the rows of a workbook's first sheet.

    Args:
        path: the workbook.
        warn: log that there are other sheets.

    Raises:
        ImportError: openpyxl is missing.
        InputError: the file is not a readable workbook, or too large.
    """
    try:
        import openpyxl
    except ImportError as error:
        raise ImportError(
            f"{path}: a workbook needs openpyxl; pip install 'modeling-proformer[excel]', or save the sheet as CSV."
        ) from error
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > MAX_UNPACKED_BYTES:
            raise InputError(f"{path}: the workbook unpacks to {unpacked:,} bytes; save its sheet as CSV.")
        workbook, of_formulas = (
            openpyxl.load_workbook(path, read_only=True, data_only=data_only) for data_only in (True, False)
        )
        sheet, *others = workbook.worksheets
        if others and warn:
            logger.warning(f"{path}: only the first of its {len(others) + 1} sheets, {sheet.title!r}, is read.")
        yield from _read_sheet(path, sheet, of_formulas.worksheets[0])
        workbook.close()
        of_formulas.close()
    except InputError:
        raise
    # The errors of damaged workbooks are of many kinds: zip, XML, missing parts.
    except Exception as error:
        raise InputError(f"{path}: not a readable Excel workbook ({first_line(error)}).") from error


def _read_sheet(path: Path, sheet: Any, of_formulas: Any) -> Iterator[Row]:
    """Yield the rows of a sheet, which is given with the values of its formulas and with the formulas themselves."""
    # The size that the file states may be wrong.
    sheet.reset_dimensions()
    of_formulas.reset_dimensions()
    header: list[str] = []
    rows_of_formulas = enumerate(of_formulas.iter_rows(), start=1)
    for number, found in enumerate(sheet.iter_rows(), start=1):
        cells = [cell.value for cell in found]
        if any(map(_is_empty, found)):
            formulas = next(row for row_number, row in rows_of_formulas if row_number == number)
            _require_stored_values(f"{path}, row {number}", header, found, formulas)
        while cells and cells[-1] is None:
            del cells[-1]
        if not cells:
            continue
        if not header:
            header = number_unnamed(["" if cell is None else str(cell) for cell in cells])
            check_header(path, header)
            continue
        if len(cells) > len(header):
            raise InputError(
                f"{path}, row {number}: {count_of(len(cells), 'cell')} under a header of "
                f"{count_of(len(header), 'column')}; the header should be the first row of the first sheet."
            )
        cells += [None] * (len(header) - len(cells))
        yield Row(f"row {number}", dict(zip(header, cells, strict=True)))


def _is_empty(cell: Any) -> bool:
    # The value that is stored of a formula may be empty text.
    return cell.value is None and cell.data_type != "str"


def _require_stored_values(place: str, header: Sequence[str], cells: Sequence[Any], formulas: Sequence[Any]):
    """Check that no formula lacks its value, as where a program wrote it that does not compute."""
    for number, (cell, formula) in enumerate(zip(cells, formulas, strict=True)):
        if _is_empty(cell) and formula.data_type == "f":
            column = f"column {header[number]!r}" if number < len(header) else f"cell {formula.coordinate}"
            raise InputError(
                f"{place}, {column}: the value of the formula is not in the file; open and save the workbook in a "
                "spreadsheet program, or save the sheet as CSV there."
            )


__all__ = ["read_workbook"]
