"""What T-PatchMix does to images, masks and prompts, and how often (Semi-MedRef, Fig. 1)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from textmask.data.loaders import SplitData, build_text, open_split, to_image
from textmask.data.manifest import Manifest
from textmask.data.patch_mix import GateScope, Mixed, MixMode, PatchMix, patch_mix
from textmask.errors import ConfigError, DataError
from textmask.evaluation.records import Record
from textmask.evaluation.summary import write_typed
from textmask.io.images import write_png
from textmask.metrics.overlap import Bytes
from textmask.plots.overlays import contour, overlay, side_by_side
from textmask.runs.checkpoint import Run, load_run
from textmask.types import Image, Mask, Text

BATCH = 32  # samples that are mixed with each other, as in training
TRUTH = "true masks"  # a teacher that is always right


@dataclass(frozen=True)
class MixOptions:
    """What is mixed, measured and drawn.

    Attributes:
        split: name of the split.
        mode, block_px, share, p, gate, tau: see `PatchMix`.
        images: number of images to draw.
        count: number of images to measure, if as many have a mask.
        size: rows and columns of the images; with a run, those of its recipe.
        seed: random seed of the choice of images and of the mixing.
        run: run whose probabilities are the teacher's; None takes the true masks.
        cache_dir: folder of the decoded images.
        device: auto, cpu, cuda, cuda:N or mps.
    """

    split: str = "train"
    mode: MixMode = "position"
    block_px: int = 16
    share: float = 0.5
    p: float = 0.08
    gate: GateScope = "block"
    tau: float = 0.55
    images: int = 4
    count: int = 256
    size: int = 224
    seed: int = 0
    run: Path | None = None
    cache_dir: Path | None = None
    device: str = "auto"


class MixedPair(Record):
    """A drawn sample: its key and its partner's, and the prompt before and after mixing."""

    image: str
    partner: str
    prompt: str
    mixed_prompt: str


class MixSummary(Record):
    """What the JSON file of `draw_mix` holds.

    Attributes:
        n: images measured.
        teacher: whose probabilities gate the patches.
        mixed_samples, mixed_pixels: shares of the samples and of all pixels that come from a partner.
        changed_prompts: share of the samples whose prompt was rebuilt.
        drawn: the images of the figure; samples that were mixed come first.
    """

    version: int = 1
    data: str
    data_hash: str
    split: str
    n: int
    seed: int
    teacher: str
    mode: str
    block_px: int
    share: float
    p: float
    gate: str
    tau: float
    mixed_samples: float
    mixed_pixels: float
    changed_prompts: float
    drawn: tuple[MixedPair, ...]


