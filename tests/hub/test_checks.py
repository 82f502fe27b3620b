"""The checks of a release: each finds its faults, and nothing else does."""

import json
import re
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from releases import REPO, append, in_card, with_weights

from modeling_proformer.hub.checks import check_release, path_faults, rounds_to, same_output, secret_faults


pytest_plugins = ["releases"]  # for the checkpoint and its release


# Not written in one piece, lest these lines themselves are taken for secrets.
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
    """Of a PNG."""
    return len(content).to_bytes(4) + kind + content + zlib.crc32(kind + content).to_bytes(4)


def in_figure(kind: bytes, content: bytes = b"/home/jane") -> Callable[[Path], None]:
    """A chunk behind the header of the picture, which has 8 + 12 + 13 bytes."""

    def spoil(folder: Path):
        figure = folder / "figures" / "scatter.png"
        png = figure.read_bytes()
        figure.write_bytes(png[:33] + chunk(kind, content) + png[33:])

    return spoil


def with_full_end(folder: Path):
    figure = folder / "figures" / "scatter.png"
    figure.write_bytes(figure.read_bytes()[:-12] + chunk(b"IEND", TOKEN.encode()))


def without(file: str, setting: str) -> Callable[[Path], None]:
    def spoil(folder: Path):
        settings = json.loads((folder / file).read_text())
        del settings[setting]
        (folder / file).write_text(json.dumps(settings))

    return spoil


FAULTS = [
    ("files", write("pytorch_model.bin", b"\x80\x04."), "pytorch_model.bin: a release holds only"),
    ("files", write("weights.npy", b"\x93NUMPY"), "weights.npy: a release holds only"),
    ("files", write(".env", "A=1"), ".env: a release holds only"),
    ("files", write("metrics.json", b"\x80\x04\x95."), "metrics.json cannot be read"),
    ("files", write("metrics.json", "{"), "metrics.json cannot be read"),
    ("files", write("figures/scatter.png", b"\x80\x04\x95."), "figures/scatter.png cannot be read"),
    ("files", append_bytes("figures/scatter.png", b"/home/jane"), "scatter.png cannot be read: it does not end where"),
    ("files", append_bytes("figures/scatter.png", chunk(b"IEND", b"")), "scatter.png cannot be read: it does not end"),
    ("files", with_full_end, "scatter.png cannot be read: it does not end where its picture does"),
    *[
        ("files", in_figure(kind), f"scatter.png cannot be read: it holds {kind.decode()} beside its picture")
        for kind in (b"tEXt", b"eXIf", b"pHYs", b"prVt")
    ],
    ("files", write("figures/scatter.jpg", b"\xff\xd8\xff\xd9"), "scatter.jpg: a release holds only files that"),
    ("files", write("model.safetensors", b"\x80\x04\x95."), "model.safetensors cannot be read"),
    ("files", append("README.md", "long " * 200_001), r"README.md has 1,00\d,\d+ bytes; 1,000,000 are the most"),
    ("files", remove("tokenizer_config.json"), "tokenizer_config.json is missing"),
    ("files", in_card("tags:", "tags: [a"), r"README.md cannot be read: .*line \d+"),
    ("code", append("modeling_proformer.py", "\n# later\n"), "modeling_proformer.py differs"),
    ("code", append("intervals.py", "\n# later\n"), "intervals.py differs"),
    ("code", remove("intervals.py"), "intervals.py, which opening the model needs, is missing"),
    ("code", write("setup.py", "import os\n"), "setup.py is code that opening the model does not need"),
    ("code", without("config.json", "auto_map"), r"config.json names no code \(auto_map\)"),
    ("code", without("config.json", "custom_pipelines"), r"config.json names no code \(custom_pipelines\)"),
    ("code", without("tokenizer_config.json", "auto_map"), r"tokenizer_config.json names no code"),
    ("weights", with_weights(halved), "expression_head.dense.bias is F16, not float32"),
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
    ("card", append("README.md", "TODO\n"), r"line \d+: 'TODO' stands for"),
    ("card", append("README.md", "By {{ author }}.\n"), r"line \d+: '{{' stands for"),
    ("card", append("README.md", "No licence is stated yet: ...\n"), "'No licence is stated yet' stands for"),
    ("card", remove("figures/scatter.png"), "links to figures/scatter.png, which is not in the release"),
    ("card", append("README.md", '<img src="../curve.png">\n'), r"links to ../curve.png, which is not .* release\.$"),
    ("card", append("README.md", "![A](a.jpg)\n"), r"a.jpg, which is not in the release\. Save it as PNG"),
    ("metadata", in_card("license: cc-by-4.0\n", ""), "states no license"),
    ("metadata", in_card("license: cc-by-4.0", "license: free"), "'free' is no license"),
    ("metadata", in_card("license: cc-by-4.0", "license: other"), "needs license_name and license_link"),
    ("metadata", in_card("license:", "language: en\nlicense:"), "DNA has no language"),
    ("metadata", in_card("library_name: transformers", "library_name: keras"), "should be transformers, not keras"),
    ("metadata", in_card("pipeline_tag: text-classification\n", ""), "should be text-classification, not None"),
    ("metadata", in_card("license:", "base_model: ../runs/leaf\nlicense:"), r"base_model: '\.\./runs/leaf' is not"),
    ("metadata", in_card("license:", "datasets:\n- a/b\n- leaf table.tsv\nlicense:"), "'leaf table.tsv' is not"),
    ("metadata", in_card("license:", "datasets: 5\nlicense:"), "datasets: 5 is not the name of a repository"),
    ("results", in_card("value: 0.8765", "value: 0.9765"), "tell 0.9765 for Pearson r of leaf .*metrics.json 0.8765"),
    ("results", write("metrics.json", "{}"), r"metrics.json is not as .* \(KeyError"),
    ("results", remove("metrics.json"), "tell 0.8 for Spearman ρ of leaf .*, its text does not"),
    ("example", in_card("```text", "```"), "needs an example"),
    ("example", in_card(f'model="{REPO}"', 'model="gpt2"'), f"does not open {REPO}"),
    ("example", in_card("from transformers import", "import modeling_proformer\nfrom transformers import"),
     "ends in ModuleNotFoundError: No module named 'modeling_proformer'"),
    ("example", in_card("{'leaf': ", "{'leaf': 1"), r"prints \"{'leaf': [\d.]+}\", and not \"{'leaf': 1[\d.]+}\""),
]  # fmt: skip


