"""What a release must pass before it is uploaded: complete and true without this package, and safe to open."""

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
from urllib.parse import unquote

import yaml
from huggingface_hub import EvalResult, ModelCard
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from PIL import Image
from safetensors import SafetensorError, safe_open
from transformers.dynamic_module_utils import get_relative_imports

from .. import tokenization
from ..data.tables import InputError, first_line
from ..evaluation.cards import eval_results


CARD, CONFIG, TOKENIZER_CONFIG, METRICS = "README.md", "config.json", "tokenizer_config.json", "metrics.json"
NEEDED = (CARD, CONFIG, TOKENIZER_CONFIG, "model.safetensors")

# Kinds of file that a release may hold, by their endings, and the most bytes of one. None of them runs code when it is
# opened; code itself must be this package's.
LIMITS = {
    ".md": 1e6,
    ".py": 1e6,
    ".txt": 1e6,
    ".png": 5e6,
    ".json": 1e8,
    ".tsv": 1e8,
    ".csv": 1e8,
    ".safetensors": 5e9,
}
OTHER_PICTURES = (".jpg", ".jpeg", ".gif", ".webp", ".svg")
# The parts of a PNG that are its picture; all others tell something beside it.
PICTURE_CHUNKS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}

# https://huggingface.co/docs/hub/repositories-licenses, without "unknown" and those of other models.
LICENSES = {
    "apache-2.0", "mit", "openrail", "bigscience-openrail-m", "creativeml-openrail-m", "bigscience-bloom-rail-1.0",
    "bigcode-openrail-m", "afl-3.0", "artistic-2.0", "bsl-1.0", "bsd", "bsd-2-clause", "bsd-3-clause",
    "bsd-3-clause-clear", "c-uda", "cc", "cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0",
    "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-3.0",
    "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cdla-sharing-1.0",
    "cdla-permissive-1.0", "cdla-permissive-2.0", "wtfpl", "ecl-2.0", "epl-1.0", "epl-2.0", "etalab-2.0", "eupl-1.1",
    "agpl-3.0", "gfdl", "gpl", "gpl-2.0", "gpl-3.0", "lgpl", "lgpl-2.1", "lgpl-3.0", "isc", "lppl-1.3c", "ms-pl",
    "mpl-2.0", "odc-by", "odbl", "openrail++", "osl-3.0", "postgresql", "ofl-1.1", "ncsa", "unlicense", "zlib", "pddl",
    "other",
}  # fmt: skip

# What a card says until somebody has said better.
UNLICENSED = "No licence is stated yet"
PLACEHOLDERS = [UNLICENSED, r"\[More Information Needed\]", r"\bTODO\b", r"\bTBD\b", r"\{\{", r"\{%"]

