"""From RNA and DNA counts of barcodes, as a massively parallel reporter assay gives them, to activities."""

import numpy as np
import pyarrow as pa

from .assay import Assay, number_names, precision_weights, rows_of_inserts
from .config import count_of
from .sources import as_dataset
from .tables import InputError


def combine_barcodes(assay: Assay, assigned: np.ndarray) -> tuple[Assay, np.ndarray]:
    """
    Return the assay with one row for each insert, at the location of its first barcode; and the splits of these rows.

    The activity in a replicate is the log2 ratio of RNA to DNA: the reads of an insert are summed over its barcodes, 1
    is added, and they are divided by the sum of their column. The activity of the insert is the mean over the
    replicates in which at least `min_barcodes` of its barcodes were read. Its weight follows from the standard error
    that Poisson counts have.

    Source: this is the definition of mpralib (`MPRAOligoData`, https://github.com/kircherlab/MPRAlib). BCalm and
    mpralm too take log2(RNA + 1) - log2(DNA + 1), of counts at equal depth.

    Args:
        assay: its labels are counts, (rows, RNA columns and then DNA columns).
        assigned: (rows,) split of each row.

    Raises:
        InputError: a column has no reads, or no insert has enough barcodes.
    """
    config = assay.config
    assay, assigned, ambiguous = _leave_out_ambiguous(assay, assigned)
    kept, members = rows_of_inserts(assay, assigned)
    replicates = len(config.rna or [])
    sums = np.stack([np.bincount(members, column, len(kept)) for column in assay.labels.T], axis=1)
    for column, reads in zip(config.measured_columns, sums.sum(axis=0), strict=True):
        if reads == 0:
            raise InputError(f"{assay.name}, column {column!r}: there are no reads.")
    barcodes = _count_barcodes(assay, members, len(kept))
    # A single DNA column is that of all replicates.
    rna, dna = sums[:, :replicates], np.broadcast_to(sums[:, replicates:], (len(kept), replicates))
    observed = (barcodes > 0).sum(axis=0)
    ratios = np.log2((rna + 1) / (rna.sum(axis=0) + observed)) - np.log2((dna + 1) / (dna.sum(axis=0) + observed))
    measured = barcodes >= config.min_barcodes
    number = measured.sum(axis=1)
    enough = np.flatnonzero(number)
    if not len(enough):
        raise InputError(
            f"{assay.name}: the most barcodes of a sequence that were read are {barcodes.max():,} in one replicate; "
            f"give a smaller `min_barcodes` than {config.min_barcodes:,}."
        )

    def mean(values: np.ndarray) -> np.ndarray:
        """Return the mean over the replicates that count, of each insert that has any."""
        return np.where(measured, values, 0).sum(axis=1)[enough] / number[enough]

    # Errors of a DNA column that all replicates share do not average out.
    independent = 1 if sums.shape[1] == replicates + 1 else number[enough]
    variance = mean(1 / (rna + 1)) / number[enough] + mean(1 / (dna + 1)) / independent
    combined = assay.take(kept[enough])
    combined.labels = mean(ratios)[:, None]
    combined.weights = precision_weights(assay.name, config.outputs[0], np.sqrt(variance) / np.log(2))
    combined.table = _with_measurements(combined)
    over = f", averaged over {replicates} replicates" if replicates > 1 else ""
    combined.findings = [
        *assay.findings,
        f"{len(assay):,} rows of barcodes are combined to {len(kept):,} sequences. Their activity is the log2 ratio "
        f"of RNA to DNA{over}: the reads of all barcodes of a sequence plus 1, relative to the sum of these in the "
        "column.",
        "Sequences are weighted by 1 / (e² + median of e²), where e is the standard error that follows from reads.",
    ]
    if ambiguous:
        combined.findings.append(f"Rows whose barcode belongs to several sequences: {ambiguous:,}; they are left out.")
    if config.min_barcodes > 1:
        few = int((~measured[enough]).sum())
        combined.findings.append(
            f"A sequence counts in a replicate where at least {config.min_barcodes:,} of its barcodes were read. In "
            f"sequences that are kept, this leaves out {count_of(few, 'replicate')}."
        )
    if left := len(kept) - len(enough):
        combined.findings.append(
            f"Sequences with fewer than {count_of(config.min_barcodes, 'barcode')} in every replicate: {left:,}; they "
            "are left out."
        )
    return combined, assigned[kept[enough]]


def _leave_out_ambiguous(assay: Assay, assigned: np.ndarray) -> tuple[Assay, np.ndarray, int]:
    """Return the assay and the splits without barcodes of several inserts, and how many rows were left out."""
    if not assay.config.barcode:
        return assay, assigned, 0
    barcodes = number_names(assay, "barcode")
    pairs = np.unique(np.stack([barcodes, assay.inserts.numbers]), axis=1)
    kept = np.flatnonzero(np.bincount(pairs[0])[barcodes] == 1)
    return assay.take(kept), assigned[kept], len(barcodes) - len(kept)


def _count_barcodes(assay: Assay, members: np.ndarray, inserts: int) -> np.ndarray:
    """Return how many barcodes of each insert were read, as RNA or DNA, in each replicate, (inserts, replicates)."""
    config = assay.config
    replicates = len(config.rna or [])
    read = (assay.labels[:, :replicates] > 0) | (assay.labels[:, replicates:] > 0)
    barcodes = number_names(assay, "barcode") if config.barcode else np.arange(len(assay))
    pairs = [np.unique(np.stack([members[rows], barcodes[rows]]), axis=1) for rows in read.T]
    return np.stack([np.bincount(inserts_read, minlength=inserts) for inserts_read, _ in pairs], axis=1)


def _with_measurements(assay: Assay):
    """Return the table of the assay with its labels and weights instead of counts and barcodes."""
    arrow = assay.table.with_format("arrow")[:].replace_schema_metadata(None)
    labels = pa.FixedSizeListArray.from_arrays(pa.array(assay.labels.ravel()), 1)
    arrow = arrow.drop_columns(["labels", *(["barcode"] if assay.config.barcode else [])])
    arrow = arrow.append_column("labels", labels).append_column("weight", pa.array(assay.weights))
    return as_dataset(arrow)


__all__ = ["combine_barcodes"]
