"""Time the embedded model by several engines on a CPU, next to other models of the task; `benchmark.py` uses it."""

import argparse
import tempfile
from pathlib import Path

import torch

from modeling_proformer import load_checkpoint
from modeling_proformer.exporting import export, open_exported
from modeling_proformer.prediction import predict_tokens, token_batches
from other_models import CHANNELS, WIDTH, make_models
from timing import Line, count_flops, describe_share, measure_with_products, time_rate


def measure_engines(sequences: list[str], arguments: argparse.Namespace) -> list[Line]:
    """Measure forward passes with torch and onnxruntime, in 8 bits, and of other models with random weights."""
    model, tokenizer = load_checkpoint()
    batch = next(token_batches(tokenizer, sequences, arguments.batch_size, truncation=False))
    size = len(batch["input_ids"])
    runs = {"embedded model, torch": lambda: predict_tokens(model, batch)}
    with tempfile.TemporaryDirectory() as folder:
        for file_format in ("onnx", "int8"):
            export(model, tokenizer, Path(folder, file_format), format=file_format)
            run = open_exported(Path(folder, file_format))
            runs[f"embedded model, {file_format}"] = lambda run=run: run(batch["input_ids"].numpy())
    bases = torch.zeros(size, CHANNELS, WIDTH)
    others = make_models()
    for name, other in others.items():
        runs[name] = lambda other=other: _compute(other, bases)
    tasks = {name: time_rate(run, size) for name, run in runs.items()}
    measured, peaks, _ = measure_with_products(tasks, {torch.float32}, arguments)
    flops = count_flops(model, batch)
    remarks = {name: f"{describe_share(measured[name], flops, peaks[torch.float32])}" for name in list(runs)[:2]}
    for name, other in others.items():
        remarks[name] = f"{sum(parameter.numel() for parameter in other.parameters()):,} parameters"
    return [Line(name, rates, remark=remarks.get(name, "")) for name, rates in measured.items()]


@torch.inference_mode()
def _compute(model: torch.nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    return model(inputs)
