"""Replies that were paid for, kept on disk one file each, so that no request is paid for twice."""

from pathlib import Path
from typing import Any

import orjson

from unnorm.evaluation.judges.endpoint import Reply
from unnorm.foundation import atomic
from unnorm.foundation.hashing import hash_json


class Replies:
    """A folder of replies by the hash of what was asked. Neither the question nor the key is written."""

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
