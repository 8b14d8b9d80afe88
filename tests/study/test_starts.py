"""Recovered starts: made once for all that begin from them, gone on with after a kill, failed with what needs them."""

import json
import signal
import time
from pathlib import Path

import pytest
import torch

import unnorm
import warm
from cli.test_main import call
from study.small_study import run_text, study_text, table
from unnorm.data.conversation import prompt_hash
from unnorm.data.settings import DataSettings
from unnorm.foundation.errors import Interrupted, NonFiniteError, SiteError
from unnorm.foundation.hashing import hash_tensors
from unnorm.report.figures import figures
from unnorm.report.formats import FORMATS, text_table
from unnorm.report.page import pages
from unnorm.report.summary import summary
from unnorm.study import blocks_first, make_start
from unnorm.study.arms import arm_from
from unnorm.study.audit import audit_plan, noted_in_words
from unnorm.study.cell import CellSettings, start_of
from unnorm.study.engines.interface import Options
from unnorm.study.estimate import estimates_of_starts
from unnorm.study.events import read_events
from unnorm.study.lease import TaskFolder, entries
from unnorm.study.ledger import standing_of
from unnorm.study.plan import place_of, plan_study, starts_of
from unnorm.study.recovered_start import plan_start, start_settings
from unnorm.study.run_cell import run_cell
from unnorm.study.spec import parse_spec
from unnorm.study.start_words import read_recovery, start_in_words, start_tokens
from unnorm.study.status import status_of_starts
from unnorm.study.tune import tries_of
from unnorm.study.view import read_study
from unnorm.study.workbench import Workbench
from unnorm.surgery.swap import record_of
from unnorm.tuning.run_log import RunLog
from unnorm.tuning.settings import TrainingSettings

RATES = {"learning_rate": 4e-4, "norm_learning_rate": 5e-3}
RECOVER = {"tokens": 1200, "batch_tokens": 128, "held_out_tokens": 200, "precision": "fp32", **RATES}
ARM = {"id": "dyt-learnt", "norm": "dyt", "start": {"calibrate": {"tokens": 256}, "recover": RECOVER}}


def text_of(base: str, data: str, **changes) -> str:
    training = {"tokens": 256, "max_length": 64, "batch_tokens": 128, "precision": "fp32"}
    return study_text(
        base, data, **{"arms": ["original", ARM], "strategies": ["frozen"], "training": training, **changes}
    )


def starts(ledger: Path) -> list[Path]:
    return sorted((ledger / "starts").iterdir())


def weights(folder: Path) -> str:
    return hash_tensors(unnorm.load(folder / "model").state_dict())


@pytest.fixture(scope="module")
def made(bases, data_file, tmp_path_factory):
    """(study text, ledger) of a study that ran in one go: two strategies, two seeds, one start."""
    ledger = tmp_path_factory.mktemp("ledger")
    text = text_of(bases["gpt2"], data_file, strategies=["frozen", "full"], seeds=[0, 1])
    run_text(text, ledger)
    return text, ledger


def test_a_pattern_of_sites_that_means_none_shows_before_anything_is_computed(bases, data_file, tmp_path):
    bent = {**RECOVER, "straighten": 0.7, "straighten_sites": ["attention", "transformer.h.9.*"]}
    arm = {**ARM, "start": {**ARM["start"], "recover": bent}}
    text = text_of(bases["gpt2"], data_file, arms=["original", arm])
    with pytest.raises(SiteError, match=r"line 1: arms\.1: no site matches 'transformer\.h\.9\.\*'"):
        run_text(text, tmp_path)
    training = {"tokens": 256, "max_length": 64, "batch_tokens": 128, "precision": "fp32", "train_sites": ["atention"]}
    with pytest.raises(SiteError, match=r"training\.train_sites: no site matches 'atention'"):
        run_text(text_of(bases["gpt2"], data_file, arms=["original"], training=training), tmp_path)
    assert not (tmp_path / "cells").exists()
    assert not (tmp_path / "starts").exists()