@pytest.mark.parametrize(("check", "spoil", "message"), FAULTS)
def test_each_check_finds_its_faults_and_no_other_does(release, check, spoil, message):
    spoil(release)
    faults = check_release(release, REPO)
    assert [name for name, found in faults.items() if found] == [check]
    assert any(re.search(message, fault) for fault in faults[check]), faults[check]
    assert not any(TOKEN in fault for found in faults.values() for fault in found)


def test_what_is_no_path_is_not_taken_for_one(release):
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
    assert not list(path_faults(release))


def test_what_is_no_secret_is_not_taken_for_one(release):
    lines = [
        "sk-learn-based-regression-model and sk-learn-based-regression-model-v2",
        "Secret: its name alone",
        "token: classification",
        "password: ${PASSWORD}",
        "the bearer understandably-unhappy",
    ]
    append("README.md", "\n".join(lines))(release)
    write("log.json", json.dumps(lines))(release)
    assert not list(secret_faults(release))


def test_several_faults_are_told_at_once(release):
    append("README.md", "TODO /home/jane/x\n")(release)
    with_weights(halved)(release)
    faults = check_release(release, REPO)
    assert [name for name, found in faults.items() if found] == ["weights", "paths", "card"]
    # Code is not run where anything is amiss.
    assert "example" not in faults


@pytest.mark.parametrize(
    ("number", "tells"), [("0.6412", True), ("0.641", True), ("0.64", False), ("0.642", False), ("1", False)]
)
def test_a_text_tells_a_value_to_three_digits(number, tells):
    assert rounds_to(0.6412, number) == tells


@pytest.mark.parametrize(
    ("told", "same"),
    [
        ("leaf 7.12346", True),
        ("leaf  7.123455\n", True),
        ("leaf 7.1235", False),
        ("root 7.123456", False),
        ("leaf", False),
    ],
)
def test_what_an_example_prints_is_told_to_1e_5(told, same):
    assert same_output("leaf 7.123456\n", told) == same
