"""examples/average_outputs.py on a checkpoint with two outputs."""

import subprocess
import sys
from pathlib import Path

import numpy as np
from tiny import TINY

from modeling_proformer import ProformerConfig, ProformerForSequenceClassification, predict
from modeling_proformer.prediction import load_checkpoint


EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_mean_of_the_standardised_outputs(tmp_path, tiny_tokenizer):
    config = ProformerConfig(**TINY, num_labels=2, label_mean=[9.0, 2.0], label_std=[4.0, 0.5])
    model = ProformerForSequenceClassification(config)
    model.save_pretrained(tmp_path / "two")
    tiny_tokenizer.save_pretrained(tmp_path / "two")
    command = [sys.executable, EXAMPLES / "average_outputs.py", tmp_path / "two", tmp_path / "one"]
    subprocess.run([*command, "--name", "activity"], check=True)
    averaged, tokenizer = load_checkpoint(tmp_path / "one")
    assert averaged.config.id2label == {0: "activity"}
    sequences = ["ACGTACGTACGT", "GGGGCCCCAATT", "TTTT"]
    standardised = (predict(model, tiny_tokenizer, sequences) - [9.0, 2.0]) / [4.0, 0.5]
    found = predict(averaged, tokenizer, sequences)
    np.testing.assert_allclose(found[:, 0], 9.0 + 4.0 * standardised.mean(axis=1), rtol=1e-5)
