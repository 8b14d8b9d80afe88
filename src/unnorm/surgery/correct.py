"""Correct the linear layers around new norms, in closed form: ridge regression, no gradient, no labels.

A new norm's output t differs from the old norm's output y in the original model. *Readers*, the layers that read it,
can make up for the part of y that is linear in t:  W' = W A, b' = b + W c, with A, c minimizing

    Σ ‖A t + c − y‖² + λ ‖A − 1‖²      (t, y [C]; c = 0 where the layer has no bias)

*Writers*, the layers whose output is added to the residual stream, can make up for what the stream has lost so far: the
stream of the original is o + e away, e being the error before the layer writes, so  W' = W + D, b' = b + d  with D, d
minimizing  Σ ‖D h + d − (o* + e − o)‖² + λ ‖D‖²  (h the layer's input, o and o* its output here and in the original).
What they are to give is the original's stream with large tokens scaled down (`levelled`), which the original's norms
read as they do the stream itself, and new ones far better. Where a norm stands between layer and stream (post-norms:
Gemma, OLMo 2), the new norm is fitted to what the stream lacks, and then the layer before it (`behind_norm`). So is the
layer before an *inner* norm, one of queries or keys, so that the norm gives what the old one gave. Writers of another
make, fused experts above all, are left alone. Layers are corrected in execution order, each on what it sees once all
before it are, with noise in the stream (`StreamNoise`), and rounded to what bf16 holds. The head is a reader where its
weight is its own; one tied to the embedding is left alone.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.weak import WeakIdKeyDictionary

from unnorm.norms.spec import Norm
from unnorm.surgery.behind_norm import Part, add_, bring_closer_, root, round_
from unnorm.surgery.level import levelled
from unnorm.surgery.linears import is_linear, shared_weights, weight_of
from unnorm.surgery.noise import StreamNoise
from unnorm.surgery.passes import hooked, watched
from unnorm.surgery.ridge import SiteMap, ridge, size_of
from unnorm.surgery.sites import Site, find_sites
from unnorm.surgery.writers import StreamSum, stream_sum

Correct = Literal["none", "readers", "all"]
_STEPS = 2
"""Of a layer before a norm that the stream does not meet. A second step of one that writes fits its tokens alone."""


@dataclass(frozen=True)
class LayerFix:
    """One corrected layer: its output's squared error against the wanted one, as a share of that one's size. What
    rounding adds to a reader's is not in it."""

    path: str
    role: str
    """`reader`, `writer`, or `inner`: before a norm that the stream does not meet, as those of queries and keys are."""
    before: float
    after: float


@dataclass(frozen=True, eq=False)
class _Before:
    """The layer before a norm, and what it was given."""

    path: str
    layer: Any
    hidden: torch.Tensor