def test_a_start_is_made_once_for_all_strategies_and_seeds(made):
    _, ledger = made
    (start,) = starts(ledger)
    kinds = [entry.kind for entry in entries(TaskFolder(start))]
    assert kinds == ["claimed", "done"]
    assert len(list((ledger / "cells").iterdir())) == 8
    recovery = json.loads((start / "recovery.json").read_text())
    steps = RunLog(start / "steps.jsonl").read()
    assert [s["step"] for s in steps] == list(range(1, recovery["steps"] + 1))
    assert recovery["tokens"] == steps[-1]["train_tokens"]
    assert recovery["kept"]
    assert recovery["kl_after"] < recovery["kl_before"]
    assert [part["name"] for part in recovery["data"]] == ["rows"]
    assert not (start / "checkpoints").exists()
    assert RunLog(start / "evaluations.jsonl").read()[0]["train_tokens"] == 0
    of_arm = [c for c in (ledger / "cells").iterdir() if "dyt-learnt" in c.name or "dyt_learnt" in c.name]
    assert len(of_arm) == 4
    for cell in of_arm:
        for name in ("recovery.json", "calibration.json"):
            assert json.loads((cell / name).read_text()) == json.loads((start / name).read_text())


def test_a_start_whose_blocks_learn_one_at_a_time_first(bases, data_file, tmp_path, monkeypatch):
    monkeypatch.setattr(blocks_first, "BLOCK_STEPS", 3)
    recover = {"start": {**ARM["start"], "recover": {**RECOVER, "blockwise": True}}}
    text = text_of(bases["gpt2"], data_file, arms=["original", {**ARM, **recover}])
    run_text(text, tmp_path / "ledger")
    (start,) = starts(tmp_path / "ledger")
    blocks = json.loads((start / "blocks.json").read_text())["blocks"]
    assert [block["steps"] for block in blocks] == [3, 3]
    told = json.loads((start / "recovery.json").read_text())
    assert told["kl_after"] < told["kl_before"]


def test_a_start_whose_curves_are_bent_straight_ends_in_fixed_scales(bases, data_file, tmp_path):
    arm = {**ARM, "start": {**ARM["start"], "recover": {**RECOVER, "straighten": 0.6}}}
    text = text_of(bases["gpt2"], data_file, arms=["original", arm], strategies=["selective"])
    run_text(text, tmp_path / "ledger")
    (start,) = starts(tmp_path / "ledger")
    told = read_recovery(start)
    assert told["straightened"] == 5
    assert "all, 5 curves bent straight" in start_in_words(told)
    assert {spec.norm for spec in record_of(unnorm.load(start / "model")).specs.values()} == {"fixedscale"}
    (cell,) = [c for c in read_study(tmp_path / "ledger" / "small").cells if c.arm == "dyt-learnt"]
    assert cell.result["start_eval_loss"] > 0


def test_a_cell_begins_from_the_start_and_not_from_the_calibrated_model(made):
    _, ledger = made
    (start,) = starts(ledger)
    recovery = json.loads((start / "recovery.json").read_text())
    view = read_study(ledger / "small")
    losses = {c.result["start_eval_loss"] for c in view.cells if c.arm == "dyt-learnt"}
    original = {c.result["start_eval_loss"] for c in view.cells if c.arm == "original"}
    assert len(losses) == 1, "every seed and strategy begins from the same weights"
    assert losses != original
    assert record_of(unnorm.load(start / "model")).recovered == {
        "tokens": recovery["tokens"], "train": "all", "data": recovery["data"],
    }  # fmt: skip


def test_adapters_on_a_start_load_and_check(made):
    _, ledger = made
    (start,) = starts(ledger)
    cell = next(c for c in (ledger / "cells").iterdir() if "learnt-frozen-s0" in c.name)
    model = unnorm.load(cell / "model")
    assert hasattr(model, "peft_config")
    stands_on = record_of(model.get_base_model()).stands_on
    assert Path(stands_on.name) == (start / "model").resolve()
    whole = next(c for c in (ledger / "cells").iterdir() if "learnt-full-s0" in c.name)
    record = record_of(unnorm.load(whole / "model"))
    assert record.measured is None, "the start's gap says nothing of what was trained from it"
    assert record.recovered["train"] == "all"


def test_run_again_nothing_is_made_again_even_where_the_start_was_deleted(made, tmp_path):
    text, ledger = made
    before = [entry.number for entry in entries(TaskFolder(starts(ledger)[0]))]
    said: list[str] = []
    run_text(text, ledger, say=said.append)
    assert [entry.number for entry in entries(TaskFolder(starts(ledger)[0]))] == before
    assert "8 cells: 8 finished before, 0 to run" in said


def test_several_workers_share_a_start(ready_python, made, bases, data_file, tmp_path):
    text, undisturbed = made
    run_text(text, tmp_path, options=Options(workers="2"))
    (start,) = starts(tmp_path)
    assert [entry.kind for entry in entries(TaskFolder(start))] == ["claimed", "done"]
    assert weights(start) == weights(starts(undisturbed)[0])
    assert table(tmp_path / "small") == table(undisturbed / "small")


