"""A chat endpoint on this machine that misbehaves as it is told to."""

import contextlib
import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PROMPT_TOKENS, REPLY_TOKENS = 100, 7


class Server:
    """Answers [[A]] or [[B]] for the side whose answer holds `good`, else [[C]].

    troubles: what happens to the first tries of every question, in order; `down_after`: how many good answers it gives
    before it is down for good.
    """

    def __init__(self, troubles=(), down_after=None):
        self.troubles, self.down_after = troubles, down_after
        self.tries = Counter()
        self.bodies, self.headers, self.paths = [], [], []
        self.given = Counter()
        self.lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    server.answer(self, body)

            do_GET = do_POST

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    def close(self):
        self.http.shutdown()
        self.http.server_close()

    def answer(self, handler, body):
        with self.lock:
            trouble = self._trouble(body)
            self.tries[body] += 1
            self.bodies.append(json.loads(body))
            self.headers.append(dict(handler.headers))
            self.paths.append(handler.path)
        if trouble is None:
            with self.lock:
                self.given[body] += 1
            self.send(handler, 200, completion(verdict_on(body)))
        elif isinstance(trouble, int):
            said = {"error": {"message": f"no; you sent {handler.headers.get('Authorization')}"}}
            extra = {"Retry-After": "0"} if trouble == 429 else {}
            if trouble == 302:
                extra = {"Location": f"{self.url}/elsewhere"}
            self.send(handler, trouble, json.dumps(said).encode(), extra)
        elif trouble == "slow":
            time.sleep(3.0)
            self.send(handler, 200, completion("[[A]]"))
        elif trouble == "drip":
            handler.send_response(200)
            handler.send_header("Content-Length", "1000")
            handler.end_headers()
            for _ in range(60):
                handler.wfile.write(b" ")
                time.sleep(0.05)
        elif trouble == "cut":
            handler.send_response(200)
            handler.send_header("Content-Length", "1000")
            handler.end_headers()
            handler.wfile.write(completion("[[A]]")[:20])
        elif trouble == "cut refusal":
            handler.send_response(502)
            handler.send_header("Content-Length", "1000")
            handler.end_headers()
            handler.wfile.write(b"bad gate")
        elif trouble == "hang up":
            handler.close_connection = True
        else:
            with self.lock:
                self.given[body] += trouble.startswith(b"{") and b"completion_tokens" in trouble
            self.send(handler, 200, trouble)

    def _trouble(self, body):
        if self.down_after is not None and sum(self.given.values()) >= self.down_after:
            return 503
        tried = self.tries[body]
        return self.troubles[tried] if tried < len(self.troubles) else None

    @staticmethod
    def send(handler, status, body, extra=None):
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(extra or {})}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)


def completion(text):
    usage = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": REPLY_TOKENS}
    return json.dumps({"choices": [{"message": {"content": text}}], "usage": usage}).encode()


def verdict_on(body):
    said = json.loads(body)["messages"][-1]["content"]
    a, b = said.split("<<END A>>")
    return f"A says this, B says that. [[{'A' if 'good' in a and 'good' not in b else 'B' if 'good' in b else 'C'}]]"
