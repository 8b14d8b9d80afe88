from unnorm.foundation import atomic
from unnorm.foundation.hashing import hash_json
from unnorm.study.audit import audit_plan, audit_results, elsewhere_in_words
from unnorm.study.slices import Place

ARMS = ["original", "dyt"]
SETTINGS = {"training": {"tokens": 10, "learning_rate": 1e-3}, "precision": "bf16"}


def place(arm: str, seed: int = 0) -> Place:
    return Place("m", "d", arm, "frozen", seed)


def test_rule_06_a_plan_is_matched_if_the_arms_differ_in_the_arm_alone():
    resolved = {place(arm): {**SETTINGS, "arm": {"id": arm}} for arm in ARMS}
    assert audit_plan(resolved, ARMS)["matched"] is True
    resolved[place("dyt")] = {**SETTINGS, "precision": "fp32", "arm": {"id": "dyt"}}
    (found,) = audit_plan(resolved, ARMS)["comparisons"]
    assert not found["matched"]
    assert found["differences"] == ["precision: 'fp32' against 'bf16'"]


def test_a_tuned_learning_rate_is_noted_and_no_difference():
    tuned = {**SETTINGS, "training": {"tokens": 10, "learning_rate": 5e-3}}
    resolved = {place("original"): SETTINGS, place("dyt"): tuned}
    searched = {each.slot for each in resolved}
    (found,) = audit_plan(resolved, ARMS, tuned=searched)["comparisons"]
    assert found["matched"]
    assert found["noted"] == ["training.learning_rate: 0.005 against 0.001"]
    assert not audit_plan(resolved, ARMS)["matched"]
    assert not audit_plan(resolved, ARMS, tuned={place("dyt").slot})["matched"]  # the other had no search


def test_rule_06_a_search_for_one_strategy_excuses_no_rate_of_another():
    resolved = {
        place(arm)._replace(strategy=strategy): {**SETTINGS, "training": {"learning_rate": 1e-3 * (1 + (arm == "dyt"))}}
        for arm in ARMS
        for strategy in ("frozen", "full")
    }
    searched = {each.slot for each in resolved if each.strategy == "full"}
    found = {c["strategy"]: c for c in audit_plan(resolved, ARMS, tuned=searched)["comparisons"]}
    assert (found["full"]["matched"], found["frozen"]["matched"]) == (True, False)
    assert found["frozen"]["differences"] == ["training.learning_rate: 0.002 against 0.001"]


def test_what_was_done_counts_too(tmp_path):
    """Steps, tokens, hardware, code: each is compared, and one that only one of two cells knows is a difference."""

    def cell(arm: str, **result) -> None:
        folder = tmp_path / arm
        atomic.write_json(folder / "cell.json", {"cell": arm, "settings": {**SETTINGS, "arm": {"id": arm}}})
        done = {"steps": 5, "train_tokens": 10, "environment": {"device": "cpu", "code": "a"}}
        atomic.write_json(folder / "result.json", {**done, **result})

    folders = {place(arm): tmp_path / arm for arm in ARMS}
    cell("original")
    cell("dyt")
    assert audit_results(folders, ARMS)["matched"] is True
    for change, said in (
        ({"steps": 4}, "steps: 4 against 5"),
        ({"environment": {"device": "cuda", "code": "a"}}, "environment.device: 'cuda' against 'cpu'"),
        ({"environment": {"device": "cpu"}}, "environment.code: 'not known' against 'a'"),
    ):
        cell("dyt", **change)
        (found,) = audit_results(folders, ARMS)["comparisons"]
        assert found["differences"] == [said]


def test_without_two_arms_nothing_is_claimed():
    assert audit_plan({place("dyt"): SETTINGS}, ARMS) == {"matched": None, "comparisons": [], "elsewhere": []}


def test_cells_of_a_machine_with_another_answer_to_precision_auto_are_told(tmp_path):
    """The ledger holds the same cell in bf16: it is another cell, and the audit says why there are two."""
    resolved, folders = {}, {}
    for arm in ARMS:
        for precision in ("fp32", "bf16"):
            settings = {"training": {"tokens": 10, "precision": precision}, "arm": {"id": arm}}
            if precision == "bf16" and arm == "original":
                continue
            folder = tmp_path / f"m-d-{arm}-frozen-s0-{hash_json(settings)}"
            atomic.write_json(folder / "cell.json", {"cell": hash_json(settings), "settings": settings})
            atomic.write_json(folder / "result.json", {"steps": 5})
            if precision == "fp32":
                resolved[place(arm)], folders[place(arm)] = settings, folder
    for audit in (audit_plan(resolved, ARMS, folders=folders), audit_results(folders, ARMS)):
        assert audit["matched"] is True
        assert audit["elsewhere"] == [{**place("dyt")._asdict(), "precision": "fp32", "also": "bf16"}]
        (line,) = elsewhere_in_words(audit["elsewhere"])
        assert line.startswith("1 of these cells is in this ledger in bf16 too, and not compared with those in fp32")


def test_arms_in_two_precisions_are_not_matched():
    resolved = {place(arm): {"training": {"precision": name}} for arm, name in zip(ARMS, ("bf16", "fp32"), strict=True)}
    (found,) = audit_plan(resolved, ARMS)["comparisons"]
    assert found["differences"] == ["training.precision: 'fp32' against 'bf16'"]
