"""Fine-tune a checkpoint on a table, step by step: a script to be edited.

    python examples/finetune.py --table assay.tsv --sequence sequence --targets expression --output_dir my-model

`proformer finetune` does this in one call, with early stopping, prediction intervals and a report besides. Here every
step stands on its own, and all options of the library's Trainer are there (`--help`). On several GPUs, put `torchrun
--nproc_per_node 4` before the script instead of `python`.
"""

import sys
from dataclasses import dataclass, field
from functools import partial

import datasets
import torch
from transformers import HfArgumentParser, TrainingArguments, set_seed

from modeling_proformer.data.assay import Preparation, TableColumns, prepare_assay
from modeling_proformer.data.collator import ProformerCollator
from modeling_proformer.data.tables import InputError
from modeling_proformer.prediction import load_checkpoint
from modeling_proformer.training.finetune import Recipe, metrics_for, model_for, parameter_groups, settled, stretched
from modeling_proformer.training.trainer import ProformerTrainer


@dataclass
class ScriptArguments:
    table: str = field(metadata={"help": "TSV, CSV or Parquet file."})
    sequence: str = field(metadata={"help": "Column of the sequences."})
    targets: list[str] = field(metadata={"help": "Columns of the measurements, one for each output."})
    checkpoint: str | None = field(
        default=None, metadata={"help": "Folder or Hub repository to start from; by default the embedded checkpoint."}
    )
    group_column: str | None = field(default=None, metadata={"help": "Column of families to keep on one side."})


def main():
    parser = HfArgumentParser((ScriptArguments, TrainingArguments))
    parser.set_defaults(
        learning_rate=Recipe().highest_rate(),
        per_device_train_batch_size=32,
        num_train_epochs=10,
        lr_scheduler_type="cosine",
        warmup_steps=0.05,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="score",  # over several processes, the loss is not exact
        greater_is_better=True,
    )
    options, training = parser.parse_args_into_dataclasses()
    training.remove_unused_columns = False  # the collator makes tokens of the sequences
    set_seed(training.seed)

    # The table: checked, its construct found, its rows split so that relatives stay together.
    columns = TableColumns(options.sequence, options.targets, group=options.group_column)
    pretrained, reference = load_checkpoint(options.checkpoint)
    assay = prepare_assay(options.table, columns, Preparation(seed=training.seed), reference)

    # The model: the checkpoint's encoder, its positions stretched over the construct, with the outputs of this assay.
    # How much of it is kept depends on how well it already knows the assay.
    pretrained = stretched(pretrained, reference, assay.tokenizer)
    recipe = Recipe(learning_rate=training.learning_rate, seed=training.seed)
    recipe = settled(recipe, assay, columns, pretrained)
    print(*assay.findings, sep="\n")
    model = model_for(assay, columns, recipe, pretrained)

    # The Trainer: rows stay sequences and numbers, tokens are made batch by batch.
    labels = {f"label_{number}": values for number, values in enumerate(assay.table.labels.T)}
    rows = datasets.Dataset.from_dict({"sequence": assay.table.sequences, **labels})
    collator = partial(ProformerCollator, assay.tokenizer, label_columns=list(labels))
    trainer = ProformerTrainer(
        model=model,
        args=training,
        data_collator=collator(),
        eval_data_collator=collator(),
        train_dataset=rows.select(assay.split.train),
        eval_dataset=rows.select(assay.split.validation),
        processing_class=assay.tokenizer,
        compute_metrics=metrics_for(model.config, columns),
        optimizers=(torch.optim.AdamW(parameter_groups(model, recipe), weight_decay=training.weight_decay), None),
    )
    trainer.train()
    trainer.save_model()

    # How good it is, on families that it has not seen.
    metrics = trainer.evaluate(rows.select(assay.split.test), metric_key_prefix="test")
    trainer.log_metrics("test", metrics)
    trainer.save_metrics("test", metrics)
    trainer.end_processes()


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"finetune.py: {error}")
