"""Synthetic chest radiographs with exactly known lesions, sides, levels and prompts, for the demo and the tests.

Most images also show opacities that the prompt does not name. They look like lesions but do not belong to the mask, so
that only the prompt says which ones are meant.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from textmask.data.anatomy import draw_anatomy, smooth_noise
from textmask.data.manifest import SPLIT, Manifest, Row, split_name, write_manifest
from textmask.errors import ConfigError, DataError
from textmask.io.images import write_png
from textmask.statement import LUNG_ZONES, Laterality, Level, Side, Statement, Zone
from textmask.text.render import render

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

# Rows of each level, as shares of H. The bands measured on QaTa overlap (upper 0-0.45, middle 0.35-0.68, lower
# 0.42-0.80); these are inside them and do not overlap, so that every lesion has exactly one level.
CHEST_BANDS: dict[Level, tuple[float, float]] = {
    Level.UPPER: (0.0, 0.36),
    Level.MIDDLE: (0.36, 0.58),
    Level.LOWER: (0.58, 0.80),
}
# Where a lesion may be, as shares of H and W (top, bottom, left, right): inside its band, half of the image and lung.
ZONE_BOXES: dict[Zone, tuple[float, float, float, float]] = {
    (Side.LEFT, Level.UPPER): (0.17, 0.355, 0.20, 0.41),
    (Side.LEFT, Level.MIDDLE): (0.365, 0.575, 0.14, 0.42),
    (Side.LEFT, Level.LOWER): (0.585, 0.78, 0.12, 0.42),
    (Side.RIGHT, Level.UPPER): (0.17, 0.355, 0.59, 0.80),
    (Side.RIGHT, Level.MIDDLE): (0.365, 0.575, 0.60, 0.86),
    (Side.RIGHT, Level.LOWER): (0.585, 0.78, 0.66, 0.88),
}
MAX_COUNT = 9  # the largest number that the published prompts write as a word
ONE_OR_ALL = ("mosmed",)  # styles that name one level, or all, per side
DEFAULT_STYLES = ("qata_original", "report")


@dataclass(frozen=True)
class PhantomConfig:
    """What kind of images to draw.

    Attributes:
        size: rows and columns.
        difficulty: 0 to 1; more noise, fainter lesions and more images with opacities that the prompt does not name.
        laterality: convention of the prompts, `IMAGE` (as in QaTa) or `PATIENT`.
        styles: prompt styles of `textmask.text.render.render`, one drawn per image.
        p_absent: share of images without a lesion.
        distractor_share: share of images with unnamed opacities; None derives it from `difficulty`.

    Raises:
        ConfigError: a value is out of range.
    """

    size: tuple[int, int] = (224, 224)
    difficulty: float = 0.5
    laterality: Laterality = Laterality.IMAGE
    styles: tuple[str, ...] = DEFAULT_STYLES
    p_absent: float = 0.0
    distractor_share: float | None = None

    def __post_init__(self) -> None:
        if len(self.size) != 2 or min(self.size) < 32:
            raise ConfigError(
                f"PhantomConfig: got size {self.size}, expected rows and columns of at least 32."
            )

        shares = {
            "difficulty": self.difficulty,
            "p_absent": self.p_absent,
            "distractor_share": self.distractor_share,
        }
        for name, value in shares.items():
            if value is not None and not 0 <= value <= 1:
                raise ConfigError(f"PhantomConfig: got {name} {value}, expected 0 to 1.")

        if self.laterality is Laterality.UNKNOWN:
            raise ConfigError("PhantomConfig: laterality is unknown; choose image or patient.")
        if not self.styles:
            raise ConfigError("PhantomConfig: got no prompt style, expected at least one.")

    @property
    def p_distractor(self) -> float:
        """Probability that an image shows an unnamed opacity."""
        return (
            0.2 + 0.8 * self.difficulty if self.distractor_share is None else self.distractor_share
        )

    @property
    def contrast(self) -> float:
        """Brightness that a lesion adds, on a scale of 0 to 1."""
        return 0.34 - 0.22 * self.difficulty

    @property
    def noise(self) -> float:
        """Standard deviation of the pixel noise, on a scale of 0 to 1."""
        return 0.008 + 0.04 * self.difficulty


@dataclass(frozen=True)
class Lesion:
    """One opacity.

    Attributes:
        zone: side and level; the side follows the laterality convention of the image.
        center_px: row and column.
        outline_px: K x 2 (column, row) corners of its outline.
    """

    zone: Zone
    center_px: tuple[float, float]
    outline_px: tuple[tuple[float, float], ...]


@dataclass(frozen=True, eq=False)
class Phantom:
    """One image with its ground truth.

    Attributes:
        image: H W.
        mask: H W, 0 or 1; the lesions that the statement names.
        statement: what `text` says, with the exact number of lesions.
        text: the prompt.
        lesions: the lesions of the mask, one connected component each.
        distractors: similar opacities that the prompt does not name.
    """

    image: Bytes
    mask: Bytes
    statement: Statement
    text: str
    lesions: tuple[Lesion, ...]
    distractors: tuple[Lesion, ...] = ()


def make_phantom(
    config: PhantomConfig | None = None, seed: int = 0, patient: int | None = None
) -> Phantom:
    """Draw one image; the same arguments give the same image.

    Args:
        config: what kind of image; None means the defaults.
        seed: of everything that differs between images.
        patient: seed of bones and organs; None means `seed`.
    """
    config = config or PhantomConfig()
    rng = np.random.default_rng([seed, 1])
    style = str(rng.choice(config.styles))
    # the zones of the prompt, then zones that it does not name
    named = _draw_zones(rng, style) if rng.random() >= config.p_absent else frozenset()
    others = _draw_distractors(rng, named) if rng.random() < config.p_distractor else frozenset()
    lesions = _draw_lesions(rng, named, config.size)
    distractors = _draw_lesions(rng, others, config.size)

    # drawn opacities look alike, named or not
    opacity = np.zeros(config.size, np.float32)
    for lesion in (*lesions, *distractors):
        _fill(opacity, lesion, float(rng.uniform(0.8, 1.2)))
    anatomy = draw_anatomy(
        config.size, np.random.default_rng([seed if patient is None else patient, 2])
    )

    # only the named lesions belong to the mask
    mask = np.zeros(config.size, np.uint8)
    for lesion in lesions:
        _fill(mask, lesion, 1)

    # from here on sides are named as in the prompt
    lesions = _as_named(lesions, config.laterality)
    distractors = _as_named(distractors, config.laterality)
    statement = _true_statement(lesions, config.laterality)
    image = _expose(anatomy, opacity, config, rng)
    return Phantom(image, mask, statement, render(statement, style), lesions, distractors)


def write_phantoms(
    root: Path, n: dict[str, int], config: PhantomConfig | None = None, seed: int = 0
) -> Path:
    """Write images, masks and a manifest below `root`.

    Patients have one to three images; no patient is in two splits. An image depends only on its split, its number and
    `seed`.

    Args:
        root: folder, created if missing; files of the same name are replaced.
        n: number of images per split, e.g. {"train": 800, "valid": 100, "test": 100}.
        config: what kind of images.
        seed: of the whole data set.

    Returns:
        Path of the manifest, `root/manifest.csv`.

    Raises:
        ConfigError: no images are requested, a number or the seed is negative, or a split name is impossible.
        DataError: the folder cannot be written.
    """
    _check_request(n, seed)
    config = config or PhantomConfig()
    try:
        for folder in ("images", "masks"):
            (root / folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"{root}: the folder cannot be created ({error.strerror}). Choose a folder that you may write to."
        ) from error

    rows = []
    for split, count in n.items():
        for number, (patient, image) in enumerate(_patients(count, _seed(seed, split, 0))):
            phantom = make_phantom(
                config, _seed(seed, split, 1, number), _seed(seed, split, 2, patient)
            )
            name = f"{split}-{patient:04d}-{image}.png"
            write_png(root / "images" / name, phantom.image)
            write_png(root / "masks" / name, phantom.mask * np.uint8(255))
            row = Row(
                image=f"images/{name}",
                mask=f"masks/{name}",
                text=phantom.text,
                split=split,
                group=f"{split}-{patient:04d}",
                laterality=config.laterality,
            )
            rows.append(row)

    path = root / "manifest.csv"
    write_manifest(Manifest(root, tuple(rows)), path)
    return path


def _draw_zones(rng: np.random.Generator, style: str) -> frozenset[Zone]:
    """Draw the affected zones, with sides of the image."""
    sides = (
        [Side.LEFT, Side.RIGHT]
        if rng.random() < 0.4
        else [(Side.LEFT, Side.RIGHT)[rng.integers(2)]]
    )
    shares = (0.75, 0.0, 0.25) if style in ONE_OR_ALL else (0.55, 0.3, 0.15)

    zones: set[Zone] = set()
    for side in sides:
        chosen = rng.permutation(3)[: rng.choice((1, 2, 3), p=shares)]
        zones.update((side, tuple(Level)[i]) for i in chosen)
    return frozenset(zones)


def _draw_distractors(rng: np.random.Generator, named: frozenset[Zone]) -> frozenset[Zone]:
    """Draw one to three other zones, on a side without lesions first, so that both sides show an opacity."""
    sides = {side for side, _ in named}
    free = [LUNG_ZONES[i] for i in rng.permutation(len(LUNG_ZONES)) if LUNG_ZONES[i] not in named]
    # sides without lesions come first
    free.sort(key=lambda zone: zone[0] in sides)
    return frozenset(free[: rng.integers(1, 4)])


def _draw_lesions(
    rng: np.random.Generator, zones: frozenset[Zone], size: tuple[int, int]
) -> tuple[Lesion, ...]:
    """Draw one lesion per zone, sometimes two next to each other."""
    ordered = [zone for zone in LUNG_ZONES if zone in zones]
    spare = MAX_COUNT - len(ordered)
    lesions = []
    for zone in ordered:
        top, bottom, left, right = ZONE_BOXES[zone]
        if spare > 0 and rng.random() < 0.15 and (right - left) * size[1] > 16:
            # two lesions, with a gap so that they stay separate components
            spare -= 1
            gap, middle = 1.5 / size[1], (left + right) / 2
            boxes = [(top, bottom, left, middle - gap), (top, bottom, middle + gap, right)]
        else:
            boxes = [(top, bottom, left, right)]
        lesions += [_draw_lesion(rng, zone, box, size) for box in boxes]
    return tuple(lesions)


def _draw_lesion(
    rng: np.random.Generator,
    zone: Zone,
    box: tuple[float, float, float, float],
    size: tuple[int, int],
) -> Lesion:
    """Draw an irregular outline that stays one pixel inside its box."""
    low = np.array([box[0] * size[0], box[2] * size[1]]) + 1
    high = np.array([box[1] * size[0], box[3] * size[1]]) - 2
    half = (high - low) / 2 * rng.uniform(0.5, 1.0, 2)
    center = rng.uniform(low + half, high - half)

    # an ellipse with four random waves around it
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    order = np.arange(2, 6)
    waves = np.cos(order[:, None] * angle + rng.uniform(0, 2 * np.pi, (4, 1)))
    radius = 1 + (rng.uniform(0, 0.28, (4, 1)) / np.sqrt(order)[:, None] * waves).sum(0)
    # at most the half axes, so that the box is never left
    radius /= radius.max()

    rows = center[0] + half[0] * radius * np.sin(angle)
    columns = center[1] + half[1] * radius * np.cos(angle)
    outline = tuple((float(x), float(y)) for x, y in zip(columns, rows, strict=True))
    return Lesion(zone, (float(center[0]), float(center[1])), outline)


def _fill(canvas: npt.NDArray[Any], lesion: Lesion, value: float) -> None:
    cv2.fillPoly(canvas, [np.rint(lesion.outline_px).astype(np.int32)], value)


def _as_named(lesions: tuple[Lesion, ...], laterality: Laterality) -> tuple[Lesion, ...]:
    """The lesions with sides named in a laterality convention."""
    if laterality is Laterality.IMAGE:
        return lesions
    return tuple(
        replace(lesion, zone=(lesion.zone[0].mirrored, lesion.zone[1])) for lesion in lesions
    )


def _true_statement(lesions: tuple[Lesion, ...], laterality: Laterality) -> Statement:
    zones = frozenset(lesion.zone for lesion in lesions)
    if not zones:
        return Statement(count=0, absent=True, laterality=laterality)
    lateral = "bilateral" if len({side for side, _ in zones}) == 2 else "unilateral"
    return Statement(zones, len(lesions), lateral, laterality=laterality)


def _expose(
    anatomy: Floats, opacity: Floats, config: PhantomConfig, rng: np.random.Generator
) -> Bytes:
    """Add the soft, mottled opacities, the image's own exposure and noise."""
    # soft edges, a mottled texture, then exposure and noise
    soft = cv2.GaussianBlur(opacity, (0, 0), 0.013 * max(config.size))
    image = anatomy + config.contrast * soft * (1 + 0.3 * smooth_noise(rng, config.size, 24))
    image = image * np.float32(rng.uniform(0.85, 1.05)) + np.float32(rng.uniform(-0.04, 0.06))
    image += config.noise * rng.standard_normal(config.size, np.float32)
    return np.asarray((image * 255).clip(0, 255), np.uint8)


