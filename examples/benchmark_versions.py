"""Compare how fast two versions of this package predict, and whether they predict the same.

    git worktree add /tmp/before af35545
    python examples/benchmark_versions.py /tmp/before . --threads 1 2
    python examples/benchmark_versions.py /tmp/before . --published --number 64

The two folders are checkouts of this repository. The model is the embedded one, or has the published size and random
weights. Each version runs in a process of its own; they take turns within one run, and the table has the median and
the range of all turns.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from timing import Line, describe_processor, take_turns


# Predicts when a line comes in, and answers with the seconds that this took.
WORKER = """
import sys, time
import numpy as np
import torch
from modeling_proformer import (
    ProformerConfig, ProformerForSequenceClassification, ProformerTokenizer, load_checkpoint, predict
)
published, number, threads, batch_size, dtype, clock, path = sys.argv[1:]
torch.set_num_threads(int(threads))
torch.manual_seed(0)
if published:
    model, tokenizer = ProformerForSequenceClassification(ProformerConfig()), ProformerTokenizer()
else:
    model, tokenizer = load_checkpoint()
bases = np.random.default_rng(0).choice(list("ACGT"), (int(number), 80))
options = {"batch_size": int(batch_size) or None, "dtype": getattr(torch, dtype, None)}
for line in sys.stdin:
    start = getattr(time, clock)()
    predicted = predict(model, tokenizer, ["".join(row) for row in bases], **options)
    print(getattr(time, clock)() - start, flush=True)
    np.save(path, predicted)
"""


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("before", type=Path, help="checkout of the one version")
    add("after", type=Path, help="checkout of the other version")
    add("--threads", type=int, nargs="+", default=[1], help="numbers of threads to measure (default: 1)")
    add("--number", type=int, default=2000, help="random promoters to predict in a turn (%(default)s)")
    add("--repeats", type=int, default=7, help="number of turns (%(default)s)")
    add("--batch-size", type=int, default=0, help="sequences computed at a time (default: the version's own)")
    add("--published", action="store_true", help="measure a model of the published size, with random weights")
    add("--bf16", action="store_true", help="compute in bfloat16")
    add("--busy", action="store_true", help="count seconds of the process on its core, for a machine that others use")
    arguments = parser.parse_args()
    if min(arguments.number, arguments.repeats, *arguments.threads) < 1 or arguments.batch_size < 0:
        parser.error("--number, --repeats, --threads and --batch-size must be at least 1.")
    for checkout in (arguments.before, arguments.after):
        if not (checkout / "modeling_proformer").is_dir():
            parser.error(f"{checkout}: this is no checkout of this repository.")
    if arguments.busy and arguments.threads != [1]:
        parser.error("--busy: waiting threads count as working, so measure one thread.")
    return arguments


def link_package(checkout: Path, folder: Path):
    """Make a folder to import a checkout from, where its parts lie as in the installed package."""
    package = folder / "modeling_proformer"
    package.mkdir(parents=True)
    for part in (*(checkout / "modeling_proformer").iterdir(), checkout / "tokenization"):
        (package / part.name).symlink_to(part.resolve())


def start(checkout: Path, threads: int, folder: Path, arguments: argparse.Namespace) -> subprocess.Popen:
    link_package(checkout, folder)
    options = [
        "published" if arguments.published else "",
        str(arguments.number),
        str(threads),
        str(arguments.batch_size),
        "bfloat16" if arguments.bf16 else "",
        "process_time" if arguments.busy else "perf_counter",
        str(folder / "predicted.npy"),
    ]
    script = f"import sys; sys.path.insert(0, {str(folder)!r})\n{WORKER}"
    return subprocess.Popen(
        [sys.executable, "-c", script, *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def measure(threads: int, arguments: argparse.Namespace) -> list[Line]:
    """Return the table's lines for one number of threads."""
    with tempfile.TemporaryDirectory() as name:
        folders = {version: Path(name, version) for version in ("before", "after")}
        workers = {
            version: start(getattr(arguments, version), threads, folder, arguments)
            for version, folder in folders.items()
        }

        def rate(worker: subprocess.Popen) -> float:
            print("predict", file=worker.stdin, flush=True)
            return arguments.number / float(worker.stdout.readline())

        tasks = {version: lambda worker=worker: rate(worker) for version, worker in workers.items()}
        measured = take_turns(tasks, arguments.repeats)
        for worker in workers.values():
            worker.communicate()
        before, after = (np.load(folder / "predicted.npy") for folder in folders.values())
    what = f"{threads} thread{'s' if threads > 1 else ''}"
    ratios = [later / earlier for earlier, later in zip(*measured.values(), strict=True)]
    changed = np.abs(after - before)
    remark = f"of {len(before):,} predictions {(changed > 0).sum():,} change, by {changed.max():.2g} at most"
    return [
        *(Line(f"{what}, {version}", rates) for version, rates in measured.items()),
        Line(f"{what}, after / before", ratios, "times as fast", remark),
    ]


def main():
    arguments = parse_arguments()
    print(f"{describe_processor('cpu')}\n\n| | median | range | | |\n|---|---:|---:|---|---|", flush=True)
    for threads in arguments.threads:
        print(*measure(threads, arguments), sep="\n", flush=True)


if __name__ == "__main__":
    main()
