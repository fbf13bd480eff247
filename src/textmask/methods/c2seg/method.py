"""C2Seg: stage `pretrain` aligns images with sentences (Eq. 1-3), stage `segment` fuses and segments (Eq. 4-13)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from textmask.errors import DataError
from textmask.losses.contrastive import (
    clip_contrast,
    cluster_target,
    convirt_contrast,
    cosine_similarity_matrix,
    gloria_contrast,
    hard_target,
    soft_contrastive,
    target_entropy,
)
from textmask.losses.segmentation import bce, soft_dice
from textmask.methods.base import Method
from textmask.methods.c2seg.model import BCAM, MLP, DualA, Fusion, ImageHead, Normed
from textmask.nn.attention import stretched
from textmask.nn.gradient_cache import in_chunks
from textmask.nn.image_encoders import standardise
from textmask.nn.kan import KANLinear
from textmask.nn.pretrained_text import build_text_encoder
from textmask.nn.ukan import Map, UKANDecoder, UKANEncoder, build_head
from textmask.processes import gathered, gathered_tokens
from textmask.types import Batch, Embedding, Image, Output, Text

if TYPE_CHECKING:
    from textmask.methods.c2seg import C2SegRecipe
    from textmask.nn.text_cache import TextCache
    from textmask.nn.text_encoders import TextEncoder


class C2Seg(Method):
    """Consistency-enhanced two-stage segmentation over a U-KAN."""

    text_encoder: TextEncoder | TextCache

    def __init__(self, recipe: C2SegRecipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.text_encoder = build_text_encoder(
            recipe.text_encoder, standardise=recipe.standardise_text
        )
        text_width = self.text_encoder.width
        kan = partial(KANLinear, grid=recipe.kan_grid, order=recipe.kan_order, span=recipe.kan_span)
        widths = recipe.widths

        kan_stages = {"conv": 0, "hybrid": 2, "kan": len(widths)}[recipe.encoder]
        self.encoder = UKANEncoder(
            widths, kan, kan_stages, recipe.kan_depth, recipe.stem_stride, recipe.norm
        )
        learned_tau = recipe.tau if recipe.contrast == "clip" else None
        self.image_head = ImageHead(widths[-1], text_width, learned_tau)  # W_v

        # maps of the fusion; the norm is in front of all of them or of none
        maps: dict[str, Map] = {"linear": nn.Linear, "mlp": MLP}
        if recipe.kan_norm:
            maps = {name: partial(Normed, make_map) for name, make_map in maps.items()}
        maps["kan"] = partial(kan, norm=recipe.kan_norm)

        # one fusion block per chosen scale; the other scales are plain skips
        self.fusion = nn.ModuleDict()
        for level in recipe.fuse_levels if recipe.fusion != "none" else ():
            channels = widths[level]
            attention: BCAM | DualA = DualA(channels)
            if recipe.fusion == "bcam":
                attention = BCAM(channels, maps[recipe.bcam_map], recipe.language_path_scale)
            gate = None if recipe.gate == "none" else maps[recipe.gate]
            self.fusion[str(level)] = Fusion(channels, text_width, attention, gate, recipe.residual)

        self.decoder = UKANDecoder(widths, kan, norm=recipe.norm)
        self.head = build_head(widths[0], recipe.stem_stride, recipe.norm)
        self._monitors: dict[str, Tensor] = {}

    def embed_image(self, image: Image) -> Embedding:
        """V = W_v GAP(V_4), of length 1: image B 3 H W -> B d_t."""
        deepest = self.encoder(standardise(image))[-1]
        return nn.functional.normalize(self.image_head(deepest.mean(dim=(2, 3))).float(), dim=1)

    def forward(self, image: Image, text: Text) -> Output:
        """Image B 3 H W in [0, 1] and its prompts -> logits B 1 H W.

        `aux["place_weight_l"]`, B 1 h w, is the weight of each place of scale l in the language path.
        `aux["attention"]` is that of the finest fused scale, stretched to [0, 1] per image.
        """
        return self.decode(self.image_features(image), image, text)

    def image_features(self, image: Image) -> tuple[Tensor, ...]:
        """The encoder's maps; the text is fused afterwards."""
        return tuple(self.encoder(standardise(image)))

    def decode(self, features: tuple[Tensor, ...] | None, image: Image, text: Text) -> Output:
        """The maps of `image_features` and the text -> as `forward`; None computes the maps."""
        # fused scales replace the maps of the encoder
        maps = list(self.image_features(image) if features is None else features)
        weights = {}
        if self.fusion:
            words = self.text_encoder(text)
            for level, fusion in self.fusion.items():
                feature, weight = fusion(maps[int(level)], words.text_tokens, words.token_mask)
                maps[int(level)], weights[f"place_weight_{level}"] = feature, weight

        if weights:
            weights["attention"] = stretched(weights[f"place_weight_{min(map(int, self.fusion))}"])
        feature = self.decoder(maps)
        return Output(self.head(feature, image), {"feature": feature, **weights})

    def losses(self, stage: str, batch: Batch) -> dict[str, Tensor]:
        """Stage `pretrain`: `contrast` (Eq. 2). Stage `segment`: `bce` and `dice` (Eq. 11-13)."""
        if stage == "pretrain":
            return {"contrast": self._contrast(batch)}
        self._monitors = {}
        if batch.mask is None:
            raise DataError(
                "c2seg segments from labelled rows only; this batch has no masks. Add masks to the manifest."
            )
        logits = self(batch.image, batch.text).logits
        return {"bce": bce(logits, batch.mask), "dice": soft_dice(logits, batch.mask)}

    def monitors(self) -> dict[str, Tensor]:
        """Entropy (nats) and diagonal mass of the targets of the last pretraining step."""
        return self._monitors

    def _contrast(self, batch: Batch) -> Tensor:
        """The loss of stage `pretrain` over the pairs of the batch in all processes."""
        recipe = self.recipe
        text = self.text_encoder(batch.text)
        sentence = gathered(text.text_embedding)
        if recipe.contrast == "gloria":
            places = gathered(in_chunks(self._places, self.encoder, batch.image, recipe.chunk))
            words = gathered_tokens(text.text_tokens, text.token_mask)
            return gloria_contrast(places, sentence, *words)

        v = gathered(in_chunks(self.embed_image, self.encoder, batch.image, recipe.chunk))
        similarity = cosine_similarity_matrix(v, sentence)
        if recipe.contrast == "convirt":
            return convirt_contrast(similarity)
        if recipe.contrast == "clip":
            self._monitors = {"tau": self.image_head.tau.detach()}
            return clip_contrast(similarity, self.image_head.tau)

        # the target depends on frozen embeddings only
        with torch.no_grad():
            text_similarity = cosine_similarity_matrix(sentence, sentence)  # M
            if recipe.contrast == "hard":
                target = hard_target(text_similarity, recipe.merge_equal_text)
            else:
                target = cluster_target(text_similarity, recipe.tau, recipe.rho)
            self._monitors = {
                "target_entropy": target_entropy(target),
                "target_diagonal": target.diagonal().mean(),
            }

        return soft_contrastive(similarity, target, recipe.tau)

    def _places(self, image: Image) -> Tensor:
        """W_v V_4 of each place, B P d_t; `embed_image` is the direction of their mean."""
        deepest = self.encoder(standardise(image))[-1]
        places: Tensor = self.image_head(deepest.flatten(2).transpose(1, 2))
        return places.float()
