"""The commands of `textmask study`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from textmask.cli.options import (
    CacheDir,
    DataPath,
    HoldOut,
    Layout,
    MergeValid,
    RunPath,
    SplitColumn,
    TextColumn,
    Whose,
    print_table,
    progress_bars,
    read_data,
    say,
)
from textmask.cli.study_grid import ablation_command, labels_command, sensitivity_command
from textmask.cli.study_robustness import corruption, prompts, text_noise

study_app = typer.Typer(
    help="Compare trainings (ablation, labels, sensitivity, features) or try one (prompts, text-noise, corruption).",
    no_args_is_help=True,
    rich_markup_mode=None,
)
study_app.command("ablation")(ablation_command)
study_app.command("labels")(labels_command)
study_app.command("sensitivity")(sensitivity_command)
study_app.command()(prompts)
study_app.command()(text_noise)
study_app.command()(corruption)


@study_app.command("features")
def features_command(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, a panel each.")],
    data: DataPath,
    split: Annotated[str, typer.Option(help="Which split.")] = "test",
    top: Annotated[int, typer.Option(help="How many of its most frequent sentences.")] = 5,
    stage: Annotated[
        str | None, typer.Option(help="Weights of an earlier stage, e.g. pretrain.")
    ] = None,
    out: Annotated[Path, typer.Option(help="PNG to write, with a JSON file beside.")] = Path(
        "features.png"
    ),
    layout: Layout = "auto",
    text_column: TextColumn = None,
    split_column: SplitColumn = None,
    laterality: Whose = None,
    hold_out: HoldOut = 0.0,
    merge_valid: MergeValid = False,
    cache_dir: CacheDir = None,
) -> None:
    """Draw the image vectors of runs, coloured by sentence, and say how well the sentences separate.

    Example: textmask study features runs/table3/d-seed0 runs/table3/f-seed0 data/table.csv --out features.png
    """
    from textmask.runs.environment import prepare_cpu
    from textmask.studies.probes.features import draw_features

    prepare_cpu()
    manifest = read_data(data, layout, text_column, split_column, laterality, hold_out, merge_valid)
    for found in draw_features(
        runs, manifest, out, split=split, top=top, stage=stage, cache_dir=cache_dir
    ):
        say(
            f"{found.run}: silhouette {found.silhouette:.3f} (sentences shuffled {found.floor:.3f}), n = {found.n}, "
            f"the picture holds {found.explained * 100:.0f} % of the variance"
        )
    say(str(out))


@study_app.command("ambiguity")
def ambiguity_command(
    run: RunPath,
    data: DataPath,
    split: Annotated[str, typer.Option(help="Which split.")] = "test",
    pictures: Annotated[int, typer.Option(help="How many to draw.")] = 4,
    count: Annotated[int, typer.Option(help="How many to measure on.")] = 64,
    seed: Annotated[int, typer.Option(help="Of the choice of pictures and the wording.")] = 0,
    out: Annotated[Path, typer.Option(help="PNG to write, with a JSON file beside.")] = Path(
        "ambiguity.png"
    ),
    layout: Layout = "auto",
    text_column: TextColumn = None,
    split_column: SplitColumn = None,
    laterality: Whose = None,
    hold_out: HoldOut = 0.0,
    merge_valid: MergeValid = False,
    cache_dir: CacheDir = None,
) -> None:
    """Draw where a run looks for similar sentences: reworded, without place, with a vague one, on the other side.

    Example: textmask study ambiguity runs/dusss data/table.csv --out ambiguity.png
    """
    from textmask.runs.environment import prepare_cpu
    from textmask.studies.probes.ambiguity import AmbiguityOptions, lines, measure_ambiguity

    prepare_cpu()
    manifest = read_data(data, layout, text_column, split_column, laterality, hold_out, merge_valid)
    with progress_bars() as step:
        options = AmbiguityOptions(
            split=split,
            images=pictures,
            count=count,
            seed=seed,
            cache_dir=cache_dir,
            progress=lambda done, total: step("images", done, total),
        )
        summary = measure_ambiguity(run, manifest, out, options)
    print_table(
        ["sentence", "cosine to own", "overlap with own", "inside mask", "inside minus own"],
        lines(summary),
    )
    say(
        f"{out}: n = {summary.n} of {summary.usable} usable images, split {split}, seed {seed}; "
        f"the masks cover {summary.mask_share * 100:.1f} % of the image, which is what a flat map has inside"
    )


@study_app.command()
def claims(
    results: Annotated[Path, typer.Option(help="Folder of committed summaries.")] = Path("results"),
    out: Annotated[Path, typer.Option(help="Page to write; a picture goes beside it.")] = Path(
        "docs/claims.md"
    ),
) -> None:
    """Judge the numbered claims of the five papers by the results of this project.

    Example: textmask study claims --results results --out docs/claims.md
    """
    from textmask.studies.claims.page import write_claims
    from textmask.studies.claims.verdicts import VERDICTS, tally

    found = tally(write_claims(results, out))
    say(
        f"{out}: {found.total()} claims; {', '.join(f'{found[verdict]} {verdict}' for verdict in VERDICTS)}"
    )
