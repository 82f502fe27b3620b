"""Models for servers: ONNX, ONNX with 8-bit weights, torch.export; each compared with the checkpoint it came from."""

import contextlib
import copy
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

from .data.tables import InputError, read_rows, require_columns, sequence_text
from .modeling_proformer import predictions, require_expression_head
from .prediction import predict_tokens, token_batches
from .tokenization import InvalidSequenceError, ProformerTokenizer


if TYPE_CHECKING:
    import onnx


# By format: the file that holds the model.
MODEL_FILES = {"onnx": "model.onnx", "int8": "model.onnx", "torch": "model.pt2"}

# Matrix products that int8 leaves in float32. A gated product has a few values far larger than the rest, and 8 bits
# for its whole range are coarse: with these in 8 bits as well, errors are more than twice as large.
LEFT_IN_FLOAT32 = ("dense_out", "expression_head")

# Of a file, so many sequences are compared; made up, these.
MOST_COMPARED = 2000
RANDOM_COMPARED = 512


class Comparison(NamedTuple):
    """
    An exported model beside the checkpoint in PyTorch, both in float32 on the same number of the CPU's threads.

    Attributes:
        greatest_difference: (outputs,) of the predictions, in their units; absolute.
        mean_difference: (outputs,) likewise.
        standard_deviation: (outputs,) of the checkpoint's predictions, which the differences are to be seen beside.
        sequences: how many were predicted.
        batch_size: sequences at a time.
        threads: of the CPU.
        sequences_per_second: by the exported model, tokens to predictions; median over the batches.
        checkpoint_sequences_per_second: likewise, by the checkpoint.
        speed_ratios: lower quartile, median and upper quartile of how many times as fast as the checkpoint the
            exported model was, over the batches, which each computed in turn.
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
    """Tokens to predictions. Which strand a token lies on is no input, but a constant of the construct."""

    def __init__(self, model: PreTrainedModel, tokenizer: ProformerTokenizer):
        super().__init__()
        self.model = model
        self.register_buffer("token_type_ids", torch.from_numpy(tokenizer.token_type_ids(1)))

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        token_type_ids = self.token_type_ids.expand(input_ids.shape[0], -1)
        return predictions(self.model(input_ids, token_type_ids).logits, self.model.config)


def export(
    model: PreTrainedModel,
    tokenizer: ProformerTokenizer,
    folder: str | os.PathLike,
    format: Literal["onnx", "int8", "torch"] = "onnx",
    sequences: Sequence[str] | None = None,
    truncation: bool = False,
) -> Comparison:
    """
    Writes a folder with all that a server needs: the model, its configuration and the tokenizer with its code. The
    model takes `input_ids` (batch, tokens) of int64, of any batch size, and gives `predictions` (batch, outputs) of
    float32: expression in the assay's units, or the probabilities of classes. The folder takes its name only once the
    model in it was compared with the one it came from.

    Args:
        model: a `ProformerForSequenceClassification` or `ProformerForPreTraining`; left as it is.
        tokenizer: the one saved beside the model.
        folder: to write; a new or an empty one.
        format: `"onnx"`, `"int8"` (ONNX with 8-bit weights for matrix products on the CPU: an approximation), or
            `"torch"` for a program of torch.export.
        sequences: to compare on; by default, 512 random inserts of the construct's width.
        truncation: cut inserts that are longer than the construct, instead of refusing them.

    Raises:
        InputError: the folder is there and not empty, a library is missing, or a prediction is not finite.
        InvalidSequenceError: a sequence cannot be tokenized.
        TypeError: the model does not predict expression.
    """
    folder = Path(folder).resolve()
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise InputError(f"{folder}: this is there already; name a new or an empty folder.")
    require_expression_head(model)
    if format != "torch":
        require_libraries()
    model = copy.deepcopy(model).float().cpu().eval()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        unfinished = Path(temporary) / folder.name
        unfinished.mkdir()
        with without_remarks():
            write_model(ServedModel(model, tokenizer), tokenizer, unfinished / MODEL_FILES[format], format)
        model.config.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
        comparison = compare(model, tokenizer, unfinished, sequences, truncation=truncation)
        os.replace(unfinished, folder)
    return comparison


def require_libraries():
    """
    Raises:
        InputError: what ONNX needs is not installed.
    """
    if missing := [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]:
        raise InputError(
            f"ONNX needs {' and '.join(missing)}: pip install 'modeling-proformer[export]', or these alone."
        )


@contextlib.contextmanager
def without_remarks() -> Iterator[None]:
    """The exporters' own, on libraries of theirs that are not installed or are to change."""
    disabled = logging.root.manager.disable
    logging.disable(max(disabled, logging.WARNING))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def write_model(served: ServedModel, tokenizer: ProformerTokenizer, path: Path, format: str):
    # Two sequences: a batch of one would be taken for a constant.
    example = tokenizer(random_sequences(tokenizer, 2), return_tensors="pt")["input_ids"]
    batch = torch.export.Dim("batch")
    with torch.no_grad():
        program = torch.export.export(served, (example,), dynamic_shapes={"input_ids": {0: batch}}, strict=False)
    if format == "torch":
        for node in program.graph.nodes:
            # It names folders of this machine.
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
    left_out = [
        node.name
        for node in exported.graph.node
        for entry in node.metadata_props
        if entry.key == "namespace" and any(name in entry.value for name in LEFT_IN_FLOAT32)
    ]
    remove_notes(exported)
    if format == "int8":
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(
            exported,
            path,
            op_types_to_quantize=["MatMul"],
            nodes_to_exclude=left_out,
            weight_type=QuantType.QInt8,
            per_channel=True,
            # 7 bits of the 8, so that on processors without VNNI no sum of two products overflows its 16 bits.
            reduce_range=True,
        )
    else:
        onnx.save(exported, path)
    onnx.checker.check_model(path, full_check=True)


