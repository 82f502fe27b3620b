"""Spearman's ρ for the evaluate library."""

import evaluate

from modeling_proformer.evaluation.metrics import correlation, drop_missing, metric_features


class SpearmanRho(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description="Spearman's ρ between predicted and measured expression; tied values share their mean rank.",
            citation="",
            inputs_description="""
Args:
    predictions: predicted expression, one number for each sequence, or a list of one as a model returns it.
    references: measured expression; -100 or NaN where it is missing, which does not count.
Returns:
    spearman_rho: from -1 to 1; NaN for fewer than two sequences, or if either is constant.
""",
            features=metric_features(),
        )

    def _compute(self, predictions, references):
        return {"spearman_rho": correlation(*drop_missing(references, predictions)).spearman_rho}
