"""How the tests fine-tune."""

import numpy as np

from modeling_proformer.training.finetune import FineTuned


QUICK = {"steps": 60, "batch_size": 32, "learning_rate": 1e-2}
BINS = {"targets": ["low", "high"], "bins": [0.0, 1.0]}


def correlation_on_test(fine_tuned: FineTuned, transform=lambda values: values) -> float:
    test = fine_tuned.assay.split.test
    return np.corrcoef(transform(fine_tuned.assay.measured[test, 0]), transform(fine_tuned.predicted[test, 0]))[0, 1]
