"""The judge `openai` against a real server on this machine that misbehaves."""

import pytest

from evaluation.judges.server import PROMPT_TOKENS, REPLY_TOKENS, Server, completion
from unnorm.evaluation.judges.endpoint import KEY_VARIABLE, Endpoint
from unnorm.evaluation.judges.interface import AnswerPair
from unnorm.evaluation.judges.openai import OpenAIJudge, Replies, load_openai
from unnorm.foundation.errors import RunError, SettingsError

KEY = "sk-very-secret-0123456789"
PAIRS = [AnswerPair((f"question {i}",), ("good",) if i % 2 else (f"bad {i}",), (f"poor {i}",)) for i in range(4)]
WANTED = [0.0, 1.0, 0.0, 1.0]


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    running = []

    def start(*troubles, **more):
        running.append(Server(troubles, **more))
        return running[-1]

    yield start
    for server in running:
        server.close()


def judge_at(server, folder, **more):
    settings = {"timeout": 30.0, "attempts": 6, "first_wait": 0.01, **more}
    return OpenAIJudge(Endpoint(server.url, "m", **settings), Replies(folder))


def paid(verdicts):
    return sum(v.prompt_tokens for v in verdicts), sum(v.reply_tokens for v in verdicts)


@pytest.mark.parametrize(
    "trouble",
    [
        429,
        500,
        503,
        "cut refusal",
        "slow",
        "drip",
        "cut",
        "hang up",
        b"<html>",
        b"[]",
        b'{"choices": []}',
        b'{"choices": 1}',
    ],
)
def test_each_trouble_costs_a_retry_and_nothing_else(serve, tmp_path, trouble):
    server = serve(trouble)
    judge = judge_at(server, tmp_path, timeout=1.0 if trouble in ("slow", "drip") else 30.0)
    verdicts = judge.judge(PAIRS)
    assert [verdict.preference for verdict in verdicts] == WANTED
    assert len(server.bodies) == 2 * len(PAIRS)
    assert paid(verdicts) == (4 * PROMPT_TOKENS, 4 * REPLY_TOKENS)


def test_all_troubles_at_once(serve, tmp_path):
    server = serve(429, "cut", 500, "slow", b"nonsense")
    verdicts = judge_at(server, tmp_path, timeout=1.0).judge(PAIRS)
    assert [verdict.preference for verdict in verdicts] == WANTED
    assert set(server.given.values()) == {1}
    assert paid(verdicts) == (4 * PROMPT_TOKENS, 4 * REPLY_TOKENS)


def test_a_reply_is_paid_for_once(serve, tmp_path):
    server = serve()
    first = judge_at(server, tmp_path).judge(PAIRS)
    again = judge_at(server, tmp_path)
    assert again.judge(PAIRS) == first
    assert len(server.bodies) == 4
    again.judge([AnswerPair(PAIRS[0].questions, PAIRS[0].first, PAIRS[0].second, repeat=1)])
    assert len(server.bodies) == 5  # the same words, asked a second time on purpose


def test_a_server_that_goes_down_loses_nothing(serve, tmp_path):
    server = serve(down_after=2)
    with pytest.raises(RunError, match=r"no usable answer in 2 tries .*status 503") as caught:
        judge_at(server, tmp_path, attempts=2).judge(PAIRS)
    assert caught.value.exit_code == 1
    server.down_after = None
    verdicts = judge_at(server, tmp_path).judge(PAIRS)
    assert [verdict.preference for verdict in verdicts] == WANTED
    assert set(server.given.values()) == {1}  # in both runs together


def test_a_damaged_reply_on_disk_is_asked_for_again(serve, tmp_path):
    server = serve()
    judge_at(server, tmp_path).judge(PAIRS[:2])
    damaged, *_ = tmp_path.iterdir()
    damaged.write_bytes(damaged.read_bytes()[:10])
    assert [verdict.preference for verdict in judge_at(server, tmp_path).judge(PAIRS[:2])] == WANTED[:2]
    assert len(server.bodies) == 3


def test_a_reply_without_a_verdict(serve, tmp_path):
    undecided = completion("both are fine")
    server = serve(undecided)
    verdicts = judge_at(server, tmp_path / "once").judge(PAIRS)
    assert [verdict.preference for verdict in verdicts] == WANTED
    assert paid(verdicts) == (8 * PROMPT_TOKENS, 8 * REPLY_TOKENS)  # both replies were paid for
    server = serve(*[undecided] * 3)
    verdicts = judge_at(server, tmp_path / "always").judge(PAIRS)
    assert [verdict.preference for verdict in verdicts] == [None] * 4
    assert len(server.bodies) == 12


