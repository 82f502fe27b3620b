"""Measure how fast Proformer is on this machine, next to the fastest matrix products that the machine does.

    python examples/benchmark.py
    python examples/benchmark.py --compare "embedded float32" "embedded float32 compiled"
    python examples/benchmark.py --device cuda --compiled --train "published bfloat16 compiled" --batch-size 512

The script prints one table in Markdown. Everything that is compared runs by turns; the table has the median and the
range of all turns. The share of the peak counts the multiplications and additions of a forward pass (three times as
many for a training step) against the best matrix product of the same type, of several shapes and by any of the
functions that torch has. Changes of predictions are those from float32, in standard deviations of the predictions.
bfloat16 is measured where the device computes it faster than float32. The script needs the extra "train", and the part
"engines" the extra "export".
"""

import argparse
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from itertools import starmap
from pathlib import Path
from typing import NamedTuple

import datasets
import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    BatchEncoding,
    PreTrainedModel,
    PrinterCallback,
    TrainingArguments,
    set_seed,
)

from engines import measure_engines
from modeling_proformer import ProformerConfig, ProformerForPreTraining, ProformerForSequenceClassification
from modeling_proformer.data.collator import ProformerCollator
from modeling_proformer.data.tables import InputError
from modeling_proformer.exporting import read_sequences
from modeling_proformer.hardware import has_fast_bfloat16
from modeling_proformer.loading import load_checkpoint
from modeling_proformer.mutagenesis import saturation_mutagenesis
from modeling_proformer.prediction import predict, predict_file, predict_tokens, prepare_model, token_batches
from modeling_proformer.tokenization import ProformerTokenizer
from modeling_proformer.training.trainer import ProformerTrainer
from timing import (
    Line,
    StepTimer,
    count_flops,
    describe_processor,
    describe_share,
    measure_with_products,
    take_turns,
    time_rate,
)


MODES = {
    "float32": (torch.float32, False),
    "bfloat16": (torch.bfloat16, False),
    "float32 compiled": (torch.float32, True),
    "bfloat16 compiled": (torch.bfloat16, True),
}
MODELS = ("published", "embedded")
NAMES = [f"{model} {mode}" for model in MODELS for mode in MODES]

NO_BFLOAT16 = "This device does not compute bfloat16 faster than float32, so it is not measured."


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--only", nargs="+", choices=PARTS, help="parts to measure (default: all of this device but engines)")
    add("--compare", nargs=2, choices=NAMES, metavar=("ONE", "OTHER"), help=f"compare two of: {', '.join(NAMES)}")
    add("--compiled", action="store_true", help="measure inference with torch.compile as well")
    add("--train", choices=NAMES, default="embedded float32", metavar="NAME", help="model to train (%(default)s)")
    add("--steps", type=int, default=40, help="training steps to time, after the first one (%(default)s)")
    add("--sequences", type=Path, help="FASTA file or table of yeast promoters; by default random ones of 80 bases")
    add("--number", type=int, default=2000, help="number of random promoters, or maximum of a file (2000)")
    add("--batch-size", type=int, default=32, help="sequences in a forward pass or training step (32)")
    add("--promoters", type=int, default=4, help="promoters whose variants are predicted (%(default)s)")
    add("--repeats", type=int, default=5, help="number of turns (%(default)s)")
    add("--threads", type=int, help="threads of the CPU; by default as many as torch chooses")
    add("--device", choices=["cpu", "cuda"], default="cpu", help="where to compute (%(default)s)")
    arguments = parser.parse_args()
    for name in ("steps", "number", "batch_size", "promoters", "repeats", "threads"):
        if (value := getattr(arguments, name)) is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')} is {value}, but must be at least 1.")
    on_gpu = arguments.device == "cuda"
    if on_gpu and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no GPU here.")
    if arguments.compare and arguments.only:
        parser.error("--compare is measured alone: leave out --only.")
    if arguments.only is None:
        left_out = PARTS if arguments.compare else ["engines"] if on_gpu else ["engines", "memory"]
        arguments.only = [part for part in PARTS if part not in left_out]
    if "memory" in arguments.only and not on_gpu:
        parser.error("--only memory measures the memory of a GPU: give --device cuda.")
    if on_gpu and torch.cuda.device_count() > 1:
        parser.error("--device: several GPUs are visible; choose one, as with CUDA_VISIBLE_DEVICES=1.")
    if arguments.compare and len(set(arguments.compare)) == 1:
        parser.error("--compare: name two different modes.")
    arguments.bfloat16 = torch.cuda.is_bf16_supported() if on_gpu else has_fast_bfloat16()
    if not arguments.bfloat16 and any("bfloat16" in name for name in (arguments.train, *(arguments.compare or ()))):
        parser.error(f"{NO_BFLOAT16} Choose float32.")
    arguments.modes = [
        mode
        for mode, (dtype, compiled) in MODES.items()
        if (arguments.compiled or not compiled) and (arguments.bfloat16 or dtype != torch.bfloat16)
    ]
    return arguments


