"""Train a Proformer: expression, together with filling of masked nucleotides.

On one machine, with the recipe of the embedded checkpoint:

    python examples/train.py --recipe examples/recipes/small.yaml --train_file promoters.parquet --output_dir run

A recipe is a small file of the options below; those on the command line win. On several GPUs, put `torchrun
--nproc_per_node 4` before the script instead of `python`, or start it through one of examples/accelerate/. A run that
was stopped goes on from its last checkpoint when the same command is given again. The model's card, README.md,
tells what was done and how good it is.
"""

import json
import os
import sys
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Literal

from transformers import EarlyStoppingCallback, HfArgumentParser, TrainingArguments, set_seed

from modeling_proformer import (
    ProformerConfig,
    ProformerForPreTraining,
    ProformerForSequenceClassification,
    ProformerTokenizer,
)
from modeling_proformer.data.collator import ProformerCollator
from modeling_proformer.data.streaming import stream_training_data
from modeling_proformer.data.tables import InputError
from modeling_proformer.data.training_data import check_training, load_training_data, record_training
from modeling_proformer.evaluation.dream import read_dream_test
from modeling_proformer.evaluation.figures import learning_curve
from modeling_proformer.evaluation.metrics import DREAM_PAIRS
from modeling_proformer.options import valid_options, with_recipe
from modeling_proformer.training.trainer import (
    DREAM_METRICS,
    CheckpointError,
    ProformerTrainer,
    PublishedGradientClipping,
    compute_metrics,
    dream_metrics,
    last_checkpoint,
    published_optimization,
)
from modeling_proformer.training.training_report import write_training_report


@dataclass
class DataArguments:
    """What to train on. A file is TSV, CSV, Parquet or Arrow; any other name is that of a dataset on the Hub."""

    train_file: list[str] = field(
        metadata={"help": "Tables or Hub datasets (owner/name[:configuration]); one given twice counts twice."}
    )
    recipe: str | None = field(
        default=None, metadata={"help": "YAML file of options; those on the command line win over it."}
    )
    sequence_column: str = field(default="sequence", metadata={"help": "Column of the sequences."})
    label_columns: list[str] = field(
        default_factory=lambda: ["expression"], metadata={"help": "Columns of the measurements, one for each output."}
    )
    weight_column: str | None = field(
        default=None, metadata={"help": "Column of how much each row counts (replicates, reads), on any scale."}
    )
    group_column: str | None = field(
        default=None, metadata={"help": "Column of the families, none of which is split between both sides."}
    )
    streaming: bool = field(
        default=False,
        metadata={"help": "Read the tables anew in each epoch instead of copying them; needs a validation file."},
    )
    validation_file: str | None = field(
        default=None, metadata={"help": "Table to evaluate on; by default a part of every training table is held out."}
    )
    validation_fraction: float = field(default=0.05, metadata={"help": "Share of each training table held out."})
    max_validation_rows: int = field(default=5000, metadata={"help": "Evaluate on at most so many held-out rows."})
    dream_pairs: list[str] = field(
        default_factory=list,
        metadata={
            "help": "The three tables of row pairs (SNV, motif perturbation, motif tiling) where the validation file "
            "is a test set of the DREAM challenge: evaluations then give pearson_score and spearman_score too."
        },
    )


@dataclass
class ModelArguments:
    """What to train. The defaults are the published model."""

    kmer_size: int = field(default=10, metadata={"help": "Letters in a k-mer token."})
    insert_width: int = field(default=100, metadata={"help": "Width that inserts are padded to with N."})
    five_prime_flank: str | None = field(default=None, metadata={"help": "Constant letters before every insert."})
    three_prime_flank: str | None = field(default=None, metadata={"help": "Constant letters after every insert."})
    missing_flanks: Literal["keep", "cut", "refuse"] = field(
        default="keep", metadata={"help": "What to do where a flank is missing, see ProformerTokenizer."}
    )
    hidden_size: int = field(default=512, metadata={"help": "Width of the model."})
    num_hidden_layers: int = field(default=4, metadata={"help": "Blocks."})
    num_attention_heads: int = field(default=8, metadata={"help": "Attention heads."})
    head_dim: int | None = field(default=None, metadata={"help": "Width of each head; by default that of the model."})
    num_expression_tokens: int = field(
        default=32, metadata={"help": "Pseudo-expression positions; 0 is the mean over all k-mers instead."}
    )
    expression_bins: list[float] | None = field(
        default=None, metadata={"help": "Centres of bins to classify expression into, evenly spaced (0 1 2 … 17)."}
    )
    hidden_dropout: float = field(default=0.0, metadata={"help": "Dropout; none was in effect as published."})
    mask_probability: float = field(default=0.05, metadata={"help": "Chance of a nucleotide to be masked."})
    mask_strands: Literal["independently", "together"] = field(
        default="independently", metadata={"help": "Mask both strands `independently`, as published, or `together`."}
    )
    attn_implementation: str = field(
        default="sdpa", metadata={"help": "sdpa; or eager, which trains faster in bfloat16 on a CPU."}
    )
    published_optimization: bool = field(
        default=False,
        metadata={
            "help": "The published Adam, schedule and clipping, whatever learning_rate, warmup_steps and optim say "
            "(not with FSDP)."
        },
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={
            "help": "Stop after so many evaluations without a better metric_for_best_model (load_best_model_at_end)."
        },
    )


