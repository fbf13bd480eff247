"""The commands of `textmask study`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from textmask.cli_grid import ablation, labels, sensitivity
from textmask.cli_options import (
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
from textmask.cli_variants import corruption, prompts, text_noise

study_app = typer.Typer(
    help="Compare trainings (ablation, labels, sensitivity, features) or try one (prompts, text-noise, corruption).",
    no_args_is_help=True,
    rich_markup_mode=None,
)
for _command in (ablation, labels, sensitivity, prompts, text_noise, corruption):
    study_app.command()(_command)


@study_app.command()
def features(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, a panel each.")],
    data: DataPath,
    split: Annotated[str, typer.Option(help="Which split.")] = "test",
    top: Annotated[int, typer.Option(help="How many of its most frequent sentences.")] = 5,
    stage: Annotated[str | None, typer.Option(help="Weights of an earlier stage, e.g. pretrain.")] = None,
    out: Annotated[Path, typer.Option(help="PNG to write, with a JSON file beside.")] = Path("features.png"),
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
    from textmask.run.features import features as draw_features
    from textmask.run.machine import prepare_cpu

    prepare_cpu()
    manifest = read_data(data, layout, text_column, split_column, laterality, hold_out, merge_valid)
    for found in draw_features(runs, manifest, out, split=split, top=top, stage=stage, cache_dir=cache_dir):
        say(
            f"{found.run}: silhouette {found.silhouette:.3f} (sentences shuffled {found.floor:.3f}), n = {found.n}, "
            f"the picture holds {found.explained * 100:.0f} % of the variance"
        )
    say(str(out))


@study_app.command()
def ambiguity(
    run: RunPath,
    data: DataPath,
    split: Annotated[str, typer.Option(help="Which split.")] = "test",
    pictures: Annotated[int, typer.Option(help="How many to draw.")] = 4,
    count: Annotated[int, typer.Option(help="How many to measure on.")] = 64,
    seed: Annotated[int, typer.Option(help="Of the choice of pictures and the wording.")] = 0,
    out: Annotated[Path, typer.Option(help="PNG to write, with a JSON file beside.")] = Path("ambiguity.png"),
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
    from textmask.run.ambiguity import ambiguity as run_ambiguity
    from textmask.run.ambiguity import lines
    from textmask.run.machine import prepare_cpu

    prepare_cpu()
    manifest = read_data(data, layout, text_column, split_column, laterality, hold_out, merge_valid)
    with progress_bars() as step:
        summary = run_ambiguity(
            run,
            manifest,
            out,
            split=split,
            pictures=pictures,
            count=count,
            seed=seed,
            cache_dir=cache_dir,
            progress=lambda done, total: step("pictures", done, total),
        )
    print_table(["sentence", "cosine to own", "overlap with own", "inside mask", "inside minus own"], lines(summary))
    say(
        f"{out}: n = {summary['n']} of {summary['usable']} usable pictures, split {split}, seed {seed}; "
        f"the masks cover {summary['mask_share'] * 100:.1f} % of the picture, which is what a flat map has inside"
    )


@study_app.command()
def reading(
    table: Annotated[Path, typer.Argument(help="CSV of labelled sentences: sentence, zones, and optional columns.")],
    out: Annotated[Path | None, typer.Option(help="JSON file to write (default: none).")] = None,
    show: Annotated[int, typer.Option(help="Print at most N sentences that are read wrong (default: 10).")] = 10,
) -> None:
    """Measure the parser on labelled sentences: accuracy per kind, confusion of side and level, false empty and full.

    Example: textmask study reading sentences.csv --out reading.json
    """
    from textmask.config import write_json
    from textmask.text.reading import lines, measure, read_labelled

    summary = measure(read_labelled(table))
    rows = [
        [name, str(kind.n), str(kind.right), str(kind.sides), str(kind.zones)] for name, kind in summary.kinds.items()
    ]
    print_table(["kind", "sentences", "right", "sides right", "sides and levels right"], rows)
    confused = {pair: n for pair, n in summary.side_confusion.items() if len(set(pair.split(" -> "))) > 1}
    confused.update({pair: n for pair, n in summary.level_confusion.items() if len(set(pair.split(" -> "))) > 1})
    if confused:
        print_table(["labelled -> read", "sentences"], [[pair, str(n)] for pair, n in confused.items()])
    for line in lines(summary):
        say(line)
    for sentence in summary.wrong[: max(show, 0)]:
        say(f"wrong: {sentence}")
    if out is not None:
        write_json(out, summary.as_json())


@study_app.command()
def claims(
    results: Annotated[Path, typer.Option(help="Folder of committed summaries.")] = Path("results"),
    out: Annotated[Path, typer.Option(help="Page to write; a picture goes beside it.")] = Path("docs/claims.md"),
) -> None:
    """Judge the numbered claims of the five papers by the results of this project.

    Example: textmask study claims --results results --out docs/claims.md
    """
    from textmask.run.claims_page import write_claims
    from textmask.run.verdicts import VERDICTS, tally

    found = tally(write_claims(results, out))
    say(f"{out}: {found.total()} claims; {', '.join(f'{found[verdict]} {verdict}' for verdict in VERDICTS)}")
