"""Answers of one model to a set of questions, turn by turn, into a JSONL file that can be gone on with.

    OUT                  one answer a line, in the order of the questions
    OUT.settings.json    what shaped them: a file of other settings is not gone on with

A line: prompt_id, category, turn (from 0), prompt (the turn's own text), text, token_ids, finish_reason (`stop` or
`length`), seconds (of the batch it was made in), prompt_tokens, cut (first tokens of the prompt that found no room),
seed, temperature, model_hash.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from unnorm.data.conversation import Message
from unnorm.data.encode import encode_prompt
from unnorm.evaluation.completions import Ask, complete_each
from unnorm.evaluation.questions import Question, questions_hash, temperature_of
from unnorm.foundation import atomic
from unnorm.foundation.errors import ArtefactError
from unnorm.foundation.hashing import hash_tensors, hash_text
from unnorm.foundation.progress import Bar
from unnorm.surgery.finite import check_finite
from unnorm.tuning.run_log import RunLog

SETTINGS = ".settings.json"
Key = tuple[str, int]
"""Question and turn."""


@dataclass(frozen=True)
class Generated:
    """answers: in the file; made: now, the others were there; stopped: those that ended by eos; cut: whose prompt lost
    its beginning for lack of room; tokens, seconds: of those made now."""

    answers: int
    made: int
    stopped: int
    cut: int
    tokens: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def generate(
    model: Any,
    tokenizer: Any,
    questions: Sequence[Question],
    out: Path,
    *,
    render: Callable[[Sequence[Message]], str],
    template: str,
    temperature: str = "greedy",
    max_new_tokens: int = 256,
    batch_size: int = 16,
    seed: int = 0,
    replace: bool = False,
    quiet: bool = False,
) -> Generated:
    """Write the answers of `model` to `questions` into `out`; whatever stands there already is kept.

    render: the text that asks for an answer to messages which end in a question; template: its identity.
    temperature: `greedy`, `fastchat` (by category) or a number; each answer draws from its own seed, so that it does
    not depend on the batch. replace: begin afresh where `out` was made with other settings, which is else an
    `ArtefactError`. Raises `ModelError` for a model whose logits are not finite.
    """
    check_finite(model)
    started = time.perf_counter()
    model_hash = hash_tensors(model.state_dict())
    settings = {
        "model": model_hash,
        "questions": questions_hash(questions),
        "template": template,
        "temperature": temperature,
        "max_new_tokens": max_new_tokens,
        "seed": seed,
    }
    log = RunLog(out)
    done = _done(log, settings, replace)
    left = sum(len(q.turns) for q in questions) - len(done)
    made = 0
    tokens = 0
    with Bar("answering", left, quiet=quiet or not left) as bar:
        for turn in range(max((len(q.turns) for q in questions), default=0)):
            open_ = [q for q in questions if len(q.turns) > turn and (q.prompt_id, turn) not in done]
            asks = [_ask(q, turn, done, tokenizer, render, temperature, seed) for q in open_]
            answers = complete_each(model, tokenizer, asks, max_new_tokens=max_new_tokens, batch_size=batch_size)
            for number, answer in answers:
                question = open_[number]
                message = question.turns[turn]
                record = {
                    "prompt_id": question.prompt_id,
                    "category": question.category,
                    "turn": turn,
                    "prompt": message.content + (f"\n\n{message.input}" if message.input else ""),
                    **answer._asdict(),
                    "seed": seed,
                    "temperature": asks[number].temperature,
                    "model_hash": model_hash,
                }
                log.append(record)
                done[question.prompt_id, turn] = record
                made, tokens = made + 1, tokens + len(answer.token_ids)
                bar.advance(1, f"{tokens:,} tokens")
    records = [done[q.prompt_id, turn] for q in questions for turn in range(len(q.turns))]
    if made or list(done.values()) != records:  # a run may have been stopped before this
        atomic.write_bytes(out, b"".join(orjson.dumps(record) + b"\n" for record in records))
    return Generated(
        answers=len(records),
        made=made,
        stopped=sum(record["finish_reason"] == "stop" for record in records),
        cut=sum(record["cut"] > 0 for record in records),
        tokens=tokens,
        seconds=time.perf_counter() - started,
    )


def _done(log: RunLog, settings: dict[str, Any], replace: bool) -> dict[Key, dict[str, Any]]:
    """The answers that stand in the file already; the file is begun if there is none of these settings."""
    sidecar = log.path.with_name(log.path.name + SETTINGS)
    found = atomic.read_json(sidecar) if sidecar.is_file() else None
    if found == settings:
        records = log.read()
        # a line that a kill cut short would else be joined to the next one
        atomic.write_bytes(log.path, b"".join(orjson.dumps(record) + b"\n" for record in records))
        return {(record["prompt_id"], record["turn"]): record for record in records}
    if log.path.exists() and not replace:
        if found is None:
            raise ArtefactError(f"{log.path} exists, and nothing says what made it. Give another --out.")
        different = [name for name in settings if found.get(name) != settings[name]]
        raise ArtefactError(
            f"{log.path} holds answers of other settings: {', '.join(different)}. Give another --out, or delete it."
        )
    log.path.unlink(missing_ok=True)
    atomic.write_json(sidecar, settings)
    return {}


def _ask(
    question: Question,
    turn: int,
    done: dict[Key, dict[str, Any]],
    tokenizer: Any,
    render: Callable[[Sequence[Message]], str],
    temperature: str,
    seed: int,
) -> Ask:
    messages: list[Message] = []
    for earlier in range(turn):
        answer = Message("assistant", done[question.prompt_id, earlier]["text"])
        messages += [question.turns[earlier], answer]
    ids = encode_prompt(render([*messages, question.turns[turn]]), tokenizer)
    own = hash_text(f"{seed}/{question.prompt_id}/{turn}") % 2**63
    return Ask(ids, temperature_of(question.category, temperature), own)
