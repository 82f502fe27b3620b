"""Tests that prediction intervals cover measurements as often as they promise."""

import numpy as np
import pytest
from transformers import Trainer, TrainingArguments

from modeling_proformer import ProformerConfig, ProformerForSequenceClassification
from modeling_proformer.intervals import half_widths, prediction_interval


def simulated(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return measurements of two outputs, with errors of 1 and 3, and their predictions."""
    generator = np.random.default_rng(seed)
    predicted = generator.normal(size=(rows, 2))
    return predicted + generator.normal(size=(rows, 2)) * [1.0, 3.0], predicted


def test_coverage_is_as_requested():
    """On average over many small calibrations, the coverage of new rows is the level or barely above it."""
    covered = {level: [] for level in (0.5, 0.9)}
    for seed in range(200):
        config = ProformerConfig(
            num_labels=2, interval_half_widths=half_widths(*simulated(50, seed), ProformerConfig())
        )
        measured, predicted = simulated(500, seed + 1000)
        for level, coverages in covered.items():
            low, high = prediction_interval(predicted, config, level)
            coverages.append(((low <= measured) & (measured <= high)).mean(axis=0))
    for level, coverages in covered.items():
        assert (np.mean(coverages, axis=0) >= level - 0.01).all()
        assert (np.mean(coverages, axis=0) <= level + 0.03).all()


def test_a_model_loses_its_intervals_when_it_is_trained_further(tiny_config, tmp_path):
    """The Trainer kept those of the weights before training."""
    tiny_config.interval_half_widths = {"0.9": [1.5]}
    model = ProformerForSequenceClassification(tiny_config).eval()
    options = TrainingArguments(tmp_path / "training", use_cpu=True, max_steps=1, remove_unused_columns=False)
    rows = [{"input_ids": [1] * 24, "labels": 1.0}] * 2
    trainer = Trainer(model, options, train_dataset=rows, eval_dataset=rows)
    trainer.evaluate()
    assert model.config.interval_half_widths == {"0.9": [1.5]}
    trainer.train()
    assert model.config.interval_half_widths is None


def test_the_interval_of_logarithms_is_a_ratio():
    measured, predicted = (np.exp(values[:, :1]) for values in simulated(99, 0))
    config = ProformerConfig(label_transform="log")
    config.interval_half_widths = half_widths(measured, predicted, config)
    low, high = prediction_interval(predicted, config)
    np.testing.assert_allclose(high / predicted, predicted / low)
    assert ((low <= measured) & (measured <= high)).sum() == 90


def test_missing_measurements_do_not_count():
    measured, predicted = simulated(200, 0)
    with_gaps = measured.copy()
    with_gaps[100:, 0] = np.nan
    found = half_widths(with_gaps, predicted, ProformerConfig())
    of_the_rest = half_widths(measured[:100], predicted[:100], ProformerConfig())
    assert found["0.9"][0] == of_the_rest["0.9"][0]
    assert found["0.9"][1] == half_widths(measured, predicted, ProformerConfig())["0.9"][1]


def test_levels_that_need_more_rows_are_left_out():
    assert list(half_widths(*simulated(10, 0), ProformerConfig())) == ["0.5", "0.8", "0.9"]
    assert list(half_widths(*simulated(8, 0), ProformerConfig())) == ["0.5", "0.8"]


def test_a_level_that_the_model_does_not_have_is_refused():
    config = ProformerConfig(interval_half_widths={"0.9": [1.0]})
    with pytest.raises(ValueError, match=r"no prediction intervals for the level 0.99, only for 0.9\."):
        prediction_interval(np.zeros((1, 1)), config, 0.99)
    with pytest.raises(ValueError, match=r"has no prediction intervals\. Fine-tune it as a regression"):
        prediction_interval(np.zeros((1, 1)), ProformerConfig())
