"""Tasks done by a Slurm cluster, through submitit: those that are ready together become one array job.

A job does one task. Before its time is up, or when it is pre-empted, it ends its step, saves, gives the task back and
has itself queued again. Jobs go on while no driver is there; the next one finds those that it has submitted.
"""

import getpass
import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unnorm.foundation import atomic
from unnorm.foundation.errors import Interrupted, RunError, SettingsError, UnnormError, first_line
from unnorm.foundation.hashing import this_code
from unnorm.foundation.processes import this_process
from unnorm.foundation.progress import Say
from unnorm.study.engines.interface import Ended, Engine, Options, Setting, Wants
from unnorm.study.progress_lines import Lines

if TYPE_CHECKING:
    from unnorm.study.tasks import Task

OPTIONS = ("partition", "array_parallelism", "sbatch")
FOLDER = "slurm"
"""In the study's: submitit's scripts and logs, and which job has which task."""
_JOBS = "jobs.json"
_MINUTES = 240
"""Of a job that is given no time: it saves and is queued again when they are over."""
_TIMES_QUEUED_AGAIN = 1000
_OURS = ("array", "signal", "output", "error", "requeue", "open_mode")
_LOOK = 20.0
"""Seconds between two questions to Slurm."""
_AT_WORK = ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT")
_QUEUED = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "RUNNING")

_own_job = ""


def check(options: Options, devices: int) -> None:
    """That submitit is installed, this machine submits to a Slurm cluster, and `--sbatch` can be understood."""
    try:
        import submitit
    except ImportError as error:
        raise SettingsError("--engine slurm needs submitit: pip install 'unnorm[slurm]'.") from error
    parameters(options)
    if submitit.SlurmExecutor.affinity() < 0:
        raise SettingsError("there is no srun here, so this machine cannot submit to a Slurm cluster.")


def make(setting: Setting) -> Engine:
    """Ready to submit."""
    import submitit

    folder = setting.folder.absolute() / FOLDER
    return Slurm(setting, submitit.SlurmExecutor(folder, max_num_timeout=_TIMES_QUEUED_AGAIN))


def is_gone(owner: Mapping[str, Any]) -> bool:
    """Slurm runs its job no longer; or this is the job itself, begun again. False where Slurm cannot be asked."""
    if owner.get("job") == _own_job:
        return any(owner.get(name) != value for name, value in this_process().items())
    states = _states(int(time.monotonic() / _LOOK))
    return states is not None and states.get(str(owner.get("job"))) not in _AT_WORK


def parameters(options: Options) -> dict[str, Any]:
    """What sbatch is told, in submitit's words. An option that is ours, or cannot be understood: `SettingsError`."""
    from submitit import SlurmExecutor

    known = SlurmExecutor._valid_parameters()
    others: dict[str, Any] = {"requeue": True}
    found: dict[str, Any] = {"array_parallelism": options.array_parallelism, "time": _MINUTES}
    found |= {"partition": options.partition} if options.partition else {}
    for text in options.sbatch:
        key, equals, value = text.removeprefix("--").partition("=")
        name = key.replace("-", "_")
        if not key or not equals:
            raise SettingsError(f"--sbatch is KEY=VALUE, as account=mine, not {text!r}.")
        if name in _OURS:
            raise SettingsError(f"--sbatch {key} is not yours to set: unnorm needs it to queue a job again.")
        if name == "time":
            found["time"] = _minutes(value)
        elif name in known:
            found[name] = int(value) if value.isdigit() else value
        else:
            others[key] = int(value) if value.isdigit() else value
    return {**found, "additional_parameters": others}


