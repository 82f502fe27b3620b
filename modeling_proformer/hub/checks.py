"""Checks of a release before it is uploaded: it works without this package, says the truth, and is safe to open."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import EvalResult
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from transformers.dynamic_module_utils import get_relative_import_files

from .. import pipeline_proformer
from ..data.tables import first_line
from ..evaluation.cards import CARD, RECORD, eval_results, read_record
from ..tokenization import tokenization_proformer
from .release import ANY_REPOSITORY, ENDINGS, FENCED, encode_pixels, linked_files, read_card, release_files


_CONFIG, _TOKENIZER_CONFIG = "config.json", "tokenizer_config.json"
_REQUIRED_FILES = (CARD, _CONFIG, _TOKENIZER_CONFIG, "model.safetensors")
_OTHER_PICTURES = (".jpg", ".jpeg", ".gif", ".webp", ".svg")

# Text that stands for something that the owner still has to write.
_UNFINISHED = re.compile(r"No licence is stated yet|\[More Information Needed\]|\bTODO\b|\bTBD\b|\{\{|\{%")

_PATHS = [
    # Two parts or more, such as /home/jane, that belong neither to an address nor to a relative path.
    r"(?<![\w./~-])/[\w.+-]+(?:/[\w.+-]+)+",
    r"file:/+\S+",
    # A folder of users' files, also without a second part.
    r"(?<![\w.:/~-])/(?:home|mnt|root|scratch|Users)\b",
    # The letter of a drive. JSON doubles backslashes.
    r"(?<![A-Za-z])[A-Za-z]:(?:/|\\{1,2})\w[^\s\"']*",
    # A folder on a server, as host, share and more.
    r"(?<!\\)(\\{1,2})\1[\w.$-]{2,}\1[\w.$-]{2,}\1\w[\w.$-]*",
    # The home folder; that of a named user only in quotes, because "~high/low" may be a ratio.
    r"(?:(?<![\w~/])~|\$HOME|\$\{HOME\}|(?<=[\"'`])~[a-z_][\w.-]*)/[\w.][^\s\"'`]*",
]
# The Hub looks for secrets too, but only once everybody can read them.
_SECRETS = [
    r"hf_[A-Za-z0-9]{20,}",
    r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    r"-----BEGIN [A-Z ]*PRIVATE KEY",
    r"gh[pousr]_[A-Za-z0-9]{30,}",
    r"github_pat_\w{30,}",
    r"glpat-[\w-]{20,}",
    r"\bxox[abprs]-[\w-]{10,}",
    # Such a key has a digit, which a name of words and hyphens lacks.
    r"\bsk-[\w-]*?(?=\w*\d)\w{20,}",
    r"\b[sr]k_live_[A-Za-z0-9]{16,}",
    r"\bnpm_[A-Za-z0-9]{30,}",
    r"\beyJ[\w-]{8,}\.eyJ[\w-]{8,}",
    r"(?i:\bbearer\s+)(?=\S*\d)[\w.~+/=-]{16,}",
    r"AIza[\w-]{35}",
    r"://[^\s/:@]+:[^\s/@]{6,}@",
    r"\b[A-Z0-9_]*(?:API_?KEY|ACCESS_?KEY|SECRET|TOKEN|PASSWORD)[A-Z0-9_]*=[^\s\"'<$(]{12,}",
    r"(?i:\b(?:api[_-]?key|access[_-]?key|secret|token|password)[\"']?\s*[:=]\s*[\"'][^\s\"']{12,}[\"'])",
    # Without quotes, as in YAML: one word, up to the end of the line.
    r"(?im:^[ \t-]*\w*password:[ \t]+[^\s\"'<$({\[]{6,}[ \t]*$)",
    r"(?im:^[ \t-]*\w*(?:api[_-]?key|access[_-]?key|secret|token):[ \t]+(?=\S*\d)[^\s\"'<$({\[]{12,}[ \t]*$)",
]

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
MAX_SECONDS = 600
# Names of environment variables that the example must not see: settings of the Hub's client, and secrets.
_PRIVATE_VARIABLE = re.compile("^HF_|^HUGGING|^TRANSFORMERS_|TOKEN|SECRET|PASSWORD|CREDENTIAL|_KEY", re.IGNORECASE)
# Runs a program that cannot import this package, whether or not it is installed.
_WITHOUT_THIS_PACKAGE = """
import sys

