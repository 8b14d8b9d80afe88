"""What `auto` means: bf16 where the device multiplies it natively, fp32 elsewhere."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from unnorm.foundation import precision
from unnorm.foundation.errors import SettingsError


@pytest.fixture(autouse=True)
def _afresh():
    precision._of_processor.cache_clear()
    yield
    precision._of_processor.cache_clear()


def processor(monkeypatch, *, instructions: bool | None, seconds: tuple[float, float]) -> list[int]:
    """A processor with or without instructions for bf16, whose products in fp32 and bf16 take so long."""
    measured = []
    monkeypatch.setattr(precision, "_has_instructions", lambda: instructions)
    monkeypatch.setattr(precision, "_seconds_of_products", lambda: measured.append(1) or seconds)
    return measured


def gpu(monkeypatch, major: int) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (major, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "a GPU")


@pytest.mark.parametrize(
    ("instructions", "seconds", "name"),
    [
        (True, (8e-4, 2e-4), "bf16"),
        (None, (8e-4, 2e-4), "bf16"),  # torch does not tell: what is measured decides
        (None, (8e-4, 6e-3), "fp32"),
        (True, (8e-4, 9e-4), "fp32"),  # it has the instructions, and the library does not use them
        (False, (8e-4, 2e-4), "fp32"),
    ],
)
def test_rule_22_auto_on_a_processor(monkeypatch, instructions, seconds, name):
    processor(monkeypatch, instructions=instructions, seconds=seconds)
    chosen = precision.choose("auto", "cpu")
    assert chosen.name == name
    assert "rocessor" in chosen.why
    assert chosen.why.endswith(".")


def test_a_processor_is_measured_once_a_process(monkeypatch):
    measured = processor(monkeypatch, instructions=True, seconds=(1.0, 0.5))
    assert {precision.choose("auto", "cpu").name for _ in range(3)} == {"bf16"}
    assert len(measured) == 1


def test_the_measurement_is_short_and_leaves_threads_and_random_numbers_alone():
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    precision._seconds_of_products()  # the first one pays for the library's start
    with FlopCounterMode(display=False) as counted:
        fp32, bf16 = precision._seconds_of_products()
    assert 0 < counted.get_total_flops() < 5e8  # a fifth of a second for a slow core, and mostly far less
    assert 0 < fp32 < float("inf")
    assert 0 < bf16 < float("inf")
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("major", "name"), [(7, "fp32"), (8, "bf16"), (9, "bf16")])
def test_auto_on_a_gpu(monkeypatch, major, name):
    gpu(monkeypatch, major)
    assert precision.choose("auto", "cuda").name == name


def test_what_is_asked_for_is_taken(monkeypatch):
    measured = processor(monkeypatch, instructions=False, seconds=(1.0, 40.0))
    assert precision.choose("bf16", "cpu").name == "bf16"
    assert precision.choose("fp32", "cuda").name == "fp32"
    assert precision.choose("fp16", "cuda").dtype == torch.float16
    assert not measured


@pytest.mark.parametrize(
    ("saved", "native", "held"),
    [
        (torch.bfloat16, False, torch.float32),
        (torch.bfloat16, True, torch.bfloat16),
        (torch.float16, True, torch.float32),
        (torch.float32, False, torch.float32),
    ],
)
def test_a_model_saved_in_half_precision_computes_in_one_that_is_multiplied_here(monkeypatch, saved, native, held):
    processor(monkeypatch, instructions=native, seconds=(1.0, 0.5))
    model = torch.nn.Linear(3, 2).to(saved)
    before = model.weight.clone()
    precision.widen_(model, "cpu")
    assert model.weight.dtype == held
    assert torch.equal(model.weight, before.to(held))


def test_fp16_on_a_processor_and_unknown_names_are_refused():
    with pytest.raises(SettingsError, match="fp16 needs a GPU"):
        precision.choose("fp16", "cpu")
    with pytest.raises(SettingsError, match="no precision 'half'"):
        precision.choose("half", "cpu")
