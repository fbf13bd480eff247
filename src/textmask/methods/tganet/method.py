"""TGANet: what an image shows, one lesion or several and how large, is classified and weights label vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from textmask.errors import DataError
from textmask.losses.segmentation import bce, soft_dice
from textmask.methods.base import Method
from textmask.nn.decoders import SubPixelHead
from textmask.nn.image_encoders import ConvBlock, convolved, norm_layer, padded_to, standardise
from textmask.nn.pretrained_image import build_image_encoder
from textmask.nn.referring import Feature, fused_scales
from textmask.processes import counted_mean
from textmask.statement import Statement
from textmask.types import Batch, Image, Output, Text, send

if TYPE_CHECKING:
    from textmask.methods.tganet import TGANetRecipe

NUMBERS, SIZES = ("one", "multiple"), ("small", "medium", "large")


def stated_labels(statements: Sequence[Statement]) -> Int[Tensor, "b 2"]:
    """Number (0 one, 1 multiple) and size (0 small to 2 large) that each prompt names, -1 if it names none: B 2."""
    rows = []
    for statement in statements:
        number = min(statement.count, 2) - 1 if statement.count else -1
        size = SIZES.index(statement.size) if statement.size in SIZES else -1
        rows.append((number, size))
    return torch.tensor(rows, dtype=torch.long).reshape(-1, 2)


def cross_entropy_of_named(
    logits: Float[Tensor, "b k"], labels: Int[Tensor, " b"]
) -> Float[Tensor, ""]:
    """Mean cross-entropy over the images whose label is known (not -1), of all processes; 0 without any."""
    known = (labels >= 0).float()
    each = nn.functional.cross_entropy(logits.float(), labels.clamp(min=0), reduction="none")
    return counted_mean((each * known).sum(), known.sum())


class Attended(nn.Module):
    """Channel attention, then spatial attention, each a sigmoid of the mean and the maximum.

    Source: Woo et al., CBAM (2018), as TGANet uses it.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(channels // 8, 4)
        self.channels = nn.Sequential(
            nn.Conv2d(channels, inner, 1), nn.ReLU(), nn.Conv2d(inner, channels, 1)
        )
        self.places = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x: Feature) -> Feature:
        """B C H W -> B C H W."""
        mean, largest = x.mean(dim=(2, 3), keepdim=True), x.amax(dim=(2, 3), keepdim=True)
        x = x * torch.sigmoid(self.channels(mean) + self.channels(largest))
        places = torch.cat([x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)], dim=1)
        out: Tensor = x * torch.sigmoid(self.places(places))
        return out


class FEM(nn.Module):
    """Feature enhancement: four dilated convolutions, their mixture plus the input, channel and spatial attention.

    Args:
        in_channels: of the encoder's map.
        channels: of the result.
        rates: dilation of each convolution.
    """

    def __init__(self, in_channels: int, channels: int, rates: Sequence[int]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(convolved(in_channels, channels, 3, rate) for rate in rates)
        self.mix = nn.Conv2d(len(rates) * channels, channels, 1, bias=False)
        self.own = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.norm = norm_layer("batch", channels)
        self.attended = Attended(channels)

    def forward(self, x: Feature) -> Float[Tensor, "b _c h w"]:
        """B I H W -> B C H W."""
        several = torch.cat([branch(x) for branch in self.branches], dim=1)
        out: Tensor = self.attended(torch.relu(self.norm(self.mix(several) + self.own(x))))
        return out


class TGANet(Method):
    """Image encoder, classification of number and size, and a decoder whose channels the label vectors weight."""

    def __init__(self, recipe: TGANetRecipe) -> None:
        super().__init__()
        self.encoder = build_image_encoder(recipe.image_encoder)
        channels, stride, self.first = fused_scales(self.encoder.info, 4)
        width = recipe.width
        self.number = nn.Linear(channels[-1], len(NUMBERS))
        self.size = nn.Linear(channels[-1], len(SIZES))
        self.labels = nn.Parameter(torch.randn(len(NUMBERS) + len(SIZES), recipe.label_width))
        self.enhance = nn.ModuleList(FEM(c, width, recipe.rates) for c in channels)

        # one block and one label attention per decoder scale, coarse to fine
        self.blocks = nn.ModuleList(ConvBlock(2 * width, width) for _ in channels[1:])
        self.label_attention = nn.ModuleList(
            nn.Sequential(nn.Linear(2 * recipe.label_width, width), nn.Sigmoid())
            for _ in channels[1:]
        )
        self.aggregate = nn.Sequential(ConvBlock(width * len(self.blocks), width), Attended(width))
        self.head = SubPixelHead(width, stride)

    def forward(self, image: Image, text: Text) -> Output:
        """Image B 3 H W in [0, 1] -> logits B 1 H W; the prompt is read in training only.

        `aux["number"]`, B 2, and `aux["size"]`, B 3, are the logits of the classification.
        """
        return self.decode(self.image_features(image), image, text)

    def image_features(self, image: Image) -> tuple[Tensor, ...]:
        """The last decoded map and the logits of number and size: the prompt is not read."""
        maps = self.encoder(padded_to(image, self.encoder.info.strides[-1]))[self.first :]
        deepest = maps[-1].mean(dim=(2, 3))
        number, size = self.number(deepest), self.size(deepest)

        # each label counts as much as it is probable
        n = len(NUMBERS)
        of_number = number.softmax(dim=1).to(self.labels.dtype) @ self.labels[:n]
        of_size = size.softmax(dim=1).to(self.labels.dtype) @ self.labels[n:]
        label = torch.cat([of_number, of_size], dim=1)

        maps = [enhance(m) for enhance, m in zip(self.enhance, maps, strict=True)]
        x, decoded = maps[-1], []
        for i, skip in enumerate(maps[-2::-1]):
            x = self.blocks[i](torch.cat([_grown_to(x, skip), skip], dim=1))
            x = x * self.label_attention[i](label)[..., None, None]
            decoded.append(x)
        feature = self.aggregate(torch.cat([_grown_to(d, x) for d in decoded], dim=1))
        return feature, number, size

    def decode(self, features: tuple[Tensor, ...] | None, image: Image, text: Text) -> Output:
        """Run the head; None computes the features first."""
        feature, number, size = self.image_features(image) if features is None else features
        whole = standardise(padded_to(image, self.encoder.info.strides[-1]))
        logits = self.head(feature, whole)[..., : image.shape[2], : image.shape[3]]
        return Output(logits, {"feature": feature, "number": number, "size": size})

    def losses(self, stage: str, batch: Batch) -> dict[str, Tensor]:
        """`dice` and `bce` on the labelled batch; `number` and `size` where the prompts name them."""
        if batch.mask is None:
            raise DataError(
                "tganet trains on labelled rows only; this batch has no masks. Add masks to the manifest."
            )
        out = self(batch.image, batch.text)
        statements = batch.text.statements or (Statement(),) * len(batch)
        labels = send(stated_labels(statements), batch.image.device)
        return {
            "dice": soft_dice(out.logits, batch.mask),
            "bce": bce(out.logits, batch.mask),
            "number": cross_entropy_of_named(out.aux["number"], labels[:, 0]),
            "size": cross_entropy_of_named(out.aux["size"], labels[:, 1]),
        }


def _grown_to(x: Tensor, like: Tensor) -> Tensor:
    """A map at the size of another one."""
    return nn.functional.interpolate(x, like.shape[2:], mode="bilinear", align_corners=False)
