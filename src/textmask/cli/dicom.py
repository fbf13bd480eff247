"""Commands on DICOM: segment files, and watch a PACS."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from textmask.cli.dicom_tasks import tasks_app
from textmask.cli.options import (
    Device,
    FullHelpGroup,
    RunPath,
    complain,
    find_run,
    say,
    split_names,
)
from textmask.errors import ConfigError, DataError, choose
from textmask.progress import silenced

if TYPE_CHECKING:
    from textmask.pacs.answers import PredictorSegmenter
    from textmask.pacs.client import Pacs
    from textmask.pacs.watch import WatchEvent
    from textmask.pacs.worklist import WorklistItem

dicom_app = typer.Typer(
    cls=FullHelpGroup,
    help="Segment DICOM files, and watch a PACS.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
dicom_app.add_typer(tasks_app, name="tasks")
CONVENTIONS = ["image", "patient"]

Convention = Annotated[
    str | None,
    typer.Option(
        help="Laterality convention of the prompt: patient or image (default: patient for radiographs and CT)."
    ),
]
AssumedConvention = Annotated[
    str | None,
    typer.Option(
        help="Convention to assume if one is unknown; recorded in the results (default: none)."
    ),
]
Fractional = Annotated[
    bool, typer.Option("--fractional", help="Store probabilities in the SEG instead of a mask.")
]


@dicom_app.command()
def segment(
    run: RunPath,
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE", help="DICOM image, or a folder with the slices of one series."
        ),
    ],
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What to segment.")],
    out: Annotated[
        Path, typer.Option(help="Output folder for NAME.seg.dcm, NAME.sr.dcm and NAME.sc.dcm.")
    ] = Path("results"),
    laterality: Convention = None,
    assume: AssumedConvention = None,
    view: Annotated[
        str | None,
        typer.Option(
            help="View of the image: pa, ap, mirrored, lateral or axial (default: that of the file)."
        ),
    ] = None,
    fractional: Fractional = False,
    any_image: Annotated[
        bool,
        typer.Option(
            "--any-image",
            help="Segment images of a kind that the model does not know too; the results say so.",
        ),
    ] = False,
    device: Device = "auto",
) -> None:
    """Segment a DICOM image or series; write SEG, report and secondary capture. Research use only.

    Example: textmask dicom segment default image.dcm "left lung" --out results
    """
    files = _files(source)
    segmenter = _segmenter(run, laterality, assume, view, device, any_image)

    from textmask.io.dicom.facts import ResultUids
    from textmask.io.dicom.results import encode
    from textmask.io.files import write_whole
    from textmask.pacs.results import results
    from textmask.pacs.state import short_hash

    found = segmenter([path.read_bytes() for path in files], prompt)
    instances = [str(one.SOPInstanceUID) for one in found.sources]
    model = segmenter.model.weights_sha256
    uids = ResultUids.of(*instances, prompt, segmenter.settings, model, str(fractional))
    made = results(found, segmenter, uids, with_capture=True, fractional=fractional)

    out.mkdir(parents=True, exist_ok=True)
    stem = f"{source.stem[:60]}-{short_hash(prompt)[:8]}"
    for ending, dataset in zip(("seg", "sr", "sc"), made, strict=True):
        write_whole(out / f"{stem}.{ending}.dcm", encode(dataset))
    for note in found.request.notes:
        say(note)
    say(
        f"{out / stem}.seg.dcm, .sr.dcm, .sc.dcm: {int(found.mask.sum())} of {found.mask.size} pixels segmented"
    )


@dicom_app.command()
def watch(
    run: RunPath,
    dicomweb: Annotated[
        str,
        typer.Option(
            help="Root of the DICOMweb service, e.g. https://pacs/dicom-web (required).",
            show_default=False,
        ),
    ],
    worklist: Annotated[
        Path | None,
        typer.Option(
            help="CSV with the columns text and StudyInstanceUID, AccessionNumber or SOPInstanceUID "
            "(default: the reports of the PACS)."
        ),
    ] = None,
    state: Annotated[Path, typer.Option(help="State file with the finished tasks.")] = Path(
        "watch.sqlite"
    ),
    interval: Annotated[float, typer.Option(help="Seconds between two rounds.")] = 30.0,
    once: Annotated[bool, typer.Option("--once", help="Stop after one round.")] = False,
    token_env: Annotated[
        str | None,
        typer.Option(help="Environment variable with a bearer token (default: no token)."),
    ] = None,
    user_env: Annotated[
        str | None, typer.Option(help="Environment variable with the user (default: no user).")
    ] = None,
    password_env: Annotated[
        str | None,
        typer.Option(help="Environment variable with the password (default: no password)."),
    ] = None,
    modality: Annotated[
        str,
        typer.Option(
            help="Comma-separated modalities to segment, such as CR,DX (default: those that the model knows)."
        ),
    ] = "",
    since: Annotated[
        str | None,
        typer.Option(help="Earliest study date of a report, YYYYMMDD (default: any)."),
    ] = None,
    retry_days: Annotated[
        float,
        typer.Option(help="Days for which a task is tried again after faults that may pass."),
    ] = 7.0,
    health_port: Annotated[
        int | None,
        typer.Option(
            help="Port of GET /health on the loopback interface; 0 picks a free one (default: none).",
            min=0,
            max=65535,
        ),
    ] = None,
    capture: Annotated[
        bool, typer.Option("--capture", help="Store a secondary capture too.")
    ] = False,
    fractional: Fractional = False,
    laterality: Convention = None,
    assume: AssumedConvention = None,
    device: Device = "auto",
) -> None:
    """Segment what a PACS receives and store SEG and SR back. Research use only.

    What to segment comes from a worklist, or from the reports in the PACS.

    Example: textmask dicom watch default --dicomweb https://pacs/dicom-web
    """
    from textmask.pacs.health import Health, serve_health
    from textmask.pacs.state import open_state
    from textmask.pacs.watch import Watcher, WatchSettings, watched_modalities
    from textmask.pacs.worklist import ReportReader, WorklistRows

    named = tuple(split_names(modality))
    settings = WatchSettings(
        named or WatchSettings.modalities, since, capture, fractional, interval, retry_days
    )
    pacs = _pacs(dicomweb, token_env, user_env, password_env)
    read_items: Callable[[], Iterable[WorklistItem]]
    if worklist is None:
        reports = ReportReader(pacs)
        read_items = lambda: reports.items(since)  # noqa: E731
    else:
        read_items = WorklistRows(worklist, lambda message: complain(message, "yellow"))
    segmenter = _segmenter(run, laterality, assume, None, device)
    settings.modalities = watched_modalities(named, segmenter.domain)

    # SIGTERM ends like Ctrl-C; a task that was started is repeated at the next start
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    health = Health()
    with (
        open_state(state) as opened,
        serve_health(health, health_port) as port,
        nullcontext() if once else silenced(),
    ):
        if port is not None:
            say(f"health: http://127.0.0.1:{port}/health")
        watcher = Watcher(
            pacs, segmenter, opened, read_items, settings, _show_event, time.sleep, health
        )
        done = watcher.run(once)
        total = opened.counts()
    say(
        f"this round: {done['stored']} stored, {done['known']} done before, {done['failed']} failed, "
        f"{done['skipped']} skipped, {done['later']} for later; in {state}: {total['stored']} stored, "
        f"{total['failed']} failed, {total['waiting']} waiting, {total['started']} begun"
    )
    if done["failed"] or done["later"]:
        raise typer.Exit(1)


def _show_event(event: WatchEvent) -> None:
    say(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {event}")


def _pacs(url: str, token_env: str | None, user_env: str | None, password_env: str | None) -> Pacs:
    from textmask.pacs.client import Pacs

    if (user_env is None) != (password_env is None):
        raise ConfigError("--user-env and --password-env belong together. Give both or none.")
    token = None if token_env is None else _credential(token_env)
    user = None if user_env is None else _credential(user_env)
    password = None if password_env is None else _credential(password_env)
    return Pacs(url, token=token, user=user, password=password)


def _credential(name: str) -> str:
    """A credential from the environment; other users can see the command line."""
    value = os.environ.get(name, "")
    if not value or not value.isprintable():
        raise ConfigError(
            f"the environment variable {name} is not set, or contains non-printable characters. Set it first."
        )
    return value


def _files(source: Path) -> list[Path]:
    """The DICOM files of an image or of a folder.

    Raises:
        DataError: there is none.
    """
    if not source.is_dir():
        if not source.is_file():
            raise DataError(
                f"{source} does not exist. Expected a DICOM image, or a folder with the slices of a series."
            )
        return [source]
    found = sorted(
        path for path in source.iterdir() if path.is_file() and not path.name.startswith(".")
    )
    if not found:
        raise DataError(
            f"{source} contains no files. Expected a folder with the slices of one series."
        )
    return found


def _segmenter(
    run: Path,
    laterality: str | None,
    assume: str | None,
    view: str | None,
    device: str,
    any_image: bool = False,
) -> PredictorSegmenter:
    """The model of a run, ready to segment DICOM files."""
    from textmask import __version__
    from textmask.io.orientation import VIEWS

    # everything that can be wrong is found before torch is loaded
    if laterality is not None:
        choose("laterality", laterality, CONVENTIONS)
    if assume is not None:
        choose("assumed laterality", assume, CONVENTIONS)
    if view is not None:
        choose("view", view, list(VIEWS))
    path = find_run(run).path

    from textmask.inference.predictor import Predictor
    from textmask.io.read import read_bytes
    from textmask.pacs.answers import PredictorSegmenter
    from textmask.runs.environment import prepare_cpu

    prepare_cpu()
    predictor = Predictor(path, device=device)
    return PredictorSegmenter(
        predictor, read_bytes, __version__, laterality, assume, view, any_image
    )
