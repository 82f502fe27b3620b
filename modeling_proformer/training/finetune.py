"""Fine-tuning: from a checkpoint and a plain table to the model of another assay."""

import os
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from transformers import EarlyStoppingCallback, PrinterCallback, TrainerCallback, TrainingArguments, set_seed
from transformers.utils import logging

from ..data.assay import Assay
from ..data.collator import ProformerCollator
from ..data.prepare import prepare_assay
from ..data.splits import sample_rows
from ..data.tables import InputError
from ..evaluation.cards import RECORD as METRICS
from ..evaluation.cards import read_record
from ..evaluation.report import best_step, describe_checkpoint, describe_hardware, write_report
from ..intervals import half_widths
from ..loading import load_checkpoint, weights_digest
from ..modeling_proformer import ProformerForSequenceClassification
from ..pipeline_proformer import PromoterExpressionPipeline
from ..prediction import predict
from ..tokenization import ProformerTokenizer
from .calibration import rescale, temper
from .config import FinetuneConfig, require_known_options
from .folder import LOCK, move_contents, own_folder, remove_folder, removed_name
from .records import RECORD, UNFINISHED_RECORD, checkpoint_to_resume, record_run, run_digest
from .scores import best_step_metric, mean_score
from .trainer import ProformerTrainer
from .transfer import build_model, choose_keep, resize_positions


if TYPE_CHECKING:
    from ..data.sources import Data


logger = logging.get_logger(__name__)

# Where a run keeps what it needs to resume; removed once the model is there.
RUN_FOLDER = "training"
NUM_EVALUATIONS = 20
# More rows would hardly change which step is best, and 20 evaluations of a large table take as long as its training.
MAX_ROWS_TO_EVALUATE = 2000
# Tokens up to which eager attention trains faster in bfloat16 on a CPU than sdpa, which is slow backwards there: it is
# 1.3 times as fast at 150 to 330 tokens, and 0.95 times at 498.
MAX_TOKENS_FOR_EAGER = 400
TASKS = {
    "regression": "regression",
    "single_label_classification": "classifier, which chooses one of the classes for each sequence,",
    "multi_label_classification": "classifier, which answers yes or no for each output,",
}
DIVERGED = "Training has diverged: predictions are nan or infinite. Give a lower `learning_rate`."


@dataclass(repr=False)
class FineTuned:
    """
    A fine-tuned model, and its predictions of the rows that it was not trained on.

    Attributes:
        model: in evaluation mode.
        assay: what it was fine-tuned on.
        predicted: (rows, outputs) in the assay's units for validation and test rows, NaN for the others.
        log_history: of the Trainer; empty where the folder had been finished before.
        seconds: duration of the training; None where it was interrupted.
    """

    model: ProformerForSequenceClassification
    assay: Assay
    predicted: np.ndarray
    log_history: list[dict[str, Any]]
    seconds: float | None


def finetune(
    data: "Data",
    output: str | PathLike,
    sequence: str = "sequence",
    targets: Sequence[str] = ("expression",),
    model: str | PathLike | None = None,
    **options,
) -> FineTuned:
    """
    Fine-tune a checkpoint on a table, and write a folder with everything there is to have.

    The folder holds the model and its tokenizer, a model card, metrics and predictions of the held-out rows, and
    figures. A run that was interrupted resumes when it is given again, and one that was finished is opened.

    Args:
        data: file, `pandas.DataFrame`, `datasets.Dataset` or the name of a dataset on the Hub, see `load_table`.
        output: folder to write, a new one.
        sequence: column with the sequences.
        targets: columns with the measurements, one for each output.
        model: checkpoint to start from, a folder or Hub repository; by default the one within this package.
        options: the other fields of `FinetuneConfig`.

    Raises:
        TypeError: there is no such option.
        ValueError: an option is outside its range; or (`InputError`) the table or the checkpoint does not suit it.
        ImportError: a library that training needs is not installed.
        OSError: the folder holds something else, another process is writing it (`BlockingIOError`), or it could not
            be written (`CheckpointError`).
    """
    require_known_options("finetune", options, [option.name for option in fields(FinetuneConfig)])
    columns: dict[str, Any] = {"sequence": sequence, "targets": targets}
    return run_finetuning(data, output, FinetuneConfig(**columns, model=_text(model), **options))


def _text(path: str | PathLike | None) -> str | None:
    return None if path is None else str(path)


def run_finetuning(data: "Data", output: str | PathLike, config: FinetuneConfig) -> FineTuned:
    """Fine-tune as `finetune` does, with its options in one object."""
    require_trainer()
    output = Path(output)
    _refuse_foreign(output)
    with own_folder(output):
        # Another process may have written the folder until now.
        _refuse_foreign(output)
        return _run_in(output, data, config)


