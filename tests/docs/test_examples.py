"""The scripts in `examples/` run, on a tiny base."""

import re
from importlib.util import module_from_spec, spec_from_file_location

import unnorm
from conftest import alpaca_rows
from docs.pages import ROOT


def test_a_swapped_model_is_trained_in_a_trainer_of_ones_own(bases, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    spec = spec_from_file_location("own_trainer", ROOT / "examples" / "own_trainer.py")
    example = module_from_spec(spec)
    spec.loader.exec_module(example)
    monkeypatch.setattr(example, "LENGTH", 32)
    text = "\n".join(f"{row['instruction']}: {row['output']}" for row in alpaca_rows())
    (tmp_path / "some.txt").write_text(text)

    example.main(bases["llama"], "some.txt", "out", steps=6, rows_a_step=4)

    said = capsys.readouterr().out
    before, after = map(float, re.findall(r"held-out loss (?:before|after) training: +([\d.]+)", said))
    assert after < before
    assert "swapped 5 norms" in said
    loaded = unnorm.load("out")
    assert {type(module).__name__ for path, module in loaded.named_modules() if path.endswith("norm")} == {"DyTNorm"}
