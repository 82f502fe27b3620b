"""A checkpoint to the Hub: a release folder that is complete and true without this package, and one commit of it."""

import hashlib
import json
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard, ModelInfo
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.hf_api import RepoSibling
from huggingface_hub.utils import httpx, validate_repo_id
from PIL import Image
from transformers import AutoModelForPreTraining

from .. import __version__
from ..configuration_proformer import ProformerConfig
from ..data.tables import InputError, first_line
from ..pipeline_proformer import PromoterExpressionPipeline
from ..prediction import load_checkpoint
from .checks import (
    CARD,
    CONFIG,
    FENCED,
    LIMITS,
    METRICS,
    UNLICENSED,
    check_release,
    linked,
    read_card,
    release_files,
)


# Files that are no release yet: the Hub puts them into a new repository.
OF_A_NEW_REPOSITORY = {".gitattributes", CARD}

VERSION = re.compile(r"v(\d+)")


class Published(NamedTuple):
    """
    What came of publishing.

    Attributes:
        url: of the release on the Hub, or of the pull request.
        commit: the one that holds the release.
        version: tag of that commit; None of a pull request.
        changed: False if the repository, or an open pull request of one's own, held the very same release already.
    """

    url: str
    commit: str
    version: str | None
    changed: bool


class Repository(NamedTuple):
    """
    Where a release goes, as it is before.

    Attributes:
        api: client of the Hub, logged in.
        repo_id: the repository's name.
        account: name of the account that is logged in.
        head: last commit of its main branch; None if it is not there yet.
        files: paths in that commit.
        version: number of the last of the tags v1, v2 and so on; 0 without any.
        released: paths in the commit of that tag.
    """

    api: HfApi
    repo_id: str
    account: str
    head: str | None = None
    files: Sequence[str] = ()
    version: int = 0
    released: Sequence[str] = ()


def publish(
    checkpoint: str | os.PathLike,
    repo_id: str,
    *,
    license: str | None = None,
    private: bool = False,
    create_pr: bool = False,
    dry_run: bool = False,
    api: HfApi | None = None,
    show: Callable[[str], None] = print,
) -> Published | None:
    """
    Makes a release of a checkpoint, checks it, and uploads it to the Hub in one commit, with the next of the tags v1,
    v2 and so on. Files of an earlier release that are not in this one are deleted there. The first example of the card
    is run for it, so publish no folder whose card you do not trust.

    Args:
        checkpoint: folder of a model and its card: that of `finetune`, of examples/train.py, or `checkpoint_path()`.
        repo_id: repository on the Hub, such as "account/name"; made if it is not there.
        license: identifier of a licence on the Hub, such as "cc-by-4.0", to put into the card.
        private: make the new repository one that only you see.
        create_pr: open a pull request in a repository that is there, without a tag.
        dry_run: do everything but the upload; needs no network.
        api: client of the Hub; by default with the token that you are logged in with.
        show: is told what is done, a line at a time.

    Returns:
        what came of it; None of a dry run.

    Raises:
        InputError: the folder or the repository is not fit for it, a check fails, or the Hub refuses; nothing is
            uploaded. A release that fails a check is kept in the folder that the error names.
        ConnectionError: the connection was lost; the Hub holds the release whole or nothing of it. A new repository
            may be there, empty.
    """
    require_repo_id(repo_id)
    api = api or HfApi(library_name="modeling_proformer", library_version=__version__)
    repository = None if dry_run else find_repository(api, repo_id, private, create_pr)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "release"
        write_release(checkpoint, folder, repo_id, license)
        for line in tree(folder):
            show(line)
        if unreleased := left_out(checkpoint, folder):
            show(f"Left out: {', '.join(unreleased)}.")
        if dry_run and not read_card(folder).data.datasets:
            show("The card names no dataset; if yours is on the Hub, add `datasets: [ACCOUNT/NAME]` to its metadata.")
        faults = check_release(folder, repo_id)
        if failed := [f"Check of {name}: {' '.join(found)}" for name, found in faults.items() if found]:
            kept = shutil.move(folder, tempfile.mkdtemp(prefix="proformer-"))
            show(f"Look at the release in this folder, which may be deleted: {kept}")
            raise InputError(f"{checkpoint}: nothing is uploaded. {' '.join(failed)} The release is kept in {kept}.")
        show(f"Checked and found good: {', '.join(faults)}.")
        if repository is None:
            show("A dry run: nothing is uploaded.")
            return None
        published = upload(folder, repository, private, create_pr)
    if not published.changed:
        show(f"This very release is there already: {published.url}")
    elif create_pr:
        show(f"Opened a pull request: {published.url}")
    else:
        show(f"Published as {published.version}: {published.url}")
    return published


