"""What a verb that computes with loaded models sets up first."""

from typing import Any

from unnorm.cli.output import say


def compute_fast(*models: Any) -> None:
    """Compute in a precision that the models' device multiplies natively, and on as many threads as pay for the first
    of them; say so where that is a change."""
    from unnorm.foundation import threads
    from unnorm.foundation.precision import widen_
    from unnorm.tuning.threads import threads_for

    for model in models:
        done = widen_(model, next(model.parameters()).device)
        if done is not None:
            say(done)
    found = threads_for(models[0])
    if threads.decided() is None:
        say(f"computing on {found.describe()}")
    threads.use(found.number)
