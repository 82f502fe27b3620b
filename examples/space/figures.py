"""Figures as HTML: each is drawn for a wide page and for a phone, and described in words for screen readers."""

import base64
import html
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from modeling_proformer.evaluation.figures import BLUE, GREY, ORANGE
from modeling_proformer.evaluation.mutagenesis_figure import draw_mutagenesis
from modeling_proformer.mutagenesis import BASES, Mutagenesis


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


def mutagenesis(result: Mutagenesis, output: int, label: str) -> str:
    """
    Return the figure of a saturation mutagenesis.

    Args:
        result: all single changes of a sequence.
        output: which of its outputs to draw.
        label: name of the output, for the colour bar.
    """
    changes = result.effects[:, :, output]
    positions, columns = strongest(changes, 3)
    listed = ", ".join(
        f"{changes[position, column]:+.1f} if {result.insert[position]} at position {position + 1} is {BASES[column]}"
        for position, column in zip(positions, columns, strict=True)
    )
    alternative = (
        f"Sequence logo and heat map of all single changes of the {len(result.insert)} bases. The strongest: {listed}."
    )
    return picture(
        lambda page: draw_mutagenesis(result, output=output, label=label, width=page.width, bases_per_line=page.bases),
        alternative,
    )


def strongest(changes: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions and columns of the greatest changes, up or down, the greatest first."""
    order = np.argsort(-np.abs(changes), axis=None, kind="stable")[:count]
    return np.unravel_index(order, changes.shape)


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