def require_repo_id(repo_id: str):
    """
    Raises:
        InputError: this is not the name of a repository.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise InputError(f"Give the repository as ACCOUNT/NAME. {first_line(error)}") from error
    if "/" not in repo_id:
        raise InputError(f"Give the repository as ACCOUNT/NAME, such as YOUR-ACCOUNT/{repo_id}.")


def write_release(checkpoint: str | os.PathLike, folder: str | os.PathLike, repo_id: str, license: str | None = None):
    """
    Writes a checkpoint as a release: weights in float32, configuration, tokenizer, the code that opens them without
    this package, the card, `metrics.json` if there is one, and the files that the card links to; nothing else. Linked
    pictures are saved anew, as pixels alone.

    Args:
        checkpoint, repo_id, license: those of `publish`.
        folder: to write; a new one.

    Raises:
        InputError: there is no such checkpoint, no card beside it that can be read, or a linked picture that cannot.
    """
    checkpoint, folder = Path(checkpoint), Path(folder)
    if not checkpoint.is_dir():
        raise InputError(f"{checkpoint}: there is no such folder.")
    if folder.exists():
        raise InputError(f"{folder}: this is there already; name a new folder.")
    model, tokenizer = load_checkpoint(checkpoint)
    if "ProformerForPreTraining" in (model.config.architectures or []):
        # Opened to predict expression, a checkpoint leaves its head for masked nucleotides behind.
        model = AutoModelForPreTraining.from_pretrained(checkpoint, trust_remote_code=False)
    card = release_card(checkpoint, repo_id, license)
    named = [
        name
        for name in [METRICS, *linked(card.text)]
        if (folder / name).resolve().is_relative_to(folder.resolve())
        and (checkpoint / name).is_file()
        and Path(name).suffix in LIMITS
    ]
    pictures = {name: picture_alone(checkpoint / name) for name in named if name.endswith(".png")}
    PromoterExpressionPipeline(model=model.float(), tokenizer=tokenizer, device="cpu").save_pretrained(folder)
    card.save(folder / CARD)
    for name in named:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if name in pictures:
            pictures[name].save(target)
        elif not target.exists():
            shutil.copyfile(checkpoint / name, target)


def picture_alone(path: Path) -> Image.Image:
    """
    The pixels of a PNG, without what else its file tells.

    Raises:
        InputError: it is damaged, or of 16 bits of grey.
    """
    try:
        with Image.open(path, formats=["PNG"]) as image:
            image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: this is no PNG that can be read; save the picture anew.") from error
    if image.mode.startswith("I"):
        raise InputError(f"{path}: this picture has 16 bits of grey a pixel; save it with 8.")
    pixels = image.convert("RGBA" if "A" in image.mode or "transparency" in image.info else "RGB")
    alone = Image.new(pixels.mode, pixels.size)
    alone.paste(pixels)
    return alone


def release_card(checkpoint: Path, repo_id: str, license: str | None) -> ModelCard:
    """The card of a checkpoint, with the licence, and with the repository for the model's name in its code."""
    card = read_card(checkpoint)
    if license is not None:
        card.data.license = license
    if card.data.license is not None:
        stated = f"Its licence is `{card.data.license}`.\n\n"
        card.text = re.sub(rf"^{UNLICENSED}.*?(?:\n\s*\n|\Z)", stated, card.text, flags=re.DOTALL | re.MULTILINE)
    card.text = renamed(card.text, card.data.model_name or checkpoint.resolve().name, repo_id)
    return card


def renamed(text: str, name: str, repo_id: str) -> str:
    """The text of a card whose blocks of code open a model from its repository; elsewhere it keeps its name."""
    string, word = re.escape(json.dumps(name, ensure_ascii=False)), re.escape(shlex.quote(name))

    def renamed_block(block: re.Match) -> str:
        # A block of text is what code prints; elsewhere, a bare name may be one of code as well.
        if block[1] == "text":
            return block[0]
        code = re.sub(rf"(\bmodel=|from_pretrained\(){string}", lambda found: found[1] + json.dumps(repo_id), block[0])
        return re.sub(rf"(--(?:from|model) ){word}(?=\s)", lambda found: found[1] + repo_id, code)

    return FENCED.sub(renamed_block, text)


