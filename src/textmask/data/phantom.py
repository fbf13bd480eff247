"""Synthetic chest films whose lesions, sides, levels and sentence are exactly known: data for the demo and the tests.

Most films also show opacities that the sentence does not name. They look like lesions and do not belong to the mask,
so that the picture alone cannot tell which is which and the sentence can.
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

# Rows a level means, as shares of H. The bands measured on QaTa overlap (upper 0-0.45, middle 0.35-0.68, lower
# 0.42-0.80); these lie inside them and do not overlap, so that every lesion has exactly one level.
CHEST_BANDS: dict[Level, tuple[float, float]] = {
    Level.UPPER: (0.0, 0.36),
    Level.MIDDLE: (0.36, 0.58),
    Level.LOWER: (0.58, 0.80),
}
# Where a lesion may lie, shares of H and W (top, bottom, left, right): inside band, picture half and lung.
ZONE_BOXES: dict[Zone, tuple[float, float, float, float]] = {
    (Side.LEFT, Level.UPPER): (0.17, 0.355, 0.20, 0.41),
    (Side.LEFT, Level.MIDDLE): (0.365, 0.575, 0.14, 0.42),
    (Side.LEFT, Level.LOWER): (0.585, 0.78, 0.12, 0.42),
    (Side.RIGHT, Level.UPPER): (0.17, 0.355, 0.59, 0.80),
    (Side.RIGHT, Level.MIDDLE): (0.365, 0.575, 0.60, 0.86),
    (Side.RIGHT, Level.LOWER): (0.585, 0.78, 0.66, 0.88),
}
MAX_COUNT = 9  # the largest number the published sentences spell out
ONE_OR_ALL = ("mosmed",)  # styles that name one level, or all, per side
DEFAULT_STYLES = ("qata_original", "report")


@dataclass(frozen=True)
class PhantomConfig:
    """What films to make.

    Attributes:
        size: rows and columns.
        difficulty: 0 to 1; more noise, fainter lesions and more films with opacities that the sentence does not name.
        laterality: whose left the sentence means: the picture's (`IMAGE`, as in QaTa) or the patient's.
        styles: sentence styles of `textmask.text.render.render`, one drawn per film.
        p_absent: share of films without a lesion.
        distractor_share: share of films with unnamed opacities; None lets `difficulty` choose.

    Raises:
        ConfigError: a value out of range.
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
            raise ConfigError("PhantomConfig: got no sentence style, expected at least one.")

    @property
    def p_distractor(self) -> float:
        """Probability that a film shows an unnamed opacity."""
        return (
            0.2 + 0.8 * self.difficulty if self.distractor_share is None else self.distractor_share
        )

    @property
    def contrast(self) -> float:
        """Brightness a lesion adds, of 1."""
        return 0.34 - 0.22 * self.difficulty

    @property
    def noise(self) -> float:
        """Standard deviation of the pixel noise, of 1."""
        return 0.008 + 0.04 * self.difficulty


@dataclass(frozen=True)
class Lesion:
    """One opacity.

    Attributes:
        zone: side and level; the side is the one the film's laterality means.
        centre_px: row and column.
        outline_px: K x 2 (column, row) corners of its outline.
    """

    zone: Zone
    centre_px: tuple[float, float]
    outline_px: tuple[tuple[float, float], ...]


