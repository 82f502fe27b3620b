"""Plots of results, written as PNG files."""

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .metrics import Correlation, correlation, roc_auc, roc_points


BLUE, ORANGE, GREY, GREEN = "#2a6f97", "#d1603d", "#8d99ae", "#5b8e4d"

#: Maximum number of panels of a figure; nobody looks at hundreds.
MAX_PANELS = 24
PANELS_PER_ROW = 3
# More sequences are drawn as a density, because single points would hide each other.
MAX_POINTS = 2000
PIXELS_PER_INCH = 150
TITLE_SIZE = 10


class ComparedOutput(NamedTuple):
    """One output of a model: its name, and its measured and predicted values, (sequences,) each."""

    name: str
    measured: np.ndarray
    predicted: np.ndarray


def scatter_plot(
    path: str | os.PathLike,
    measured: np.ndarray,
    predicted: np.ndarray,
    agreement: Correlation,
    label: str = "expression",
):
    """
    Plot predicted against measured expression, with their correlation as title.

    Args:
        path: PNG file to write.
        measured, predicted: (sequences,). More than `MAX_POINTS` are drawn as a density of hexagons.
        agreement: their correlation.
        label: name of what was measured.
    """
    figure, (axes,) = _make_panels(1)
    _draw_scatter(axes, measured, predicted, agreement, label)
    _save(figure, axes, path)


def scatter_plots(path: str | os.PathLike, outputs: Sequence[ComparedOutput]):
    """
    Draw a `scatter_plot` of each of the first `MAX_PANELS` outputs.

    A dashed line shows where measured and predicted values are equal.
    """
    outputs = outputs[:MAX_PANELS]
    figure, all_axes = _make_panels(len(outputs))
    for axes, (name, measured, predicted) in zip(all_axes, outputs, strict=True):
        _draw_scatter(axes, measured, predicted, correlation(measured, predicted), name)
        middle = np.median(measured) if len(measured) else 0
        axes.axline((middle, middle), slope=1, color=GREY, linewidth=1, linestyle="dashed", zorder=0)
    _save(figure, all_axes, path)


def roc_curves(path: str | os.PathLike, outputs: Sequence[ComparedOutput]):
    """
    Plot the ROC curve of each of the first `MAX_PANELS` outputs, whose measured values are 0 and 1.

    Raises:
        ImportError: scikit-learn is missing.
    """
    outputs = outputs[:MAX_PANELS]
    figure, all_axes = _make_panels(len(outputs))
    for axes, (name, measured, predicted) in zip(all_axes, outputs, strict=True):
        axes.plot(*roc_points(measured, predicted), color=BLUE)
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="dashed", zorder=0)
        axes.set_xlabel("false positive rate")
        axes.set_ylabel("true positive rate")
        area = roc_auc(measured, predicted)
        found = "no ROC AUC" if np.isnan(area) else f"ROC AUC = {area:.3f}"
        title = f"{escape(name)}\n{found}, {measured.sum():,.0f} of {len(measured):,} are 1"
        axes.set_title(title, fontsize=TITLE_SIZE)
    _save(figure, all_axes, path)


