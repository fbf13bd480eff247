"""Commands on data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from textmask.cli.options import (
    DataPath,
    HoldOut,
    Layout,
    MergeValid,
    SplitColumn,
    TextColumn,
    Whose,
    print_table,
    progress_bars,
    read_data,
    say,
)
from textmask.errors import choose

data_app = typer.Typer(
    help="Look at, check, convert and make data.", no_args_is_help=True, rich_markup_mode=None
)


@data_app.command()
def inspect(
    path: DataPath,
    layout: Layout = "auto",
    text_column: TextColumn = None,
    split_column: SplitColumn = None,
    laterality: Whose = None,
    pixels: Annotated[bool, typer.Option(help="Open the pictures and masks too.")] = True,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 when there are errors.")
    ] = False,
    json_out: Annotated[
        Path | None, typer.Option("--json", help="Also write the findings as JSON.")
    ] = None,
) -> None:
    """Say what a data set is, how its splits compare with the published ones, and what is wrong with it.

    Example: textmask data inspect downloads/QaTa-COV19
    """
    from textmask.data.check_report import summary_rows
    from textmask.data.checks import check
    from textmask.data.layouts.published import compare_counts
    from textmask.data.layouts.read import detect

    manifest = read_data(path, layout, text_column, split_column, laterality, 0.0)
    found = layout if layout != "auto" else detect(path)
    say(f"{manifest.name or path}: layout {found}, {len(manifest)} rows")
    published = compare_counts(manifest)
    if published is None:
        print_table(["split", "rows"], [[name, str(n)] for name, n in manifest.splits.items()])
    else:
        lines = [[c.split, str(c.found), str(c.published)] for c in published.splits]
        print_table(["split", "rows", f"published ({published.source})"], lines)
    with progress_bars() as step:
        report = check(manifest, pixels=pixels, progress=step)
    say(
        f"declared: left means the {manifest.laterality} side; {len({row.text for row in manifest.rows})} distinct "
        f"sentences, {len({row.group for row in manifest.rows if row.group})} named groups"
    )
    for severity, code, message, keys in summary_rows(report):
        say(f"{severity} {code}: {message}")
        if keys:
            say(f"  e.g. {keys}")
    if json_out is not None:
        json_out.write_text(report.to_json(), encoding="utf-8")
    if strict and report.has_errors:
        raise typer.Exit(1)


@data_app.command()
def convert(
    path: DataPath,
    out: Annotated[
        Path, typer.Option(help="Native table to write, in or above the folder of the pictures.")
    ],
    layout: Layout = "auto",
    text_column: TextColumn = None,
    split_column: SplitColumn = None,
    laterality: Whose = None,
    hold_out: HoldOut = 0.0,
    merge_valid: MergeValid = False,
) -> None:
    """Write the native table of a data set.

    Example: textmask data convert downloads/Kvasir --out downloads/Kvasir/table.csv --hold-out 0.1
    """
    from textmask.data.manifest import write_manifest

    manifest = read_data(path, layout, text_column, split_column, laterality, hold_out, merge_valid)
    write_manifest(manifest, out)
    say(f"{out}: {len(manifest)} rows, {dict(manifest.splits)}")


@data_app.command("describe")
def describe_command(
    path: DataPath,
    out: Annotated[
        Path, typer.Option(help="Native table to write, in or above the folder of the pictures.")
    ],
    style: Annotated[
        str, typer.Option(help="lesion or polyp (nine zones), qata, qata_original or report.")
    ] = "lesion",
    zones: Annotated[
        str | None, typer.Option(help="Zone map; else the one that judges the style.")
    ] = None,
    laterality: Annotated[
        str, typer.Option(help="Whose left the new sentences mean: image or patient.")
    ] = "image",
    layout: Layout = "auto",
    split_column: SplitColumn = None,
    hold_out: HoldOut = 0.0,
) -> None:
    """Make the sentences from the masks, for data that have none. They tell where the true mask lies, and so leak.

    Example: textmask data describe downloads/BM-Seg --out downloads/BM-Seg/table.csv --hold-out 0.1
    """
    from textmask.data.describe import describe_masks as run_description
    from textmask.statement import Laterality

    side = Laterality(choose("laterality", laterality, [str(s) for s in Laterality]))
    manifest = read_data(path, layout, None, split_column, None, hold_out)
    with progress_bars() as step:
        made = run_description(
            manifest,
            out,
            style=style,
            laterality=side,
            zones=zones,
            progress=step,
        )
    say(
        f"{out}: {made.described} sentences from masks ({made.agreeing} agree with theirs), "
        f"{made.unmasked} rows without a mask left as they were; left means the {side} side. "
        f"They leak position: {out.with_suffix('.README.md').name} says what scores with them mean."
    )


@data_app.command()
def phantom(
    out: Annotated[Path, typer.Option(help="Folder to make.")],
    train_films: Annotated[int, typer.Option("--train", help="Films for training.")] = 400,
    valid_films: Annotated[int, typer.Option("--valid", help="Films for validation.")] = 60,
    test_films: Annotated[int, typer.Option("--test", help="Films for testing.")] = 60,
    size: Annotated[int, typer.Option(help="Rows and columns.")] = 224,
    difficulty: Annotated[float, typer.Option(help="0 (easy) to 1.")] = 0.5,
    seed: Annotated[int, typer.Option(help="Same seed, same films.")] = 0,
) -> None:
    """Make synthetic chest films with exactly known lesions and sentences.

    Example: textmask data phantom --out phantoms --size 112
    """
    from textmask.data.phantom import PhantomConfig, write_phantoms

    counts = {"train": train_films, "valid": valid_films, "test": test_films}
    config = PhantomConfig(size=(size, size), difficulty=difficulty)
    say(str(write_phantoms(out, counts, config, seed)))
