"""The server: read-only, the page alone, for this machine."""

import http.client
import json
import os
import threading

import orjson
import pytest

from report.views import fail, judged, waiting_ledger
from unnorm.cli.main import run
from unnorm.foundation import atomic
from unnorm.foundation.errors import ArtefactError, SettingsError
from unnorm.report.serve import server


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = waiting_ledger(tmp_path_factory.mktemp("ledger"))
    (made.parent / "secret.txt").write_text("secret")
    return made


@pytest.fixture(scope="module")
def port(folder):
    serving = server(folder)
    thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield serving.server_address[1]
    serving.shutdown()
    thread.join()
    serving.server_close()


def ask(port, path, method="GET", host="127.0.0.1"):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", f"{host}:{port}")
    connection.endheaders()
    reply = connection.getresponse()
    content = reply.read()
    connection.close()
    return reply, content


def test_it_listens_to_this_machine_alone(folder):
    with server(folder) as serving:
        assert serving.server_address[0] == "127.0.0.1"


def test_the_page_follows_the_study(folder, port):
    reply, content = ask(port, "/")
    assert reply.status == 200
    assert b"0 of 2 cells done" in content
    assert b"connect-src" in content
    before = ask(port, "/state")[1]
    assert ask(port, "/state")[1] == before
    fail(folder, "dyt")
    assert ask(port, "/state")[1] != before
    assert b"it broke" in ask(port, "/index.html")[1]


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt", "/..%2fsecret.txt", "/%2e%2e/secret.txt", "//secret.txt", "/study.json", "/C:/x",
        "/\\..\\secret.txt", "/figures/../../secret.txt",
    ],
)  # fmt: skip
def test_no_path_reaches_the_disk(port, path):
    reply, content = ask(port, path)
    assert reply.status == 404
    assert b"secret" not in content


def test_it_is_read_only_and_not_to_be_framed(port):
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        assert ask(port, "/", method)[0].status == 501
    reply, content = ask(port, "/", "HEAD")
    assert (reply.status, content) == (200, b"")
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    assert reply.headers["Content-Security-Policy"] == "frame-ancestors 'none'"


def test_a_foreign_name_that_leads_here_is_refused(port):
    assert ask(port, "/", host="evil.example")[0].status == 403
    assert ask(port, "/", host="localhost")[0].status == 200


def test_nothing_is_written(folder, port):
    before = sorted(os.listdir(folder))
    ask(port, "/")
    assert sorted(os.listdir(folder)) == before


def test_what_is_wrong_is_said_at_once(folder, port, tmp_path, capsys):
    with pytest.raises(ArtefactError, match=r"no study\.json"):
        server(tmp_path)
    with pytest.raises(SettingsError, match="Give another --port"):
        server(folder, port=port)
    assert run(["report", str(folder), "--serve", "--out", "x"]) == 2
    assert run(["report", str(folder), "--format", "docx"]) == 2
    assert "md, tex, csv, json, card" in capsys.readouterr().err
    for alone in (["--port", "9000"], ["--host", "0.0.0.0"]):
        assert run(["report", str(folder), *alone]) == 2
        assert "add --serve" in capsys.readouterr().err


def test_the_command_says_where_it_will_be_before_the_page_is_made(folder, capsys, monkeypatch):
    def stop(serving):
        raise KeyboardInterrupt

    monkeypatch.setattr("http.server.ThreadingHTTPServer.serve_forever", stop)
    assert run(["report", str(folder), "--serve", "--port", "0"]) == 0
    making, address, stopped = capsys.readouterr().err.splitlines()
    assert making == "making the page; its address follows"
    assert address.startswith("http://127.0.0.1:")
    assert stopped == "stopped"


def test_text_formats_go_to_stdout_or_to_a_file(folder, tmp_path, capsys):
    assert run(["report", str(folder), "--format", "card"]) == 0
    assert capsys.readouterr().out.startswith("## Results")
    assert run(["report", str(folder), "--format", "csv", "--out", str(tmp_path / "t.csv")]) == 0
    assert (tmp_path / "t.csv").read_text().startswith("model,dataset,strategy,arm,")
    assert run(["report", str(folder), "--format", "csv", "--out", str(tmp_path)]) == 2


@pytest.mark.parametrize(
    "options", [("--format", "md", "--json"), ("--format", "md", "--data", "stats.json"), ("--serve", "--json")]
)
def test_options_that_would_be_ignored_are_refused(folder, capsys, options):
    assert run(["report", str(folder), *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "alone" in err


def test_text_formats_have_the_win_rates_of_several_seeds(tmp_path, capsys):
    made = waiting_ledger(tmp_path)
    pairs = []
    for seed in (0, 1):
        report, verdicts = judged(seed, -0.1)
        folder = tmp_path / "pairs" / f"pair-{seed}" / "judge-x"
        atomic.write_json(folder / "report.json", report)
        (folder / "outcomes.jsonl").write_bytes(b"".join(orjson.dumps(verdict) + b"\n" for verdict in verdicts))
        about = {"model": "m", "dataset": "d", "strategy": "full", "seed": seed, "arm": "dyt", "against": "original"}
        pairs.append({**about, "folder": f"pair-{seed}", "stages": {"judge": "judge-x"}})
    study = atomic.read_json(made / "study.json")
    atomic.write_json(made / "study.json", {**study, "pairs": pairs})
    assert run(["report", str(made), "--format", "json"]) == 0
    content = json.loads(capsys.readouterr().out)
    (row,) = [row for row in content["results"] if row["arm"] == "dyt"]
    assert row["win_rate"] is not None
    assert not any("gave no verdict" in line for line in content["summary"])
