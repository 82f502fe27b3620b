"""Train the baseline to beat, a ridge regression of expression on counts of k-mers, and predict a table with it.

    python examples/kmer_ridge.py promoters.parquet native.parquet --group family \
        --predict dream_public.tsv --output predicted.tsv \
        --five_prime_flank TGCATTTTTTTCACATC --three_prime_flank GGTTACGGCTGTT --missing_flanks cut

The constructs of the tables to train on are detected. k-mers are counted anywhere in the insert, on the strand as
given. The measurements of each table are scaled to mean 0 and a standard deviation of 1, so that tables on different
scales can be mixed; predictions are in the units of the first table. The penalty is the one with the smallest squared
error on validation rows. The output is the table to predict with its predictions, as `proformer predict` writes it.
This needs scikit-learn.
"""

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import sparse

from modeling_proformer import InvalidSequenceError, ProformerTokenizer
from modeling_proformer.data.assay import Assay
from modeling_proformer.data.config import DataConfig
from modeling_proformer.data.prepare import prepare_assay
from modeling_proformer.data.sequences import Sequences
from modeling_proformer.data.tables import (
    InputError,
    Row,
    cell_error,
    is_table,
    read_rows,
    require_columns,
    sequence_text,
)
from modeling_proformer.evaluation import correlation
from modeling_proformer.training.baseline import count_kmers, fit_ridge
from modeling_proformer.training.transfer import label_scale


class Rows(NamedTuple):
    """Rows of one split: counts of k-mers, and (rows, targets) measurements in standard deviations of their table."""

    counts: sparse.csr_array
    measured: np.ndarray


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("tables", nargs="+", help="tables or Hub datasets to train on, as for `proformer train`")
    add("--sequence", default="sequence", help="column with the sequences (default: sequence)")
    add("--targets", nargs="+", default=["expression"], help="columns with measurements; incomplete rows are left out")
    add("--group", help="column with the group of each row; rows of a table without it are unrelated")
    add("--validation_fraction", type=float, default=0.05, help="share of each table for validation (default: 0.05)")
    add("--kmer_size", type=int, default=6, choices=range(1, 11), metavar="K", help="bases, 1 to 10 (default: 6)")
    add("--alphas", type=float, nargs="+", default=[0.1, 1, 10, 100, 1000, 10000], help="penalties to try")
    add("--seed", type=int, default=0, help="seed of the split (default: 0)")
    add("--predict", type=Path, required=True, help="table or FASTA file to predict")
    add("--five_prime_flank", help="constant bases before its inserts; by default as in the first table to train on")
    add("--three_prime_flank", help="constant bases after its inserts")
    add("--missing_flanks", choices=["keep", "cut", "refuse"], help="see ProformerTokenizer")
    add("--output", type=Path, required=True, help="TSV file to write")
    arguments = parser.parse_args()
    if min(arguments.alphas) <= 0:
        parser.error("--alphas must be above 0")
    return arguments


def main():
    arguments = parse_arguments()
    targets = arguments.targets
    # Errors in the output and the table to predict are reported before the training.
    if not arguments.output.parent.is_dir():
        raise FileNotFoundError(f"{arguments.output}: there is no folder {arguments.output.parent} to write to.")
    names = [f"predicted_{target}" for target in targets]
    rows, sequences = read_rows_to_predict(arguments.predict, arguments.sequence, names)
    options = ("five_prime_flank", "three_prime_flank", "missing_flanks")
    construct = {name: getattr(arguments, name) for name in options if getattr(arguments, name) is not None}
    tokenizer = ProformerTokenizer(**construct) if construct else None

    assays = [prepare(table, group, arguments) for table, group in group_columns(arguments).items()]
    scales = [label_scale(targets, assay.measured[assay.split.train]) for assay in assays]
    pairs = list(zip(assays, scales, strict=True))
    train = [rows_of(assay, assay.split.train, scale, arguments.kmer_size) for assay, scale in pairs]
    validation = [rows_of(assay, assay.split.validation, scale, arguments.kmer_size) for assay, scale in pairs]
    ridge = fit_ridge(*join(train), *join(validation), arguments.alphas)
    print(f"{sum(len(part.measured) for part in train):,} training rows, penalty {ridge.alpha:g}; validation rows:")
    for assay, part in zip(assays, validation, strict=True):
        predicted = ridge.predict(part.counts).reshape(part.measured.shape)
        for number, target in enumerate(targets):
            r, rho, count = correlation(part.measured[:, number], predicted[:, number])
            print(f"  {assay.name}, {target}: Pearson r {r:.4f}, Spearman ρ {rho:.4f}, n = {count:,}")

    try:
        inserts = sequences.inserts(assays[0].tokenizer if tokenizer is None else tokenizer)
    except InvalidSequenceError as error:
        raise InputError(f"{arguments.predict}, {rows[error.row].location}: {error.reason}") from error
    mean, std = scales[0]
    predicted = ridge.predict(count_kmers(inserts, arguments.kmer_size)).reshape(-1, len(targets)) * std + mean
    with open(arguments.output, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow([*rows[0].cells, *names])
        for row, values in zip(rows, predicted, strict=True):
            writer.writerow([*row.cells.values(), *(f"{value:.6g}" for value in values)])


def group_columns(arguments: argparse.Namespace) -> dict[str, str | None]:
    """Return the group column of each table. Only files are searched for it, Hub datasets must have it."""
    group = arguments.group
    columns = {
        table: None if group and is_table(table) and group not in next(read_rows(table)).cells else group
        for table in arguments.tables
    }
    if group and not any(columns.values()):
        raise InputError(f"None of the tables to train on has the column {group!r}.")
    return columns


def prepare(table: str, group: str | None, arguments: argparse.Namespace) -> Assay:
    config = DataConfig(
        sequence=arguments.sequence,
        targets=arguments.targets,
        group=group,
        duplicates="keep",
        split_by="random",
        validation_fraction=arguments.validation_fraction,
        test_fraction=0.0,
    )
    return prepare_assay(table, config, ProformerTokenizer(), seed=arguments.seed)


def rows_of(assay: Assay, numbers: np.ndarray, scale: tuple[list[float], list[float]], kmer_size: int) -> Rows:
    complete = numbers[~np.isnan(assay.measured[numbers]).any(axis=1)]
    mean, std = scale
    return Rows(count_kmers(assay.inserts.take(complete), kmer_size), (assay.measured[complete] - mean) / std)


def join(parts: Sequence[Rows]) -> Rows:
    return Rows(
        sparse.vstack([part.counts for part in parts], format="csr"),
        np.concatenate([part.measured for part in parts]),
    )


def read_rows_to_predict(path: Path, column: str, names: Sequence[str]) -> tuple[list[Row], Sequences]:
    """Return the rows of the table to predict, and their sequences."""
    rows = list(read_rows(path))
    require_columns(path, rows[0].cells, [column])
    if taken := [name for name in names if name in rows[0].cells]:
        raise InputError(f"{path}: rename the column {taken[0]!r}; predictions take that name.")
    try:
        return rows, Sequences.encode([sequence_text(path, row, column) for row in rows])
    except InvalidSequenceError as error:
        raise cell_error(path, rows[error.row], column, error.reason) from error


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"kmer_ridge.py: {error}")