RUN = """
import sys
from pathlib import Path
from study.small_study import run_text
run_text(sys.argv[1], Path(sys.argv[2]))
"""


def kill_in_the_start(text: str, ledger: Path, how: signal.Signals) -> None:
    run = warm.start(RUN, text, ledger)
    deadline = time.monotonic() + 600  # on a machine that is busy with other things it takes minutes
    try:
        while not any(ledger.glob("starts/*/attempt-*/checkpoints/step-*")):
            assert time.monotonic() < deadline
            assert run.poll() is None, "it ended before it was killed"
            time.sleep(0.002)
        run.send_signal(how)
    except BaseException:
        run.send_signal(signal.SIGKILL)
        raise
    finally:
        run.wait()


def test_killed_in_the_start_the_results_are_those_of_an_undisturbed_run(bases, data_file, tmp_path, made):
    text, undisturbed = made
    kill_in_the_start(text, tmp_path, signal.SIGKILL)
    (start,) = starts(tmp_path)
    assert standing_of(start).state == "interrupted"
    assert not (tmp_path / "cells").exists() or not any((tmp_path / "cells").glob("*learnt*"))
    run_text(text, tmp_path)
    assert [entry.kind for entry in entries(TaskFolder(start))] == ["claimed", "claimed", "done"]
    assert weights(start) == weights(starts(undisturbed)[0])
    assert table(tmp_path / "small") == table(undisturbed / "small")
    steps = RunLog(start / "steps.jsonl").read()
    wanted = RunLog(starts(undisturbed)[0] / "steps.jsonl").read()
    assert [(s["step"], s["loss"]) for s in steps] == [(s["step"], s["loss"]) for s in wanted]


def settings_of(base: str, data: str, **recover) -> CellSettings:
    arm = arm_from({**ARM, "start": {"calibrate": {"tokens": 256}, "recover": {**RECOVER, **recover}}})
    return CellSettings(
        model=base,
        arm=arm,
        data=DataSettings(source=data, template="alpaca-short", max_length=64),
        training=TrainingSettings(tokens=256, batch_tokens=128, precision="fp32"),
        evaluation_tokens=300,
        evaluate_every_tokens=256,
        checkpoint_every_tokens=256,
    )


def test_a_cell_run_by_itself_makes_its_start_and_goes_on_with_it(bases, data_file, tmp_path, monkeypatch, made):
    _, ledger = made
    settings = settings_of(bases["gpt2"], data_file)
    real = make_start.recover_run

    def stopped(*args, **options):
        *others, hooks = args

        def saved(step: int) -> None:
            hooks.saved(step)
            if step >= 2:
                raise Interrupted

        return real(*others, hooks._replace(saved=saved), **options)

    with monkeypatch.context() as patched:
        patched.setattr(make_start, "recover_run", stopped)
        with pytest.raises(Interrupted):
            run_cell(settings, tmp_path / "run", quiet=True)
    (start,) = starts(tmp_path / "run")
    assert standing_of(start).state == "interrupted"
    assert not (tmp_path / "run" / "cell.json").exists()
    result = run_cell(settings, tmp_path / "run", quiet=True)
    assert [e["event"] for e in read_events(start) if e["event"] != "checkpoint"] == [
        "claimed", "released", "resumed", "done",
    ]  # fmt: skip
    assert start.name == starts(ledger)[0].name, "the same start as in a study"
    assert weights(start) == weights(starts(ledger)[0])
    assert result["start_tokens"] == json.loads((start / "recovery.json").read_text())["tokens"]
    assert (tmp_path / "run" / "recovery.json").is_file()
    unnorm.load(tmp_path / "run" / "model")


def test_a_start_that_is_refused_leaves_no_trace(bases, data_file, tmp_path):
    settings = settings_of(bases["gpt2"], data_file, learning_rate=1e30, norm_learning_rate=1e30)
    with pytest.raises(NonFiniteError):
        run_cell(settings, tmp_path / "run", quiet=True)
    (start,) = starts(tmp_path / "run")
    assert standing_of(start).failure == "non_finite"
    run_cell(settings_of(bases["gpt2"], data_file), tmp_path / "run", quiet=True)
    assert len(starts(tmp_path / "run")) == 2


