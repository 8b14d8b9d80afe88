"""What a recovered start learnt from, counted and in words: for the audit, the tables and the page."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unnorm.foundation import atomic


def read_recovery(folder: Path) -> dict[str, Any] | None:
    """recovery.json of a start or of a cell that begins from one. None where there is none, or one of a version whose
    cells each recovered by themselves, in steps of the norms alone."""
    path = folder / "recovery.json"
    content = atomic.read_json(path) if path.is_file() else None
    return content if content is not None and {"data", "curve"} <= content.keys() else None


def start_tokens(recovery: Mapping[str, Any] | None) -> int:
    """The tokens that a start really learnt from: none where it was put back, or where there was none.

    recovery: what recovery.json holds.
    """
    return int(recovery["tokens"]) if recovery is not None and recovery["kept"] else 0


def start_in_words(recovery: Mapping[str, Any] | None) -> str:
    """What a cell learnt from before its training, as in '10,000,000 (alpaca; all; held-out gap +394.0% to +1.3%)'."""
    if recovery is None:
        return "0"
    names = ", ".join(part["name"] for part in recovery["data"])
    known = [f"{recovery[key]:+.1%}" for key in ("gap_before", "gap_after") if recovery[key] is not None]
    gap = f"; held-out gap {' to '.join(known)}" if known else ""  # a saved start does not say where it came from
    if recovery.get("broken"):
        gap += f", less {recovery['broken']} held-out rows of which nothing is left"
    put_back = "" if recovery["kept"] else f", so the start was put back after {recovery['tokens']:,}"
    return f"{start_tokens(recovery):,} ({names}; {how_it_learns(recovery)}{gap}{put_back})"


def start_asked_for(data: list[str], wanted: Mapping[str, Any]) -> str:
    """The same before it is made. wanted: tokens and train of the recovery, objective where it is not `kl`, and
    straighten where curves are bent."""
    return f"{wanted['tokens']:,} ({', '.join(data)}; {how_it_learns(wanted)})"


def how_it_learns(recovery: Mapping[str, Any]) -> str:
    """What learns, by what where it is not distilled, and whether curves were bent straight, or are to be."""
    by = ", by cross-entropy" if recovery.get("objective") == "ce" else ""  # older ones do not say it
    bent = ""
    if recovery.get("straightened"):
        bent = f", {recovery['straightened']} curves bent straight"
    elif recovery.get("straighten"):
        bent = f", curves bent straight: {', '.join(recovery.get('straighten_sites', ('all',)))}"
    return f"{recovery['train']}{by}{bent}"
