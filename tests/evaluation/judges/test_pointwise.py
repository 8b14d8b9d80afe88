"""`likelihood` and `reward`: each conversation alone."""

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from conftest import tiny_config
from unnorm.evaluation.judges.interface import AnswerPair, Dialogue
from unnorm.evaluation.judges.likelihood import load_likelihood, mean_log_probability
from unnorm.evaluation.judges.reward import load_reward, mean_reward
from unnorm.foundation.errors import ModelError

ONE = Dialogue(("Join red and blue",), ("red blue",), "whole")
TWO = Dialogue(("a", "b"), ("c d", "e f g"), "whole")
PROMPT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{}\n\n### Response:\n"
)


class Recorder(torch.nn.Module):
    """A model without context limit whose log-probability of a token is set by the token alone."""

    def __init__(self, positions=None):
        super().__init__()
        from types import SimpleNamespace

        inner = SimpleNamespace(max_position_embeddings=positions)
        self.config = SimpleNamespace(get_text_config=lambda: inner)
        self.head = torch.nn.Linear(1, 384, bias=False)
        torch.nn.init.normal_(self.head.weight, generator=torch.Generator().manual_seed(0))
        self.seen = []

    def get_output_embeddings(self):
        return self.head

    get_input_embeddings = get_output_embeddings  # for the number of its rows

    def forward(self, input_ids, use_cache):
        from types import SimpleNamespace

        self.seen.append(input_ids.shape[1])
        return SimpleNamespace(logits=self.head(torch.ones(*input_ids.shape, 1)))


def by_hand(model, tokenizer, pieces):
    """Mean log-probability over the pieces marked as judged, from one full forward."""
    ids, judged = [], []
    for text, counts in pieces:
        tokens = tokenizer(text)["input_ids"] if isinstance(text, str) else [text]
        ids += tokens
        judged += [counts] * len(tokens)
    log_p = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    found = [float(log_p[t - 1, ids[t]]) for t in range(1, len(ids)) if judged[t]]
    return sum(found) / len(found)


@torch.no_grad()
def test_likelihood_is_the_mean_over_the_answers_tokens(tokenizer):
    from transformers import AutoModelForCausalLM

    config = tiny_config("gpt2")
    config.n_positions = 512
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    expected = by_hand(model, tokenizer, [(PROMPT.format("Join red and blue"), False), ("red blue", True)])
    assert mean_log_probability(model, tokenizer, ONE).value == pytest.approx(expected, rel=1e-5)
    eos = (tokenizer.eos_token_id, False)
    pieces = [(PROMPT.format("a"), False), ("c d", True), eos, (PROMPT.format("b"), False), ("e f g", True)]
    whole = mean_log_probability(model, tokenizer, TWO).value
    assert whole == pytest.approx(by_hand(model, tokenizer, pieces), rel=1e-5)
    last = mean_log_probability(model, tokenizer, TWO._replace(part="turn 2")).value
    pieces[1] = ("c d", False)
    assert last == pytest.approx(by_hand(model, tokenizer, pieces), rel=1e-5)
    assert last != pytest.approx(whole)


@pytest.mark.parametrize("words", [1, 20, 64, 65, 200])
def test_long_answers_are_scored_once_a_token_in_windows(tokenizer, words):
    """With probabilities that do not depend on context, windows must give what one long pass gives."""
    answer = " red" * words
    conversation = Dialogue(("Join",), (answer,), "whole")
    short, long = Recorder(64), Recorder()
    assert mean_log_probability(short, tokenizer, conversation).value == pytest.approx(
        mean_log_probability(long, tokenizer, conversation).value, rel=1e-6
    )
    assert max(short.seen) <= 64
    targets = tokenizer(answer)["input_ids"]
    expected = short.head(torch.ones(1)).log_softmax(-1)[targets].mean()
    assert mean_log_probability(short, tokenizer, conversation).value == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("length", [1, 64, 65, 96, 97, 1000])
def test_windows_score_each_place_once_with_half_a_window_before_it(length):
    from unnorm.evaluation.judges.likelihood import _windows

    scored = []
    for start, first in _windows(length, 64):
        assert first - start == (0 if start == 0 else 32)
        scored += range(first, min(start + 64, length))
    assert scored == list(range(length))