def remove_notes(exported: "onnx.ModelProto"):
    """Of where each node came from in the code, which name folders of this machine."""
    graph = exported.graph
    for part in (graph.node, graph.input, graph.output, graph.initializer, graph.value_info):
        for entry in part:
            del entry.metadata_props[:]


def random_sequences(tokenizer: ProformerTokenizer, number: int) -> list[str]:
    """Random inserts of the construct's width, the same every time, within its flanks."""
    letters = np.random.default_rng(0).choice(list("ACGT"), (number, tokenizer.insert_width))
    flanks = tokenizer.five_prime_flank or "", tokenizer.three_prime_flank or ""
    return ["".join(insert).join(flanks) for insert in letters]


def read_sequences(
    path: str | os.PathLike, tokenizer: ProformerTokenizer, sequence_column: str = "sequence", truncation: bool = False
) -> list[str]:
    """
    The first 2,000 sequences of a FASTA file or table, to compare on.

    Raises:
        InputError: see `read_rows`; or there is no such column, or a sequence cannot be tokenized. Says in which line
            or row.
    """
    rows = list(islice(read_rows(path), MOST_COMPARED))
    for row in rows:
        require_columns(path, row.cells, [sequence_column])
    sequences = [sequence_text(path, row, sequence_column) for row in rows]
    try:
        tokenizer.encode_letters(sequences, truncation=truncation)
    except InvalidSequenceError as error:
        place = rows[error.row].place
        raise InputError(f"{path}, {place}, column {sequence_column!r}: {error.reason}") from error
    return sequences


def compare(
    model: PreTrainedModel,
    tokenizer: ProformerTokenizer,
    folder: str | os.PathLike,
    sequences: Sequence[str] | None = None,
    batch_size: int = 32,
    truncation: bool = False,
) -> Comparison:
    """
    Predicts sequences by a checkpoint and by what was exported from it, batch after batch in turn.

    Args:
        model, tokenizer: the checkpoint; the model on the CPU and in float32.
        folder: that `export` wrote.
        sequences: by default, 512 random inserts of the construct's width.
        batch_size: sequences at a time.
        truncation: cut inserts that are longer than the construct, instead of refusing them.

    Raises:
        InputError: there is no exported model in the folder, or a prediction is not finite.
        InvalidSequenceError: a sequence cannot be tokenized.
        ValueError: there are no sequences.
    """
    exported = open_exported(folder)
    if sequences is None:
        sequences = random_sequences(tokenizer, RANDOM_COMPARED)
    batches = list(token_batches(tokenizer, sequences, batch_size, truncation))
    if not batches:
        raise ValueError("Give at least one sequence to compare on.")
    ways = {
        "checkpoint": lambda batch: predict_tokens(model, batch),
        "exported": lambda batch: exported(batch["input_ids"].numpy()),
    }
    predicted, seconds = {way: [] for way in ways}, {way: [] for way in ways}
    for predict_batch in ways.values():
        predict_batch(batches[0])  # to warm up
    for number, batch in enumerate(batches):
        # Each goes first every other time.
        for way in sorted(ways, reverse=number % 2 == 1):
            start = perf_counter()
            predicted[way].append(ways[way](batch))
            seconds[way].append(perf_counter() - start)

    reference, values = np.concatenate(predicted["checkpoint"]), np.concatenate(predicted["exported"])
    if not (np.isfinite(reference).all() and np.isfinite(values).all()):
        raise InputError(
            f"A prediction is nan or infinite; the weights of {model.name_or_path or 'the model'} are not sound."
        )
    differences = np.abs(values - reference)
    sizes = np.array([len(batch["input_ids"]) for batch in batches])
    rates = {way: sizes / np.array(seconds[way]) for way in ways}
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
    """What an exported folder predicts, from tokens (batch, tokens) to (batch, outputs), on the CPU."""
    folder = Path(folder)
    if (folder / MODEL_FILES["onnx"]).is_file():
        require_libraries()
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = torch.get_num_threads()
        # Its threads would wait for work by spinning, and take the cores from the checkpoint, whose turn it is.
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(
            str(folder / MODEL_FILES["onnx"]), settings, providers=["CPUExecutionProvider"]
        )
        return lambda tokens: session.run(["predictions"], {"input_ids": tokens})[0]
    if not (folder / MODEL_FILES["torch"]).is_file():
        raise InputError(f"{folder}: there is no model here that `proformer export` wrote.")
    model = torch.export.load(folder / MODEL_FILES["torch"]).module()

    def predict_exported(tokens: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return model(torch.from_numpy(tokens)).numpy()

    return predict_exported


__all__ = ["Comparison", "compare", "export", "read_sequences"]
