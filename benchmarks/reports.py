"""Reading of whole reports against tags that people gave: `python benchmarks/reports.py reports.csv [--wrong 20]`.

The csv is that of the 3,851 public reports of the Indiana University chest collection (Open-i), as it is passed around
for image captioning: columns `MeSH`, `findings`, `impression`. A tag reads `Opacity/lung/base/left`. Taken are the tags
of a disorder of lung or pleura that name a side (the lingula is left, a middle lobe alone right); left out are tags of
other organs, of lung volumes, of a removed lobe, of the contour of a hilum, and of an angle outside the image.

Per report, the places of all present findings of lung and pleura together are compared with the tags together: sides
in all reports with a sided tag; sides and levels where every such tag names a level, over the findings that are not
said of a whole lung. A tag may be missing or more exact than the report, and words are masked in the public text ("left
hilar XXXX"), so that 100 % cannot be reached. The last goal is the share of the located clauses, without masked words,
that the bundled model answers as far as the words decide.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import binomtest
from timing import Goals

from textmask.inference.screening import Calibration, screen
from textmask.runs.layout import DEFAULT_RUN
from textmask.statement import LUNG_ZONES, Level
from textmask.text.findings import read_findings
from textmask.text.grammar import parse

LEVELS = {"apex": "upper", "upper lobe": "upper", "middle lobe": "middle"}
LEVELS |= dict.fromkeys(("lower lobe", "base", "costophrenic angle"), "lower")
LUNG = {*LEVELS, "lung", "pleura", "lingula", "hilum", "pulmonary alveoli", "retrocardiac"}
ELSEWHERE = set(
    "ribs,aorta,thoracic vertebrae,humerus,breast,shoulder,mediastinum,lymph nodes,clavicle,neck,abdomen,trachea,"
    "spine,diaphragm,paratracheal,azygos lobe,blood vessels".split(",")
)
# disorders that are in lung or pleura even where the tag names no organ
SURE = set(
    "Pleural Effusion,Pneumothorax,Pulmonary Atelectasis,Airspace Disease,Opacity,Consolidation,Infiltrate,Pneumonia,"
    "Costophrenic Angle".split(",")
)
DISORDERS = SURE | set(
    "Bronchiectasis,Bullous Emphysema,Blister,Calcified Granuloma,Calcinosis,Cavitation,Cicatrix,Density,Emphysema,"
    "Granuloma,Granulomatous Disease,Hydropneumothorax,Lucency,Lung Diseases, Interstitial,Lung,Markings,Mass,Nodule,"
    "Pulmonary Congestion,Pulmonary Edema,Pulmonary Emphysema,Pulmonary Fibrosis,Thickening,Volume Loss".split(
        ","
    )
)
UNUSED = {"hyperdistention", "hypoinflation", "obscured"}


class Tags(NamedTuple):
    """Sides and (side, level) pairs of the tags of a report; `levels` only if every tag names one."""

    sides: frozenset[str]
    zones: frozenset[tuple[str, str]]
    levels: bool


def read_tags(mesh: str) -> Tags:
    """The sided tags of lung and pleura."""
    sides: set[str] = set()
    zones: set[tuple[str, str]] = set()
    levels = True
    for tag in mesh.split(";"):
        head, *rest = [part.strip() for part in tag.split("/")]
        words = set(rest)
        about_lung = head in DISORDERS and (words & LUNG or head in SURE)
        if not about_lung or words & (ELSEWHERE | UNUSED) or (head == "Lung" and "hilum" in words):
            continue
        named = {side for side in ("left", "right") if side in words or "bilateral" in words}
        if not named:
            named = (
                {"left"} if "lingula" in words else {"right"} if "middle lobe" in words else set()
            )
        own = {LEVELS[word] for word in words & LEVELS.keys()}
        sides |= named
        zones |= {(side, level) for side in named for level in own}
        levels &= bool(own) or not named
    return Tags(frozenset(sides), frozenset(zones), levels and bool(sides))


def read_zones(text: str) -> tuple[set[tuple[str, str]], set[tuple[str, str]]]:
    """(side, level) of all present findings of lung and pleura; and of those that name a level.

    Volumes and emphysema of both whole lungs are left out: their tags name no side.
    """
    found: set[tuple[str, str]] = set()
    exact: set[tuple[str, str]] = set()
    for item in read_findings(text).items:
        diffuse = item.group == "emphysema" and item.zones == frozenset(LUNG_ZONES)
        if (
            item.present
            and item.organ in ("lung", "pleura")
            and item.group != "volume"
            and not diffuse
        ):
            zones = {(str(side), str(level)) for side, level in item.zones if str(side) != "center"}
            found |= zones
            levels = {level for _, level in zones}
            exact |= zones if len(levels) < len(Level) else set()
    return found, exact


def verdict(read: frozenset[str], tagged: frozenset[str]) -> str:
    """How the sides that were read compare with the tags."""
    if read == tagged:
        return "right"
    if read and not read & tagged:
        return "opposite"
    return "too few" if read < tagged else "too many"


def share(right: int, of: int) -> str:
    """A percentage with its 95 % interval (Wilson); each report is of another patient."""
    found = binomtest(right, of).proportion_ci(method="wilson")
    return f"{100 * right / of:.1f} % ({100 * found.low:.1f} to {100 * found.high:.1f})"


def answered(clauses: set[str]) -> float:
    """Percentage of clauses that the bundled model does not withhold because of their words."""
    calibration = Calibration.from_json(json.loads((DEFAULT_RUN / "calibration.json").read_text()))
    sure = np.ones((8, 8), np.float32)
    withheld = sum(
        screen(clause, parse(clause, "report"), sure, 0.5, calibration).abstained
        for clause in clauses
    )
    print(f"{withheld} of {len(clauses)} located clauses are withheld by the bundled model")
    return 100 - 100 * withheld / len(clauses)


def main() -> int:
    """Print the counts and one line per goal."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("reports", nargs="?", type=Path, help="csv with MeSH, findings, impression")
    parser.add_argument("--wrong", type=int, default=0, help="print so many reports that differ")
    options = parser.parse_args()
    if options.reports is None:
        print("skipped: give the csv of the public reports (columns MeSH, findings, impression)")
        return 0

    with options.reports.open(encoding="utf-8-sig", newline="") as stream:
        rows = list(csv.DictReader(stream))
    counts: Counter[str] = Counter()
    clauses: set[str] = set()
    for row in rows:
        text = f"{row['findings']}\n\n{row['impression']}".strip()
        if not text:
            continue
        clauses |= {clause for clause in read_findings(text).named if "XXXX" not in clause}
        tags = read_tags(row["MeSH"])
        zones, exact = read_zones(text)
        sides = frozenset(side for side, _ in zones)
        if row["MeSH"] == "normal":
            counts["normal"] += 1
            counts["normal, with a place"] += bool(zones)
        if not tags.sides:
            continue
        counts["sided"] += 1
        counts[verdict(sides, tags.sides)] += 1
        if tags.levels:
            counts["levelled"] += 1
            counts["levels right"] += exact == tags.zones
        if options.wrong and verdict(sides, tags.sides) != "right":
            options.wrong -= 1
            print(row["MeSH"], "|", " ".join(text.split())[:300], "->", sorted(zones))

    print(f"{len(rows)} reports, {counts['sided']} with a sided tag:", dict(counts))
    print("sides right:", share(counts["right"], counts["sided"]))
    print("sides and levels right:", share(counts["levels right"], counts["levelled"]))
    goals = Goals()
    goals.at_least("sides_percent", 100 * counts["right"] / counts["sided"], 96)
    goals.at_least(
        "sides_not_opposite_percent", 100 - 100 * counts["opposite"] / counts["sided"], 100
    )
    goals.at_least("levels_percent", 100 * counts["levels right"] / counts["levelled"], 90)
    clean = 100 - 100 * counts["normal, with a place"] / counts["normal"]
    goals.at_least("normal_reports_without_a_place_percent", clean, 99)
    goals.at_least("located_clauses_answered_percent", answered(clauses), 97)
    return goals.finish()


if __name__ == "__main__":
    raise SystemExit(main())
