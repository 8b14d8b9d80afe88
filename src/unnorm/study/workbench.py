"""What cells share, prepared once: the base, its encoded data, the swapped and calibrated start.

Only the last of each is kept, so cells that share them should follow one another: strategy innermost, then arm.
"""

import copy
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple, TypeVar

from unnorm.data.prepare import Rows, Source
from unnorm.data.settings import DataSettings
from unnorm.foundation.hashing import hash_tensors
from unnorm.study.arms import Arm
from unnorm.study.start import Started, start_
from unnorm.surgery.base import check_length, load_base, load_tokenizer
from unnorm.surgery.swap import settle_
from unnorm.tuning.packing_probe import packing_is_clean

T = TypeVar("T")


class Base(NamedTuple):
    """A pretrained model that is never trained itself: `model` is copied for each cell."""

    model: Any
    tokenizer: Any
    hash: str
    packs: bool


class Start(NamedTuple):
    """The model that a cell starts from, before what trains is decided; copied for each cell."""

    model: Any
    report: Started | None
    recovery: dict[str, Any] | None
    """What the recovery in it did; None where there was none."""


class Workbench:
    """Prepares and keeps what cells share. `quiet` hides progress bars."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self._kept: dict[str, tuple[Hashable, Any]] = {}

    def base(self, name: str) -> Base:
        """The base `name`, its tokenizer, its hash, and whether rows can be packed into it."""
        return self._keep("base", name, lambda: self._load(name))

    def source(self, data: DataSettings, model: str) -> Source:
        """The data set, read and split, encoded with the tokenizer of `model`."""
        check_length(self.base(model).model, data.max_length)
        key = (data, model)
        return self._keep("source", key, lambda: Source(data, self.base(model).tokenizer, quiet=self.quiet))

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
        """A copy of the model as `arm` starts: swapped, and fitted to the first training rows where it calibrates."""
        key = (model, arm.model_dump_json(), data, tokens, seed)
        train = self.train_rows(data, model, tokens, seed)
        kept = self._keep("start", key, lambda: self._swap(self.base(model).model, arm, train))
        return Start(copy.deepcopy(kept.model), kept.report, kept.recovery)

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

    def _load(self, name: str) -> Base:
        model = load_base(name)
        return Base(model, load_tokenizer(name), hash_tensors(model.state_dict()), packing_is_clean(model))

    def _swap(self, base: Any, arm: Arm, train: Rows) -> Start:
        model = copy.deepcopy(base)
        started = start_(model, arm, train if arm.calibration_tokens is not None else None)
        settle_(model)
        return Start(model, started, None)
