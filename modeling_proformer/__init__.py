"""Proformer: DNA in, gene expression out, as a Transformers model.

Importing this package registers Proformer with the library's Auto classes, so that they open its checkpoints without
`trust_remote_code`.
"""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)
from transformers.pipelines import PIPELINE_REGISTRY

from .configuration_proformer import EXPRESSION_PIPELINE, ProformerConfig
from .modeling_proformer import (
    ProformerForMaskedLM,
    ProformerForPreTraining,
    ProformerForSequenceClassification,
    ProformerModel,
    ProformerPreTrainedModel,
)
from .pipeline_proformer import PromoterExpressionPipeline
from .prediction import checkpoint_path, predict
from .tokenization import InvalidSequenceError, ProformerTokenizer


__version__ = "0.1.0"

AutoConfig.register(ProformerConfig.model_type, ProformerConfig, exist_ok=True)
AutoTokenizer.register(ProformerConfig, tokenizer_class=ProformerTokenizer, exist_ok=True)
for _auto_class, _model_class in {
    AutoModel: ProformerModel,
    AutoModelForPreTraining: ProformerForPreTraining,
    AutoModelForSequenceClassification: ProformerForSequenceClassification,
    AutoModelForMaskedLM: ProformerForMaskedLM,
}.items():
    _auto_class.register(ProformerConfig, _model_class, exist_ok=True)
    # Makes `save_pretrained` put the code beside the weights, for those who do not have this package.
    _model_class.register_for_auto_class(_auto_class.__name__)
ProformerConfig.register_for_auto_class()
ProformerTokenizer.register_for_auto_class()
PIPELINE_REGISTRY.register_pipeline(
    EXPRESSION_PIPELINE,
    PromoterExpressionPipeline,
    pt_model=AutoModelForSequenceClassification,
    # What `pipeline` opens where no model is named.
    default={"model": (str(checkpoint_path()), "main")},
)

__all__ = [
    "InvalidSequenceError",
    "ProformerConfig",
    "ProformerForMaskedLM",
    "ProformerForPreTraining",
    "ProformerForSequenceClassification",
    "ProformerModel",
    "ProformerPreTrainedModel",
    "ProformerTokenizer",
    "PromoterExpressionPipeline",
    "checkpoint_path",
    "predict",
]
