"""The controls of a recovery: the pretrained norms stay, and the model is distilled into itself, or trained on the same
tokens by cross-entropy."""

import json
import signal
from pathlib import Path

import pytest

import unnorm
from study.small_study import run_text
from study.test_starts import RECOVER, kill_in_the_start, text_of
from unnorm.artefacts.loading import check
from unnorm.foundation.errors import SettingsError
from unnorm.foundation.hashing import hash_tensors
from unnorm.report.figures import figures
from unnorm.report.formats import text_table
from unnorm.report.summary import summary
from unnorm.study.arms import ArmRecovery, arm_from, arm_with, known_arms
from unnorm.study.audit import audit_plan, differences, facts_of
from unnorm.study.card import card_numbers
from unnorm.study.estimate import estimates_of_starts
from unnorm.study.ledger import standing_of
from unnorm.study.plan import place_of, plan_study, starts_of
from unnorm.study.spec import parse_spec
from unnorm.study.status import status_of_starts
from unnorm.study.view import read_study
from unnorm.study.workbench import Workbench
from unnorm.surgery.base import load_base
from unnorm.surgery.swap import record_of
from unnorm.tuning.run_log import RunLog

ITSELF = {"id": "itself", "recover": RECOVER}
LONGER = {"id": "longer", "start": {"recover": {**RECOVER, "objective": "ce"}}}
SWAPPED = {"id": "dyt-learnt", "norm": "dyt", "calibrate": {"tokens": 256}, "recover": RECOVER}
PLAIN = {**SWAPPED, "id": "dyt-trained", "recover": {**RECOVER, "objective": "ce"}}
STARTED = ["itself", "longer", "dyt-learnt", "dyt-trained"]


@pytest.fixture(scope="module")
def made(bases, data_file, tmp_path_factory):
    """(study text, ledger) of a study of recovered arms and their controls, which ran in one go."""
    ledger = tmp_path_factory.mktemp("ledger")
    text = text_of(bases["llama"], data_file, arms=["original", ITSELF, LONGER, SWAPPED, PLAIN])
    run_text(text, ledger)
    return text, ledger


def start_of(ledger: Path, arm: str) -> Path:
    (found,) = [start for start in read_study(ledger / "small").starts if start.arms == [arm]]
    return found.folder


def cell_of(ledger: Path, arm: str) -> Path:
    (found,) = [cell for cell in read_study(ledger / "small").cells if cell.arm == arm]
    return found.folder


def recoveries(ledger: Path) -> dict[str, dict]:
    return {arm: json.loads((start_of(ledger, arm) / "recovery.json").read_text()) for arm in STARTED}


def test_all_starts_learn_from_the_same_tokens_in_the_same_steps(made):
    _, ledger = made
    steps = [RunLog(start_of(ledger, arm) / "steps.jsonl").read() for arm in STARTED]
    assert len(steps[0]) == 10
    for key in ("step", "train_tokens", "learning_rate"):
        assert len({tuple(step[key] for step in found) for found in steps}) == 1, key
    found = recoveries(ledger)
    assert len({(r["tokens"], r["steps"], json.dumps(r["data"])) for r in found.values()}) == 1
    assert [found[arm]["objective"] for arm in STARTED] == ["kl", "ce", "kl", "ce"]
    assert all(r["kept"] for r in found.values())


def test_distilled_into_itself_the_original_stays_what_it_is(made, bases):
    _, ledger = made
    found = recoveries(ledger)["itself"]
    assert found["kl_before"] == pytest.approx(0, abs=1e-6)
    assert found["kl_after"] == pytest.approx(0, abs=1e-6)
    assert max(found["losses"]) < 1e-6
    now = unnorm.load(start_of(ledger, "itself") / "model").state_dict()
    for name, tensor in load_base(bases["llama"]).state_dict().items():
        assert float((now[name] - tensor).abs().max()) <= 1e-6 * float(tensor.abs().max()), name


def test_trained_by_cross_entropy_the_loss_falls_and_the_start_is_kept_though_it_leaves_the_original(made, bases):
    _, ledger = made
    longer = recoveries(ledger)["longer"]
    assert sum(longer["losses"][-3:]) < 0.97 * sum(longer["losses"][:3])
    assert longer["kl_after"] > 1e-3 > longer["kl_before"]
    assert longer["gap_after"] < 0, "on held-out rows of the same data too"
    plain, distilled = recoveries(ledger)["dyt-trained"], recoveries(ledger)["dyt-learnt"]
    assert plain["kl_before"] == distilled["kl_before"]
    assert plain["losses"][-1] > 1 > distilled["losses"][-1], "nats of the text, and of the distance to the original"


