"""The measured promoters that the embedded checkpoint is fine-tuned on, in one table: an output for each medium.

    python examples/recipes/join_measured.py native_ypd.parquet random_ypd.tsv dream_train_sample.tsv measured.tsv

Flanks are cut off by their lengths, because some of random_ypd.tsv's have errors.
"""

import argparse

import pandas as pd


FIVE_PRIME, THREE_PRIME = "TGCATTTTTTTCACATC", "GGTTACGGCTGTT"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("native", help="Parquet file of native promoters in YPD: sequence, expression")
    parser.add_argument("random", help="TSV file of random promoters in YPD: sequence, expression")
    parser.add_argument("must", help="TSV file of random promoters in Chardonnay must: sequence, expression")
    parser.add_argument("output", help="TSV file to write: sequence, ypd, must")
    arguments = parser.parse_args()

    ypd = pd.concat([pd.read_parquet(arguments.native), pd.read_csv(arguments.random, sep="\t")])
    must = pd.read_csv(arguments.must, sep="\t")
    tables = [ypd.rename(columns={"expression": "ypd"}), must.rename(columns={"expression": "must"})]
    joined = pd.concat(tables)[["sequence", "ypd", "must"]]
    joined["sequence"] = joined["sequence"].str[len(FIVE_PRIME) : -len(THREE_PRIME)]
    joined.to_csv(arguments.output, sep="\t", index=False)


if __name__ == "__main__":
    main()
