"""Upload a checkpoint to the Hub: as a checked release, in one commit with the next version's tag."""

import hashlib
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelInfo
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
from huggingface_hub.utils.sha import git_hash
from transformers.utils import logging

from ..configuration_proformer import ProformerConfig
from ..data.tables import InputError, first_line
from ..evaluation.cards import CARD
from ..version import __version__
from .checks import check_release
from .release import read_card, release_files, write_release


logger = logging.get_logger(__name__)

_GIT_ATTRIBUTES = ".gitattributes"
_VERSION = re.compile(r"v(\d+)")
_TOKENS = "https://huggingface.co/settings/tokens"


class Published(NamedTuple):
    """
    What came of publishing.

    Attributes:
        url: of the release on the Hub, or of the pull request.
        commit: commit with the release.
        version: tag of that commit; None for a pull request.
        changed: False if the repository, or an open pull request of the same account, had the same release already.
    """

    url: str
    commit: str
    version: str | None
    changed: bool


class Repository(NamedTuple):
    """
    A repository on the Hub before a release goes there.

    Attributes:
        api: client of the Hub, logged in.
        repo_id: name of the repository.
        account: name of the account that is logged in.
        head: last commit of the main branch; None if there is no such repository.
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
    checkpoint: str | PathLike,
    repo_id: str,
    *,
    license: str | None = None,
    private: bool = False,
    create_pr: bool = False,
    dry_run: bool = False,
    api: HfApi | None = None,
) -> Published | None:
    """
    Publish a checkpoint on the Hub as a checked release, in one commit with the next of the tags v1, v2 and so on.

    Files of the last release that are not in this one are deleted there. Publish no folder whose card you do not
    trust, because the checks run its first example.

    The release's card is written from `metrics.json`, with the repository and the licence, if `README.md` is missing
    or as `finetune` or `train` wrote it. A `README.md` that you have edited is published as it is, and so is that of a
    folder without such a record: only ACCOUNT/NAME becomes the repository, and `license` is added to its metadata. The
    checks report what else you have to change.

    Args:
        checkpoint: folder of a model and its card, made by `finetune` or `train`; or `checkpoint_path()`.
        repo_id: repository on the Hub, such as "account/name". It is created if there is none.
        license: identifier of a licence on the Hub, such as "cc-by-4.0".
        private: create the repository as one that only its owners see.
        create_pr: open a pull request in an existing repository, without a tag.
        dry_run: do everything but the upload; this needs no network.
        api: client of the Hub; by default with the token that you are logged in with.

    Returns:
        what came of it; None for a dry run.

    Raises:
        FileNotFoundError: the folder or its card is missing.
        InputError: the folder, the repository or the licence is not fit, or a check fails. A release that fails one
            is kept in the folder that the error names.
        PermissionError: you are not logged in, or may not write to the repository.
        ConnectionError: the Hub cannot be reached. It holds the whole release or nothing of it; a new repository may
            be left empty.
    """
    _require_repo_id(repo_id)
    api = api or HfApi(library_name="modeling_proformer", library_version=__version__)
    repository = None if dry_run else find_repository(api, repo_id, private, create_pr)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "release"
        write_release(checkpoint, folder, repo_id, license)
        for line in _list_sizes(folder):
            logger.info(line)
        if left_out := _files_left_out(checkpoint, folder):
            logger.info(f"Left out: {', '.join(left_out)}.")
        if dry_run and not read_card(folder).data.datasets:
            logger.info("The card names no dataset; if yours is on the Hub, add it to the metadata as `datasets`.")
        faults = check_release(folder, repo_id)
        if failed := [f"Check of {name}: {' '.join(found)}" for name, found in faults.items() if found]:
            kept = shutil.move(folder, tempfile.mkdtemp(prefix="proformer-"))
            raise InputError(
                f"{checkpoint}: nothing is uploaded. {' '.join(failed)} The release is kept in {kept}, which you may "
                "delete."
            )
        logger.info(f"These checks passed: {', '.join(faults)}.")
        if repository is None:
            logger.info("This was a dry run, so nothing is uploaded.")
            return None
        published = upload_release(folder, repository, private, create_pr)
    if not published.changed:
        logger.info(f"Nothing has changed: {published.url}")
    elif create_pr:
        logger.info(f"Opened a pull request: {published.url}")
    else:
        logger.info(f"Published as {published.version}: {published.url}")
    return published


def _require_repo_id(repo_id: str):
    """Refuse a name that is not ACCOUNT/NAME."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise InputError(f"Give the repository as ACCOUNT/NAME. {first_line(error)}") from error
    if "/" not in repo_id:
        raise InputError(f"Give the repository as ACCOUNT/NAME, such as YOUR-ACCOUNT/{repo_id}.")


