"""Each check of a release finds its own faults, and no other check does."""

import json
import re
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from releases import REPO, append, in_card, with_own_card, with_weights

from modeling_proformer.hub.checks import _check_paths, _check_secrets, check_release, same_output
from modeling_proformer.hub.release import write_release


# In two pieces, so that nothing takes these lines for secrets.
TOKEN, KEY = "hf_" + "aB3" * 11, "-----BEGIN RSA PRIVATE" + " KEY-----"


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def write(name: str, content: bytes | str) -> Callable[[Path], None]:
    content = content if isinstance(content, bytes) else content.encode()
    return lambda folder: (folder / name).write_bytes(content)


def halved(weights: dict) -> dict:
    return {name: value.half() if "dense.bias" in name else value for name, value in weights.items()}


def append_bytes(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes() + content)


def chunk(kind: bytes, content: bytes) -> bytes:
    """Return a chunk of a PNG."""
    return len(content).to_bytes(4) + kind + content + zlib.crc32(kind + content).to_bytes(4)


def in_figure(kind: bytes, content: bytes = b"/home/jane") -> Callable[[Path], None]:
    """Insert a chunk after the header of the picture, which has 8 + 12 + 13 bytes."""

    def spoil(folder: Path):
        figure = folder / "scatter.png"
        png = figure.read_bytes()
        figure.write_bytes(png[:33] + chunk(kind, content) + png[33:])

    return spoil


def with_full_end(folder: Path):
    figure = folder / "scatter.png"
    figure.write_bytes(figure.read_bytes()[:-12] + chunk(b"IEND", TOKEN.encode()))


def with_class_in(prefix: str) -> Callable[[Path], None]:
    """Make the configuration name a class in another module or repository."""

    def spoil(folder: Path):
        config = json.loads((folder / "config.json").read_text())
        name = config["auto_map"]["AutoModel"]
        config["auto_map"]["AutoModel"] = prefix + name.rpartition(".")[2]
        (folder / "config.json").write_text(json.dumps(config))

    return spoil


def without(file: str, setting: str) -> Callable[[Path], None]:
    def spoil(folder: Path):
        settings = json.loads((folder / file).read_text())
        del settings[setting]
        (folder / file).write_text(json.dumps(settings))

    return spoil


