"""Tasks done by a Ray cluster: it places them, queues them, and knows which of its nodes are there.

Each is a Ray task with its own name, which Ray is not to repeat: the driver submits it again when its claim is free.
Processes that compute on processors alone are used again by Ray, so base and data stay in memory; one that has had a
GPU ends with its task, for Ray may give the next one another GPU.
"""

import logging
import os
import sys
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from unnorm.foundation import atomic, processes
from unnorm.foundation.errors import Interrupted, RunError, SettingsError, UnnormError, first_line
from unnorm.foundation.hashing import this_code
from unnorm.foundation.progress import Say
from unnorm.study.engines.interface import Ended, Engine, Options, Setting, Wants
from unnorm.study.progress_lines import Lines

if TYPE_CHECKING:
    from unnorm.study.tasks import Task

OPTIONS = ("address", "gpu_share")
_PASSED_ON = ("PYTHONPATH", "UNNORM_", "HF_", "TRANSFORMERS_", "TOKENIZERS_")
_ANSWER_SECONDS = 300.0
"""In which a node starts a process that imports unnorm, at its busiest."""
_LOST_SECONDS = 90.0
"""In which Ray notices that a node is dead: until then it lists the node as alive."""
_DEPTH = 2
"""Tasks that Ray holds for each place where one can run: enough that no place waits, and so few that a task whose node
was lost is soon begun again."""


def check(options: Options, devices: int) -> None:
    """That Ray is installed, and the share of a GPU one that Ray can give."""
    try:
        import ray  # noqa: F401
    except ImportError as error:
        raise SettingsError("--engine ray needs Ray: pip install 'unnorm[ray]'.") from error
    if not 0 < options.gpu_share <= 1:
        raise SettingsError(f"--gpu-share is above 0 and at most 1, not {options.gpu_share:g}.")


