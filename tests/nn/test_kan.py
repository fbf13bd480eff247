"""The spline layer against the recursion of Cox and de Boor, written out, and what a custom gradient can get wrong."""

import copy
import itertools

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from textmask.errors import ConfigError
from textmask.nn.kan import KANLinear


def cox_de_boor(x: torch.Tensor, grid: int, order: int, span: tuple[float, float]) -> torch.Tensor:
    """... -> ... (grid + order): the recursion over the extended knots, as in textbooks."""
    low, high = span
    step = (high - low) / grid
    knots = [low + step * i for i in range(-order, grid + order + 1)]
    level = [((x >= a) & (x < b)).to(x.dtype) for a, b in itertools.pairwise(knots)]
    for p in range(1, order + 1):
        level = [
            (x - knots[i]) / (knots[i + p] - knots[i]) * level[i]
            + (knots[i + p + 1] - x) / (knots[i + p + 1] - knots[i + 1]) * level[i + 1]
            for i in range(len(level) - 1)
        ]
    return torch.stack(level, dim=-1)


def literal(layer: KANLinear, x: torch.Tensor) -> torch.Tensor:
    """The docstring's sum, edge by edge."""
    x = layer.norm(x)
    splines = torch.einsum(
        "...ik,oki->...oi", cox_de_boor(x, layer.grid, layer.order, layer.span), layer.spline_weight
    )
    edges = layer.base_weight * nn.functional.silu(x)[..., None, :] + layer.spline_scale * splines
    return edges.sum(-1)


def gradients(output: torch.Tensor, x: torch.Tensor, layer: KANLinear) -> list[torch.Tensor]:
    weight = torch.sin(torch.arange(output.numel(), dtype=output.dtype)).view_as(output)
    return list(torch.autograd.grad((output * weight).sum(), [x, *layer.parameters()]))


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize(
    ("grid", "order", "span"),
    [
        (5, 3, (-1.0, 1.0)),
        (8, 3, (-2.0, 3.0)),
        (1, 3, (0.0, 1.0)),
        (4, 2, (-1.0, 1.0)),
        (6, 1, (-1.0, 2.0)),
        (5, 4, (-1.0, 1.0)),
    ],
)
def test_output_and_all_gradients_are_those_of_the_recursion(grid, order, span, norm):
    torch.manual_seed(0)
    layer = KANLinear(6, 4, grid=grid, order=order, span=span, norm=norm)
    x = (1.5 * torch.randn(3, 7, 6)).requires_grad_()
    ours, theirs = layer(x), literal(layer, x)
    assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    for a, b in zip(gradients(ours, x, layer), gradients(theirs, x, layer), strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-4 * b.abs().max())


def test_piecewise_constant_splines_pass_no_gradient_but_that_of_silu():
    layer = KANLinear(5, 3, order=0, norm=False)
    x = torch.randn(9, 5, requires_grad=True)
    assert torch.allclose(layer(x), literal(layer, x), atol=1e-6)
    (grad,) = torch.autograd.grad(layer(x).sum(), x)
    (base,) = torch.autograd.grad((nn.functional.silu(x) @ layer.base_weight.T).sum(), x)
    assert torch.allclose(grad, base, atol=1e-6)


def test_gradcheck_in_double_precision():
    torch.manual_seed(0)
    layer = KANLinear(4, 3).double()
    assert torch.autograd.gradcheck(
        layer, torch.randn(5, 4, dtype=torch.double, requires_grad=True)
    )


def only_splines(grid: int = 5, order: int = 3) -> KANLinear:
    """One input; output k is spline k."""
    layer = KANLinear(1, grid + order, grid=grid, order=order, norm=False)
    nn.init.zeros_(layer.base_weight)
    nn.init.ones_(layer.spline_scale)
    layer.spline_weight.data = torch.eye(grid + order)[..., None]
    return layer


@pytest.mark.parametrize(("grid", "order"), [(5, 3), (3, 3), (5, 2), (4, 5)])
def test_splines_sum_to_one_inside_and_are_zero_outside(grid, order):
    layer = only_splines(grid, order)
    inside = layer(torch.linspace(-1, 1, 101)[:, None])
    assert torch.allclose(inside.sum(1), torch.ones(101), atol=1e-5)
    assert (inside >= -1e-6).all()
    edge = 1 + order * 2 / grid
    assert layer(torch.tensor([[-edge + 0.1], [edge - 0.1]])).any(1).all()
    assert not layer(torch.tensor([[-edge - 1e-3], [edge + 1e-3], [100.0], [-1e6]])).any()


def test_ten_weights_an_edge():
    assert sum(p.numel() for p in KANLinear(7, 5, norm=False).parameters()) == 10 * 7 * 5
    assert sum(p.numel() for p in KANLinear(7, 5).parameters()) == 10 * 7 * 5 + 2 * 7


