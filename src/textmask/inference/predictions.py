"""predictions.csv: one line per image and prompt of an output folder, for a spreadsheet or a data frame."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textmask.errors import DataError, TextMaskError
from textmask.inference.results import BatchResult
from textmask.io.data_frames import data_frame
from textmask.io.files import read_json, write_whole
from textmask.io.spreadsheets import read_csv, safe_cell

if TYPE_CHECKING:
    import pandas

PREDICTIONS = "predictions.csv"
SCORES = ("likeness", "existence", "agreement")
COLUMNS = (
    *("name", "image", "index", "text", "status", "message", "mask_file", "overlay_file"),
    *("rows", "columns", "foreground_px", "foreground_fraction", "mean_probability"),
    *("abstained", *SCORES, "warnings", "unknown_words", "conversion", "method"),
    "weights_sha256",
)


def write_predictions(out: Path, results: Sequence[BatchResult]) -> Path:
    """Write `PREDICTIONS`; lines of earlier calls with other images or prompts stay.

    Raises:
        DataError: the file cannot be written, or another program's file has its name.
    """
    path = out / PREDICTIONS
    lines = _earlier(path)
    for result in results:
        lines[result.job.stem] = _line(out, result)

    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS)
    writer.writeheader()
    for line in lines.values():
        writer.writerow({name: safe_cell(str(value)) for name, value in line.items()})
    write_whole(path, stream.getvalue().encode(errors="backslashreplace"))
    return path


def read_predictions(folder: Path) -> pandas.DataFrame:
    """The predictions of a folder as a data frame, one row per image and prompt.

    Raises:
        DataError: the folder has no predictions.
        ConfigError: pandas is not installed.
    """
    path = Path(folder) / PREDICTIONS
    if not path.is_file():
        raise DataError(f"{path} does not exist. Give an output folder of textmask predict.")
    return data_frame(list(_earlier(path).values()))


def _earlier(path: Path) -> dict[str, dict[str, Any]]:
    """Lines of the file by name; {} if it does not exist."""
    if not path.exists():
        return {}
    header, records = read_csv(path)
    if not {"name", "image", "text", "status"} <= set(header):
        raise DataError(
            f"{path} is not a file of textmask predict: its columns are {', '.join(header)}. Give another --out."
        )
    lines = {}
    for _, cells in records:
        line = dict(zip(header, cells, strict=False))
        lines[line["name"]] = {name: line.get(name, "") for name in COLUMNS}
    return lines


def _line(out: Path, result: BatchResult) -> dict[str, Any]:
    """The line of one result; the figures come from its JSON file, also if it was written by an earlier call."""
    job = result.job
    line: dict[str, Any] = dict.fromkeys(COLUMNS, "")
    line.update(name=job.stem, image=job.image, text=job.text, status=result.status)
    line["index"] = "" if job.index is None else job.index
    line["message"] = result.message
    if result.status == "failed":
        return line

    try:
        record = read_json(out / f"{job.stem}.json")
        slices = len(record.get("foreground_px_of_slices", (0,)))
        pixels = record["rows"] * record["columns"] * slices
        line["foreground_fraction"] = round(record["foreground_px"] / pixels, 6)
    except (TextMaskError, KeyError, TypeError) as error:
        line["message"] = f"{job.stem}.json is not a complete result ({error}); use --overwrite"
        return line
    # results of version 0.1 have no scores
    figures = record | record.get("scores", {})
    for name in ("rows", "columns", "foreground_px", "mean_probability", "abstained", *SCORES):
        line[name] = "" if figures.get(name) is None else figures[name]
    line.update(method=record.get("method", ""), weights_sha256=record.get("weights_sha256", ""))
    line["warnings"] = " ".join(record.get("warnings", ()))
    line["unknown_words"] = " ".join(record.get("unknown_words", ()))
    line["conversion"] = record.get("asked", {}).get("conversion", "")

    # the mask of a volume is a volume
    endings = (".mask.png", ".mask.nii.gz")
    line["mask_file"] = next(
        (f"{job.stem}{end}" for end in endings if (out / f"{job.stem}{end}").exists()), ""
    )
    line["overlay_file"] = f"{job.stem}.overlay.png"
    return line
