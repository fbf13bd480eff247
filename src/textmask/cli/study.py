"""The commands of `textmask study`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, cast

import typer

from textmask.cli.data_options import NOTHING_GIVEN, GivenOptions, reads_data
from textmask.cli.options import (
    CacheDir,
    DataPath,
    Device,
    FullHelpGroup,
    RunPath,
    find_run,
    print_table,
    read_run_data,
    say,
)
from textmask.cli.study_folds import folds_command
from textmask.cli.study_grid import ablation_command, labels_command, sensitivity_command
from textmask.cli.study_robustness import corruption, prompts, text_noise
from textmask.cli.study_tune import tune_command
from textmask.config import MAX_SEED
from textmask.errors import choose
from textmask.progress import report

study_app = typer.Typer(
    cls=FullHelpGroup,
    help="Compare trainings (ablation, labels, sensitivity) and test runs (prompts, text-noise, ...).",
    no_args_is_help=True,
    rich_markup_mode=None,
)
study_app.command("ablation")(ablation_command)
study_app.command("labels")(labels_command)
study_app.command("sensitivity")(sensitivity_command)
study_app.command("folds")(folds_command)
study_app.command("tune")(tune_command)
study_app.command()(prompts)
study_app.command()(text_noise)
study_app.command()(corruption)


@study_app.command("features")
@reads_data()
def features_command(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Run folders, one panel per run.")
    ],
    data: DataPath,
    split: Annotated[str, typer.Option(help="Split to draw.")] = "test",
    top: Annotated[int, typer.Option(help="Number of the most frequent prompts to draw.")] = 5,
    stage: Annotated[
        str | None,
        typer.Option(help="Stage whose weights are used, e.g. pretrain (default: the last)."),
    ] = None,
    tsne: Annotated[
        bool, typer.Option("--tsne", help="Draw t-SNE next to the principal components too.")
    ] = False,
    out: Annotated[
        Path, typer.Option(help="PNG file to write, next to a JSON file of the same name.")
    ] = Path("features.png"),
    given: GivenOptions = NOTHING_GIVEN,
    device: Device = "auto",
    cache_dir: CacheDir = None,
) -> None:
    """Draw the image vectors of runs, colored by prompt, and measure their separation.

    The data options are those of the first run, unless you give others.

    Example: textmask study features runs/d-seed0 runs/f-seed0 data/table.csv
    """
    records = [find_run(run) for run in runs]
    options = given.over(records[0].options)
    manifest = read_run_data(records[0], data, options)
    manifest.rows_of(split)

    from textmask.runs.environment import prepare_cpu
    from textmask.studies.probes.features import draw_features

    prepare_cpu()
    paths = [record.path for record in records]
    for found in draw_features(
        paths,
        manifest,
        out,
        split=split,
        top=top,
        stage=stage,
        tsne=tsne,
        cache_dir=cache_dir,
        device=device,
    ):
        say(
            f"{found.run}: silhouette {found.silhouette:.3f} (prompts shuffled {found.floor:.3f}), n = {found.n}, "
            f"the plot shows {found.explained * 100:.0f} % of the variance"
        )
    say(str(out))


@study_app.command("ambiguity")
@reads_data()
def ambiguity_command(
    run: RunPath,
    data: DataPath,
    split: Annotated[str, typer.Option(help="Split to draw and measure.")] = "test",
    pictures: Annotated[int, typer.Option(help="Number of images to draw.", min=1, max=64)] = 4,
    count: Annotated[int, typer.Option(help="Number of images to measure.", min=1)] = 64,
    seed: Annotated[
        int, typer.Option(help="Random seed of image sampling and wording.", min=0, max=MAX_SEED)
    ] = 0,
    out: Annotated[
        Path, typer.Option(help="PNG file to write, next to a JSON file of the same name.")
    ] = Path("ambiguity.png"),
    given: GivenOptions = NOTHING_GIVEN,
    device: Device = "auto",
    cache_dir: CacheDir = None,
) -> None:
    """Draw where a run looks for similar prompts: reworded, without place, vague, other side.

    The data options are those of the run, unless you give others.

    Example: textmask study ambiguity runs/dusss data/table.csv
    """
    record = find_run(run)
    options = given.over(record.options)
    manifest = read_run_data(record, data, options)
    manifest.rows_of(split)

    from textmask.runs.environment import prepare_cpu
    from textmask.studies.probes.ambiguity import AmbiguityOptions, lines, measure_ambiguity

    prepare_cpu()
    probe = AmbiguityOptions(
        split=split,
        images=pictures,
        count=count,
        seed=seed,
        cache_dir=cache_dir,
        device=device,
        progress=lambda done, total: report("images", done, total),
    )
    summary = measure_ambiguity(record.path, manifest, out, probe)

    head = ["prompt", "cosine to own", "overlap with own", "inside mask", "inside minus own"]
    print_table(head, lines(summary))
    say(
        f"{out}: n = {summary.n} of {summary.usable} usable images, split {split}, seed {seed}; "
        f"the masks cover {summary.mask_share * 100:.1f} % of the image, which a flat map would have inside the mask"
    )


@study_app.command("mix")
@reads_data()
def mix_command(
    data: DataPath,
    split: Annotated[str, typer.Option(help="Split to mix.")] = "train",
    mode: Annotated[
        str,
        typer.Option(help="Rule of T-PatchMix: position, probability, released or naive (CutMix)."),
    ] = "position",
    block: Annotated[int, typer.Option(help="Side of a block in pixels.", min=1)] = 16,
    share: Annotated[
        float, typer.Option(help="Share of the allowed blocks that are taken.", min=0, max=1)
    ] = 0.5,
    gate: Annotated[str, typer.Option(help="Scope of the lesion gate: block or sample.")] = "block",
    run: Annotated[
        Path | None,
        typer.Option(
            help="Run whose probabilities are the teacher's (default: the true masks are)."
        ),
    ] = None,
    pictures: Annotated[int, typer.Option(help="Number of images to draw.", min=1, max=64)] = 4,
    count: Annotated[int, typer.Option(help="Number of images to measure.", min=2)] = 256,
    size: Annotated[
        int, typer.Option(help="Rows and columns of the images, without --run.", min=8, max=4096)
    ] = 224,
    seed: Annotated[
        int, typer.Option(help="Random seed of image sampling and mixing.", min=0, max=MAX_SEED)
    ] = 0,
    out: Annotated[
        Path, typer.Option(help="PNG file to write, next to a JSON file of the same name.")
    ] = Path("mix.png"),
    given: GivenOptions = NOTHING_GIVEN,
    device: Device = "auto",
    cache_dir: CacheDir = None,
) -> None:
    """Draw what T-PatchMix does to images, masks and prompts; measure how much it mixes.

    With --run the data options are those of the run, unless you give others.

    Example: textmask study mix data/table.csv --mode probability
    """
    from textmask.runs.data_options import DataOptions
    from textmask.runs.read_data import read_data

    choose("--mode", mode, ["position", "probability", "released", "naive"])
    choose("--gate", gate, ["block", "sample"])
    record = None if run is None else find_run(run)
    if record is None:
        manifest = read_data(data, given.over(DataOptions()))
    else:
        manifest = read_run_data(record, data, given.over(record.options))
    manifest.rows_of(split)

    from textmask.runs.environment import prepare_cpu
    from textmask.studies.probes.mix import MixOptions, draw_mix

    prepare_cpu()
    found = draw_mix(
        manifest,
        out,
        MixOptions(
            split=split,
            mode=cast(Any, mode),
            block_px=block,
            share=share,
            gate=cast(Any, gate),
            images=pictures,
            count=count,
            size=size,
            seed=seed,
            run=None if record is None else record.path,
            cache_dir=cache_dir,
            device=device,
        ),
    )
    say(
        f"{out}: {found.mixed_samples * 100:.1f} % of {found.n} samples and {found.mixed_pixels * 100:.2f} % of the "
        f"pixels mixed, {found.changed_prompts * 100:.1f} % of the prompts changed; teacher: {found.teacher}, "
        f"split {split}, seed {seed}"
    )


@study_app.command("reading")
def reading_command(
    table: Annotated[
        Path,
        typer.Argument(metavar="CSV", help="Labelled sentences: sentence, zones, other columns."),
    ],
    out: Annotated[Path | None, typer.Option(help="JSON file to write (default: none).")] = None,
    show: Annotated[int, typer.Option(help="Maximum number of misread sentences to print.")] = 10,
) -> None:
    """Measure the parser on labelled sentences: accuracy per kind and confusion of side and level.

    Example: textmask study reading sentences.csv --out reading.json
    """
    from textmask.io.files import write_json
    from textmask.text.reading import measure_reading, read_labelled, reading_lines

    summary = measure_reading(read_labelled(table))
    rows = []
    for name, kind in summary.kinds.items():
        rows.append([name, str(kind.n), str(kind.right), str(kind.sides), str(kind.zones)])
    print_table(["kind", "sentences", "right", "sides right", "sides and levels right"], rows)

    # only what was taken for something else
    confused = []
    for confusion in (summary.side_confusion, summary.level_confusion):
        for pair, count in confusion.items():
            if len(set(pair.split(" -> "))) > 1:
                confused.append([pair, str(count)])
    if confused:
        print_table(["labelled -> read", "sentences"], confused)

    for line in reading_lines(summary):
        say(line)
    for sentence in summary.wrong[: max(show, 0)]:
        say(f"wrong: {sentence}")
    if out is not None:
        write_json(out, summary.as_json())


@study_app.command()
def claims(
    results: Annotated[Path, typer.Option(help="Folder of committed summaries.")] = Path("results"),
    out: Annotated[
        Path, typer.Option(help="Page to write, next to a figure of the same name.")
    ] = Path("docs/claims.md"),
) -> None:
    """Judge the numbered claims of the five papers by the results of this project.

    Example: textmask study claims --results results --out docs/claims.md
    """
    from textmask.studies.claims.page import write_claims
    from textmask.studies.claims.verdicts import VERDICTS, tally

    found = tally(write_claims(results, out))
    counts = ", ".join(f"{found[verdict]} {verdict}" for verdict in VERDICTS)
    say(f"{out}: {found.total()} claims; {counts}")
