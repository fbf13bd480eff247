"""Sinkhorn against POT and slow transcriptions; marginals, padding, symmetry, gradients, costs that break."""

import math

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from textmask.errors import ConfigError, DataError
from textmask.losses import transport
from textmask.losses.transport import cosine_cost, sinkhorn, transport_loss

EXACT = {"tolerance": 1e-7, "max_iterations": 5000}


def features(b=3, n=12, length=7, e=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(b, n, e, generator=generator), torch.randn(b, length, e, generator=generator)


def mask_of(*counts, length=7):
    return torch.arange(length) < torch.tensor(counts)[:, None]


MASK = mask_of(7, 4, 1)


def slow(cost, eps=0.03, iterations=4000):
    """N x L in float64 by the text-book iteration on logarithms."""
    cost = cost.double()
    n, length = cost.shape
    f, g = torch.zeros(n).double(), torch.zeros(length).double()
    for _ in range(iterations):
        g = -math.log(length) - torch.logsumexp(f[:, None] - cost / eps, 0)
        f = -math.log(n) - torch.logsumexp(g[None] - cost / eps, 1)
    return (f[:, None] + g[None] - cost / eps).exp()


def test_eq_1_written_out():
    image, text = features()
    cost = cosine_cost(image, text)
    for b, i, j in ((0, 0, 0), (1, 5, 3), (2, 11, 6)):
        dot = sum(float(x) * float(y) for x, y in zip(image[b, i], text[b, j], strict=True))
        lengths = [math.sqrt(sum(float(x) ** 2 for x in v)) for v in (image[b, i], text[b, j])]
        assert cost[b, i, j].item() == pytest.approx(1 - dot / lengths[0] / lengths[1], abs=1e-5)


def test_the_plan_is_that_of_pot():
    cost = cosine_cost(*features())
    found = sinkhorn(cost, MASK, **EXACT)
    for b, count in enumerate((7, 4, 1)):
        part = cost[b, :, :count].double().numpy()
        n, length = part.shape
        marginals = np.full(n, 1 / n), np.full(length, 1 / length)
        expected = ot.sinkhorn(
            *marginals, part, 0.03, method="sinkhorn_log", numItermax=20000, stopThr=1e-12
        )
        np.testing.assert_allclose(found.plan[b, :, :count].numpy(), expected, atol=2e-6)
        assert not found.plan[b, :, count:].any()


@pytest.mark.parametrize("length", [24, 77])
@pytest.mark.parametrize("n", [49, 3136])
def test_marginals_hold_to_the_tolerance_at_any_size(n, length):
    """Trap 11: eps 0.03, fp32 also under autocast, uniform over real tokens only, no NaN."""
    image, text = features(2, n, length, 32)
    mask = mask_of(length, length // 2, length=length)
    with torch.autocast("cpu", torch.bfloat16):
        for direction in ("image_to_text", "text_to_image"):
            found = sinkhorn(
                cosine_cost(image.bfloat16(), text.bfloat16()), mask, direction=direction
            )
            assert found.plan.dtype == torch.float32
            assert torch.isfinite(found.plan).all()
            rows, columns = found.plan.sum(2), found.plan.sum(1)
            wanted = mask / mask.sum(1, keepdim=True)
            off = [(rows - 1 / n).abs().sum(1), (columns - wanted).abs().sum(1)]
            exact, other = off if direction == "image_to_text" else off[::-1]
            assert exact.max() < 1e-4
            assert other.max() < 1.5e-2
            torch.testing.assert_close(other, found.violation, atol=1e-5, rtol=1e-3)
            assert (found.iterations < 100).all()
    assert not found.plan[1, :, length // 2 :].any()


def test_padding_changes_nothing_whatever_it_holds():
    image, text = features(2)
    short = sinkhorn(cosine_cost(image, text), mask_of(5, 3))
    for length, fill in ((24, 0.0), (32, 1e4)):
        longer = torch.nn.functional.pad(text, (0, 0, 0, length - 7), value=fill)
        cost = cosine_cost(image, longer)
        cost[:, :, 7:] = torch.nan if fill else cost[:, :, 7:]
        found = sinkhorn(cost, mask_of(5, 3, length=length))
        torch.testing.assert_close(found.plan[..., :7], short.plan, atol=1e-7, rtol=1e-5)
        assert not found.plan[..., 7:].any()


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_permuting_tokens_permutes_the_plan(seed):
    generator = torch.Generator().manual_seed(seed)
    cost = torch.rand(2, 9, 6, generator=generator)
    rows, columns = torch.randperm(9, generator=generator), torch.randperm(6, generator=generator)
    plan = sinkhorn(cost).plan
    torch.testing.assert_close(
        sinkhorn(cost[:, rows][:, :, columns]).plan,
        plan[:, rows][:, :, columns],
        atol=1e-6,
        rtol=1e-4,
    )


def test_both_directions_agree_at_convergence_and_each_has_its_exact_marginal_before():
    cost = cosine_cost(*features())
    one, other = (
        sinkhorn(cost, MASK, direction=d, **EXACT).plan for d in ("image_to_text", "text_to_image")
    )
    torch.testing.assert_close(one, other, atol=1e-4 / 12, rtol=1e-4)
    early = {"max_iterations": 1, "tolerance": 0.0}
    rows = sinkhorn(cost, **early).plan.sum(2)
    columns = sinkhorn(cost, direction="text_to_image", **early).plan.sum(1)
    torch.testing.assert_close(rows, torch.full_like(rows, 1 / 12))
    torch.testing.assert_close(columns, torch.full_like(columns, 1 / 7))
    # the other way round is the plan of the transposed cost
    swapped = sinkhorn(cost.mT, direction="text_to_image", **EXACT).plan.mT
    torch.testing.assert_close(swapped, sinkhorn(cost, **EXACT).plan, atol=1e-5, rtol=1e-3)


def test_elements_stop_on_their_own():
    easy, hard = torch.zeros(1, 12, 7), cosine_cost(*features(1, seed=3)) * 3
    together = sinkhorn(torch.cat([easy, hard]), tolerance=1e-4)
    assert together.iterations[0] < together.iterations[1]
    for i, cost in enumerate((easy, hard)):
        alone = sinkhorn(cost, tolerance=1e-4)
        torch.testing.assert_close(alone.plan[0], together.plan[i], atol=1e-7, rtol=1e-5)
        assert alone.iterations[0] == together.iterations[i]


def test_scalings_and_logarithms_give_the_same_plan(monkeypatch):
    cost = cosine_cost(*features())
    fast = sinkhorn(cost, MASK)
    monkeypatch.setattr(transport, "SAFE_EXPONENT", 0.0)
    slow_ = sinkhorn(cost, MASK)
    torch.testing.assert_close(fast.plan, slow_.plan, atol=1e-7, rtol=1e-4)
    assert torch.equal(fast.iterations, slow_.iterations)


def test_the_compiled_loop_is_that_of_other_devices(monkeypatch):
    cost = cosine_cost(*features())
    for chosen in (
        {},
        {"max_iterations": 1},
        {"max_iterations": 0},
        EXACT,
        {"direction": "text_to_image"},
    ):
        monkeypatch.setattr(transport, "_is_on_cpu", lambda cost: True)
        fast = sinkhorn(cost, MASK, **chosen)
        monkeypatch.setattr(transport, "_is_on_cpu", lambda cost: False)
        other = sinkhorn(cost, MASK, **chosen)
        torch.testing.assert_close(fast.plan, other.plan, atol=1e-7, rtol=1e-3)
        # the rounding of logarithms is above 1e-7: they stop at the limit, at the same plan
        if chosen is not EXACT:
            assert torch.equal(fast.iterations, other.iterations)


def test_costs_beyond_the_range_of_fp32_go_through_logarithms():
    cost = cosine_cost(*features(2))
    wide = torch.cat([cost[:1], cost[1:] * 40])  # the second spans 80 / 0.03 exponents
    found = sinkhorn(wide, max_iterations=3000)
    assert torch.isfinite(found.plan).all()
    torch.testing.assert_close(found.plan.sum((1, 2)), torch.ones(2))
    torch.testing.assert_close(found.plan[0], sinkhorn(cost[:1]).plan[0], atol=1e-7, rtol=1e-5)
    assert found.plan[1].sum(1).sub(1 / 12).abs().max() < 1e-5


def test_the_loss_is_the_mean_of_both_directions_and_of_the_batch():
    cost = cosine_cost(*features())
    expected = [
        sum(
            (sinkhorn(cost[b : b + 1], MASK[b : b + 1], direction=d).plan * cost[b]).sum()
            for d in ("image_to_text", "text_to_image")
        )
        / 2
        for b in range(3)
    ]
    assert transport_loss(cost, MASK).item() == pytest.approx(float(sum(expected)) / 3, rel=1e-5)


def test_the_detached_gradient_is_the_plan():
    cost = cosine_cost(*features()).requires_grad_()
    (gradient,) = torch.autograd.grad(transport_loss(cost, MASK), cost)
    plans = [sinkhorn(cost, MASK, direction=d).plan for d in ("image_to_text", "text_to_image")]
    torch.testing.assert_close(gradient, (plans[0] + plans[1]) / 2 / 3, atol=1e-8, rtol=1e-4)


@pytest.mark.parametrize("eps", [0.03, 0.2])
def test_the_implicit_gradient_is_that_of_the_unrolled_iteration(eps):
    cost = cosine_cost(*features(2)).requires_grad_()
    mask = mask_of(7, 4)
    loss = transport_loss(cost, mask, eps=eps, grad="implicit", **EXACT)
    (gradient,) = torch.autograd.grad(loss, cost)
    exact = cost.detach().double().requires_grad_()
    parts = [
        (slow(exact[b, :, :count], eps, 600) * exact[b, :, :count]).sum()
        for b, count in enumerate((7, 4))
    ]
    (expected,) = torch.autograd.grad(sum(parts) / 2, exact)
    assert loss.item() == pytest.approx(sum(part.item() for part in parts) / 2, rel=1e-4)
    assert (gradient - expected).norm() / expected.norm() < 1e-3
    detached = torch.autograd.grad(transport_loss(cost, mask, eps=eps, **EXACT), cost)[0]
    assert (detached - expected).norm() / expected.norm() > 0.1  # what detaching drops


def test_the_implicit_gradient_against_finite_differences():
    cost = cosine_cost(*features(1, 4, 3, seed=5))
    start = cost.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(
        transport_loss(start, eps=0.2, grad="implicit", **EXACT), start
    )
    for i, j in ((0, 0), (2, 1), (3, 2)):
        values = []
        for sign in (1, -1):
            moved = cost[0].double().clone()
            moved[i, j] += sign * 1e-4
            values.append(float((slow(moved, 0.2, 2000) * moved).sum()))
        assert gradient[0, i, j].item() == pytest.approx((values[0] - values[1]) / 2e-4, abs=2e-4)


def test_both_solvers_of_the_implicit_gradient_against_float64(monkeypatch):
    cost = torch.rand(4, 49, 7, generator=torch.Generator().manual_seed(0)).requires_grad_()
    exact = cost.detach().double().requires_grad_()
    parts = [
        (slow(exact[b, :, :count], iterations=600) * exact[b, :, :count]).sum()
        for b, count in enumerate((7, 4, 1))
    ]
    (expected,) = torch.autograd.grad(sum(parts) / 3, exact)
    for compiled in (True, False):
        monkeypatch.setattr(transport, "_is_on_cpu", lambda cost, compiled=compiled: compiled)
        loss = transport_loss(cost, mask_of(7, 4, 1, 0), grad="implicit", **EXACT)
        (gradient,) = torch.autograd.grad(loss, cost)
        assert (gradient - expected).norm() / expected.norm() < 1e-3
        assert not gradient[3].any()


@pytest.mark.parametrize("compiled", [True, False])
def test_the_implicit_gradient_of_a_plan_that_falls_apart_is_the_plan(compiled, monkeypatch):
    """Every word has its own places: the L x L system is 0 but for rounding, and a solver would crash or explode."""
    noise = torch.rand(2, 24, 24, generator=torch.Generator().manual_seed(0))
    cost = (1 - torch.eye(24) + 0.01 * noise).requires_grad_()
    monkeypatch.setattr(transport, "_is_on_cpu", lambda cost: compiled)
    (gradient,) = torch.autograd.grad(transport_loss(cost, grad="implicit"), cost)
    torch.testing.assert_close(gradient, torch.eye(24).expand(2, 24, 24) / 48, atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("grad", ["detached", "implicit"])
def test_a_sentence_of_padding_is_left_out(grad):
    cost = cosine_cost(*features(2)).requires_grad_()
    none = torch.zeros(2, 7, dtype=torch.bool)
    one = none.clone()
    one[0] = True
    assert transport_loss(cost, one, grad=grad).item() == pytest.approx(
        transport_loss(cost[:1], grad=grad).item(), rel=1e-5
    )
    loss = transport_loss(cost, none, grad=grad)
    assert loss.item() == 0.0
    (gradient,) = torch.autograd.grad(loss, cost)
    assert not gradient.any()
    assert torch.equal(sinkhorn(cost.detach(), one).plan[1], torch.zeros(12, 7))


@pytest.mark.parametrize("grad", ["detached", "implicit"])
def test_one_image_token_one_word_and_equal_tokens(grad):
    for n, length in ((1, 7), (12, 1), (1, 1)):
        cost = cosine_cost(*features(2, n, length)).requires_grad_()
        loss = transport_loss(cost, grad=grad)
        assert loss.item() == pytest.approx(
            cost.mean().item(), rel=1e-4
        )  # one plan is possible: the uniform one
        (gradient,) = torch.autograd.grad(loss, cost)
        torch.testing.assert_close(
            gradient, torch.full_like(cost, 1 / (2 * n * length)), atol=1e-5, rtol=1e-3
        )
    same = torch.ones(2, 5, 8, requires_grad=True)
    loss = transport_loss(cosine_cost(same, same), grad=grad)
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert torch.isfinite(torch.autograd.grad(loss, same)[0]).all()
    torch.testing.assert_close(sinkhorn(torch.zeros(2, 5, 5)).plan, torch.full((2, 5, 5), 1 / 25))


def test_zero_vectors_have_a_cost_and_a_gradient():
    image = torch.zeros(1, 3, 4, requires_grad=True)
    loss = transport_loss(cosine_cost(image, torch.ones(1, 2, 4)))
    assert loss.item() == pytest.approx(1.0)
    assert torch.isfinite(torch.autograd.grad(loss, image)[0]).all()


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_a_cost_that_is_not_finite_is_named(bad):
    cost = torch.zeros(2, 4, 7)
    cost[1, 2, 3] = bad
    for call in (sinkhorn, transport_loss):
        with pytest.raises(DataError, match="not finite"):
            call(cost)
        call(cost, mask_of(7, 2))  # in a padded column it does not matter


def test_unknown_settings_are_refused():
    with pytest.raises(ConfigError, match="unknown grad"):
        transport_loss(torch.zeros(1, 2, 2), grad="unrolled")
    with pytest.raises(ConfigError, match="unknown direction"):
        sinkhorn(torch.zeros(1, 2, 2), direction="both")
