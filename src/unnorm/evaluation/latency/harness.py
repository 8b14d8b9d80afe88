"""Time models side by side until the ratio is known well enough, or time is up."""

import copy
import gc
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import nn

from unnorm.evaluation.latency.machine import energy_of, environment, lay_elsewhere
from unnorm.evaluation.latency.report import ENOUGH, Comparison, LatencyReport, Ratio, ratio_of, verdict_of
from unnorm.evaluation.latency.workloads import RunMode, Sample, Workload, prepare
from unnorm.foundation.errors import SettingsError
from unnorm.foundation.progress import Bar
from unnorm.surgery.base import context_length
from unnorm.surgery.finite import check_finite
from unnorm.surgery.sites import find_sites
from unnorm.surgery.vocabulary import check_ids

AGAIN, NO_NORMS = "the same again", "no norms"
_MOST = 2000  # blocks
_LOOK_EVERY = 4
_WARM_SECONDS, _WARM_RUNS = 1.0, 3
_MOST_COMPILED = 256


def compare_latency(
    models: Mapping[str, Any],
    workload: Workload | Sequence[Workload] = Workload(),  # noqa: B008 (frozen)
    *,
    budget_seconds: float = 60.0,
    half_width: float = 0.005,
    least_blocks: int = ENOUGH,
    bound: bool = True,
    mode: RunMode = "eager",
    prompts: Sequence[Sequence[int]] = (),
    energy_seconds: float = 2.0,
    seed: int = 0,
    quiet: bool = False,
) -> LatencyReport:
    """Compare the first of `models` (the reference) with every other, on each workload.

    All run alternately, in random ABBA blocks, after a warm-up with the shapes that are measured; so do the reference a
    second time, which gives the noise floor, and (bound) a copy of it without norms: the most that any replacement
    could save. On the CPU weights are laid elsewhere before each run. budget_seconds: of all workloads together,
    warm-up included; least_blocks are timed whatever it is (two at least), and over fewer than 12 there is no verdict.
    half_width: relative; once every interval is as tight, a workload ends early. mode: eager,
    compile (torch.compile), cuda-graphs (what eager mode launches, captured) or compiled-cuda-graphs; all but eager
    with a cache of fixed size. energy_seconds: what each model runs beyond the budget, so that a GPU's energy can be
    read; 0 reads none. Raises `SettingsError` for a workload that is too long for a model, for graphs without a GPU,
    and for a training step in `cuda-graphs` or of a model that is all frozen; `ModelError` for a model whose logits are
    not finite.
    """
    workloads = [workload] if isinstance(workload, Workload) else list(workload)
    if not models or not workloads:
        raise SettingsError("a comparison needs a model and a workload.")
    for name in (AGAIN, NO_NORMS):
        if name in models:
            raise SettingsError(f"{name!r} is what a model is called that every comparison adds. Choose another name.")
    for name, model in models.items():
        for each in workloads:
            most = context_length(model)
            if most is not None and each.kind != "prompts" and each.positions > most:
                raise SettingsError(f"{each.name} needs {each.positions} positions; {name} has {most}.")
    for each in workloads:
        if each.kind == "prompts":
            _check_prompts(models, prompts, each.new_tokens)
    if any(each.kind == "train" for each in workloads):
        for name, model in models.items():
            if not any(parameter.requires_grad for parameter in model.parameters()):
                raise SettingsError(
                    f"no parameter of {name} trains, so that a training step of it cannot be timed. "
                    "Set requires_grad where it should."
                )
    for name, model in models.items():
        check_finite(model, name)
        for ids in prompts:
            check_ids(model, list(ids))
    started = time.monotonic()
    reference = next(iter(models))
    timed: dict[str, Any] = {**models, AGAIN: models[reference]}
    if bound and (bare := without_norms(models[reference])) is not None:
        timed[NO_NORMS] = bare
    device = models[reference].get_input_embeddings().weight.device
    modes = {name: model.training for name, model in timed.items()}
    if mode.endswith("cuda-graphs") and device.type != "cuda":
        raise SettingsError(f"CUDA graphs need a CUDA GPU, and the models are on {device}. Choose eager or compile.")
    callables = {name: _compiled(model, mode) for name, model in timed.items()}
    about = environment(device)
    comparisons: list[Comparison] = []
    samples: list[dict[str, Any]] = []
    memory: dict[str, dict[str, int]] = {}
    energy: dict[str, dict[str, float]] = {}
    beyond = 0.0  # seconds that are none of the budget's
    try:
        with _compilers_limits(mode):
            for number, each in enumerate(workloads):
                for model in timed.values():
                    model.train(each.kind == "train")
                until = started + beyond + budget_seconds * (number + 1) / len(workloads)
                runs = {
                    n: prepare(timed[n], each, prompts, mode=mode, compiled=run, seed=seed)
                    for n, run in callables.items()
                }
                if mode != "eager":
                    runs[AGAIN] = runs[reference]  # one compiled code, one cache: the same run
                memory[each.name] = _warm_up(runs, device, mode)
                times = _measure(runs, timed, each, until, least_blocks, half_width, reference, seed, samples, quiet)
                comparisons += _compare(times, each, reference, seed)
                if energy_seconds:
                    began = time.monotonic()
                    energy[each.name] = energy_of(runs, device, energy_seconds)
                    beyond += time.monotonic() - began
    finally:
        for name, model in timed.items():
            model.train(modes[name])
    peaks = {name: found for name, found in memory.items() if found}
    joules = {name: found for name, found in energy.items() if found}
    return LatencyReport(comparisons, about, time.monotonic() - started, samples, peaks, joules)


