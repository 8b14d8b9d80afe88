"""A tiny Llama whose first position is an attention sink, its weights written by hand: what real models have, small.

From layer `since` on, the first position of every sequence carries a massive activation in two channels: its root mean
square is `size` times the other tokens' (arXiv 2402.17762, 2603.05498). The norm shrinks all its other channels to
nothing, so its value is nothing, and every head sends it a part of its attention to do nothing. An elementwise norm
cannot shrink them: what heads then fetch from it is noise in the stream of every later token.

How position 0 is found, as rotary models have no absolute positions: head 0 of layer 0 looks at all tokens so far alike
and fetches the mean of their codes (a few ±, another combination for each token). At the first position alone that mean
is the token's own code. The MLP of layer 0 writes how far the two are apart, the MLP of layer `since` - 1 writes the
massive activation where they are not. So it follows packed rows, whose sequences start anew, and, as in real models, a
token that repeats the first one right after it is a sink too.

What is written by hand stands in channels of its own, which the rest neither reads nor writes; `train_` leaves it.
"""

import copy
import functools
import math
from collections.abc import Iterator

import torch
from torch import nn

from conftest import VOCABULARY

BITS = 10  # nine for 384 tokens and their parity: any two codes differ in two places
CONSTANT, CODE, APART, LATER, MASSIVE, OWN = 0, 1, 1 + BITS, 1 + 2 * BITS, 2 + 2 * BITS, 4 + 2 * BITS
"""First channels of: 1 everywhere; a token's code; mean code less own; how far they are apart; the massive activation
(two channels); all that is not written by hand."""
_STRENGTH = 0.5  # of a code's ±
_SHARP = 400.0
_PULL = 10.0  # score of the sink where the stream's root mean square is 1; other tokens have about 0


def sink_config(layers: int = 4):
    from transformers import AutoConfig

    return AutoConfig.for_model(
        "llama", hidden_size=64, num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=128, max_position_embeddings=256, vocab_size=VOCABULARY, bos_token_id=0, eos_token_id=0,
        tie_word_embeddings=False,
    )  # fmt: skip


def sink_model(*, layers: int = 4, since: int = 2, size: float = 500.0, steps: int = 0, seed: int = 0):
    """A random model in eval mode, fp32, whose first position is a sink from layer `since` (2 or more) on.

    size: the first position's root mean square, about; other tokens' is 1 to 3. `since=layers` has it at the final norm
    alone; `size=0` gives the same model without a sink. steps: how long it learns `toy_text` (`train_`); 100 take some
    five seconds and bring its loss from 6.5 to about 1.1, chance being 3.85.
    """
    return copy.deepcopy(_made(layers, since, size, steps, seed))


@functools.cache
def _made(layers: int, since: int, size: float, steps: int, seed: int):
    from transformers import AutoModelForCausalLM

    assert 2 <= since <= layers
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(sink_config(layers)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=parameter.shape[1] ** -0.5)
            else:
                parameter.add_(0.3 * torch.randn_like(parameter))
            if name.startswith("model.layers.") and parameter.ndim == 1:
                parameter[:OWN] = 1
        _clear_(model)
        _embed_(model)
        _tell_apart_(model.model.layers[0])
        _plant_(model.model.layers[since - 1].mlp, size)
        for layer in model.model.layers[since:]:
            _attend_(layer.self_attn)
    if steps:
        train_(model, toy_text(16 * steps, seed=seed + 1), steps)
    return model


def toy_text(rows: int, length: int = 64, seed: int = 0) -> torch.Tensor:
    """Token ids [rows, length] of a language of 47 tokens that can be learnt: each row has one of four topics, and a
    topic says which two tokens may follow a token. Its entropy is 0.69 nats a token; to know the topic, one has to look
    back."""
    steps = torch.randint(1, 47, (4, 48, 2), generator=torch.Generator().manual_seed(0))
    tables = (torch.arange(48)[:, None] - 1 + steps) % 47 + 1  # never the token itself, which might be a sink too
    generator = torch.Generator().manual_seed(seed)
    ids = torch.empty(rows, length, dtype=torch.long)
    ids[:, 0] = torch.randint(1, 48, (rows,), generator=generator)
    topic = torch.randint(4, (rows,), generator=generator)
    for at in range(1, length):
        ids[:, at] = tables[topic, ids[:, at - 1], torch.randint(2, (rows,), generator=generator)]
    return ids


