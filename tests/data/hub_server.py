"""A server on this machine that speaks as much of the hub's protocol as `datasets` asks for."""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

SHA = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def hub(repositories: Mapping[str, Mapping[str, bytes]]) -> Iterator[str]:
    """While open, the data sets (name -> path -> content) are served. Yields the endpoint's URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer()

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
            name, rest = self.repository("/api/datasets/")
            if name and rest.startswith("paths-info/"):
                entries = _entries(repositories[name])
                self.send([entry for entry in entries if entry["path"] in asked.get("paths", [])])
            else:
                self.missing("EntryNotFound")

        def answer(self, body: bool = True) -> None:
            name, rest = self.repository("/api/datasets/")
            if name and rest.startswith("tree/"):
                folder = rest.partition("/")[2].partition("/")[2]
                self.send([e for e in _entries(repositories[name]) if e["path"].startswith(folder)])
            elif name:
                files = [{"rfilename": path} for path in repositories[name]]
                self.send({"_id": "1", "id": name, "sha": SHA, "private": False, "siblings": files, "tags": []})
            else:
                name, rest = self.repository("/datasets/")
                path = rest.partition("resolve/")[2].partition("/")[2]
                if name and path in repositories[name]:
                    self.send_file(repositories[name][path], body)
                else:
                    self.missing("EntryNotFound" if name else "RepoNotFound")

        def repository(self, start: str) -> tuple[str | None, str]:
            path = unquote(urlsplit(self.path).path)
            for name in repositories:
                if path == start + name or path.startswith(f"{start}{name}/"):
                    return name, path[len(start + name) + 1 :]
            return None, ""

        def send(self, content: object) -> None:
            data = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def send_file(self, content: bytes, body: bool) -> None:
            wanted = self.headers.get("Range")
            part = content
            if wanted:
                start, _, end = wanted.removeprefix("bytes=").partition("-")
                first, last = int(start), int(end) if end else len(content) - 1
                part = content[first : last + 1]
            self.send_response(206 if wanted else 200)
            if wanted:
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
            self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", SHA)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(len(part)))
            self.end_headers()
            if body:
                self.wfile.write(part)

        def missing(self, code: str) -> None:
            self.send_response(404)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _entries(files: Mapping[str, bytes]) -> list[dict[str, object]]:
    folders = sorted({path.rpartition("/")[0] for path in files} - {""})
    found: list[dict[str, object]] = [
        {"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in folders
    ]
    for path, content in files.items():
        oid = hashlib.sha1(content).hexdigest()
        found.append({"type": "file", "path": path, "oid": oid, "size": len(content)})
    return found
