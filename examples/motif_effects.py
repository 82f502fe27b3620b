"""Report and plot how each known motif changes predicted expression.

proformer predict examples/data/motif_promoters.tsv -o expression.tsv
python examples/motif_effects.py expression.tsv --figure motif_effects.png
"""

import argparse

import numpy as np

from modeling_proformer.data.tables import measured_value, read_rows, require_columns
from modeling_proformer.evaluation.figures import effect_plot, paired_effects


# Effect of each motif in yeast grown in glucose, according to the textbook: +1 activates, -1 represses.
TEXTBOOK = {"TATA box": 1, "Reb1": 1, "Abf1": 1, "Rap1": 1, "poly(dA:dT)": 1, "Ume6": -1}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("predictions", help="table with the columns background and motif, and predicted expression")
    parser.add_argument("--column", default="predicted_expression", help="column with the predictions")
    parser.add_argument("--figure", default="motif_effects.png", help="PNG file to write")
    arguments = parser.parse_args()

    rows = list(read_rows(arguments.predictions))
    require_columns(arguments.predictions, rows[0].cells, ["background", "motif", arguments.column])
    effects = paired_effects(
        groups=[row.cells["background"] for row in rows],
        conditions=[row.cells["motif"] for row in rows],
        values=[measured_value(arguments.predictions, row, arguments.column) for row in rows],
        reference="none",
    )
    effect_plot(arguments.figure, effects, unit="sorting bins of 0 to 17")

    print("Predicted change of expression when a motif is put into random promoters (median):")
    for motif, changes in effects.items():
        median = float(np.median(changes))
        raised = float(np.mean(changes > 0))
        role = "an activator" if TEXTBOOK[motif] > 0 else "a repressor"
        verdict = f"as expected of {role}" if median * TEXTBOOK[motif] > 0 else f"but the textbook has it as {role}"
        print(f"  {motif:<12} {median:+.2f} bins, raised in {raised:.0%} of {len(changes)} promoters, {verdict}")
    print(f"Figure: {arguments.figure}")


if __name__ == "__main__":
    main()
