"""DuSSS: stage `pretrain` learns which prompts fit which images, stage `segment` refines pseudo-labels with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

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
from textmask.nn.attention import Attention, position_codes
from textmask.nn.compact_unet import build_plain_unet
from textmask.nn.fields import UNetFields
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


# labelled images of a batch on which the pseudo-labels are compared with the truth
CHECKED = 4
# wordings per prompt, and prompts, from which the deviation of text embeddings is taken
VIEWS, VIEWED_PROMPTS = 4, 1000


class VisionLanguage(nn.Module):
    """The vision-language model of step 1: Gaussians of images and prompts, and a mask for a prompt.

    Patch tokens carry their place (`position_codes`), and [CLS] is read from them by attention, because the prompts are
    about places. The same tokens are contrasted with prompts, by way of [CLS], and decoded into masks.

    Without SSS an embedding is a point: there are no heads that estimate its distribution.
    """

    def __init__(self, recipe: DuSSSRecipe, text_width: int) -> None:
        super().__init__()
        width = recipe.width
        self.sss = recipe.sss
        self.encoder = build_image_encoder(recipe.image_encoder)
        channels = self.encoder.info.channels

        self.patch, self.whole = nn.Linear(channels[-2], width), nn.Linear(channels[-1], width)
        self.pool = Attention(width, recipe.heads)
        self.token, self.sentence = nn.Linear(text_width, width), nn.Linear(text_width, width)
        self.image_head = GaussianHead(width, recipe.heads)
        self.text_head = GaussianHead(width, recipe.heads)
        self.grounding = GroundingDecoder(width)
        self.log_tau = nn.Parameter(torch.tensor(recipe.tau).log())
        if not recipe.sss:  # they would be trained without ever getting a gradient
            del self.token, self.image_head, self.text_head

    @property
    def tau(self) -> Tensor:
        """Learned temperature, kept between 0.01 and 0.5."""
        return self.log_tau.exp().clamp(0.01, 0.5)

    def image(self, image: Image) -> tuple[Gaussian, Tensor]:
        """B 3 H W in [0, 1] -> its Gaussian, patch tokens B E h w."""
        patches, coarsest = self.patches(image)
        tokens = rearrange(patches, "b e h w -> b (h w) e")
        # [CLS] starts as the mean of the coarsest map, which knows no place, and reads the tokens
        start = self.whole(coarsest.mean(dim=(2, 3)))[:, None]
        cls = start + self.pool(start, tokens, tokens)
        if not self.sss:
            return _as_point(cls[:, 0]), patches
        return _as_gaussian(cls[:, 0], *self.image_head(torch.cat([cls, tokens], dim=1))), patches

    def patches(self, image: Image) -> tuple[Tensor, Tensor]:
        """B 3 H W in [0, 1] -> patch tokens with the code of their place, B E h w, and the coarsest map."""
        *_, found, coarsest = self.encoder(image)
        rows, columns = found.shape[-2:]
        tokens = self.patch(rearrange(found, "b c h w -> b (h w) c"))
        tokens = tokens + position_codes(tokens.shape[2], rows, columns, tokens.device)
        return rearrange(tokens, "b (h w) e -> b e h w", h=rows), coarsest

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
        patches, _ = self.patches(image)
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
        merge: `odds` multiplies the teacher's odds by those of the text over the mean of its map: a map that is the
            same everywhere says nothing and changes nothing. `logits` adds logits, so that the level of the map moves
            every decision. `probability` adds probabilities before the sigmoid, as the equation is printed, with
            results that are never below 0.5; `mean` is the mean probability.
    """
    a, b = torch.sigmoid(teacher), torch.sigmoid(text)
    if merge == "odds":
        prior = torch.logit(b.mean(dim=(2, 3), keepdim=True), eps=1e-6)
        return torch.sigmoid(teacher + text - prior)
    if merge == "logits":
        return torch.sigmoid(teacher + text)
    return torch.sigmoid(a + b) if merge == "probability" else (a + b) / 2