def _check_prompts(models: Mapping[str, Any], prompts: Sequence[Sequence[int]], new_tokens: int) -> None:
    if not prompts:
        raise SettingsError("the workload prompts needs prompts: token ids.")
    lengths = [len(ids) for ids in prompts]
    if not min(lengths):
        raise SettingsError(f"prompt {lengths.index(0)} of the workload prompts holds no token. Leave it out.")
    for name, model in models.items():
        most, longest = context_length(model), max(lengths)
        if most is not None and longest + new_tokens > most:
            raise SettingsError(
                f"a prompt of {longest} tokens and {new_tokens} new ones need {longest + new_tokens} positions; "
                f"{name} has {most}. Cut the prompt, or ask for fewer new tokens."
            )


def without_norms(model: Any) -> Any | None:
    """A copy of `model` in which every norm site passes on what it is given; None where the model does not run so."""
    bare = copy.deepcopy(model)
    for site in find_sites(bare):
        bare.set_submodule(site.path, nn.Identity())
    device = bare.get_input_embeddings().weight.device
    try:
        with torch.no_grad():
            bare(input_ids=torch.zeros(1, 2, dtype=torch.long, device=device), use_cache=False)
    except AttributeError:  # it reads its norms' parameters itself, as Mamba does
        return None
    return bare


def _compiled(model: Any, mode: RunMode) -> Any:
    """What is called instead of `model`, or None. Every workload has one shape, so none is left open."""
    if not mode.startswith("compile"):
        return None
    return torch.compile(model, mode=None if mode == "compile" else "reduce-overhead", dynamic=False)


def _compilers_limits(mode: RunMode) -> AbstractContextManager[Any]:
    """Models of one class share a limit of compilations, beyond which they run uncompiled and say nothing."""
    if not mode.startswith("compile"):
        return nullcontext()
    limits: AbstractContextManager[Any] = torch._dynamo.config.patch(
        recompile_limit=_MOST_COMPILED, fail_on_recompile_limit_hit=True
    )
    return limits


def _warm_up(runs: Mapping[str, Sample], device: torch.device, mode: RunMode) -> dict[str, int]:
    """Run each until its caches, kernels and clocks have settled; peak memory of a run, where the device tells.

    On the CPU one run that takes long is enough; what is compiled or captured needs several.
    """
    peaks = {}
    least = 1 if mode == "eager" and device.type == "cpu" else _WARM_RUNS
    for name, run in runs.items():
        ends = time.monotonic() + _WARM_SECONDS / len(runs)
        done = 0
        while done < least or time.monotonic() < ends:
            run(done)
            done += 1
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
            run(0)
            peaks[name] = torch.cuda.max_memory_allocated(device) - before
    return peaks


def _measure(
    runs: Mapping[str, Sample],
    models: Mapping[str, Any],
    workload: Workload,
    until: float,
    least: int,
    half_width: float,
    reference: str,
    seed: int,
    samples: list[dict[str, Any]],
    quiet: bool,
) -> dict[str, np.ndarray]:
    """Times [blocks, 2] of each model, in seconds."""
    generator = np.random.default_rng(seed)
    times: dict[str, list[list[float]]] = {name: [] for name in runs}
    collecting = gc.isenabled()
    gc.disable()
    try:
        with Bar(f"timing {workload.name}", None, quiet=quiet) as bar:
            for number in range(_MOST):
                began = time.monotonic()
                taken: dict[str, list[float]] = {name: [] for name in runs}
                for place, name in enumerate(block(list(runs), generator)):
                    lay_elsewhere(models[name], generator)
                    seconds = runs[name](number)
                    taken[name].append(seconds)
                    samples.append(
                        {"workload": workload.name, "block": number, "place": place, "model": name, "seconds": seconds}
                    )
                for name, pair in taken.items():
                    times[name].append(pair)
                gc.collect(0)
                bar.advance()
                now = time.monotonic()
                if number + 1 >= max(2, least) and now + (now - began) > until:  # another one would not fit
                    break
                if number + 1 >= max(ENOUGH, least) and (number + 1) % _LOOK_EVERY == 0:
                    found = [_ratio(times, name, reference, seed) for name in runs if name != reference]
                    if all(ratio.half_width <= half_width for ratio in found):
                        break
    finally:
        if collecting:
            gc.enable()
    return {name: np.array(pairs) for name, pairs in times.items()}


def _ratio(times: Mapping[str, Any], name: str, reference: str, seed: int) -> Ratio:
    return ratio_of(np.asarray(times[name]), np.asarray(times[reference]), seed=seed)


def _compare(times: Mapping[str, np.ndarray], workload: Workload, reference: str, seed: int) -> list[Comparison]:
    ratios = {name: _ratio(times, name, reference, seed) for name in times if name != reference}
    floor = ratios[AGAIN]
    least = ratios.get(NO_NORMS)
    saves = least is not None and verdict_of(least, floor) == "faster"
    found = []
    for name, ratio in ratios.items():
        share = (1 - ratio.value) / (1 - least.value) if saves and least is not None and name != AGAIN else None
        found.append(Comparison(workload, name, reference, ratio, floor, verdict_of(ratio, floor), share))
    return found


def block(names: Sequence[str], generator: np.random.Generator) -> list[str]:
    """Every name twice: in a random order, and back. A machine that slows down steadily slows each as much."""
    order = [names[i] for i in generator.permutation(len(names))]
    return order + order[::-1]
