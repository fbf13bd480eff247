"""Optimal transport between the tokens of two modalities: batched Sinkhorn, with a choice of gradients."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from textmask.errors import DataError, choose
from textmask.losses.transport_loops import RIDGE, differentiate, scale
from textmask.processes import counted_mean
from textmask.types import TextTokens, TokenMask

DIRECTIONS = ("image_to_text", "text_to_image")
GRADIENTS = ("detached", "implicit")
Cost = Float[Tensor, "b n l"]
# text tokens first: matrix products over N then read memory in order
Flipped = Float[Tensor, "b l n"]
SAFE_EXPONENT = 80.0  # exp(-80) is 1.8e-35, still a normal fp32 number
NOT_FINITE = (
    "A transport cost is not finite (NaN or inf). Costs are 1 - cosine of token features: look for features "
    "that overflow, lower the learning rate or set precision=fp32."
)


class Plan(NamedTuple):
    """A transport plan.

    Attributes:
        plan: B N L, mass from each image token to each text token; 0 on padding, sums to 1.
        iterations: B, number until each element stopped.
        violation: B, L1 distance of the inexact marginal from its target.
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

    Each element of the batch stops on its own and does not depend on the others. On a CPU the scalings are iterated if
    exp(-cost / eps) is accurate in fp32. Otherwise their logarithms are iterated, which gives the same plan.

    Args:
        cost: B N L; the columns of padding are ignored.
        token_mask: B L, True = real; None means all are. An element without any real token gets a plan of zeros.
        eps: entropic regularisation.
        max_iterations: limit on the iterations.
        tolerance: an element stops when the L1 violation of its inexact marginal is below this.
        direction: which marginal is exact if the iteration stops early, that of the image tokens or of the text
            tokens. At convergence the plan is the same.

    Raises:
        DataError: a cost is not finite.

    Source: SSA, Section II-A and III-A (eps 0.03, 100 iterations, 1e-2); Cuturi 2013. Differs from the implementation
    that the paper cites in the stopping rule: there the mean change of a scaling, here the marginals of the plan.
    """
    rows_exact = choose("direction", direction, DIRECTIONS) == "image_to_text"
    with torch.autocast(cost.device.type, enabled=False):
        flipped = cost.float().mT.contiguous()
        real = _real(flipped, token_mask)

        # a plan with one exact marginal: the other one is where the iteration stopped
        shares = (1.0, 0.0) if rows_exact else (0.0, 1.0)
        plan, iterations = _iterate(flipped, real, eps, max_iterations, tolerance, shares)
        if not _is_on_cpu(flipped) and not bool(plan.isfinite().all()):
            raise DataError(NOT_FINITE)

        # prompts without a real token have no plan and no violation
        off = plan.sum(dim=2) - real.target if rows_exact else plan.sum(dim=1) - 1 / plan.shape[2]
        if not real.whole:
            plan = plan.masked_fill(real.empty[:, None, None], 0.0)
            off = off.masked_fill(real.empty[:, None], 0.0)
        return Plan(plan.mT, iterations, off.abs().sum(dim=1))


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

    Prompts without a real token have no transport and are left out of the mean.

    Args:
        cost: B N L, see `cosine_cost`.
        token_mask: B L, True = real.
        eps: regularisation, as in `sinkhorn`.
        max_iterations: as in `sinkhorn`.
        tolerance: as in `sinkhorn`.
        grad: `detached` holds the plan fixed: the gradient is the plan itself, and its dependence on the cost is
            dropped. `implicit` keeps dT/dM by the implicit function theorem (an L x L system).

    Raises:
        DataError: a cost is not finite. Only a CPU is asked: elsewhere the loss is then not finite.
    """
    implicit = choose("grad", grad, GRADIENTS) == "implicit"
    with torch.autocast(cost.device.type, enabled=False):
        flipped = cost.float().mT.contiguous()
        real = _real(flipped, token_mask)
        if not real.whole:  # padding may contain NaN
            flipped = flipped.masked_fill(~real.mask[..., None], 0.0)

        with torch.no_grad():
            plan, _ = _iterate(flipped.detach(), real, eps, max_iterations, tolerance, (0.5, 0.5))
        each: Tensor
        if implicit:
            each = _ImplicitTransport.apply(flipped, plan, eps)  # type: ignore[no-untyped-call]
        else:
            each = torch.linalg.vecdot(plan.flatten(1), flipped.flatten(1))

        counted = (~real.empty).float()
        return counted_mean((each * counted).sum(), counted.sum())


