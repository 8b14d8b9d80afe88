"""On a real Ray cluster of three nodes on this machine: what is lost with a node, and with the driver."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from study.small_study import run_text, study_text, table
from study.test_kills import cells
from unnorm.foundation.errors import RunError, SettingsError
from unnorm.foundation.processes import this_process
from unnorm.study import engines
from unnorm.study.engines import ray_engine
from unnorm.study.engines.interface import Ended, Options, Setting
from unnorm.study.lease import TaskFolder, entries, newest
from unnorm.study.progress_lines import Lines
from unnorm.study.tasks import Task

ray = pytest.importorskip("ray")
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}


def text_of(base: str, data: str) -> str:
    prompts = Path(data).parent / "two.jsonl"
    rows = [{"prompt_id": str(i), "category": "c", "instruction": f"Join red and {i}"} for i in range(2)]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return study_text(
        base,
        data,
        strategies=["frozen"],
        seeds=[0, 1],
        training={"tokens": 4000, "max_length": 64, "batch_tokens": 128, "precision": "fp32"},
        after={
            "completions": {"prompts": str(prompts), "max_new_tokens": 3},
            "judge": {"kind": "likelihood", "model": base},
            "latency": {"budget_seconds": 0.5, "length": 8, "new_tokens": 2},
        },
    )


@pytest.fixture(scope="module")
def cluster():
    from ray.cluster_utils import Cluster

    room = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=room)
    made.workers = [made.add_node(num_cpus=1, object_store_memory=80 * 2**20) for _ in range(2)]
    yield made
    made.shutdown()


def drive(text: str, ledger: Path, cluster, log: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "study.ray_driver", text, str(ledger), cluster.address]
    return subprocess.Popen(command, env=ENVIRONMENT, stdout=log.open("ab"), stderr=subprocess.STDOUT)


def training(ledger: Path) -> dict[str, TaskFolder]:
    """The nodes that train a cell now."""
    found = {}
    for log in ledger.glob("cells/*/attempt-*/steps.jsonl"):
        task = TaskFolder(log.parent.parent)
        last = newest(task)
        if last is not None and last.kind == "claimed" and log.stat().st_size:
            found[last.content["node"]] = task
    return found


def wait_for(what, driver: subprocess.Popen, log: Path):
    deadline = time.monotonic() + 240
    while not (found := what()):
        assert time.monotonic() < deadline, log.read_text()
        assert driver.poll() is None, log.read_text()
        time.sleep(0.02)
    return found


def test_a_node_and_the_driver_are_lost_and_no_result_is(cluster, bases, data_file, tmp_path):
    text, ledger, log = text_of(bases["gpt2"], data_file), tmp_path / "ray", tmp_path / "log"
    run_text(text, tmp_path / "local")
    others = {node.node_id: node for node in cluster.workers}
    driver = drive(text, ledger, cluster, log)
    try:
        lost = wait_for(lambda: {n: t for n, t in training(ledger).items() if n in others}, driver, log)
        node, task = next(iter(lost.items()))
        cluster.remove_node(others[node], allow_graceful=False)
        wait_for(lambda: "lost" in [entry.kind for entry in entries(task)], driver, log)
        wait_for(lambda: training(ledger), driver, log)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        driver = drive(text, ledger, cluster, log)
        assert driver.wait(timeout=300) == 0, log.read_text()
    finally:
        driver.kill()
    assert table(ledger / "small") == table(tmp_path / "local" / "small")
    assert len(cells(ledger)) == 4
    kinds = {cell.name: [entry.kind for entry in entries(TaskFolder(cell))] for cell in cells(ledger)}
    assert all(of_cell.count("done") == 1 and of_cell[-1] == "done" for of_cell in kinds.values()), kinds
    assert kinds[task.path.name].count("lost") == 1
    assert sum(of_cell.count("claimed") for of_cell in kinds.values()) >= 4 + 2, "a node and a driver were lost"
    stages = [TaskFolder(p.parent, p.name.removesuffix("-lease")) for p in ledger.glob("*/*/*-lease")]
    assert (
        sorted(stage.stage.split("-")[0] for stage in stages) == ["completions"] * 4 + ["judge"] * 2 + ["latency"] * 2
    )
    assert all([entry.kind for entry in entries(stage)].count("done") == 1 for stage in stages)
    owners = [entry.content for stage in stages for entry in entries(stage) if entry.kind == "claimed"]
    assert {owner["engine"] for owner in owners} == {"ray"}
    assert "a worker was lost" in log.read_text()


@pytest.fixture
def connected(cluster, tmp_path):
    """Makes an engine for the cluster, whose nodes have one processor each and no GPU."""
    (tmp_path / "small").mkdir()

    def make(**setting):
        return engines.make(
            Setting(Options("ray", address=cluster.address), tmp_path / "small", print, True, **setting)
        )

    yield make
    ray.shutdown()


def refused(make, message: str, **setting) -> None:
    with pytest.raises(SettingsError, match=message):
        make(**setting)
    assert not ray.is_initialized()


def test_a_cluster_that_cannot_do_the_work_is_refused_before_anything_starts(connected, monkeypatch, tmp_path):
    refused(connected, "wants 4 devices .* no node of the cluster has more than 0 GPUs and 1 processors", devices=4)
    with monkeypatch.context() as patched:
        patched.setattr(ray_engine, "this_code", lambda: "9.9 (code x)")
        refused(connected, r"has unnorm \d.* and the driver 9\.9 \(code x\)")
    with monkeypatch.context() as patched:
        patched.setattr(ray_engine.atomic, "write_bytes", lambda path, content: None)
        refused(connected, "does not see .*small. Give a --ledger on a folder that every node")
    assert not list((tmp_path / "small").iterdir())


def test_a_node_is_asked_for_its_processes(connected):
    engine = connected()
    node = next(node for node in ray.nodes() if node["Alive"])
    owner = {"engine": "ray", "node": node["NodeID"], **this_process()}
    assert not engines.is_gone(owner)
    elsewhere = {**owner, "machine": "another", "place": "elsewhere"}
    assert not ray_engine.is_gone(elsewhere), "the node cannot tell"
    dead = {**owner, "started": "1"}
    assert ray_engine.is_gone(dead)
    assert ray_engine.is_gone({**dead, "node": "of an earlier cluster"}), "a node of the same name is asked"
    assert not ray_engine.is_gone({**dead, "node": "of an earlier cluster", "host": "unknown"})
    gone = [node["NodeID"] for node in ray.nodes() if not node["Alive"]]
    assert all(ray_engine.is_gone({**elsewhere, "node": name}) for name in gone)
    engine.cancel()
    assert not ray_engine.is_gone(dead), "without a connection nobody is asked"


def test_a_node_that_ray_does_not_yet_know_to_be_dead_is_left_out(monkeypatch, tmp_path):
    alive, dead = ({"Alive": True, "NodeID": name} for name in ("alive", "dead"))
    listed = [[alive, dead], [alive, dead], [alive]]
    monkeypatch.setattr(ray, "nodes", lambda: listed.pop(0))
    monkeypatch.setattr(ray_engine.time, "sleep", lambda seconds: None)

    def check(nodes, setting):
        if dead in nodes:
            raise ray.exceptions.TaskUnschedulableError("the node does not exist any more")

    monkeypatch.setattr(ray_engine, "_check_each", check)
    setting = Setting(Options("ray"), tmp_path, print)
    assert ray_engine._checked_nodes(setting) == [alive]
    monkeypatch.setattr(ray, "nodes", lambda: [alive, dead])
    monkeypatch.setattr(ray_engine, "_LOST_SECONDS", -1.0)
    with pytest.raises(SettingsError, match=r"cannot run anything: .*does not exist any more"):
        ray_engine._checked_nodes(setting)


def test_how_a_task_ended_is_told(monkeypatch):
    ends = {
        "oom": ray.exceptions.OutOfMemoryError("killed"),
        "node": ray.exceptions.NodeDiedError("the node is dead"),
        "stop": (["a: said"], "the disk is full"),
        "done": (["b: said"], None),
        "again": (["b: said", "c: said"], None),
    }

    def get(reference):
        end = ends[reference]
        if isinstance(end, Exception):
            raise end
        return end

    said: list[str] = []
    engine = object.__new__(ray_engine._Ray)
    engine.lines = Lines(said.append, quiet=True)
    engine.running = {name: Task(name, TaskFolder(Path("cells") / name), "k", lambda lease: "") for name in ends}
    monkeypatch.setattr(ray_engine, "_ray", lambda: SimpleNamespace(get=get))
    assert engine._end("oom") == Ended("cells/oom", "a worker was killed for the memory it took", out_of_memory=True)
    assert engine._end("node") == Ended("cells/node", "a worker was lost (NodeDiedError: the node is dead.)")
    assert [engine._end(name) for name in ("done", "again")] == [Ended("cells/done"), Ended("cells/again")]
    with pytest.raises(RunError, match="the disk is full"):
        engine._end("stop")
    assert said == ["b: said", "c: said", "a: said"]


def test_without_a_cluster_or_ray_nothing_is_begun(tmp_path, monkeypatch):
    nowhere = Options("ray", address="127.0.0.1:1")
    monkeypatch.setattr(ray, "init", lambda **options: (_ for _ in ()).throw(ConnectionError("no answer")))
    with pytest.raises(SettingsError, match=r"no Ray cluster at 127\.0\.0\.1:1: no answer\. Start one with `ray start"):
        engines.make(Setting(nowhere, tmp_path, print))
    with pytest.raises(SettingsError, match="--gpu-share"):
        engines.check(Options("ray", gpu_share=1.5))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SettingsError, match=r"pip install 'unnorm\[ray\]'"):
        engines.check(nowhere)
