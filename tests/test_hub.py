"""Publishing: a release folder, its checks, and its way to a small Hub that the real client talks to."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
import torch
from fresh_process import make_python_without_package
from hub_server import LocalHub
from huggingface_hub import HfApi, ModelCard
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import load_file, save_file
from tiny import TINY

from modeling_proformer import (
    ProformerConfig,
    ProformerForPreTraining,
    ProformerForSequenceClassification,
    ProformerTokenizer,
    PromoterExpressionPipeline,
)
from modeling_proformer.assays import InputError
from modeling_proformer.cards import card_data
from modeling_proformer.cli import main
from modeling_proformer.hub import find_repository, publish, renamed, upload, write_release
from modeling_proformer.release_checks import check_release, rounds_to, same_output


REPO = "someone/proformer-leaf"
INSERT = "ACGTTGCAAGCT"
RELEASE = {
    "README.md",
    "config.json",
    "configuration_proformer.py",
    "figures/scatter.png",
    "intervals.py",
    "metrics.json",
    "model.safetensors",
    "modeling_proformer.py",
    "pipeline_proformer.py",
    "predictions.tsv",
    "tokenization_proformer.py",
    "tokenizer_config.json",
}
RUN_STATE = ["checkpoint-5/optimizer.pt", "checkpoint-5/model.safetensors", "training_args.bin", "notes.docx", ".env"]
METRICS = {
    "problem_type": "regression",
    "table": "leaf.tsv",
    "held_out": {"test": {"leaf": {"pearson_r": {"value": 0.87654}, "spearman_rho": {"value": 0.8}}}},
}

CARD = """---
{metadata}
---

# leaf

Predicts `leaf`. Pearson r 0.8765.

No licence is stated yet: the owner of this model must choose one that the data allow, and put it as `license` into the
first lines of this file.

## How to use it

```python
from transformers import pipeline

predict = pipeline("promoter-expression", model="leaf", trust_remote_code=True)
print({{name: round(found["value"], 6) for name, found in predict("{insert}").items()}})
```

```text
{{'leaf': {value:.6f}}}
```

```bash
proformer predict leaf.fasta --model leaf -o other-leaf.tsv
```