class PseudoLabels(NamedTuple):
    """Labels of B images, B 1 H W each: of the teacher, of the prompt (y_text; None if it is not used), and merged."""

    teacher: Mask
    text: Mask | None
    merged: Mask

    @property
    def second(self) -> Mask:
        """The label of Eq. 16."""
        return self.teacher if self.text is None else self.text


def hard_dice(label: Mask, truth: Mask) -> Tensor:
    """Mean over images of the Dice of a label at a threshold of 0.5; two empty masks agree."""
    a, b = (label > 0.5).flatten(1), (truth > 0.5).flatten(1)
    total = a.sum(1) + b.sum(1)
    return torch.where(total > 0, 2 * (a & b).sum(1) / total.clamp(min=1), 1.0).mean()


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
        self.net = build_plain_unet(
            UNetFields(
                unet=recipe.unet,
                widths=recipe.widths,
                stem_stride=recipe.stem_stride,
                norm=recipe.norm,
            )
        )
        self.teacher = Teacher(self.net, recipe.ema)
        self._monitors: dict[str, Tensor] = {}

    def prepare(self, prompts: Sequence[str]) -> None:
        """Also encode other wordings of the prompts, so that standardised embeddings have their deviation too.

        Directions in which only the wording differs hardly vary over the prompts themselves; divided by that little
        deviation, the second views of `pretrain` would be farther away than any other prompt.
        """
        seen = list(dict.fromkeys(prompts))
        if self.recipe.standardise_text:
            rng = np.random.default_rng(0)
            for prompt in seen[:VIEWED_PROMPTS]:
                seen += [meaning_kept(prompt, rng) for _ in range(VIEWS)]
        super().prepare(seen)

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
        """Of the last step.

        `pretrain`: quartiles of D_SSS and the temperature. `segment`: shares of foreground of the merged label and of
        y_text; and on a few labelled images the Dice of teacher, y_text and merged label with the truth.
        """
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

        labels = self._pseudo_labels(unlabelled)
        losses["merged"] = dice_bce(student, labels.merged, recipe.dice_weight)
        # without a map the teacher's label has the weight of both terms of Eq. 17
        losses["text"] = dice_bce(student, labels.second, recipe.dice_weight)
        self._monitors = {"merged_share": labels.merged.mean()}
        if labels.text is not None:
            self._monitors["text_share"] = labels.text.mean()
        self._monitors |= self._agreement(batch, batch.mask)
        return losses

    @torch.no_grad()
    def _pseudo_labels(self, batch: Batch) -> PseudoLabels:
        """Labels of the weak view, each image with its own prompt; the vision-language model is not trained."""
        teacher = self.teacher(standardise(batch.image))[0].float()
        taught = torch.sigmoid(teacher)
        if self.recipe.merge == "teacher":  # the vision-language model is not needed
            return PseudoLabels(taught, None, taught)

        # running statistics of the frozen model must not change
        self.vlm.eval()
        text = self.vlm.mask_logits(batch.image, self.text_encoder(batch.text)).float()
        return PseudoLabels(
            taught, torch.sigmoid(text), merged_label(teacher, text, self.recipe.merge)
        )

    def _agreement(self, batch: Batch, truth: Mask) -> dict[str, Tensor]:
        """Mean Dice with the truth, at a threshold of 0.5, of every kind of label on some labelled images."""
        text = Text(
            batch.text.prompts[:CHECKED],
            batch.text.zones[:CHECKED],
            statements=batch.text.statements[:CHECKED],
        )
        labels = self._pseudo_labels(Batch(batch.image[:CHECKED], text))
        found = {}
        for name, label in labels._asdict().items():
            if label is not None:
                found[f"{name}_dice"] = hard_dice(label, truth[:CHECKED])
        return found

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
