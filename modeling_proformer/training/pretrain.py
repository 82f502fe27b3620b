"""Training from new weights, with the library's Trainer and on any number of processes."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, fields
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerState, TrainingArguments, set_seed
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import logging

from ..configuration_proformer import ProformerConfig
from ..data.collator import ProformerCollator
from ..data.tables import InputError
from ..evaluation.dream import DreamTest, read_dream_test
from ..evaluation.figures import learning_curve
from ..evaluation.metrics import DREAM_PAIRS
from ..hardware import has_fast_bfloat16
from ..modeling_proformer import ProformerForPreTraining, ProformerForSequenceClassification, construct_of
from .config import TrainConfig, require_known_options
from .finetune import eager_is_faster, require_trainer
from .folder import own_folder
from .muon import Muon
from .pretrain_report import rows_per_step, write_pretrain_report
from .published import PublishedGradientClipping, published_optimization
from .records import checkpoint_to_resume, record_run
from .rows import TrainingRows, load_rows, stream_rows
from .scores import DREAM_METRICS, correlation_metrics, dream_metrics
from .trainer import ProformerTrainer, find_checkpoint


logger = logging.get_logger(__name__)

# Options that may change when a training is resumed.
FREE_TO_CHANGE = {"validation_data", "dream_pairs", "attn_implementation", "early_stopping_patience"}


@dataclass
class TrainerOptions(TrainingArguments):
    """`transformers.TrainingArguments`; on a CPU, bfloat16 is used if the CPU has it and `bf16` is not given."""

    _argument_group_name: ClassVar[str] = "options of the Trainer"

    bf16: bool | None = field(
        default=None,
        metadata={"help": "Compute in bfloat16; by default on a CPU that has it."},
    )

    def __post_init__(self):
        # The library takes bfloat16 on a CPU only if it is told to use the CPU.
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
        if self.bf16 is None:
            self.bf16 = self.use_cpu and not self.fp16 and has_fast_bfloat16()
        super().__post_init__()
        # The collator needs the sequences.
        self.remove_unused_columns = False
        self.do_train = True


def train(
    data: Any,
    output: str | PathLike,
    sequence: str = "sequence",
    targets: Sequence[str] = ("expression",),
    **options,
) -> ProformerTrainer:
    """
    Train a model from new weights, and write it with its card into a folder.

    A run that was interrupted resumes when it is given again.

    Args:
        data: table, see `load_table`, or a list of tables; one that is listed twice counts twice.
        output: folder to write.
        sequence: column with the sequences.
        targets: columns with the measurements, one for each output.
        options: the other fields of `TrainConfig` and of `transformers.TrainingArguments`.

    Raises:
        TypeError: there is no such option.
        ValueError: an option is outside its range, two contradict each other, or (`InputError`) a table is refused.
        ImportError: a library that training needs is not installed.
        BlockingIOError: another process is writing the folder.
        CheckpointError: a checkpoint could not be written.
    """
    names = {option.name for option in fields(TrainConfig)}
    of_trainer = {option.name for option in fields(TrainerOptions)} - {"output_dir"}
    require_known_options("train", options, names | of_trainer)
    chosen = {name: options.pop(name) for name in list(options) if name in names}
    config = TrainConfig(**{"sequence": sequence, "targets": targets, **chosen})
    return run_training(data, config, TrainerOptions(output_dir=str(output), **options))


def run_training(data: Any, config: TrainConfig, arguments: TrainerOptions) -> ProformerTrainer:
    """Train as `train` does, with its options in two objects."""
    require_trainer()
    # The first of several processes owns the folder for all of them.
    with own_folder(arguments.output_dir) if arguments.process_index == 0 else nullcontext():
        return _run_in_folder(data, config, arguments)


def _run_in_folder(data: Any, config: TrainConfig, arguments: TrainerOptions) -> ProformerTrainer:
    """Train in a folder that this process, or the first of several, owns."""
    _choose_best(config, arguments)
    set_seed(arguments.seed)
    dream_test = _read_dream_test(config)
    with arguments.main_process_first(desc="reading the tables"):
        if config.streaming:
            if arguments.max_steps <= 0:
                raise InputError("A stream has no known length; give `max_steps`.")
            rows = stream_rows(data, config, arguments.seed, arguments.train_batch_size, arguments.data_seed)
        else:
            rows = load_rows(data, config, arguments.seed)
    if dream_test and len(rows.held_out) != len(dream_test.measured):
        raise InputError(
            f"{config.validation_data}: for the DREAM score, all inserts must fit and have a measurement. Give a "
            "larger `insert_width`."
        )
    output = Path(arguments.output_dir)
    settings = {name: value for name, value in asdict(config).items() if name not in FREE_TO_CHANGE}
    settings |= {"seed": arguments.seed, "data_seed": arguments.data_seed}
    resumed = arguments.resume_from_checkpoint
    if resumed:
        resumed = find_checkpoint(resumed, output)
        checkpoint_to_resume(Path(resumed).parent, rows.sources, settings)
    else:
        resumed = checkpoint_to_resume(output, rows.sources, settings)
    callbacks: list[TrainerCallback] = []
    if resumed and config.streaming:
        # The stream skips its rows itself, which need not become tokens.
        arguments.ignore_data_skip = True
        state = TrainerState.load_from_json(str(Path(resumed, TRAINER_STATE_NAME)))
        rows.train.skip_rows(state.global_step * rows_per_step(arguments))
        callbacks.append(_ProgressOfResumedStream())
    model = _build_model(config, arguments, rows)
    collator = ProformerCollator(
        rows.tokenizer,
        mean_weight=rows.mean_weight,
        mask_probability=config.mask_probability,
        mask_strands=config.mask_strands,
        truncation=config.too_long == "cut",
        seed=arguments.seed,
    )
    optimizers: tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LRScheduler | None] = (None, None)
    if config.published_optimization:
        arguments.max_grad_norm = 0.0
        optimizers = published_optimization(model.to(arguments.device), config.hidden_size)
        callbacks.append(PublishedGradientClipping())
    elif config.muon:
        muon = Muon(
            model.to(arguments.device),
            arguments.learning_rate,
            arguments.weight_decay,
            betas=(arguments.adam_beta1, arguments.adam_beta2),
            eps=arguments.adam_epsilon,
        )
        optimizers = (muon, None)
    if config.early_stopping_patience is not None:
        callbacks.append(EarlyStoppingCallback(config.early_stopping_patience))
    trainer = ProformerTrainer(
        model=model,
        args=arguments,
        data_collator=collator,
        train_dataset=rows.train,
        eval_dataset=rows.held_out,
        processing_class=rows.tokenizer,
        compute_metrics=dream_metrics(dream_test) if dream_test else correlation_metrics(rows.measured_of),
        callbacks=callbacks,
        optimizers=optimizers,
    )
    first = trainer.is_world_process_zero()
    if first:
        for finding in rows.findings:
            logger.info(finding)
        logger.info(f"Training {model.num_parameters():,} parameters.")
        record_run(output, rows.sources, settings)
    with _errors_of_loader_workers():
        trainer.train(resume_from_checkpoint=resumed)
    trainer.save_model()
    # `predict` does what `evaluate` does, and gives the predictions too.
    evaluation = trainer.predict(rows.held_out, metric_key_prefix="eval")
    trainer.log(evaluation.metrics)
    trainer.log_metrics("eval", evaluation.metrics)
    trainer.save_metrics("eval", evaluation.metrics)
    if first:
        (output / "log_history.json").write_text(json.dumps(trainer.state.log_history, indent=1))
        learning_curve(output / "learning_curve.png", trainer.state.log_history)
        write_pretrain_report(trainer, rows, config, evaluation, resumed=bool(resumed))
    trainer.end_processes()
    return trainer


class _ProgressOfResumedStream(TrainerCallback):
    """Counts the epoch from the start of the training, as in one that was not interrupted."""

    def on_step_end(self, args, state, control, **kwargs):
        state.epoch = state.global_step / state.max_steps


@contextmanager
def _errors_of_loader_workers() -> Iterator[None]:
    """Reduce an InputError of a loader worker, to which torch adds the worker's traceback, to its own line."""
    try:
        yield
    except InputError as error:
        name = f"{InputError.__module__}.{InputError.__qualname__}: "
        if name not in str(error):
            raise
        raise InputError(str(error).rpartition(name)[2].strip()) from error


