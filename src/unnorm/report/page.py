"""The page about a study, and the files beside it.

`index.html` is whole in itself and opens from disk. Answers that would make it large go to pages of their own,
`completions-N.html`, each as whole: a data file would need a fetch, which a page from disk may not do, or a script
without a hash in the policy.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
from markupsafe import Markup

from unnorm.foundation import atomic
from unnorm.foundation.errors import SettingsError
from unnorm.report import html
from unnorm.report.cells import FILTERS, cells_table, other_speeds
from unnorm.report.completions import groups_of_answers
from unnorm.report.export import KINDS, export
from unnorm.report.figures import Figure, figures
from unnorm.report.formats import table_caption, text_table
from unnorm.report.headline import headline
from unnorm.report.names import named, without_folders
from unnorm.report.published import published_caption, published_table
from unnorm.report.summary import findings, grounds, summary
from unnorm.report.tasks import task_caption, task_table
from unnorm.report.theme import HATCH_PATTERN, SHAPES, looks
from unnorm.study.audit import noted_in_words
from unnorm.study.failed import failed_of
from unnorm.study.view import StudyView

_OURS = b"unnormEmbed"  # what every index.html of ours has in it, and no other
_MOST_ANSWERS = 1_500_000  # bytes of JSON that the page itself takes


def write_report(study: StudyView, out: Path, extra: Sequence[Figure] = (), *, quiet: bool = False) -> dict[str, Any]:
    """Write `index.html`, `figures/` and perhaps pages of completions into the folder `out`.

    extra: figures of data, to be drawn after the study's. Returns the paths of what was written, and the summary.
    An earlier report is replaced; a page or figures of somebody else are a `SettingsError`.
    """
    if out.exists() and not out.is_dir():
        raise SettingsError(f"{out} is a file, so no report can be written into it. Give a folder.")
    again = _holds_report(out)
    study = named(study)
    drawn = [*figures(study), *extra]
    with atomic.folder(out / "figures") as fresh:  # whole, so that no figure of an earlier state stays behind
        names = export(drawn, fresh, quiet=quiet)
        written = pages(study, drawn)
        for name, content in written.items():  # before the figures: where these are, the page says whose they are
            atomic.write_bytes(out / name, content)
    for left in set(out.glob("completions-*.html")) - {out / name for name in written} if again else ():
        left.unlink()
    return {
        "page": str(out / "index.html"),
        "completions": [str(out / name) for name in written if name != "index.html"],
        "figures": [str(out / "figures" / name) for name in names],
        "summary": summary(study),
    }


def _holds_report(out: Path) -> bool:
    """Whether a report is in the folder `out`; a `SettingsError` where what one would replace is not of a report."""
    page = out / "index.html"
    if page.is_file() and _OURS in page.read_bytes():
        return True
    for mine in (page, out / "figures", *out.glob("completions-[0-9]*.html")):
        if mine.exists():
            raise SettingsError(f"{mine} is not of a report, so it is not replaced. Give another --out.")
    return False


def pages(study: StudyView, drawn: Sequence[Figure], *, live: str = "") -> dict[str, bytes]:
    """File name -> content, `index.html` first.

    study: with names for people (`names.named`).
    live: the state of the study that a server shows; with one, the page reloads itself when the server has another.
    """
    answers = groups_of_answers(study)
    look = looks(study.arms)
    marks = {arm: {"fill": of.colour, "d": SHAPES[of.shape]} for arm, of in look.items()}
    apart = {}
    if sum(len(orjson.dumps(group)) for group in answers) > _MOST_ANSWERS:
        for number, group in enumerate(answers, 1):
            page = html.render(
                "completions.html",
                [html.resource("browser.js"), html.resource("state.js")],
                study=study,
                group=group,
                groups=[group],
                marks=marks,
            )
            apart[f"completions-{number}.html"] = page.encode()
    scripts = [html.vega(), *(html.resource(f"{name}.js") for name in ("figures", "table", "browser", "state"))]
    page = html.render(
        "page.html",
        [*scripts, html.resource("live.js")] if live else scripts,
        live=bool(live),
        state=live,
        study=study,
        source=without_folders(study.source),
        headline=headline(study),
        grounds=grounds(study),
        findings=findings(study),
        figures=drawn,
        kinds=() if live else KINDS,
        hatch=Markup(HATCH_PATTERN),
        cells=cells_table(study),
        filters=FILTERS,
        table=text_table(study),
        table_caption=table_caption(study),
        tasks=task_table(study),
        task_caption=task_caption(study),
        published=published_table(study),
        published_caption=published_caption(study),
        look=look,
        shapes=SHAPES,
        marks=marks,
        groups=[] if apart else answers,
        apart=[(name, group["title"], len(group["items"])) for name, group in zip(apart, answers, strict=False)],
        calibrations=_calibrations(study),
        failures=[(" / ".join(each.name), each.error) for each in failed_of(study)],
        noted=noted_in_words(study.audit),
        unmatched=[c for c in study.audit["comparisons"] if not c["matched"]],
        other_speeds="; ".join(dict.fromkeys(other_speeds(study).values())),
    )
    return {"index.html": page.encode(), **apart}


def _calibrations(study: StudyView) -> list[dict[str, Any]]:
    """The fit of each calibrated arm, once for each model and data set."""
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for cell in study.cells:
        calibration = (cell.calibration or {}).get("calibration")
        if cell.done and calibration:
            key = (cell.model, cell.dataset, cell.arm)
            found.setdefault(key, {"model": cell.model, "dataset": cell.dataset, "arm": cell.arm, **calibration})
    return list(found.values())
