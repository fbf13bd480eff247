"""What the text-guided backbones have in common: the scales that they use and what they return."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from textmask.errors import ConfigError
from textmask.nn.attention import stretched
from textmask.nn.decoders import SubPixelHead
from textmask.nn.fields import HeadName
from textmask.nn.image_encoders import EncoderInfo
from textmask.nn.shuffle_head import ShuffleHead
from textmask.types import Logits, TextTokens, TokenMask

Feature = Float[Tensor, "b c h w"]


class Referred(NamedTuple):
    """What a text-guided backbone returns.

    Attributes:
        logits: B 1 H W.
        feature: the last decoded map.
        maps: the maps after fusion with the text, coarse to fine, each B C h w.
        texts: the text tokens at the same scales, each B L C or B L D.
        token_masks: True for their real tokens, each B L.
        attention: where the coarsest fused scale looks for the words, B 1 H W in [0, 1]; None in training.
    """

    logits: Logits
    feature: Feature
    maps: tuple[Feature, ...]
    texts: tuple[TextTokens, ...]
    token_masks: tuple[TokenMask, ...]
    attention: Feature | None = None


def attention_at(
    scores: Float[Tensor, "b n"], rows: int, padded: tuple[int, int], size: tuple[int, int]
) -> Feature:
    """Scores of places in reading order -> map of the image, stretched to [0, 1] per image.

    Args:
        scores: B N.
        rows: rows of the map.
        padded: rows and columns of the padded image that the map covers.
        size: rows and columns of the image.
    """
    places = stretched(rearrange(scores, "b (h w) -> b 1 h w", h=rows))
    whole = nn.functional.interpolate(places, padded, mode="bilinear", align_corners=False)
    return whole[..., : size[0], : size[1]]


def fused_scales(info: EncoderInfo, count: int) -> tuple[tuple[int, ...], int, int]:
    """The `count` coarsest scales of an encoder: their channels fine to coarse, the finest stride, the first index.

    Raises:
        ConfigError: the encoder has fewer, or its scales do not halve.
    """
    first = len(info.channels) - count
    if first < 0:
        raise ConfigError(
            f"{info.name} has {len(info.channels)} scales, {count} are wanted. Guide or fuse fewer."
        )
    strides = info.strides[first:]
    if any(b != 2 * a for a, b in pairwise(strides)):
        raise ConfigError(
            f"The strides of {info.name} are {strides}; expected each to be twice the one before."
        )
    return info.channels[first:], strides[0], first


def backbone_head(
    name: HeadName, in_channels: int, stride: int, channels: int
) -> SubPixelHead | ShuffleHead:
    """The head of a text-guided backbone, with `channels` channels at full size; see `ReleasedFields.head`."""
    if name == "released":
        return ShuffleHead(in_channels, stride, channels)
    return SubPixelHead(in_channels, stride, channels=channels)
