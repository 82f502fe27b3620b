"""The baseline to beat: ridge regression of expression on counts of k-mers.

    python examples/kmer_ridge.py --train_file promoters.parquet native.parquet --group_column family \
        --five_prime_flank TGCATTTTTTTCACATC --three_prime_flank GGTTACGGCTGTT \
        --predict_file dream_public.tsv --output predicted.tsv

k-mers are counted anywhere in the insert, on the strand as given, because a promoter has a direction; those with an N
are not counted. Each table is brought to mean 0 and standard deviation 1 on its own, so that tables on different
scales can be mixed; predictions are in the units of the first. The penalty is the one of least squared error on
families held out. What is written is what `proformer predict` would write: the table and its predictions.
"""

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import sparse
from sklearn.linear_model import Ridge

from modeling_proformer import InvalidSequenceError, ProformerTokenizer
from modeling_proformer.data.tables import InputError, Row, is_table, read_rows, require_columns, sequence_text
from modeling_proformer.data.training_data import load_training_data
from modeling_proformer.evaluation.metrics import correlation
from modeling_proformer.options import valid_options
from modeling_proformer.tokenization.tokenization_proformer import NUCLEOTIDE_N


ROWS_AT_A_TIME = 8192


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--train_file", nargs="+", action="extend", required=True, help="tables or Hub datasets, as for train.py")
    add("--max_rows", type=int, metavar="N", help="use the first N rows on either side of the hold-out of each table")
    add("--sequence_column", default="sequence", help="column of the sequences (default: sequence)")
    add("--label_columns", nargs="+", default=["expression"], help="measurements; a row that lacks one is left out")
    add("--group_column", help="column of the families; in a table without it, each row is its own")
    add("--validation_fraction", type=float, default=0.05, help="share of each table held out (default: 0.05)")
    add("--insert_width", type=int, default=100, help="longer inserts are left out (default: 100)")
    add("--five_prime_flank", help="constant letters before every insert")
    add("--three_prime_flank", help="constant letters after every insert")
    add("--missing_flanks", default="keep", choices=["keep", "cut", "refuse"], help="see ProformerTokenizer")
    add("--kmer_size", type=int, default=6, choices=range(1, 11), metavar="K", help="letters, 1 to 10 (default: 6)")
    add(
        "--gaps",
        type=int,
        nargs="+",
        default=[],
        choices=range(1, 101),
        metavar="GAP",
        help="count k-mers around GAP arbitrary letters as well; each takes as long and as much memory as plain ones",
    )
    add("--alphas", type=float, nargs="+", default=[0.1, 1, 10, 100, 1000, 10000], help="penalties to try")
    add("--seed", type=int, default=0, help="of the hold-out (default: 0)")
    add("--predict_file", type=Path, required=True, help="table or FASTA file to predict")
    add("--output", type=Path, required=True, help="TSV file to write")
    arguments = parser.parse_args()
    if arguments.max_rows is not None and arguments.max_rows < 2:
        parser.error("--max_rows must be 2 or more")
    if min(arguments.alphas) <= 0:
        parser.error("--alphas must be above 0")
    return arguments


