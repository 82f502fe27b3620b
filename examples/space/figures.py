"""Figures as HTML: each drawn for a wide page and for a phone, and told in words to those who do not see it."""

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


LETTERS = "ACGT"
# Told apart without red against green, and dark enough on white.
LETTER_COLORS = {"A": "#00755e", "C": BLUE, "G": "#a86f00", "T": "#b3402a"}
CHANGE_COLORS = LinearSegmentedColormap.from_list("change", ["#17435f", BLUE, "#ffffff", ORANGE, "#8a3318"])
# More predictions than this are drawn as a histogram, fewer one by one.
MOST_MARKS = 12


class Page(NamedTuple):
    """Width of a figure in inches, and how many letters of a sequence fit into it."""

    width: float
    letters: int


DESKTOP, PHONE = Page(10.0, 90), Page(3.9, 30)


class Training(NamedTuple):
    """How many measured promoters of each kind lie between the edges, (bins + 1,)."""

    edges: np.ndarray
    counts: dict[str, np.ndarray]

    def share_below(self, kind: str, expression: np.ndarray) -> np.ndarray:
        """Share of the promoters of this kind that have less expression; even within a bin."""
        below = np.concatenate([[0], np.cumsum(self.counts[kind])])
        return np.interp(expression, self.edges, below / below[-1])


def read_training(path: Path) -> Training:
    header = path.read_text(encoding="utf-8").split("\n", 1)[0].split("\t")
    table = np.loadtxt(path, skiprows=1, delimiter="\t")
    return Training(np.append(table[:, 0], table[-1, 1]), dict(zip(header[2:], table.T[2:], strict=True)))


class Marks(NamedTuple):
    """Predictions of one output, (sequences,), with a label each, and the ends of their intervals if there are any."""

    labels: Sequence[str]
    values: np.ndarray
    level: float | None = None
    low: np.ndarray | None = None
    high: np.ndarray | None = None


def distribution(marks: Marks, output: str, training: Training | None) -> str:
    """Predictions against the distribution of what the model was trained on."""
    return picture(
        lambda page: draw_distribution(page, marks, output, training), tell_distribution(marks, output, training)
    )


def draw_distribution(page: Page, marks: Marks, output: str, training: Training | None) -> Figure:
    """Histograms above, if there are any to draw, and single predictions below, unless there are many."""
    many = len(marks.values) > MOST_MARKS
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
    styles = [{"fill": True, "color": "#d5dbe3"}, {"color": BLUE, "linewidth": 1.6}]
    for (kind, counts), style in zip(training.counts.items(), styles, strict=True):
        label = f"{kind}, measured ({counts.sum():,.0f})"
        axes.stairs(100 * counts / counts.sum(), training.edges, label=label, **style)


def draw_many(axes: Axes, values: np.ndarray, training: Training | None):
    edges = np.histogram_bin_edges(values, 30) if training is None else training.edges
    counts, _ = np.histogram(values.clip(edges[0], edges[-1]), edges)
    label = f"predicted ({len(values):,})"
    axes.stairs(100 * counts / len(values), edges, color=ORANGE, linewidth=2.2, label=label)


def draw_marks(axes: Axes, marks: Marks):
    """Each prediction as a point in a row of its own."""
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


def tell_distribution(marks: Marks, output: str, training: Training | None) -> str:
    if len(marks.values) > MOST_MARKS:
        low, middle, high = np.percentile(marks.values, [0, 50, 100])
        told = (
            f"Histogram of {len(marks.values):,} predictions of {output}, {low:.1f} to {high:.1f}, median {middle:.1f}"
        )
    else:
        pairs = zip(marks.labels, marks.values, strict=True)
        told = f"Predicted {output}, " + ", ".join(f"{label}: {value:.1f}" for label, value in pairs)
    if training is None:
        return f"{told}."
    kinds = " and ".join(f"{counts.sum():,.0f} {kind}" for kind, counts in training.counts.items())
    return f"{told}; against histograms of what was measured of {kinds}."


