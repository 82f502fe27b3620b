"""Train a Proformer: expression, together with filling of masked nucleotides.

On one machine (without a GPU, add `--use_cpu True`):

    python examples/train.py --train_file promoters.parquet --output_dir runs/small \
        --hidden_size 96 --num_hidden_layers 2 --num_attention_heads 4 --head_dim 24 --num_expression_tokens 8 \
        --five_prime_flank TGCATTTTTTTCACATC --three_prime_flank GGTTACGGCTGTT \
        --learning_rate 2e-3 --per_device_train_batch_size 64 --max_steps 10000 --bf16 True --do_train --do_eval

On several GPUs, put `torchrun --nproc_per_node 4` before the script instead of `python`. A run that was stopped goes
on from its last checkpoint when the same command is given again.
"""

import json
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import datasets
import numpy as np
from transformers import HfArgumentParser, TrainingArguments, set_seed
from transformers.trainer_utils import get_last_checkpoint

from modeling_proformer import ProformerConfig, ProformerForPreTraining, ProformerTokenizer
from modeling_proformer.assays import InputError, load_assay
from modeling_proformer.collation import ProformerCollator
from modeling_proformer.report import learning_curve
from modeling_proformer.splits import hold_out_groups
from modeling_proformer.training import (
    ProformerTrainer,
    PublishedGradientClipping,
    compute_metrics,
    label_scale,
    published_optimization,
    rows_that_fit,
)


@dataclass
class DataArguments:
    """What to train on. A file is TSV, CSV or Parquet; any other name is that of a dataset on the Hub."""

    train_file: list[str] = field(
        metadata={"help": "Tables or Hub datasets (owner/name[:configuration]); one given twice counts twice."}
    )
    validation_file: str | None = field(
        default=None, metadata={"help": "Table to evaluate on; by default a part of every training table is held out."}
    )
    validation_fraction: float = field(default=0.05, metadata={"help": "Share of each training table held out."})
    max_validation_rows: int = field(default=5000, metadata={"help": "Evaluate on at most so many held-out rows."})
    sequence_column: str = field(default="sequence", metadata={"help": "Column of the sequences."})
    label_columns: list[str] = field(
        default_factory=lambda: ["expression"], metadata={"help": "Columns of the measurements, one for each output."}
    )
    group_column: str | None = field(
        default=None, metadata={"help": "Column of the families, none of which is split between both sides."}
    )


@dataclass
class ModelArguments:
    """What to train. The defaults are the published model."""

    kmer_size: int = field(default=10, metadata={"help": "Letters in a k-mer token."})
    insert_width: int = field(default=100, metadata={"help": "Width that inserts are padded to with N."})
    five_prime_flank: str | None = field(default=None, metadata={"help": "Constant letters before every insert."})
    three_prime_flank: str | None = field(default=None, metadata={"help": "Constant letters after every insert."})
    missing_flanks: str = field(default="keep", metadata={"help": "See ProformerTokenizer: keep, cut or refuse."})
    hidden_size: int = field(default=512, metadata={"help": "Width of the model."})
    num_hidden_layers: int = field(default=4, metadata={"help": "Blocks."})
    num_attention_heads: int = field(default=8, metadata={"help": "Attention heads."})
    head_dim: int | None = field(default=None, metadata={"help": "Width of each head; by default that of the model."})
    num_expression_tokens: int = field(default=32, metadata={"help": "Pseudo-expression positions."})
    hidden_dropout: float = field(default=0.0, metadata={"help": "Dropout; none was in effect as published."})
    mask_probability: float = field(default=0.05, metadata={"help": "Chance of a nucleotide to be masked."})
    published_optimization: bool = field(
        default=False,
        metadata={"help": "The published Adam, schedule and clipping, instead of the Trainer's settings."},
    )