def test_a_start_that_fails_fails_what_needs_it_and_nothing_else(bases, data_file, tmp_path):
    wild = {**ARM, "start": {"recover": {**RECOVER, "learning_rate": 1e30, "norm_learning_rate": 1e30}}}
    text = text_of(bases["gpt2"], data_file, arms=["original", wild], strategies=["frozen", "full"])
    view = run_text(text, tmp_path)
    (start,) = starts(tmp_path)
    assert standing_of(start).failure == "non_finite"
    states = {(c.arm, c.strategy): (c.state, c.failure) for c in view.cells}
    assert states == {
        ("original", "frozen"): ("done", None),
        ("original", "full"): ("done", None),
        ("dyt-learnt", "frozen"): ("failed", "no_start"),
        ("dyt-learnt", "full"): ("failed", "no_start"),
    }
    told = next(c.error for c in view.cells if c.state == "failed")
    assert start.name in told
    assert "non-finite at step" in told
    assert not any((tmp_path / "cells").glob("*learnt*/steps.jsonl"))
    before = len(entries(TaskFolder(start)))
    run_text(text, tmp_path)
    assert len(entries(TaskFolder(start))) == before, "a plain run does not try again"
    run_text(text, tmp_path, retry_failed=True)
    kinds = [entry.kind for entry in entries(TaskFolder(start))]
    assert kinds == ["claimed", "failed", "reopened", "claimed", "failed"]


def test_out_of_memory_in_a_start_it_begins_again_with_fewer_rows(bases, data_file, tmp_path, monkeypatch):
    real = make_start.recover_run
    tried = []

    def short(*args, **options):
        tried.append(options["rows_per_forward"])
        if options["rows_per_forward"] > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(*args, **options)

    monkeypatch.setattr(make_start, "recover_run", short)
    run_cell(settings_of(bases["gpt2"], data_file, tokens=256), tmp_path / "run", quiet=True)
    assert tried == [2, 1]
    (start,) = starts(tmp_path / "run")
    assert [e["event"] for e in read_events(start) if e["event"] != "checkpoint"] == ["claimed", "retried", "done"]


def test_the_tokens_of_a_start_are_named_in_audit_and_tables(made):
    _, ledger = made
    recovery = json.loads((starts(ledger)[0] / "recovery.json").read_text())
    rows = table(ledger / "small")
    assert {(row["arm"], int(row["start_tokens"])) for row in rows} == {
        ("original", 0), ("dyt-learnt", recovery["tokens"]),
    }  # fmt: skip
    assert list(rows[0])[-1] == "start_tokens"
    view = read_study(ledger / "small")
    assert view.audit["matched"] is True
    assert len(view.audit["comparisons"]) == 4
    gap = f"held-out gap {recovery['gap_before']:+.1%} to {recovery['gap_after']:+.1%}"
    for comparison in view.audit["comparisons"]:
        assert comparison["noted"] == [
            f"tokens before training: {recovery['tokens']:,} (rows; all; {gap}) against 0",
        ]
    assert any(f"{recovery['tokens']:,} (rows; all; {gap})" in line for line in summary(view))
    told = f"dyt-learnt against original: tokens before training: {recovery['tokens']:,} (rows; all; {gap}) against 0"
    assert noted_in_words(view.audit) == [f"{told} (4 comparisons)"]
    assert f"but for what is noted:\n\n- Noted: {told} (4 comparisons)." in FORMATS["md"](view)
    assert f"<li>Noted: {told} (4 comparisons)</li>" in pages(view, [])["index.html"].decode()
    head, *lines = text_table(view)
    before = {line[head.index("arm")]: line[head.index("tokens before")] for line in lines}
    assert before == {"original": "0", "dyt-learnt": f"{recovery['tokens']:,}"}
    assert "recovery" in {figure.name for figure in figures(view)}


def test_a_start_is_listed_before_and_after_it_is_made(made, bases, data_file, tmp_path):
    text, ledger = made
    (found,) = status_of_starts(read_study(ledger / "small"))
    recovery = json.loads((starts(ledger)[0] / "recovery.json").read_text())
    assert (found.key, found.arms, found.data, found.tokens) == (starts(ledger)[0].name, ["dyt-learnt"], ["rows"], 1200)
    assert (found.state, found.step, found.train_tokens) == ("done", recovery["steps"], recovery["tokens"])
    assert found.gap == recovery["gap_after"]
    bench = Workbench(quiet=True)
    plan = plan_study(parse_spec(text, "study"), tmp_path, bench)
    (start,) = starts_of(plan.cells)
    assert start.key == found.key
    assert start.folder == tmp_path / "starts" / start.key
    (estimate,) = estimates_of_starts([start], bench)
    assert (estimate.tokens, estimate.steps) == (1200, 10)
    assert estimate.seconds > 0
    assert estimate.trainable_parameters == sum(p.numel() for p in bench.base(bases["gpt2"]).model.parameters()) + 5
    assert not start.folder.exists()
    resolved = {place_of(cell.settings): cell.resolved for cell in plan.cells}
    audit = audit_plan(resolved, ["original", "dyt-learnt"])
    assert audit["matched"] is True
    assert {line for c in audit["comparisons"] for line in c["noted"]} == {
        "tokens before training: 1,200 (rows; all) against 0"
    }


