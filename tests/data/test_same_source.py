import pytest

from unnorm.data.same_source import is_of
from unnorm.data.settings import Dataset


@pytest.fixture
def rows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.json").write_text("[]")
    (tmp_path / "copy.json").write_text("[]")
    (tmp_path / "link.json").symlink_to("rows.json")
    return tmp_path / "rows.json"


def test_a_file_is_the_same_under_each_of_its_paths(rows, monkeypatch):
    monkeypatch.setenv("HOME", str(rows.parent))
    for source in ("rows.json", "./rows.json", str(rows), "link.json", "~/rows.json"):
        assert is_of(source, Dataset(source="rows.json")), source
        assert is_of("rows.json", Dataset(source=source)), source
    assert not is_of("copy.json", Dataset(source="rows.json"))


def test_a_folder_is_the_same_as_a_file_in_it(rows):
    (rows.parent / "chats" / "more").mkdir(parents=True)
    (rows.parent / "chats" / "more" / "train.jsonl").write_text("")
    (rows.parent / "chats-2.jsonl").write_text("")
    assert is_of("chats/more/train.jsonl", Dataset(source="chats"))
    assert is_of("chats", Dataset(source="alpaca", path="chats/more/train.jsonl"))
    assert not is_of("chats-2.jsonl", Dataset(source="chats"))


def test_a_hub_data_set_is_the_same_under_its_short_name_in_another_revision_and_in_a_mix(rows):
    for source in ("alpaca", "tatsu-lab/alpaca", "tatsu-lab/alpaca@abc"):
        assert is_of(source, Dataset(source="alpaca")), source
    assert is_of("rewild", Dataset(source="rewild-reduced"))
    assert not is_of("sharegpt", Dataset(source="alpaca"))


def test_a_data_set_is_known_by_its_local_copy_and_by_its_given_name_too(rows):
    dataset = Dataset(source="alpaca", path="rows.json", name="mine")
    assert all(is_of(source, dataset) for source in ("alpaca", str(rows), "mine"))
    assert not is_of("copy.json", dataset)