def mutagenesis(insert: str, changes: np.ndarray, output: str) -> str:
    """
    Sequence logo and heat map of a saturation mutagenesis.

    Args:
        insert: letters A C G T N.
        changes: (letters, 4), how much expression changes with A, C, G or T in this position.
        output: what changes, for the colour bar.
    """
    positions, columns = strongest(changes, 3)
    told = ", ".join(
        f"{changes[position, column]:+.1f} if {insert[position]} in position {position + 1} is {LETTERS[column]}"
        for position, column in zip(positions, columns, strict=True)
    )
    alternative = (
        f"Sequence logo and heat map of all single changes of the {len(insert)} letters. The strongest: {told}."
    )
    return picture(lambda page: draw_mutagenesis(page, insert, changes, output), alternative)


def strongest(changes: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions and columns of the greatest changes, up or down, the greatest first."""
    order = np.argsort(-np.abs(changes), axis=None, kind="stable")[:count]
    return np.unravel_index(order, changes.shape)


def draw_mutagenesis(page: Page, insert: str, changes: np.ndarray, output: str) -> Figure:
    lines = -(-len(insert) // page.letters)
    per_line = -(-len(insert) // lines)
    figure = Figure(figsize=(page.width, 2.15 * lines + 0.7), layout="constrained")
    panels = figure.subplots(2 * lines, height_ratios=[1.25, 0.9] * lines, squeeze=False)[:, 0]
    importance = letter_importance(insert, changes)
    top, bottom = max(importance.max(), 0), min(importance.min(), 0)
    limit = np.abs(changes).max() or 1
    for line in range(lines):
        logo, heat = panels[2 * line : 2 * line + 2]
        first = line * per_line
        here = slice(first, first + per_line)
        numbers = np.arange(first, first + per_line) + 1
        table = pd.DataFrame(importance[here], columns=list(LETTERS), index=numbers[: len(importance[here])])
        logomaker.Logo(table, ax=logo, color_scheme=LETTER_COLORS, flip_below=False, show_spines=False)
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
        known = [place for place, letter in enumerate(insert[here]) if letter != "N"]
        own = [LETTERS.index(insert[first + place]) for place in known]
        heat.scatter(numbers[known], own, s=4, color="#5c6673", linewidths=0)
        heat.set_yticks(range(4), list(LETTERS), fontsize=8)
        heat.set_xticks([number for number in numbers if number % 10 == 0 or number == 1])
        heat.tick_params(length=0)
        logo.tick_params(axis="x", length=0, pad=1)
        for axes in (logo, heat):
            # The last line is as long as the others, so that letters are everywhere as wide.
            axes.set_xlim(numbers[0] - 0.5, numbers[-1] + 0.5)
            axes.spines[:].set_visible(False)
    figure.colorbar(
        cells, ax=panels, orientation="horizontal", label=f"change of {output}", aspect=40, shrink=0.6, pad=0.02
    )
    return figure


def letter_importance(insert: str, changes: np.ndarray) -> np.ndarray:
    """
    How much expression falls, on average, if a letter becomes another; (letters, 4), 0 but in the column of the
    insert's own letter.
    """
    importance = np.zeros(changes.shape)
    for position, letter in enumerate(insert):
        if letter != "N":
            importance[position, LETTERS.index(letter)] = -changes[position].sum() / 3
    return importance


def picture(draw: Callable[[Page], Figure], alternative: str) -> str:
    return (
        f'<picture class="figure"><source media="(max-width: 640px)" srcset="{svg(draw(PHONE))}">'
        f'<img src="{svg(draw(DESKTOP))}" alt="{html.escape(alternative)}"></picture>'
    )


def svg(figure: Figure) -> str:
    file = io.BytesIO()
    figure.savefig(file, format="svg")
    return "data:image/svg+xml;base64," + base64.b64encode(file.getvalue()).decode()
