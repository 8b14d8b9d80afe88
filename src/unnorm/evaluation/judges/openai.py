"""`openai`: a chat model behind any OpenAI-compatible endpoint, asked in the MT-Bench style."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson

from unnorm.evaluation.judges import protocol
from unnorm.evaluation.judges.endpoint import Endpoint, Reply
from unnorm.evaluation.judges.interface import AnswerPair, Verdict
from unnorm.foundation import atomic
from unnorm.foundation.cache import cache_folder
from unnorm.foundation.hashing import hash_json

DEFAULT_BASE_URL = "https://api.openai.com/v1"
_AT_ONCE = 4
_TRIES_FOR_A_VERDICT = 3
_PREFERENCE = {"A": 1.0, "B": -1.0, "C": 0.0}
CAVEAT = (
    "no reference answers are given: verdicts on mathematics, code and reasoning rest on what the judge can do itself."
)


class Replies:
    """A folder of replies by the hash of what was asked, so that none is paid for twice. No key is kept."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, asked: Any) -> Reply | None:
        """The reply to `asked`, or None; a file that is damaged counts as not there."""
        try:
            return Reply(**orjson.loads(self._path(asked).read_bytes()))
        except (OSError, orjson.JSONDecodeError, TypeError):
            return None

    def put(self, asked: Any, reply: Reply) -> None:
        """Keep `reply`, whole or not at all."""
        atomic.write_bytes(self._path(asked), orjson.dumps(reply._asdict()))

    def _path(self, asked: Any) -> Path:
        return self.folder / f"{hash_json(asked, 32)}.json"


class OpenAIJudge:
    """A preference is 1, −1 or 0; a reply without a verdict is asked for again, then counted as none."""

    sees_order = True
    batch = 2 * _AT_ONCE
    caveat: str | None = CAVEAT

    def __init__(self, endpoint: Endpoint, replies: Replies) -> None:
        self.endpoint, self.replies = endpoint, replies

    @property
    def identity(self) -> dict[str, Any]:
        return {
            "kind": "openai",
            "model": self.endpoint.model,
            "base_url": self.endpoint.base_url,
            "protocol": protocol.VERSION,
            "temperature": 0.0,
        }

    def judge(self, pairs: Sequence[AnswerPair]) -> list[Verdict]:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            asked = [pool.submit(self._one, pair) for pair in pairs]
            try:
                return [verdict.result() for verdict in asked]
            finally:  # after one that failed: what has not begun is not paid for
                pool.shutdown(wait=True, cancel_futures=True)

    def _one(self, pair: AnswerPair) -> Verdict:
        prompt_tokens = reply_tokens = 0
        for attempt in range(_TRIES_FOR_A_VERDICT):
            reply = self._reply(pair, attempt)
            prompt_tokens += reply.prompt_tokens
            reply_tokens += reply.reply_tokens
            letter = protocol.verdict_in(reply.text)
            if letter is not None:
                break
        preference = None if letter is None else _PREFERENCE[letter]
        return Verdict(preference, False, reply.text, prompt_tokens, reply_tokens)

    def _reply(self, pair: AnswerPair, attempt: int) -> Reply:
        body = {"model": self.endpoint.model, "messages": protocol.messages(pair), "temperature": 0.0}
        asked = [self.endpoint.base_url, body, pair.repeat, attempt]
        known = self.replies.get(asked)
        if known is not None:
            return known
        reply = self.endpoint.ask(body)
        self.replies.put(asked, reply)
        return reply


def load_openai(model: str, base_url: str = DEFAULT_BASE_URL) -> OpenAIJudge:
    """The judge `model` at `base_url`; replies are kept in the cache folder. A bad address is a `SettingsError`."""
    return OpenAIJudge(Endpoint(base_url, model), Replies(cache_folder() / "replies"))