def load_model(name: str, device: str) -> tuple[PreTrainedModel, ProformerTokenizer]:
    """Return the embedded checkpoint, or the published architecture with random weights, which are as fast."""
    if name == "embedded":
        model, tokenizer = load_checkpoint()
    else:
        set_seed(0)
        model, tokenizer = ProformerForSequenceClassification(ProformerConfig()).eval(), ProformerTokenizer()
    return model.to(device), tokenizer


class Forward(NamedTuple):
    """
    A model in one of the modes.

    Attributes:
        predict: from sequences to (sequences, outputs).
        rate: measures sequences a second in forward passes.
        flops: additions and multiplications for one sequence.
        dtype: type that products are computed in.
        attention: torch's name of the kernel that computes attention.
    """

    predict: Callable[[], np.ndarray]
    rate: Callable[[], float]
    flops: int
    dtype: torch.dtype
    attention: str


def prepare_forward(name: str, sequences: list[str], arguments: argparse.Namespace) -> Forward:
    model_name, mode = name.split(" ", 1)
    dtype, compiled = MODES[mode]
    model, tokenizer = load_model(model_name, arguments.device)
    batch = tokenizer(sequences[: arguments.batch_size], return_tensors="pt", return_attention_mask=False)
    batch = batch.to(arguments.device)
    flops = count_flops(model, batch)
    autocast = None if dtype == torch.float32 else dtype
    attention = "compiled" if compiled else find_attention_kernel(model, batch, autocast)
    faster = torch.compile(model) if compiled else model
    # Another shape, such as that of an incomplete last batch, would be compiled again.
    whole = sequences[: len(sequences) // len(batch["input_ids"]) * len(batch["input_ids"])] if compiled else sequences
    return Forward(
        predict=lambda: predict(faster, tokenizer, whole, batch_size=arguments.batch_size, dtype=autocast),
        rate=time_rate(lambda: predict_tokens(faster, batch, autocast), len(batch["input_ids"]), arguments.device),
        flops=flops,
        dtype=dtype,
        attention=attention,
    )


class AttentionKernels(TorchDispatchMode):
    """Collect the names of the kernels by which torch computes attention."""

    def __init__(self):
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = operation.overloadpacket.__name__
        if name.startswith("_scaled_dot_product_"):
            self.names.add(name.removeprefix("_scaled_dot_product_"))
        return operation(*args, **(kwargs or {}))


def find_attention_kernel(model: PreTrainedModel, batch: BatchEncoding, dtype: torch.dtype | None) -> str:
    # Inference mode would hide which kernel is chosen.
    with AttentionKernels() as kernels, torch.no_grad(), torch.autocast(model.device.type, dtype, dtype is not None):
        model(**batch)
    return ", ".join(sorted(kernels.names)) or "attention of plain products"


def measure_inference(sequences: list[str], arguments: argparse.Namespace) -> list[Line]:
    names = [f"{model} {mode}" for model in MODELS for mode in arguments.modes]
    forwards = {name: prepare_forward(name, sequences, arguments) for name in names}
    dtypes = {each.dtype for each in forwards.values()}
    measured, peaks, lines = measure_with_products(
        {name: each.rate for name, each in forwards.items()}, dtypes, arguments
    )
    exact = {model: forwards[f"{model} float32"].predict() for model in MODELS}
    for name, each in forwards.items():
        plain = exact[name.split()[0]]
        predicted = each.predict()
        changes = np.abs(predicted - plain[: len(predicted)]) / plain.std(axis=0)
        share = describe_share(measured[name], each.flops, peaks[each.dtype])
        remark = (
            f"{share}; {each.attention}; change of {len(predicted):,} predictions {changes.mean():.2g} on average, "
            f"{changes.max():.2g} at most"
        )
        lines.append(Line(f"{name}, forward passes", measured[name], remark=remark))
    return lines


def measure_profile(sequences: list[str], arguments: argparse.Namespace) -> list[Line]:
    """Measure which of torch's operations take 1 % or more of a forward pass of the published model in float32."""
    model, tokenizer = load_model("published", arguments.device)
    batch = tokenizer(sequences[: arguments.batch_size], return_tensors="pt", return_attention_mask=False)
    predict_tokens(model, batch)
    # On a GPU, its kernels are counted; otherwise the operations.
    on_gpu = arguments.device == "cuda"
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


def split_batches(items: list, size: int) -> list[list]:
    return [items[first : first + size] for first in range(0, len(items), size)]


def compare_modes(one: str, other: str, sequences: list[str], arguments: argparse.Namespace) -> list[Line]:
    tasks = {name: prepare_forward(name, sequences, arguments).rate for name in (one, other)}
    measured = take_turns(tasks, arguments.repeats)
    ratios = [after / before for before, after in zip(*measured.values(), strict=True)]
    return [*starmap(Line, measured.items()), Line(f"{other} / {one}", ratios, "times as fast")]


def measure_tokenizer(sequences: list[str], arguments: argparse.Namespace) -> list[Line]:
    tokenizer = ProformerTokenizer()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def run():
        for batch in split_batches(sequences, 512):
            tokenizer(batch, padding=True, return_tensors="pt")

    rates = take_turns({"tokenizer": time_rate(run, len(sequences))}, 3 * arguments.repeats)["tokenizer"]
    torch.set_num_threads(threads)
    return [Line("tokenizer, to tensors of both strands, one core", rates)]


def measure_prediction(sequences: list[str], arguments: argparse.Namespace) -> list[Line]:
    """Compare prediction from a FASTA file with forward passes alone, over tokens made before."""
    model, tokenizer = load_model("embedded", arguments.device)
    model, batch_size = prepare_model(model, tokenizer, sequences, None, None)
    inputs = list(token_batches(tokenizer, sequences, batch_size, truncation=False))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "promoters.fasta")
        path.write_text("".join(f">{number}\n{sequence}\n" for number, sequence in enumerate(sequences)))
        tasks = {
            "forward passes alone": lambda: [predict_tokens(model, each) for each in inputs],
            "from a FASTA file": lambda: [*predict_file(model, tokenizer, path)],
        }
        measured = take_turns(
            {name: time_rate(run, len(sequences), arguments.device) for name, run in tasks.items()}, arguments.repeats
        )
    alone, whole = measured.values()
    share = statistics.median(after / before for before, after in zip(alone, whole, strict=True))
    remarks = {"from a FASTA file": f"{share:.0%} of the rate of the forward passes"}
    return [Line(f"embedded model, {name}", rates, remark=remarks.get(name, "")) for name, rates in measured.items()]


