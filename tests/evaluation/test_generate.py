"""Answers do not depend on the batch; a second turn sees the first's answer; what is there is not made again."""

import json
from pathlib import Path

import orjson
import pytest
import torch
from scipy import stats

from conftest import FAMILIES, tiny_model
from surgery.architectures import architecture
from unnorm.cli.main import run
from unnorm.data.conversation import Message
from unnorm.data.encode import encode_prompt
from unnorm.data.templates import template_of
from unnorm.evaluation.completions import Ask, Completion, GumbelSampler, batching_is_clean, complete_each
from unnorm.evaluation.generate import generate
from unnorm.evaluation.questions import BUILTIN, Question, read_questions, temperature_of
from unnorm.foundation.errors import ArtefactError, DataError, SettingsError

QUESTIONS = tuple(
    Question(f"q{i}", category, tuple(Message("user", text) for text in turns))
    for i, (category, turns) in enumerate(
        [
            ("writing", ("Join red and blue", "Again")),
            ("math", ("Join lamp and stone and river and cloud", "Now join them the other way round")),
            ("stem", ("apple",)),
            ("other", ("Join green and blue 7", "What", "And then")),
        ]
    )
)


def complete(model, tokenizer, wanted: list[Ask], *, max_new_tokens: int, batch_size: int = 16) -> list[Completion]:
    found = complete_each(model, tokenizer, wanted, max_new_tokens=max_new_tokens, batch_size=batch_size)
    return [answer for _, answer in sorted(found, key=lambda each: each[0])]


def asks(tokenizer, temperature: float) -> list[Ask]:
    texts = ["Join red", "Join red and blue and green and stone 5", "a", "river cloud apple lamp", "### Response:\n"]
    return [Ask(encode_prompt(text, tokenizer), temperature, seed) for seed, text in enumerate(texts)]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_a_batch_answers_as_one_by_one(family, temperature, tokenizer):
    model = tiny_model(family)
    wanted = asks(tokenizer, temperature)
    alone = [complete(model, tokenizer, [ask], max_new_tokens=12)[0] for ask in wanted]
    for size in (2, 5):
        together = complete(model, tokenizer, wanted, max_new_tokens=12, batch_size=size)
        assert [answer.token_ids for answer in together] == [answer.token_ids for answer in alone]
        assert [answer.finish_reason for answer in together] == [answer.finish_reason for answer in alone]


def test_greedy_is_the_most_likely_token_each_time(tokenizer):
    model = tiny_model("llama")
    (ask,) = asks(tokenizer, 0.0)[:1]
    (answer,) = complete(model, tokenizer, [ask], max_new_tokens=8)
    ids = list(ask.ids)
    for token in answer.token_ids:
        with torch.no_grad():
            assert int(model(torch.tensor([ids])).logits[0, -1].argmax()) == token
        ids.append(token)


def test_an_answer_stops_at_eos_and_at_what_the_model_says(tokenizer):
    model = tiny_model("gpt2")
    (plain,) = complete(model, tokenizer, asks(tokenizer, 0.0)[:1], max_new_tokens=8)
    assert plain.finish_reason == "length"
    model.generation_config.eos_token_id = [0, plain.token_ids[3]]
    (short,) = complete(model, tokenizer, asks(tokenizer, 0.0)[:1], max_new_tokens=8)
    first = plain.token_ids.index(plain.token_ids[3])
    assert (short.token_ids, short.finish_reason) == (plain.token_ids[:first], "stop")


@pytest.mark.parametrize(
    "setting",
    [{"repetition_penalty": 1.5}, {"no_repeat_ngram_size": 1}, {"num_beams": 3}, {"suppress_tokens": list(range(300))}],
)
def test_no_other_setting_of_the_model_shapes_an_answer(setting, tokenizer):
    model = tiny_model("gpt2")
    wanted = asks(tokenizer, 0.7)
    plain = [answer.token_ids for answer in complete(model, tokenizer, wanted, max_new_tokens=12)]
    own = model.generation_config
    own.update(**setting)
    assert [answer.token_ids for answer in complete(model, tokenizer, wanted, max_new_tokens=12)] == plain
    assert model.generation_config is own  # and they are the model's again
    assert all(getattr(own, name) == value for name, value in setting.items())


def test_sampling_draws_from_the_softmax():
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    for temperature in (0.5, 1.5):
        n = 4000
        sampler = GumbelSampler([temperature] * n, range(n))
        drawn = sampler(None, logits.expand(n, 4)).argmax(-1)
        counts = torch.bincount(drawn, minlength=4).numpy()
        expected = (logits / temperature).softmax(-1).double().numpy()
        assert stats.chisquare(counts, expected / expected.sum() * n).pvalue > 1e-3
    assert torch.equal(GumbelSampler([0.0], [1])(None, logits[None]), logits[None])
    half = GumbelSampler([1.0], [1])(None, logits[None].bfloat16())
    assert half.dtype == torch.float32


