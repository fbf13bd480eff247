"""Runs as one self-contained HTML page: nothing is fetched, everything shown is escaped."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from textmask.evaluation.agreement import agreement_cells
from textmask.evaluation.protocol import not_a_summary, provenance_lines
from textmask.evaluation.tables import cell, table_cells
from textmask.io.files import write_whole
from textmask.plots.overlays import LEGEND
from textmask.reports.groups import (
    Comparable,
    Difference,
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
    study_pictures,
    study_plots,
    study_table,
    study_texts,
)
from textmask.reports.runs import ReportedRun, read_runs
from textmask.runs.layout import REPORT, output_folder

MEANING = {
    "image": "the left of the picture (in an ordinary chest film that is the patient's right)",
    "patient": "the patient's left",
    "unknown": "what its data meant; nobody has said which side that is",
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
    """A further picture of a report."""

    title: str
    png: bytes
    caption: str


def write_report(
    runs: str | Path | Sequence[Path], out: Path | None = None, extra: Sequence[Section] = ()
) -> Path:
    """Write one page for one or many runs: tables, curves, single images, agreement, robustness, overlays.

    Runs stand in one table, and are paired image by image, only where they were evaluated on the same pictures under
    the same protocol; the page says where they were not.

    Args:
        runs: run folder or folders.
        out: file to write; default `<run>/report.html`, of several runs `report.html` beside the first.
        extra: sections to put first.

    Returns:
        The file written.

    Raises:
        CheckpointError: not a run folder, or an evaluation, overlay or study that cannot be read.
        DataError: `out` cannot be written.
    """
    paths = [Path(runs)] if isinstance(runs, (str, Path)) else list(map(Path, runs))
    found = read_runs(paths)
    groups = grouped(found)
    html, style, script = (_template(f"report.{kind}") for kind in ("html", "css", "js"))
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    page = environment.from_string(html).render(
        title=_page_title(found),
        subtitle=_subtitle(found),
        laterality=_laterality_note(found),
        style=style,
        script=script,
        policy=_policy(style, script),
        extra=[{"title": s.title, "image": _png_uri(s.png), "caption": s.caption} for s in extra],
        run_head=RUN_HEAD,
        run_lines=[_run_line(run) for run in found],
        unevaluated=[run.label for run in found if not run.evaluations],
        groups=[_shown_runs(group, groups, f"g{i}") for i, group in enumerate(groups)],
        difference_head=DIFFERENCE_HEAD,
        legend=LEGEND,
        curves=curves(found),
        studies=_studies(found),
        made=[_made(run) for run in found],
    )
    if out is None:
        first = found[0].path
        out = output_folder(first if len(found) == 1 else first.resolve().parent, None) / REPORT
    write_whole(out, page.encode("utf-8", "replace"))
    return out


def _template(name: str) -> str:
    return files("textmask.reports").joinpath("templates", name).read_text("utf-8")


def _policy(style: str, script: str) -> str:
    """Nothing is loaded, and only this page's own script and style run: they are named by their hashes."""
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
    data = ", ".join(dict.fromkeys(str(run.data.get("name") or "own data") for run in runs))
    return f"textmask: {runs[0].method if len(runs) == 1 else f'{len(runs)} runs'} on {data}"


def _subtitle(runs: Sequence[ReportedRun]) -> str:
    if len(runs) > 1:
        return ", ".join(run.label for run in runs)
    result = runs[0].result
    if not result:
        return "This run has not finished."
    score = f" by {_score(result)}" if _score(result) else ""
    minutes = result.get("seconds", 0) / 60
    return f"Chosen: epoch {result.get('epoch')} of stage {result.get('stage')}{score}; {minutes:.1f} minutes."


def _score(result: dict[str, Any]) -> str:
    return ", ".join(
        f"{key} {value:.4f}" for key, value in result.items() if key.startswith("valid/")
    )


def _laterality_note(runs: Sequence[ReportedRun]) -> str:
    """What left means, for all runs or for each."""
    sides = {
        run.label: MEANING.get(str(run.data.get("laterality")), MEANING["unknown"]) for run in runs
    }
    if len(set(sides.values())) == 1:
        whose = "this model" if len(runs) == 1 else "these models"
        return f'In the sentences of {whose}, "left" means {sides[runs[0].label]}.'
    each = "; ".join(f"for {label}, {side}" for label, side in sides.items())
    return f'In their sentences, "left" means: {each}.'