def measure_variants(sequences: list[str], arguments: argparse.Namespace) -> list[Line]:
    model, tokenizer = load_model("embedded", arguments.device)
    inserts = tokenizer.inserts(sequences[: arguments.promoters])
    strings = [
        insert[:position] + base + insert[position + 1 :]
        for insert in inserts
        for position, own in enumerate(insert)
        for base in "ACGT"
        if base != own
    ]

    def together() -> np.ndarray:
        expression = saturation_mutagenesis(model, tokenizer, inserts)
        own = [np.array([[base == other for other in "ACGT"] for base in insert]) for insert in inserts]
        return np.concatenate([each[~mask] for each, mask in zip(expression, own, strict=True)])

    def each_alone() -> np.ndarray:
        return np.concatenate([predict(model, tokenizer, [string]) for string in strings])

    tasks = {
        "saturation_mutagenesis": together,
        "predict, all variants at once": lambda: predict(model, tokenizer, strings),
        "predict, one variant after the other": each_alone,
    }
    expression = {}

    def keep(name: str):
        expression[name] = tasks[name]()

    measured = take_turns(
        {name: time_rate(partial(keep, name), len(strings), arguments.device) for name in tasks}, arguments.repeats
    )
    difference = max(np.abs(each - expression["saturation_mutagenesis"]).max() for each in expression.values())
    fastest, *others = measured.values()
    ratios = [statistics.median(one / other for one, other in zip(fastest, rates, strict=True)) for rates in others]
    remark = (
        f"{ratios[0]:.2f} and {ratios[1]:.2f} times as fast as the next two lines; differs by {difference:.1g} at most"
    )
    lines = [Line(f"{len(strings):,} variants, {name}", rates, "variants/s") for name, rates in measured.items()]
    return [lines[0]._replace(remark=remark), *lines[1:]]


