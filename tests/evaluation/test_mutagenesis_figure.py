"""The figure of a saturation mutagenesis shows effects, contributions and motifs at their positions."""

import io

import numpy as np
import pytest
from PIL import Image

from modeling_proformer.evaluation.mutagenesis_figure import draw_mutagenesis, mutagenesis_plot
from modeling_proformer.motifs import MotifMatch, Seqlet
from modeling_proformer.mutagenesis import Mutagenesis


pytest.importorskip("logomaker")


def result_of(insert: str, changes: int = 5) -> Mutagenesis:
    rng = np.random.default_rng(0)
    reference = rng.normal(size=2)
    expression = rng.normal(size=(len(insert), changes, 2))
    for position, base in enumerate(insert):
        if base != "N":
            expression[position, "ACGT".index(base)] = reference
    return Mutagenesis(insert, reference, expression)


def seqlet(start: int, end: int, *names: str, contribution: float = 1.0) -> Seqlet:
    return Seqlet(
        start, end, contribution, tuple(MotifMatch(name, start - 1, end + 2, "+", 1e-5, 1e-3) for name in names)
    )


@pytest.mark.parametrize(("bases_per_line", "lines"), [(90, 1), (30, 2), (12, 4)])
@pytest.mark.parametrize("changes", [4, 5])
def test_cells_are_the_effects_of_the_output(bases_per_line, lines, changes):
    result = result_of("ACGTNNACGT" * 4, changes)
    figure = draw_mutagenesis(result, output=1, bases_per_line=bases_per_line)
    maps = [axes.images[0] for axes in figure.axes if axes.images]
    assert len(maps) == lines
    drawn = np.concatenate([image.get_array() for image in maps], axis=1)
    np.testing.assert_array_equal(drawn, result.effects[:, :, 1].T)
    limits = {image.get_clim() for image in maps}
    assert limits == {(-np.abs(drawn).max(), np.abs(drawn).max())}


def test_letters_are_as_high_as_contributions():
    result = result_of("ACGTTGCA")
    figure = draw_mutagenesis(result, output=0)
    logo = figure.axes[1]
    glyphs = sorted(
        (patch.get_extents().transformed(logo.transData.inverted()) for patch in logo.patches), key=lambda box: box.x0
    )
    assert len(glyphs) == 8
    for position, (box, contribution) in enumerate(zip(glyphs, result.contributions[:, 0], strict=True), start=1):
        assert box.x0 < position < box.x1
        ends = sorted([0, contribution])
        np.testing.assert_allclose([box.y0, box.y1], ends, atol=1e-6)


def test_names_of_motifs_stand_over_their_bases_and_never_touch():
    seqlets = [
        seqlet(10, 16, "MA1 REB1", "MA2 NSI1"),
        seqlet(18, 23, "RAP1", contribution=-1),
        seqlet(24, 28, "A_VERY_LONG_NAME"),
        seqlet(40, 44),
    ]
    figure = draw_mutagenesis(result_of("ACGTTGCACG" * 8), seqlets=seqlets)
    figure.canvas.draw()
    names = figure.axes[0]
    texts = {text.get_text(): text for text in names.texts}
    assert list(texts) == ["REB1/NSI1", "RAP1", "A_VERY_LONG_NAME"]
    assert [text.get_position()[0] for text in texts.values()] == [13.5, 21, 26.5]
    boxes = [text.get_window_extent() for text in texts.values()]
    assert not any(box.overlaps(other) for row, box in enumerate(boxes) for other in boxes[row + 1 :])
    assert all(box.y1 < figure.bbox.y1 for box in boxes)
    # The thick line of the first spans its bases 11 to 16, the thin one its motif.
    (thin, thick) = names.lines[:2]
    assert [round(x) for x in thick.get_xdata()] == [11, 16] and [round(x) for x in thin.get_xdata()] == [10, 18]


def test_a_name_at_a_break_of_lines_is_written_once():
    figure = draw_mutagenesis(result_of("ACGTTGCACG" * 4), seqlets=[seqlet(17, 24, "REB1")], bases_per_line=20)
    assert [text.get_text() for axes in figure.axes for text in axes.texts] == ["REB1"]
    assert [len(axes.lines) for axes in (figure.axes[0], figure.axes[3])] == [2, 2]


@pytest.mark.parametrize("insert", ["A", "N", "N" * 12, "ACGTNACGTACG" * 9])
def test_inserts_of_any_kind_are_drawn(insert, recwarn):
    file = io.BytesIO()
    mutagenesis_plot(file, result_of(insert), title="$5 of $6", label="a_b")
    assert Image.open(file).size[0] > 1000
    assert not recwarn.list


def test_effects_that_are_all_missing_or_zero_are_drawn(recwarn):
    expression = np.zeros((1, 5, 1))
    expression[:, 4] = np.nan
    draw_mutagenesis(Mutagenesis("G", np.zeros(1), expression)).savefig(io.BytesIO())
    assert not recwarn.list
