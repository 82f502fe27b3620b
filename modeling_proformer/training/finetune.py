"""A checkpoint, fine-tuned on a plain table of another assay."""

import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import (
    EarlyStoppingCallback,
    EvalPrediction,
    PreTrainedModel,
    PrinterCallback,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from ..configuration_proformer import OF_THE_LABELS, ProformerConfig
from ..data.assay import AssayTable, Preparation, PreparedAssay, TableColumns, prepare_assay
from ..data.collator import ProformerCollator
from ..data.tables import InputError, first_line
from ..data.training_data import (
    RECORD,
    TrainingTable,
    check_training,
    label_scale,
    record_training,
    require_variation,
    varies,
)
from ..evaluation.metrics import correlation, has_correlation, roc_auc
from ..intervals import half_widths, transformed
from ..modeling_proformer import IGNORED, TRANSFORMS, ProformerForSequenceClassification
from ..pipeline_proformer import PromoterExpressionPipeline
from ..prediction import load_checkpoint, predict, token_batches
from ..tokenization import ProformerTokenizer
from .baseline import compare_with_ridge
from .trainer import ProformerTrainer, last_checkpoint


# Where a run keeps what it needs to go on; removed once the model is there.
RUN_FOLDER = "training"


@strict
@dataclass
class Recipe:
    """
    How a checkpoint is fine-tuned.

    Attributes:
        method: "full" trains all weights, at rates that shrink from the head down to the embeddings; "head" only the
            head, on the encoder as it is; "lora" low-rank changes of the encoder's matrices (with peft), which are
            then merged into them.
        from_scratch: start from new weights of the checkpoint's architecture, to see what the checkpoint is worth.
        keep: share of the encoder's matrices to start from, mixed with new weights (shrink and perturb, Ash and
            Adams 2020, arXiv 1910.08475); by default what `settled` finds right for the assay ("full").
        learning_rate: highest rate, that of the head; by default one tried out for the method.
        layer_decay: rate of each block, and of the embeddings, relative to what lies above it ("full", where the whole
            checkpoint is kept).
        dropout: share of the feed-forward layers' activations left out in training, which keeps it from learning few
            and noisy rows by heart.
        steps: weight updates at most; by default from the number of rows.
        batch_size: sequences in a step.
        patience: evaluations without a better one of the validation rows, of some 20 in all, after which training
            stops. What is better, `criterion` says.
        transform: "log" or "log1p" to train on logarithms of the measurements.
        task: "regression" or "classification"; by default the latter where all measurements are 0 or 1.
        bf16: compute in bfloat16, faster where the hardware has it.
        seed: of new weights and of the order of rows.
    """

    method: Literal["full", "head", "lora"] = "full"
    from_scratch: bool = False
    keep: float | int | None = None
    learning_rate: float | int | None = None
    layer_decay: float | int = 0.8
    dropout: float | int = 0.2
    steps: int | None = None
    batch_size: int = 32
    patience: int = 6
    transform: Literal["log", "log1p"] | None = None
    task: Literal["regression", "classification"] | None = None
    bf16: bool = False
    seed: int = 0

    def validate_ranges(self):
        """
        Raises:
            ValueError: a number is outside its range.
        """
        for name in ("learning_rate", "layer_decay", "steps", "batch_size", "patience"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"`{name}` is {value}; it must be above 0.")
        if self.seed < 0:
            raise ValueError(f"`seed` is {self.seed}; it must be 0 or more.")
        if self.keep is not None and not 0 < self.keep <= 1:
            raise ValueError(f"`keep` is {self.keep}; it must be above 0, and 1 at most.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"`dropout` is {self.dropout}; it must be 0 or more, and less than 1.")

    def highest_rate(self) -> float:
        """The learning rate that was given, or the one tried out for the method."""
        rates = {"full": 1e-3, "head": 1e-2, "lora": 2e-3}
        return rates[self.method] if self.learning_rate is None else self.learning_rate

    def keeps_all(self) -> bool:
        """Whether training starts from the checkpoint as it is."""
        return not self.from_scratch and self.keep in (None, 1)

    def most_steps(self, rows: int) -> int:
        """
        The steps that were given, or as many as suit this number of rows: ten passes over them, 400 over few, and over
        many 2,000 or two passes.
        """
        passes = rows / 32
        return int(np.clip(10 * passes, 400, max(2000, 2 * passes))) if self.steps is None else self.steps


DIVERGED = "Training has diverged: predictions are nan or infinite. Give a lower learning_rate."
POSITIONS = "proformer.embeddings.position_embeddings.weight"
EVALUATIONS = 20
# More would hardly change which step is best, and twenty evaluations of a large table take as long as its training.
MOST_ROWS_TO_CHOOSE_BY = 2000
# Rows that tell whether a checkpoint knows the assay.
ROWS_TO_KNOW_BY = 500
# Of 0.4, 0.6, 0.8 and 1, the best on validation rows of four assays that the embedded checkpoint does not know.
KEPT_OF_OTHERS = 0.6
# Tokens up to which attention written out trains faster in bfloat16 on a CPU than torch's own: 1.3 times at 150 to
# 330, 0.95 times at 498 (`sdpa` is slow backwards there).
MOST_TOKENS_FOR_EAGER = 400
# Of predictions that agree with nothing, the order is kept all the same.
LEAST_FACTOR = 0.1
TEMPERATURES = np.geomspace(0.5, 32, 61).tolist()


class FineTuned(NamedTuple):
    """
    A fine-tuned model, and what it predicts for the rows that it was not trained on.

    Attributes:
        model: in evaluation mode.
        assay: what it was fine-tuned on.
        measured: (rows, outputs) in the assay's units, NaN where missing; of all rows.
        predicted: (rows, outputs) of the rows held out, NaN for those trained on.
        log_history: of the Trainer.
        seconds: that training took; None where it was interrupted.
    """

    model: ProformerForSequenceClassification
    assay: PreparedAssay
    measured: np.ndarray
    predicted: np.ndarray
    log_history: list[dict[str, Any]]
    seconds: float | None


def finetune(
    table: str | os.PathLike,
    columns: TableColumns,
    output: str | os.PathLike,
    checkpoint: str | os.PathLike | None = None,
    preparation: Preparation | None = None,
    recipe: Recipe | None = None,
    show: Callable[[str], None] = print,
) -> FineTuned:
    """
    Fine-tunes a checkpoint, and puts all there is to have into a folder: model and tokenizer, model card, metrics and
    predictions of the rows held out, figures. Stopped and started again, it goes on from where it was.

    Args:
        table: TSV, CSV, Parquet or Arrow file.
        columns: of the table.
        output: folder to write, a new one.
        checkpoint: folder or Hub repository to start from; by default the checkpoint within this package.
        preparation: what to make of the table.
        recipe: how to train.
        show: is told what was found and done, a sentence at a time.

    Raises:
        InputError: table, checkpoint or folder are not fit for it, see `prepare_assay` and `load_checkpoint`.
        CheckpointError: the folder could not be written.
    """
    from ..evaluation.cards import write_report

    require_libraries()
    preparation, recipe, output = preparation or Preparation(), recipe or Recipe(), Path(output)
    run = output / RUN_FOLDER
    if output.exists() and not output.is_dir():
        raise InputError(f"{output}: this is a file; name a folder.")
    if output.exists() and any(output.iterdir()) and not (run / RECORD).exists():
        raise InputError(f"{output}: this folder is not empty; name a new one.")
    pretrained, reference = load_checkpoint(checkpoint)
    assay = prepare_assay(table, columns, preparation, reference)
    before, after = reference.insert_width, assay.tokenizer.insert_width
    if not recipe.from_scratch and before != after:
        change = "stretched" if after > before else "shrunk"
        assay.findings.append(f"The checkpoint's positions are {change} from {before:,} to {after:,} letters.")
    pretrained = stretched(pretrained, reference, assay.tokenizer)
    recipe = settled(recipe, assay, columns, pretrained)
    for finding in assay.findings:
        show(finding)
    set_seed(recipe.seed)
    model = model_for(assay, columns, recipe, pretrained)
    show(f"Training by {model.config.problem_type.replace('_', ' ')}, {model.num_parameters():,} parameters.")
    settings = {"checkpoint.weights": weights_digest(pretrained)}
    for kind, options in (("columns", columns), ("preparation", preparation), ("recipe", recipe)):
        settings |= {f"{kind}.{name}": value for name, value in asdict(options).items()}
    tables = [TrainingTable(str(table), 1, len(assay.table), assay.table.unmeasured, file_digest(table))]
    resumed = last_checkpoint(run)
    if resumed:
        check_training(run, tables, settings)
        show(f"Going on from {resumed}.")
    else:
        record_training(run, tables, settings)
    trainer = trainer_for(model, assay, columns, recipe, run)
    trainer.add_callback(ShownEvaluations(show))
    started = time.perf_counter()
    trainer.train(resume_from_checkpoint=resumed)
    if not all(np.isfinite(entry.get("eval_loss", 0.0)) for entry in trainer.state.log_history):
        shutil.rmtree(run)
        raise InputError(DIVERGED)
    seconds = None if resumed else time.perf_counter() - started
    model = plain_model(trainer)
    if columns.bins:
        temper(model, assay, columns)
    elif model.config.problem_type == "regression":
        rescale(model, assay)
    measured, predicted = predict_held_out(model, assay, columns)
    if model.config.problem_type == "regression":
        validation = assay.split.validation
        model.config.interval_half_widths = half_widths(measured[validation], predicted[validation], model.config)
    fine_tuned = FineTuned(model, assay, measured, predicted, trainer.state.log_history, seconds)
    PromoterExpressionPipeline(model, assay.tokenizer, device=model.device).save_pretrained(output)
    write_report(output, fine_tuned, columns, preparation, recipe)
    shutil.rmtree(run)
    return fine_tuned


def require_libraries():
    """
    Raises:
        InputError: what only training needs is not installed.
    """
    if missing := [name for name in ("accelerate", "datasets") if find_spec(name) is None]:
        raise InputError(
            f"Fine-tuning needs {' and '.join(missing)}: pip install 'modeling-proformer[train]', or these alone."
        )


def file_digest(path: str | os.PathLike) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


def weights_digest(model: nn.Module) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for name, weight in model.state_dict().items():
        digest.update(name.encode() + weight.float().numpy().tobytes())
    return digest.hexdigest()


def measured_values(labels: np.ndarray, columns: TableColumns) -> np.ndarray:
    """What the model predicts, (rows, outputs), of a table's labels: these themselves, or the mean bin of reads."""
    if columns.bins is None:
        return labels
    return (labels @ np.array(columns.bins) / labels.sum(axis=1))[:, None]


def stretched(pretrained: PreTrainedModel, old: ProformerTokenizer, new: ProformerTokenizer) -> PreTrainedModel:
    """
    A checkpoint for constructs of another length, its position embeddings as `stretched_positions` makes them.

    Args:
        pretrained: in evaluation mode, as is what is returned.
        old, new: tokenizers of both constructs. The new one may do without the reverse strand.

    Raises:
        InputError: the new one reads both strands, the old one but one.
    """
    if new.num_strands > old.num_strands:
        raise InputError("The checkpoint knows the forward strand alone: give strands forward.")
    config = ProformerConfig(**pretrained.config.to_dict() | {"max_position_embeddings": new.num_tokens})
    config.name_or_path = pretrained.config.name_or_path
    weights = pretrained.state_dict()
    weights[POSITIONS] = stretched_positions(weights[POSITIONS][: old.num_tokens], old, new)
    model = type(pretrained)(config)
    model.load_state_dict(weights)
    return model.eval()


def settled(recipe: Recipe, assay: PreparedAssay, columns: TableColumns, pretrained: PreTrainedModel) -> Recipe:
    """
    A recipe that says what to keep of a checkpoint. Everything, where it knows the assay: where it ranks training rows
    better than by chance and than a ridge regression cross-validated on them (`compare_with_ridge`), on average over
    the outputs, each by the rows that have it. Else a share of 0.6: weights trained for something else are a better
    start if they are shrunk and mixed with new ones.

    Args:
        recipe: its own `keep` stays, where it has one.
        assay: is told the finding.
        columns: of the table.
        pretrained: for the constructs of the assay, see `stretched`.

    Raises:
        InputError: the checkpoint predicts values that are not finite.
    """
    if recipe.from_scratch or recipe.keep is not None:
        return recipe
    if recipe.method != "full":
        return replace(recipe, keep=1)
    measured = measured_values(assay.table.labels, columns)
    train = assay.split.train
    # Of each output, rows that have it.
    chosen = [some_of(train[has], ROWS_TO_KNOW_BY, recipe.seed) for has in ~np.isnan(measured[train]).T]
    rows = np.unique(np.concatenate(chosen))
    sequences = [assay.table.sequences[row] for row in rows]
    inserts = assay.tokenizer.inserts(sequences)
    predicted = predict(pretrained, assay.tokenizer, sequences, truncation=True)
    if not np.isfinite(predicted).all():
        raise InputError(f"{pretrained.name_or_path}: a prediction is nan or infinite; its weights are not sound.")
    found = []
    for values, known in zip(measured.T, chosen, strict=True):
        places = np.searchsorted(rows, known)
        known_inserts = [inserts[place] for place in places]
        found.append(compare_with_ridge(values[known], predicted[places], known_inserts, assay.families[known]))
    agreement, taught, needed = np.average(found, axis=0, weights=[len(known) for known in chosen])
    keep = 1 if agreement > needed else KEPT_OF_OTHERS
    consequence = "it is kept whole" if keep == 1 else f"{keep:.0%} of its matrices are kept, mixed with new weights"
    assay.findings.append(
        f"The checkpoint ranks {len(rows):,} training rows with a correlation of {agreement:.2f}, a ridge regression "
        f"cross-validated on them with one of {taught:.2f}: {consequence}."
    )
    return replace(recipe, keep=keep)


def some_of(rows: np.ndarray, most: int, seed: int) -> np.ndarray:
    """Rows drawn at random if there are more, in their order."""
    return np.sort(np.random.default_rng(seed).permutation(rows)[:most])


def model_for(
    assay: PreparedAssay, columns: TableColumns, recipe: Recipe, pretrained: PreTrainedModel
) -> ProformerForSequenceClassification:
    """
    A checkpoint's architecture, and its weights as far as they are kept, with the outputs of another assay.

    Args:
        assay: to be trained on.
        columns: of its table.
        recipe: as `settled` has it; where nobody says what to keep, everything is.
        pretrained: for the constructs of the assay, see `stretched`.

    Raises:
        InputError: options contradict each other, or a measurement does not fit them.
    """
    if recipe.from_scratch and recipe.keep is not None:
        raise InputError("From scratch, nothing is kept: leave out keep, or from_scratch.")
    if recipe.method != "full" and not recipe.keeps_all():
        option = "from_scratch" if recipe.from_scratch else "keep"
        raise InputError(f"The method {recipe.method} needs the whole checkpoint: leave out {option}.")
    try:
        config = config_for(assay, columns, recipe, pretrained.config)
    except StrictDataclassError as error:
        raise InputError(f"{assay.table.source}: {first_line(error.__cause__ or error)}") from error
    model = ProformerForSequenceClassification(config)
    head, slopes = model.expression_head.dense, torch.ones(1)
    if columns.bins:
        shares = bin_shares(assay.table.labels[assay.split.train])
        slopes = standard_scores(torch.tensor(config.expression_bins), shares)
        with torch.no_grad():
            head.bias.copy_(shares.log())
    if recipe.from_scratch:
        return model
    encoder = pretrained.proformer.state_dict()
    if not recipe.keeps_all():
        for name, new in model.proformer.state_dict().items():
            if new.ndim > 1:
                encoder[name] = torch.lerp(new, encoder[name], recipe.keep)
    model.proformer.load_state_dict(encoder)
    # Expression in one assay is a first guess of that in another: of its values, or of how far towards the higher bins
    # reads are shifted.
    old = pretrained.expression_head.dense
    of_values = pretrained.config.problem_type == "regression" and pretrained.config.expression_bins is None
    if of_values and config.problem_type == "regression" and len(old.bias) in (1, config.num_labels):
        with torch.no_grad():
            head.weight.copy_(slopes[:, None] * old.weight)
            head.bias.add_(slopes * old.bias)
    return model


def bin_shares(reads: np.ndarray) -> torch.Tensor:
    """
    Share of each bin in the reads of a sequence, (bins,), on average over sequences, (rows, bins). None is 0: it is as
    if one sequence more had been read equally often in all bins.
    """
    shares = reads / reads.sum(axis=1, keepdims=True)
    return torch.from_numpy((shares.sum(axis=0) + 1 / reads.shape[1]) / (len(reads) + 1)).float()


def standard_scores(bins: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """Bins in standard deviations of reads from the mean of all; both (bins,)."""
    deviations = bins - shares @ bins
    return deviations / (shares @ deviations**2).sqrt()


def stretched_positions(positions: torch.Tensor, old: ProformerTokenizer, new: ProformerTokenizer) -> torch.Tensor:
    """
    Position embeddings for constructs of another length: those of each strand, stretched or shrunk by linear
    interpolation. What was learned of the ends and the middle of an insert stays there.

    Args:
        positions: (old tokens, hidden).
        old, new: tokenizers of both constructs. The new one may do without the reverse strand.

    Returns:
        (new tokens, hidden).
    """
    strands = positions.unflatten(0, (old.num_strands, -1))[: new.num_strands].transpose(1, 2)
    strands = nn.functional.interpolate(strands, size=new.num_tokens // new.num_strands, mode="linear")
    return strands.transpose(1, 2).flatten(0, 1)


def config_for(
    assay: PreparedAssay, columns: TableColumns, recipe: Recipe, pretrained: ProformerConfig
) -> ProformerConfig:
    table, train = assay.table, assay.split.train
    fields = {
        **pretrained.to_dict(),
        **dict.fromkeys(OF_THE_LABELS),
        "max_position_embeddings": assay.tokenizer.num_tokens,
        "id2label": dict(enumerate(columns.outputs)),
        "label2id": {name: number for number, name in enumerate(columns.outputs)},
        "problem_type": "regression",
        "hidden_dropout": recipe.dropout,
        "label_transform": recipe.transform,
        "expression_bins": None if columns.bins is None else [float(bin) for bin in columns.bins],
    }
    for name, values in zip(columns.outputs, measured_values(table.labels[train], columns).T, strict=True):
        require_variation("the training rows", name, values)
    if task_of(table, columns, recipe) == "classification":
        fields["problem_type"] = "multi_label_classification"
    elif columns.bins is None:
        refuse_logarithms_of_nothing(table, columns, recipe)
        labels = TRANSFORMS[recipe.transform](torch.from_numpy(table.labels[train])).numpy()
        fields["label_mean"], fields["label_std"] = label_scale(columns.outputs, labels.T)
    if fields["problem_type"] == "regression":
        # The score, by which the best step is chosen, is a correlation.
        validation = measured_values(table.labels[assay.split.validation], columns).T
        if not any(map(varies, validation)):
            require_variation("the validation rows", columns.outputs[0], validation[0])
    config = ProformerConfig(**fields)
    config.name_or_path = pretrained.name_or_path
    return config


def task_of(table: AssayTable, columns: TableColumns, recipe: Recipe) -> str:
    """
    Raises:
        InputError: classes are asked for, and a measurement is neither 0 nor 1.
    """
    if columns.bins and recipe.task == "classification":
        raise InputError("Reads in bins are a regression: leave out the task, or the bins.")
    others = ~np.isin(table.labels, (0, 1)) & ~np.isnan(table.labels)
    if table.binary and others.any() and recipe.task != "regression":
        row, column = np.argwhere(others)[0]
        raise InputError(
            f"{table.source}: the insert of {table.places[row]} has both 0 and 1 in column "
            f"{columns.targets[column]!r}, which are no class on average. Leave the wrong rows out, or give the task "
            "regression."
        )
    if recipe.task != "classification":
        return recipe.task or ("regression" if others.any() or columns.bins else "classification")
    if others.any():
        row, column = np.argwhere(others)[0]
        raise InputError(
            f"{table.source}, {table.places[row]}, column {columns.targets[column]!r}: for classification, "
            f"{table.labels[row, column]:g} should be 0 or 1."
        )
    return "classification"


def refuse_logarithms_of_nothing(table: AssayTable, columns: TableColumns, recipe: Recipe):
    if recipe.transform is None:
        return
    lowest = 0 if recipe.transform == "log" else -1
    outside = table.labels <= lowest
    if outside.any():
        row, column = np.argwhere(outside)[0]
        raise InputError(
            f"{table.source}, {table.places[row]}, column {columns.targets[column]!r}: {table.labels[row, column]:g} "
            f"has no {recipe.transform}; {outside.sum():,} measurements are {lowest} or less."
        )


def trainer_for(
    model: ProformerForSequenceClassification,
    assay: PreparedAssay,
    columns: TableColumns,
    recipe: Recipe,
    run: Path,
) -> ProformerTrainer:
    import datasets

    table, split, config = assay.table, assay.split, model.config
    on_cpu = not torch.cuda.is_available()
    if recipe.bf16 and on_cpu and assay.tokenizer.num_tokens <= MOST_TOKENS_FOR_EAGER:
        model.set_attn_implementation("eager")
    chosen_by = some_of(split.validation, MOST_ROWS_TO_CHOOSE_BY, recipe.seed)
    labels = {f"label_{number}": values for number, values in enumerate(table.labels.T)}
    weights = {} if table.weights is None else {"weight": table.weights}
    rows = datasets.Dataset.from_dict({"sequence": table.sequences, **labels, **weights})
    steps = recipe.most_steps(len(split.train))
    every = max(steps // EVALUATIONS, 1)
    trained = prepared_for(recipe.method, model)
    arguments = TrainingArguments(
        output_dir=str(run),
        max_steps=steps,
        per_device_train_batch_size=min(recipe.batch_size, len(split.train)),
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
        metric_for_best_model=criterion(config),
        greater_is_better=criterion(config) == "score",
        restore_callback_states_from_checkpoint=True,
        bf16=recipe.bf16,
        use_cpu=on_cpu,
        seed=recipe.seed,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        max_grad_norm=1.0,
    )
    # Rows count for the validation loss, which may choose the best step, as they do for the training loss.
    collator = ProformerCollator(
        assay.tokenizer,
        label_columns=list(labels),
        weight_column="weight" if weights else None,
        mean_weight=float(table.weights[split.train].mean()) if weights else 1.0,
        truncation=True,
    )
    trainer = ProformerTrainer(
        model=trained,
        args=arguments,
        data_collator=collator,
        eval_data_collator=collator,
        train_dataset=rows.select(split.train),
        eval_dataset=rows.select(chosen_by),
        compute_metrics=metrics_for(config, columns, None if table.weights is None else table.weights[chosen_by]),
        callbacks=[EarlyStoppingCallback(recipe.patience)],
        optimizers=(torch.optim.AdamW(parameter_groups(trained, recipe), weight_decay=0.01), None),
    )
    # What it prints is not for people; see `ShownEvaluations`.
    trainer.remove_callback(PrinterCallback)
    return trainer


def criterion(config: ProformerConfig) -> Literal["loss", "score"]:
    """
    What of an evaluation tells which step is best. The loss of a regression grows as soon as the model is too sure of
    what it predicts, long before the score gets worse, and `rescale` and `temper` mend that afterwards.
    """
    return "score" if config.problem_type == "regression" else "loss"


class ShownEvaluations(TrainerCallback):
    """Tells how far training is, and how good, at every evaluation."""

    def __init__(self, show: Callable[[str], None]):
        self.show = show

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        score = metrics.get("eval_score", float("nan"))
        loss = metrics.get("eval_loss", float("nan"))
        self.show(f"Step {state.global_step:,} of {state.max_steps:,}: validation loss {loss:.3f}, score {score:.3f}.")


def prepared_for(method: str, model: ProformerForSequenceClassification) -> nn.Module:
    """
    The model with only those weights to train that the method trains.

    Raises:
        InputError: "lora" without peft.
    """
    if method == "head":
        model.requires_grad_(False)
        model.expression_head.requires_grad_(True)
    if method != "lora":
        return model
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise InputError("The method lora needs the library peft: pip install peft") from error
    return get_peft_model(
        model,
        LoraConfig(
            r=8,
            lora_alpha=16,
            target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "dense_in", "dense_out", "pointwise"],
            # What is new in another assay.
            modules_to_save=["expression_head", "position_embeddings"],
        ),
    )


def plain_model(trainer: ProformerTrainer) -> ProformerForSequenceClassification:
    """The model as it will be loaded: without autocast, and with adapters merged into its matrices."""
    model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    return model.eval().requires_grad_(True)


def temper(model: ProformerForSequenceClassification, assay: PreparedAssay, columns: TableColumns):
    """
    Pulls the scores of bins towards those of all reads, by the temperature (Guo et al. 2017, arXiv 1706.04599) that
    predicts the expression of the validation rows with the least squared error. Trained on few reads of each sequence,
    a model is surer of their bins than it should be.
    """
    head, rows = model.expression_head, assay.split.validation
    sequences = [assay.table.sequences[row] for row in rows]
    log_shares = bin_shares(assay.table.labels[assay.split.train]).log().to(model.device)
    measured = torch.from_numpy(measured_values(assay.table.labels[rows], columns)).to(model.device)
    with torch.no_grad():
        inputs = token_batches(assay.tokenizer, sequences, batch_size=64, truncation=True)
        scores = torch.cat([model(**batch.to(model.device)).position_logits.mean(dim=1) for batch in inputs])

        def error(temperature: float) -> float:
            tempered = log_shares + (scores - log_shares) / temperature
            return float((head.expression(tempered) - measured).square().mean())

        best = min(TEMPERATURES, key=error)
        head.dense.weight.div_(best)
        head.dense.bias.copy_(log_shares + (head.dense.bias - log_shares) / best)


def rescale(model: ProformerForSequenceClassification, assay: PreparedAssay):
    """
    Pulls predictions of each output towards the mean of the training rows, by the factor that predicts the validation
    rows with the least squared error; none is pushed away. Trained with dropout, or by heart, a model predicts values
    that lie further apart than those that are measured.
    """
    head, config, rows = model.expression_head.dense, model.config, assay.split.validation
    predicted = predict(model, assay.tokenizer, [assay.table.sequences[row] for row in rows], truncation=True)
    values = (transformed(each, config) for each in (predicted.astype(np.float64), assay.table.labels[rows]))
    predicted, measured = ((each - config.label_mean) / config.label_std for each in values)
    weights = np.ones(len(rows)) if assay.table.weights is None else assay.table.weights[rows]
    shares = weights[:, None] * ~np.isnan(measured)
    agreeing = (shares * predicted * np.nan_to_num(measured)).sum(axis=0)
    factors = np.clip(agreeing / (shares * predicted**2).sum(axis=0).clip(min=1e-12), LEAST_FACTOR, 1)
    with torch.no_grad():
        factors = torch.from_numpy(factors).to(head.weight)
        head.weight.mul_(factors[:, None])
        head.bias.mul_(factors)


def parameter_groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """What is trained, at rates that shrink from the head (depth 0) over the blocks down to the embeddings."""
    rate = recipe.highest_rate()
    blocks = model.config.num_hidden_layers
    groups: dict[int, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(depth_of(name, blocks), []).append(parameter)
    decay = recipe.layer_decay if recipe.method == "full" and recipe.keeps_all() else 1.0
    return [{"params": group, "lr": rate * decay**depth} for depth, group in sorted(groups.items())]


def depth_of(name: str, blocks: int) -> int:
    block = re.search(r"\.layers\.(\d+)\.", name)
    if block:
        return blocks - int(block.group(1))
    return blocks + 1 if ".embeddings." in name else 0


def metrics_for(
    config: ProformerConfig, columns: TableColumns, weights: np.ndarray | None = None
) -> Callable[[EvalPrediction], dict[str, float]]:
    """
    `score`: the mean over the outputs of Pearson's r, or of the area under the ROC curve. Outputs that have none,
    because they are constant in the rows held out, are left out of it.

    Args:
        config: of the model.
        columns: of the table.
        weights: (rows,) how much the rows that are evaluated count, in their order; for regression.
    """

    def compute_metrics(evaluation: EvalPrediction) -> dict[str, float]:
        labels = np.where(evaluation.label_ids == IGNORED, np.nan, evaluation.label_ids)
        measured = transformed(measured_values(labels, columns), config)
        predicted = np.asarray(evaluation.predictions, dtype=np.float64)
        if not np.isfinite(predicted).all():
            return {"score": float("nan")}
        predicted = transformed(predicted, config)
        found = []
        for each, guess in zip(measured.T, predicted.T, strict=True):
            present = ~np.isnan(each)
            if config.problem_type == "regression":
                counts = None if weights is None else weights[present]
                found.append(weighted_correlation(each[present], guess[present], counts))
            else:
                found.append(roc_auc(each[present], guess[present]))
        found = [score for score in found if np.isfinite(score)]
        return {"score": float(np.mean(found)) if found else float("nan")}

    return compute_metrics


def weighted_correlation(measured: np.ndarray, predicted: np.ndarray, weights: np.ndarray | None) -> float:
    """Pearson's r, to which each row counts by its weight; all (rows,). NaN where it is not defined."""
    if weights is None or not has_correlation(measured, predicted):
        return correlation(measured, predicted).pearson_r
    (variance, covariance), (_, other_variance) = np.cov(measured, predicted, aweights=weights, ddof=0)
    return float(covariance / np.sqrt(variance * other_variance))


def predict_held_out(
    model: ProformerForSequenceClassification, assay: PreparedAssay, columns: TableColumns
) -> tuple[np.ndarray, np.ndarray]:
    """
    Measured values of all rows and predicted ones of those held out, NaN of the others; both (rows, outputs).

    Raises:
        InputError: a prediction is not finite.
    """
    measured = measured_values(assay.table.labels, columns)
    predicted = np.full(measured.shape, np.nan)
    rows = np.concatenate([assay.split.validation, assay.split.test])
    sequences = [assay.table.sequences[row] for row in rows]
    predicted[rows] = predict(model, assay.tokenizer, sequences, truncation=True)
    if not np.isfinite(predicted[rows]).all():
        raise InputError(DIVERGED)
    return measured, predicted


__all__ = [
    "FineTuned",
    "Recipe",
    "finetune",
    "measured_values",
    "metrics_for",
    "model_for",
    "parameter_groups",
    "settled",
    "stretched",
]
