"""Judges: each says which of two answers it prefers. One small interface, a file a judge; no statistics."""

from typing import NamedTuple


class Listed(NamedTuple):
    """load: what makes the judge, imported when it is asked for. settings: what it takes, and what each is."""

    load: str
    settings: dict[str, str]


JUDGES = {
    "pairrm": Listed("unnorm.evaluation.judges.pairrm:load_pairrm", {"model": "a PairRM; it has its own"}),
    "reward": Listed(
        "unnorm.evaluation.judges.reward:load_reward",
        {"model": "the hub id or folder of a reward model"},
    ),
    "openai": Listed(
        "unnorm.evaluation.judges.openai:load_openai",
        {"model": "the name of the model at the endpoint", "base_url": "the endpoint, up to /v1"},
    ),
    "likelihood": Listed(
        "unnorm.evaluation.judges.likelihood:load_likelihood",
        {"model": "the hub id or folder of a language model to be the reference"},
    ),
}
"""Kind -> where it is made. A setting without a default in the function that makes it must be given."""

KIND_HELP = f"{', '.join(JUDGES)} (which is weak, and works offline); or one of your own, FILE.py:NAME"
