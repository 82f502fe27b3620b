"""Checkpoints: models that predict expression, with their tokenizers."""

import hashlib
import json
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel
from transformers.utils import CONFIG_NAME, cached_file, find_adapter_config_file

from .configuration_proformer import ProformerConfig
from .data.config import require_choice
from .data.tables import InputError, first_line
from .modeling_proformer import construct_of, require_same_kmers
from .tokenization import ProformerTokenizer


EMBEDDED_CHECKPOINT = "proformer-yeast-small"

#: How sequences without the exact flanks are read.
MissingFlanks: TypeAlias = Literal["keep", "cut", "refuse"]


def checkpoint_path() -> Path:
    """Return the folder of the pretrained checkpoint that comes with this package; its README.md describes it."""
    return Path(__file__).parent / "checkpoints" / EMBEDDED_CHECKPOINT


def load_checkpoint(folder_or_repo: str | Path | None = None) -> tuple[PreTrainedModel, ProformerTokenizer]:
    """
    Return a model that predicts expression, in float32 and evaluation mode, and its tokenizer.

    Args:
        folder_or_repo: a folder, or the name of a repository on the Hub; by default the embedded checkpoint. It may
            hold an adapter of PEFT, which is merged into the model that it was trained on. Configuration and tokenizer
            are those of this model, unless they are in the adapter's folder too.

    Raises:
        FileNotFoundError: there is neither such a folder nor such a repository.
        ImportError: it is an adapter, and peft is not installed.
        InputError: the checkpoint is a file, or not a Proformer, or it is incomplete or damaged.
    """
    source = str(checkpoint_path() if folder_or_repo is None else folder_or_repo)
    # The Hub would be asked for it several times.
    if Path(source).is_file():
        raise InputError(f"{source}: this is a file; name the folder of the checkpoint.")
    try:
        base = _base_of_adapter(source)
        place_of_config = _place_of(CONFIG_NAME, source, base)
        config = AutoConfig.from_pretrained(place_of_config, trust_remote_code=False)
        if not isinstance(config, ProformerConfig):
            raise InputError(f"{source}: this checkpoint is a {config.model_type!r} model, not a Proformer.")
        place = _place_of("tokenizer_config.json", source, base)
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
        model, loading = AutoModelForSequenceClassification.from_pretrained(
            base or source,
            config=config,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            # A folder may hold float16, which neither trains nor goes into bfloat16.
            dtype=torch.float32,
        )
    except (InputError, ImportError):
        raise
    # The errors of damaged checkpoints are of many kinds: JSON, safetensors, shapes, names.
    except Exception as error:
        # Our own errors name the checkpoint themselves.
        if str(error).startswith(f"{source}: "):
            raise InputError(first_line(error)) from error
        if isinstance(error, OSError) and not Path(source).is_dir():
            raise FileNotFoundError(
                f"{source}: this is neither a folder nor a repository on the Hub that can be read "
                f"({first_line(error)})"
            ) from error
        # The errors of a configuration name the field in one line and the reason in the next.
        reason = " ".join(str(error).split()) if isinstance(error, StrictDataclassError) else first_line(error)
        raise InputError(f"{source}: no readable Proformer checkpoint ({reason})") from error
    if loading["missing_keys"]:
        raise InputError(
            f"{source}: the checkpoint lacks {len(loading['missing_keys'])} weights, among them "
            f"{min(loading['missing_keys'])}; it cannot predict expression."
        )
    # A head with other outputs comes with the adapter.
    replaced = "expression_head." if base else ()
    mismatched = sorted(name for name, *_ in loading["mismatched_keys"] if not name.startswith(replaced))
    misfits = sorted(loading["unexpected_keys"]) + mismatched
    if misfits:
        raise InputError(
            f"{source}: {len(misfits)} weights of the checkpoint are not in the model of its config.json, or have "
            f"another shape there, among them {misfits[0]}."
        )
    try:
        require_same_kmers(config, tokenizer)
    except ValueError as error:
        raise InputError(f"{source}: {error}") from None
    # Earlier versions did not save it.
    if model.config.construct is None and tokenizer.num_tokens == config.max_position_embeddings:
        model.config.construct = construct_of(tokenizer)
    if base:
        model = _merge_adapter(model, source)
        if place_of_config == base:
            # These were measured without the adapter.
            model.config.interval_half_widths = None
    return model.eval(), tokenizer


def load_with_flanks(
    folder_or_repo: str | Path | None, missing_flanks: MissingFlanks | None
) -> tuple[PreTrainedModel, ProformerTokenizer]:
    """
    Return what `load_checkpoint` does, with a tokenizer that reads sequences without flanks in this way; None leaves
    it as it was saved.

    Raises:
        FileNotFoundError, ImportError, InputError: see `load_checkpoint`; or the construct has no flanks.
        ValueError: `missing_flanks` is something else.
    """
    model, tokenizer = load_checkpoint(folder_or_repo)
    if missing_flanks is not None:
        require_choice("missing_flanks", missing_flanks, get_args(MissingFlanks))
        if not (tokenizer.five_prime_flank or tokenizer.three_prime_flank):
            raise InputError("`missing_flanks`: the construct of this model has no flanks.")
        tokenizer.missing_flanks = missing_flanks
    return model, tokenizer


def weights_digest(model: nn.Module) -> str:
    """Return a digest of a model's weights, which is another one for other weights."""
    digest = hashlib.blake2b(digest_size=8)
    for name, weight in model.state_dict().items():
        digest.update(name.encode() + weight.float().numpy().tobytes())
    return digest.hexdigest()


def _base_of_adapter(source: str) -> str | None:
    """Return the model that an adapter was trained on; None if `source` is not an adapter of PEFT."""
    file = find_adapter_config_file(source)
    if file is None:
        return None
    base = json.loads(Path(file).read_text()).get("base_model_name_or_path")
    if not base:
        raise InputError(f"{source}: adapter_config.json does not say which model the adapter was trained on.")
    return base


def _place_of(file: str, source: str, base: str | None) -> str:
    """Return where a file of a checkpoint is: with an adapter if it is there, and otherwise with its base."""
    if base is None or cached_file(source, file, _raise_exceptions_for_missing_entries=False):
        return source
    return base


def _merge_adapter(model: PreTrainedModel, source: str) -> PreTrainedModel:
    try:
        from peft import PeftModel
    except ImportError as error:
        raise ImportError(f"{source}: this adapter needs peft: pip install 'modeling-proformer[lora]'") from error
    try:
        return PeftModel.from_pretrained(model, source).merge_and_unload()
    except (RuntimeError, ValueError, OSError) as error:
        raise InputError(
            f"{source}: this adapter does not fit its base model ({first_line(error)}). If it has a head of its own, "
            "save the configuration with it: model.config.save_pretrained(folder)."
        ) from error


__all__ = ["checkpoint_path", "load_checkpoint", "load_with_flanks", "weights_digest"]