def test_the_likelihood_judge(bases):
    judge = load_likelihood(bases["gpt2"])
    assert not judge.sees_order
    assert "weak" in judge.caveat
    pair = AnswerPair(("Join red and blue",), ("red blue",), ("zzzz qqqq",))
    there, back = judge.judge([pair, pair.swapped])
    assert there.preference == -back.preference != 0
    assert judge.judge([AnswerPair(pair.questions, pair.first, pair.first)])[0].preference == 0
    assert load_likelihood(bases["gpt2"]).judge([pair]) == [there]  # the same in another process's words
    assert judge.judge([AnswerPair(pair.questions, ("",), ("a",))])[0].preference is None  # nothing to take a mean of


def test_an_end_of_text_in_an_answer_is_text(tokenizer):
    from unnorm.evaluation.judges.likelihood import _encode

    ids, judged = _encode(Dialogue(("q",), ("red<|endoftext|>blue",), "whole"), tokenizer)
    assert ids.count(tokenizer.eos_token_id) == 1
    assert not judged[ids.index(tokenizer.eos_token_id)]


@pytest.fixture(scope="module")
def rewards(tmp_path_factory, tokenizer):
    """Families of reward models: a decoder with a chat template, and one without."""
    found = {}
    for name, template in (
        ("plain", None),
        ("chat", "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"),
    ):
        config = tiny_config("llama")
        config.num_labels, config.pad_token_id, config.max_position_embeddings = 1, 0, 48
        torch.manual_seed(0)
        place = tmp_path_factory.mktemp(name)
        AutoModelForSequenceClassification.from_config(config).save_pretrained(place)
        import copy

        own = copy.deepcopy(tokenizer)
        own.chat_template = template
        own.save_pretrained(place)
        found[name] = str(place)
    return found


@torch.no_grad()
def test_reward_equals_a_direct_call(rewards, tokenizer):
    model = AutoModelForSequenceClassification.from_pretrained(rewards["chat"]).eval()
    pair = AnswerPair(("a",), ("c d",), ("e f g",))
    found = load_reward(rewards["chat"]).judge([pair])[0]
    one, two = (
        float(model(torch.tensor([tokenizer(f"<user>a<assistant>{text}")["input_ids"]])).logits[0, 0])
        for text in ("c d", "e f g")
    )
    assert found.preference == pytest.approx(one - two, rel=1e-5)
    plain = AutoModelForSequenceClassification.from_pretrained(rewards["plain"]).eval()
    one = float(plain(torch.tensor([tokenizer("a", "c d")["input_ids"]])).logits[0, 0])
    two = float(plain(torch.tensor([tokenizer("a", "e f g")["input_ids"]])).logits[0, 0])
    assert load_reward(rewards["plain"]).judge([pair])[0].preference == pytest.approx(one - two, rel=1e-5)


@pytest.mark.parametrize("kind", ["plain", "chat"])
def test_reward_of_turns_and_of_long_text(rewards, tokenizer, kind):
    from transformers import AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(rewards[kind]).eval()
    own = AutoTokenizer.from_pretrained(rewards[kind])
    first = mean_reward(model, own, Dialogue(("a",), ("c d",), "whole")).value
    last = mean_reward(model, own, TWO._replace(part="turn 2")).value
    assert mean_reward(model, own, TWO).value == pytest.approx((first + last) / 2)
    assert not mean_reward(model, own, TWO).cut
    assert mean_reward(model, own, Dialogue(("a",), ("z" * 200,), "whole")).cut
    mean_reward(model, own, Dialogue(("a",), ("<|endoftext|>",), "whole"))


def test_what_is_no_reward_model_is_refused(bases, rewards, tmp_path, tokenizer):
    with pytest.raises(ModelError, match=r"are missing in its files, score\.weight first"):
        load_reward(bases["llama"])  # a language model: its head would be random
    config = tiny_config("llama")
    config.num_labels = 3
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="gives 3 numbers"):
        load_reward(str(tmp_path))
    with pytest.raises(ModelError, match="there is no folder"):
        load_reward(str(tmp_path / "absent"))
