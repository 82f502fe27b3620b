"""From rows of a table to the tensors that a model is trained on."""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, Literal

import numpy as np
import torch

from ..modeling_proformer import IGNORED
from ..tokenization.tokenization_proformer import NUCLEOTIDE_M, NUCLEOTIDE_N, ProformerTokenizer


class ProformerCollator:
    """
    Makes the tensors of a batch: tokenizes sequences, collects their measurements and masks nucleotides.

    Rows have the keys `sequence`, `labels` (one measurement for each output, NaN or None where missing) and `weight`;
    rows without `labels` or `weight` give batches without them. The masks of a row with the key `epoch` are those of
    this epoch, instead of the one that was set.

    The masks depend on `seed`, the epoch and the sequence alone. They stay the same however rows are spread over
    batches, processes and loader workers, and when training is resumed.

    Args:
        tokenizer: of the assay's construct.
        mean_weight: mean of the weights over the training rows, by which they are divided.
        mask_probability: probability to mask each base other than N; published 0.05. With 0 nothing is masked, and
            there are no `masked_nucleotides`.
        mask_strands: `"independently"`, as published, where a masked base can be read off the other strand; or
            `"together"`.
        truncation: cut inserts that are longer than the construct, instead of refusing them.
        seed: of the masks.

    Returns:
        `input_ids` and `token_type_ids` (batch, positions); `labels` (batch, outputs) in the assay's units, float32,
        -100 where missing; `sample_weights` (batch,), float32; `masked_nucleotides` (batch, positions), the base under
        each mask, 0 to 3 for A C G T, -100 elsewhere.

    Raises:
        ValueError: an argument is out of range; or bases are to be masked but k-mers do not start at every base, so
            that a masked base has no position of its own (the published training is not defined there either).
    """

    def __init__(
        self,
        tokenizer: ProformerTokenizer,
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
        self.mean_weight = mean_weight
        self.mask_probability = mask_probability
        self.mask_strands = mask_strands
        self.truncation = truncation
        self.seed = seed
        # Shared memory, so that loader workers which outlive an epoch see the next one's number.
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def without_masks(self) -> "ProformerCollator":
        """Return the collator of evaluations, which masks nothing."""
        return ProformerCollator(self.tokenizer, self.mean_weight, truncation=self.truncation)

    def set_epoch(self, epoch: int):
        """Mask other bases than in the epochs before; `ProformerTrainer` calls it."""
        self.epoch.fill_(epoch)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        sequences = [row["sequence"] for row in rows]
        letters = self.tokenizer.encode_letters(sequences, truncation=self.truncation)
        batch = {}
        if self.mask_probability > 0:
            masked = self._masks(rows) & (letters != NUCLEOTIDE_N)
            targets = np.where(masked, letters.astype(np.int64) - 1, IGNORED)
            batch["masked_nucleotides"] = torch.from_numpy(targets)
            letters = np.where(masked, np.uint8(NUCLEOTIDE_M), letters)
        batch["input_ids"] = torch.from_numpy(self.tokenizer.encode_kmers(letters))
        batch["token_type_ids"] = torch.from_numpy(self.tokenizer.token_type_ids(len(rows)))
        if "labels" in rows[0]:
            batch["labels"] = _labels(rows)
        if "weight" in rows[0]:
            weights = torch.tensor([row["weight"] for row in rows], dtype=torch.float32)
            batch["sample_weights"] = weights / self.mean_weight
        return batch

    def _masks(self, rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Return which bases of the strands are masked, (batch, bases of both strands)."""
        width = self.tokenizer.insert_width
        mirrored = self.mask_strands == "together" and self.tokenizer.strands == "both"
        epoch = int(self.epoch)
        drawn = width if mirrored else self.tokenizer.num_strands * width
        digests = [
            blake2b(
                row["sequence"].encode(), key=b"%d,%d" % (self.seed, row.get("epoch", epoch)), digest_size=8
            ).digest()
            for row in rows
        ]
        masked = _uniform(np.frombuffer(b"".join(digests), dtype="<u8"), drawn) < self.mask_probability
        return np.concatenate([masked, masked[:, ::-1]], axis=1) if mirrored else masked


def _labels(rows: Sequence[Mapping[str, Any]]) -> torch.Tensor:
    """Return the measurements of rows, (batch, outputs) of float32, -100 where missing."""
    values = torch.tensor(
        [[float("nan") if value is None else value for value in row["labels"]] for row in rows], dtype=torch.float32
    )
    # A measurement of exactly -100 would count as missing, so it moves to the next number.
    values[values == IGNORED] = torch.nextafter(torch.tensor(float(IGNORED)), torch.tensor(0.0))
    return values.nan_to_num(nan=IGNORED)


def _uniform(seeds: np.ndarray, count: int) -> np.ndarray:
    """
    Return uniform numbers in [0, 1), (seeds, count), each row from its own seed.

    The numbers are those of SplitMix64 (Steele, Lea & Flood 2014, doi 10.1145/2714064.2660195). A numpy generator for
    each row would take several times as long.
    """
    bits = seeds[:, None] + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((bits ^ (bits >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53


__all__ = ["ProformerCollator"]
