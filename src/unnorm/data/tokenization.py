"""Texts to token ids, in this process or in several; the same ids either way."""

import os
import queue
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import IO, Any, NamedTuple, cast

import numpy as np

from unnorm.data import token_worker
from unnorm.foundation.errors import RunError

_MOST_PROCESSES = 16


class Text(NamedTuple):
    """literal: whether what looks like a special token in it is plain text."""

    text: str
    literal: bool


class Tokens:
    """A tokenizer for batches of texts. `bos` begins every conversation, if the tokenizer sets it."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.eos: int = tokenizer.eos_token_id
        self.bos: int | None = bos_of(tokenizer)
        self._fast: Any = None
        if getattr(tokenizer, "is_fast", False):
            from tokenizers import Tokenizer

            self._fast = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())  # ours: settings of it are changed
            self._fast.no_truncation()
            self._fast.no_padding()

    def ids(self, texts: Sequence[Text]) -> list[np.ndarray]:
        """int64 ids [T] of each text, without bos or eos."""
        return _both(texts, self._encode)

    def stream(self, batches: Iterable[Sequence[Text]], processes: int) -> Iterator[list[np.ndarray]]:
        """`ids` of each batch in order, made by `processes` processes; by this one, if that is 1.

        Of the batches, no more than two a process are taken ahead. Raises `RunError` if a process is killed.
        """
        if processes <= 1 or self._fast is None:
            yield from map(self.ids, batches)
            return
        workers = [_start(self._fast.to_str()) for _ in range(processes)]
        free: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()
        for worker in workers:
            free.put(worker)

        def ask(texts: list[str], literal: bool) -> tuple[list[int], bytes]:
            worker = free.get()
            try:
                token_worker.send(cast(IO[bytes], worker.stdin), (texts, literal))
                answer = token_worker.receive(cast(IO[bytes], worker.stdout))
            except BrokenPipeError:
                answer = None
            free.put(worker)
            if answer is None:
                raise RunError("a tokenizing process was killed; perhaps memory ran out. Run the same command again.")
            return cast(tuple[list[int], bytes], answer)

        pool = ThreadPoolExecutor(processes)
        source = iter(batches)
        waiting: deque[Future[list[np.ndarray]]] = deque()
        try:
            while True:
                for batch in islice(source, 2 * processes - len(waiting)):
                    waiting.append(pool.submit(_both, batch, ask))
                if not waiting:
                    return
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
            for worker in workers:
                worker.kill()
                worker.wait()
                cast(IO[bytes], worker.stdout).close()
            pool.shutdown()

    def _encode(self, texts: list[str], literal: bool) -> tuple[list[int], bytes]:
        if self._fast is not None:
            return token_worker.encode(self._fast, texts, literal)
        found = [
            self.tokenizer(text, add_special_tokens=False, split_special_tokens=literal, verbose=False)["input_ids"]
            for text in texts
        ]
        return [len(ids) for ids in found], np.array([i for ids in found for i in ids], dtype=np.int32).tobytes()


def bos_of(tokenizer: Any) -> int | None:
    """The bos token's id, if the tokenizer begins every text with it on its own account."""
    ids = tokenizer("a")["input_ids"]
    bos: int | None = tokenizer.bos_token_id
    return bos if bos is not None and list(ids[:1]) == [bos] else None


def processes_here() -> int:
    """How many processes tokenizing may use: one a core that this process may run on."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _MOST_PROCESSES)


def _both(texts: Sequence[Text], encode: Any) -> list[np.ndarray]:
    """The ids of literal and other texts, each kind in one go, in the order of `texts`."""
    found: list[np.ndarray] = [np.empty(0, dtype=np.int64)] * len(texts)
    for literal in (True, False):
        places = [i for i, text in enumerate(texts) if text.literal is literal]
        if places:
            lengths, ids = encode([texts[i].text for i in places], literal)
            parts = np.split(np.frombuffer(ids, dtype=np.int32).astype(np.int64), np.cumsum(lengths)[:-1])
            for place, part in zip(places, parts, strict=True):
                found[place] = part
    return found


def _start(tokenizer: str) -> subprocess.Popen[bytes]:
    # -P: the folder of the script, which holds modules of ours, is no place to import from
    command = [sys.executable, "-P", token_worker.__file__]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    token_worker.send(cast(IO[bytes], worker.stdin), tokenizer)
    return worker
