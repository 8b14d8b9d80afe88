"""The demo's base: interrupted, it goes on from where it was, and ends as if it had not been."""

import os
import signal

import pytest
from safetensors.torch import load_file

from unnorm.demo import pretrain as pretraining
from unnorm.demo.base import demo_base
from unnorm.demo.recipe import BaseRecipe
from unnorm.foundation.cache import cache_folder
from unnorm.foundation.errors import Interrupted
from unnorm.foundation.hashing import hash_tensors
from unnorm.foundation.precision import Chosen

RECIPE = BaseRecipe(rows=60, finetune_rows=20, vocabulary=300, hidden_size=16, layers=1, heads=2, steps=9)


@pytest.fixture
def fresh_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("UNNORM_CACHE", str(tmp_path))


def stop_in_step(monkeypatch, number: int, send) -> list[int]:
    """Call `send` in the middle of a step. The steps begun, as they are."""
    begun: list[int] = []
    real = pretraining.token_sums

    def counted(*arguments):
        begun.append(len(begun) + 1)
        if len(begun) == number:
            send()
        return real(*arguments)

    monkeypatch.setattr(pretraining, "token_sums", counted)
    return begun


def weights(folder):
    return hash_tensors(load_file(str(folder / "model.safetensors")))


def test_ctrl_c_in_pretraining_keeps_what_was_done(monkeypatch, fresh_cache, tmp_path):
    begun = stop_in_step(monkeypatch, 4, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Interrupted):
        demo_base(RECIPE, quiet=True)
    assert len(begun) == 4, "the step at hand is finished, and saved"
    assert [path.name for path in cache_folder().glob("*.unfinished/step-*")] == ["step-00000004"]
    folder = demo_base(RECIPE, quiet=True)
    assert len(begun) == 9, "no step is done twice"
    assert not list(cache_folder().glob("*.unfinished"))

    monkeypatch.setenv("UNNORM_CACHE", str(tmp_path / "another"))
    whole = demo_base(RECIPE, quiet=True)
    assert whole != folder
    assert weights(folder) == weights(whole)


def test_a_kill_costs_the_steps_since_the_last_checkpoint(monkeypatch, fresh_cache):
    class Killed(BaseException):
        pass

    def kill():
        raise Killed

    monkeypatch.setattr(pretraining, "_STEPS_A_CHECKPOINT", 2)
    begun = stop_in_step(monkeypatch, 6, kill)
    with pytest.raises(Killed):
        demo_base(RECIPE, quiet=True)
    demo_base(RECIPE, quiet=True)
    assert len(begun) == 6 + 5, "steps 5 to 9: four were kept, the fifth was lost"


def test_what_was_begun_in_another_precision_is_begun_afresh(monkeypatch, fresh_cache):
    begun = stop_in_step(monkeypatch, 3, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Interrupted):
        demo_base(RECIPE, quiet=True)
    (path,) = cache_folder().glob("*.unfinished/begun.json")
    path.write_text('{"precision": "bf16", "threads": 1}')
    monkeypatch.setattr(pretraining, "choose", lambda asked, device: Chosen("fp32", "So it is."))
    demo_base(RECIPE, quiet=True)
    assert len(begun) == 3 + 9
