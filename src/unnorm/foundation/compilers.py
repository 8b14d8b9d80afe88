"""Whether this machine has what torch.compile needs."""

import os
import shutil
import sys
from importlib.util import find_spec


def missing_compiler(device: str) -> str:
    """What is not there of what torch.compile needs for `device` ("cpu", "cuda"); "" if nothing is."""
    if device != "cpu":
        if find_spec("triton") is None:
            return "Triton, which is not installed"
        return "" if _found("CC", "gcc", "clang") else "a C compiler, and neither gcc nor clang is found (or set CC)"
    usual = "clang++" if sys.platform == "darwin" else "g++"
    return "" if _found("CXX", usual) else f"a C++ compiler, and {usual} is not found (or set CXX)"


def _found(variable: str, *usual: str) -> bool:
    names = [os.environ[variable].split()[0]] if os.environ.get(variable) else usual
    return any(shutil.which(name) for name in names)
