"""Pearson's r for the evaluate library."""

import datasets
import evaluate

from modeling_proformer.evaluation.metrics import correlation


class PearsonR(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description="Pearson's r between predicted and measured expression.",
            citation="",
            inputs_description="""
Args:
    predictions: predicted expression, one number for each sequence.
    references: measured expression.
Returns:
    pearson_r: from -1 to 1; NaN for fewer than two sequences, or if either is constant.
""",
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("float64")}
            ),
        )

    def _compute(self, predictions, references):
        return {"pearson_r": correlation(references, predictions).pearson_r}
