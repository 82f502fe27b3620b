"""The collator makes the batches of a training."""

import numpy as np
import pytest
import torch

from modeling_proformer import ProformerTokenizer
from modeling_proformer.data.collator import ProformerCollator
from modeling_proformer.tokenization.tokenization_proformer import COMPLEMENT, NUCLEOTIDE_M, NUCLEOTIDE_N


def test_inputs_are_the_tokenizers_and_labels_are_in_assay_units(tiny_tokenizer):
    rows = [{"sequence": "ACGT", "labels": [9.25, None]}, {"sequence": "TTTTTT", "labels": [float("nan"), -100.0]}]
    batch = ProformerCollator(tiny_tokenizer)(rows)
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


@pytest.fixture
def base_tokenizer():
    """Return a tokenizer whose tokens are single bases."""
    return ProformerTokenizer(kmer_size=1, insert_width=100)


@pytest.fixture
def random_rows():
    generator = np.random.default_rng(0)
    return [{"sequence": "".join(generator.choice(list("ACGTN"), 80))} for _ in range(100)]


@pytest.mark.parametrize("mask_strands", ["independently", "together"])
def test_masking(base_tokenizer, random_rows, mask_strands):
    """Masked bases, and only they, become M; each is the target at its own position; N is never masked."""
    collate = ProformerCollator(base_tokenizer, mask_probability=0.2, mask_strands=mask_strands, seed=1)
    batch = collate(random_rows)
    assert set(batch) == {"input_ids", "token_type_ids", "masked_nucleotides"}
    letters = base_tokenizer.encode_letters([row["sequence"] for row in random_rows])
    found, targets = batch["input_ids"].numpy(), batch["masked_nucleotides"].numpy()
    masked = found == NUCLEOTIDE_M
    np.testing.assert_array_equal(found[~masked], letters[~masked])
    np.testing.assert_array_equal(targets[masked], letters[masked] - 1)
    assert (targets[~masked] == -100).all()
    assert not masked[letters == NUCLEOTIDE_N].any()
    assert masked[letters != NUCLEOTIDE_N].mean() == pytest.approx(0.2, abs=0.02)
    # With strands masked independently, as published, 1 in 5 masked bases is masked on the other strand too.
    mates = masked[:, ::-1][masked]
    assert mates.mean() == (1.0 if mask_strands == "together" else pytest.approx(0.2, abs=0.02))
    assert (COMPLEMENT[letters[:, ::-1]] == letters).all()


def test_masks_depend_on_seed_epoch_and_sequence_alone(tiny_tokenizer):
    rows = [{"sequence": "ACGTACGTAC" + letter} for letter in "ACGT"] * 2

    def masks(seed: int, epoch: int, rows=rows) -> torch.Tensor:
        collate = ProformerCollator(tiny_tokenizer, mask_probability=0.3, seed=seed)
        collate.set_epoch(epoch)
        return collate(rows)["masked_nucleotides"]

    first = masks(seed=0, epoch=0)
    assert torch.equal(first, masks(seed=0, epoch=0))
    assert torch.equal(first.flip(0), masks(seed=0, epoch=0, rows=rows[::-1]))
    assert torch.equal(first[2:5], masks(seed=0, epoch=0, rows=rows[2:5]))
    assert torch.equal(first[:4], first[4:])
    assert not torch.equal(first, masks(seed=1, epoch=0))
    assert not torch.equal(first, masks(seed=0, epoch=1))
    assert not torch.equal(masks(seed=0, epoch=1), masks(seed=1, epoch=0))


def test_persistent_loader_workers_follow_the_epoch(tiny_tokenizer, random_rows):
    rows = [{"sequence": row["sequence"][:12]} for row in random_rows]
    collate = ProformerCollator(tiny_tokenizer, mask_probability=0.3)
    loader = torch.utils.data.DataLoader(
        rows, batch_size=10, num_workers=2, persistent_workers=True, collate_fn=collate
    )
    for epoch in range(3):
        collate.set_epoch(epoch)
        found = torch.cat([batch["masked_nucleotides"] for batch in loader])
        assert torch.equal(found, collate(rows)["masked_nucleotides"])


def test_weights_are_relative_to_their_mean(tiny_tokenizer):
    rows = [{"sequence": "ACGT", "labels": [1.0], "weight": weight} for weight in (1, 2, 9)]
    batch = ProformerCollator(tiny_tokenizer, mean_weight=4.0)(rows)
    assert batch["sample_weights"].tolist() == [0.25, 0.5, 2.25]


def test_masking_is_refused_where_a_base_has_no_token(tiny_tokenizer):
    with pytest.raises(ValueError, match="`kmer_stride` 1"):
        ProformerCollator(ProformerTokenizer(kmer_size=4, kmer_stride=2), mask_probability=0.05)
    with pytest.raises(ValueError, match="`mask_probability`"):
        ProformerCollator(tiny_tokenizer, mask_probability=1.0)
    with pytest.raises(ValueError, match="`mask_strands` must be 'independently' or 'together', got 'both'"):
        ProformerCollator(tiny_tokenizer, mask_strands="both")
    with pytest.raises(ValueError, match="`mean_weight` must be positive"):
        ProformerCollator(tiny_tokenizer, mean_weight=0.0)


@pytest.mark.parametrize("mask_strands", ["independently", "together"])
def test_masking_of_the_forward_strand_alone(random_rows, mask_strands):
    tokenizer = ProformerTokenizer(kmer_size=1, insert_width=80, strands="forward")
    collate = ProformerCollator(tokenizer, mask_probability=0.2, mask_strands=mask_strands, seed=1)
    found = collate(random_rows)["input_ids"].numpy()
    letters = tokenizer.encode_letters([row["sequence"] for row in random_rows])
    assert found.shape == (100, 80)
    assert (found == NUCLEOTIDE_M)[letters != NUCLEOTIDE_N].mean() == pytest.approx(0.2, abs=0.02)


def test_evaluations_are_not_masked(tiny_tokenizer):
    rows = [{"sequence": "ACGT" * 3, "labels": [1.0], "weight": 3.0}]
    batch = ProformerCollator(tiny_tokenizer, mean_weight=2.0, mask_probability=0.5, seed=3).without_masks()(rows)
    assert torch.equal(batch["input_ids"], tiny_tokenizer(["ACGT" * 3], return_tensors="pt")["input_ids"])
    assert set(batch) == {"input_ids", "token_type_ids", "labels", "sample_weights"}
    assert batch["sample_weights"].tolist() == [1.5]
