"""Runs as one self-contained HTML page: nothing is fetched, everything shown is escaped."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from textmask.errors import DataError
from textmask.evaluation.agreement import agreement_cells
from textmask.evaluation.protocol import provenance_lines
from textmask.evaluation.summary import Difference, EvaluationProtocol
from textmask.evaluation.tables import cell, table_cells
from textmask.io.files import write_whole
from textmask.io.locks import only_replacer
from textmask.plots.overlays import LEGEND
from textmask.reports.groups import (
    Comparable,
    agreement_notes,
    grouped,
    merged,
    own_differences,
    paired_differences,
    shared,
    why_apart,
)
from textmask.reports.plots import (
    agreement_plots,
    curves,
    forest,
    histograms,
    overlays,
    scatters,
    single_figures,
)
from textmask.reports.robustness import (
    read_studies,
    robustness_cells,
    study_images,
    study_plots,
    study_texts,
)
from textmask.reports.runs import ReportedRun, read_runs
from textmask.runs.layout import REPORT, output_folder

MEANING = {
    "image": "the left side of the image (in an ordinary chest radiograph that is the patient's right)",
    "patient": "the patient's left",
    "unknown": "the side that its data meant; the laterality convention is unknown",
}
RUN_HEAD = [
    "run",
    "method",
    "data",
    "labelled images",
    "seed",
    "epoch",
    "chosen by",
    "minutes",
    "weights",
]
DIFFERENCE_HEAD = ["run", "minus", "dice_per_image", "p", "dice_pooled", "p (pooled)"]


@dataclass(frozen=True)
class Section:
    """A further image of a report."""

    title: str
    png: bytes
    caption: str


def write_report(
    runs: str | Path | Sequence[Path], out: Path | None = None, extra: Sequence[Section] = ()
) -> Path:
    """Write one page for one or many runs: tables, curves, single images, agreement, robustness, overlays.

    Runs are compared in one table, and paired image by image, only if they were evaluated on the same images under the
    same protocol; the page says where they were not.

    Args:
        runs: run folder or folders.
        out: file to write (default: `<run>/report.html`; for several runs `report.html` next to the first).
        extra: sections to put first.

    Returns:
        The file written.

    Raises:
        CheckpointError: not a run folder, or an evaluation, overlay or study that cannot be read.
        DataError: `out` cannot be written.
        BusyError: another process writes the same page.
    """
    paths = [Path(runs)] if isinstance(runs, (str, Path)) else list(map(Path, runs))
    found = read_runs(paths)
    if out is None:
        home = found[0].path if len(found) == 1 else found[0].path.resolve().parent
        out = output_folder(home, None) / REPORT
    if not out.parent.is_dir():
        raise DataError(f"{out}: cannot be written, because {out.parent} is not a directory.")
    with only_replacer(out):
        write_whole(out, _page(found, extra).encode("utf-8", "replace"))
    return out


def _page(found: Sequence[ReportedRun], extra: Sequence[Section]) -> str:
    """The HTML text of a report."""
    groups = grouped(found)
    html, style, script = (_template(f"report.{kind}") for kind in ("html", "css", "js"))
    first = [{"title": s.title, "image": _png_uri(s.png), "caption": s.caption} for s in extra]

    # whatever a prompt or a file name holds is escaped
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(html).render(
        title=_page_title(found),
        subtitle=_subtitle(found),
        laterality=_laterality_note(found),
        style=style,
        script=script,
        policy=_policy(style, script),
        extra=first,
        run_head=RUN_HEAD,
        run_lines=[_run_line(run) for run in found],
        unevaluated=[run.label for run in found if not run.evaluations],
        groups=[_comparable_section(group, groups, f"g{i}") for i, group in enumerate(groups)],
        difference_head=DIFFERENCE_HEAD,
        legend=LEGEND,
        curves=curves(found),
        studies=_studies(found),
        made=[_made(run) for run in found],
    )


def _template(name: str) -> str:
    return files("textmask.reports").joinpath("templates", name).read_text("utf-8")


def _policy(style: str, script: str) -> str:
    """Nothing is loaded, and only this page's own script and style, named by their hashes, may run."""
    hashes = [
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for text in (style, script)
    ]
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{hashes[0]}'; script-src 'sha256-{hashes[1]}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _png_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _page_title(runs: Sequence[ReportedRun]) -> str:
    data = ", ".join(dict.fromkeys(_data_name(run) for run in runs))
    what = runs[0].method if len(runs) == 1 else f"{len(runs)} runs"
    return f"textmask: {what} on {data}"


def _data_name(run: ReportedRun) -> str:
    return str(run.data.get("name") or "own data")


def _subtitle(runs: Sequence[ReportedRun]) -> str:
    if len(runs) > 1:
        return ", ".join(run.label for run in runs)
    result = runs[0].result
    if not result:
        return "This run has not finished."
    chosen = f"Chosen: epoch {result.get('epoch')} of stage {result.get('stage')}"
    score = f" by {_score(result)}" if _score(result) else ""
    return f"{chosen}{score}; {result.get('seconds', 0) / 60:.1f} minutes."


