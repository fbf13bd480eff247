"""The command line: one message for a user's mistake, never a traceback."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from textmask.cli_dicom import dicom_app
from textmask.cli_export import add_commands
from textmask.cli_options import (
    CacheDir,
    DataPath,
    Grammar,
    HoldOut,
    Layout,
    MergeValid,
    RunPath,
    SplitColumn,
    TextColumn,
    Whose,
    complain,
    out_console,
    print_table,
    progress_bars,
    read_data,
    say,
)
from textmask.cli_predict import calibrate, predict
from textmask.cli_serve import serve
from textmask.cli_study import study_app
from textmask.errors import ConfigError, TextMaskError, TextMaskWarning, choose

if TYPE_CHECKING:
    from textmask.config import Recipe

INTERRUPTED = 130  # what Typer makes of Ctrl-C

app = typer.Typer(
    name="textmask",
    help="Text-guided medical image segmentation: an image and a sentence in, a mask out. Research use only.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="Look at, check, convert and make data.", no_args_is_help=True, rich_markup_mode=None)
methods_app = typer.Typer(help="What can be trained.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data_app, name="data")
app.add_typer(methods_app, name="methods")
app.add_typer(study_app, name="study")
app.command()(serve)
app.add_typer(dicom_app, name="dicom")
add_commands(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        from textmask import __version__

        out_console.print(__version__)
        raise typer.Exit


@app.callback()
def root(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Text-guided medical image segmentation: an image and a sentence in, a mask out. Research use only."""


