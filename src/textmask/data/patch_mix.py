"""T-PatchMix (Eq. 6-8): patches of one image in another, with one gated mask for image, target and prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from einops import reduce, repeat
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from textmask.data.loaders import build_text
from textmask.errors import ConfigError
from textmask.statement import Laterality, Side, Statement, Zone
from textmask.text.render import render
from textmask.text.zones import image_zones, zone_map
from textmask.types import Image, Mask, Text

MixMode = Literal["none", "position", "probability", "released", "naive"]
GateScope = Literal["sample", "block"]
STYLE_OF_GRAMMAR = {
    "qata": "qata",
    "mosmed": "mosmed",
    "report": "report",
    "polyp": "polyp",
    "nuclei": "nuclei",
    "lesion": "lesion",
}
Blocks = Bool[Tensor, "b rows columns"]
Span = tuple[float, float, float, float]  # top, bottom, left, right, as shares of the image


@dataclass(frozen=True)
class PatchMix:
    """How patches are drawn.

    Attributes:
        mode: `position`, blocks of the region that the sample's own prompt names, none if the sides of the two prompts
            conflict; `probability`, blocks in which the teacher is confident of the partner; `released`, with
            probability `p` a single block of the region; `naive` is CutMix, which checks nothing and does not change
            the prompt; `none` mixes nothing.
        block_px: side of a block in pixels.
        share: share of the allowed blocks that are taken; the paper does not give it.
        tau: lesion gate, and threshold of the mixed target.
        scope: whether the gate applies to all blocks of a sample together or to each block (Eq. 7 speaks of "the mixed
            patch").
        p: probability that a sample is mixed, of `released`.
    """

    mode: MixMode
    block_px: int
    share: float
    tau: float
    scope: GateScope
    p: float = 0.08


@dataclass(frozen=True)
class Mixed:
    """Images B 3 H W, targets B 1 H W and prompts after mixing; `blocks` is True for the blocks of the `partner`."""

    image: Image
    target: Bool[Tensor, "b 1 h w"]
    text: Text
    blocks: Blocks
    block_px: int
    partner: Int[Tensor, " b"]

    @property
    def mix_mask(self) -> Bool[Tensor, "b 1 h w"]:
        """True if a pixel is the partner's."""
        pixels = repeat(self.blocks, "b h w -> b 1 (h p) (w q)", p=self.block_px, q=self.block_px)
        rows, columns = self.target.shape[2:]
        return torch.nn.functional.pad(
            pixels, (0, columns - pixels.shape[3], 0, rows - pixels.shape[2])
        )


@lru_cache(maxsize=65536)
def region(statement: Statement) -> Span | None:
    """Bounding span of the named zones in the image; None if no place is named."""
    zones, table = image_zones(statement), zone_map(statement)
    if not zones:
        return None
    levels = [table.levels[level] for _, level in zones]
    sides = [table.sides[side] for side, _ in zones]
    vertical = min(band.low for band in levels), max(band.high for band in levels)
    return (*vertical, min(band.low for band in sides), max(band.high for band in sides))


def conflict(a: Statement, b: Statement) -> bool:
    """Whether one names only the left side of the image and the other only the right side."""
    sides = [{side for side, _ in image_zones(s)} - {Side.CENTER} for s in (a, b)]
    return bool(sides[0]) and bool(sides[1]) and not sides[0] & sides[1]


def draw_blocks(
    statements: Sequence[Statement],
    partner: Int[Tensor, " b"],
    confidence: Float[Tensor, "b rows columns"],
    settings: PatchMix,
    generator: torch.Generator,
) -> Blocks:
    """M of Eq. 6 by blocks, before the gate.

    Args:
        statements: statements of the B samples.
        partner: index of the sample from which each sample takes patches.
        confidence: mean teacher probability of the partner in each block.
        settings: how patches are drawn.
        generator: random generator of the draw.
    """
    n, rows, columns = confidence.shape
    taken = (torch.rand((n, rows, columns), generator=generator) < settings.share).to(
        confidence.device
    )
    if settings.mode == "naive":
        return taken
    if settings.mode == "probability":
        return taken & (confidence >= settings.tau)

    # the region that the sample's own prompt names, unless the sides conflict
    allowed = torch.zeros((n, rows, columns), dtype=torch.bool)
    for i, j in enumerate(partner.tolist()):
        span = region(statements[i])
        if span is not None and not conflict(statements[i], statements[j]):
            top, bottom, left, right = span
            down = slice(round(top * rows), round(bottom * rows))
            across = slice(round(left * columns), round(right * columns))
            allowed[i, down, across] = True
    if settings.mode == "position":
        return taken & allowed.to(taken.device)

    # released: one block of the region, in few samples
    score = torch.where(allowed, torch.rand(allowed.shape, generator=generator), -1.0).flatten(1)
    highest, place = score.max(dim=1)
    mixed = (highest >= 0) & (torch.rand(n, generator=generator) < settings.p)
    single = torch.zeros_like(allowed).flatten(1)
    single[torch.arange(n), place] = mixed
    return single.view_as(allowed).to(taken.device)


def gated(
    blocks: Blocks, confidence: Float[Tensor, "b rows columns"], settings: PatchMix
) -> Blocks:
    """The blocks that pass the lesion gate (Eq. 7): mean teacher probability of the partner inside them >= tau."""
    if settings.mode == "naive":
        return blocks
    if settings.scope == "block":
        return blocks & (confidence >= settings.tau)
    count = blocks.sum(dim=(1, 2))
    ratio = (confidence * blocks).sum(dim=(1, 2)) / count.clamp(min=1)
    return blocks & ((ratio >= settings.tau) & (count > 0))[:, None, None]


def patch_mix(
    image: Image,
    probability: Mask,
    text: Text,
    spoken: Sequence[str],
    settings: PatchMix,
    generator: torch.Generator,
) -> Mixed:
    """Mix each sample with another of the batch.

    The same gated blocks mix the image (Eq. 6), the teacher's probability (Eq. 8) and the prompt: a sample that fails
    the gate is unchanged in all three. Blocks that do not fit into the image are never mixed.

    Args:
        image: B 3 H W, the student's strong view; changed in place.
        probability: B 1 H W, the teacher's.
        text: original prompts and statements of the B images.
        spoken: the B prompts that the student would read without mixing.
        settings: how patches are drawn.
        generator: random generator for partners and blocks.
    """
    n, p = len(image), settings.block_px
    target = probability >= settings.tau
    rows, columns = image.shape[2] // p, image.shape[3] // p
    blocks = torch.zeros((n, rows, columns), dtype=torch.bool, device=image.device)
    if settings.mode == "none" or n < 2 or not blocks.numel():
        same = build_text(spoken, text.statements)
        return Mixed(image, target, same, blocks, p, torch.arange(n))

    # every sample takes patches from another one
    shift = int(torch.randint(1, n, (), generator=generator))
    partner = (torch.arange(n) + shift) % n
    confidence = _block_means(probability, p)[partner]
    drawn = draw_blocks(text.statements, partner, confidence, settings, generator)
    blocks = gated(drawn, confidence, settings)
    hard = _in_blocks(target, p)
    _paste(hard, blocks, partner)

    # a sample whose union cannot be put into words is left as it was
    sentences, statements = list(spoken), list(text.statements)
    if settings.mode != "naive":
        for i in torch.nonzero(blocks.flatten(1).any(dim=1))[:, 0].tolist():
            lesion = hard[i].flatten(2).any(dim=2).cpu().numpy()
            found = union(text.statements[i], text.statements[int(partner[i])], lesion)
            if found is None:
                blocks[i] = False
                target[i] = probability[i] >= settings.tau
            else:
                statements[i], sentences[i] = found

    _paste(_in_blocks(image, p), blocks, partner)
    return Mixed(image, target, build_text(sentences, statements), blocks, p, partner)


def _in_blocks(image: Shaped[Tensor, "b c h w"], p: int) -> Shaped[Tensor, "b rows columns c p p"]:
    """The whole blocks of an image, as a view: writing into it changes the image."""
    rows, columns = image.shape[2] // p, image.shape[3] // p
    part = image[..., : rows * p, : columns * p]
    b, c, h, w = part.stride()
    size = (image.shape[0], rows, columns, image.shape[1], p, p)
    return part.as_strided(size, (b, p * h, p * w, c, h, w))


def _block_means(probability: Mask, p: int) -> Float[Tensor, "b rows columns"]:
    """Mean of each whole block: rows first, then columns, which is four times as fast on a CPU as average pooling."""
    rows, columns = probability.shape[2] // p, probability.shape[3] // p
    bands = reduce(probability[:, 0, : rows * p].float(), "b (rows p) w -> b rows w", "sum", p=p)
    means: Tensor = (
        reduce(bands[..., : columns * p], "b rows (columns p) -> b rows columns", "sum", p=p) / p**2
    )
    return means


def _paste(
    view: Shaped[Tensor, "b rows columns c p p"], blocks: Blocks, partner: Int[Tensor, " b"]
) -> None:
    """Overwrite the chosen blocks with the partner's original blocks."""
    i, row, column = torch.nonzero(blocks, as_tuple=True)
    view[i, row, column] = view[partner.to(i.device)[i], row, column]


def union(
    a: Statement, b: Statement, lesion: npt.NDArray[np.bool_]
) -> tuple[Statement, str] | None:
    """Union of two statements, without the zones in which the mixed target is empty, and its sentence.

    `lesion` (rows, columns) is True for blocks with a pixel of the mixed target, which is also the precision of the
    zones. None if the two use different laterality conventions, or if the grammar has no sentence for the union.
    """
    if a.laterality is not b.laterality:
        return None
    zones = frozenset(zone for zone in a.zones | b.zones if _holds(lesion, zone, a))
    style = STYLE_OF_GRAMMAR.get(a.grammar or b.grammar)
    if style is None:
        return None

    # only these two grammars say unilateral or bilateral
    lateral = None
    if style in ("qata", "mosmed"):
        lateral = "bilateral" if len({side for side, _ in zones}) == 2 else "unilateral"
    claim = replace(
        a,
        zones=zones,
        count=None,
        lateral=lateral,
        absent=not zones,
        negated=frozenset(),
        warnings=(),
    )
    try:
        return claim, said(claim, style)
    except ConfigError:
        return None


@lru_cache(maxsize=65536)
def said(statement: Statement, style: str) -> str:
    """`render` with a cache."""
    return render(statement, style)


def _holds(lesion: npt.NDArray[np.bool_], zone: Zone, statement: Statement) -> bool:
    """Whether a block of the target lies in a zone of the statement."""
    rows, columns = lesion.shape
    table = zone_map(statement)
    side = zone[0].mirrored if statement.laterality is Laterality.PATIENT else zone[0]
    vertical, horizontal = table.levels[zone[1]], table.sides[side]
    down = slice(round(vertical.low * rows), max(round(vertical.high * rows), 1))
    across = slice(round(horizontal.low * columns), max(round(horizontal.high * columns), 1))
    return bool(lesion[down, across].any())
