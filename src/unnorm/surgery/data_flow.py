"""The data flow of one forward pass over a few dummy tokens: which result is computed from which.

A dispatch mode sees every operation and notes it as a `Node`; the nodes hold no tensors, so the pass needs no more
memory than any forward of a few tokens. Only what comes from the embeddings is noted: weights, masks and positions are
not data. What a site does inside is one node. What the flow means is `residual_stream`'s to say.
"""

import inspect
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from unnorm.surgery.passes import hooked, in_eval

_PROBE_TOKENS = 8
_COPIES = {"_to_copy", "clone", "copy_", "dropout", "contiguous", "lift_fresh", "_reshape_alias", "_unsafe_view"}
_MATMULS = {"mm", "addmm", "bmm", "baddbmm", "matmul", "linear", "_grouped_mm", "einsum", "addbmm"}
_SOFTMAXES = {"_softmax", "_safe_softmax", "softmax"}


@dataclass(eq=False, slots=True)
class Node:
    """One operation's result. `op`: `embedding`, `alias` (the same numbers, or those times a constant), `add`,
    `project` (a product with weights), `mix` (a product of activations, a convolution), `attention` (a fused one),
    `softmax`, `site`, or `other`."""

    op: str
    parents: list["Node"]
    site: str = ""
    in_attention: bool = False
    """Whether it was computed inside a module whose class is called an attention: linear ones do not look like one."""
    children: list["Node"] = field(default_factory=list)


@dataclass
class Flow:
    """One forward pass: its nodes in the order they were computed, and each site's calls in the order of the first."""

    nodes: list[Node] = field(default_factory=list)
    calls: dict[str, list[Node]] = field(default_factory=dict)
    widths: dict[str, int] = field(default_factory=dict)
    """Site -> size of the last dimension of what it was given."""
    gated: set[str] = field(default_factory=set)
    """Modules that were called with more tensors than one."""


