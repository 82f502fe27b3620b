"""Prediction intervals by split conformal prediction."""

from collections.abc import Sequence

import numpy as np
import torch

from .configuration_proformer import ProformerConfig
from .modeling_proformer import INVERSE_TRANSFORMS, TRANSFORMS


#: Confidence levels for which fine-tuning computes intervals.
CONFIDENCE_LEVELS = (0.5, 0.8, 0.9, 0.95)


def transformed(values: np.ndarray, config: ProformerConfig) -> np.ndarray:
    """Return values in the assay's units as those in which the model is trained (`label_transform`)."""
    return TRANSFORMS[config.label_transform](torch.as_tensor(values)).numpy()


def half_widths(
    measured: np.ndarray, predicted: np.ndarray, config: ProformerConfig, levels: Sequence[float] = CONFIDENCE_LEVELS
) -> dict[str, list[float]]:
    """
    Return the half widths of prediction intervals, for `ProformerConfig.interval_half_widths`. They follow from split
    conformal prediction with absolute residuals (Lei et al. 2018, doi 10.1080/01621459.2017.1307116): an interval of
    this half width around the prediction of another row of the same kind covers its measurement with a probability of
    at least `level`.

    Args:
        measured: (rows, outputs) in the assay's units, NaN where missing, of rows that the model was not trained on.
        predicted: (rows, outputs) in the assay's units.
        config: gives `label_transform`, in whose units the residuals are.
        levels: confidence levels.

    Returns:
        a half width for each output, by the level as text. Levels that need more rows than there are are left out.
    """
    residuals = np.abs(transformed(measured, config) - transformed(predicted, config))
    rows = (~np.isnan(residuals)).sum(axis=0)
    found = {}
    for level in levels:
        ranks = np.ceil((rows + 1) * level).astype(int)
        if (ranks <= rows).all():
            ordered = np.sort(residuals, axis=0)  # NaN last
            found[str(level)] = [float(ordered[rank - 1, output]) for output, rank in enumerate(ranks)]
    return found


def prediction_interval(
    predicted: np.ndarray, config: ProformerConfig, level: float = 0.9
) -> tuple[np.ndarray, np.ndarray]:
    """
    Return both ends, (rows, outputs) in the assay's units, of the interval around each prediction. The interval covers
    the measurement with about this probability if the sequences are like those of the assay that the model was
    fine-tuned on; for other sequences it promises nothing.

    Args:
        predicted: (rows, outputs), as `predict` returns them.
        config: configuration of the model.
        level: confidence level, one for which the model has a half width.

    Raises:
        ValueError: the model has no half width for this level.
    """
    known = config.interval_half_widths or {}
    if str(level) not in known:
        if not known:
            raise ValueError("This model has no prediction intervals. Fine-tune it as a regression to get them.")
        raise ValueError(f"This model has no prediction intervals for the level {level}, only for {', '.join(known)}.")
    half_width = np.array(known[str(level)], dtype=np.float64)
    centre = transformed(predicted.astype(np.float64), config)
    inverse = INVERSE_TRANSFORMS[config.label_transform]
    low, high = (inverse(torch.as_tensor(centre + sign * half_width)).numpy() for sign in (-1, 1))
    if config.expression_bins is not None:
        low, high = (np.clip(end, config.expression_bins[0], config.expression_bins[-1]) for end in (low, high))
    return low, high


__all__ = ["CONFIDENCE_LEVELS", "half_widths", "prediction_interval", "transformed"]