MORE_THAN_PIXELS = "scatter.png cannot be read: it holds more than its pixels"
FAULTS = [
    ("files", write("pytorch_model.bin", b"\x80\x04."), "pytorch_model.bin: a release holds only"),
    ("files", write("weights.npy", b"\x93NUMPY"), "weights.npy: a release holds only"),
    ("files", write(".env", "A=1"), ".env: a release holds only"),
    ("files", write("metrics.json", b"\x80\x04\x95."), "metrics.json cannot be read"),
    ("files", write("metrics.json", "{"), "metrics.json cannot be read"),
    ("files", write("scatter.png", b"\x80\x04\x95."), "scatter.png cannot be read"),
    ("files", append_bytes("scatter.png", b"/home/jane"), MORE_THAN_PIXELS),
    ("files", append_bytes("scatter.png", chunk(b"IEND", b"")), MORE_THAN_PIXELS),
    ("files", with_full_end, MORE_THAN_PIXELS),
    *[
        ("files", in_figure(kind), MORE_THAN_PIXELS)
        for kind in (b"tEXt", b"eXIf", b"pHYs", b"prVt")
    ],
    ("files", write("scatter.jpg", b"\xff\xd8\xff\xd9"), "scatter.jpg: a release holds only files that"),
    ("files", write("model.safetensors", b"\x80\x04\x95."), "model.safetensors cannot be read"),
    ("files", remove("tokenizer_config.json"), "tokenizer_config.json is missing"),
    ("files", in_card("tags:", "tags: [a"), r"README.md cannot be read: .*line \d+"),
    ("code", append("modeling_proformer.py", "\n# later\n"), "modeling_proformer.py differs"),
    ("code", append("intervals.py", "\n# later\n"), "intervals.py differs"),
    ("code", remove("intervals.py"), "intervals.py, which opening the model needs, is missing"),
    ("code", write("setup.py", "import os\n"), "setup.py is code that opening the model does not need"),
    ("code", without("config.json", "auto_map"), r"config.json names no code \(auto_map\)"),
    ("code", without("config.json", "custom_pipelines"), r"config.json names no code \(custom_pipelines\)"),
    ("code", without("tokenizer_config.json", "auto_map"), r"tokenizer_config.json names no code"),
    ("code", with_class_in("elsewhere/other--modeling_proformer."), "names code that is not in this package"),
    ("weights", with_weights(halved), "expression_head.dense.bias is torch.float16, not torch.float32"),
    ("paths", append("predictions.tsv", "/home/jane/leaf.tsv\t1\n"), "predictions.tsv, line 3: /home/jane/leaf.tsv"),
    ("paths", write("log.json", json.dumps({"from": "C:\\Users\\jane\\leaf.tsv"})), r"log.json, line 1: C:"),
    ("paths", append("README.md", "Trained in `/scratch/jane`.\n"), r"README.md, line \d+: /scratch/jane is"),
    ("paths", append("README.md", "See file:///Volumes/leaf.\n"), r"README.md, line \d+: file:///Volumes"),
    ("paths", append("README.md", r"See \\leaves\jane$\leaf.tsv."), r"README.md, line \d+: \\\\leaves\\jane\$"),
    ("paths", append("README.md", r"See \\wsl$\Ubuntu\home\jane."), r"README.md, line \d+: \\\\wsl\$\\Ubuntu\\home"),
    ("paths", write("log.json", json.dumps({"from": r"\\10.0.0.1\jane\x"})), r"log.json, line 1: \\{4}10.0.0.1"),
    ("paths", append("README.md", "Trained in `~/leaf`.\n"), r"README.md, line \d+: ~/leaf is"),
    ("paths", append("README.md", "Trained in `~jane/leaf`.\n"), r"README.md, line \d+: ~jane/leaf is"),
    ("paths", append("README.md", "Trained in $HOME/leaf.\n"), r"README.md, line \d+: \$HOME/leaf"),
    ("paths", write("log.json", '{"from": "${HOME}/leaf"}'), r"log.json, line 1: \${HOME}/leaf is"),
    ("paths", with_weights(dict, {"from": "/mnt/data/run"}), "model.safetensors, line 1: /mnt/data/run is"),
    ("secrets", write("log.txt", "AWS_SECRET_ACCESS_KEY=" + "wJalrXUtnFEMI"), "log.txt, line 1: AWS_SE…"),
    ("secrets", write("log.txt", "https://jane:" + "hunter2hunter2@leaf.org"), "log.txt, line 1: ://jan…"),
    ("secrets", write("log.json", json.dumps({"hub": TOKEN})), r"log.json, line 1: hf_aB3… looks like a secret"),
    ("secrets", append("README.md", "AKIA" + "A1B2C3D4" * 2), r"README.md, line \d+: AKIAA1…"),
    ("secrets", write("key.txt", KEY), "key.txt, line 1: -----B…"),
    ("secrets", write("log.json", '{"api_key": "' + "0123456789abcdef" + '"}'), "log.json, line 1: api_ke…"),
    ("secrets", write("log.txt", "Authorization: Bearer " + "0123456789abcdef"), "log.txt, line 1: Bearer…"),
    ("secrets", write("log.txt", "eyJ" + "hbGciOiJIUzI1Ni.eyJ" + "zdWIiOiJqYW5lIn0.c2"), "log.txt, line 1: eyJhbG…"),
    ("secrets", write("log.txt", "npm" + "_" + "aB3" * 12), "log.txt, line 1: npm_aB…"),
    ("secrets", write("log.txt", "sk" + "_live_" + "aB3" * 8), "log.txt, line 1: sk_liv…"),
    ("secrets", write("log.txt", "sk" + "-proj-" + "aB3-" + "aB3" * 8), "log.txt, line 1: sk-pro…"),
    ("secrets", write("log.txt", "user: jane\n  password: " + "correcthorse"), "log.txt, line 2"),
    ("secrets", write("log.txt", "wandb_api_key: " + "0123456789abcdef"), "log.txt, line 1: wandb_…"),
    ("card", append("README.md", "[More Information Needed]\n"), r"line \d+: '\[More Information Needed\]'"),
    ("card", append("README.md", "TODO\n"), r"line \d+: 'TODO' must be replaced"),
    ("card", append("README.md", "By {{ author }}.\n"), r"line \d+: '{{' must be replaced"),
    ("card", append("README.md", "No licence is stated yet: ...\n"), "'No licence is stated yet' must be replaced"),
    ("card", remove("scatter.png"), "links to scatter.png, which is not in the release"),
    ("card", append("README.md", '<img src="../curve.png">\n'), r"links to ../curve.png, which is not .* release\.$"),
    ("card", append("README.md", "![A](a.jpg)\n"), r"a.jpg, which is not in the release\. Save it as PNG"),
    ("metadata", in_card("license: cc-by-4.0\n", ""), "states no license"),
    ("metadata", in_card("license: cc-by-4.0", "license: other"), "needs license_name and license_link"),
    ("metadata", in_card("license:", "language: en\nlicense:"), "DNA has no language"),
    ("metadata", in_card("library_name: transformers", "library_name: keras"), "should be transformers, not keras"),
    ("metadata", in_card("pipeline_tag: text-classification\n", ""), "should be text-classification, not None"),
    ("results", in_card("value: 0.8765", "value: 0.9765"), "give 0.9765 for Pearson r of leaf .*metrics.json 0.8765"),
    ("results", write("metrics.json", "{}"), r"metrics.json is not as .* \(KeyError"),
    ("example", in_card("```text", "```"), "needs an example"),
    ("example", in_card(f'model="{REPO}"', 'model="gpt2"'), f"does not open {REPO}"),
    ("example", in_card("from transformers import", "import modeling_proformer\nfrom transformers import"),
     "ends in ModuleNotFoundError: No module named 'modeling_proformer'"),
    ("example", in_card("from transformers import", f'print("leaf 1")  # {REPO}\nraise SystemExit\nfrom x import'),
     r"prints 'leaf 1', not 'leaf value [\d.]+'"),
]  # fmt: skip


