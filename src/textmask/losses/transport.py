"""Optimal transport between the tokens of two modalities: batched Sinkhorn, differentiable where it is asked for."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from textmask.errors import DataError, choose
from textmask.types import TextTokens, TokenMask

DIRECTIONS = ("image_to_text", "text_to_image")
GRADIENTS = ("detached", "implicit")
Cost = Float[Tensor, "b n l"]
Flipped = Float[Tensor, "b l n"]  # text tokens first: matrix products over N then read memory in order
SAFE_EXPONENT = 80.0  # exp(-80) is 1.8e-35, still a normal fp32 number


class Plan(NamedTuple):
    """A transport plan.

    Attributes:
        plan: B N L, mass carried from each image token to each text token; 0 on padding, 1 in sum.
        iterations: B, until the stop.
        violation: B, L1 distance of the marginal that is not exact from the one that was asked.
    """

    plan: Cost
    iterations: Int[Tensor, " b"]
    violation: Float[Tensor, " b"]


def cosine_cost(image_tokens: Float[Tensor, "b n e"], text_tokens: TextTokens) -> Cost:
    """M_ij = 1 - cos(f_img,i, f_txt,j), B N L in fp32 (SSA Eq. 1); a zero vector costs 1."""
    with torch.autocast(image_tokens.device.type, enabled=False):
        image = torch.nn.functional.normalize(image_tokens.float(), dim=2)
        text = torch.nn.functional.normalize(text_tokens.float(), dim=2)
        return (1 - text @ image.mT).mT


@torch.no_grad()
def sinkhorn(
    cost: Cost,
    token_mask: TokenMask | None = None,
    *,
    eps: float = 0.03,
    max_iterations: int = 100,
    tolerance: float = 1e-2,
    direction: str = "image_to_text",
) -> Plan:
    """Entropic transport with uniform marginals over image tokens and over *real* text tokens, in fp32.

    Each element of the batch stops on its own and does not depend on the others. Where exp(-cost / eps) keeps its
    digits in fp32 the scalings themselves are iterated, otherwise their logarithms; both give the same plan.

    Args:
        cost: B N L; the columns of padding are ignored.
        token_mask: B L, True = real; None means all are. An element without any real token gets a plan of zeros.
        eps: entropic regularisation.
        max_iterations: at most.
        tolerance: L1 violation of the marginal that is not exact at which an element stops.
        direction: which marginal is exact where the iteration stops early: that of the image tokens or of the text
            tokens. At convergence the plan is the same.

    Raises:
        DataError: a cost that is not finite.

    Source: SSA, Section II-A and III-A (eps 0.03, 100 iterations, 1e-2); Cuturi 2013. Differs from the implementation
    that the paper cites in the stop: there the mean change of a scaling, here what a plan is for.
    """
    choose("direction", direction, DIRECTIONS)
    with torch.autocast(cost.device.type, enabled=False):
        flipped, mask = _prepared(cost, token_mask)
        plan, ratio, iterations = _iterate(flipped, mask, eps, max_iterations, tolerance)
        target = _text_marginal(mask)
        if direction == "text_to_image":
            plan = plan * ratio[..., None]
            violation = (plan.sum(dim=1) - 1 / plan.shape[2]).abs().sum(dim=1)
        else:
            violation = (plan.sum(dim=2) - target).abs().sum(dim=1)
        if token_mask is not None:
            some = token_mask.any(dim=1)
            plan, violation = plan * some[:, None, None], violation * some
        return Plan(plan.mT, iterations, violation)


def transport_loss(
    cost: Cost,
    token_mask: TokenMask | None = None,
    *,
    eps: float = 0.03,
    max_iterations: int = 100,
    tolerance: float = 1e-2,
    grad: str = "detached",
) -> Float[Tensor, ""]:
    """sum_ij T_ij M_ij, mean of the directions image -> text and text -> image and of the batch (SSA's L_local).

    Sentences without a real token have nothing to be carried to and are left out of the mean.

    Args:
        cost: B N L, see `cosine_cost`.
        token_mask: B L, True = real.
        eps: regularisation, as in `sinkhorn`.
        max_iterations: as in `sinkhorn`.
        tolerance: as in `sinkhorn`.
        grad: `detached` holds the plan fixed: the gradient is the plan itself, and what the plan would change is
            dropped. `implicit` keeps dT/dM by the implicit function theorem (an L x L system).

    Raises:
        DataError: a cost that is not finite.
    """
    choose("grad", grad, GRADIENTS)
    with torch.autocast(cost.device.type, enabled=False):
        flipped, mask = _prepared(cost, token_mask)
        with torch.no_grad():
            plan, ratio, _ = _iterate(flipped.detach(), mask, eps, max_iterations, tolerance)
            plan = plan * ((1 + ratio) / 2)[..., None]  # the mean of both directions' plans
            some = mask.new_ones(len(mask)) if token_mask is None else token_mask.any(dim=1)
            plan = plan * (some / some.sum().clamp(min=1))[:, None, None]
        if grad == "detached":
            loss: Tensor = torch.dot(plan.reshape(-1), flipped.reshape(-1))
        else:
            loss = _ImplicitTransport.apply(flipped, plan, eps)  # type: ignore[no-untyped-call]
        return loss


class _ImplicitTransport(torch.autograd.Function):
    """sum T M with the derivative of T: dM = T + T * (alpha + beta - M) / eps.

    T(M) keeps its marginals, which gives alpha (per image token) and beta (per text token): differentiating
    T = exp((f + g - M) / eps) under fixed sums leaves, with M as the gradient of the sum with respect to T,
        sum_l T (M - alpha - beta) = 0 for each n,   sum_n T (M - alpha - beta) = 0 for each l;
    eliminating alpha leaves an L x L system, singular along the constant vector, which is pinned.
    """

    @staticmethod
    def forward(ctx: Any, cost: Flipped, plan: Flipped, eps: float) -> Tensor:
        ctx.save_for_backward(cost, plan)
        ctx.eps = eps
        return torch.dot(plan.reshape(-1), cost.reshape(-1))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        cost, plan = ctx.saved_tensors
        weighted = plan * cost
        rows, columns = plan.sum(dim=1), plan.sum(dim=2)  # B N, B L
        over = 1 / rows.clamp(min=torch.finfo(rows.dtype).tiny)
        row_sum, column_sum = weighted.sum(dim=1), weighted.sum(dim=2)
        scaled = plan * over[:, None]
        system = torch.diag_embed(columns) - scaled @ plan.mT
        total = columns.sum(dim=1)[:, None, None].clamp(min=torch.finfo(rows.dtype).tiny)
        # one more equation for the free constant, and beta = 0 on padding
        system = system + columns[:, :, None] * columns[:, None, :] / total
        system = system + torch.diag_embed((columns <= 0).to(system.dtype))
        beta = torch.linalg.solve(system, column_sum - (scaled @ row_sum[..., None])[..., 0])
        alpha = (row_sum - (plan.mT @ beta[..., None])[..., 0]) * over
        through = weighted - plan * (alpha[:, None] + beta[..., None])
        return (plan - through / ctx.eps) * gradients[0], None, None


def _prepared(cost: Cost, token_mask: TokenMask | None) -> tuple[Flipped, TokenMask]:
    """The cost as B L N in fp32 with padding at 0, and a mask in which an empty sentence has one token.

    Raises:
        DataError: a cost that is not finite.
    """
    flipped = cost.float().mT.contiguous()
    if token_mask is None:
        mask = torch.ones(flipped.shape[:2], dtype=torch.bool, device=cost.device)
    else:
        mask = token_mask.clone()
        mask[:, 0] |= ~token_mask.any(dim=1)
        if not bool(token_mask.all()):
            flipped = flipped.masked_fill(~token_mask[..., None], 0.0)
    if not math.isfinite(float(flipped.detach().sum())):
        raise DataError(
            "a transport cost is not finite (NaN or inf). Costs are 1 - cosine of token features: look for features "
            "that overflow, lower the learning rate or set precision=fp32."
        )
    return flipped, mask


def _text_marginal(mask: TokenMask) -> Float[Tensor, "b l"]:
    """1 / number of real tokens, 0 on padding."""
    real = mask.float()
    return real / real.sum(dim=1, keepdim=True)


def _iterate(
    cost: Flipped, mask: TokenMask, eps: float, max_iterations: int, tolerance: float
) -> tuple[Flipped, Float[Tensor, "b l"], Int[Tensor, " b"]]:
    """Plan B L N with exact image marginal, the factor on each text token that makes the other exact, iterations."""
    low = torch.where(mask[..., None], cost, torch.inf).amin(dim=1) if not bool(mask.all()) else cost.amin(dim=1)
    safe = (cost.amax(dim=1) - low).amax(dim=1) < SAFE_EXPONENT * eps
    solve = {True: _scalings, False: _logarithms}
    if bool(safe.all()) or not bool(safe.any()):
        plan, iterations = solve[bool(safe.all())](cost, low, mask, eps, max_iterations, tolerance)
    else:
        plan, iterations = torch.empty_like(cost), torch.empty(len(cost), dtype=torch.long, device=cost.device)
        for is_safe, part in ((True, safe), (False, ~safe)):
            settings = (eps, max_iterations, tolerance)
            plan[part], iterations[part] = solve[is_safe](cost[part], low[part], mask[part], *settings)
    columns = plan.sum(dim=2)
    ratio = torch.where(mask, _text_marginal(mask) / columns.clamp(min=torch.finfo(columns.dtype).tiny), 1.0)
    return plan, ratio, iterations


def _scalings(
    cost: Flipped, low: Float[Tensor, "b n"], mask: TokenMask, eps: float, max_iterations: int, tolerance: float
) -> tuple[Flipped, Int[Tensor, " b"]]:
    """Sinkhorn on u and v with K = exp((row minimum - cost) / eps): fast, safe while costs differ by under 80 eps."""
    b, _, n = cost.shape
    kernel = torch.sub(low[:, None], cost).div_(eps).exp_()
    if not bool(mask.all()):
        kernel.masked_fill_(~mask[..., None], 0.0)
    target, tiny = _text_marginal(mask), torch.finfo(cost.dtype).tiny
    u, v = cost.new_full((b, n, 1), 1 / n), torch.zeros_like(target)
    running = torch.ones(b, dtype=torch.bool, device=cost.device)
    iterations = torch.zeros(b, dtype=torch.long, device=cost.device)
    for _ in range(max_iterations):
        reached = torch.bmm(kernel, u)[..., 0]
        running &= ~((iterations > 0) & ((v * reached - target).abs().sum(dim=1) < tolerance))
        if not bool(running.any()):
            break
        v = torch.where(running[:, None], target / reached.clamp(min=tiny), v)
        new = (1 / n) / torch.bmm(v[:, None], kernel).mT.clamp(min=tiny)
        u = torch.where(running[:, None, None], new, u)
        iterations += running
    return kernel.mul_(v[..., None]).mul_(u.mT), iterations


def _logarithms(
    cost: Flipped, low: Float[Tensor, "b n"], mask: TokenMask, eps: float, max_iterations: int, tolerance: float
) -> tuple[Flipped, Int[Tensor, " b"]]:
    """The same iteration on log u and log v: slower, safe for every finite cost."""
    b, _, n = cost.shape
    scores = (-cost / eps).masked_fill(~mask[..., None], -torch.inf)
    target = _text_marginal(mask)
    f, g = low / eps - math.log(n), torch.full_like(target, -torch.inf)  # the start of `_scalings`
    running = torch.ones(b, dtype=torch.bool, device=cost.device)
    iterations = torch.zeros(b, dtype=torch.long, device=cost.device)
    for _ in range(max_iterations):
        reached = torch.logsumexp(scores + f[:, None], dim=2).masked_fill(~mask, 0.0)
        running &= ~((iterations > 0) & (((g + reached).exp() - target).abs().sum(dim=1) < tolerance))
        if not bool(running.any()):
            break
        g = torch.where(running[:, None], target.log() - reached, g)
        f = torch.where(running[:, None], -math.log(n) - torch.logsumexp(scores + g[..., None], dim=1), f)
        iterations += running
    return (scores + f[:, None] + g[..., None]).exp(), iterations
