"""The audit: two arms that are compared differ in the arm, and in nothing else that was configured or done."""

from collections.abc import Mapping
from typing import Any

from unnorm.foundation import atomic
from unnorm.study.ledger import result_of
from unnorm.study.view import reference_of

_MUST_AGREE = ("steps", "train_tokens")


def audit(cells: list[dict[str, Any]], arms: list[str], folders: dict[str, Any]) -> dict[str, Any]:
    """Compare every arm with the reference (`original`, else the first) where both are done.

    cells: the entries of study.json; folders: cell hash -> its folder. Returns `matched` (None where nothing could be
    compared) and `comparisons`, each with what differs.
    """
    reference = reference_of(arms)
    by_place: dict[tuple[Any, ...], dict[str, str]] = {}
    for entry in cells:
        place = (entry["model"], entry["dataset"], entry["strategy"], entry["seed"])
        by_place.setdefault(place, {})[entry["arm"]] = entry["cell"]
    comparisons = []
    for (model, dataset, strategy, seed), found in by_place.items():
        if reference not in found:
            continue
        for arm in arms:
            if arm == reference or arm not in found:
                continue
            differences = _differences(folders[found[arm]], folders[found[reference]])
            comparisons.append(
                {
                    "model": model,
                    "dataset": dataset,
                    "strategy": strategy,
                    "seed": seed,
                    "arm": arm,
                    "against": reference,
                    "matched": not differences,
                    "differences": differences,
                }
            )
    return {"matched": all(c["matched"] for c in comparisons) if comparisons else None, "comparisons": comparisons}


def _differences(one: Any, other: Any) -> list[str]:
    """What differs between two finished cells, beside the arm."""
    configured = [_flat(atomic.read_json(folder / "cell.json")["settings"]) for folder in (one, other)]
    done = [result_of(folder) for folder in (one, other)]
    found = [
        f"{key}: {configured[0].get(key)!r} against {configured[1].get(key)!r}"
        for key in sorted(configured[0].keys() | configured[1].keys())
        if not key.startswith("arm.") and configured[0].get(key) != configured[1].get(key)
    ]
    return found + [f"{k}: {done[0][k]} against {done[1][k]}" for k in _MUST_AGREE if done[0][k] != done[1][k]]


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
