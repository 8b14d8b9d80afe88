"""How far a model that recovers is from its original: measured on held-out tokens at intervals, and at the end."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unnorm.foundation import ranks
from unnorm.foundation.errors import NonFiniteError
from unnorm.foundation.processes import is_main
from unnorm.tuning.distance import Distance, distance
from unnorm.tuning.run_log import RunLog

_BENT_TOO_FAST = (
    "Its curves were bent too fast, or from too far away: give more --tokens, let it recover longer before "
    "(--straighten-after), or leave the MLPs their curves (--straighten-sites attention --straighten-sites final)."
)


class Meter:
    """Measures on held-out tokens at intervals, each time once: what is in the log is not measured again."""

    def __init__(
        self,
        learner: Any,
        original: nn.Module,
        held_out: Sequence[Mapping[str, torch.Tensor]],
        folder: Path,
        broken_apart: bool,
    ) -> None:
        from unnorm.tuning import checkpoint

        self.learner, self.original, self.held_out = learner, original, held_out
        self.broken_apart = broken_apart
        self.log = RunLog(folder / "evaluations.jsonl")
        if is_main():
            last = checkpoint.latest(folder / "checkpoints")
            self.log.cut_after(-1 if last is None else checkpoint.step_of(last))  # another run may have written it
        self.known = {record["step"]: record for record in ranks.of_main(self.log.read())}

    @property
    def note(self) -> str:
        """The newest gap, for people."""
        if not self.known:
            return ""
        newest = self.known[max(self.known)]
        broken = f", {newest['broken']} held-out rows lost" if "broken" in newest else ""
        return f"gap {newest['gap']:+.1%}{broken}"

    def at(self, step: int, tokens: int) -> dict[str, Any]:
        if step not in self.known:
            found = distance(self.learner, self.original, self.held_out, broken_apart=self.broken_apart)
            named = {"step": step, "train_tokens": tokens, "token_accuracy": found.agreement, **found.to_dict()}
            self.known[step] = named
            if is_main():
                self.log.append(named)
        return self.known[step]

    def first_and_last(self) -> tuple[Distance, Distance]:
        """Before the first step, and after the last one."""
        names = Distance.__dataclass_fields__
        ends = (self.known[step] for step in (min(self.known), max(self.known)))
        first, last = (Distance(**{name: found[name] for name in names if name in found}) for found in ends)
        return first, last

    def at_the_end(self, model: Any) -> Distance:
        """Of the model once everything is in its place, which is not logged. Raises `NonFiniteError` where nothing is
        left of a model whose curves were bent."""
        try:
            return distance(model, self.original, self.held_out, broken_apart=self.broken_apart)
        except NonFiniteError as error:
            if not self.broken_apart:
                raise
            raise NonFiniteError(f"{error} {_BENT_TOO_FAST}") from error