PATHS = [
    # Two parts or more, such as /home/somebody, that are neither of an address nor the end of a relative path.
    r"(?<![\w./~-])/[\w.+-]+(?:/[\w.+-]+)+",
    r"file:/+\S+",
    # Folders that hold somebody's own, alone as well.
    r"(?<![\w.:/~-])/(?:home|mnt|root|scratch|Users)\b",
    # Letter of a drive; a backslash is written twice in JSON.
    r"(?<![A-Za-z])[A-Za-z]:(?:/|\\{1,2})\w[^\s\"']*",
    # Host, share and more, as a server shares a folder; its backslashes are written twice in JSON, too.
    r"(?<!\\)(\\{1,2})\1[\w.$-]{2,}\1[\w.$-]{2,}\1\w[\w.$-]*",
    # The home folder; that of a named user only in quotes, as elsewhere "~high/low" is about a ratio.
    r"(?:(?<![\w~/])~|\$HOME|\$\{HOME\}|(?<=[\"'`])~[a-z_][\w.-]*)/[\w.][^\s\"'`]*",
]
SECRETS = [
    r"hf_[A-Za-z0-9]{20,}",
    r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    r"-----BEGIN [A-Z ]*PRIVATE KEY",
    r"gh[pousr]_[A-Za-z0-9]{30,}",
    r"github_pat_\w{30,}",
    r"glpat-[\w-]{20,}",
    r"\bxox[abprs]-[\w-]{10,}",
    # Not a name of words and hyphens.
    r"\bsk-[\w-]*?(?=\w*\d)\w{20,}",
    r"\b[sr]k_live_[A-Za-z0-9]{16,}",
    r"\bnpm_[A-Za-z0-9]{30,}",
    r"\beyJ[\w-]{8,}\.eyJ[\w-]{8,}",
    r"(?i:\bbearer\s+)(?=\S*\d)[\w.~+/=-]{16,}",
    r"AIza[\w-]{35}",
    r"://[^\s/:@]+:[^\s/@]{6,}@",
    r"\b[A-Z0-9_]*(?:API_?KEY|ACCESS_?KEY|SECRET|TOKEN|PASSWORD)[A-Z0-9_]*=[^\s\"'<$(]{12,}",
    r"(?i:\b(?:api[_-]?key|access[_-]?key|secret|token|password)[\"']?\s*[:=]\s*[\"'][^\s\"']{12,}[\"'])",
    # Without quotes, as in YAML: one word, to the end of the line.
    r"(?im:^[ \t-]*\w*password:[ \t]+[^\s\"'<$({\[]{6,}[ \t]*$)",
    r"(?im:^[ \t-]*\w*(?:api[_-]?key|access[_-]?key|secret|token):[ \t]+(?=\S*\d)[^\s\"'<$({\[]{12,}[ \t]*$)",
]

