"""Where weights lie in memory changes how fast a model is, by a percent or two, for nothing that it computes.

Two copies of one model differ so, steadily, as long as both stay where they are; a longer measurement only grows surer
of it. So weights are laid elsewhere before each timed run, and where they lie becomes noise like any other, which the
intervals cover (Mytkowicz et al., ASPLOS 2009; Curtsinger and Berger, ASPLOS 2013).
"""

from itertools import chain
from typing import Any

import numpy as np
import torch

_LINE, _LINES = 64, 1024
"""Bytes of a cache line, and lines within which a tensor is moved: what a second-level cache is indexed by."""


@torch.no_grad()
def lay_elsewhere(model: Any, generator: np.random.Generator) -> None:
    """Copy every parameter and buffer of `model` that is in the CPU's memory to a random other place in it.

    Values, dtypes and the parameter objects stay. On other devices nothing is done: captured graphs hold addresses.
    """
    for tensor in chain(model.parameters(), model.buffers()):
        if tensor.device.type == "cpu" and tensor.layout == torch.strided and tensor.is_contiguous() and tensor.numel():
            size = tensor.element_size()
            start = int(generator.integers(_LINES)) * _LINE // size
            room = torch.empty(tensor.numel() + _LINES * _LINE // size, dtype=tensor.dtype)
            place = room[start : start + tensor.numel()].view(tensor.shape)
            tensor.data = place.copy_(tensor)