def _check_request(n: dict[str, int], seed: int) -> None:
    if seed < 0:
        raise ConfigError(f"write_phantoms: got seed {seed}, expected 0 or more.")
    # a request for nothing is a mistake
    if not sum(n.values()):
        raise ConfigError(
            f"write_phantoms: got {n}, expected a number of images per split, e.g. {{'train': 800}}."
        )
    for split, count in n.items():
        if count < 0 or split != split_name(split) or not SPLIT.fullmatch(split):
            raise ConfigError(
                f"write_phantoms: got {count} images for split {split!r}, "
                "expected 0 or more for train, valid, test or another name of letters and digits."
            )


def _seed(seed: int, split: str, *rest: int) -> int:
    """A seed for one purpose, unrelated to those of other splits, images and purposes."""
    state = np.random.SeedSequence([seed, zlib.crc32(split.encode()), *rest]).generate_state(
        1, np.uint64
    )
    return int(state[0])


def _patients(count: int, seed: int) -> list[tuple[int, int]]:
    """`count` pairs of patient and image number, both from 1; a patient has one to three images."""
    rng = np.random.default_rng(seed)
    images: list[tuple[int, int]] = []
    patient = 0
    while len(images) < count:
        patient += 1
        for image in range(1, int(rng.choice((1, 2, 3), p=(0.6, 0.25, 0.15))) + 1):
            images.append((patient, image))
    return images[:count]