@app.command()
def train(
    method: Annotated[str | None, typer.Argument(help="See `textmask methods list`; not needed with --recipe.")] = None,
    data: Annotated[Path | None, typer.Argument(help="Native table, or a published layout.")] = None,
    out: Annotated[Path, typer.Option(help="Run folder to make.")] = Path("runs/run"),
    preset: Annotated[str, typer.Option(help="paper, lite (CPU) or smoke (seconds).")] = "paper",
    settings: Annotated[list[str] | None, typer.Option("--set", help="field=value, e.g. seed=1; repeatable.")] = None,
    recipe: Annotated[Path | None, typer.Option(help="A recipe.json instead of METHOD and --preset.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False,
    labelled_fraction: Annotated[float | None, typer.Option(help="Share of train that keeps its masks.")] = None,
    labelled_list: Annotated[Path | None, typer.Option(help="Text file: the only pictures that keep masks.")] = None,
    layout: Layout = "auto",
    text_column: TextColumn = None,
    split_column: SplitColumn = None,
    laterality: Whose = None,
    hold_out: HoldOut = 0.0,
    merge_valid: MergeValid = False,
    grammar: Grammar = None,
    devices: Annotated[int, typer.Option(help="Processes; batch sizes stay global.")] = 1,
    tracker: Annotated[list[str] | None, typer.Option(help="tensorboard, mlflow; repeatable.")] = None,
    cache_dir: CacheDir = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Train a method and leave a run folder.

    Example: textmask train biclip data/table.csv --preset lite --out runs/biclip
    """
    from textmask.run.train import train as run_training

    if recipe is not None and data is None:
        method, data = None, Path(method) if method else None
    if data is None:
        raise ConfigError("train needs METHOD and DATA (or --recipe FILE and DATA). See textmask train --help.")
    changes = list(settings or [])
    if labelled_fraction is not None:
        changes.append(f"stages.*.labelled_fraction={labelled_fraction}")
    chosen = _recipe(method, preset, recipe)
    if method is not None and method != chosen.method:
        raise ConfigError(f"METHOD is {method!r} but {recipe} is a recipe of {chosen.method!r}; leave METHOD out.")
    result = run_training(
        chosen.override(*changes),
        read_data(data, layout, text_column, split_column, laterality, hold_out, merge_valid, grammar),
        out,
        resume=resume,
        cache_dir=cache_dir,
        labelled_list=labelled_list,
        devices=devices,
        trackers=tuple(tracker or ()),
        progress=not quiet,
    )
    say(
        f"{result.path}: epoch {result.best_epoch} chosen, "
        f"{f'validation score {result.best:.4f}, ' if result.best >= 0 else ''}"
        f"{result.seconds / 60:.1f} minutes. Next: textmask evaluate {result.path} {data} --split test"
    )


@app.command()
def evaluate(
    run: RunPath,
    data: DataPath,
    split: Annotated[str, typer.Option(help="Which split.")] = "test",
    beside: Annotated[list[Path] | None, typer.Option(help="Further runs to set beside; repeatable.")] = None,
    layout: Layout = "auto",
    text_column: TextColumn = None,
    split_column: SplitColumn = None,
    laterality: Whose = None,
    hold_out: HoldOut = 0.0,
    merge_valid: MergeValid = False,
    grammar: Grammar = None,
    surface: Annotated[bool, typer.Option(help="Also HD95 and ASSD.")] = True,
    native: Annotated[bool, typer.Option("--native", help="Score at each mask's own size.")] = False,
    seed: Annotated[int, typer.Option(help="Of shuffling and bootstrap.")] = 0,
    zones: Annotated[str | None, typer.Option(help="Zone map; else chosen by each sentence's grammar.")] = None,
    cache_dir: CacheDir = None,
) -> None:
    """Score a run beside its baselines, with intervals, and write a report.

    Example: textmask evaluate runs/biclip data/table.csv --split test
    """
    from textmask.run.agreement_table import agreement_cells, agreement_lines
    from textmask.run.evaluate import evaluate as run_evaluation
    from textmask.run.evaluate import provenance_lines
    from textmask.run.machine import prepare_cpu
    from textmask.run.report import report as write_report
    from textmask.run.tables import difference_lines, protocol_line, table_cells

    prepare_cpu()
    manifest = read_data(data, layout, text_column, split_column, laterality, hold_out, merge_valid, grammar)
    with progress_bars() as step:
        summary = run_evaluation(
            run,
            manifest,
            split,
            beside=tuple(beside or ()),
            surface=surface,
            native=native,
            seed=seed,
            zones=zones,
            cache_dir=cache_dir,
            progress=step,
        )
    print_table(*table_cells(summary))
    say(protocol_line(summary["protocol"]))
    for line in [f"{run.name} {line}" for line in difference_lines(summary)] + provenance_lines(summary):
        say(f"  {line}")
    print_table(*agreement_cells(summary))
    for line in agreement_lines(summary):
        say(f"  {line}")
    say(f"report: {write_report(run)}")


app.command()(predict)
app.command()(calibrate)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders made by `textmask train`.")],
    out: Annotated[
        Path | None, typer.Option(help="File to write; else in the run, or beside the first of many.")
    ] = None,
) -> None:
    """Write one self-contained HTML report of one run, or of many compared on the same images.

    Example: textmask report runs/biclip runs/unet --out comparison.html
    """
    from textmask.run.report import report as write_report

    say(str(write_report(runs, out)))


@app.command()
def table(
    summaries: Annotated[
        list[Path],
        typer.Argument(help="summary.json of `textmask evaluate`, or of `study prompts` and its like."),
    ],
    brief: Annotated[bool, typer.Option("--brief", help="Without differences and provenance.")] = False,
) -> None:
    """Print one markdown table a protocol from evaluation summaries, or one a study with a column a run.

    Example: textmask table results/qata-*.json
    """
    from textmask.run.checkpoint import read_json
    from textmask.run.report import results_table
    from textmask.run.robustness import robustness_table

    read = [read_json(path) for path in summaries]
    if any("study" in summary for summary in read):
        typer.echo(robustness_table(read))
    else:
        typer.echo(results_table(summaries, brief))


@app.command("verify-table")
def verify_table_command(
    pairs: Annotated[list[str], typer.Argument(help="DICE IOU DICE IOU ..., or tables (.md, .csv, .xlsx).")],
) -> None:
    """Tell whether published (Dice, IoU) pairs can be pooled, per image, or neither.

    One confusion matrix gives Dice = 2 IoU / (1 + IoU); means over images lie below; nothing lies above. The digits as
    typed say how far rounding reaches.

    Example: textmask verify-table 91.65 84.60 83.66 75.11
    """
    from textmask.run.pairs import find_pairs, pair_cells

    print_table(*pair_cells(find_pairs(pairs)))


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder to make.")] = Path("demo"),
    preset: Annotated[str, typer.Option(help="lite (minutes) or smoke (seconds).")] = "lite",
) -> None:
    """Do the main job on embedded synthetic films: train, evaluate, segment by two opposite sentences, report.

    Example: textmask demo --out demo
    """
    from textmask.run.demo import demo as run_demo

    choose("preset", preset, ("lite", "smoke"))
    say(f"report: {run_demo(out, smoke=preset == 'smoke')}")


@data_app.command()
def inspect(
    path: DataPath,
    layout: Layout = "auto",
    text_column: TextColumn = None,
    split_column: SplitColumn = None,
    laterality: Whose = None,
    grammar: Grammar = None,
    pixels: Annotated[bool, typer.Option(help="Open the pictures and masks too.")] = True,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 when there are errors.")] = False,
    json_out: Annotated[Path | None, typer.Option("--json", help="Also write the findings as JSON.")] = None,
) -> None:
    """Say what a data set is, how its splits compare with the published ones, and what is wrong with it.

    Example: textmask data inspect downloads/QaTa-COV19
    """
    from textmask.data.checks import check, summary_rows
    from textmask.data.layouts import detect
    from textmask.data.published import compare_counts

    manifest = read_data(path, layout, text_column, split_column, laterality, 0.0, grammar=grammar)
    found = layout if layout != "auto" else detect(path)
    say(f"{manifest.name or path}: layout {found}, {len(manifest)} rows")
    published = compare_counts(manifest)
    if published is None:
        print_table(["split", "rows"], [[name, str(n)] for name, n in manifest.splits.items()])
    else:
        lines = [[c.split, str(c.found), str(c.published)] for c in published.splits]
        print_table(["split", "rows", f"published ({published.source})"], lines)
    with progress_bars() as step:
        report = check(manifest, pixels=pixels, progress=lambda done, total: step("pictures", done, total))
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
    out: Annotated[Path, typer.Option(help="Native table to write, in or above the folder of the pictures.")],
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


@data_app.command()
def describe(
    path: DataPath,
    out: Annotated[Path, typer.Option(help="Native table to write, in or above the folder of the pictures.")],
    style: Annotated[str, typer.Option(help="lesion or polyp (nine zones), qata, qata_original or report.")] = "lesion",
    zones: Annotated[str | None, typer.Option(help="Zone map; else the one that judges the style.")] = None,
    laterality: Annotated[str, typer.Option(help="Whose left the new sentences mean: image or patient.")] = "image",
    layout: Layout = "auto",
    split_column: SplitColumn = None,
    hold_out: HoldOut = 0.0,
) -> None:
    """Make the sentences from the masks, for data that have none. They tell where the true mask lies, and so leak.

    Example: textmask data describe downloads/BM-Seg --out downloads/BM-Seg/table.csv --hold-out 0.1
    """
    from textmask.run.describe import describe as run_description
    from textmask.types import Laterality

    side = Laterality(choose("laterality", laterality, [str(s) for s in Laterality]))
    manifest = read_data(path, layout, None, split_column, None, hold_out)
    with progress_bars() as step:
        made = run_description(
            manifest,
            out,
            style=style,
            laterality=side,
            zones=zones,
            progress=lambda done, total: step("masks", done, total),
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


@methods_app.command("list")
def list_command() -> None:
    """List the methods.

    Example: textmask methods list
    """
    from textmask.method import get_method, list_methods

    cards = {name: get_method(name).card for name in list_methods()}
    print_table(
        ["method", "what", "image", "text"],
        [[n, c.title, "yes" if c.uses_image else "no", "yes" if c.uses_text else "no"] for n, c in cards.items()],
    )


@methods_app.command("show")
def show_command(
    name: Annotated[str, typer.Argument(help="See `textmask methods list`.")],
    preset: Annotated[str, typer.Option(help="paper, lite or smoke.")] = "paper",
) -> None:
    """Show a method's card, symbols, parameters and recipe.

    Example: textmask methods show biclip --preset lite
    """
    from textmask.method import count_parameters, get_method

    card = get_method(name).card
    recipe = _recipe(name, preset, None)
    say(f"{name}: {card.title}\npaper: {card.paper or 'none, a baseline'}")
    for data_set, figures in card.published.items():
        say(f"published on {data_set}: {figures}")
    if card.symbols:
        print_table(["paper", "here", "shape"], [[s, *pair] for s, pair in card.symbols.items()])
    try:
        count = f"{count_parameters(recipe) / 1e6:.2f} M, frozen text tower not counted"
    except TextMaskError as error:
        count = f"not counted: {error}"
    say(f"trained parameters ({preset}): {count}\nlimits: {card.limits}")
    say(recipe.to_json())


def _recipe(method: str | None, preset: str, path: Path | None) -> Recipe:
    from textmask.method import load_recipe, preset_recipe

    if path is not None:
        try:
            return load_recipe(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read the recipe {path}: {error}.") from error
    return preset_recipe(method or "", preset)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: Any = None,
    line: str | None = None,
) -> None:
    if issubclass(category, TextMaskWarning):
        complain(f"warning: {message}", "yellow")


def main() -> None:
    """Entry point of the `textmask` command: 0 done, 1 some pictures failed, 2 a mistake, 130 interrupted."""
    warnings.showwarning = _show_warning
    try:
        app()
    except (TextMaskError, OSError) as error:  # OSError: a path that is missing, a folder, or may not be read
        if "--debug" in sys.argv:
            raise
        complain(f"error: {error}", "bold red")
        sys.exit(2)
    except SystemExit as error:
        if error.code == INTERRUPTED:
            complain("stopped; a training run continues with --resume, a study with the same command", "yellow")
        raise
