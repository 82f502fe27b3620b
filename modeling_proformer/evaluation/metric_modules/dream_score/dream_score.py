"""The scores of the Random Promoter DREAM Challenge 2022 for the evaluate library."""

import evaluate

from modeling_proformer.evaluation.metrics import dream_score, drop_missing, metric_features


class DreamScore(evaluate.Metric):
    def __init__(self, *args, subsets=None, pairs=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.subsets = subsets
        self.pairs = pairs

    def _info(self):
        return evaluate.MetricInfo(
            description="The two scores of the Random Promoter DREAM Challenge 2022: weighted means, over subsets of "
            "its test set, of r² and of Spearman's ρ.",
            citation="Rafi et al., Nature Biotechnology 2024, doi 10.1038/s41587-024-02414-w",
            inputs_description="""
Args:
    predictions: predicted expression, one number for each sequence, in the order of the test table.
    references: measured expression.
    subsets, pairs: which sequences belong to which subset, as `modeling_proformer.evaluation.read_dream_test` returns
        them. Give them to `evaluate.load` or to `compute`. With `evaluate.combine`, give them to `evaluate.load`,
        because its `compute` passes all arguments to every metric.
Returns:
    pearson_score: 0 to 1.
    spearman_score: -1 to 1.
    pearson_r_all, pearson_r_high, …, spearman_rho_all, …: r and ρ of each subset.
""",
            features=metric_features(),
        )

    def _compute(self, predictions, references, subsets=None, pairs=None):
        subsets = self.subsets if subsets is None else subsets
        pairs = self.pairs if pairs is None else pairs
        if subsets is None or pairs is None:
            raise ValueError(
                "The DREAM score needs `subsets` and `pairs`, as modeling_proformer.evaluation.read_dream_test "
                "returns them: give them to evaluate.load or to compute."
            )
        if len(drop_missing(references, predictions)[0]) < len(references):
            raise ValueError("A reference is missing (-100 or NaN), but the DREAM score needs that of every sequence.")
        score = dream_score(references, predictions, subsets, pairs)
        return {
            "pearson_score": score.pearson_score,
            "spearman_score": score.spearman_score,
            **{f"pearson_r_{name}": found.pearson_r for name, found in score.subsets.items()},
            **{f"spearman_rho_{name}": found.spearman_rho for name, found in score.subsets.items()},
        }
