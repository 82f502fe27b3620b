"""The release of a checkpoint: a folder with all that others need to open it without this package."""

import io
import posixpath
import re
import shutil
from os import PathLike
from pathlib import Path
from urllib.parse import unquote

import yaml
from huggingface_hub import ModelCard
from jinja2 import UndefinedError
from PIL import Image
from transformers import AutoModelForPreTraining
from transformers.utils import logging

from ..data.tables import InputError, first_line
from ..evaluation.cards import CARD, RECORD, digest_card, read_record, render_card
from ..loading import load_checkpoint
from ..pipeline_proformer import PromoterExpressionPipeline


logger = logging.get_logger(__name__)

#: Stands for the repository in a card that its owner edits.
ANY_REPOSITORY = "ACCOUNT/NAME"
# Endings of the files in a release. No such file runs code when it is opened; `check_release` compares the .py files.
ENDINGS = (".csv", ".json", ".md", ".png", ".py", ".safetensors", ".tsv", ".txt")

# Block of code in a card: its language and its content.
FENCED = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```[^\S\n]*$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\(\s*<?([^)>\s]+)|^\[[^\]]+\]:\s*(\S+)|\b(?:src|href)=\"([^\"]+)\"", re.MULTILINE)
_ADDRESS = re.compile(r"[a-zA-Z][\w+.-]*:|//")


def write_release(checkpoint: str | PathLike, folder: str | PathLike, repo_id: str, license: str | None = None):
    """
    Write a checkpoint as a release.

    The release holds the weights in float32, the configuration, the tokenizer, the code that opens them, the card (see
    `release_card`), `metrics.json` if there is one, and the files that the card links to. Pictures are written again
    from their pixels alone.

    Args:
        checkpoint, repo_id, license: as in `publish`.
        folder: new folder to write.

    Raises:
        FileNotFoundError: there is no such checkpoint, or no card in it.
        FileExistsError: `folder` exists.
        InputError: the checkpoint, its card or a linked picture cannot be read.
    """
    checkpoint, folder = Path(checkpoint), Path(folder)
    if not checkpoint.is_dir():
        raise FileNotFoundError(f"{checkpoint}: there is no such folder.")
    if folder.exists():
        raise FileExistsError(f"{folder} exists; name a new folder.")
    model, tokenizer = load_checkpoint(checkpoint)
    if "ProformerForPreTraining" in (model.config.architectures or []):
        # `load_checkpoint` leaves the head for masked nucleotides out.
        model = AutoModelForPreTraining.from_pretrained(checkpoint, trust_remote_code=False)
    card = release_card(checkpoint, repo_id, license)
    names = [
        name
        for name in [RECORD, *linked_files(card)]
        if Path(name).suffix in ENDINGS and not name.startswith(("..", "/")) and (checkpoint / name).is_file()
    ]
    pictures = {name: encode_pixels(checkpoint / name) for name in names if name.endswith(".png")}
    PromoterExpressionPipeline(model=model.float(), tokenizer=tokenizer, device="cpu").save_pretrained(folder)
    (folder / CARD).write_text(card, encoding="utf-8")
    for name in names:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if name in pictures:
            target.write_bytes(pictures[name])
        elif not target.exists():
            shutil.copyfile(checkpoint / name, target)


def release_card(checkpoint: Path, repo_id: str, license: str | None = None) -> str:
    """
    Return the text of a release's card.

    If `README.md` is missing, or as `finetune` or `train` wrote it, the card is rendered from `metrics.json` with the
    repository and the licence. A `README.md` that was edited, or that belongs to a folder without such a record, stays
    as it is: only ACCOUNT/NAME becomes the repository, and the licence is added to its metadata.

    Raises:
        FileNotFoundError: there is no `README.md`, and no record to render one from.
        InputError: the metadata of `README.md` are not valid, or `metrics.json` is damaged.
    """
    record = read_record(checkpoint)
    if digest_card(checkpoint) in (None, record.get("card_digest")):
        try:
            rendered = render_card(checkpoint, repo_id, license)
        except (UndefinedError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{checkpoint / RECORD} is not as `finetune` writes it ({type(error).__name__} {first_line(error)})."
            ) from error
        if rendered is not None:
            return str(rendered)
    card = read_card(checkpoint)
    reason = "it was edited" if "card_digest" in record else f"{RECORD} is not the full record of the model"
    logger.info(f"{CARD} is published as it is, because {reason}.")
    if license is None:
        text = (checkpoint / CARD).read_text(encoding="utf-8")
    else:
        card.data.license = license
        text = str(card)
    return text.replace(ANY_REPOSITORY, repo_id)


def read_card(folder: Path) -> ModelCard:
    """
    Return the card in a folder.

    Raises:
        FileNotFoundError: there is none.
        InputError: its metadata are not valid.
    """
    path = folder / CARD
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no model card; `finetune` and `train` write one.")
    try:
        return ModelCard.load(path)
    except (yaml.YAMLError, ValueError, KeyError, TypeError) as error:
        mark = getattr(error, "problem_mark", None)
        # The metadata begin in the second line, and the parser counts from 0.
        place = "" if mark is None else f", line {mark.line + 2}"
        reason = getattr(error, "problem", None) or first_line(error)
        raise InputError(f"{path}{place}: the metadata between the lines of dashes are not valid: {reason}") from error


def release_files(folder: Path) -> list[str]:
    """Return the paths of all files in a folder, relative to it."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def linked_files(text: str) -> list[str]:
    """Return the files that a card links to, pictures included, but no web addresses."""
    targets = ("".join(found) for found in _LINK.findall(FENCED.sub("", text)))
    files = (unquote(target.partition("#")[0]) for target in targets if not _ADDRESS.match(target))
    return list(dict.fromkeys(posixpath.normpath(file) for file in files if file))


def encode_pixels(path: Path) -> bytes:
    """
    Return the PNG of a picture's pixels, without what its file may hold besides: who made it, where, when and how.

    Raises:
        InputError: the file is damaged or no PNG, or has 16 bits of grey.
    """
    try:
        with Image.open(path, formats=["PNG"]) as image:
            image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: this is not a PNG that can be read; save the picture again as PNG.") from error
    if image.mode.startswith("I"):
        raise InputError(f"{path}: this picture has 16 bits of grey for each pixel; save it with 8.")
    visible = image.convert("RGBA" if "A" in image.mode or "transparency" in image.info else "RGB")
    pixels, encoded = Image.new(visible.mode, visible.size), io.BytesIO()
    pixels.paste(visible)
    pixels.save(encoded, format="PNG")
    return encoded.getvalue()


__all__ = ["encode_pixels", "linked_files", "read_card", "release_card", "release_files", "write_release"]
