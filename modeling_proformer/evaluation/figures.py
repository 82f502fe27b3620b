"""Figures of results, as PNG files."""

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .metrics import Correlation, correlation, roc_auc


BLUE, ORANGE, GREY, GREEN = "#2a6f97", "#d1603d", "#8d99ae", "#5b8e4d"

PANELS_ABREAST = 3
#: Of a figure. One of hundreds is none that anybody looks at.
MOST_PANELS = 24


class ComparedOutput(NamedTuple):
    """One output of a model: its name, and what was measured and predicted, (sequences,) each."""

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
    """Predicted against measured expression, with their correlation; dense clouds as a density of hexagons."""
    figure, (axes,) = panels(1)
    draw_scatter(axes, measured, predicted, agreement, label)
    save(figure, axes, path)


def scatter_plots(path: str | os.PathLike, outputs: Sequence[ComparedOutput]):
    """`scatter_plot` of each output, at most the first `MOST_PANELS`, with the line where both values are the same."""
    outputs = outputs[:MOST_PANELS]
    figure, all_axes = panels(len(outputs))
    for axes, (name, measured, predicted) in zip(all_axes, outputs, strict=True):
        draw_scatter(axes, measured, predicted, correlation(measured, predicted), name)
        middle = np.median(measured) if len(measured) else 0
        axes.axline((middle, middle), slope=1, color=GREY, linewidth=1, linestyle="dashed", zorder=0)
    save(figure, all_axes, path)


def roc_curves(path: str | os.PathLike, outputs: Sequence[ComparedOutput]):
    """ROC curve of each output, at most the first `MOST_PANELS`; measured are 0 and 1."""
    outputs = outputs[:MOST_PANELS]
    figure, all_axes = panels(len(outputs))
    for axes, (name, measured, predicted) in zip(all_axes, outputs, strict=True):
        axes.plot(*roc_points(measured, predicted), color=BLUE)
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="dashed", zorder=0)
        axes.set_xlabel("false positive rate")
        axes.set_ylabel("true positive rate")
        area = roc_auc(measured, predicted)
        found = "no ROC AUC" if np.isnan(area) else f"ROC AUC = {area:.3f}"
        axes.set_title(f"{verbatim(name)}\n{found}, {measured.sum():,.0f} of {len(measured):,} are 1", fontsize=10)
    save(figure, all_axes, path)


