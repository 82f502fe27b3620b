"""Publishing: a release folder, and its way to a small Hub that the real client talks to."""

import errno
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
from fresh_process import make_python_without_package
from hub_server import LocalHub
from huggingface_hub import HfApi, ModelCard
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from releases import INSERT, RELEASE, REPO, append, checkpoint_folder, contents, edit, in_card, with_weights
from safetensors.torch import load_file, save_file

from modeling_proformer import ProformerForPreTraining
from modeling_proformer.cli import main
from modeling_proformer.data.tables import InputError
from modeling_proformer.hub.checks import require_picture_alone
from modeling_proformer.hub.publish import (
    find_repository,
    picture_alone,
    publish,
    renamed,
    told_in_words,
    upload,
    write_release,
)


pytest_plugins = ["releases"]  # for the checkpoint and its release


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


def test_the_same_checkpoint_is_the_same_release_to_the_byte(checkpoint, good_release, tmp_path):
    """By which publishing it again is known to be nothing new."""
    write_release(checkpoint, tmp_path / "again", REPO, "cc-by-4.0")
    assert contents(tmp_path / "again") == contents(good_release)


@pytest.mark.parametrize(
    ("mode", "shade", "expected"),
    [
        ("RGBA", (10, 20, 30, 40), (10, 20, 30, 40)),
        ("RGB", (10, 20, 30), (10, 20, 30)),
        ("P", 0, (50, 60, 70)),
        ("L", 8, (8, 8, 8)),
        ("LA", (8, 9), (8, 8, 8, 9)),
    ],
)
def test_a_picture_is_saved_as_its_pixels_alone(tmp_path, mode, shade, expected):
    picture, note, exif = Image.new(mode, (5, 3), shade), PngInfo(), Image.Exif()
    if mode == "P":
        picture.putpalette([50, 60, 70])
    note.add_text("Comment", "/home/jane")
    note.add(b"prVt", b"/home/jane", after_idat=True)
    exif[0x010E] = "/home/jane"
    told = {"pnginfo": note, "exif": exif, "icc_profile": b"/home/jane", "dpi": (72, 72)}
    picture.save(tmp_path / "scatter.png", **told)
    with open(tmp_path / "scatter.png", "ab") as file:
        file.write(b"/home/jane\0\0\0\0IEND\xaeB`\x82")
    picture_alone(tmp_path / "scatter.png").save(tmp_path / "alone.png")
    require_picture_alone((tmp_path / "alone.png").read_bytes())
    assert b"jane" not in (tmp_path / "alone.png").read_bytes()
    with Image.open(tmp_path / "alone.png") as alone:
        assert (alone.size, alone.getcolors()) == ((5, 3), [(15, expected)])


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
        (lambda folder: (folder / "figures" / "scatter.png").write_bytes(b"\xff\xd8"), "scatter.png: this is no PNG"),
        (lambda folder: Image.new("I;16", (4, 4)).save(folder / "figures" / "scatter.png"), "save it with 8"),
    ],
)
def test_a_folder_that_cannot_be_a_release_is_refused(checkpoint, tmp_path, spoil, message):
    folder = shutil.copytree(checkpoint, tmp_path / "leaf")
    spoil(folder)
    with pytest.raises(InputError, match=message):
        write_release(folder, tmp_path / "release", REPO, "mit")
    assert not (tmp_path / "release").exists()


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
    assert "names no dataset" not in done.stdout
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
    assert lines[-4:] == [
        "Left out: .env, checkpoint-5, figures/draft.png, notes.docx, training_args.bin.",
        "The card names no dataset; if yours is on the Hub, add `datasets: [ACCOUNT/NAME]` to its metadata.",
        "Checked and found good: files, code, weights, paths, secrets, card, metadata, results, example.",
        "A dry run: nothing is uploaded.",
    ]


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_release_that_fails_a_check_is_not_uploaded_but_kept(hub, api, checkpoint, tmp_path, monkeypatch, dry_run):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder, shown = shutil.copytree(checkpoint, tmp_path / "leaf"), []
    append("README.md", "TODO\n")(folder)
    in_card("tags:", "datasets: a/b\ntags:")(folder)
    told = r"nothing is uploaded. Check of card: .*TODO.* Check of metadata: .*license.* is kept in (.+)\.$"
    with pytest.raises(InputError, match=told) as raised:
        publish(folder, REPO, api=api, dry_run=dry_run, show=shown.append)
    assert REPO not in hub.repositories
    assert all(request.startswith("GET ") for request in hub.requests)
    kept = Path(re.search(told, str(raised.value))[1])
    assert contents(kept).keys() == RELEASE
    assert shown[-1] == f"Look at the release in this folder, which may be deleted: {kept}"
    # Nothing else is left behind.
    assert set(tmp_path.iterdir()) == {folder, kept.parent}
    assert not any("no dataset" in line for line in shown)


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
    with pytest.raises(InputError, match="as visitor, who may write to visitor, and not to someone"):
        find_repository(visitor, REPO, False, False)