def main():
    arguments = parse_arguments()
    with valid_options():
        tokenizer = ProformerTokenizer(
            insert_width=arguments.insert_width,
            five_prime_flank=arguments.five_prime_flank,
            three_prime_flank=arguments.three_prime_flank,
            missing_flanks=arguments.missing_flanks,
        )
    # Before the training, so that nobody waits for it to learn of a fault here.
    if not arguments.output.parent.is_dir():
        raise InputError(f"{arguments.output}: there is no folder {arguments.output.parent} to write to.")
    group_columns = {source: group_column_of(source, arguments.group_column) for source in arguments.train_file}
    if arguments.group_column and not any(group_columns.values()):
        raise InputError(f"None of the tables to train on has the column {arguments.group_column!r}.")
    names = [f"predicted_{column}" for column in arguments.label_columns]
    rows, letters_to_predict = read_rows_to_predict(arguments, names, tokenizer)

    train, held_out, scales = [], {}, []
    for source in arguments.train_file:
        train_side, held_out[source], scale = read_training_table(source, group_columns[source], arguments, tokenizer)
        train.append(train_side)
        scales.append(scale)
        sizes = f"{len(train_side.labels):,} rows to train on, {len(held_out[source].labels):,} held out"
        print(f"{source}: {sizes}", flush=True)
    counts = sparse.vstack([side.counts for side in train], format="csr")
    labels = np.concatenate([side.labels for side in train])
    # Of millions of rows, the counts are what fills the memory.
    del train, train_side

    model, least_error = None, np.inf
    for alpha in arguments.alphas:
        # No `copy_X`: with an intercept, sparse counts are not written to.
        fitted = Ridge(alpha=alpha, solver="sparse_cg", tol=1e-6, copy_X=False).fit(counts, labels)
        error = np.concatenate([predict(fitted, side.counts) - side.labels for side in held_out.values()])
        if np.mean(error**2) < least_error:
            model, least_error = fitted, np.mean(error**2)
        print(f"alpha {alpha:g}: mean squared error of the rows held out {np.mean(error**2):.4f}", flush=True)
    print(f"Rows held out, alpha {model.alpha:g}:")
    for source, side in held_out.items():
        for output, column in enumerate(arguments.label_columns):
            found = correlation(side.labels[:, output], predict(model, side.counts)[:, output])
            print(f"  {source}, {column}: Pearson r {found.pearson_r:.4f}, Spearman ρ {found.spearman_rho:.4f}")

    mean, std = scales[0]
    predicted = predict(model, kmer_counts(letters_to_predict, arguments.kmer_size, arguments.gaps)) * std + mean
    with open(arguments.output, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow([*rows[0].cells, *names])
        for row, values in zip(rows, predicted, strict=True):
            writer.writerow([*row.cells.values(), *(f"{value:.6g}" for value in values)])


class Side(NamedTuple):
    """Rows to train on or held out: k-mer counts, and (rows, outputs) measurements in standard deviations."""

    counts: sparse.csr_array
    labels: np.ndarray


def group_column_of(source: str, column: str | None) -> str | None:
    """The column, unless the table is a file without it. A Hub dataset is not looked into beforehand."""
    return None if column and is_table(source) and column not in next(read_rows(source)).cells else column


def read_training_table(
    source: str, group_column: str | None, arguments: argparse.Namespace, tokenizer: ProformerTokenizer
) -> tuple[Side, Side, np.ndarray]:
    """Both sides of a table, and (2, outputs) the mean and standard deviation of what is measured in it."""
    data = load_training_data(
        [source],
        tokenizer,
        arguments.sequence_column,
        arguments.label_columns,
        group_column=group_column,
        validation_fraction=arguments.validation_fraction,
        seed=arguments.seed,
    )
    scale = np.array([data.label_mean, data.label_std])

    def side(table) -> Side:
        table = table.select(range(min(len(table), arguments.max_rows or len(table))))
        measured = np.stack([np.array(table[column][:], dtype=float) for column in arguments.label_columns], axis=1)
        complete = np.flatnonzero(~np.isnan(measured).any(axis=1))
        letters = forward_letters(table.select(complete)[arguments.sequence_column][:], tokenizer)
        counts = kmer_counts(letters, arguments.kmer_size, arguments.gaps)
        return Side(counts, ((measured[complete] - scale[0]) / scale[1]).astype(np.float32))

    return side(data.train), side(data.held_out), scale


def read_rows_to_predict(
    arguments: argparse.Namespace, names: Sequence[str], tokenizer: ProformerTokenizer
) -> tuple[list[Row], np.ndarray]:
    """All rows, and the letters of their inserts."""
    path, column = arguments.predict_file, arguments.sequence_column
    rows = list(read_rows(path))
    require_columns(path, rows[0].cells, [column])
    if taken := [name for name in names if name in rows[0].cells]:
        raise InputError(f"{path}: rename the column {taken[0]!r}; predictions take that name.")
    try:
        return rows, forward_letters([sequence_text(path, row, column) for row in rows], tokenizer)
    except InvalidSequenceError as error:
        raise InputError(f"{path}, {rows[error.row].place}, column {column!r}: {error.reason}") from error


def forward_letters(sequences: Sequence[str], tokenizer: ProformerTokenizer) -> np.ndarray:
    """Digits of the given strand, (rows, insert_width): 1 to 4 for A C G T, and 5 for N, which fills up the width."""
    letters = np.empty((len(sequences), tokenizer.insert_width), dtype=np.uint8)
    for first in range(0, len(sequences), ROWS_AT_A_TIME):
        try:
            both_strands = tokenizer.encode_letters(sequences[first : first + ROWS_AT_A_TIME])
        except InvalidSequenceError as error:
            raise InvalidSequenceError(first + error.row, error.reason) from None
        letters[first : first + ROWS_AT_A_TIME] = both_strands[:, : tokenizer.insert_width]
    return letters


def kmer_counts(letters: np.ndarray, kmer_size: int, gaps: Sequence[int]) -> sparse.csr_array:
    """
    How often each k-mer occurs in each row: (rows, 4^k * (1 + gaps)), plain k-mers first, in alphabetical order.

    Args:
        letters: (rows, positions) of digits.
        kmer_size: letters that count in a k-mer.
        gaps: how many arbitrary letters lie after the first half of them, for each further kind of k-mer.
    """
    blocks = [sparse.csr_array((0, 4**kmer_size * (1 + len(gaps))), dtype=np.float32)]
    for first in range(0, len(letters), ROWS_AT_A_TIME):
        chunk = letters[first : first + ROWS_AT_A_TIME]
        columns = [kmer_numbers(chunk, kmer_size, gap) for gap in (0, *gaps)]
        columns = [np.where(numbers < 0, -1, numbers + 4**kmer_size * kind) for kind, numbers in enumerate(columns)]
        columns = np.concatenate(columns, axis=1)
        counted = columns >= 0
        ends = np.cumsum(counted.sum(axis=1), dtype=np.int32)
        block = sparse.csr_array(
            (np.ones(ends[-1], dtype=np.float32), columns[counted], np.concatenate([[0], ends])),
            shape=(len(chunk), blocks[0].shape[1]),
        )
        block.sum_duplicates()
        blocks.append(block)
    return sparse.vstack(blocks, format="csr")


def kmer_numbers(letters: np.ndarray, kmer_size: int, gap: int) -> np.ndarray:
    """The base-4 number of each k-mer with a gap in its middle, (rows, windows); -1 of one with an N."""
    places = [place + (gap if place >= kmer_size // 2 else 0) for place in range(kmer_size)]
    windows = max(letters.shape[1] - places[-1], 0)
    numbers = np.zeros((len(letters), windows), dtype=np.int32)
    unknown = np.zeros(numbers.shape, dtype=bool)
    for place in places:
        digits = letters[:, place : place + windows]
        numbers = 4 * numbers + (digits - 1)
        unknown |= digits == NUCLEOTIDE_N
    return np.where(unknown, -1, numbers)


def predict(model: Ridge, features: sparse.csr_array) -> np.ndarray:
    """(rows, outputs), also where the model has but one output."""
    return model.predict(features).reshape(features.shape[0], -1)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"kmer_ridge.py: {error}")