def test_other_seeds_answer_otherwise(tokenizer):
    model = tiny_model("gpt2")
    ask = asks(tokenizer, 2.0)[0]
    answers = {tuple(complete(model, tokenizer, [ask._replace(seed=s)], max_new_tokens=6)[0].token_ids) for s in (1, 2)}
    assert len(answers) == 2


def test_of_a_prompt_that_is_too_long_the_end_is_kept(tokenizer):
    model = tiny_model("gpt2")
    ids = list(range(1, 101))
    (long,) = complete(model, tokenizer, [Ask(ids)], max_new_tokens=14)
    (kept,) = complete(model, tokenizer, [Ask(ids[-50:])], max_new_tokens=14)
    assert (long.token_ids, long.prompt_tokens, long.cut) == (kept.token_ids, 50, 50)
    assert kept.cut == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_new_tokens_that_leave_no_room_for_a_prompt_are_refused(family, tokenizer):
    for many in (64, 100):
        with pytest.raises(SettingsError, match=rf"{many} new tokens leave no room .* has 64 positions"):
            complete(tiny_model(family), tokenizer, [Ask([1, 2, 3])], max_new_tokens=many)
    (answer,) = complete(tiny_model(family), tokenizer, [Ask([1, 2, 3])], max_new_tokens=63)
    assert (answer.prompt_tokens, answer.cut) == (1, 2)


def test_the_probe_knows_where_padding_leaks():
    for family in FAMILIES:
        assert batching_is_clean(tiny_model(family))
        assert batching_is_clean(tiny_model(family).bfloat16())

    class Leaky(type(tiny_model("gpt2"))):
        def forward(self, input_ids=None, attention_mask=None, **rest):
            return super().forward(input_ids=input_ids, **rest)

    model = tiny_model("gpt2")
    model.__class__ = Leaky
    assert not batching_is_clean(model)
    assert isinstance(batching_is_clean(architecture("mamba")), bool)


def write(model, tokenizer, out: Path, questions=QUESTIONS, **options):
    template = template_of("alpaca-short", tokenizer)
    settings = {"max_new_tokens": 5, "temperature": "fastchat", "quiet": True, **options}
    return generate(model, tokenizer, questions, out, render=template.prompt, template=template.identity, **settings)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def plain(records: list[dict]) -> list[dict]:
    return [{key: value for key, value in record.items() if key != "seconds"} for record in records]


def test_turns(tokenizer, tmp_path):
    model = tiny_model("llama")
    report = write(model, tokenizer, tmp_path / "a.jsonl")
    records = lines(tmp_path / "a.jsonl")
    assert [(r["prompt_id"], r["turn"]) for r in records] == [
        (q.prompt_id, turn) for q in QUESTIONS for turn in range(len(q.turns))
    ]
    assert [r["temperature"] for r in records] == [0.7, 0.7, 0.0, 0.0, 0.1, 0.7, 0.7, 0.7]
    assert report.answers == report.made == 8
    assert report.tokens == sum(len(r["token_ids"]) for r in records)
    # The second turn was asked after the first and its answer.
    first, second = (r for r in records if r["prompt_id"] == "q1")
    text = f"### Instruction:\n{first['prompt']}\n\n### Response:\n{first['text']}"
    text += f"### Instruction:\n{second['prompt']}\n\n### Response:\n"
    (answer,) = complete(model, tokenizer, [Ask(encode_prompt(text, tokenizer))], max_new_tokens=5)
    assert second["token_ids"] == answer.token_ids
    assert second["prompt_tokens"] + second["cut"] == len(encode_prompt(text, tokenizer))


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_batch_size_changes_nothing(batch_size, tokenizer, tmp_path):
    model = tiny_model("gpt2")
    write(model, tokenizer, tmp_path / "a.jsonl")
    write(model, tokenizer, tmp_path / "b.jsonl", batch_size=batch_size)
    assert plain(lines(tmp_path / "a.jsonl")) == plain(lines(tmp_path / "b.jsonl"))


@pytest.mark.parametrize("kept", [0, 1, 3, 6])
@pytest.mark.parametrize("half", [b"", b'{"prompt_id": "q3", "tu'])
def test_it_goes_on_where_it_stopped(kept, half, tokenizer, tmp_path, monkeypatch):
    model = tiny_model("gpt2")
    write(model, tokenizer, tmp_path / "whole.jsonl")
    out = tmp_path / "a.jsonl"
    from unnorm.tuning.run_log import RunLog

    real, count = RunLog.append, 0

    def stop(self, record):
        nonlocal count
        if count == kept:
            raise KeyboardInterrupt
        count += 1
        real(self, record)

    monkeypatch.setattr(RunLog, "append", stop)
    with pytest.raises(KeyboardInterrupt):
        write(model, tokenizer, out)
    monkeypatch.setattr(RunLog, "append", real)
    if half:
        with open(out, "ab") as file:
            file.write(half)
    report = write(model, tokenizer, out)
    assert report.made == 8 - kept
    assert plain(lines(out)) == plain(lines(tmp_path / "whole.jsonl"))
    before = out.read_bytes()
    assert write(model, tokenizer, out).made == 0
    assert out.read_bytes() == before


