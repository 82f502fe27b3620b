"""Conversion of the authors' Keras weights.

The authors saved their Keras model as a TensorFlow checkpoint. Where TensorFlow is installed, these lines write its
variables to the file that `load_keras_weights` reads::

    reader = tf.train.load_checkpoint(checkpoint)
    np.savez("proformer.npz", **{name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()})
"""

import json
import os
import re
import zipfile
import zlib

import numpy as np
import torch

from .configuration_proformer import ProformerConfig
from .modeling_proformer import ProformerForPreTraining


# Patterns in the names of a TensorFlow checkpoint, and what Keras calls these layers.
CHECKPOINT_NAMES = [
    (r"/\.ATTRIBUTES/VARIABLE_VALUE$", ""),
    (r"^w/", ""),
    (r"^blocks/layer_with_weights-", "blocks/"),
    (r"/(ff[12])/net/layer_with_weights-0/", r"/\1/layernorm/"),
    (r"/(ff[12])/net/layer_with_weights-1/", r"/\1/dense_in/"),
    (r"/(ff[12])/net/layer_with_weights-2/", r"/\1/dense_out/"),
    (r"/conv/layer_with_weights-0/", "/conv/layernorm/"),
    (r"/conv/layer_with_weights-1/", "/conv/separable_conv1d/"),
    (r"/attn/_(query|key|value)_dense/", r"/attn/\1/"),
    (r"/attn/_output_dense/", "/attn/attention_output/"),
]

# Our name of each Keras layer, outside and inside a block.
LAYERS = {
    "pos_embedding": "proformer.embeddings.position_embeddings",
    "strand_embedding": "proformer.embeddings.strand_embeddings",
    "expression_embedding": "proformer.embeddings.expression_projection",
    "kmer_dense": "proformer.embeddings.kmer_projection",
    "expression_dense": "expression_head.dense",
    "nucleotide_dense": "nucleotide_head",
}
BLOCK_LAYERS = {
    "ff1/layernorm": "feed_forward1.layer_norm",
    "ff1/dense_in": "feed_forward1.dense_in",
    "ff1/dense_out": "feed_forward1.dense_out",
    "conv/layernorm": "convolution.layer_norm",
    "layernorm": "layer_norm",
    "attn/query": "self_attn.q_proj",
    "attn/key": "self_attn.k_proj",
    "attn/value": "self_attn.v_proj",
    "attn/attention_output": "self_attn.o_proj",
    "ff2/layernorm": "feed_forward2.layer_norm",
    "ff2/dense_in": "feed_forward2.dense_in",
    "ff2/dense_out": "feed_forward2.dense_out",
}
VARIABLES = {"kernel", "bias", "gamma", "beta", "embeddings", "depthwise_kernel", "pointwise_kernel"}

# Weights whose shapes give the sizes of the model, and their number of dimensions.
SIZING_WEIGHTS = {
    "pos_embedding/embeddings": 2,
    "kmer_dense/kernel": 2,
    "nucleotide_dense/kernel": 2,
    "blocks/0/attn/query/kernel": 3,
    "blocks/0/ff1/dense_out/kernel": 2,
    "blocks/0/conv/separable_conv1d/depthwise_kernel": 3,
}


