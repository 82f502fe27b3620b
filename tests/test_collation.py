"""Rows to batches."""

import numpy as np
import pytest
import torch

from modeling_proformer import ProformerTokenizer
from modeling_proformer.collation import ProformerCollator
from modeling_proformer.tokenization.tokenization_proformer import COMPLEMENT, NUCLEOTIDE_M, NUCLEOTIDE_N


def test_inputs_are_the_tokenizers_and_labels_are_in_assay_units(tiny_tokenizer):
    collate = ProformerCollator(tiny_tokenizer, sequence_column="dna", label_columns=["up", "down"])
    rows = [{"dna": "ACGT", "up": 9.25, "down": None}, {"dna": "TTTTTT", "up": float("nan"), "down": -100.0}]
    batch = collate(rows)
    expected = tiny_tokenizer(["ACGT", "TTTTTT"], return_tensors="pt")
    assert set(batch) == {"input_ids", "token_type_ids", "labels"}
    assert torch.equal(batch["input_ids"], expected["input_ids"])
    assert torch.equal(batch["token_type_ids"], expected["token_type_ids"])
    assert batch["labels"].dtype == torch.float32
    assert batch["labels"].tolist()[0] == [9.25, -100.0]
    missing, measured = batch["labels"].tolist()[1]
    assert missing == -100.0
    # A true -100 must not be taken for a missing label.
    assert measured != -100.0 and measured == pytest.approx(-100.0, abs=1e-4)


def test_masking(tiny_tokenizer):
    """Masked letters, and only they, become M; each is the target at its own position; N is never masked."""
    torch.manual_seed(0)
    tokenizer = ProformerTokenizer(kmer_size=1, insert_width=100)  # a token is a letter
    sequences = ["ACGTN" * 16, "GATTACA" * 10] * 50
    collate = ProformerCollator(tokenizer, label_columns=[], mask_probability=0.2)
    batch = collate([{"sequence": sequence} for sequence in sequences])
    assert set(batch) == {"input_ids", "token_type_ids", "masked_nucleotides"}
    letters = tokenizer.encode_letters(sequences)
    found, targets = batch["input_ids"].numpy(), batch["masked_nucleotides"].numpy()
    masked = found == NUCLEOTIDE_M
    np.testing.assert_array_equal(found[~masked], letters[~masked])
    np.testing.assert_array_equal(targets[masked], letters[masked] - 1)
    assert (targets[~masked] == -100).all()
    assert not masked[letters == NUCLEOTIDE_N].any()
    assert masked[letters != NUCLEOTIDE_N].mean() == pytest.approx(0.2, abs=0.01)
    # The strands are masked independently, as published: 1 in 5 of the masked letters has its mate masked too.
    mates = masked[:, ::-1][masked]
    assert mates.mean() == pytest.approx(0.2, abs=0.02)
    assert (COMPLEMENT[letters[:, ::-1]] == letters).all()


def test_masks_follow_torchs_seed(tiny_tokenizer):
    collate = ProformerCollator(tiny_tokenizer, label_columns=[], mask_probability=0.3)
    rows = [{"sequence": "ACGTACGTAC"}] * 8
    torch.manual_seed(3)
    first, second = collate(rows), collate(rows)
    torch.manual_seed(3)
    again = collate(rows)
    assert torch.equal(first["masked_nucleotides"], again["masked_nucleotides"])
    assert not torch.equal(first["masked_nucleotides"], second["masked_nucleotides"])


def test_masking_is_refused_where_a_letter_has_no_token(tiny_tokenizer):
    with pytest.raises(ValueError, match="`kmer_stride` 1"):
        ProformerCollator(ProformerTokenizer(kmer_size=4, kmer_stride=2), mask_probability=0.05)
    with pytest.raises(ValueError, match="`mask_probability`"):
        ProformerCollator(tiny_tokenizer, mask_probability=1.0)
