"""Linear layers on a CPU, by the faster of the two ways that torch has."""

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from time import perf_counter

import torch
from torch import nn
from torch.nn import functional as F


# Weights from which on a layer is worth trying out; below, the product is not what takes the time.
WIDE = 2**18
# Rows of the product that is tried out, and how many times as fast the other way has to be. With fewer rows, it is
# another way that wins than in whole batches, and not always the same one.
ROWS = 2048
GAIN = 1.05


@contextmanager
def fastest_linear_layers(model: nn.Module) -> Iterator[None]:
    """
    Within it, wide linear layers of a model that computes in float32 on a CPU are convolutions of width 1, where these
    are faster on this machine: torch gives linear layers to MKL, but convolutions to oneDNN, which makes more of
    processors other than Intel's. These are the same sums in another order, so that predictions agree to rounding.
    """
    compiled = hasattr(model, "_orig_mod") or getattr(model, "_compiled_call_impl", None) is not None
    layers = [] if compiled else [layer for layer in model.modules() if is_faster_as_convolution(layer)]
    for layer in layers:
        layer.forward = partial(convolution, weight=layer.weight, bias=layer.bias)
    try:
        yield
    finally:
        for layer in layers:
            # Two threads that began at once have both replaced it.
            vars(layer).pop("forward", None)


def is_faster_as_convolution(layer: nn.Module) -> bool:
    # One with a forward of its own has a hook of accelerate, or another thread predicts with the model.
    if type(layer) is not nn.Linear or "forward" in vars(layer) or layer.weight.numel() < WIDE:
        return False
    of_float32 = layer.weight.device.type == "cpu" and layer.weight.dtype == torch.float32
    return of_float32 and convolution_gain(layer.in_features, layer.out_features, torch.get_num_threads()) > GAIN


def convolution(inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """What `F.linear` gives, (…, in) to (…, out), with all rows of the input as the pixels of one image."""
    image = inputs.reshape(1, -1, 1, inputs.shape[-1]).permute(0, 3, 1, 2)
    outputs = F.conv2d(image, weight[:, :, None, None], bias)
    return outputs.permute(0, 2, 3, 1).reshape(*inputs.shape[:-1], -1)


@cache
def convolution_gain(in_features: int, out_features: int, threads: int) -> float:
    """
    How many times as fast as `F.linear` the convolution is, by the median of five turns. It is measured once for each
    number of threads, which for all layers of the published model takes about two seconds.
    """
    with torch.inference_mode(), torch.autocast("cpu", enabled=False):
        # Not random numbers: those would change what a seed leads to.
        inputs, weight = torch.ones(ROWS, in_features), torch.ones(out_features, in_features)
        seconds = {F.linear: [], convolution: []}
        for _ in range(6):
            for way, taken in seconds.items():
                start = perf_counter()
                way(inputs, weight)
                taken.append(perf_counter() - start)
    # The first turn warms up.
    linear, other = (statistics.median(taken[1:]) for taken in seconds.values())
    return linear / other
