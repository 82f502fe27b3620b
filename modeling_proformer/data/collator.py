"""Rows of a table to the tensors that a model is trained on."""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, Literal

import numpy as np
import torch

from ..modeling_proformer import IGNORED
from ..tokenization.tokenization_proformer import NUCLEOTIDE_M, NUCLEOTIDE_N, ProformerTokenizer


class ProformerCollator:
    """
    Tokenizes sequences, collects their measurements and masks nucleotides, as a `DataLoader`'s `collate_fn`.

    What is masked depends on `seed`, the epoch and the sequence alone. So it stays the same however rows are spread
    over batches, processes and loader workers, and when a training is taken up again.

    Args:
        tokenizer: of the assay's construct.
        sequence_column: the rows' key of the sequence.
        label_columns: the rows' keys of the measurements, one for each output. NaN and `None` are missing.
        weight_column: the rows' key of how much each counts.
        mean_weight: mean of the weights over the training rows, which they are divided by.
        mask_probability: chance of each letter other than N to be masked; published 0.05. 0 masks nothing and leaves
            `masked_nucleotides` out.
        mask_strands: `"independently"`, as published, where a masked letter can be told from its mate on the other
            strand; or `"together"`.
        truncation: cut inserts that are longer than the construct, instead of refusing them.
        seed: of the masks.

    Returns:
        `input_ids` and `token_type_ids` (batch, positions); `labels` (batch, outputs) in the assay's units, float32,
        -100 where missing; `sample_weights` (batch,), float32, if there is a weight column; `masked_nucleotides`
        (batch, positions), the letter under each mask, 0 to 3 for A C G T, -100 elsewhere.

    Raises:
        ValueError: an argument is out of range; or nucleotides are to be masked but k-mers do not start at every
            letter, so that a masked letter has no position of its own (the published training is not defined there
            either).
    """

    def __init__(
        self,
        tokenizer: ProformerTokenizer,
        sequence_column: str = "sequence",
        label_columns: Sequence[str] = ("expression",),
        weight_column: str | None = None,
        mean_weight: float = 1.0,
        mask_probability: float = 0.0,
        mask_strands: Literal["independently", "together"] = "independently",
        truncation: bool = False,
        seed: int = 0,
    ):
        if not 0 <= mask_probability < 1:
            raise ValueError(f"`mask_probability` must be at least 0 and below 1, got {mask_probability}.")
        if mask_probability > 0 and tokenizer.kmer_stride != 1:
            raise ValueError(f"Masking needs `kmer_stride` 1, but the tokenizer has {tokenizer.kmer_stride}.")
        if mask_strands not in ("independently", "together"):
            raise ValueError(f"`mask_strands` must be 'independently' or 'together', got {mask_strands!r}.")
        if not mean_weight > 0:
            raise ValueError(f"`mean_weight` must be positive, got {mean_weight}.")
        self.tokenizer = tokenizer
        self.sequence_column = sequence_column
        self.label_columns = list(label_columns)
        self.weight_column = weight_column
        self.mean_weight = mean_weight
        self.mask_probability = mask_probability
        self.mask_strands = mask_strands
        self.truncation = truncation
        self.seed = seed
        # Shared memory, so that loader workers which outlive an epoch see the next one's number.
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int):
        """Masks other letters than in the epochs before; `ProformerTrainer` calls it."""
        self.epoch.fill_(epoch)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        sequences = [row[self.sequence_column] for row in rows]
        letters = self.tokenizer.encode_letters(sequences, truncation=self.truncation)
        batch = {}
        if self.mask_probability > 0:
            masked = self.masks(sequences) & (letters != NUCLEOTIDE_N)
            targets = np.where(masked, letters.astype(np.int64) - 1, IGNORED)
            batch["masked_nucleotides"] = torch.from_numpy(targets)
            letters = np.where(masked, np.uint8(NUCLEOTIDE_M), letters)
        batch["input_ids"] = torch.from_numpy(self.tokenizer.encode_kmers(letters))
        batch["token_type_ids"] = torch.from_numpy(self.tokenizer.token_type_ids(len(rows)))
        if self.label_columns:
            batch["labels"] = self.labels(rows)
        if self.weight_column is not None:
            weights = torch.tensor([row[self.weight_column] for row in rows], dtype=torch.float32)
            batch["sample_weights"] = weights / self.mean_weight
        return batch

    def masks(self, sequences: Sequence[str]) -> np.ndarray:
        """Which letters of the strands are drawn, (batch, letters)."""
        width = self.tokenizer.insert_width
        mirrored = self.mask_strands == "together" and self.tokenizer.strands == "both"
        drawn = width if mirrored else self.tokenizer.num_strands * width
        key = b"%d,%d" % (self.seed, self.epoch)
        digests = [blake2b(sequence.encode(), key=key, digest_size=8).digest() for sequence in sequences]
        masked = uniform(np.frombuffer(b"".join(digests), dtype="<u8"), drawn) < self.mask_probability
        return np.concatenate([masked, masked[:, ::-1]], axis=1) if mirrored else masked

    def labels(self, rows: Sequence[Mapping[str, Any]]) -> torch.Tensor:
        values = torch.tensor(
            [[float("nan") if row[name] is None else row[name] for name in self.label_columns] for row in rows],
            dtype=torch.float32,
        )
        # A measurement of exactly -100 would be taken for a missing one: it moves to the next number.
        values[values == IGNORED] = torch.nextafter(torch.tensor(float(IGNORED)), torch.tensor(0.0))
        return values.nan_to_num(nan=IGNORED)


def uniform(seeds: np.ndarray, count: int) -> np.ndarray:
    """
    Uniform numbers in [0, 1), (seeds, count), each row from its own seed: SplitMix64 (Steele, Lea & Flood 2014, doi
    10.1145/2714064.2660195). A numpy generator for each row takes several times as long.
    """
    bits = seeds[:, None] + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((bits ^ (bits >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53


__all__ = ["ProformerCollator"]
