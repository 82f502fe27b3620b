"""How good predictions are: metrics with confidence intervals, the DREAM challenge's score, and plots."""

from importlib import import_module
from typing import Any

from .dream import DreamTest, read_dream_test
from .metrics import (
    Correlation,
    CorrelationIntervals,
    DreamScore,
    DreamScoreIntervals,
    Interval,
    correlation,
    correlation_intervals,
    dream_score,
    dream_score_intervals,
    metric_module,
    roc_auc,
    roc_auc_interval,
)


_PLOTS = (
    "ablation_plot",
    "benchmark_plot",
    "effect_plot",
    "learning_curve",
    "roc_curves",
    "scatter_plot",
    "scatter_plots",
)


def __getattr__(name: str) -> Any:
    # Only plots need matplotlib, which takes long to import.
    if name in _PLOTS:
        return getattr(import_module(".figures", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "Correlation",
    "CorrelationIntervals",
    "DreamScore",
    "DreamScoreIntervals",
    "DreamTest",
    "Interval",
    "correlation",
    "correlation_intervals",
    "dream_score",
    "dream_score_intervals",
    "metric_module",
    "read_dream_test",
    "roc_auc",
    "roc_auc_interval",
    *_PLOTS,
]
