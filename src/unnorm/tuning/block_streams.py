"""The hidden states that a model hands from block to block, kept on the CPU or on disk, and blocks run on them alone.

Rows are put together into parts that pass a block in one call; what the model hands its blocks besides the hidden
states is noted once a part, in a pass in which no block computes anything. That this is all a block depends on is
tried out on one row before.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from unnorm.foundation.errors import ModelError, UnnormError, first_line
from unnorm.metrics.batches import counted_tokens
from unnorm.surgery.block_calls import Call, Spill, call_block, split_call, standing_in, stream_in
from unnorm.surgery.inputs import firsts
from unnorm.surgery.passes import Stop, hooked, run

_SAME = 1e-2  # of a stream's root mean square: room for kernels that sum in another order


@dataclass(frozen=True)
class Machine:
    """Where blocks compute and in what: `device` None is wherever a block stands."""

    device: torch.device | None
    precision: str

    def of(self, module: nn.Module) -> torch.device:
        return self.device or next(module.parameters()).device

    def autocast(self, device: torch.device) -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16")


@dataclass(frozen=True)
class StreamPart:
    """Rows of one length that pass a block together. Masks are [B, T] on the CPU."""

    inputs: dict[str, torch.Tensor]
    keep: torch.Tensor
    """Which positions hold tokens."""
    inner: torch.Tensor
    """The same without the first token of each sequence."""

    @cached_property
    def tokens(self) -> int:
        return int(self.keep.sum())


def parts_of(rows: Sequence[Mapping[str, torch.Tensor]], tokens: int) -> list[StreamPart]:
    """`rows` [1, T], in order, as parts of at most `tokens` positions, or of one row that is longer."""
    parts: list[StreamPart] = []
    open_: dict[Any, list[Mapping[str, torch.Tensor]]] = {}
    for row in rows:
        length = row["input_ids"].shape[1]
        alike = (length, *sorted(row))
        open_.setdefault(alike, []).append(row)
        if (len(open_[alike]) + 1) * length > tokens:
            parts.append(_part(open_.pop(alike)))
    return parts + [_part(group) for group in open_.values()]


def _part(rows: list[Mapping[str, torch.Tensor]]) -> StreamPart:
    inputs = {name: torch.cat([row[name] for row in rows]).cpu() for name in rows[0]}
    keep = counted_tokens(inputs)
    return StreamPart(inputs, keep, keep & ~firsts(inputs))


@contextmanager
def on_device(
    module: nn.Module,
    device: torch.device,
    values: Mapping[str, torch.Tensor] | None = None,
    *,
    fresh: bool = False,
    wide: bool = False,
) -> Iterator[None]:
    """While open, the module's tensors lie on `device`; afterwards they are what they were, whatever was done to them.

    values: parameters, by name, to have in place of the module's own. fresh: never the module's own memory. wide:
    floats of less than 32 bits in fp32.
    """
    named = [*module.named_parameters(), *module.named_buffers()]
    homes = [(tensor, tensor.data) for _, tensor in named]
    try:
        for (name, tensor), (_, home) in zip(named, homes, strict=True):
            value = (values or {}).get(name, home)
            narrow = wide and value.is_floating_point() and value.element_size() < 4
            tensor.data = value.to(device, torch.float32 if narrow else value.dtype, copy=fresh)
        yield
    finally:
        for tensor, home in homes:
            tensor.data = home


@torch.no_grad()
def take_over(module: nn.Module, values: Mapping[str, torch.Tensor]) -> None:
    """Give the module's parameters these values, by name: all of them, also when interrupted on the way."""
    own = dict(module.named_parameters())
    try:
        for name, value in values.items():
            own[name].copy_(value)
    except KeyboardInterrupt:
        for name, value in values.items():
            own[name].copy_(value)
        raise


def moved(value: Any, device: torch.device, *, wide: bool = False) -> Any:
    """Every tensor in tuples, lists and dictionaries on `device`; wide: floats of less than 32 bits in fp32."""
    if isinstance(value, torch.Tensor):
        narrow = wide and value.is_floating_point() and value.element_size() < 4
        return value.to(device, torch.float32 if narrow else value.dtype)
    if isinstance(value, Call):
        return Call(*(moved(part, device, wide=wide) for part in value))
    if isinstance(value, tuple | list) and type(value) in (tuple, list):
        return type(value)(moved(part, device, wide=wide) for part in value)
    if type(value) is dict:
        return {name: moved(part, device, wide=wide) for name, part in value.items()}
    return value


class Streams:
    """One model's hidden states before a block: `hidden` [B, T, C], a tensor a part, in the model's own dtype."""

    def __init__(self, hidden: list[torch.Tensor], calls: list[dict[str, Call]]) -> None:
        self.hidden, self.calls = hidden, calls

    def through(self, module: nn.Module, path: str, part: int, *, wide: bool = False) -> torch.Tensor:
        """What the block, which stands at `path` and lies where it is to compute, makes of a part."""
        device = next(module.parameters()).device
        hidden = self.hidden[part].to(device, copy=True)  # a block may write into what it is given
        call = moved(self.calls[part][path], device, wide=wide)
        return call_block(module, call, hidden.float() if wide and hidden.element_size() < 4 else hidden)

    @torch.no_grad()
    def advance(self, module: nn.Module, path: str, machine: Machine) -> None:
        """Put the block's outputs where its inputs were."""
        device = machine.of(module)
        with on_device(module, device), machine.autocast(device):
            for part, stored in enumerate(self.hidden):
                stored.copy_(self.through(module, path, part))


