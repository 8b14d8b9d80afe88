"""How a kernel is started once it is compiled: past Triton's launcher where its release is known, else through it."""

from types import SimpleNamespace

import pytest
import torch

launch = pytest.importorskip("unnorm.norms.kernels.launch", reason="Triton is not installed", exc_type=ImportError)


class Kernel:
    """Stands in for a compiled one, and writes down how it is started."""

    __name__ = "kernel"

    def __init__(self):
        self.started = []

    def __getitem__(self, grid):
        def ordinary(*arguments, num_warps):
            self.started.append("ordinary")
            return SimpleNamespace(run=self.run, function="function", packed_metadata="metadata")

        return ordinary

    def run(self, *arguments):
        self.started.append("short")


@pytest.mark.parametrize(
    ("version", "second"),
    [("3.6.0", "short"), ("3.7.1", "short"), ("3.5.1", "ordinary"), ("3.8.0+git1", "ordinary"), ("4.0", "ordinary")],
)
def test_a_release_that_is_not_known_takes_the_ordinary_way_every_time(version, second, monkeypatch):
    monkeypatch.setattr(launch.triton, "__version__", version)
    monkeypatch.setattr(launch, "_known", {})
    monkeypatch.setattr(torch._C, "_cuda_getDevice", lambda: -1, raising=False)
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda device: 0, raising=False)
    kernel, x = Kernel(), torch.zeros(64)
    for _ in range(3):
        launch._run(kernel, 1, 4, (x, None), (64,))
    assert kernel.started == ["ordinary", second, second]