def tree(folder: Path) -> Iterator[str]:
    """The files of a release with their sizes, and their sum."""
    sizes = {name: (folder / name).stat().st_size for name in release_files(folder)}
    for name, size in {**sizes, f"in {len(sizes)} files": sum(sizes.values())}.items():
        yield f"{size:>13,} bytes  {name}"


def left_out(checkpoint: str | os.PathLike, folder: Path) -> list[str]:
    """Files of a checkpoint that are not in its release; of a folder that has none there, the name alone."""
    names = release_files(folder)
    tops = {name.partition("/")[0] for name in names}
    missing = set(release_files(Path(checkpoint))) - set(names)
    return sorted({name if name.partition("/")[0] in tops else name.partition("/")[0] for name in missing})


def find_repository(api: HfApi, repo_id: str, private: bool, create_pr: bool) -> Repository:
    """
    Whether and how a release can go to a repository.

    Args:
        api: client of the Hub.
        repo_id, private, create_pr: those of `publish`.

    Raises:
        InputError: there is no token that may write; or the repository is somebody else's, holds something else than a
            release, is not there for a pull request, or can be seen by all though it should be private.
        ConnectionError: the Hub was not reached.
    """
    with told_in_words(repo_id):
        login = api.whoami()
        if login.get("auth", {}).get("accessToken", {}).get("role") == "read":
            raise InputError(
                "You are logged in to the Hub with a token that may only read: log in with one that may write, from "
                "https://huggingface.co/settings/tokens."
            )
        if not create_pr:
            require_account(login, repo_id)
        try:
            info = api.model_info(repo_id)
        except RepositoryNotFoundError as error:
            if create_pr:
                raise InputError(f"There is no repository {repo_id} to open a pull request in.") from error
            return Repository(api, repo_id, login["name"])
        if private and not info.private:
            raise InputError(f"All can see {repo_id}: make it private in its settings, or name a new repository.")
        files = paths_in(info)
        require_release(api, repo_id, info.sha, files)
        versions = [VERSION.fullmatch(tag.name) for tag in api.list_repo_refs(repo_id).tags]
        version = max((int(found[1]) for found in versions if found), default=0)
        released = paths_in(api.model_info(repo_id, revision=f"v{version}")) if version else []
        return Repository(api, repo_id, login["name"], info.sha, files, version, released)


def require_account(login: Mapping[str, Any], repo_id: str):
    """
    Raises:
        InputError: a user who is logged in, of whom `login` is what the Hub tells, may not write to this account.
    """
    # A member who may only read may still write in one of the organization's groups.
    accounts = [login["name"]] + [
        organization["name"]
        for organization in login.get("orgs", [])
        if organization.get("roleInOrg") not in ("read", "no_access") or organization.get("resourceGroups")
    ]
    owner = repo_id.partition("/")[0]
    if login.get("type") == "user" and owner.lower() not in map(str.lower, accounts):
        raise InputError(
            f"You are logged in to the Hub as {login['name']}, who may write to {', '.join(accounts)}, and not to "
            f"{owner}: name a repository of these accounts, or open a pull request with --pr."
        )


def paths_in(info: ModelInfo) -> list[str]:
    return [file.rfilename for file in info.siblings]


def require_release(api: HfApi, repo_id: str, commit: str, files: Sequence[str]):
    """
    Raises:
        InputError: a repository holds something else than a Proformer, which a release would replace.
    """

    def text_of(name: str) -> str:
        if name not in files:
            return ""
        with tempfile.TemporaryDirectory() as temporary:
            path = api.hf_hub_download(repo_id, name, revision=commit, local_dir=temporary)
            return Path(path).read_text(encoding="utf-8", errors="replace")

    if OF_A_NEW_REPOSITORY.issuperset(files):
        # The website puts a card of metadata alone into a new repository.
        fit = not re.sub(r"\A---\n.*?^---$", "", text_of(CARD), flags=re.DOTALL | re.MULTILINE).strip()
    else:
        fit = re.search(rf'"model_type"\s*:\s*"{ProformerConfig.model_type}"', text_of(CONFIG))
    if not fit:
        raise InputError(f"{repo_id} holds something else than a Proformer, to be replaced: name a new repository.")


