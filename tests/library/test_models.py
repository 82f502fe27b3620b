"""Runs the library's common tests of models: loading, saving, initialisation, outputs, attention, training."""

import copy
import unittest
from types import SimpleNamespace
from unittest import mock

import torch
from library_tests import departing, load
from transformers import initialization
from transformers.models.auto import modeling_auto
from transformers.testing_utils import torch_device

from modeling_proformer import (
    ProformerConfig,
    ProformerForMaskedLM,
    ProformerForPreTraining,
    ProformerForSequenceClassification,
    ProformerModel,
    modeling_proformer,
)


common = load("test_modeling_common")

EXCLUDED = {
    "test_model_get_set_embeddings": "k-mers are one-hot encoded and projected: there is no nn.Embedding of them",
    "test_resize_tokens_embeddings": "the vocabulary is all k-mers: there is no table to resize",
    "test_load_with_mismatched_shapes": "sets vocab_size, which follows from kmer_size",
    "test_tied_weights_keys": "asks for tied embeddings, which the configuration refuses",
}
OVERRIDDEN = {
    "test_can_init_all_missing_weights": "skips models from before 2023, and reads the year from a licence header, "
    "which our files do not have",
    "test_can_load_ignoring_mismatched_shapes": "takes label_std for that of an initialisation, and only finds a head "
    "that is called ClassificationHead",
}

# These tell the library what a class is for, and so which labels and which of its tests suit it.
MAPPINGS = {
    "MODEL_MAPPING_NAMES": "ProformerModel",
    "MODEL_FOR_PRETRAINING_MAPPING_NAMES": "ProformerForPreTraining",
    "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES": "ProformerForSequenceClassification",
    "MODEL_FOR_MASKED_LM_MAPPING_NAMES": "ProformerForMaskedLM",
}


class ProformerModelTester:
    """Sizes and inputs of the tiny model that the library's tests build; the tests read these attributes."""

    batch_size = 7
    seq_length = 20
    num_expression_tokens = 4
    # Hidden states and attentions include the expression tokens.
    encoder_seq_length = num_expression_tokens + seq_length
    hidden_size = 16
    num_hidden_layers = 2
    num_attention_heads = 2
    is_training = True

    def get_config(self) -> ProformerConfig:
        return ProformerConfig(
            kmer_size=3,
            max_position_embeddings=24,
            num_expression_tokens=self.num_expression_tokens,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            head_dim=8,
            intermediate_size=32,
            conv_kernel_size=3,
        )

    def prepare_config_and_inputs_for_common(self) -> tuple[ProformerConfig, dict[str, torch.Tensor]]:
        config = self.get_config()
        shape = (self.batch_size, self.seq_length)
        strands = (torch.arange(self.seq_length) >= self.seq_length // 2).long()
        inputs = {
            "input_ids": torch.randint(1, config.vocab_size, shape),
            "token_type_ids": strands.repeat(self.batch_size, 1),
            "attention_mask": torch.ones(shape, dtype=torch.long),
        }
        return config, {name: tensor.to(torch_device) for name, tensor in inputs.items()}


@departing(EXCLUDED, OVERRIDDEN)
class ProformerModelTest(common.ModelTesterMixin, unittest.TestCase):
    all_model_classes = (
        ProformerModel,
        ProformerForSequenceClassification,
        ProformerForPreTraining,
        ProformerForMaskedLM,
    )

    @classmethod
    def setUpClass(cls):
        for mapping, class_name in MAPPINGS.items():
            names = mock.patch.dict(getattr(modeling_auto, mapping), {ProformerConfig.model_type: class_name})
            names.start()
            cls.addClassCleanup(names.stop)

    def setUp(self):
        self.model_tester = ProformerModelTester()

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels=return_labels)
        if return_labels and model_class is ProformerForPreTraining:
            inputs["labels"] = torch.zeros(self.model_tester.batch_size, device=torch_device)
            inputs["masked_nucleotides"] = torch.zeros_like(inputs["input_ids"])
        return inputs

    def test_can_init_all_missing_weights(self):
        recent = SimpleNamespace(getfile=lambda _: initialization.__file__)
        with mock.patch.object(common, "inspect", recent):
            super().test_can_init_all_missing_weights()

    def test_can_load_ignoring_mismatched_shapes(self):
        head = type("ProformerClassificationHead", (modeling_proformer.ProformerExpressionHead,), {})
        with (
            mock.patch.object(common, "_config_zero_init", copy.deepcopy),
            mock.patch.object(modeling_proformer, "ProformerExpressionHead", head),
        ):
            super().test_can_load_ignoring_mismatched_shapes()
