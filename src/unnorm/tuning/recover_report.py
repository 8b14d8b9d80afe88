"""What a recovery did, for people and for files."""

from dataclasses import asdict, dataclass, field
from typing import Any

from unnorm.tuning.distance import Distance
from unnorm.tuning.recover_settings import RecoverSettings


@dataclass(frozen=True)
class RecoverReport:
    """What a recovery did. KL and losses in nats a token, on tokens that it did not learn from."""

    kl_before: float
    kl_after: float
    gap_before: float
    """Held-out loss over the original's, less 1."""
    gap_after: float
    original_loss: float
    kept: bool
    """False where the held-out tokens got worse: the model is as it was."""
    train: str
    """`all`, `lora`, `norms` or `corrected`."""
    objective: str
    """`kl` or `ce`."""
    steps: int
    tokens: int
    parameters: int
    """How many learnt."""
    seconds: float
    held_out_tokens: int
    reached_target: bool
    losses: tuple[float, ...] = field(repr=False)
    """What was minimized, in nats a token: each step's, on the tokens that it learnt from."""
    curve: tuple[dict[str, float], ...] = field(repr=False)
    """train_tokens, kl, loss, gap on held-out tokens, from the start on."""
    straightened: int = 0
    """How many curves became fixed scales."""
    broken: int = 0
    """Held-out rows of which nothing is left afterwards, since nothing bounds a token; no figure holds them."""

    def describe(self) -> str:
        """One line for people."""
        kept = "" if self.kept else "; the held-out tokens got worse, so the start was put back"
        done = "trained by cross-entropy" if self.objective == "ce" else "recovered"
        early = ", the target is reached" if self.reached_target else ""
        straight = f"; {self.straightened} curves are fixed scales now" if self.straightened else ""
        if self.broken:
            straight += (
                f", and in {self.broken} held-out rows, which are in none of these figures, a token runs away and "
                "nothing is left: not usable yet, so go on with more tokens"
            )
        return (
            f"{done} ({self.train}) from {self.tokens:,} tokens in {self.seconds:.0f} s{early}: held-out gap "
            f"{self.gap_before:+.1%} -> {self.gap_after:+.1%}, KL to the original {self.kl_before:.4f} -> "
            f"{self.kl_after:.4f} nats a token{straight}{kept}"
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def between(before: Distance, after: Distance, settings: RecoverSettings) -> dict[str, Any]:
    """The fields of a report that two measurements give."""
    return {
        "kl_before": before.kl,
        "kl_after": after.kl,
        "gap_before": before.gap,
        "gap_after": after.gap,
        "original_loss": before.original_loss,
        "train": settings.train,
        "objective": settings.objective,
        "held_out_tokens": after.tokens,
        "reached_target": settings.target is not None and after.gap <= settings.target,
    }
