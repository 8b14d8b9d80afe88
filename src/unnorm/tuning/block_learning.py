"""One block learns to give a stream: its loss, and the steps that lower it."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from unnorm.foundation.errors import NonFiniteError
from unnorm.surgery.norm_behaviour import kind_of
from unnorm.tuning.block_streams import Machine, StreamPart, Streams, on_device
from unnorm.tuning.parameter_groups import clip_gradients_, fusible
from unnorm.tuning.relative import relative

Train = Literal["all", "norms"]
WARM_UP = 5
"""Steps, where there are twenty or more of them."""
_END = 0.1
_SMALLEST = 1e-3
"""A channel's unit is at least this share of the mean unit, so that a channel that is always 0 does not decide."""


@dataclass(frozen=True)
class Recipe:
    """How each block learns. Rates are AdamW's: of norm parameters, which are relative, and of all others."""

    steps: int
    batch_tokens: int
    norm_learning_rate: float
    learning_rate: float
    train: Train
    seed: int


@dataclass
class Goal:
    """The stream that a block is to give: the original's, a tensor a part, in units of each channel's own size."""

    wanted: Streams
    unit: torch.Tensor
    """Root mean square of each channel, [C] fp32, over all tokens but the first of each sequence."""

    @classmethod
    def of(cls, wanted: Streams, parts: Sequence[StreamPart]) -> "Goal":
        total, count = torch.zeros((), dtype=torch.float64), 0
        for stream, part in zip(wanted.hidden, parts, strict=True):
            total = total + stream[part.inner].float().square().sum(0, dtype=torch.float64)
            count += int(part.inner.sum())
        unit = (total / count).sqrt().float()
        return cls(wanted, unit.clamp_min(_SMALLEST * float(unit.mean())))

    def error(self, out: torch.Tensor, index: int, part: StreamPart) -> torch.Tensor:
        """Sum over the tokens of a part of their mean squared difference, an fp32 scalar. out [B, T, C].

        Each token's is divided by its own mean square where that is above 1: an attention sink, whose stream is
        thousands of times the others', counts as one token.
        """
        keep, unit = part.keep.to(out.device), self.unit.to(out.device)
        wanted = self.wanted.hidden[index].to(out.device)[keep].float() / unit  # [N, C]
        size = wanted.square().mean(-1).clamp_min(1.0)
        return ((out[keep].float() / unit - wanted).square().mean(-1) / size).sum()


@torch.no_grad()
def mean_error(
    module: nn.Module, path: str, streams: Streams, goal: Goal, parts: Sequence[StreamPart], indices: Sequence[int]
) -> float:
    """The loss a token over the parts at `indices`; the block lies where it is to compute."""
    total = sum(float(goal.error(streams.through(module, path, i), i, parts[i])) for i in indices)
    return total / sum(parts[i].tokens for i in indices)


def learners(module: nn.Module, path: str, sites: Sequence[str], train: Train) -> tuple[list[nn.Module], list[str]]:
    """(norms, names of all parameters) of the block at `path` that learn. sites: the swapped ones."""
    inside = [site[len(path) + 1 :] for site in sites if site.startswith(path + ".")]
    if train == "norms":
        norms = [module.get_submodule(site) for site in inside]
        wanted = {id(parameter) for norm in norms for parameter in norm.parameters()}
    else:
        norms = [norm for norm in module.modules() if kind_of(norm) is not None]
        wanted = {id(parameter) for parameter in module.parameters() if parameter.is_floating_point()}
    return norms, [name for name, parameter in module.named_parameters() if id(parameter) in wanted]


def learn(
    module: nn.Module,
    path: str,
    norms: Sequence[nn.Module],
    names: Sequence[str],
    streams: Streams,
    goal: Goal,
    parts: Sequence[StreamPart],
    indices: Sequence[int],
    recipe: Recipe,
    machine: Machine,
    generator: torch.Generator,
    note: Callable[[str, int, float], None],
) -> tuple[dict[str, torch.Tensor], int]:
    """(the parameters `names` of the block after its steps, in their own dtypes; tokens seen). The block is as it was.

    norms: those whose parameters learn relatively. With `train="all"` the block is held in fp32 while it learns.
    indices: the parts to learn from. note: told the block, the step, from 1, and its loss.
    """
    device, wide = machine.of(module), recipe.train == "all"
    own = dict(module.named_parameters())
    learning = [own[name] for name in names]
    dtypes = {name: own[name].dtype for name in names}
    seen = 0
    with on_device(module, device, fresh=True, wide=wide), taking_gradients(learning):
        with relative(norms) as first:
            ids = {id(parameter) for parameter in first}
            groups = [(first, recipe.norm_learning_rate)]
            groups.append(([p for p in learning if id(p) not in ids], recipe.learning_rate))
            taken = [{"params": group, "lr": rate} for group, rate in groups if group]
            optimizer = torch.optim.AdamW(taken, betas=(0.9, 0.95), weight_decay=0.0, fused=fusible(taken))
            rates = [group["lr"] for group in optimizer.param_groups]
            queue: list[int] = []
            for step in range(recipe.steps):
                chosen: list[int] = []
                while sum(parts[i].tokens for i in chosen) < recipe.batch_tokens and len(chosen) < len(indices):
                    queue = queue or torch.randperm(len(indices), generator=generator).tolist()
                    chosen.append(indices[queue.pop()])
                tokens = sum(parts[i].tokens for i in chosen)
                loss = 0.0
                for i in chosen:
                    with machine.autocast(device):
                        out = streams.through(module, path, i, wide=wide)
                    part_loss = goal.error(out, i, parts[i]) / tokens
                    part_loss.backward()  # type: ignore[no-untyped-call]
                    loss += float(part_loss.detach())
                norm = float(clip_gradients_(learning, 1.0))
                if not (math.isfinite(loss) and math.isfinite(norm)):
                    raise NonFiniteError(
                        f"{path}: the {'gradient' if math.isfinite(loss) else 'loss'} became non-finite at step "
                        f"{step + 1} of {recipe.steps}. The blocks before it are kept, and this one is as it was. "
                        f"Lower the learning rates ({recipe.norm_learning_rate:g} of norms, {recipe.learning_rate:g})."
                    )
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate * share(step, recipe.steps)
                optimizer.step()
                optimizer.zero_grad()
                seen += tokens
                note(path, step + 1, loss)
            del optimizer
        return {name: own[name].detach().to(dtypes[name], copy=True) for name in names}, seen


def share(step: int, steps: int) -> float:
    """Of the rate, at `step` from 0: a short warm-up, then straight down to a tenth."""
    return min(1.0, (step + 1) / max(1, min(WARM_UP, steps // 4))) * (1 - (1 - _END) * step / steps)


@contextmanager
def taking_gradients(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """While open, `parameters` take gradients; before and after they have none."""
    for parameter in parameters:
        parameter.grad = None
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.grad = None
            parameter.requires_grad_(False)
