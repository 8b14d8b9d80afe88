"""Recovery one block at a time: equal to its definition, on every architecture, resumable, and never to a worse end."""

import copy
import math
import shutil

import pytest
import torch
from torch.func import functional_call

import unnorm
from conftest import FAMILIES, kl, tiny_model, tokens
from surgery.architectures import CONFIGS, architecture, architecture_tokens
from unnorm import DyT
from unnorm.foundation.errors import ArtefactError, DataError, ModelError, NonFiniteError, SettingsError
from unnorm.tuning import block_memory, block_work, blockwise
from unnorm.tuning.block_streams import parts_of
from unnorm.tuning.blockwise import recover_blockwise_

QUICK = {
    "steps": 12,
    "batch_tokens": 512,
    "norm_learning_rate": 1e-2,
    "learning_rate": 1e-3,
    "precision": "fp32",
    "quiet": True,
}


def swapped(family="llama", specs=None, bare=False):
    original = tiny_model(family)
    model = copy.deepcopy(original)
    unnorm.swap_(model, specs or DyT(alpha="channel"), calibrate_on=None if bare else tokens(16))
    return model, original


@torch.no_grad()
def worsened(model):
    """Then something is to be learnt, and to be fitted anew."""
    for site in unnorm.find_sites(model):
        model.get_submodule(site.path).weight.mul_(1.3)
    return model


def copied(pair):
    return copy.deepcopy(pair[0]), copy.deepcopy(pair[1])


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def changed(model, before):
    return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}