def train_(model, ids: torch.Tensor, steps: int, learning_rate: float = 3e-3) -> None:
    """Let the model learn `ids` [B, T], 16 rows a step; embedding, norms and what was written by hand stay."""
    kept = {name: (mask, model.get_parameter(name).detach()[mask].clone()) for name, mask in _by_hand(model)}
    learns = [model.get_parameter(name) for name, _ in _by_hand(model)]
    optimizer = torch.optim.AdamW(learns, lr=learning_rate, weight_decay=0.0)
    for step in range(steps):
        some = ids[torch.arange(16 * step, 16 * step + 16) % len(ids)]
        model(some, labels=some).loss.backward()
        optimizer.step()
        model.zero_grad()
        with torch.no_grad():
            for name, (mask, values) in kept.items():
                model.get_parameter(name)[mask] = values


def _by_hand(model) -> Iterator[tuple[str, torch.Tensor]]:
    """Name of each linear layer's weight, and which of its entries were written by hand."""
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1 or name == "model.embed_tokens.weight":
            continue
        mask = torch.zeros_like(parameter, dtype=torch.bool)
        if name.endswith(("o_proj.weight", "down_proj.weight")):  # write the stream
            mask[:OWN] = True
        else:
            mask[:, :OWN] = True
        if ".layers.0.self_attn." in name:
            mask[:] = True
        elif ".mlp." in name:
            (mask.T if "down_proj" in name else mask)[: 2 * BITS] = True
        yield name, mask


def _clear_(model: nn.Module) -> None:
    for name, mask in _by_hand(model):
        if ".layers.0.self_attn." not in name:
            model.get_parameter(name)[mask] = 0


def _embed_(model) -> None:
    """1, the code, and the code taken off; the rest so that all tokens have root mean square 1, exactly."""
    table = model.model.embed_tokens.weight  # [V, C]
    bits = (torch.arange(VOCABULARY)[:, None] >> torch.arange(BITS - 1)) & 1
    code = _STRENGTH * (2.0 * torch.cat([bits, bits.sum(1, keepdim=True) % 2], 1) - 1)  # [V, BITS]
    table[:, :OWN] = 0
    table[:, CONSTANT] = 1
    table[:, CODE : CODE + BITS] = code
    table[:, APART : APART + BITS] = -code
    left = table.shape[1] - table[:, :OWN].square().sum(1, keepdim=True)
    table[:, OWN:] *= left.sqrt() / table[:, OWN:].norm(dim=1, keepdim=True)


def _tell_apart_(layer) -> None:
    """Layer 0: mean code less own code by head 0, and its size by the MLP. SiLU(u) + SiLU(-u) is nearly |u|."""
    attention, mlp = layer.self_attn, layer.mlp
    width = attention.head_dim
    attention.q_proj.weight[:width] = 0  # looks at all alike
    attention.v_proj.weight[:width] = 0
    attention.v_proj.weight[:BITS, CODE : CODE + BITS] = torch.eye(BITS)
    attention.v_proj.weight[width:, :OWN] = 0
    attention.o_proj.weight[:OWN] = 0
    attention.o_proj.weight[OWN:, : 2 * width] = 0  # heads 0 and 1 share that value
    attention.o_proj.weight[APART : APART + BITS, :BITS] = torch.eye(BITS)
    for bit in range(2 * BITS):
        mlp.gate_proj.weight[bit, APART + bit // 2] = _SHARP * (-1) ** bit
        mlp.up_proj.weight[bit, CONSTANT] = 1
        mlp.down_proj.weight[LATER, bit] = 1 / (_SHARP * 2 * BITS * _STRENGTH)


def _plant_(mlp, size: float) -> None:
    """The massive activation, where the mean code is the token's own."""
    mlp.gate_proj.weight[0, CONSTANT] = 0.02 * _SHARP
    mlp.gate_proj.weight[0, LATER] = -_SHARP
    mlp.up_proj.weight[0, CONSTANT] = 1
    channels, fired = mlp.down_proj.weight.shape[0], 0.02 * _SHARP  # SiLU(8) is nearly 8
    value = 2 * size * math.sqrt(channels / 2) / fired  # twice, as the stream has a root mean square of some √2 there
    mlp.down_proj.weight[MASSIVE, 0], mlp.down_proj.weight[MASSIVE + 1, 0] = value, -value


def _attend_(attention) -> None:
    """A key at the sink, and a query everywhere, in the pair of dimensions that positions hardly turn."""
    width, channels = attention.head_dim, attention.q_proj.weight.shape[1]
    slow = width // 2 - 1
    root = math.sqrt(_PULL * math.sqrt(width) / math.sqrt(channels / 2))
    attention.q_proj.weight[slow::width, CONSTANT] = root
    attention.k_proj.weight[slow::width, MASSIVE] = root
