"""What a verb that computes with a loaded model sets up first."""

from typing import Any

from unnorm.cli.output import say


def compute_fast(*models: Any) -> None:
    """Let each model compute in a precision that its device multiplies natively, and say so where that is a change."""
    from unnorm.foundation.precision import widen_

    for model in models:
        done = widen_(model, next(model.parameters()).device)
        if done is not None:
            say(done)