def roc_points(measured: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rate at each threshold, from none positive to all; NaN without a class."""
    thresholds = np.append(np.inf, np.unique(predicted)[::-1])
    ones, zeros = (np.sort(predicted[measured == label]) for label in (1, 0))
    with np.errstate(invalid="ignore"):
        true, false = (
            (len(values) - np.searchsorted(values, thresholds)) / np.float64(len(values)) for values in (ones, zeros)
        )
    return false, true


def panels(count: int) -> tuple[Figure, np.ndarray]:
    """A figure with so many axes, (count,), in rows."""
    rows, abreast = -(-count // PANELS_ABREAST), min(count, PANELS_ABREAST)
    figure = Figure(figsize=(0.5 + 4.5 * abreast, 4.5 * rows), layout="constrained")
    axes = figure.subplots(rows, abreast, squeeze=False).ravel()
    for unused in axes[count:]:
        unused.remove()
    return figure, axes[:count]


def draw_scatter(axes: Axes, measured: np.ndarray, predicted: np.ndarray, agreement: Correlation, label: str):
    if len(measured) > 2000:
        cells = axes.hexbin(measured, predicted, gridsize=60, bins="log", mincnt=1, cmap="viridis", linewidths=0)
        axes.figure.colorbar(cells, label="sequences")
    else:
        axes.scatter(measured, predicted, s=14, alpha=0.5, color=BLUE, linewidths=0)
    axes.set_xlabel(f"measured {verbatim(label)}")
    axes.set_ylabel(f"predicted {verbatim(label)}")
    found = f"Pearson r = {agreement.pearson_r:.3f}, Spearman ρ = {agreement.spearman_rho:.3f}"
    found = "no correlation" if np.isnan(agreement.pearson_r) else found
    axes.set_title(f"{found}, n = {agreement.count:,}", fontsize=10)


def paired_effects(
    groups: Sequence, conditions: Sequence[str], values: Sequence[float], reference: str
) -> dict[str, np.ndarray]:
    """
    How values change from one condition to another within the same group.

    Args:
        groups: what each value belongs to, such as the promoter that a motif was put into.
        conditions: under which condition each value was found, such as the motif.
        values: the values themselves.
        reference: the condition that changes are counted from.

    Returns:
        the changes in each other condition, one a group, in the order of first appearance.

    Raises:
        ValueError: a group lacks the reference, or has it or another condition twice.
    """
    found: dict[str, dict] = {}
    for group, condition, value in zip(groups, conditions, values, strict=True):
        if group in found.setdefault(condition, {}):
            raise ValueError(f"The group {group!r} has the condition {condition!r} twice.")
        found[condition][group] = value
    references = found.pop(reference, {})
    for condition, of_groups in found.items():
        if lacking := [group for group in of_groups if group not in references]:
            raise ValueError(f"The group {lacking[0]!r} has {condition!r} but not the reference {reference!r}.")
    return {
        condition: np.array([value - references[group] for group, value in of_groups.items()])
        for condition, of_groups in found.items()
    }


def effect_plot(path: str | os.PathLike, effects: Mapping[str, np.ndarray], unit: str):
    """Change of predicted expression that each motif makes: one row a motif, all its promoters and their median."""
    figure = Figure(figsize=(6.5, 0.6 * len(effects) + 1.3), layout="constrained")
    axes = figure.subplots()
    names = list(effects)[::-1]
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
    axes.set_yticks(range(len(names)), map(verbatim, names))
    axes.set_xlabel(f"change of predicted expression ({unit}); black: median")
    save(figure, axes, path)


def learning_curve(
    path: str | os.PathLike,
    log_history: Sequence[Mapping[str, float]],
    metric: str = "eval_pearson_r",
    label: str = "held-out Pearson r",
):
    """Training loss and a metric of held-out rows over the steps of a Trainer's `state.log_history`."""
    figure = Figure(figsize=(6.5, 3.6), layout="constrained")
    axes = figure.subplots()
    losses = [(entry["step"], entry["loss"]) for entry in log_history if "loss" in entry]
    scores = [(entry["step"], entry[metric]) for entry in log_history if metric in entry]
    if losses:
        axes.plot(*zip(*losses, strict=True), color=GREY, label="training loss")
    axes.set_xlabel("step")
    axes.set_ylabel("training loss")
    if scores:
        right = axes.twinx()
        right.plot(*zip(*scores, strict=True), color=ORANGE, marker="o", markersize=3)
        right.set_ylabel(label, color=ORANGE)
        right.spines["top"].set_visible(False)
    save(figure, axes, path)


def ablation_plot(path: str | os.PathLike, results: Mapping[tuple[int, int], Mapping[str, float]]):
    """
    Held-out Pearson's r of models that differ in how they come to a prediction.

    Args:
        path: of the PNG file.
        results: for each (layers, width), the r of each way that was tried; NaN, a constant prediction, is drawn as 0.
    """
    figure = Figure(figsize=(6.5, 3.6), layout="constrained")
    axes = figure.subplots()
    ways = list(dict.fromkeys(way for found in results.values() for way in found))
    colors = matplotlib.colormaps["viridis_r"](np.linspace(0.1, 0.9, len(ways)))
    width = 0.8 / len(ways)
    for number, (way, color) in enumerate(zip(ways, colors, strict=True)):
        shift = (number - (len(ways) - 1) / 2) * width
        bars = [(place + shift, found[way]) for place, found in enumerate(results.values()) if way in found]
        places, heights = np.nan_to_num(bars).T
        axes.bar(places, heights, width=0.9 * width, color=color, label=way)
        for place, height in zip(places, heights, strict=True):
            axes.annotate(f"{height:.2f}", (place, max(height, 0)), ha="center", va="bottom", fontsize=7)
    axes.set_xticks(range(len(results)), [f"{layers} layers\n{hidden} wide" for layers, hidden in results])
    axes.set_ylabel("held-out Pearson r")
    axes.axhline(0, color="black", linewidth=0.8)
    axes.legend(frameon=False, ncols=len(ways), loc="lower center", bbox_to_anchor=(0.5, 1.0))
    save(figure, axes, path)


def benchmark_plot(
    path: str | os.PathLike, results: Mapping[str, Mapping[str, Mapping[int, Sequence[tuple[float, float, float]]]]]
):
    """
    Held-out Pearson's r over the number of rows trained on: means over the seeds, and each seed with its interval.

    Args:
        path: of the PNG file.
        results: for each assay (a panel) and method (a line) the r of each seed and the ends of its interval, by the
            number of rows.
    """
    figure, axes = panels(len(results))
    methods = list(dict.fromkeys(method for found in results.values() for method in found))
    for panel, (assay, of_methods) in zip(axes, results.items(), strict=True):
        for number, method in enumerate(methods):
            color = (GREY, BLUE, ORANGE, GREEN)[number % 4]
            found = of_methods.get(method, {})
            # Beside each other, so that no method's intervals hide another's.
            aside = 1.05 ** (number - (len(methods) - 1) / 2)
            rows = sorted(found)
            means = [np.mean([r for r, _, _ in found[row]]) for row in rows]
            panel.plot([row * aside for row in rows], means, color=color, label=verbatim(method))
            for row in rows:
                r, low, high = np.transpose(found[row])
                bars = {"fmt": "o", "markersize": 3, "color": color, "elinewidth": 1, "alpha": 0.5}
                panel.errorbar([row * aside] * len(r), r, yerr=[r - low, high - r], **bars)
        every = sorted({row for found in of_methods.values() for row in found})
        panel.set_xscale("log")
        panel.set_xticks(every, [f"{row:,}" for row in every])
        panel.set_xticks([], minor=True)
        panel.set_title(verbatim(assay), fontsize=10)
        panel.set_xlabel("rows trained on")
        panel.set_ylim(bottom=min(0.0, panel.get_ylim()[0]))
    axes[0].set_ylabel("held-out Pearson r")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    save(figure, axes, path)


def verbatim(name: str) -> str:
    """A name as it is drawn: between two dollar signs, matplotlib would read mathematics."""
    return name.replace("$", r"\$")


def save(figure: Figure, axes: Axes | Sequence[Axes], path: str | os.PathLike):
    for each in np.ravel(axes):
        each.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150, format="png")


__all__ = [
    "MOST_PANELS",
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
