"""Tests that exported models predict what the checkpoint does, on a server without the checkpoint and this package."""

import copy
import functools
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from fresh_process import make_python_without_package, run
from processes import run_in_process
from tiny import TINY
from transformers.utils import logging

import modeling_proformer
from modeling_proformer import (
    ProformerConfig,
    ProformerForMaskedLM,
    ProformerForSequenceClassification,
    ProformerModel,
    ProformerTokenizer,
    predict,
)
from modeling_proformer.cli import main
from modeling_proformer.exporting import Comparison, compare, export, random_sequences


pytestmark = pytest.mark.slow


WITHOUT_TORCH = """
import importlib.util, sys
import numpy as np, onnxruntime
from transformers import AutoTokenizer

sequences = open(sys.argv[2]).read().split()
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True)
session = onnxruntime.InferenceSession(f"{sys.argv[1]}/model.onnx")
(predicted,) = session.run(None, {"input_ids": tokenizer(sequences, return_tensors="np")["input_ids"]})
np.save("predicted.npy", predicted)
assert not {"torch", "modeling_proformer"} & set(sys.modules)
"""
WITH_TORCH = """
import sys
import numpy as np, torch
from transformers import AutoTokenizer

sequences = open(sys.argv[2]).read().split()
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True)
model = torch.export.load(f"{sys.argv[1]}/model.pt2").module()
np.save("predicted.npy", model(tokenizer(sequences, return_tensors="pt")["input_ids"]).detach().numpy())
assert "modeling_proformer" not in sys.modules
"""


@pytest.fixture(scope="module")
def onnxruntime():
    for name in ("onnx", "onnxscript"):
        pytest.importorskip(name, reason=f"{name} is not installed (pip install '.[export]')")
    return pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (pip install '.[export]')")


@pytest.fixture(scope="module")
def exported(embedded, tmp_path_factory):
    """Export the embedded checkpoint once in each format, into an empty folder, and return how it compares."""

    @functools.cache
    def export_once(format: str) -> tuple[Path, Comparison]:
        model, tokenizer = embedded
        folder = tmp_path_factory.mktemp(format)
        return folder, export(model, tokenizer, folder, format, random_sequences(tokenizer, 40))

    return export_once


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Export a model that is in training mode and in bfloat16, and return all that belongs to it."""
    model, tokenizer = model_of().train().bfloat16(), tokenizer_of()
    model.set_attn_implementation("eager")
    folder = tmp_path_factory.mktemp("served") / "new"
    return model, tokenizer, folder, export(model, tokenizer, folder, "torch")


@pytest.fixture(params=["onnx", "torch"])
def exact_format(request) -> str:
    if request.param == "onnx":
        request.getfixturevalue("onnxruntime")
    return request.param


def hide(python: Path, files: str):
    """Remove libraries from an environment that `make_python_without_package` made."""
    for entry in python.parent.parent.glob(f"lib/python*/site-packages/{files}"):
        entry.unlink()


def model_of(**changes) -> ProformerForSequenceClassification:
    """Return a small model with such large weights that every part of it has an effect."""
    torch.manual_seed(0)
    config = ProformerConfig(**TINY | {"num_hidden_layers": 1} | changes)
    model = ProformerForSequenceClassification(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def tokenizer_of(**changes) -> ProformerTokenizer:
    return ProformerTokenizer(**{"kmer_size": 3, "insert_width": 12} | changes)


@functools.cache
def open_as_a_server(folder: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from tokens to predictions, without any code of this package."""
    if (folder / "model.pt2").exists():
        program = torch.export.load(folder / "model.pt2").module()
        return torch.inference_mode()(lambda tokens: program(torch.from_numpy(tokens)).numpy())
    import onnxruntime

    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    return lambda tokens: session.run(None, {"input_ids": tokens})[0]


def assert_equal(folder: Path, model, tokenizer, sequences: list[str]):
    predicted = open_as_a_server(folder)(tokenizer(sequences, return_tensors="np")["input_ids"])
    assert predicted.dtype == np.float32
    np.testing.assert_allclose(predicted, predict(model, tokenizer, sequences), rtol=1e-5, atol=2e-5)


