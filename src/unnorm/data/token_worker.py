"""A process that turns texts into token ids, run as a script: it starts in a blink, for it imports the tokenizer alone.

Not a `multiprocessing` worker: those import the caller's own script again, or are forked beside torch's threads. Frames
on stdin and stdout are 8 bytes of length and a pickle. First comes the tokenizer as JSON, then batches: (texts, whether
special tokens in them are plain text); each is answered by (token count of each text, all ids as int32).
"""

import array
import os
import pickle
import signal
import sys
from typing import IO, Any

from tokenizers import Tokenizer


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the one that started this ends it
    frames, out = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # nothing but frames may get between them
    tokenizer = Tokenizer.from_str(receive(frames))
    while (batch := receive(frames)) is not None:
        texts, literal = batch
        send(out, encode(tokenizer, texts, literal))


def encode(tokenizer: Tokenizer, texts: list[str], literal: bool) -> tuple[list[int], bytes]:
    """(token count of each text, the ids of all of them one after the other as int32)."""
    tokenizer.encode_special_tokens = literal
    lengths, ids = [], array.array("i")
    for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False):
        lengths.append(len(encoding))
        ids.extend(encoding.ids)
    return lengths, ids.tobytes()


def send(file: IO[bytes], content: Any) -> None:
    payload = pickle.dumps(content, protocol=pickle.HIGHEST_PROTOCOL)
    file.write(len(payload).to_bytes(8, "little") + payload)
    file.flush()


def receive(file: IO[bytes]) -> Any:
    """The next frame's content, or None at the end."""
    size = file.read(8)
    return pickle.loads(file.read(int.from_bytes(size, "little"))) if len(size) == 8 else None


if __name__ == "__main__":
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    main()
