"""The base class of the semi-supervised baselines: all but the loss on unlabelled images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from textmask.errors import DataError
from textmask.losses.segmentation import bce, soft_dice
from textmask.methods.base import Method
from textmask.nn.backbones import build_backbone
from textmask.nn.compact_unet import ImageOnly
from textmask.nn.guide_decoder import GuideDecoder
from textmask.nn.maps_decoder import Enlarging, MapsDecoder
from textmask.nn.mmi_unet import MMIUNet
from textmask.nn.pretrained_text import build_text_encoder
from textmask.types import Batch, Image, Logits, Mask, Output, Text

if TYPE_CHECKING:
    from textmask.methods.presets import TwoStreamRecipe


class TwoStreams(Method):
    """A network that learns from labelled images in both stages, and from unlabelled ones in stage `semi`.

    A subclass implements `semi`; with further networks that learn from masks also `outputs`.

    Attributes:
        terms: names of the losses that `semi` adds.
        net: the network that predicts: text-guided, or an image-only U-Net.
    """

    terms: ClassVar[tuple[str, ...]] = ("cons",)

    def __init__(self, recipe: TwoStreamRecipe) -> None:
        super().__init__()
        self.recipe = recipe
        if recipe.network == "text_guided":
            self.text_encoder = build_text_encoder(recipe.text_encoder)
        self.net = self.new_network()

    def new_network(self) -> MMIUNet | GuideDecoder | ImageOnly:
        """Build a network as the recipe describes it, with weights of its own."""
        if self.text_encoder is None:
            return ImageOnly(self.recipe.unet)
        return build_backbone(self.recipe.backbone, self.text_encoder.width)

    def new_decoder(self, enlarging: Enlarging) -> MapsDecoder:
        """Build a further decoder over the fused maps of `net` (of an image-only network: over its encoder's maps)."""
        info = self.net.info if isinstance(self.net, ImageOnly) else self.net.encoder.info
        return MapsDecoder([c for c, _ in self.net.widths], info.strides[-1], enlarging)

    def features(self, text: Text) -> Any:
        """Features of the prompts for the network; None if it does not read them."""
        return None if self.text_encoder is None else self.text_encoder(text)

    def forward(self, image: Image, text: Text) -> Output:
        """Image B 3 H W in [0, 1] and its prompts -> logits B 1 H W, of the student or of the teacher, as chosen."""
        return self.decode(self.image_features(image), image, text)

    def image_features(self, image: Image) -> tuple[Tensor, ...]:
        """Everything that the network computes from the image alone."""
        return self.answering(self.net).encode(image)

    def decode(self, features: tuple[Tensor, ...] | None, image: Image, text: Text) -> Output:
        """The maps of `image_features` and the text -> logits; None computes the maps."""
        maps = self.image_features(image) if features is None else features
        found = self.answering(self.net).decode(maps, image, self.features(text))
        return Output(found.logits, {"feature": found.feature})

    def outputs(self, image: Image, text: Text) -> list[Logits]:
        """Logits B 1 H W of each network or decoder that learns from masks; the one that predicts is the first."""
        return [self.net(image, self.features(text)).logits]

    def losses(self, stage: str, batch: Batch) -> dict[str, Tensor]:
        """`dice` and `bce` on labelled images; stage `semi` also the `terms` on unlabelled ones."""
        if batch.mask is None:
            raise DataError(
                f"{self.recipe.method} needs labelled images next to the unlabelled ones; this batch has no masks. "
                "Add masks to the manifest."
            )
        if stage == "semi" and batch.unlabelled is not None:
            return self.semi(batch, batch.mask, batch.unlabelled)

        losses = supervised(self.outputs(batch.image, batch.text), batch.mask)
        if (
            stage == "semi"
        ):  # every image is labelled; all parameters take part, as several processes need it
            parameters = [p.sum() for p in self.parameters() if p.requires_grad]
            losses |= dict.fromkeys(self.terms, torch.stack(parameters).sum() * 0)
        return losses

    def semi(self, batch: Batch, mask: Mask, unlabelled: Batch) -> dict[str, Tensor]:
        """The losses of stage `semi`.

        Args:
            batch: the labelled images.
            mask: theirs, B 1 H W.
            unlabelled: the other images; `image` is the weak view.
        """
        raise NotImplementedError(f"{type(self).__name__}.semi")

    @torch.no_grad()
    def guess(self, batch: Batch) -> Mask:
        """Probability B 1 H W of the network itself on the weak views: without dropout, without gradient."""
        training = self.net.training
        self.net.eval()
        found = self.net(batch.image, self.features(batch.text)).logits
        self.net.train(training)
        return torch.sigmoid(found.float())


def strong(unlabelled: Batch, view: str = "strong_blur") -> Image:
    """A strong view of the unlabelled images, B 3 H W; the images themselves if the stage has no such view."""
    return unlabelled.views.get(view, unlabelled.image).to(unlabelled.image.dtype)


def joined_streams(batch: Batch, unlabelled: Batch) -> tuple[Image, Text]:
    """Labelled images and strong views of the unlabelled ones, and their prompts, for one pass over both streams."""
    image = torch.cat([batch.image, strong(unlabelled)])
    return image, Text.joined(batch.text, unlabelled.text)


def supervised(outputs: list[Logits], mask: Mask) -> dict[str, Tensor]:
    """`dice` and `bce` with the masks B 1 H W, each the sum over the outputs, B 1 H W."""
    dice = torch.stack([soft_dice(logits, mask) for logits in outputs]).sum()
    return {"dice": dice, "bce": torch.stack([bce(logits, mask) for logits in outputs]).sum()}