def draw_mix(manifest: Manifest, out: Path, options: MixOptions | None = None) -> MixSummary:
    """Mix the images of a split as a student would see them; draw a few, and measure how much is mixed.

    Args:
        manifest: the manifest that holds the split.
        out: PNG to write; a JSON file of the same name holds the figures and the prompts.
        options: the rest.

    Returns:
        What the JSON file holds.

    Raises:
        ConfigError: a number below 1, or a share outside 0 to 1.
        DataError: fewer than two images have a mask.

    Source: Semi-MedRef, section 2.3 and Fig. 1.
    """
    options = options or MixOptions()
    if min(options.images, options.count, options.block_px) < 1:
        raise ConfigError(
            f"mix: got {options.images} images, count {options.count} and block {options.block_px}, expected at "
            "least 1 each."
        )
    for name, value in (("share", options.share), ("p", options.p), ("tau", options.tau)):
        if not 0 <= value <= 1:
            raise ConfigError(f"mix: {name} is {value}, expected 0 to 1.")

    run = None if options.run is None else load_run(options.run, options.device)
    size = (options.size, options.size) if run is None else run.recipe.image_size
    data = open_split(manifest, options.split, size, options.cache_dir)
    rows = np.random.default_rng([options.seed, 0x317]).permutation(np.flatnonzero(data.has_mask))
    chosen = data.take(rows[: options.count])
    if len(chosen) < 2:
        raise DataError(
            f"{len(chosen)} images of split {options.split} have a mask, expected at least 2 to mix."
        )

    # in batches, as a student meets them; a rest of one sample would have no partner
    batches = []
    for start in range(0, len(chosen) - 1, BATCH):
        part = chosen.take(np.arange(start, min(start + BATCH, len(chosen))))
        batches.append((part, _mix(part, run, options, start)))

    strips, drawn = _draw(batches, options.images)
    changed, samples, pixels = [], [], []
    for part, (_, mixed) in batches:
        for before, after in zip(part.prompts, mixed.text.prompts, strict=True):
            changed.append(before != after)
        samples.append(mixed.blocks.flatten(1).any(dim=1).float())
        pixels.append(mixed.mix_mask.flatten(1).float().mean(dim=1))

    summary = MixSummary(
        data=manifest.name,
        data_hash=manifest.hash(),
        split=options.split,
        n=len(changed),
        seed=options.seed,
        teacher=TRUTH if run is None else run.path.resolve().name,
        mode=options.mode,
        block_px=options.block_px,
        share=options.share,
        p=options.p,
        gate=options.gate,
        tau=options.tau,
        mixed_samples=float(torch.cat(samples).mean()),
        mixed_pixels=float(torch.cat(pixels).mean()),
        changed_prompts=float(np.mean(changed)),
        drawn=tuple(drawn),
    )
    write_png(out, np.vstack(strips))
    write_typed(out.with_suffix(".json"), summary)
    return summary


def _mix(part: SplitData, run: Run | None, options: MixOptions, start: int) -> tuple[Mask, Mixed]:
    """Probability of the teacher and the mixed batch."""
    image = to_image(np.asarray(part.images[:]))
    text = build_text(part.prompts, part.statements)
    truth = torch.from_numpy(np.array(part.masks[:]))[:, None].float()
    probability = truth if run is None else _predicted(run, image, text)

    settings = PatchMix(
        options.mode, options.block_px, options.share, options.tau, options.gate, options.p
    )
    generator = torch.Generator().manual_seed(options.seed + start)
    mixed = patch_mix(image.contiguous(), probability, text, part.prompts, settings, generator)
    return probability, mixed


def _predicted(run: Run, image: Image, text: Text) -> Mask:
    session = run.session()
    with session.running() as method:
        found = method(image.to(session.device), text.to(session.device)).logits
    return torch.sigmoid(found.float()).cpu()


def _draw(
    batches: list[tuple[SplitData, tuple[Mask, Mixed]]], images: int
) -> tuple[list[Bytes], list[MixedPair]]:
    """One row per image: the sample, its partner, the patches, and the mixed sample with its target."""
    places = []
    for b, (part, (_, mixed)) in enumerate(batches):
        taken = mixed.blocks.flatten(1).any(dim=1).tolist()
        places += [(not taken[i], b, i) for i in range(len(part))]

    strips, drawn = [], []
    for _, b, i in sorted(places)[:images]:
        part, (probability, mixed) = batches[b]
        j = int(mixed.partner[i])
        own, other = to_image(np.asarray(part.images[[i, j]])).permute(0, 2, 3, 1).numpy()
        result = mixed.image[i].permute(1, 2, 0).numpy()
        pictures = [(255 * values + 0.5).astype(np.uint8) for values in (own, other, result)]
        labels = [(probability[k, 0] > 0.5).numpy() for k in (i, j)]
        panels = [
            contour(pictures[0], labels[0]),
            contour(pictures[1], labels[1]),
            overlay(pictures[2], mixed.mix_mask[i, 0].numpy()),
            contour(pictures[2], mixed.target[i, 0].numpy()),
        ]
        after = mixed.text.prompts[i]
        captions = [part.prompts[i], f"partner: {part.prompts[j]}", "patches", f"mixed: {after}"]
        strips.append(side_by_side(panels, captions))
        drawn.append(
            MixedPair(
                image=part.keys[i],
                partner=part.keys[j],
                prompt=part.prompts[i],
                mixed_prompt=after,
            )
        )
    return strips, drawn
