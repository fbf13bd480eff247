"""Kolmogorov-Arnold layer (Liu et al., 2024): a learned spline on every edge, evaluated as one matrix product."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numba import prange
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from textmask.compiled import compiled
from textmask.errors import ConfigError

CHUNK_VALUES = 1 << 20  # basis values at a time: they stay in the cache between the passes that make them


_fast = partial(compiled, parallel=True, fastmath={"contract", "reassoc", "nsz", "arcp"})


class KANLinear(nn.Module):
    """y_o = sum_i [w_oi silu(x_i) + s_oi sum_k c_oik B_k(x_i)], ten weights an edge with the default grid.

    B_k are the B-splines of `order` over `grid` equal intervals of `span`, extended by `order` knots on both sides.
    They are 0 outside, where only the SiLU branch is left: hence the layer norm in front.

    The basis is written in closed form (T, 1 + grid + order, I) and multiplied once with all weights. Only `x` is kept
    for the backward pass, which writes the basis again, chunk by chunk.

    Args:
        in_features: I.
        out_features: O.
        grid: intervals G.
        order: degree of the splines; 0 is piecewise constant.
        span: range that the grid divides.
        norm: put a layer norm over the I features in front.

    Raises:
        ConfigError: no interval, a negative order or an empty span.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        grid: int = 5,
        order: int = 3,
        span: tuple[float, float] = (-1.0, 1.0),
        norm: bool = True,
    ) -> None:
        super().__init__()
        if grid < 1 or order < 0 or not span[0] < span[1]:
            raise ConfigError(f"grid {grid}, order {order}, span {span}: expected grid >= 1, order >= 0, low < high.")
        self.grid, self.order, self.span = grid, order, span
        self.norm = nn.LayerNorm(in_features) if norm else nn.Identity()
        self.base_weight = nn.Parameter(torch.empty(out_features, in_features))
        self.spline_weight = nn.Parameter(torch.empty(out_features, grid + order, in_features))
        self.spline_scale = nn.Parameter(torch.empty(out_features, in_features))
        nn.init.kaiming_uniform_(self.base_weight, a=math.sqrt(5))
        nn.init.kaiming_uniform_(self.spline_scale, a=math.sqrt(5))
        nn.init.normal_(self.spline_weight, std=0.1)

    def forward(self, x: Float[Tensor, "*n i"]) -> Float[Tensor, "*n o"]:
        """... I -> ... O; under autocast the basis and the product are in its dtype."""
        x = self.norm(x)
        weight = torch.cat([self.base_weight[:, None], self.spline_weight * self.spline_scale[:, None]], dim=1)
        dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else weight.dtype
        flat = x.reshape(-1, x.shape[-1])
        low, high = self.span
        parts = flat, weight.flatten(1).to(dtype), low, (high - low) / self.grid, self.order
        out: Tensor = _Product.apply(*parts)  # type: ignore[no-untyped-call]
        return out.reshape(*x.shape[:-1], len(weight))

    def extra_repr(self) -> str:
        """Sizes and grid."""
        outs, ins = self.base_weight.shape
        return f"{ins}, {outs}, grid={self.grid}, order={self.order}, span={self.span}"


