"""Proformer: DNA in, gene expression out, as a Transformers model.

Importing this package registers Proformer with the library's Auto classes, so that they open its checkpoints without
`trust_remote_code`. Training, export and publishing are imported when their names are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)
from transformers.pipelines import PIPELINE_REGISTRY

from .attribution import as_one_hot, one_hot_inserts
from .configuration_proformer import EXPRESSION_PIPELINE, ProformerConfig
from .data.config import DataConfig
from .data.tables import InputError
from .embedding import embed
from .loading import checkpoint_path, load_checkpoint
from .modeling_proformer import (
    ProformerForMaskedLM,
    ProformerForPreTraining,
    ProformerForSequenceClassification,
    ProformerModel,
    ProformerPreTrainedModel,
)
from .mutagenesis import mutate, saturation_mutagenesis
from .pipeline_proformer import PromoterExpressionPipeline
from .prediction import predict, predict_file
from .progress import show_progress
from .tokenization import InvalidSequenceError, ProformerTokenizer
from .variants import variant_effects
from .version import __version__


if TYPE_CHECKING:
    from .batches import PromoterEmbedder, PromoterPredictor, VariantScorer
    from .data.collator import ProformerCollator
    from .data.prepare import prepare_assay
    from .designing import design
    from .exporting import export
    from .hub.publish import publish
    from .training.config import FinetuneConfig, TrainConfig
    from .training.finetune import finetune
    from .training.pretrain import train
    from .training.trainer import ProformerTrainer
    from .variant_scores import score_variants


# Names that are imported when they are first used, because their modules take long to import.
_MODULES = {
    "FinetuneConfig": "training.config",
    "ProformerCollator": "data.collator",
    "ProformerTrainer": "training.trainer",
    "PromoterEmbedder": "batches",
    "PromoterPredictor": "batches",
    "TrainConfig": "training.config",
    "VariantScorer": "batches",
    "design": "designing",
    "export": "exporting",
    "finetune": "training.finetune",
    "prepare_assay": "data.prepare",
    "publish": "hub.publish",
    "score_variants": "variant_scores",
    "train": "training.pretrain",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_MODULES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


show_progress()

AutoConfig.register(ProformerConfig.model_type, ProformerConfig, exist_ok=True)
AutoTokenizer.register(ProformerConfig, tokenizer_class=ProformerTokenizer, exist_ok=True)
for _auto_class, _model_class in {
    AutoModel: ProformerModel,
    AutoModelForPreTraining: ProformerForPreTraining,
    AutoModelForSequenceClassification: ProformerForSequenceClassification,
    AutoModelForMaskedLM: ProformerForMaskedLM,
}.items():
    _auto_class.register(ProformerConfig, _model_class, exist_ok=True)
    # `save_pretrained` then writes the code next to the weights, for users who do not have this package.
    _model_class.register_for_auto_class(_auto_class.__name__)
ProformerConfig.register_for_auto_class()
ProformerTokenizer.register_for_auto_class()
PIPELINE_REGISTRY.register_pipeline(
    EXPRESSION_PIPELINE,
    PromoterExpressionPipeline,
    pt_model=AutoModelForSequenceClassification,
    # The model that `pipeline` opens if it is given none.
    default={"model": (str(checkpoint_path()), "main")},
)

__all__ = [
    "DataConfig",
    "FinetuneConfig",
    "InputError",
    "InvalidSequenceError",
    "ProformerCollator",
    "ProformerConfig",
    "ProformerForMaskedLM",
    "ProformerForPreTraining",
    "ProformerForSequenceClassification",
    "ProformerModel",
    "ProformerPreTrainedModel",
    "ProformerTokenizer",
    "ProformerTrainer",
    "PromoterEmbedder",
    "PromoterExpressionPipeline",
    "PromoterPredictor",
    "TrainConfig",
    "VariantScorer",
    "__version__",
    "as_one_hot",
    "checkpoint_path",
    "design",
    "embed",
    "export",
    "finetune",
    "load_checkpoint",
    "mutate",
    "one_hot_inserts",
    "predict",
    "predict_file",
    "prepare_assay",
    "publish",
    "saturation_mutagenesis",
    "score_variants",
    "train",
    "variant_effects",
]
