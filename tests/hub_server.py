"""A hub on this machine: as much of the Hugging Face hub's protocol as its clients use to read, and its bad days.

Models and data sets, branches and tags; small files by a redirect to a cache, large ones by a redirect to another host
(`localhost`, where the hub itself is 127.0.0.1), which must get no token; no Xet, so that clients use plain HTTP.
"""

import contextlib
import hashlib
import json
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

_LARGE = (".safetensors", ".bin", ".parquet")
"""Files that the hub keeps in large-file storage, whatever their size."""


@dataclass(frozen=True)
class Repository:
    """files: path -> content at `main`; revisions: the same for other branches and tags."""

    files: Mapping[str, bytes]
    kind: str = "model"
    revisions: Mapping[str, Mapping[str, bytes]] = field(default_factory=dict)
    gated: bool = False

    def at(self, revision: str) -> tuple[str, Mapping[str, bytes]] | None:
        """(commit, files) of a branch, a tag or a commit."""
        for name, files in {"main": self.files, **self.revisions}.items():
            commit = commit_of(files)
            if revision in (name, commit):
                return commit, files
        return None


def commit_of(files: Mapping[str, bytes]) -> str:
    return hashlib.sha1(json.dumps({path: _oid(content) for path, content in files.items()}).encode()).hexdigest()


@dataclass
class Hub:
    """What a server holds and what it was asked.

    moved: old name of a model -> the name it has now. members: tokens that gated repositories let in. troubles: (name,
    file) -> what becomes of the first requests for it, one each: a status, or of its content ("cut", bytes), ("hold",
    bytes) or ("slow", seconds). `held` is set once it holds, and it lets go when `let_go` is set.
    """

    repositories: Mapping[str, Repository]
    moved: Mapping[str, str] = field(default_factory=dict)
    troubles: Mapping[tuple[str, str], Sequence[Any]] = field(default_factory=dict)
    members: Sequence[str] = ()
    endpoint: str = ""
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    held: threading.Event = field(default_factory=threading.Event)
    let_go: threading.Event = field(default_factory=threading.Event)
    met: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))

    def trouble(self, path: str, kind: type) -> Any:
        """The next trouble for what is asked at `path`, if it is of this kind; it happens once."""
        for (name, file), troubles in self.troubles.items():
            left = troubles[self.met[name, file] :]
            if f"/{name}/" in path and path.endswith(f"/{file}") and left and isinstance(left[0], kind):
                self.met[name, file] += 1
                return left[0]
        return None