@pytest.mark.parametrize(
    ("status", "advice"), [(401, KEY_VARIABLE), (404, "--base-url"), (400, "--model"), (302, "--base")]
)
def test_a_refusal_is_final_and_says_what_to_do(serve, tmp_path, status, advice):
    server = serve(*[status] * 9)
    with pytest.raises(RunError, match=f"status {status}") as caught:
        judge_at(server, tmp_path).judge(PAIRS[:1])
    assert advice in str(caught.value)
    assert len(server.bodies) == 1
    assert server.paths == ["/v1/chat/completions"]  # a redirect would take the key along


def test_the_key_is_sent_and_nowhere_else(serve, tmp_path, capfd, caplog):
    server = serve(500, completion(f"you are {KEY} [[C]]"))
    judge = judge_at(server, tmp_path)
    verdicts = judge.judge(PAIRS)
    assert {headers["Authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
    told = [repr(judge.endpoint), repr(judge.identity), repr(verdicts), caplog.text, *capfd.readouterr()]
    told += [file.read_text() for file in tmp_path.rglob("*") if file.is_file()]
    server = serve(*[401] * 9)
    with pytest.raises(RunError) as caught:
        judge_at(server, tmp_path).judge(PAIRS)  # the server says the key in its refusal
    told.append(str(caught.value))
    server = serve(*[500] * 99)
    with pytest.raises(RunError) as caught:
        judge_at(server, tmp_path / "other", attempts=2).judge(PAIRS)
    assert "[key]" in str(caught.value)
    assert not any(KEY in text for text in [*told, str(caught.value)])


def test_without_a_key_no_header_is_sent(serve, tmp_path, monkeypatch):
    monkeypatch.delenv(KEY_VARIABLE)
    server = serve()
    judge_at(server, tmp_path).judge(PAIRS[:1])
    assert "Authorization" not in server.headers[0]


def test_what_is_sent(serve, tmp_path):
    server = serve()
    judge_at(server, tmp_path).judge(PAIRS[:1])
    (body,) = server.bodies
    assert (body["model"], body["temperature"]) == ("m", 0.0)
    assert [message["role"] for message in body["messages"]] == ["system", "user"]


def test_a_model_that_takes_no_temperature(serve, tmp_path, monkeypatch):
    server = serve()
    answer = server.answer
    refuse = b'{"error": {"message": "Unsupported value: temperature does not support 0.0"}}'

    def without(handler, body):
        if b'"temperature"' in body:
            server.send(handler, 400, refuse)
        else:
            answer(handler, body)

    server.answer = without
    judge = judge_at(server, tmp_path)
    assert [verdict.preference for verdict in judge.judge(PAIRS)] == WANTED
    answered = len(list(tmp_path.iterdir()))
    assert answered == len(PAIRS)
    monkeypatch.setattr(server, "answer", None)  # a request now would fail
    assert [verdict.preference for verdict in judge.judge(PAIRS)] == WANTED  # kept under what was meant to be asked


def test_control_characters_of_a_server_are_not_obeyed(serve, tmp_path):
    server = serve()
    server.answer = lambda handler, body: server.send(handler, 418, b"\x1b[2J\x1b]0;title\x07teapot")
    with pytest.raises(RunError, match="teapot") as caught:
        judge_at(server, tmp_path).judge(PAIRS[:1])
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://host/v1", "host/v1", "http://me:pw@host/v1", "http://host/v1?key=pw"]
)
def test_addresses_that_are_refused(url):
    with pytest.raises(SettingsError, match="--base-url") as caught:
        load_openai("m", url)
    assert "pw" not in str(caught.value)


def test_a_proxy_of_the_environment_is_asked_and_one_that_is_none_is_refused(serve, tmp_path, monkeypatch):
    proxy = serve()
    monkeypatch.setenv("http_proxy", proxy.url.removeprefix("http://").removesuffix("/v1"))  # as curl takes it
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    far = OpenAIJudge(Endpoint("http://judge.invalid/v1", "m", timeout=5.0), Replies(tmp_path / "far"))
    assert [verdict.preference for verdict in far.judge(PAIRS)] == WANTED
    assert set(proxy.paths) == {"http://judge.invalid/v1/chat/completions"}
    near = serve()
    judge_at(near, tmp_path / "near").judge(PAIRS[:1])
    assert near.paths == ["/v1/chat/completions"]
    monkeypatch.setenv("http_proxy", "gopher://host")
    with pytest.raises(SettingsError, match="proxy"):
        load_openai("m", "http://judge.invalid/v1")
