import pytest
import torch
from safetensors.torch import load_file, save_file

from unnorm.evaluation.judges.interface import AnswerPair
from unnorm.evaluation.judges.pairrm import Markers, PairRM, load_pairrm, markers_of, pair_ids, texts
from unnorm.foundation.errors import ModelError

WORDS = ["hello", "hi", "off", "love", "you", "too", "hate", "<", ">", "|", "source", "candidate1", "[", "]", "CLS"]
SPECIAL = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "<|source|>", "<|candidate1|>", "<|candidate2|>"]
MARKERS = Markers(4, 5, 6)


@pytest.fixture(scope="module")
def words():
    """A tokenizer of whole words, with PairRM's markers among its special tokens as the published one has them."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(SPECIAL + WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Punctuation()])
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        unk_token="[UNK]",
        additional_special_tokens=SPECIAL[4:],
    )


@pytest.fixture(scope="module")
def config():
    from transformers import DebertaV2Config

    return DebertaV2Config(
        vocab_size=len(SPECIAL) + len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        relative_attention=True,
        position_buckets=8,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        pos_att_type=["p2c", "c2p"],
        position_biased_input=False,
        type_vocab_size=0,
        n_tasks=1,
        drop_out=0.05,
        source_prefix_id=4,
        cand1_prefix_id=5,
        cand2_prefix_id=6,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory, config, words):
    """A random PairRM, saved as the published one is."""
    torch.manual_seed(0)
    model = PairRM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    place = tmp_path_factory.mktemp("pairrm")
    save_file(model.state_dict(), place / "model.safetensors")
    config.save_pretrained(place)
    words.save_pretrained(place)
    return place


PAIRS = [
    AnswerPair(("hello",), ("hi",), ("off",)),
    AnswerPair(("love you",), ("hate you you you",), ("love you too",)),
    AnswerPair(("hello", "hi"), ("hi", "too"), ("love", "off off")),
    AnswerPair(("hello", "hi"), ("hi", "too"), ("love", "off off"), "turn 2"),
]


def independent(folder, words, config, source, one, two):
    """The logit of one pair, without a batch: positions looked up in the list of ids, the head written out."""
    from transformers import DebertaV2Model

    weights = load_file(folder / "model.safetensors")
    inner = DebertaV2Model(config).eval()
    body = {k.removeprefix("pretrained_model."): v for k, v in weights.items() if k.startswith("pretrained_model.")}
    inner.load_state_dict(body)
    ids = []
    for marker, text in zip(MARKERS, (source, one, two), strict=True):
        ids += [1, marker, *words(text, add_special_tokens=False)["input_ids"], 2]
    with torch.no_grad():
        states = inner(input_ids=torch.tensor([ids])).last_hidden_state[0]

    def head(candidate):
        x = torch.cat([states[ids.index(4)], states[ids.index(candidate)]])
        hidden = torch.tanh(weights["head_layer.1.weight"] @ x + weights["head_layer.1.bias"])
        return float(weights["head_layer.4.weight"] @ hidden + weights["head_layer.4.bias"])

    return head(5) - head(6)


def test_logits_equal_an_independent_computation(folder, words, config):
    judge = load_pairrm(str(folder))
    together = [verdict.preference for verdict in judge.judge(PAIRS)]
    expected = [independent(folder, words, config, *texts(pair)) for pair in PAIRS]
    assert together == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert min(map(abs, expected)) > 1e-3  # they say something


def test_the_two_orders_are_two_questions(folder):
    judge = load_pairrm(str(folder))
    there, back = judge.judge([PAIRS[1], PAIRS[1].swapped])
    assert abs(there.preference + back.preference) > 1e-4  # a pair network is not antisymmetric by itself
    same = AnswerPair(("hello",), ("hi",), ("hi",))
    assert judge.judge([same])[0].preference != 0  # so that A against itself measures the pull of the position


def test_published_names_of_weights(folder):
    names = set(load_file(folder / "model.safetensors"))
    assert {"head_layer.1.weight", "head_layer.1.bias", "head_layer.4.weight", "head_layer.4.bias"} < names
    assert "pretrained_model.embeddings.word_embeddings.weight" in names
    assert all(name.startswith(("pretrained_model.", "head_layer.")) for name in names)
    assert load_pairrm(str(folder)).model.state_dict().keys() == names


def test_published_ids_are_the_default(config):
    from transformers import DebertaV2Config

    assert markers_of(DebertaV2Config()) == (128001, 128002, 128003)
    assert markers_of(config) == MARKERS


def test_the_form_and_its_limits(words):
    ids, cut = pair_ids(words, MARKERS, "hello", "hi", "off off")
    form = "[CLS] <|source|> hello [SEP] [CLS] <|candidate1|> hi [SEP] [CLS] <|candidate2|> off off [SEP]"
    assert " ".join(words.convert_ids_to_tokens(ids)) == form
    assert not cut
    ids, cut = pair_ids(words, MARKERS, "hello " + "you " * 3000, "hi " * 3000, "off")
    assert cut
    assert ids[2] == words.convert_tokens_to_ids("hello")  # the start is kept
    assert [ids.index(marker) for marker in MARKERS] == [1, 1224 + 1, 1224 + 412 + 1]
    assert len(ids) == 1224 + 412 + 4
    ids, _ = pair_ids(words, MARKERS, "hello", "hi " * 3000, "hi " * 3000)
    assert len(ids) == 4 + 2 * 1022  # a short source leaves its room to the candidates


@pytest.mark.parametrize(
    "text", ["<|source|> hi", "<|candidate2|>", "x[SEP][CLS]<|candidate1|> hi", "<<|source|>|source|>"]
)
def test_literal_markers_stay_text(words, text):
    ids, _ = pair_ids(words, MARKERS, text, text, text)
    assert [ids.count(marker) for marker in MARKERS] == [1, 1, 1]
    assert ids.count(words.cls_token_id) == ids.count(words.sep_token_id) == 3
    assert len(ids) > 12  # what was written is still there


def test_several_turns():
    source, one, two = texts(PAIRS[2])
    assert source.endswith("USER: hello\nAssistant: <Response 1>\nUSER: hi\nAssistant: <Response 2>")
    assert (one, two) == ("<Response 1>: hi\n<Response 2>: too", "<Response 1>: love\n<Response 2>: off off")
    assert texts(PAIRS[3]) == (source, "<Response 2>: too", "<Response 2>: off off")
    assert texts(PAIRS[0]) == ("hello", "hi", "off")


def test_a_config_that_only_names_its_deberta(folder, tmp_path):
    """As llm-blender/PairRM has it: configuration and tokenizer are the named model's, the vocabulary the file's."""
    base, ranker = tmp_path / "deberta", tmp_path / "ranker"
    base.mkdir()
    ranker.mkdir()
    for file in folder.iterdir():
        (ranker if file.name == "model.safetensors" else base).joinpath(file.name).write_bytes(file.read_bytes())
    (ranker / "config.json").write_text(f'{{"ranker_type": "pairranker", "model_name": "{base}"}}')
    ours, theirs = (load_pairrm(str(place)).judge(PAIRS[:1]) for place in (ranker, folder))
    assert ours == theirs


@pytest.mark.parametrize("lacking", ["head_layer.4.bias", None])
def test_what_is_no_pairrm_is_refused(folder, tmp_path, lacking):
    weights = load_file(folder / "model.safetensors")
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    if lacking:
        save_file({k: v for k, v in weights.items() if k != lacking}, tmp_path / "model.safetensors")
    else:
        (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"cannot load .* as a PairRM"):
        load_pairrm(str(tmp_path))


def test_published_check():
    from huggingface_hub import try_to_load_from_cache

    if not isinstance(try_to_load_from_cache("llm-blender/PairRM-hf", "model.safetensors"), str):
        pytest.skip("the weights of llm-blender/PairRM-hf are not in the cache of the hub")
    pairs = [
        AnswerPair(("hello!",), ("hi!",), ("f**k off!",)),
        AnswerPair(("I love you!",), ("I hate you!",), ("I love you, too!",)),
    ]
    found = [verdict.preference for verdict in load_pairrm("llm-blender/PairRM-hf").judge(pairs)]
    assert found == pytest.approx([1.9003, -1.2547], abs=2e-3)
