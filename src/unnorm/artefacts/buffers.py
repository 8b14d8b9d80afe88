"""A model as it will be once saved and loaded."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from unnorm.artefacts.whole import outline_of
from unnorm.surgery.computed_buffers import replace_, rounded, widen_computed_


@contextmanager
def as_loaded(model: Any) -> Iterator[None]:
    """While open, `model` computes as it will once saved and loaded.

    `model.to(torch.bfloat16)` rounds rotary frequencies too, which a load does not: logits differ by more than noise.
    """
    kept = widen_computed_(model, outline_of(model.config, type(model).__name__)[0]) if rounded(model) else {}
    try:
        yield
    finally:
        for name, buffer in kept.items():
            replace_(model, name, buffer)
