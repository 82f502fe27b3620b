"""What several tests share."""

import os
from pathlib import Path

import pytest
import torch

from modeling_proformer import ProformerConfig, ProformerTokenizer


ROOT = Path(__file__).parents[1]
# Real measurements and numerical fixtures, which the project does not own.
SHARED = Path(os.environ.get("PROFORMER_SHARED", ROOT.parent / "shared"))


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

# The tests' models are so small that sharing their work out costs more than it saves.
torch.set_num_threads(1)


@pytest.fixture
def shared() -> Path:
    """Folder of the real data; tests that need it are skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"the data in {SHARED} are absent (set PROFORMER_SHARED)")
    return SHARED


@pytest.fixture
def yeast_tokenizer() -> ProformerTokenizer:
    return ProformerTokenizer(five_prime_flank="TGCATTTTTTTCACATC", three_prime_flank="GGTTACGGCTGTT")


@pytest.fixture
def tiny_config() -> ProformerConfig:
    return ProformerConfig(**TINY)


@pytest.fixture
def tiny_tokenizer() -> ProformerTokenizer:
    return ProformerTokenizer(kmer_size=3, insert_width=12)
