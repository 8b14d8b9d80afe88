"""Every example of docs/extending.md, run as the page has it."""

import json
import re
import sys
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name
from types import ModuleType
from typing import NamedTuple

import pytest
import torch
import yaml

from evaluation.preference.made import answer, write_answers
from study.small_study import run_text, study_text
from unnorm.cli.main import run
from unnorm.data import files, formats, known, sources
from unnorm.data.settings import DataSettings
from unnorm.data.sources import read
from unnorm.evaluation import judges
from unnorm.evaluation.judges import load_judge
from unnorm.norms import spec as norm_specs
from unnorm.report import figures as report_figures
from unnorm.study.after import stages
from unnorm.study.spec import parse_spec
from unnorm.study.view import read_study

PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text()
SECTIONS = ["A norm", "A judge", "A data format", "A named data set", "A stage", "A figure"]
LONGEST = 30  # lines


class Block(NamedTuple):
    """A block of code: its language, the file that its first line names, and the whole of it."""

    language: str
    file: str
    code: str


def blocks_of(title: str) -> list[Block]:
    section = PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]
    found = re.findall(r"^```(\w+)\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    heads = [re.match(r"# ([\w/.]+)", code) for _, code in found]
    return [Block(language, head[1] if head else "", code) for (language, code), head in zip(found, heads, strict=True)]


def line_in(block: Block) -> str:
    """What a block adds to a list: its one line beside the comment."""
    (line,) = block.code.splitlines()[1:]
    return line.removeprefix("+").strip()


def entry_in(block: Block) -> str:
    """The same of a list of names."""
    return line_in(block).strip('",')


@pytest.fixture
def module_of(monkeypatch):
    """Makes the module of a block that is a file of unnorm."""

    def make(block: Block) -> ModuleType:
        name = block.file.removeprefix("src/").removesuffix(".py").replace("/", ".")
        module = ModuleType(name)
        monkeypatch.setitem(sys.modules, name, module)
        exec(compile(block.code, block.file, "exec"), module.__dict__)
        return module

    return make


@pytest.fixture
def own_file(tmp_path, monkeypatch):
    """Writes a block that is a file of the user's own."""
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)

    def write(block: Block) -> Path:
        path = tmp_path / block.file
        path.write_text(block.code)
        return path

    yield write
    for name in {name for name in sys.modules if name.startswith("unnorm_")} - before:
        del sys.modules[name]


def test_the_page_shows_each_in_few_lines():
    assert re.findall(r"^## (.*)", PAGE, re.MULTILINE) == SECTIONS
    for title in SECTIONS:
        for block in blocks_of(title):
            assert len(block.code.splitlines()) < LONGEST


def test_a_norm(own_file, monkeypatch):
    file, command, line = blocks_of("A norm")
    monkeypatch.setenv(norm_specs.OWN_NORMS, str(own_file(file)))
    monkeypatch.setattr(norm_specs, "_REGISTRY", dict(norm_specs._REGISTRY))
    name = re.search(r"--to (\w+)", command.code)[1]
    assert name in norm_specs.known_norms()
    spec = norm_specs.spec_from({"norm": name, "alpha": "channel"})
    x = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
    assert spec.fit_(spec.build(8), x, torch.nn.functional.layer_norm(x, (8,))).r2 > 0.8
    assert eval(f"{{{line_in(line)}}}") == {name: f"unnorm.norms.{name}:{type(spec).__name__}"}


