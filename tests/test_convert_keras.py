"""Tests of the conversion of the authors' weights, under the names of a TensorFlow checkpoint, and of its errors."""

import json
import re

import numpy as np
import pytest

from modeling_proformer.convert_keras import load_keras_weights


def checkpoint_name(name: str) -> str:
    """Return the name of a variable in a TensorFlow checkpoint, the third column of the reference."""
    for pattern, replacement in [
        (r"^blocks/(\d+)/", r"blocks/layer_with_weights-\1/"),
        (r"/(ff\d)/layernorm/", r"/\1/net/layer_with_weights-0/"),
        (r"/(ff\d)/dense_in/", r"/\1/net/layer_with_weights-1/"),
        (r"/(ff\d)/dense_out/", r"/\1/net/layer_with_weights-2/"),
        (r"/conv/layernorm/", "/conv/layer_with_weights-0/"),
        (r"/conv/separable_conv1d/", "/conv/layer_with_weights-1/"),
        (r"/attn/(query|key|value)/", r"/attn/_\1_dense/"),
        (r"/attn/attention_output/", "/attn/_output_dense/"),
    ]:
        name = re.sub(pattern, replacement, name)
    return f"{name}/.ATTRIBUTES/VARIABLE_VALUE"


@pytest.fixture
def keras_weights(shared) -> dict[str, np.ndarray]:
    file = np.load(shared / "reference" / "forward_d.npz")
    return {name.removeprefix("w/"): file[name] for name in file.files if name.startswith("w/")}


def test_names_of_a_tensorflow_checkpoint(shared, tmp_path, keras_weights):
    expected = load_keras_weights(shared / "reference" / "forward_d.npz")
    variables = {checkpoint_name(name): weight for name, weight in keras_weights.items()}
    # A checkpoint also contains the optimizer's moments of each variable, and counters.
    moments = {
        name.replace("/.ATTRIBUTES", "/.OPTIMIZER_SLOT/optimizer/m/.ATTRIBUTES"): np.zeros_like(weight)
        for name, weight in variables.items()
    }
    counters = {"save_counter/.ATTRIBUTES/VARIABLE_VALUE": np.int64(6), "_CHECKPOINTABLE_OBJECT_GRAPH": b"graph"}
    np.savez(tmp_path / "checkpoint.npz", **variables, **moments, **counters)
    model = load_keras_weights(tmp_path / "checkpoint.npz", num_expression_tokens=8)
    assert model.config.num_expression_tokens == expected.config.num_expression_tokens == 8
    assert load_keras_weights(tmp_path / "checkpoint.npz").config.num_expression_tokens == 32
    for (name, ours), theirs in zip(model.state_dict().items(), expected.state_dict().values(), strict=True):
        assert (ours == theirs).all(), name


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda weights: weights.pop("blocks/1/attn/value/bias"),
            "lacks the weight that becomes .*layers.1.*v_proj.bias",
        ),
        (lambda weights: weights.pop("blocks/0/attn/query/kernel"), "lacks blocks/0/attn/query/kernel"),
        (
            lambda weights: weights.update({"blocks/0/attn/query/kernel": np.ones((64, 256))}),
            "blocks/0/attn/query/kernel has 2 dimensions, not 3",
        ),
        (
            lambda weights: weights.pop("kmer_dense/kernel"),
            "lacks kmer_dense/kernel: check that",
        ),
        (
            lambda weights: weights.update({"blocks/2/layernorm/gamma": np.ones(5)}),
            r"layers.2.layer_norm.weight would have shape \(5,\), but the other weights ask for \(64,\)",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path, keras_weights, change, reason):
    change(keras_weights)
    np.savez(tmp_path / "weights.npz", **keras_weights)
    with pytest.raises(ValueError, match=reason):
        load_keras_weights(tmp_path / "weights.npz")


def test_files_that_are_not_npz_are_refused(tmp_path):
    path = tmp_path / "weights.npz"
    with pytest.raises(FileNotFoundError):
        load_keras_weights(path)
    for content in (b"", b"not a zip archive", json.dumps({}).encode()):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="not a readable npz file"):
            load_keras_weights(path)
    np.save(path.with_suffix(".npy"), np.zeros(3))
    with pytest.raises(ValueError, match="not a readable npz file"):
        load_keras_weights(path.with_suffix(".npy"))
