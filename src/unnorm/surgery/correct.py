"""Correct the linear layers around new norms, in closed form: ridge regression, no gradient, no labels.

A new norm's output t differs from the old norm's output y in the original model. *Readers*, the layers that read it,
can make up for the part of y that is linear in t:  W' = W A, b' = b + W c, with A, c minimizing

    Σ ‖A t + c − y‖² + λ ‖A − 1‖²      (t, y [C]; c = 0 where the layer has no bias)

*Writers*, the layers whose output is added to the residual stream, can make up for what the stream has lost so far: the
stream of the original is o + e away, e being the error before the layer writes, so  W' = W + D, b' = b + d  with D, d
minimizing  Σ ‖D h + d − (o* + e − o)‖² + λ ‖D‖²  (h the layer's input, o and o* its output here and in the original).
What they are to give is the original's stream with large tokens scaled down (`levelled`), which the original's norms
read as they do the stream itself, and new ones far better. Layers are corrected in execution order, each on what it
sees once all before it are, with noise in the stream (`StreamNoise`), and rounded to what bf16 holds. The head is a
reader where its weight is its own; one tied to the embedding is left alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.weak import WeakIdKeyDictionary

from unnorm.foundation.errors import ModelError
from unnorm.surgery.level import levelled
from unnorm.surgery.linears import is_linear, shared_weights, stream_writers, weight_of
from unnorm.surgery.noise import StreamNoise
from unnorm.surgery.passes import hooked, watched
from unnorm.surgery.sites import Site

Correct = Literal["none", "readers", "all"]
_CHUNK = 2048
_RIDGE = 1e-2
"""λ as a share of the mean variance of a feature."""


@dataclass(frozen=True)
class LayerFix:
    """One corrected layer: its output's squared error against the wanted one, as a share of that one's size. What
    rounding adds to a reader's is not in it."""

    path: str
    role: str
    """`reader` or `writer`."""
    before: float
    after: float


