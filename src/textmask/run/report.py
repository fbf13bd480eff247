"""A run as one self-contained HTML page: nothing is fetched, everything shown is escaped."""

from __future__ import annotations

import base64
import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from textmask.errors import CheckpointError
from textmask.io.figures import LEGEND, bar_intervals_png, curve_png, histogram_png
from textmask.io.images import write_whole
from textmask.run.agreement_table import agreement_cells, agreement_lines
from textmask.run.checkpoint import read_json
from textmask.run.evaluate import provenance_lines
from textmask.run.tables import bar, difference_lines, protocol_line, table_cells

MEANING = {
    "image": "the left of the picture (in an ordinary chest film that is the patient's right)",
    "patient": "the patient's left",
    "unknown": "what its data meant; nobody has said which side that is",
}
# figures stand in one table only where these agree
COMPARABLE = ("data_hash", "split", "n", "size", "empty_policy", "hd95")


@dataclass(frozen=True)
class Section:
    """A further picture of a report."""

    title: str
    png: bytes
    caption: str


def report(run: Path, out: Path | None = None, extra: Sequence[Section] = ()) -> Path:
    """Write the report of a run folder: curves and, for every evaluated split, table, plots and overlays.

    Args:
        run: run folder.
        out: file to write; default `<run>/report.html`.
        extra: sections to put first.

    Returns:
        The file written.

    Raises:
        CheckpointError: not a run folder, or an evaluation that cannot be read.
        DataError: `out` cannot be written.
    """
    recipe = read_json(run / "recipe.json")
    data = read_json(run / "data.json")
    evaluations = sorted((run / "evaluation").glob("*/summary.json"))
    summaries = [_evaluation(path.parent) for path in evaluations]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(files("textmask.run").joinpath("templates/report.html").read_text("utf-8"))
    page = template.render(
        title=f"textmask: {recipe.get('method')} on {data.get('name') or 'own data'}",
        subtitle=_subtitle(run),
        laterality=MEANING.get(str(data.get("laterality")), MEANING["unknown"]),
        extra=[{"title": s.title, "image": _uri(s.png), "caption": s.caption} for s in extra],
        summaries=summaries,
        legend=LEGEND,
        curves=[_uri(png) for png in _curves(run)],
        recipe=json.dumps(recipe, indent=2),
        environment=json.dumps(_optional(run / "environment.json"), indent=2),
        data=json.dumps(data, indent=2),
    )
    out = out or run / "report.html"
    write_whole(out, page.encode("utf-8", "replace"))
    return out


def results_table(run_summaries: Sequence[Path], brief: bool = False) -> str:
    """Markdown of committed summary.json files: one table per protocol, a row that several of them hold once.

    Args:
        run_summaries: files written by `evaluate`, the most interesting first.
        brief: below a table only its protocol, without differences and the provenance of each row.

    Raises:
        CheckpointError: a file is missing or was not written by `evaluate`.
    """
    merged: dict[str, dict[str, Any]] = {}
    for path in run_summaries:
        summary = read_json(path)
        try:
            key = json.dumps([summary["protocol"][name] for name in COMPARABLE])
            _merge(summary, merged.setdefault(key, {"rows": {}, "missing_rows": {}, "protocols": [], "notes": []}))
        except (KeyError, TypeError, AttributeError, StopIteration) as error:
            raise _not_a_summary(path, error) from error
    return "\n".join(_markdown(group, brief) for group in merged.values())


def _merge(summary: dict[str, Any], group: dict[str, Any]) -> None:
    """Add a summary's rows and notes to those of the same protocol; other weights under the same name get another."""
    model = next(iter(summary["rows"]))
    for name, row in summary["rows"].items():
        known = group["rows"].get(name, row)
        if known["weights_sha256"] != row["weights_sha256"]:
            name = f"{name} ({row['run']}, {row['weights_sha256'][:6]})"
        group["rows"].setdefault(name, row)
    group["missing_rows"] |= summary["missing_rows"]
    protocol = f"{model}: {protocol_line(summary['protocol'])}"
    if protocol not in group["protocols"]:
        group["protocols"].append(protocol)
    notes = [protocol]
    notes += [f"{model} {line}" for line in difference_lines(summary)] + provenance_lines(summary)
    group["notes"] += [note for note in notes if note not in group["notes"]]
    if "agreement_bounds" in summary:
        group.setdefault("agreement_bounds", summary["agreement_bounds"])
        lines = agreement_lines(summary)
        found = group.setdefault("agreement_notes", [])
        found += [note for note in (lines[0], *(f"{model}: {line}" for line in lines[1:])) if note not in found]


