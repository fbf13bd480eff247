"""DuSSS: stage `pretrain` learns which prompts fit which images, stage `segment` refines pseudo-labels with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from textmask.data.loaders import build_text
from textmask.errors import DataError
from textmask.losses.contrastive import (
    Pairs,
    cosine_similarity_matrix,
    hard_target,
    info_nce,
    soft_contrastive,
)
from textmask.losses.segmentation import dice_bce
from textmask.methods.base import Method
from textmask.methods.dusss.similarity import (
    Gaussian,
    GaussianHead,
    GroundingDecoder,
    pooled_region,
    uncertain_similarity,
)
from textmask.nn.decoders import UNet
from textmask.nn.image_encoders import standardise
from textmask.nn.pretrained_image import build_image_encoder
from textmask.nn.pretrained_text import build_text_encoder
from textmask.nn.teacher import Teacher
from textmask.processes import gathered
from textmask.text.edit import meaning_kept
from textmask.types import Batch, Embedding, Image, Logits, Mask, Output, Text, TextFeatures

if TYPE_CHECKING:
    from textmask.methods.dusss import DuSSSRecipe
    from textmask.nn.text_cache import TextCache
    from textmask.nn.text_encoders import TextEncoder


class VisionLanguage(nn.Module):
    """The vision-language model of step 1: Gaussians of images and prompts, and a mask for a prompt.

    Without SSS an embedding is a point: there are no heads that estimate its distribution.
    """

    def __init__(self, recipe: DuSSSRecipe, text_width: int) -> None:
        super().__init__()
        width = recipe.width
        self.sss = recipe.sss
        self.encoder = build_image_encoder(recipe.image_encoder)
        channels = self.encoder.info.channels

        self.patch, self.whole = nn.Linear(channels[-2], width), nn.Linear(channels[-1], width)
        self.token, self.sentence = nn.Linear(text_width, width), nn.Linear(text_width, width)
        self.image_head = GaussianHead(width, recipe.heads)
        self.text_head = GaussianHead(width, recipe.heads)
        self.grounding = GroundingDecoder(channels[-2], width)
        self.log_tau = nn.Parameter(torch.tensor(recipe.tau).log())
        if not recipe.sss:  # they would be trained without ever getting a gradient
            del self.patch, self.token, self.image_head, self.text_head

    @property
    def tau(self) -> Tensor:
        """Learned temperature, kept between 0.01 and 0.5."""
        return self.log_tau.exp().clamp(0.01, 0.5)

    def image(self, image: Image) -> tuple[Gaussian, Tensor]:
        """B 3 H W in [0, 1] -> its Gaussian, patch features B C h w; [CLS] is the mean of the coarsest map."""
        *_, patches, coarsest = self.encoder(image)
        whole = self.whole(coarsest.mean(dim=(2, 3)))
        if not self.sss:
            return _as_point(whole), patches

        tokens = torch.cat(
            [whole[:, None], self.patch(rearrange(patches, "b c h w -> b (h w) c"))], dim=1
        )
        return _as_gaussian(whole, *self.image_head(tokens)), patches

    def text(self, features: TextFeatures) -> Gaussian:
        """Features of the frozen encoder -> the Gaussian of a prompt; [CLS] is its text embedding."""
        whole = self.sentence(features.text_embedding)
        if not self.sss:
            return _as_point(whole)

        tokens = torch.cat([whole[:, None], self.token(features.text_tokens)], dim=1)
        mask = torch.cat([features.token_mask.new_ones(len(whole), 1), features.token_mask], dim=1)
        return _as_gaussian(whole, *self.text_head(tokens, mask))

    def mask_logits(self, image: Image, features: TextFeatures) -> Logits:
        """Logits of y_text (Eq. 10), B 1 H W: each image with its own prompt."""
        *_, patches, _ = self.encoder(image)
        _, logits = self.grounding(patches, self.sentence(features.text_embedding))
        return nn.functional.interpolate(
            logits, image.shape[-2:], mode="bilinear", align_corners=False
        )


def _as_gaussian(embedding: Embedding, mean: Embedding, log_variance: Embedding) -> Gaussian:
    return Gaussian(
        embedding.float(), mean.float(), torch.exp(0.5 * log_variance.float().clamp(-10, 10))
    )


def _as_point(embedding: Embedding) -> Gaussian:
    point = embedding.float()
    return Gaussian(point, point, torch.zeros_like(point))


def merged_label(teacher: Logits, text: Logits, merge: str) -> Mask:
    """The merged pseudo-label of Eq. 15.

    Args:
        teacher: logits of y_u^t.
        text: logits of y_u^text.
        merge: `logits` adds logits before the sigmoid, a product of odds; `probability` adds probabilities before it,
            as the equation is printed, with results that are never below 0.5; `mean` is the mean probability.
    """
    if merge == "logits":
        return torch.sigmoid(teacher + text)
    a, b = torch.sigmoid(teacher), torch.sigmoid(text)
    return torch.sigmoid(a + b) if merge == "probability" else (a + b) / 2


class DuSSS(Method):
    """Uncertainty-supervised vision-language model and a teacher-student U-Net."""

    text_encoder: TextEncoder | TextCache
    teacher: Teacher

    def __init__(self, recipe: DuSSSRecipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.text_encoder = build_text_encoder(
            recipe.text_encoder, standardise=recipe.standardise_text
        )
        self.vlm = VisionLanguage(recipe, self.text_encoder.width)
        self.net = UNet(recipe.widths, recipe.stem_stride, norm=recipe.norm)
        self.teacher = Teacher(self.net, recipe.ema)
        self._monitors: dict[str, Tensor] = {}

    def after_step(self, stage: str, step: int) -> None:
        """Update the teacher (Eq. 12)."""
        if stage == "segment":
            self.teacher.follow(self.net)

    def forward(self, image: Image, text: Text) -> Output:
        """Image B 3 H W in [0, 1] -> logits B 1 H W (Eq. 13). The prompt guides training only.

        `aux["attention"]`, B 1 H W: y_text of the vision-language model, for inspection.
        """
        logits, feature = self.answering(self.net)(standardise(image))
        found = self.vlm.mask_logits(image, self.text_encoder(text))
        return Output(logits, {"feature": feature, "attention": torch.sigmoid(found.float())})

    def losses(self, stage: str, batch: Batch) -> dict[str, Tensor]:
        """Stage `pretrain`: `cmc` (Eq. 8), `imc` (9), `tg` (11); `segment`: `sup` (14), `merged` (15), `text` (16)."""
        self._monitors = {}
        return self._pretrain(batch) if stage == "pretrain" else self._segment(batch)

    def monitors(self) -> dict[str, Tensor]:
        """Of the last step: quartiles of D_SSS and the temperature, or the share of the pseudo-labels' foreground."""
        return self._monitors

    def _pretrain(self, batch: Batch) -> dict[str, Tensor]:
        """Both streams are pairs of an image and a prompt; masks are not read."""
        image, text = batch.image, batch.text
        strong = batch.views.get("strong", image)
        if batch.unlabelled is not None:
            other = batch.unlabelled
            image, text = torch.cat([image, other.image]), Text.joined(text, other.text)
            strong = torch.cat([strong, other.views.get("strong", other.image)])

        # the second view of a prompt says the same in other words
        rng = np.random.default_rng(int(torch.randint(2**31, ())))
        second = build_text([meaning_kept(prompt, rng) for prompt in text.prompts], text.statements)
        second = second.to(image.device)
        features = self.text_encoder(text)

        i1, patches = self.vlm.image(image)
        i2, _ = self.vlm.image(strong)
        t1, t2 = self.vlm.text(features), self.vlm.text(self.text_encoder(second))
        pixels, logits = self.vlm.grounding(patches, t1.embedding)
        region = gathered(pooled_region(pixels, logits))

        # every image is compared with the prompts of all processes
        i1, i2, t1, t2 = (Gaussian(*map(gathered, found)) for found in (i1, i2, t1, t2))
        tau = self.vlm.tau
        target = self._target(gathered(features.text_embedding))

        # across modalities, and the regions that the text grounds
        cross, d_sss = self._similarity(i1, t1)
        self._monitors = {"tau": tau.detach()}
        if d_sss is not None:
            for q in (25, 50, 75):
                self._monitors[f"d_sss_{q}"] = torch.quantile(d_sss.detach(), q / 100)

        # within each modality: two views of an image, two wordings of a prompt
        identity = torch.eye(len(target), device=image.device)
        within = info_nce(self._similarity(i1, i2)[0], identity, tau)
        within = within + info_nce(self._similarity(t1, t2)[0], target, tau)
        return {
            "cmc": soft_contrastive(cross, target, tau) / 2,
            "imc": within / 2,
            "tg": soft_contrastive(cosine_similarity_matrix(region, t1.embedding), target, tau) / 2,
        }

    def _segment(self, batch: Batch) -> dict[str, Tensor]:
        if batch.mask is None:
            raise DataError(
                "dusss needs labelled images next to the unlabelled ones; this batch has no masks. "
                "Add masks to the manifest."
            )

        # one pass over both streams
        recipe, unlabelled = self.recipe, batch.unlabelled
        image = batch.image
        if unlabelled is not None:
            image = torch.cat(
                [image, unlabelled.views.get("strong", unlabelled.image).to(image.dtype)]
            )
        logits, _ = self.net(standardise(image))
        own, student = logits[: len(batch)], logits[len(batch) :]

        losses = {"sup": dice_bce(own, batch.mask, recipe.dice_weight)}
        losses["merged"] = losses["text"] = losses["sup"] * 0
        if unlabelled is None:  # every image is labelled
            return losses

        merged, y_text = self._pseudo_labels(unlabelled)
        losses["merged"] = dice_bce(student, merged, recipe.dice_weight)
        self._monitors = {"merged_share": merged.mean()}
        if y_text is not None:
            self._monitors["text_share"] = y_text.mean()
            losses["text"] = dice_bce(student, y_text, recipe.dice_weight)
        return losses

    @torch.no_grad()
    def _pseudo_labels(self, unlabelled: Batch) -> tuple[Mask, Mask | None]:
        """The merged label and y_text of the weak view, each image with its own prompt; the VLM is not trained."""
        teacher = self.teacher(standardise(unlabelled.image))[0].float()
        if self.recipe.merge == "teacher":  # the vision-language model is not needed
            return torch.sigmoid(teacher), None

        # running statistics of the frozen model must not change
        self.vlm.eval()
        text = self.vlm.mask_logits(unlabelled.image, self.text_encoder(unlabelled.text)).float()
        return merged_label(teacher, text, self.recipe.merge), torch.sigmoid(text)

    def _similarity(self, a: Gaussian, b: Gaussian) -> tuple[Pairs, Pairs | None]:
        """Eq. 5 and D_SSS; without SSS the cosine and None."""
        recipe = self.recipe
        if not recipe.sss:
            return cosine_similarity_matrix(a.embedding, b.embedding), None
        return uncertain_similarity(a, b, self.vlm.tau, recipe.constants, recipe.lam)

    def _target(self, sentence: Embedding) -> Pairs:
        """One-to-one, or with the mass shared by equal prompts."""
        return hard_target(
            cosine_similarity_matrix(sentence, sentence), self.recipe.merge_equal_text
        )