![Measured and predicted](figures/scatter.png) and [predictions](predictions.tsv#first), [a page](https://example.org/a).
"""


def checkpoint_folder(folder: Path, model_class: type, name: str = "leaf") -> Path:
    """What training leaves behind: a model of the tests' sizes, its card and the state of the run."""
    torch.manual_seed(0)
    folder = folder / name
    config = ProformerConfig(**TINY, id2label={0: "leaf"}, label_mean=[7.0], label_std=[2.0])
    pipe = PromoterExpressionPipeline(
        model_class(config).eval(), ProformerTokenizer(kmer_size=3, insert_width=12), device="cpu"
    )
    pipe.save_pretrained(folder)
    value = pipe(INSERT)["leaf"]["value"]
    (folder / "README.md").write_text(CARD.format(metadata=card_data(name, METRICS), insert=INSERT, value=value))
    (folder / "metrics.json").write_text(json.dumps(METRICS))
    (folder / "predictions.tsv").write_text(f"sequence\tpredicted_leaf\n{INSERT}\t{value}\n")
    (folder / "figures").mkdir()
    Image.new("RGB", (4, 4)).save(folder / "figures" / "scatter.png")
    for state in RUN_STATE:
        (folder / state).parent.mkdir(exist_ok=True)
        (folder / state).write_bytes(b"state")
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return checkpoint_folder(tmp_path_factory.mktemp("run"), ProformerForSequenceClassification)


@pytest.fixture(scope="module")
def good_release(checkpoint, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "release"
    write_release(checkpoint, folder, REPO, "cc-by-4.0")
    return folder


@pytest.fixture
def release(good_release, tmp_path) -> Path:
    """A copy, to spoil."""
    return shutil.copytree(good_release, tmp_path / "release")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    # What the variables of these names do in a process that starts with them.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with LocalHub() as hub:
        yield hub


@pytest.fixture
def api(hub) -> HfApi:
    return HfApi(endpoint=hub.url, token="hf_writer")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def published_files(hub: LocalHub, revision: str = "main") -> dict[str, bytes]:
    files = dict(hub.repositories[REPO].files(revision))
    assert files.pop(".gitattributes")
    return files


# --- the release folder


def test_a_release_holds_what_others_need_and_nothing_else(good_release):
    assert contents(good_release).keys() == RELEASE
    assert {tensor.dtype for tensor in load_file(good_release / "model.safetensors").values()} == {torch.float32}
    card = ModelCard.load(good_release / "README.md")
    assert card.data.license == "cc-by-4.0"
    assert "No licence" not in card.text and "\n\n## How to use it\n" in card.text
    assert f'model="{REPO}"' in card.text
    assert f"predict leaf.fasta --model {REPO} -o other-leaf.tsv\n" in card.text
    # Only code calls the model by its repository.
    assert "# leaf\n\nPredicts `leaf`." in card.text and "{'leaf': " in card.text


@pytest.mark.parametrize("name", ["liver MPRA", "it's", 'a "b" | c', "model", "expression", "promoter-expression"])
def test_a_model_is_renamed_however_its_name_is_written(name):
    """And no code beside it that happens to have the same name."""
    card = (
        '# {0}\n\n```python\nmodel = pipeline("promoter-expression", model={1})\n```\n\n'
        "```bash\nproformer predict --model {2} -o model\n```\n\n"
        '```yaml\nlabel_columns: ["expression"]\n```\n'
    )
    written = card.format(name, json.dumps(name), shlex.quote(name))
    assert renamed(written, name, REPO) == card.format(name, f'"{REPO}"', REPO)


def test_pretraining_keeps_its_head_and_half_precision_becomes_whole(tmp_path):
    folder = checkpoint_folder(tmp_path, ProformerForPreTraining)
    saved = load_file(folder / "model.safetensors")
    save_file({name: tensor.half() for name, tensor in saved.items()}, folder / "model.safetensors", {"format": "pt"})
    write_release(folder, tmp_path / "release", REPO)
    released = load_file(tmp_path / "release" / "model.safetensors")
    assert released.keys() == saved.keys()
    for name, tensor in released.items():
        torch.testing.assert_close(tensor, saved[name].half().float(), rtol=0, atol=0)
    config = json.loads((tmp_path / "release" / "config.json").read_text())
    assert (config["architectures"], config["dtype"]) == (["ProformerForPreTraining"], "float32")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: shutil.rmtree(folder), "there is no such folder"),
        (lambda folder: (folder / "config.json").unlink(), "no readable Proformer checkpoint"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "bert"}'), "is a 'bert' model"),
        (lambda folder: (folder / "README.md").unlink(), "there is no model card"),
        (
            lambda folder: edit(folder / "README.md", "tags:", "tags: [a"),
            r"README.md, line \d+: the metadata .* not valid",
        ),
        (lambda folder: edit(folder / "README.md", "type: pearsonr", "kind: x"), "the metadata .* not valid"),
    ],
)
def test_a_folder_that_cannot_be_a_release_is_refused(checkpoint, tmp_path, spoil, message):
    folder = shutil.copytree(checkpoint, tmp_path / "leaf")
    spoil(folder)
    with pytest.raises(InputError, match=message):
        write_release(folder, tmp_path / "release", REPO, "mit")
    assert not (tmp_path / "release").exists()


# --- the checks


def edit(path: Path, old: str, new: str):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def in_card(old: str, new: str) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "README.md", old, new)


