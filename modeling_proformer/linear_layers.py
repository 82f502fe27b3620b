"""Linear layers on a CPU, computed by the faster of the two ways that torch has."""

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from time import perf_counter

import torch
from torch import nn
from torch.nn import functional as F


# Smallest number of weights for which a layer is timed; the products of smaller ones take little of the time.
MIN_WEIGHTS = 2**18
# Rows of the product that is timed. With few rows, the way that is slower in whole batches may be faster.
TIMED_ROWS = 2048
# How many times as fast as `F.linear` the convolution must be to be chosen.
MIN_GAIN = 1.05


@contextmanager
def fastest_linear_layers(model: nn.Module) -> Iterator[None]:
    """
    Within the context, compute wide linear layers of a float32 model on a CPU as convolutions of width 1, if these are
    faster on this machine. Torch computes linear layers with MKL but convolutions with oneDNN, which is faster on
    processors that are not Intel's. The sums are the same in another order, so predictions agree up to rounding.
    """
    compiled = hasattr(model, "_orig_mod") or getattr(model, "_compiled_call_impl", None) is not None
    layers = [] if compiled else [layer for layer in model.modules() if _is_faster_as_convolution(layer)]
    for layer in layers:
        layer.forward = partial(convolve, weight=layer.weight, bias=layer.bias)
    try:
        yield
    finally:
        for layer in layers:
            # If two threads started at once, both have replaced it.
            vars(layer).pop("forward", None)


def _is_faster_as_convolution(layer: nn.Module) -> bool:
    # A layer with its own `forward` has a hook of accelerate, or another thread predicts with the model.
    if type(layer) is not nn.Linear or "forward" in vars(layer) or layer.weight.numel() < MIN_WEIGHTS:
        return False
    of_float32 = layer.weight.device.type == "cpu" and layer.weight.dtype == torch.float32
    return of_float32 and convolution_gain(layer.in_features, layer.out_features, torch.get_num_threads()) > MIN_GAIN


def convolve(inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Return what `F.linear` does, (…, in) to (…, out), with all rows of the input as the pixels of one image."""
    image = inputs.reshape(1, -1, 1, inputs.shape[-1]).permute(0, 3, 1, 2)
    outputs = F.conv2d(image, weight[:, :, None, None], bias)
    return outputs.permute(0, 2, 3, 1).reshape(*inputs.shape[:-1], -1)


@cache
def convolution_gain(in_features: int, out_features: int, threads: int) -> float:
    """
    Return how many times as fast as `F.linear` the convolution is, by the medians of five runs. It is measured once
    for each number of threads; for all layers of the published model this takes about two seconds.
    """
    with torch.inference_mode(), torch.autocast("cpu", enabled=False):
        # Not random numbers, which would change what a seed leads to.
        inputs, weight = torch.ones(TIMED_ROWS, in_features), torch.ones(out_features, in_features)
        seconds = {F.linear: [], convolve: []}
        for _ in range(6):
            for function, taken in seconds.items():
                start = perf_counter()
                function(inputs, weight)
                taken.append(perf_counter() - start)
    # The first run warms up.
    linear, convolution = (statistics.median(taken[1:]) for taken in seconds.values())
    return linear / convolution
