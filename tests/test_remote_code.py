"""Tests that the stock library opens a saved checkpoint, with the code next to the weights or with the package."""

import ast
import inspect
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from fresh_process import make_python_without_package, run
from tiny import TINY

from modeling_proformer import (
    ProformerConfig,
    ProformerForMaskedLM,
    ProformerForPreTraining,
    ProformerForSequenceClassification,
    ProformerModel,
    ProformerTokenizer,
    PromoterExpressionPipeline,
)
from modeling_proformer.intervals import prediction_interval


MODEL_CLASSES = [ProformerModel, ProformerForPreTraining, ProformerForSequenceClassification, ProformerForMaskedLM]
TRAVELLING_FILES = {
    Path(inspect.getsourcefile(cls)).name: Path(inspect.getsourcefile(cls))
    for cls in (ProformerConfig, ProformerModel, ProformerTokenizer)
}
# A saved pipeline comes with these as well.
PIPELINE_FILES = {
    Path(inspect.getsourcefile(thing)).name: Path(inspect.getsourcefile(thing))
    for thing in (PromoterExpressionPipeline, prediction_interval)
}
SEQUENCES = ["ACGTTGCAAGCT", "ttgacanu", "TGCAGGATATTC"]
# The second has a name that is not a Python identifier.
PRETRAINING, THREE_OUTPUTS = "pretraining", "my-model.v1"


@dataclass
class Checkpoint:
    """A folder, and the outputs of the models saved in it."""

    folder: Path
    tokenizer: ProformerTokenizer
    # For each Auto class: the name of the class that it opens, and its outputs.
    models: dict[str, tuple[str, dict[str, np.ndarray]]]
    output_names: list[str]

    def classification(self, row: int) -> list[dict]:
        """Return what the text-classification pipeline predicts for a sequence, highest output first."""
        _, outputs = self.models["AutoModelForSequenceClassification"]
        scores = zip(self.output_names, outputs["logits"][row], strict=True)
        return sorted(({"label": name, "score": score} for name, score in scores), key=lambda x: -x["score"])


def randomize(model: torch.nn.Module) -> torch.nn.Module:
    """Set weights that no initialisation would, so that a weight that is not loaded shows."""
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@torch.no_grad()
def compute(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in model(**inputs).items()}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> dict[str, Checkpoint]:
    tokenizer = ProformerTokenizer(kmer_size=3, insert_width=12, five_prime_flank="TGCA")
    inputs = tokenizer(SEQUENCES, return_tensors="pt")

    config = ProformerConfig(**TINY, label_mean=[0.5], label_std=[2.0])
    pretraining = randomize(ProformerForPreTraining(config))
    outputs = compute(pretraining, inputs)
    expression = {name: outputs[name] for name in ("logits", "position_logits")}
    models = {
        "AutoModel": ("ProformerModel", compute(pretraining.proformer, inputs)),
        "AutoModelForPreTraining": ("ProformerForPreTraining", outputs),
        "AutoModelForSequenceClassification": ("ProformerForSequenceClassification", expression),
        "AutoModelForMaskedLM": ("ProformerForMaskedLM", {"logits": outputs["nucleotide_logits"]}),
    }
    folder = tmp_path_factory.mktemp("saved")
    checkpoints = {PRETRAINING: Checkpoint(folder / PRETRAINING, tokenizer, models, ["LABEL_0"])}
    pretraining.save_pretrained(folder / PRETRAINING)

    names = ["leaf", "root", "protoplast"]
    config = ProformerConfig(**TINY, id2label=dict(enumerate(names)), label_mean=[0.0, 1.0, 2.0], label_std=[1.0] * 3)
    classifier = randomize(ProformerForSequenceClassification(config))
    models = {
        "AutoModel": ("ProformerModel", compute(classifier.proformer, inputs)),
        "AutoModelForSequenceClassification": ("ProformerForSequenceClassification", compute(classifier, inputs)),
    }
    checkpoints[THREE_OUTPUTS] = Checkpoint(folder / THREE_OUTPUTS, tokenizer, models, names)
    classifier.save_pretrained(folder / THREE_OUTPUTS)

    for checkpoint in checkpoints.values():
        checkpoint.tokenizer.save_pretrained(checkpoint.folder)
    return checkpoints


