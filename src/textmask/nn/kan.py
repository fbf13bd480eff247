"""Kolmogorov-Arnold layer (Liu et al., 2024): a learned spline on every edge, evaluated as one matrix product."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from textmask.compiled import compiled
from textmask.errors import ConfigError

# basis values at a time: few enough to stay in a processor's cache between the passes over them; on a GPU so many that
# a layer is a few large operations (256 MiB in fp32)
CHUNK_VALUES, CHUNK_VALUES_GPU = 1 << 20, 1 << 26
# range of the first curves, in units of one interval of the grid
NOISE = 0.1

Grid = tuple[float, float, int]  # first knot of the span, step, order


class KANLinear(nn.Module):
    """y_o = sum_i [w_oi silu(x_i) + s_oi sum_k c_oki B_k(x_i)], ten weights per edge with the default grid.

    C2Seg section 3, KAN after Liu et al. 2024, with the scale s on every edge of the published layers.

    B_k are the B-splines of `order` over `grid` equal intervals of `span`, extended by `order` knots on both sides.
    They are 0 outside, so that only the SiLU branch is left there; hence the layer norm in front.

    The basis is written in closed form (T, 1 + grid + order, I) and multiplied once with all weights. Only `x` is kept
    for the backward pass, which computes the basis again, chunk by chunk. Second derivatives are not available.

    Args:
        in_features: I.
        out_features: O.
        grid: intervals G.
        order: degree of the splines; 0 is piecewise constant.
        span: range that the grid divides.
        norm: put a layer norm over the I features in front.

    Raises:
        ConfigError: `grid` is below 1, `order` is negative or the span is empty.
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
            raise ConfigError(
                f"grid {grid}, order {order}, span {span}: expected grid >= 1, order >= 0, low < high."
            )
        self.grid, self.order, self.span = grid, order, span

        self.norm = nn.LayerNorm(in_features) if norm else nn.Identity()
        self.base_weight = nn.Parameter(torch.empty(out_features, in_features))
        self.spline_weight = nn.Parameter(torch.empty(out_features, grid + order, in_features))
        self.spline_scale = nn.Parameter(torch.empty(out_features, in_features))
        nn.init.kaiming_uniform_(self.base_weight, a=math.sqrt(5))
        nn.init.kaiming_uniform_(self.spline_scale, a=math.sqrt(5))
        with torch.no_grad():
            self.spline_weight.copy_(self._noise())

    def forward(self, x: Float[Tensor, "*n i"]) -> Float[Tensor, "*n o"]:
        """... I -> ... O; under autocast the product has its dtype, and the basis is rounded after fp32."""
        x = self.norm(x)
        dtype = self.base_weight.dtype
        if torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
        low, high = self.span
        grid = (low, (high - low) / self.grid, self.order)

        if torch.onnx.is_in_onnx_export():  # exporters cannot trace the loops of `_Product`
            weights = torch.cat(
                [self.base_weight[:, None], self.spline_weight * self.spline_scale[:, None]], 1
            )
            return _plain_product(x, weights, grid)

        weights_of = (self.base_weight, self.spline_weight, self.spline_scale)
        rows = x.reshape(-1, x.shape[-1])
        out: Tensor = _Product.apply(rows, *weights_of, dtype, grid)  # type: ignore[no-untyped-call]
        return out.reshape(*x.shape[:-1], len(self.base_weight))

    def _noise(self) -> Float[Tensor, "o k i"]:
        """Coefficients of curves that are noise of at most NOISE / 2 / grid at the knots, the smallest such ones.

        They have a deviation of 0.0088 with the default grid; the SiLU branch then decides the first steps.

        Source: the initialization of the published layers (Blealtan's efficient-kan, used by U-KAN).
        """
        outs, ins = self.base_weight.shape
        low, high = self.span
        knots = torch.linspace(low, high, self.grid + 1, dtype=torch.float64)
        basis = knots.new_empty(len(knots), 1 + self.grid + self.order, 1)
        _write_basis(knots[:, None], basis, basis, (low, (high - low) / self.grid, self.order))
        values = (torch.rand(self.grid + 1, outs * ins) - 0.5) * NOISE / self.grid
        found: Tensor = torch.linalg.pinv(basis[:, 1:, 0]).float() @ values
        return found.view(-1, outs, ins).transpose(0, 1)

    def extra_repr(self) -> str:
        """Sizes and grid."""
        outs, ins = self.base_weight.shape
        return f"{ins}, {outs}, grid={self.grid}, order={self.order}, span={self.span}"


