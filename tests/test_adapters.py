"""Tests of adapters that PEFT trains, saves and loads."""

import pytest
import torch
from tiny import save_tiny

from modeling_proformer import ProformerForSequenceClassification, load_checkpoint, predict
from modeling_proformer.data.tables import InputError


peft = pytest.importorskip("peft")

SEQUENCES = ["ACGTACGT", "TTTTGCA", "CCCGGGTTTAAA"]


@pytest.fixture
def checkpoint(tmp_path):
    """Return the folder of a model with intervals."""
    return save_tiny(tmp_path / "base", interval_half_widths={"0.9": [1.5]})


def trained_adapter(checkpoint, **changes):
    """Return an adapter whose weights, and those of a new head, are no longer what they were initialised to."""
    model = ProformerForSequenceClassification.from_pretrained(
        checkpoint, interval_half_widths=None, ignore_mismatched_sizes=True, **changes
    )
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(task_type="SEQ_CLS", target_modules=["q_proj", "v_proj", "position_embeddings"])
    )
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter))
    return adapted


@pytest.mark.parametrize("outputs", [1, 2])
def test_a_sequence_classifiers_head_is_trained_and_saved(checkpoint, tmp_path, tiny_tokenizer, outputs):
    adapted = trained_adapter(checkpoint, num_labels=outputs)
    trainable = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert any("expression_head" in name for name in trainable)
    expected = predict(adapted.model, tiny_tokenizer, SEQUENCES)
    adapted.save_pretrained(tmp_path / "adapter")

    torch.manual_seed(1)
    fresh = ProformerForSequenceClassification.from_pretrained(
        checkpoint, num_labels=outputs, interval_half_widths=None, ignore_mismatched_sizes=True
    )
    loaded = peft.PeftModel.from_pretrained(fresh, tmp_path / "adapter")
    assert predict(loaded.model, tiny_tokenizer, SEQUENCES) == pytest.approx(expected, rel=1e-4)
    merged = loaded.merge_and_unload()
    assert not hasattr(merged, "peft_config")
    assert predict(merged, tiny_tokenizer, SEQUENCES) == pytest.approx(expected, rel=1e-4)


def test_a_folder_with_an_adapter_is_a_checkpoint(checkpoint, tmp_path, tiny_tokenizer):
    adapted = trained_adapter(checkpoint)
    adapted.save_pretrained(tmp_path / "adapter")
    model, tokenizer = load_checkpoint(tmp_path / "adapter")
    expected = predict(adapted.model, tiny_tokenizer, SEQUENCES)
    assert predict(model, tokenizer, SEQUENCES) == pytest.approx(expected, rel=1e-4)
    assert not model.training
    # The intervals of the model before are not those of the adapted one.
    assert model.config.interval_half_widths is None


def test_an_adapter_with_other_outputs_needs_its_configuration(checkpoint, tmp_path, tiny_tokenizer):
    adapted = trained_adapter(checkpoint, num_labels=2)
    adapted.save_pretrained(tmp_path / "adapter")
    with pytest.raises(
        InputError, match=r"does not fit its base model .*\. If it has a head of its own, save the con"
    ):
        load_checkpoint(tmp_path / "adapter")
    adapted.model.config.save_pretrained(tmp_path / "adapter")
    model, tokenizer = load_checkpoint(tmp_path / "adapter")
    assert predict(model, tokenizer, SEQUENCES) == pytest.approx(
        predict(adapted.model, tiny_tokenizer, SEQUENCES), rel=1e-4
    )


def test_an_adapter_of_no_model_is_refused(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(InputError, match="does not say which model the adapter was trained on"):
        load_checkpoint(tmp_path)
