"""Test the paper's claim that many pseudo-expression positions train where pooling or a single position collapses.

    python examples/ablation.py --tables promoters.parquet --group family --max_steps 400 \
        --per_device_train_batch_size 64 --output_dir runs/ablation

Each way to make a prediction (the mean over all k-mers; 1, 8 or 32 pseudo-expression positions) is trained at every
depth and width, with the published objective, optimizer and learning rates. The runs are shorter than the published
one, so they pass through its schedule faster. Results are written to ablation.tsv, one line each, and plotted in
ablation.png. Models that are in the table already are not trained again; use another folder for other data, steps or
seeds. Give --use_cpu True on a machine without a GPU.
"""

import csv
import sys
import time
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from transformers import HfArgumentParser, set_seed

from modeling_proformer import ProformerConfig, ProformerForPreTraining
from modeling_proformer.data.collator import ProformerCollator
from modeling_proformer.data.config import option
from modeling_proformer.data.tables import InputError
from modeling_proformer.evaluation import ablation_plot
from modeling_proformer.options import valid_options
from modeling_proformer.training.config import TrainConfig
from modeling_proformer.training.finetune import eager_is_faster
from modeling_proformer.training.pretrain import TrainerOptions
from modeling_proformer.training.published import PublishedGradientClipping, published_optimization
from modeling_proformer.training.rows import TrainingRows, load_rows
from modeling_proformer.training.scores import compute_metrics
from modeling_proformer.training.trainer import ProformerTrainer


COLUMNS = ["expression_positions", "layers", "hidden_size", "parameters", "pearson_r", "training_loss", "seconds"]
POOLING = "mean over k-mers"
PUBLISHED_WARMUP_STEPS = 12_500


@dataclass
class AblationOptions:
    tables: list[str] = field(metadata={"help": "Tables or Hub datasets, as for `proformer train`."})
    sequence: str = option("Column with the sequences.", "sequence")
    target: str = option("Column with the measurements.", "expression")
    group: str | None = option("Column with the group of each row; a group is never divided between splits.")
    insert_width: int = option("Width that inserts are padded to; longer ones are left out.", 100)
    expression_positions: list[int] = option("Pseudo-expression positions; 0 averages all k-mers.", [0, 1, 8, 32])
    layers: list[int] = option("Numbers of blocks.", [2, 6])
    hidden_sizes: list[int] = option("Widths of the model.", [64, 128])
    warmup_share: float = option("Share of the steps up to the highest learning rate.", 0.3)


def main():
    with valid_options():
        options, training = HfArgumentParser((AblationOptions, TrainerOptions)).parse_args_into_dataclasses()
    if training.max_steps <= 0:
        raise InputError("Give --max_steps: the published schedule is passed through in this number of steps.")
    training.max_grad_norm = 0.0
    training.save_strategy = "no"
    with valid_options():
        config = TrainConfig(
            sequence=options.sequence, targets=[options.target], group=options.group, insert_width=options.insert_width
        )
    rows = load_rows(options.tables, config, training.seed)
    output = Path(training.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    table = output / "ablation.tsv"
    if not table.exists():
        table.write_text("\t".join(COLUMNS) + "\n")

    for layers, hidden_size, positions in product(options.layers, options.hidden_sizes, options.expression_positions):
        if any(row[:3] == [str(positions), str(layers), str(hidden_size)] for row in read(table)):
            continue
        steps_at_once = PUBLISHED_WARMUP_STEPS / (options.warmup_share * training.max_steps)
        row = [positions, layers, hidden_size, *train(rows, training, positions, layers, hidden_size, steps_at_once)]
        with table.open("a") as file:
            file.write("\t".join(map(str, row)) + "\n")
        plot(table, output / "ablation.png")


def train(
    rows: TrainingRows,
    training: TrainerOptions,
    positions: int,
    layers: int,
    hidden_size: int,
    steps_at_once: float,
) -> tuple[int, str, str, str]:
    """Train one model, and return what `COLUMNS` has of it."""
    set_seed(training.seed)
    on_cpu = training.device.type == "cpu"
    with valid_options():
        config = ProformerConfig(
            max_position_embeddings=rows.tokenizer.num_tokens,
            num_expression_tokens=positions,
            hidden_size=hidden_size,
            num_hidden_layers=layers,
            num_attention_heads=2,
            label_mean=rows.label_mean,
            label_std=rows.label_std,
            attn_implementation="eager" if eager_is_faster(rows.tokenizer, on_cpu, training.bf16) else "sdpa",
        )
    model = ProformerForPreTraining(config).to(training.device)
    trainer = ProformerTrainer(
        model=model,
        args=training,
        data_collator=ProformerCollator(rows.tokenizer, mask_probability=0.05, seed=training.seed),
        train_dataset=rows.train,
        eval_dataset=rows.held_out,
        compute_metrics=compute_metrics,
        callbacks=[PublishedGradientClipping()],
        optimizers=published_optimization(model, hidden_size, steps_at_once=steps_at_once),
    )
    started = time.perf_counter()
    loss = trainer.train().training_loss
    seconds = time.perf_counter() - started
    r = trainer.evaluate()["eval_pearson_r"]
    return model.num_parameters(), f"{r:.4f}", f"{loss:.4f}", f"{seconds:.0f}"


def read(table: Path) -> list[list[str]]:
    with table.open(newline="") as file:
        return list(csv.reader(file, delimiter="\t"))[1:]


def plot(table: Path, picture: Path):
    results = {}
    for positions, layers, hidden_size, _, r, *_ in read(table):
        pooling = POOLING if positions == "0" else f"{positions} position{'s' if positions != '1' else ''}"
        results.setdefault((int(layers), int(hidden_size)), {})[pooling] = float(r)
    ablation_plot(picture, results)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"ablation.py: {error}")