def _refuse_foreign(output: Path):
    """Refuse a folder that holds neither a run nor a finished model."""
    run = output / RUN_FOLDER
    known = {LOCK, removed_name(run).name}
    if run.is_dir() and not set(os.listdir(run)) - {UNFINISHED_RECORD}:
        known.add(run.name)  # a run that was killed before it began
    if not output.is_dir() or (run / RECORD).exists() or _is_finished(output):
        return
    if set(os.listdir(output)) - known:
        raise FileExistsError(f"{output}: this folder is not empty; name a new one.")


def _is_finished(output: Path) -> bool:
    return "run_digest" in read_record(output)


def _run_in(output: Path, data: "Data", config: FinetuneConfig) -> FineTuned:
    """Fine-tune in a folder that this process owns."""
    run = output / RUN_FOLDER
    pretrained, reference = load_checkpoint(config.model)
    assay = prepare_assay(data, config, reference, seed=config.seed)
    before, after = reference.insert_width, assay.tokenizer.insert_width
    if not config.from_scratch and before != after:
        assay.findings.append(f"The checkpoint's positions are resized from {before:,} to {after:,} bases.")
    pretrained = resize_positions(pretrained, reference, assay.tokenizer)
    config = choose_keep(config, assay, pretrained)
    for finding in assay.findings:
        logger.info(finding)
    settings = {**asdict(config), "weights": weights_digest(pretrained)}
    digest = run_digest(assay.sources, settings)
    if _is_finished(output):
        return _reopen(output, assay, digest)
    set_seed(config.seed)
    model = build_model(config, assay, pretrained)
    logger.info(f"Training a {TASKS[model.config.problem_type]} with {model.num_parameters():,} parameters.")
    resumed = checkpoint_to_resume(run, assay.sources, settings)
    if resumed:
        logger.info(f"Resuming from {resumed}.")
    else:
        record_run(run, assay.sources, settings)
    trainer = _make_trainer(config, model, assay, run)
    started = time.perf_counter()
    trainer.train(resume_from_checkpoint=resumed)
    if not all(np.isfinite(entry.get("eval_loss", 0.0)) for entry in trainer.state.log_history):
        remove_folder(run)
        raise InputError(DIVERGED)
    seconds = None if resumed else time.perf_counter() - started
    model = _plain_model(trainer)
    if config.bins:
        temper(model, assay)
    elif model.config.problem_type == "regression":
        rescale(model, assay)
    predicted = _predict_held_out(model, assay)
    if model.config.problem_type == "regression":
        validation = assay.split.validation
        model.config.interval_half_widths = half_widths(
            assay.measured[validation], predicted[validation], model.config
        )
    fine_tuned = FineTuned(model, assay, predicted, trainer.state.log_history, seconds)
    record = {
        "options": {name: value for name, value in asdict(config).items() if name != "model"},
        "run_digest": digest,
        "checkpoint": describe_checkpoint(model),
        "hardware": describe_hardware(model.device),
        "seconds": None if seconds is None else round(seconds, 1),
        "steps": trainer.state.global_step,
        "best_step": best_step(trainer.state.log_history, best_step_metric(model.config)),
        "max_steps": trainer.args.max_steps,
        "batch_size": trainer.args.per_device_train_batch_size,
        "evaluated_rows": len(trainer.eval_dataset),
        "learning_rate": config.highest_rate,
    }
    # The name of the folder is that of the model.
    whole = run / "finished" / output.resolve().name
    shutil.rmtree(whole.parent, ignore_errors=True)
    PromoterExpressionPipeline(model, assay.tokenizer, device=model.device).save_pretrained(whole)
    write_report(whole, model, assay, predicted, trainer.state.log_history, record)
    move_contents(whole, output, last=METRICS)
    remove_folder(run)
    return fine_tuned


def _reopen(output: Path, assay: Assay, digest: str) -> FineTuned:
    """
    Return the model of a folder that was finished before.

    Raises:
        FileExistsError: it was fine-tuned on other tables, from another checkpoint, or with other options.
    """
    record = read_record(output)
    if record["run_digest"] != digest:
        raise FileExistsError(f"{output}: this folder holds another finished model; name a new one.")
    # A kill may have left some of it.
    remove_folder(output / RUN_FOLDER)
    logger.info(f"{output} holds this model already; it was finished before.")
    model, _ = load_checkpoint(output)
    return FineTuned(model, assay, _predict_held_out(model, assay), [], record["seconds"])


def require_trainer():
    """
    Check that the library's Trainer can run.

    Raises:
        ImportError: accelerate is not installed.
    """
    try:
        import accelerate  # noqa: F401
    except ImportError as error:
        raise ImportError("Training needs accelerate: pip install 'modeling-proformer[train]'") from error


def eager_is_faster(tokenizer: ProformerTokenizer, on_cpu: bool, bf16: bool) -> bool:
    """Return whether eager attention trains faster than sdpa."""
    return on_cpu and bf16 and tokenizer.num_tokens <= MAX_TOKENS_FOR_EAGER