class WithoutThisPackage:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] == "modeling_proformer":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, WithoutThisPackage)
exec(compile(sys.stdin.read(), "README.md", "exec"), {"__name__": "__main__"})
"""


def check_release(folder: str | os.PathLike, repo_id: str) -> dict[str, list[str]]:
    """
    Return the faults of a release folder.

    The contents are checked if every file can be read. The first example of the card runs, and with it the code in the
    release, if no other check found a fault.

    Args:
        folder: made by `write_release`.
        repo_id: repository on the Hub that the card's code opens the model from.

    Returns:
        the faults that each check found, by the name of the check.
    """
    folder = Path(folder)
    faults = {"files": list(_check_files(folder))}
    if not any(faults.values()):
        faults |= {name: list(check(folder)) for name, check in CHECKS.items()}
    if not any(faults.values()):
        faults["example"] = list(_check_example(folder, repo_id))
    return faults


def _check_files(folder: Path) -> Iterator[str]:
    """Every required file is there, and every file is of a permitted kind and can be read."""
    names = release_files(folder)
    yield from (f"{name} is missing." for name in _REQUIRED_FILES if name not in names)
    for name in names:
        if Path(name).suffix not in ENDINGS:
            yield f"{name}: a release holds only files that end in {', '.join(ENDINGS)}."
            continue
        try:
            _text_of(folder / name)
        except (ValueError, OSError, SafetensorError) as error:
            yield f"{name} cannot be read: {first_line(error)}"


def _text_of(path: Path) -> str:
    """
    Return the text in a file of a release: of weights, the text next to the numbers; of a picture, none.

    Raises:
        ValueError, OSError, SafetensorError: the file is not what its name says, or a picture's file holds more than
            its pixels.
    """
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as weights:
            return json.dumps(weights.metadata())
    if path.suffix == ".png":
        if path.read_bytes() != encode_pixels(path):
            raise ValueError("it holds more than its pixels; save the picture alone.")
        return ""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        json.loads(text)
    if path.name == CARD:
        read_card(path.parent)
    return text


def _check_code(folder: Path) -> Iterator[str]:
    """The code is this package's, complete and unchanged, and the configurations name it."""
    ours = _package_code()
    for file, setting in ((_CONFIG, "auto_map"), (_CONFIG, "custom_pipelines"), (_TOKENIZER_CONFIG, "auto_map")):
        classes = _named_classes(json.loads(_text_of(folder / file)).get(setting) or {})
        if not classes:
            yield f"{file} names no code ({setting}), so the model would not open without this package."
        for name in classes:
            if f"{name.rpartition('.')[0]}.py" not in ours:
                yield f"{file} names code that is not in this package ({setting}: {name})."
    present = {name for name in release_files(folder) if name.endswith(".py")}
    yield from (f"{name}, which opening the model needs, is missing." for name in sorted(ours.keys() - present))
    for name in sorted(present):
        if name not in ours:
            yield f"{name} is code that opening the model does not need."
        elif (folder / name).read_bytes() != ours[name].read_bytes():
            yield f"{name} differs from that of this package."


def _package_code() -> dict[str, Path]:
    """Return the files of this package that travel with a checkpoint, by their names."""
    entries = [pipeline_proformer.__file__, tokenization_proformer.__file__]
    files = map(Path, [*entries, *(file for entry in entries for file in get_relative_import_files(entry))])
    return {file.name: file for file in files}


def _named_classes(setting: Mapping[str, Any]) -> list[str]:
    """Return the classes, as "module.Class", that an `auto_map` or `custom_pipelines` names."""
    values = [value["impl"] if isinstance(value, dict) else value for value in setting.values()]
    return [name for value in values for name in _as_list(value) if name is not None]


def _as_list(value: Any) -> list:
    return value if isinstance(value, list) else [value]


def _check_weights(folder: Path) -> Iterator[str]:
    """All weights are float32."""
    for name in release_files(folder):
        if name.endswith(".safetensors"):
            for key, tensor in load_file(folder / name).items():
                if tensor.dtype != torch.float32:
                    yield f"{name}: {key} is {tensor.dtype}, not torch.float32."


def _check_paths(folder: Path) -> Iterator[str]:
    """No text names a folder of a machine."""
    for location, found in _find(_PATHS, folder):
        yield f"{location}: {found} is a path on a machine."


def _check_secrets(folder: Path) -> Iterator[str]:
    """No text holds a token, a key or a password."""
    for location, found in _find(_SECRETS, folder):
        yield f"{location}: {found[:6]}… looks like a secret; if it is one, revoke it."


