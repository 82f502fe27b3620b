"""Prediction intervals by split conformal prediction."""

from collections.abc import Sequence

import numpy as np
import torch

from .configuration_proformer import ProformerConfig
from .modeling_proformer import INVERSE_TRANSFORMS, TRANSFORMS


#: Of confidence, for which fine-tuning finds intervals.
LEVELS = (0.5, 0.8, 0.9, 0.95)


def transformed(values: np.ndarray, config: ProformerConfig) -> np.ndarray:
    """Values in the assay's units, as those that the model is trained in (`label_transform`)."""
    return TRANSFORMS[config.label_transform](torch.as_tensor(values)).numpy()


def half_widths(
    measured: np.ndarray, predicted: np.ndarray, config: ProformerConfig, levels: Sequence[float] = LEVELS
) -> dict[str, list[float]]:
    """
    How far predictions are off, for `ProformerConfig.interval_half_widths`: split conformal prediction with absolute
    residuals (Lei et al. 2018, doi 10.1080/01621459.2017.1307116). An interval of this half width around the
    prediction of one more row of the same kind covers its measurement with a probability of at least `level`.

    Args:
        measured: (rows, outputs) in the assay's units, NaN where missing; of rows that were not trained on.
        predicted: (rows, outputs) in the assay's units.
        config: gives `label_transform`, in whose units the residuals are.
        levels: for which levels of confidence.

    Returns:
        for each level as text, a half width for each output. Levels that so few rows cannot vouch for are left out.
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
    Both ends, (rows, outputs) in the assay's units, of the interval around each prediction. It covers the measurement
    with about this probability as long as sequences are like those of the assay that the model was fine-tuned on; of
    other sequences it promises nothing.

    Args:
        predicted: (rows, outputs) as `predict` gives them.
        config: of the model.
        level: of confidence; one that the model holds a half width for.

    Raises:
        ValueError: the model holds none for this level.
    """
    known = config.interval_half_widths or {}
    if str(level) not in known:
        there = f"those for {', '.join(known)}" if known else "none: fine-tuning finds them, of regressions"
        raise ValueError(f"The model has no prediction intervals for a level of {level}; it has {there}.")
    half_width = np.array(known[str(level)], dtype=np.float64)
    centre = transformed(predicted.astype(np.float64), config)
    inverse = INVERSE_TRANSFORMS[config.label_transform]
    low, high = (inverse(torch.as_tensor(centre + sign * half_width)).numpy() for sign in (-1, 1))
    if config.expression_bins is not None:
        low, high = (np.clip(end, config.expression_bins[0], config.expression_bins[-1]) for end in (low, high))
    return low, high


__all__ = ["LEVELS", "half_widths", "prediction_interval", "transformed"]
