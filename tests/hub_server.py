"""
A small Hub for the tests: the part of the Hub's HTTP API that publishing and loading need.

The clients are the real ones; `HF_ENDPOINT` or `HfApi(endpoint=...)` leads them here. Weights, and files of more than
a megabyte, go by Git LFS, so clients need `HF_HUB_DISABLE_XET=1`.
"""

import base64
import hashlib
import json
import re
import socket
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import yaml


REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"
REVISION = r"(?P<revision>refs/pr/\d+|[^/]+)"


@dataclass
class Repository:
    """
    Attributes:
        commits: content of each path in each commit.
        branches: commit of each branch and, under `refs/pr/1` and so on, of each pull request.
        pull_requests: account, title and status of each, from number 1.
        tags: commit of each tag.
        lfs: paths that are in LFS.
    """

    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    pull_requests: list[dict[str, str]] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    lfs: set[str] = field(default_factory=set)

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        names = [f"{path} {git_oid(content)}" for path, content in sorted(files.items())]
        oid = hashlib.sha1("\n".join([str(len(self.commits)), *names]).encode()).hexdigest()
        self.commits[oid] = files
        self.branches[branch] = oid
        return oid

    def resolve(self, revision: str) -> str:
        oid = (self.branches | self.tags).get(revision, revision)
        if oid not in self.commits:
            raise Refusal(404, "RevisionNotFound")
        return oid

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return self.commits[self.resolve(revision)]


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def lfs_pointer(content: bytes) -> dict[str, str | int]:
    # The Hub has two names for the digest.
    digest = hashlib.sha256(content).hexdigest()
    return {"oid": digest, "sha256": digest, "size": len(content), "pointerSize": 134}


class Refusal(Exception):
    """An answer without success: its status, and the Hub's code or message."""

    def __init__(self, status: int, code: str = "", message: str = ""):
        self.status, self.headers = status, {}
        self.body = {"error": message or code}
        if code:
            self.headers = {"X-Error-Code": code, "X-Error-Message": message or code}


class Lost(Exception):
    """The connection breaks here."""


@dataclass
class Fault:
    """
    The connection breaks at requests that match.

    Attributes:
        request: pattern of `METHOD /path`.
        at: "body", after half of what the client sends; or "answer", when all is done but not yet answered.
        times: number of requests that still fail.
    """

    request: str
    at: str
    times: int


