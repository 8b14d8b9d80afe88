"""Keep autocast to training: accelerate patches it into a model's forward, where evaluation would inherit it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def plain_forward(model: Any) -> Iterator[None]:
    """While open, `model` runs its own forward, in the dtype of its weights."""
    patched = model.__dict__.pop("forward", None)
    try:
        yield
    finally:
        if patched is not None:
            model.__dict__["forward"] = patched


@contextmanager
def plain_forward_after(model: Any) -> Iterator[None]:
    """Once closed, `model` has its own forward back for good."""
    try:
        yield
    finally:
        model.__dict__.pop("forward", None)
        model.__dict__.pop("_original_forward", None)
