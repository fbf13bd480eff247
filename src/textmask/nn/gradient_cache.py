"""Embed a large batch with the memory of a small one and with the same gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from textmask.types import Image


def in_chunks(
    embed: Callable[[Image], Tensor], module: nn.Module, image: Image, chunk: int | None
) -> Tensor:
    """`embed(image)`, B C H W -> B D or B P D, keeping the activations of one chunk at a time.

    Gradient caching (Gao et al., 2021): every chunk is embedded without its graph, and embedded again when the gradient
    of its vectors is known. Gradients equal those of the whole batch at once, except that batch norm sees one chunk;
    group norm has no such difference. Running statistics count each chunk once.

    Args:
        embed: made of layers of `module`.
        module: its running statistics are protected from being updated twice.
        image: B C H W.
        chunk: samples at a time; None embeds all at once and keeps everything.
    """
    if chunk is None or len(image) <= chunk or not torch.is_grad_enabled():
        return embed(image)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _held_statistics(module)

    parts: list[Tensor] = []
    for part in torch.split(image, chunk):
        parts.append(checkpoint(embed, part, use_reentrant=False, context_fn=contexts))
    return torch.cat(parts)


@contextmanager
def _held_statistics(module: nn.Module) -> Iterator[None]:
    """Keep the running statistics of batch norms as they are."""
    norms = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
