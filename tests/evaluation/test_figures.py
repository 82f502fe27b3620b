"""Test the plots, and the comparisons they show."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from modeling_proformer.evaluation import figures
from modeling_proformer.evaluation.figures import (
    MAX_PANELS,
    ComparedOutput,
    ablation_plot,
    effect_plot,
    learning_curve,
    paired_effects,
    roc_curves,
    scatter_plot,
    scatter_plots,
)
from modeling_proformer.evaluation.metrics import correlation, roc_points


def test_effects_are_relative_to_the_reference_of_the_same_group():
    effects = paired_effects(
        groups=[1, 2, 1, 2, 1],
        conditions=["none", "none", "Reb1", "Reb1", "Ume6"],
        values=[10.0, 5.0, 12.5, 9.0, 8.0],
        reference="none",
    )
    assert {name: changes.tolist() for name, changes in effects.items()} == {"Reb1": [2.5, 4.0], "Ume6": [-2.0]}


@pytest.mark.parametrize(
    ("groups", "conditions", "reason"),
    [
        ([1, 2], ["none", "Reb1"], "The group 2 has 'Reb1' but not the reference 'none'"),
        ([1, 1], ["none", "none"], "The group 1 has the condition 'none' twice"),
    ],
)
def test_effects_without_their_reference_are_refused(groups, conditions, reason):
    with pytest.raises(ValueError, match=reason):
        paired_effects(groups, conditions, [1.0, 2.0], reference="none")


@pytest.mark.parametrize("count", [50, 5000])
def test_scatter_plots_of_few_and_many(tmp_path, count):
    measured = np.random.default_rng(0).normal(size=count)
    scatter_plot(tmp_path / "plot.png", measured, measured + 1, correlation(measured, measured + 1))
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def drawn(monkeypatch) -> list:
    """Collect the axes of each figure instead of writing it."""
    found = []
    monkeypatch.setattr(figures, "_save", lambda figure, axes, path: found.extend(np.ravel(axes)))
    return found


@pytest.mark.parametrize("count", [1, 2, 5, 30])
def test_each_output_has_a_panel(drawn, count):
    measured, noise = np.random.default_rng(0).normal(size=(2, 40))
    scatter_plots("", [ComparedOutput(f"cell {number}", measured, measured + noise) for number in range(count)])
    labels = [axes.get_xlabel() for axes in drawn]
    assert labels == [f"measured cell {number}" for number in range(min(count, MAX_PANELS))]
    title = f"Pearson r = {correlation(measured, measured + noise).pearson_r:.3f}"
    assert all(axes.get_title().startswith(title) for axes in drawn)
    assert len(drawn[0].figure.axes) == len(drawn)


@pytest.mark.filterwarnings("error")
def test_panels_of_very_few_rows(tmp_path):
    outputs = [ComparedOutput(f"{count} rows", np.ones(count), np.arange(count) / 2) for count in (0, 1, 2)]
    for plot in (scatter_plots, roc_curves):
        plot(tmp_path / "plot.png", outputs)
        assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_roc_curves_show_the_rates_and_the_area(drawn):
    measured, predicted = np.random.default_rng(0).integers(5, size=(2, 100)).astype(float)
    measured = (measured + predicted > 4).astype(float)
    roc_curves("", [ComparedOutput("active", measured, predicted)])
    (axes,) = drawn
    np.testing.assert_allclose(axes.lines[0].get_xydata().T, roc_points(measured, predicted))
    area = roc_auc_score(measured, predicted)
    assert axes.get_title() == f"active\nROC AUC = {area:.3f}, {measured.sum():.0f} of 100 are 1"


def test_a_learning_curve_of_another_metric(tmp_path, drawn):
    log = [{"step": 1, "loss": 2.0}, {"step": 1, "eval_score": 0.25}, {"step": 2, "eval_score": 0.5}]
    learning_curve(tmp_path / "curve.png", log, "eval_score", "validation ROC AUC")
    (right,) = [axes for axes in drawn[0].figure.axes if axes is not drawn[0]]
    assert right.get_ylabel() == "validation ROC AUC"
    assert right.lines[0].get_xydata().tolist() == [[1, 0.25], [2, 0.5]]


def test_other_figures(tmp_path):
    effect_plot(tmp_path / "effects.png", {"Reb1": np.array([1.0, 2.0]), "Ume6": np.array([-1.0])}, unit="bins")
    log = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}, {"step": 2, "eval_pearson_r": 0.5}, {"step": 2}]
    learning_curve(tmp_path / "curve.png", log)
    for name in ("effects.png", "curve.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_an_ablation_has_a_bar_for_each_combination_that_was_tried(tmp_path, drawn):
    results = {(2, 64): {"mean": np.nan, "32 positions": 0.5}, (6, 64): {"32 positions": 0.75}, (6, 128): {"8": -0.25}}
    ablation_plot(tmp_path / "ablation.png", results)
    (axes,) = drawn
    assert [text.get_text() for text in axes.texts] == ["0.00", "0.50", "0.75", "-0.25"]
    assert [bar.get_height() for bar in axes.patches] == [0, 0.5, 0.75, -0.25]
    # The bars are around the tick of their layers and width, always in the same order.
    assert [bar.get_center()[0] for bar in axes.patches] == pytest.approx([-0.8 / 3, 0, 1, 2 + 0.8 / 3])
