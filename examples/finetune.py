"""Fine-tune a checkpoint on a table, step by step: a script to be edited.

    python examples/finetune.py --data assay.tsv --sequence sequence --targets expression --output_dir my-model

`proformer finetune` does this in one call, with early stopping, prediction intervals and a report. Here each step
stands on its own, and all options of the library's Trainer are there (`--help`). On several GPUs, put `torchrun
--nproc_per_node 4` before the script instead of `python`.
"""

import sys
from dataclasses import dataclass, field

import torch
from transformers import HfArgumentParser, TrainingArguments, set_seed

from modeling_proformer import (
    FinetuneConfig,
    InputError,
    ProformerCollator,
    ProformerTrainer,
    load_checkpoint,
    prepare_assay,
)
from modeling_proformer.training.finetune import parameter_groups
from modeling_proformer.training.scores import mean_score
from modeling_proformer.training.transfer import build_model, choose_keep, resize_positions


@dataclass
class ScriptArguments:
    data: str = field(metadata={"help": "TSV, CSV or Parquet file, or dataset on the Hub."})
    sequence: str = field(metadata={"help": "Column with the sequences."})
    targets: list[str] = field(metadata={"help": "Columns with the measurements, one for each output."})
    model: str | None = field(
        default=None, metadata={"help": "Folder or Hub repository to start from; by default the embedded checkpoint."}
    )
    group: str | None = field(default=None, metadata={"help": "Column with the group of each row."})


def main():
    parser = HfArgumentParser((ScriptArguments, TrainingArguments))
    parser.set_defaults(
        learning_rate=FinetuneConfig().highest_rate,
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
    config = FinetuneConfig(
        sequence=options.sequence,
        targets=options.targets,
        group=options.group,
        model=options.model,
        learning_rate=training.learning_rate,
        seed=training.seed,
    )

    # The table is checked, its construct is detected, and its rows are split so that homologs stay together.
    pretrained, reference = load_checkpoint(config.model)
    assay = prepare_assay(options.data, config, reference, seed=config.seed)

    # The model is the checkpoint's encoder, its positions resized to the construct, with the outputs of this assay.
    # The share that is kept of the encoder depends on how well it knows the assay already.
    pretrained = resize_positions(pretrained, reference, assay.tokenizer)
    config = choose_keep(config, assay, pretrained)
    print(*assay.findings, sep="\n")
    model = build_model(config, assay, pretrained)

    # Rows stay sequences and numbers; the collator makes tokens, batch by batch.
    trainer = ProformerTrainer(
        model=model,
        args=training,
        data_collator=ProformerCollator(assay.tokenizer),
        train_dataset=assay.rows(assay.split.train),
        eval_dataset=assay.rows(assay.split.validation),
        processing_class=assay.tokenizer,
        compute_metrics=mean_score(model.config, assay.measured_of),
        optimizers=(torch.optim.AdamW(parameter_groups(config, model), weight_decay=training.weight_decay), None),
    )
    trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    trainer.save_model()

    # The test rows show how good the model is on groups that it has not seen.
    metrics = trainer.evaluate(assay.rows(assay.split.test), metric_key_prefix="test")
    trainer.log_metrics("test", metrics)
    trainer.save_metrics("test", metrics)
    trainer.end_processes()


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"finetune.py: {error}")
