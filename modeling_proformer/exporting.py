"""Export of models for servers as ONNX, ONNX with 8-bit weights or torch.export, compared with their checkpoint."""

import contextlib
import copy
import errno
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from .data.config import require_choice
from .data.tables import cell_error, read_rows, require_columns, sequence_text
from .modeling_proformer import predict_from_logits, require_same_kmers, unwrap_expression_model
from .prediction import predict_tokens, prepare_model, require_finite, token_batches
from .tokenization import InvalidSequenceError, ProformerTokenizer


if TYPE_CHECKING:
    import onnx


# The file of the model in each format.
MODEL_FILES = {"onnx": "model.onnx", "int8": "model.onnx", "torch": "model.pt2"}

# Matrix products that stay in float32 in the int8 format. A few values of a gated product are far larger than the
# rest, and 8 bits for the whole range are coarse: with these in 8 bits too, errors are more than twice as large.
FLOAT32_LAYERS = ("dense_out", "expression_head")

# Number of sequences to compare on: at most from a file, and at random without one.
MAX_COMPARED = 2000
RANDOM_COMPARED = 512


class Comparison(NamedTuple):
    """
    How an exported model compares with its checkpoint in PyTorch, both in float32 on the same number of CPU threads.

    Attributes:
        greatest_difference: (outputs,) greatest absolute difference of the predictions, in their units.
        mean_difference: (outputs,) mean absolute difference.
        standard_deviation: (outputs,) of the checkpoint's predictions, to compare the differences with.
        sequences: number of sequences predicted.
        batch_size: number of sequences at a time.
        threads: number of CPU threads.
        sequences_per_second: of the exported model, from tokens to predictions; median over batches.
        checkpoint_sequences_per_second: the same of the checkpoint.
        speed_ratios: lower quartile, median and upper quartile over batches of how many times as fast as the
            checkpoint the exported model was. The two take turns with each batch.
    """

    greatest_difference: np.ndarray
    mean_difference: np.ndarray
    standard_deviation: np.ndarray
    sequences: int
    batch_size: int
    threads: int
    sequences_per_second: float
    checkpoint_sequences_per_second: float
    speed_ratios: tuple[float, float, float]


class ServedModel(nn.Module):
    """Predicts from tokens alone: the strand of each token is a constant of the construct, not an input."""

    def __init__(self, model: PreTrainedModel, tokenizer: ProformerTokenizer):
        super().__init__()
        self.model = model
        self.register_buffer("token_type_ids", torch.from_numpy(tokenizer.token_type_ids(1)))

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        token_type_ids = self.token_type_ids.expand(input_ids.shape[0], -1)
        return predict_from_logits(self.model(input_ids, token_type_ids, return_dict=True).logits, self.model.config)