class _ImplicitTransport(torch.autograd.Function):
    """B values sum T M with the derivative of T: dM = T (1 + (alpha + beta - M) / eps).

    T(M) keeps its marginals, which gives alpha (per image token) and beta (per text token): differentiating
    T = exp((f + g - M) / eps) under fixed sums leaves, with M as the gradient of the sum with respect to T,
        sum_l T (M - alpha - beta) = 0 for each n,   sum_n T (M - alpha - beta) = 0 for each l;
    eliminating alpha leaves an L x L system, singular along the constant vector (and more if the plan is disconnected).
    """

    @staticmethod
    def forward(ctx: Any, cost: Flipped, plan: Flipped, eps: float) -> Tensor:
        ctx.save_for_backward(cost, plan)
        ctx.eps = eps
        each: Tensor = torch.linalg.vecdot(plan.flatten(1), cost.flatten(1))
        return each

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        cost, plan = ctx.saved_tensors
        if _is_on_cpu(cost):
            out = torch.empty_like(plan)
            differentiate(
                cost.numpy(), plan.numpy(), gradients[0].contiguous().numpy(), out.numpy(), ctx.eps
            )
        else:
            out = _differentiate_directly(cost, plan, ctx.eps).mul_(gradients[0][:, None, None])
        return out, None, None


def _differentiate_directly(cost: Flipped, plan: Flipped, eps: float) -> Flipped:
    """The gradient of `_ImplicitTransport` by factorizing the L x L system."""
    tiny = torch.finfo(plan.dtype).tiny
    weighted = plan * cost
    rows, columns = plan.sum(dim=1), plan.sum(dim=2)  # B N, B L
    row_sum, column_sum = weighted.sum(dim=1), weighted.sum(dim=2)
    over = 1 / rows.clamp(min=tiny)
    scaled = torch.mul(plan, over[:, None], out=weighted)

    # one more equation for the free constant, beta = 0 on padding, and a ridge for disconnected plans
    total = columns.sum(dim=1)[:, None, None].clamp(min=tiny)
    system = columns[:, :, None] * columns[:, None, :] / total - torch.bmm(scaled, plan.mT)
    system = system + torch.diag_embed(torch.where(columns > 0, columns * (1 + RIDGE), 1.0))

    # without asking the device whether the system is singular, which the ridge excludes
    beta, _ = torch.linalg.solve_ex(
        system, column_sum - torch.bmm(scaled, row_sum[..., None])[..., 0]
    )
    alpha = (row_sum - torch.bmm(beta[:, None], plan)[:, 0]) * over
    out = torch.add((1 + alpha / eps)[:, None], (beta / eps)[..., None], out=weighted)
    return out.sub_(cost, alpha=1 / eps).mul_(plan)


class _Real(NamedTuple):
    """Real tokens: `mask` (an empty prompt has one), `whole` if there is no padding, `empty` B, `target` B L."""

    mask: TokenMask
    whole: bool
    empty: Bool[Tensor, " b"]
    target: Float[Tensor, "b l"]

    def part(self, chosen: Bool[Tensor, " b"]) -> _Real:
        """The same for some elements of the batch."""
        return _Real(self.mask[chosen], self.whole, self.empty[chosen], self.target[chosen])


def _real(cost: Flipped, token_mask: TokenMask | None) -> _Real:
    """The real tokens, with the uniform marginal 1 / number of real tokens, 0 on padding.

    A mask without padding needs no masking, but only a CPU is asked about it: a GPU would have to finish first.
    """
    b, length = cost.shape[:2]
    if token_mask is None or (_is_on_cpu(cost) and bool(token_mask.all())):
        mask = torch.ones((b, length), dtype=torch.bool, device=cost.device)
        return _Real(mask, True, mask.new_zeros(b), cost.new_full((b, length), 1 / length))
    empty = ~token_mask.any(dim=1)
    mask = token_mask.clone()
    mask[:, 0] |= empty
    return _Real(mask, False, empty, mask / mask.sum(dim=1, keepdim=True))


