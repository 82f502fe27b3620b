"""The tests' models."""

from pathlib import Path

import torch

from modeling_proformer import ProformerConfig, ProformerForSequenceClassification, ProformerTokenizer


# All the parts of the published model, small enough for any test; positions for inserts of 12.
TINY = {
    "kmer_size": 3,
    "max_position_embeddings": 24,
    "num_expression_tokens": 4,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "head_dim": 8,
    "conv_kernel_size": 5,
}

# A smaller one yet, as options of examples/train.py.
TINY_OPTIONS = {
    "kmer_size": 3,
    "insert_width": 12,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "head_dim": 8,
    "num_expression_tokens": 4,
}


def save_tiny(folder: Path, **fields) -> Path:
    """Save a checkpoint of these sizes for inserts of 12 bases, which was trained on nothing; return its folder."""
    torch.manual_seed(0)
    ProformerForSequenceClassification(ProformerConfig(**TINY, **fields)).save_pretrained(folder)
    ProformerTokenizer(kmer_size=3, insert_width=12).save_pretrained(folder)
    return folder


def with_fields(config: ProformerConfig, **fields) -> ProformerConfig:
    """Return the configuration with other fields."""
    kept = {name: value for name, value in config.to_dict().items() if name not in ("id2label", "label2id")}
    return ProformerConfig(**{**kept, **fields})
