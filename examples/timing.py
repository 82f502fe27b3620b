"""Time tasks by turns, next to the fastest matrix products that the machine does; `benchmark.py` uses it."""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.mkldnn import to_mkldnn
from transformers import PreTrainedModel, TrainerCallback


# A turn repeats its task until it has taken this long.
MIN_TURN_SECONDS = 0.1

# Rows and columns of the square matrix product, which is large enough to reach the peak.
CPU_SQUARE, GPU_SQUARE = 2048, 8192

# Positions that the published model computes for one sequence: 200 k-mers and 32 expression positions.
PUBLISHED_POSITIONS = 232


class Line(NamedTuple):
    """
    A line of the table.

    Attributes:
        what: name of what was measured.
        rates: one for each turn, in `unit`.
        unit: such as "sequences/s".
        remark: text for the last column.
    """

    what: str
    rates: list[float]
    unit: str = "sequences/s"
    remark: str = ""

    def __str__(self) -> str:
        spread = (statistics.median(self.rates), min(self.rates), max(self.rates))
        median, low, high = (f"{value:,.3g}" if value < 100 else f"{value:,.0f}" for value in spread)
        return f"| {self.what} | {median} | {low} to {high} | {self.unit} | {self.remark} |"


def take_turns(tasks: dict[str, Callable[[], float]], repeats: int, warm_up: bool = True) -> dict[str, list[float]]:
    """
    Return what each task returned in each turn.

    The tasks run one after the other, alternately forwards and backwards, so that a machine that changes its speed
    favours none of them. They run once before that, unless the caller has warmed the machine up already.
    """
    if warm_up:
        for task in tasks.values():
            task()
    measured = {name: [] for name in tasks}
    for turn in range(repeats):
        for name in list(tasks)[:: -1 if turn % 2 else 1]:
            measured[name].append(tasks[name]())
    return measured


def time_rate(run: Callable[[], object], count: float, device: str = "cpu") -> Callable[[], float]:
    """Return a task that measures how many things a second are done, where each run does `count` of them."""
    runs = 1

    def timed() -> float:
        nonlocal runs
        while True:
            start = time.perf_counter()
            for _ in range(runs):
                run()
            if device == "cuda":
                torch.cuda.synchronize()
            if (taken := time.perf_counter() - start) >= MIN_TURN_SECONDS:
                return runs * count / taken
            runs *= 2

    return timed


class Product(NamedTuple):
    """A matrix product, (rows, inner) by (inner, columns), computed by one of the functions that torch has for it."""

    dtype: torch.dtype
    shape: tuple[int, int, int]
    function: str


def measure_with_products(
    tasks: dict[str, Callable[[], float]], dtypes: set[torch.dtype], arguments: argparse.Namespace
) -> tuple[dict[str, list[float]], dict[torch.dtype, float], list[Line]]:
    """
    Measure tasks and matrix products by turns.

    Returns:
        What each task returned in each turn; the rate of the best matrix product of each type, in GFLOP/s; and the
        table's lines about the products.
    """
    products = {
        product: rate for dtype in sorted(dtypes, key=str) for product, rate in _products(dtype, arguments).items()
    }
    measured = take_turns(tasks | products, arguments.repeats)
    peaks, lines = dict.fromkeys(dtypes, 0.0), []
    for dtype, shape in dict.fromkeys((product.dtype, product.shape) for product in products):
        rates = {product.function: measured[product] for product in products if product[:2] == (dtype, shape)}
        best, *others = sorted(rates, key=lambda function: -statistics.median(rates[function]))
        peaks[dtype] = max(peaks[dtype], statistics.median(rates[best]))
        what = f"{str(dtype).removeprefix('torch.')} matrix product, {' × '.join(f'{size:,}' for size in shape)}"
        remark = ", ".join(f"{function} {statistics.median(rates[function]):,.0f}" for function in others)
        lines.append(Line(what, rates[best], "GFLOP/s", f"{best} ({remark})"))
    return {name: measured[name] for name in tasks}, peaks, lines


def _products(dtype: torch.dtype, arguments: argparse.Namespace) -> dict[Product, Callable[[], float]]:
    """Return tasks for the products of the published attention's projections, and for a square one, in GFLOP/s."""
    device, rows = arguments.device, arguments.batch_size * PUBLISHED_POSITIONS
    square = GPU_SQUARE if device == "cuda" else CPU_SQUARE
    products = {}
    for shape in ((rows, 512, 4096), (rows, 4096, 512), (square, square, square)):
        for function, run in _product_functions(device, dtype, *shape).items():
            products[Product(dtype, shape, function)] = time_rate(run, 2e-9 * np.prod(shape, dtype=float), device)
    return products


def _product_functions(
    device: str, dtype: torch.dtype, rows: int, inner: int, columns: int
) -> dict[str, Callable[[], torch.Tensor]]:
    layer = torch.nn.Linear(inner, columns, device=device, dtype=dtype).requires_grad_(False)
    inputs = torch.randn(rows, inner, device=device, dtype=dtype)
    image = inputs.reshape(1, rows, 1, inner).permute(0, 3, 1, 2)
    kernel = layer.weight[:, :, None, None].contiguous(memory_format=torch.channels_last)
    functions = {
        "linear": lambda: layer(inputs),
        "product": lambda: inputs @ layer.weight.T,
        "convolution": lambda: F.conv2d(image, kernel, layer.bias),
    }
    if device == "cpu" and torch.backends.mkldnn.is_available():
        packed = to_mkldnn(torch.nn.Sequential(layer), dtype)
        blocked = inputs.to_mkldnn()
        functions["packed linear"] = lambda: packed(blocked)
    return functions


def describe_share(rates: list[float], flops: int, peak: float) -> str:
    """Return the share of `peak` (GFLOP/s) that so many sequences a second of so many FLOP each are."""
    return f"{statistics.median(rates) * flops / 1e9 / peak:.0%} of the peak"


def count_flops(model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> int:
    """Return the number of additions and multiplications in a forward pass of one sequence."""
    implementation = model.config._attn_implementation
    # Not every fused kernel is counted.
    model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(**{name: tensor[:1] for name, tensor in inputs.items()})
    model.set_attn_implementation(implementation)
    return counter.get_total_flops()


class StepTimer(TrainerCallback):
    """Measure how long training steps take after the first one, which includes all set-up."""

    def __init__(self, steps: int):
        self.steps = steps
        self.done = 0
        self.ends: list[float] = []

    def step_ended(self):
        self.done += 1
        if self.done in (1, self.steps):
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.ends.append(time.perf_counter())

    def on_step_end(self, args, state, control, **kwargs):
        self.step_ended()

    def rate(self, size: int) -> float:
        """Return sequences a second, for steps of `size` sequences."""
        return size * (self.steps - 1) / (self.ends[1] - self.ends[0])


def describe_processor(device: str) -> str:
    """Return the name of the GPU, or of the CPU with the instructions that torch uses."""
    if device == "cuda":
        return torch.cuda.get_device_name(device)
    cpu_info = Path("/proc/cpuinfo")
    lines = cpu_info.read_text().splitlines() if cpu_info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{(names or [platform.machine()])[0]} ({torch.backends.cpu.get_cpu_capability()})"
