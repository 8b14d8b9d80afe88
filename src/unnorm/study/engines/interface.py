"""What every engine is: tasks are submitted with what they want, and it tells which have ended."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from unnorm.foundation.progress import Say

if TYPE_CHECKING:
    from unnorm.study.tasks import Task


class Wants(NamedTuple):
    """What a task wants. devices: GPUs, where there are any. memory: about how many bytes of the machine's memory, by
    whether it computes on a GPU. alone: nothing else may run beside it, for it measures time."""

    devices: int = 1
    memory: Callable[[bool], int] = lambda on_gpu: 0
    alone: bool = False


class Ended(NamedTuple):
    """A task that has ended, by its id. died: how, if whoever did it is gone without a word; out_of_memory: because it
    was killed for the memory it took."""

    task: str
    died: str = ""
    out_of_memory: bool = False


class Engine(Protocol):
    """Where tasks are done. here: whether in this process. say: everything goes through it meanwhile."""

    say: Say
    here: bool

    def has_room(self, wants: Wants) -> bool:
        """Whether a task would be begun, or queued where the engine has a queue of its own."""

    def submit(self, task: "Task", label: str) -> None:
        """Have it done, once. label: its name for people, and which part of the whole it is."""

    def finished(self) -> list[Ended]:
        """Those that have ended since the last call; returns within a second or so. Raises what must stop the run: a
        `RunError` for a full disk or where nothing can be run at all, `Interrupted`."""

    def cancel(self) -> None:
        """End in order what runs, and let go of everything. Called once, at the end, also when all is done."""


class Options(NamedTuple):
    """What the command line says about engines. Each option but the first belongs to one of them."""

    engine: str = "local"
    workers: str = "1"
    address: str = "auto"
    gpu_share: float = 1.0
    partition: str | None = None
    array_parallelism: int = 256
    sbatch: tuple[str, ...] = ()


class Setting(NamedTuple):
    """What an engine is made for. folder: the study's, in the ledger. threads: of the processor for each task, where
    there is no GPU. devices: the most that a task wants."""

    options: Options
    folder: Path
    say: Say
    quiet: bool = False
    threads: int = 1
    devices: int = 1