def test_a_pull_request_is_not_opened_twice(hub, api, good_release, release, monkeypatch):
    """When only the answer was lost, or the command is given again."""
    upload(good_release, find_repository(api, REPO, False, False))
    hub.accounts |= {"hf_visitor": ("visitor", "write"), "hf_guest": ("guest", "write")}
    visitor, guest = (HfApi(endpoint=hub.url, token=token) for token in ("hf_visitor", "hf_guest"))

    def offer(api: HfApi):
        return upload(release, find_repository(api, REPO, False, True), create_pr=True)

    append("README.md", "More.\n")(release)
    hub.lose("POST .*/commit/", "answer")
    with pytest.raises(ConnectionError):
        offer(visitor)
    pull_requests = hub.repositories[REPO].pull_requests
    opened = f"{hub.url}/{REPO}/discussions/1"
    commit = hub.repositories[REPO].branches["refs/pr/1"]
    for _ in range(2):
        assert offer(visitor) == (opened, commit, None, False)
        assert len(pull_requests) == 1
    # Others may offer the same, and the same author something else.
    assert offer(guest).changed
    other_weights = with_weights(lambda weights: {name: value + 1 for name, value in weights.items()})
    for number, change in enumerate([in_card("More", "Less"), other_weights], start=3):
        change(release)
        assert offer(visitor).url == f"{hub.url}/{REPO}/discussions/{number}"
    (release / "predictions.tsv").unlink()
    assert offer(visitor).url == f"{hub.url}/{REPO}/discussions/5"
    pull_requests[4]["status"] = "closed"
    assert offer(visitor).url == f"{hub.url}/{REPO}/discussions/6"


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
        ({"README.md": b"---\nlicense: mit\n---\n# M\xe9moire\n"}, "something else than a Proformer"),
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


@pytest.mark.parametrize("account", ["other", "readers"])
def test_the_account_of_others_is_refused_before_anything_else(hub, checkpoint, account, api):
    message = f"as someone, who may write to someone, lab, and not to {account}: .* pull request with --pr"
    with pytest.raises(InputError, match=message):
        publish(checkpoint, f"{account}/leaf", api=api, show=lambda line: pytest.fail(line))
    assert hub.requests == ["GET /api/whoami-v2"]


@pytest.mark.parametrize("account", ["lab", "Someone"])
def test_accounts_that_one_may_write_to(hub, api, good_release, account):
    found = find_repository(api, f"{account}/leaf", False, False)
    assert found.head is None
    if account == "lab":
        assert upload(good_release, found).version == "v1"


def test_what_only_the_hub_knows_it_refuses(hub, good_release):
    """A token may be confined to some repositories, which the client is not told."""
    hub.accounts["hf_confined"] = ("someone", "fineGrained")
    with pytest.raises(InputError, match=f"The Hub refuses {REPO}: .*the namespace 'someone'"):
        upload(good_release, find_repository(HfApi(endpoint=hub.url, token="hf_confined"), REPO, False, False))


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


def test_offline_mode_is_no_lost_connection(hub, checkpoint, tmp_path):
    publishing = ["-m", "modeling_proformer.cli", "publish", str(checkpoint), REPO]
    done = client(sys.executable, hub, tmp_path, *publishing, HF_TOKEN="hf_writer", HF_HUB_OFFLINE="1")
    assert done.returncode == 1 and not done.stdout and not hub.requests
    assert re.search(r"offline mode is on: unset HF_HUB_OFFLINE .*--dry-run\.$", done.stderr)


def test_only_a_lost_connection_is_called_so(hub, api, release):
    """What befalls a file on this machine is told as it is, also where the client wraps it."""

    class Files(dict):
        def __contains__(self, oid):
            (release / "model.safetensors").unlink(missing_ok=True)
            return False

    hub.large_files = Files()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        upload(release, find_repository(api, REPO, False, False))
    with pytest.raises(OSError, match="No space left") as raised, told_in_words(REPO):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert not isinstance(raised.value, ConnectionError)
