"""How fast Proformer is on this machine, beside the fastest matrix products that the machine does.

    python examples/benchmark.py
    python examples/benchmark.py --compare "embedded float32" "embedded bfloat16"
    python examples/benchmark.py --device cuda --compiled --train "published bfloat16 compiled" --batch-size 512

Prints one table in Markdown. Whatever is compared took turns: medians and the range of all turns. The share of the
peak counts the multiplications and additions of a forward pass (three times as many of a training step) against the
best matrix product of the same type, of several shapes and by whichever way torch has. Changes of predictions are
those against float32 with linear layers as torch computes them, in standard deviations of the predictions. Needs the
extra "train".
"""

import argparse
import platform
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import datasets
import numpy as np
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.mkldnn import to_mkldnn
from transformers import (
    BatchEncoding,
    PreTrainedModel,
    PrinterCallback,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from modeling_proformer import ProformerConfig, ProformerForPreTraining, ProformerForSequenceClassification
from modeling_proformer.cli import available_device, positive_int
from modeling_proformer.data.collator import ProformerCollator
from modeling_proformer.data.tables import InputError
from modeling_proformer.export import read_sequences
from modeling_proformer.prediction import (
    load_checkpoint,
    make_ready,
    predict,
    predict_file,
    predict_tokens,
    token_batches,
)
from modeling_proformer.tokenization import ProformerTokenizer
from modeling_proformer.training.trainer import ProformerTrainer
from modeling_proformer.variants import saturation_mutagenesis


MODES = {
    "float32": (torch.float32, False),
    "bfloat16": (torch.bfloat16, False),
    "float32 compiled": (torch.float32, True),
    "bfloat16 compiled": (torch.bfloat16, True),
}
MODELS = ("published", "embedded")
NAMES = [f"{model} {mode}" for model in MODELS for mode in MODES]
PARTS = ("inference", "profile", "tokenizer", "prediction", "variants", "training", "memory")

# What is over sooner is done several times in a turn; in seconds.
SHORTEST_TURN = 0.1


class Line(NamedTuple):
    """
    A line of the table.

    Attributes:
        what: was measured.
        rates: of each turn, in `unit`.
        unit: such as "sequences/s".
        remark: what is to be said of it.
    """

    what: str
    rates: list[float]
    unit: str = "sequences/s"
    remark: str = ""

    def __str__(self) -> str:
        median, low, high = (f"{value:,.3g}" if value < 100 else f"{value:,.0f}" for value in spread(self.rates))
        return f"| {self.what} | {median} | {low} to {high} | {self.unit} | {self.remark} |"


def spread(values: list[float]) -> tuple[float, float, float]:
    return statistics.median(values), min(values), max(values)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--only", nargs="+", choices=PARTS, help="parts to measure (default: all; memory needs a GPU)")
    add("--compare", nargs=2, choices=NAMES, metavar=("ONE", "OTHER"), help=f"two of: {', '.join(NAMES)}")
    add("--compiled", action="store_true", help="measure inference with torch.compile as well")
    add(
        "--train",
        choices=NAMES,
        default="embedded float32",
        metavar="NAME",
        help="what is trained, named likewise (default: embedded float32)",
    )
    add("--steps", type=positive_int, default=40, help="of a training, after the first (default: 40)")
    add("--sequences", type=Path, help="FASTA file or table of yeast promoters; by default random ones of 80 letters")
    add("--number", type=positive_int, default=2000, help="of these promoters (default: 2000, the most of a file)")
    add(
        "--batch-size",
        type=positive_int,
        default=32,
        help="sequences of a forward pass and of a training step (default: 32)",
    )
    add("--promoters", type=positive_int, default=4, help="whose variants are predicted (default: 4)")
    add("--repeats", type=positive_int, default=5, help="turns (default: 5)")
    add("--threads", type=positive_int, help="of the CPU; by default all that torch takes")
    add("--device", type=available_device, default="cpu", help="where to compute (default: cpu)")
    arguments = parser.parse_args()
    arguments.device = str(arguments.device)
    on_gpu = arguments.device.startswith("cuda")
    if arguments.compare and arguments.only:
        parser.error("--compare is measured alone: leave out --only.")
    if arguments.only is None:
        arguments.only = [part for part in PARTS if on_gpu or part != "memory"]
    if "memory" in arguments.only and not on_gpu:
        parser.error("--only memory: a GPU's memory is measured; give --device cuda.")
    if on_gpu and torch.cuda.device_count() > 1:
        parser.error("--device: several GPUs are visible; choose one, as with CUDA_VISIBLE_DEVICES=1.")
    if arguments.compare and len(set(arguments.compare)) == 1:
        parser.error("--compare: name two different modes.")
    return arguments


def take_turns(tasks: dict[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """
    What each task returns, one after the other, over and over, forwards and backwards; once more before, to warm up.
    """
    for task in tasks.values():
        task()
    measured = {name: [] for name in tasks}
    for turn in range(repeats):
        for name in list(tasks)[:: -1 if turn % 2 else 1]:
            measured[name].append(tasks[name]())
    return measured


def rate_of(run: Callable[[], object], count: float, device: str = "cpu") -> Callable[[], float]:
    """How many of `count` things a second are done by a run."""
    runs = 1

    def timed() -> float:
        nonlocal runs
        while True:
            start = time.perf_counter()
            for _ in range(runs):
                run()
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            if (taken := time.perf_counter() - start) >= SHORTEST_TURN:
                return runs * count / taken
            runs *= 2

    return timed


class Product(NamedTuple):
    """A matrix product, (rows, inner) by (inner, columns), by one of the ways that torch has."""

    dtype: torch.dtype
    shape: tuple[int, int, int]
    way: str


def matrix_products(dtype: torch.dtype, arguments: argparse.Namespace) -> dict[Product, Callable[[], float]]:
    """Those of the published attention's projections of a batch, and a square one; in GFLOP/s."""
    device, rows = arguments.device, arguments.batch_size * 232
    square = 8192 if device.startswith("cuda") else 2048
    products = {}
    for shape in ((rows, 512, 4096), (rows, 4096, 512), (square, square, square)):
        for way, run in ways_of_product(device, dtype, *shape).items():
            products[Product(dtype, shape, way)] = rate_of(run, 2e-9 * np.prod(shape, dtype=float), device)
    return products


def ways_of_product(
    device: str, dtype: torch.dtype, rows: int, inner: int, columns: int
) -> dict[str, Callable[[], torch.Tensor]]:
    layer = torch.nn.Linear(inner, columns, device=device, dtype=dtype).requires_grad_(False)
    inputs = torch.randn(rows, inner, device=device, dtype=dtype)
    image = inputs.reshape(1, rows, 1, inner).permute(0, 3, 1, 2)
    kernel = layer.weight[:, :, None, None].contiguous(memory_format=torch.channels_last)
    ways = {
        "linear": lambda: layer(inputs),
        "product": lambda: inputs @ layer.weight.T,
        "convolution": lambda: F.conv2d(image, kernel, layer.bias),
    }
    if device == "cpu" and torch.backends.mkldnn.is_available():
        packed = to_mkldnn(torch.nn.Sequential(layer), dtype)
        blocked = inputs.to_mkldnn()
        ways["packed linear"] = lambda: packed(blocked)
    return ways


def beside_products(
    tasks: dict[str, Callable[[], float]], dtypes: set[torch.dtype], arguments: argparse.Namespace
) -> tuple[dict[str, list[float]], dict[torch.dtype, float], list[Line]]:
    """What the tasks return, in turns with matrix products; of each type the best of these, in GFLOP/s; and lines."""
    products = {
        product: rate
        for dtype in sorted(dtypes, key=str)
        for product, rate in matrix_products(dtype, arguments).items()
    }
    measured = take_turns(tasks | products, arguments.repeats)
    peaks, lines = dict.fromkeys(dtypes, 0.0), []
    for dtype, shape in dict.fromkeys((product.dtype, product.shape) for product in products):
        rates = {product.way: measured[product] for product in products if product[:2] == (dtype, shape)}
        best, *others = sorted(rates, key=lambda way: -statistics.median(rates[way]))
        peaks[dtype] = max(peaks[dtype], statistics.median(rates[best]))
        what = f"{str(dtype).removeprefix('torch.')} matrix product, {' × '.join(f'{size:,}' for size in shape)}"
        remark = ", ".join(f"{way} {statistics.median(rates[way]):,.0f}" for way in others)
        lines.append(Line(what, rates[best], "GFLOP/s", f"{best} ({remark})"))
    return {name: measured[name] for name in tasks}, peaks, lines


def model_and_tokenizer(name: str, device: str) -> tuple[PreTrainedModel, ProformerTokenizer]:
    """The embedded checkpoint; or the published architecture, with random weights, which are as fast as others."""
    if name == "embedded":
        model, tokenizer = load_checkpoint()
    else:
        set_seed(0)
        model, tokenizer = ProformerForSequenceClassification(ProformerConfig()).eval(), ProformerTokenizer()
    return model.to(device), tokenizer


def flops_of(model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> int:
    """Of a forward pass, for one sequence."""
    implementation = model.config._attn_implementation
    # A fused kernel is not counted everywhere.
    model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(**{name: tensor[:1] for name, tensor in inputs.items()})
    model.set_attn_implementation(implementation)
    return counter.get_total_flops()


class Forward(NamedTuple):
    """
    A model in one of the modes.

    Attributes:
        predict: from sequences to (sequences, outputs).
        rate: sequences a second of a forward pass.
        flops: of one sequence.
        dtype: that is computed in.
        attention: torch's name of the kernel that computes it.
    """

    predict: Callable[[], np.ndarray]
    rate: Callable[[], float]
    flops: int
    dtype: torch.dtype
    attention: str


def forward(name: str, sequences: list[str], arguments: argparse.Namespace) -> Forward:
    model_name, mode = name.split(" ", 1)
    dtype, compiled = MODES[mode]
    model, tokenizer = model_and_tokenizer(model_name, arguments.device)
    batch = tokenizer(sequences[: arguments.batch_size], return_tensors="pt", return_attention_mask=False)
    batch = batch.to(arguments.device)
    flops = flops_of(model, batch)
    autocast = None if dtype == torch.float32 else dtype
    attention = "compiled" if compiled else attention_kernel(model, batch, autocast)
    faster = torch.compile(model) if compiled else model
    # Another shape would be compiled anew.
    whole = sequences[: len(sequences) // len(batch["input_ids"]) * len(batch["input_ids"])] if compiled else sequences

    return Forward(
        predict=lambda: predict(faster, tokenizer, whole, arguments.batch_size, dtype=autocast),
        rate=rate_of(lambda: predict_tokens(faster, batch, autocast), len(batch["input_ids"]), arguments.device),
        flops=flops,
        dtype=dtype,
        attention=attention,
    )


def plain_predictions(name: str, sequences: list[str], arguments: argparse.Namespace) -> np.ndarray:
    """By the layers as they are, in float32; (sequences, outputs)."""
    model, tokenizer = model_and_tokenizer(name, arguments.device)
    batches = token_batches(tokenizer, sequences, arguments.batch_size, truncation=False)
    with torch.inference_mode():
        return np.concatenate([model(**batch.to(arguments.device)).logits.cpu().numpy() for batch in batches])


class AttentionKernels(TorchDispatchMode):
    """Collects which of torch's kernels attention is given to."""

    def __init__(self):
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = operation.overloadpacket.__name__
        if name.startswith("_scaled_dot_product_"):
            self.names.add(name.removeprefix("_scaled_dot_product_"))
        return operation(*args, **(kwargs or {}))


def attention_kernel(model: PreTrainedModel, batch: BatchEncoding, dtype: torch.dtype | None) -> str:
    # In inference mode, the choice would be out of sight.
    with AttentionKernels() as kernels, torch.no_grad(), torch.autocast(model.device.type, dtype, dtype is not None):
        model(**batch)
    return ", ".join(sorted(kernels.names)) or "attention of plain products"


def inference_lines(sequences: list[str], arguments: argparse.Namespace) -> list[Line]:
    modes = [mode for mode, (_, compiled) in MODES.items() if arguments.compiled or not compiled]
    forwards = {
        f"{model} {mode}": forward(f"{model} {mode}", sequences, arguments) for model in MODELS for mode in modes
    }
    dtypes = {each.dtype for each in forwards.values()}
    measured, peaks, lines = beside_products({name: each.rate for name, each in forwards.items()}, dtypes, arguments)
    exact = {model: plain_predictions(model, sequences, arguments) for model in MODELS}
    for name, each in forwards.items():
        plain = exact[name.split()[0]]
        predicted = each.predict()
        number = len(predicted)
        changes = np.abs(predicted - plain[:number]) / plain.std(axis=0)
        remark = (
            f"{share_of(measured[name], each.flops, peaks[each.dtype])}; {each.attention}; change of {number:,} "
            f"predictions on the mean {changes.mean():.2g}, at most {changes.max():.2g}"
        )
        lines.append(Line(f"{name}, forward passes", measured[name], remark=remark))
    return lines


def profile_lines(sequences: list[str], arguments: argparse.Namespace) -> list[Line]:
    """Of torch's operations in a forward pass of the published model in float32, those that take 1 % of it or more."""
    model, tokenizer = model_and_tokenizer("published", arguments.device)
    batch = tokenizer(sequences[: arguments.batch_size], return_tensors="pt", return_attention_mask=False)
    predict_tokens(model, batch)
    # On a GPU, its kernels; otherwise the operations that computed.
    on_gpu = arguments.device.startswith("cuda")
    kind = torch.autograd.DeviceType.CUDA if on_gpu else torch.autograd.DeviceType.CPU
    shares = defaultdict(list)
    for _ in range(arguments.repeats):
        with torch.profiler.profile() as profile:
            predict_tokens(model, batch)
        taken = {
            event.key.removeprefix("aten::"): event.self_device_time_total if on_gpu else event.self_cpu_time_total
            for event in profile.key_averages()
            if event.device_type == kind
        }
        for name, microseconds in taken.items():
            shares[name].append(100 * microseconds / sum(taken.values()))
    return [
        Line(f"published float32, {name}", each, "% of the time")
        for name, each in sorted(shares.items(), key=lambda item: -statistics.median(item[1]))
        if statistics.median(each) >= 1
    ]


def share_of(rates: list[float], flops: int, peak: float) -> str:
    return f"{statistics.median(rates) * flops / 1e9 / peak:.0%} of the peak"


def batches_of(items: list, size: int) -> list[list]:
    return [items[first : first + size] for first in range(0, len(items), size)]


def compare(one: str, other: str, sequences: list[str], arguments: argparse.Namespace) -> list[Line]:
    tasks = {name: forward(name, sequences, arguments).rate for name in (one, other)}
    measured = take_turns(tasks, arguments.repeats)
    ratios = [after / before for before, after in zip(*measured.values(), strict=True)]
    lines = [Line(name, rates) for name, rates in measured.items()]
    return [*lines, Line(f"{other} / {one}", ratios, "times as fast")]


def tokenizer_lines(sequences: list[str], arguments: argparse.Namespace) -> list[Line]:
    tokenizer = ProformerTokenizer()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def run():
        for batch in batches_of(sequences, 512):
            tokenizer(batch, padding=True, return_tensors="pt")

    rates = take_turns({"tokenizer": rate_of(run, len(sequences))}, 3 * arguments.repeats)["tokenizer"]
    torch.set_num_threads(threads)
    return [Line("tokenizer, to tensors of both strands, one core", rates)]


def prediction_lines(sequences: list[str], arguments: argparse.Namespace) -> list[Line]:
    """From a FASTA file to predictions, beside forward passes alone over tokens that lie ready."""
    model, tokenizer = model_and_tokenizer("embedded", arguments.device)
    inputs = list(token_batches(tokenizer, sequences, make_ready(model, sequences, None, None), truncation=False))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "promoters.fasta")
        path.write_text("".join(f">{number}\n{sequence}\n" for number, sequence in enumerate(sequences)))
        tasks = {
            "forward passes alone": lambda: [predict_tokens(model, each) for each in inputs],
            "from a FASTA file": lambda: [*predict_file(model, tokenizer, path)],
        }
        measured = take_turns(
            {name: rate_of(run, len(sequences), arguments.device) for name, run in tasks.items()}, arguments.repeats
        )
    alone, whole = measured.values()
    share = statistics.median(after / before for before, after in zip(alone, whole, strict=True))
    remarks = {"from a FASTA file": f"{share:.0%} of the rate of the forward passes"}
    return [Line(f"embedded model, {name}", rates, remark=remarks.get(name, "")) for name, rates in measured.items()]


def variant_lines(sequences: list[str], arguments: argparse.Namespace) -> list[Line]:
    model, tokenizer = model_and_tokenizer("embedded", arguments.device)
    inserts = tokenizer.inserts(sequences[: arguments.promoters])
    strings = [
        insert[:position] + letter + insert[position + 1 :]
        for insert in inserts
        for position, own in enumerate(insert)
        for letter in "ACGT"
        if letter != own
    ]

    def together() -> np.ndarray:
        expression = saturation_mutagenesis(model, tokenizer, inserts)
        own = [np.array([[letter == other for other in "ACGT"] for letter in insert]) for insert in inserts]
        return np.concatenate([each[~mask] for each, mask in zip(expression, own, strict=True)])

    def each_alone() -> np.ndarray:
        return np.concatenate([predict(model, tokenizer, [string]) for string in strings])

    tasks = {
        "saturation_mutagenesis": together,
        "predict, all variants at once": lambda: predict(model, tokenizer, strings),
        "predict, one variant after the other": each_alone,
    }
    expression = {}

    def kept(name: str):
        expression[name] = tasks[name]()

    measured = take_turns(
        {name: rate_of(partial(kept, name), len(strings), arguments.device) for name in tasks}, arguments.repeats
    )
    difference = max(np.abs(each - expression["saturation_mutagenesis"]).max() for each in expression.values())
    fastest, *others = measured.values()
    ratios = [statistics.median(one / other for one, other in zip(fastest, rates, strict=True)) for rates in others]
    remark = (
        f"{ratios[0]:.2f} and {ratios[1]:.2f} times as fast as the next two lines; differs by at most {difference:.1g}"
    )
    lines = [Line(f"{len(strings):,} variants, {name}", rates, "variants/s") for name, rates in measured.items()]
    return [lines[0]._replace(remark=remark), *lines[1:]]


class StepTimer(TrainerCallback):
    """How long steps take from the end of the first: before, all is set up."""

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
        """Sequences a second, with so many in a step."""
        return size * (self.steps - 1) / (self.ends[1] - self.ends[0])


def training_lines(sequences: list[str], arguments: argparse.Namespace) -> list[Line]:
    """Steps through the Trainer, and in a plain loop over tensors that lie ready."""
    name, mode = arguments.train.split(" ", 1)
    dtype, compiled = MODES[mode]
    model, tokenizer = model_and_tokenizer(name, "cpu")
    config = model.config
    size, steps = arguments.batch_size, 1 + arguments.steps
    generator = np.random.default_rng(0)
    rows = [
        {"sequence": sequences[index], "expression": float(value)}
        for index, value in zip(
            generator.integers(0, len(sequences), size * steps), generator.normal(10, 3, size * steps), strict=True
        )
    ]
    collator = ProformerCollator(tokenizer, mask_probability=0.05)
    device = torch.device(arguments.device)

    def bare_loop() -> float:
        torch.compiler.reset()
        model = ProformerForPreTraining(config).to(device).train()
        # That of the Trainer.
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0, fused=True)
        faster = torch.compile(model) if compiled else model
        batches = [collator(batch) for batch in batches_of(rows, size)]
        timer = StepTimer(steps)
        for batch in batches:
            training_step(faster, {key: tensor.to(device) for key, tensor in batch.items()}, dtype)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            timer.step_ended()
        return timer.rate(size)

    def through_trainer() -> float:
        torch.compiler.reset()
        timer = StepTimer(steps)
        with tempfile.TemporaryDirectory() as folder:
            trainer = ProformerTrainer(
                model=ProformerForPreTraining(config),
                args=TrainingArguments(
                    output_dir=folder,
                    max_steps=steps,
                    per_device_train_batch_size=size,
                    learning_rate=1e-3,
                    bf16=dtype == torch.bfloat16,
                    torch_compile=compiled,
                    save_strategy="no",
                    logging_strategy="no",
                    report_to="none",
                    disable_tqdm=True,
                    remove_unused_columns=False,
                    use_cpu=device.type == "cpu",
                ),
                data_collator=collator,
                eval_data_collator=collator,
                train_dataset=datasets.Dataset.from_list(rows),
                callbacks=[timer],
            )
            # What it prints is not for people.
            trainer.remove_callback(PrinterCallback)
            trainer.train()
        return timer.rate(size)

    measured, peaks, lines = beside_products({"loop": bare_loop, "Trainer": through_trainer}, {dtype}, arguments)
    flops = 3 * flops_of(model, tokenizer(sequences[:1], return_tensors="pt", return_attention_mask=False))
    shares = {way: share_of(rates, flops, peaks[dtype]) for way, rates in measured.items()}
    ratios = [after / before for before, after in zip(*measured.values(), strict=True)]
    what = f"{arguments.train}, training"
    return [
        *lines,
        Line(f"{what}, a bare loop", measured["loop"], remark=shares["loop"]),
        Line(f"{what}, Trainer", measured["Trainer"], remark=shares["Trainer"]),
        Line(f"{what}, Trainer / a bare loop", ratios, "times as fast"),
    ]


def training_step(model: torch.nn.Module, batch: dict[str, torch.Tensor], dtype: torch.dtype):
    """Forwards and backwards."""
    with torch.autocast(batch["input_ids"].device.type, dtype, enabled=dtype != torch.float32):
        loss = model(**batch).loss
    loss.backward()


def memory_lines(sequences: list[str], arguments: argparse.Namespace) -> list[Line]:
    """What training steps take of a GPU's memory: in batches as given, and in the largest that fit, to an eighth."""
    name, mode = arguments.train.split(" ", 1)
    dtype, compiled = MODES[mode]
    model, tokenizer = model_and_tokenizer(name, "cpu")
    model = ProformerForPreTraining(model.config).to(arguments.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    collator = ProformerCollator(tokenizer, mask_probability=0.05)
    peaks = {}

    def fits(size: int) -> bool:
        torch.compiler.reset()
        faster = torch.compile(model) if compiled else model
        rows = [{"sequence": sequences[row % len(sequences)], "expression": 0.0} for row in range(size)]
        try:
            batch = {key: tensor.to(arguments.device) for key, tensor in collator(rows).items()}
            torch.cuda.reset_peak_memory_stats()
            for _ in range(2):
                training_step(faster, batch, dtype)
                optimizer.step()
                optimizer.zero_grad()
        except torch.OutOfMemoryError:
            optimizer.zero_grad()
            return False
        peaks[size] = torch.cuda.max_memory_allocated() / 2**30
        return True

    size = arguments.batch_size
    if not fits(size):
        raise InputError(f"A training step of {size:,} sequences does not fit in the memory of this GPU.")
    while fits(2 * size):
        size *= 2
    for eighth in (size // 2, size // 4, size // 8):
        size += eighth if fits(size + eighth) else 0
    what = f"{arguments.train}, training, peak memory of batches of"
    return [
        Line(f"{what} {arguments.batch_size:,}", [peaks[arguments.batch_size]], "GiB"),
        Line(f"{what} {size:,}, the largest that fit", [peaks[size]], "GiB"),
    ]


def processor(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    described = Path("/proc/cpuinfo")
    lines = described.read_text().splitlines() if described.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{(names or [platform.machine()])[0]} ({torch.backends.cpu.get_cpu_capability()})"


def main():
    arguments = parse_arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.sequences:
        tokenizer = load_checkpoint()[1]
        sequences = tokenizer.inserts(read_sequences(arguments.sequences, tokenizer)[: arguments.number])
    else:
        letters = np.random.default_rng(0).choice(list("ACGT"), (arguments.number, 80))
        sequences = ["".join(row) for row in letters]
    print(
        f"{processor(arguments.device)}, {torch.get_num_threads()} threads, torch {torch.__version__}, batches of "
        f"{arguments.batch_size}\n"
    )
    print("| | median | range | | |\n|---|---:|---:|---|---|", flush=True)
    parts = {
        "inference": lambda: inference_lines(sequences, arguments),
        "profile": lambda: profile_lines(sequences, arguments),
        "tokenizer": lambda: tokenizer_lines(sequences, arguments),
        "prediction": lambda: prediction_lines(sequences, arguments),
        "variants": lambda: variant_lines(sequences, arguments),
        "training": lambda: training_lines(sequences, arguments),
        "memory": lambda: memory_lines(sequences, arguments),
    }
    if arguments.compare:
        parts = {"comparison": lambda: compare(*arguments.compare, sequences, arguments)}
    for name, lines in parts.items():
        if arguments.compare or name in arguments.only:
            print(*lines(), sep="\n", flush=True)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"benchmark.py: {error}")