@contextlib.contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Serve `hub` while open, and set its `endpoint`."""

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.let_go.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def answer(self, body: bytes = b"") -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append((self.command, path, {k.lower(): v for k, v in self.headers.items()}))
        status = self.hub.trouble(path, int)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            if status is not None:
                self.refuse(status, "", f"you sent {self.headers.get('Authorization')}", {"Retry-After": "0"})
            elif path.startswith("/cdn/"):
                self.send_stored(path.removeprefix("/cdn/").partition("/")[0])
            elif path.startswith("/api/resolve-cache/"):
                kind, rest = path.removeprefix("/api/resolve-cache/").split("/", 1)
                self.find(kind, rest, "resolve-cache", body)
            elif path.startswith("/api/"):
                kind, _, rest = path.removeprefix("/api/").partition("/")
                self.find(kind, rest, "api", body)
            else:
                data = path.startswith("/datasets/")
                self.find("datasets" if data else "models", path.removeprefix("/datasets").lstrip("/"), "file", body)

    def find(self, kind: str, rest: str, what: str, body: bytes) -> None:
        """The repository that `rest` begins with; then whatever is wanted of it."""
        for old, new in self.hub.moved.items():
            if kind == "models" and (rest == old or rest.startswith(old + "/")):
                start = {"api": "/api/models/", "file": "/"}[what]
                return self.redirect(307, start + quote(new + rest.removeprefix(old)), {})
        for name, repository in self.hub.repositories.items():
            if f"{repository.kind}s" == kind and (rest == name or rest.startswith(name + "/")):
                tail = rest.removeprefix(name).lstrip("/")
                if what == "api":
                    return self.about(name, repository, tail, body)
                return self.file(name, repository, tail, what)
        # The hub does not tell whether a repository is missing or private to whoever is not logged in.
        if self.headers.get("Authorization"):
            return self.refuse(404, "RepoNotFound", "Repository not found")
        return self.refuse(401, "RepoNotFound", "Invalid username or password.")

    def about(self, name: str, repository: Repository, tail: str, body: bytes) -> None:
        verb, _, rest = tail.partition("/")
        revision, _, folder = rest.partition("/") if rest else ("main", "", "")
        found = repository.at(revision)
        if found is None:
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        commit, files = found
        if verb in ("", "revision"):
            siblings = [{"rfilename": path} for path in files]
            about = {"_id": "1", "id": name, "modelId": name, "sha": commit, "private": False, "tags": []}
            return self.send_json({**about, "gated": repository.gated and "manual", "siblings": siblings})
        entries = _entries(files)
        if verb == "tree":
            query = parse_qs(urlsplit(self.path).query)
            deep = query.get("recursive", ["false"])[0].lower() in ("true", "1")
            inside = [e for e in entries if not folder or e["path"].startswith(folder + "/")]
            if folder and not inside:
                return self.refuse(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
            depth = folder.count("/") + 1 if folder else 0
            return self.send_json([e for e in inside if deep or e["path"].count("/") == depth])
        if verb == "paths-info":
            wanted = parse_qs(body.decode()).get("paths", [])
            return self.send_json([entry for entry in entries if entry["path"] in wanted])
        return self.refuse(404, "", "no such thing here")

    def file(self, name: str, repository: Repository, tail: str, what: str) -> None:
        if what == "file":
            if not tail.startswith("resolve/"):
                return self.refuse(404, "", "no such page here")
            tail = tail.removeprefix("resolve/")
        revision, _, path = tail.partition("/")
        for branch in repository.revisions:  # a branch may have a slash in its name
            if tail.startswith(branch + "/"):
                revision, path = branch, tail.removeprefix(branch + "/")
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if repository.gated and token not in self.hub.members:
            said = f"Access to model {name} is restricted"
            return self.refuse(403 if token else 401, "GatedRepo", said)
        found = repository.at(revision)
        if found is None:
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        commit, files = found
        about = {"X-Repo-Commit": commit}
        if path not in files:
            return self.refuse(404, "EntryNotFound", "Entry not found", about)
        content = files[path]
        if path.endswith(_LARGE):
            digest = hashlib.sha256(content).hexdigest()
            about |= {"X-Linked-Size": str(len(content)), "X-Linked-ETag": f'"{digest}"', "Accept-Ranges": "bytes"}
            host = self.hub.endpoint.replace("127.0.0.1", "localhost")
            return self.redirect(302, f"{host}/cdn/{digest}/{name}/{quote(path)}", about)
        about["ETag"] = f'"{_oid(content)}"'
        if what == "file":
            kind = f"{repository.kind}s"
            return self.redirect(307, quote(f"/api/resolve-cache/{kind}/{name}/{commit}/{path}"), about)
        return self.send(content, about)

    def send_stored(self, digest: str) -> None:
        for repository in self.hub.repositories.values():
            for files in (repository.files, *repository.revisions.values()):
                for content in files.values():
                    if hashlib.sha256(content).hexdigest() == digest:
                        return self.send(content, {"ETag": f'"{digest}"'})
        return self.refuse(404, "", "nothing is stored under this digest")

    def send(self, content: bytes, headers: Mapping[str, str]) -> None:
        """A file or the range of it that was asked for; cut, slowed or held, if that is its trouble."""
        first, wanted = 0, self.headers.get("Range")
        part = content
        if wanted:
            start, _, end = wanted.removeprefix("bytes=").partition("-")
            first = int(start)
            if first >= len(content):
                return self.refuse(416, "", "nothing there", {"Content-Range": f"bytes */{len(content)}"})
            part = content[first : int(end) + 1 if end else None]
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {first}-{first + len(part) - 1}/{len(content)}")
        for key, value in {"Accept-Ranges": "bytes", **headers, "Content-Length": str(len(part))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        kind, amount = self.hub.trouble(unquote(urlsplit(self.path).path), tuple) or ("", 0)
        if kind == "slow":
            time.sleep(amount)
        if kind in ("cut", "hold"):
            self.wfile.write(part[:amount])
            self.wfile.flush()
            if kind == "hold":
                self.hub.held.set()
                self.hub.let_go.wait()
            self.close_connection = True
            return
        self.wfile.write(part)

    def send_json(self, content: Any) -> None:
        self.send(json.dumps(content).encode(), {"Content-Type": "application/json"})

    def redirect(self, status: int, to: str, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Location": to, "Content-Length": "0"}.items():
            self.send_header(key, value)
        self.end_headers()

    def refuse(self, status: int, code: str, said: str, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        about = {"X-Error-Code": code} if code else {}
        for key, value in {**(headers or {}), **about, "X-Error-Message": said, "Content-Length": "0"}.items():
            self.send_header(key, value)
        self.end_headers()


def _oid(content: bytes) -> str:
    """As git names a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _entries(files: Mapping[str, bytes]) -> list[dict[str, Any]]:
    folders = {"/".join(path.split("/")[:depth]) for path in files for depth in range(1, path.count("/") + 1)}
    found: list[dict[str, Any]] = [
        {"type": "directory", "path": path, "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0}
        for path in sorted(folders)
    ]
    for path, content in files.items():
        entry: dict[str, Any] = {"type": "file", "path": path, "oid": _oid(content), "size": len(content)}
        if path.endswith(_LARGE):
            entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
        found.append(entry)
    return found