def _find(patterns: list[str], folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the first match of each pattern in each text, after its location."""
    for name in release_files(folder):
        text = _text_of(folder / name)
        for found in filter(None, (re.search(pattern, text) for pattern in patterns)):
            line = 1 + text.count("\n", 0, found.start())
            yield f"{name}, line {line}", found[0]


def _check_card(folder: Path) -> Iterator[str]:
    """Nothing in the card is unfinished, and the files that it links to are there."""
    text = _text_of(folder / CARD)
    for number, line in enumerate(text.splitlines(), start=1):
        if found := _UNFINISHED.search(line):
            yield f"{CARD}, line {number}: {found[0]!r} must be replaced by what is true of this model."
    names = release_files(folder)
    for name in linked_files(text):
        if name not in names:
            advice = " Save it as PNG." if Path(name).suffix.lower() in _OTHER_PICTURES else ""
            yield f"{CARD} links to {name}, which is not in the release.{advice}"


def _check_metadata(folder: Path) -> Iterator[str]:
    """The card's metadata let people find and use the model. The Hub itself checks identifiers."""
    data = read_card(folder).data
    if data.license is None:
        yield f"{CARD} states no license: choose one that the data allow, such as `license='cc-by-4.0'`."
    elif data.license == "other" and not (data.get("license_name") and data.get("license_link")):
        yield f"{CARD}: the license 'other' needs license_name and license_link next to it."
    for name, expected in (("library_name", "transformers"), ("pipeline_tag", "text-classification")):
        if data.get(name) != expected:
            yield f"{CARD}: {name} should be {expected}, not {data.get(name)}."
    if data.language:
        yield f"{CARD}: DNA has no language; leave out {data.language!r}."
    if not data.tags:
        yield f"{CARD} has no tags, so people would not find the model."


def _check_results(folder: Path) -> Iterator[str]:
    """The results in the card's metadata are those of `metrics.json`, or without it, those of the card's text."""
    card = read_card(folder)
    stated = _values(card.data.eval_results or [])
    if not (folder / RECORD).is_file():
        numbers = set(map(float, _NUMBER.findall(card.text)))
        for name, value in stated.items():
            if value not in numbers:
                yield f"{CARD}: the metadata give {value} for {name}, but the text does not."
        return
    try:
        measured = _values(eval_results(json.loads(_text_of(folder / RECORD))))
    except (KeyError, TypeError, AttributeError) as error:
        yield f"{RECORD} is not as `finetune` writes it ({type(error).__name__} {first_line(error)})."
        return
    for name in sorted(measured.keys() | stated.keys()):
        if stated.get(name) != measured.get(name):
            yield f"{CARD}: the metadata give {stated.get(name)} for {name}, but {RECORD} {measured.get(name)}."


def _values(results: list[EvalResult]) -> dict[str, Any]:
    """Return the values of results by metric, table and split."""
    values = {}
    for result in results:
        split = f" ({result.dataset_split})" if result.dataset_split else ""
        values[f"{result.metric_name or result.metric_type} on {result.dataset_name}{split}"] = result.metric_value
    return values


def _check_example(folder: Path, repo_id: str) -> Iterator[str]:
    """The card's first example opens the model without this package, and prints what the card says."""
    blocks = FENCED.findall(_text_of(folder / CARD))
    first = next((number for number, (language, _) in enumerate(blocks) if language == "python"), len(blocks))
    if [language for language, _ in blocks[first : first + 2]] != ["python", "text"]:
        yield f"{CARD} needs an example: a block of python, then a block of text with what it prints."
        return
    (_, program), (_, expected) = blocks[first : first + 2]
    if repo_id not in program:
        rewritten = " Or delete the file, and it is written again." if "card_digest" in read_record(folder) else ""
        yield (
            f"{CARD}: its first example does not open {repo_id}. In the code, write {ANY_REPOSITORY} instead of the "
            f"model's name.{rewritten}"
        )
        return
    with tempfile.TemporaryDirectory() as temporary:
        # A folder of the repository's name stands for the repository. It is a copy, so that no file joins the release.
        work = Path(temporary) / "work"
        shutil.copytree(folder, work / repo_id)
        environment = {name: value for name, value in os.environ.items() if not _PRIVATE_VARIABLE.search(name)}
        environment |= {"HF_HOME": temporary, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONUTF8": "1"}
        try:
            process = subprocess.run(
                [sys.executable, "-P", "-c", _WITHOUT_THIS_PACKAGE],
                input=program,
                cwd=work,
                env=environment,
                capture_output=True,
                encoding="utf-8",
                timeout=MAX_SECONDS,
            )
        except subprocess.TimeoutExpired:
            yield f"{CARD}: its first example did not end within {MAX_SECONDS} seconds."
            return
    if process.returncode:
        reason = (process.stderr.splitlines() or [f"exit code {process.returncode}"])[-1]
        yield f"{CARD}: without this package, its first example ends in {reason}"
    elif not same_output(process.stdout, expected):
        yield f"{CARD}: its first example prints {process.stdout.strip()!r}, not {expected.strip()!r}."


def same_output(printed: str, expected: str, tolerance: float = 1e-5) -> bool:
    """Return whether two texts are the same but for spaces and, within a tolerance, numbers."""
    words = [_NUMBER.sub("#", text).split() for text in (printed, expected)]
    numbers = [map(float, _NUMBER.findall(text)) for text in (printed, expected)]
    # The relative tolerance is the precision of large numbers in float32.
    return words[0] == words[1] and all(
        math.isclose(*pair, abs_tol=tolerance, rel_tol=1e-6) for pair in zip(*numbers, strict=True)
    )


#: The checks of the contents, in the order in which they report.
CHECKS = {
    "code": _check_code,
    "weights": _check_weights,
    "paths": _check_paths,
    "secrets": _check_secrets,
    "card": _check_card,
    "metadata": _check_metadata,
    "results": _check_results,
}

__all__ = ["CHECKS", "check_release", "same_output"]
