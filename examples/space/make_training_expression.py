"""Count measured promoters by expression, and write training_expression.tsv, which the page draws.

python make_training_expression.py native_ypd.parquet random_ypd.tsv

The tables have a column `expression`, and a column `native` if some of their promoters are native.
"""

import csv
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from modeling_proformer.data.tables import InputError, measured_value, read_rows, require_columns


OUTPUT = Path(__file__).with_name("training_expression.tsv")
# Sorting bins go from 0 to 17. Some means that were estimated from reads lie outside.
EDGES = np.arange(-2, 20.5, 0.5)


def count_expression(tables: Sequence[str | Path]) -> dict[str, np.ndarray]:
    """Count the promoters of each kind between the edges."""
    expression = {"native promoters": [], "random inserts": []}
    for table in tables:
        for row in read_rows(table):
            require_columns(table, row.cells, ["expression"])
            kind = "native promoters" if row.cells.get("native") else "random inserts"
            expression[kind].append(measured_value(table, row, "expression", required=True))
    for kind, values in expression.items():
        if values and not EDGES[0] <= min(values) <= max(values) <= EDGES[-1]:
            raise InputError(
                f"Expression of {kind} goes from {min(values):g} to {max(values):g}, outside of the edges."
            )
    return {kind: np.histogram(values, EDGES)[0] for kind, values in expression.items()}


def main():
    counts = count_expression(sys.argv[1:])
    with open(OUTPUT, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(["from", "to", *counts])
        writer.writerows(zip(EDGES[:-1], EDGES[1:], *counts.values(), strict=True))


if __name__ == "__main__":
    main()
