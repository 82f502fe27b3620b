"""What the Trainer's evaluations report, and what chooses the best step."""

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from transformers import EvalPrediction

from ..configuration_proformer import ProformerConfig
from ..evaluation.dream import DreamTest
from ..evaluation.metrics import correlation, dream_score, has_correlation, roc_auc
from ..intervals import transformed
from ..modeling_proformer import IGNORED, predict_from_logits


#: What `dream_metrics` reports.
DREAM_METRICS = ("pearson_score", "spearman_score", "pearson_r", "spearman_rho")

ComputeMetrics = Callable[[EvalPrediction], dict[str, float]]


def compute_metrics(evaluation: EvalPrediction) -> dict[str, float]:
    """Return Pearson's r and Spearman's ρ: of several outputs, their means and each one's (`pearson_r_1`, …)."""
    return correlation_metrics(np.asarray)(evaluation)


def correlation_metrics(measured: Callable[[np.ndarray], np.ndarray]) -> ComputeMetrics:
    """Return `compute_metrics` for labels (rows, targets) that `measured` maps to measured values (rows, outputs)."""

    def compute(evaluation: EvalPrediction) -> dict[str, float]:
        predicted = np.asarray(evaluation.predictions)
        labels = np.asarray(evaluation.label_ids, dtype=np.float64).reshape(len(predicted), -1)
        values = measured(np.where(labels == IGNORED, np.nan, labels))
        # A model that has diverged correlates with nothing: its metrics are NaN, and its training goes on.
        predicted = np.where(np.isfinite(predicted).all(), predicted, 0.0)
        present = ~np.isnan(values)
        found = [
            correlation(of_output[known], guesses[known])
            for of_output, guesses, known in zip(values.T, predicted.T, present.T, strict=True)
        ]
        metrics = {
            "pearson_r": float(np.mean([each.pearson_r for each in found])),
            "spearman_rho": float(np.mean([each.spearman_rho for each in found])),
        }
        if len(found) > 1:
            metrics |= {f"pearson_r_{number}": each.pearson_r for number, each in enumerate(found, start=1)}
            metrics |= {f"spearman_rho_{number}": each.spearman_rho for number, each in enumerate(found, start=1)}
        return metrics

    return compute


def dream_metrics(test: DreamTest) -> ComputeMetrics:
    """
    Return `compute_metrics` for evaluations on the DREAM challenge's test set.

    It reports the challenge's two scores, `pearson_score` and `spearman_score`, and `pearson_r` and `spearman_rho`
    over all sequences.
    """

    def compute_dream_metrics(evaluation: EvalPrediction) -> dict[str, float]:
        predicted = np.asarray(evaluation.predictions)[:, 0]
        try:
            score = dream_score(test.measured, predicted, test.subsets, test.pairs)
        except ValueError:  # the predictions are constant or not finite, but training may yet recover
            return dict.fromkeys(DREAM_METRICS, float("nan"))
        return {
            "pearson_score": score.pearson_score,
            "spearman_score": score.spearman_score,
            "pearson_r": score.subsets["all"].pearson_r,
            "spearman_rho": score.subsets["all"].spearman_rho,
        }

    return compute_dream_metrics


def best_step_metric(config: ProformerConfig) -> Literal["loss", "score"]:
    """
    Return the evaluation metric that chooses the best step of fine-tuning.

    The loss of a regression grows as soon as the model is too sure of its predictions, long before the score gets
    worse, and `calibration` corrects that afterwards.
    """
    return "score" if config.problem_type == "regression" else "loss"


def mean_score(
    config: ProformerConfig,
    measured: Callable[[np.ndarray], np.ndarray],
    weights: np.ndarray | None = None,
) -> ComputeMetrics:
    """
    Return metrics whose `score` is the mean over the outputs of Pearson's r, or of the area under the ROC curve.

    An output without a score, because it is constant in the rows that are evaluated, does not count.

    Args:
        config: of the model.
        measured: maps labels (rows, targets) to measured values (rows, outputs); both NaN where missing.
        weights: (rows,) weights of the rows that are evaluated, in their order; for regression.
    """

    def compute(evaluation: EvalPrediction) -> dict[str, float]:
        labels = np.where(evaluation.label_ids == IGNORED, np.nan, evaluation.label_ids)
        predicted = np.asarray(evaluation.predictions, dtype=np.float64)
        if not np.isfinite(predicted).all():
            return {"score": float("nan")}
        # The score of a class among others depends on those of the others.
        predicted = predict_from_logits(torch.from_numpy(predicted), config).numpy()
        found = []
        for values, guesses in zip(
            transformed(measured(labels), config).T, transformed(predicted, config).T, strict=True
        ):
            present = ~np.isnan(values)
            if config.problem_type == "regression":
                counts = None if weights is None else weights[present]
                found.append(weighted_correlation(values[present], guesses[present], counts))
            else:
                found.append(roc_auc(values[present], guesses[present]))
        found = [score for score in found if np.isfinite(score)]
        return {"score": float(np.mean(found)) if found else float("nan")}

    return compute


def weighted_correlation(measured: np.ndarray, predicted: np.ndarray, weights: np.ndarray | None) -> float:
    """Return Pearson's r of rows that count by their weights, all (rows,); NaN where it is not defined."""
    if weights is None or not has_correlation(measured, predicted):
        return correlation(measured, predicted).pearson_r
    (variance, covariance), (_, other_variance) = np.cov(measured, predicted, aweights=weights, ddof=0)
    return float(covariance / np.sqrt(variance * other_variance))


__all__ = [
    "DREAM_METRICS",
    "best_step_metric",
    "compute_metrics",
    "correlation_metrics",
    "dream_metrics",
    "mean_score",
]
