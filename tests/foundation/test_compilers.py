import pytest

from unnorm.foundation import compilers
from unnorm.foundation.compilers import missing_compiler


@pytest.mark.parametrize(("device", "variable", "word"), [("cpu", "CXX", "C++ compiler"), ("cuda", "CC", "C compiler")])
def test_a_compiler_that_is_named_has_to_be_there(monkeypatch, tmp_path, device, variable, word):
    monkeypatch.setattr(compilers, "find_spec", lambda name: object())
    monkeypatch.setenv(variable, "no-such-compiler -O3")
    assert word in missing_compiler(device)
    (tmp_path / "mine").write_text("")
    (tmp_path / "mine").chmod(0o755)
    monkeypatch.setenv(variable, f"{tmp_path / 'mine'} -O3")
    assert missing_compiler(device) == ""


def test_a_gpu_needs_triton_first(monkeypatch):
    monkeypatch.setattr(compilers, "find_spec", lambda name: None)
    assert "Triton" in missing_compiler("cuda")
