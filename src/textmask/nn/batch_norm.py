"""Batch norm over the images of all processes."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from textmask.processes import gathered, process_count


class BatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose statistics in training are those of the whole batch, however many processes share it.

    In one process, and in eval mode, it is torch's. torch's own `SyncBatchNorm` does not run on CPUs.

    Args:
        channels: C.
        eps, momentum: as in torch. There are always running statistics.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__(channels, eps=eps, momentum=momentum)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """B C H W -> B C H W; every process must have the same B H W."""
        n = process_count()
        if n == 1 or not self.training:
            return super().forward(x)

        with torch.autocast(x.device.type, enabled=False):
            y = x.float()
            own = torch.stack(torch.var_mean(y, dim=(0, 2, 3), correction=0))
            each_var, each_mean = gathered(own[None]).unbind(dim=1)  # processes C, each
            mean = each_mean.mean(dim=0)
            var = (each_var + (each_mean - mean).square()).mean(dim=0)
            self._follow(mean.detach(), var.detach(), n * y.numel() // y.shape[1])

            scale = torch.rsqrt(var + self.eps) * self.weight
            shift = self.bias - mean * scale
            return (y * scale[:, None, None] + shift[:, None, None]).to(x.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, var: Tensor, values: int) -> None:
        """Update the running statistics, with the unbiased variance, as torch does."""
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(var * (values / max(values - 1, 1)), self.momentum)
        self.num_batches_tracked.add_(1)