class LocalHub(ThreadingHTTPServer):
    """
    Serve on a free port of this machine while a `with` block lasts.

    Attributes:
        accounts: account of each token, and the role of the token.
        organizations: role of each of their members.
        repositories: repository of each id.
        requests: requests of clients, as `METHOD /path`.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.accounts = {"hf_writer": ("someone", "write"), "hf_reader": ("someone", "read")}
        self.organizations = {"lab": {"someone": "write"}, "readers": {"someone": "read"}}
        self.repositories: dict[str, Repository] = {}
        self.requests: list[str] = []
        self.faults: list[Fault] = []
        self.large_files: dict[str, bytes] = {}
        # Clients send several requests at once.
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def __enter__(self) -> "LocalHub":
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error):
        self.shutdown()
        self.server_close()

    def create(self, repo: str, private: bool = False, files: dict[str, bytes] | None = None) -> Repository:
        """Return a new repository, as the Hub makes it: with `.gitattributes`, and with the given files."""
        repository = self.repositories[repo] = Repository(private)
        attributes = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"
        repository.commit("main", {".gitattributes": attributes, **(files or {})})
        return repository

    def lose(self, request: str, at: str = "body", times: int = 1):
        """Break the connection at the next requests that match, see `Fault`."""
        self.faults.append(Fault(request, at, times))

    def handle_error(self, request, client_address):
        """Ignore clients that break the connection."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: LocalHub

    def log_message(self, *arguments):
        pass

    def answer(self):
        url = urlsplit(self.path)
        self.query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        path, line = unquote(url.path), f"{self.command} {unquote(url.path)}"
        fault = None
        with self.server.lock:
            self.server.requests.append(line)
            for candidate in self.server.faults:
                if candidate.times and re.search(candidate.request, line):
                    fault, candidate.times = candidate, candidate.times - 1
                    break
        try:
            self.body = self.received(half=fault is not None and fault.at == "body")
            status, self.reply_headers = 200, {}
            try:
                with self.server.lock:
                    body = self.routed(path)
            except Refusal as refusal:
                status, body = refusal.status, refusal.body
                self.reply_headers |= refusal.headers
            if fault:
                raise Lost
        except Lost:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        if not isinstance(body, bytes):
            self.reply_headers["Content-Type"], body = "application/json", json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **self.reply_headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_POST = do_PUT = answer

    def received(self, half: bool) -> bytes:
        """Return the body of the request, or read half of it and break the connection."""
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
                if half:
                    raise Lost
            self.rfile.readline()
            return body
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length // 2 if half else length)
        if half:
            raise Lost
        return body

    def routed(self, path: str) -> bytes | dict | list:
        for methods, pattern, action in ROUTES:
            found = re.fullmatch(pattern, path)
            if found and self.command in methods:
                parts = found.groupdict()
                if "repo" in parts:
                    parts["repo"] = self.repository(parts["repo"])
                return action(self, **parts)
        raise Refusal(404, message=f"There is no {self.command} {path} here.")

    @property
    def account(self) -> tuple[str | None, str | None]:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.server.accounts:
            raise Refusal(401, message="Invalid username or password.")
        return self.server.accounts.get(token, (None, None))

    def repository(self, repo: str) -> Repository:
        repository, (name, _) = self.server.repositories.get(repo), self.account
        if repository is None or (repository.private and not self.role_in(repo.split("/")[0])):
            raise Refusal(404 if name else 401, "RepoNotFound", "Repository not found")
        self.repo_id = repo
        return repository

    def role_in(self, owner: str) -> str | None:
        """Return the role of the account in an account or organization."""
        name, _ = self.account
        return "admin" if name == owner else self.server.organizations.get(owner, {}).get(name)

    def may_write(self, owner: str) -> bool:
        return self.account[1] == "write" and self.role_in(owner) in ("admin", "write")

    def require_writer(self):
        """Refuse to write for others than the owner, who may only open pull requests."""
        if not self.may_write(self.repo_id.split("/")[0]) and "create_pr" not in self.query:
            raise Refusal(403, message="Forbidden: pass `create_pr=1` as a query parameter to create a Pull Request")

    def whoami(self):
        name, role = self.account
        if name is None:
            raise Refusal(401, message="Invalid username or password.")
        organizations = [
            {"type": "org", "name": organization, "roleInOrg": members[name]}
            for organization, members in self.server.organizations.items()
            if name in members
        ]
        token = {"displayName": "test", "role": role}
        return {"type": "user", "name": name, "orgs": organizations, "auth": {"accessToken": token}}

    def create(self):
        wanted, (name, _) = json.loads(self.body), self.account
        owner = wanted.get("organization") or name
        repo = f"{owner}/{wanted['name']}"
        if not self.may_write(owner):
            raise Refusal(403, message=f"You don't have the rights to create a model under the namespace {owner!r}.")
        if repo in self.server.repositories:
            raise Refusal(409, message="You already created this model repo")
        self.server.create(repo, wanted.get("visibility") == "private" or bool(wanted.get("private")))
        return {"url": f"{self.server.url}/{repo}", "name": repo}

    def validate_yaml(self):
        content = json.loads(self.body)["content"]
        try:
            data = yaml.safe_load(re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)[1])
            assert isinstance(data, dict)
            if data.get("license") not in (None, "apache-2.0", "cc-by-4.0", "mit"):
                raise ValueError('"license" must be one of [apache-2.0, cc-by-4.0, mit]')
            if not re.fullmatch(r"[\w-]+(/[\w.-]+)?", data.get("base_model", "a/b")):
                raise ValueError(f'"base_model" with value "{data["base_model"]}" is not valid.')
        except Exception as error:
            refusal = Refusal(400)
            refusal.body = {"errors": [{"message": str(error)}], "warnings": []}
            raise refusal from error
        return {"errors": [], "warnings": []}

    def preupload(self, repo: Repository, revision: str):
        self.require_writer()
        present = repo.files(revision)
        answers = []
        for file in json.loads(self.body)["files"]:
            path, content = file["path"], present.get(file["path"])
            large = path.endswith(".safetensors") or file["size"] > 1e6
            digest = (lambda content: hashlib.sha256(content).hexdigest()) if large else git_oid
            oid = None if content is None else digest(content)
            mode = "lfs" if large else "regular"
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return {"files": answers}

    def lfs_batch(self, repo: Repository):
        answers = []
        for wanted in json.loads(self.body)["objects"]:
            answer = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.server.large_files:
                link = f"{self.server.url}/large-files/{wanted['oid']}"
                answer["actions"] = {"upload": {"href": link}, "verify": {"href": f"{link}/verify"}}
            answers.append(answer)
        return {"transfer": "basic", "objects": answers}

    def lfs_upload(self, oid: str):
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Refusal(400, message="These are other bytes.")
        self.server.large_files[oid] = self.body
        return b""

    def lfs_verify(self, oid: str):
        if oid not in self.server.large_files:
            raise Refusal(404)
        return {}

    def commit(self, repo: Repository, revision: str):
        self.require_writer()
        files, lfs = dict(repo.files(revision)), set(repo.lfs)
        for line in self.body.splitlines():
            entry = json.loads(line)
            key, value = entry["key"], entry["value"]
            if key == "header" and value.get("parentCommit") not in (None, repo.resolve(revision)):
                raise Refusal(412, message="A commit has happened since. Please refresh and try again.")
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                if value["oid"] not in self.server.large_files:
                    raise Refusal(400, message=f"{value['path']} was not uploaded.")
                files[value["path"]] = self.server.large_files[value["oid"]]
                lfs.add(value["path"])
            elif key == "deletedFile" and files.pop(value["path"], None) is None:
                raise Refusal(404, "EntryNotFound", f"A file with this name doesn't exist: {value['path']}")
        pull_request = None
        if "create_pr" in self.query:
            title = json.loads(self.body.splitlines()[0])["value"]["summary"]
            repo.pull_requests.append({"author": self.account[0], "title": title, "status": "open"})
            number = len(repo.pull_requests)
            revision, pull_request = f"refs/pr/{number}", f"{self.server.url}/{self.repo_id}/discussions/{number}"
        repo.lfs = lfs
        oid = repo.commit(revision, files)
        url = f"{self.server.url}/{self.repo_id}/commit/{oid}"
        return {"success": True, "commitUrl": url, "commitOid": oid, "pullRequestUrl": pull_request}

    def tag(self, repo: Repository, revision: str):
        self.require_writer()
        name = json.loads(self.body)["tag"]
        if name in repo.tags:
            raise Refusal(409, message="Tag reference exists already")
        repo.tags[name] = repo.resolve(revision)
        return {}

    def discussions(self, repo: Repository):
        """Return a page of two pull requests; there are no other discussions here."""
        start = 2 * int(self.query["p"])
        wanted = {name: value for name, value in self.query.items() if name in ("author", "status")}
        found = [
            {
                "num": number,
                "title": one["title"],
                "author": {"name": one["author"]},
                "status": one["status"],
                "isPullRequest": True,
                "createdAt": "2026-01-01T00:00:00.000Z",
                "repo": {"name": self.repo_id, "type": "model"},
            }
            for number, one in reversed(list(enumerate(repo.pull_requests, start=1)))
            if wanted.items() <= one.items()
        ]
        return {"discussions": found[start : start + 2], "count": len(found), "start": start}

    def info(self, repo: Repository, revision: str = "main"):
        siblings = []
        for path, content in sorted(repo.files(revision).items()):
            siblings.append({"rfilename": path})
            if "blobs" in self.query:
                siblings[-1] |= {"size": len(content), "blobId": git_oid(content)}
                if path in repo.lfs:
                    siblings[-1]["lfs"] = lfs_pointer(content)
        return {"id": self.repo_id, "sha": repo.resolve(revision), "private": repo.private, "siblings": siblings}

    def refs(self, repo: Repository):
        branches, pull_requests = [], []
        for name, oid in repo.branches.items():
            refs = pull_requests if name.startswith("refs/pr/") else branches
            refs.append({"name": name, "ref": f"refs/heads/{name}", "targetCommit": oid})
        tags = [{"name": name, "ref": f"refs/tags/{name}", "targetCommit": oid} for name, oid in repo.tags.items()]
        return {"branches": branches, "converts": [], "tags": tags, "pullRequests": pull_requests}

    def tree(self, repo: Repository, revision: str, folder: str | None = None):
        files = repo.files(revision)
        if folder and not any(path.startswith(f"{folder}/") for path in files):
            raise Refusal(404, "EntryNotFound")
        entries = []
        for path, content in sorted(files.items()):
            if folder is None or path.startswith(f"{folder}/"):
                entry = {"type": "file", "path": path, "size": len(content), "oid": git_oid(content)}
                if path in repo.lfs:
                    entry["lfs"] = lfs_pointer(content)
                entries.append(entry)
        return entries

    def resolved(self, repo: Repository, revision: str, file: str):
        commit = repo.resolve(revision)
        self.reply_headers["X-Repo-Commit"] = commit
        content = repo.commits[commit].get(file)
        if content is None:
            raise Refusal(404, "EntryNotFound")
        etag = hashlib.sha256(content).hexdigest() if file in repo.lfs else git_oid(content)
        self.reply_headers |= {"ETag": f'"{etag}"', "Content-Type": "application/octet-stream"}
        return content