def export(
    model: PreTrainedModel,
    tokenizer: ProformerTokenizer,
    folder: str | os.PathLike,
    format: Literal["onnx", "int8", "torch"] = "onnx",
    sequences: Sequence[str] | None = None,
    *,
    batch_size: int | None = None,
    truncation: bool = False,
) -> Comparison:
    """
    Write a folder with everything that a server needs: the model, its configuration, and the tokenizer with its code.
    The model takes `input_ids` (batch, tokens) of int64, of any batch size, and returns `predictions` (batch, outputs)
    of float32: expression in the assay's units, or probabilities of classes. The folder appears only after the model
    in it has been compared with its checkpoint.

    Args:
        model: a `ProformerForSequenceClassification` or `ProformerForPreTraining`; left as it is.
        tokenizer: the tokenizer that was saved with the model.
        folder: folder to write, a new or an empty one.
        format: `"onnx"`, `"int8"` (ONNX with 8-bit weights for matrix products on the CPU, an approximation), or
            `"torch"` for a program of torch.export.
        sequences, batch_size, truncation: see `compare`.

    Returns:
        how the exported model compares with the checkpoint.

    Raises:
        FileExistsError: the folder is a file, or is not empty.
        ImportError: a library is missing.
        InputError: a prediction is not finite.
        InvalidSequenceError: a sequence cannot be tokenized.
        TypeError: the model does not predict expression.
        ValueError: there is no such format, or the model cannot read the tokenizer's k-mers.
    """
    require_choice("format", format, list(MODEL_FILES))
    folder = Path(folder).resolve()
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise FileExistsError(f"{folder}: this exists already; name a new or an empty folder.")
    model = unwrap_expression_model(model)
    require_same_kmers(model.config, tokenizer)
    if format != "torch":
        _require_libraries()
    model = copy.deepcopy(model).float().cpu().eval()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        unfinished = Path(temporary) / folder.name
        unfinished.mkdir()
        with _silence_exporters():
            _write_model(ServedModel(model, tokenizer), tokenizer, unfinished / MODEL_FILES[format], format)
        model.config.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
        comparison = compare(model, tokenizer, unfinished, sequences, batch_size=batch_size, truncation=truncation)
        try:
            os.replace(unfinished, folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            raise FileExistsError(f"{folder}: another process has written this folder; name a new one.") from error
    return comparison


def _require_libraries():
    """
    Check that the libraries for ONNX are installed.

    Raises:
        ImportError: one is missing.
    """
    if missing := [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]:
        raise ImportError(
            f"ONNX needs {' and '.join(missing)}: pip install 'modeling-proformer[export]', or these alone."
        )


@contextlib.contextmanager
def _silence_exporters() -> Iterator[None]:
    """Hide what the exporters log and warn about libraries that are not installed or will change."""
    disabled = logging.root.manager.disable
    logging.disable(max(disabled, logging.WARNING))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _write_model(served: ServedModel, tokenizer: ProformerTokenizer, path: Path, format: str):
    # Two sequences, because a batch size of one would become a constant.
    example = tokenizer(random_sequences(tokenizer, 2), return_tensors="pt")["input_ids"]
    batch = torch.export.Dim("batch")
    with torch.no_grad():
        program = torch.export.export(served, (example,), dynamic_shapes={"input_ids": {0: batch}}, strict=False)
    if format == "torch":
        for node in program.graph.nodes:
            # Stack traces name folders of this machine.
            node.meta.pop("stack_trace", None)
        torch.export.save(program, path)
        return

    import onnx

    exported = torch.onnx.export(
        program,
        input_names=["input_ids"],
        output_names=["predictions"],
        dynamo=True,
        optimize=True,
        verbose=False,
    ).model_proto
    for value in (*exported.graph.input, *exported.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    excluded = [
        node.name
        for node in exported.graph.node
        for entry in node.metadata_props
        if entry.key == "namespace" and any(name in entry.value for name in FLOAT32_LAYERS)
    ]
    _remove_metadata(exported)
    if format == "int8":
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(
            exported,
            path,
            op_types_to_quantize=["MatMul"],
            nodes_to_exclude=excluded,
            weight_type=QuantType.QInt8,
            per_channel=True,
            # Only 7 of the 8 bits, so that sums of two products do not overflow 16 bits on processors without VNNI.
            reduce_range=True,
        )
    else:
        onnx.save(exported, path)
    onnx.checker.check_model(path, full_check=True)


def _remove_metadata(exported: "onnx.ModelProto"):
    """Remove the notes of where in the code each node came from, which name folders of this machine."""
    graph = exported.graph
    for part in (graph.node, graph.input, graph.output, graph.initializer, graph.value_info):
        for entry in part:
            del entry.metadata_props[:]


def random_sequences(tokenizer: ProformerTokenizer, number: int) -> list[str]:
    """Return random inserts of the construct's width within its flanks, the same ones every time."""
    bases = np.random.default_rng(0).choice(list("ACGT"), (number, tokenizer.insert_width))
    flanks = tokenizer.five_prime_flank or "", tokenizer.three_prime_flank or ""
    return ["".join(insert).join(flanks) for insert in bases]


def read_sequences(
    path: str | os.PathLike, tokenizer: ProformerTokenizer, *, sequence: str = "sequence", truncation: bool = False
) -> list[str]:
    """
    Return the first 2,000 sequences of a FASTA file or table, to compare on.

    Args:
        path: the file.
        tokenizer: checks the sequences.
        sequence: column of the sequences.
        truncation: see `predict`.

    Raises:
        InputError: the file cannot be read (see `read_rows`) or has no such column, or a sequence cannot be tokenized.
            The error says in which line or row.
    """
    rows = list(islice(read_rows(path), MAX_COMPARED))
    for row in rows:
        require_columns(path, row.cells, [sequence])
    sequences = [sequence_text(path, row, sequence) for row in rows]
    try:
        tokenizer.encode_letters(sequences, truncation=truncation)
    except InvalidSequenceError as error:
        raise cell_error(path, rows[error.row], sequence, error.reason) from error
    return sequences


def compare(
    model: PreTrainedModel,
    tokenizer: ProformerTokenizer,
    folder: str | os.PathLike,
    sequences: Sequence[str] | None = None,
    *,
    batch_size: int | None = None,
    truncation: bool = False,
) -> Comparison:
    """
    Predict sequences with a checkpoint and with the model exported from it, which take turns with each batch.

    Args:
        model, tokenizer: the checkpoint; the model is on the CPU and in float32.
        folder: folder that `export` wrote.
        sequences: sequences to compare on; by default 512 random inserts of the construct's width.
        batch_size, truncation: see `predict`.

    Raises:
        FileNotFoundError: there is no exported model in the folder.
        InputError: a prediction is not finite.
        InvalidSequenceError: a sequence cannot be tokenized.
        ValueError: there are no sequences.
    """
    exported = open_exported(folder)
    if sequences is None:
        sequences = random_sequences(tokenizer, RANDOM_COMPARED)
    model, batch_size = prepare_model(model, tokenizer, sequences, batch_size, device=None)
    batches = list(token_batches(tokenizer, sequences, batch_size, truncation))
    if not batches:
        raise ValueError("Give at least one sequence to compare on.")
    predictors = {
        "checkpoint": lambda batch: predict_tokens(model, batch),
        "exported": lambda batch: exported(batch["input_ids"].numpy()),
    }
    predicted, seconds = {name: [] for name in predictors}, {name: [] for name in predictors}
    for predict_batch in predictors.values():
        predict_batch(batches[0])  # to warm up
    for number, batch in enumerate(batches):
        # Each goes first every other time.
        for name in sorted(predictors, reverse=number % 2 == 1):
            start = perf_counter()
            predicted[name].append(predictors[name](batch))
            seconds[name].append(perf_counter() - start)

    reference, values = np.concatenate(predicted["checkpoint"]), np.concatenate(predicted["exported"])
    for predictions in (reference, values):
        require_finite(predictions, model)
    differences = np.abs(values - reference)
    sizes = np.array([len(batch["input_ids"]) for batch in batches])
    rates = {name: sizes / np.array(taken) for name, taken in seconds.items()}
    return Comparison(
        greatest_difference=differences.max(axis=0),
        mean_difference=differences.mean(axis=0),
        standard_deviation=reference.std(axis=0),
        sequences=len(sequences),
        batch_size=batch_size,
        threads=torch.get_num_threads(),
        sequences_per_second=float(np.median(rates["exported"])),
        checkpoint_sequences_per_second=float(np.median(rates["checkpoint"])),
        speed_ratios=tuple(np.quantile(rates["exported"] / rates["checkpoint"], [0.25, 0.5, 0.75]).tolist()),
    )


def open_exported(folder: str | os.PathLike) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from tokens (batch, tokens) to the predictions (batch, outputs) of an exported model."""
    folder = Path(folder)
    if (folder / MODEL_FILES["onnx"]).is_file():
        _require_libraries()
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = torch.get_num_threads()
        # Its threads would otherwise spin while they wait, and take the cores from the checkpoint in its turn.
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(
            str(folder / MODEL_FILES["onnx"]), settings, providers=["CPUExecutionProvider"]
        )
        return lambda tokens: session.run(["predictions"], {"input_ids": tokens})[0]
    if not (folder / MODEL_FILES["torch"]).is_file():
        raise FileNotFoundError(f"{folder}: there is no exported model here; `export` writes one.")
    model = torch.export.load(folder / MODEL_FILES["torch"]).module()

    def predict_exported(tokens: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return model(torch.from_numpy(tokens)).numpy()

    return predict_exported


__all__ = ["Comparison", "compare", "export", "read_sequences"]
