import errno
import os
import time
from types import SimpleNamespace

import pytest
from huggingface_hub import errors

from unnorm.foundation import hub, progress
from unnorm.foundation.errors import SettingsError
from unnorm.foundation.hub_errors import explain


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("owner/name", ("owner/name", None)),
        ("distilgpt2@v1.0", ("distilgpt2", "v1.0")),
        ("owner/name@refs/pr/3", ("owner/name", "refs/pr/3")),
        ("owner/name@", ("owner/name@", None)),
        ("/home/me@here/model", ("/home/me@here/model", None)),
        ("./me@here/model", ("./me@here/model", None)),
    ],
)
def test_a_name_and_its_revision(name, parts):
    assert hub.parse(name) == parts


def test_a_folder_with_an_at_sign_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a@b").mkdir()
    assert hub.parse("a@b") == ("a@b", None)
    assert hub.parse("a@c") == ("a", "c")


def refusal(kind, status):
    response = SimpleNamespace(status_code=status, headers={}, request=None)
    return kind("a message of the library's", response=response)


def numbered(number):
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (refusal(errors.GatedRepoError, 401), "then log in with `hf auth login`, or set HF_TOKEN"),
        (refusal(errors.HfHubHTTPError, 401), "refuses the token"),
        (refusal(errors.HfHubHTTPError, 403), "may not read it"),
        (refusal(errors.HfHubHTTPError, 429), "too many requests from here. Run the same again in some minutes"),
        (refusal(errors.HfHubHTTPError, 503), "in trouble (HTTP 503). Run the same again later"),
        (numbered(errno.ENOSPC), "the disk of the hub's cache is full"),
        (numbered(errno.EROFS), "cannot be written. Set HF_HOME"),
        (OSError("Consistency check failed: file should be of size 2 but has size 1 (x)."), "the download broke off"),
        (errors.LocalEntryNotFoundError("nothing here"), "HF_HUB_OFFLINE is set, and the cache "),
        (ValueError("Something else\nwith details"), "Something else. Or give a folder"),
        (SettingsError("A mistake of the user's own."), "A mistake of the user's own."),
    ],
)
def test_what_the_libraries_raise_is_told_in_our_words(monkeypatch, error, message):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    outer = OSError("We couldn't do it")
    outer.__cause__ = RuntimeError("for some reason")
    outer.__cause__.__context__ = error
    told = explain(outer if not isinstance(error, ValueError) else error, "owner/name")
    assert message in told
    assert "library's" not in told


def test_out_of_reach_is_not_offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    told = explain(errors.LocalEntryNotFoundError("nothing here"), "owner/name", "dataset")
    assert told.startswith("the hub (")
    assert told.endswith("run the same again, or give a file instead.")


def test_a_token_is_never_quoted(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert explain(ValueError("bad header: Bearer hf_secret"), "a/b").startswith("bad header: Bearer (token).")
    monkeypatch.setenv("HF_TOKEN", "hf_sec\x01ret")
    with pytest.raises(SettingsError, match="holds characters that no token has") as caught:
        hub.pinned("owner/of-nothing")
    assert "sec" not in str(caught.value)


def test_a_download_shows_off_a_terminal(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(progress, "_line_every_seconds", 0.0)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    blobs = tmp_path / "models--owner--name" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "earlier").write_bytes(bytes(5_000_000))
    with hub.download_shown("owner/name"):
        (blobs / "now.incomplete").write_bytes(bytes(3_000_000))
        deadline = time.monotonic() + 20
        shown = ""
        while not shown and time.monotonic() < deadline:
            time.sleep(0.1)
            shown += capsys.readouterr().err
    assert shown.splitlines()[0] == "downloading owner/name: 3 MB"
