"""Recover a saved swapped model into a folder: `unnorm recover`.

OUT/recover.json   the run's name and the threads that it computes on, written when it begins
OUT/model/         the recovered artefact, at the end;  OUT/result.json  what became of it
and what `recovery` writes. The same call goes on where an earlier one stopped, and hands back what is finished.
"""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from unnorm.artefacts.loading import open_model
from unnorm.artefacts.manifest import Manifest, read_manifest
from unnorm.artefacts.saving import save
from unnorm.foundation import atomic, ranks
from unnorm.foundation.errors import ArtefactError, ModelError, RunError
from unnorm.foundation.precision import line_of
from unnorm.foundation.processes import is_main
from unnorm.foundation.progress import Say
from unnorm.norms.fixed_scale import FixedScale
from unnorm.study import threads
from unnorm.study.hooks import Hooks
from unnorm.study.recovery import Recovery, recover_run, same_tokenizer
from unnorm.surgery.base import load_base, load_tokenizer
from unnorm.surgery.swap import record_of
from unnorm.tuning.recover_report import RecoverReport
from unnorm.tuning.threads import threads_for

_RUN, _RESULT, _MODEL = "recover.json", "result.json", "model"


def recover_model(
    swapped: str,
    base: str | None,
    recovery: Recovery,
    out: Path,
    *,
    say: Say,
    rows_per_forward: int | None,
    evaluate_every: int | None,
) -> dict[str, Any]:
    """Recover the artefact in the folder `swapped` and save it in `out`. Returns the numbers of result.json.

    base: where its base lies now, unless it is where the manifest says. Of several processes (torchrun) the main one
    writes, and all return the numbers. Raises `UnnormError`; what was reached is kept.
    """
    manifest = read_manifest(Path(swapped))
    if manifest.kind != "model" or not manifest.sites:
        raise ModelError(f"{swapped} holds no swapped model: give the folder that `unnorm swap` wrote.")
    ranks.join()
    if is_main():
        _check_place(out)
        out.mkdir(parents=True, exist_ok=True)
    ranks.of_all(None)
    try:
        with FileLock(out / ".lock", timeout=0) if is_main() else nullcontext():
            place = base or manifest.base.name
            return _recover(swapped, manifest, place, recovery, out, say, rows_per_forward, evaluate_every)
    except Timeout as error:
        raise RunError(f"another process is recovering in {out}. Wait for it, or give another --out.") from error


def _recover(
    swapped: str,
    manifest: Manifest,
    base: str,
    recovery: Recovery,
    out: Path,
    say: Say,
    rows_per_forward: int | None,
    evaluate_every: int | None,
) -> dict[str, Any]:
    model, tokenizer = open_model(swapped)  # in fp32: on many processors bf16 takes forty times as long
    original = load_base(base)
    same_tokenizer(tokenizer, load_tokenizer(base), swapped, base)
    say(line_of(recovery.settings.precision))
    finished: list[dict[str, Any]] = []

    def begun(run: str) -> None:
        earlier = ranks.of_main(atomic.read_json(out / _RUN) if (out / _RUN).is_file() else {})
        if earlier:
            if earlier["run"] != run:
                raise ArtefactError(
                    f"{out} holds another recovery: its model, data or settings differ. Give another --out, or delete "
                    "the folder."
                )
            if ranks.of_main((out / _RESULT).is_file()):
                finished.append(atomic.read_json(out / _RESULT))
                raise _Finished
        found = threads.begin_on(earlier, lambda: threads_for(original))
        if found is not None:
            say(f"computing on {found.describe()}")
        about = {"run": run, "swapped": swapped, "base": base, "threads": torch.get_num_threads()}
        if is_main():
            atomic.write_json(out / _RUN, about)

    try:
        report, parts = recover_run(
            model,
            original,
            tokenizer,
            recovery,
            out,
            Hooks(say=say, begun=begun),
            rows_per_forward=rows_per_forward,
            evaluate_every=evaluate_every,
        )
    except _Finished:
        say(f"{out} is finished already; nothing to do")
        return finished[0]
    say(report.describe())
    data = [{"name": part.name, "tokens": part.tokens, "passes": part.passes} for part in parts]
    note_recovery(model, report, data)
    if manifest.dtype != "float32":
        say(f"saved in float32, in which the weights learnt; {swapped} is in {manifest.dtype}")
    result = {**report.to_dict(), "data": data}
    if is_main():
        save(model, out / _MODEL, tokenizer)
        atomic.write_json(out / _RESULT, result)
    return result


def note_recovery(model: Any, report: RecoverReport, data: list[dict[str, Any]]) -> None:
    """Keep on the model, for its manifest, how far it is from its original now and what it learnt from: in this
    recovery, and in any before it."""
    record = record_of(model)
    assert record is not None
    kept = report.kept
    gap = report.gap_after if kept else report.gap_before
    learnt = {"tokens": report.tokens, "train": report.train, "data": data}
    if report.objective != "kl":
        learnt["objective"] = report.objective
    if report.straightened:
        learnt["straightened"] = sum(isinstance(spec, FixedScale) for spec in record.specs.values())
    if kept:
        record.recovered = _after(record.recovered, learnt)
    record.measured = {
        "gap": gap,
        "loss": report.original_loss * (1 + gap),
        "original_loss": report.original_loss,
        "kl": report.kl_after if kept else report.kl_before,
        "tokens": report.held_out_tokens,
    }
    if kept and report.broken:
        record.measured["broken"] = report.broken


def _after(earlier: dict[str, Any] | None, learnt: dict[str, Any]) -> dict[str, Any]:
    """What a model has learnt from in all, of which `earlier` came first."""
    if earlier is None:
        return learnt
    data = {part["name"]: part for part in earlier["data"]}
    for part in learnt["data"]:
        before = data.get(part["name"], {})
        data[part["name"]] = part | {key: before[key] + part[key] for key in ("tokens", "passes") if key in before}
    train = [earlier["train"]] if earlier["train"].endswith(learnt["train"]) else [earlier["train"], learnt["train"]]
    tokens = earlier["tokens"] + learnt["tokens"]
    stays = {"straightened": earlier["straightened"]} if "straightened" in earlier else {}
    return {**stays, **learnt, "tokens": tokens, "train": ", then ".join(train), "data": list(data.values())}


class _Finished(Exception):
    """There is nothing left to do."""


def _check_place(out: Path) -> None:
    if not out.exists() or (out / _RUN).is_file():
        return
    if not out.is_dir() or any(path.name != ".lock" for path in out.iterdir()):
        raise ArtefactError(f"{out} is not empty and holds no recovery. Give another --out.")
