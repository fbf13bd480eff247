"""`textmask ensemble`: several runs as one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from textmask.cli.options import find_run, say


def ensemble_command(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Two or more runs of the same data.")
    ],
    out: Annotated[Path, typer.Option(help="New folder; it loads like a run.")],
) -> None:
    """Make one run of several: it predicts their mean probability.

    The folder holds copies of the runs. It works with predict, evaluate, calibrate and serve, and cannot be exported.

    Example: textmask ensemble runs/seed0 runs/seed1 --out runs/both
    """
    for run in runs:
        find_run(run)
    from textmask.runs.ensemble import make_ensemble

    make_ensemble(runs, out)
    say(f"{out}: the mean probability of {len(runs)} runs. Next: textmask evaluate {out} DATA")
