"""The page over HTTP while a study runs: read-only, for this machine unless told otherwise, and nothing but the page.

What can be asked for are the names of pages that were made in memory, and `state`: no path ever reaches the disk. The
report is made anew when a file of the study has changed since it was last asked for.
"""

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from unnorm.foundation import atomic
from unnorm.foundation.errors import SettingsError, UnnormError
from unnorm.foundation.hashing import hash_json
from unnorm.report.figures import figures
from unnorm.report.names import named
from unnorm.report.page import pages
from unnorm.study.lease import TaskFolder
from unnorm.study.view import STUDY, read_study

LOCAL = "127.0.0.1"
_LOOPBACK = (LOCAL, "localhost")
_FIXED = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def server(study: Path, host: str = LOCAL, port: int = 0) -> ThreadingHTTPServer:
    """A server of the study in the folder `study`, not yet running; port 0: any that is free.

    Raises `ArtefactError` if there is no study, `SettingsError` if the address cannot be had.
    """
    shown = _Shown(study)
    shown.pages()  # what is wrong with the study shows now
    try:
        return _Server((host, port), _handler(shown.answer, host))
    except OSError as error:
        raise SettingsError(f"cannot listen on {host}, port {port}: {error.strerror}. Give another --port.") from error


class _Server(ThreadingHTTPServer):
    daemon_threads = True


class _Shown:
    """The pages as of the last change."""

    def __init__(self, study: Path) -> None:
        self.study = Path(study)
        self._lock = threading.Lock()
        self._state = ""
        self._pages: dict[str, bytes] = {}

    def state(self) -> str:
        """Changes with any file of the study's own folder, and with the state of any of its cells."""
        cells = self.study.resolve().parent / "cells"
        entries = atomic.read_json(self.study / STUDY)["cells"] if (self.study / STUDY).is_file() else []
        files = [path for path in self.study.glob("*") if path.is_file()]
        files += [TaskFolder(cells / Path(entry["folder"]).name).log for entry in entries]
        seen = []
        for path in sorted(files):
            try:
                about = path.stat()
            except FileNotFoundError:  # a cell that has not begun, or a file that is just being replaced
                continue
            seen.append([path.name, str(path.parent.name), about.st_mtime_ns, about.st_size])
        return hash_json(seen)

    def pages(self) -> dict[str, bytes]:
        """Made anew if the state is another one."""
        with self._lock:
            state = self.state()
            if state != self._state or not self._pages:
                study = named(read_study(self.study))
                self._pages, self._state = pages(study, figures(study), live=state), state
            return self._pages

    def answer(self, path: str) -> tuple[int, str, bytes]:
        """(status, type, content) for what was asked."""
        name = path.partition("?")[0].removeprefix("/") or "index.html"
        try:
            if name == "state":
                return 200, "text/plain", self.state().encode()
            content = self.pages().get(name)
        except UnnormError as error:
            return 503, "text/plain", f"The study cannot be read at the moment: {error}\n".encode()
        if content is None:
            return 404, "text/plain", b"There is no such page.\n"
        return 200, "text/html", content


def _handler(answer: Callable[[str], tuple[int, str, bytes]], host: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        server_version, sys_version = "unnorm", ""

        def do_GET(self) -> None:
            self._reply(body=True)

        def do_HEAD(self) -> None:
            self._reply(body=False)

        def _reply(self, body: bool) -> None:
            status, kind, content = answer(self.path) if self._is_meant() else (403, "text/plain", b"Wrong host.\n")
            self.send_response(status)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            for name, value in _FIXED.items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                self.wfile.write(content)

        def _is_meant(self) -> bool:
            """Whether the browser believes to talk to this machine: a foreign name that leads here is a trap."""
            name = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
            return host not in _LOOPBACK or name in _LOOPBACK

        def log_message(self, format: str, *arguments: object) -> None:
            """Nothing: what is asked for is untrusted, and a page asks every few seconds."""

    return Handler
