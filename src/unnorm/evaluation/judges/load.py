"""A judge by its name on the command line."""

from typing import Literal, get_args

from unnorm.evaluation.judges.interface import Judge
from unnorm.foundation.errors import SettingsError
from unnorm.foundation.nearest import did_you_mean

Kind = Literal["pairrm", "reward", "openai", "likelihood"]
DEFAULT_BASE_URL = "https://api.openai.com/v1"


def load_judge(kind: str, model: str | None = None, base_url: str | None = None) -> Judge:
    """The judge `kind` with its `model`: a hub id or folder, or for `openai` the name that the endpoint knows.

    `pairrm` has a model of its own if none is given. base_url: of `openai`. A setting that is missing or belongs to
    another judge is a `SettingsError`; a model that cannot be loaded a `ModelError`.
    """
    if kind not in get_args(Kind):
        known = get_args(Kind)
        raise SettingsError(f"there is no judge {kind!r}.{did_you_mean(kind, known)} Known judges: {', '.join(known)}.")
    if base_url is not None and kind != "openai":
        raise SettingsError(f"--base-url belongs to the judge openai; {kind} runs on this machine.")
    if kind == "pairrm":
        from unnorm.evaluation.judges.pairrm import DEFAULT, load_pairrm

        return load_pairrm(model or DEFAULT)
    if model is None:
        raise SettingsError(f"the judge {kind} needs --model: {_WHICH[kind]}.")
    if kind == "openai":
        from unnorm.evaluation.judges.openai import load_openai

        return load_openai(model, base_url or DEFAULT_BASE_URL)
    if kind == "reward":
        from unnorm.evaluation.judges.reward import load_reward

        return load_reward(model)
    from unnorm.evaluation.judges.likelihood import load_likelihood

    return load_likelihood(model)


_WHICH = {
    "reward": "the hub id or folder of a reward model",
    "openai": "the name of the model at the endpoint",
    "likelihood": "the hub id or folder of a language model to be the reference",
}
