"""`pairrm`: PairRM reads both answers at once (llm-blender/PairRM, PairRM-hf, or a folder in the form of either)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from unnorm.evaluation.judges.interface import WHOLE, AnswerPair, Verdict
from unnorm.evaluation.judges.pairrm_model import PairRM, pad, pair_ids
from unnorm.foundation import atomic, hub
from unnorm.foundation.errors import ModelError, first_line
from unnorm.foundation.hashing import hash_tensors
from unnorm.foundation.hub_errors import explain
from unnorm.surgery.base import load_pretrained
from unnorm.surgery.finite import check_logits, check_weights

DEFAULT = "llm-blender/PairRM-hf"
_WEIGHTS = "model.safetensors"
_MULTI_TURN = "Finish the following coversation in each i-th turn by filling in <Response i> with your response."
"""Spelt as PairRM was trained with it (`tokenize_conv_pair` of its model card)."""


class PairRMJudge:
    """A preference is a logit; the two orders are asked apart, and their difference is the score."""

    sees_order = True
    batch = 8
    caveat: str | None = None

    def __init__(self, name: str, model: PairRM, tokenizer: Any) -> None:
        self.name, self.model, self.tokenizer = name, model.eval(), tokenizer
        self._hash = hash_tensors(model.state_dict())

    @property
    def identity(self) -> dict[str, Any]:
        return {"kind": "pairrm", "model": self.name, "model_hash": self._hash}

    @torch.no_grad()
    def judge(self, pairs: Sequence[AnswerPair]) -> list[Verdict]:
        device = next(self.model.parameters()).device
        rows = [pair_ids(self.tokenizer, self.model.markers, *texts(pair)) for pair in pairs]
        ids, mask = pad([row for row, _ in rows], self.tokenizer.pad_token_id)
        logits = self.model(ids.to(device), mask.to(device)).double()  # [B]
        check_logits(logits[:, None], self.model, self.name)
        return [Verdict(logit, cut) for logit, (_, cut) in zip(logits.tolist(), rows, strict=True)]


def texts(pair: AnswerPair) -> tuple[str, str, str]:
    """(source, candidate 1, candidate 2) of a pair.

    Several turns are written in PairRM's own form, all questions in the source. For a single later turn the candidates
    are that turn's answers alone: what each model had said before is then not seen, since the source is shared.
    """
    if len(pair.questions) == 1:
        return pair.questions[0], pair.first[0], pair.second[0]
    asked = [f"USER: {question}\nAssistant: <Response {turn}>" for turn, question in enumerate(pair.questions, 1)]
    source = _MULTI_TURN + "\n".join(asked)
    start = 0 if pair.part == WHOLE else len(pair.questions) - 1
    first, second = (
        "\n".join(f"<Response {turn}>: {answer}" for turn, answer in enumerate(answers[start:], start + 1))
        for answers in (pair.first, pair.second)
    )
    return source, first, second


def load_pairrm(model: str = DEFAULT) -> PairRMJudge:
    """The judge from a hub id or folder of safetensors weights under the published names.

    `llm-blender/PairRM` says in its config.json only which DeBERTa it was made from (`model_name`): configuration and
    tokenizer are then that model's. Anything that prevents loading is a `ModelError`.
    """
    from safetensors.torch import load_file
    from transformers import AutoTokenizer, DebertaV2Config

    try:
        settings = atomic.read_json(_file(model, "config.json"))
        weights = load_file(_file(model, _WEIGHTS))
        home = model if "hidden_size" in settings else settings["model_name"]
        config = load_pretrained(DebertaV2Config, home, "the configuration of")
        tokenizer = load_pretrained(AutoTokenizer, home, "the tokenizer of")
        config.vocab_size = weights["pretrained_model.embeddings.word_embeddings.weight"].shape[0]
        loaded = PairRM(config)
        # a buffer of older transformers, which nothing is computed from
        weights.pop("pretrained_model.embeddings.position_ids", None)
        loaded.load_state_dict(weights)
    except Exception as error:  # transformers, the hub and safetensors each raise their own kinds
        why = first_line(error) if Path(model).expanduser().is_dir() else explain(error, model)
        raise ModelError(
            f"cannot load {model!r} as a PairRM: {why} Give {DEFAULT}, or a folder with its config.json, tokenizer and "
            f"{_WEIGHTS}."
        ) from error
    check_weights(loaded, repr(model))
    return PairRMJudge(model, loaded.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer)


def _file(name: str, file: str) -> Path:
    from huggingface_hub import hf_hub_download

    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder / file
    repository, commit = hub.pinned(name)
    with hub.download_shown(repository):
        return Path(hf_hub_download(repository, file, revision=commit))