class _Product(torch.autograd.Function):
    """Basis(x) T (1 + K) I times weight O (1 + K) I -> T O."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, low: float, step: float, order: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.grid = (low, step, order)
        out = weight.new_empty(len(x), len(weight))
        count = weight.shape[1] // x.shape[1]
        for rows in _chunks(len(x), weight.shape[1]):
            phi = _basis(x[rows], count, *ctx.grid).to(weight.dtype)
            torch.mm(phi.flatten(1), weight.mT, out=out[rows])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        count = weight.shape[1] // x.shape[1]
        grad = grad.to(weight.dtype)
        grad_x = torch.empty_like(x)
        grad_weight = torch.zeros_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32))
        for rows in _chunks(len(x), weight.shape[1]):
            part, slopes = x[rows], (grad[rows] @ weight).view(-1, count, x.shape[1])
            phi = _basis(part, count, *ctx.grid).to(weight.dtype)
            grad_weight += grad[rows].mT @ phi.flatten(1)
            grad_x[rows] = _through_basis(part, slopes, *ctx.grid)
        return grad_x, grad_weight.to(weight.dtype), None, None, None


def _chunks(rows: int, values: int) -> list[slice]:
    """Row slices whose basis has about CHUNK_VALUES values."""
    size = max(CHUNK_VALUES // values, 64)
    return [slice(i, i + size) for i in range(0, rows, size)]


def _offsets(x: Tensor, count: int, low: float, step: float, order: int) -> Tensor:
    """Distance of x, T I, from the centre of each spline in steps: T K I."""
    centres = torch.arange(count - 1, device=x.device, dtype=x.dtype) - (order - 1) / 2
    return ((x - low) / step)[:, None] - centres[:, None]


def _bumps(distance: Tensor, order: int, power: int) -> Tensor:
    """sum_j (-1)^j C(n+1, j) ((n+1)/2 - j - d)_+^power of d >= 0, n = `order`.

    With power n it is n! times the cardinal spline, seen from the far end of its support: outside, every term is 0.
    """
    total = torch.zeros_like(distance)
    for j in range((order + 1) // 2 + 1):
        edge = (order + 1) / 2 - j
        if edge <= 0:
            break
        rest = (edge - distance).clamp_(min=0)
        total += (-1) ** j * math.comb(order + 1, j) * (rest**power if power else (rest > 0).to(rest.dtype))
    return total


def _basis(x: Tensor, count: int, low: float, step: float, order: int) -> Tensor:
    """SiLU and the K splines of x, T I -> T (1 + K) I, in fp32 or better."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    out = x.new_empty(len(x), count, x.shape[1])
    if order == 3 and x.device.type == "cpu" and x.dtype == torch.float32:
        _cubic_basis(x.numpy(), out.numpy(), low, 1 / step)
        return out
    out[:, 0] = nn.functional.silu(x)
    if order == 0:
        # half-open intervals, so that a knot belongs to one of them
        out[:, 1:] = (_offsets(x, count, low, step, 0) + 0.5).floor() == 0
        return out
    distance = _offsets(x, count, low, step, order).abs_()
    torch.div(_bumps(distance, order, order), math.factorial(order), out=out[:, 1:])
    return out


def _through_basis(x: Tensor, grad: Tensor, low: float, step: float, order: int) -> Tensor:
    """Gradient of the basis, T (1 + K) I, carried back to x, T I."""
    given, x = x.dtype, x.to(torch.promote_types(x.dtype, torch.float32))
    grad = grad.to(x.dtype)
    if order == 3 and x.device.type == "cpu" and x.dtype == torch.float32:
        out = torch.empty_like(x)
        _cubic_through(x.numpy(), grad.numpy(), out.numpy(), low, 1 / step)
        return out.to(given)
    gate = torch.sigmoid(x)
    out = grad[:, 0] * gate * (1 + x * (1 - gate))
    if order:
        offsets = _offsets(x, grad.shape[1], low, step, order)
        slope = _bumps(offsets.abs(), order, order - 1) * offsets.sign_() / (-math.factorial(order - 1) * step)
        out += (slope * grad[:, 1:]).sum(1)
    return out.to(given)


@_fast
def _cubic_basis(x: Any, out: Any, low: Any, inverse: Any) -> None:
    """`_basis` for cubic splines on a CPU: ((2 - d)_+^3 - 4 (1 - d)_+^3) / 6 in one pass."""
    rows, count, columns = out.shape
    low, inverse = np.float32(low), np.float32(inverse)
    sixth, two_thirds = np.float32(1 / 6), np.float32(2 / 3)
    zero, one, two = np.float32(0), np.float32(1), np.float32(2)
    for r in prange(rows):
        for c in range(columns):
            out[r, 0, c] = x[r, c] / (one + np.exp(-x[r, c]))
        for k in range(1, count):
            centre = np.float32(k - 2)
            for c in range(columns):
                d = abs((x[r, c] - low) * inverse - centre)
                a, b = max(two - d, zero), max(one - d, zero)
                out[r, k, c] = a * a * a * sixth - b * b * b * two_thirds


@_fast
def _cubic_through(x: Any, grad: Any, out: Any, low: Any, inverse: Any) -> None:
    """`_through_basis` for cubic splines on a CPU, in one pass."""
    rows, count, columns = grad.shape
    low, inverse = np.float32(low), np.float32(inverse)
    half, zero, one, two = np.float32(0.5), np.float32(0), np.float32(1), np.float32(2)
    for r in prange(rows):
        for c in range(columns):
            gate = one / (one + np.exp(-x[r, c]))
            out[r, c] = grad[r, 0, c] * gate * (one + x[r, c] * (one - gate))
        for k in range(1, count):
            centre = np.float32(k - 2)
            for c in range(columns):
                offset = (x[r, c] - low) * inverse - centre
                d = abs(offset)
                a, b = max(two - d, zero), max(one - d, zero)
                slope = (two * b * b - half * a * a) * inverse
                out[r, c] += grad[r, k, c] * (slope if offset > zero else -slope)
