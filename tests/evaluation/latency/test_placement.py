import numpy as np
import torch
from torch import nn

from unnorm.evaluation.latency.machine import lay_elsewhere


def test_weights_move_and_nothing_else_changes():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Embedding(7, 33), nn.Linear(33, 7, bias=False)
            self.head.weight = self.embed.weight
            self.norm = nn.LayerNorm(33, dtype=torch.bfloat16)
            self.register_buffer("empty", torch.empty(0))
            self.register_buffer("steps", torch.tensor(3))

    model = Tied()
    before = {name: (t, t.data_ptr(), t.clone()) for name, t in model.state_dict(keep_vars=True).items()}
    optimizer = torch.optim.AdamW(model.parameters())
    places = {name: set() for name in before}
    for seed in range(20):
        lay_elsewhere(model, np.random.default_rng(seed))
        after = model.state_dict(keep_vars=True)
        for name, (tensor, _, values) in before.items():
            assert after[name] is tensor
            assert torch.equal(tensor, values)
            assert tensor.dtype == values.dtype
            places[name].add(tensor.data_ptr() % 2**16)
    assert model.head.weight is model.embed.weight
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == {id(p) for p in model.parameters()}
    assert all(len(found) > 10 for name, found in places.items() if name != "empty")
