"""Fine-tune a checkpoint on a table, step by step: a script to be edited.

    python examples/finetune.py --data assay.tsv --sequence sequence --targets expression --output_dir my-model

`proformer finetune` does this in one call, with early stopping, prediction intervals and a report. Here each step
stands on its own, and all options of the library's Trainer are there (`--help`). On several GPUs, put `torchrun
--nproc_per_node 4` before the script instead of `python`. `--resume_from_checkpoint` takes a checkpoint's folder, or
True for the newest in the output folder.
"""

import sys
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path

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
from modeling_proformer.training.folder import own_folder
from modeling_proformer.training.records import checkpoint_to_resume, record_run
from modeling_proformer.training.scores import mean_score
from modeling_proformer.training.trainer import find_checkpoint, last_checkpoint
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
    # A second run in the same folder is refused; of several processes, the first owns the folder for all.
    with own_folder(training.output_dir) if training.process_index == 0 else nullcontext():
        finetune(options, training)


def finetune(options: ScriptArguments, training: TrainingArguments):
    set_seed(training.seed)
    resumed = training.resume_from_checkpoint
    if resumed:
        resumed = find_checkpoint(resumed, training.output_dir)
    elif last_checkpoint(training.output_dir):
        raise InputError(
            f"{training.output_dir} has checkpoints, which would be overwritten: give --resume_from_checkpoint True, "
            "or another --output_dir."
        )
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
    # A run goes on with the same rows and options, or not at all.
    given = asdict(config)
    if resumed:
        checkpoint_to_resume(Path(resumed).parent, assay.sources, given)

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
    if trainer.is_world_process_zero():
        record_run(training.output_dir, assay.sources, given)
    trainer.train(resume_from_checkpoint=resumed)
    trainer.save_model()

    # The test rows show how good the model is on groups that it has not seen.
    metrics = trainer.evaluate(assay.rows(assay.split.test), metric_key_prefix="test")
    trainer.log_metrics("test", metrics)
    trainer.save_metrics("test", metrics)
    trainer.end_processes()


if __name__ == "__main__":
    try:
        main()
    except (InputError, BlockingIOError) as error:
        sys.exit(f"finetune.py: {error}")