def _score(result: dict[str, Any]) -> str:
    return ", ".join(
        f"{key} {value:.4f}" for key, value in result.items() if key.startswith("valid/")
    )


def _laterality_note(runs: Sequence[ReportedRun]) -> str:
    """What left means, for all runs or for each."""
    sides = {}
    for run in runs:
        sides[run.label] = MEANING.get(str(run.data.get("laterality")), MEANING["unknown"])
    if len(set(sides.values())) == 1:
        models = "this model" if len(runs) == 1 else "these models"
        return f'In the prompts of {models}, "left" means {sides[runs[0].label]}.'
    each = "; ".join(f"for {label}, {side}" for label, side in sides.items())
    return f'In their prompts, "left" means: {each}.'


def _run_line(run: ReportedRun) -> list[str]:
    result = run.result
    return [
        run.label,
        run.method,
        _data_name(run),
        str(max(run.data.get("labelled_rows", {}).values(), default=0)),
        str(run.recipe.get("seed", "")),
        " ".join(str(result[key]) for key in ("epoch", "variant") if key in result),
        _score(result) if result else "not finished",
        f"{result['seconds'] / 60:.1f}" if "seconds" in result else "",
        str(result.get("weights_sha256", ""))[:12],
    ]


def _comparable_section(
    group: Comparable, groups: Sequence[Comparable], key: str
) -> dict[str, Any]:
    """What the template shows of the runs that were evaluated under one protocol."""
    table = merged(group)
    head, lines = table_cells(table.rows, table.missing)
    several = len(group.members) > 1
    between, notes = paired_differences(group) if several else ([], [])

    # agreement is shown only if a run measured it
    agreement, plots = None, []
    if table.bounds is not None and any(row.agreement for row in table.rows.values()):
        agreement = agreement_cells(table.rows, table.bounds)
        plots = agreement_plots(table.rows, table.bounds, group)

    # several runs often share rows, and then their lines
    provenance: list[str] = []
    for member in group.members:
        provenance += provenance_lines(member.evaluated.summary)
    figures = single_figures(group)
    return {
        "key": key,
        "split": group.split,
        "names": ", ".join(member.label for member in group.members),
        "alike": sum(other.split == group.split for other in groups) > 1,
        "apart": why_apart(group, groups),
        "protocol": _protocol_terms(group),
        "head": head,
        "lines": lines,
        "between": [_difference_line(difference) for difference in between],
        "between_notes": notes,
        "own": [_difference_line(difference) for difference in own_differences(group)],
        "agreement": agreement,
        "agreement_plots": plots,
        "agreement_notes": agreement_notes(group),
        "provenance": list(dict.fromkeys(provenance)),
        "forest": forest(table.rows, group),
        "histograms": histograms(group),
        "figures": figures,
        "scatters": scatters(figures),
        "cases": [{"run": member.label, "kinds": overlays(member)} for member in group.members],
        "several": several,
    }


def _difference_line(difference: Difference) -> list[str]:
    return [
        difference.arm,
        difference.minus,
        cell(difference.dice_per_image),
        f"{difference.dice_per_image_p:.2g}",
        cell(difference.dice_pooled),
        f"{difference.dice_pooled_p:.2g}",
    ]


def _protocol_terms(group: Comparable) -> list[tuple[str, str]]:
    """The protocol, term by term; what differs between the runs is said for each."""
    protocol = group.protocol

    def each(value: Callable[[EvaluationProtocol], object]) -> str:
        return shared(group, lambda member: str(value(member.evaluated.protocol)))

    images = f"split {protocol.split}, n = {protocol.n} in {protocol.n_groups} groups"
    return [
        ("Data", f"{protocol.data}, sha256 of the manifest {protocol.data_hash[:12]}"),
        ("Images", images),
        ("Scored at", " x ".join(map(str, protocol.size))),
        ("Threshold", each(lambda own: own.threshold)),
        ("Both masks empty", protocol.empty_policy),
        ("HD95", protocol.hd95),
        ("In parentheses", each(lambda own: own.interval)),
        ("Weights chosen by", each(lambda own: own.chosen_by)),
        ("Seed", each(lambda own: own.seed)),
        ("Commit", each(lambda own: own.git_commit or "unknown")),
    ]


def _studies(runs: Sequence[ReportedRun]) -> list[dict[str, Any]]:
    found = []
    for name, studies in read_studies(runs).items():
        plots = study_plots(name, studies)
        head, lines = robustness_cells(studies)

        # a study without figures to plot shows its own chart
        found.append(
            {
                "name": name,
                "protocol": [f"{study.label}: {study.protocol}" for study in studies],
                "plots": plots,
                "images": [] if plots else study_images(studies),
                "head": head,
                "lines": lines,
                "texts": study_texts(studies),
            }
        )
    return found


def _made(run: ReportedRun) -> dict[str, str]:
    return {
        "label": run.label,
        "recipe": json.dumps(run.recipe, indent=2),
        "environment": json.dumps(run.environment, indent=2),
        "data": json.dumps(run.data, indent=2),
    }