def test_it_puts_in_order_what_a_run_left_that_was_stopped_after_the_last_answer(tokenizer, tmp_path):
    model, out = tiny_model("gpt2"), tmp_path / "a.jsonl"
    write(model, tokenizer, out)
    whole = out.read_bytes()
    out.write_bytes(b"".join(reversed(whole.splitlines(keepends=True))))
    assert write(model, tokenizer, out).made == 0
    assert out.read_bytes() == whole


def test_other_settings_are_refused_or_replaced(tokenizer, tmp_path):
    model = tiny_model("gpt2")
    out = tmp_path / "a.jsonl"
    write(model, tokenizer, out)
    with pytest.raises(ArtefactError, match="other settings: max_new_tokens, seed"):
        write(model, tokenizer, out, max_new_tokens=4, seed=3)
    with pytest.raises(ArtefactError, match="other settings: model"):
        write(tiny_model("gpt2", seed=5), tokenizer, out)
    assert write(model, tokenizer, out, max_new_tokens=4, replace=True).made == 8
    (tmp_path / "mine.jsonl").write_text("precious")
    with pytest.raises(ArtefactError, match="nothing says what made it"):
        write(model, tokenizer, tmp_path / "mine.jsonl")
    assert (tmp_path / "mine.jsonl").read_text() == "precious"


def test_temperatures():
    assert [temperature_of(category, "fastchat") for category in ("writing", "math", "stem", "?")] == [0.7, 0, 0.1, 0.7]
    assert temperature_of("writing", "greedy") == 0
    assert temperature_of("writing", "0.3") == 0.3
    for wrong in ("hot", "-1", "nan", "inf", ""):
        with pytest.raises(SettingsError, match="a temperature is"):
            temperature_of("writing", wrong)


def test_questions_of_every_form(tmp_path, shared):
    path = tmp_path / "q.jsonl"
    rows = [
        {"question_id": 81, "category": "writing", "turns": ["a", "b"]},
        {"prompt_id": "x", "category": "c", "instruction": "i", "input": "given"},
        {"prompt_id": 7, "category": "c", "prompt": ["one", "two", "three"]},
        {"prompt_id": "y", "category": "c", "prompt": "alone"},
    ]
    path.write_bytes(b"\n".join(orjson.dumps(row) for row in rows) + b"\n\n")
    found = read_questions(str(path))
    assert [q.prompt_id for q in found] == ["81", "x", "7", "y"]
    assert [[(m.content, m.input) for m in q.turns] for q in found] == [
        [("a", ""), ("b", "")],
        [("i", "given")],
        [("one", ""), ("two", ""), ("three", "")],
        [("alone", "")],
    ]
    assert read_questions("builtin") is BUILTIN
    bench = read_questions(str(shared / "data" / "mt_bench" / "question.jsonl"))
    assert len(bench) == 80
    assert {len(q.turns) for q in bench} == {2}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not valid JSON"),
        ("[]", "line 2: a prompt is an object"),
        ('{"prompt_id": "b", "category": "c"}', "line 2: a prompt needs an instruction"),
        ('{"prompt_id": "b", "category": "c", "turns": []}', "line 2: a prompt needs an instruction"),
        ('{"prompt_id": "b", "category": "c", "turns": ["a", 3]}', "line 2: a prompt needs an instruction"),
        ('{"prompt_id": "b", "category": "c", "instruction": "a", "input": 3}', "line 2: input is a text"),
        ('{"category": "c", "instruction": "a"}', "line 2: a prompt needs a prompt_id"),
        ('{"prompt_id": true, "category": "c", "instruction": "a"}', "line 2: a prompt needs a prompt_id"),
        ('{"prompt_id": "b", "instruction": "a"}', "line 2: a prompt needs a category"),
        ('{"prompt_id": "a", "category": "c", "instruction": "a"}', "two prompts with the id 'a'"),
    ],
)
def test_questions_that_cannot_be_used(line, message, tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text('{"prompt_id": "a", "category": "c", "instruction": "a"}\n' + line)
    with pytest.raises(DataError, match=message):
        read_questions(str(path))


def test_the_command(bases, tmp_path, capsys):
    path = tmp_path / "q.jsonl"
    path.write_text('{"prompt_id": "a", "category": "math", "turns": ["Join red", "and"]}\n')
    command = ["generate", bases["llama"], "--prompts", str(path), "--out", str(tmp_path / "a.jsonl")]
    command += ["--template", "alpaca-short", "--max-new-tokens", "40", "--temperature", "fastchat"]
    assert run([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["answers"], found["made"]) == (2, 2)
    assert run(command) == 0
    out, err = capsys.readouterr()
    assert "answers in" in out
    assert ("lost their beginning" in err) == (found["cut"] > 0)
    assert run([*command[:-1], "hot"]) == 2
    assert run(["generate", bases["llama"], "--prompts", "/nowhere", "--out", str(tmp_path / "b.jsonl")]) == 2
    assert "there is no prompts file" in capsys.readouterr().err
    assert not (tmp_path / "b.jsonl").exists()
