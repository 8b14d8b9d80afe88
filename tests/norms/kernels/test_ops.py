"""The operators: their formula and gradients on the CPU, what compilers see of them, and who uses them."""

import subprocess
import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from norms.kernels.norm_cases import assert_close, case, exact, exact_gradients
from unnorm.norms.derf import Derf
from unnorm.norms.dyt import DyT
from unnorm.norms.kernels import CURVES, formula, ops

VARIANTS = [
    {"curve": "tanh"},
    {"curve": "tanh", "per_channel": True},
    {"curve": "erf"},
    {"curve": "erf", "per_channel": True, "bias": False},
    {"curve": "tanh", "weight": False, "bias": False},
]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("shape", [(4, 7), (2, 0, 5), (3,)], ids=str)
def test_forward_and_backward_are_float64s(shape, variant, dtype):
    torch.manual_seed(0)
    given = case(shape, **variant, dtype=dtype)
    y = ops.curve_norm(*given)
    assert y.dtype == dtype
    assert_close(y, exact(*given))
    dy, dh = given.like_x(), given.like_x()
    found = ops.curve_norm_backward(dy, dh, given.x, *given.parameters, given.curve, True)
    for gradient, truth in zip(found, exact_gradients(given, dy, dh), strict=True):
        if truth is None:
            assert gradient.numel() == 0
        else:
            assert_close(gradient, truth, terms=given.x.numel())


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_gradcheck_in_float64(variant):
    torch.manual_seed(0)
    given = case((3, 5), **variant, dtype=torch.float64)
    leaves = [None if t is None else t.requires_grad_() for t in given[:5]]
    residual = given.like_x().requires_grad_()
    assert torch.autograd.gradcheck(lambda *a: formula.forward(a[0], None, a[1:], given.curve)[1], leaves)
    assert torch.autograd.gradcheck(lambda *a: ops.curve_norm(*a, given.curve), leaves)
    assert torch.autograd.gradcheck(lambda r, *a: ops.add_curve_norm(a[0], r, *a[1:], given.curve), [residual, *leaves])


@pytest.mark.parametrize("variant", VARIANTS[:4], ids=str)
def test_opcheck(variant):
    for dtype in (torch.float32, torch.bfloat16):
        given = case((4, 6), **variant, dtype=dtype)
        leaves = [None if t is None else t.requires_grad_() for t in given[:5]]
        torch.library.opcheck(ops.curve_norm, (*leaves, given.curve))
        torch.library.opcheck(ops.add_curve_norm, (leaves[0], given.like_x(), *leaves[1:], given.curve))
    dy = given.like_x()
    plain = [None if t is None else t.detach() for t in given[:5]]
    for parameters in (True, False):
        torch.library.opcheck(ops.curve_norm_backward, (dy, None, *plain, given.curve, parameters))
    strided = case((6, 4), **variant)
    torch.library.opcheck(ops.curve_norm, (torch.randn(4, 6).mT, *strided.parameters, given.curve))


@pytest.mark.parametrize("what", ["operator", "module"])
def test_a_compiler_takes_it_whole_with_dynamic_shapes(what):
    torch.manual_seed(0)
    module = DyT().build(6)
    torch.nn.init.normal_(module.weight)

    def run(x):
        if what == "module":
            return module(x) * 2
        h, y = ops.add_curve_norm(x, x, module.alpha, None, module.weight, module.bias, "tanh")
        return y + ops.curve_norm(h, module.alpha, None, module.weight, module.bias, "tanh")

    torch._dynamo.reset()
    compiled = torch.compile(run, fullgraph=True, dynamic=True, backend="aot_eager")
    for rows in (3, 5):
        x, y = torch.randn(rows, 6, requires_grad=True), None
        wanted = run(x)
        gradients = torch.autograd.grad(wanted.sum(), [x, module.alpha, module.weight])
        y = compiled(x)
        torch.testing.assert_close(y, wanted)
        torch.testing.assert_close(torch.autograd.grad(y.sum(), [x, module.alpha, module.weight]), gradients)
        with torch.no_grad():
            torch.testing.assert_close(compiled(x), wanted)


@pytest.mark.parametrize("asked", [("y",), ("h",), ("h", "y")])
def test_the_fused_add_takes_the_gradients_that_there_are(asked):
    given = case((3, 4))
    x, residual = given.x.clone().requires_grad_(), given.like_x().requires_grad_()
    outputs = dict(zip("hy", ops.add_curve_norm(x, residual, *given.parameters, "tanh"), strict=True))
    h = (x + residual).detach().requires_grad_()
    plain = {"h": h, "y": formula.forward(h, None, given.parameters, "tanh")[1]}
    (wanted,) = torch.autograd.grad(sum(plain[name].sum() for name in asked), [h])
    found = torch.autograd.grad(sum(outputs[name].sum() for name in asked), [x, residual])
    for gradient in found:
        torch.testing.assert_close(gradient, wanted)


@pytest.mark.parametrize("spec", [DyT(), Derf(), DyT(alpha="channel")], ids=str)
def test_the_operator_is_what_the_module_computes(spec):
    torch.manual_seed(0)
    module = spec.build(9)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(4, 9)
    curve = CURVES[type(spec)]
    y = ops.curve_norm(x, module.alpha, module.shift, module.weight, module.bias, curve)
    torch.testing.assert_close(y, module(x))
    with torch.no_grad():
        torch.testing.assert_close(module(x), y)
    assert torch.equal(x, x.clone())


@pytest.mark.parametrize("spec", [DyT(), DyT(affine=False), DyT(bias=False, alpha="channel"), Derf()], ids=str)
@pytest.mark.parametrize("rows", [1, 500])
def test_the_formula_without_a_gradient_is_right_to_1e7_at_every_size(spec, rows):
    torch.manual_seed(0)
    module = spec.build(16)
    for parameter in module.parameters():
        torch.nn.init.uniform_(parameter, 0.3, 1.0)
    x = torch.randn(rows, 16) * torch.logspace(-6, 3, 16)
    wanted = exact(x, module.alpha, module.shift, module.weight, module.bias, CURVES[type(spec)])
    with torch.no_grad():
        found = {"eager": module(x), "compiled": torch.compile(module, backend="aot_eager")(x)}
    for y in found.values():
        torch.testing.assert_close(y.double(), wanted, rtol=4e-7, atol=3e-7)


class Operations(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func._schema.name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_on_the_cpu_a_module_goes_past_the_operators_and_writes_to_nothing_of_its_callers(dtype):
    module = DyT().build(8)
    x = torch.randn(3, 8).to(dtype)
    before = x.clone()
    for grad in (True, False):
        with torch.set_grad_enabled(grad), Operations() as seen:
            module(x)
        assert seen.names
        assert not any(name.startswith("unnorm") for name in seen.names)
        assert torch.equal(x, before)


def test_nothing_imports_triton_for_the_cpu():
    code = (
        "import sys, torch, unnorm, unnorm.norms\n"
        "m = unnorm.DyT().build(4); m(torch.randn(2, 4)).sum().backward()\n"
        "import unnorm.norms.kernels.ops\n"
        "assert 'triton' not in sys.modules, 'triton was imported'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