# Changes of the model and of the tokenizer.
KINDS = {
    # On its own, the model would read the second half of the tokens as the other strand.
    "forward strand, two outputs, logarithms": (
        {"num_labels": 2, "label_transform": "log1p", "label_mean": [1.0, 0.5], "label_std": [0.5, 0.2]},
        {"strands": "forward"},
    ),
    "fewer tokens than positions, bins": ({"expression_bins": [0, 1, 2, 3]}, {"insert_width": 8}),
    "stride, no expression tokens, classes": (
        {"kmer_stride": 2, "num_expression_tokens": 0, "num_labels": 3, "problem_type": "single_label_classification"},
        {"kmer_stride": 2},
    ),
    "several labels": ({"num_labels": 2, "problem_type": "multi_label_classification"}, {}),
}


class TestExactFormats:
    # One kind suffices for torch: the other format starts from the same program of torch.export.
    @pytest.mark.parametrize(("format", "kind"), [("torch", next(iter(KINDS))), *(("onnx", kind) for kind in KINDS)])
    def test_predictions_are_those_of_the_checkpoint(self, request, format, kind, tmp_path):
        if format == "onnx":
            request.getfixturevalue("onnxruntime")
        model_changes, tokenizer_changes = KINDS[kind]
        model, tokenizer = model_of(**model_changes), tokenizer_of(**tokenizer_changes)
        sequences = [*random_sequences(tokenizer, 40), "ACGT", "N"]
        comparison = export(model, tokenizer, tmp_path / "served", format, sequences)
        assert np.ptp(predict(model, tokenizer, sequences), axis=0).min() > 1e-3
        assert_equal(tmp_path / "served", model, tokenizer, sequences)
        assert comparison.greatest_difference.shape == (model.config.num_labels,)
        assert comparison.greatest_difference.max() < 2e-5

    @pytest.mark.parametrize("batch_size", [1, 7, 100])
    def test_batches_of_any_size(self, exact_format, exported, embedded, batch_size):
        folder, _ = exported(exact_format)
        assert_equal(folder, *embedded, random_sequences(embedded[1], batch_size))

    def test_real_promoters(self, exact_format, exported, embedded, shared):
        table = pq.read_table(shared / "data" / "yeast" / "native_ypd.parquet", columns=["sequence"])
        sequences = table["sequence"].take(list(range(0, 60_000, 1200))).to_pylist()
        folder, _ = exported(exact_format)
        comparison = compare(*embedded, folder, sequences)
        assert comparison.sequences == 50 and comparison.standard_deviation > 1
        assert comparison.greatest_difference < 5e-5
        assert_equal(folder, *embedded, sequences)

    def test_server_without_this_package(self, exact_format, exported, embedded, tmp_path):
        folder, _ = exported(exact_format)
        sequences = random_sequences(embedded[1], 5)
        (tmp_path / "sequences.txt").write_text("\n".join(sequences))
        python = make_python_without_package(tmp_path)
        if exact_format == "onnx":
            hide(python, "torch*")
        script = WITHOUT_TORCH if exact_format == "onnx" else WITH_TORCH
        process = run(python, script, tmp_path / "server", str(folder), str(tmp_path / "sequences.txt"))
        assert process.returncode == 0, process.stderr
        predicted = np.load(tmp_path / "server" / "predicted.npy")
        np.testing.assert_allclose(predicted, predict(*embedded, sequences), atol=5e-5)

    def test_no_file_names_a_folder_of_this_machine(self, exact_format, exported):
        folder, _ = exported(exact_format)
        package = str(Path(modeling_proformer.__file__).parent).encode()
        for path in folder.iterdir():
            # The zip file of torch.export is not compressed.
            assert package not in path.read_bytes() and str(folder.parent).encode() not in path.read_bytes(), path

    def test_published_widths_are_one_file(self, onnxruntime, tmp_path):
        tokenizer = tokenizer_of()
        config = ProformerConfig(kmer_size=3, num_hidden_layers=1, num_attention_heads=2)
        model = ProformerForSequenceClassification(config)
        sequences = random_sequences(tokenizer, 3)
        export(model, tokenizer, tmp_path / "served", "onnx", sequences)
        assert_equal(tmp_path / "served", model, tokenizer, sequences)
        assert len(list((tmp_path / "served").glob("model.*"))) == 1

    def test_a_model_in_bfloat16_is_served_in_float32(self, served):
        model, tokenizer, folder, comparison = served
        assert comparison.sequences == 512 and comparison.greatest_difference < 1e-4
        assert_equal(folder, copy.deepcopy(model).float(), tokenizer, random_sequences(tokenizer, 5))

    def test_the_model_is_left_as_it_was(self, served):
        model, *_ = served
        assert model.dtype == torch.bfloat16 and all(module.training for module in model.modules())
        assert model.config._attn_implementation == "eager" and torch.is_grad_enabled()


