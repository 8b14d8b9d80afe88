"""Content hashes: of configurations (short names for folders), of tensors (the identity of a base), of our own code."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    import torch
from functools import lru_cache
from importlib.resources import files

_CHUNK = 2**22


def hash_json(content: Any, length: int = 16) -> str:
    """Hex digest of `content` as canonical JSON (keys sorted), cut to `length` characters."""
    return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()[:length]


def hash_text(text: str) -> int:
    """A 64-bit number from `text`, the same on every machine and in every process."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")


def hash_tensors(tensors: Mapping[str, "torch.Tensor"]) -> str:
    """Identity of a set of named tensors: names, shapes and values, whatever dtype or device they are held in."""
    return hash_digests(digest_tensors(tensors))


def hash_digests(digests: dict[str, str]) -> str:
    """`hash_tensors` of the tensors whose digests these are."""
    return hash_json(digests, length=32)


def digest_tensors(tensors: Mapping[str, "torch.Tensor"]) -> dict[str, str]:
    """Name -> hex digest of each tensor's shape and values. What `hash_tensors` is made of, to say what differs.

    Values are hashed as fp32, to which bf16 and fp16 widen exactly, so a bf16 checkpoint loaded as fp32 keeps its
    digests. XXH3 (64 bit): it tells bases apart, it does not defend against forgery.
    """
    return {name: _digest(tensors[name].detach()) for name in sorted(tensors)}


def _digest(tensor: "torch.Tensor") -> str:
    import torch
    import xxhash

    digest = xxhash.xxh3_64(str(tuple(tensor.shape)).encode())
    flat = tensor.reshape(-1)
    for at in range(0, flat.numel(), _CHUNK):  # in parts: a whole table of embeddings, widened, may not fit
        part = flat[at : at + _CHUNK]
        plain = part.to("cpu", torch.float32 if part.is_floating_point() else part.dtype)
        digest.update(plain.contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def digest_file(path: Path) -> str:
    """Hex digest of a file's bytes (XXH3, 128 bit), read a block at a time: it finds damage, not forgery."""
    import xxhash

    digest = xxhash.xxh3_128()
    with open(path, "rb") as file:
        while block := file.read(_CHUNK):
            digest.update(block)
    return digest.hexdigest()


@lru_cache
def code_digest() -> str:
    """Digest of unnorm's own source files: between releases the version alone does not tell what ran."""
    return hash_json(sorted(_sources(files("unnorm"), "")))


def _sources(folder: Any, prefix: str) -> list[tuple[str, str]]:
    found = []
    for entry in folder.iterdir():
        if entry.is_dir():
            found += _sources(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(".py"):
            found.append((prefix + entry.name, entry.read_text(encoding="utf-8")))
    return found


def this_code() -> str:
    """Version and digest, as they are compared between machines."""
    from importlib.metadata import version  # late: it brings all of `email` along

    return f"{version('unnorm')} (code {code_digest()})"
