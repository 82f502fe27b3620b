"""What fine-tuning is worth on an assay: a checkpoint fine-tuned, its architecture from scratch, a ridge on k-mers.

    python examples/finetuning_benchmark.py assay.tsv --name "my assay" --sequence sequence --target expression \
        --rows 300 1000 3000 --seeds 0 1 2 --output benchmark.tsv

Each is trained on so many rows (and, last, on all), with the same split for all three, another one for each seed where
the table names none, and the defaults of `proformer finetune`. The ridge regression counts 6-mers on the strand as
given; its strength is chosen on the validation rows. Further methods show what parts of the fine-tuning are worth:
"kept whole" starts from the checkpoint as it is, whether it knows the assay or not; "positions anew" has position
embeddings as they are before any training, in the place of those that were stretched over another construct. Results
go to the table, one line each, and all assays in it into a figure beside it; what is there is not computed again.
Last, it prints a summary of the table. Needs scikit-learn.
"""

import argparse
import csv
import json
import math
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import Ridge

from modeling_proformer import ProformerTokenizer
from modeling_proformer.data.assay import Preparation, PreparedAssay, TableColumns, prepare_assay
from modeling_proformer.data.tables import InputError
from modeling_proformer.evaluation.figures import benchmark_plot
from modeling_proformer.evaluation.metrics import correlation, correlation_intervals, drawn_whole
from modeling_proformer.prediction import load_checkpoint
from modeling_proformer.training.finetune import Recipe, finetune, measured_values, stretched


FIELDS = [
    "assay", "rows", "seed", "method", "output", "trained_on", "tested_on", "pearson_r", "pearson_r_low",
    "pearson_r_high", "spearman_rho", "spearman_rho_low", "spearman_rho_high", "coverage_90",
]  # fmt: skip
ALPHAS = [1.0, 10.0, 100.0, 1000.0, 10_000.0]
METHODS = ["ridge", "fine-tuned", "from scratch", "kept whole", "positions anew"]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("table", type=Path, help="TSV, CSV or Parquet file")
    add("--name", required=True, help="of the assay")
    add("--sequence", required=True, help="column of the sequences")
    add("--target", nargs="+", required=True, help="columns of the measurements, or of reads with --bins")
    add("--bins", type=float, nargs="+", help="centres of the sorting bins that reads were counted in")
    add("--split-column", help="column of the sides")
    add("--group-column", help="column of the families")
    add("--duplicates", choices=["refuse", "average"], default="average", help="(default: average)")
    add("--from", dest="checkpoint", help="folder or Hub repository; by default the embedded checkpoint")
    add("--rows", type=int, nargs="*", default=[300, 1000, 3000], help="to train on (default: 300 1000 3000)")
    add("--not-all", action="store_true", help="do not train on all rows last")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="(default: 0 1 2)")
    add("--methods", nargs="+", choices=METHODS, default=METHODS[:3], help="(default: the first three)")
    add("--bf16", action="store_true", help="compute in bfloat16")
    add("--output", type=Path, required=True, help="TSV file to add to; the figure has the ending .png")
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    columns = TableColumns(
        arguments.sequence,
        arguments.target,
        bins=arguments.bins,
        split=arguments.split_column,
        group=arguments.group_column,
    )
    if not arguments.output.exists():
        arguments.output.write_text("\t".join(FIELDS) + "\n")
    everything = prepare(arguments, columns, Preparation(duplicates=arguments.duplicates))
    fewer = [rows for rows in arguments.rows if rows < len(everything.split.train)]
    for rows in [*fewer, *([] if arguments.not_all else [None])]:
        for seed in arguments.seeds:
            preparation = Preparation(duplicates=arguments.duplicates, train_rows=rows, seed=seed)
            for method in arguments.methods:
                key = [arguments.name, str(rows or "all"), str(seed), method]
                if any([line[field] for field in FIELDS[:4]] == key for line in read(arguments.output)):
                    continue
                if method == "ridge":
                    lines = ridge(arguments, columns, preparation)
                else:
                    lines = proformer(arguments, columns, preparation, method)
                with open(arguments.output, "a", newline="") as file:
                    writer = csv.DictWriter(file, FIELDS, delimiter="\t", lineterminator="\n")
                    writer.writerows(dict(zip(FIELDS, key, strict=False)) | line for line in lines)
                print(*key, *(f"{line['output']} r {line['pearson_r']}" for line in lines), flush=True)
        draw(arguments.output)
    print(summary(arguments.output))