def test_plan_and_status_list_the_starts_for_people(made, bases, data_file, tmp_path, capfd):
    text, ledger = made
    file = tmp_path / "small.yaml"
    file.write_text(text)
    name = f"{Path(bases['gpt2']).name} / dyt-learnt"
    told = json.loads(call(capfd, "study", "status", str(file), "--ledger", str(ledger), "--json")[1])
    (start,) = told["starts"]
    assert (start["state"], start["arms"], start["key"]) == ("done", ["dyt-learnt"], starts(ledger)[0].name)
    _, out, _ = call(capfd, "study", "status", str(file), "--ledger", str(ledger))
    assert "1 of 1 recovered starts done" in out
    assert name.split(" / ")[-1] in out
    planned = json.loads(call(capfd, "study", "plan", str(file), "--ledger", str(tmp_path / "new"), "--json")[1])
    (start,) = planned["starts"]
    assert (start["start"], start["state"], start["tokens"], start["steps"]) == (name, "waiting", 1200, 10)
    cells = sum(cell["estimated_seconds"] for cell in planned["cells"])
    assert planned["estimated_seconds_left"] == pytest.approx(start["estimated_seconds"] + cells)
    _, out, err = call(capfd, "study", "plan", str(file), "--ledger", str(tmp_path / "new"))
    assert "recovered starts" in out
    assert "tokens before training: 1,200 (rows; all) against 0" in " ".join((out + err).split())


@pytest.fixture
def named(bases, data_file, tmp_path):
    """A function from an arm's settings of recovery, and what else of its cell, to the key of its start."""
    bench = Workbench(quiet=True)
    other = tmp_path / "other.json"
    rows = [{"instruction": f"Say {i}", "input": "", "output": f"blue {i}"} for i in range(200)]
    other.write_text(json.dumps(rows))

    def key(recover: dict, data: str = data_file, search: bool = False, **arm) -> str:
        entry = {"id": "learnt", "norm": "dyt", "recover": {"precision": "fp32", **recover}, **arm}
        cell = DataSettings(source=str(data), template="alpaca-short", max_length=64, for_search=search)
        settings = start_settings(bases["gpt2"], arm_from(entry), cell)
        return plan_start(settings, bench, tmp_path).key

    return key, str(other)


def test_what_names_a_start(named):
    key, other = named
    assert key({}) == key({}, id="another")
    different = [
        key({}), key({"tokens": 512}), key({"train": "norms"}), key({"seed": 1}), key({}, alpha="channel"),
        key({}, calibrate={"tokens": 64}), key({}, data=other), key({"data": [other]}), key({"max_length": 32}),
        key({}, search=True),
    ]  # fmt: skip
    assert len(set(different)) == len(different)
    assert key({"data": [other]}) == key({"data": [other]}, data=other) == key({"data": [f"{other}=2"]})
    assert key({"data": [other]}, search=True) == key({"data": [other]}), "of other data nothing is held out"
    assert key({"data": [other]}, data=other, search=True) != key({"data": [other]}, data=other)


def test_a_start_reads_a_data_set_of_the_study_as_the_study_does(data_file):
    policies = {"html": "keep"}
    cells = DataSettings(source="alpaca", path=str(data_file), template="alpaca-short", max_length=64)
    mine = DataSettings(source="mine.jsonl", name="mine", map={"instruction": "prompt"}, format="alpaca", held_out=0.2)
    hub = DataSettings(source="some/rows", subset="en", split="train_sft", policies=policies, held_out=0.1)

    def read(source: str) -> DataSettings:
        arm = arm_from({"id": "learnt", "norm": "dyt", "recover": {"precision": "fp32", "data": [source]}})
        settings = start_settings("base", arm, cells, beside=[cells, mine, hub])
        ((data, _),) = settings.data
        assert (data.template, data.max_length, data.loss_on, data.too_long) == ("alpaca-short", 64, "all", "split")
        return data

    assert read("alpaca").path == str(data_file)
    assert read(str(data_file)).path is None, "a file needs no place beside its own"
    for source in ("mine", "mine.jsonl"):
        data = read(source)
        assert (data.source, data.map, data.format) == ("mine.jsonl", mine.map, "alpaca"), source
        assert data.held_out == 0.2
    data = read("some/rows")
    assert (data.subset, data.split, data.policies, data.held_out) == ("en", "train_sft", hub.policies, 0.1)
    assert read("other.json") == DataSettings(
        source="other.json", template="alpaca-short", max_length=64, loss_on="all", too_long="split"
    )


