"""Chat templates that ask what day it is, as Llama 3's and others' do."""

import copy
import json

import pytest

from unnorm.data.chat_template import DATE, fixed
from unnorm.data.conversation import Message
from unnorm.data.prepare import Source
from unnorm.data.settings import DataSettings
from unnorm.data.templates import template_of
from unnorm.foundation.errors import SettingsError

# as in Llama 3.2's
LLAMA = """{%- if not date_string is defined %}
    {%- set date_string = strftime_now("%d %b %Y") %}
{%- endif %}
{{- "Today Date: " + date_string + "\\n" }}
{%- for m in messages %}{{- "<" + m.role + ">" + m.content + "</s>" }}{%- endfor %}
{%- if add_generation_prompt %}{{- "<assistant>" }}{%- endif %}"""
TURNS = [Message("user", "hi"), Message("assistant", "ho")]


def told(tokenizer, text):
    own = copy.deepcopy(tokenizer)
    own.chat_template = text
    return own


def text_of(template):
    return "".join(piece.text for piece in template.render(TURNS))


def test_a_template_is_told_the_same_date_every_day(tokenizer):
    own = told(tokenizer, LLAMA)
    assert text_of(template_of("chat", own)) == "Today Date: 26 Jul 2024\n<user>hi</s><assistant>ho</s>"
    assert template_of("chat", own).prompt(TURNS[:1]) == "Today Date: 26 Jul 2024\n<user>hi</s><assistant>"


def test_the_user_may_name_the_date_and_it_is_in_the_identity(tokenizer, tmp_path):
    own = told(tokenizer, LLAMA)
    named = template_of("chat@2025-01-31", own)
    assert text_of(named) == "Today Date: 31 Jan 2025\n<user>hi</s><assistant>ho</s>"
    identities = [template_of(name, own).identity for name in ("chat", "chat@2024-07-26", "chat@2025-01-31")]
    assert identities[0] == identities[1] != identities[2]
    (tmp_path / "mine.jinja").write_text(LLAMA)
    file = template_of(f"{tmp_path / 'mine.jinja'}@2025-01-31", tokenizer)
    assert text_of(file) == text_of(named)
    assert file.identity.startswith("mine.jinja-")


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("%Y-%m-%d", "2024-07-26"),
        ("%A, %B %-d", "Friday, July 26"),
        ("%y %j %a", "24 208 Fri"),
        ("%-m/%-d", "7/26"),
        ("%d%% %H:%M:%S", "26% 00:00:00"),
        ("%%d", "%d"),
        ("%F %e %-e %D %T %R %h", "2024-07-26 26 26 07/26/24 00:00:00 00:00 Jul"),
    ],
)
def test_every_way_to_write_a_date(tokenizer, code, value):
    own = told(tokenizer, f"{{{{ strftime_now({code!r}) }}}}{{% for m in messages %}}{{{{ m.content }}}}{{% endfor %}}")
    assert text_of(template_of("chat", own)) == f"{value}hiho"
    assert DATE.strftime(code) == value


@pytest.mark.parametrize("start", ["\n", "\n\n  ", "  {% if true %}\n", "x\n"])
def test_the_rest_of_the_template_stays_as_it_is(tokenizer, start):
    text = start + "{% for m in messages %}{{ m.content }}{% endfor %}" + ("{% endif %}" if "if" in start else "")
    with_date = text + "{% if false %}{{ strftime_now('%d') }}{% endif %}"
    assert fixed(text) == text
    turns = [{"role": "user", "content": "hi"}]
    plain, dated = (
        tokenizer.apply_chat_template(turns, chat_template=each, tokenize=False) for each in (text, fixed(with_date))
    )
    assert plain == dated


def test_hashes_of_templates_without_a_date_stay(tokenizer):
    assert template_of("chat", told(tokenizer, "{{ messages[0].content }}")).identity == "chat-f803abdb07cf802e"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("alpaca@2025-01-31", LLAMA, "alpaca holds no date"),
        ("chat@2025-01-31", "{{ messages[0].content }}", "asks for no date"),
        ("chat@2025-02-31", LLAMA, "'2025-02-31' is no date"),
        ("chat@today", LLAMA, "no template 'chat@today'"),
        ("chat", "{{ ['a', 'b'] | random }}", "draws at random"),
        ("chat", "{{ lipsum() }}", "draws at random"),
    ],
)
def test_what_cannot_be_told_a_date(tokenizer, name, text, message):
    with pytest.raises(SettingsError, match=message):
        template_of(name, told(tokenizer, text))


def test_rows_of_two_days_are_the_same_and_those_of_two_dates_are_not(tokenizer, tmp_path, monkeypatch):
    import datetime

    from transformers.utils import chat_template_utils

    class Tomorrow(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2031, 5, 4)

    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": f"say {i}", "response": f"{i}"}) for i in range(100)))
    own = told(tokenizer, LLAMA)

    def rows(cache, template="chat"):
        monkeypatch.setenv("UNNORM_CACHE", str(tmp_path / cache))
        source = Source(DataSettings(source=str(path), template=template, max_length=64), own, quiet=True)
        made = source.validation(10**6)
        return source.encoding["template"], [item.ids.tolist() for row in made.rows for item in row]

    today, other = rows("one"), rows("one", "chat@2025-01-31")
    monkeypatch.setattr(chat_template_utils, "datetime", Tomorrow)
    assert rows("two") == today
    assert other[0] != today[0]
    assert other[1] != today[1]