def _iterate(
    cost: Flipped,
    real: _Real,
    eps: float,
    max_iterations: int,
    tolerance: float,
    shares: tuple[float, float],
) -> tuple[Flipped, Int[Tensor, " b"]]:
    """Plan B L N and iterations B; `shares` mix the plan of exact image marginals and that of exact text marginals.

    Raises:
        DataError: a cost on a CPU is not finite.
    """
    mask = real.mask
    if real.whole:
        # B N and B; aminmax takes ten times as long
        low, high = cost.amin(dim=1), cost.amax(dim=(1, 2))
    else:
        low = cost.masked_fill(~mask[..., None], torch.inf).amin(dim=1)
        high = cost.masked_fill(~mask[..., None], -torch.inf).amax(dim=(1, 2))
    spread = high - low.amin(dim=1)
    safe = spread < SAFE_EXPONENT * eps
    settings = (eps, max_iterations, tolerance, shares)
    # another device would have to finish all its work before it could say anything about the costs
    if not _is_on_cpu(cost):
        return _logarithms(cost, low, real, *settings)
    if bool(safe.all()):  # NaN and inf are not
        return _scalings(cost, low, real, *settings)
    if not bool(torch.isfinite(spread).all()):
        raise DataError(NOT_FINITE)

    # elements with large costs are solved with logarithms
    plan = torch.empty_like(cost)
    iterations = torch.empty(len(cost), dtype=torch.long, device=cost.device)
    for solve, part in ((_scalings, safe), (_logarithms, ~safe)):
        if bool(part.any()):
            plan[part], iterations[part] = solve(cost[part], low[part], real.part(part), *settings)
    return plan, iterations


def _scalings(
    cost: Flipped,
    low: Float[Tensor, "b n"],
    real: _Real,
    eps: float,
    max_iterations: int,
    tolerance: float,
    shares: tuple[float, float],
) -> tuple[Flipped, Int[Tensor, " b"]]:
    """Sinkhorn on u and v with K = exp((row minimum - cost) / eps): fast; a CPU only, and costs within 80 eps."""
    iterations = torch.zeros(len(cost), dtype=torch.long)
    plan = torch.empty_like(cost)
    c, a, t, p, k = (tensor.numpy() for tensor in (cost, low, real.target, plan, iterations))
    scale(c, a, t, p, k, max_iterations, (eps, tolerance, *shares))
    return plan, iterations


def _is_on_cpu(cost: Flipped) -> bool:
    return cost.device.type == "cpu"


def _mixed(
    v: Float[Tensor, "b l"],
    columns: Float[Tensor, "b l"],
    target: Float[Tensor, "b l"],
    shares: tuple[float, float],
) -> Float[Tensor, "b l"]:
    """Scaling v of the mixed plan: exact text marginals are one more half-step, v x target / columns."""
    return v * (shares[0] + shares[1] * target / columns.clamp(min=torch.finfo(columns.dtype).tiny))


def _logarithms(
    cost: Flipped,
    low: Float[Tensor, "b n"],
    real: _Real,
    eps: float,
    max_iterations: int,
    tolerance: float,
    shares: tuple[float, float],
) -> tuple[Flipped, Int[Tensor, " b"]]:
    """The same iteration on log u and log v: slower, accurate for every finite cost.

    Elements that have converged stay as they are. Only a CPU ends the loop early, because it knows when all have.
    """
    n, mask, target = cost.shape[2], real.mask, real.target
    scores = (-cost / eps).masked_fill(~mask[..., None], -torch.inf)
    f, g = low / eps - math.log(n), torch.full_like(target, -torch.inf)  # the start of `_scalings`
    iterations = torch.zeros(len(cost), dtype=torch.long, device=cost.device)
    running = torch.ones_like(iterations, dtype=torch.bool)

    for step in range(max_iterations + 1):
        reached = torch.logsumexp(scores + f[:, None], dim=2).masked_fill(~mask, 0.0)
        if step:
            running &= ((g + reached).exp() - target).abs().sum(dim=1) >= tolerance
        if step == max_iterations or (_is_on_cpu(cost) and not bool(running.any())):
            break
        g = torch.where(running[:, None], target.log() - reached, g)
        f = torch.where(
            running[:, None], -math.log(n) - torch.logsumexp(scores + g[..., None], dim=1), f
        )
        iterations += running

    plan = (scores + f[:, None] + g[..., None]).exp()
    ones = torch.ones_like(target)
    return plan * _mixed(ones, plan.sum(dim=2), target, shares)[..., None], iterations
