"""What a recovery block by block has finished, on disk: a safetensors file a block; `state.json` names the run.

A block's file takes its place by one rename, and after it the state that names it: whatever kills the run, the state
speaks of whole files alone.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from unnorm.foundation import atomic
from unnorm.foundation.errors import ArtefactError, SettingsError

_STATE = "state.json"


class BlockStore:
    """The finished blocks in `folder`, in a run of this name.

    digests: of every block as it is in the model at hand. Those of finished blocks may be their start's or their end's.
    Raises `SettingsError` where the folder holds another run.
    """

    def __init__(self, folder: Path, run: str, digests: Mapping[str, str]) -> None:
        self.folder = folder
        path = folder / _STATE
        state: Any = atomic.read_json(path) if path.exists() else {"run": run, "start": dict(digests), "finished": {}}
        try:
            self.start: dict[str, str] = state["start"]
            self.finished: dict[str, dict[str, Any]] = state["finished"]
            same = state["run"] == run and self.start.keys() == digests.keys()
            changed = [b for b in digests if digests[b] not in (self.start.get(b), self.finished.get(b, {}).get("end"))]
        except (KeyError, TypeError, AttributeError) as error:
            raise ArtefactError(f"{path} is no state of a recovery block by block. Give another folder.") from error
        if not same or changed:
            what = f"block {changed[0]} of this model is another" if same else "its settings, data or models differ"
            raise SettingsError(
                f"{folder} holds another recovery block by block: {what}. "
                "Give another folder, or delete this one to start afresh."
            )
        self.run = run
        if not path.exists():
            self._write()

    def load(self, block: str, own: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The parameters of a finished block. own: the model's, by name; a file that does not fit: `ArtefactError`."""
        path = self.folder / self.finished[block]["file"]
        try:
            stored = load_file(str(path))
        except (SafetensorError, OSError) as error:
            raise ArtefactError(f"{path} cannot be read ({error}). Delete {self.folder} to start afresh.") from error
        wrong = [name for name, value in stored.items() if name not in own or own[name].shape != value.shape]
        if wrong:
            raise ArtefactError(f"{path} does not fit {block}: {wrong[0]}. Delete {self.folder} to start afresh.")
        return stored

    def keep(self, block: str, values: Mapping[str, torch.Tensor], end: str, record: Mapping[str, Any]) -> None:
        """Write a finished block. end: the digest of the whole block as it is now; record: its line of the report."""
        name = f"block-{len(self.finished):04d}.safetensors"
        atomic.write_bytes(self.folder / name, save({n: v.detach().cpu().contiguous() for n, v in values.items()}))
        self.finished[block] = {"file": name, "end": end, "record": dict(record)}
        self._write()

    def _write(self) -> None:
        atomic.write_json(self.folder / _STATE, {"run": self.run, "start": self.start, "finished": self.finished})
