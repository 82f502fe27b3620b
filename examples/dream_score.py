"""Score predictions of the Random Promoter DREAM Challenge's test sequences.

    proformer predict dream_public.tsv -o predicted.tsv
    python examples/dream_score.py predicted.tsv --snv snv.tsv --motif_perturbation perturbation.tsv \
        --motif_tiling tiling.tsv --bootstrap 1000

The table has a column `row` that numbers the sequences, the measured `expression`, the prediction, and a column of
True or False for each of the subsets high, low, yeast, random and challenging. The pair files have two columns of row
numbers, `row_a` and `row_b`.
"""

import argparse
import sys

import numpy as np

from modeling_proformer.data.tables import InputError
from modeling_proformer.evaluation import dream_score, dream_score_intervals, read_dream_test
from modeling_proformer.evaluation.metrics import DREAM_PAIRS, DREAM_WEIGHTS


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("predictions", help="table with sequences, measurements and predictions")
    parser.add_argument("--measured", default="expression", help="column with the measurements")
    parser.add_argument("--predicted", default="predicted_expression", help="column with the predictions")
    for name in DREAM_PAIRS:
        parser.add_argument(f"--{name}", required=True, help=f"file with the {name} pairs")
    parser.add_argument(
        "--bootstrap",
        type=int,
        default=0,
        metavar="N",
        help="also print 95%% intervals, from N bootstrap replicates; 1000 take seconds (default: 0)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap (default: 0)")
    parser.add_argument(
        "--intervals",
        action="store_true",
        help="also print how many measurements lie within the intervals of `proformer predict --interval`; because "
        "they have a scale of their own, a line of least squares brings them to that of the predictions",
    )
    arguments = parser.parse_args()
    if arguments.bootstrap < 0 or arguments.seed < 0:
        parser.error("--bootstrap and --seed cannot be negative")

    pairs = {name: getattr(arguments, name) for name in DREAM_PAIRS}
    ends = [f"{arguments.predicted}_{end}" for end in ("low", "high")] if arguments.intervals else []
    measured, predicted, *interval = (
        read_dream_test(arguments.predictions, pairs, sequence=None, target=column)
        for column in (arguments.measured, arguments.predicted, *ends)
    )
    inputs = (measured.measured, predicted.measured, measured.subsets, measured.pairs)
    try:
        score = dream_score(*inputs)
    except ValueError as error:
        raise InputError(f"{arguments.predictions}: {error}") from error
    print(f"{'subset':<20}{'weight':>8}{'n':>8}{'Pearson r':>11}{'Spearman':>10}")
    for name, found in score.subsets.items():
        print(f"{name:<20}{DREAM_WEIGHTS[name]:>8}{found.count:>8}{found.pearson_r:>11.4f}{found.spearman_rho:>10.4f}")
    print(f"DREAM Pearson score {score.pearson_score:.4f}, Spearman score {score.spearman_score:.4f}")
    if interval:
        # The line gives the measurement that a prediction stands for. One that gives predictions of measurements would
        # draw the measurements together, and more of them would be covered.
        slope, intercept = np.polyfit(predicted.measured, measured.measured, deg=1)
        rescaled = (measured.measured - intercept) / slope
        low, high = (end.measured for end in interval)
        covered = (low <= rescaled) & (rescaled <= high)
        print(f"The intervals cover {covered.mean():.3f} of the measurements.")
    if not arguments.bootstrap:
        return

    intervals = dream_score_intervals(*inputs, replicates=arguments.bootstrap, seed=arguments.seed)
    print(f"\n95% intervals ({arguments.bootstrap:,} bootstrap replicates):")
    print(f"{'subset':<20}{'Pearson r':>20}{'Spearman':>20}")
    for name, (pearson, spearman) in {**intervals.subsets, "DREAM score": intervals[:2]}.items():
        ends = (f"{low:.4f} to {high:.4f}" for low, high in (pearson, spearman))
        print(f"{name:<20}{next(ends):>20}{next(ends):>20}")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"dream_score.py: {error}")
