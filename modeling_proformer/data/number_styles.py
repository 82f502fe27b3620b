"""Marks in the numbers of a text table: decimal points and commas, and marks between thousands."""

import logging
import re
from pathlib import Path

from .cells import DNA_CELL
from .rows import InputError, Row


logger = logging.getLogger(__name__)


class NumberStyles:
    """
    Finds columns whose numbers can be read in two ways.

    A decimal comma and a decimal point do not go together. Beside 955, and without any 0.5 or 1759, 1.759 is probably
    the number 1759 with a mark between its thousands; so is 1,759 between semicolons.
    """

    STYLE = re.compile(
        r"[+-]?(?:(?P<zero>0)|(?P<below_thousand>[1-9]\d{0,2})|(?P<plain>[1-9]\d{3,})"
        r"|(?P<point_groups>[1-9]\d{0,2}\.\d{3})|(?P<comma_groups>[1-9]\d{0,2},\d{3})"
        r"|(?P<point>(?:\d+\.\d*|\.\d+)(?:e[+-]?\d+)?)|(?P<comma>\d*,\d+(?:e[+-]?\d+)?))",
        re.ASCII | re.IGNORECASE,
    )
    MARKS = {"point": ("point", "point_groups"), "comma": ("comma", "comma_groups")}

    def __init__(self, path: Path, delimiter: str, warn: bool, columns: list[str]):
        self.path = path
        self.semicolons = delimiter == ";"
        self.warn = warn
        self.undecided = columns
        # For each column, the first number of each style and where it is.
        self.found: dict[str, dict[str, tuple[str, str]]] = {column: {} for column in columns}

    def add(self, row: Row):
        """Look at a row; raise an error if a column has both decimal commas and decimal points."""
        settled = set()
        for column in self.undecided:
            cell = row.cells[column]
            number = self.STYLE.fullmatch(cell.strip())
            style = "" if number is None else str(number.lastgroup)
            if style and style not in self.found[column]:
                self.found[column][style] = (cell, row.location)
                if self.semicolons:
                    self._refuse_both_marks(column, style)
            # Between semicolons, another mark may yet follow.
            if DNA_CELL.fullmatch(cell) or (style in ("plain", "point") and not self.semicolons):
                settled.add(column)
        if settled:
            self.undecided = [column for column in self.undecided if column not in settled]

    def _refuse_both_marks(self, column: str, style: str):
        """Refuse a number whose decimal mark is not that of the numbers before it."""
        found = self.found[column]
        for mark, other in (("point", "comma"), ("comma", "point")):
            others = [found[each] for each in self.MARKS[other] if each in found]
            if style in self.MARKS[mark] and others:
                (number, place), (before, place_before) = found[style], others[0]
                raise InputError(
                    f"{self.path}, {place}, column {column!r}: {number!r} has a decimal {mark}, but {before!r} in "
                    f"{place_before} has the other; write all numbers alike, without marks between thousands."
                )

    def finish(self):
        """
        Report marks that probably stand between thousands.

        Raises:
            InputError: they do, because whole numbers below 1000 have none; and the table has semicolons, as where
                marks do mean this.
        """
        for column, found in self.found.items():
            for decimals, groups in self.MARKS.values() if self.semicolons else [self.MARKS["point"]]:
                if groups not in found or found.keys() & {decimals, "plain"}:
                    continue
                number, place = found[groups]
                thousands = re.sub("[.,]", "", number.strip())
                here = f"{self.path}, {place}, column {column!r}"
                if self.semicolons and "below_thousand" in found:
                    small, other_place = found["below_thousand"]
                    raise InputError(
                        f"{here}: {number!r} may be {thousands}, because {small} in {other_place} has no decimals. "
                        f"Write {thousands}, or decimals in all numbers ({small}.0)."
                    )
                if self.warn and (self.semicolons or "below_thousand" in found):
                    logger.warning(
                        f"{here}: {number!r} is read as a decimal number. If it is {thousands}, remove the marks "
                        "between thousands from this column."
                    )


__all__ = ["NumberStyles"]
