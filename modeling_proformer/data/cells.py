"""What the text in a table's cells stands for: numbers, truth values, classes, missing values and ambiguous bases."""

import re
from typing import Any


MISSING = {"", "na", "n/a", "#n/a", "<na>", "nan", "null", "none"}
TRUTH_VALUES = {"true": 1.0, "false": 0.0}

# Python also reads 1_2 as 12, which may be the label of a well.
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)

# What looks like a number with other marks: 1.197,79 or 1 198 or 12% or −5.
MARKED_NUMBER = re.compile(r"[+\-−]?[\d\s.,'’]*\d[\d\s.,'’]*%?")

# A line of a table that holds this much DNA in a cell is a row, and not the header.
DNA_CELL = re.compile("[ACGTUN]{8,}", re.IGNORECASE)

IUPAC_CODES = "RYSWKMBDHV"
IUPAC_CELL = re.compile(f"[ACGTUN{IUPAC_CODES}]{{4,}}", re.IGNORECASE)
IUPAC_REMEDY = "`iupac_as_n` reads IUPAC codes as N."
IUPAC_TO_N = str.maketrans(dict.fromkeys(IUPAC_CODES + IUPAC_CODES.lower(), "N"))


def class_key(cell: Any) -> str:
    """
    Return the text by which a cell and the name of a class are compared.

    Blanks at the ends do not count. Numbers and truth values are compared as such: 1, 1.0 and "1" are the same, and so
    are True and "TRUE".
    """
    text = "" if cell is None else str(cell).strip()
    if text.lower() in TRUTH_VALUES:
        return text.lower()
    # The sum makes -0.0 the same as 0.0.
    return repr(float(text) + 0.0) if NUMBER.fullmatch(text) else text


def iupac_hint(sequence: str) -> str:
    """Return what an error about a sequence's characters adds if they are IUPAC codes of several bases."""
    return "" if sequence.translate(IUPAC_TO_N) == sequence else f" {IUPAC_REMEDY}"


__all__ = ["class_key", "iupac_hint"]
