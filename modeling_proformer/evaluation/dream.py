"""The test set of the Random Promoter DREAM Challenge, read from tables."""

import os
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from ..data.tables import InputError, Row, measured_value, read_rows, require_columns, sequence_text
from .metrics import DREAM_PAIRS, DREAM_SUBSETS


FLAGS = {"true": True, "1": True, "false": False, "0": False}


class DreamTest(NamedTuple):
    """
    The test set in the order of its table. What `dream_score` asks for, and the sequences to predict.

    Attributes:
        sequences: as the table has them, with the construct's flanks or without; empty if they were not asked for.
        measured: (sequences,) of float64.
        subsets: masks (sequences,) of `"high"`, `"low"`, `"yeast"`, `"random"` and `"challenging"`.
        pairs: (pairs, 2) of places in the table, of `"snv"`, `"motif_perturbation"` and `"motif_tiling"`.
    """

    sequences: list[str]
    measured: np.ndarray
    subsets: dict[str, np.ndarray]
    pairs: dict[str, np.ndarray]


def read_dream_test(
    table: str | os.PathLike,
    pairs: Mapping[str, str | os.PathLike],
    sequence_column: str | None = "sequence",
    measured_column: str = "expression",
) -> DreamTest:
    """
    Reads the challenge's test set, or the part of it that a table holds.

    Args:
        table: has a column `row` that numbers the sequences, the measurements, and a column of True or False for each
            of the subsets high, low, yeast, random and challenging.
        pairs: for `"snv"`, `"motif_perturbation"` and `"motif_tiling"`, a table of two columns of such row numbers,
            `row_a` and `row_b`.
        sequence_column: where the sequences are; None to leave them out.
        measured_column: where the measurements are.

    Raises:
        InputError: see `read_rows`; or a column or a file of pairs is missing, a cell is not a number, a flag or a
            sequence, a row number occurs twice, or a pair names one that the table does not have.
    """
    if pairs.keys() != set(DREAM_PAIRS):
        given = ", ".join(pairs) or "none"
        raise InputError(f"{table}: tables of the pairs {', '.join(DREAM_PAIRS)} are needed; got {given}.")
    rows = list(read_rows(table))
    columns = ["row", measured_column, *DREAM_SUBSETS, *([sequence_column] if sequence_column else [])]
    require_columns(table, rows[0].cells, columns)
    place_of = {}
    for place, row in enumerate(rows):
        number = row_number(table, row, "row")
        if number in place_of:
            before = rows[place_of[number]].place
            raise InputError(f"{table}, {row.place}, column 'row': {number} was already the number of {before}.")
        place_of[number] = place
    return DreamTest(
        sequences=[sequence_text(table, row, sequence_column) for row in rows] if sequence_column else [],
        measured=np.array([measured_value(table, row, measured_column, required=True) for row in rows]),
        subsets={name: np.array([flag(table, row, name) for row in rows]) for name in DREAM_SUBSETS},
        pairs={name: read_pairs(path, table, place_of) for name, path in pairs.items()},
    )


def read_pairs(path: str | os.PathLike, table: str | os.PathLike, place_of: Mapping[str, int]) -> np.ndarray:
    """Places in the table of the rows that each pair names, (pairs, 2)."""
    places = []
    for row in read_rows(path):
        require_columns(path, row.cells, ["row_a", "row_b"])
        for column in ("row_a", "row_b"):
            number = row_number(path, row, column)
            if number not in place_of:
                raise InputError(f"{path}, {row.place}, column {column!r}: {table} has no row {number}.")
            places.append(place_of[number])
    return np.array(places).reshape(-1, 2)


def row_number(path: str | os.PathLike, row: Row, column: str) -> str:
    """As text, which is the same in a Parquet file, where it is a number."""
    number = "" if row.cells[column] is None else str(row.cells[column]).strip()
    if not number:
        raise InputError(f"{path}, {row.place}, column {column!r}: the row number is missing.")
    return number


def flag(path: str | os.PathLike, row: Row, column: str) -> bool:
    cell = row.cells[column]
    try:
        return FLAGS[str(cell).strip().lower()]
    except KeyError:
        raise InputError(f"{path}, {row.place}, column {column!r}: {cell!r} is neither True nor False.") from None


__all__ = ["DreamTest", "read_dream_test"]