FENCED = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```[^\S\n]*$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(\s*<?([^)>\s]+)|^\[[^\]]+\]:\s*(\S+)|\b(?:src|href)=\"([^\"]+)\"", re.MULTILINE)
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
# Of what an example prints; the second is what float32 can tell of large numbers.
TOLERANCE = {"abs_tol": 1e-5, "rel_tol": 1e-6}
MOST_SECONDS = 600

# Runs a program where this package cannot be imported, installed or not.
WITHOUT_THE_PACKAGE = """
import sys

class WithoutThePackage:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] == "modeling_proformer":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, WithoutThePackage)
exec(compile(sys.stdin.read(), "README.md", "exec"), {"__name__": "__main__"})
"""


def check_release(folder: str | os.PathLike, repo_id: str) -> dict[str, list[str]]:
    """
    What is wrong with a release folder. What its files say is looked at if each can be read, and the first example of
    its card is run, and with it its code, if all else is well.

    Args:
        folder: as `write_release` makes it.
        repo_id: the repository on the Hub that it is for, by which its card calls the model.

    Returns:
        the faults that each check found, by the check's name.
    """
    folder = Path(folder)
    faults = {"files": list(file_faults(folder))}
    if not any(faults.values()):
        faults |= {name: list(check(folder)) for name, check in CHECKS.items()}
    if not any(faults.values()):
        faults["example"] = list(example_faults(folder, repo_id))
    return faults


def file_faults(folder: Path) -> Iterator[str]:
    """Every file is of a kind that a release may hold, not too large, and what its name says."""
    names = release_files(folder)
    yield from (f"{name} is missing." for name in NEEDED if name not in names)
    for name in names:
        path = folder / name
        if path.suffix not in LIMITS:
            yield f"{name}: a release holds only files that end in {', '.join(LIMITS)}."
        elif path.stat().st_size > LIMITS[path.suffix]:
            yield f"{name} has {path.stat().st_size:,} bytes; {LIMITS[path.suffix]:,.0f} are the most for its kind."
        else:
            try:
                text_in(path)
            except (ValueError, OSError, SafetensorError, Image.DecompressionBombError) as error:
                yield f"{name} cannot be read: {first_line(error)}"


def code_faults(folder: Path) -> Iterator[str]:
    """All the code that the configurations name, and that it imports, is there and is this package's; no other is."""
    named = set()
    for file, setting in ((CONFIG, "auto_map"), (CONFIG, "custom_pipelines"), (TOKENIZER_CONFIG, "auto_map")):
        classes = list(named_classes(json.loads(text_in(folder / file)).get(setting) or {}))
        if not classes:
            yield f"{file} names no code ({setting}): without this package, the model would not open."
        named |= {f"{name.rpartition('.')[0]}.py" for name in classes}
    needed = with_imports(folder, named)
    folders = (Path(__file__).parents[1], Path(tokenization.__file__).parent)
    ours = {path.name: path for parent in folders for path in parent.glob("*.py")}
    for name in sorted(needed | {name for name in release_files(folder) if name.endswith(".py")}):
        if not (folder / name).is_file():
            yield f"{name}, which opening the model needs, is missing."
        elif name not in needed:
            yield f"{name} is code that opening the model does not need."
        elif name not in ours or (folder / name).read_bytes() != ours[name].read_bytes():
            yield f"{name} differs from that of this package."


def named_classes(setting: Mapping[str, Any]) -> Iterator[str]:
    """The classes, as "module.Class", that an `auto_map` or `custom_pipelines` names."""
    for value in setting.values():
        names = value["impl"] if isinstance(value, dict) else value
        yield from (name for name in listed(names) if name is not None)


def with_imports(folder: Path, files: set[str]) -> set[str]:
    """Files of code, and those beside them that they import, and these in their turn."""
    found, unread = set(), files
    while unread:
        found |= unread
        present = [folder / file for file in unread if (folder / file).is_file()]
        unread = {f"{module}.py" for path in present for module in get_relative_imports(path)} - found
    return found


def weight_faults(folder: Path) -> Iterator[str]:
    """All weights are float32."""
    for name in release_files(folder):
        if name.endswith(".safetensors"):
            with safe_open(folder / name, framework="pt") as weights:
                kinds = {key: weights.get_slice(key).get_dtype() for key in weights.keys()}  # noqa: SIM118
            yield from (f"{name}: {key} is {kind}, not float32." for key, kind in kinds.items() if kind != "F32")


def path_faults(folder: Path) -> Iterator[str]:
    """No text tells of a folder on somebody's machine."""
    for place, found in matches(folder, PATHS):
        yield f"{place}: {found} is a path on a machine."


def secret_faults(folder: Path) -> Iterator[str]:
    """No text holds a token, a key or a password."""
    for place, found in matches(folder, SECRETS):
        yield f"{place}: {found[:6]}… looks like a secret; if it is one, revoke it."


def matches(folder: Path, patterns: list[str]) -> Iterator[tuple[str, str]]:
    """Where each text first matches each pattern, and what does."""
    for name in release_files(folder):
        text = text_in(folder / name)
        for found in filter(None, (re.search(pattern, text) for pattern in patterns)):
            line = 1 + text.count("\n", 0, found.start())
            yield f"{name}, line {line}", found[0]


def card_faults(folder: Path) -> Iterator[str]:
    """The card has no placeholders left, and what it links to is there."""
    text = text_in(folder / CARD)
    for number, line in enumerate(text.splitlines(), start=1):
        if found := re.search("|".join(PLACEHOLDERS), line):
            yield f"{CARD}, line {number}: {found[0]!r} stands for what is still to be said."
    names = release_files(folder)
    for name in linked(text):
        if name not in names:
            advice = " Save it as PNG." if Path(name).suffix.lower() in OTHER_PICTURES else ""
            yield f"{CARD} links to {name}, which is not in the release.{advice}"


def metadata_faults(folder: Path) -> Iterator[str]:
    """The card's metadata are such as the Hub knows, and enough for the model to be found and used rightly."""
    data = read_card(folder).data
    if data.license is None:
        yield f"{CARD} states no license: choose one that the data allow, such as --license cc-by-4.0."
    elif data.license not in LICENSES:
        yield f"{CARD}: {data.license!r} is no license of https://huggingface.co/docs/hub/repositories-licenses."
    elif data.license == "other" and not (data.get("license_name") and data.get("license_link")):
        yield f"{CARD}: the license 'other' needs license_name and license_link beside it."
    for name, expected in (("library_name", "transformers"), ("pipeline_tag", "text-classification")):
        if data.get(name) != expected:
            yield f"{CARD}: {name} should be {expected}, not {data.get(name)}."
    if data.language:
        yield f"{CARD}: DNA has no language; leave out {data.language!r}."
    if not data.tags:
        yield f"{CARD} has no tags, by which the model would be found."
    for name in ("datasets", "base_model"):
        for repo_id in listed(data.get(name)):
            try:
                validate_repo_id(repo_id)
            except HFValidationError:
                yield f"{CARD}, {name}: {repo_id!r} is not the name of a repository on the Hub."


def listed(value: Any) -> list:
    """What may be given as one value, as a list or not at all."""
    return [] if value is None else value if isinstance(value, list) else [value]


def result_faults(folder: Path) -> Iterator[str]:
    """The results in the card's metadata are those of `metrics.json`; without it, those that the card's text tells."""
    card = read_card(folder)
    claimed = by_name(card.data.eval_results or [])
    if not (folder / METRICS).is_file():
        for name, value in claimed.items():
            if not any(rounds_to(value, number) for number in NUMBER.findall(card.text)):
                yield f"{CARD}: the metadata tell {value!r} for {name}, its text does not."
        return
    try:
        measured = by_name(eval_results(json.loads(text_in(folder / METRICS))))
    except (KeyError, TypeError, AttributeError) as error:
        yield f"{METRICS} is not as `proformer finetune` writes it ({type(error).__name__} {first_line(error)})."
        return
    for name in sorted(measured.keys() | claimed.keys()):
        values = [results.get(name) for results in (claimed, measured)]
        if values[0] != values[1]:
            yield f"{CARD}: the metadata tell {values[0]} for {name}, {METRICS} {values[1]}."


def by_name(results: list[EvalResult]) -> dict[str, Any]:
    """The value of each metric of each table."""
    named = {}
    for result in results:
        metric, side = result.metric_name or result.metric_type, result.dataset_split
        named[f"{metric} on {result.dataset_name}{f' ({side})' if side else ''}"] = result.metric_value
    return named


def rounds_to(value: Any, number: str) -> bool:
    """Whether a number in a text tells a value, to three digits after the point or more."""
    decimals = len(number.partition(".")[2])
    return isinstance(value, int | float) and (
        float(number) == value or (decimals > 2 and abs(float(number) - value) <= 0.5001 * 10**-decimals)
    )


def example_faults(folder: Path, repo_id: str) -> Iterator[str]:
    """The card's first example opens the model without this package, and prints what the card says."""
    blocks = FENCED.findall(text_in(folder / CARD))
    first = next((place for place, (language, _) in enumerate(blocks) if language == "python"), len(blocks))
    if [language for language, _ in blocks[first : first + 2]] != ["python", "text"]:
        yield f"{CARD} needs an example: a block of python, and after it a block of text with what it prints."
        return
    (_, program), (_, told) = blocks[first : first + 2]
    if repo_id not in program:
        yield f"{CARD}: its first example does not open {repo_id}."
        return
    with tempfile.TemporaryDirectory() as temporary:
        # A folder of the repository's name stands for the repository; a copy, so that nothing gets into the release.
        work = Path(temporary) / "work"
        shutil.copytree(folder, work / repo_id)
        # Without settings of the Hub and its cache, and without what may be a secret.
        private = re.compile("^HF_|^HUGGING|^TRANSFORMERS_|TOKEN|SECRET|PASSWORD|CREDENTIAL|_KEY", re.IGNORECASE)
        environment = {name: value for name, value in os.environ.items() if not private.search(name)}
        environment |= {"HF_HOME": temporary, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONUTF8": "1"}
        try:
            process = subprocess.run(
                [sys.executable, "-P", "-c", WITHOUT_THE_PACKAGE],
                input=program,
                cwd=work,
                env=environment,
                capture_output=True,
                encoding="utf-8",
                timeout=MOST_SECONDS,
            )
        except subprocess.TimeoutExpired:
            yield f"{CARD}: its first example was not done within {MOST_SECONDS} seconds."
            return
    if process.returncode:
        reason = (process.stderr.splitlines() or [f"exit code {process.returncode}"])[-1]
        yield f"{CARD}: without this package, its first example ends in {reason}"
    elif not same_output(process.stdout, told):
        yield f"{CARD}: its first example prints {process.stdout.strip()!r}, and not {told.strip()!r}."


def same_output(printed: str, told: str) -> bool:
    """Whether two texts are the same but for spaces and, within the tolerance, numbers."""
    words = [NUMBER.sub("#", text).split() for text in (printed, told)]
    numbers = [map(float, NUMBER.findall(text)) for text in (printed, told)]
    return words[0] == words[1] and all(math.isclose(*pair, **TOLERANCE) for pair in zip(*numbers, strict=True))


#: In the order in which they are told.
CHECKS = {
    "code": code_faults,
    "weights": weight_faults,
    "paths": path_faults,
    "secrets": secret_faults,
    "card": card_faults,
    "metadata": metadata_faults,
    "results": result_faults,
}


def release_files(folder: Path) -> list[str]:
    """Paths of the files in a folder, relative to it."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def text_in(path: Path) -> str:
    """
    The text in a file of a release: of weights what lies beside the numbers. Beside a picture there is none.

    Raises:
        ValueError, OSError, SafetensorError, Image.DecompressionBombError: the file is not what its name says, or
            something lies beside its picture.
    """
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as weights:
            return json.dumps(weights.metadata())
    if path.suffix == ".png":
        with Image.open(path, formats=["PNG"]) as image:
            image.load()
        require_picture_alone(path.read_bytes())
        return ""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        json.loads(text)
    if path.name == CARD:
        read_card(path.parent)
    return text


def require_picture_alone(png: bytes):
    """
    Raises:
        ValueError: a PNG holds more than its picture, such as notes on where and when it was made.
    """
    # After a signature of 8 bytes, each chunk is its length in 4 bytes, its kind in 4, so many bytes, and a checksum.
    start, kinds = 8, []
    while start < len(png) and b"IEND" not in kinds:
        kinds.append(png[start + 4 : start + 8])
        start += 12 + int.from_bytes(png[start : start + 4])
    if beside := sorted(set(kinds) - PICTURE_CHUNKS):
        names = ", ".join(kind.decode("ascii", "backslashreplace") for kind in beside)
        raise ValueError(f"it holds {names} beside its picture; save the picture alone.")
    if start != len(png) or not png.endswith(b"\0\0\0\0IEND\xaeB`\x82"):
        raise ValueError("it does not end where its picture does; save the picture alone.")


def read_card(folder: Path) -> ModelCard:
    """
    Raises:
        InputError: there is no card, or its metadata cannot be read.
    """
    path = folder / CARD
    if not path.is_file():
        raise InputError(f"{path}: there is no model card; `proformer finetune` and examples/train.py write one.")
    try:
        return ModelCard.load(path)
    except (yaml.YAMLError, ValueError, KeyError, TypeError) as error:
        mark = getattr(error, "problem_mark", None)
        # The line of dashes is the first, and the parser counts from 0.
        place = "" if mark is None else f", line {mark.line + 2}"
        reason = getattr(error, "problem", None) or first_line(error)
        raise InputError(f"{path}{place}: the metadata between the lines of dashes are not valid: {reason}") from error


def linked(text: str) -> list[str]:
    """Files that a card links to, images included, but no addresses."""
    targets = ("".join(found) for found in LINK.findall(FENCED.sub("", text)))
    files = (unquote(target.partition("#")[0]) for target in targets if not re.match(r"[a-zA-Z][\w+.-]*:|//", target))
    return list(dict.fromkeys(file for file in files if file))


__all__ = ["CHECKS", "check_release"]
