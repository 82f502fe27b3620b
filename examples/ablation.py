"""The paper's claim: many pseudo-expression positions train where pooling or a single position collapse.

    python examples/ablation.py --train_file promoters.parquet --group_column family \
        --five_prime_flank TGCATTTTTTTCACATC --three_prime_flank GGTTACGGCTGTT \
        --max_steps 400 --per_device_train_batch_size 64 --output_dir runs/ablation

Every way to come to a prediction (the mean over all k-mers; 1, 8 or 32 pseudo-expression positions) is trained at
every depth and width, with the published objective, optimizer and learning rates, whose schedule is passed through as
many times faster as the runs are shorter. Results go to ablation.tsv, one line each, and ablation.png; what is there
is not trained again, so that other tables, steps or seeds need another folder. Without a GPU, add --use_cpu True
--bf16 True.
"""

import csv
import sys
import time
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import torch
from transformers import HfArgumentParser, TrainingArguments, set_seed

from modeling_proformer import ProformerConfig, ProformerForPreTraining, ProformerTokenizer
from modeling_proformer.data.collator import ProformerCollator
from modeling_proformer.data.tables import InputError
from modeling_proformer.data.training_data import load_training_data
from modeling_proformer.evaluation.figures import ablation_plot
from modeling_proformer.options import valid_options
from modeling_proformer.training.trainer import (
    ProformerTrainer,
    PublishedGradientClipping,
    compute_metrics,
    published_optimization,
)


COLUMNS = ["expression_positions", "layers", "hidden_size", "parameters", "pearson_r", "training_loss", "seconds"]
POOLING = "mean over k-mers"


@dataclass
class AblationArguments:
    train_file: list[str] = field(metadata={"help": "Tables or Hub datasets, see train.py."})
    sequence_column: str = field(default="sequence", metadata={"help": "Column of the sequences."})
    label_column: str = field(default="expression", metadata={"help": "Column of the measurements."})
    group_column: str | None = field(default=None, metadata={"help": "Column of the families."})
    insert_width: int = field(default=100, metadata={"help": "Width that inserts are padded to with N."})
    five_prime_flank: str | None = field(default=None, metadata={"help": "Constant letters before every insert."})
    three_prime_flank: str | None = field(default=None, metadata={"help": "Constant letters after every insert."})
    expression_positions: list[int] = field(
        default_factory=lambda: [0, 1, 8, 32], metadata={"help": "Pseudo-expression positions; 0 is the mean."}
    )
    layers: list[int] = field(default_factory=lambda: [2, 6], metadata={"help": "Depths."})
    hidden_sizes: list[int] = field(default_factory=lambda: [64, 128], metadata={"help": "Widths."})
    warmup_share: float = field(
        default=0.3, metadata={"help": "Share of the steps that leads up to the highest rate."}
    )


def main():
    with valid_options():
        options, training = HfArgumentParser((AblationArguments, TrainingArguments)).parse_args_into_dataclasses()
    if training.max_steps <= 0:
        raise InputError("Give --max_steps: the published schedule is passed through in as many.")
    training.remove_unused_columns = False
    training.max_grad_norm = 0.0
    training.save_strategy = "no"
    with valid_options():
        tokenizer = ProformerTokenizer(
            insert_width=options.insert_width,
            five_prime_flank=options.five_prime_flank,
            three_prime_flank=options.three_prime_flank,
        )
    data = load_training_data(
        options.train_file,
        tokenizer,
        options.sequence_column,
        [options.label_column],
        group_column=options.group_column,
        max_validation_rows=5000,
        seed=training.seed,
    )
    output = Path(training.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    table = output / "ablation.tsv"
    if not table.exists():
        table.write_text("\t".join(COLUMNS) + "\n")

    for layers, hidden_size, positions in product(options.layers, options.hidden_sizes, options.expression_positions):
        if any(row[:3] == [str(positions), str(layers), str(hidden_size)] for row in read(table)):
            continue
        set_seed(training.seed)
        with valid_options():
            config = ProformerConfig(
                max_position_embeddings=tokenizer.num_tokens,
                num_expression_tokens=positions,
                hidden_size=hidden_size,
                num_hidden_layers=layers,
                num_attention_heads=2,
                label_mean=data.label_mean,
                label_std=data.label_std,
                # On a CPU in bfloat16, faster to train than the library's choice.
                attn_implementation="sdpa" if torch.cuda.is_available() else "eager",
            )
        model = ProformerForPreTraining(config).to(training.device)
        columns = {"sequence_column": options.sequence_column, "label_columns": [options.label_column]}
        trainer = ProformerTrainer(
            model=model,
            args=training,
            data_collator=ProformerCollator(tokenizer, **columns, mask_probability=0.05, seed=training.seed),
            eval_data_collator=ProformerCollator(tokenizer, **columns),
            train_dataset=data.train,
            eval_dataset=data.held_out,
            compute_metrics=compute_metrics,
            callbacks=[PublishedGradientClipping()],
            optimizers=published_optimization(
                model, hidden_size, steps_at_once=12_500 / (options.warmup_share * training.max_steps)
            ),
        )
        started = time.perf_counter()
        loss = trainer.train().training_loss
        seconds = time.perf_counter() - started
        r = trainer.evaluate()["eval_pearson_r"]
        row = [positions, layers, hidden_size, model.num_parameters(), f"{r:.4f}", f"{loss:.4f}", f"{seconds:.0f}"]
        with table.open("a") as file:
            file.write("\t".join(map(str, row)) + "\n")
        draw(table, output / "ablation.png")


def read(table: Path) -> list[list[str]]:
    with table.open(newline="") as file:
        return list(csv.reader(file, delimiter="\t"))[1:]


def draw(table: Path, picture: Path):
    results = {}
    for positions, layers, hidden_size, _, r, *_ in read(table):
        way = POOLING if positions == "0" else f"{positions} position{'s' if positions != '1' else ''}"
        results.setdefault((int(layers), int(hidden_size)), {})[way] = float(r)
    ablation_plot(picture, results)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"ablation.py: {error}")