def upload(folder: Path, repository: Repository, private: bool = False, create_pr: bool = False) -> Published:
    """
    Makes a repository hold a release and nothing else, by one commit upon the last that `find_repository` saw. What is
    deleted for it is of the last release.

    Args:
        folder: of the release, after its checks.
        repository: from `find_repository`.
        private, create_pr: those of `publish`.

    Raises:
        InputError: the repository holds files that are of no release, or the Hub refuses.
        ConnectionError: the connection was lost.
    """
    api, repo_id, account, head, files, version, released = repository
    names = release_files(folder)
    stale = sorted(set(files) - {*names, ".gitattributes"})
    if foreign := [name for name in stale if name not in released]:
        raise InputError(
            f"{repo_id} holds files that are of no release, and would be deleted: {', '.join(foreign)}. Move them "
            "elsewhere, or name a new repository."
        )
    operations = [CommitOperationAdd(name, folder / name) for name in names]
    operations += [CommitOperationDelete(name) for name in stale]
    with told_in_words(repo_id):
        if create_pr and (opened := opened_before(folder, api, repo_id, account)):
            return opened
        if head is None:
            api.create_repo(repo_id, private=private)
        # Not `upload_folder`, which may divide a release among several commits.
        commit = api.create_commit(
            repo_id,
            operations,
            commit_message=f"Release made by modeling_proformer {__version__}",
            parent_commit=head,
            create_pr=create_pr,
        )
        # The client makes no commit of files that are all the same.
        changed = commit.oid != head
        if create_pr:
            return Published(commit.pr_url or f"{api.endpoint}/{repo_id}", commit.oid, None, changed)
        # Unchanged files have their tag already, unless the connection was lost just before it.
        if changed or not version or api.model_info(repo_id, revision=f"v{version}").sha != commit.oid:
            version += 1
            api.create_tag(repo_id, tag=f"v{version}", revision=commit.oid)
    return Published(f"{api.endpoint}/{repo_id}/tree/v{version}", commit.oid, f"v{version}", changed)


def opened_before(folder: Path, api: HfApi, repo_id: str, author: str) -> Published | None:
    """The open pull request of an author that holds this very release, of which the answer may have been lost."""
    names = release_files(folder)
    for discussion in api.get_repo_discussions(
        repo_id, author=author, discussion_type="pull_request", discussion_status="open"
    ):
        info = api.model_info(repo_id, revision=discussion.git_reference, files_metadata=True)
        files = {file.rfilename: file for file in info.siblings if file.rfilename != ".gitattributes"}
        if files.keys() == set(names) and all(holds(files[name], folder / name) for name in names):
            return Published(discussion.url, info.sha, None, False)
    return None


def holds(file: RepoSibling, path: Path) -> bool:
    """Whether a file on the Hub has the content of one here, of which it tells the digest."""
    if file.lfs:
        with open(path, "rb") as content:
            return file.lfs.sha256 == hashlib.file_digest(content, "sha256").hexdigest()
    content = path.read_bytes()
    return file.blob_id == hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def told_in_words(repo_id: str) -> Iterator[None]:
    """
    Raises:
        InputError: in the place of the client's errors where the Hub refuses.
        ConnectionError: in the place of those where it was not reached. All others, as of a full disk, stay.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        # What befell a file on its way, the client wraps.
        wrapped = isinstance(error, RuntimeError | LocalEntryNotFoundError) and error.__cause__
        cause = error.__cause__ if wrapped else error
        status = cause.response.status_code if isinstance(cause, HfHubHTTPError) else None
        if isinstance(cause, LocalTokenNotFoundError) or status == 401:
            raise InputError(
                "You are not logged in to the Hub, or your token is no longer valid: make one that may write at "
                "https://huggingface.co/settings/tokens, and give it to `hf auth login` or put it into the "
                "environment variable HF_TOKEN."
            ) from error
        if isinstance(cause, OfflineModeIsEnabled):
            raise InputError(
                "The Hub cannot be asked, as offline mode is on: unset HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE to "
                "publish, or look first with --dry-run."
            ) from error
        if isinstance(cause, ValueError) or (status is not None and status < 500):
            reason = getattr(cause, "server_message", None) or " ".join(str(cause).split())
            raise InputError(f"The Hub refuses {repo_id}: {reason}") from error
        if isinstance(cause, httpx.HTTPError | ConnectionError | TimeoutError):
            raise ConnectionError(
                f"The connection to the Hub was lost ({first_line(cause.__cause__ or cause)}). {repo_id} holds no "
                "half of a release: give the same command again."
            ) from error
        raise cause from None


__all__ = ["Published", "check_release", "publish", "write_release"]
