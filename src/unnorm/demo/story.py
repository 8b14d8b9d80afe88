"""The demo: a base made on the spot, then a study of three arms under three strategies, and the page about it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from unnorm.demo.base import demo_base
from unnorm.demo.grammar import DEMO_PROMPTS, generate
from unnorm.demo.pretrain import MAX_LENGTH, TEMPLATE
from unnorm.foundation import atomic
from unnorm.foundation.cache import cache_folder
from unnorm.foundation.errors import SettingsError
from unnorm.foundation.hashing import hash_json
from unnorm.report.page import write_report
from unnorm.study.run_study import run_study
from unnorm.study.spec import parse_spec
from unnorm.study.view import StudyView

_ROWS = 6_000
_OURS = "# Made by unnorm demo."
_STUDY = """\
{ours} Run it again by hand: unnorm study run {file} --ledger {ledger}
name: demo
models: [{base}]
datasets: [{{source: {data}, template: {template}}}]
arms: [original, dyt-bare, dyt]
strategies: [frozen, selective, full]
seeds: [0]
training: {{tokens: 60_000, max_length: {length}, batch_tokens: 512,
           learning_rate: {{frozen: 2.0e-3, selective: 2.0e-3, full: 5.0e-4}}}}
evaluation: {{every_tokens: 20_000, tokens: 15_000}}
after: {{completions: {{prompts: {prompts}, max_new_tokens: 48}}}}
"""


def tell(out: Path, say: Callable[[str], None], *, quiet: bool = False) -> tuple[StudyView, Path]:
    """Run the demo in the folder `out`, or go on with it. Returns the study, and where the page about it is.

    say: called with a line for people at each stage. What finished before is not repeated. A `study.yaml` of somebody
    else in `out` is a `SettingsError`.
    """
    out = Path(out).resolve()
    file = out / "study.yaml"
    if file.exists() and not file.read_bytes().startswith(_OURS.encode()):
        raise SettingsError(f"{file} is not the demo's, so it is not replaced. Give another --out.")
    say("1/3  a base: a GPT-NeoX of 1.6 million parameters, pretrained here on a generated corpus (kept in the cache)")
    base = demo_base(quiet=quiet)
    say("2/3  a study: the original norms, Dynamic Tanh bare, and calibrated, each under three strategies")
    text = _STUDY.format(
        ours=_OURS,
        file=_quoted(file),
        ledger=_quoted(out),
        base=_quoted(base),
        data=_quoted(_data_file()),
        prompts=_quoted(_prompts_file()),
        template=TEMPLATE,
        length=MAX_LENGTH,
    )
    atomic.write_bytes(file, text.encode())
    study = run_study(parse_spec(text, str(file)), text, out, quiet=quiet, say=lambda line: say(f"     {line}"))
    say("3/3  figures and a page")
    write_report(study, study.folder / "report", quiet=quiet)
    return study, study.folder / "report" / "index.html"


def _quoted(path: Path) -> str:
    return orjson.dumps(str(path)).decode()  # a JSON string is a YAML string


def _data_file() -> Path:
    return _cached("demo-finetune", "json", generate(_ROWS, seed=1, part="finetune"))


def _prompts_file() -> Path:
    rows: list[Any] = [
        {"prompt_id": f"demo-{number}", "category": "demo", "instruction": instruction, "input": given}
        for number, (instruction, given) in enumerate(DEMO_PROMPTS, 1)
    ]
    return _cached("demo-prompts", "jsonl", rows)


def _cached(name: str, suffix: str, rows: list[Any]) -> Path:
    path = cache_folder() / f"{name}-{hash_json(rows)}.{suffix}"
    if not path.is_file():
        lines = b"\n".join(orjson.dumps(row) for row in rows)
        atomic.write_bytes(path, lines if suffix == "jsonl" else orjson.dumps(rows))
    return path