@pytest.mark.parametrize(("check", "spoil", "message"), FAULTS)
def test_each_check_finds_its_faults_and_no_other_does(release, check, spoil, message):
    spoil(release)
    faults = check_release(release, REPO)
    assert [name for name, found in faults.items() if found] == [check]
    assert any(re.search(message, fault) for fault in faults[check]), faults[check]
    assert not any(TOKEN in fault for found in faults.values() for fault in found)


def test_other_text_is_not_taken_for_a_path(release):
    lines = [
        "[Jane](https://leaf.org/~jane/leaf)",
        "~5/6 of them, ~~and/or~~ and about ~ 3/4",
        r"$\\alpha$, `\d+\w`, a\\b",
        "measured/predicted and data/leaf.tsv",
        "5:1, 3'/5', A/C",
        "ratio ~high/low and about ~kb/min",
        r"$\\alpha\beta$ and \\begin\foo",
        "\\n\n and $HOMER/x",
    ]
    append("README.md", "\n".join(lines))(release)
    write("log.json", json.dumps(lines))(release)
    assert not list(_check_paths(release))


def test_other_text_is_not_taken_for_a_secret(release):
    lines = [
        "sk-learn-based-regression-model and sk-learn-based-regression-model-v2",
        "Secret: its name alone",
        "token: classification",
        "password: ${PASSWORD}",
        "the bearer understandably-unhappy",
    ]
    append("README.md", "\n".join(lines))(release)
    write("log.json", json.dumps(lines))(release)
    assert not list(_check_secrets(release))


def test_all_faults_are_reported_at_once(release):
    append("README.md", "TODO /home/jane/x\n")(release)
    with_weights(halved)(release)
    faults = check_release(release, REPO)
    assert [name for name, found in faults.items() if found] == ["weights", "paths", "card"]
    # No code runs as long as there are other faults.
    assert "example" not in faults


def test_without_a_record_the_results_are_those_of_the_cards_text(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "leaf")
    with_own_card(folder)
    write_release(folder, tmp_path / "release", REPO, "mit")
    in_card("value: 0.8765", "value: 0.877")(tmp_path / "release")
    faults = check_release(tmp_path / "release", REPO)
    assert [name for name, found in faults.items() if found] == ["results"]
    assert faults["results"] == [
        "README.md: the metadata give 0.877 for Pearson r on leaf table, but the text does not."
    ]


@pytest.mark.parametrize(
    ("expected", "same"),
    [
        ("leaf 7.12346", True),
        ("leaf  7.123455\n", True),
        ("leaf 7.1235", False),
        ("root 7.123456", False),
        ("leaf", False),
    ],
)
def test_what_an_example_prints_is_compared_to_1e_5(expected, same):
    assert same_output("leaf 7.123456\n", expected) == same