def make(setting: Setting) -> Engine:
    """Connected to the cluster, whose nodes see the ledger, have this code, and are large enough."""
    import ray

    passed_on = {name: value for name, value in os.environ.items() if name.startswith(_PASSED_ON)}
    try:
        with processes.own_handlers():  # Ray's own of SIGTERM would end the run at once
            ray.init(
                address=setting.options.address,
                runtime_env={"env_vars": {**passed_on, "OMP_NUM_THREADS": str(setting.threads)}},
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except (ConnectionError, RuntimeError, TimeoutError, ValueError) as error:
        raise SettingsError(
            f"there is no Ray cluster at {setting.options.address}: {first_line(error)} Start one with "
            "`ray start --head` here and `ray start --address=HOST:6379` on the other nodes, or give its --address."
        ) from error
    try:
        return _Ray(setting)
    except BaseException:
        ray.shutdown()
        raise


def is_gone(owner: Mapping[str, Any]) -> bool:
    """Its node is gone; or the node, or one of the same name, says that the process is. False without a connection."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return False
    nodes = ray.nodes()
    own = [node for node in nodes if node["NodeID"] == owner.get("node")]
    if own and not own[0]["Alive"]:
        return True
    ask = own or [node for node in nodes if node["Alive"] and node["NodeManagerHostname"] == owner.get("host")]
    answers = (_on(node["NodeID"], processes.is_gone, dict(owner)) for node in ask)
    try:
        return any(ray.get(list(answers), timeout=_ANSWER_SECONDS))
    except ray.exceptions.RayError:
        return False  # it went meanwhile, which the next look tells


class _Ray:
    here = False

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        nodes = _checked_nodes(setting)
        most = {kind: max(float(n["Resources"].get(kind, 0)) for n in nodes) for kind in ("CPU", "GPU", "memory")}
        self.cpus, self.gpus, self.memory = most["CPU"], most["GPU"], most["memory"]
        wanted = setting.devices
        if wanted > 1 and wanted > (self.gpus or self.cpus):
            raise SettingsError(
                f"a cell of this study wants {wanted} devices (training.devices), and no node of the cluster has more "
                f"than {self.gpus:g} GPUs and {self.cpus:g} processors."
            )
        self.do = _ray().remote(max_retries=0)(_do)
        self.lines = Lines(setting.say, quiet=setting.quiet)
        self.say: Say = self.lines.show
        self.running: dict[Any, Task] = {}
        self.room = self._room()

    def has_room(self, wants: Wants) -> bool:
        return len(self.running) < self.room

    def _room(self) -> int:
        """How many tasks to hand to Ray, by the nodes that are there now."""
        now = _ray().cluster_resources()
        places = now.get("GPU", 0.0) / self.setting.options.gpu_share if self.gpus else now.get("CPU", 0.0)
        return max(1, int(_DEPTH * places / (1 if self.gpus else self.setting.threads)))

    def submit(self, task: "Task", label: str) -> None:
        wants, share = task.wants, self.setting.options.gpu_share
        if self.gpus:
            place = {"num_cpus": 1.0, "num_gpus": wants.devices if wants.devices > 1 else share}
        else:
            place = {"num_cpus": min(self.cpus, self.setting.threads * wants.devices), "num_gpus": 0}
        if wants.alone:  # with all of a node's processors nothing else is begun there
            place["num_cpus"] = self.cpus
        place["memory"] = int(min(wants.memory(self.gpus > 0), self.memory))
        self.running[self.do.options(name=task.name, **place).remote(task.told(), task.id, os.getcwd())] = task

    def finished(self) -> list[Ended]:
        done, _ = _ray().wait(list(self.running), num_returns=len(self.running), timeout=0.5)
        self.lines.look(self.running.values())
        self.room = self._room()
        return [self._end(reference) for reference in done]

    def _end(self, reference: Any) -> Ended:
        task = self.running.pop(reference)
        self.lines.forget(task.name)
        from ray import exceptions

        try:
            said, stop = _ray().get(reference)
        except exceptions.OutOfMemoryError:
            return Ended(task.id, "a worker was killed for the memory it took", out_of_memory=True)
        except exceptions.RayError as error:
            why = getattr(error, "cause", None) or error
            return Ended(task.id, f"a worker was lost ({type(why).__name__}: {first_line(why)})")
        self.lines.show_new(said)
        if stop is not None:
            raise RunError(stop)
        return Ended(task.id)

    def cancel(self) -> None:
        """A first Ctrl-C has each end its step and save; a second one kills."""
        try:
            for reference in self.running:
                _ray().cancel(reference)
            while self.running:
                done, _ = _ray().wait(list(self.running), timeout=1.0)
                for reference in done:
                    with suppress(RunError):
                        self._end(reference)
        except KeyboardInterrupt:
            for reference in self.running:
                _ray().cancel(reference, force=True)
        finally:
            self.lines.close()
            _ray().shutdown()


def _ray() -> Any:
    import ray

    return ray


def _on(node: str, function: Any, *arguments: Any) -> Any:
    """The reference of a call on a node, which takes none of its processors."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(node, soft=False)
    return _ray().remote(num_cpus=0, max_retries=0, scheduling_strategy=here)(function).remote(*arguments)


def _do(told: dict[str, Any], task: str, folder: str) -> tuple[list[str], str | None]:
    """In a worker: do the task, in the driver's folder. What was said, and what must stop the run."""
    from unnorm.study.task_list import do_told

    with suppress(OSError):  # relative paths count from there, if it is there
        os.chdir(folder)
    said: list[str] = []
    context = _ray().get_runtime_context()
    by = {"engine": "ray", "node": context.get_node_id(), "job": context.get_job_id(), "task": context.get_task_id()}
    try:
        do_told(told, task, said.append, by)
    except (Interrupted, KeyboardInterrupt):
        pass  # given back
    except UnnormError as error:
        return said, str(error)
    return said, None


def _checked_nodes(setting: Setting) -> list[dict[str, Any]]:
    """The nodes that are alive. A `SettingsError` where one has not this code, or does not see what is written here in
    the ledger. A node that died a moment ago is left out, as soon as Ray knows."""
    exceptions = _ray().exceptions
    deadline = time.monotonic() + _LOST_SECONDS
    while True:
        nodes = [node for node in _ray().nodes() if node["Alive"]]
        try:
            _check_each(nodes, setting)
            return nodes
        except exceptions.RayError as error:
            is_lost = isinstance(error, exceptions.NodeDiedError | exceptions.TaskUnschedulableError)
            if not is_lost or time.monotonic() > deadline:
                raise SettingsError(f"the nodes of the cluster cannot run anything: {first_line(error)}") from error
        time.sleep(1.0)


def _check_each(nodes: list[dict[str, Any]], setting: Setting) -> None:
    """As `_checked_nodes` says, of these; a `RayError` where one does not answer."""

    def look(path: str) -> tuple[str, str]:  # pickled whole: unnorm may be missing there
        from pathlib import Path

        there = Path(path)
        found = there.read_text() if there.is_file() else ""
        try:
            from unnorm.foundation.hashing import this_code
        except ImportError as error:
            return f"none ({error})", found
        return this_code(), found

    proof, seen = setting.folder.absolute() / f".seen-{uuid.uuid4().hex}", uuid.uuid4().hex
    atomic.write_bytes(proof, seen.encode())
    try:
        asked = [_on(node["NodeID"], look, str(proof)) for node in nodes]
        answers = _ray().get(asked, timeout=_ANSWER_SECONDS)
    finally:
        proof.unlink(missing_ok=True)
    for node, (code, found) in zip(nodes, answers, strict=True):
        name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
        if code != this_code():
            raise SettingsError(
                f"node {name} has unnorm {code}, and the driver {this_code()}. Install the same version on both."
            )
        if found != seen:
            raise SettingsError(
                f"node {name} does not see {setting.folder.absolute()}. Give a --ledger on a folder that every node "
                "mounts under the same path."
            )