class TestInt8:
    def test_error_is_small_compared_with_the_spread_of_predictions(self, onnxruntime, exported):
        _, comparison = exported("int8")
        # With all layers in 8 bits, these would be 0.016 and 0.1.
        assert 0 < comparison.mean_difference < 0.012 * comparison.standard_deviation
        assert comparison.greatest_difference < 0.06 * comparison.standard_deviation

    def test_weights_have_8_bits(self, onnxruntime, exported):
        whole, small = ((exported(format)[0] / "model.onnx").stat().st_size for format in ("onnx", "int8"))
        assert small < 0.6 * whole

    def test_batches_of_any_size(self, onnxruntime, exported, embedded):
        folder, comparison = exported("int8")
        for batch_size in (1, 7, 100):
            sequences = random_sequences(embedded[1], batch_size)
            predicted = open_as_a_server(folder)(embedded[1](sequences, return_tensors="np")["input_ids"])
            difference = predicted - predict(*embedded, sequences)
            assert len(predicted) == batch_size and np.abs(difference).max() < 0.2 * comparison.standard_deviation


class TestComparison:
    def test_it_is_of_the_given_checkpoint(self, served):
        model, tokenizer, folder, _ = served
        model = copy.deepcopy(model).float()
        with torch.no_grad():
            model.expression_head.dense.bias += 1
        comparison = compare(model, tokenizer, folder, random_sequences(tokenizer, 50), batch_size=8)
        np.testing.assert_allclose(comparison.mean_difference, [1], rtol=1e-4)
        np.testing.assert_allclose(comparison.greatest_difference, [1], rtol=1e-4)
        assert comparison.sequences == 50 and comparison.batch_size == 8
        assert comparison.sequences_per_second > 0 and comparison.checkpoint_sequences_per_second > 0
        assert 0 < comparison.speed_ratios[0] <= comparison.speed_ratios[1] <= comparison.speed_ratios[2]

    def test_folder_without_a_model(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="no exported model here"):
            compare(model_of(), tokenizer_of(), tmp_path)


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    logging.disable_progress_bar()
    model_of(num_labels=2).save_pretrained(tmp_path / "checkpoint")
    tokenizer_of().save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


@pytest.fixture
def refused(checkpoint, tmp_path, capsys):
    """Run `proformer export`, which must fail, and return the one line that it prints."""

    def run(*arguments) -> str:
        before = sorted(tmp_path.rglob("*"))
        assert main(["export", "--model", str(checkpoint), "--format", "torch", *map(str, arguments)]) == 1
        assert sorted(tmp_path.rglob("*")) == before
        out, err = capsys.readouterr()
        assert not out and err.count("\n") == 1
        return err

    return run


