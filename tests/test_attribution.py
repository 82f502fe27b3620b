"""The model on one-hot sequences predicts the same, and the libraries that read one-hot sequences run on it."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import TINY

from modeling_proformer import (
    ProformerConfig,
    ProformerForSequenceClassification,
    ProformerTokenizer,
    mutate,
    predict,
    saturation_mutagenesis,
)
from modeling_proformer.attribution import as_one_hot, one_hot_inserts


def one_hot_predictions(model, tokenizer, sequences) -> np.ndarray:
    with torch.no_grad():
        return as_one_hot(model, tokenizer)(one_hot_inserts(tokenizer, sequences)).numpy()


@settings(max_examples=30)
@given(
    st.lists(st.text("ACGTN", min_size=1, max_size=12), min_size=1, max_size=4),
    st.sampled_from([1, 2, 3]),
    st.sampled_from(["both", "forward"]),
    st.sampled_from([5, 6]),
    st.integers(1, 5),
)
def test_predictions_from_bases_are_those_from_tokens(sequences, stride, strands, alphabet_size, kmer_size):
    torch.manual_seed(0)
    config = ProformerConfig(
        **{**TINY, "kmer_size": kmer_size, "kmer_stride": stride, "alphabet_size": alphabet_size}, num_labels=2
    )
    model = ProformerForSequenceClassification(config).train()
    tokenizer = ProformerTokenizer(kmer_size, stride, 12, strands=strands)
    expected = predict(model, tokenizer, sequences)
    np.testing.assert_allclose(one_hot_predictions(model, tokenizer, sequences), expected, atol=1e-6)
    assert model.training


def test_real_promoters_are_predicted_the_same(shared, embedded):
    model, tokenizer = embedded
    sequences = pd.read_csv(shared / "data" / "yeast" / "dream_train_sample.tsv", sep="\t").sequence[:200].tolist()
    found = one_hot_predictions(model, tokenizer, sequences)
    np.testing.assert_allclose(found, predict(model, tokenizer, sequences), atol=1e-5)


def test_other_shapes_are_refused(embedded):
    module = as_one_hot(*embedded)
    for shape in ((2, 5, 80), (2, 4, 85), (4, 80), (2, 4, 0)):
        with pytest.raises(ValueError, match=r"must be \(batch, 4, bases\), with at most the construct's 84 bases"):
            module(torch.zeros(shape))


def test_gradients_reach_the_bases_and_add_up(embedded):
    """Integrated gradients from N to a promoter sum up to the difference of their predictions."""
    module = as_one_hot(*embedded)
    bases = one_hot_inserts(embedded[1], ["TTACCCGG" * 10, "ACGTACGT" * 10])
    steps = (torch.arange(50) + 0.5) / 50
    gradients = []
    for share in steps:
        mixed = (share * bases).requires_grad_()
        gradients.append(torch.autograd.grad(module(mixed).sum(), mixed)[0])
    with torch.no_grad():
        difference = (module(bases) - module(torch.zeros_like(bases)))[:, 0]
    contributions = (torch.stack(gradients).mean(dim=0) * bases).sum(dim=(1, 2))
    assert contributions.tolist() == pytest.approx(difference.tolist(), abs=0.02)


class TestLibraries:
    @pytest.fixture
    def sequences(self) -> list[str]:
        rng = np.random.default_rng(0)
        return ["".join(rng.choice(list("ACGT"), 80)) for _ in range(2)]

    def test_saturation_mutagenesis_of_tangermeme_is_ours(self, embedded, sequences):
        library = pytest.importorskip("tangermeme.saturation_mutagenesis")
        model, tokenizer = embedded
        before, after = library.saturation_mutagenesis(
            as_one_hot(model, tokenizer), one_hot_inserts(tokenizer, sequences[:1]), device="cpu", raw_outputs=True
        )
        (ours,) = saturation_mutagenesis(model, tokenizer, sequences[:1])
        np.testing.assert_allclose(after[0].permute(1, 0, 2), ours, atol=1e-5)
        np.testing.assert_allclose(before, predict(model, tokenizer, sequences[:1]), atol=1e-5)

    def test_contributions_of_tangermeme_are_three_quarters_of_ours(self, embedded, sequences):
        """Its mean is that over all four bases, the one that is there included."""
        library = pytest.importorskip("tangermeme.saturation_mutagenesis")
        model, tokenizer = embedded
        bases = one_hot_inserts(tokenizer, sequences[:1])
        found = library.saturation_mutagenesis(as_one_hot(model, tokenizer), bases, device="cpu", target=0)
        (ours,) = mutate(model, tokenizer, sequences[:1])
        np.testing.assert_allclose((found * bases).sum(dim=1)[0], 0.75 * ours.contributions[:, 0], atol=1e-5)

    def test_deletions_of_tangermeme_are_ours(self, embedded, sequences):
        """It keeps the width of what it is given: a sequence with one more base, so that each is one base shorter."""
        library = pytest.importorskip("tangermeme.variant_effect")
        model, tokenizer = embedded
        bases = one_hot_inserts(tokenizer, sequences[:1])
        positions = torch.arange(bases.shape[2])
        _, after = library.deletion_effect(
            as_one_hot(model, tokenizer),
            bases.repeat(len(positions), 1, 1),
            torch.stack([positions, positions], dim=1),
            device="cpu",
        )
        (ours,) = mutate(model, tokenizer, sequences[:1], deletions=True)
        np.testing.assert_allclose(after, ours.expression[:, 4], atol=1e-5)

    def test_tangermeme_ablates_and_marginalises(self, embedded, sequences):
        ablate = pytest.importorskip("tangermeme.ablate").ablate
        marginalize = pytest.importorskip("tangermeme.marginalize").marginalize
        module, bases = as_one_hot(*embedded), one_hot_inserts(embedded[1], sequences)
        before, after = ablate(module, bases, 10, 30, n=3, device="cpu", random_state=0)
        assert after.shape == (2, 3, 1)
        # The motif of Reb1 activates yeast promoters.
        before, after = marginalize(module, bases, "TTACCCGG", device="cpu")
        assert (after > before).any()
        assert not embedded[0].training and embedded[0].config.interval_half_widths

    def test_captums_integrated_gradients_are_complete(self, embedded, sequences):
        captum = pytest.importorskip("captum.attr")
        module, bases = as_one_hot(*embedded), one_hot_inserts(embedded[1], sequences)
        found, gap = captum.IntegratedGradients(module).attribute(
            bases, n_steps=100, internal_batch_size=50, return_convergence_delta=True
        )
        assert found.shape == bases.shape
        assert gap.abs().max() < 0.1

    def test_ledidi_edits_towards_a_target(self, embedded, sequences):
        ledidi = pytest.importorskip("ledidi").ledidi
        torch.manual_seed(0)
        module, bases = as_one_hot(*embedded), one_hot_inserts(embedded[1], sequences[:1])
        target = module(bases).detach() + 3
        edited = ledidi(module, bases, target, device="cpu", batch_size=4, max_iter=60, verbose=False)
        with torch.no_grad():
            reached = module(edited.reshape(-1, 4, 80))
        assert (reached - target).abs().min() < 3
