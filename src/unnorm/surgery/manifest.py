"""The manifest that travels with every artefact (`unnorm.json`): what was swapped, on which base, a fingerprint."""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from unnorm.foundation.errors import ArtefactError
from unnorm.surgery.fingerprint import Fingerprint

NAME = "unnorm.json"
VERSION = 1
_MAX_BYTES = 32 * 2**20
_LIBRARIES = ("unnorm", "torch", "transformers", "peft")


class Base(BaseModel):
    """The pretrained base: hub id or folder, and the hash of its weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    hash: str


class SiteEntry(BaseModel):
    """One swapped site: what `Site` holds, and the spec that stands there now."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    path: str
    role: str
    width: int = Field(gt=0, lt=2**24)
    kind: str
    parameters: int = Field(ge=0)
    order: int
    order_is: str
    # The first manifests were written without these three.
    eps: float = 0.0
    affine: str = "unknown"
    residual: str = "unknown"
    spec: dict[str, Any]


class Manifest(BaseModel):
    """Version 1. An unknown key is an error; a newer version is refused before anything else is read."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    version: Literal[1] = 1
    kind: Literal["model", "adapter"]
    architecture: str
    dtype: str
    base: Base
    sites: list[SiteEntry]
    corrected: list[str] = []
    """Paths of linear layers whose weights were corrected; an adapter's folder holds them, since its base does not."""
    libraries: dict[str, str]
    fingerprint: Fingerprint


def read_manifest(folder: Path) -> Manifest:
    """The manifest in `folder`; a missing, damaged or newer one is an `ArtefactError`."""
    import orjson

    path = Path(folder) / NAME
    if not path.is_file():
        raise ArtefactError(
            f"{folder} holds no {NAME}, so unnorm did not save it. A plain model is loaded by its name."
        )
    if path.stat().st_size > _MAX_BYTES:
        raise ArtefactError(f"{path} is larger than any manifest can be; it is damaged or not ours.")
    try:
        content = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise ArtefactError(f"{path} is not valid JSON ({error}). Save the model again.") from error
    found = content.get("version") if isinstance(content, dict) else None
    if isinstance(found, int) and found > VERSION:
        raise ArtefactError(f"{path} has version {found}; this unnorm reads up to {VERSION}. Install a newer unnorm.")
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise ArtefactError(f"{path} is not a manifest of version {VERSION}: {where}: {first['msg']}.") from error


def library_versions() -> dict[str, str]:
    """Versions of the libraries that shape an artefact."""
    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
