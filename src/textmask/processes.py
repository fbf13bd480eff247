"""Batches that are spread over processes: pairs, means and statistics over the images of all of them.

With these, the mean over the processes of their losses and of their gradients, which data-parallel training takes, is
the loss and the gradient of one process with the whole batch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed


def process_count() -> int:
    """Number of processes that train together."""
    return distributed.get_world_size() if _is_spread() else 1


def gathered(rows: Tensor) -> Tensor:
    """The rows of all processes, in the order of the processes, with their gradients: B ... -> (processes x B) ...

    Every process must have the same number of rows. A single process gets its own rows back.
    """
    if process_count() == 1:
        return rows
    out: Tensor = _Gather.apply(rows)  # type: ignore[no-untyped-call]
    return out


def gathered_tokens(tokens: Tensor, token_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Text tokens and their mask of all processes, padded to the longest prompt of any of them.

    Args:
        tokens: B L D; L may differ between processes.
        token_mask: B L, True for real tokens.

    Returns:
        (processes x B) M D and (processes x B) M.
    """
    if process_count() == 1:
        return tokens, token_mask
    longest = torch.tensor(tokens.shape[1], device=tokens.device)
    distributed.all_reduce(longest, distributed.ReduceOp.MAX)
    missing = int(longest) - tokens.shape[1]

    real = torch.nn.functional.pad(token_mask.to(tokens.dtype), (0, missing))
    whole = torch.nn.functional.pad(tokens, (0, 0, 0, missing))
    return gathered(whole), gathered(real) > 0


def counted_mean(total: Tensor, count: Tensor) -> Tensor:
    """A mean whose mean over the processes is the sum of all totals over the sum of all counts.

    Args:
        total: scalar, the sum over what counts in this process.
        count: scalar, how many those are; may be 0, also in all processes, if the total is 0 then.
    """
    n = process_count()
    if n > 1:
        count = count.detach().clone()
        distributed.all_reduce(count)
    return total * n / count.clamp(min=1)


def _is_spread() -> bool:
    return distributed.is_available() and distributed.is_initialized()


class _Gather(torch.autograd.Function):
    """Every process reads all rows, so the gradient of a row is the sum of what they all found for it."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.length = len(rows)
        own = rows.contiguous()
        parts = [torch.empty_like(own) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, own)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        whole = gradients[0].contiguous().clone()
        distributed.all_reduce(whole)
        begin = distributed.get_rank() * ctx.length
        return whole[begin : begin + ctx.length]