class _Product(torch.autograd.Function):
    """Basis(x), T (1 + K) I, times the weights [base | spline * scale], O (1 + K) I -> T O.

    Every product writes into `out`: memory is that of one chunk, and autocast around the backward pass has no effect.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        base: Tensor,
        spline: Tensor,
        scale: Tensor,
        dtype: torch.dtype,
        grid: Grid,
    ) -> Tensor:
        ctx.save_for_backward(x, base, spline, scale)
        ctx.dtype, ctx.grid = dtype, grid

        weight = _joined(base, spline, scale, dtype)
        out = weight.new_empty(len(x), len(weight))
        chunks, exact, phi = _buffers(x, weight)
        x = x.to(exact.dtype)
        for rows in chunks:
            n = rows.stop - rows.start
            _write_basis(x[rows], exact[:n], phi[:n], grid)
            torch.mm(phi[:n].flatten(1), weight.flatten(1).mT, out=out[rows])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, base, spline, scale = ctx.saved_tensors
        weight = _joined(base, spline, scale, ctx.dtype)
        grad_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        wide = torch.promote_types(base.dtype, torch.float32)
        total = (
            torch.zeros_like(weight, dtype=wide).flatten(1)
            if any(ctx.needs_input_grad[1:4])
            else None
        )
        part = torch.empty_like(weight).flatten(1)

        chunks, exact, phi = _buffers(x, weight)
        x = x.to(exact.dtype)
        for rows in chunks:
            n = rows.stop - rows.start
            if total is not None:
                _write_basis(x[rows], exact[:n], phi[:n], ctx.grid)
                total += torch.mm(grad[rows].mT, phi[:n].flatten(1), out=part)
            if grad_x is not None:
                # the basis is not needed any more, so its memory takes the gradient that arrives at it
                torch.mm(grad[rows], weight.flatten(1), out=phi[:n].flatten(1))
                grad_x[rows] = _through_basis(x[rows], exact[:n].copy_(phi[:n]), ctx.grid)
        if total is None:
            return grad_x, None, None, None, None, None

        # the product of spline weight and scale passes the gradient to both
        total = total.view_as(weight)
        splines = total[:, 1:]
        grad_scale = (splines * spline).sum(1)
        return grad_x, total[:, 0], splines.mul_(scale[:, None]), grad_scale, None, None


def _plain_product(x: Tensor, weight: Tensor, grid: Grid) -> Tensor:
    """`_Product` of x, ... I, in plain operators that can be exported: ... O."""
    low, step, order = grid
    centres = torch.arange(weight.shape[1] - 1, dtype=x.dtype) - (order - 1) / 2
    offsets = ((x - low) / step)[..., None, :] - centres[:, None]
    if order:
        splines = _bumps(offsets.abs(), order, order) / math.factorial(order)
    else:
        splines = ((offsets + 0.5).floor() == 0).to(x.dtype)
    return (
        torch.cat([nn.functional.silu(x)[..., None, :], splines], dim=-2).flatten(-2)
        @ weight.flatten(1).T
    )


def _joined(base: Tensor, spline: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """[base | spline * scale], O (1 + K) I, in the dtype of the product."""
    weight = base.new_empty(len(base), 1 + spline.shape[1], base.shape[1], dtype=dtype)
    weight[:, 0] = base
    torch.mul(spline, scale[:, None], out=weight[:, 1:])
    return weight


def _buffers(x: Tensor, weight: Tensor) -> tuple[list[slice], Tensor, Tensor]:
    """Row slices that fit the device; buffers of one slice, exact and in `weight`'s dtype."""
    values = CHUNK_VALUES if x.device.type == "cpu" else CHUNK_VALUES_GPU
    size = min(max(values // weight[0].numel(), 64), len(x))
    exact = x.new_empty(size, *weight.shape[1:], dtype=torch.promote_types(x.dtype, torch.float32))
    phi = exact if exact.dtype == weight.dtype else torch.empty_like(exact, dtype=weight.dtype)
    return [slice(i, min(i + size, len(x))) for i in range(0, len(x), max(size, 1))], exact, phi


def _write_basis(x: Tensor, exact: Tensor, phi: Tensor, grid: Grid) -> None:
    """SiLU and the K splines of x, T I -> T (1 + K) I, into `exact` and, rounded, into `phi`."""
    x = x.to(exact.dtype).contiguous()
    low, step, order = grid
    exact[:, 0] = nn.functional.silu(x)
    splines = exact[:, 1:]

    if _has_kernel(x, order):
        _cubic_basis(x.numpy(), exact.numpy(), low, 1 / step)
    elif order == 0:
        # half-open intervals, so that each knot belongs to exactly one
        splines.copy_((_offsets(x, splines.shape[1], grid) + 0.5).floor() == 0)
    else:
        distance = _offsets(x, splines.shape[1], grid).abs_()
        torch.div(_bumps(distance, order, order), math.factorial(order), out=splines)

    if phi is not exact:
        phi.copy_(exact)


def _through_basis(x: Tensor, grad: Tensor, grid: Grid) -> Tensor:
    """Gradient of the basis, T (1 + K) I, carried back to x, T I."""
    x = x.to(grad.dtype).contiguous()
    low, step, order = grid
    out: Tensor = torch.ops.aten.silu_backward(grad[:, 0], x)
    if _has_kernel(x, order):
        _cubic_through(x.numpy(), grad.numpy(), out.numpy(), low, 1 / step)
    elif order:
        offsets = _offsets(x, grad.shape[1] - 1, grid)
        slope = (
            _bumps(offsets.abs(), order, order - 1)
            * offsets.sign_()
            / (-math.factorial(order - 1) * step)
        )
        out += (slope * grad[:, 1:]).sum(1)
    return out


def _has_kernel(x: Tensor, order: int) -> bool:
    return order == 3 and x.device.type == "cpu" and x.dtype == torch.float32


def _offsets(x: Tensor, splines: int, grid: Grid) -> Tensor:
    """Distance of x, T I, from the center of each of the K splines in steps: T K I."""
    low, step, order = grid
    centres = torch.arange(splines, device=x.device, dtype=x.dtype) - (order - 1) / 2
    return ((x - low) / step)[:, None] - centres[:, None]


def _bumps(distance: Tensor, order: int, power: int) -> Tensor:
    """sum_j (-1)^j C(n+1, j) ((n+1)/2 - j - d)_+^power of d >= 0, n = `order`.

    With power n it is n! times the cardinal spline, summed from the far end of its support: outside, every term is 0.
    """
    total = torch.zeros_like(distance)
    for j in range((order + 1) // 2 + 1):
        edge = (order + 1) / 2 - j
        if edge <= 0:
            break
        rest = (edge - distance).clamp_(min=0)
        total += (
            (-1) ** j
            * math.comb(order + 1, j)
            * (rest**power if power else (rest > 0).to(rest.dtype))
        )
    return total


# serial: numba's threads ignore torch.set_num_threads, and abort if two callers meet without OpenMP
_fast = partial(compiled, fastmath={"contract", "reassoc", "nsz", "arcp"})


@_fast
def _cubic_basis(x: Any, out: Any, low: Any, inverse: Any) -> None:
    """The splines of `_write_basis` for order 3: ((2 - d)_+^3 - 4 (1 - d)_+^3) / 6 in one pass."""
    rows, count, columns = out.shape
    low, inverse = np.float32(low), np.float32(inverse)
    sixth, two_thirds = np.float32(1 / 6), np.float32(2 / 3)
    zero, one, two = np.float32(0), np.float32(1), np.float32(2)
    for r in range(rows):
        for k in range(1, count):
            centre = np.float32(k - 2)
            for c in range(columns):
                d = abs((x[r, c] - low) * inverse - centre)
                a, b = max(two - d, zero), max(one - d, zero)
                out[r, k, c] = a * a * a * sixth - b * b * b * two_thirds


@_fast
def _cubic_through(x: Any, grad: Any, out: Any, low: Any, inverse: Any) -> None:
    """Add the splines' part of `_through_basis` for order 3 to `out`, in one pass."""
    rows, count, columns = grad.shape
    low, inverse = np.float32(low), np.float32(inverse)
    half, zero, one, two = np.float32(0.5), np.float32(0), np.float32(1), np.float32(2)
    for r in range(rows):
        for k in range(1, count):
            centre = np.float32(k - 2)
            for c in range(columns):
                offset = (x[r, c] - low) * inverse - centre
                d = abs(offset)
                a, b = max(two - d, zero), max(one - d, zero)
                slope = (two * b * b - half * a * a) * inverse
                out[r, c] += grad[r, k, c] * (slope if offset > zero else -slope)
