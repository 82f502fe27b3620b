"""Publishing: the real client of the Hub brings a release to a small Hub of this machine."""

import errno
import json
import logging
import os
import re
import shutil
import subprocess
from pathlib import Path

import huggingface_hub
import pytest
from fresh_process import make_python_without_package
from hub_server import LocalHub
from huggingface_hub import HfApi
from releases import INSERT, RELEASE, REPO, append, contents, in_card, with_weights

from modeling_proformer import predict
from modeling_proformer.cli import main
from modeling_proformer.data.tables import InputError
from modeling_proformer.hub.publish import _translate_hub_errors, find_repository, publish, upload_release
from modeling_proformer.loading import checkpoint_path, load_checkpoint


@pytest.fixture(autouse=True)
def messages(caplog):
    """Collect what the library logs."""
    caplog.set_level(logging.INFO, logger="modeling_proformer")
    return lambda: [record.message for record in caplog.records if record.name == "modeling_proformer.hub.publish"]


def published_files(hub: LocalHub, revision: str = "main") -> dict[str, bytes]:
    files = dict(hub.repositories[REPO].files(revision))
    assert files.pop(".gitattributes")
    return files


# Without this package, open what was published; then do the same again offline.
LOAD = f"""
import importlib.util, json
import huggingface_hub
assert importlib.util.find_spec("modeling_proformer") is None
from transformers import AutoModelForSequenceClassification, pipeline
for offline in (False, True):
    huggingface_hub.constants.HF_HUB_OFFLINE = offline
    predict = pipeline("promoter-expression", model="{REPO}", revision="v1", trust_remote_code=True)
    model = AutoModelForSequenceClassification.from_pretrained("{REPO}", trust_remote_code=True)
    print(json.dumps([predict("{INSERT}")["leaf"]["value"], model.num_parameters()]), flush=True)
    if not offline:
        input()
"""


@pytest.mark.slow
def test_others_open_what_is_published_also_offline(hub, api, checkpoint, tmp_path, messages):
    published = publish(checkpoint, REPO, license="mit", api=api)
    assert published.url == f"{hub.url}/{REPO}/tree/v1"
    assert messages()[-1] == f"Published as v1: {published.url}"
    assert not any("names no dataset" in message for message in messages())
    repository = hub.repositories[REPO]
    assert published_files(hub).keys() == RELEASE
    assert repository.lfs == {"model.safetensors"} and not repository.private
    # The commit of the new repository, and one more.
    assert len(repository.commits) == 2
    assert repository.tags == {"v1": repository.branches["main"]}

    python = make_python_without_package(tmp_path / "others")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}
    model, tokenizer = load_checkpoint(checkpoint)
    expected = [pytest.approx(predict(model, tokenizer, [INSERT])[0, 0], abs=1e-5), model.num_parameters()]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen([python, "-I", "-c", LOAD], env=environment, cwd=tmp_path, text=True, **pipes) as others:
        online = others.stdout.readline()
        requests = len(hub.requests)
        offline, errors = others.communicate("\n")
    assert others.returncode == 0, errors
    assert [json.loads(online), json.loads(offline)] == [expected, expected]
    assert len(hub.requests) == requests


