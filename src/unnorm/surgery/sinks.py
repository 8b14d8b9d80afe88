"""Whether a model has attention sinks on given text: tokens that are far larger than the rest."""

from typing import Any

import torch

from unnorm.surgery.anatomy_verdict import SINK
from unnorm.surgery.inputs import Inputs, as_one_batch, counted, counted_rows
from unnorm.surgery.outliers import sizes
from unnorm.surgery.passes import run, watched
from unnorm.surgery.sites import find_sites

_ROWS = 2


def has_sinks(model: Any, inputs: Inputs) -> bool:
    """Whether a token of the first rows of `inputs` enters a norm of the stream at `SINK` times the median size."""
    device = next(model.parameters()).device
    batch = {name: tensor[:_ROWS].to(device) for name, tensor in as_one_batch(inputs).items()}
    sites, keep = find_sites(model), counted(batch)
    found: list[bool] = []

    def see(path: str, x: torch.Tensor, out: torch.Tensor) -> None:
        if x.shape[-1] == sites[-1].width:
            size = sizes(counted_rows(keep, x)[0])
            found.append(bool(size.max() >= SINK * size.median()))

    with watched(model, [site.path for site in sites], see):
        run(model, batch)
    return any(found)