def load_keras_weights(
    path_to_npz: str | os.PathLike, num_expression_tokens: int | None = None, kmer_stride: int | None = None
) -> ProformerForPreTraining:
    """
    Return the authors' weights as a `ProformerForPreTraining`, which `save_pretrained` turns into a checkpoint.

    Sizes are read from the shapes of the weights. The number of expression tokens and the stride do not show in any
    shape: they are the arguments, or the constructor arguments that the file may contain as `config_json`, or the
    published ones.

    Args:
        path_to_npz: a `numpy.savez` file. Names are those of the TensorFlow checkpoint
            (`blocks/layer_with_weights-0/ff1/net/layer_with_weights-1/kernel/.ATTRIBUTES/VARIABLE_VALUE`) or of the
            Keras layers (`blocks/0/ff1/dense_in/kernel`); other entries, such as an optimizer's, are ignored.
        num_expression_tokens: pseudo-expression positions (32 as published).
        kmer_stride: bases from one k-mer to the next (1 as published).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not an npz file, a weight is missing, or its shape does not fit the others.
    """
    try:
        with np.load(path_to_npz, allow_pickle=False) as file:
            weights = {_normalise_name(name): file[name] for name in file.files if is_weight(name)}
            arguments = json.loads(str(file["config_json"])) if "config_json" in file.files else {}
    # A TypeError or AttributeError: a plain .npy array is not a context manager.
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, TypeError, AttributeError) as error:
        raise ValueError(f"{path_to_npz} is not a readable npz file of arrays: {error}") from error

    for name, dimensions in SIZING_WEIGHTS.items():
        if name not in weights:
            raise ValueError(f"{path_to_npz} lacks {name}: check that it is the authors' model.")
        if weights[name].ndim != dimensions:
            raise ValueError(f"{path_to_npz}: {name} has {weights[name].ndim} dimensions, not {dimensions}.")
    config = _read_config(
        weights,
        num_expression_tokens=num_expression_tokens or arguments.get("num_projectors", 32),
        kmer_stride=kmer_stride or arguments.get("strides", 1),
    )
    model = ProformerForPreTraining(config)
    state = dict(convert_weight(name, weight) for name, weight in weights.items())
    for name, parameter in model.state_dict().items():
        if name not in state:
            raise ValueError(f"{path_to_npz} lacks the weight that becomes {name}.")
        if state[name].shape != parameter.shape:
            raise ValueError(
                f"{path_to_npz}: {name} would have shape {tuple(state[name].shape)}, but the other weights ask for "
                f"{tuple(parameter.shape)}."
            )
    model.load_state_dict(state)
    return model.eval()


def _normalise_name(name: str) -> str:
    for pattern, replacement in CHECKPOINT_NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def is_weight(name: str) -> bool:
    """Return whether an entry is a weight of the model, not an optimizer's slot or something else."""
    layer, _, variable = _normalise_name(name).rpartition("/")
    block_layer, of_block = re.subn(r"^blocks/\d+/", "", layer)
    known = {*BLOCK_LAYERS, "conv/separable_conv1d"} if of_block else LAYERS
    return block_layer in known and variable in VARIABLES


def _read_config(weights: dict[str, np.ndarray], num_expression_tokens: int, kmer_stride: int) -> ProformerConfig:
    hidden_size, alphabet_size = weights["nucleotide_dense/kernel"].shape
    blocks = {int(match.group(1)) for name in weights if (match := re.match(r"blocks/(\d+)/", name))}
    _, num_attention_heads, head_dim = weights["blocks/0/attn/query/kernel"].shape
    return ProformerConfig(
        kmer_size=weights["kmer_dense/kernel"].shape[0] // alphabet_size,
        kmer_stride=kmer_stride,
        alphabet_size=alphabet_size,
        max_position_embeddings=weights["pos_embedding/embeddings"].shape[0],
        num_expression_tokens=num_expression_tokens,
        hidden_size=hidden_size,
        num_hidden_layers=max(blocks) + 1,
        num_attention_heads=num_attention_heads,
        head_dim=head_dim,
        intermediate_size=weights["blocks/0/ff1/dense_out/kernel"].shape[0],
        conv_kernel_size=weights["blocks/0/conv/separable_conv1d/depthwise_kernel"].shape[0],
    )


def convert_weight(name: str, weight: np.ndarray) -> tuple[str, torch.Tensor]:
    """Return the name and value of a Keras variable in our layout."""
    layer, _, variable = name.rpartition("/")
    block = re.match(r"blocks/(\d+)/(.+)", layer)
    prefix, layer = (f"proformer.layers.{block.group(1)}.", block.group(2)) if block else ("", layer)
    value = torch.from_numpy(np.array(weight, dtype=np.float32))

    if layer == "conv/separable_conv1d":
        if variable == "depthwise_kernel":
            return f"{prefix}convolution.depthwise.weight", value.permute(1, 2, 0)
        if variable == "pointwise_kernel":
            return f"{prefix}convolution.pointwise.weight", value[0].T
        return f"{prefix}convolution.pointwise.bias", value

    ours = prefix + (BLOCK_LAYERS if block else LAYERS)[layer]
    if variable == "kernel":
        # (in, out); those of attention are (in, heads, head_dim) and (heads, head_dim, out).
        inputs = value.shape[:-1].numel() if layer == "attn/attention_output" else value.shape[0]
        return f"{ours}.weight", value.reshape(inputs, -1).T
    if variable in ("bias", "beta"):
        return f"{ours}.bias", value.flatten()
    return f"{ours}.weight", value  # gamma, embeddings


__all__ = ["load_keras_weights"]