@torch.no_grad()
def trace(model: nn.Module, paths: list[str]) -> Flow | None:
    """The flow of one forward over dummy tokens, with the modules at `paths` as sites; None where none is possible.

    Train and eval modes, hooks and the state of the random generator are as before afterwards, whatever happens.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    if device.type == "meta":
        return None
    recorder = _Recorder()
    handles = [handle for path in paths for handle in recorder.watch_site(model.get_submodule(path), path)]
    for module in model.modules():
        if _is_attention(module) and not any(_is_attention(m) for m in module.modules() if m is not module):
            handles += recorder.watch_attention(module)
    try:
        with hooked(handles), unnoticed(model, device), recorder:
            model(**dummy_inputs(model, device))
    except Exception:  # an encoder-decoder, an image model, anything that does not run on token ids alone
        return None
    return recorder.flow


class _Recorder(TorchDispatchMode):
    """Notes what is computed from what. Tensors are known by identity, and forgotten when they are freed."""

    def __init__(self) -> None:
        super().__init__()
        self.flow = Flow()
        self._node_of: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._base_of: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._inside_site = 0
        self._inside_attention = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if self._inside_site:
            return out
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        name = func._schema.name.split("::")[-1]
        parents = [node for tensor in tensors if (node := self._node_of.get(tensor)) is not None]
        if name == "copy_":  # what was there is overwritten
            parents = parents[-1:] if self._node_of.get(tensors[-1]) is not None else []
        if not parents and name != "embedding":
            return out
        node = self._add(_category(func, name, tensors, parents), parents)
        self._tag(out, node)
        if func.is_view and tensors:
            for leaf in tree_leaves(out):
                if isinstance(leaf, torch.Tensor) and leaf is not tensors[0]:
                    self._base_of[leaf] = self._base_of.get(tensors[0], tensors[0])
        elif tensors and name.endswith("_") and (base := self._base_of.get(tensors[0])) is not None:
            earlier = self._node_of.get(base)  # a write through a view is a write into what it views
            self._tag(base, self._add("other", [node] if earlier is None else [earlier, node]))
        return out

    def watch_site(self, module: nn.Module, path: str) -> list[Any]:
        pending: list[list[Node]] = []

        def before(_module: nn.Module, args: Any, kwargs: Any) -> None:
            tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
            if len(tensors) > 1:
                self.flow.gated.add(path)
            if tensors:
                self.flow.widths.setdefault(path, tensors[0].shape[-1])
            pending.append([node for tensor in tensors if (node := self._node_of.get(tensor)) is not None])
            self._inside_site += 1

        def after(_module: nn.Module, _args: Any, out: Any) -> None:
            self._inside_site -= 1
            node = self._add("site", pending.pop(), path)
            self.flow.calls.setdefault(path, []).append(node)
            self._tag(out, node)

        return [module.register_forward_pre_hook(before, with_kwargs=True), module.register_forward_hook(after)]

    def watch_attention(self, module: nn.Module) -> list[Any]:
        def count(step: int) -> None:
            self._inside_attention += step

        before = module.register_forward_pre_hook(lambda *_: count(1))
        return [before, module.register_forward_hook(lambda *_: count(-1))]

    def _add(self, op: str, parents: list[Node], site: str = "") -> Node:
        node = Node(op, parents, site, self._inside_attention > 0)
        for parent in {id(parent): parent for parent in parents}.values():
            parent.children.append(node)
        self.flow.nodes.append(node)
        return node

    def _tag(self, out: Any, node: Node) -> None:
        for leaf in tree_leaves(out):
            # Integers are choices, as of experts, not data: weights picked by them are still weights.
            if isinstance(leaf, torch.Tensor) and leaf.is_floating_point():
                self._node_of[leaf] = node


def _is_attention(module: nn.Module) -> bool:
    """By its class name. Of several inside one another only the innermost counts: Jamba has an AttentionDecoderLayer,
    its MLP included."""
    return "attention" in type(module).__name__.lower()


def _category(func: Any, name: str, tensors: list[torch.Tensor], parents: list[Node]) -> str:
    if name == "embedding":
        return "embedding"
    if func.is_view or name in _COPIES or (name.removesuffix("_") in ("mul", "div") and _by_constant(tensors, parents)):
        return "alias"
    if name.removesuffix("_") == "add":
        return "add"
    if "dot_product" in name or "flash" in name or "efficient_attention" in name:
        return "attention"
    if name in _SOFTMAXES:
        return "softmax"
    if name in _MATMULS:
        return "mix" if len(parents) > 1 else "project"
    return "mix" if "conv" in name else "other"


def _by_constant(tensors: list[torch.Tensor], parents: list[Node]) -> bool:
    """Whether an activation is multiplied by a number or a vector [C] of weights; rotary cos and sin are neither."""
    return len(parents) == 1 and (len(tensors) == 1 or min(tensor.ndim for tensor in tensors) <= 1)


def dummy_inputs(model: nn.Module, device: torch.device) -> dict[str, Any]:
    """Token ids [1, 8] without ids that have a meaning, as padding or images have; no cache."""
    whole: Any = getattr(model, "config", None)
    config = whole.get_text_config() if hasattr(whole, "get_text_config") else whole
    settings: dict[str, Any] = {}
    for part in (whole, config):
        settings |= part.to_dict() if hasattr(part, "to_dict") else {}
    special = {v for k, value in settings.items() if "token" in k for v in _integers(value)}
    try:
        vocabulary = int(model.get_input_embeddings().num_embeddings)  # type: ignore[operator]
    except Exception:  # not a transformers model, or one with an embedding of its own making
        vocabulary = int(getattr(config, "vocab_size", None) or _PROBE_TOKENS)
    plain = [token for token in range(min(vocabulary, 4 * _PROBE_TOKENS + len(special))) if token not in special]
    plain = plain or list(range(vocabulary))
    context = getattr(config, "max_position_embeddings", None)
    length = max(1, min(_PROBE_TOKENS, context)) if isinstance(context, int) else _PROBE_TOKENS
    ids = [plain[-1 - i % len(plain)] for i in range(length)]
    inputs: dict[str, Any] = {"input_ids": torch.tensor([ids], device=device)}
    if "use_cache" in inspect.signature(model.forward).parameters:
        inputs["use_cache"] = False
    return inputs


def _integers(value: Any) -> list[int]:
    values = value if isinstance(value, list | tuple) else [value]
    return [v for v in values if isinstance(v, int)]


@contextmanager
def unnoticed(model: nn.Module, device: torch.device) -> Iterator[None]:
    """For a forward that the user did not ask for: in eval mode, without warnings, and with the state of the random
    generators as it was."""
    with in_eval(model), quiet(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings, from Python or through logging."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(level)
