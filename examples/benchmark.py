"""How fast Proformer is on this machine, beside the fastest matrix products that the machine does.

    python examples/benchmark.py
    python examples/benchmark.py --compare "embedded float32" "embedded bfloat16"
    python examples/benchmark.py --only inference --sequences promoters.fasta --device cuda

Prints one table in Markdown. Whatever stands in a line together with something else took turns with it: medians and
the range of all turns. The share of the peak counts the multiplications and additions of a forward pass against the
best matrix product of the same type, by whichever way torch has, measured before. Changes of predictions are those
against float32, in standard deviations of the predictions. Needs the extra "train".
"""

import argparse
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import datasets
import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.mkldnn import to_mkldnn
from transformers import PreTrainedModel, PrinterCallback, TrainerCallback, TrainingArguments, set_seed

from modeling_proformer import ProformerConfig, ProformerForPreTraining, ProformerForSequenceClassification
from modeling_proformer.assays import InputError
from modeling_proformer.cli import available_device, positive_int
from modeling_proformer.collation import ProformerCollator
from modeling_proformer.prediction import (
    load_checkpoint,
    make_ready,
    predict,
    predict_file,
    predict_tokens,
    token_batches,
)
from modeling_proformer.serving import read_sequences
from modeling_proformer.tokenization import ProformerTokenizer
from modeling_proformer.training import ProformerTrainer
from modeling_proformer.variants import saturation_mutagenesis


MODES = {
    "float32": (torch.float32, False),
    "bfloat16": (torch.bfloat16, False),
    "float32 compiled": (torch.float32, True),
    "bfloat16 compiled": (torch.bfloat16, True),
}
MODELS = ("published", "embedded")
PARTS = ("inference", "tokenizer", "prediction", "variants", "training")


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
    add("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to measure (default: all)")
    names = [f"{model} {mode}" for model in MODELS for mode in MODES]
    add("--compare", nargs=2, choices=names, metavar=("ONE", "OTHER"), help=f"two of: {', '.join(names)}")
    add("--compiled", action="store_true", help="measure inference with torch.compile as well")
    add("--sequences", type=Path, help="FASTA file or table of yeast promoters; by default random ones of 80 letters")
    add("--number", type=positive_int, default=2000, help="of these promoters (default: 2000)")
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
    if arguments.compare and len(set(arguments.compare)) == 1:
        parser.error("--compare: name two different modes.")
    return arguments


