"""What the scores of a result detect, as the area under the ROC curve: `python benchmarks/screening.py`.

The bundled model on the test split of QaTa-COV19, and on images of other kinds, from the folder in TEXTMASK_DATA.

likeness: images of the test split against images of each other set, and against noise, black, white and stripes. Color
gives other sets away, so they are also measured in gray.
existence: a prompt for a zone that shows lesion in the true mask against a prompt for a zone of a lung that shows none,
in the same images.
agreement: the mask of a prompt that names one side with this prompt, against the same mask with the mirrored prompt, as
if the model had not followed it. And whether a low score tells that the mask overlaps the true one by a Dice below 0.5.

An area of 0.5 is chance. `flagged` is the share with a warning code.
"""

from __future__ import annotations

import argparse
import os
import random
from pathlib import Path

import cv2
import numpy as np
import torch
from timing import Goals

from textmask.inference.likeness import KnownImages
from textmask.inference.predictor import Opened, Predictor
from textmask.inference.screening import DOUBTFUL, ELSEWHERE
from textmask.inference.segmentation import Segmentation
from textmask.io.images import read_image, resize_image
from textmask.layouts.read import read_layout
from textmask.metrics.agreement import share_in_zones, shown
from textmask.statement import Laterality, Side
from textmask.text.edit import mirror
from textmask.text.grammar import parse

LEVELS = ("upper", "middle", "lower")
SIDES = {0: "left", 2: "right"}
IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".tif")
FLAGGED = 0.01  # of the likeness: the level of the calibration


def area(good: list[float], bad: list[float]) -> float:
    """Probability that a good case scores higher than a bad one; ties count half."""
    a, b = np.asarray(good)[:, None], np.asarray(bad)[None]
    return float((a > b).mean() + 0.5 * (a == b).mean())


def line(name: str, good: list[float], bad: list[float], limit: float) -> float:
    """Print and return the area, with the shares of both that are flagged."""
    found = area(good, bad)
    flagged = [float((np.asarray(values) < limit).mean()) for values in (good, bad)]
    print(
        f"{name:<32} AUC {found:.3f}  n {len(good)} and {len(bad)}  flagged {flagged[0]:.2f} and {flagged[1]:.2f}"
    )
    return found


def planes_of(path: Path, size: tuple[int, int]) -> np.ndarray:
    """An image file as the model sees it, C h w."""
    pixels = resize_image(read_image(path), size)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def other_sets(data: Path, n: int, rng: random.Random) -> dict[str, list[Path]]:
    """Images of other kinds, by the name of their set."""
    folders = [data / name for name in ("kvasir-seg", "cvc-clinicdb", "monuseg-lvit")]
    folders += sorted(path for path in (data / "multi-target").iterdir() if path.is_dir())
    found = {}
    for folder in folders:
        files = []
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() in IMAGES and "images" in path.parts:
                files.append(path)
        if files:
            found[folder.name] = rng.sample(files, min(n, len(files)))
    return found


