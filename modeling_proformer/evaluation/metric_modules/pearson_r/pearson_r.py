"""Pearson's r for the evaluate library."""

import evaluate

from modeling_proformer.evaluation.metrics import correlation, drop_missing, metric_features


class PearsonR(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description="Pearson's r between predicted and measured expression.",
            citation="",
            inputs_description="""
Args:
    predictions: predicted expression, one number for each sequence, or a list of one as a model returns it.
    references: measured expression; -100 or NaN where it is missing, which does not count.
Returns:
    pearson_r: from -1 to 1; NaN for fewer than two sequences, or if either is constant.
""",
            features=metric_features(),
        )

    def _compute(self, predictions, references):
        return {"pearson_r": correlation(*drop_missing(references, predictions)).pearson_r}
