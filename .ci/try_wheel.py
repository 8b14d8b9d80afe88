"""Try what would be published: install the wheel into a fresh environment and use it there, away from the sources.

    python .ci/try_wheel.py DIST

DIST holds one wheel and one sdist. The fresh environment borrows the dependencies of the Python that runs this, and
nothing else: unnorm itself comes from the wheel.
"""

import os
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import zipfile
from pathlib import Path

SOURCES = Path(__file__).resolve().parent.parent / "src"
PROGRAM = """
import sys
from importlib.resources import files
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

import unnorm
from unnorm.cli.main import run

torch.set_num_threads(1)
assert Path(unnorm.__file__).is_relative_to(sys.prefix), unnorm.__file__
characters = {c: n for n, c in enumerate(["<eos>", *map(chr, range(33, 127))])}
spelling = Tokenizer(models.BPE(vocab=characters, merges=[]))
spelling.pre_tokenizer = pre_tokenizers.ByteLevel()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=spelling, eos_token="<eos>")
config = AutoConfig.for_model("gpt2", n_embd=16, n_layer=1, n_head=2, n_positions=32, vocab_size=len(characters))
AutoModelForCausalLM.from_config(config).save_pretrained("base")
tokenizer.save_pretrained("base")
assert run(["swap", "base", "--bare", "--inherit", "--out", "swapped"]) == 0
assert run(["check", "swapped"]) == 0
assert run(["package", "swapped", "--out", "packaged"]) == 0
assert Path("packaged/modeling_unnorm.py").is_file()
assert list(files("unnorm.report").joinpath("web").iterdir())
"""


def main(dist: Path) -> None:
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    check_files(wheel, sdist)
    with tempfile.TemporaryDirectory(prefix="unnorm-wheel-") as name:
        folder = Path(name)
        fresh = folder / "fresh"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(fresh)], check=True)
        python = str(fresh / "bin" / "python")
        install = ["--python", python, "install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check"]
        subprocess.run([sys.executable, "-m", "pip", *install, str(wheel)], check=True)
        (packages,) = fresh.glob("lib/python*/site-packages")
        # A line of a .pth is a path after this environment's own; what is installed in place there stays behind.
        (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
        version = wheel.name.split("-")[1]
        for command in ([str(fresh / "bin" / "unnorm")], [python, "-m", "unnorm"]):
            assert said([*command, "--version"], folder) == f"unnorm {version}\n"
        assert "Usage: unnorm" in said([str(fresh / "bin" / "unnorm"), "--help"], folder)
        said([python, "-c", PROGRAM], folder)
    print(f"{wheel.name} and {sdist.name} are whole, and the wheel works in a fresh environment")


def check_files(wheel: Path, sdist: Path) -> None:
    """Both hold every file of the package: modules, the page's files, the template of a package's code."""
    wanted = {
        path.relative_to(SOURCES).as_posix()
        for path in (SOURCES / "unnorm").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    in_wheel = set(zipfile.ZipFile(wheel).namelist())
    with tarfile.open(sdist) as archive:
        in_sdist = {name.partition("/")[2] for name in archive.getnames()}
    assert "unnorm/artefacts/modeling_unnorm.py.jinja" in wanted
    assert not (missing := wanted - in_wheel), f"not in the wheel: {sorted(missing)}"
    in_source = {f"src/{name}" for name in wanted} | {"README.md", "LICENSE", "pyproject.toml"}
    assert not (missing := in_source - in_sdist), f"not in the sdist: {sorted(missing)}"
    assert not (more := {name for name in in_wheel if name.startswith("tests")}), more


def said(command: list[str], folder: Path) -> str:
    """What the command prints, run in `folder` without a way to the sources."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    environment |= {"UNNORM_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command[:3])} failed:\n{done.stdout}\n{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main(Path(sys.argv[1]))