class Corrector:
    """Corrects layers while the model that is being converted runs its one pass. All tensors [N, ...] over tokens."""

    def __init__(self, model: nn.Module, sites: list[Site], what: Correct) -> None:
        self.model, self.what = model, what
        self.fixes: list[LayerFix] = []
        self.originals: dict[str, dict[str, torch.Tensor]] = {}
        """Path of a corrected layer -> its parameters as they were."""
        self._sites = sites
        self._writers = self._find_writers() if what == "all" else {}
        self._fixed_weights = shared_weights(model)
        self._y: dict[str, torch.Tensor] = {}
        self._o: dict[str, torch.Tensor] = {}
        self._read: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._error: torch.Tensor | None = None
        self._noise = StreamNoise()
        self._keep: Any = slice(None)
        self._maps: dict[tuple[str, bool], _Map] = {}

    def _find_writers(self) -> dict[str, float]:
        found = stream_writers(self.model, self._sites)
        if found is None:
            raise ModelError(
                f"the writers of {type(self.model).__name__} cannot be corrected: its residual stream is not the sum "
                "of linear layers' outputs (post-norms and fused experts are not). Correct the readers alone."
            )
        return found

    @contextmanager
    def watch_original(self) -> Iterator[None]:
        """Around a pass of the original over the calibration batch: keeps what it computes at sites and writers."""

        def at_site(path: str, x: torch.Tensor, out: torch.Tensor) -> None:
            self._y[path] = out.flatten(0, -2)
            if not before and x.shape[-1] == self._sites[-1].width:  # as `stream_writers` tells the stream
                before.append(x.flatten(0, -2))

        def at_writer(path: str, x: torch.Tensor, out: torch.Tensor) -> None:
            self._o[path] = out.flatten(0, -2)

        before: list[torch.Tensor] = []
        sites = [site.path for site in self._sites]
        with watched(self.model, sites, at_site), watched(self.model, self._writers, at_writer):
            yield
        if self._writers:
            self._level(before[0])

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
        handles = []
        for path, module in self.model.named_modules():
            if is_linear(module) and id(module.weight) not in self._fixed_weights:
                handles.append(
                    module.register_forward_pre_hook(lambda m, args, path=path: self._before(path, m, args[0]))
                )
            if path in self._writers:
                handles.append(
                    module.register_forward_hook(lambda m, args, out, path=path: self._after(path, m, args[0], out))
                )
        with hooked(handles):
            yield

    def placed(self, path: str, t: torch.Tensor) -> None:
        """The new norm at `path` gave t [..., C]: whatever reads this very tensor is a reader of the site."""
        self._read[t] = path

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
            self._maps = {(site, affine): _Map(t, y, affine)}  # readers of a site follow one another
        found = self._maps[site, affine]
        weight = weight_of(layer)
        old = weight.double().clone()
        weight.copy_(old @ found.slope)
        if affine:
            layer.bias.add_((old @ found.offset).to(layer.bias.dtype))
        _round(layer)
        self._note(path, "reader", *(_size(old, gram) for gram in (found.before, found.after, found.wanted)))

    def _after(self, path: str, layer: Any, hidden: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        c = self._writers[path]
        error = self._error if self._error is not None else torch.zeros((), dtype=torch.float64, device=out.device)
        wanted = self._o[path].double() + error / c
        lacking = wanted - out.flatten(0, -2).double()
        if id(layer.weight) not in self._fixed_weights:
            self._remember(path, layer)
            h = hidden.flatten(0, -2)
            slope, offset = _ridge(h[self._keep], lacking[self._keep], intercept=layer.bias is not None)
            weight_of(layer).add_(slope.to(layer.weight.dtype))
            if layer.bias is not None:
                layer.bias.add_(offset.to(layer.bias.dtype))
            _round(layer)
            out = layer.forward(hidden)  # not a call: the hooks are done
            before, lacking = lacking, wanted - out.flatten(0, -2).double()
            sums = [v[self._keep].square().sum() for v in (before, lacking)]
            self._note(path, "writer", sums[0], sums[1], wanted[self._keep].square().sum())
        noise = self._noise.of(self._o[path])
        self._error = c * (lacking - noise.double())
        return out + noise.view_as(out).to(out.dtype)

    def _remember(self, path: str, layer: Any) -> None:
        state = {name: p.detach().clone() for name, p in layer.named_parameters(recurse=False)}
        self.originals.setdefault(path, state)

    def _note(self, path: str, role: str, before: Any, after: Any, wanted: Any) -> None:
        self.fixes.append(LayerFix(path, role, float(before / wanted), float(after / wanted)))


def _round(layer: Any) -> None:
    """Leave of fp32 parameters what bf16 holds, so that the model is the same once it is saved or run in bf16. What is
    lost here, later layers make up for; rounded at the end, a deep model is ruined."""
    for parameter in layer.parameters(recurse=False):
        if parameter.dtype == torch.float32:
            parameter.copy_(parameter.bfloat16())


class _Map:
    """What every reader of a site is corrected by, and the grams [C, C] from which the errors of each follow."""

    def __init__(self, t: torch.Tensor, y: torch.Tensor, intercept: bool) -> None:
        self.slope, self.offset = _ridge(t, y, intercept=intercept, towards_identity=True)
        fixed = (t.double() @ self.slope.T + self.offset).float()
        self.before, self.after, self.wanted = (_gram(v, v) for v in (t.float() - y.float(), fixed - y.float(), y))


def _size(weight: torch.Tensor, gram: torch.Tensor) -> float:
    """Σ ‖W v‖² over tokens, from Σ v vᵀ."""
    return float(((weight @ gram) * weight).sum().clamp_min(1e-30))


def _gram(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """aᵀ b [C, D] for a [N, C], b [N, D]: products in fp32, a chunk's at a time, summed in float64."""
    total = torch.zeros(a.shape[1], b.shape[1], dtype=torch.float64, device=a.device)
    for i in range(0, a.shape[0], _CHUNK):
        total += a[i : i + _CHUNK].float().T @ b[i : i + _CHUNK].float()
    return total


def _ridge(
    t: torch.Tensor, y: torch.Tensor, *, intercept: bool, towards_identity: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """(A [D, C], c [D]) in float64 that take t [N, C] to y [N, D]; the penalty draws A to 0, or to the identity."""
    t_mean, y_mean = (v.mean(0, dtype=torch.float64) if intercept else v.new_zeros(v.shape[1]).double() for v in (t, y))
    t, y = t.float() - t_mean.float(), y.float() - y_mean.float()
    gram, cross = _gram(t, t), _gram(t, y)
    eye = torch.eye(gram.shape[0], dtype=gram.dtype, device=gram.device)
    penalty = _RIDGE * gram.diagonal().mean().clamp_min(1e-30)
    if towards_identity:
        cross = cross + penalty * eye
    slope = torch.linalg.solve(gram + penalty * eye, cross).T
    return slope, y_mean - slope @ t_mean
