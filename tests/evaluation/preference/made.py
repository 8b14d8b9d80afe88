"""Made answers and judges whose bias is known."""

import numpy as np
import orjson

from unnorm.evaluation.judges.interface import Verdict
from unnorm.foundation.hashing import hash_text


def answer(quality: float, length: int) -> str:
    """An answer that says how good it is, for judges that can read that."""
    return f"{quality:+.4f}".ljust(length, "x")


def write_answers(path, texts, *, turns=1, categories=("c",), finish=None):
    """texts: one a question and turn, in that order."""
    lines = []
    for number, text in enumerate(texts):
        question, turn = divmod(number, turns)
        lines.append(
            {
                "prompt_id": f"q{question}",
                "category": categories[question % len(categories)],
                "turn": turn,
                "prompt": f"question {question}.{turn}",
                "text": text,
                "token_ids": [],
                "finish_reason": (finish or {}).get(number, "stop"),
            }
        )
    path.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
    return path


class MadeJudge:
    """A judge from a function of the two answers that are judged."""

    sees_order = True
    batch = 8
    caveat = None

    def __init__(self, prefers, name="made"):
        self.prefers, self.asked = prefers, 0
        self.identity = {"kind": name}

    def judge(self, pairs):
        self.asked += len(pairs)
        return [Verdict(self.prefers(pair.first[-1], pair.second[-1], pair)) for pair in pairs]


def always_first(first, second, pair):
    return 1.0


def longer_wins(first, second, pair):
    return float(np.sign(len(first) - len(second)))


def coin(first, second, pair):
    return 1.0 if hash_text(f"{pair}") % 2 else -1.0


def better_wins(first, second, pair):
    return float(first[:7]) - float(second[:7])