def test_a_start_whose_norms_stay_is_an_artefact_without_sites(made, bases):
    _, ledger = made
    start = start_of(ledger, "longer")
    assert not (start / "calibration.json").exists()
    report = check(start / "model")
    assert report.difference <= report.tolerance
    record, base = record_of(unnorm.load(start / "model")), load_base(bases["llama"])
    assert record.sites == []
    assert record.base_hash == hash_tensors(base.state_dict()), "its base is the original, and not itself"
    assert record.recovered["objective"] == "ce"
    assert record.measured["gap"] == recoveries(ledger)["longer"]["gap_after"]
    cell = cell_of(ledger, "longer")
    model = unnorm.load(cell / "model")
    assert Path(record_of(model.get_base_model()).stands_on.name) == (start / "model").resolve()
    assert not (cell / "calibration.json").exists()
    losses = {c.arm: c.result["start_eval_loss"] for c in read_study(ledger / "small").cells}
    assert losses["itself"] == pytest.approx(losses["original"], abs=1e-5)
    assert losses["longer"] < losses["original"] - 0.05


def test_the_audit_matches_and_names_the_same_tokens_for_all(made):
    _, ledger = made
    view = read_study(ledger / "small")
    assert view.audit["matched"] is True
    tokens = f"{recoveries(ledger)['itself']['tokens']:,}"
    noted = {c["arm"]: c["noted"] for c in view.audit["comparisons"]}
    how = {"itself": "all", "longer": "all, by cross-entropy", "dyt-learnt": "all"}
    for arm, words in how.items():
        (line,) = noted[arm]
        assert line.startswith(f"tokens before training: {tokens} (rows; {words}; held-out gap "), line
        assert line.endswith(") against 0")
    differ, (line,) = differences(facts_of(cell_of(ledger, "dyt-learnt")), facts_of(cell_of(ledger, "longer")))
    assert differ == []
    assert line.count(f"{tokens} (rows; all") == 2
    head, *lines = text_table(view)
    before = {row[head.index("arm")]: row[head.index("tokens before")] for row in lines}
    assert before == {"original": "0", **dict.fromkeys(STARTED, tokens)}
    assert any("longer begins from a recovered start. Tokens that" in line for line in summary(view))
    (figure,) = [figure for figure in figures(view) if figure.name == "recovery"]
    assert f"longer, all, by cross-entropy, {tokens} tokens" in figure.caption
    assert card_numbers(cell_of(ledger, "longer") / "model")["trained by cross-entropy before that (tokens)"] == tokens
    kept = card_numbers(cell_of(ledger, "dyt-learnt") / "model")
    assert kept["distilled from the original before that (tokens)"] == tokens


def test_plan_and_status_know_the_controls(made, tmp_path):
    text, ledger = made
    found = status_of_starts(read_study(ledger / "small"))
    assert [(s.arms, s.state, s.step) for s in found] == [([arm], "done", 10) for arm in STARTED]
    bench = Workbench(quiet=True)
    plan = plan_study(parse_spec(text, "study"), tmp_path, bench)
    starts = {start.settings.arm.id: start for start in starts_of(plan.cells)}
    assert {arm: start.key for arm, start in starts.items()} == {s.arms[0]: s.key for s in found}
    estimates = {arm: estimates_of_starts([starts[arm]], bench)[0] for arm in ("itself", "longer")}
    parameters = sum(p.numel() for p in bench.base(starts["itself"].settings.model).model.parameters())
    for estimate in estimates.values():
        assert (estimate.tokens, estimate.steps, estimate.trainable_parameters) == (1200, 10, parameters)
    audit = audit_plan({place_of(c.settings): c.resolved for c in plan.cells}, ["original", *STARTED])
    assert audit["matched"] is True
    assert {c["arm"]: c["noted"] for c in audit["comparisons"]} == {
        "itself": ["tokens before training: 1,200 (rows; all) against 0"],
        "longer": ["tokens before training: 1,200 (rows; all, by cross-entropy) against 0"],
        "dyt-learnt": ["tokens before training: 1,200 (rows; all) against 0"],
        "dyt-trained": ["tokens before training: 1,200 (rows; all, by cross-entropy) against 0"],
    }


