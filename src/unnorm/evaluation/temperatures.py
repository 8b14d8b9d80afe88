"""At which temperature a question is answered: greedily, at one temperature, or by category as FastChat does."""

from unnorm.foundation.errors import SettingsError

GREEDY, FASTCHAT = "greedy", "fastchat"
_BY_CATEGORY = {
    "writing": 0.7,
    "roleplay": 0.7,
    "extraction": 0.0,
    "math": 0.0,
    "coding": 0.0,
    "reasoning": 0.0,
    "stem": 0.1,
    "humanities": 0.1,
}
"""FastChat's fastchat/llm_judge/common.py, temperature_config."""
_ELSEWHERE = 0.7


def temperature_of(category: str, rule: str) -> float:
    """The temperature of a category under `rule`: `greedy` (0), `fastchat`, or a number. Else a `SettingsError`."""
    if rule == GREEDY:
        return 0.0
    if rule == FASTCHAT:
        return _BY_CATEGORY.get(category, _ELSEWHERE)
    try:
        value = float(rule)
    except ValueError:
        value = -1.0
    if not 0 <= value < 100:
        raise SettingsError(f"a temperature is {GREEDY}, {FASTCHAT} or a number from 0, not {rule!r}.")
    return value
