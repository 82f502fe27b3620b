"""Tests that wide linear layers computed as convolutions predict the same, and that the model is left as it was."""

import threading

import accelerate
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from modeling_proformer import ProformerConfig, ProformerForSequenceClassification, ProformerTokenizer, linear_layers
from modeling_proformer.linear_layers import convolution_gain, convolve, fastest_linear_layers
from modeling_proformer.prediction import predict


SEQUENCES = ["ACGTTGCA" * 10, "TTAGGCCA" * 10]


@pytest.fixture
def model() -> ProformerForSequenceClassification:
    torch.manual_seed(0)
    return ProformerForSequenceClassification(ProformerConfig(num_hidden_layers=1)).eval()


def replaced(model: torch.nn.Module) -> list[str]:
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, torch.nn.Linear)}
    return [name for name, layer in layers.items() if "forward" in vars(layer)]


@pytest.mark.parametrize("shape", [(7,), (3, 5), (2, 3, 5)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_is_the_linear_layer(shape, bias):
    inputs, weight = torch.randn(*shape, 24), torch.randn(40, 24)
    added = torch.randn(40) if bias else None
    torch.testing.assert_close(convolve(inputs, weight, added), F.linear(inputs, weight, added))


def test_predictions_do_not_depend_on_which_way_is_faster(model, monkeypatch):
    predicted, ways = {}, {}
    model.register_forward_pre_hook(lambda *_: ways.update({linear_layers.convolution_gain(): replaced(model)}))
    for gain in (0.5, 2.0):
        monkeypatch.setattr(linear_layers, "convolution_gain", lambda *_, gain=gain: gain)
        predicted[gain] = predict(model, ProformerTokenizer(), SEQUENCES)
    np.testing.assert_allclose(predicted[2.0], predicted[0.5], atol=1e-5)
    # These are the four projections of attention and two products of each feed-forward layer.
    assert ways[0.5] == [] and {name.split(".")[-1] for name in ways[2.0]} >= {"q_proj", "o_proj", "dense_in"}
    assert replaced(model) == []


def test_bfloat16_compiled_and_narrow_models_are_not_changed(model, monkeypatch):
    monkeypatch.setattr(linear_layers, "convolution_gain", lambda *_: 2.0)
    narrow = ProformerForSequenceClassification(ProformerConfig(hidden_size=16, head_dim=8, num_hidden_layers=1))
    short = ProformerForSequenceClassification(ProformerConfig(num_hidden_layers=1)).to(torch.bfloat16)
    for other in (narrow, short, torch.compile(model)):
        with fastest_linear_layers(other):
            assert replaced(other) == []
    seen = []
    model.register_forward_pre_hook(lambda *_: seen.append(replaced(model)))
    predict(model, ProformerTokenizer(), SEQUENCES[:1], dtype=torch.bfloat16)
    assert seen == [[]]


def test_hooks_of_a_layer_are_kept(model, monkeypatch):
    """Accelerate sets such hooks if weights are on disk."""
    monkeypatch.setattr(linear_layers, "convolution_gain", lambda *_: 2.0)
    seen = []
    layer = model.proformer.layers[0].self_attn.q_proj
    accelerate.hooks.add_hook_to_module(layer, Seen(seen))
    predict(model, ProformerTokenizer(), SEQUENCES)
    assert seen == [layer] and "forward" in vars(layer)


class Seen(accelerate.hooks.ModelHook):
    def __init__(self, modules: list):
        self.modules = modules

    def pre_forward(self, module, *args, **kwargs):
        self.modules.append(module)
        return args, kwargs


def test_a_model_is_left_as_it_was_after_an_error(model, monkeypatch):
    monkeypatch.setattr(linear_layers, "convolution_gain", lambda *_: 2.0)
    with pytest.raises(KeyError), fastest_linear_layers(model):
        assert replaced(model)
        raise KeyError
    assert replaced(model) == []


def test_two_threads_predict_with_one_model(model, monkeypatch):
    monkeypatch.setattr(linear_layers, "convolution_gain", lambda *_: 2.0)
    expected = predict(model, ProformerTokenizer(), SEQUENCES)
    found = {}

    def work(number: int):
        found[number] = predict(model, ProformerTokenizer(), SEQUENCES * 4, batch_size=2)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(3):
        np.testing.assert_allclose(found[number], np.tile(expected, (4, 1)), atol=1e-5)
    assert replaced(model) == []


def test_speed_is_measured_once():
    convolution_gain.cache_clear()
    threads = torch.get_num_threads()
    gains = [convolution_gain(512, 512, threads) for _ in range(2)]
    assert gains[0] == gains[1] > 0 and convolution_gain.cache_info().hits == 1


def test_predicting_draws_no_random_numbers(model):
    convolution_gain.cache_clear()
    before = torch.get_rng_state()
    predict(model, ProformerTokenizer(), SEQUENCES[:1])
    assert torch.equal(torch.get_rng_state(), before)
