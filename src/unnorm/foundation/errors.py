"""Every error a user can cause, and the exit code each one carries.

A message says what was wrong, where, and what to do next. Bugs of our own are `assert`s, never these.
"""


class UnnormError(Exception):
    """Base of every error a user can cause. `exit_code` is what the command line returns for it."""

    exit_code = 2


class ModelError(UnnormError):
    """The model cannot be loaded, or has no place for what was asked."""


class SiteError(UnnormError):
    """No norm site, or no site that a pattern matches."""


class DataError(UnnormError):
    """The data is missing, empty, or of a form that is not understood."""


class SettingsError(UnnormError):
    """A setting contradicts another one, or the model, or the machine.

    location: keys and indices down to it, from the value that holds it, for whoever knows a file's lines.
    """

    def __init__(self, message: str, *location: int | str) -> None:
        super().__init__(message)
        self.location = location


class ArtefactError(UnnormError):
    """A saved folder is damaged, of a newer version, or does not belong to the base it is put on."""


class RunError(UnnormError):
    """A run started and failed; what it had finished is kept."""

    exit_code = 1


class StartError(RunError):
    """The start that a run begins from could not be made."""


class NonFiniteError(RunError):
    """The loss or the gradient is NaN or infinite."""


class DiskError(RunError):
    """The disk is full, or the folder cannot be written."""


class Interrupted(UnnormError):
    """The user asked to stop; what had been reached was checkpointed, and the same command goes on from there."""

    exit_code = 130


def first_line(error: BaseException) -> str:
    """The first line of an error's own message, shortened, ending in a full stop: for what libraries raise."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    text = lines[0][:300].rstrip()
    return text if text.endswith((".", "!", "?")) else text + "."


def json_problem(error: ValueError) -> str:
    """What is wrong with one line of JSON, by its character: its parser would call each line the first."""
    message, position = getattr(error, "msg", str(error)), getattr(error, "pos", None)
    return str(message) if position is None else f"{message} at character {position + 1}"
