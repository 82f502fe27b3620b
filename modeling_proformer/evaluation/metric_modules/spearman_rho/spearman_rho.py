"""Spearman's ρ for the evaluate library."""

import datasets
import evaluate

from modeling_proformer.evaluation.metrics import correlation


class SpearmanRho(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description="Spearman's ρ between predicted and measured expression; tied values share their mean rank.",
            citation="",
            inputs_description="""
Args:
    predictions: predicted expression, one number for each sequence.
    references: measured expression.
Returns:
    spearman_rho: from -1 to 1; NaN for fewer than two sequences, or if either is constant.
""",
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("float64")}
            ),
        )

    def _compute(self, predictions, references):
        return {"spearman_rho": correlation(references, predictions).spearman_rho}