def _list_sizes(folder: Path) -> Iterator[str]:
    """Yield the files of a release with their sizes, and the sum of them."""
    sizes = {name: (folder / name).stat().st_size for name in release_files(folder)}
    for name, size in {**sizes, f"in {len(sizes)} files": sum(sizes.values())}.items():
        yield f"{size:>13,} bytes  {name}"


def _files_left_out(checkpoint: str | PathLike, folder: Path) -> list[str]:
    """Return the files of a checkpoint that are not in its release; of a folder without any in it, only the name."""
    names = release_files(folder)
    tops = {name.partition("/")[0] for name in names}
    missing = set(release_files(Path(checkpoint))) - set(names)
    return sorted({name if name.partition("/")[0] in tops else name.partition("/")[0] for name in missing})


def find_repository(api: HfApi, repo_id: str, private: bool = False, create_pr: bool = False) -> Repository:
    """
    Return the repository that a release can go to.

    Args:
        api: client of the Hub.
        repo_id, private, create_pr: as in `publish`.

    Raises:
        PermissionError: you are not logged in, or with a token that may only read.
        InputError: the repository holds something other than a release, does not exist although a pull request is
            wanted, or is public although it should be private.
        ConnectionError: the Hub cannot be reached.
    """
    with _translate_hub_errors(repo_id):
        login = api.whoami()
        try:
            info = api.model_info(repo_id)
        except RepositoryNotFoundError:
            info = None
    if login.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise PermissionError(f"Your token for the Hub may only read: log in with one that may write, from {_TOKENS}.")
    if info is None and create_pr:
        raise InputError(f"There is no repository {repo_id} to open a pull request in.")
    if info is None:
        return Repository(api, repo_id, login["name"])
    if private and not info.private:
        raise InputError(f"{repo_id} is public: make it private in its settings, or name a new repository.")
    with _translate_hub_errors(repo_id):
        replaceable = _is_replaceable(api, info)
        versions = [_VERSION.fullmatch(tag.name) for tag in api.list_repo_refs(repo_id).tags]
        version = max((int(found[1]) for found in versions if found), default=0)
        released = _paths_of(api.model_info(repo_id, revision=f"v{version}")) if version else []
    if not replaceable:
        raise InputError(
            f"{repo_id} holds something other than a Proformer, which a release would replace: name a new repository."
        )
    return Repository(api, repo_id, login["name"], info.sha, _paths_of(info), version, released)


def _paths_of(info: ModelInfo) -> list[str]:
    return [file.rfilename for file in info.siblings]


def _is_replaceable(api: HfApi, info: ModelInfo) -> bool:
    """Return whether a repository holds a Proformer, or nothing but what the Hub puts into a new one."""
    files = _paths_of(info)

    def read(name: str) -> str:
        if name not in files:
            return ""
        with tempfile.TemporaryDirectory() as temporary:
            path = api.hf_hub_download(info.id, name, revision=info.sha, local_dir=temporary)
            return Path(path).read_text(encoding="utf-8", errors="replace")

    if {_GIT_ATTRIBUTES, CARD}.issuperset(files):
        # The website puts a card that consists of metadata into a new repository.
        return not re.sub(r"\A---\n.*?^---$", "", read(CARD), flags=re.DOTALL | re.MULTILINE).strip()
    return bool(re.search(rf'"model_type"\s*:\s*"{ProformerConfig.model_type}"', read("config.json")))


