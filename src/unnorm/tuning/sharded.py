"""A model whose weights are spread over the processes of a launch while it trains: FSDP2 (`fully_shard`).

Each process holds a part of every parameter. A block's are gathered when it runs, and let go again; what stands outside
of blocks (embeddings, last norm, head) stays gathered from a forward pass to the end of its backward pass, because a
distillation reads the head's weight itself. Products are those of one device; nothing is held in another dtype.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor

from unnorm.foundation import ranks
from unnorm.foundation.precision import default_device
from unnorm.surgery.block_calls import block_of
from unnorm.tuning.settings import Sharding

_KEPT = (
    "_parameters",
    "_forward_hooks",
    "_forward_pre_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)
"""What torch keeps in a module and sharding changes. All else that is new in a module afterwards is sharding's own."""


@contextmanager
def sharded(model: nn.Module, chosen: Sequence[nn.Parameter], device: torch.device) -> Iterator[list[nn.Parameter]]:
    """While open, `model` is spread over all processes, on the `device` of each; yields what stands for `chosen`.

    All begin with the main process's numbers. When closed the model is plain again, whole in every process and on the
    CPU, with the same parameter objects as before. After an error its parameters hold nothing of use.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    modules = list(model.modules())
    before = [_noted(module) for module in modules]
    owners: dict[nn.Parameter, tuple[nn.Module, str]] = {}
    for module in modules:
        for name, parameter in module.named_parameters(recurse=False):
            owners.setdefault(parameter, (module, name))
    shapes = {parameter: (parameter.shape, parameter.dtype) for parameter in owners}
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    for path in blocks_of(model):
        _begin_alike(model.get_submodule(path), device)
        fully_shard(model.get_submodule(path), mesh=mesh, reshard_after_forward=True)
    _begin_alike(model, device)
    fully_shard(model, mesh=mesh, reshard_after_forward=False)
    parts = {parameter: module.get_parameter(name) for parameter, (module, name) in owners.items()}
    for parameter in owners:  # the parts alone are held from here on
        parameter.data = parameter.data.new_empty(0, device="cpu")
    ended = False
    try:
        yield [parts[parameter] for parameter in chosen]
        ended = True
    finally:
        for module, noted in zip(modules, before, strict=True):
            _put_back(module, noted)
        for parameter, part in parts.items():
            shape, dtype = shapes[parameter]
            parameter.grad = None
            parameter.data = gathered(part) if ended else torch.zeros(shape, dtype=dtype)
        model.to("cpu")


@contextmanager
def spread(models: Sequence[nn.Module], sharding: Sharding) -> Iterator[None]:
    """While open, the processes of a launch have `models` on their devices, whole or in parts; nothing where there is
    one process."""
    if ranks.joined() == 1:
        yield
        return
    device = default_device()
    with ExitStack() as stack:
        for model in models:
            if sharding == "fsdp":
                stack.enter_context(sharded(model, [], device))
            else:
                model.to(device)
        yield


def blocks_of(model: nn.Module) -> list[str]:
    """Paths of the repeated blocks that have parameters, outermost ones alone."""
    found = dict.fromkeys(block_of(name) for name, _ in model.named_parameters())
    return [path for path in found if path]


def gathered(tensor: torch.Tensor) -> torch.Tensor:
    """The whole of a tensor that may be spread over the processes, on the CPU; all of them must ask."""
    detached = tensor.detach()
    return (detached.full_tensor() if isinstance(detached, DTensor) else detached).cpu()


@torch.no_grad()
def whole(module: nn.Module, name: str) -> torch.Tensor:
    """The value of a module's parameter, which may be relative and may be spread; all processes must ask."""
    lists = getattr(module, "parametrizations", {})
    if name not in lists or not isinstance(lists[name].original, DTensor):
        value: torch.Tensor = getattr(module, name).detach()
        return value.full_tensor() if isinstance(value, DTensor) else value
    value = lists[name].original.full_tensor()
    for part in lists[name]:
        value = part(value)
    return value


def like(tensor: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    """`tensor`, which every process has whole, on the device of `part` and spread as that is."""
    if not isinstance(part, DTensor):
        return tensor.to(part.device)
    return distribute_tensor(tensor.to(part.device), part.device_mesh, part.placements, src_data_rank=None)


def local(tensor: torch.Tensor) -> torch.Tensor:
    """What of a tensor this process holds."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def _begin_alike(module: nn.Module, device: torch.device) -> None:
    for tensor in (*module.parameters(), *module.buffers()):
        if isinstance(tensor, DTensor):
            continue  # of a block that is spread already
        tensor.data = tensor.data.to(device).contiguous()
        torch.distributed.broadcast(tensor.data, 0)


def _noted(module: nn.Module) -> tuple[type, set[str], dict[str, Any]]:
    content = vars(module)
    return type(module), set(content), {name: content[name].copy() for name in _KEPT if name in content}


def _put_back(module: nn.Module, noted: tuple[type, set[str], dict[str, Any]]) -> None:
    kind, names, content = noted
    module.__class__ = kind
    for name in vars(module).keys() - names:
        del module.__dict__[name]
    module.__dict__.update(content)
