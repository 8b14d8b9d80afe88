import numpy as np
import pytest

from unnorm.study.view import PairView
from unnorm.study.win_rates import win_rates

CATEGORIES = ("writing", "reasoning")


def pair(seed: int, values: list[float | None]) -> PairView:
    verdicts = [{"prompt_id": str(i), "category": CATEGORIES[i % 2], "value": value} for i, value in enumerate(values)]
    return PairView("m", "d", "full", seed, "dyt", "original", {"parts": {}}, verdicts, None)


def test_of_several_seeds_each_category_is_counted():
    found = win_rates([pair(0, [1.0, 0.0] * 10), pair(1, [1.0, 0.5] * 10)])
    assert list(found) == [None, *CATEGORIES]
    whole = found[None]
    assert (whole.questions, whole.wins, whole.ties, whole.losses) == (20, 20, 10, 10)
    assert found[None].judgements == 40
    assert (whole.exploratory, found["writing"].exploratory) == (False, True)  # ten questions
    assert found["writing"].win_rate.value == 1
    assert found["reasoning"].win_rate.value == 0.25


def test_seeds_that_disagree_make_it_uncertain():
    rng = np.random.default_rng(0)
    alike = [rng.permutation([1.0] * 30 + [0.0] * 30).tolist() for _ in range(3)]
    apart = [[1.0] * 58 + [0.0] * 2, [1.0] * 30 + [0.0] * 30, [1.0] * 2 + [0.0] * 58]
    alike_found, apart_found = (
        win_rates([pair(seed, values) for seed, values in enumerate(each)])[None].win_rate for each in (alike, apart)
    )
    assert alike_found.value == pytest.approx(apart_found.value) == 0.5
    assert apart_found.high - apart_found.low > 3 * (alike_found.high - alike_found.low)
    assert (apart_found.low, apart_found.high) == (0, 1)


def test_a_loss_of_every_question_is_no_certainty():
    found = win_rates([pair(seed, [0.0] * 20) for seed in range(3)])[None].win_rate
    assert (found.value, found.low) == (0, 0)
    assert found.high == pytest.approx(1 - 0.025 ** (1 / 20))
    assert found.p == pytest.approx(2 * 0.5**20)


def test_a_category_may_have_any_name():
    one, other = pair(0, [1.0, 0.0] * 4), pair(1, [1.0, 1.0] * 4)
    for verdict in [*one.verdicts, *other.verdicts]:
        verdict["category"] = "whole"
    found = win_rates([one, other])
    assert list(found) == [None, "whole"]
    assert found[None] == found["whole"]


def test_only_questions_judged_in_every_seed_count():
    found = win_rates([pair(0, [1.0, None, 0.0, 1.0]), pair(1, [1.0, 1.0, None, 0.0])])
    assert found[None].questions == 2
    assert found[None].win_rate.value == 0.75
    assert win_rates([pair(0, [None]), pair(1, [1.0])]) == {}
    assert win_rates([]) == {}
