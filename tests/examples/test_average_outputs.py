"""Test examples/average_outputs.py on a checkpoint with two outputs."""

import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pandas as pd
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


def test_the_rows_that_were_held_out_calibrate_intervals(run, tmp_path, capsys):
    """Measurements of the first output lie up to one unit from the mean, any distance as often as any other."""
    scales = {"num_labels": 2, "label_mean": [9.0, 2.0], "label_std": [4.0, 0.5]}
    names = {"id2label": {0: "first", 1: "second"}}
    model, tokenizer = load_checkpoint(save_tiny(tmp_path / "two", **scales, **names))
    generator = np.random.default_rng(0)
    predicted = predict(model, tokenizer, ["".join(each) for each in generator.choice(list("ACGT"), (2000, 12))])
    mean = 9 + 4 * ((predicted - [9, 2]) / [4, 0.5]).mean(axis=1)
    columns = {"measured_first": mean + generator.uniform(-1, 1, 2000), "measured_second": 0.0}
    columns |= {"predicted_first": predicted[:, 0], "predicted_second": predicted[:, 1]}
    frame = pd.DataFrame({"split": ["validation", "test"] * 1000, **columns})
    frame.loc[::7, "measured_first"] = np.nan
    frame.to_csv(tmp_path / "two" / "predictions.tsv", sep="\t", index=False)
    run(tmp_path / "two", tmp_path / "one")
    widths = load_checkpoint(tmp_path / "one")[0].config.interval_half_widths
    pattern = r"^The interval (\S+) of first is the prediction ± (\S+); it covers (\S+) of 857 test rows\.$"
    printed = re.findall(pattern, capsys.readouterr().out, re.MULTILINE)
    assert [level for level, _, _ in printed] == list(widths) == ["0.5", "0.8", "0.9", "0.95"]
    for level, width, covered in printed:
        assert widths[level] == pytest.approx([float(level)], abs=0.05)
        assert float(covered) == pytest.approx(float(level), abs=0.05)
        assert float(width) == pytest.approx(widths[level][0], abs=0.005)


def test_outputs_that_are_not_standardised_are_refused(run, tmp_path):
    save_tiny(tmp_path / "two", num_labels=2)
    with pytest.raises(SystemExit, match=r"^average_outputs\.py: Only outputs with `label_mean` and `label_std`"):
        run(tmp_path / "two", tmp_path / "one")
