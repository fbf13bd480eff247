"""Label maps and the names of their values: one row per structure, with its name as the prompt."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from textmask.data.manifest import Manifest, Row
from textmask.data.mask_scan import MaskScan, scan_masks
from textmask.errors import ConfigError, DataError, DataWarning, choose
from textmask.io.mask_rule import MaskRule
from textmask.io.spreadsheets import column_of, read_table
from textmask.progress import Progress

VALUE_NAMES = ("value", "label", "id", "index", "class_id")
CLASS_NAMES = ("name", "class", "structure", "class_name", "category", "label_name")


@dataclass(frozen=True)
class ClassNames:
    """The names of the values of label maps.

    Attributes:
        names: value -> name; several values may have one name.
        bits: whether each value is a bit, so that structures may overlap.
        source: the file.
    """

    names: Mapping[int, str]
    bits: bool = False
    source: str = "classes"


def read_classes(path: Path) -> ClassNames:
    """Read a table with the columns value and name, and optionally encoding (label or bits).

    Raises:
        DataError: the file cannot be read, a column is missing, or a value is not a positive number or named twice.
    """
    header, records = read_table(path)
    value, name = column_of(header, VALUE_NAMES), column_of(header, CLASS_NAMES)
    if value is None or name is None:
        raise DataError(
            f"{path}: expected the columns value and name, got {', '.join(header)}. "
            "Write one line per structure, e.g. 1,right ventricle."
        )

    names: dict[int, str] = {}
    encodings = set()
    for number, cells in records:
        row = {column: cell.strip() for column, cell in zip(header, cells, strict=False)}
        text = row[value]
        if not text.isdecimal():
            raise DataError(f"{path} row {number}: value {text!r}; expected a number such as 1.")
        # the background needs no name
        if int(text) == 0:
            continue
        if int(text) in names or not row[name]:
            what = f"{text} is named twice" if row[name] else f"{text} has no name"
            raise DataError(f"{path} row {number}: the value {what}; keep one line per value.")
        names[int(text)] = row[name]
        encodings.add(row.get("encoding", "").lower())

    if not names:
        raise DataError(f"{path}: names no value above 0; write one line per structure.")
    if not encodings <= {"", "label", "bits"} or len(encodings - {""}) > 1:
        raise DataError(f"{path}: column encoding: expected label or bits, the same in every row.")
    return ClassNames(names, "bits" in encodings, path.name)


def with_classes(
    manifest: Manifest,
    classes: ClassNames,
    *,
    absent: bool = False,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """One row per image and structure that its label map shows, with the name of the structure as the prompt.

    Rows without a mask, and rows that name their values already, stay as they are.

    Args:
        manifest: rows whose masks are label maps.
        classes: the names of the values.
        absent: also keep structures that an image does not show, as rows with an empty mask.
        cache_dir: folder of the cache; None means the user's.
        progress: called with (task, done, total) while masks are read.

    Raises:
        DataError: a label map cannot be read or is a photograph, or no map contains a named value.
    """
    scan = scan_masks(manifest, cache_dir, progress)
    maps = {row.mask: row for row in manifest.rows if row.mask and not row.label}
    found = _map_values(scan, maps)
    labels = _labels(manifest, classes, found)

    rows: list[Row] = []
    blank = []
    named: set[int] = set().union(*labels.values())
    for row in manifest.rows:
        if row.mask is None or row.label:
            rows.append(row)
            continue
        values = set(scan.files[row.mask].values)
        for name, label in labels.items():
            if absent or values.intersection(label):
                rows.append(replace(row, text=name, label=label))
        if not absent and not values & named:
            blank.append(row)

    if blank:
        _warn_of_maps(
            manifest,
            f"{len(blank)} of {len(manifest)} rows show none of the structures and are left out, e.g. "
            f"{blank[0].image}; --absent keeps them, as empty masks",
        )
    # two rows of one image that differed in their prompt are the same now
    distinct = tuple(dict.fromkeys(rows))
    return replace(manifest, rows=distinct, classes=dict(classes.names))


def as_label_maps(
    manifest: Manifest,
    classes: ClassNames,
    *,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> tuple[Manifest, dict[str, tuple[int, ...]]]:
    """The data set with the values of its label maps kept, and the values that show each named structure.

    Rows without a mask are left out, and so are further rows of an image.

    Args:
        manifest: rows whose masks are label maps.
        classes: the names of the values.
        cache_dir: see `with_classes`.
        progress: see `with_classes`.

    Raises:
        DataError: as `with_classes`, or a value is above 255.
    """
    first: dict[str, Row] = {}
    for row in manifest.rows:
        if row.mask and not row.label:
            first.setdefault(row.image, replace(row, text=""))
    maps = {row.mask or "": row for row in first.values()}
    found = _map_values(scan_masks(manifest, cache_dir, progress), maps)
    if found and max(found) > 255:
        raise DataError(
            f"{manifest.name or manifest.root}: a label map has the value {max(found)}; values above 255 are not "
            "supported. Renumber the structures."
        )
    labels = _labels(manifest, classes, found)
    kept = replace(
        manifest,
        rows=tuple(first.values()),
        mask_rule=MaskRule("labels"),
        classes=dict(classes.names),
    )
    return kept, labels


def with_mask_values(manifest: Manifest, values: tuple[int, ...]) -> Manifest:
    """The data set with these values as the foreground of every mask that names none."""
    rows = [
        replace(row, label=values) if row.mask and not row.label else row for row in manifest.rows
    ]
    return replace(manifest, rows=tuple(rows))


def with_mask_options(
    manifest: Manifest,
    *,
    threshold: float | None = None,
    values: str | None = None,
    classes: str | None = None,
    absent: bool = False,
    resize: str | None = None,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """The data set with its masks read as the options say.

    Args:
        manifest: the data set.
        threshold: values above it are foreground.
        values: the values that are foreground, separated by commas.
        classes: file with the names of the values, as it is or in the folder of the data.
        absent: see `with_classes`.
        resize: "nearest" fits masks that differ from their image by a pixel or a common factor.
        cache_dir: see `with_classes`.
        progress: see `with_classes`.

    Raises:
        ConfigError: several of the options are given, or `values` are not numbers.
        DataError: as `read_classes` and `with_classes`.
    """
    given = {"--mask-threshold": threshold, "--mask-values": values, "--classes": classes}
    names = [name for name, value in given.items() if value not in (None, "")]
    if len(names) > 1:
        raise ConfigError(f"{' and '.join(names)} exclude each other; give one of them.")
    if resize:
        choose("way to resize masks", resize, ["nearest"])
        manifest = replace(manifest, resize_masks=True)
    if absent and not classes:
        raise ConfigError("--absent needs --classes, the names of the values of the label maps.")
    if threshold is not None:
        return replace(manifest, mask_rule=MaskRule("threshold", threshold))
    if values:
        parts = [part.strip() for part in values.split(",")]
        if not all(part.isdecimal() for part in parts):
            raise ConfigError(f"--mask-values is {values!r}; expected numbers such as 1,2.")
        return with_mask_values(manifest, tuple(sorted({int(part) for part in parts})))
    if classes:
        places = (Path(classes), manifest.root / classes)
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            raise DataError(
                f"--classes {classes}: there is no such file, and none in {manifest.root}. "
                "Expected a table with the columns value and name."
            )
        return with_classes(
            manifest, read_classes(path), absent=absent, cache_dir=cache_dir, progress=progress
        )
    return manifest


def _map_values(scan: MaskScan, maps: Mapping[str, Row]) -> set[int]:
    """All values of some label maps."""
    found: set[int] = set()
    for path, row in maps.items():
        values = scan.files.get(path)
        if values is None:
            raise DataError(f"{row.image}: its mask {path} cannot be read as an image.")
        if values.photograph or values.colors or any(v != int(v) for v in values.values):
            kind = "colors" if values.colors else "values"
            raise DataError(
                f"{row.image}: its mask {path} is not a label map, it has {values.count} {kind}. "
                "A label map has a whole number per structure."
            )
        found.update(int(v) for v in values.values)
    return found


def _labels(manifest: Manifest, classes: ClassNames, found: set[int]) -> dict[str, tuple[int, ...]]:
    """Name of each structure -> the values of the maps that show it."""
    bits = classes.bits
    unnamed = sorted(found - {0} - set(classes.names))
    every = sum(classes.names)
    if not any(value in classes.names or (classes.bits and value & every) for value in found):
        raise DataError(
            f"{manifest.name or manifest.root}: no mask contains a value of {classes.source} "
            f"({', '.join(map(str, classes.names))}); the masks contain {', '.join(map(str, sorted(found)[:12]))}."
        )

    if not bits and unnamed and len(classes.names) > 2 and _are_bits(classes.names):
        # 5 = 1 + 4: overlapping structures, one bit each
        bits = all(value | every == every for value in unnamed)
        if bits:
            _warn_of_maps(
                manifest,
                f"the values are read as bits, because all values of {classes.source} are powers of two and "
                f"{', '.join(map(str, unnamed[:4]))} are sums of them (overlapping structures)",
            )
    if bits and not _are_bits(classes.names):
        raise DataError(
            f"{classes.source}: encoding is bits, but not all values are powers of two: "
            f"{', '.join(map(str, classes.names))}."
        )

    if bits:
        unnamed = [value for value in unnamed if value | every != every]
    if unnamed:
        shown = ", ".join(map(str, unnamed[:8]))
        _warn_of_maps(
            manifest,
            f"the label maps contain values that {classes.source} does not name and that count as background: {shown}",
        )

    labels: dict[str, set[int]] = {}
    for value, name in classes.names.items():
        covered = {v for v in found if v & value} if bits else set()
        labels.setdefault(name, set()).update(covered or {value})
    return {name: tuple(sorted(values)) for name, values in labels.items()}


def _are_bits(values: Mapping[int, str]) -> bool:
    return all(value & (value - 1) == 0 for value in values)


def _warn_of_maps(manifest: Manifest, what: str) -> None:
    warnings.warn(f"{manifest.name or manifest.root}: {what}.", DataWarning, stacklevel=4)
