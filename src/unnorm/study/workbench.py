"""What cells share, prepared once: the base, its encoded data, the swapped and calibrated start.

Only the last of each is kept, so cells that share them should follow one another: strategy innermost, then arm.
"""

import copy
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from unnorm.artefacts.saving import is_artefact
from unnorm.data.prepare import Rows, Source
from unnorm.data.settings import DataSettings
from unnorm.foundation.errors import ModelError
from unnorm.foundation.hashing import hash_tensors
from unnorm.study.arms import Arm
from unnorm.study.begun import Start, check_saved, identity_of, recovered_start, saved_start
from unnorm.study.start import start_
from unnorm.surgery.base import check_length, load_base, load_tokenizer
from unnorm.surgery.sites import Site, reached_sites
from unnorm.surgery.swap import settle_
from unnorm.tuning.packing_probe import packing_is_clean

T = TypeVar("T")


class LoadedBase(NamedTuple):
    """A pretrained model that is never trained itself: `model` is copied for each cell."""

    model: Any
    tokenizer: Any
    hash: str
    packs: bool


class Size(NamedTuple):
    """parameters; width; layers; vocabulary: numbers of them, 0 where a model does not say."""

    parameters: int
    width: int
    layers: int
    vocabulary: int


class Workbench:
    """Prepares and keeps what cells share. `quiet` hides progress bars."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self._kept: dict[str, tuple[Hashable, Any]] = {}
        self._identities: dict[Hashable, dict[str, Any]] = {}
        self._sizes: dict[str, Size] = {}
        self._packs: dict[str, bool] = {}

    def base(self, name: str) -> LoadedBase:
        """The base `name`, its tokenizer, its hash, and whether rows can be packed into it."""
        return self._keep("base", name, lambda: self._load(name))

    def sites(self, name: str) -> list[Site]:
        """The norm sites of the base `name` that text reaches."""
        return self._keep("sites", name, lambda: reached_sites(self.base(name).model))

    def size(self, name: str) -> "Size":
        """How large the base `name` is; kept of all of them."""
        if name not in self._sizes:
            self.base(name)
        return self._sizes[name]

    def packs(self, name: str) -> bool:
        """Whether rows can be packed into the base `name`; kept of all of them."""
        if name not in self._packs:
            self.base(name)
        return self._packs[name]

    def source(self, data: DataSettings, model: str) -> Source:
        """The data set, read and split, encoded with the tokenizer of `model`."""
        check_length(self.base(model).model, data.max_length)
        key = (data, model)
        return self._keep("source", key, lambda: Source(data, self.base(model).tokenizer, quiet=self.quiet))

    def identity(self, data: DataSettings, model: str) -> dict[str, Any]:
        """The hash of what the data set says, and what else shapes its rows, as plain values; kept of all of them."""
        if (data, model) not in self._identities:
            source = self.source(data, model)
            self._identities[data, model] = {"hash": source.hash, **source.encoding}
        return self._identities[data, model]

    def train_rows(self, data: DataSettings, model: str, tokens: int, seed: int) -> Rows:
        """Training rows in the order of `seed`."""
        packs = self.base(model).packs
        key = (data, model, tokens, seed)
        return self._keep("train", key, lambda: self.source(data, model).train(tokens, seed, packs))

    def validation_rows(self, data: DataSettings, model: str, tokens: int) -> Rows:
        """Held-out rows, the same for every seed."""
        packs = self.base(model).packs
        key = (data, model, tokens)
        return self._keep("validation", key, lambda: self.source(data, model).validation(tokens, packs))

    def start(self, model: str, arm: Arm, data: DataSettings, tokens: int, seed: int) -> Start:
        """A copy of the model as `arm` starts: swapped, and fitted to the first training rows where it calibrates; or
        the saved model that the arm begins from.

        A start that recovers is made once, in a folder of its own: it is `recovered_start`'s.
        """
        assert arm.recover is None, "this start is to be made by make_start, and loaded"
        if arm.artefact is not None:
            manifest = check_saved(arm.artefact, model, self.base(model).hash)
            of_saved = (arm.artefact, identity_of(manifest))
            kept = self._keep("start", of_saved, lambda: saved_start(str(arm.artefact), manifest))
            return kept._replace(model=copy.deepcopy(kept.model))
        key = (model, arm.model_dump_json(), data, tokens, seed)
        train = self.train_rows(data, model, tokens, seed)
        kept = self._keep("start", key, lambda: self._swap(self.base(model).model, arm, train))
        return kept._replace(model=copy.deepcopy(kept.model))

    def recovered_start(self, folder: Path) -> Start:
        """A copy of the model of a recovered start that is done; `folder` is the start's."""
        kept = self._keep("start", folder, lambda: recovered_start(folder))
        return kept._replace(model=copy.deepcopy(kept.model))

    def saved_identity(self, model: str, arm: Arm) -> str | None:
        """What the saved model that `arm` begins from is, by its content; None where it begins from none. Reads no
        weights."""
        if arm.artefact is None:
            return None
        return identity_of(check_saved(arm.artefact, model, self.base(model).hash))

    def let_go(self) -> None:
        """Keep nothing any longer: others will do the work."""
        self._kept.clear()

    def let_go_of_start(self) -> None:
        """Keep no start any longer, for the sake of memory; it is made again when it is asked for."""
        self._kept.pop("start", None)

    def _keep(self, kind: str, key: Hashable, make: Callable[[], T]) -> T:
        if kind not in self._kept or self._kept[kind][0] != key:
            self._kept.pop(kind, None)  # let go of the old one before the new one is made
            self._kept[kind] = (key, make())
        kept: T = self._kept[kind][1]
        return kept

    def _load(self, name: str) -> LoadedBase:
        if is_artefact(name):
            raise ModelError(
                f"{name} is an artefact of unnorm, and a model of a study is a plain base. Give its base, and begin an "
                f"arm from it: {{id: mine, artefact: {name}}}."
            )
        model = load_base(name)
        config = model.config.get_text_config()
        widths = (getattr(config, key, None) or 0 for key in ("hidden_size", "num_hidden_layers", "vocab_size"))
        self._sizes[name] = Size(sum(p.numel() for p in model.parameters()), *widths)
        self._packs[name] = packing_is_clean(model)
        return LoadedBase(model, load_tokenizer(name), hash_tensors(model.state_dict()), self._packs[name])

    def _swap(self, base: Any, arm: Arm, train: Rows) -> Start:
        model = copy.deepcopy(base)
        started = start_(model, arm, train if arm.calibration_tokens is not None else None)
        settle_(model)
        if started is None:
            return Start(model, None, None, "")
        return Start(model, started.to_dict(), None, started.describe())
