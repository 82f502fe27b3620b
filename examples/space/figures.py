"""Figures as HTML: each is drawn for a wide page and for a phone, and described in words for screen readers."""

import base64
import html
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import logomaker
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from modeling_proformer.evaluation.figures import BLUE, GREY, ORANGE


BASES = "ACGT"
# Dark enough on white, and distinct for the colour-blind.
BASE_COLORS = {"A": "#00755e", "C": BLUE, "G": "#a86f00", "T": "#b3402a"}
CHANGE_COLORS = LinearSegmentedColormap.from_list("change", ["#17435f", BLUE, "#ffffff", ORANGE, "#8a3318"])
# More predictions than this are drawn as a histogram.
MAX_MARKS = 12


class Page(NamedTuple):
    """The width of a figure in inches, and how many bases of a sequence fit into it."""

    width: float
    bases: int


DESKTOP, PHONE = Page(10.0, 90), Page(3.9, 30)


class Training(NamedTuple):
    """Counts of measured promoters of each kind, (bins,), in bins with these edges, (bins + 1,)."""

    edges: np.ndarray
    counts: dict[str, np.ndarray]

    def share_below(self, kind: str, expression: np.ndarray) -> np.ndarray:
        """Return the share of promoters of this kind with less expression, interpolated within a bin."""
        below = np.concatenate([[0], np.cumsum(self.counts[kind])])
        return np.interp(expression, self.edges, below / below[-1])


def read_training(path: Path) -> Training:
    """Read the table that make_training_expression.py writes."""
    header = path.read_text(encoding="utf-8").split("\n", 1)[0].split("\t")
    table = np.loadtxt(path, skiprows=1, delimiter="\t")
    return Training(np.append(table[:, 0], table[-1, 1]), dict(zip(header[2:], table.T[2:], strict=True)))


class Marks(NamedTuple):
    """Predictions of one output, (sequences,), with their labels, and the ends of their intervals if there are any."""

    labels: Sequence[str]
    values: np.ndarray
    level: float | None = None
    low: np.ndarray | None = None
    high: np.ndarray | None = None


def distribution(marks: Marks, output: str, training: Training | None) -> str:
    """Return a figure of predictions and the distribution of the training data."""
    return picture(
        lambda page: draw_distribution(page, marks, output, training), describe_distribution(marks, output, training)
    )


def draw_distribution(page: Page, marks: Marks, output: str, training: Training | None) -> Figure:
    """Draw histograms above, if there are any, and single predictions below, unless there are many."""
    many = len(marks.values) > MAX_MARKS
    heights = [2.6] * (many or training is not None) + [0.3 + 0.24 * len(marks.values)] * (not many)
    figure = Figure(figsize=(page.width, sum(heights) + 0.6), layout="constrained")
    panels = figure.subplots(len(heights), sharex=True, height_ratios=heights, squeeze=False)[:, 0]
    if training is not None:
        draw_training(panels[0], training)
    if many:
        draw_many(panels[0], marks.values, training)
    else:
        draw_marks(panels[-1], marks)
    if training is not None and not many:
        to_top = panels[0].get_xaxis_transform()
        panels[0].vlines(marks.values, 0, 1, transform=to_top, color=ORANGE, linewidth=0.8)
    if training is not None or many:
        panels[0].set_ylabel("% of each")
        panels[0].set_ylim(bottom=0)
        panels[0].legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=3 if page == DESKTOP else 1)
    panels[-1].set_xlabel(output)
    panels[-1].margins(x=0.02)
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def draw_training(axes: Axes, training: Training):
    """Draw a histogram for each kind of measured promoters."""
    styles = [{"fill": True, "color": "#d5dbe3"}, {"color": BLUE, "linewidth": 1.6}]
    for (kind, counts), style in zip(training.counts.items(), styles, strict=True):
        label = f"{kind}, measured ({counts.sum():,.0f})"
        axes.stairs(100 * counts / counts.sum(), training.edges, label=label, **style)


def draw_many(axes: Axes, values: np.ndarray, training: Training | None):
    """Draw predictions as a histogram."""
    edges = np.histogram_bin_edges(values, 30) if training is None else training.edges
    counts, _ = np.histogram(values.clip(edges[0], edges[-1]), edges)
    label = f"predicted ({len(values):,})"
    axes.stairs(100 * counts / len(values), edges, color=ORANGE, linewidth=2.2, label=label)


def draw_marks(axes: Axes, marks: Marks):
    """Draw each prediction as a point in its own row."""
    rows = np.arange(len(marks.values))
    if marks.level is not None:
        axes.hlines(rows, marks.low, marks.high, color=GREY, linewidth=2, label=f"{marks.level:.0%} interval")
        axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)
    axes.scatter(marks.values, rows, s=44, color=ORANGE, zorder=3)
    axes.set_yticks(rows, marks.labels)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(axis="y", color="#e6e9ee")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def describe_distribution(marks: Marks, output: str, training: Training | None) -> str:
    """Describe in words what `draw_distribution` draws."""
    if len(marks.values) > MAX_MARKS:
        low, middle, high = np.percentile(marks.values, [0, 50, 100])
        text = (
            f"Histogram of {len(marks.values):,} predictions of {output}, {low:.1f} to {high:.1f}, median {middle:.1f}"
        )
    else:
        pairs = zip(marks.labels, marks.values, strict=True)
        text = f"Predicted {output}, " + ", ".join(f"{label}: {value:.1f}" for label, value in pairs)
    if training is None:
        return f"{text}."
    kinds = " and ".join(f"{counts.sum():,.0f} {kind}" for kind, counts in training.counts.items())
    return f"{text}; with histograms of the measured expression of {kinds}."


