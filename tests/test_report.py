"""Figures, and the comparisons they show."""

import numpy as np
import pytest

from modeling_proformer.metrics import correlation
from modeling_proformer.report import effect_plot, learning_curve, paired_effects, scatter_plot


def test_effects_are_counted_from_the_reference_of_the_same_group():
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


def test_other_figures(tmp_path):
    effect_plot(tmp_path / "effects.png", {"Reb1": np.array([1.0, 2.0]), "Ume6": np.array([-1.0])}, unit="bins")
    log = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}, {"step": 2, "eval_pearson_r": 0.5}, {"step": 2}]
    learning_curve(tmp_path / "curve.png", log)
    for name in ("effects.png", "curve.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
