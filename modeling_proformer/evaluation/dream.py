"""The test set of the Random Promoter DREAM Challenge, read from tables."""

import os
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from ..data.tables import InputError, Row, cell_error, measured_value, read_rows, require_columns, sequence_text
from .metrics import DREAM_PAIRS, DREAM_SUBSETS


_FLAGS = {"true": True, "1": True, "false": False, "0": False}


class DreamTest(NamedTuple):
    """
    The challenge's test set, in the order of its table: the sequences to predict, and what `dream_score` needs.

    Attributes:
        sequences: as the table has them, with or without the construct's flanks; empty if they were not requested.
        measured: (sequences,) of float64.
        subsets: masks (sequences,) of `"high"`, `"low"`, `"yeast"`, `"random"` and `"challenging"`.
        pairs: (pairs, 2) indices of sequences, for `"snv"`, `"motif_perturbation"` and `"motif_tiling"`.
    """

    sequences: list[str]
    measured: np.ndarray
    subsets: dict[str, np.ndarray]
    pairs: dict[str, np.ndarray]


def read_dream_test(
    table: str | os.PathLike,
    pairs: Mapping[str, str | os.PathLike],
    sequence: str | None = "sequence",
    target: str = "expression",
) -> DreamTest:
    """
    Read the challenge's test set, or the part of it that a table has.

    Args:
        table: file with a column `row` that numbers the sequences, the measurements, and a column of True or False for
            each of the subsets high, low, yeast, random and challenging.
        pairs: for `"snv"`, `"motif_perturbation"` and `"motif_tiling"`, a file with two columns of such row numbers,
            `row_a` and `row_b`.
        sequence: column with the sequences; None to leave them out.
        target: column with the measurements.

    Raises:
        InputError: see `read_rows`; or a column or a file of pairs is missing, a cell is not a number, a flag or a
            sequence, a row number occurs twice, or a pair has one that is not in the table.
    """
    if pairs.keys() != set(DREAM_PAIRS):
        given = ", ".join(pairs) or "none"
        raise InputError(f"{table}: files of the pairs {', '.join(DREAM_PAIRS)} are needed, got {given}.")
    rows = list(read_rows(table))
    require_columns(table, rows[0].cells, ["row", target, *DREAM_SUBSETS, *([sequence] if sequence else [])])
    index_of: dict[str, int] = {}
    for index, row in enumerate(rows):
        number = _row_number(table, row, "row")
        if number in index_of:
            first = rows[index_of[number]].location
            raise cell_error(table, row, "row", f"{number} is already the number of {first}.")
        index_of[number] = index
    return DreamTest(
        sequences=[sequence_text(table, row, sequence) for row in rows] if sequence else [],
        measured=np.array([measured_value(table, row, target, required=True) for row in rows]),
        subsets={name: np.array([_flag(table, row, name) for row in rows]) for name in DREAM_SUBSETS},
        pairs={name: _read_pairs(path, table, index_of) for name, path in pairs.items()},
    )


def _read_pairs(path: str | os.PathLike, table: str | os.PathLike, index_of: Mapping[str, int]) -> np.ndarray:
    """Return the indices of the sequences that make up each pair, (pairs, 2)."""
    indices = []
    for row in read_rows(path):
        require_columns(path, row.cells, ["row_a", "row_b"])
        for column in ("row_a", "row_b"):
            number = _row_number(path, row, column)
            if number not in index_of:
                raise cell_error(path, row, column, f"{table} has no row {number}.")
            indices.append(index_of[number])
    return np.array(indices).reshape(-1, 2)


def _row_number(path: str | os.PathLike, row: Row, column: str) -> str:
    """Return a row number as text, because it is a number in Parquet files and text in others."""
    number = "" if row.cells[column] is None else str(row.cells[column]).strip()
    if not number:
        raise cell_error(path, row, column, "the row number is missing.")
    return number


def _flag(path: str | os.PathLike, row: Row, column: str) -> bool:
    cell = row.cells[column]
    try:
        return _FLAGS[str(cell).strip().lower()]
    except KeyError:
        raise cell_error(path, row, column, f"{cell!r} is neither True nor False.") from None


__all__ = ["DreamTest", "read_dream_test"]