def _run_line(run: ReportedRun) -> list[str]:
    result = run.result
    return [
        run.label,
        run.method,
        str(run.data.get("name") or "own data"),
        str(max(run.data.get("labelled_rows", {}).values(), default=0)),
        str(run.recipe.get("seed", "")),
        " ".join(str(result[key]) for key in ("epoch", "variant") if key in result),
        _score(result) if result else "not finished",
        f"{result['seconds'] / 60:.1f}" if "seconds" in result else "",
        str(result.get("weights_sha256", ""))[:12],
    ]


def _shown_runs(group: Comparable, groups: Sequence[Comparable], key: str) -> dict[str, Any]:
    """What the template shows of the runs that were evaluated under one protocol.

    Raises:
        CheckpointError: a summary is not of this version.
    """
    try:
        return _comparable_section(group, groups) | {"key": key}
    except (KeyError, TypeError, AttributeError, StopIteration, OSError) as error:
        raise not_a_summary(group.members[0].evaluated.folder / "summary.json", error) from error


def _comparable_section(group: Comparable, groups: Sequence[Comparable]) -> dict[str, Any]:
    summary = merged(group)
    head, lines = table_cells(summary)
    between, notes = paired_differences(group) if len(group.members) > 1 else ([], [])
    measured = {name: row for name, row in summary["rows"].items() if "agreement" in row}
    agreement = summary | {"rows": measured} if "agreement_bounds" in summary and measured else None
    figures = single_figures(group)
    several = len(group.members) > 1
    provenance = [
        line for member in group.members for line in provenance_lines(member.evaluated.summary)
    ]
    return {
        "split": group.split,
        "names": ", ".join(member.label for member in group.members),
        "alike": sum(other.split == group.split for other in groups) > 1,
        "apart": why_apart(group, groups),
        "protocol": _protocol_terms(group),
        "head": head,
        "lines": lines,
        "between": [_difference_line(d) for d in between],
        "between_notes": notes,
        "own": [_difference_line(d) for d in own_differences(group)],
        "agreement": agreement_cells(agreement) if agreement else None,
        "agreement_plots": agreement_plots(agreement, group) if agreement else [],
        "agreement_notes": agreement_notes(group),
        "provenance": list(dict.fromkeys(provenance)),
        "forest": forest(summary, group),
        "histograms": histograms(group),
        "figures": figures,
        "scatters": scatters(figures),
        "cases": [{"run": member.label, "kinds": overlays(member)} for member in group.members],
        "several": several,
    }


def _difference_line(d: Difference) -> list[str]:
    return [
        d.a,
        d.b,
        cell(d.dice_per_image),
        f"{d.dice_per_image_p:.2g}",
        cell(d.dice_pooled),
        f"{d.dice_pooled_p:.2g}",
    ]


def _protocol_terms(group: Comparable) -> list[tuple[str, str]]:
    """The protocol, term by term; what differs between the runs is said for each."""
    protocol = group.protocol

    def each(name: str) -> str:
        return shared(group, lambda member: str(member.evaluated.protocol.get(name)))

    return [
        ("Data", f"{protocol['data']}, sha256 of the table {protocol['data_hash'][:12]}"),
        (
            "Images",
            f"split {protocol['split']}, n = {protocol['n']} in {protocol['n_groups']} groups",
        ),
        ("Scored at", " x ".join(map(str, protocol["size"]))),
        ("Threshold", each("threshold")),
        ("Both masks empty", str(protocol["empty_policy"])),
        ("HD95", str(protocol["hd95"])),
        ("In parentheses", each("interval")),
        ("Weights chosen by", each("chosen_by")),
        ("Seed", each("seed")),
        (
            "Commit",
            shared(
                group, lambda member: str(member.evaluated.protocol.get("git_commit") or "unknown")
            ),
        ),
    ]


def _studies(runs: Sequence[ReportedRun]) -> list[dict[str, Any]]:
    found = []
    for name, studies in read_studies(runs).items():
        plots, (head, lines) = study_plots(name, studies), study_table(studies)
        found.append(
            {
                "name": name,
                "protocol": [f"{s.label}: {s.protocol}" for s in studies if s.protocol],
                "notes": [f"{s.label}: {note}" for s in studies for note in s.notes],
                "plots": plots,
                "pictures": [] if plots else study_pictures(studies),
                "head": head,
                "lines": lines,
                "texts": study_texts(studies),
            }
        )
    return found


def _made(run: ReportedRun) -> dict[str, str]:
    parts = {"recipe": run.recipe, "environment": run.environment, "data": run.data}
    return {"label": run.label} | {name: json.dumps(part, indent=2) for name, part in parts.items()}
