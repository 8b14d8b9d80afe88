"""How a run of a study ended, for its last line and its exit code: what failed, and what waits for what failed."""

from collections import Counter
from typing import NamedTuple

from unnorm.study.failed import failed_of, open_tries
from unnorm.study.failures import DIVERGED
from unnorm.study.view import StudyView


class Ending(NamedTuple):
    """Numbers of things. cells: all of the study's. tries: of the search, failed ones whose slot got no learning rate
    (a rate whose training diverges beside others is an answer). hopeless: cells that wait although every try of theirs
    diverged, which another try would do again. stages: failed ones, of cells and of pairs."""

    cells: int
    failed: int
    waiting: int
    hopeless: int
    tries: int
    stages: int

    def in_words(self) -> str | None:
        """What went wrong and how to go on; None where nothing did."""
        counts = [f"{self.failed} of {self.cells} cells failed"] * bool(self.failed)
        if self.waiting:
            counts.append(f"{self.waiting} of {self.cells} cells wait for a learning rate")
        if self.tries:
            counts.append(f"{self.tries} {'tries' if self.tries > 1 else 'try'} of the search failed")
        if self.stages:
            counts.append(f"{self.stages} {'stages' if self.stages > 1 else 'stage'} after training failed")
        if not counts:
            return None
        advice = ["study status says why"]
        if self.failed or self.stages or self.waiting > self.hopeless:
            advice.append("study retry runs them again")
        if self.hopeless:
            advice.append("where every try diverged, give `tune` lower rates")
        return f"{'; '.join(counts)}: {', '.join(advice)}"


def ending_of(view: StudyView) -> Ending:
    """Of a study as it stands after a run."""
    failed = Counter(each.kind for each in failed_of(view))
    hopeless = {slot for slot, its in open_tries(view).items() if all(one.failure == DIVERGED for one in its)}
    waiting = [cell for cell in view.cells if cell.state not in ("done", "failed")]
    return Ending(
        cells=len(view.cells),
        failed=failed["cell"],
        waiting=len(waiting),
        hopeless=sum(cell.place.slot in hopeless for cell in waiting),
        tries=failed["try"],
        stages=failed["stage"],
    )