def upload_release(folder: Path, repository: Repository, private: bool = False, create_pr: bool = False) -> Published:
    """
    Make a repository hold a release and nothing else, by one commit after the last that `find_repository` saw.

    Only files of the last release are deleted.

    Args:
        folder: a release that has passed its checks.
        repository: from `find_repository`.
        private, create_pr: as in `publish`.

    Raises:
        InputError: the repository holds files that are in no release, or the Hub refuses the release.
        PermissionError: you may not write to the repository.
        ConnectionError: the connection was lost.
    """
    api, repo_id, account, head, files, version, released = repository
    names = release_files(folder)
    obsolete = sorted(set(files) - {*names, _GIT_ATTRIBUTES})
    if foreign := [name for name in obsolete if name not in released]:
        raise InputError(
            f"{repo_id} holds files that are in no release and would be deleted: {', '.join(foreign)}. Move them "
            "elsewhere, or name a new repository."
        )
    operations = [CommitOperationAdd(name, folder / name) for name in names]
    operations += [CommitOperationDelete(name) for name in obsolete]
    with _translate_hub_errors(repo_id):
        if create_pr and (opened := _find_pull_request(folder, api, repo_id, account)):
            return opened
        if head is None:
            api.create_repo(repo_id, private=private)
        # `upload_folder` might divide a release among several commits.
        commit = api.create_commit(
            repo_id,
            operations,
            commit_message=f"Release made by modeling_proformer {__version__}",
            parent_commit=head,
            create_pr=create_pr,
        )
        # The client makes no commit if no file has changed.
        changed = commit.oid != head
        if create_pr:
            return Published(commit.pr_url or f"{api.endpoint}/{repo_id}", commit.oid, None, changed)
        # Unchanged files have their tag already, unless the connection was lost before it was made.
        if changed or not version or api.model_info(repo_id, revision=f"v{version}").sha != commit.oid:
            version += 1
            api.create_tag(repo_id, tag=f"v{version}", revision=commit.oid)
    return Published(f"{api.endpoint}/{repo_id}/tree/v{version}", commit.oid, f"v{version}", changed)


def _find_pull_request(folder: Path, api: HfApi, repo_id: str, author: str) -> Published | None:
    """Return an author's open pull request with this very release: the answer to an earlier try may have been lost."""
    names = release_files(folder)
    for discussion in api.get_repo_discussions(
        repo_id, author=author, discussion_type="pull_request", discussion_status="open"
    ):
        info = api.model_info(repo_id, revision=discussion.git_reference, files_metadata=True)
        files = {file.rfilename: file for file in info.siblings if file.rfilename != _GIT_ATTRIBUTES}
        if files.keys() == set(names) and all(_is_same(files[name], folder / name) for name in names):
            return Published(discussion.url, info.sha, None, False)
    return None


def _is_same(file: RepoSibling, path: Path) -> bool:
    """Return whether a file on the Hub has the content of a local one, by its digest."""
    content = path.read_bytes()
    if file.lfs:
        return file.lfs.sha256 == hashlib.sha256(content).hexdigest()
    return file.blob_id == git_hash(content)


@contextmanager
def _translate_hub_errors(repo_id: str) -> Iterator[None]:
    """
    Turn errors of the Hub and of its client into errors that say what to do.

    Raises:
        PermissionError: the Hub does not know you, or does not let you write.
        InputError: the Hub refuses for another reason.
        ConnectionError: the Hub cannot be reached. Other errors, as of a full disk, stay as they are.
    """
    try:
        yield
    except Exception as error:
        # The client wraps an error that befell a file.
        wrapped = isinstance(error, RuntimeError | LocalEntryNotFoundError) and error.__cause__
        cause = error.__cause__ if wrapped else error
        status = cause.response.status_code if isinstance(cause, HfHubHTTPError) else None
        refusal = f"The Hub refuses {repo_id}: " + (
            getattr(cause, "server_message", None) or " ".join(str(cause).split())
        )
        if isinstance(cause, LocalTokenNotFoundError) or status == 401:
            raise PermissionError(
                f"You are not logged in to the Hub, or your token is no longer valid: make one that may write at "
                f"{_TOKENS}, and give it to `hf auth login` or put it into the environment variable HF_TOKEN."
            ) from error
        if status == 403:
            raise PermissionError(
                f"{refusal} If the repository belongs to somebody else, open a pull request with `create_pr=True`."
            ) from error
        if isinstance(cause, OfflineModeIsEnabled):
            raise ConnectionError(
                "The Hub cannot be reached in offline mode: unset HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE to publish, "
                "or try with `dry_run=True`."
            ) from error
        if isinstance(cause, ValueError) or (status is not None and status < 500):
            raise InputError(refusal) from error
        if isinstance(cause, httpx.HTTPError | ConnectionError | TimeoutError):
            raise ConnectionError(
                f"The connection to the Hub was lost ({first_line(cause.__cause__ or cause)}). {repo_id} holds no "
                "part of the release: publish it again."
            ) from error
        raise cause from None


__all__ = ["Published", "publish"]
