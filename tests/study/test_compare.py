from dataclasses import replace

import numpy as np
import pytest

from unnorm.evaluation.scores import ConversationSums, write_sums
from unnorm.foundation import atomic
from unnorm.foundation.errors import SettingsError
from unnorm.study.audit import audit_results
from unnorm.study.compare import compare_arms
from unnorm.study.tables import export_study
from unnorm.study.view import CellView, PairView, StudyView

SEEDS = [0, 1, 2]
COUNT = 50


def cell(folder, arm: str, seed: int, nats: np.ndarray, **settings) -> CellView:
    """A cell that is done, whose conversations have 10 tokens and these nats each."""
    out = folder / f"{arm}{seed}"
    result = {"eval_loss": nats.mean() / 10, "eval_token_accuracy": 0.5, "steps": 5, "train_tokens": 9}
    settings = {"arm": {"id": arm}, "seed": seed, **settings}
    atomic.write_json(out / "cell.json", {"cell": f"{arm}{seed}", "settings": settings})
    atomic.write_json(out / "result.json", result)
    correct = (nats < np.median(nats)).astype(np.int64) * 5
    ids = np.arange(COUNT)
    write_sums(out / "scores.parquet", ConversationSums(nats, np.full(COUNT, 10), correct, ids))
    return CellView(f"{arm}{seed}", "m", "d", arm, "frozen", seed, "done", None, result, folder=out)


def study(folder, cells, pairs=()) -> StudyView:
    arms = ["original", "worse", "same"]
    audit = audit_results({c.place: c.folder for c in cells if c.done}, arms)
    return StudyView("s", folder, "", arms, ["frozen"], ["m"], ["d"], SEEDS, list(cells), audit, {}, list(pairs))


@pytest.fixture
def cells(tmp_path):
    generator = np.random.default_rng(0)
    hard = generator.uniform(10, 60, COUNT)  # conversations differ far more than arms do
    found = []
    for seed in SEEDS:
        base = hard * (1 + 0.002 * generator.normal()) + generator.normal(0, 0.2, COUNT)
        found.append(cell(tmp_path, "original", seed, base))
        found.append(cell(tmp_path, "worse", seed, 1.02 * base + generator.normal(0, 0.2, COUNT)))
        found.append(cell(tmp_path, "same", seed, base + generator.normal(0, 0.2, COUNT)))
    return found


def test_arms_are_paired_over_seeds_and_conversations(tmp_path, cells):
    rows = {(row.arm, row.metric): row for row in compare_arms(study(tmp_path, cells))}
    assert set(rows) == {(arm, metric) for arm in ("worse", "same") for metric in ("loss", "accuracy")}
    worse, same = rows["worse", "loss"], rows["same", "loss"]
    assert worse.low < 0.02 < worse.high
    assert worse.high - worse.low < 0.01
    assert worse.p_holm < 0.05
    assert same.low < 0 < same.high
    assert same.p_holm >= same.p
    assert (worse.seeds, worse.conversations, worse.matched, worse.complete) == ((0, 1, 2), COUNT, True, True)


@pytest.mark.parametrize("against", [None, "same"])
def test_an_arm_that_is_asked_for_alone_is_corrected_as_among_all(tmp_path, cells, against):
    made = study(tmp_path, cells)
    every = compare_arms(made, None, against)
    worse = [row for row in every if row.arm == "worse"]
    assert compare_arms(made, "worse", against) == worse
    assert all(row.p_holm > row.p for row in worse if row.metric == "loss")


def test_equivalence_has_the_margin_that_was_asked_for(tmp_path, cells):
    wide = {(row.arm, row.metric): row for row in compare_arms(study(tmp_path, cells))}
    worse, same = wide["worse", "loss"], wide["same", "loss"]
    assert (worse.margin, worse.equivalent, worse.different) == (0.01, False, True)
    assert (same.equivalent, same.different) == (True, False)
    assert 0 < same.detectable < 0.01
    assert (wide["same", "accuracy"].margin, wide["same", "accuracy"].equivalent) == (None, None)
    assert wide["same", "accuracy"].error == 0  # as many tokens are correct in each: nothing varied
    assert wide["same", "accuracy"].detectable is None
    (asked, *_) = compare_arms(replace(study(tmp_path, cells), margin=0.05), "worse")
    assert (asked.margin, asked.equivalent, asked.different) == (0.05, True, True)
    assert (asked.low, asked.high, asked.detectable) == (worse.low, worse.high, worse.detectable)


def test_any_two_arms(tmp_path, cells):
    rows = compare_arms(study(tmp_path, cells), "same", "worse")
    assert [(row.arm, row.against) for row in rows] == [("same", "worse")] * 2
    assert rows[0].value == pytest.approx(1 / 1.02 - 1, abs=2e-3)
    with pytest.raises(SettingsError, match="no arm 'best'"):
        compare_arms(study(tmp_path, cells), "best")
    with pytest.raises(SettingsError, match="no comparison"):
        compare_arms(study(tmp_path, cells), "same", "same")


