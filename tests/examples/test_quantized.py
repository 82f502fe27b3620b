"""Tests of the embedded checkpoint with weights that other libraries have rounded."""

import runpy
import warnings
from pathlib import Path

import pytest
import torch

from modeling_proformer import load_checkpoint


EXAMPLE = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "quantized.py"))
SEQUENCES = [row.cells["sequence"] for row in EXAMPLE["read_rows"](EXAMPLE["SEQUENCES"])][::30]


@pytest.mark.parametrize("name", ["bitsandbytes, 8 bits", "quanto, int8", "torchao, int8 weights"])
def test_eight_bits_of_other_libraries_predict_nearly_the_same(name):
    pytest.importorskip({"quanto": "optimum.quanto"}.get(library := name.split(",")[0], library))
    configuration = dict(EXAMPLE["configurations"]())[name]
    r, greatest = EXAMPLE["compare"](lambda: EXAMPLE["load_rounded"](configuration), SEQUENCES)
    assert r > 0.999
    assert 0 < greatest < 0.5


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torch_rounds_the_linear_layers_too():
    def load():
        return torch.ao.quantization.quantize_dynamic(load_checkpoint()[0], {torch.nn.Linear}, dtype=torch.qint8)

    with warnings.catch_warnings(action="ignore"):
        r, greatest = EXAMPLE["compare"](load, SEQUENCES)
    assert r > 0.99
    assert greatest > 0
