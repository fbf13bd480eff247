"""The loops of Sinkhorn and of its derivative as machine code, one element at a time to fit into the cache."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from textmask.compiled import compiled

RIDGE = 1e-6  # share of the diagonal of the implicit system, about ten rounding errors
ACCURACY = 1e-5  # relative accuracy of the solution of that system

# serial: numba's threads would ignore torch.set_num_threads
_fast = partial(compiled, fastmath={"contract", "reassoc", "nsz", "arcp"})


@_fast
def _exponential(low: Any, cost: Any, scale: Any, out: Any) -> None:
    """2^((low - cost) scale) over two rows of one length, to 3e-7 of its value: a polynomial between powers of two."""
    for i in range(len(out)):
        x = max((low[i] - cost[i]) * scale, np.float32(-126))
        whole = np.floor(x)
        rest = x - whole
        p = np.float32(1.8775767e-3) * rest + np.float32(8.9893397e-3)
        p = p * rest + np.float32(5.5826318e-2)
        p = p * rest + np.float32(2.4015361e-1)
        p = p * rest + np.float32(6.9315308e-1)
        p = p * rest + np.float32(9.9999994e-1)
        out[i] = p * np.int32((np.int32(whole) + np.int32(127)) << np.int32(23)).view(np.float32)


@_fast
def scale(
    cost: Any,
    low: Any,
    target: Any,
    plan: Any,
    iterations: Any,
    max_iterations: Any,
    numbers: Any,
) -> None:
    """The loop of `_scalings`, one element after the other: its kernel stays in the cache as `plan`.

    `numbers` are eps, the tolerance and the two shares of `_mixed`.
    """
    eps, tolerance, rows, columns = numbers
    batch, length, n = plan.shape
    tiny, share = np.float32(1.2e-38), np.float32(1 / n)
    per_cost = np.float32(1.4426950408889634 / eps)  # log2(e) / eps
    u, new_u = np.empty(n, np.float32), np.empty(n, np.float32)
    v, new_v = np.empty(length, np.float32), np.zeros(length, np.float32)
    for b in range(batch):
        for j in range(length):
            if target[b, j] > 0:
                _exponential(low[b], cost[b, j], per_cost, plan[b, j])
            else:
                plan[b, j] = 0
        u[:] = share
        v[:] = 0

        # one pass over the plan updates both scalings and measures the violation
        for step in range(max_iterations + 1):
            off = np.float32(0)
            new_u[:] = 0
            for j in range(length):
                total = np.float32(0)
                for i in range(n):
                    total += plan[b, j, i] * u[i]
                off += abs(v[j] * total - target[b, j])
                factor = target[b, j] / max(total, tiny)
                new_v[j] = factor
                for i in range(n):
                    new_u[i] += factor * plan[b, j, i]
            if step == max_iterations or (step > 0 and off < tolerance):
                break
            for i in range(n):
                u[i] = share / max(new_u[i], tiny)
            v[:] = new_v
            iterations[b] = step + 1

        for j in range(length):
            factor = v[j] * np.float32(rows) + new_v[j] * np.float32(columns)
            for i in range(n):
                plan[b, j, i] *= factor * u[i]


@_fast
def _to_image(plan: Any, weights: Any, out: Any) -> None:
    """Product of a transposed plan with weights, L N and L -> N."""
    out[:] = 0
    for j in range(plan.shape[0]):
        factor = np.float32(weights[j])
        for i in range(plan.shape[1]):
            out[i] += factor * plan[j, i]


@_fast
def _to_text(plan: Any, weights: Any, out: Any) -> None:
    """Product of a plan with weights, L N and N -> L."""
    for j in range(plan.shape[0]):
        total = np.float32(0)
        for i in range(plan.shape[1]):
            total += plan[j, i] * weights[i]
        out[j] = total


@_fast
def differentiate(cost: Any, plan: Any, gradient: Any, out: Any, eps: Any) -> None:
    """The gradient of `_ImplicitTransport`; conjugate gradients solve the L x L system, which is never formed.

    A step is two passes over a plan in the cache; about 6 steps are enough. Directions below rounding are skipped.
    """
    batch, length, n = plan.shape
    over, row, t = np.empty(n, np.float32), np.empty(n, np.float32), np.empty(n, np.float32)
    # float64 costs nothing at length L and keeps the directions conjugate
    columns, rest, image = np.empty(length), np.empty(length), np.empty(length)

    for b in range(batch):
        # marginals of the plan and of the plan times the cost
        over[:] = 0
        row[:] = 0
        for j in range(length):
            mass, spent = np.float32(0), np.float32(0)
            for i in range(n):
                carried = plan[b, j, i]
                over[i] += carried
                row[i] += carried * cost[b, j, i]
                mass += carried
                spent += carried * cost[b, j, i]
            columns[j], rest[j] = mass, spent

        # right-hand side, and the preconditioner
        for i in range(n):
            over[i] = np.float32(1) / max(over[i], np.float32(1.2e-38))
            t[i] = row[i] * over[i]
        # a token without mass keeps beta = 0
        weights = np.where(columns > 0, 1 / np.maximum(columns, 1e-38), 0.0)
        floor = RIDGE**2 * (weights * rest * rest).sum()
        _to_text(plan[b], t, image)
        rest -= image

        # conjugate gradients
        beta, way, size = np.zeros(length), weights * rest, (weights * rest * rest).sum()
        floor = max(floor, ACCURACY**2 * size)
        for _ in range(length):
            _to_image(plan[b], way, t)
            for i in range(n):
                t[i] *= over[i]
            _to_text(plan[b], t, image)
            image = columns * way - image
            bend = (way * image).sum()
            if size <= floor or bend <= RIDGE * (columns * way * way).sum():
                break
            beta += size / bend * way
            rest -= size / bend * image
            previous, size = size, (weights * rest * rest).sum()
            way = weights * rest + size / previous * way

        # the gradient of each entry of the plan
        _to_image(plan[b], beta, t)
        inverse = np.float32(1 / eps)
        for i in range(n):
            t[i] = np.float32(1) + (row[i] - t[i]) * over[i] * inverse
        for j in range(length):
            factor = np.float32(beta[j]) * inverse
            for i in range(n):
                out[b, j, i] = (
                    gradient[b] * plan[b, j, i] * (t[i] + factor - cost[b, j, i] * inverse)
                )