class TestCommand:
    def test_it_reports_how_exact_and_how_fast(self, checkpoint, tmp_path, capfd):
        (tmp_path / "in.tsv").write_text("id\tpromoter\n" + "1\tACGTACGT\n2\tTTTTGGGG\n3\tACGTACGTACGTACGT\n")
        command = [
            "export",
            "--model",
            str(checkpoint),
            "--format",
            "torch",
            "--output",
            str(tmp_path / "new" / "out"),
        ]
        command += ["--sequences", str(tmp_path / "in.tsv"), "--sequence", "promoter", "--truncation"]
        assert main(command) == 0
        out, err = capfd.readouterr()
        lines = out.splitlines()
        assert not err
        assert f"Compared with the checkpoint on 3 sequences of {tmp_path / 'in.tsv'}:" in lines
        assert [line.split(":")[0] for line in lines[-3:]] == ["LABEL_0", "LABEL_1", "speed"]
        files = {"model.pt2", "config.json", "tokenizer_config.json", "tokenization_proformer.py"}
        assert files <= {path.name for path in (tmp_path / "new" / "out").iterdir()}

    def test_nothing_but_its_own_lines_is_printed(self, onnxruntime, checkpoint, tmp_path):
        """The exporters would otherwise mention libraries that are not needed here."""
        words = ["export", "--model", str(checkpoint), "--format", "int8", "--output", str(tmp_path / "served")]
        out, err = tmp_path / "out", tmp_path / "err"
        assert run_in_process(main, words, cwd=tmp_path, stdout=out, stderr=err) == 0 and not err.read_text()
        assert "Compared with the checkpoint on 512 random inserts:" in out.read_text()

    def test_output_that_is_not_empty(self, refused, tmp_path):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "notes.txt").write_text("mine")
        assert "name a new or an empty folder" in refused("--output", tmp_path / "out")
        assert "name a new or an empty folder" in refused("--output", tmp_path / "out" / "notes.txt")

    def test_sequences_that_cannot_be_read(self, refused, tmp_path):
        (tmp_path / "in.tsv").write_text("sequence\nACGT\nACXT\n")
        assert "line 3" in refused("--output", tmp_path / "out", "--sequences", tmp_path / "in.tsv")
        (tmp_path / "in.tsv").write_text("sequence\nACGTACGTACGTACGT\n")
        assert "cut it with --truncation" in refused("--output", tmp_path / "out", "--sequences", tmp_path / "in.tsv")
        assert "promoter" in refused(
            "--output", tmp_path / "out", "--sequences", tmp_path / "in.tsv", "--sequence", "promoter"
        )
        assert "none.tsv" in refused("--output", tmp_path / "out", "--sequences", tmp_path / "none.tsv")
        (tmp_path / "in.tsv").write_text("sequence\n")
        assert "no rows" in refused("--output", tmp_path / "out", "--sequences", tmp_path / "in.tsv")

    @pytest.mark.parametrize("option", [["--truncation"], ["--sequence", "promoter"]])
    def test_how_to_read_a_file_without_one(self, refused, tmp_path, option):
        assert "--sequences" in refused("--output", tmp_path / "out", *option)

    def test_no_checkpoint(self, refused, tmp_path):
        assert "neither a folder nor a repository" in refused(
            "--output", tmp_path / "out", "--model", tmp_path / "none"
        )

    def test_model_of_masked_nucleotides_alone(self, refused, checkpoint, tmp_path):
        ProformerForMaskedLM(ProformerConfig(**TINY)).save_pretrained(checkpoint)
        assert "cannot predict expression" in refused("--output", tmp_path / "out")

    def test_unsound_weights(self, refused, checkpoint, tmp_path):
        model = model_of()
        with torch.no_grad():
            model.expression_head.dense.bias += torch.nan
        model.save_pretrained(checkpoint)
        assert "not sound" in refused("--output", tmp_path / "out")

    def test_missing_libraries(self, refused, tmp_path, missing_libraries):
        error = refused("--output", tmp_path / "out", "--format", "onnx")
        assert error.strip().endswith("pip install 'modeling-proformer[export]', or these alone.")


@pytest.fixture
def missing_libraries(monkeypatch):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        # None means that there is no such module.
        monkeypatch.setitem(sys.modules, name, None)


def test_errors_are_of_the_families_of_python(tmp_path, missing_libraries):
    with pytest.raises(ImportError, match="ONNX needs onnx and onnxscript and onnxruntime"):
        export(model_of(), tokenizer_of(), tmp_path / "served")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="name a new or an empty folder"):
        export(model_of(), tokenizer_of(), tmp_path, "torch")


def test_encoder_alone_is_refused(tmp_path):
    with pytest.raises(TypeError, match="does not predict expression"):
        export(ProformerModel(ProformerConfig(**TINY)), tokenizer_of(), tmp_path / "served", "torch")
    assert not (tmp_path / "served").exists()
