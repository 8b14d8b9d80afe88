"""Which precision products are computed in: what `auto` means on a device, and why.

bf16 saves time only where the device multiplies it. A processor that does not converts every number, and is then some
40 times slower than in fp32.
"""

import time
from functools import cache
from typing import Literal, NamedTuple, cast

import torch

from unnorm.foundation.errors import SettingsError

Name = Literal["fp32", "bf16", "fp16"]

DTYPES: dict[Name, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
NAMES = ("auto", *DTYPES)

_NATIVE_CAPABILITY = 8  # Ampere: the first NVIDIA GPUs whose tensor cores take bf16
_CPU_FEATURES = ("avx512_bf16", "amx_bf16", "avx10_2", "bf16", "sve_bf16")  # the last two are ARM's
_SIZE, _ROUNDS = 256, 5


class Chosen(NamedTuple):
    """name: the precision that is used. why: one sentence for people."""

    name: Name
    why: str

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.name]


def choose(asked: str, device: torch.device | str | None = None) -> Chosen:
    """The precision to compute in on `device` (the accelerator, if there is one, else the processor).

    `auto` is bf16 where the device multiplies it natively and fp32 elsewhere; anything else is taken as asked. On a
    processor with instructions for bf16 the answer is measured, once a process, in well under 0.1 s. Raises
    `SettingsError` for a name that is none, and for fp16 without a GPU.
    """
    if asked not in NAMES:
        raise SettingsError(f"there is no precision {asked!r}. Choose {', '.join(NAMES[:-1])} or {NAMES[-1]}.")
    place = torch.device(device) if device is not None else default_device()
    if asked == "fp16" and place.type == "cpu":
        raise SettingsError("precision fp16 needs a GPU. Choose auto, bf16 or fp32.")
    if asked != "auto":
        return Chosen(cast(Name, asked), f"{asked} was asked for.")
    if place.type == "cuda":
        return _of_gpu(place)
    if place.type == "cpu":
        return _of_processor()
    return Chosen("fp32", f"Nothing tells whether a device of type {place.type} multiplies bf16 natively.")


def line_of(asked: str) -> str:
    """`choose` for people: what is computed in here, and why."""
    chosen = choose(asked)
    return f"training computes in {chosen.name}: {chosen.why[0].lower()}{chosen.why[1:-1]}"


def widen_(model: torch.nn.Module, device: torch.device | str) -> None:
    """Hold a model that was saved in bf16 or fp16 in fp32 where `device` does not multiply it natively.

    In place, and exact: every bf16 and fp16 number is an fp32 number.
    """
    place = torch.device(device)
    halves = {tensor.dtype for tensor in model.parameters()} & {torch.bfloat16, torch.float16}
    slow = torch.float16 in halves if place.type == "cpu" else False
    slow = slow or (torch.bfloat16 in halves and choose("auto", place).name != "bf16")
    if slow:
        model.float()


def default_device() -> torch.device:
    """Where models run: the accelerator if there is one, else the processor."""
    return torch.accelerator.current_accelerator() or torch.device("cpu")


def _of_gpu(device: torch.device) -> Chosen:
    name = torch.cuda.get_device_name(device)
    if torch.cuda.get_device_capability(device)[0] >= _NATIVE_CAPABILITY:
        return Chosen("bf16", f"{name} multiplies bf16 natively.")
    return Chosen("fp32", f"{name} does not multiply bf16 natively; fp16 may be asked for.")


@cache
def _of_processor() -> Chosen:
    if _has_instructions() is False:
        return Chosen("fp32", "This processor has no instructions for bf16.")
    fp32, bf16 = _seconds_of_products()
    if bf16 <= fp32:
        return Chosen("bf16", f"On this processor a bf16 product took {bf16 / fp32:.2f} of the time of one in fp32.")
    return Chosen("fp32", f"On this processor a bf16 product took {bf16 / fp32:.1f} times as long as one in fp32.")


def _has_instructions() -> bool | None:
    """Whether the processor has instructions for bf16; None where torch does not tell."""
    asked = getattr(torch.cpu, "get_capabilities", None)  # older versions of torch lack it
    features = asked() if asked is not None else {}
    return any(bool(features.get(name)) for name in _CPU_FEATURES) if "architecture" in features else None


def _seconds_of_products() -> tuple[float, float]:
    """Seconds of a small product in fp32 and in bf16, on one thread: the best of a few, taken by turns."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # threads that wait for each other on a busy machine would hide the difference
    try:
        factors = [torch.ones(_SIZE, _SIZE, dtype=dtype, device="cpu") for dtype in (torch.float32, torch.bfloat16)]
        best = [float("inf"), float("inf")]
        for number in range(1 + _ROUNDS):
            for which, factor in enumerate(factors):
                started = time.perf_counter()
                torch.mm(factor, factor)
                if number or which:  # the very first product also pays for the library's start
                    best[which] = min(best[which], time.perf_counter() - started)
            if number and best[1] > 4 * best[0]:
                break  # far from close, and slow
        return best[0], best[1]
    finally:
        torch.set_num_threads(threads)
