"""The manifest that travels with every artefact (`unnorm.json`): what was swapped, on which base, a fingerprint.

An artefact may come from anywhere, so nothing in a manifest is believed before it is checked: names of files stay in
the folder, sizes are bounded, an unknown key is an error.
"""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from unnorm.artefacts.fingerprint import Fingerprint
from unnorm.foundation import hub, lfs
from unnorm.foundation.errors import ArtefactError
from unnorm.foundation.validation import Misplaced, dotted, sentence, validated
from unnorm.surgery.sites import Site

NAME = "unnorm.json"
VERSION = 2
_MAX_BYTES = 256 * 2**20
_LIBRARIES = ("unnorm", "torch", "transformers", "peft")

_PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
FileName = Annotated[str, StringConstraints(pattern=rf"^{_PART}(/{_PART}){{0,2}}$", max_length=1000)]
"""A file of the folder, or of folders in it; never above it."""
ModulePath = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*$", max_length=1000)]
AdapterName = Annotated[str, StringConstraints(pattern=rf"^{_PART}$", max_length=100)]
ClassName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=200)]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16,32}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BaseEntry(_Strict):
    """A pretrained base (hub id or folder), or the artefact's folder that an adapter stands on; its tensors' hash."""

    name: str = Field(max_length=4096)
    hash: Digest | Literal[""]
    artefact: bool = False

    @property
    def hub_id(self) -> str | None:
        """The repository on the hub, if the name can be that of one; without a revision."""
        return hub.parse(self.name).repository if hub.is_name(self.name) else None

    @property
    def public_name(self) -> str:
        """A hub id as it is; of a folder its last part: where it lay is nobody's business."""
        return self.name if self.hub_id else self.name.rstrip("/").rsplit("/", 1)[-1]


class File(_Strict):
    """A file of the artefact, as it was written."""

    bytes: int = Field(ge=0)
    digest: Digest


class SiteEntry(_Strict):
    """One swapped site: what `Site` holds, and the spec that stands there now."""

    path: ModulePath
    role: str
    width: int = Field(gt=0, lt=2**24)
    kind: str
    parameters: int = Field(ge=0)
    order: int
    order_is: str
    eps: float
    affine: str
    residual: str
    spec: dict[str, Any]

    def site(self) -> Site:
        return Site(**self.model_dump(exclude={"spec"}))


class Manifest(_Strict):
    """Version 2. An unknown key is an error; another version is refused before anything else is read."""

    version: Literal[2] = 2
    kind: Literal["model", "adapter", "package"]
    architecture: ClassName
    dtype: Literal["float32", "bfloat16", "float16", "float64"]
    base: BaseEntry
    sites: list[SiteEntry] = Field(max_length=100_000)
    corrected: list[ModulePath] = Field(default=[], max_length=100_000)
    """Paths of linear layers whose weights were corrected; an adapter's folder holds them, since its base does not."""
    measured: dict[str, Any] | None = None
    """The held-out gap to the original, as it was measured before saving: gap, loss, original_loss, kl, tokens;
    broken, where of so many rows nothing was left."""
    recovered: dict[str, Any] | None = None
    """What a recovery learnt from, and what learnt."""
    tensors: dict[str, Digest]
    """Name -> digest of the weights: a whole model's own, or those of the base that an adapter stands on."""
    tied: dict[str, str] = {}
    """Names that share another name's tensor, and are therefore not stored: name -> the other one."""
    files: dict[FileName, File]
    adapters: dict[AdapterName, Fingerprint] = Field(default={}, max_length=1000)
    """The adapters of the folder, each with the fingerprint of the model that wears it."""
    libraries: dict[str, str]
    fingerprint: Fingerprint
    """Of the swapped model without an adapter."""


def read_manifest(folder: Path) -> Manifest:
    """The manifest in `folder`; a missing, damaged or newer one is an `ArtefactError`."""
    import orjson

    path = Path(folder) / NAME
    if not Path(folder).is_dir():
        raise ArtefactError(f"there is no folder {folder}.")
    if (Path(folder) / "model" / NAME).is_file():
        raise ArtefactError(f"{folder} is the folder of a run; its model is {Path(folder) / 'model'}. Give that one.")
    if not path.is_file():
        raise ArtefactError(
            f"{folder} holds no {NAME}, so unnorm did not save it. Give a folder that unnorm swap, recover or finetune "
            "wrote, or unnorm.save. A plain model is loaded with transformers."
        )
    if path.stat().st_size > _MAX_BYTES:
        raise ArtefactError(f"{path} is larger than any manifest can be; it is damaged or not ours.")
    if lfs.is_pointer(path):
        raise ArtefactError(f"{path} is a Git LFS pointer, not the file itself. {lfs.REMEDY}")
    try:
        content = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise ArtefactError(f"{path} is not valid JSON ({error}). Save the model again.") from error
    found = content.get("version") if isinstance(content, dict) else None
    if isinstance(found, int) and found > VERSION:
        raise ArtefactError(f"{path} has version {found}; this unnorm reads version {VERSION}. Install a newer unnorm.")
    if isinstance(found, int) and found < VERSION:
        raise ArtefactError(f"{path} has version {found}, from before the first release. Save the model again.")
    try:
        return validated(Manifest, content)
    except Misplaced as error:
        where = dotted(error.location) or "the whole"
        raise ArtefactError(f"{path} is not a manifest of version {VERSION}: {where}: {sentence(error)}") from error


def manifest_of(content: dict[str, Any], files: dict[str, File]) -> Manifest:
    """The manifest of `content` and `files`; what could not be read again is an `ArtefactError`."""
    try:
        return validated(Manifest, {**content, "files": files})
    except Misplaced as error:
        where = dotted(error.location) or "the whole"
        raise ArtefactError(f"this model cannot be saved as an artefact: {where}: {sentence(error)}") from error


def library_versions() -> dict[str, str]:
    """Versions of the libraries that shape an artefact."""
    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
