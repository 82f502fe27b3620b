"""Rows of tables, and what their cells hold: sequences, measurements and weights."""

import os
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np

from .cells import DECIMAL_COMMA, IUPAC_CELL, MARKED_NUMBER, MISSING, NUMBER, TRUTH_VALUES
from .config import did_you_mean


# A message quotes at most so many rows.
MAX_QUOTED = 3
# An error names at most so many columns.
MAX_COLUMNS_NAMED = 20


class InputError(ValueError):
    """
    An input is wrong. The message says in one line what is wrong, where, and what to do about it.

    Attributes:
        reason: the message without the file and the row, where both are known otherwise.
    """

    def __init__(self, message: str, reason: str | None = None):
        super().__init__(message)
        self.reason = message if reason is None else reason


class MissingFileError(InputError, FileNotFoundError):
    """Error about an input that is not there."""


class Row(NamedTuple):
    """
    A row of a table, or a record of a FASTA file with the columns `name` (its whole header) and `sequence`.

    Attributes:
        location: where it is, such as "line 7".
        cells: its columns.
        decimal_comma: whether 1,5 is a number in this table.
        error: why it has no prediction; empty if it has one.
    """

    location: str
    cells: dict[str, Any]
    decimal_comma: bool = False
    error: str = ""


def cell_error(source: str | os.PathLike, row: Row, column: str, what: str) -> InputError:
    """Return the error that a cell of a table is wrong."""
    reason = f"column {column!r}: {what}"
    return InputError(f"{source}, {row.location}, {reason}", reason)


def require_columns(path: str | os.PathLike, cells: Collection[str], columns: Sequence[str]):
    """
    Check that a table has these columns.

    Raises:
        InputError: a column is missing.
    """
    for column in columns:
        if column not in cells:
            hint = did_you_mean(column, cells)
            if not hint and any(NUMBER.fullmatch(name) or IUPAC_CELL.fullmatch(name) for name in cells):
                hint = " If its first line is a row, put a line with the names of the columns above it."
            raise InputError(f"{path}: there is no column {column!r}; there are {name_columns(cells)}.{hint}")


def require_new_columns(path: str, columns: Collection[str], new_columns: Sequence[str]):
    """
    Check that the columns of the output are not in the input.

    Raises:
        InputError: one is.
    """
    if taken := [name for name in new_columns if name in columns]:
        raise InputError(f"{path}: rename the column {taken[0]!r}, because predictions take that name.")


def name_columns(columns: Collection[str]) -> str:
    """Return the names of columns for a message; of very many, the first ones."""
    named = ", ".join(map(repr, list(columns)[:MAX_COLUMNS_NAMED]))
    more = len(columns) - MAX_COLUMNS_NAMED
    return f"{named} and {more:,} more" if more > 0 else named


def measured_value(path: str | os.PathLike, row: Row, column: str, required: bool = False) -> float:
    """
    Return a cell's number, 1 or 0 for TRUE or FALSE; NaN if it is missing (empty, NA, NaN, null or none) and not
    required.

    Raises:
        InputError: the cell holds something else, or is missing but required.
    """
    cell = row.cells[column]
    text = "" if cell is None else str(cell).strip().lower()
    if text in MISSING:
        if required:
            raise cell_error(path, row, column, "the measurement is missing; leave the row out.")
        return float("nan")
    if text in TRUTH_VALUES:
        return TRUTH_VALUES[text]
    if isinstance(cell, str):
        if row.decimal_comma and DECIMAL_COMMA.fullmatch(text):
            text = text.replace(",", ".")
        value = float(text) if NUMBER.fullmatch(text) else float("inf")
    else:
        try:
            value = float(cell)
        except (TypeError, ValueError, OverflowError):
            value = float("inf")
    if not np.isfinite(value):
        comma = (
            "; write a point for a decimal comma, and no mark between thousands"
            if MARKED_NUMBER.fullmatch(text)
            else ""
        )
        raise cell_error(path, row, column, f"{cell!r} is not a finite number{comma}.")
    return value


def sequence_text(path: str | os.PathLike, row: Row, column: str) -> str:
    """
    Return a cell's sequence without white space at its ends.

    Raises:
        InputError: the cell is empty, says that the sequence is missing (NA), or is not text.
    """
    sequence = row.cells[column]
    if sequence is not None and not isinstance(sequence, str):
        raise cell_error(path, row, column, f"{sequence!r} is not a sequence.")
    sequence = (sequence or "").strip()
    if sequence.lower() in MISSING:
        raise cell_error(path, row, column, "the sequence is empty.")
    return sequence


def weight_value(path: str | os.PathLike, row: Row, column: str) -> float:
    """
    Return a cell's weight.

    Raises:
        InputError: the cell is missing, negative or not a finite number.
    """
    weight = measured_value(path, row, column)
    if np.isnan(weight):
        raise cell_error(path, row, column, "the weight is missing; give 0 to a row that should not count.")
    if weight < 0:
        raise cell_error(path, row, column, f"the weight is {weight:g}, which is below 0.")
    return weight


def quote_rows(quoted: Sequence[str], count: int) -> str:
    """Return what is wrong with the first of `count` rows, and how many more there are, as the end of a sentence."""
    more = f"; and {count - len(quoted):,} more" if count > len(quoted) else ""
    text = "; ".join(text.rstrip(".") for text in quoted) + more
    # A suggestion, such as "Did you mean …?", ends the sentence by itself.
    return text if text.endswith("?") else f"{text}."


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its class if it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]


__all__ = [
    "InputError",
    "MissingFileError",
    "Row",
    "cell_error",
    "first_line",
    "measured_value",
    "name_columns",
    "quote_rows",
    "require_columns",
    "require_new_columns",
    "sequence_text",
    "weight_value",
]