def mutagenesis(insert: str, changes: np.ndarray, output: str) -> str:
    """
    Return a sequence logo and a heat map of a saturation mutagenesis.

    Args:
        insert: bases A C G T N.
        changes: (bases, 4), how much expression changes with A, C, G or T at this position.
        output: name of the output, for the colour bar.
    """
    positions, columns = strongest(changes, 3)
    listed = ", ".join(
        f"{changes[position, column]:+.1f} if {insert[position]} at position {position + 1} is {BASES[column]}"
        for position, column in zip(positions, columns, strict=True)
    )
    alternative = (
        f"Sequence logo and heat map of all single changes of the {len(insert)} bases. The strongest: {listed}."
    )
    return picture(lambda page: draw_mutagenesis(page, insert, changes, output), alternative)


def strongest(changes: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions and columns of the greatest changes, up or down, the greatest first."""
    order = np.argsort(-np.abs(changes), axis=None, kind="stable")[:count]
    return np.unravel_index(order, changes.shape)


def draw_mutagenesis(page: Page, insert: str, changes: np.ndarray, output: str) -> Figure:
    """Draw a logo and a heat map below it, over as many lines as the insert needs."""
    lines = -(-len(insert) // page.bases)
    per_line = -(-len(insert) // lines)
    figure = Figure(figsize=(page.width, 2.15 * lines + 0.7), layout="constrained")
    panels = figure.subplots(2 * lines, height_ratios=[1.25, 0.9] * lines, squeeze=False)[:, 0]
    importance = base_importance(insert, changes)
    top, bottom = max(importance.max(), 0), min(importance.min(), 0)
    limit = np.abs(changes).max() or 1
    for line in range(lines):
        logo, heat = panels[2 * line : 2 * line + 2]
        first = line * per_line
        here = slice(first, first + per_line)
        numbers = np.arange(first, first + per_line) + 1
        table = pd.DataFrame(importance[here], columns=list(BASES), index=numbers[: len(importance[here])])
        logomaker.Logo(table, ax=logo, color_scheme=BASE_COLORS, flip_below=False, show_spines=False)
        logo.set_ylim(bottom * 1.05, top * 1.05 or 1)
        logo.set_xticks(table.index, insert[here], fontsize=7, family="monospace")
        logo.set_ylabel("importance")
        cells = heat.imshow(
            changes[here].T,
            cmap=CHANGE_COLORS,
            vmin=-limit,
            vmax=limit,
            aspect="auto",
            extent=(numbers[0] - 0.5, numbers[0] - 0.5 + len(table), 3.5, -0.5),
        )
        known = [position for position, base in enumerate(insert[here]) if base != "N"]
        own = [BASES.index(insert[first + position]) for position in known]
        heat.scatter(numbers[known], own, s=4, color="#5c6673", linewidths=0)
        heat.set_yticks(range(4), list(BASES), fontsize=8)
        heat.set_xticks([number for number in numbers if number % 10 == 0 or number == 1])
        heat.tick_params(length=0)
        logo.tick_params(axis="x", length=0, pad=1)
        for axes in (logo, heat):
            # The last line is as long as the others, so that all bases have the same width.
            axes.set_xlim(numbers[0] - 0.5, numbers[-1] + 0.5)
            axes.spines[:].set_visible(False)
    figure.colorbar(
        cells, ax=panels, orientation="horizontal", label=f"change of {output}", aspect=40, shrink=0.6, pad=0.02
    )
    return figure


def base_importance(insert: str, changes: np.ndarray) -> np.ndarray:
    """
    Return how much expression falls on average when a base is replaced by another, (bases, 4); 0 except in the column
    of the base itself.
    """
    importance = np.zeros(changes.shape)
    for position, base in enumerate(insert):
        if base != "N":
            importance[position, BASES.index(base)] = -changes[position].sum() / 3
    return importance


def picture(draw: Callable[[Page], Figure], alternative: str) -> str:
    """Return a figure as HTML, drawn for a desktop and for a phone."""
    return (
        f'<picture class="figure"><source media="(max-width: 640px)" srcset="{svg(draw(PHONE))}">'
        f'<img src="{svg(draw(DESKTOP))}" alt="{html.escape(alternative)}"></picture>'
    )


def svg(figure: Figure) -> str:
    """Return a figure as an address that holds its data."""
    file = io.BytesIO()
    figure.savefig(file, format="svg")
    return "data:image/svg+xml;base64," + base64.b64encode(file.getvalue()).decode()