def observe(sequences: list, checkpoints: dict, trust: dict) -> dict:
    """
    Return what the stock library computes with checkpoints, each of which is saved again too. The source of this
    function runs in other processes, so it has its own imports and takes and returns JSON.

    Args:
        sequences: sequences to compute.
        checkpoints: for each folder, where to save it again, and the Auto classes to open it with.
        trust: arguments of `from_pretrained` that say whether to run the code in the folder.
    """
    import torch
    import transformers

    observations = {}
    for source, (copy, auto_classes) in checkpoints.items():
        for folder in (source, copy):
            config = transformers.AutoConfig.from_pretrained(folder, **trust)
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **trust)
            pipe = transformers.pipeline("text-classification", model=folder, device="cpu", **trust)
            seen = observations[folder] = {
                "classes": {"AutoConfig": type(config).__name__, "AutoTokenizer": type(tokenizer).__name__},
                "origins": {type(thing).__module__.split(".")[0] for thing in (config, tokenizer, pipe.model)},
                "tokens of a list": tokenizer(sequences).data,
                "tokens of a string": tokenizer(sequences[0]).data,
                "outputs": {},
                "resized": {},
                "string": pipe(sequences[0]),
                "list": pipe(sequences),
                "batches": pipe(sequences, batch_size=2),
                "all outputs": pipe(sequences, top_k=None),
            }
            inputs = tokenizer(sequences, return_tensors="pt")
            for auto_class in auto_classes:
                model = getattr(transformers, auto_class).from_pretrained(folder, **trust)
                seen["classes"][auto_class] = type(model).__name__
                seen["origins"].add(type(model).__module__.split(".")[0])
                with torch.no_grad():
                    seen["outputs"][auto_class] = {name: x.tolist() for name, x in model(**inputs).items()}
                if folder == source and [type(model).__name__] == config.architectures:
                    model.save_pretrained(copy)
                    tokenizer.save_pretrained(copy)
                model.resize_position_embeddings(36, new_num_strands=1)
                seen["resized"][auto_class] = list(model.get_position_embeddings().weight.shape)
            seen["origins"] = sorted(seen["origins"])
    return observations


@pytest.fixture(scope="module")
def python_without_package(tmp_path_factory) -> Path:
    return make_python_without_package(tmp_path_factory.mktemp("without"))


@dataclass
class Observed:
    """What other processes observed."""

    # The top module of every class.
    origin: str
    # For each checkpoint: the folder in which it was saved again, and what `observe` returned for both folders.
    again: dict[str, Path]
    seen: dict[str, list[dict]]


@pytest.fixture(scope="module", params=["remote code", "package"])
def observed(request, checkpoints, python_without_package, tmp_path_factory) -> Observed:
    """Open checkpoints without the package, by the code next to the weights; and with the package, without trust."""
    if request.param == "package":
        python, preamble, trust, origin = sys.executable, "import modeling_proformer", {}, "modeling_proformer"
    else:
        python, trust, origin = python_without_package, {"trust_remote_code": True}, "transformers_modules"
        preamble = "import importlib.util\nassert importlib.util.find_spec('modeling_proformer') is None"
    script = f"""{preamble}
import json

{inspect.getsource(observe)}
with open("arguments.json") as arguments, open("observations.json", "w") as observations:
    json.dump(observe(*json.load(arguments)), observations)
"""
    work = tmp_path_factory.mktemp("observed")
    again = {name: work / f"{name}-again" for name in checkpoints}
    requests = {str(saved.folder): (str(again[name]), list(saved.models)) for name, saved in checkpoints.items()}
    (work / "arguments.json").write_text(json.dumps([SEQUENCES, requests, trust]))
    process = run(python, script, work)
    assert process.returncode == 0, process.stderr
    seen = json.loads((work / "observations.json").read_text())
    folders = {name: (saved.folder, again[name]) for name, saved in checkpoints.items()}
    return Observed(origin, again, {name: [seen[str(folder)] for folder in pair] for name, pair in folders.items()})


