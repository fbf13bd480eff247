"""Image encoders: feature pyramids that publish their channels and strides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from textmask.errors import ConfigError
from textmask.nn.batch_norm import BatchNorm2d
from textmask.nn.fields import NormName
from textmask.types import Image


@dataclass(frozen=True)
class EncoderInfo:
    """What a decoder must know about an encoder: `channels` and `strides` of its maps, fine to coarse."""

    name: str
    channels: tuple[int, ...]
    strides: tuple[int, ...]


def norm_layer(name: NormName, channels: int) -> nn.Module:
    """Batch norm, or group norm for small batches."""
    if name == "batch":
        return BatchNorm2d(channels)
    return nn.GroupNorm(max(g for g in (1, 2, 4, 8) if channels % g == 0), channels)


def standardise(image: Image) -> Image:
    """[0, 1] to about zero mean and unit variance with fixed constants, the same for every image."""
    return (image - 0.5) / 0.25


def zscored(image: Image) -> Image:
    """Each channel of each image to zero mean and unit variance; a constant channel becomes 0.

    Source: released code of GuideDecoder and MMI-UNet (intensity normalization of each image on its own).
    """
    mean = image.mean(dim=(2, 3), keepdim=True)
    std = image.std(dim=(2, 3), keepdim=True, correction=0)
    return (image - mean) / torch.where(std > 0, std, 1.0)


def padded_to(image: Tensor, multiple: int) -> Tensor:
    """Repeat the last row and column until both sizes are multiples, so that every stage halves evenly."""
    rows, columns = image.shape[-2:]
    padding = (0, -columns % multiple, 0, -rows % multiple)
    return nn.functional.pad(image, padding, mode="replicate") if any(padding) else image


class ImageEncoder(nn.Module):
    """An image encoder that can be run scale by scale, so that a method can insert its own block between two scales.

    Attributes:
        info: channels and strides.
        scaled_outside: whether the network normalizes images itself, so that `begin` must not do it again.
    """

    info: EncoderInfo
    scaled_outside = False

    def begin(self, image: Image) -> Tensor:
        """Normalization and stem: image B 3 H W in the encoder's own range -> what the first scale reads."""
        raise NotImplementedError(f"{type(self).__name__}.begin")

    def scale(self, i: int, x: Tensor) -> Tensor:
        """Map i, from the output of `begin` (i = 0) or from map i - 1."""
        raise NotImplementedError(f"{type(self).__name__}.scale")

    def forward(self, image: Image) -> list[Tensor]:
        """Image B 3 H W -> features fine to coarse, at ceil(H / stride) each."""
        x, features = self.begin(image), []
        for i in range(len(self.info.channels)):
            x = self.scale(i, x)
            features.append(x)
        return features


def convolved(
    in_channels: int, channels: int, kernel: int, dilation: int = 1, norm: NormName = "batch"
) -> nn.Sequential:
    """Convolution that keeps the size, norm, ReLU; `kernel` is odd."""
    padding = dilation * (kernel // 2)
    convolution = nn.Conv2d(
        in_channels, channels, kernel, padding=padding, dilation=dilation, bias=False
    )
    return nn.Sequential(convolution, norm_layer(norm, channels), nn.ReLU())


class ConvBlock(nn.Module):
    """Twice 3x3 convolution, norm, ReLU; with FiLM, the second norm's output is scaled and shifted by a condition.

    `between` is the number of channels between the two convolutions; None means the number of output channels.
    """

    def __init__(
        self, in_channels: int, channels: int, norm: NormName = "batch", between: int | None = None
    ) -> None:
        super().__init__()
        between = between or channels
        self.conv1 = nn.Conv2d(in_channels, between, 3, padding=1, bias=False)
        self.norm1 = norm_layer(norm, between)
        self.conv2 = nn.Conv2d(between, channels, 3, padding=1, bias=False)
        self.norm2 = norm_layer(norm, channels)

    def forward(
        self, x: Float[Tensor, "b i h w"], film: Float[Tensor, "b two_c"] | None = None
    ) -> Float[Tensor, "b c h w"]:
        """B I H W -> B C H W; `film` holds the C scales (minus 1), then the C shifts."""
        x = torch.relu(self.norm1(self.conv1(x)))
        x = self.norm2(self.conv2(x))
        if film is not None:
            scale, shift = film.to(x.dtype)[:, :, None, None].chunk(2, dim=1)
            x = torch.addcmul(shift, x, 1 + scale)
        return torch.relu(x)


class UNetEncoder(ImageEncoder):
    """Plain U-Net encoder of any width.

    Args:
        widths: channels per scale, fine to coarse.
        stem_stride: stride of the finest map: 1 as in the first U-Net; 2 or 4 put stride-2
            convolutions in front, which is several times faster on a CPU at nearly the same accuracy.
        in_channels: 3, or more if something is concatenated to the image.
        stem_extra: channels that are concatenated after the stem (for example a learned map).
    """

    def __init__(
        self,
        widths: Sequence[int] = (64, 128, 256, 512, 1024),
        stem_stride: int = 1,
        in_channels: int = 3,
        stem_extra: int = 0,
        norm: NormName = "batch",
    ) -> None:
        super().__init__()
        if stem_stride not in (1, 2, 4):
            raise ConfigError(f"stem_stride is {stem_stride}, expected 1, 2 or 4.")

        # one halving for stride 2, two for stride 4
        stem: list[nn.Module] = []
        channels = in_channels
        for _ in range(stem_stride // 2):
            stem += [nn.Conv2d(channels, widths[0], 3, stride=2, padding=1, bias=False)]
            stem += [norm_layer(norm, widths[0]), nn.ReLU()]
            channels = widths[0]
        self.stem = nn.Sequential(*stem)

        ins = [channels + stem_extra, *widths[:-1]]
        self.blocks = nn.ModuleList(ConvBlock(i, o, norm) for i, o in zip(ins, widths, strict=True))
        self.pool = nn.MaxPool2d(2, ceil_mode=True)
        self.info = EncoderInfo(
            "unet", tuple(widths), tuple(stem_stride * 2**i for i in range(len(widths)))
        )

    def begin(self, image: Image) -> Tensor:
        """The stem."""
        x: Tensor = self.stem(image)
        return x

    def scale(self, i: int, x: Tensor, film: Tensor | None = None) -> Tensor:
        """Pooling (but for the finest) and two convolutions; `film` conditions them (B 2C)."""
        out: Tensor = self.blocks[i](self.pool(x) if i else x, film)
        return out

    def forward(
        self,
        image: Image,
        films: Sequence[Tensor] | None = None,
        extra: Float[Tensor, "b e map_rows map_columns"] | None = None,
    ) -> list[Tensor]:
        """Image B C H W -> features fine to coarse, at ceil(H / stride) each.

        `films` conditions each block (B 2C); `extra` (B E h w, any size) is resized and concatenated after the stem.
        """
        x = self.begin(image)
        if extra is not None:
            extra = nn.functional.interpolate(
                extra.float(), x.shape[-2:], mode="bilinear", align_corners=False
            )
            x = torch.cat([x, extra.to(x.dtype)], 1)

        features = []
        for i in range(len(self.blocks)):
            x = self.scale(i, x, None if films is None else films[i])
            features.append(x)
        return features
