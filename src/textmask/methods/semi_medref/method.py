"""Semi-MedRef: burn-in on labelled images, then a student that agrees with its teacher under mixed input."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from textmask.data.patch_mix import Mixed, PatchMix, patch_mix
from textmask.errors import DataError
from textmask.losses.contrastive import (
    cosine_similarity_matrix,
    hard_target,
    jaccard_target,
    soft_contrastive,
)
from textmask.losses.segmentation import bce, soft_dice
from textmask.methods.base import Method
from textmask.methods.semi_medref.text_views import text_view
from textmask.nn.backbones import build_backbone
from textmask.nn.pretrained_text import build_text_encoder
from textmask.nn.referring import Referred
from textmask.nn.teacher import Teacher
from textmask.processes import gathered
from textmask.types import Batch, Embedding, Image, Output, Text

if TYPE_CHECKING:
    from textmask.methods.semi_medref import SemiMedRefRecipe
    from textmask.nn.text_cache import TextCache
    from textmask.nn.text_encoders import TextEncoder


class SemiMedRef(Method):
    """Teacher and student over GuideDecoder or MMI-UNet; `net` is the student."""

    text_encoder: TextEncoder | TextCache
    teacher: Teacher

    def __init__(self, recipe: SemiMedRefRecipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.text_encoder = build_text_encoder(
            recipe.text_encoder, standardise=recipe.standardise_text
        )
        self.net = build_backbone(recipe.backbone, self.text_encoder.width)

        # heads of the contrast, which prediction does not use
        width = recipe.align_width
        self.image_head = nn.Sequential(
            nn.Linear(self.net.widths[0][0], width), nn.LayerNorm(width)
        )
        self.text_head = nn.Sequential(
            nn.Linear(self.text_encoder.width, width), nn.LayerNorm(width)
        )
        self.teacher = Teacher(self.net, recipe.ema)
        self._monitors: dict[str, Tensor] = {}

    def after_step(self, stage: str, step: int) -> None:
        """Update the teacher: after the burn-in, which ends with a copy of the student."""
        self.teacher.follow(self.net, decay=0.0 if stage == "burn_in" else None)

    def forward(self, image: Image, text: Text) -> Output:
        """Image B 3 H W in [0, 1] and its prompts -> logits B 1 H W, of the student or of the teacher, as chosen."""
        return self.decode(self.image_features(image), image, text)

    def image_features(self, image: Image) -> tuple[Tensor, ...]:
        """Everything that the backbone computes from the image alone."""
        return self.answering(self.net).encode(image)

    def decode(self, features: tuple[Tensor, ...] | None, image: Image, text: Text) -> Output:
        """The maps of `image_features` and the text -> logits; None computes the maps."""
        maps = self.image_features(image) if features is None else features
        found = self.answering(self.net).decode(maps, image, self.text_encoder(text))
        return Output(found.logits, {"feature": found.feature})

    def losses(self, stage: str, batch: Batch) -> dict[str, Tensor]:
        """Stage `burn_in`: `dice`, `bce` (Eq. 2). Stage `semi`: also `cons` (Eq. 4), `itcl_l`, `itcl_u` (Eq. 9)."""
        if batch.mask is None:
            raise DataError(
                "semi_medref needs labelled images next to the unlabelled ones; this batch has no masks. "
                "Add masks to the manifest."
            )
        self._monitors = {}
        if stage == "burn_in":
            logits = self.net(batch.image, self.text_encoder(batch.text)).logits
            return {"dice": soft_dice(logits, batch.mask), "bce": bce(logits, batch.mask)}

        # one pass over both streams
        n, image, text = len(batch), batch.image, batch.text
        mixed = None if batch.unlabelled is None else self._strong(batch.unlabelled)
        if mixed is not None:
            image = torch.cat([image, mixed.image.to(image.dtype)])
            text = Text.joined(text, mixed.text)
        features = self.text_encoder(text)
        found = self.net(image, features)
        v, t = self._embeddings(found, features.text_embedding)

        losses = {
            "dice": soft_dice(found.logits[:n], batch.mask),
            "bce": bce(found.logits[:n], batch.mask),
            "itcl_l": self._contrast(v[:n], t[:n], batch.text),
        }
        if mixed is None or batch.unlabelled is None:  # every image is labelled
            losses["cons"], losses["itcl_u"] = losses["bce"] * 0, losses["itcl_l"] * 0
            return losses

        # an empty pseudo-mask of a prompt that names a place is not confident yet: it would teach "nothing there"
        names_place = batch.unlabelled.text.zones.bool().any(dim=1)
        taught = mixed.target.flatten(1).any(dim=1) | ~names_place
        self._monitors["taught"] = taught.float().mean()
        target = mixed.target.float()
        student = found.logits[n:]
        losses["cons"] = soft_dice(student, target, taught) + bce(student, target, taught)
        losses["itcl_u"] = self._contrast(v[n:], t[n:], mixed.text)
        return losses

    def monitors(self) -> dict[str, Tensor]:
        """Of the last step: shares of pseudo-mask pixels, mixed samples and pixels, new prompts, images in `cons`."""
        return self._monitors

    @torch.no_grad()
    def _strong(self, unlabelled: Batch) -> Mixed:
        """Teacher on the weak view and the original prompt (Eq. 3); the student's strong view, mixed (Eq. 6-8)."""
        recipe = self.recipe
        generator = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
        rng = np.random.default_rng(int(torch.randint(2**31, (), generator=generator)))

        found: Referred = self.teacher(unlabelled.image, self.text_encoder(unlabelled.text))
        probability = torch.sigmoid(found.logits.float())

        # the student reads other words than the teacher and sees a mixed image
        spoken = text_view(
            unlabelled.text,
            recipe.text_view,
            self.text_encoder.blank,
            recipe.posaug_p,
            recipe.posaug_mode,
            rng,
        )
        settings = PatchMix(
            recipe.mix, recipe.block_px, recipe.mix_share, recipe.tau, recipe.gate, recipe.mix_p
        )
        strong = unlabelled.views.get("strong_blur", unlabelled.image).clone()
        mixed = patch_mix(strong, probability, unlabelled.text, spoken.prompts, settings, generator)
        mixed = replace(mixed, text=mixed.text.to(strong.device))

        changed = sum(a != b for a, b in zip(spoken.prompts, unlabelled.text.prompts, strict=True))
        self._monitors = {
            "pseudo_share": mixed.target.float().mean(),
            "mixed_samples": mixed.blocks.flatten(1).any(dim=1).float().mean(),
            "mixed_pixels": mixed.mix_mask.float().mean(),
            "changed_sentences": torch.tensor(changed / len(unlabelled)),
        }
        return mixed

    def _embeddings(self, found: Referred, sentence: Embedding) -> tuple[Embedding, Embedding]:
        """Image and text vectors of ITCL: the mean of the coarsest fused map and the text embedding, each projected."""
        return self.image_head(found.maps[0].mean(dim=(2, 3))), self.text_head(sentence)

    def _contrast(self, image: Embedding, sentence: Embedding, text: Text) -> Tensor:
        """ITCL (Eq. 9) over the pairs of all processes: both directions, halved.

        The paper's baseline has CLIP's one-to-one targets.
        """
        similarity = cosine_similarity_matrix(gathered(image), gathered(sentence))
        itcl = self.recipe.contrast == "itcl"
        target = jaccard_target(gathered(text.zones)) if itcl else hard_target(similarity)
        return soft_contrastive(similarity, target, self.recipe.contrast_tau) / 2
