"""From a checkpoint to the model of another assay: its positions, what is kept of its weights, its new outputs."""

from dataclasses import replace

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedModel

from ..configuration_proformer import LABEL_FIELDS, ProformerConfig
from ..data.assay import Assay, require_variation, varies
from ..data.splits import sample_rows
from ..data.tables import InputError, first_line
from ..modeling_proformer import TRANSFORMS, ProformerForSequenceClassification, construct_of
from ..prediction import predict, require_finite
from ..tokenization import ProformerTokenizer
from .baseline import compare_with_ridge
from .config import FinetuneConfig


# Rows by which it is judged whether a checkpoint knows the assay.
MAX_ROWS_TO_JUDGE = 500
# The best of 0.4, 0.6, 0.8 and 1 on validation rows of four assays that the embedded checkpoint does not know.
SHARE_KEPT_OF_UNKNOWN = 0.6


def resize_positions(pretrained: PreTrainedModel, old: ProformerTokenizer, new: ProformerTokenizer) -> PreTrainedModel:
    """
    Return a checkpoint for constructs of another length, see `resize_position_embeddings`.

    Args:
        pretrained: the checkpoint, which is not changed.
        old, new: tokenizers of both constructs. The new one may read the forward strand alone.

    Raises:
        InputError: the new tokenizer reads both strands, the old one only one.
    """
    if new.num_strands > old.num_strands:
        raise InputError('The checkpoint reads the forward strand alone; give `strands="forward"`.')
    config = ProformerConfig(**pretrained.config.to_dict())
    config.name_or_path = pretrained.config.name_or_path
    resized = type(pretrained)(config)
    resized.load_state_dict(pretrained.state_dict())
    # A checkpoint may have more positions than its tokenizer gives tokens.
    resized.resize_position_embeddings(
        new.num_tokens, old.num_tokens, num_strands=old.num_strands, new_num_strands=new.num_strands
    )
    resized.config.construct = construct_of(new)
    return resized.eval()


def choose_keep(config: FinetuneConfig, assay: Assay, pretrained: PreTrainedModel) -> FinetuneConfig:
    """
    Return the configuration with the share of the checkpoint's matrices to keep.

    All is kept where the checkpoint knows the assay: where it ranks training rows better than chance and better than a
    ridge regression that is cross-validated on them (`compare_with_ridge`), on average over the outputs. Otherwise 0.6
    is kept: weights that were trained for something else are a better start if they are mixed with new ones.

    Args:
        config: its `keep` stays, where it has one.
        assay: is given the finding.
        pretrained: the checkpoint, for the constructs of the assay.

    Raises:
        InputError: the checkpoint predicts values that are not finite.
    """
    if config.from_scratch or config.keep is not None:
        return config
    if config.method != "full":
        return replace(config, keep=1.0)
    measured, train = assay.measured, assay.split.train
    # Each output is judged by rows that have a measurement of it.
    chosen = [sample_rows(train[present], MAX_ROWS_TO_JUDGE, config.seed) for present in ~np.isnan(measured[train]).T]
    rows = np.unique(np.concatenate(chosen))
    predicted = predict(pretrained, assay.tokenizer, assay.sequences_of(rows), truncation=True)
    require_finite(predicted, pretrained)
    found = []
    for values, known in zip(measured.T, chosen, strict=True):
        inserts = assay.inserts.take(known)
        of_output = predicted[np.searchsorted(rows, known)]
        found.append(compare_with_ridge(values[known], of_output, inserts, assay.groups[known]))
    weights = [len(known) for known in chosen]
    of_checkpoint, of_ridge, needed = np.average(found, axis=0, weights=weights)
    keep = 1.0 if of_checkpoint > needed else SHARE_KEPT_OF_UNKNOWN
    kept = "it is kept whole" if keep == 1 else f"{keep:.0%} of its matrices are kept and mixed with new weights"
    assay.findings.append(
        f"On {len(rows):,} training rows, the checkpoint's predictions have a rank correlation of {of_checkpoint:.2f} "
        f"and those of a cross-validated ridge regression on k-mers one of {of_ridge:.2f}: {kept}."
    )
    return replace(config, keep=keep)


def build_model(
    config: FinetuneConfig, assay: Assay, pretrained: PreTrainedModel
) -> ProformerForSequenceClassification:
    """
    Return a model with the checkpoint's architecture and kept weights, and with the outputs of the assay.

    Args:
        config: as `choose_keep` returns it; where `keep` is None, everything is kept.
        assay: to be trained on.
        pretrained: the checkpoint, for the constructs of the assay.

    Raises:
        InputError: an option does not suit the measurements.
    """
    try:
        model_config = _model_config(config, assay, pretrained.config)
    except StrictDataclassError as error:
        raise InputError(f"{assay.name}: {first_line(error.__cause__ or error)}") from error
    model = ProformerForSequenceClassification(model_config)
    head, slopes = model.expression_head.dense, torch.ones(1)
    if config.bins:
        shares = bin_shares(assay.labels[assay.split.train])
        slopes = _standard_scores(torch.tensor(model_config.expression_bins), shares)
        with torch.no_grad():
            head.bias.copy_(shares.log())
    if config.from_scratch:
        return model
    encoder = pretrained.proformer.state_dict()
    if not config.keeps_all:
        for name, new in model.proformer.state_dict().items():
            if new.ndim > 1:
                encoder[name] = torch.lerp(new, encoder[name], config.keep)
    model.proformer.load_state_dict(encoder)
    # Expression in one assay is a first guess of that in another: of its values, or of how far reads are shifted
    # towards the higher bins.
    old = pretrained.expression_head.dense
    of_values = pretrained.config.problem_type == "regression" and pretrained.config.expression_bins is None
    if of_values and model_config.problem_type == "regression" and len(old.bias) in (1, model_config.num_labels):
        with torch.no_grad():
            head.weight.copy_(slopes[:, None] * old.weight)
            head.bias.add_(slopes * old.bias)
    return model


