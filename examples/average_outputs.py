"""Replace the outputs of a checkpoint by one: the mean of their standardised predictions, on the scale of the first.

    python examples/average_outputs.py measured averaged --name expression

This is for a checkpoint that was fine-tuned on measurements under several conditions, such as promoters in two media,
to predict what the conditions have in common. The head is linear, so the new head is the mean of the old ones, and
nothing is trained.
"""

import argparse
import sys

import torch

from modeling_proformer import ProformerConfig, ProformerForSequenceClassification
from modeling_proformer.configuration_proformer import LABEL_FIELDS
from modeling_proformer.loading import load_checkpoint


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help="folder or Hub repository of a model with several outputs")
    parser.add_argument("output", help="folder to write")
    parser.add_argument("--name", default="expression", help="name of the new output (default: expression)")
    arguments = parser.parse_args()

    model, tokenizer = load_checkpoint(arguments.checkpoint)
    averaged = average_outputs(model, arguments.name)
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


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"average_outputs.py: {error}")