def measure_training(sequences: list[str], arguments: argparse.Namespace) -> list[Line]:
    """Compare training steps by the Trainer with those of a plain loop over tensors made before."""
    name, mode = arguments.train.split(" ", 1)
    dtype, compiled = MODES[mode]
    model, tokenizer = load_model(name, "cpu")
    config = model.config
    size, steps = arguments.batch_size, 1 + arguments.steps
    generator = np.random.default_rng(0)
    count = size * steps
    drawn = zip(generator.integers(0, len(sequences), count), generator.normal(10, 3, count), strict=True)
    rows = [{"sequence": sequences[index], "labels": [float(value)]} for index, value in drawn]
    collator = ProformerCollator(tokenizer, mask_probability=0.05)
    device = torch.device(arguments.device)

    def bare_loop() -> float:
        torch.compiler.reset()
        model = ProformerForPreTraining(config).to(device).train()
        # The Trainer's own.
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0, fused=True)
        faster = torch.compile(model) if compiled else model
        batches = [collator(batch) for batch in split_batches(rows, size)]
        timer = StepTimer(steps)
        for batch in batches:
            run_step(faster, {key: tensor.to(device) for key, tensor in batch.items()}, dtype)
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
            # Remove the Trainer's raw dict printer.
            trainer.remove_callback(PrinterCallback)
            trainer.train()
        return timer.rate(size)

    measured, peaks, lines = measure_with_products({"loop": bare_loop, "Trainer": through_trainer}, {dtype}, arguments)
    tokens = tokenizer(sequences[:1], return_tensors="pt", return_attention_mask=False)
    # The trained model predicts bases too, so it computes the last block for all positions.
    flops = 3 * count_flops(ProformerForPreTraining(model.config), tokens)
    shares = {way: describe_share(rates, flops, peaks[dtype]) for way, rates in measured.items()}
    ratios = [after / before for before, after in zip(*measured.values(), strict=True)]
    what = f"{arguments.train}, training"
    return [
        *lines,
        Line(f"{what}, a bare loop", measured["loop"], remark=shares["loop"]),
        Line(f"{what}, Trainer", measured["Trainer"], remark=shares["Trainer"]),
        Line(f"{what}, Trainer / a bare loop", ratios, "times as fast"),
    ]


def run_step(model: torch.nn.Module, batch: dict[str, torch.Tensor], dtype: torch.dtype):
    """Run the model forwards and backwards."""
    with torch.autocast(batch["input_ids"].device.type, dtype, enabled=dtype != torch.float32):
        loss = model(**batch).loss
    loss.backward()


def measure_memory(sequences: list[str], arguments: argparse.Namespace) -> list[Line]:
    """Measure the GPU memory of training steps, in batches as given and in the largest that fit, to an eighth."""
    name, mode = arguments.train.split(" ", 1)
    dtype, compiled = MODES[mode]
    model, tokenizer = load_model(name, "cpu")
    model = ProformerForPreTraining(model.config).to(arguments.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    collator = ProformerCollator(tokenizer, mask_probability=0.05)
    peaks = {}

    def fits(size: int) -> bool:
        torch.compiler.reset()
        faster = torch.compile(model) if compiled else model
        rows = [{"sequence": sequences[row % len(sequences)], "labels": [0.0]} for row in range(size)]
        try:
            batch = {key: tensor.to(arguments.device) for key, tensor in collator(rows).items()}
            torch.cuda.reset_peak_memory_stats()
            for _ in range(2):
                run_step(faster, batch, dtype)
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


def main():
    arguments = parse_arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    try:
        print_table(read_promoters(arguments), arguments)
    except InputError as error:
        sys.exit(f"benchmark.py: {error}")


def read_promoters(arguments: argparse.Namespace) -> list[str]:
    """Return the promoters of the file that was given, or random ones."""
    if arguments.sequences:
        tokenizer = load_checkpoint()[1]
        return tokenizer.inserts(read_sequences(arguments.sequences, tokenizer)[: arguments.number])
    bases = np.random.default_rng(0).choice(list("ACGT"), (arguments.number, 80))
    return ["".join(row) for row in bases]


def print_table(sequences: list[str], arguments: argparse.Namespace):
    threads = f"{torch.get_num_threads()} threads, torch {torch.__version__}, batches of {arguments.batch_size}"
    print(f"{describe_processor(arguments.device)}, {threads}\n")
    if not arguments.bfloat16:
        print(f"{NO_BFLOAT16}\n")
    print("| | median | range | | |\n|---|---:|---:|---|---|", flush=True)
    if arguments.compare:
        print(*compare_modes(*arguments.compare, sequences, arguments), sep="\n", flush=True)
    for name, measure in PARTS.items():
        if name in arguments.only:
            print(*measure(sequences, arguments), sep="\n", flush=True)


PARTS = {
    "inference": measure_inference,
    "engines": measure_engines,
    "profile": measure_profile,
    "tokenizer": measure_tokenizer,
    "prediction": measure_prediction,
    "variants": measure_variants,
    "training": measure_training,
    "memory": measure_memory,
}


if __name__ == "__main__":
    main()