def _markdown(group: dict[str, Any], brief: bool) -> str:
    missing = {name: note for name, note in group["missing_rows"].items() if name not in group["rows"]}
    text = _rows(*table_cells({"rows": group["rows"], "missing_rows": missing}))
    text += "\n" + "".join(f"- {note}\n" for note in group["protocols" if brief else "notes"])
    if brief or "agreement_bounds" not in group:
        return text
    measured = {name: row for name, row in group["rows"].items() if "agreement" in row}
    text += "\n" + _rows(*agreement_cells(group | {"rows": measured}))
    return text + "\n" + "".join(f"- {note}\n" for note in group["agreement_notes"])


def _rows(head: list[str], lines: list[list[str]]) -> str:
    """Markdown of a table."""
    cells = [[cell.replace("|", "\\|") for cell in line] for line in (head, ["---"] * len(head), *lines)]
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def _not_a_summary(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path} is no summary of this version of textmask ({error!r}). Evaluate the run again.")


def _uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def _subtitle(run: Path) -> str:
    result = _optional(run / "result.json")
    if not result:
        return "This run has not finished."
    score = ", ".join(f"{key} {value:.4f}" for key, value in result.items() if key.startswith("valid/"))
    minutes = result.get("seconds", 0) / 60
    return f"Chosen: epoch {result.get('epoch')} of stage {result.get('stage')} by {score}; {minutes:.1f} minutes."


def _curves(run: Path) -> list[bytes]:
    """Loss terms, validation scores and what the method watches, over the epochs."""
    path = run / "log.jsonl"
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []
    if not rows:
        return []
    plots = []
    for label, prefix in (("loss", "loss"), ("validation score", "valid/"), ("monitor", "monitor/")):
        keys = dict.fromkeys(key for row in rows for key in row if key.startswith(prefix))
        names = {key: key.removeprefix("valid/").removeprefix("monitor/") for key in keys}
        series = {name: [row.get(key, float("nan")) for row in rows] for key, name in names.items()}
        if series:
            plots.append(curve_png(series, "epoch", label))
    return plots


def _evaluation(folder: Path) -> dict[str, Any]:
    """What the template shows of one evaluated split.

    Raises:
        CheckpointError: a file of it is missing or not of this version.
    """
    try:
        return _shown(folder, read_json(folder / "summary.json"))
    except (KeyError, TypeError, AttributeError, StopIteration, OSError) as error:
        raise _not_a_summary(folder / "summary.json", error) from error


def _shown(folder: Path, summary: dict[str, Any]) -> dict[str, Any]:
    head, lines = table_cells(summary)
    bars = [bar(name, row["dice_per_image"]) for name, row in summary["rows"].items()]
    model = next(iter(summary["rows"]))
    cases: dict[str, list[dict[str, Any]]] = {}
    for case in _optional(folder / "cases" / "cases.json").get("cases", []):
        src = _uri((folder / "cases" / Path(case["file"]).name).read_bytes())
        entry = {"src": src, "text": case["text"], "image": case["image"], "dice": case["dice_per_image"]}
        cases.setdefault(case["kind"], []).append(entry)
    return {
        "split": summary["protocol"]["split"],
        "head": head,
        "lines": lines,
        "model": model,
        "protocol": protocol_line(summary["protocol"]),
        "differences": difference_lines(summary),
        "provenance": provenance_lines(summary),
        "agreement": agreement_cells(summary) if "agreement_bounds" in summary else None,
        "agreement_notes": agreement_lines(summary) if "agreement_bounds" in summary else [],
        "forest": _uri(bar_intervals_png(bars, "dice_per_image", "95 % intervals")),
        "histogram": _uri(histogram_png(_dice(folder, model), "dice_per_image", title=f"{model}, one count an image")),
        "cases": cases,
    }


def _dice(folder: Path, model: str) -> list[float]:
    path = folder / "per_image.csv"
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            return [float(row["dice_per_image"]) for row in csv.DictReader(stream) if row["row"] == model]
    except (OSError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}. Evaluate again.") from error