def write(name: str, content: bytes | str) -> Callable[[Path], None]:
    content = content if isinstance(content, bytes) else content.encode()
    return lambda folder: (folder / name).write_bytes(content)


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def append(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text((folder / name).read_text() + text)


def with_weights(change: Callable, metadata: dict | None = None) -> Callable[[Path], None]:
    def spoil(folder: Path):
        path = folder / "model.safetensors"
        save_file(change(load_file(path)), path, {"format": "pt", **(metadata or {})})

    return spoil


def halved(weights: dict) -> dict:
    return {name: value.half() if "dense.bias" in name else value for name, value in weights.items()}


def with_note_in_figure(text: str) -> Callable[[Path], None]:
    def spoil(folder: Path):
        note = PngInfo()
        note.add_text("Comment", text)
        Image.new("RGB", (4, 4)).save(folder / "figures" / "scatter.png", pnginfo=note)

    return spoil


def without(file: str, setting: str) -> Callable[[Path], None]:
    def spoil(folder: Path):
        settings = json.loads((folder / file).read_text())
        del settings[setting]
        (folder / file).write_text(json.dumps(settings))

    return spoil


# Not written in one piece, lest these lines themselves are taken for secrets.
TOKEN, KEY = "hf_" + "aB3" * 11, "-----BEGIN RSA PRIVATE" + " KEY-----"

FAULTS = [
    ("files", write("pytorch_model.bin", b"\x80\x04."), "pytorch_model.bin: a release holds only"),
    ("files", write("weights.npy", b"\x93NUMPY"), "weights.npy: a release holds only"),
    ("files", write(".env", "A=1"), ".env: a release holds only"),
    ("files", write("metrics.json", b"\x80\x04\x95."), "metrics.json cannot be read"),
    ("files", write("metrics.json", "{"), "metrics.json cannot be read"),
    ("files", write("figures/scatter.png", b"\x80\x04\x95."), "figures/scatter.png cannot be read"),
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
    ("paths", with_weights(dict, {"from": "/mnt/data/run"}), "model.safetensors, line 1: /mnt/data/run is"),
    ("paths", with_note_in_figure("/root"), r"scatter.png, line \d: /root is"),
    ("secrets", with_note_in_figure(TOKEN), r"scatter.png, line \d: hf_aB3…"),
    ("secrets", write("log.txt", "AWS_SECRET_ACCESS_KEY=" + "wJalrXUtnFEMI"), "log.txt, line 1: AWS_SE…"),
    ("secrets", write("log.txt", "https://jane:" + "hunter2hunter2@leaf.org"), "log.txt, line 1: ://jan…"),
    ("secrets", write("log.json", json.dumps({"hub": TOKEN})), r"log.json, line 1: hf_aB3… looks like a secret"),
    ("secrets", append("README.md", "AKIA" + "A1B2C3D4" * 2), r"README.md, line \d+: AKIAA1…"),
    ("secrets", write("key.txt", KEY), "key.txt, line 1: -----B…"),
    ("secrets", write("log.json", '{"api_key": "' + "0123456789abcdef" + '"}'), "log.json, line 1: api_ke…"),
    ("card", append("README.md", "[More Information Needed]\n"), r"line \d+: '\[More Information Needed\]'"),
    ("card", append("README.md", "TODO\n"), r"line \d+: 'TODO' stands for"),
    ("card", append("README.md", "By {{ author }}.\n"), r"line \d+: '{{' stands for"),
    ("card", append("README.md", "No licence is stated yet: ...\n"), "'No licence is stated yet' stands for"),
    ("card", remove("figures/scatter.png"), "links to figures/scatter.png, which is not in the release"),
    ("card", append("README.md", '<img src="../curve.png">\n'), "links to ../curve.png, which is not"),
    ("metadata", in_card("license: cc-by-4.0\n", ""), "states no license"),
    ("metadata", in_card("license: cc-by-4.0", "license: free"), "'free' is no license"),
    ("metadata", in_card("license: cc-by-4.0", "license: other"), "needs license_name and license_link"),
    ("metadata", in_card("license:", "language: en\nlicense:"), "DNA has no language"),
    ("metadata", in_card("library_name: transformers", "library_name: keras"), "should be transformers, not keras"),
    ("metadata", in_card("pipeline_tag: text-classification\n", ""), "should be text-classification, not None"),
    ("metadata", in_card("license:", "base_model: ../runs/leaf\nlicense:"), r"base_model: '\.\./runs/leaf' is not"),
    ("metadata", in_card("license:", "datasets:\n- a/b\n- leaf table.tsv\nlicense:"), "'leaf table.tsv' is not"),
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


# --- to the Hub


def client(python: Path | str, hub: LocalHub, home: Path, *arguments: str, **more: str):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", **more}
    return subprocess.run([python, *arguments], env=environment, cwd=home, capture_output=True, text=True)


LOAD = f"""
import importlib.util, json
assert importlib.util.find_spec("modeling_proformer") is None
from transformers import AutoModelForSequenceClassification, pipeline
predict = pipeline("promoter-expression", model="{REPO}", revision="v1", trust_remote_code=True)
model = AutoModelForSequenceClassification.from_pretrained("{REPO}", trust_remote_code=True)
print(json.dumps([predict("{INSERT}"), model.num_parameters()]))
"""


def test_published_and_opened_by_others_also_offline(hub, checkpoint, tmp_path):
    publishing = ["-m", "modeling_proformer.cli", "publish", str(checkpoint), REPO, "--license", "mit"]
    done = client(sys.executable, hub, tmp_path, *publishing, HF_TOKEN="hf_writer")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"Published as v1: {hub.url}/{REPO}/tree/v1"
    repository = hub.repositories[REPO]
    assert published_files(hub).keys() == RELEASE
    assert repository.lfs == {"model.safetensors"} and not repository.private
    # That of the new repository, and one.
    assert len(repository.commits) == 2
    assert repository.tags == {"v1": repository.branches["main"]}

    python = make_python_without_package(tmp_path / "others")
    online = client(python, hub, tmp_path, "-I", "-c", LOAD)
    assert online.returncode == 0, online.stderr
    asked = len(hub.requests)
    offline = client(python, hub, tmp_path, "-I", "-c", LOAD, HF_HUB_OFFLINE="1")
    assert offline.returncode == 0, offline.stderr
    assert len(hub.requests) == asked
    card = published_files(hub)["README.md"].decode()
    value = float(re.search(r"{'leaf': (.+)}", card)[1])
    for opened in (online, offline):
        predicted, parameters = json.loads(opened.stdout)
        assert predicted["leaf"]["value"] == pytest.approx(value, abs=1e-5)
        assert parameters == sum(each.numel() for each in load_file(checkpoint / "model.safetensors").values())


def test_a_dry_run_does_everything_but_the_upload(checkpoint, capsys, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert main(["publish", str(checkpoint), REPO, "--license", "mit", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[-1] for line in lines if re.match(r" *[\d,]+ bytes  \w", line)} == {*RELEASE, "files"}
    assert lines[-3:] == [
        "Left out: .env, checkpoint-5, notes.docx, training_args.bin.",
        "Checked and found good: files, code, weights, paths, secrets, card, metadata, results, example.",
        "A dry run: nothing is uploaded.",
    ]


def test_a_release_that_fails_a_check_is_not_uploaded(hub, api, checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "leaf")
    append("README.md", "TODO\n")(folder)
    with pytest.raises(InputError, match=r"nothing is uploaded. Check of card: .*TODO.* Check of metadata: .*license"):
        publish(folder, REPO, api=api, show=lambda line: None)
    assert REPO not in hub.repositories
    assert all(request.startswith("GET ") for request in hub.requests)


def test_the_same_again_is_no_commit_and_a_change_is_the_next_version(hub, api, good_release, release):
    first = upload(good_release, find_repository(api, REPO, False, False), private=True)
    assert hub.repositories[REPO].private
    assert (first.version, first.changed) == ("v1", True)
    again = upload(good_release, find_repository(api, REPO, True, False))
    assert again == first._replace(changed=False)

    (release / "predictions.tsv").unlink()
    in_card("[predictions](predictions.tsv#first), ", "")(release)
    with_weights(lambda weights: {name: value + 1 for name, value in weights.items()})(release)
    later = upload(release, find_repository(api, REPO, False, False))
    assert (later.version, later.changed, later.url) == ("v2", True, f"{hub.url}/{REPO}/tree/v2")
    assert published_files(hub) == contents(release)
    assert published_files(hub, "v1") == contents(good_release)
    assert len(hub.repositories[REPO].commits) == 3


@pytest.mark.parametrize(
    ("lost", "at"),
    [
        ("POST /api/repos/create", "answer"),
        ("POST .*/preupload/", "body"),
        ("POST .*/commit/", "body"),
        ("POST .*/commit/", "answer"),
        ("POST .*/tag/", "body"),
        ("POST .*/tag/", "answer"),
    ],
)
def test_after_a_lost_connection_the_same_again_completes_it(hub, api, good_release, lost, at, monkeypatch):
    # The client tries some requests again by itself, and waits for it.
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    hub.lose(lost, at, times=6 if "preupload" in lost else 1)
    with pytest.raises(ConnectionError, match=f"The connection to the Hub was lost .*{REPO} holds no half"):
        upload(good_release, find_repository(api, REPO, False, False))
    # Before, nothing; afterwards, all of it.
    assert published_files(hub) in ({}, contents(good_release))
    published = upload(good_release, find_repository(api, REPO, False, False))
    assert published.version == "v1"
    assert published_files(hub) == contents(good_release)
    repository = hub.repositories[REPO]
    assert (len(repository.commits), repository.tags) == (2, {"v1": repository.branches["main"]})


def test_a_connection_that_breaks_amid_the_weights_is_mended_by_the_client(hub, api, good_release, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    hub.lose("PUT /large-files/")
    upload(good_release, find_repository(api, REPO, False, False))
    assert published_files(hub) == contents(good_release)
    assert sum(request.startswith("PUT") for request in hub.requests) == 2

    (good_file,) = hub.large_files.values()
    hub.large_files.clear()
    hub.repositories.clear()
    hub.lose("PUT /large-files/", times=6)
    with pytest.raises(ConnectionError):
        upload(good_release, find_repository(api, REPO, False, False))
    assert published_files(hub) == {} and not hub.large_files
    upload(good_release, find_repository(api, REPO, False, False))
    assert published_files(hub)["model.safetensors"] == good_file


def test_a_pull_request_leaves_the_repository_as_it_is(hub, good_release, release, api):
    upload(good_release, find_repository(api, REPO, False, False))
    hub.accounts["hf_visitor"] = ("visitor", "write")
    visitor = HfApi(endpoint=hub.url, token="hf_visitor")
    append("README.md", "More.\n")(release)
    opened = upload(release, find_repository(visitor, REPO, False, True), create_pr=True)
    assert (opened.url, opened.version, opened.changed) == (f"{hub.url}/{REPO}/discussions/1", None, True)
    assert published_files(hub) == contents(good_release)
    assert published_files(hub, "refs/pr/1") == contents(release)
    assert list(hub.repositories[REPO].tags) == ["v1"]
    # Without it, the visitor may not write.
    with pytest.raises(InputError, match=f"The Hub refuses {REPO}: Forbidden"):
        upload(release, find_repository(visitor, REPO, False, False))


def test_nothing_new_is_no_pull_request(hub, good_release, api):
    upload(good_release, find_repository(api, REPO, False, False))
    unchanged = upload(good_release, find_repository(api, REPO, False, True), create_pr=True)
    assert (unchanged.changed, unchanged.url) == (False, f"{hub.url}/{REPO}")
    assert list(hub.repositories[REPO].tags) == ["v1"]


def test_a_commit_that_came_between_is_not_overwritten(hub, api, good_release, release):
    upload(good_release, find_repository(api, REPO, False, False))
    seen = find_repository(api, REPO, False, False)
    repository = hub.repositories[REPO]
    between = repository.commit("main", {**repository.files(), "README.md": b"---\nlicense: mit\n---\n# mended\n"})
    append("README.md", "More.\n")(release)
    with pytest.raises(InputError, match="A commit has happened since"):
        upload(release, seen)
    assert repository.branches["main"] == between


def test_a_repository_fresh_from_the_website_is_taken(hub, api, good_release):
    hub.create(REPO, files={"README.md": b"---\nlicense: mit\n---\n"})
    assert upload(good_release, find_repository(api, REPO, False, False)).version == "v1"
    assert published_files(hub) == contents(good_release)


PROFORMER = b'{"model_type": "proformer"}'


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"config.json": b'{"model_type": "bert"}', "model.safetensors": b""}, "something else than a Proformer"),
        ({"notes.md": b"# Mine"}, "something else than a Proformer"),
        ({"README.md": b"---\nlicense: mit\n---\n# Plans for a model\n"}, "something else than a Proformer"),
    ],
)
def test_a_repository_with_other_content_is_refused(hub, api, files, message):
    hub.create(REPO, files=files)
    with pytest.raises(InputError, match=message):
        find_repository(api, REPO, False, False)


def test_what_no_release_put_there_is_not_deleted(hub, api, good_release, release):
    """Files of an earlier release go, those of others stay, of whatever kind."""
    (release / "notes.md").write_text("Of this release.\n")
    upload(release, find_repository(api, REPO, False, False))
    repository = hub.repositories[REPO]
    repository.commit("main", {**repository.files(), "measurements.csv": b"precious"})
    with pytest.raises(InputError, match=r"are of no release, and would be deleted: measurements\.csv"):
        upload(good_release, find_repository(api, REPO, False, False))
    repository.commit("main", {name: kept for name, kept in repository.files().items() if name != "measurements.csv"})
    upload(good_release, find_repository(api, REPO, False, False))
    assert published_files(hub) == contents(good_release)


def test_a_private_model_is_not_put_where_all_see_it(hub, api):
    hub.create(REPO)
    with pytest.raises(InputError, match=f"All can see {REPO}"):
        find_repository(api, REPO, True, False)


@pytest.mark.parametrize(
    ("token", "create_pr", "message"),
    [
        (None, False, "You are not logged in .*hf auth login"),
        ("hf_forged", False, "your token is no longer valid"),
        ("hf_reader", False, "a token that may only read"),
        ("hf_writer", True, f"There is no repository {REPO} to open a pull request in"),
    ],
)
def test_who_may_not_publish_is_told(hub, token, create_pr, message):
    with pytest.raises(InputError, match=message):
        find_repository(HfApi(endpoint=hub.url, token=token), REPO, False, create_pr)


def test_the_account_of_others_is_refused(hub, api, good_release):
    with pytest.raises(InputError, match=r"The Hub refuses other/leaf: .*namespace 'other'"):
        upload(good_release, find_repository(api, "other/leaf", False, False))


@pytest.mark.parametrize(
    "repo_id", ["leaf", "a/b/c", "a//b", "some one/leaf", "someone/-leaf", "https://hf.co/a/b", ""]
)
def test_what_is_no_repository_is_refused_in_one_line(checkpoint, capsys, repo_id):
    assert main(["publish", str(checkpoint), repo_id, "--dry-run"]) == 1
    told = capsys.readouterr().err
    assert told.startswith("proformer: Give the repository as ACCOUNT/NAME") and told.count("\n") == 1


def test_without_the_hub_it_says_so(good_release):
    api = HfApi(endpoint="http://127.0.0.1:9", token="hf_writer")
    with pytest.raises(ConnectionError, match="The connection to the Hub was lost"):
        find_repository(api, REPO, False, False)
