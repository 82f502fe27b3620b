"""Measure what fine-tuning is worth on an assay, next to training from scratch and to a ridge regression on k-mers.

    python examples/finetuning_benchmark.py assay.tsv --name "my assay" --sequence sequence --targets expression \
        --rows 300 1000 3000 --seeds 0 1 2 --output benchmark.tsv

Each method is trained on so many rows, and at last on all, with the same split for all methods (another one for each
seed, where the table has none) and the defaults of `proformer finetune`. The ridge regression counts 6-mers on the
strand as given; its penalty is chosen on the validation rows. Two further methods show what parts of the fine-tuning
are worth: "kept whole" starts from the checkpoint as it is, whether it knows the assay or not; "positions anew" starts
from position embeddings as they are before any training, instead of resized ones. Results go to the table, one line
each, and all assays in it into a figure next to it; results that are there are not computed again. At last the script
prints a summary of the table. It needs the extra "train".
"""

import argparse
import csv
import json
import math
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from modeling_proformer import FinetuneConfig, ProformerTokenizer, load_checkpoint, prepare_assay
from modeling_proformer.data.assay import Assay
from modeling_proformer.data.tables import InputError
from modeling_proformer.evaluation import benchmark_plot, correlation, correlation_intervals
from modeling_proformer.evaluation.bootstrap import usable_groups
from modeling_proformer.training.baseline import count_kmers, fit_ridge
from modeling_proformer.training.finetune import run_finetuning
from modeling_proformer.training.transfer import resize_positions


FIELDS = [
    "assay", "rows", "seed", "method", "output", "trained_on", "tested_on", "pearson_r", "pearson_r_low",
    "pearson_r_high", "spearman_rho", "spearman_rho_low", "spearman_rho_high", "coverage_90",
]  # fmt: skip
METHODS = ["ridge", "fine-tuned", "from scratch", "kept whole", "positions anew"]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("data", help="TSV, CSV or Parquet file")
    add("--name", required=True, help="name of the assay")
    add("--sequence", required=True, help="column with the sequences")
    add("--targets", nargs="+", required=True, help="columns with the measurements, or with reads for --bins")
    add("--bins", type=float, nargs="+", help="centres of the sorting bins that reads were counted in")
    add("--split", help="column that assigns each row to a split")
    add("--group", help="column with the group of each row")
    add("--duplicates", choices=["refuse", "average"], default="average", help="(default: average)")
    add("--model", help="folder or Hub repository; by default the embedded checkpoint")
    add("--rows", type=int, nargs="*", default=[300, 1000, 3000], help="rows to train on (default: 300 1000 3000)")
    add("--not-all", action="store_true", help="do not train on all rows at last")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="(default: 0 1 2)")
    add("--methods", nargs="+", choices=METHODS, default=METHODS[:3], help="(default: the first three)")
    add("--steps", type=int, help="maximum number of weight updates; by default it follows from the number of rows")
    add("--bf16", action="store_true", help="compute in bfloat16")
    add("--output", type=Path, required=True, help="TSV file to add to; the figure has the ending .png")
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    shared = ("sequence", "targets", "bins", "split", "group", "duplicates", "model", "steps", "bf16")
    config = FinetuneConfig(**{name: getattr(arguments, name) for name in shared})
    if not arguments.output.exists():
        arguments.output.write_text("\t".join(FIELDS) + "\n")
    available = len(prepare(arguments.data, config).split.train)
    fewer = [rows for rows in arguments.rows if rows < available]
    for rows in [*fewer, *([] if arguments.not_all else [None])]:
        for seed in arguments.seeds:
            for method in arguments.methods:
                key = [arguments.name, str(rows or "all"), str(seed), method]
                if any([line[field] for field in FIELDS[:4]] == key for line in read(arguments.output)):
                    continue
                measure = measure_ridge if method == "ridge" else measure_proformer
                lines = measure(arguments.data, replace(config, train_rows=rows, seed=seed), method)
                with open(arguments.output, "a", newline="") as file:
                    writer = csv.DictWriter(file, FIELDS, delimiter="\t", lineterminator="\n")
                    writer.writerows(dict(zip(FIELDS, key, strict=False)) | line for line in lines)
                print(*key, *(f"{line['output']} r {line['pearson_r']}" for line in lines), flush=True)
        draw(arguments.output)
    print(summary(arguments.output))


