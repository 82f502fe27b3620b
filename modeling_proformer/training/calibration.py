"""Correct, on the validation rows, how sure a fine-tuned model is and how far apart it predicts."""

import numpy as np
import torch
from transformers import PreTrainedModel

from ..data.assay import Assay
from ..intervals import transformed
from ..prediction import predict, token_batches
from .transfer import bin_shares


# Lower bound of the shrinkage factor, so that rescaling never removes or reverses the ranking.
MIN_FACTOR = 0.1
TEMPERATURES = np.geomspace(0.5, 32, 61).tolist()


def temper(model: PreTrainedModel, assay: Assay):
    """
    Pull the scores of bins towards those of all reads, by the temperature (Guo et al. 2017, arXiv 1706.04599) that
    predicts the expression of the validation rows with the least squared error.

    A model that is trained on few reads of each sequence is surer of their bins than it should be.
    """
    head, rows = model.expression_head, assay.split.validation
    log_shares = bin_shares(assay.labels[assay.split.train]).log().to(model.device)
    measured = torch.from_numpy(assay.measured[rows]).to(model.device)
    with torch.no_grad():
        inputs = token_batches(assay.tokenizer, assay.sequences_of(rows), batch_size=64, truncation=True)
        scores = torch.cat([model(**batch.to(model.device)).position_logits.mean(dim=1) for batch in inputs])

        def error(temperature: float) -> float:
            tempered = log_shares + (scores - log_shares) / temperature
            return float((head.expression(tempered) - measured).square().mean())

        best = min(TEMPERATURES, key=error)
        head.dense.weight.div_(best)
        head.dense.bias.copy_(log_shares + (head.dense.bias - log_shares) / best)


def rescale(model: PreTrainedModel, assay: Assay):
    """
    Pull the predictions of each output towards the mean of the training rows, by the factor that predicts the
    validation rows with the least squared error. No prediction is pushed away from the mean.

    A model that was trained with dropout, or has memorised its rows, predicts values that lie further apart than the
    measured ones.
    """
    head, config, rows = model.expression_head.dense, model.config, assay.split.validation
    predicted = predict(model, assay.tokenizer, assay.sequences_of(rows), truncation=True)
    values = (transformed(each, config) for each in (predicted.astype(np.float64), assay.labels[rows]))
    predicted, measured = ((each - config.label_mean) / config.label_std for each in values)
    weights = np.ones(len(rows)) if assay.weights is None else assay.weights[rows]
    shares = weights[:, None] * ~np.isnan(measured)
    agreeing = (shares * predicted * np.nan_to_num(measured)).sum(axis=0)
    factors = np.clip(agreeing / (shares * predicted**2).sum(axis=0).clip(min=1e-12), MIN_FACTOR, 1)
    with torch.no_grad():
        tensor = torch.from_numpy(factors).to(head.weight)
        head.weight.mul_(tensor[:, None])
        head.bias.mul_(tensor)


__all__ = ["rescale", "temper"]