def bin_shares(reads: np.ndarray) -> torch.Tensor:
    """
    Return the share of each bin in the reads of a sequence, (bins,), as a mean over sequences, (rows, bins).

    No share is 0: one more sequence is assumed that was read equally often in all bins.
    """
    shares = reads / reads.sum(axis=1, keepdims=True)
    return torch.from_numpy((shares.sum(axis=0) + 1 / reads.shape[1]) / (len(reads) + 1)).float()


def _standard_scores(bins: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """Return the bins in standard deviations from the mean of all reads; both (bins,)."""
    deviations = bins - shares @ bins
    return deviations / (shares @ deviations**2).sqrt()


def _model_config(config: FinetuneConfig, assay: Assay, pretrained: ProformerConfig) -> ProformerConfig:
    train = assay.split.train
    fields = {
        **pretrained.to_dict(),
        **dict.fromkeys(LABEL_FIELDS),
        "max_position_embeddings": assay.tokenizer.num_tokens,
        "construct": construct_of(assay.tokenizer),
        "id2label": dict(enumerate(config.outputs)),
        "label2id": {name: number for number, name in enumerate(config.outputs)},
        "problem_type": "regression",
        "hidden_dropout": config.dropout,
        "label_transform": config.transform,
        "expression_bins": config.bins,
    }
    for name, values in zip(config.outputs, assay.measured[train].T, strict=True):
        require_variation("the training rows", name, values)
    if config.classes:
        fields["problem_type"] = "single_label_classification"
    elif _task_of(config, assay) == "classification":
        fields["problem_type"] = "multi_label_classification"
    elif config.bins is None:
        _refuse_impossible_logarithms(config, assay)
        labels = TRANSFORMS[config.transform](torch.from_numpy(assay.labels[train])).numpy()
        fields["label_mean"], fields["label_std"] = label_scale(config.outputs, labels)
    if fields["problem_type"] == "regression":
        # The score that chooses the best step is a correlation.
        validation = assay.measured[assay.split.validation].T
        if not any(map(varies, validation)):
            require_variation("the validation rows", config.outputs[0], validation[0])
    model_config = ProformerConfig(**fields)
    model_config.name_or_path = pretrained.name_or_path
    return model_config


def label_scale(names: list[str], labels: np.ndarray) -> tuple[list[float], list[float]]:
    """
    Return the mean and the population standard deviation of each output, for `label_mean` and `label_std`.

    Args:
        names: of the outputs.
        labels: (rows, outputs) of the training rows alone, NaN where missing.

    Raises:
        InputError: an output has no values or is constant.
    """
    for name, values in zip(names, labels.T, strict=True):
        require_variation("the training rows", name, values)
    return [float(np.nanmean(values)) for values in labels.T], [float(np.nanstd(values)) for values in labels.T]


def _task_of(config: FinetuneConfig, assay: Assay) -> str:
    """
    Return "regression" or "classification".

    Raises:
        InputError: the task is classification, and a measurement is neither 0 nor 1.
    """
    if config.task == "regression" or config.bins:
        return "regression"
    others = ~np.isin(assay.labels, (0, 1)) & ~np.isnan(assay.labels)
    if assay.binary and others.any():
        row, column = np.argwhere(others)[0]
        raise InputError(
            f"{assay.location(row)}, column {config.targets[column]!r}: its insert was measured as 0 and as 1, whose "
            'average is not a class. Leave the wrong rows out, or give `task="regression"`.'
        )
    if config.task is None:
        return "regression" if others.any() else "classification"
    if others.any():
        row, column = np.argwhere(others)[0]
        raise InputError(
            f"{assay.location(row)}, column {config.targets[column]!r}: for classification, the measurement must be 0 "
            f"or 1, not {assay.labels[row, column]:g}."
        )
    return "classification"


def _refuse_impossible_logarithms(config: FinetuneConfig, assay: Assay):
    if config.transform is None:
        return
    lowest = 0 if config.transform == "log" else -1
    outside = assay.labels <= lowest
    if outside.any():
        row, column = np.argwhere(outside)[0]
        raise InputError(
            f"{assay.location(row)}, column {config.targets[column]!r}: {assay.labels[row, column]:g} has no "
            f"{config.transform}; {outside.sum():,} measurements are {lowest} or less."
        )


__all__ = ["bin_shares", "build_model", "choose_keep", "label_scale", "resize_positions"]
