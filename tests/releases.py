"""A checkpoint as training leaves it, for the tests of releases; and ways to change a folder."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny import TINY

from modeling_proformer import (
    ProformerConfig,
    ProformerForSequenceClassification,
    ProformerTokenizer,
    PromoterExpressionPipeline,
)
from modeling_proformer.evaluation.cards import card_data
from modeling_proformer.hub.publish import write_release


REPO = "someone/proformer-leaf"
INSERT = "ACGTTGCAAGCT"
RELEASE = {
    "README.md",
    "config.json",
    "configuration_proformer.py",
    "figures/scatter.png",
    "intervals.py",
    "metrics.json",
    "model.safetensors",
    "modeling_proformer.py",
    "pipeline_proformer.py",
    "predictions.tsv",
    "tokenization_proformer.py",
    "tokenizer_config.json",
}
RUN_STATE = [
    "checkpoint-5/optimizer.pt",
    "checkpoint-5/model.safetensors",
    "figures/draft.png",
    "training_args.bin",
    "notes.docx",
    ".env",
]
METRICS = {
    "problem_type": "regression",
    "table": "leaf.tsv",
    "held_out": {"test": {"leaf": {"pearson_r": {"value": 0.87654}, "spearman_rho": {"value": 0.8}}}},
}

CARD = """---
{metadata}
---

# leaf

Predicts `leaf`. Pearson r 0.8765.

No licence is stated yet: the owner of this model must choose one that the data allow, and put it as `license` into the
first lines of this file.

## How to use it

```python
from transformers import pipeline

predict = pipeline("promoter-expression", model="leaf", trust_remote_code=True)
print({{name: round(found["value"], 6) for name, found in predict("{insert}").items()}})
```

```text
{{'leaf': {value:.6f}}}
```

```bash
proformer predict leaf.fasta --model leaf -o other-leaf.tsv
```

![Measured and predicted](figures/scatter.png) and [predictions](predictions.tsv#first), [a page](https://example.org/a).
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return checkpoint_folder(tmp_path_factory.mktemp("run"), ProformerForSequenceClassification)


@pytest.fixture(scope="module")
def good_release(checkpoint, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "release"
    write_release(checkpoint, folder, REPO, "cc-by-4.0")
    return folder


@pytest.fixture
def release(good_release, tmp_path) -> Path:
    """A copy, to spoil."""
    return shutil.copytree(good_release, tmp_path / "release")


def checkpoint_folder(folder: Path, model_class: type, name: str = "leaf") -> Path:
    """What training leaves behind: a model of the tests' sizes, its card and the state of the run."""
    torch.manual_seed(0)
    folder = folder / name
    config = ProformerConfig(**TINY, id2label={0: "leaf"}, label_mean=[7.0], label_std=[2.0])
    pipe = PromoterExpressionPipeline(
        model_class(config).eval(), ProformerTokenizer(kmer_size=3, insert_width=12), device="cpu"
    )
    pipe.save_pretrained(folder)
    value = pipe(INSERT)["leaf"]["value"]
    (folder / "README.md").write_text(CARD.format(metadata=card_data(name, METRICS), insert=INSERT, value=value))
    (folder / "metrics.json").write_text(json.dumps(METRICS))
    (folder / "predictions.tsv").write_text(f"sequence\tpredicted_leaf\n{INSERT}\t{value}\n")
    (folder / "figures").mkdir()
    # With what a release must not hold.
    exif = Image.Exif()
    exif[0x010E] = "/home/jane"
    Image.new("RGB", (4, 4)).save(folder / "figures" / "scatter.png", exif=exif, dpi=(72, 72))
    for state in RUN_STATE:
        (folder / state).parent.mkdir(exist_ok=True)
        (folder / state).write_bytes(b"state")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def edit(path: Path, old: str, new: str):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def in_card(old: str, new: str) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "README.md", old, new)


def append(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text((folder / name).read_text() + text)


def with_weights(change: Callable, metadata: dict | None = None) -> Callable[[Path], None]:
    def spoil(folder: Path):
        path = folder / "model.safetensors"
        save_file(change(load_file(path)), path, {"format": "pt", **(metadata or {})})

    return spoil
