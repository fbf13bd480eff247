"""Commands around DICOM: segment files, and watch a PACS."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from textmask.cli.options import RunPath, complain, say, split_names
from textmask.errors import ConfigError, DataError, choose

if TYPE_CHECKING:
    from textmask.pacs.answers import PredictorSegmenter
    from textmask.pacs.client import Pacs
    from textmask.pacs.watch import WatchEvent
    from textmask.pacs.worklist import WorklistItem

dicom_app = typer.Typer(
    help="Segment DICOM files, and watch a PACS.", no_args_is_help=True, rich_markup_mode=None
)

Meant = Annotated[
    str | None, typer.Option(help="Whose left the sentence means: patient (usual) or image.")
]
Assumed = Annotated[
    str | None,
    typer.Option(help="Whose left to assume where it is not known; noted in the results."),
]
Fractional = Annotated[bool, typer.Option("--fractional", help="The SEG holds probabilities.")]


@dicom_app.command()
def segment(
    run: RunPath,
    source: Annotated[
        Path, typer.Argument(help="A DICOM image, or a folder with the slices of one series.")
    ],
    sentence: Annotated[str, typer.Argument(help="What to segment.")],
    out: Annotated[
        Path, typer.Option(help="Folder for NAME.seg.dcm, NAME.sr.dcm and NAME.sc.dcm.")
    ] = Path("results"),
    laterality: Meant = None,
    assume: Assumed = None,
    view: Annotated[
        str | None, typer.Option(help="What it shows: pa, ap, mirrored, lateral or axial.")
    ] = None,
    fractional: Fractional = False,
) -> None:
    """Segment a DICOM image or series and write segmentation, report and secondary capture. Research use only.

    Example: textmask dicom segment runs/biclip film.dcm "opacity in the lower left lung" --out results
    """
    from textmask.io.dicom.facts import ResultUids
    from textmask.io.dicom.results import encode
    from textmask.io.files import write_whole
    from textmask.pacs.results import results, short_hash

    files = _files(source)
    answerer = _answerer(run, laterality, assume, view)
    found = answerer([path.read_bytes() for path in files], sentence)
    key = [str(one.SOPInstanceUID) for one in found.sources]
    model = answerer.model.weights_sha256
    uids = ResultUids.of(*key, sentence, answerer.settings, model, str(fractional))
    made = results(found, answerer, uids, with_capture=True, fractional=fractional)
    out.mkdir(parents=True, exist_ok=True)
    stem = f"{source.stem[:60]}-{short_hash(sentence)[:8]}"
    for ending, dataset in zip(("seg", "sr", "sc"), made, strict=True):
        write_whole(out / f"{stem}.{ending}.dcm", encode(dataset))
    for note in found.request.notes:
        say(note)
    say(
        f"{out / stem}.seg.dcm, .sr.dcm, .sc.dcm: {int(found.mask.sum())} pixels of {found.mask.size} in the segment"
    )


@dicom_app.command()
def watch(
    run: RunPath,
    dicomweb: Annotated[
        str, typer.Option(help="Root of the DICOMweb service, e.g. https://pacs/dicom-web.")
    ],
    worklist: Annotated[
        Path | None,
        typer.Option(
            help="CSV: text, and StudyInstanceUID, AccessionNumber or SOPInstanceUID. Else reports are read."
        ),
    ] = None,
    state: Annotated[Path, typer.Option(help="File that remembers what was done.")] = Path(
        "watch.sqlite"
    ),
    interval: Annotated[float, typer.Option(help="Seconds between two rounds.")] = 30.0,
    once: Annotated[bool, typer.Option("--once", help="One round, then end.")] = False,
    token_env: Annotated[
        str | None, typer.Option(help="Variable that holds a bearer token.")
    ] = None,
    user_env: Annotated[str | None, typer.Option(help="Variable that holds the user.")] = None,
    password_env: Annotated[
        str | None, typer.Option(help="Variable that holds the password.")
    ] = None,
    modality: Annotated[
        str, typer.Option(help="What is segmented, with commas between.")
    ] = "CR,DX,CT",
    since: Annotated[
        str | None, typer.Option(help="Only reports of studies since that date, YYYYMMDD.")
    ] = None,
    capture: Annotated[
        bool, typer.Option("--capture", help="Also store a secondary capture.")
    ] = False,
    fractional: Fractional = False,
    laterality: Meant = None,
    assume: Assumed = None,
) -> None:
    """Segment what a PACS receives, by a worklist or by its reports, and store SEG and SR back. Research use only.

    Example: textmask dicom watch runs/biclip --dicomweb https://pacs/dicom-web --worklist worklist.csv
    """
    from textmask.pacs.state import open_state
    from textmask.pacs.watch import Watcher, WatchSettings
    from textmask.pacs.worklist import ReportReader, WorklistRows

    settings = WatchSettings(tuple(split_names(modality)), since, capture, fractional, interval)
    pacs = _pacs(dicomweb, token_env, user_env, password_env)
    asks: Callable[[], Iterable[WorklistItem]]
    if worklist is None:
        reports = ReportReader(pacs)
        asks = lambda: reports.items(since)  # noqa: E731
    else:
        asks = WorklistRows(worklist, lambda message: complain(message, "yellow"))
    answerer = _answerer(run, laterality, assume)
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # a job that was begun is done again at the next start
    with open_state(state) as opened:
        done = Watcher(pacs, answerer, opened, asks, settings, _tell).run(once)
        total = opened.counts()
    say(
        f"this round: {done['stored']} stored, {done['known']} done before, {done['failed']} failed, "
        f"{done['later']} for later; in {state}: {total['stored']} stored, {total['failed']} failed, "
        f"{total['started']} begun"
    )
    if done["failed"] or done["later"]:
        raise typer.Exit(1)


def _tell(event: WatchEvent) -> None:
    say(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {event}")


def _pacs(url: str, token_env: str | None, user_env: str | None, password_env: str | None) -> Pacs:
    from textmask.pacs.client import Pacs

    if (user_env is None) != (password_env is None):
        raise ConfigError("--user-env and --password-env belong together; give both or none.")
    token, user, password = (
        None if name is None else _variable(name) for name in (token_env, user_env, password_env)
    )
    return Pacs(url, token=token, user=user, password=password)


def _variable(name: str) -> str:
    """Credentials come from the environment only: arguments are seen by everybody on the machine."""
    value = os.environ.get(name, "")
    if not value or not value.isprintable():
        raise ConfigError(
            f"the variable {name} is not set, or holds what no credential can; set it before the command."
        )
    return value


def _files(source: Path) -> list[Path]:
    if not source.is_dir():
        if not source.is_file():
            raise DataError(
                f"{source} does not exist. Give a DICOM image, or a folder with the slices of a series."
            )
        return [source]
    found = sorted(
        path for path in source.iterdir() if path.is_file() and not path.name.startswith(".")
    )
    if not found:
        raise DataError(f"{source} holds no file. Give a folder with the slices of one series.")
    return found


def _answerer(
    run: Path, laterality: str | None, assume: str | None, view: str | None = None
) -> PredictorSegmenter:
    from textmask import __version__
    from textmask.inference.predictor import Predictor
    from textmask.io.orientation import VIEWS
    from textmask.io.read import read_bytes
    from textmask.pacs.answers import PredictorSegmenter
    from textmask.runs.environment import prepare_cpu

    sides = ["image", "patient"]
    for name, value, valid in (
        ("laterality", laterality, sides),
        ("assume", assume, sides),
        ("view", view, list(VIEWS)),
    ):
        if value is not None:
            choose(name, value, valid)
    prepare_cpu()
    predictor: Any = Predictor(run)
    return PredictorSegmenter(predictor, read_bytes, __version__, laterality, assume, view)
