"""A checkpoint as `finetune` leaves it, for the tests of releases; and ways to change a folder."""

from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny import TINY

from modeling_proformer import (
    ProformerConfig,
    ProformerTokenizer,
    PromoterExpressionPipeline,
    predict,
)
from modeling_proformer.evaluation.cards import run_example
from modeling_proformer.evaluation.report import write_record_and_card
from modeling_proformer.loading import load_checkpoint


REPO = "someone/proformer-leaf"
INSERT = "ACGTTGCAAGCT"
RELEASE = {
    "README.md",
    "config.json",
    "configuration_proformer.py",
    "intervals.py",
    "learning_curve.png",
    "metrics.json",
    "model.safetensors",
    "modeling_proformer.py",
    "pipeline_proformer.py",
    "predictions.tsv",
    "scatter.png",
    "tokenization_proformer.py",
    "tokenizer_config.json",
}
# Fine-tuning leaves these files in its folder.
FINE_TUNED = RELEASE | {"log_history.json"}
RUN_STATE = [
    "checkpoint-5/optimizer.pt",
    "checkpoint-5/model.safetensors",
    "figures/draft.png",
    "training_args.bin",
    "notes.docx",
    ".env",
]
# The content of `metrics.json`, but for the example.
RECORD = {
    "kind": "fine-tuned",
    "modeling_proformer": "0.2.0",
    "transformers": "5.4.0",
    "torch": "2.6.0",
    "table": "leaf.tsv",
    "tables": [{"name": "leaf.tsv", "on_the_hub": False}],
    "problem_type": "regression",
    "parameters": 5000,
    "checkpoint": {"name": "proformer-yeast-small", "on_the_hub": False, "embedded": True},
    "options": {
        "sequence": "sequence",
        "targets": ["leaf"],
        "bins": None,
        "weight": None,
        "standard_error": None,
        "from_scratch": False,
        "keep": 1,
        "method": "full",
        "layer_decay": 0.7,
        "seed": 0,
        "bf16": False,
    },
    "learning_rate": 3e-4,
    "steps": 5,
    "max_steps": 5,
    "best_step": 5,
    "batch_size": 32,
    "evaluated_rows": 10,
    "hardware": "CPU",
    "seconds": 3.0,
    "findings": ["100 rows have measurements of leaf."],
    "rows": {"train": 80, "validation": 10, "test": 10},
    "groups": {"train": 80, "validation": 10, "test": 10},
    "test_homologs": 0,
    "measurements": [{"output": "leaf", "rows": 80, "mean": 7.0}],
    "by_group": True,
    "held_out": {
        "test": {
            "leaf": {
                "rows": 10,
                "pearson_r": {"value": 0.87654, "low": 0.8, "high": 0.9},
                "spearman_rho": {"value": 0.8, "low": None, "high": None},
                "root_mean_square_error": 0.5,
                "coverage": {},
            }
        }
    },
}

# A card that its owner wrote, with a figure in a folder.
OWN_CARD = """---
library_name: transformers
pipeline_tag: text-classification
tags:
- biology  # and botany
model-index:
- name: leaf
  results:
  - task:
      type: text-classification
    dataset:
      type: leaf
      name: leaf table
    metrics:
    - type: pearsonr
      name: Pearson r
      value: 0.8765
---

# leaf

Predicts `leaf`. Pearson r 0.8765.

```python
from transformers import pipeline

predict = pipeline("promoter-expression", model="ACCOUNT/NAME", trust_remote_code=True)
print({{name: round(found["value"], 6) for name, found in predict("{insert}").items()}})
```

```text
{{'leaf': {value:.6f}}}
```

![Curve](figures/draft.png) and [predictions](./predictions.tsv#first), [a page](https://example.org/a).
"""


def make_checkpoint(folder: Path, model_class: type) -> Path:
    """Make what training leaves behind: a model of the tests' sizes, its record and card, and the state of the run."""
    torch.manual_seed(0)
    config = ProformerConfig(**TINY, id2label={0: "leaf"}, label_mean=[7.0], label_std=[2.0])
    model, tokenizer = model_class(config).eval(), ProformerTokenizer(kmer_size=3, insert_width=12)
    PromoterExpressionPipeline(model, tokenizer, device="cpu").save_pretrained(folder)
    (folder / "predictions.tsv").write_text(f"sequence\tpredicted_leaf\n{INSERT}\t7.0\n")
    exif = Image.Exif()
    exif[0x010E] = "/home/jane"
    for name in ("scatter.png", "learning_curve.png"):
        Image.new("RGB", (4, 4)).save(folder / name, exif=exif, dpi=(72, 72))
    for name in RUN_STATE:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"state")
    write_record_and_card(folder, RECORD | {"example": run_example(model, tokenizer)._asdict()})
    return folder


def with_own_card(folder: Path):
    """Replace the card of a checkpoint by one that its owner wrote, and its record by none."""
    (folder / "metrics.json").unlink()
    Image.new("RGB", (4, 4)).save(folder / "figures" / "draft.png")
    value = predict(*load_checkpoint(folder), [INSERT])[0, 0]
    (folder / "README.md").write_text(OWN_CARD.format(insert=INSERT, value=value))


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