ROUTES = [
    (["GET"], "/api/whoami-v2", Handler.whoami),
    (["POST"], "/api/repos/create", Handler.create),
    (["POST"], "/api/validate-yaml", Handler.validate_yaml),
    (["POST"], f"/api/models/{REPO}/preupload/{REVISION}", Handler.preupload),
    (["POST"], f"/api/models/{REPO}/commit/{REVISION}", Handler.commit),
    (["POST"], f"/api/models/{REPO}/tag/{REVISION}", Handler.tag),
    (["POST"], rf"/{REPO}\.git/info/lfs/objects/batch", Handler.lfs_batch),
    (["PUT"], "/large-files/(?P<oid>[0-9a-f]{64})", Handler.lfs_upload),
    (["POST"], "/large-files/(?P<oid>[0-9a-f]{64})/verify", Handler.lfs_verify),
    (["GET"], f"/api/models/{REPO}", Handler.info),
    (["GET"], f"/api/models/{REPO}/revision/{REVISION}", Handler.info),
    (["GET"], f"/api/models/{REPO}/refs", Handler.refs),
    (["GET"], f"/api/models/{REPO}/discussions", Handler.discussions),
    (["GET"], f"/api/models/{REPO}/tree/{REVISION}", Handler.tree),
    (["GET"], f"/api/models/{REPO}/tree/{REVISION}/(?P<folder>.+)", Handler.tree),
    (["GET", "HEAD"], f"/{REPO}/resolve/{REVISION}/(?P<file>.+)", Handler.resolved),
]