class Corrector:
    """Corrects layers while the model that is being converted runs its one pass. All tensors [N, ...] over tokens."""

    def __init__(self, model: nn.Module, sites: list[Site], what: Correct) -> None:
        self.model, self.what = model, what
        self.fixes: list[LayerFix] = []
        self.originals: dict[str, dict[str, torch.Tensor]] = {}
        """Path of a corrected layer -> its parameters as they were."""
        self._sites = sites
        self._sum: StreamSum | None = None
        if what == "all":
            self._sum = stream_sum(model, find_sites(model), [site.path for site in sites])
        self._writers = self._sum.writers if self._sum else {}
        self._fixed_weights = shared_weights(model)
        self._y: dict[str, torch.Tensor] = {}
        self._o: dict[str, torch.Tensor] = {}
        self._read: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._behind: dict[str, str] = {}
        """Path of a norm that writes, or that the stream does not meet -> path of the linear layer whose output it is
        given."""
        self._hidden: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        """Path of such a layer -> what it was given last, and gave."""
        self._waiting = Counter[str]()
        """Path of such a layer -> how many norms have yet to be given its output."""
        self._inner = {site.path for site in sites if site.residual == "none"} if what == "all" else set()
        self._norms: dict[str, Norm] = {}
        self._error: torch.Tensor | None = None
        self._noise = StreamNoise()
        self._keep: Any = slice(None)
        self._maps: dict[tuple[str, bool], SiteMap] = {}

    @property
    def leaves_writers(self) -> bool:
        """Whether writers were to be corrected and cannot be, since more than layers and norms writes."""
        return self.what == "all" and self._sum is None

    @contextmanager
    def watch_original(self) -> Iterator[None]:
        """Around a pass of the original over the calibration batch: keeps what it computes at sites and writers."""

        def at_site(path: str, x: torch.Tensor, out: torch.Tensor) -> None:
            self._y[path] = out.flatten(0, -2)
            if root(x) in gave and (path in self._writers or path in self._inner):
                self._behind[path] = gave[root(x)]

        def at_writer(path: str, x: torch.Tensor, out: torch.Tensor) -> None:
            self._o[path] = out.flatten(0, -2)

        def at_linear(path: str, x: torch.Tensor, out: torch.Tensor) -> None:
            gave[root(out)] = path

        def at_start(path: str, x: torch.Tensor, out: torch.Tensor) -> None:
            assert self._sum is not None
            if not start:
                start.append((x if self._sum.start_is_input else self._sum.scale * out).flatten(0, -2))

        gave, start = WeakIdKeyDictionary(), list[torch.Tensor]()
        modules = self.model.named_modules() if self.what == "all" else []
        linear = [path for path, module in modules if is_linear(module)]
        with (
            watched(self.model, linear, at_linear),
            watched(self.model, [site.path for site in self._sites], at_site),
            watched(self.model, self._writers, at_writer),
            watched(self.model, [self._sum.start] if self._writers and self._sum else [], at_start),
        ):
            yield
        if self._writers:
            self._level(start[0])

    def _level(self, stream: torch.Tensor) -> None:
        """Make each writer's wanted output the one that leaves the original's stream levelled. stream [N, C]: what the
        first writer adds to."""
        stream, away = stream.double(), torch.zeros((), dtype=torch.float64, device=stream.device)
        for path, out in self._o.items():  # in the order in which they write
            c = self._writers[path]
            stream = stream + c * out
            wanted = levelled(stream) - stream
            self._o[path] = (out + (wanted - away) / c).to(out.dtype)
            away = wanted

    @contextmanager
    def at_work(self, keep: torch.Tensor | None) -> Iterator[None]:
        """Around the pass that converts. keep [B, T]: tokens that count (no padding)."""
        self._keep = keep.flatten() if keep is not None else slice(None)
        self._waiting = Counter(self._behind.values())
        handles = []
        for path, module in self.model.named_modules():
            if is_linear(module) and id(module.weight) not in self._fixed_weights:
                handles.append(
                    module.register_forward_pre_hook(lambda m, args, path=path: self._before(path, m, args[0]))
                )
            if path in self._behind.values():
                handles.append(
                    module.register_forward_hook(
                        lambda m, args, out, path=path: self._hidden.update({path: (args[0], out)})
                    )
                )
            if path in self._writers:
                handles.append(
                    module.register_forward_hook(lambda m, args, out, path=path: self._after(path, m, args[0], out))
                )
        with hooked(handles):
            yield

    def wanted(self, path: str, y: torch.Tensor) -> torch.Tensor:
        """What the new norm at `path` is to give where the old one gives y [..., C]: what the stream lacks, if it
        writes there."""
        return self._lacking(path).view_as(y).to(y.dtype) if path in self._writers else y

    def placed(self, path: str, norm: Norm, x: torch.Tensor) -> torch.Tensor:
        """What the new `norm` at `path` gives for x [..., C]: whatever reads this very tensor is a reader of the site.

        Where the stream does not meet it, the layer before it is corrected first."""
        self._norms[path] = norm
        t: torch.Tensor = norm(x)
        if path in self._inner and (before := self._layer_behind(path, x)) is not None:
            wanted = self._y[path].view_as(x)
            for _ in range(_STEPS):
                x = bring_closer_(before.layer, norm, before.hidden, x, wanted, self._keep)
            found = norm(x)
            part = Part.of(x, before.layer)
            values = (part.laid_out(v)[self._keep] for v in (wanted - t, wanted - found, wanted))
            self._note(before.path, "inner", *(v.double().square().sum() for v in values))
            t = found
        self._read[t] = path
        return t

    def _lacking(self, path: str) -> torch.Tensor:
        """[N, C] float64: the writer's output that gives the wanted stream, what it lacked before included."""
        o = self._o[path].double()
        return o if self._error is None else o + self._error / self._writers[path]

    def _before(self, path: str, layer: Any, x: torch.Tensor) -> None:
        site = self._read.get(x) or (
            self._read.get(x._base) if x._base is not None and x._base.shape == x.shape else None
        )
        if site is None or path in self.originals:
            return
        t, y = x.flatten(0, -2)[self._keep], self._y[site][self._keep]
        self._remember(path, layer)
        affine = layer.bias is not None
        if (site, affine) not in self._maps:
            self._maps = {(site, affine): SiteMap(t, y, affine)}  # readers of a site follow one another
        found = self._maps[site, affine]
        weight = weight_of(layer)
        old = weight.double().clone()
        weight.copy_(old @ found.slope)
        if affine:
            layer.bias.add_((old @ found.offset).to(layer.bias.dtype))
        round_(layer)
        self._note(path, "reader", *(size_of(old, gram) for gram in (found.before, found.after, found.wanted)))

    def _after(self, path: str, module: Any, hidden: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        wanted = self._lacking(path)
        if is_linear(module) and id(module.weight) not in self._fixed_weights:
            out = self._correct_writer(path, module, hidden, out, wanted)
        elif path in self._norms:
            out = self._correct_behind(path, hidden, out, wanted)
        noise = self._noise.of(self._o[path])
        self._error = self._writers[path] * (wanted - out.flatten(0, -2).double() - noise.double())
        return out + noise.view_as(out).to(out.dtype)

    def _correct_writer(
        self, path: str, layer: Any, hidden: torch.Tensor, out: torch.Tensor, wanted: torch.Tensor
    ) -> torch.Tensor:
        self._remember(path, layer)
        before = wanted - out.flatten(0, -2).double()
        slope, offset = ridge(hidden.flatten(0, -2)[self._keep], before[self._keep], intercept=layer.bias is not None)
        add_(layer, slope, offset)
        out = layer.forward(hidden)  # not a call: the hooks are done
        self._note_writer(path, before, wanted - out.flatten(0, -2).double(), wanted)
        return out

    def _correct_behind(self, path: str, x: torch.Tensor, out: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """Correct the layer whose output x [..., C] the new norm at `path` is given, which writes, so that it comes
        closer to `wanted` [N, C]."""
        norm, before = self._norms[path], self._layer_behind(path, x)
        if before is None:
            return out
        first = wanted - out.flatten(0, -2).double()
        x = bring_closer_(before.layer, norm, before.hidden, x, wanted.view(x.shape), self._keep)
        out = norm(x)
        self._note_writer(before.path, first, wanted - out.flatten(0, -2).double(), wanted)
        return out

    def _layer_behind(self, path: str, x: torch.Tensor) -> _Before | None:
        """The layer before the norm at `path`, if x, which that is given, is what it gave, and it may be corrected."""
        linear = self._behind.get(path)
        if linear is None or linear not in self._hidden:
            return None
        hidden, given = self._hidden[linear]
        self._waiting[linear] -= 1
        if not self._waiting[linear]:  # the last of its norms, where each head has one of its own
            del self._hidden[linear]
        layer = self.model.get_submodule(linear)
        if root(given) is not root(x) or id(layer.weight) in self._fixed_weights:
            return None
        self._remember(linear, layer)
        return _Before(linear, layer, hidden)

    def _remember(self, path: str, layer: Any) -> None:
        state = {name: p.detach().clone() for name, p in layer.named_parameters(recurse=False)}
        self.originals.setdefault(path, state)

    def _note_writer(self, path: str, *values: torch.Tensor) -> None:
        self._note(path, "writer", *(v[self._keep].square().sum() for v in values))

    def _note(self, path: str, role: str, before: Any, after: Any, wanted: Any) -> None:
        self.fixes.append(LayerFix(path, role, float(before / wanted), float(after / wanted)))
