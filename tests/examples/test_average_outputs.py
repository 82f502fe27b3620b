"""Test examples/average_outputs.py on a checkpoint with two outputs."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny import save_tiny

from modeling_proformer import predict
from modeling_proformer.loading import load_checkpoint


EXAMPLE = Path(__file__).parents[2] / "examples" / "average_outputs.py"


@pytest.fixture
def run(monkeypatch):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["average_outputs.py", *map(str, arguments)])
        runpy.run_path(str(EXAMPLE), run_name="__main__")

    return run


def test_the_output_is_the_mean_of_the_standardised_outputs(run, tmp_path, tiny_tokenizer):
    model, _ = load_checkpoint(save_tiny(tmp_path / "two", num_labels=2, label_mean=[9.0, 2.0], label_std=[4.0, 0.5]))
    run(tmp_path / "two", tmp_path / "one", "--name", "activity")
    averaged, tokenizer = load_checkpoint(tmp_path / "one")
    assert averaged.config.id2label == {0: "activity"}
    sequences = ["ACGTACGTACGT", "GGGGCCCCAATT", "TTTT"]
    standardised = (predict(model, tiny_tokenizer, sequences) - [9.0, 2.0]) / [4.0, 0.5]
    found = predict(averaged, tokenizer, sequences)
    np.testing.assert_allclose(found[:, 0], 9.0 + 4.0 * standardised.mean(axis=1), rtol=1e-5)


def test_outputs_that_are_not_standardised_are_refused(run, tmp_path):
    save_tiny(tmp_path / "two", num_labels=2)
    with pytest.raises(SystemExit, match=r"^average_outputs\.py: Only outputs with `label_mean` and `label_std`"):
        run(tmp_path / "two", tmp_path / "one")