def proformer(
    arguments: argparse.Namespace, columns: TableColumns, preparation: Preparation, method: str
) -> list[dict]:
    recipe = Recipe(
        from_scratch=method == "from scratch",
        keep=1 if method == "kept whole" else None,
        bf16=arguments.bf16,
        seed=preparation.seed,
    )
    with tempfile.TemporaryDirectory() as folder:
        checkpoint, output = arguments.checkpoint, Path(folder, "model")
        if method == "positions anew":
            tokenizer = prepare(arguments, columns, preparation).tokenizer
            checkpoint = Path(folder, "checkpoint")
            save_with_new_positions(arguments.checkpoint, tokenizer, checkpoint, recipe.seed)
        finetune(arguments.table, columns, output, checkpoint, preparation, recipe, show=lambda sentence: None)
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


def prepare(arguments: argparse.Namespace, columns: TableColumns, preparation: Preparation) -> PreparedAssay:
    return prepare_assay(arguments.table, columns, preparation, load_checkpoint(arguments.checkpoint)[1])


def save_with_new_positions(checkpoint: str | None, tokenizer: ProformerTokenizer, folder: Path, seed: int):
    """The checkpoint for the construct of a tokenizer, with position embeddings as before any training."""
    model = stretched(*load_checkpoint(checkpoint), tokenizer)
    torch.manual_seed(seed)
    new = type(model)(model.config)
    model.proformer.embeddings.position_embeddings = new.proformer.embeddings.position_embeddings
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def ridge(arguments: argparse.Namespace, columns: TableColumns, preparation: Preparation) -> list[dict]:
    assay = prepare(arguments, columns, preparation)
    inserts = assay.tokenizer.inserts(assay.table.sequences)
    counts = CountVectorizer(analyzer="char", ngram_range=(6, 6), lowercase=False, dtype=np.float32).fit_transform(
        inserts
    )
    measured = measured_values(assay.table.labels, columns)
    return [
        {"output": name} | ridge_of_output(assay, counts, measured[:, output])
        for output, name in enumerate(columns.outputs)
    ]


def ridge_of_output(assay: PreparedAssay, counts, measured: np.ndarray) -> dict:
    train, validation, test = (rows[~np.isnan(measured[rows])] for rows in assay.split)
    models = [Ridge(alpha=alpha, solver="sparse_cg").fit(counts[train], measured[train]) for alpha in ALPHAS]
    best = min(models, key=lambda model: np.mean((model.predict(counts[validation]) - measured[validation]) ** 2))
    predicted = best.predict(counts[test])
    found = correlation(measured[test], predicted)
    intervals = correlation_intervals(measured[test], predicted, drawn_whole(assay.families[test]))
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
    """One panel for each assay and output: r over the rows trained on, of each method."""
    results = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for panel, line in by_output(table):
        if line["pearson_r"]:
            r = tuple(float(line[f"pearson_r{end}"]) for end in ("", "_low", "_high"))
            results[panel][line["method"]][int(line["trained_on"])].append(r)
    benchmark_plot(table.with_suffix(".png"), results)


def summary(table: Path) -> str:
    """
    A Markdown table, of means over the seeds: r with the ends of its interval and ρ of each assay, number of rows and
    method, and the share of test rows within the 90 % interval of the checkpoint fine-tuned.
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
    """Each line, and the assay that it is of; where there are several outputs, with the output."""
    lines = read(table)
    for line in lines:
        several = len({other["output"] for other in lines if other["assay"] == line["assay"]}) > 1
        yield f"{line['assay']}, {line['output']}" if several else line["assay"], line


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"finetuning_benchmark.py: {error}")