def _choose_best(config: TrainConfig, arguments: TrainerOptions):
    """Set the metric that chooses the best step, where one is needed; the loss is not exact over several processes."""
    if config.early_stopping_patience is not None:
        if not arguments.load_best_model_at_end:
            raise ValueError("`early_stopping_patience` needs `load_best_model_at_end=True`.")
        # So that a stop, and the patience that is left, survive an interruption.
        arguments.restore_callback_states_from_checkpoint = True
    if arguments.load_best_model_at_end:
        if arguments.metric_for_best_model in (None, "loss"):
            arguments.metric_for_best_model = "pearson_r"
        metrics = DREAM_METRICS if config.dream_pairs else ("pearson_r", "spearman_rho")
        if arguments.metric_for_best_model.removeprefix("eval_") not in metrics:
            raise ValueError(f"`metric_for_best_model` must be one of {', '.join(metrics)}.")
        arguments.greater_is_better = True


def _read_dream_test(config: TrainConfig) -> DreamTest | None:
    if not config.dream_pairs:
        return None
    # Every row of the test set is evaluated, in its order.
    config.validation_rows = None
    pairs = dict(zip(DREAM_PAIRS, config.dream_pairs, strict=True))
    return read_dream_test(config.validation_data, pairs, sequence=None, target=config.targets[0])


def _build_model(
    config: TrainConfig, arguments: TrainerOptions, rows: TrainingRows
) -> ProformerForPreTraining | ProformerForSequenceClassification:
    bins = config.bins or config.expression_bins
    attention = config.attn_implementation
    if attention is None:
        on_cpu = arguments.device.type == "cpu"
        attention = "eager" if eager_is_faster(rows.tokenizer, on_cpu, arguments.bf16) else "sdpa"
    # Without masking, nothing trains a head for nucleotides: it would stay as it was initialised.
    kind = ProformerForPreTraining if config.mask_probability > 0 else ProformerForSequenceClassification
    try:
        model_config = ProformerConfig(
            kmer_size=config.kmer_size,
            kmer_stride=config.kmer_stride,
            max_position_embeddings=rows.tokenizer.num_tokens,
            construct=construct_of(rows.tokenizer),
            num_expression_tokens=config.num_expression_tokens,
            hidden_size=config.hidden_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            head_dim=config.head_dim,
            hidden_dropout=config.hidden_dropout,
            label_mean=None if bins else rows.label_mean,
            label_std=None if bins else rows.label_std,
            expression_bins=bins,
            id2label=dict(enumerate(config.outputs)),
            label2id={name: number for number, name in enumerate(config.outputs)},
            attn_implementation=attention,
        )
    except StrictDataclassError as error:
        raise ValueError(" ".join(str(error).split())) from error
    return kind(model_config)


__all__ = ["TrainConfig", "TrainerOptions", "run_training", "train"]
