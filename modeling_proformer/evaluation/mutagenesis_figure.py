"""The figure of a saturation mutagenesis: a heat map of effects, and above it the logo of contributions."""

import os
from collections.abc import Sequence
from typing import IO, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from ..motifs import Seqlet
from ..mutagenesis import BASES, Mutagenesis
from .figures import BLUE, GREY, ORANGE, PIXELS_PER_INCH, TITLE_SIZE, escape


# Dark enough on white, and distinct for the colour-blind.
BASE_COLORS = {"A": "#00755e", "C": BLUE, "G": "#a86f00", "T": "#b3402a"}
CHANGE_COLORS = LinearSegmentedColormap.from_list("change", ["#17435f", BLUE, "#ffffff", ORANGE, "#8a3318"])
DARK_GREY = "#5c6673"

LOGO_HEIGHT, ROW_HEIGHT, LANE_HEIGHT = 1.25, 0.225, 0.27
FONT_SIZE = 8
# Width in inches of a character of a motif's name.
CHARACTER_WIDTH = 0.085


class _Label(NamedTuple):
    """The name of a motif over the bases of a line, and the lane in which it does not touch others."""

    seqlet: Seqlet
    lane: int


def draw_mutagenesis(
    result: Mutagenesis,
    *,
    output: int = 0,
    label: str = "expression",
    title: str | None = None,
    seqlets: Sequence[Seqlet] = (),
    width: float = 10.0,
    bases_per_line: int = 90,
) -> Figure:
    """
    Draw a heat map of the effects of all single changes, and above it the logo of contributions.

    Colours are limited to the strongest effect. Dots mark the bases of the sequence itself.

    Args:
        result: the changes of one sequence.
        output: which of its outputs to draw.
        label: name of the output.
        title: of the figure.
        seqlets: those with a match are named above the logo. A thick line marks the seqlet, a thin one the motif.
        width: of the figure, in inches.
        bases_per_line: maximum number of bases in a line. Longer inserts take several lines of equal length.

    Raises:
        ImportError: logomaker is missing.
    """
    effects, contributions = result.effects[:, :, output], result.contributions[:, output]
    lines = -(-len(result.insert) // bases_per_line)
    per_line = -(-len(result.insert) // lines)
    bases_per_inch = per_line / (0.9 * width)
    labels = _arrange([each for each in seqlets if each.matches], bases_per_inch)
    lanes = max((each.lane + 1 for each in labels), default=0)
    heights = [LANE_HEIGHT * max(lanes, 0.01), LOGO_HEIGHT, ROW_HEIGHT * effects.shape[1]]
    figure = Figure(figsize=(width, (sum(heights) + 0.45) * lines + 0.75), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.02, hspace=0)
    panels = figure.subplots(3 * lines, height_ratios=heights * lines, squeeze=False)[:, 0].reshape(lines, 3)
    limit = np.nanmax(np.abs(effects)) or 1
    bottom, top = min(contributions.min(), 0) * 1.05, max(contributions.max(), 0) * 1.05
    for line, (names, logo, heat) in enumerate(panels):
        first = line * per_line
        here = slice(first, min(first + per_line, len(result.insert)))
        _draw_labels(names, labels, lanes, here)
        _draw_logo(logo, result.insert[here], contributions[here], first + 1)
        logo.set_ylim(bottom, top if top > bottom else 1)
        cells = _draw_heat_map(heat, result.insert[here], effects[here], first + 1, limit)
        for axes in (names, logo, heat):
            # The last line is as long as the others, so that all bases have the same width.
            axes.set_xlim(first + 0.5, first + per_line + 0.5)
            axes.spines[:].set_visible(False)
    if title is not None:
        figure.suptitle(escape(title), fontsize=TITLE_SIZE)
    bar = figure.colorbar(cells, ax=panels.ravel().tolist(), orientation="horizontal", aspect=50, shrink=0.6, pad=0.02)
    bar.set_label(f"change of {escape(label)}", fontsize=FONT_SIZE)
    bar.ax.tick_params(labelsize=FONT_SIZE)
    bar.outline.set_visible(False)
    return figure


def mutagenesis_plot(path: str | os.PathLike | IO[bytes], result: Mutagenesis, **options):
    """
    Write the figure that `draw_mutagenesis` draws with these options as a PNG file.

    Args:
        path: the file's name, or an open file.
        result, options: see `draw_mutagenesis`.
    """
    draw_mutagenesis(result, **options).savefig(path, dpi=PIXELS_PER_INCH, format="png")


def _arrange(seqlets: Sequence[Seqlet], bases_per_inch: float) -> list[_Label]:
    """Return the labels of seqlets, each in the lowest lane where neither its lines nor its name touch others."""
    labels: list[_Label] = []
    ends: list[float] = []
    for seqlet in sorted(seqlets, key=lambda each: each.start):
        half = len(seqlet.label) * CHARACTER_WIDTH * bases_per_inch / 2
        middle = (seqlet.start + seqlet.end) / 2
        motif = seqlet.matches[0]
        start, end = min(seqlet.start, motif.start, middle - half), max(seqlet.end, motif.end, middle + half)
        lane = next((lane for lane, taken in enumerate(ends) if taken <= start), len(ends))
        ends[lane : lane + 1] = [end + 0.5]
        labels.append(_Label(seqlet, lane))
    return labels


def _draw_labels(axes: Axes, labels: Sequence[_Label], lanes: int, here: slice):
    """Draw the names of motifs over the bases `here`, and lines over the bases that they stand for."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_ylim(0, max(lanes, 1))
    for (start, end, contribution, matches), lane in labels:
        # A name stands in the line that has the middle of its seqlet.
        color = ORANGE if contribution > 0 else BLUE
        for first, last, thickness in ((matches[0].start, matches[0].end, 1), (start, end, 3)):
            first, last = max(first, here.start), min(last, here.stop)
            if first < last:
                line = {"color": color, "linewidth": thickness, "solid_capstyle": "butt", "clip_on": False}
                axes.plot([first + 0.6, last + 0.4], [lane + 0.14] * 2, **line)
        middle = (start + end) / 2
        if here.start <= middle < here.stop:
            name = Seqlet(start, end, contribution, matches).label
            axes.text(middle + 0.5, lane + 0.3, escape(name), ha="center", va="bottom", fontsize=FONT_SIZE)


def _draw_logo(axes: Axes, insert: str, contributions: np.ndarray, first: int):
    """Draw each base as high as its contribution, the first at position `first`."""
    try:
        import logomaker
        import pandas as pd
    except ImportError as error:
        raise ImportError("Figures need logomaker: pip install 'modeling-proformer[motifs]'") from error
    heights = {base: np.where([each == base for each in insert], contributions, 0) for base in BASES}
    table = pd.DataFrame(heights, index=range(first, first + len(insert)))
    if contributions.any():
        logomaker.Logo(table, ax=axes, color_scheme=BASE_COLORS, flip_below=False, show_spines=False)
    axes.axhline(0, color=GREY, linewidth=0.5)
    axes.set_xticks(table.index, insert, fontsize=FONT_SIZE - 1, family="monospace")
    axes.tick_params(axis="x", length=0, pad=1)
    axes.tick_params(axis="y", labelsize=FONT_SIZE)
    axes.set_ylabel("contribution", fontsize=FONT_SIZE)


def _draw_heat_map(axes: Axes, insert: str, effects: np.ndarray, first: int, limit: float):
    """Draw the effects, (bases, changes), and return what a colour bar needs."""
    last = first + len(insert)
    cells = axes.imshow(
        effects.T,
        cmap=CHANGE_COLORS,
        vmin=-limit,
        vmax=limit,
        aspect="auto",
        extent=(first - 0.5, last - 0.5, effects.shape[1] - 0.5, -0.5),
    )
    known = [(first + position, BASES.index(base)) for position, base in enumerate(insert) if base != "N"]
    if known:
        axes.scatter(*zip(*known, strict=True), s=4, color=DARK_GREY, linewidths=0)
    axes.set_yticks(range(effects.shape[1]), [*BASES, "deleted"][: effects.shape[1]], fontsize=FONT_SIZE)
    axes.set_xticks(sorted({first, *(number for number in range(first, last) if number % 10 == 0)}))
    axes.tick_params(length=0, labelsize=FONT_SIZE)
    return cells


__all__ = ["draw_mutagenesis", "mutagenesis_plot"]
