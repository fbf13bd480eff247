"""Image in, mask out, with a loss at every scale but the two coarsest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from textmask.methods.base import ImageOnlyMethod
from textmask.methods.nnunet_like.model import PlainUNet
from textmask.nn.image_encoders import padded_to, zscored
from textmask.types import Image, Logits, Mask

if TYPE_CHECKING:
    from textmask.methods.nnunet_like import NNUNetLikeRecipe


class NNUNetLike(ImageOnlyMethod):
    """nnU-Net's 2-D network with fixed settings; each image is normalized on its own."""

    def __init__(self, recipe: NNUNetLikeRecipe) -> None:
        super().__init__()
        self.net = PlainUNet(recipe.widths)
        heads = len(recipe.widths) - 2 if recipe.deep_supervision else 1
        # coarse to fine, as the maps
        self.heads = nn.ModuleList(nn.Conv2d(c, 1, 1) for c in recipe.widths[:heads][::-1])

    def image_features(self, image: Image) -> tuple[Tensor, ...]:
        """The maps that have a head, coarse to fine: the prompt is not read."""
        return tuple(self.net(zscored(image))[-len(self.heads) :])

    def logits(self, features: tuple[Tensor, ...], image: Image) -> Logits:
        """The head of the finest map, without the padding: B 1 H W."""
        rows, columns = image.shape[-2:]
        logits: Logits = self.heads[-1](features[-1])
        return logits[..., :rows, :columns]

    def supervised(
        self, features: tuple[Tensor, ...], image: Image, mask: Mask
    ) -> list[tuple[float, Logits, Mask]]:
        """The finest head has weight 1, each coarser one half of the one before, divided by their sum.

        Coarser heads are compared with the mask at their size (nearest neighbor).
        """
        mask = padded_to(mask, self.net.multiple)
        weights = [0.5**k for k in range(len(features))][::-1]
        found = []
        for weight, head, x in zip(weights, self.heads, features, strict=True):
            target = nn.functional.interpolate(mask, x.shape[-2:], mode="nearest")
            found.append((weight / sum(weights), head(x), target))
        return found
