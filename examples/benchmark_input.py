"""Measure how fast promoters come to a training, and in how much memory, next to what the published model takes.

    python examples/benchmark_input.py --rows 10000000 --batch-size 512

The script writes random promoters of 80 bases between flanks to a temporary Parquet file, then prepares and loads them
as `proformer train` does, memory-mapped and streamed, each in a process of its own. Memory is what Linux counts:
resident, with the pages of files that it could drop at any time; and unique, which is the processes' own (anonymous
and shared memory; what several of them hold is counted once).
"""

import argparse
import multiprocessing
import os
import tempfile
import threading
import time
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import TrainingArguments

from modeling_proformer import (
    ProformerCollator,
    ProformerConfig,
    ProformerForPreTraining,
    ProformerTokenizer,
    ProformerTrainer,
    TrainConfig,
)
from modeling_proformer.training.rows import load_rows, stream_rows


FIVE_PRIME, THREE_PRIME = "TGCATTTTTTTCACATC", "GGTTACGGCTGTT"
INSERT = 80
BLOCK = 100_000


def write_promoters(path: Path, rows: int):
    """Write a block at a time, so that memory does not grow with the rows."""
    generator = np.random.default_rng(0)
    letters = np.frombuffer(b"ACGT", dtype=np.uint8)
    length = len(FIVE_PRIME) + INSERT + len(THREE_PRIME)
    schema = pa.schema([("sequence", pa.string()), ("expression", pa.float64())])
    with pq.ParquetWriter(path, schema) as file:
        for first in range(0, rows, BLOCK):
            count = min(BLOCK, rows - first)
            text = np.empty((count, length), dtype=np.uint8)
            text[:, : len(FIVE_PRIME)] = np.frombuffer(FIVE_PRIME.encode(), dtype=np.uint8)
            text[:, len(FIVE_PRIME) : -len(THREE_PRIME)] = letters[generator.integers(0, 4, (count, INSERT))]
            text[:, -len(THREE_PRIME) :] = np.frombuffer(THREE_PRIME.encode(), dtype=np.uint8)
            ends = np.arange(count + 1, dtype=np.int32) * length
            sequences = pa.StringArray.from_buffers(count, pa.py_buffer(ends), pa.py_buffer(text))
            expression = generator.normal(10, 3, count)
            file.write_table(pa.table({"sequence": sequences, "expression": expression}, schema=schema))


class MemoryWatch:
    """Maximum memory that this process and its children take while a block runs, in MiB."""

    def __enter__(self) -> "MemoryWatch":
        self.resident, self.own, self.worker, self.all = 0.0, 0.0, 0.0, 0.0
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *exception):
        self.done.set()
        self.thread.join()

    def watch(self):
        while True:
            resident, own = memory_of(os.getpid())
            workers = [memory_of(child.pid)[1] for child in multiprocessing.active_children()]
            self.resident, self.own = max(self.resident, resident), max(self.own, own)
            self.worker, self.all = max([self.worker, *workers]), max(self.all, own + sum(workers))
            if self.done.wait(0.2):
                return

    def __str__(self) -> str:
        return f"{self.resident:>12,.0f}{self.own:>12,.0f}{self.worker:>12,.0f}{self.all:>12,.0f}"


