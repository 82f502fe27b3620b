"""Replace the outputs of a checkpoint by one: the mean of their standardised predictions, on the scale of the first.

    python examples/average_outputs.py measured averaged --name expression

This is for a checkpoint that was fine-tuned on measurements under several conditions, such as promoters in two media,
to predict what the conditions have in common. The head is linear, so the new head is the mean of the old ones, and
nothing is trained. Where `finetune` left its `predictions.tsv` in the folder, the validation rows in it calibrate the
prediction intervals of the new output, for measurements of the first one, and the test rows tell how many they cover.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from modeling_proformer import ProformerConfig, ProformerForSequenceClassification
from modeling_proformer.configuration_proformer import LABEL_FIELDS
from modeling_proformer.intervals import half_widths
from modeling_proformer.loading import load_checkpoint


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help="folder or Hub repository of a model with several outputs")
    parser.add_argument("output", help="folder to write")
    parser.add_argument("--name", default="expression", help="name of the new output (default: expression)")
    arguments = parser.parse_args()

    model, tokenizer = load_checkpoint(arguments.checkpoint)
    averaged = average_outputs(model, arguments.name)
    held_out = Path(arguments.checkpoint, "predictions.tsv")
    if held_out.is_file():
        calibrate(averaged.config, model.config, pd.read_csv(held_out, sep="\t"))
    averaged.save_pretrained(arguments.output)
    tokenizer.save_pretrained(arguments.output)


def average_outputs(model: ProformerForSequenceClassification, name: str) -> ProformerForSequenceClassification:
    """
    Return a model with one output, the mean of the outputs of `model`.

    Raises:
        ValueError: the outputs are not standardised, or they are transformed.
    """
    config = model.config
    if None in (config.label_mean, config.label_std) or config.label_transform is not None:
        raise ValueError(
            "Only outputs with `label_mean` and `label_std` and without `label_transform` can be averaged."
        )
    fields = {
        **config.to_dict(),
        **dict.fromkeys(LABEL_FIELDS),
        "id2label": {0: name},
        "label2id": {name: 0},
        "label_mean": config.label_mean[:1],
        "label_std": config.label_std[:1],
    }
    averaged = ProformerForSequenceClassification(ProformerConfig(**fields))
    averaged.proformer.load_state_dict(model.proformer.state_dict())
    with torch.no_grad():
        averaged.expression_head.dense.weight.copy_(model.expression_head.dense.weight.mean(dim=0, keepdim=True))
        averaged.expression_head.dense.bias.copy_(model.expression_head.dense.bias.mean(dim=0, keepdim=True))
    return averaged.eval()


def calibrate(averaged: ProformerConfig, config: ProformerConfig, held_out: pd.DataFrame):
    """Give the averaged output prediction intervals from validation rows, and print how many test rows they cover."""
    predicted = held_out[[f"predicted_{name}" for name in config.id2label.values()]].to_numpy()
    standardised = (predicted - config.label_mean) / config.label_std
    mean = averaged.label_mean[0] + averaged.label_std[0] * standardised.mean(axis=1, keepdims=True)
    measured = held_out[[f"measured_{config.id2label[0]}"]].to_numpy()
    rows = (held_out["split"] == "validation").to_numpy()
    averaged.interval_half_widths = half_widths(measured[rows], mean[rows], averaged)
    residuals = np.abs(measured - mean)[(held_out["split"] == "test").to_numpy()]
    residuals = residuals[~np.isnan(residuals)]
    for level, (width,) in averaged.interval_half_widths.items():
        covered = (
            f"; it covers {np.mean(residuals <= width):.3f} of {len(residuals):,} test rows" if len(residuals) else ""
        )
        print(f"The interval {level} of {config.id2label[0]} is the prediction ± {width:.2f}{covered}.")


if __name__ == "__main__":
    try:
        main()
    except KeyError as error:
        sys.exit(f"average_outputs.py: predictions.tsv has no column {error}.")
    except (ValueError, OSError) as error:
        sys.exit(f"average_outputs.py: {error}")
