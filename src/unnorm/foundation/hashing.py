"""Content hashes: of configurations (short names for folders) and of tensors (the identity of a base)."""

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    import torch


def hash_json(content: Any, length: int = 16) -> str:
    """Hex digest of `content` as canonical JSON (keys sorted), cut to `length` characters."""
    return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()[:length]


def hash_text(text: str) -> int:
    """A 64-bit number from `text`, the same on every machine and in every process."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")


def hash_tensors(tensors: Mapping[str, "torch.Tensor"]) -> str:
    """Identity of a set of named tensors: names, shapes and values, whatever dtype or device they are held in.

    Values are hashed as fp32, to which bf16 and fp16 widen exactly, so a bf16 checkpoint loaded as fp32 keeps its
    hash. XXH3 (128 bit): it tells bases apart, it does not defend against forgery.
    """
    import torch
    import xxhash

    digest = xxhash.xxh3_128()
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        digest.update(f"{name}:{tuple(tensor.shape)};".encode())
        if tensor.numel():
            plain = tensor.to("cpu", torch.float32 if tensor.is_floating_point() else tensor.dtype)
            digest.update(plain.contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()