def assert_same_classification(observed: list, expected: list):
    assert [output["label"] for output in observed] == [output["label"] for output in expected]
    scores = [[output["score"] for output in outputs] for outputs in (observed, expected)]
    np.testing.assert_allclose(*scores, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", [PRETRAINING, THREE_OUTPUTS])
def test_auto_classes_and_pipeline_compute_the_saved_outputs(checkpoints, observed, name):
    saved = checkpoints[name]
    for seen in observed.seen[name]:
        assert seen["origins"] == [observed.origin]
        classes = {auto_class: model_class for auto_class, (model_class, _) in saved.models.items()}
        assert seen["classes"] == classes | {"AutoConfig": "ProformerConfig", "AutoTokenizer": "ProformerTokenizer"}
        assert seen["tokens of a list"] == saved.tokenizer(SEQUENCES).data
        assert seen["tokens of a string"] == saved.tokenizer(SEQUENCES[0]).data
        for auto_class, (_, expected) in saved.models.items():
            assert seen["outputs"][auto_class].keys() == expected.keys()
            for output, values in expected.items():
                np.testing.assert_allclose(seen["outputs"][auto_class][output], values, rtol=0, atol=1e-6)
            assert seen["resized"][auto_class] == [36, 16]

        rows = [saved.classification(row) for row in range(len(SEQUENCES))]
        assert_same_classification(seen["string"], rows[0][:1])
        assert_same_classification(seen["list"], [row[0] for row in rows])
        assert_same_classification(seen["batches"], [row[0] for row in rows])
        for outputs, row in zip(seen["all outputs"], rows, strict=True):
            assert_same_classification(outputs, row)


@pytest.mark.parametrize("name", [PRETRAINING, THREE_OUTPUTS])
def test_saving_again_makes_the_same_folder(checkpoints, observed, name):
    first, again = (
        {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        for folder in (checkpoints[name].folder, observed.again[name])
    )
    assert again == first


@pytest.mark.parametrize("name", [PRETRAINING, THREE_OUTPUTS])
def test_code_is_next_to_the_weights(checkpoints, name):
    folder = checkpoints[name].folder
    references = json.loads((folder / "config.json").read_text())["auto_map"]
    assert references.keys() == {
        "AutoConfig",
        "AutoModel",
        "AutoModelForPreTraining",
        "AutoModelForSequenceClassification",
        "AutoModelForMaskedLM",
    }
    tokenizers = json.loads((folder / "tokenizer_config.json").read_text())["auto_map"]
    assert tokenizers == {"AutoTokenizer": ["tokenization_proformer.ProformerTokenizer", None]}
    modules = [reference.split(".")[0] for reference in [*references.values(), tokenizers["AutoTokenizer"][0]]]
    assert {f"{module}.py" for module in modules} == TRAVELLING_FILES.keys()
    for file, source in TRAVELLING_FILES.items():
        assert (folder / file).read_bytes() == source.read_bytes()


@pytest.mark.parametrize("file", TRAVELLING_FILES | PIPELINE_FILES)
def test_travelling_files_import_only_each_other_or_required_libraries(file):
    """The library copies `from .sibling import name` and nothing else; it reads imports inside functions too."""
    installed = {"torch", "numpy", "transformers", "huggingface_hub", *sys.stdlib_module_names}
    for node in ast.walk(ast.parse((TRAVELLING_FILES | PIPELINE_FILES)[file].read_text())):
        if isinstance(node, ast.Import):
            assert {alias.name.split(".")[0] for alias in node.names} <= installed
        elif isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1 and f"{node.module}.py" in TRAVELLING_FILES | PIPELINE_FILES
        elif isinstance(node, ast.ImportFrom):
            # With `__future__.annotations`, strict configurations would no longer be checked.
            assert node.module.split(".")[0] in installed - {"__future__"}


def test_a_saved_models_folder_says_that_it_hides_the_package(checkpoints):
    """Python finds the file of the package's name there first; its relative imports failed without a word why."""
    folder = checkpoints[THREE_OUTPUTS].folder
    run = subprocess.run(
        [sys.executable, "-c", "import modeling_proformer"], cwd=folder, capture_output=True, text=True
    )
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1].startswith(f"ImportError: {folder} is the folder of a saved model, which hides")


@pytest.mark.parametrize("model_class", MODEL_CLASSES)
def test_a_loaded_model_computes_the_same(model_class, tiny_config, tiny_tokenizer, tmp_path):
    """Models are built without memory before they are loaded, so values that no file has would be undefined."""
    model = randomize(model_class(tiny_config))
    assert {name for name, _ in model.named_buffers()} <= model.state_dict().keys()
    model.save_pretrained(tmp_path)
    inputs = tiny_tokenizer(SEQUENCES, return_tensors="pt")
    loaded = compute(model_class.from_pretrained(tmp_path), inputs)
    for name, expected in compute(model, inputs).items():
        np.testing.assert_array_equal(loaded[name], expected)


def test_an_error_names_a_library_that_is_too_old(checkpoints, python_without_package, tmp_path):
    # The version is read from the first metadata on the path.
    metadata = tmp_path / "old" / "transformers-5.3.0.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text("Metadata-Version: 2.1\nName: transformers\nVersion: 5.3.0\n")
    script = """
import sys

sys.path.insert(0, sys.argv[2])
from transformers import AutoConfig

AutoConfig.from_pretrained(sys.argv[1], trust_remote_code=True)
"""
    process = run(
        python_without_package, script, tmp_path, str(checkpoints[PRETRAINING].folder), str(metadata.parents[1])
    )
    assert process.returncode == 1
    assert "Proformer needs transformers 5.4 or newer: pip install -U 'transformers>=5.4'" in process.stderr
    assert "but found transformers==5.3.0" in process.stderr