def take_turns(tasks: dict[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """What each task returns, one after the other, over and over; once more before, to warm up."""
    for task in tasks.values():
        task()
    measured = {name: [] for name in tasks}
    for _ in range(repeats):
        for name, task in tasks.items():
            measured[name].append(task())
    return measured


def rate_of(run: Callable[[], object], count: float, device: str = "cpu") -> Callable[[], float]:
    """How many of `count` things a second are done by a run."""

    def timed() -> float:
        start = time.perf_counter()
        run()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        return count / (time.perf_counter() - start)

    return timed


def matrix_products(device: str, dtype: torch.dtype, rows: int) -> dict[str, Callable[[], float]]:
    """That of the published attention's last projection, by the ways that torch has; in GFLOP/s."""
    wide, width = 4096, 512
    layer = torch.nn.Linear(wide, width, device=device, dtype=dtype).requires_grad_(False)
    inputs = torch.randn(rows, wide, device=device, dtype=dtype)
    image = inputs.reshape(1, rows, 1, wide).permute(0, 3, 1, 2)
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
    return {name: rate_of(way, 2e-9 * rows * width * wide, device) for name, way in ways.items()}


def peak_lines(arguments: argparse.Namespace, peaks: dict[torch.dtype, float]) -> list[Line]:
    lines = []
    for dtype, name in ((torch.float32, "float32"), (torch.bfloat16, "bfloat16")):
        ways = matrix_products(arguments.device, dtype, arguments.batch_size * 232)
        measured = take_turns(ways, max(5, arguments.repeats))
        peaks[dtype] = max(statistics.median(rates) for rates in measured.values())
        lines += [Line(f"{name} matrix product, {way}", rates, "GFLOP/s") for way, rates in measured.items()]
    return lines


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
    """

    predict: Callable[[], np.ndarray]
    rate: Callable[[], float]
    flops: int
    dtype: torch.dtype


def forward(name: str, mode: str, sequences: list[str], arguments: argparse.Namespace) -> Forward:
    dtype, compiled = MODES[mode]
    model, tokenizer = model_and_tokenizer(name, arguments.device)
    batch = tokenizer(sequences[: arguments.batch_size], return_tensors="pt", return_attention_mask=False)
    batch = batch.to(arguments.device)
    flops = flops_of(model, batch)
    if compiled:
        model = torch.compile(model)
    autocast = None if dtype == torch.float32 else dtype

    def predicted() -> np.ndarray:
        # Whole batches, because another shape would be compiled anew.
        whole = len(sequences) // len(batch["input_ids"]) * len(batch["input_ids"])
        return predict(model, tokenizer, sequences[:whole], arguments.batch_size, dtype=autocast)

    def run():
        predict_tokens(model, batch, autocast)

    return Forward(predicted, rate_of(run, len(batch["input_ids"]), arguments.device), flops, dtype)


def inference_lines(
    sequences: list[str], arguments: argparse.Namespace, peaks: dict[torch.dtype, float]
) -> list[Line]:
    modes = [mode for mode, (_, compiled) in MODES.items() if arguments.compiled or not compiled]
    lines = []
    for name in MODELS:
        forwards = {mode: forward(name, mode, sequences, arguments) for mode in modes}
        measured = take_turns({mode: each.rate for mode, each in forwards.items()}, arguments.repeats)
        exact = forwards["float32"].predict()
        for mode, rates in measured.items():
            share = statistics.median(rates) * forwards[mode].flops / 1e9 / peaks[forwards[mode].dtype]
            remark = f"{share:.0%} of the peak"
            if mode != "float32":
                changes = np.abs(forwards[mode].predict() - exact) / exact.std(axis=0)
                remark += f"; change of {len(exact):,} predictions {changes.mean():.2g}, at most {changes.max():.2g}"
            lines.append(Line(f"{name} model, {mode}", rates, remark=remark))
    return lines


def batches_of(items: list, size: int) -> list[list]:
    return [items[first : first + size] for first in range(0, len(items), size)]


def compare(one: str, other: str, sequences: list[str], arguments: argparse.Namespace) -> list[Line]:
    forwards = {pair: forward(*pair.split(" ", 1), sequences, arguments) for pair in (one, other)}
    measured = take_turns({pair: each.rate for pair, each in forwards.items()}, arguments.repeats)
    ratios = [after / before for before, after in zip(*measured.values(), strict=True)]
    lines = [Line(pair, rates) for pair, rates in measured.items()]
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

    difference = np.abs(together() - each_alone()).max()
    tasks = {
        "saturation_mutagenesis": together,
        "predict, all variants at once": lambda: predict(model, tokenizer, strings),
        "predict, one variant after the other": each_alone,
    }
    measured = take_turns(
        {name: rate_of(run, len(strings), arguments.device) for name, run in tasks.items()}, arguments.repeats
    )
    fastest, *others = measured.values()
    ratios = [statistics.median(one / other for one, other in zip(fastest, rates, strict=True)) for rates in others]
    remark = (
        f"{ratios[0]:.2f} and {ratios[1]:.2f} times as fast as the next two lines; differs by at most {difference:.1g}"
    )
    lines = [Line(f"{len(strings):,} variants, {name}", rates, "variants/s") for name, rates in measured.items()]
    return [lines[0]._replace(remark=remark), *lines[1:]]


class StepTimer(TrainerCallback):
    """When the first step ended, and the last: before the first, all is set up."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 1:
            self.first = time.perf_counter()
        self.last = time.perf_counter()


def training_lines(sequences: list[str], arguments: argparse.Namespace) -> list[Line]:
    """Steps of the embedded architecture through the Trainer, and in a plain loop over tensors that lie ready."""
    model, tokenizer = load_checkpoint()
    config = model.config
    size, steps = arguments.batch_size, 40
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
        model = ProformerForPreTraining(config).to(device).train()
        # That of the Trainer.
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0, fused=True)
        batches = [collator(batch) for batch in batches_of(rows, size)]
        timer = StepTimer()
        for step, batch in enumerate(batches):
            loss = model(**{name: tensor.to(device) for name, tensor in batch.items()}).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if step == 0:
                timer.first = time.perf_counter()
        return size * (steps - 1) / (time.perf_counter() - timer.first)

    def through_trainer() -> float:
        timer = StepTimer()
        with tempfile.TemporaryDirectory() as folder:
            trainer = ProformerTrainer(
                model=ProformerForPreTraining(config),
                args=TrainingArguments(
                    output_dir=folder,
                    max_steps=steps,
                    per_device_train_batch_size=size,
                    learning_rate=1e-3,
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
        return size * (steps - 1) / (timer.last - timer.first)

    measured = take_turns({"loop": bare_loop, "Trainer": through_trainer}, arguments.repeats)
    ratio = statistics.median(after / before for before, after in zip(*measured.values(), strict=True))
    return [
        Line("training, embedded architecture, a bare loop", measured["loop"]),
        Line("training, embedded architecture, Trainer", measured["Trainer"], remark=f"{ratio:.1%} of the bare loop"),
    ]


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
    where = torch.cuda.get_device_name() if arguments.device.startswith("cuda") else platform.machine()
    print(
        f"{where}, {torch.get_num_threads()} threads, torch {torch.__version__}, batches of {arguments.batch_size}\n"
    )
    print("| | median | range | | |\n|---|---:|---:|---|---|", flush=True)
    peaks = {}
    parts = {
        "inference": lambda: peak_lines(arguments, peaks) + inference_lines(sequences, arguments, peaks),
        "tokenizer": lambda: tokenizer_lines(sequences, arguments),
        "prediction": lambda: prediction_lines(sequences, arguments),
        "variants": lambda: variant_lines(sequences, arguments),
        "training": lambda: training_lines(sequences, arguments),
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
