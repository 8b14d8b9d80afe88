"""Encoded conversations on disk, found again by the hash of everything that shaped them.

One safetensors file each, in the folder `encoded` of unnorm's cache, which may be deleted at any time.
"""

import contextlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from unnorm.data.encode import Encoded, Encoding
from unnorm.foundation import atomic
from unnorm.foundation.cache import cache_folder
from unnorm.foundation.hashing import hash_json
from unnorm.metrics.token_sums import IGNORED

_FORMAT = 2  # raised whenever the same settings would be encoded differently


def cached(shaped_by: dict[str, Any], make: Callable[[], Encoding]) -> Encoding:
    """What `make` gives, from the cache if it was made before under the same `shaped_by`.

    Of two processes that want the same, one makes it and the other waits. A damaged file is made again.
    """
    from filelock import FileLock

    path = cache_folder() / "encoded" / f"{hash_json([_FORMAT, shaped_by], 32)}.safetensors"
    with atomic.disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        with contextlib.suppress(Exception):  # whatever a damaged file raises
            return _load(path)
        made = make()
        atomic.write_bytes(path, _bytes_of(made))
    return made


def tokenizer_hash(tokenizer: Any) -> str:
    """Identity of a tokenizer: every id it can give, and its special tokens."""
    inner = getattr(tokenizer, "backend_tokenizer", None)
    content = inner.to_str() if inner is not None else orjson.dumps(sorted(tokenizer.get_vocab().items())).decode()
    return hash_json([type(tokenizer).__name__, content, tokenizer.bos_token_id, tokenizer.eos_token_id])


def _bytes_of(encoding: Encoding) -> bytes:
    from safetensors.numpy import save

    rows = encoding.rows
    empty = [np.empty(0, dtype=np.int64)]
    arrays: dict[str, np.ndarray] = {
        "lengths": np.array([len(row.ids) for row in rows], dtype=np.int32),
        "ids": np.concatenate([row.ids for row in rows] or empty).astype(np.int32),
        "trained": np.concatenate([row.labels != IGNORED for row in rows] or empty).astype(np.uint8),
    }
    if any(row.weights is not None for row in rows):
        arrays["weights"] = np.concatenate([row.label_weights for row in rows])
        arrays["weighted"] = np.array([row.weights is not None for row in rows], dtype=np.uint8)
    counts = {"dropped": dict(encoding.dropped), "changed": dict(encoding.changed)}
    return save(arrays, {name: orjson.dumps(count).decode() for name, count in counts.items()})


def _load(path: Path) -> Encoding:
    from safetensors import safe_open

    with safe_open(path, "numpy") as file:
        counts = {name: Counter(orjson.loads(text)) for name, text in file.metadata().items()}
        names = file.keys()
        arrays = {name: file.get_tensor(name) for name in names}
    ids = arrays["ids"].astype(np.int64)
    labels = np.where(arrays["trained"], ids, IGNORED)
    ends = np.cumsum(arrays["lengths"], dtype=np.int64)
    weighted = arrays.get("weighted", np.zeros(len(ends), dtype=np.uint8))
    rows = [
        Encoded(ids[a:b], labels[a:b], arrays["weights"][a:b] if w else None)
        for a, b, w in zip((ends - arrays["lengths"]).tolist(), ends.tolist(), weighted.tolist(), strict=True)
    ]
    assert not len(ends) or len(ids) == ends[-1]
    return Encoding(rows, counts["dropped"], counts["changed"])
