"""Embeddings are the hidden states of the model, computed as predictions are."""

import numpy as np
import pytest
import torch
from tiny import TINY

from modeling_proformer import (
    InputError,
    InvalidSequenceError,
    ProformerConfig,
    ProformerForMaskedLM,
    ProformerForPreTraining,
    ProformerForSequenceClassification,
    ProformerModel,
    ProformerTokenizer,
    embed,
    predict,
)
from modeling_proformer.embedding import embed_file


SEQUENCES = ["ACGTACGTACGT", "GG", "TTNAC", "CATG"]


@pytest.fixture(scope="module")
def model() -> ProformerForSequenceClassification:
    torch.manual_seed(0)
    return ProformerForSequenceClassification(ProformerConfig(**TINY, hidden_dropout=0.5)).train()


def hidden_states(model, tokenizer, sequence: str) -> np.ndarray:
    """Return what the encoder computes for one sequence, (expression tokens + k-mers, hidden)."""
    model.eval()
    with torch.no_grad():
        outputs = model.base_model(**tokenizer([sequence], return_tensors="pt"))
    return outputs.last_hidden_state[0].numpy()


@pytest.mark.parametrize("strands", ["both", "forward"])
def test_embeddings_are_hidden_states_of_the_last_layer(model, strands):
    tokenizer = ProformerTokenizer(3, insert_width=12, strands=strands)
    found = {
        positions: embed(model.train(), tokenizer, SEQUENCES, positions=positions, batch_size=3)
        for positions in ("mean", "expression", "all")
    }
    assert model.training
    for row, sequence in enumerate(SEQUENCES):
        states = hidden_states(model, tokenizer, sequence)
        np.testing.assert_allclose(found["all"][row], states[4:], atol=1e-5)
        np.testing.assert_allclose(found["mean"][row], states[4:].mean(axis=0), atol=1e-5)
        np.testing.assert_allclose(found["expression"][row], states[:4].mean(axis=0), atol=1e-5)


def test_the_head_predicts_from_the_expression_tokens(embedded):
    model, tokenizer = embedded
    sequences = ["ACGTTACCCGGTAAAT" * 5, "TGACTCA" * 8]
    embedded_tokens = embed(model, tokenizer, sequences, positions="expression")
    weight, bias = (parameter.detach().numpy() for parameter in model.expression_head.dense.parameters())
    scores = embedded_tokens @ weight.T + bias
    expected = predict(model, tokenizer, sequences)
    scale, mean = model.config.label_std or [1], model.config.label_mean or [0]
    np.testing.assert_allclose(scores * scale + mean, expected, atol=1e-4)


@pytest.mark.parametrize("kind", [ProformerModel, ProformerForPreTraining, ProformerForMaskedLM])
def test_models_with_any_head_are_embedded_alike(model, tiny_tokenizer, kind):
    other = kind(model.config)
    other.base_model.load_state_dict(model.base_model.state_dict())
    expected = embed(model, tiny_tokenizer, SEQUENCES)
    np.testing.assert_allclose(embed(other, tiny_tokenizer, SEQUENCES), expected, atol=1e-6)
    wrapped = torch.nn.DataParallel(other)
    np.testing.assert_allclose(embed(wrapped, tiny_tokenizer, SEQUENCES), expected, atol=1e-6)


def test_a_model_without_expression_tokens_has_other_embeddings(tiny_tokenizer):
    model = ProformerForSequenceClassification(ProformerConfig(**TINY | {"num_expression_tokens": 0}))
    assert embed(model, tiny_tokenizer, ["ACGT"], positions="all").shape == (1, 24, 16)
    with pytest.raises(InputError, match="no expression tokens to embed; use `positions"):
        embed(model, tiny_tokenizer, ["ACGT"], positions="expression")


def test_wrong_arguments_are_refused(model, tiny_tokenizer):
    with pytest.raises(ValueError, match="positions"):
        embed(model, tiny_tokenizer, ["ACGT"], positions="first")
    with pytest.raises(TypeError, match="put it in a list"):
        embed(model, tiny_tokenizer, "ACGT")
    with pytest.raises(TypeError, match="Linear is no Proformer"):
        embed(torch.nn.Linear(1, 1), tiny_tokenizer, ["ACGT"])
    with pytest.raises(InvalidSequenceError, match=r"^Sequence 3: 'X' at position 1") as raised:
        embed(model, tiny_tokenizer, ["ACGT", "A", "X"], batch_size=1)
    assert raised.value.row == 2
    assert embed(model, tiny_tokenizer, []).shape == (0, 16)


def test_files_are_embedded_like_their_sequences(model, tiny_tokenizer, tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("id,dna\na,ACGT\nb,\nc,GGAC\n")
    with pytest.raises(InputError, match="line 3, column 'dna': the sequence is empty"):
        next(embed_file(model, tiny_tokenizer, path, sequence="dna"))
    expected = embed(model, tiny_tokenizer, ["ACGT", "GGAC"], positions="all")
    batches = list(
        embed_file(model, tiny_tokenizer, path, sequence="dna", on_error="mark", positions="all", batch_size=2)
    )
    assert [row.cells["id"] for rows, _ in batches for row in rows] == ["a", "b", "c"]
    found = np.concatenate([values for _, values in batches])
    assert np.isnan(found[1]).all()
    np.testing.assert_allclose(found[[0, 2]], expected, atol=1e-6)
