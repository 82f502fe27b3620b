"""A small checkpoint, and an assay that can be learned in seconds."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny import save_tiny
from tuning import QUICK

from modeling_proformer.evaluation import figures
from modeling_proformer.training import finetune as finetuning
from modeling_proformer.training.finetune import FineTuned, finetune


@pytest.fixture(scope="module", autouse=True)
def six_evaluations_and_small_figures():
    """Evaluate six times instead of twenty, which saves a checkpoint each time, and draw few pixels, to save time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetuning, "NUM_EVALUATIONS", 6)
        patch.setattr(figures, "PIXELS_PER_INCH", 20)
        yield


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """Return a checkpoint of the tests' sizes for inserts of 12 bases, trained on nothing."""
    return save_tiny(tmp_path_factory.mktemp("checkpoint"), label_mean=[9.0], label_std=[4.0])


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    """Return 400 inserts of 16 bases; expression is the number of Gs, and other outputs follow from it."""
    generator, noise = (np.random.default_rng(seed) for seed in (0, 1))
    rows = []
    for sequence in ("".join(bases) for bases in generator.choice(list("ACGT"), (400, 16))):
        count = sequence.count("G")
        rows.append(
            {
                "sequence": sequence,
                "expression": count + generator.normal(0, 0.3),
                "fold_change": np.exp(count + generator.normal(0, 0.3)),
                "active": int(count > 4),
                "low": 8 - min(count, 8),
                "high": min(count, 8),
                "rare": int(count > 6),
                "noisy": count + noise.normal(0, 4),
                "sparse": noise.normal() if len(rows) % 4 == 0 else None,
                "unrelated": noise.normal(),
                "unread": 0,
            }
        )
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def fine_tune(tmp_path_factory, frame, checkpoint):
    """Fine-tune with some options, once for each choice of them; return the result and its folder."""
    found = {}

    def fine_tune(**options) -> tuple[FineTuned, Path]:
        key = repr(sorted(options.items()))
        if key not in found:
            folder = tmp_path_factory.mktemp("tuned") / "model"
            found[key] = finetune(frame, folder, model=checkpoint, **QUICK | options), folder
        return found[key]

    return fine_tune