def test_a_judge(own_file, tmp_path, capsys, monkeypatch):
    file, command, study, line = blocks_of("A judge")
    own_file(file)
    write_answers(tmp_path / "a.jsonl", [answer(1, 10)] * 6)
    write_answers(tmp_path / "b.jsonl", [answer(1, 20)] * 6)
    assert run([*command.code.split()[1:], "--out", "out", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["parts"]["whole"]["wins"] == 6
    assert found["judge"]["kind"] == "shortest.py:Shortest"
    assert found["caveat"] == "It prefers whatever is short."
    content = {"name": "s", "models": ["m"], "datasets": ["alpaca"], "arms": ["original"], **yaml.safe_load(study.code)}
    spec = parse_spec(json.dumps(content), "study")
    stages.check_stages(spec)
    assert spec.after.judge.kind == "shortest.py:Shortest"
    monkeypatch.setitem(sys.modules, "unnorm.evaluation.judges.shortest", sys.modules["unnorm_judges_of_shortest"])
    for name, listed in eval(f"{{{line_in(line)}}}", {"Listed": judges.Listed}).items():
        monkeypatch.setitem(judges.JUDGES, name, listed)
    assert load_judge("shortest", model="letters").identity == {"unit": "letters"}


def test_a_data_format(module_of, tmp_path, monkeypatch):
    file, line = blocks_of("A data format")
    module_of(file)
    form = resolve_name(f"unnorm.data.formats.{entry_in(line)}")
    for module in (formats, sources):
        monkeypatch.setattr(module, "FORMATS", (*formats.FORMATS, form))
    (tmp_path / "rows.jsonl").write_text('{"dialog": ["Hello.", "Good day."]}\n{"dialog": []}\n')
    reading = read(DataSettings(source=str(tmp_path / "rows.jsonl")), quiet=True)
    assert set(reading.formats.values()) == {"dialog"}
    assert reading.dropped == {"no dialog": 1}
    assert [message.role for message in reading.conversations[0].messages] == ["user", "assistant"]


def test_a_named_data_set(module_of, tmp_path, monkeypatch):
    plain, file, mix = blocks_of("A named data set")
    module_of(file)
    for line in (plain, mix):
        added = eval(f"{{{line_in(line)}}}", {**vars(known), "resolve_name": resolve_name})
        for name, wanted in added.items():
            monkeypatch.setitem(known.KNOWN, name, wanted)
    assert "dolly, two" in files.choices()
    row = {"instruction": "Say it.", "response": "It.", "output": "It."}
    for part in ("alpaca", "dolly"):
        (tmp_path / f"{part}.jsonl").write_text((json.dumps(row) + "\n") * 1200)
    alone = read(DataSettings(source="dolly", path=str(tmp_path / "dolly.jsonl")), quiet=True)
    assert len(alone.conversations) == 1200
    both = read(DataSettings(source="two", path=str(tmp_path)), quiet=True)
    assert len(both.conversations) == 2000
    assert both.dropped == {"beyond the first thousand": 400}


def test_a_stage_and_a_figure(module_of, bases, data_file, tmp_path, monkeypatch):
    file, line = blocks_of("A stage")
    drawing, entry = blocks_of("A figure")
    module_of(file)
    stage = resolve_name(f"unnorm.study.after.{entry_in(line)}:STAGE")
    monkeypatch.setattr(stages, "STAGES", (*stages.STAGES, stage))
    text = study_text(bases["gpt2"], data_file, arms=["original"], strategies=["frozen"], after={"disk": {}})
    run_text(text, tmp_path)
    study = read_study(tmp_path / "small")
    (cell,) = study.cells
    assert cell.more["disk"] == sum(path.stat().st_size for path in cell.folder.glob("model/*.safetensors")) > 0
    module_of(drawing)
    make = resolve_name(f"unnorm.report.figures.{entry_in(entry)}")
    monkeypatch.setattr(report_figures, "_OF_SLICE", (*report_figures._OF_SLICE, make))
    (drawn,) = [figure for figure in report_figures.figures(study) if figure.name == "disk"]
    assert drawn.spec["usermeta"]["cells"] == [cell.cell]


def test_a_mistake_in_a_stages_own_settings_is_said_where_it_stands(module_of, monkeypatch):
    file, _ = blocks_of("A stage")
    stage = module_of(file).STAGE
    monkeypatch.setattr(stages, "STAGES", (*stages.STAGES, stage))
    content = {"name": "s", "models": ["m"], "datasets": ["alpaca"], "arms": ["original"]}
    assert (
        parse_spec(json.dumps({**content, "after": {"disk": {"suffix": ".bin"}}}), "study").after.disk.suffix == ".bin"
    )
    for after, message in (
        ({"disk": {"sufix": ".bin"}}, "after.disk.sufix: there is no such key"),
        ({"disk": {"suffix": 5}}, "after.disk.suffix: must be text"),
        ({"completion": {}}, "after.completion: there is no such key. Did you mean 'completions'?"),
    ):
        with pytest.raises(Exception, match=re.escape(message)):
            parse_spec(json.dumps({**content, "after": after}), "study")


@pytest.mark.parametrize("title", SECTIONS)
def test_every_file_that_a_line_goes_into_has_the_list_that_the_page_names(title):
    for block in blocks_of(title):
        if place := re.match(r"# src/([\w/]+)\.py, in (\w+)", block.code):
            module = import_module(place[1].removesuffix("/__init__").replace("/", "."))
            assert hasattr(module, place[2])
