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
from textmask.run.checkpoint import read_json
from textmask.run.tables import difference_lines, protocol_line, table_cells

MEANING = {
    "image": "the left of the picture (in an ordinary chest film that is the patient's right)",
    "patient": "the patient's left",
    "unknown": "what its data meant; nobody has said which side that is",
}


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
        CheckpointError: not a run folder.
    """
    recipe = read_json(run / "recipe.json")
    data = read_json(run / "data.json")
    evaluations = sorted((run / "evaluation").glob("*/summary.json"))
    summaries = [_evaluation(path.parent) for path in evaluations]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(files("textmask.run").joinpath("templates/report.html").read_text("utf-8"))
    page = template.render(
        title=f"textmask: {recipe['method']} on {data.get('name') or 'own data'}",
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
    write_whole(out, page.encode("utf-8"))
    return out


def _uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def _subtitle(run: Path) -> str:
    result = _optional(run / "result.json")
    if not result:
        return "This run has not finished."
    score = ", ".join(f"{key} {value:.4f}" for key, value in result.items() if key.startswith("valid/"))
    return (
        f"Chosen: epoch {result['epoch']} of stage {result['stage']} by {score}; {result['seconds'] / 60:.1f} minutes."
    )


def _curves(run: Path) -> list[bytes]:
    """Loss terms and validation scores over the epochs."""
    path = run / "log.jsonl"
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []
    if not rows:
        return []
    plots = []
    for label, prefix in (("loss", "loss"), ("validation score", "valid/")):
        keys = dict.fromkeys(key for row in rows for key in row if key.startswith(prefix))
        series = {key.removeprefix("valid/"): [row.get(key, float("nan")) for row in rows] for key in keys}
        if series:
            plots.append(curve_png(series, "epoch", label))
    return plots


def _evaluation(folder: Path) -> dict[str, Any]:
    """What the template shows of one evaluated split."""
    summary = read_json(folder / "summary.json")
    head, lines = table_cells(summary)
    rows = {name: row["dice_per_image"] for name, row in summary["rows"].items()}
    bars = [(name, v["estimate"], v["low"], v["high"]) for name, v in rows.items()]
    bars = [
        (name, value, value if low is None else low, value if high is None else high) for name, value, low, high in bars
    ]
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
        "protocol": protocol_line(summary["protocol"]),
        "differences": difference_lines(summary),
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