class Job:
    """What a job does. submitit keeps it in a file beside its logs, and calls `checkpoint` before queueing it again."""

    def __init__(self, told: dict[str, Any], task: str) -> None:
        self.told, self.task = told, task
        self.folder, self.code = os.getcwd(), this_code()

    def __call__(self) -> tuple[list[str], str | None]:
        """Do the task. What was said, and what must stop the run."""
        from submitit import JobEnvironment

        from unnorm.study.task_list import do_told

        global _own_job
        job = JobEnvironment()
        _own_job = job.job_id
        if self.code != this_code():
            where = this_process()["host"]
            return [], f"node {where} has unnorm {this_code()}, and the driver {self.code}. Install the same on both."
        os.chdir(self.folder)
        queue_again, asked = signal.getsignal(job._usr_sig()), []

        def ask(number: int, frame: Any) -> None:  # submitit's own handler would leave in the middle of a step
            asked.append(number)
            signal.raise_signal(signal.SIGINT)

        signal.signal(job._usr_sig(), ask)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        said: list[str] = []
        try:
            do_told(self.told, self.task, said.append, {"engine": "slurm", "job": job.job_id})
        except (Interrupted, KeyboardInterrupt):
            if asked and callable(queue_again):
                queue_again(asked[0], None)
        except UnnormError as error:
            return said, str(error)
        return said, None

    def checkpoint(self) -> Any:
        """The same once more: what was reached is in the ledger."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


class Slurm:
    """Submits through submitit's `executor`."""

    here = False

    def __init__(self, setting: Setting, executor: Any) -> None:
        self.setting, self.executor = setting, executor
        self.lines = Lines(setting.say, quiet=setting.quiet)
        self.say: Say = self.lines.show
        self.waiting: list[Task] = []
        self.tasks: dict[str, Task] = {}
        self.running: dict[str, Any] = {}  # the task's id: submitit's job
        self.file = Path(executor.folder) / _JOBS
        self.submitted = dict(atomic.read_json(self.file)) if self.file.is_file() else {}

    def has_room(self, wants: Wants) -> bool:
        return True  # Slurm has a queue

    def submit(self, task: "Task", label: str) -> None:
        self.tasks[task.id] = task
        earlier, states = self.submitted.get(task.id), _states(int(time.monotonic() / _LOOK)) or {}
        if earlier is not None and states.get(earlier) in _QUEUED:  # a driver before this one has submitted it
            self.running[task.id] = self.executor.job_class(self.executor.folder, earlier)
        else:
            self.waiting.append(task)

    def finished(self) -> list[Ended]:
        self._submit_those_that_wait()
        time.sleep(1.0)
        self.lines.look([self.tasks[name] for name in self.running])
        return [self._end(name, job) for name, job in list(self.running.items()) if job.done()]

    def cancel(self) -> None:
        """Slurm lets each job end its step and save, for as long as its KillWait is."""
        for job in self.running.values():
            job.cancel(check=False)
        self.lines.close()

    def _submit_those_that_wait(self) -> None:
        """One array of each kind of job."""
        kinds: dict[tuple[int, bool], list[Task]] = {}
        for task in self.waiting:
            kinds.setdefault((task.wants.devices, task.wants.alone), []).append(task)
        self.waiting = []
        for tasks in kinds.values():
            self.executor.update_parameters(**self._parameters_of(tasks))
            try:
                with self.executor.batch():
                    jobs = [self.executor.submit(Job(task.told(), task.id)) for task in tasks]
            except Exception as error:
                raise RunError(f"Slurm has not taken the jobs: {first_line(error)}") from error
            self.running |= {task.id: job for task, job in zip(tasks, jobs, strict=True)}
            self.submitted |= {task.id: job.job_id for task, job in zip(tasks, jobs, strict=True)}
        if kinds:
            atomic.write_json(self.file, self.submitted)

    def _parameters_of(self, tasks: list["Task"]) -> dict[str, Any]:
        """Of an array: what its largest task wants, where the command line does not say otherwise."""
        said, devices = parameters(self.setting.options), tasks[0].wants.devices
        on_gpu = devices > 1 or any(name in said for name in ("gpus_per_node", "gpus_per_task", "gres"))
        memory = max(task.wants.memory(on_gpu) for task in tasks)
        wanted: dict[str, Any] = {"job_name": f"unnorm-{self.setting.folder.name}", "mem": f"{-(-memory // 2**20)}M"}
        wanted |= {} if on_gpu else {"cpus_per_task": self.setting.threads * devices}
        wanted |= {"exclusive": True} if tasks[0].wants.alone else {}
        return {**wanted, **said, **({"gpus_per_node": devices} if devices > 1 else {})}

    def _end(self, name: str, job: Any) -> Ended:
        del self.running[name]
        self.lines.forget(self.tasks[name].name)
        state = job.state
        try:
            said, stop = job.result()
        except Exception as error:
            short = state == "OUT_OF_MEMORY"
            return Ended(name, f"Slurm's job {job.job_id} ended as {state}: {first_line(error)}", out_of_memory=short)
        self.lines.show_new(said)
        if stop is not None:
            raise RunError(stop)
        return Ended(name)


def _minutes(text: str) -> int:
    """Slurm's ways to write a time: minutes, M:S, H:M:S, D-H, D-H:M, D-H:M:S."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if match is None:
        raise SettingsError(f"--sbatch time={text} is no time: give minutes, or hours:minutes:seconds.")
    days, first, second, third = (int(part) if part else None for part in match.groups())
    assert first is not None
    if days is not None:
        return days * 1440 + first * 60 + (second or 0)
    return first if third is None else first * 60 + (second or 0)


@lru_cache(maxsize=1)
def _states(moment: int) -> dict[str, str] | None:
    """The user's jobs in the queue, job: state; None where Slurm does not answer. moment: asked once in each."""
    command = ["squeue", "--noheader", "--array", "--format=%i %T", f"--user={getpass.getuser()}"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return dict(pair for line in answer.splitlines() if len(pair := line.split()) == 2)
