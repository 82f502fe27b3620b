"""Compare the embedded checkpoint, with weights rounded by other libraries, with itself in full precision.

    pip install bitsandbytes optimum-quanto torchao
    python examples/quantized.py

For each library that is installed, this prints Pearson's r between the two predictions of 1,750 promoters, and their
greatest difference, in bins.
"""

import argparse
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, BitsAndBytesConfig, QuantoConfig, TorchAoConfig

from modeling_proformer import load_checkpoint, predict
from modeling_proformer.data.tables import read_rows
from modeling_proformer.loading import checkpoint_path


SEQUENCES = Path(__file__).parent / "data" / "motif_promoters.tsv"
# Torchao rounds matrices row by row, and cannot round this one of a single column.
ONE_COLUMN = ["proformer.embeddings.expression_projection"]


def configurations() -> Iterator[tuple[str, object]]:
    """Yield a name and a configuration for each kind of rounding whose library is installed."""
    if find_spec("bitsandbytes"):
        yield "bitsandbytes, 8 bits", BitsAndBytesConfig(load_in_8bit=True)
        yield "bitsandbytes, 4 bits (nf4)", BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    if find_spec("optimum"):
        yield "quanto, int8", QuantoConfig(weights="int8")
        yield "quanto, float8", QuantoConfig(weights="float8")
    if find_spec("torchao"):
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig

        yield "torchao, int8 weights", TorchAoConfig(Int8WeightOnlyConfig(), modules_to_not_convert=ONE_COLUMN)
        yield (
            "torchao, int8 weights and inputs",
            TorchAoConfig(Int8DynamicActivationInt8WeightConfig(), modules_to_not_convert=ONE_COLUMN),
        )


def load_rounded(configuration: object) -> torch.nn.Module:
    """Return the embedded checkpoint with rounded weights."""
    return AutoModelForSequenceClassification.from_pretrained(
        checkpoint_path(), quantization_config=configuration, device_map="cpu"
    )


def compare(load: Callable[[], torch.nn.Module], sequences: list[str]) -> tuple[float, float]:
    """Return Pearson's r of predictions with those of the embedded checkpoint, and their greatest difference."""
    model, tokenizer = load_checkpoint()
    expected = predict(model, tokenizer, sequences)[:, 0]
    found = predict(load(), tokenizer, sequences)[:, 0]
    return float(np.corrcoef(expected, found)[0, 1]), float(np.abs(expected - found).max())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", type=int, default=1750, help="number of promoters to predict")
    arguments = parser.parse_args()
    rows = [row.cells["sequence"] for row in read_rows(SEQUENCES)][: arguments.sequences]
    for name, configuration in configurations():
        try:
            r, greatest = compare(lambda: load_rounded(configuration), rows)  # noqa: B023
        except RuntimeError as error:
            print(f"{name:36}cannot be used here: {str(error).splitlines()[0]}")
        else:
            print(f"{name:36}r {r:.5f}   greatest difference {greatest:.2f}")


if __name__ == "__main__":
    main()
