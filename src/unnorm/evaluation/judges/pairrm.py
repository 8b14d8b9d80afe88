"""`pairrm`: PairRM reads both answers at once (llm-blender/PairRM, PairRM-hf, or a folder in the form of either).

Network and input are made on transformers' `DebertaV2Model`: the reference package needs transformers 4. Source:
LLM-Blender, arXiv 2306.02561, section 3; `llm_blender/pair_ranker/pairrm.py` for the names of the weights.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from unnorm.evaluation.judges.interface import WHOLE, AnswerPair, Verdict, neutralise
from unnorm.foundation import atomic, hub
from unnorm.foundation.errors import ModelError, first_line
from unnorm.foundation.hashing import hash_tensors
from unnorm.foundation.hub_errors import explain
from unnorm.surgery.base import load_pretrained
from unnorm.surgery.finite import check_logits, check_weights

MOST_SOURCE = 1224
"""Tokens of the source that are read, its own markers among them; the start is kept."""
MOST_ALL = 2048


class Markers(NamedTuple):
    """Token ids that stand before the three texts."""

    source: int = 128001
    candidate1: int = 128002
    candidate2: int = 128003


class PairRM(nn.Module):
    """A DeBERTa and a head over (source, candidate); names of weights as published."""

    def __init__(self, config: Any) -> None:
        from transformers import DebertaV2Model

        super().__init__()
        dropout = getattr(config, "drop_out", 0.05)
        self.markers = markers_of(config)
        self.pretrained_model = DebertaV2Model(config)
        self.head_layer = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(2 * config.hidden_size, config.hidden_size),
            nn.Tanh(),
            nn.Dropout(dropout),
            nn.Linear(config.hidden_size, getattr(config, "n_tasks", 1)),
        )

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Logits [B] of the first candidate being better, from ids and mask [B, T]: head([s; c1]) − head([s; c2]).

        Each row holds each marker once.
        """
        states = self.pretrained_model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        source, one, two = (states[self._place(input_ids, marker)] for marker in self.markers)  # [B, C] each
        first = self.head_layer(torch.cat([source, one], dim=-1))
        second = self.head_layer(torch.cat([source, two], dim=-1))
        logits: torch.Tensor = (first - second).mean(dim=-1)
        return logits

    @staticmethod
    def _place(input_ids: torch.Tensor, marker: int) -> tuple[torch.Tensor, torch.Tensor]:
        rows, columns = torch.where(input_ids == marker)
        assert rows.tolist() == list(range(len(input_ids))), "each row holds each marker once"
        return rows, columns


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


def markers_of(config: Any) -> Markers:
    """The marker ids that a configuration names, else the published ones."""
    names = ("source_prefix_id", "cand1_prefix_id", "cand2_prefix_id")
    return Markers(*(getattr(config, name, None) or default for name, default in zip(names, Markers(), strict=True)))


def pair_ids(tokenizer: Any, markers: Markers, source: str, candidate1: str, candidate2: str) -> tuple[list[int], bool]:
    """(ids of `[CLS]<|source|>X[SEP][CLS]<|candidate1|>A[SEP][CLS]<|candidate2|>B[SEP]`, whether a text was cut).

    The source keeps its first 1224 tokens; each candidate then gets half of what is left of 2048. Counts are with
    [CLS], marker and [SEP]. Markers are put in as ids: the same written in a text stays text.
    """
    ids, cut = _segment(tokenizer, markers.source, source, MOST_SOURCE)
    room = (MOST_ALL - len(ids)) // 2
    for marker, text in ((markers.candidate1, candidate1), (markers.candidate2, candidate2)):
        segment, shortened = _segment(tokenizer, marker, text, room)
        ids, cut = ids + segment, cut or shortened
    return ids, cut


def _segment(tokenizer: Any, marker: int, text: str, most: int) -> tuple[list[int], bool]:
    words = tokenizer(neutralise(text, tokenizer), add_special_tokens=False, verbose=False)["input_ids"]
    room = most - 3
    return [tokenizer.cls_token_id, marker, *words[:room], tokenizer.sep_token_id], len(words) > room


def pad(rows: Sequence[list[int]], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, mask) [B, T] int64, padded on the right."""
    tensors = [torch.tensor(row) for row in rows]
    mask = pad_sequence([torch.ones_like(row) for row in tensors], batch_first=True)
    return pad_sequence(tensors, batch_first=True, padding_value=pad_id), mask
