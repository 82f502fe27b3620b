"""Sheets of Excel workbooks."""

import logging
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .config import count_of
from .rows import InputError, Row, first_line
from .text import check_header


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
        workbook = openpyxl.load_workbook(path, read_only=True, data_only=True)
        sheet, *others = workbook.worksheets
        if others and warn:
            logger.warning(f"{path}: only the first of its {len(others) + 1} sheets, {sheet.title!r}, is read.")
        yield from _read_sheet(path, sheet)
        workbook.close()
    except InputError:
        raise
    # The errors of damaged workbooks are of many kinds: zip, XML, missing parts.
    except Exception as error:
        raise InputError(f"{path}: not a readable Excel workbook ({first_line(error)}).") from error


def _read_sheet(path: Path, sheet: Any) -> Iterator[Row]:
    # The size that the file states may be wrong.
    sheet.reset_dimensions()
    header: list[str] = []
    for number, values in enumerate(sheet.iter_rows(values_only=True), start=1):
        cells = [*values]
        while cells and cells[-1] is None:
            del cells[-1]
        if not cells:
            continue
        if not header:
            header = ["" if cell is None else str(cell) for cell in cells]
            check_header(path, header)
            continue
        if len(cells) > len(header):
            raise InputError(
                f"{path}, row {number}: {count_of(len(cells), 'cell')} under a header of "
                f"{count_of(len(header), 'column')}; the header should be the first row of the first sheet."
            )
        cells += [None] * (len(header) - len(cells))
        yield Row(f"row {number}", dict(zip(header, cells, strict=True)))


__all__ = ["read_workbook"]