def same(first, second):
    return all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def by_definition(model, original, held_out, rows, steps, norm_rate, rate, train):
    """The same for a Llama whose rows [B, T] all go into every step, without any of the machinery. Returns, by block,
    (loss on held-out rows before, after)."""
    both = torch.cat([held_out, rows])
    stream, wanted = model.model.embed_tokens(both), original.model.embed_tokens(both)
    position = torch.arange(both.shape[1])[None]
    rotary = model.model.rotary_emb(stream, position)
    losses = []

    def run(block, x, values=None):
        call = {"attention_mask": None, "position_ids": position, "position_embeddings": rotary}
        return functional_call(block, values or {}, (x,), call)

    for block, theirs in zip(model.model.layers, original.model.layers, strict=True):
        with torch.no_grad():
            wanted = run(theirs, wanted)
        unit = wanted[:, 1:].square().mean((0, 1)).sqrt()

        def loss(out, which, wanted=wanted, unit=unit):
            size = (wanted[which] / unit).square().mean(-1).clamp_min(1)
            return (((out - wanted[which]) / unit).square().mean(-1) / size).mean()

        start = {name: parameter.detach().clone() for name, parameter in block.named_parameters()}
        is_norm = {name: "layernorm" in name for name in start}
        learns = {name: torch.zeros_like(v) if is_norm[name] else v.clone() for name, v in start.items()}
        learns = {name: v.requires_grad_() for name, v in learns.items() if train == "all" or is_norm[name]}

        def values(start=start, learns=learns):
            full = dict(start)
            for name, v in learns.items():
                if name.endswith("alpha"):
                    full[name] = start[name] * v.exp()
                elif "layernorm" in name and name.endswith("weight"):
                    full[name] = start[name] * (1 + v)
                elif "layernorm" in name:
                    full[name] = start[name] + start[name.replace("bias", "weight")].abs().median() * v
                else:
                    full[name] = v
            return full

        groups = [{"params": [v for n, v in learns.items() if is_norm[n]], "lr": norm_rate}]
        groups += [{"params": [v for n, v in learns.items() if not is_norm[n]], "lr": rate}] if train == "all" else []
        optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0)
        train_rows, test_rows = slice(len(held_out), None), slice(len(held_out))
        with torch.no_grad():
            before = float(loss(run(block, stream[test_rows]), test_rows))
        for step in range(steps):
            for group, full_rate in zip(optimizer.param_groups, (norm_rate, rate), strict=False):
                group["lr"] = full_rate * min(1, (step + 1) / (steps // 4)) * (1 - 0.9 * step / steps)
            optimizer.zero_grad()
            loss(run(block, stream[train_rows].detach(), values()), train_rows).backward()
            torch.nn.utils.clip_grad_norm_(learns.values(), 1.0)
            optimizer.step()
        with torch.no_grad():
            after = float(loss(run(block, stream[test_rows], values()), test_rows))
            if after <= before:
                block.load_state_dict(values())
            stream = run(block, stream)
        losses.append((before, after))
    return losses


@pytest.mark.parametrize("train", ["all", "norms"])
def test_it_is_its_definition(train):
    pair = swapped()
    ids = tokens(17)
    by_hand, by_us = copied(pair), copied(pair)
    held_out, rows = ids[::10], ids[[i for i in range(17) if i % 10]]
    losses = by_definition(*by_hand, held_out, rows, 12, 2e-3, 2e-4, train)
    rates = {"norm_learning_rate": 2e-3, "learning_rate": 2e-4}
    report = recover_blockwise_(*by_us, ids, **{**QUICK, **rates}, train=train)
    assert report.rows == 15
    assert report.held_out_rows == 2
    assert report.tokens == 2 * 12 * 15 * 32
    for block, (before, after) in zip(report.blocks, losses, strict=True):
        assert (block.loss_before, block.loss_after) == pytest.approx((before, after), rel=1e-5)
        assert block.tokens == 12 * 15 * 32
    assert changed(by_us[0], state(pair[0]))
    for name, value in by_us[0].model.layers.state_dict().items():
        torch.testing.assert_close(value, by_hand[0].model.layers.state_dict()[name], rtol=1e-5, atol=1e-5)


def test_parts_of_a_step_add_up_to_the_whole(monkeypatch):
    ends = []
    for part_tokens in (4096, 64):
        monkeypatch.setattr(block_work, "PART_TOKENS", part_tokens)
        model, original = swapped()
        recover_blockwise_(model, original, tokens(17), **QUICK)
        ends.append(model.state_dict())
    for name, value in ends[0].items():
        torch.testing.assert_close(ends[1][name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("train", ["all", "norms"])
@pytest.mark.parametrize("family", FAMILIES)
def test_it_comes_closer_and_changes_what_it_should(family, train):
    model, original = swapped(family, DyT())
    model.train()
    original.get_submodule(unnorm.find_sites(original)[0].path).requires_grad_(False)
    modes, flags = [m.training for m in model.modules()], [p.requires_grad for p in original.parameters()]
    before, theirs, held_out = state(model), state(original), tokens(8, seed=5)
    with torch.no_grad():
        reference = original(held_out).logits.log_softmax(-1)
    far = kl(model.eval(), held_out, reference)
    model.train()
    options = {**QUICK, "steps": 60, "norm_learning_rate": 5e-3}
    report = recover_blockwise_(model, original, tokens(96), **options, train=train)
    assert all(block.kept and block.loss_after < block.loss_before for block in report.blocks)
    assert kl(model.eval(), held_out, reference) < far
    model.train()
    sites = [site.path for site in unnorm.find_sites(model)]
    assert [site.path for site in report.refitted] == sites[-1:]
    at_sites = {name for name in before if any(name.startswith(path + ".") for path in sites)}
    blocks = {name for name in before if any(name.startswith(block.path + ".") for block in report.blocks)}
    touched = changed(model, before)
    if train == "all":  # a final norm, refitted to the same text, may stay as it is
        last = {name for name in before if name.startswith(sites[-1] + ".")}
        assert touched | last == {n for n in blocks | at_sites if n in dict(model.named_parameters())} | last
    else:
        assert at_sites & blocks <= touched <= at_sites
    assert not changed(original, theirs)
    assert [m.training for m in model.modules()] == modes
    assert [p.requires_grad for p in original.parameters()] == flags
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert "recovered 2 blocks one at a time" in report.describe()
    assert report.to_dict()["blocks"][0]["path"] == report.blocks[0].path


@pytest.mark.parametrize("name", CONFIGS)
def test_every_architecture(name):
    original, few = architecture(name), name == "mamba2"  # whose plain code computes 256 positions a row
    model = copy.deepcopy(original)
    unnorm.swap_(model, DyT(), calibrate_on=architecture_tokens(8), mode="sequential")
    worsened(model)
    theirs = state(original)
    rate = {"norm_learning_rate": 1e-2, "learning_rate": 5e-4}
    options = {**QUICK, **rate, "batch_tokens": 256, "steps": 3 if few else 10}
    report = recover_blockwise_(model, original, architecture_tokens(4 if few else 40), **options)
    assert len(report.blocks) == 2
    assert all(block.loss_after < block.loss_before and block.kept for block in report.blocks)
    final = [site.path for site in unnorm.find_sites(model) if site.role == "final"]
    assert [site.path for site in report.refitted] == final
    assert all(site.kept and site.error_after < site.error_before for site in report.refitted)
    assert not changed(original, theirs)
    with torch.no_grad():
        assert model(input_ids=architecture_tokens()).logits.isfinite().all()


def test_blocks_without_swapped_sites_are_passed_through():
    model, original = swapped(specs={"model.layers.1.*": DyT(alpha="channel")})
    before = state(model)
    report = recover_blockwise_(model, original, tokens(64), **QUICK)
    assert [block.path for block in report.blocks] == ["model.layers.1"]
    assert report.refitted == ()
    assert {name[:15] for name in changed(model, before)} == {"model.layers.1."}


def interrupt(monkeypatch, at):
    """Ctrl-C after this many steps, counted over blocks."""
    plain, count = blockwise._Pace.__call__, [0]

    def stop(self, *arguments):
        count[0] += 1
        if count[0] == at:
            raise KeyboardInterrupt
        plain(self, *arguments)

    monkeypatch.setattr(blockwise._Pace, "__call__", stop)


def plain_record(report):
    return [{**block, "seconds": 0.0} for block in report.to_dict()["blocks"]], report.refitted, report.tokens


@pytest.mark.parametrize("same_process", [True, False])
def test_it_goes_on_with_the_first_unfinished_block_to_the_same_end(tmp_path, monkeypatch, same_process):
    pair = swapped()
    whole, stopped = copied(pair), copied(pair)
    expected = recover_blockwise_(*whole, tokens(64), **QUICK)
    with monkeypatch.context() as patch:
        interrupt(patch, at=12 + 5)
        with pytest.raises(KeyboardInterrupt):
            recover_blockwise_(*stopped, tokens(64), **QUICK, folder=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["block-0000.safetensors", "state.json"]
    again = stopped if same_process else copied(pair)
    report = recover_blockwise_(*again, tokens(64), **QUICK, folder=tmp_path)
    assert report.resumed == 1
    assert "1 of the blocks had been finished before" in report.describe()
    assert same(again[0], whole[0])
    assert plain_record(report) == plain_record(expected)
    once_more = copied(pair)
    assert recover_blockwise_(*once_more, tokens(64), **QUICK, folder=tmp_path).resumed == 2
    assert same(once_more[0], whole[0])


def test_ctrl_c_leaves_the_last_finished_block(monkeypatch):
    pair = swapped()
    whole, stopped = copied(pair), copied(pair)
    recover_blockwise_(*whole, tokens(64), **QUICK)
    interrupt(monkeypatch, at=12 + 5)
    with pytest.raises(KeyboardInterrupt):
        recover_blockwise_(*stopped, tokens(64), **QUICK)
    assert same(stopped[1], pair[1])
    assert same(stopped[0].model.layers[0], whole[0].model.layers[0])
    assert same(stopped[0].model.layers[1], pair[0].model.layers[1])
    assert not same(whole[0].model.layers[1], pair[0].model.layers[1])
    assert [name for name, _ in stopped[0].named_parameters()] == [name for name, _ in pair[0].named_parameters()]
    assert all(p.requires_grad and p.grad is None for p in stopped[0].parameters())


def test_another_run_or_a_damaged_folder_is_refused(tmp_path):
    pair = swapped()
    recover_blockwise_(*copied(pair), tokens(64), **QUICK, folder=tmp_path)
    other_start, other_original = copied(pair), copied(pair)
    with torch.no_grad():
        other_start[0].model.layers[1].mlp.up_proj.weight[0, 0] += 1
        other_original[1].model.layers[1].mlp.up_proj.weight[0, 0] += 1
    for arguments, options in (
        ((*copied(pair), tokens(64)), {"steps": 13}),
        ((*copied(pair), tokens(64)), {"seed": 1}),
        ((*copied(pair), tokens(64, seed=1)), {}),
        ((*other_start, tokens(64)), {}),
        ((*other_original, tokens(64)), {}),
    ):
        with pytest.raises(SettingsError, match="holds another recovery"):
            recover_blockwise_(*arguments, **{**QUICK, **options}, folder=tmp_path)
    file = tmp_path / "block-0001.safetensors"
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(ArtefactError, match=r"block-0001\.safetensors cannot be read"):
        recover_blockwise_(*copied(pair), tokens(64), **QUICK, folder=tmp_path)


def test_a_device_that_is_named_or_a_folder_changes_nothing(tmp_path):
    ends = []
    for options in ({}, {"device": "cpu"}, {"folder": tmp_path / "deep" / "er"}):
        model, original = swapped()
        recover_blockwise_(model, original, tokens(32), **QUICK, **options)
        ends.append(model)
    assert same(ends[0], ends[1])
    assert same(ends[0], ends[2])


def test_a_loss_that_is_no_number_names_block_and_step_and_keeps_what_is_finished():
    pair = swapped()
    whole, broken, fast = copied(pair), copied(pair), copied(pair)
    recover_blockwise_(*whole, tokens(64), **QUICK)
    with torch.no_grad():
        broken[1].model.layers[1].mlp.up_proj.weight[0, 0] = float("nan")
    with pytest.raises(NonFiniteError, match=r"model\.layers\.1: the loss is not finite before step 1"):
        recover_blockwise_(*broken, tokens(64), **QUICK)
    assert same(broken[0].model.layers[0], whole[0].model.layers[0])
    assert same(broken[0].model.layers[1], pair[0].model.layers[1])
    with pytest.raises(NonFiniteError, match=r"model\.layers\.0: the gradient became non-finite at step 2 of 12"):
        recover_blockwise_(*fast, tokens(64), **{**QUICK, "norm_learning_rate": 1e4})
    assert same(fast[0], pair[0])


def test_a_block_that_gets_worse_is_put_back_and_named():
    pair = swapped()
    model, original = copied(pair)
    report = recover_blockwise_(model, original, tokens(64), **{**QUICK, "learning_rate": 1.0})
    assert [block.kept for block in report.blocks] == [False, False]
    assert all(block.loss_after > block.loss_before for block in report.blocks)
    assert "put back: model.layers.0, model.layers.1" in report.describe()
    assert same(model.model.layers, pair[0].model.layers)


def test_the_final_norm_is_not_fitted_anew_where_that_is_worse():
    model, original = swapped()
    before = state(model.model.norm)
    held_out, others = tokens(1).repeat(3, 1), torch.full((27, 32), 7)  # the norm learns of one token alone
    ids = torch.cat([torch.cat([held_out[i : i + 1], others[9 * i : 9 * i + 9]]) for i in range(3)])
    report = recover_blockwise_(model, original, ids, **QUICK)
    (site,) = report.refitted
    assert (site.path, site.kept) == ("model.norm", False)
    assert site.error_after > site.error_before
    assert not changed(model.model.norm, before)
    assert "not fitted anew" in report.describe()


@pytest.mark.parametrize("train", ["all", "norms"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_bf16_weights_learn_in_fp32_and_are_rounded_back(precision, train):
    original = tiny_model("llama").bfloat16()
    model = copy.deepcopy(original)
    unnorm.swap_(model, DyT(alpha="channel"), calibrate_on=tokens(16))
    dtypes = {name: p.dtype for name, p in model.named_parameters()}
    before = state(worsened(model))
    small = {**QUICK, "precision": precision, "steps": 40, "learning_rate": 3e-5}
    report = recover_blockwise_(model, original, tokens(16, 16), **small, train=train)
    assert all(block.kept for block in report.blocks)
    assert {name: p.dtype for name, p in model.named_parameters()} == dtypes
    name = "model.layers.0.mlp.up_proj.weight"
    big = before[name].abs() > 2**-4  # where one bf16 step of 3e-5 would be lost: half a unit is 1.2e-4 at least
    moved = (model.state_dict()[name] != before[name])[big].float().mean()
    assert moved > 0.3 if train == "all" else moved == 0


def test_what_stands_under_padding_does_not_count():
    ids = tokens(32)
    mask = torch.ones_like(ids)
    mask[:, 20:] = 0
    mask[::2] = mask[::2].flip(1)  # half of the rows are padded on the left
    ends = []
    for filling in (0, 7):
        model, original = swapped()
        batch = {"input_ids": ids * mask + filling * (1 - mask), "attention_mask": mask}
        report = recover_blockwise_(model, original, [batch], **QUICK)
        assert report.tokens == 2 * report.blocks[0].tokens
        assert report.blocks[0].tokens % 20 == 0
        ends.append(model.state_dict())
    for name, value in ends[0].items():
        torch.testing.assert_close(ends[1][name], value, rtol=1e-4, atol=1e-6)


def test_packed_rows_are_their_sequences():
    ids = tokens(3)
    first = {"input_ids": ids[:1], "position_ids": torch.arange(32)[None]}
    halves = torch.arange(16).repeat(2)[None]
    ends = []
    for rest in ({"input_ids": ids[1:2], "position_ids": halves}, {"input_ids": ids[1].view(2, 16)}):
        model, original = swapped()
        report = recover_blockwise_(worsened(model), original, [first, rest], **QUICK)
        assert all(block.kept for block in report.blocks)
        ends.append(model.model.layers.state_dict())
    for name, value in ends[0].items():
        torch.testing.assert_close(ends[1][name], value, rtol=1e-4, atol=1e-5)


def test_the_first_token_of_each_sequence_is_no_unit():
    ids = tokens(2, 6)
    (plain,) = parts_of([{"input_ids": ids[:1]}, {"input_ids": ids[1:]}], 64)
    assert plain.inner.tolist() == [[False] + [True] * 5] * 2
    (packed,) = parts_of([{"input_ids": ids[:1], "position_ids": torch.tensor([[0, 1, 0, 1, 2, 3]])}], 64)
    assert packed.inner.tolist() == [[False, True, False, True, True, True]]
    mask = torch.tensor([[0, 0, 1, 1, 1, 0]])
    (padded,) = parts_of([{"input_ids": ids[:1], "attention_mask": mask}], 64)
    assert padded.inner.tolist() == [[False, False, False, True, True, False]]
    assert padded.tokens == 3


def test_a_token_of_a_huge_stream_counts_as_one_token():
    from unnorm.tuning.block_learning import Goal
    from unnorm.tuning.block_streams import Streams

    stream = torch.ones(1, 4, 8)
    stream[0, 0] = 1000.0
    (part,) = parts_of([{"input_ids": tokens(1, 4)}], 64)
    goal = Goal.of(Streams([stream], [{}]), [part])
    torch.testing.assert_close(goal.unit, torch.ones(8))
    assert float(goal.error(stream * 1.1, 0, part)) == pytest.approx(4 * 0.01, rel=1e-4)


def test_a_block_that_needs_more_than_its_input_is_refused():
    def remembering(model):
        first, second = model.model.layers
        plain, other = first.forward, second.forward
        first.forward = lambda x, **k: first.__dict__.update(seen=x.mean()) or plain(x, **k)
        second.forward = lambda x, **k: other(x, **k) + 100 * first.__dict__["seen"]
        return model

    def between(model):
        model.model.layers[1].register_forward_pre_hook(lambda m, args: (2 * args[0], *args[1:]))
        return model

    for spoil, why in ((remembering, "more than what is handed"), (between, "straight from the block before")):
        model, original = swapped()
        with pytest.raises(ModelError, match=rf"one block at a time \(block model\.layers\.1\): .*{why}"):
            recover_blockwise_(model, spoil(original), tokens(16), **QUICK)


def test_parameters_of_several_blocks_are_refused():
    model, original = swapped()
    model.model.layers[1].mlp = model.model.layers[0].mlp
    with pytest.raises(ModelError, match="also stands elsewhere"):
        recover_blockwise_(model, original, tokens(16), **QUICK)
    model, original = swapped()
    model.model.layers[1].mlp = original.model.layers[1].mlp
    with pytest.raises(ModelError, match="is the original's too"):
        recover_blockwise_(model, original, tokens(16), **QUICK)
    recover_blockwise_(model, original, tokens(16), **QUICK, train="norms")


def test_too_little_memory_is_said_before_the_start_with_the_figures(tmp_path, monkeypatch):
    pair = swapped()
    model, original = copied(pair)
    needed = recover_blockwise_(*copied(pair), tokens(32), **QUICK).needed_bytes
    weights = 16 * sum(p.numel() for p in model.model.layers[0].parameters())
    assert weights < needed < 100 * weights
    monkeypatch.setattr(block_memory, "memory_free", lambda device: needed - 1)
    with pytest.raises(SettingsError, match=r"takes about 0\.00 GB on cpu: .* of model\.layers\.0, .* 512 tokens"):
        recover_blockwise_(model, original, tokens(32), **QUICK)
    monkeypatch.setattr(block_memory, "memory_free", lambda device: 20_000_000)
    with pytest.raises(SettingsError, match="Give a folder for them, or fewer rows"):
        recover_blockwise_(model, original, tokens(32).repeat(100, 1), **QUICK)
    assert same(model, pair[0])


def test_bad_input():
    model, original = swapped()
    for arguments, options, error, why in (
        ((original, copy.deepcopy(original), tokens(8)), {}, ModelError, "Swap it first"),
        ((model, model, tokens(8)), {}, ModelError, "unswapped model"),
        ((model, original, tokens(1)), {}, DataError, "more than one row"),
        ((model, original, tokens(8, 1)), {}, DataError, "two or more tokens"),
        ((model, tiny_model("gpt2"), tokens(8)), {}, ModelError, "not this model's base"),
        ((model, original, tokens(8)), {"precision": "fp8"}, SettingsError, "precision"),
        ((model, original, tokens(8)), {"train": "lora"}, SettingsError, "all or norms"),
        ((model, original, tokens(8)), {"steps": 0}, SettingsError, "above 0"),
        ((model, original, tokens(8)), {"learning_rate": math.nan}, SettingsError, "above 0"),
        ((model, original, tokens(8)), {"device": "abacus"}, SettingsError, "abacus"),
    ):
        with pytest.raises(error, match=why):
            recover_blockwise_(*arguments, **{**QUICK, **options})
    model, original = swapped(specs={"final": DyT()})
    with pytest.raises(ModelError, match="0 stacks of blocks"):
        recover_blockwise_(model, original, tokens(8), **QUICK)


def test_a_full_disk_is_said(tmp_path, monkeypatch):
    model, original = swapped()
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(1, 1, 0))
    with pytest.raises(SettingsError, match="Give another folder"):
        recover_blockwise_(model, original, tokens(16), **QUICK, folder=tmp_path)
    assert not (tmp_path / "streams").exists()
