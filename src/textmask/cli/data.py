"""Commands on data sets."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from textmask.cli.data_options import NOTHING_GIVEN, GivenOptions, reads_data
from textmask.cli.options import (
    CacheDir,
    DataPath,
    FullHelpGroup,
    Verify,
    check_zone_map,
    print_table,
    say,
    verify_data,
)
from textmask.config import MAX_SEED, MAX_SIDE
from textmask.errors import choose

data_app = typer.Typer(
    cls=FullHelpGroup,
    help="Inspect, convert, describe, create and decode data sets.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
DEFAULT_SIDE = 224  # of the presets
ManifestOut = Annotated[
    Path, typer.Option(help="Manifest to write, in or above the folder of the images.")
]


@data_app.command()
@reads_data()
def inspect(
    path: DataPath,
    given: GivenOptions = NOTHING_GIVEN,
    pixels: Annotated[bool, typer.Option(help="Open the images and masks too.")] = True,
    verify: Verify = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with code 1 on warnings too (default: errors).")
    ] = False,
    json_out: Annotated[
        Path | None, typer.Option("--json", help="JSON file for the findings (default: none).")
    ] = None,
) -> None:
    """Show what a data set contains, how it compares with the published one, and its errors.

    Exit code 1 means that there are errors.

    Example: textmask data inspect data/QaTa-COV19
    """
    from textmask.data.check_report import summary_rows
    from textmask.data.checks import check
    from textmask.data.published import compare_counts
    from textmask.layouts.read import detect
    from textmask.runs.data_options import DataOptions

    options = given.over(DataOptions())
    from textmask.runs.read_data import read_data

    manifest = read_data(path, options)
    if verify:
        verify_data(manifest)
    found = options.layout if options.layout != "auto" else detect(path, options.choice)
    say(f"{manifest.name or path}: layout {found}, {len(manifest)} rows")

    # rows per split, next to the published counts if the data set is known
    published = compare_counts(manifest)
    if published is None:
        print_table(["split", "rows"], [[name, str(n)] for name, n in manifest.splits.items()])
    else:
        lines = [[c.split, str(c.found), str(c.published)] for c in published.splits]
        print_table(["split", "rows", f"published ({published.source})"], lines)

    report = check(manifest, pixels=pixels)
    prompts = {row.text for row in manifest.rows}
    groups = {row.group for row in manifest.rows if row.group}
    say(
        f"laterality convention: {manifest.laterality}; {len(prompts)} distinct prompts, {len(groups)} named groups"
    )
    for severity, code, message, keys in summary_rows(report):
        say(f"{severity} {code}: {message}")
        if keys:
            say(f"  e.g. {keys}")

    if json_out is not None:
        json_out.write_text(report.to_json(), encoding="utf-8")
    severe = ("error", "warning") if strict else ("error",)
    if any(finding.severity in severe for finding in report.findings):
        raise typer.Exit(1)


@data_app.command()
@reads_data()
def convert(
    path: DataPath,
    out: ManifestOut,
    given: GivenOptions = NOTHING_GIVEN,
) -> None:
    """Write the manifest of a data set.

    Example: textmask data convert data/Kvasir --out data/Kvasir/table.csv
    """
    from textmask.data.manifest import write_manifest
    from textmask.data.mask_scan import decide_rule
    from textmask.runs.data_options import DataOptions

    options = given.over(DataOptions())
    from textmask.runs.read_data import read_data

    manifest = decide_rule(read_data(path, options))
    write_manifest(manifest, out)
    say(f"{out}: {len(manifest)} rows, {dict(manifest.splits)}")
    if options.mask_threshold is not None:
        say(
            f"The table does not hold the threshold: give --mask-threshold {options.mask_threshold:g} with it too."
        )
    if options.resize_masks:
        say("The masks stay as they are: give --resize-masks nearest with the table too.")


@data_app.command("describe")
@reads_data(without=("laterality", "grammar"))
def describe_command(
    path: DataPath,
    out: ManifestOut,
    style: Annotated[
        str,
        typer.Option(
            help="Wording of the prompts: lesion or polyp (nine zones), qata, qata_original or report."
        ),
    ] = "lesion",
    zones: Annotated[
        str | None, typer.Option(help="Zone map of the masks (default: that of the style).")
    ] = None,
    laterality: Annotated[
        str, typer.Option(help="Laterality convention of the new prompts: image or patient.")
    ] = "image",
    given: GivenOptions = NOTHING_GIVEN,
) -> None:
    """Generate prompts from the masks, for data without prompts. They leak the true position.

    Example: textmask data describe data/BM-Seg --out data/BM-Seg/table.csv
    """
    from textmask.runs.data_options import DataOptions
    from textmask.statement import Laterality as Convention

    side = Convention(choose("laterality", laterality, [str(name) for name in Convention]))
    check_zone_map(zones)
    options = given.over(DataOptions())
    from textmask.runs.read_data import read_data

    manifest = read_data(path, options)

    from textmask.data.describe import describe_masks

    made = describe_masks(manifest, out, style=style, laterality=side, zones=zones)
    say(
        f"{out}: {made.described} prompts from masks ({made.agreeing} agree with the existing ones), "
        f"{made.unmasked} rows without a mask unchanged; left means the {side} side. "
        f"The prompts leak the position: {out.with_suffix('.README.md').name} explains what scores with them mean."
    )


@data_app.command("cache")
@reads_data()
def cache_command(
    path: DataPath,
    given: GivenOptions = NOTHING_GIVEN,
    size: Annotated[
        list[int] | None,
        typer.Option(
            help="Rows and columns in pixels, as the runs have; repeat for several (default: 224).",
            min=1,
            max=MAX_SIDE,
        ),
    ] = None,
    split: Annotated[
        list[str] | None,
        typer.Option(help="Split to decode; repeat for several (default: all)."),
    ] = None,
    cache_dir: CacheDir = None,
) -> None:
    """Decode the images and masks into the cache on all cores, before a training or evaluation needs them.

    A run with the same data options and size then starts at once. Without it, the first run decodes.

    Example: textmask data cache data/QaTa-COV19 --size 224
    """
    from textmask.data.cache import open_split
    from textmask.data.cache_folder import cache_folder
    from textmask.runs.data_options import DataOptions
    from textmask.runs.read_data import read_data

    manifest = read_data(path, given.over(DataOptions()))
    names = split or list(manifest.splits)
    for name in names:
        manifest.rows_of(name)  # a wrong name is an error before anything is decoded

    lines = []
    for side in size or [DEFAULT_SIDE]:
        for name in names:
            begin = time.perf_counter()
            data = open_split(manifest, name, (side, side), cache_dir)
            seconds = time.perf_counter() - begin
            lines.append([name, str(len(data)), f"{side} x {side}", f"{seconds:.1f} s"])
    print_table(["split", "rows", "size", "time"], lines)
    say(f"{cache_folder(cache_dir)}: see `textmask cache ls`")


@data_app.command()
@reads_data(without=("laterality", "grammar"))
def gap(
    path: DataPath,
    given: GivenOptions = NOTHING_GIVEN,
    size: Annotated[
        int,
        typer.Option(
            help="Rows and columns in pixels at which masks are compared (default: 96).",
            min=8,
            max=MAX_SIDE,
        ),
    ] = 96,
    cache_dir: CacheDir = None,
) -> None:
    """Measure how far data can be segmented without reading the prompts, and without looking at the images.

    Masks are perfect: the ceiling is the best single mask per image, scored against each of its targets; the prior is
    the mean mask of a prompt in the images of other groups. Data on which a model must read have both far below 1.

    Example: textmask data gap data/JSRT --classes classes.csv
    """
    from textmask.data.gap import language_gap
    from textmask.runs.data_options import DataOptions
    from textmask.runs.read_data import read_data

    manifest = read_data(path, given.over(DataOptions()))
    found = language_gap(manifest, (size, size), cache_dir)
    head = [
        "data",
        "images",
        "targets per image",
        "text-blind ceiling, Dice",
        "text-only prior, Dice",
    ]
    cells = [f"{found.targets_per_image:.1f}", f"{found.ceiling:.3f}", f"{found.prior:.3f}"]
    print_table(head, [[manifest.name or str(path), str(found.images), *cells]])


@data_app.command()
def slices(
    path: Annotated[
        Path, typer.Argument(metavar="DATA", help="nnU-Net raw data set of NIfTI volumes.")
    ],
    out: Annotated[Path, typer.Option(help="New folder to write.")],
    axis: Annotated[
        int | None,
        typer.Option(
            help="Axis along which the slices lie (default: that of the largest spacing).",
            min=0,
            max=2,
        ),
    ] = None,
) -> None:
    """Write the slices of an nnU-Net data set of volumes as images, to train and test on.

    Example: textmask data slices Dataset007_Pancreas --out pancreas
    """
    from textmask.layouts.slices import write_slices

    written = write_slices(path, out, axis)
    say(f"{out}: {written} images. Next: textmask data convert {out} --out {out / 'table.csv'}")


@data_app.command()
def phantom(
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    train_images: Annotated[
        int, typer.Option("--train", help="Number of training images.", min=0)
    ] = 400,
    valid_images: Annotated[
        int, typer.Option("--valid", help="Number of validation images.", min=0)
    ] = 60,
    test_images: Annotated[int, typer.Option("--test", help="Number of test images.", min=0)] = 60,
    size: Annotated[
        int, typer.Option(help="Rows and columns in pixels.", min=32, max=MAX_SIDE)
    ] = 224,
    difficulty: Annotated[
        float, typer.Option(help="Difficulty from 0 (easy) to 1.", min=0, max=1)
    ] = 0.5,
    seed: Annotated[
        int,
        typer.Option(help="Random seed; the same seed gives the same images.", min=0, max=MAX_SEED),
    ] = 0,
) -> None:
    """Create synthetic chest radiographs with exactly known lesions and prompts.

    Example: textmask data phantom --out phantoms --size 112
    """
    from textmask.data.phantom import PhantomConfig, write_phantoms

    counts = {"train": train_images, "valid": valid_images, "test": test_images}
    config = PhantomConfig(size=(size, size), difficulty=difficulty)
    say(str(write_phantoms(out, counts, config, seed)))
