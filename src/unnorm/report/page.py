"""One self-contained page about a study. Everything that a model or a file said is untrusted text and stays text.

Text goes through Jinja's autoescape; data stands in JSON blocks with every `<` written as an escape; scripts run only
if their hash is in the content security policy; Vega interprets its expressions instead of compiling them.
"""

import base64
import hashlib
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import orjson
from jinja2 import Environment

from unnorm.foundation import atomic
from unnorm.foundation.errors import SettingsError
from unnorm.foundation.terminal import plain
from unnorm.report.export import export
from unnorm.report.figures import Figure, figures
from unnorm.report.summary import summary
from unnorm.report.theme import colours
from unnorm.study.results import rows_of
from unnorm.study.view import StudyView

_MAX_TEXT = 4_000  # characters of a completion on the page; the ledger has the rest


def write_report(study: StudyView, out: Path) -> dict[str, Any]:
    """Write `index.html` and `figures/` into the folder `out`. Returns their paths and the summary."""
    if out.exists() and not out.is_dir():
        raise SettingsError(f"{out} is a file, so no report can be written into it. Give a folder.")
    drawn = figures(study)
    with atomic.folder(out / "figures") as fresh:  # whole, so that no figure of an earlier state stays behind
        names = export(drawn, fresh)
    written = [out / "figures" / name for name in names]
    lines = summary(study)
    page = out / "index.html"
    atomic.write_bytes(page, render(study, drawn, lines).encode())
    return {"page": str(page), "figures": [str(path) for path in written], "summary": lines}


def render(study: StudyView, drawn: list[Figure], lines: list[str]) -> str:
    """The page, as HTML."""
    script = _text("page.js")
    bundle = _vega()
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["fixed"] = lambda number, digits: "–" if number is None else f"{number:.{digits}f}"
    environment.filters["plain"] = lambda text: plain(str(text))
    # Vega writes style attributes and its tooltip's style sheet, which no hash can name: styles may be inline, and
    # style alone can load nothing, since every other source is closed.
    policy = (
        f"default-src 'none'; script-src {_hash(bundle)} {_hash(script)}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    return environment.from_string(_text("page.html")).render(
        policy=policy,
        style=_text("page.css"),
        bundle=_inline(bundle),
        script=_inline(script),
        study=study,
        summary=lines,
        figures=[(figure, _inline(_json(figure.spec))) for figure in drawn],
        rows=rows_of(study),
        colour=dict(zip(study.arms, colours(study.arms), strict=True)),
        completions=_completions(study),
        calibrations=_calibrations(study),
        failures=[cell for cell in study.cells if cell.error],
        unmatched=[c for c in study.audit["comparisons"] if not c["matched"]],
    )


def _completions(study: StudyView) -> list[dict[str, Any]]:
    """For each model, data set and strategy: prompts, with every arm's answer of the first seed."""
    groups = []
    for model in study.models:
        for dataset in study.datasets:
            for strategy in study.strategies:
                here = {
                    cell.arm: {item["prompt_id"]: item for item in cell.completions}
                    for cell in study.cells
                    if cell.done
                    and cell.completions
                    and (cell.model, cell.dataset, cell.strategy) == (model, dataset, strategy)
                    and cell.seed == study.seeds[0]
                }
                if here:
                    groups.append(_group(model, dataset, strategy, here))
    return groups


def _group(model: str, dataset: str, strategy: str, here: dict[str, dict[str, Any]]) -> dict[str, Any]:
    first = next(iter(here.values()))
    prompts = [
        {
            "prompt": item["prompt"],
            "answers": [
                (arm, answers[key]["text"][:_MAX_TEXT], answers[key]["finish_reason"])
                for arm, answers in here.items()
                if key in answers
            ],
        }
        for key, item in first.items()
    ]
    return {"model": model, "dataset": dataset, "strategy": strategy, "prompts": prompts}


def _calibrations(study: StudyView) -> list[dict[str, Any]]:
    """The fit of each calibrated arm, once for each model and data set."""
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for cell in study.cells:
        calibration = (cell.calibration or {}).get("calibration")
        if cell.done and calibration:
            key = (cell.model, cell.dataset, cell.arm)
            found.setdefault(key, {"model": cell.model, "dataset": cell.dataset, "arm": cell.arm, **calibration})
    return list(found.values())


def _json(content: Any) -> str:
    """JSON that can stand in a script element: no `<`, no `&`, no line separators."""
    text = orjson.dumps(content).decode()
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _inline(text: str) -> Any:
    from markupsafe import Markup

    return Markup(text)


def _hash(script: str) -> str:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def _text(name: str) -> str:
    return (files("unnorm.report") / name).read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def _vega() -> str:
    """Vega, Vega-Lite and Vega-Embed, as one script without a module loader."""
    import vl_convert

    bundle: str = vl_convert.javascript_bundle("window.unnormEmbed = vegaEmbed;")
    return bundle.replace("</script", "<\\/script")
