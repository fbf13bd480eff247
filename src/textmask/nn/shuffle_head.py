"""The head that GuideDecoder and MMI-UNet were released with: it does not see the image again."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from textmask.types import Image, Logits


class ShuffleHead(nn.Module):
    """Feature at stride s -> logits at full size: 3x3 convolution, pixel shuffle, padded average pooling, 1x1.

    Has the interface of `SubPixelHead`, whose image it ignores.

    Args:
        in_channels: channels of the feature.
        stride: s, rows and columns of the image per row and column of the feature.
        channels: at full size; 24 as released, which makes 332 185 parameters of 96 channels at stride 4.

    Source: description of the released code of GuideDecoder and MMI-UNet; pooling and first weights as in Aitken et
    al., Checkerboard artifact free sub-pixel convolution (2017).
    """

    def __init__(self, in_channels: int, stride: int, channels: int = 24) -> None:
        super().__init__()
        self.stride = stride
        self.expand = nn.Conv2d(in_channels, channels * stride**2, 3, padding=1)
        self.out = nn.Conv2d(channels, 1, 1)

        # the places of one block start with equal weights, so that no checkerboard is there to be unlearned
        with torch.no_grad():
            first = torch.empty(channels, in_channels, 3, 3)
            nn.init.kaiming_normal_(first)
            self.expand.weight.copy_(first.repeat_interleave(stride**2, dim=0))

    def forward(self, feature: Float[Tensor, "b _c _h _w"], image: Image) -> Logits:
        """Feature B C H/s W/s -> logits B 1 H W; of the image only the size counts."""
        return self.join(feature, self.image_part(image))

    def image_part(self, image: Image) -> Float[Tensor, "b 0 h w"]:
        """No channels: this head does not read the image."""
        return image[:, :0]

    def join(self, feature: Float[Tensor, "b _c _h _w"], part: Float[Tensor, "b 0 h w"]) -> Logits:
        """`join(feature, image_part(image))` equals `forward(feature, image)`."""
        x = nn.functional.pixel_shuffle(self.expand(feature), self.stride)

        # the mean over s x s pixels up to and including this one; zeros before the first row and column
        before = self.stride - 1
        x = nn.functional.avg_pool2d(
            nn.functional.pad(x, (before, 0, before, 0)), self.stride, stride=1
        )
        rows, columns = part.shape[-2:]
        logits: Logits = self.out(x)[..., :rows, :columns]
        return logits