def memory_of(process: int) -> tuple[float, float]:
    """Return resident and unique memory in MiB; 0 for a process that has ended, and where there is no /proc."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return 0.0, 0.0
    sizes = {name.rstrip(":"): int(size) / 1024 for name, size, _ in map(str.split, lines)}
    return sizes["Rss"], sizes["Pss_Anon"] + sizes["Pss_Shmem"]


def report(what: str, figure: str, memory: MemoryWatch):
    print(f"{what:40}{figure:>16}{memory}", flush=True)


def measure_input(path: Path, streamed: bool, batch_size: int, workers: list[int], rows: int):
    """Measure what training does before its first step, then batches as the Trainer gets them."""
    # Loader workers start as they would in a training, not as this process did.
    multiprocessing.set_start_method(None, force=True)
    datasets.disable_progress_bars()
    datasets.config.HF_DATASETS_CACHE = str(path.parent / "cache")
    torch.set_num_threads(1)
    with MemoryWatch() as memory:
        time.sleep(0.5)
    report("libraries alone", "", memory)
    with MemoryWatch() as memory:
        start = time.perf_counter()
        if streamed:
            held_out = str(path.parent / "held_out.parquet")
            write_promoters(Path(held_out), 1000)
            data = stream_rows(str(path), TrainConfig(streaming=True, validation_data=held_out), 0, batch_size)
        else:
            data = load_rows(str(path), TrainConfig(), seed=0)
        elapsed = time.perf_counter() - start
    report("until the first batch", f"{elapsed:.1f} s", memory)
    if not streamed:
        start = time.perf_counter()
        load_rows(str(path), TrainConfig(), seed=0)
        print(f"{'once more, from the cache':40}{time.perf_counter() - start:>14.1f} s", flush=True)
    config = ProformerConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=1, num_expression_tokens=1)
    for count in workers:
        trainer = ProformerTrainer(
            model=ProformerForPreTraining(config),
            args=TrainingArguments(
                output_dir=path.parent / "run",
                per_device_train_batch_size=batch_size,
                dataloader_num_workers=count,
                max_steps=1 + rows // batch_size,
                remove_unused_columns=False,
                use_cpu=True,
            ),
            data_collator=ProformerCollator(data.tokenizer, mask_probability=0.05),
            train_dataset=data.train,
        )
        with MemoryWatch() as memory:
            batches = iter(trainer.get_train_dataloader())
            next(batches)
            start, delivered = time.perf_counter(), 0
            while delivered < rows and (batch := next(batches, None)) is not None:
                delivered += len(batch["labels"])
            rate = delivered / (time.perf_counter() - start)
            del batches
        report(f"batches of {batch_size}, {count} loader workers", f"{rate:,.0f} rows/s", memory)


def measure_model(batch_size: int, steps: int = 5):
    """Measure training steps of the published model."""
    device, dtype = ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)
    model = ProformerForPreTraining(ProformerConfig()).to(device)
    optimizer = torch.optim.AdamW(model.parameters())
    generator = np.random.default_rng(0)
    rows = [{"sequence": "".join(generator.choice(list("ACGT"), INSERT)), "labels": [0.0]} for _ in range(batch_size)]
    batch = ProformerCollator(ProformerTokenizer(), mask_probability=0.05)(rows)
    batch = {name: values.to(device) for name, values in batch.items()}
    for step in range(steps + 1):
        if step == 1:
            start = time.perf_counter()
        with torch.autocast(device, dtype, enabled=device == "cuda"):
            loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
    rate = steps * batch_size / (time.perf_counter() - start)
    print(f"The published model on {device}, batches of {batch_size}: {rate:,.1f} rows/s")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="promoters in the file")
    parser.add_argument("--batch-size", type=int, default=512, help="promoters in a batch")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2], help="numbers of loader workers")
    parser.add_argument("--measured-rows", type=int, default=200_000, help="promoters to load with each")
    parser.add_argument(
        "--model-batch-size", type=int, default=4, help="promoters in a step of the published model; 0 for none"
    )
    parser.add_argument("--folder", help="where the temporary file and cache lie")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path = Path(folder) / "promoters.parquet"
        start = time.perf_counter()
        write_promoters(path, arguments.rows)
        size = path.stat().st_size / 2**20
        print(f"{arguments.rows:,} rows, {size:,.0f} MiB, written in {time.perf_counter() - start:.0f} s")
        for streamed in (False, True):
            print(f"\n{'streamed' if streamed else 'memory-mapped':56}{'MiB at the peak':>32}")
            columns = [f"{name:>12}" for name in ("resident", "unique", "per worker", "all unique")]
            print(" " * 56 + "".join(columns), flush=True)
            measured = multiprocessing.get_context("spawn").Process(
                target=measure_input,
                args=(path, streamed, arguments.batch_size, arguments.workers, arguments.measured_rows),
            )
            measured.start()
            measured.join()
            if measured.exitcode:
                raise SystemExit(measured.exitcode)
    if arguments.model_batch_size:
        print()
        measure_model(arguments.model_batch_size)


if __name__ == "__main__":
    main()