@pytest.mark.slow
def test_a_dry_run_of_the_embedded_checkpoint(capsys, monkeypatch, messages):
    """A dry run does everything but the upload, and needs no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert publish(checkpoint_path(), REPO, dry_run=True) is None
    assert messages()[-3:] == [
        "The card names no dataset; if yours is on the Hub, add it to the metadata as `datasets`.",
        "These checks passed: files, code, weights, paths, secrets, card, metadata, results, example.",
        "This was a dry run, so nothing is uploaded.",
    ]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_release_that_fails_a_check_is_not_uploaded_but_kept(
    hub, api, checkpoint, tmp_path, monkeypatch, messages, dry_run
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = shutil.copytree(checkpoint, tmp_path / "leaf")
    append("README.md", "TODO\n")(folder)
    in_card("tags:", "datasets: a/b\ntags:")(folder)
    reason = r"nothing is uploaded. Check of card: .*TODO.* Check of metadata: .*license.* is kept in (.+), which you"
    with pytest.raises(InputError, match=reason) as raised:
        publish(folder, REPO, api=api, dry_run=dry_run)
    assert REPO not in hub.repositories
    assert all(request.startswith("GET ") for request in hub.requests)
    kept = Path(re.search(reason, str(raised.value))[1])
    assert contents(kept).keys() == RELEASE
    # Nothing else is left behind.
    assert set(tmp_path.iterdir()) == {folder, kept.parent}
    sizes = [message.split()[-1] for message in messages() if re.match(r" *[\d,]+ bytes  \w", message)]
    assert set(sizes) == {*RELEASE, "files"}
    assert messages()[-1] == "Left out: .env, checkpoint-5, figures, notes.docx, training_args.bin."


def test_the_same_release_is_no_commit_and_another_is_the_next_version(hub, api, good_release, release):
    first = upload_release(good_release, find_repository(api, REPO), private=True)
    assert hub.repositories[REPO].private
    assert (first.version, first.changed) == ("v1", True)
    again = upload_release(good_release, find_repository(api, REPO, private=True))
    assert again == first._replace(changed=False)

    (release / "predictions.tsv").unlink()
    with_weights(lambda weights: {name: value + 1 for name, value in weights.items()})(release)
    later = upload_release(release, find_repository(api, REPO))
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
def test_publishing_again_completes_it_after_a_lost_connection(hub, api, good_release, lost, at, monkeypatch):
    # The client repeats some requests after a pause.
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    hub.lose(lost, at, times=6 if "preupload" in lost else 1)
    with pytest.raises(ConnectionError, match=f"The connection to the Hub was lost .*{REPO} holds no part"):
        upload_release(good_release, find_repository(api, REPO))
    # The Hub holds nothing of the release or all of it.
    assert published_files(hub) in ({}, contents(good_release))
    published = upload_release(good_release, find_repository(api, REPO))
    assert published.version == "v1"
    assert published_files(hub) == contents(good_release)
    repository = hub.repositories[REPO]
    assert (len(repository.commits), repository.tags) == (2, {"v1": repository.branches["main"]})


def test_the_client_resumes_the_upload_of_weights(hub, api, good_release, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    hub.lose("PUT /large-files/")
    upload_release(good_release, find_repository(api, REPO))
    assert published_files(hub) == contents(good_release)
    assert sum(request.startswith("PUT") for request in hub.requests) == 2

    (good_file,) = hub.large_files.values()
    hub.large_files.clear()
    hub.repositories.clear()
    hub.lose("PUT /large-files/", times=6)
    with pytest.raises(ConnectionError):
        upload_release(good_release, find_repository(api, REPO))
    assert published_files(hub) == {} and not hub.large_files
    upload_release(good_release, find_repository(api, REPO))
    assert published_files(hub)["model.safetensors"] == good_file


def test_a_pull_request_leaves_the_repository_as_it_is(hub, good_release, release, api):
    upload_release(good_release, find_repository(api, REPO))
    hub.accounts["hf_visitor"] = ("visitor", "write")
    visitor = HfApi(endpoint=hub.url, token="hf_visitor")
    append("README.md", "More.\n")(release)
    opened = upload_release(release, find_repository(visitor, REPO, create_pr=True), create_pr=True)
    assert (opened.url, opened.version, opened.changed) == (f"{hub.url}/{REPO}/discussions/1", None, True)
    assert published_files(hub) == contents(good_release)
    assert published_files(hub, "refs/pr/1") == contents(release)
    assert list(hub.repositories[REPO].tags) == ["v1"]
    # Without a pull request, the visitor may not write.
    with pytest.raises(PermissionError, match=f"The Hub refuses {REPO}: Forbidden.*`create_pr=True`"):
        upload_release(release, find_repository(visitor, REPO))
    assert published_files(hub) == contents(good_release)


def test_a_pull_request_is_not_opened_twice(hub, api, good_release, release, monkeypatch):
    """Neither after a lost answer nor when publishing again."""
    upload_release(good_release, find_repository(api, REPO))
    hub.accounts |= {"hf_visitor": ("visitor", "write"), "hf_guest": ("guest", "write")}
    visitor, guest = (HfApi(endpoint=hub.url, token=token) for token in ("hf_visitor", "hf_guest"))

    def offer(api: HfApi):
        return upload_release(release, find_repository(api, REPO, create_pr=True), create_pr=True)

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
    # Another author may open one for the same release, and the same author one for another release.
    assert offer(guest).changed
    other_weights = with_weights(lambda weights: {name: value + 1 for name, value in weights.items()})
    for number, change in enumerate([in_card("More", "Less"), other_weights], start=3):
        change(release)
        assert offer(visitor).url == f"{hub.url}/{REPO}/discussions/{number}"
    (release / "predictions.tsv").unlink()
    assert offer(visitor).url == f"{hub.url}/{REPO}/discussions/5"
    pull_requests[4]["status"] = "closed"
    assert offer(visitor).url == f"{hub.url}/{REPO}/discussions/6"


def test_an_unchanged_release_opens_no_pull_request(hub, good_release, api):
    upload_release(good_release, find_repository(api, REPO))
    unchanged = upload_release(good_release, find_repository(api, REPO, create_pr=True), create_pr=True)
    assert (unchanged.changed, unchanged.url) == (False, f"{hub.url}/{REPO}")
    assert list(hub.repositories[REPO].tags) == ["v1"]


def test_a_commit_made_in_between_is_not_overwritten(hub, api, good_release, release):
    upload_release(good_release, find_repository(api, REPO))
    seen = find_repository(api, REPO)
    repository = hub.repositories[REPO]
    between = repository.commit("main", {**repository.files(), "README.md": b"---\nlicense: mit\n---\n# mended\n"})
    append("README.md", "More.\n")(release)
    with pytest.raises(InputError, match="A commit has happened since"):
        upload_release(release, seen)
    assert repository.branches["main"] == between


def test_a_repository_made_on_the_website_is_accepted(hub, api, good_release):
    hub.create(REPO, files={"README.md": b"---\nlicense: mit\n---\n"})
    assert upload_release(good_release, find_repository(api, REPO)).version == "v1"
    assert published_files(hub) == contents(good_release)


PROFORMER = b'{"model_type": "proformer"}'


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"config.json": b'{"model_type": "bert"}', "model.safetensors": b""}, "something other than a Proformer"),
        ({"notes.md": b"# Mine"}, "something other than a Proformer"),
        ({"README.md": b"---\nlicense: mit\n---\n# Plans for a model\n"}, "something other than a Proformer"),
        ({"README.md": b"---\nlicense: mit\n---\n# M\xe9moire\n"}, "something other than a Proformer"),
    ],
)
def test_a_repository_with_other_content_is_refused(hub, api, files, message):
    hub.create(REPO, files=files)
    with pytest.raises(InputError, match=message):
        find_repository(api, REPO)


def test_only_files_of_a_release_are_deleted(hub, api, good_release, release):
    """A file that somebody else committed stays, of whatever kind it is."""
    (release / "notes.md").write_text("Of this release.\n")
    upload_release(release, find_repository(api, REPO))
    repository = hub.repositories[REPO]
    repository.commit("main", {**repository.files(), "measurements.csv": b"precious"})
    with pytest.raises(InputError, match=r"are in no release and would be deleted: measurements\.csv"):
        upload_release(good_release, find_repository(api, REPO))
    repository.commit("main", {name: kept for name, kept in repository.files().items() if name != "measurements.csv"})
    upload_release(good_release, find_repository(api, REPO))
    assert published_files(hub) == contents(good_release)


def test_a_private_release_does_not_go_to_a_public_repository(hub, api):
    hub.create(REPO)
    with pytest.raises(InputError, match=f"{REPO} is public"):
        find_repository(api, REPO, private=True)


@pytest.mark.parametrize(
    ("token", "create_pr", "kind", "message"),
    [
        (None, False, PermissionError, "You are not logged in .*hf auth login"),
        ("hf_forged", False, PermissionError, "your token is no longer valid"),
        ("hf_reader", False, PermissionError, "token for the Hub may only read"),
        ("hf_writer", True, InputError, f"There is no repository {REPO} to open a pull request in"),
    ],
)
def test_the_error_says_why_somebody_may_not_publish(hub, token, create_pr, kind, message):
    with pytest.raises(kind, match=message):
        find_repository(HfApi(endpoint=hub.url, token=token), REPO, False, create_pr)


@pytest.mark.parametrize("account", ["other", "readers"])
def test_nothing_goes_to_an_account_of_others(hub, api, good_release, account):
    message = (
        f"The Hub refuses {account}/leaf: .*the namespace '{account}'.* open a pull request with `create_pr=True`"
    )
    with pytest.raises(PermissionError, match=message):
        upload_release(good_release, find_repository(api, f"{account}/leaf"))
    assert not hub.repositories


def test_members_of_an_organization_publish_there(hub, api, good_release):
    assert upload_release(good_release, find_repository(api, "lab/leaf")).version == "v1"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("license: cc-by-4.0", "license: free", '"license" must be one of'),
        ("license:", "base_model: ../runs/leaf\nlicense:", '"base_model" with value "../runs/leaf" is not valid'),
    ],
)
def test_the_hub_refuses_metadata_that_it_does_not_know(hub, api, release, old, new, message):
    in_card(old, new)(release)
    with pytest.raises(InputError, match=f"The Hub refuses {REPO}: Invalid metadata in README.md. - {message}"):
        upload_release(release, find_repository(api, REPO))
    assert published_files(hub) == {}


@pytest.mark.parametrize(
    "repo_id", ["leaf", "a/b/c", "a//b", "some one/leaf", "someone/-leaf", "https://hf.co/a/b", ""]
)
def test_other_names_are_refused_as_a_repository(checkpoint, repo_id):
    with pytest.raises(InputError, match=r"^Give the repository as ACCOUNT/NAME[^\n]*$"):
        publish(checkpoint, repo_id, dry_run=True)


def test_an_unreachable_hub_is_a_lost_connection(good_release):
    api = HfApi(endpoint="http://127.0.0.1:9", token="hf_writer")
    with pytest.raises(ConnectionError, match="The connection to the Hub was lost"):
        find_repository(api, REPO)


def test_offline_mode_is_no_lost_connection(hub, api, checkpoint, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match=r"offline mode: unset HF_HUB_OFFLINE .*`dry_run=True`"):
        publish(checkpoint, REPO, api=api)
    assert not hub.requests


def test_errors_of_the_command_are_one_line(checkpoint, tmp_path, capsys, monkeypatch):
    assert main(["publish", str(checkpoint), "leaf", "--dry-run"]) == 1
    error = "proformer: Give the repository as ACCOUNT/NAME, such as YOUR-ACCOUNT/leaf.\n"
    assert capsys.readouterr().err == error
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    append("README.md", "TODO\n")(shutil.copytree(checkpoint, tmp_path / "leaf"))
    assert main(["publish", str(tmp_path / "leaf"), REPO, "--license", "mit", "--dry_run"]) == 1
    error = capsys.readouterr().err
    assert f"proformer: {tmp_path / 'leaf'}: nothing is uploaded. Check of card: README.md, line" in error


def test_other_errors_are_no_lost_connection(hub, api, release):
    """An error of a local file stays as it is, also where the client wraps it."""

    class Files(dict):
        def __contains__(self, oid):
            (release / "model.safetensors").unlink(missing_ok=True)
            return False

    hub.large_files = Files()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        upload_release(release, find_repository(api, REPO))
    with pytest.raises(OSError, match="No space left") as raised, _translate_hub_errors(REPO):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert not isinstance(raised.value, ConnectionError)
