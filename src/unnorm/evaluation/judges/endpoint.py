"""An OpenAI-compatible chat endpoint: one question, one reply, retried with back-off. Knows nothing of judging.

The key comes from the environment and goes into one header. It stands in no message, log or file, and is struck out of
whatever the server says. No redirect is followed, which would take the header along.
"""

import os
import time
import urllib.parse
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import httpx
import orjson

from unnorm.foundation.errors import RunError, SettingsError
from unnorm.foundation.terminal import shorten

KEY_VARIABLE = "OPENAI_API_KEY"
_MOST_BYTES = 2**22
_LONGEST_WAIT = 60.0
_WORTH_A_RETRY = (408, 409, 425, 429)


class Reply(NamedTuple):
    """Text, and the tokens that the server counted (0 where it does not say)."""

    text: str
    prompt_tokens: int
    reply_tokens: int


class BadReply(Exception):
    """An answer that is no answer: worth another try."""


class _Refusal(Exception):
    """A status that is none of success, with what the server said and how many seconds it asks to wait."""

    def __init__(self, code: int, said: str, wait: str) -> None:
        super().__init__(said)
        self.code, self.said, self.wait = code, said, wait


@dataclass
class Endpoint:
    """`base_url` up to and with /v1; `timeout` in seconds for a whole answer; waits double from `first_wait` s."""

    base_url: str
    model: str
    timeout: float = 120.0
    attempts: int = 6
    first_wait: float = 1.0
    _key: str | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        address = urllib.parse.urlsplit(self.base_url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise SettingsError(f"--base-url {self.base_url!r} is no http address, as https://api.openai.com/v1 is.")
        if address.username or address.password or address.query:
            raise SettingsError(
                f"--base-url holds a password or a query, which would be written down. Put the key into {KEY_VARIABLE}."
            )
        self.base_url = self.base_url.rstrip("/")
        self._key = os.environ.get(KEY_VARIABLE, "").strip() or None
        try:
            self._client = httpx.Client(timeout=self.timeout, follow_redirects=False)
        except (ValueError, ImportError) as error:
            raise SettingsError("a proxy that the environment names cannot be used.") from error

    def ask(self, body: dict[str, Any]) -> Reply:
        """The reply to a chat-completions `body`. What cannot be had in `attempts` tries is a `RunError`.

        429, 5xx, a cut connection, a late or a malformed answer are tried again; any other refusal is final.
        """
        trouble, wait = "", self.first_wait
        for attempt in range(self.attempts):
            if attempt:
                time.sleep(wait)
                wait = min(2 * wait, _LONGEST_WAIT)
            try:
                reply = _reply_in(self._post(body))
                return reply._replace(text=reply.text.replace(self._key, "[key]")) if self._key else reply
            except _Refusal as error:
                if error.code == 400 and "temperature" in error.said and "temperature" in body:
                    # models that reason take none; the cache and the verdict know the request as it was meant
                    body = {name: value for name, value in body.items() if name != "temperature"}
                    continue
                if error.code not in _WORTH_A_RETRY and error.code < 500:
                    raise self._refused(error.code, error.said) from None
                trouble = f"status {error.code}: {error.said}"
                wait = min(max(wait, float(error.wait)), _LONGEST_WAIT) if error.wait.isdigit() else wait
            except (httpx.HTTPError, BadReply) as error:
                trouble = self._clean(str(error).encode()) or type(error).__name__
        raise RunError(
            f"{self.base_url} gave no usable answer in {self.attempts} tries (last: {trouble}). "
            "Verdicts so far are kept: run the same command again when it is back."
        )

    def _post(self, body: dict[str, Any]) -> bytes:
        headers = {"Content-Type": "application/json", "User-Agent": "unnorm", "Accept-Encoding": "identity"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        address, content = f"{self.base_url}/chat/completions", orjson.dumps(body)
        until = time.monotonic() + self.timeout
        with self._client.stream("POST", address, content=content, headers=headers) as response:
            if not response.is_success:
                raise _Refusal(response.status_code, self._said(response), response.headers.get("Retry-After", ""))
            found = b""
            for part in response.iter_bytes():
                found += part
                if len(found) > _MOST_BYTES or time.monotonic() > until:  # a timeout of httpx's bounds only a pause
                    raise BadReply(f"the answer is longer than {_MOST_BYTES} bytes or {self.timeout:g} s")
            return found

    def _refused(self, code: int, said: str) -> RunError:
        advice = {
            401: f"Put a valid key into the environment variable {KEY_VARIABLE}.",
            403: f"The key in {KEY_VARIABLE} may not use this model.",
            404: f"Check --base-url and the model's name, {self.model!r}.",
        }.get(code, "Check --base-url and --model.")
        return RunError(f"{self.base_url} refused with status {code}: {said} {advice} Verdicts so far are kept.")

    def _said(self, response: httpx.Response) -> str:
        try:
            return self._clean(next(response.iter_bytes(2000), b""))
        except httpx.HTTPError:
            return "(cut)"

    def _clean(self, said: bytes) -> str:
        text = said.decode("utf-8", "replace")
        return shorten(text.replace(self._key, "[key]") if self._key else text, 300)


def _reply_in(content: bytes) -> Reply:
    try:
        answer = orjson.loads(content)
        text = answer["choices"][0]["message"]["content"]
        usage = answer.get("usage") or {}
        counts = [max(0, int(usage.get(name) or 0)) for name in ("prompt_tokens", "completion_tokens")]
    except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError, ValueError) as error:
        raise BadReply(f"not a chat completion ({type(error).__name__})") from None
    if not isinstance(text, str):
        raise BadReply("not a chat completion (no text)")
    return Reply(text, *counts)
