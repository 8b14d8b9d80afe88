"""Data sets that have a name of their own here."""

from pkgutil import resolve_name

from unnorm.data.known.hub_set import HubSet, Mix

KNOWN: dict[str, HubSet | Mix] = {
    "alpaca": HubSet("tatsu-lab/alpaca"),
    "sharegpt": HubSet("anon8231489123/ShareGPT_Vicuna_unfiltered", files="ShareGPT_V3_unfiltered_cleaned_split.json"),
    "rewild": resolve_name("unnorm.data.known.rewild:REWILD"),
    "rewild-reduced": resolve_name("unnorm.data.known.rewild:REDUCED"),
}
"""Name -> what it means on the hub."""