def made_up(n: int, size: tuple[int, int]) -> dict[str, list[np.ndarray]]:
    """Images that show nothing."""
    noise = np.random.default_rng(0)
    rows, columns = size
    stripes = []
    for width in (1, 2, 4, 8, 16, 32):
        wave = ((np.arange(columns) // width % 2) * 255).astype(np.uint8)
        stripes += [np.tile(wave, (rows, 1))[None], np.tile(wave[:rows, None], (1, columns))[None]]
    return {
        "noise": [noise.integers(0, 256, (1, *size), np.uint8) for _ in range(n)],
        "black": [np.zeros((1, *size), np.uint8)],
        "white": [np.full((1, *size), 255, np.uint8)],
        "stripes": stripes,
    }


def measure_likeness(known: KnownImages, usual: list[float], options: argparse.Namespace) -> float:
    """Print one line per set; returns the smallest area of the sets other than chest radiographs."""
    rng, size, worst = random.Random(0), (224, 224), 1.0
    images = made_up(options.others, size)
    for name, paths in other_sets(options.data, options.others, rng).items():
        images[name] = [planes_of(path, size) for path in paths]
    for name, kind in images.items():
        found = line(f"likeness, {name}", usual, [known.rank(one) for one in kind], FLAGGED)
        worst = worst if name.startswith("jsrt") else min(worst, found)
        if any(one.shape[0] == 3 for one in kind):
            gray = [one.mean(axis=0, keepdims=True).round().astype(np.uint8) for one in kind]
            line(f"likeness, {name} in gray", usual, [known.rank(one) for one in gray], FLAGGED)
    return worst


def two_zones(mask: np.ndarray, text: str, rng: random.Random) -> tuple[str, str] | None:
    """A prompt for a zone with lesion and one for a zone of a lung without any; None without such a lung."""
    zones = shown(mask[None], [parse(text)]).zones[0]
    there, free = [], []
    for side, name in SIDES.items():
        for number, level in enumerate(LEVELS):
            prompt = f"opacity in the {level} {name} lung"
            if zones[side, number]:
                there.append(prompt)
            elif not zones[side].any():
                free.append(prompt)
    return (rng.choice(there), rng.choice(free)) if there and free else None


def one_sided_agreement(found: Segmentation, text: str) -> tuple[float, float] | None:
    """Agreement of a mask with its prompt and with the mirrored one; None if the prompt names two sides."""
    said = parse(text, "auto", Laterality.IMAGE)
    other = mirror(text)
    if len(said.sides - {Side.CENTER}) != 1 or other is None or not found.mask.any():
        return None
    swapped = share_in_zones(found.mask > 0, parse(other, "auto", Laterality.IMAGE))
    if found.scores.agreement is None or swapped is None:
        return None
    return found.scores.agreement, swapped


def dice_of(mask: np.ndarray, truth: np.ndarray) -> float:
    """Dice of two masks."""
    return 2 * float((mask & truth).sum()) / max(1, int(mask.sum()) + int(truth.sum()))


def existence_of(opened: Opened, prompt: str) -> float:
    """The existence score of a prompt."""
    found = opened.segment(prompt, abstain=False).scores.existence
    if found is None:
        raise SystemExit("the calibration of the model is missing.")
    return found


def main() -> int:
    """Print the areas and the goal lines; 0 only if every goal is met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("TEXTMASK_DATA"))
    parser.add_argument("--run", default="default")
    parser.add_argument("--images", type=int, default=300, help="of the test split")
    parser.add_argument("--others", type=int, default=40, help="of each other set")
    options = parser.parse_args()
    if options.data is None:
        raise SystemExit("set TEXTMASK_DATA or --data to the folder of the data sets.")
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    predictor = Predictor(options.run, device="cpu")
    if predictor.calibration is None or predictor.calibration.known_images is None:
        raise SystemExit(
            f"{options.run} has no calibration with known images: textmask calibrate RUN."
        )

    manifest = read_layout(options.data / "qata-cov19-v2")
    rows = manifest.rows_of("test")
    rng = random.Random(0)
    usual: list[float] = []
    existence: tuple[list[float], list[float]] = ([], [])
    agreement: tuple[list[float], list[float]] = ([], [])
    outlines: tuple[list[float], list[float]] = ([], [])
    for row in rng.sample(rows, min(options.images, len(rows))):
        opened = predictor.open(manifest.root / row.image)
        truth = np.asarray(read_image(manifest.root / row.mask)) > 127
        usual.append(opened.likeness or 0.0)
        found = opened.segment(row.text, abstain=False)
        if found.scores.agreement is not None:
            bad = dice_of(found.mask > 0, truth) < 0.5
            outlines[bad].append(found.scores.agreement)
        if (pair := one_sided_agreement(found, row.text)) is not None:
            agreement[0].append(pair[0])
            agreement[1].append(pair[1])
        if (prompts := two_zones(truth.astype(np.uint8), row.text, rng)) is not None:
            existence[0].append(existence_of(opened, prompts[0]))
            existence[1].append(existence_of(opened, prompts[1]))

    print(f"{options.run} on {len(usual)} of {len(rows)} images of the test split, seed 0")
    goals = Goals()
    likeness = measure_likeness(predictor.calibration.known_images, usual, options)
    goals.at_least("auc_likeness_worst_set", likeness, 0.95)
    goals.at_least("auc_existence", line("existence", *existence, DOUBTFUL), 0.8)
    goals.at_least("auc_agreement", line("agreement, mirrored prompt", *agreement, ELSEWHERE), 0.95)
    if outlines[1]:
        line("agreement, Dice below 0.5", *outlines, ELSEWHERE)
    return goals.finish()


if __name__ == "__main__":
    raise SystemExit(main())
