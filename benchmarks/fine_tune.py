"""50 labelled images of another style, from trained weights and from scratch: `python benchmarks/fine_tune.py OUT`.

Two cases, each with the same 50 images, the same steps and the same seeds for both arms, and the epoch chosen on the
same 30 images:

kvasir  colonoscopy of Kvasir-SEG (prompts `medvlsm_p6`), from the bundled model, which has seen chest films only.
        200 test images.
source  QaTa-COV19 by source, 128 x 128. The train files `covid_*` come from other hospitals than all others; a model is
        trained on them alone (300 of them choose its epoch), then tuned on 50 of the others. All test images, which are
        of the second source. The bundled model has seen both sources, so it is not used here.

The data are found through TEXTMASK_DATA. A training that is finished in OUT is not repeated. Printed are Dice per image
of each seed and the mean difference over the seeds, with a 95 % bootstrap over the groups of the test images; the
scores of each image are written to OUT/CASE.csv.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
from pathlib import Path

import numpy as np
from timing import Goals

import textmask
from textmask.data.in_code import from_rows
from textmask.data.manifest import Manifest
from textmask.evaluation.scores import ImageScores, read_scores, write_scores
from textmask.metrics.statistics import bootstrap_ci, paired_difference
from textmask.runs.layout import RESULT
from textmask.training.loop import TrainOptions

METHOD, STEPS = "statement_unet", 120
LABELLED, CHOOSING = 50, 30
SOURCE_STEPS, SOURCE_SIZE = 600, (128, 128)

Size = tuple[int, int] | None  # H W; None is the preset's


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "texts.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def rows_of(folder: Path, lines: list[dict[str, str]], text: str, split: str) -> list[dict]:
    return [
        {
            "image": folder / line["image"],
            "mask": folder / line["mask"],
            "text": line[text],
            "split": split,
            "group": line.get("patient", ""),
        }
        for line in lines
    ]


def kvasir(data: Path) -> Manifest:
    folder = data / "kvasir-seg"
    lines = table(folder)
    random.Random(0).shuffle(lines)
    train, valid, test = lines[:LABELLED], lines[100 : 100 + CHOOSING], lines[200:400]
    rows = rows_of(folder, train, "medvlsm_p6", "train")
    rows += rows_of(folder, valid, "medvlsm_p6", "valid")
    rows += rows_of(folder, test, "medvlsm_p6", "test")
    return from_rows(rows, name=f"kvasir-{LABELLED}")


def by_source(data: Path) -> tuple[Manifest, Manifest]:
    """The first source (train and valid), and 50 images of the second with the official test images."""
    folder = data / "qata-cov19-v2"
    lines = table(folder)
    first = [line for line in lines if "covid_" in line["image"]]
    second = [line for line in lines if "covid_" not in line["image"]]
    parts = {
        split: [line for line in second if line["split"] == split]
        for split in ("train", "valid", "test")
    }
    for part in (first, parts["train"], parts["valid"]):
        random.Random(0).shuffle(part)

    rows = rows_of(folder, first[300:], "text", "train") + rows_of(
        folder, first[:300], "text", "valid"
    )
    few = rows_of(folder, parts["train"][:LABELLED], "text", "train")
    few += rows_of(folder, parts["valid"][:CHOOSING], "text", "valid")
    few += rows_of(folder, parts["test"], "text", "test")
    return from_rows(rows, name="qata-first-source"), from_rows(
        few, name=f"qata-second-source-{LABELLED}"
    )


def train(
    manifest: Manifest,
    out: Path,
    seed: int,
    steps: int,
    init: Path | None,
    size: Size,
) -> None:
    if (out / RESULT).exists():
        return
    settings = {"stages.segment.steps": steps, "seed": seed}
    if size is not None:
        settings["image_size"] = list(size)
    options = TrainOptions(init=init)
    textmask.train(
        METHOD, manifest, out, resume=out.exists(), options=options, device="cpu", **settings
    )


def scored(run: Path, manifest: Manifest) -> ImageScores:
    folder = run / "evaluation" / "test"
    if not (folder / "scores.csv").exists():
        textmask.evaluate(run, manifest, "test", surface=False, n_bootstrap=200, device="cpu")
    return next(iter(read_scores(folder / "scores.csv").values()))


def compare(
    case: str,
    manifest: Manifest,
    out: Path,
    seeds: list[int],
    init: Path,
    size: Size,
) -> float:
    """Train both arms with every seed; the lower bound of the mean difference."""
    found: dict[str, ImageScores] = {}
    for seed in seeds:
        for arm, start in (("tuned", init), ("scratch", None)):
            run = out / case / f"{arm}-{seed}"
            train(manifest, run, seed, STEPS, start, size)
            found[f"{arm}-{seed}"] = scored(run, manifest)
            print(
                case,
                arm,
                "seed",
                seed,
                f"{100 * found[f'{arm}-{seed}'].dice.mean():.2f}",
                flush=True,
            )

    groups = found[f"tuned-{seeds[0]}"].groups
    means = {
        arm: np.mean([found[f"{arm}-{seed}"].dice for seed in seeds], axis=0)
        for arm in ("tuned", "scratch")
    }
    for arm, values in means.items():
        print(case, arm, "mean of seeds", bootstrap_ci(100 * values, groups))
    difference = paired_difference(100 * means["tuned"], 100 * means["scratch"], groups)
    print(case, "tuned minus scratch", difference, flush=True)
    write_scores(out / f"{case}.csv", found)
    return difference.low


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", nargs="?", type=Path, help="folder of the runs")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--case", choices=("kvasir", "source"), action="append")
    arguments = parser.parse_args()
    if arguments.out is None or "TEXTMASK_DATA" not in os.environ:
        print("skipped: give a folder for the runs, and TEXTMASK_DATA for the data")
        return 0

    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    data, cases = Path(os.environ["TEXTMASK_DATA"]), arguments.case or ["kvasir", "source"]
    goals = Goals()

    if "kvasir" in cases:
        low = compare("kvasir", kvasir(data), arguments.out, seeds, Path("default"), None)
        goals.at_least("kvasir_tuned_minus_scratch_lower_bound", low, 0)
    if "source" in cases:
        first, second = by_source(data)
        start = arguments.out / "source" / "first"
        train(first, start, 0, SOURCE_STEPS, None, SOURCE_SIZE)
        low = compare("source", second, arguments.out, seeds, start, SOURCE_SIZE)
        goals.at_least("source_tuned_minus_scratch_lower_bound", low, 0)
    return goals.finish()


if __name__ == "__main__":
    raise SystemExit(main())