def main():
    parser = HfArgumentParser((DataArguments, ModelArguments, TrainingArguments))
    data, model_arguments, training = parser.parse_args_into_dataclasses()
    training.remove_unused_columns = False  # the collator needs the sequences
    set_seed(training.seed)

    tokenizer = ProformerTokenizer(
        kmer_size=model_arguments.kmer_size,
        insert_width=model_arguments.insert_width,
        five_prime_flank=model_arguments.five_prime_flank,
        three_prime_flank=model_arguments.three_prime_flank,
        missing_flanks=model_arguments.missing_flanks,
    )

    def keep_what_fits(source: str, table: datasets.Dataset) -> datasets.Dataset:
        rows = rows_that_fit(source, table[data.sequence_column], tokenizer)
        if len(rows) == len(table):
            return table
        if training.process_index == 0:
            left_out = f"{len(table) - len(rows):,} of {len(table):,} rows"
            print(f"{source}: left out {left_out}, too long for the construct (are there flanks to trim?)")
        return table.select(rows)

    train_parts, held_out_parts = [], []
    for source, times in Counter(data.train_file).items():
        with training.main_process_first(desc=f"reading {source}"):
            table = load_assay(source, data.sequence_column, data.label_columns, data.group_column)
        table = keep_what_fits(source, table)
        if data.validation_file is None:
            groups = table[data.group_column][:] if data.group_column else range(len(table))
            split = hold_out_groups(groups, data.validation_fraction, seed=training.seed)
            train_parts += [table.select(split.train)] * times
            held_out_parts += [table.select(split.held_out)] * times
        else:
            train_parts += [table] * times
    if data.validation_file is not None:
        table = load_assay(data.validation_file, data.sequence_column, data.label_columns, split="validation")
        held_out_parts.append(keep_what_fits(data.validation_file, table))
    train_dataset = datasets.concatenate_datasets(train_parts)
    held_out = datasets.concatenate_datasets(held_out_parts).shuffle(seed=training.seed)
    held_out = held_out.select(range(min(len(held_out), data.max_validation_rows)))

    measured = np.stack([np.array(train_dataset[column][:], dtype=float) for column in data.label_columns], axis=1)
    label_mean, label_std = label_scale(measured)
    config = ProformerConfig(
        kmer_size=model_arguments.kmer_size,
        max_position_embeddings=tokenizer.num_tokens,
        num_expression_tokens=model_arguments.num_expression_tokens,
        hidden_size=model_arguments.hidden_size,
        num_hidden_layers=model_arguments.num_hidden_layers,
        num_attention_heads=model_arguments.num_attention_heads,
        head_dim=model_arguments.head_dim,
        hidden_dropout=model_arguments.hidden_dropout,
        label_mean=label_mean,
        label_std=label_std,
        id2label=dict(enumerate(data.label_columns)),
        label2id={name: number for number, name in enumerate(data.label_columns)},
    )
    model = ProformerForPreTraining(config)
    if training.process_index == 0:
        sizes = f"{model.num_parameters():,} parameters, {len(train_dataset):,} rows for training"
        print(f"{sizes}, {len(held_out):,} held out")

    optimizers, callbacks = (None, None), []
    if model_arguments.published_optimization:
        training.max_grad_norm = 0.0
        optimizers = published_optimization(model.to(training.device), config.hidden_size)
        callbacks.append(PublishedGradientClipping())
    trainer = ProformerTrainer(
        model=model,
        args=training,
        data_collator=ProformerCollator(
            tokenizer, data.sequence_column, data.label_columns, model_arguments.mask_probability
        ),
        eval_data_collator=ProformerCollator(tokenizer, data.sequence_column, data.label_columns),
        train_dataset=train_dataset,
        eval_dataset=held_out,
        processing_class=tokenizer,
        compute_metrics=compute_metrics,
        callbacks=callbacks,
        optimizers=optimizers,
    )
    output = Path(training.output_dir)
    if training.do_train:
        last_checkpoint = get_last_checkpoint(training.output_dir) if output.is_dir() else None
        trainer.train(resume_from_checkpoint=training.resume_from_checkpoint or last_checkpoint)
        trainer.save_model()
    if training.do_eval:
        metrics = trainer.evaluate()
        trainer.log_metrics("eval", metrics)
        trainer.save_metrics("eval", metrics)
    if training.do_train and trainer.is_world_process_zero():
        (output / "log_history.json").write_text(json.dumps(trainer.state.log_history, indent=1))
        learning_curve(output / "learning_curve.png", trainer.state.log_history)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"train.py: {error}")