@dataclass(frozen=True, eq=False)
class Phantom:
    """One film and everything that is true of it.

    Attributes:
        image: H W.
        mask: H W, 0 or 1: the lesions that the statement names.
        statement: what `text` says, with the exact number of lesions.
        text: the sentence.
        lesions: what the mask shows, one connected component each.
        distractors: opacities of the same look that the sentence does not name.
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
    """Draw one film; the same arguments give the same film.

    Args:
        config: what kind of film; the defaults when None.
        seed: of everything that differs between films.
        patient: seed of the bones and organs, the film's own when None.
    """
    config = config or PhantomConfig()
    rng = np.random.default_rng([seed, 1])
    style = str(rng.choice(config.styles))
    named = _draw_zones(rng, style) if rng.random() >= config.p_absent else frozenset()
    others = _draw_distractors(rng, named) if rng.random() < config.p_distractor else frozenset()
    lesions = _draw_lesions(rng, named, config.size)
    distractors = _draw_lesions(rng, others, config.size)
    opacity = np.zeros(config.size, np.float32)
    for lesion in (*lesions, *distractors):
        _fill(opacity, lesion, float(rng.uniform(0.8, 1.2)))
    anatomy = draw_anatomy(
        config.size, np.random.default_rng([seed if patient is None else patient, 2])
    )
    mask = np.zeros(config.size, np.uint8)
    for lesion in lesions:
        _fill(mask, lesion, 1)
    lesions, distractors = (
        _as_said(lesions, config.laterality),
        _as_said(distractors, config.laterality),
    )
    statement = _true_statement(lesions, config.laterality)
    image = _expose(anatomy, opacity, config, rng)
    return Phantom(image, mask, statement, render(statement, style), lesions, distractors)


def write_phantoms(
    root: Path, n: dict[str, int], config: PhantomConfig | None = None, seed: int = 0
) -> Path:
    """Write films, masks and the native table below `root`.

    Patients have one to three films; none is in two splits. A film depends on its split, its number and `seed` only.

    Args:
        root: folder, made if missing; files of the same name are replaced.
        n: number of films per split, e.g. {"train": 800, "valid": 100, "test": 100}.
        config: what kind of films.
        seed: of the whole set.

    Returns:
        Path of the table, `root/manifest.csv`.

    Raises:
        ConfigError: no films, a negative number or seed, or an impossible split name.
        DataError: the folder cannot be written.
    """
    _check_request(n, seed)
    config = config or PhantomConfig()
    try:
        for folder in ("images", "masks"):
            (root / folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"{root}: cannot be made ({error.strerror}). Choose a folder you may write to."
        ) from error
    rows = []
    for split, count in n.items():
        for number, (patient, film) in enumerate(_patients(count, _seed(seed, split, 0))):
            phantom = make_phantom(
                config, _seed(seed, split, 1, number), _seed(seed, split, 2, patient)
            )
            name = f"{split}-{patient:04d}-{film}.png"
            write_png(root / "images" / name, phantom.image)
            write_png(root / "masks" / name, phantom.mask * np.uint8(255))
            group = f"{split}-{patient:04d}"
            rows.append(
                Row(
                    f"images/{name}",
                    f"masks/{name}",
                    phantom.text,
                    split,
                    group,
                    config.laterality,
                    True,
                )
            )
    path = root / "manifest.csv"
    write_manifest(Manifest(root, tuple(rows)), path)
    return path


def _draw_zones(rng: np.random.Generator, style: str) -> frozenset[Zone]:
    """Affected zones, sides as seen in the picture."""
    sides = (
        [Side.LEFT, Side.RIGHT]
        if rng.random() < 0.4
        else [(Side.LEFT, Side.RIGHT)[rng.integers(2)]]
    )
    shares = (0.75, 0.0, 0.25) if style in ONE_OR_ALL else (0.55, 0.3, 0.15)
    zones: set[Zone] = set()
    for side in sides:
        chosen = rng.permutation(3)[: rng.choice((1, 2, 3), p=shares)]
        zones |= {(side, tuple(Level)[i]) for i in chosen}
    return frozenset(zones)


def _draw_distractors(rng: np.random.Generator, named: frozenset[Zone]) -> frozenset[Zone]:
    """One to three further zones, a side without lesions first: "left" and "right" must both be possible."""
    sides = {side for side, _ in named}
    free = [LUNG_ZONES[i] for i in rng.permutation(len(LUNG_ZONES)) if LUNG_ZONES[i] not in named]
    free.sort(key=lambda zone: zone[0] in sides)
    return frozenset(free[: rng.integers(1, 4)])


def _draw_lesions(
    rng: np.random.Generator, zones: frozenset[Zone], size: tuple[int, int]
) -> tuple[Lesion, ...]:
    """One lesion per zone, sometimes two side by side."""
    ordered = [zone for zone in LUNG_ZONES if zone in zones]
    spare = MAX_COUNT - len(ordered)
    lesions = []
    for zone in ordered:
        top, bottom, left, right = ZONE_BOXES[zone]
        if spare > 0 and rng.random() < 0.15 and (right - left) * size[1] > 16:
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
    """An irregular outline that stays a pixel inside its box."""
    low = np.array([box[0] * size[0], box[2] * size[1]]) + 1
    high = np.array([box[1] * size[0], box[3] * size[1]]) - 2
    half = (high - low) / 2 * rng.uniform(0.5, 1.0, 2)
    centre = rng.uniform(low + half, high - half)
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    order = np.arange(2, 6)
    waves = np.cos(order[:, None] * angle + rng.uniform(0, 2 * np.pi, (4, 1)))
    radius = 1 + (rng.uniform(0, 0.28, (4, 1)) / np.sqrt(order)[:, None] * waves).sum(0)
    radius /= radius.max()
    rows = centre[0] + half[0] * radius * np.sin(angle)
    columns = centre[1] + half[1] * radius * np.cos(angle)
    outline = tuple((float(x), float(y)) for x, y in zip(columns, rows, strict=True))
    return Lesion(zone, (float(centre[0]), float(centre[1])), outline)


def _fill(canvas: npt.NDArray[Any], lesion: Lesion, value: float) -> None:
    cv2.fillPoly(canvas, [np.rint(lesion.outline_px).astype(np.int32)], value)


def _as_said(lesions: tuple[Lesion, ...], laterality: Laterality) -> tuple[Lesion, ...]:
    """The lesions with the sides a sentence of that laterality uses."""
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
    """Add the soft, mottled opacities, the film's own exposure and noise."""
    soft = cv2.GaussianBlur(opacity, (0, 0), 0.013 * max(config.size))
    film = anatomy + config.contrast * soft * (1 + 0.3 * smooth_noise(rng, config.size, 24))
    film = film * np.float32(rng.uniform(0.85, 1.05)) + np.float32(rng.uniform(-0.04, 0.06))
    film += config.noise * rng.standard_normal(config.size, np.float32)
    return np.asarray((film * 255).clip(0, 255), np.uint8)