def _make_trainer(
    config: FinetuneConfig, model: ProformerForSequenceClassification, assay: Assay, run: Path
) -> ProformerTrainer:
    split, on_cpu = assay.split, not torch.cuda.is_available()
    if eager_is_faster(assay.tokenizer, on_cpu, config.bf16):
        model.set_attn_implementation("eager")
    evaluated = sample_rows(split.validation, MAX_ROWS_TO_EVALUATE, config.seed)
    metric = best_step_metric(model.config)
    steps = config.max_steps(len(split.train))
    every = max(steps // NUM_EVALUATIONS, 1)
    trained = _freeze(config, model)
    arguments = TrainingArguments(
        output_dir=str(run),
        max_steps=steps,
        per_device_train_batch_size=min(config.batch_size, len(split.train)),
        # Attention takes memory with the square of the tokens.
        per_device_eval_batch_size=int(np.clip(256 * (200 / assay.tokenizer.num_tokens) ** 2, 1, 256)),
        lr_scheduler_type="cosine",
        warmup_steps=steps // 20,
        eval_strategy="steps",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,
        logging_steps=every,
        load_best_model_at_end=True,
        metric_for_best_model=metric,
        greater_is_better=metric == "score",
        restore_callback_states_from_checkpoint=True,
        bf16=config.bf16,
        use_cpu=on_cpu,
        seed=config.seed,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        max_grad_norm=1.0,
    )
    # Weights count in the validation loss, which may choose the best step, as they do in the training loss.
    weights = assay.weights
    trainer = ProformerTrainer(
        model=trained,
        args=arguments,
        data_collator=ProformerCollator(
            assay.tokenizer,
            mean_weight=1.0 if weights is None else float(weights[split.train].mean()),
            truncation=True,
        ),
        train_dataset=assay.rows(split.train),
        eval_dataset=assay.rows(evaluated),
        compute_metrics=mean_score(model.config, assay.measured_of, None if weights is None else weights[evaluated]),
        callbacks=[EarlyStoppingCallback(config.patience), _ShowEvaluations()],
        optimizers=(torch.optim.AdamW(parameter_groups(config, trained), weight_decay=0.01), None),
    )
    # Remove the Trainer's raw dict printer; `_ShowEvaluations` logs a readable line instead.
    trainer.remove_callback(PrinterCallback)
    return trainer


class _ShowEvaluations(TrainerCallback):
    """Logs how far training is, and how good the model is, at every evaluation."""

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        score = metrics.get("eval_score", float("nan"))
        loss = metrics.get("eval_loss", float("nan"))
        logger.info(
            f"Step {state.global_step:,} of {state.max_steps:,}: validation loss {loss:.3f}, score {score:.3f}."
        )


def _freeze(config: FinetuneConfig, model: ProformerForSequenceClassification) -> nn.Module:
    """
    Return the model with only those weights trainable that the method trains.

    Raises:
        ImportError: the method is "lora", and peft is not installed.
    """
    if config.method == "head":
        model.requires_grad_(False)
        model.expression_head.requires_grad_(True)
    if config.method != "lora":
        return model
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ImportError("The method lora needs peft: pip install 'modeling-proformer[lora]'") from error
    return get_peft_model(
        model,
        LoraConfig(
            r=8,
            lora_alpha=16,
            target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "dense_in", "dense_out", "pointwise"],
            # These are new in another assay.
            modules_to_save=["expression_head", "position_embeddings"],
        ),
    )


def _plain_model(trainer: ProformerTrainer) -> ProformerForSequenceClassification:
    """Return the model as it will be loaded: without autocast, and with adapters merged into its matrices."""
    model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    return model.eval().requires_grad_(True)


def parameter_groups(config: FinetuneConfig, model: nn.Module) -> list[dict[str, Any]]:
    """Return the trainable parameters, with learning rates that shrink from the head down to the embeddings."""
    blocks = model.config.num_hidden_layers
    groups: dict[int, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(_depth_of(name, blocks), []).append(parameter)
    decay = config.layer_decay if config.method == "full" and config.keeps_all else 1.0
    return [{"params": group, "lr": config.highest_rate * decay**depth} for depth, group in sorted(groups.items())]


def _depth_of(name: str, blocks: int) -> int:
    """Return how deep below the head a parameter lies."""
    block = re.search(r"\.layers\.(\d+)\.", name)
    if block:
        return blocks - int(block.group(1))
    return blocks + 1 if ".embeddings." in name else 0


def _predict_held_out(model: ProformerForSequenceClassification, assay: Assay) -> np.ndarray:
    """
    Return the predictions of validation and test rows, NaN for the others; (rows, outputs).

    Raises:
        InputError: a prediction is not finite.
    """
    predicted = np.full(assay.measured.shape, np.nan)
    rows = np.concatenate([assay.split.validation, assay.split.test])
    predicted[rows] = predict(model, assay.tokenizer, assay.sequences_of(rows), truncation=True)
    if not np.isfinite(predicted[rows]).all():
        raise InputError(DIVERGED)
    return predicted


__all__ = ["FineTuned", "finetune", "parameter_groups", "run_finetuning"]
