"""Sizes of the tests' models."""

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