def text_on(base: str, data: str, named: str, datasets: list, **changes) -> str:
    """A study on `datasets` whose one arm has a start that learns from `named`."""
    arm = {"id": "learnt", "norm": "dyt", "recover": {**RECOVER, "data": [named]}}
    return text_of(base, data, arms=["original", arm], datasets=datasets, **changes)


def test_a_start_learns_nothing_of_what_the_study_holds_out_of_data_that_it_names(bases, data_file, tmp_path):
    link = tmp_path / "linked.json"
    link.symlink_to(data_file)
    common = {"template": "alpaca-short", "source": data_file}
    datasets = [{**common, "held_out": 0.3}, {**common, "name": "less", "held_out": 0.1, "rows": 150}]
    text = text_on(bases["gpt2"], data_file, str(link), datasets)
    bench = Workbench(quiet=True)
    cells = plan_study(parse_spec(text, "study"), tmp_path / "ledger", bench).cells
    (start,) = starts_of(cells)
    ((learnt, _),) = start.settings.data
    asked = {prompt_hash(each) for each in bench.source(learnt, bases["gpt2"]).train_conversations}
    for cell in cells:
        held_out = {prompt_hash(each) for each in bench.source(cell.settings.data, bases["gpt2"]).held_out}
        assert held_out
        assert not held_out & asked, cell.settings.dataset_name
    assert {cell.resolved["start"]["key"] for cell in cells if cell.start} == {start.key}
    usual = text_on(bases["gpt2"], data_file, str(link), [common])
    (other,) = starts_of(plan_study(parse_spec(usual, "study"), tmp_path / "ledger", bench).cells)
    assert other.key != start.key


def test_a_part_that_an_override_holds_out_is_held_out_of_the_start_too(bases, data_file):
    more = [{"where": {"arm": "original"}, "set": {"dataset": {"held_out": 0.4}}}]
    spec = parse_spec(text_on(bases["gpt2"], data_file, data_file, [data_file], overrides=more), "study")
    (cell,) = [cell for cell in spec.cells() if cell.arm.id == "learnt"]
    ((learnt, _),) = start_of(cell).data
    assert (cell.data.held_out, learnt.held_out) == (0.05, 0.4)


def test_the_search_holds_its_part_out_of_a_start_that_names_the_data_by_another_path(
    bases, data_file, tmp_path, monkeypatch
):
    monkeypatch.chdir(Path(data_file).parent)
    text = text_on(
        bases["gpt2"], data_file, Path(data_file).name, [data_file], tune={"learning_rate": {"frozen": [1e-3, 2e-3]}}
    )
    spec = parse_spec(text, "study")
    tries = [start_of(one) for one in tries_of(spec, spec.cells()) if one.arm.id == "learnt"]
    assert [start.data[0][0].for_search for start in tries] == [True, True]
    (cell,) = [cell for cell in spec.cells() if cell.arm.id == "learnt"]
    assert start_of(cell).data[0][0].for_search is False


def test_a_cell_of_a_version_that_recovered_in_steps_is_read_as_without_a_start(tmp_path):
    assert read_recovery(tmp_path) is None
    old = {"kl_before": 0.9, "kl_after": 0.1, "kept": True, "steps": 30, "tokens": 3000, "losses": [0.9]}
    (tmp_path / "recovery.json").write_text(json.dumps(old))
    assert read_recovery(tmp_path) is None
    assert (start_tokens(None), start_in_words(None)) == (0, "0")
    found = {"data": [{"name": "rows", "weight": 1.0, "tokens": 640}], "curve": [], "train": "all", "tokens": 640}
    worse = {**found, "kept": False, "gap_before": 0.1, "gap_after": 0.5}
    assert start_tokens(worse) == 0
    words = "0 (rows; all; held-out gap +10.0% to +50.0%, so the start was put back after 640)"
    assert start_in_words(worse) == words
