"""Rows of a table to the tensors that a model is trained on."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from .modeling_proformer import IGNORED
from .tokenization.tokenization_proformer import NUCLEOTIDE_M, NUCLEOTIDE_N, ProformerTokenizer


class ProformerCollator:
    """
    Tokenizes sequences, collects their measurements and masks nucleotides, as a `DataLoader`'s `collate_fn`.

    Args:
        tokenizer: of the assay's construct.
        sequence_column: the rows' key of the sequence.
        label_columns: the rows' keys of the measurements, one for each output. NaN and `None` are missing.
        mask_probability: chance of each letter other than N to be masked, on each strand on its own; published 0.05.
            0 masks nothing and leaves `masked_nucleotides` out.

    Returns:
        `input_ids` and `token_type_ids` (batch, positions); `labels` (batch, outputs) in the assay's units, float32,
        -100 where missing; `masked_nucleotides` (batch, positions), the letter under each mask, 0 to 3 for A C G T,
        -100 elsewhere.

    Raises:
        ValueError: nucleotides are to be masked but k-mers do not start at every letter, so that a masked letter
            has no position of its own (the published training is not defined there either).
    """

    def __init__(
        self,
        tokenizer: ProformerTokenizer,
        sequence_column: str = "sequence",
        label_columns: Sequence[str] = ("expression",),
        mask_probability: float = 0.0,
    ):
        if not 0 <= mask_probability < 1:
            raise ValueError(f"`mask_probability` must be at least 0 and below 1, got {mask_probability}.")
        if mask_probability > 0 and tokenizer.kmer_stride != 1:
            raise ValueError(f"Masking needs `kmer_stride` 1, but the tokenizer has {tokenizer.kmer_stride}.")
        self.tokenizer = tokenizer
        self.sequence_column = sequence_column
        self.label_columns = list(label_columns)
        self.mask_probability = mask_probability

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        letters = self.tokenizer.encode_letters([row[self.sequence_column] for row in rows])
        batch = {}
        if self.mask_probability > 0:
            # torch's generator: a DataLoader seeds it for each of its workers.
            drawn = (torch.rand(letters.shape) < self.mask_probability).numpy()
            masked = drawn & (letters != NUCLEOTIDE_N)
            targets = np.where(masked, letters.astype(np.int64) - 1, IGNORED)
            batch["masked_nucleotides"] = torch.from_numpy(targets)
            letters = np.where(masked, np.uint8(NUCLEOTIDE_M), letters)
        batch["input_ids"] = torch.from_numpy(self.tokenizer.encode_kmers(letters))
        batch["token_type_ids"] = torch.from_numpy(self.tokenizer.token_type_ids(len(rows)))
        if self.label_columns:
            batch["labels"] = self.labels(rows)
        return batch

    def labels(self, rows: Sequence[Mapping[str, Any]]) -> torch.Tensor:
        values = torch.tensor(
            [[float("nan") if row[name] is None else row[name] for name in self.label_columns] for row in rows],
            dtype=torch.float32,
        )
        # A measurement of exactly -100 would be taken for a missing one: it moves to the next number.
        values[values == IGNORED] = torch.nextafter(torch.tensor(float(IGNORED)), torch.tensor(0.0))
        return values.nan_to_num(nan=IGNORED)


__all__ = ["ProformerCollator"]