def measure_proformer(data: str, config: FinetuneConfig, method: str) -> list[dict]:
    """Fine-tune with a method, and return a line for each output."""
    config = replace(config, from_scratch=method == "from scratch", keep=1.0 if method == "kept whole" else None)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "model")
        if method == "positions anew":
            checkpoint = Path(folder, "checkpoint")
            save_with_new_positions(config.model, prepare(data, config).tokenizer, checkpoint, config.seed)
            config = replace(config, model=str(checkpoint))
        run_finetuning(data, output, config)
        found = json.loads((output / "metrics.json").read_text())
    return [
        {
            "output": name,
            "trained_on": found["rows"]["train"],
            "tested_on": metrics["rows"],
            "coverage_90": metrics["coverage"].get("0.9"),
        }
        | {
            f"{metric}{suffix}": metrics[metric][end]
            for metric in ("pearson_r", "spearman_rho")
            for suffix, end in (("", "value"), ("_low", "low"), ("_high", "high"))
        }
        for name, metrics in found["held_out"]["test"].items()
    ]


def prepare(data: str, config: FinetuneConfig) -> Assay:
    return prepare_assay(data, config, load_checkpoint(config.model)[1], seed=config.seed)


def save_with_new_positions(checkpoint: str | None, tokenizer: ProformerTokenizer, folder: Path, seed: int):
    """Save the checkpoint for a tokenizer's construct, with position embeddings as before any training."""
    model = resize_positions(*load_checkpoint(checkpoint), tokenizer)
    torch.manual_seed(seed)
    new = type(model)(model.config)
    model.proformer.embeddings.position_embeddings = new.proformer.embeddings.position_embeddings
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def measure_ridge(data: str, config: FinetuneConfig, method: str) -> list[dict]:
    """Fit a ridge regression, and return a line for each output."""
    assay = prepare(data, config)
    counts = count_kmers(assay.inserts, kmer_size=6)
    return [
        {"output": name} | measure_output(assay, counts, assay.measured[:, output])
        for output, name in enumerate(config.outputs)
    ]


def measure_output(assay: Assay, counts, measured: np.ndarray) -> dict:
    train, validation, test = (rows[~np.isnan(measured[rows])] for rows in assay.split)
    ridge = fit_ridge(counts[train], measured[train], counts[validation], measured[validation])
    predicted = ridge.predict(counts[test])
    found = correlation(measured[test], predicted)
    intervals = correlation_intervals(measured[test], predicted, usable_groups(assay.groups[test]))
    return {"trained_on": len(train), "tested_on": len(test)} | {
        f"{metric}{suffix}": value
        for metric in ("pearson_r", "spearman_rho")
        for suffix, value in (
            ("", getattr(found, metric)),
            ("_low", getattr(intervals, metric).low),
            ("_high", getattr(intervals, metric).high),
        )
    }


def read(table: Path) -> list[dict]:
    with open(table, newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def draw(table: Path):
    """Draw a panel for each assay and output: r over the rows trained on, of each method."""
    results = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for panel, line in by_output(table):
        if line["pearson_r"]:
            r = tuple(float(line[f"pearson_r{end}"]) for end in ("", "_low", "_high"))
            results[panel][line["method"]][int(line["trained_on"])].append(r)
    benchmark_plot(table.with_suffix(".png"), results)


def summary(table: Path) -> str:
    """
    Return a Markdown table of means over the seeds: r with its interval and ρ for each assay, number of rows and
    method, and the share of test rows within the 90 % interval of the fine-tuned checkpoint.
    """
    results = defaultdict(lambda: defaultdict(list))
    for panel, line in by_output(table):
        results[panel, line["rows"], line["trained_on"]][line["method"]].append(line)
    methods = [method for method in METHODS if any(method in found for found in results.values())]
    text = [f"| assay | rows | {' | '.join(f'{method}: r, ρ' for method in methods)} | 90 % covers |"]
    text.append("|---" * (3 + len(methods)) + "|")
    for (panel, rows, trained_on), found in results.items():
        cells = [panel, f"{'all ' if rows == 'all' else ''}{int(trained_on):,}"]
        for method in methods:
            r, low, high, rho = (
                mean(found[method], metric)
                for metric in ("pearson_r", "pearson_r_low", "pearson_r_high", "spearman_rho")
            )
            cells.append(f"{r:.3f} ({low:.3f} to {high:.3f}), {rho:.3f}" if found[method] else "")
        cells.append(f"{mean(found['fine-tuned'], 'coverage_90'):.1%}" if found["fine-tuned"] else "")
        text.append(f"| {' | '.join(cells)} |")
    return "\n".join(text)


def mean(lines: list[dict], field: str) -> float:
    values = [float(line[field]) for line in lines if line[field]]
    return float(np.mean(values)) if values else math.nan


def by_output(table: Path) -> Iterator[tuple[str, dict]]:
    """Yield each line with the name of its assay, and with its output where there are several."""
    lines = read(table)
    for line in lines:
        several = len({other["output"] for other in lines if other["assay"] == line["assay"]}) > 1
        yield f"{line['assay']}, {line['output']}" if several else line["assay"], line


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"finetuning_benchmark.py: {error}")
