"""Checkpoints of a run in training: everything needed to go on bit for bit, without pickle.

`weights.safetensors` holds the parameters that train, `optimizer.safetensors` AdamW's moments, `random-N.safetensors`
each process's random state, `state.json` the rest. A checkpoint is a folder put in place by one rename. Every key must
be there and no other: Trainer's own resume only warns when GPT-NeoX's head is missing.
"""

import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from unnorm.foundation import atomic, seeds
from unnorm.foundation.errors import ArtefactError, DataError
from unnorm.tuning.sharded import gathered, like

_STATE = "state.json"
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def path_of(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}"


def step_of(path: Path | None) -> int:
    """The step that a checkpoint was written after; 0 without one."""
    return int(path.name.removeprefix("step-")) if path is not None else 0


def latest(folder: Path) -> Path | None:
    """The newest whole checkpoint in `folder`, or None. One that is cut short or damaged is passed over."""
    found = sorted((p for p in folder.glob("step-*") if re.fullmatch(r"step-\d{8}", p.name)), reverse=True)
    return next((path for path in found if is_whole(path)), None)


def is_whole(path: Path) -> bool:
    """Whether every file of a checkpoint is there in its whole length: after a power cut one may not be."""
    try:
        processes = len(atomic.read_json(path / _STATE)["random"])
        for name in ("weights", "optimizer", *(f"random-{rank}" for rank in range(processes))):
            with safe_open(str(path / f"{name}.safetensors"), "pt"):  # checks the length against the header
                pass
        atomic.read_json(path / "trainer_state.json")
    except (SafetensorError, OSError, DataError, KeyError, TypeError):
        return False
    return True


class Content(NamedTuple):
    """The tensors of a checkpoint, whole and on the CPU: the parameters that train, and their moments."""

    weights: dict[str, torch.Tensor]
    moments: dict[str, torch.Tensor]


def content_of(parameters: dict[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer, *, keep: bool) -> Content:
    """What a checkpoint of this moment holds. Every process has to ask, as each may hold a part; keep: whether it is
    this one that gets the whole, one tensor after another."""
    content = Content({}, {})
    for name, parameter in parameters.items():
        state = optimizer.state[parameter]
        whole = {moment: gathered(state[moment]).contiguous() for moment in _MOMENTS}
        weight = gathered(parameter).contiguous()
        if keep:
            content.weights[name] = weight
            content.moments.update({f"{moment}:{name}": tensor for moment, tensor in whole.items()})
    return content


def write(
    path: Path,
    run: str,
    content: Content,
    scheduler: Any,
    scaler: Any,
    random_states: list[tuple[dict[str, torch.Tensor], dict[str, Any]]],
    trainer_state: Any,
) -> None:
    """Write a checkpoint and, once it is found to be whole, delete the ones before it; until then they stay.

    `run` names the run it belongs to.
    """
    with atomic.folder(path) as folder:
        save_file(content.weights, str(folder / "weights.safetensors"))
        save_file(content.moments, str(folder / "optimizer.safetensors"))
        for rank, (tensors, _) in enumerate(random_states):
            save_file(tensors, str(folder / f"random-{rank}.safetensors"))
        trainer_state.save_to_json(str(folder / "trainer_state.json"))
        schedule = {key: value for key, value in scheduler.state_dict().items() if key != "lr_lambdas"}
        state = {
            "run": run,
            "schedule": schedule,
            "random": [rest for _, rest in random_states],
            "scaler": scaler.state_dict() if scaler is not None else None,
        }
        atomic.write_json(folder / _STATE, state)
    for older in path.parent.glob("step-*") if is_whole(path) else []:
        if older.name < path.name:
            shutil.rmtree(older, ignore_errors=True)


def check_run(path: Path, run: str) -> None:
    """Refuse a checkpoint that another run wrote."""
    found = atomic.read_json(path / _STATE)["run"]
    if found != run:
        raise ArtefactError(
            f"{path} is a checkpoint of another run ({found}, this one is {run}): its settings or data differ. "
            "Give another --out, or delete the folder to start afresh."
        )


@torch.no_grad()
def load_weights(path: Path, parameters: dict[str, torch.nn.Parameter]) -> None:
    """Restore the parameters that train. Any missing, unexpected or misshapen one is an `ArtefactError`."""
    stored = _read(path / "weights.safetensors", set(parameters))
    for name, parameter in parameters.items():
        if stored[name].shape != parameter.shape:
            raise ArtefactError(f"{path}: {name} has shape {tuple(stored[name].shape)}, not {tuple(parameter.shape)}.")
        parameter.copy_(like(stored[name], parameter))


def load_optimizer(
    path: Path, parameters: dict[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer, scheduler: Any
) -> None:
    """Restore AdamW's moments and the schedule."""
    names = {f"{moment}:{name}" for name in parameters for moment in _MOMENTS}
    stored = _read(path / "optimizer.safetensors", names)
    for name, parameter in parameters.items():
        state = {moment: stored[f"{moment}:{name}"] for moment in _MOMENTS}
        for moment in ("exp_avg", "exp_avg_sq"):
            state[moment] = like(state[moment], parameter)
        optimizer.state[parameter] = state
    schedule = atomic.read_json(path / _STATE)["schedule"]
    scheduler.load_state_dict({**schedule, "lr_lambdas": [None] * len(scheduler.lr_lambdas)})
    for group, rate in zip(optimizer.param_groups, schedule["_last_lr"], strict=True):
        group["lr"] = rate


def load_scaler(path: Path, scaler: Any) -> None:
    """Restore the gradient scaler of fp16, where there is one."""
    state = atomic.read_json(path / _STATE)["scaler"]
    if scaler is not None and state is not None:
        scaler.load_state_dict(state)


def load_random(path: Path, rank: int) -> None:
    """Restore this process's random state; one of those that there are, where more processes go on than wrote it."""
    rest = atomic.read_json(path / _STATE)["random"]
    rank %= len(rest)
    seeds.restore(load_file(str(path / f"random-{rank}.safetensors")), rest[rank])


def _read(path: Path, wanted: set[str]) -> dict[str, torch.Tensor]:
    try:
        stored = load_file(str(path))
    except (SafetensorError, OSError) as error:
        raise ArtefactError(f"{path} cannot be read ({error}). Delete this checkpoint and run again.") from error
    if stored.keys() != wanted:
        raise ArtefactError(
            f"{path} does not hold what this run trains: missing {sorted(wanted - stored.keys())[:3]}, "
            f"unexpected {sorted(stored.keys() - wanted)[:3]}. Delete this checkpoint and run again."
        )
    return stored
