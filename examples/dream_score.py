"""Scores predictions of the Random Promoter DREAM Challenge's test sequences.

    proformer predict dream_public.tsv -o predicted.tsv
    python examples/dream_score.py predicted.tsv --snv snv.tsv --motif_perturbation perturbation.tsv \
        --motif_tiling tiling.tsv

The table has a column `row` that numbers the sequences, the measured `expression`, the prediction, and a column of
True or False for each of the subsets high, low, yeast, random and challenging. The pair files have two columns of row
numbers, `row_a` and `row_b`.
"""

import argparse

import numpy as np

from modeling_proformer.assays import measured_value, read_rows, require_columns
from modeling_proformer.metrics import DREAM_PAIRS, DREAM_WEIGHTS, dream_score


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("predictions", help="table of sequences, measurements and predictions")
    parser.add_argument("--measured", default="expression", help="column of the measurements")
    parser.add_argument("--predicted", default="predicted_expression", help="column of the predictions")
    for name in DREAM_PAIRS:
        parser.add_argument(f"--{name}", required=True, help=f"table of the {name} pairs")
    arguments = parser.parse_args()

    rows = list(read_rows(arguments.predictions))
    subsets = sorted(DREAM_WEIGHTS.keys() - {"all", *DREAM_PAIRS})
    columns = ["row", arguments.measured, arguments.predicted, *subsets]
    require_columns(arguments.predictions, rows[0].cells, columns)
    index_of = {row.cells["row"]: index for index, row in enumerate(rows)}
    score = dream_score(
        np.array([measured_value(arguments.predictions, row, arguments.measured) for row in rows]),
        np.array([measured_value(arguments.predictions, row, arguments.predicted) for row in rows]),
        subsets={name: np.array([row.cells[name] == "True" for row in rows]) for name in subsets},
        pairs={
            name: np.array(
                [
                    (index_of[pair.cells["row_a"]], index_of[pair.cells["row_b"]])
                    for pair in read_rows(getattr(arguments, name))
                ]
            )
            for name in DREAM_PAIRS
        },
    )
    print(f"{'subset':<20}{'weight':>8}{'n':>8}{'Pearson r':>11}{'Spearman':>10}")
    for name, found in score.subsets.items():
        print(f"{name:<20}{DREAM_WEIGHTS[name]:>8}{found.count:>8}{found.pearson_r:>11.4f}{found.spearman_rho:>10.4f}")
    print(f"DREAM Pearson score {score.pearson_score:.4f}, Spearman score {score.spearman_score:.4f}")


if __name__ == "__main__":
    main()
