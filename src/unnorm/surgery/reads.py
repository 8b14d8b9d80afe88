"""What reads a site's output, found by watching one forward pass: the linear layers, and whatever else.

A reader is a linear layer that is given the site's output itself, at most reshaped, sliced by tokens or cast. Every
other operation on that output, another norm, and the model's own results (a final norm's output is the last of the
hidden states) are noted too, since they would see a change of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from unnorm.surgery.linears import is_linear
from unnorm.surgery.passes import hooked, in_eval, no_hooks_left
from unnorm.surgery.sites import Site

_SAME_NUMBERS = {"_to_copy", "clone", "contiguous", "_unsafe_view", "_reshape_alias", "lift_fresh"}


@dataclass(frozen=True)
class Reads:
    """Who reads one site. layers: paths of linear layers, in the order in which they do; others: in words."""

    layers: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)


@torch.no_grad()
def reads_of(
    model: Any, sites: list[Site], inputs: Mapping[str, torch.Tensor], *, hidden_states: bool = True
) -> tuple[dict[str, Reads], set[str]]:
    """Site -> its readers in a forward pass over `inputs`, and the linear layers that must not be changed for a site's
    sake: they read something besides, or their weights are read by others.

    hidden_states: whether these count as results of the model, which the final norm then gives."""
    watch = _Watch(model, {site.path for site in sites})
    settings = {"output_hidden_states": True} if hidden_states and hasattr(model, "config") else {}
    with in_eval(model), no_hooks_left(model), hooked(watch.hooks()), watch:
        outputs = model(**inputs, **settings)
    for leaf in tree_leaves(dict(outputs) if isinstance(outputs, Mapping) else outputs):
        if isinstance(leaf, torch.Tensor):
            watch.note(leaf, "the model's results (hidden states)")
    for site in sites:
        watch.reads.setdefault(site.path, Reads())
    several = {layer for layer, read in watch.read_by.items() if len(read) > 1 or None in read}
    return watch.reads, several | watch.opened


class _Watch(TorchDispatchMode):
    """Knows tensors by identity, and forgets them when they are freed."""

    def __init__(self, model: nn.Module, sites: set[str]) -> None:
        super().__init__()
        self.reads: dict[str, Reads] = {}
        self.read_by: dict[str, set[str | None]] = {}
        """Linear layer -> the sites that it reads; None: something else."""
        self.opened: set[str] = set()
        """Linear layers whose weight is used outside of them."""
        self._model, self._sites = model, sites
        self._site_of: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._layer_of = {id(m.weight): path for path, m in model.named_modules() if is_linear(m)}
        self._within: list[str] = []

    def hooks(self) -> list[Any]:
        handles = []
        for path, module in self._model.named_modules():
            handles += [
                module.register_forward_pre_hook(
                    lambda m, args, kwargs, path=path: self._enter(path, m, args, kwargs), with_kwargs=True
                ),
                module.register_forward_hook(lambda m, args, out, path=path: self._leave(path, out)),
            ]
        return handles

    def note(self, tensor: torch.Tensor, reader: str) -> None:
        """`reader` is given `tensor`: where that is a site's output, it is one of the others that read it."""
        site = self._site_of.get(tensor)
        if site is not None and reader not in (others := self.reads.setdefault(site, Reads()).others):
            others.append(reader)

    def _enter(self, path: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        self._within.append(path)
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        if path in self._sites:
            for tensor in given:
                self.note(tensor, f"the norm {path}")
        elif is_linear(module):
            site = self._site_of.get(given[0]) if len(given) == 1 else None
            self.read_by.setdefault(path, set()).add(site)
            if site is not None and path not in (layers := self.reads.setdefault(site, Reads()).layers):
                layers.append(path)

    def _leave(self, path: str, out: Any) -> None:
        self._within.pop()
        if path in self._sites and isinstance(out, torch.Tensor):
            self._site_of[out] = path

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        here = self._within[-1] if self._within else ""
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        for tensor in tensors:
            layer = self._layer_of.get(id(tensor)) or self._layer_of.get(id(tensor._base))
            if layer is not None and layer != here:
                self.opened.add(layer)
        if here in self._sites or here in self.read_by:
            return out
        name = func._schema.name.split("::")[-1]
        for tensor in tensors:
            site = self._site_of.get(tensor)
            if site is None:
                continue
            if (func.is_view or name in _SAME_NUMBERS) and tensor is tensors[0]:
                for leaf in tree_leaves(out):
                    if isinstance(leaf, torch.Tensor):
                        self._site_of[leaf] = site
            else:
                self.note(tensor, f"{here or 'the model'} ({name})")
        return out