def test_only_the_input_is_kept_for_the_backward_pass():
    layer, kept = KANLinear(64, 64, norm=False), {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        kept[x.data_ptr()] = x.numel()
        return x

    x = torch.randn(2000, 64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        layer(x)
    assert sum(kept.values()) == x.numel() + sum(p.numel() for p in layer.parameters())


def test_autocast_is_close_and_finite_at_extreme_values():
    torch.manual_seed(0)
    layer = KANLinear(32, 16)
    x = torch.randn(200, 32)
    with torch.autocast("cpu", torch.bfloat16):
        low = layer(x)
    assert low.dtype == torch.bfloat16
    full = layer(x)
    assert (low.float() - full).norm() < 1e-2 * full.norm()
    bare = KANLinear(8, 4, norm=False)
    huge = torch.tensor([[1e4, -1e4, 0, 1, -1, 1e-8, 3e4, -3e4]], requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = bare(huge)
    out.sum().backward()
    assert torch.isfinite(out).all()
    assert torch.isfinite(huge.grad).all()


def test_autocast_gradients_are_close_and_in_full_precision():
    torch.manual_seed(0)
    layer, x = KANLinear(32, 16), torch.randn(200, 32, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        low = layer(x)
        backward_inside = gradients(low.float(), x, layer)
    for a, b in zip(backward_inside, gradients(layer(x), x, layer), strict=True):
        assert a.dtype == torch.float32
        assert (a - b).norm() < 2e-2 * b.norm()


def test_a_full_precision_backward_ignores_autocast_around_it():
    layer, x = KANLinear(32, 16, norm=False), torch.randn(50, 32, requires_grad=True)
    plain = torch.autograd.grad(layer(x).sum(), [x, *layer.parameters()])
    total = layer(x).sum()
    with torch.autocast("cpu", torch.bfloat16):
        inside = torch.autograd.grad(total, [x, *layer.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(plain, inside, strict=True))


@pytest.mark.parametrize("frozen", ["x", "weights", "spline_scale"])
def test_what_is_frozen_gets_no_gradient_and_the_rest_is_the_same(frozen):
    torch.manual_seed(0)
    layer, x = KANLinear(6, 4, norm=False), torch.randn(5, 6, requires_grad=True)
    everything = {"x": x, **dict(layer.named_parameters())}
    expected = dict(zip(everything, gradients(layer(x), x, layer), strict=True))
    off = [name for name in everything if name == frozen or (frozen == "weights" and name != "x")]
    for name in off:
        everything[name].requires_grad_(False)
    out = layer(x)
    (out * torch.sin(torch.arange(out.numel())).view_as(out)).sum().backward()
    for name, value in everything.items():
        assert value.grad is None if name in off else torch.equal(value.grad, expected[name])


def test_bfloat16_module_sums_its_weight_gradient_in_full_precision(monkeypatch):
    torch.manual_seed(0)
    layer, x = KANLinear(8, 4, norm=False), torch.randn(50_000, 8)
    monkeypatch.setattr("textmask.nn.kan.CHUNK_VALUES", 1)
    (expected,) = torch.autograd.grad(layer(x).sum(), layer.base_weight)
    layer.bfloat16()
    (low,) = torch.autograd.grad(layer(x.bfloat16()).sum(), layer.base_weight)
    assert low.dtype == torch.bfloat16
    assert (low.float() - expected).norm() < 1e-2 * expected.norm()


@pytest.mark.parametrize("shape", [(0, 6), (1, 6), (6,), (2, 3, 4, 6)])
def test_any_leading_dimensions(shape):
    layer = KANLinear(6, 4)
    x = torch.randn(shape, requires_grad=True)
    out = layer(x)
    out.sum().backward()
    assert out.shape == (*shape[:-1], 4)
    assert x.grad.shape == x.shape


def test_strided_input_gives_the_same():
    torch.manual_seed(0)
    layer, x = KANLinear(6, 4, norm=False), torch.randn(6, 9)
    assert torch.equal(layer(x.T), layer(x.T.contiguous()))


def test_chunks_do_not_change_the_result(monkeypatch):
    layer = KANLinear(8, 4)
    x = torch.randn(500, 8, requires_grad=True)
    whole = gradients(layer(x), x, layer)
    monkeypatch.setattr("textmask.nn.kan.CHUNK_VALUES", 1)
    for a, b in zip(gradients(layer(x), x, layer), whole, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-4)


def test_recomputation_copies_and_repeats():
    layer, x = KANLinear(6, 4), torch.randn(5, 6, requires_grad=True)
    plain = gradients(layer(x), x, layer)
    for a, b in zip(
        gradients(checkpoint(layer, x, use_reentrant=False), x, layer), plain, strict=True
    ):
        assert torch.equal(a, b)
    for a, b in zip(gradients(layer(x), x, layer), plain, strict=True):
        assert torch.equal(a, b)
    twin, other = copy.deepcopy(layer), KANLinear(6, 4)
    assert not torch.equal(other(x), layer(x))
    other.load_state_dict(layer.state_dict())
    assert torch.equal(twin(x), layer(x))
    assert torch.equal(other(x), layer(x))


def test_the_first_curves_are_as_small_as_those_of_the_published_layers():
    """Noise of +-0.05 / G at the G + 1 knots, turned into coefficients by least squares of least norm."""
    generator = torch.Generator().manual_seed(0)
    noise = (torch.rand(6, 4096, generator=generator, dtype=torch.float64) - 0.5) * 0.1 / 5
    knots = torch.linspace(-1, 1, 6, dtype=torch.float64) - 1e-9  # half-open intervals
    basis = cox_de_boor(knots, 5, 3, (-1.0, 1.0))
    released = torch.linalg.lstsq(basis, noise, driver="gelsd").solution
    assert released.std() == pytest.approx(0.0088, abs=2e-4)

    torch.manual_seed(0)
    found = KANLinear(64, 64, norm=False).spline_weight.detach()
    assert found.std() == pytest.approx(released.std().item(), rel=0.03)
    each = found.double().std(dim=(0, 2))
    torch.testing.assert_close(each, released.std(dim=1), rtol=0.06, atol=0)
    at_knots = torch.einsum("pk,oki->poi", basis.float(), found).abs().max()
    assert at_knots <= 0.0101


def test_the_seed_of_torch_decides_the_weights():
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.cat([p.flatten() for p in KANLinear(3, 2).parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize("wrong", [{"grid": 0}, {"order": -1}, {"span": (1.0, 1.0)}])
def test_impossible_grids_are_refused(wrong):
    with pytest.raises(ConfigError, match="expected grid"):
        KANLinear(2, 2, **wrong)