# What may change when a training is taken up again.
FREE_TO_CHANGE = {
    "recipe", "train_file", "validation_file", "dream_pairs", "max_validation_rows", "attn_implementation",
    "early_stopping_patience",
}  # fmt: skip


def parse_arguments() -> tuple[DataArguments, ModelArguments, TrainingArguments]:
    kinds = (DataArguments, ModelArguments, TrainingArguments)
    arguments = with_recipe(sys.argv[1:], {option.name for kind in kinds for option in fields(kind)})
    with valid_options():
        data, options, training = HfArgumentParser(kinds).parse_args_into_dataclasses(arguments)
    training.remove_unused_columns = False  # the collator needs the sequences
    if not (training.do_train or training.do_eval):
        raise InputError("There is nothing to do: give --do_train True, --do_eval True or both.")
    if data.group_column and data.validation_file:
        raise InputError("With a --validation_file, nothing is held out of the tables: leave out --group_column.")
    if data.dream_pairs:
        if data.validation_file is None or len(data.dream_pairs) != len(DREAM_PAIRS):
            raise InputError(f"--dream_pairs needs a --validation_file and {len(DREAM_PAIRS)} tables of pairs.")
        if len(data.label_columns) > 1:
            raise InputError("--dream_pairs is for a single one of --label_columns.")
    choose_best(data, options, training)
    return data, options, training


def choose_best(data: DataArguments, options: ModelArguments, training: TrainingArguments):
    """By which metric, where one is needed; the loss, the library's choice, is not exact over several processes."""
    if options.early_stopping_patience is not None:
        if not training.load_best_model_at_end:
            raise InputError("--early_stopping_patience needs --load_best_model_at_end True.")
        # So that a stop, and the patience that is left, outlive an interruption.
        training.restore_callback_states_from_checkpoint = True
    if training.load_best_model_at_end:
        if training.metric_for_best_model in (None, "loss"):
            training.metric_for_best_model = "pearson_r"
        metrics = DREAM_METRICS if data.dream_pairs else ("pearson_r", "spearman_rho")
        if training.metric_for_best_model.removeprefix("eval_") not in metrics:
            raise InputError(f"--metric_for_best_model must be one of {', '.join(metrics)}.")
        training.greater_is_better = True


