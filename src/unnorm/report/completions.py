"""Answers side by side, with the judge's verdicts, as the page's browser reads them. All of it is untrusted text."""

from typing import Any

from unnorm.foundation.terminal import plain
from unnorm.study.view import CellView, StudyView


def groups_of_answers(study: StudyView) -> list[dict[str, Any]]:
    """One a model, data set, strategy and seed that has completions: `title`, `arms`, and `items`.

    An item is a turn of a prompt: `category`, `prompt`, `answers` {arm: {text, cut}}, and `verdicts` {arm: {value,
    score}} against the reference, on the prompt as a whole. Control and bidirectional characters stand as escapes.
    """
    found = []
    for model, dataset, strategy in study.strata:
        for seed in study.seeds:
            place = (model, dataset, strategy, seed)
            cells = [c for c in study.done.values() if (*c.place.stratum, c.seed) == place and c.completions]
            if cells:
                found.append(_group(study, place, cells))
    return found


def _group(study: StudyView, place: tuple[str, str, str, int], cells: list[CellView]) -> dict[str, Any]:
    model, dataset, strategy, seed = place
    many = len(study.models) * len(study.datasets) > 1
    verdicts = {
        pair.arm: {str(v["prompt_id"]): v for v in pair.verdicts}
        for pair in study.pairs
        if (*pair.place.stratum, pair.seed) == place
    }
    items: dict[tuple[str, int], dict[str, Any]] = {}
    for cell in cells:
        for record in cell.completions:
            key = (str(record["prompt_id"]), int(record["turn"]))
            item = items.setdefault(
                key,
                {
                    "id": plain(key[0]) + (f", turn {key[1] + 1}" if key[1] else ""),
                    "category": plain(str(record["category"])),
                    "prompt": plain(record["prompt"]),
                    "answers": {},
                    "verdicts": {
                        arm: {"value": of[key[0]]["value"], "score": of[key[0]]["score"]}
                        for arm, of in verdicts.items()
                        if key[0] in of
                    },
                },
            )
            item["answers"][cell.arm] = {"text": plain(record["text"]), "cut": record["finish_reason"] == "length"}
    arms = [arm for arm in study.arms if any(arm in item["answers"] for item in items.values())]
    title = f"{f'{model}, {dataset}, ' if many else ''}{strategy}{f', seed {seed}' if len(study.seeds) > 1 else ''}"
    return {"title": plain(title), "reference": study.reference, "arms": arms, "items": list(items.values())}