def test_killed_while_it_is_trained_the_start_is_that_of_an_undisturbed_run(made, bases, data_file, tmp_path):
    _, undisturbed = made
    text = text_of(bases["llama"], data_file, arms=[LONGER])
    kill_in_the_start(text, tmp_path, signal.SIGKILL)
    (start,) = (tmp_path / "starts").iterdir()
    assert standing_of(start).state == "interrupted"
    run_text(text, tmp_path)
    wanted = start_of(undisturbed, "longer")
    assert start.name == wanted.name
    both = [hash_tensors(unnorm.load(folder / "model").state_dict()) for folder in (start, wanted)]
    assert both[0] == both[1]
    logs = [[(s["step"], s["loss"]) for s in RunLog(folder / "steps.jsonl").read()] for folder in (start, wanted)]
    assert logs[0] == logs[1]


def test_a_loss_that_is_no_number_fails_a_control_too(bases, data_file, tmp_path):
    rates = {"learning_rate": 1e30, "norm_learning_rate": 1e30}
    wild = {"id": "wild", "recover": {**RECOVER, **rates, "objective": "ce"}}
    view = run_text(text_of(bases["llama"], data_file, arms=[wild]), tmp_path)
    (start,) = (tmp_path / "starts").iterdir()
    assert standing_of(start).failure == "non_finite"
    assert [(c.state, c.failure) for c in view.cells] == [("failed", "no_start")]


def test_the_known_controls_recover_as_the_swapped_arms_do():
    known = {name: arm_from(name) for name in known_arms()}
    assert known["original-recovered"].recover == known["dyt-recovered"].recover == ArmRecovery()
    assert known["original-trained"].recover == ArmRecovery(objective="ce")
    for name in ("original-recovered", "original-trained"):
        assert known[name].norm is None
        assert arm_from(name) == known[name]
    assert arm_from({"id": "mine", "recover": {"objective": "ce"}}).recover == known["original-trained"].recover


def test_the_objective_is_part_of_a_hash_where_it_is_not_the_usual_one():
    assert "objective" not in arm_from("dyt-recovered").model_dump()["recover"]
    assert "objective" not in json.loads(arm_from("original-recovered").model_dump_json())["recover"]
    assert arm_from("original-trained").model_dump()["recover"]["objective"] == "ce"


def test_an_override_changes_a_control():
    changed = arm_with(arm_from("original-trained"), {"recover": {"tokens": 512}})
    assert (changed.id, changed.norm, changed.recover.tokens, changed.recover.objective) == (
        "original-trained", None, 512, "ce",
    )  # fmt: skip
    with pytest.raises(SettingsError, match="there is nothing to set in it"):
        arm_with(arm_from("original"), {"recover": {}})
    with pytest.raises(SettingsError, match="nothing that alpha could set"):
        arm_with(arm_from("original-trained"), {"alpha": "channel"})


@pytest.mark.parametrize(
    ("entry", "location", "message"),
    [
        ({"id": "x", "recover": {"objective": "ce", "target": 0.01}}, ("recover", "target"), "does not aim at"),
        (
            {"id": "x", "norm": "dyt", "recover": {"target": 0.01, "objective": "ce"}},
            ("recover", "target"),
            "does not aim at",
        ),
        ({"id": "x", "recover": {"target": 0.01}}, ("recover", "target"), "before it learnt anything"),
        ({"id": "x", "recover": {"objective": "mse"}}, ("recover", "objective"), "one of kl, ce"),
        ({"id": "x", "recover": {"train": "corrected"}}, ("recover", "train"), "Let all weights learn"),
        ({"id": "x", "recover": {}, "calibrate": {}}, ("calibrate",), "nothing that calibrate could set"),
        ({"id": "x", "recover": {}, "inherit": True}, ("inherit",), "nothing that inherit could set"),
        ({"id": "x", "recover": {}, "alpha": "channel"}, ("alpha",), "nothing that alpha could set"),
        ({"id": "x", "recover": {}, "recovr": {}}, ("recovr",), "Did you mean 'recover'"),
        ({"id": "x", "start": {}}, (), "neither a norm nor a recover"),
        ({"id": "x", "norm": 3, "recover": {}}, ("norm",), "needs an `id` and a `norm`"),
        ({"id": "original-trained", "recover": {}}, ("id",), "known arm"),
    ],
)
def test_controls_that_cannot_be(entry, location, message):
    with pytest.raises(SettingsError, match=message) as caught:
        arm_from(entry)
    assert caught.value.location == location