def main():
    data, options, training = parse_arguments()
    set_seed(training.seed)

    with valid_options():
        tokenizer = ProformerTokenizer(
            kmer_size=options.kmer_size,
            insert_width=options.insert_width,
            five_prime_flank=options.five_prime_flank,
            three_prime_flank=options.three_prime_flank,
            missing_flanks=options.missing_flanks,
        )
    dream_test = None
    if data.dream_pairs:
        pairs = dict(zip(DREAM_PAIRS, data.dream_pairs, strict=True))
        dream_test = read_dream_test(data.validation_file, pairs, None, measured_column=data.label_columns[0])
    columns = {"sequence_column": data.sequence_column, "label_columns": data.label_columns}
    tables = {
        **columns,
        "weight_column": data.weight_column,
        "validation_source": data.validation_file,
        "max_validation_rows": None if dream_test else data.max_validation_rows,
        "seed": training.seed,
    }
    if data.streaming:
        rows = stream_training_data(
            data.train_file,
            tokenizer,
            **tables,
            batch_size=training.train_batch_size,
            processes=training.world_size,
        )
        # Each process makes its own part of every batch, instead of the first process all of them.
        training.accelerator_config.dispatch_batches = False
    else:
        with training.main_process_first(desc="reading the tables"):
            rows = load_training_data(
                data.train_file,
                tokenizer,
                **tables,
                group_column=data.group_column,
                validation_fraction=data.validation_fraction,
            )
    if dream_test and len(rows.held_out) != len(dream_test.measured):
        raise InputError(
            f"{data.validation_file}: for the DREAM score all inserts must fit; make --insert_width larger."
        )
    output = Path(training.output_dir)
    settings = {
        name: value for name, value in {**asdict(data), **asdict(options)}.items() if name not in FREE_TO_CHANGE
    }
    settings |= {"seed": training.seed, "data_seed": training.data_seed}
    checkpoint = training.resume_from_checkpoint or last_checkpoint(output)
    if checkpoint:
        check_training(Path(checkpoint).parent, rows.tables, settings)

    bins = options.expression_bins
    # With nothing masked, a head for nucleotides would stay as it was initialised.
    kind = ProformerForPreTraining if options.mask_probability > 0 else ProformerForSequenceClassification
    with valid_options():
        config = ProformerConfig(
            kmer_size=options.kmer_size,
            max_position_embeddings=tokenizer.num_tokens,
            num_expression_tokens=options.num_expression_tokens,
            hidden_size=options.hidden_size,
            num_hidden_layers=options.num_hidden_layers,
            num_attention_heads=options.num_attention_heads,
            head_dim=options.head_dim,
            hidden_dropout=options.hidden_dropout,
            label_mean=None if bins else rows.label_mean,
            label_std=None if bins else rows.label_std,
            expression_bins=bins,
            id2label=dict(enumerate(data.label_columns)),
            label2id={name: number for number, name in enumerate(data.label_columns)},
            attn_implementation=options.attn_implementation,
        )
        model = kind(config)
        collator = ProformerCollator(
            tokenizer,
            **columns,
            weight_column=data.weight_column,
            mean_weight=rows.mean_weight,
            mask_probability=options.mask_probability,
            mask_strands=options.mask_strands,
            seed=training.seed,
        )
    if training.process_index == 0:
        for table in rows.tables:
            if table.left_out:
                left_out = f"{table.left_out:,} of {table.rows:,} rows"
                print(f"{table.source}: left out {left_out}, too long for the construct (are there flanks to trim?)")
        if rows.seen_in_training:
            seen = f"{rows.seen_in_training:,} of {len(rows.held_out):,} validation sequences"
            print(f"{seen} are also in the training tables")
        sizes = f"{model.num_parameters():,} parameters, {len(rows.train):,} rows for training"
        print(f"{sizes}, {len(rows.held_out):,} held out")

    optimizers, callbacks = (None, None), []
    if options.published_optimization:
        training.max_grad_norm = 0.0
        optimizers = published_optimization(model.to(training.device), config.hidden_size)
        callbacks.append(PublishedGradientClipping())
    if options.early_stopping_patience is not None:
        callbacks.append(EarlyStoppingCallback(options.early_stopping_patience))
    trainer = ProformerTrainer(
        model=model,
        args=training,
        data_collator=collator,
        eval_data_collator=ProformerCollator(tokenizer, **columns),
        train_dataset=rows.train,
        eval_dataset=rows.held_out,
        processing_class=tokenizer,
        compute_metrics=dream_metrics(dream_test) if dream_test else compute_metrics,
        callbacks=callbacks,
        optimizers=optimizers,
    )
    if training.do_train:
        if trainer.is_world_process_zero():
            record_training(output, rows.tables, settings)
        trainer.train(resume_from_checkpoint=checkpoint)
        trainer.save_model()
    evaluation = None
    if training.do_eval:
        # Does what `evaluate` does, which keeps the predictions to itself.
        evaluation = trainer.predict(rows.held_out, metric_key_prefix="eval")
        trainer.log(evaluation.metrics)
        trainer.log_metrics("eval", evaluation.metrics)
        trainer.save_metrics("eval", evaluation.metrics)
    if training.do_train and trainer.is_world_process_zero():
        (output / "log_history.json").write_text(json.dumps(trainer.state.log_history, indent=1))
        learning_curve(output / "learning_curve.png", trainer.state.log_history)
        write_training_report(trainer, rows, {**asdict(data), **asdict(options)}, evaluation, resumed=bool(checkpoint))
    trainer.end_processes()


if __name__ == "__main__":
    try:
        main()
    except (InputError, CheckpointError) as error:
        # Of several processes, all find the same fault in the input, but only one a disk that is full.
        first = int(os.environ.get("RANK", 0)) == 0
        sys.exit(f"train.py: {error}" if first or isinstance(error, CheckpointError) else 1)