Returns = Mapping[str, int]
"""Block -> how many things it returns as a tuple; 0: the hidden states and no tuple."""


def enter(
    model: nn.Module, returns: Returns, parts: Sequence[StreamPart], spill: Spill | None = None, name: str = ""
) -> Streams:
    """The streams before the first block of `returns`, in files `name`N where there is a `spill`, else in memory."""
    blocks = list(returns)
    streams = Streams([], [])
    for index, part in enumerate(parts):
        calls: dict[str, Call] = {}

        def see(path: str, hidden: torch.Tensor, call: Call, calls: dict[str, Call] = calls, index: int = index) -> Any:
            if path == blocks[0]:
                if spill is None:
                    streams.hidden.append(hidden.to("cpu", copy=True))
                else:
                    streams.hidden.append(spill.put(f"{name}{index}", [hidden.flatten(0, -2)]).view(hidden.shape))
            calls[path] = call
            if path == blocks[-1]:
                raise Stop
            return hidden

        _without_blocks(model, returns, part.inputs, see)
        streams.calls.append(calls)
    return streams


def see_after(
    model: nn.Module, returns: Returns, inputs: Mapping[str, torch.Tensor], last: torch.Tensor, path: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """(input, output) of the module at `path`, which comes after the blocks, where these end in the stream `last`."""
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def keep(_: nn.Module, args: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
        seen.append((args[0], out))
        raise Stop

    final = list(returns)[-1]
    with hooked([model.get_submodule(path).register_forward_hook(keep)]):
        _without_blocks(
            model,
            returns,
            inputs,
            lambda at, hidden, _: last.to(hidden.device, hidden.dtype) if at == final else hidden,
        )
    if not seen:
        raise ModelError(f"the forward pass of {type(model).__name__} does not reach {path} after its blocks.")
    return seen[0]


def _without_blocks(
    model: nn.Module,
    returns: Returns,
    inputs: Mapping[str, torch.Tensor],
    see: Callable[[str, torch.Tensor, Call], torch.Tensor],
) -> None:
    """A pass in which each block gives what `see` does on (path, hidden states, the rest of its call)."""

    def make(path: str, _: Callable[..., Any]) -> Callable[..., Any]:
        def stand_in(*args: Any, **kwargs: Any) -> Any:
            out = see(path, *split_call(args, kwargs))
            return (out, *[None] * (returns[path] - 1)) if returns[path] else out

        return stand_in

    with standing_in(model, list(returns), make):
        run(model, moved(dict(inputs), next(model.parameters()).device))


@torch.no_grad()
def probe(model: nn.Module, blocks: Sequence[str], part: StreamPart, machine: Machine) -> dict[str, int]:
    """`Returns` of the blocks that the model runs, in their order.

    A `ModelError` says where a block depends on more than what goes into it, or the stream on more than the blocks: on
    what an earlier block has left behind, or on something that is done between two of them.
    """
    given: dict[str, torch.Tensor] = {}
    gave: dict[str, torch.Tensor] = {}
    returns: dict[str, int] = {}

    def make(path: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        module = model.get_submodule(path)

        def watched(*args: Any, **kwargs: Any) -> Any:
            hidden, _ = split_call(args, kwargs)
            before = next(reversed(gave.values())) if gave else hidden
            if path in given or not torch.allclose(hidden, before, rtol=0, atol=0, equal_nan=True):
                raise _cannot(model, path, "the hidden states do not come straight from the block before")
            given[path] = hidden.clone()
            device = machine.of(module)
            with on_device(module, device):
                out = moved(forward(*moved(args, device), **moved(kwargs, device)), hidden.device)
            returns[path] = len(out) if isinstance(out, tuple) else 0
            gave[path] = stream_in(out).clone()
            return out

        return watched

    with standing_in(model, blocks, make):
        run(model, moved(part.inputs, next(model.parameters()).device))
    try:
        streams = enter(model, returns, [part])

        def alone(path: str, hidden: torch.Tensor) -> torch.Tensor:
            module = model.get_submodule(path)
            streams.hidden[0] = hidden
            with on_device(module, machine.of(module)):
                return streams.through(module, path, 0)

        for path in returns:  # whatever a block has left behind for later ones is now of something else
            alone(path, 0.5 * given[path])
        for path in reversed(returns):
            out = alone(path, given[path])
            wanted, keep = gave[path].float(), part.keep.to(gave[path].device)
            out, wanted = out.to(wanted)[keep], wanted[keep]
            room = _SAME * float(wanted.square().mean().sqrt().nan_to_num())
            if not torch.allclose(out, wanted, rtol=0, atol=room, equal_nan=True):
                raise _cannot(model, path, "it depends on more than what is handed to it")
    except UnnormError:
        raise
    except Exception as error:
        raise _cannot(model, "", f"run without its blocks it fails: {first_line(error)}") from error
    return returns


def _cannot(model: nn.Module, path: str, why: str) -> ModelError:
    where = f" (block {path})" if path else ""
    return ModelError(
        f"{type(model).__name__} cannot be recovered one block at a time{where}: {why}. "
        "Recover the whole model at once."
    )
