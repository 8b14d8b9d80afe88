"""`reward`: any reward model of one number, as AutoModelForSequenceClassification loads it; each answer alone."""

from typing import Any

import torch

from unnorm.data.chat_template import fixed
from unnorm.data.templates import chat_template_of
from unnorm.evaluation.judges.interface import WHOLE, Dialogue, PointwiseJudge, Rating, neutralise
from unnorm.foundation.errors import ModelError
from unnorm.foundation.hashing import hash_tensors
from unnorm.foundation.precision import widen_
from unnorm.surgery.base import context_length, load_model, load_pretrained
from unnorm.surgery.finite import check_logits
from unnorm.surgery.vocabulary import check_ids


def load_reward(model: str) -> PointwiseJudge:
    """The judge with the reward model `model` (hub id or folder; safetensors, remote code off).

    A model that cannot be loaded, whose head is not in the file, or that gives several numbers, is a `ModelError`.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    loaded = load_model(AutoModelForSequenceClassification, model, "the reward model", dtype="auto")
    tokenizer = load_pretrained(AutoTokenizer, model, "the tokenizer of")
    if loaded.config.num_labels != 1:
        raise ModelError(
            f"{model!r} gives {loaded.config.num_labels} numbers, and which of them is the reward is not known. "
            "Give a reward model with one."
        )
    identity = {"kind": "reward", "model": model, "model_hash": hash_tensors(loaded.state_dict())}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    widen_(loaded, device)
    loaded.eval().to(device)
    return PointwiseJudge(identity, lambda conversation: mean_reward(loaded, tokenizer, conversation), None)


def mean_reward(model: Any, tokenizer: Any, conversation: Dialogue) -> Rating:
    """The reward of the last answer given what was said before; of a whole conversation, the mean over its turns."""
    turns = len(conversation.questions)
    judged = range(1, turns + 1) if conversation.part == WHOLE else [turns]
    scores = [_reward(model, tokenizer, conversation.questions[:turn], conversation.answers[:turn]) for turn in judged]
    return Rating(sum(score.value for score in scores) / len(scores), any(score.cut for score in scores))


@torch.no_grad()
def _reward(model: Any, tokenizer: Any, questions: tuple[str, ...], answers: tuple[str, ...]) -> Rating:
    """One forward without padding, so that no other answer and no pad token can matter."""
    most = context_length(model) or 2**30
    messages = []
    for question, answer in zip(questions, answers, strict=True):
        messages.append({"role": "user", "content": neutralise(question, tokenizer)})
        messages.append({"role": "assistant", "content": neutralise(answer, tokenizer)})
    if tokenizer.chat_template:
        # the same date every day, or the same answer would get another reward tomorrow
        template = fixed(chat_template_of(tokenizer))
        text = tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False)
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        inputs = {"input_ids": ids[-most:]}  # the end holds the answer, and the token that is scored
        full = len(ids)
    else:
        before = "\n".join(message["content"] for message in messages[:-1])
        full = len(tokenizer(before, messages[-1]["content"], verbose=False)["input_ids"])
        inputs = tokenizer(before, messages[-1]["content"], truncation=True, max_length=min(most, full), verbose=False)
    device = next(model.parameters()).device
    tensors = {name: torch.tensor([values], device=device) for name, values in inputs.items()}
    check_ids(model, tensors["input_ids"])
    logits = model(**tensors).logits
    check_logits(logits, model)
    return Rating(float(logits[0, 0]), full > most)