def test_rule_07_a_comparison_with_a_seed_missing_says_so(tmp_path, cells):
    waiting = cells[1].__class__(**{**vars(cells[1]), "state": "running", "result": None})
    rows = compare_arms(study(tmp_path, [cells[0], waiting, *cells[2:]]))
    assert {(row.arm, row.complete, len(row.seeds)) for row in rows} == {("worse", False, 2), ("same", True, 3)}


def test_rule_06_a_comparison_of_cells_that_differ_in_more_says_so(tmp_path, cells):
    cell(tmp_path, "worse", 1, np.ones(COUNT), precision="fp32")
    rows = compare_arms(study(tmp_path, cells))
    assert {(row.arm, row.matched) for row in rows} == {("worse", False), ("same", True)}


def test_rule_06_rates_of_any_two_arms_may_differ_where_the_search_chose_both(tmp_path, cells):
    cell(tmp_path, "worse", 1, np.ones(COUNT), training={"learning_rate": 2e-3})
    cell(tmp_path, "same", 1, np.ones(COUNT), training={"learning_rate": 1e-3})
    for strategy, matched in (("frozen", True), ("full", False)):
        choices = [{**c.place.slot._asdict(), "strategy": strategy, "learning_rate": 1e-3} for c in cells]
        found = compare_arms(replace(study(tmp_path, cells), search=cells, choices=choices), "same", "worse")
        assert {row.matched for row in found} == {matched}


def test_one_seed_leaves_the_conversations(tmp_path, cells):
    (row, *_) = compare_arms(study(tmp_path, cells[:2]), "worse")
    assert row.low < 0.02 < row.high
    assert row.p < 0.01


def test_cells_without_scores_of_conversations_are_compared_by_their_results(tmp_path, cells):
    (tmp_path / "worse0" / "scores.parquet").unlink()
    (row, *_) = compare_arms(study(tmp_path, cells), "worse")
    assert row.conversations == 0
    assert row.value == pytest.approx(0.02, abs=2e-3)


def pair(seed: int, values: list[float], ratio: float) -> PairView:
    verdicts = [{"prompt_id": str(i), "category": "writing", "value": value} for i, value in enumerate(values)]
    rate = sum(values) / len(values)
    whole = {
        "win_rate": {"value": rate, "low": rate - 0.1, "high": rate + 0.1},
        "sign_test_p": 0.25,
        "questions": len(values),
        **{name: values.count(value) for name, value in (("wins", 1.0), ("ties", 0.5), ("losses", 0.0))},
        "categories": {},
    }
    found = {"value": ratio, "low": ratio - 0.01, "high": ratio + 0.01}
    workloads = [("prefill", {"value": 9.0}), ("decode", found)]
    latency = {"comparisons": [{"model": "worse", "workload": {"kind": k}, "ratio": r} for k, r in workloads]}
    judged = {"parts": {"whole": whole}}
    return PairView("m", "d", "frozen", seed, "worse", "original", judged, verdicts, latency)


def test_preference_and_latency_stand_beside(tmp_path, cells):
    values = [0.0, 0.0, 0.5, 1.0] * 10
    one = study(tmp_path, cells[:2], [pair(0, values, 1.05)])
    rows = {row.metric: row for row in compare_arms(one, "worse")}
    assert rows["preference"][6:10] == (0.375, 0.275, 0.475, 0.25)
    assert rows["latency"].value == pytest.approx(0.05)
    pairs = [pair(0, values, 1.05), pair(1, values, 1.06), pair(2, values[::-1], 1.04)]
    rows = {row.metric: row for row in compare_arms(study(tmp_path, cells, pairs), "worse")}
    assert rows["preference"].value == pytest.approx(0.375)
    assert rows["preference"].high < 0.5
    assert rows["latency"].value == pytest.approx(0.05, abs=1e-3)
    assert rows["latency"].low > 0.01


@pytest.mark.parametrize(("format", "suffix"), [("csv", "csv"), ("parquet", "parquet"), ("latex", "tex")])
def test_tables_for_other_programs(tmp_path, cells, format, suffix):
    results, comparisons = export_study(study(tmp_path, cells), tmp_path / "out", format)
    assert {results.name, comparisons.name} == {f"results.{suffix}", f"comparisons.{suffix}"}
    content = comparisons.read_bytes()
    if format == "parquet":
        import pyarrow.parquet as pq

        table = pq.read_table(comparisons)
        assert table["arm"].to_pylist() == ["worse", "worse", "same", "same"]
        assert table["seeds"].to_pylist()[0] == SEEDS
        assert table["equivalent"].to_pylist() == [False, None, True, None]
        assert [found is None for found in table["detectable"].to_pylist()] == [False, True, False, True]
    else:
        assert b"worse" in content
        assert b"0 1 2" in content
        assert (rb"p\_holm" if format == "latex" else b"p_holm") in content


def test_an_unknown_format(tmp_path, cells):
    with pytest.raises(SettingsError, match="no format 'xls'"):
        export_study(study(tmp_path, cells), tmp_path, "xls")