def _make_panels(count: int) -> tuple[Figure, np.ndarray]:
    """Return a figure and its axes, (count,), in rows of `PANELS_PER_ROW`."""
    rows, columns = -(-count // PANELS_PER_ROW), min(count, PANELS_PER_ROW)
    figure = Figure(figsize=(0.5 + 4.5 * columns, 4.5 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for unused in axes[count:]:
        unused.remove()
    return figure, axes[:count]


def _draw_scatter(axes: Axes, measured: np.ndarray, predicted: np.ndarray, agreement: Correlation, label: str):
    if len(measured) > MAX_POINTS:
        cells = axes.hexbin(measured, predicted, gridsize=60, bins="log", mincnt=1, cmap="viridis", linewidths=0)
        axes.figure.colorbar(cells, label="sequences")
    else:
        axes.scatter(measured, predicted, s=14, alpha=0.5, color=BLUE, linewidths=0)
    axes.set_xlabel(f"measured {escape(label)}")
    axes.set_ylabel(f"predicted {escape(label)}")
    found = f"Pearson r = {agreement.pearson_r:.3f}, Spearman ρ = {agreement.spearman_rho:.3f}"
    found = "no correlation" if np.isnan(agreement.pearson_r) else found
    axes.set_title(f"{found}, n = {agreement.count:,}", fontsize=TITLE_SIZE)


def paired_effects(
    groups: Sequence, conditions: Sequence[str], values: Sequence[float], reference: str
) -> dict[str, np.ndarray]:
    """
    Return how values change between conditions within the same group.

    Args:
        groups: the group of each value, such as the promoter that a motif was inserted into.
        conditions: the condition of each value, such as the motif.
        values: the values themselves.
        reference: the condition that changes are relative to.

    Returns:
        for each other condition, in the order of first appearance, the change in each group that has it.

    Raises:
        ValueError: a group lacks the reference, or has a condition twice.
    """
    found: dict[str, dict] = {}
    for group, condition, value in zip(groups, conditions, values, strict=True):
        if group in found.setdefault(condition, {}):
            raise ValueError(f"The group {group!r} has the condition {condition!r} twice.")
        found[condition][group] = value
    references = found.pop(reference, {})
    for condition, value_of in found.items():
        if lacking := [group for group in value_of if group not in references]:
            raise ValueError(f"The group {lacking[0]!r} has {condition!r} but not the reference {reference!r}.")
    return {
        condition: np.array([value - references[group] for group, value in value_of.items()])
        for condition, value_of in found.items()
    }


def effect_plot(path: str | os.PathLike, effects: Mapping[str, np.ndarray], unit: str):
    """
    Plot the change of predicted expression that each motif causes, with a row for each motif.

    Args:
        path: PNG file to write.
        effects: for each motif the change in each promoter, see `paired_effects`; their median is marked.
        unit: of the changes.
    """
    figure = Figure(figsize=(6.5, 0.6 * len(effects) + 1.3), layout="constrained")
    axes = figure.subplots()
    names = list(effects)[::-1]  # the first is at the top
    jitter = np.random.default_rng(0)
    for height, name in enumerate(names):
        changes = np.asarray(effects[name])
        median = float(np.median(changes))
        color = ORANGE if median > 0 else BLUE
        heights = height + jitter.uniform(-0.22, 0.22, len(changes))
        axes.scatter(changes, heights, s=8, alpha=0.3, color=color, linewidths=0)
        axes.plot([median, median], [height - 0.32, height + 0.32], color="black", linewidth=2)
        axes.annotate(f"{median:+.2f}", (1.01, height), xycoords=("axes fraction", "data"), va="center")
    axes.axvline(0, color=GREY, linewidth=1)
    axes.set_yticks(range(len(names)), map(escape, names))
    axes.set_xlabel(f"change of predicted expression ({unit}); black: median")
    _save(figure, axes, path)


def learning_curve(
    path: str | os.PathLike,
    log_history: Sequence[Mapping[str, float]],
    metric: str = "eval_pearson_r",
    label: str = "validation Pearson r",
):
    """
    Plot the training loss and a metric of the validation rows over the training steps.

    Args:
        path: PNG file to write.
        log_history: `state.log_history` of a Trainer.
        metric: its name in `log_history`.
        label: its name in the plot.
    """
    figure = Figure(figsize=(6.5, 3.6), layout="constrained")
    axes = figure.subplots()
    losses = [(entry["step"], entry["loss"]) for entry in log_history if "loss" in entry]
    scores = [(entry["step"], entry[metric]) for entry in log_history if metric in entry]
    if losses:
        axes.plot(*zip(*losses, strict=True), color=GREY)
    axes.set_xlabel("step")
    axes.set_ylabel("training loss")
    if scores:
        right = axes.twinx()
        right.plot(*zip(*scores, strict=True), color=ORANGE, marker="o", markersize=3)
        right.set_ylabel(label, color=ORANGE)
        right.spines["top"].set_visible(False)
    _save(figure, axes, path)


def ablation_plot(path: str | os.PathLike, results: Mapping[tuple[int, int], Mapping[str, float]]):
    """
    Plot validation Pearson's r of models that differ in size and in how they pool their positions to a prediction.

    Args:
        path: PNG file to write.
        results: for each (layers, width), the r of each kind of pooling that was tried; NaN, of a constant prediction,
            is drawn as 0.
    """
    figure = Figure(figsize=(6.5, 3.6), layout="constrained")
    axes = figure.subplots()
    poolings = list(dict.fromkeys(pooling for found in results.values() for pooling in found))
    colors = matplotlib.colormaps["viridis_r"](np.linspace(0.1, 0.9, len(poolings)))
    width = 0.8 / len(poolings)
    for number, (pooling, color) in enumerate(zip(poolings, colors, strict=True)):
        shift = (number - (len(poolings) - 1) / 2) * width
        bars = [(tick + shift, found[pooling]) for tick, found in enumerate(results.values()) if pooling in found]
        centers, heights = np.nan_to_num(bars).T
        axes.bar(centers, heights, width=0.9 * width, color=color, label=pooling)
        for center, height in zip(centers, heights, strict=True):
            axes.annotate(f"{height:.2f}", (center, max(height, 0)), ha="center", va="bottom", fontsize=7)
    axes.set_xticks(range(len(results)), [f"{layers} layers\n{hidden} wide" for layers, hidden in results])
    axes.set_ylabel("validation Pearson r")
    axes.axhline(0, color="black", linewidth=0.8)
    axes.legend(frameon=False, ncols=len(poolings), loc="lower center", bbox_to_anchor=(0.5, 1.0))
    _save(figure, axes, path)


def benchmark_plot(
    path: str | os.PathLike, results: Mapping[str, Mapping[str, Mapping[int, Sequence[tuple[float, float, float]]]]]
):
    """
    Plot Pearson's r on the test rows over the number of training rows.

    Lines connect the means over the seeds; each seed is a point with its confidence interval.

    Args:
        path: PNG file to write.
        results: r and the ends of its interval (r, low, high) of each seed, as
            `results[assay][method][training rows]`. Each assay is a panel, each method a line.
    """
    figure, axes = _make_panels(len(results))
    methods = list(dict.fromkeys(method for found in results.values() for method in found))
    for panel, (assay, found) in zip(axes, results.items(), strict=True):
        for number, method in enumerate(methods):
            # Methods are drawn next to each other, so that their intervals do not hide each other.
            shift = 1.05 ** (number - (len(methods) - 1) / 2)
            color = (GREY, BLUE, ORANGE, GREEN)[number % 4]
            _draw_method(panel, found.get(method, {}), shift, color, escape(method))
        sizes = sorted({rows for of_rows in found.values() for rows in of_rows})
        panel.set_xscale("log")
        panel.set_xticks(sizes, [f"{rows:,}" for rows in sizes])
        panel.set_xticks([], minor=True)
        panel.set_title(escape(assay), fontsize=TITLE_SIZE)
        panel.set_xlabel("training rows")
        panel.set_ylim(bottom=min(0.0, panel.get_ylim()[0]))
    for panel in axes[::PANELS_PER_ROW]:
        panel.set_ylabel("test Pearson r")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    _save(figure, axes, path)


def _draw_method(
    panel: Axes, found: Mapping[int, Sequence[tuple[float, float, float]]], shift: float, color: str, label: str
):
    sizes = sorted(found)
    means = [np.mean([r for r, _, _ in found[rows]]) for rows in sizes]
    panel.plot([rows * shift for rows in sizes], means, color=color, label=label)
    for rows in sizes:
        r, low, high = np.transpose(found[rows])
        bars = {"fmt": "o", "markersize": 3, "color": color, "elinewidth": 1, "alpha": 0.5}
        panel.errorbar([rows * shift] * len(r), r, yerr=[r - low, high - r], **bars)


def escape(name: str) -> str:
    """Return a name such that it is drawn as it is: matplotlib reads mathematics between two dollar signs."""
    return name.replace("$", r"\$")


def _save(figure: Figure, axes: Axes | Sequence[Axes], path: str | os.PathLike):
    for each in np.ravel(axes):
        each.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=PIXELS_PER_INCH, format="png")


__all__ = [
    "MAX_PANELS",
    "ComparedOutput",
    "ablation_plot",
    "benchmark_plot",
    "effect_plot",
    "learning_curve",
    "paired_effects",
    "roc_curves",
    "scatter_plot",
    "scatter_plots",
]
