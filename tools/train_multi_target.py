"""Train a method on several sets of label maps at once, with generated prompts.

    python tools/train_multi_target.py DATA RUN [--sets jsrt-scr,wbc] [--method compose] [--set FIELD=VALUE]

DATA holds one folder per set with `index.csv` and `classes.csv`. Sets without a train split are left out, test splits
are never read, and a tenth of the groups of each set is held out for validation. The same arguments with --resume
continue. All prompts are in the patient's convention: sets whose names have no side are not affected by it.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from textmask.data.label_maps import read_classes
from textmask.data.manifest import Manifest, Row
from textmask.data.referring_rows import referring_rows
from textmask.data.splits import hold_out
from textmask.layouts.read import read_layout
from textmask.methods.registry import preset_recipe
from textmask.statement import Laterality
from textmask.training.loop import train


def rows_of(folder: Path, count: int, size: tuple[int, int], seed: int) -> list[Row]:
    """The train and valid rows of one set, with paths below the folder of all sets."""
    manifest = read_layout(folder, laterality=Laterality.PATIENT)
    if "train" not in manifest.splits:
        return []
    if "valid" not in manifest.splits:
        manifest = hold_out(manifest, 0.1, seed)
    classes = read_classes(folder / "classes.csv")
    rows = []
    for split in ("train", "valid"):
        found = referring_rows(manifest, classes, split, count, size=size, seed=seed)
        for row in found.rows:
            image, mask = f"{folder.name}/{row.image}", f"{folder.name}/{row.mask}"
            rows.append(replace(row, image=image, mask=mask, group=f"{folder.name}/{row.group}"))
    return rows


def main() -> None:
    """Read the arguments, make the prompts and train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--sets", default="", help="comma-separated folders (default: all)")
    parser.add_argument("--method", default="compose")
    parser.add_argument("--preset", default="lite")
    parser.add_argument(
        "--prompts", type=int, default=8, help="most prompts of an image (default: 8)"
    )
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args()

    recipe = preset_recipe(options.method, options.preset).override(*options.set)
    folders = sorted(path.parent for path in options.data.glob("*/classes.csv"))
    if options.sets:
        folders = [options.data / name for name in options.sets.split(",")]
    rows = []
    for folder in folders:
        found = rows_of(folder, options.prompts, recipe.image_size, recipe.seed)
        print(f"{folder.name}: {len(found)} prompts")
        rows += found
    manifest = Manifest(options.data, tuple(rows), "multi-target")
    train(recipe, manifest, options.run, resume=options.resume)


if __name__ == "__main__":
    main()
