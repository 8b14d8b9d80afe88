"""A first study file: short, commented, and ready to be planned and run as it is."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from unnorm.foundation import atomic
from unnorm.foundation.errors import DataError
from unnorm.study.spec import parse_spec

ARMS = ("original", "dyt")
STRATEGIES = ("frozen", "full")
_MAX_LENGTH, _BATCH_TOKENS, _EVERY = 256, 4096, 5
_LIMITS = ("max_position_embeddings", "n_positions", "max_seq_len")

_TEXT = """\
# A study of unnorm: every model × data set × arm × strategy × seed is one fine-tune, a cell.
# See what it would do, and how long that takes:  unnorm study plan {file}
# Run it, or go on where a run stopped:           unnorm study run {file}
name: {name}

# Hub ids or folders. Results call one by a name of yours if you write {{name: small, model: EleutherAI/pythia-14m}}.
models: {models}

# Known names (alpaca, sharegpt, rewild), files, folders or hub ids. More keys: name, template, rows, map, repair.
datasets:
{datasets}

# What becomes of the norms before training. original keeps them; dyt puts Dynamic Tanh there, fitted to your data;
# dyt-bare does so without a fit; dyt-recovered also distils the original into it first (10M tokens more, once).
arms: {arms}

# What trains. frozen: LoRA alone; selective: LoRA and the norms; full: all weights.
strategies: {strategies}

# With three seeds or more, intervals say how far results would move if you ran it all again.
seeds: {seeds}

training:
  tokens: {tokens:_}      # of each cell; or, instead, epochs: 1
  max_length: {max_length}        # tokens a row
  batch_tokens: {batch_tokens}     # tokens a step, a multiple of max_length
  # The rates without a setting: {{frozen: 3.0e-3, selective: 3.0e-3, full: 4.0e-4}}
  # learning_rate: {{frozen: 1.0e-3, selective: 1.0e-3, full: 1.0e-4}}

# The loss on text that is never trained on: how often it is taken, and over how many tokens.
evaluation: {{every_tokens: {every:_}, tokens: {evaluated:_}}}

# After training, each cell's answers to prompts, and how fast the arms are against each other. Take the # away for it.
# after:
#   completions: {{prompts: builtin, max_new_tokens: 64}}
#   latency: {{budget_seconds: 60}}
"""


class NewStudy(NamedTuple):
    """models and data: at least one each. data: as a study file has them, with a source. seeds: how many."""

    models: Sequence[str]
    data: Sequence[dict[str, Any]]
    arms: Sequence[str] = ARMS
    strategies: Sequence[str] = STRATEGIES
    seeds: int = 1
    tokens: int = 1_000_000


def study_text(wanted: NewStudy, file: Path, name: str | None = None) -> str:
    """The text of the study file. Raises `SettingsError` if what is wanted makes no study."""
    length = min([_MAX_LENGTH, *filter(None, map(_context, wanted.models))])
    text = _TEXT.format(
        file=file,
        name=name or name_from(file),
        models=_list(wanted.models),
        datasets="\n".join(f"  - {_mapping(each)}" for each in wanted.data),
        arms=_list(wanted.arms),
        strategies=_list(wanted.strategies),
        seeds=_list(range(wanted.seeds)),
        tokens=wanted.tokens,
        max_length=length,
        batch_tokens=max(1, _BATCH_TOKENS // length) * length,
        every=max(1, wanted.tokens // _EVERY),
        evaluated=min(100_000, max(1, wanted.tokens // _EVERY)),
    )
    parse_spec(text, str(file))
    return text


def name_from(file: Path) -> str:
    """A study's name, from its file's; or from the folder's, if the file is called study."""
    stem = file.absolute().parent.name if file.stem == "study" else file.stem
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:80] or "study"


def _context(model: str) -> int | None:
    """The most positions that a model in a folder takes, where its configuration says so."""
    path = Path(model).expanduser() / "config.json"
    try:
        config = atomic.read_json(path) if path.is_file() else {}
    except DataError:  # the plan says what is wrong with it
        return None
    found = [config.get(name) for name in _LIMITS] if isinstance(config, dict) else []
    return min((limit for limit in found if isinstance(limit, int) and limit > 1), default=None)


def _list(values: Sequence[Any]) -> str:
    return f"[{', '.join(map(_scalar, values))}]"


def _mapping(values: dict[str, Any]) -> str:
    return "{" + ", ".join(f"{key}: {_scalar(value)}" for key, value in values.items()) + "}"


def _scalar(value: Any) -> str:
    """As YAML: a word as it is, whatever might mean something else as a JSON string, which YAML reads too."""
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z/][A-Za-z0-9._/-]*", value) and yaml.safe_load(value) == value:
        return value
    return json.dumps(value, ensure_ascii=False)