def _check_request(n: dict[str, int], seed: int) -> None:
    if seed < 0:
        raise ConfigError(f"write_phantoms: got seed {seed}, expected 0 or more.")
    if not sum(n.values()):
        raise ConfigError(
            f"write_phantoms: got {n}, expected a number of films per split, e.g. {{'train': 800}}."
        )
    for split, count in n.items():
        if count < 0 or split != split_name(split) or not SPLIT.fullmatch(split):
            raise ConfigError(
                f"write_phantoms: got {count} films for split {split!r}, "
                "expected 0 or more for train, valid, test or another name of letters and digits."
            )


def _seed(seed: int, split: str, *rest: int) -> int:
    """A seed for one purpose; other splits, films and purposes have unrelated ones."""
    state = np.random.SeedSequence([seed, zlib.crc32(split.encode()), *rest]).generate_state(
        1, np.uint64
    )
    return int(state[0])


def _patients(count: int, seed: int) -> list[tuple[int, int]]:
    """`count` pairs of patient and film number; a patient has one to three films."""
    rng = np.random.default_rng(seed)
    films: list[tuple[int, int]] = []
    patient = 0
    while len(films) < count:
        patient += 1
        films += [
            (patient, film)
            for film in range(1, int(rng.choice((1, 2, 3), p=(0.6, 0.25, 0.15))) + 1)
        ]
    return films[:count]
