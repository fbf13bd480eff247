"""The files of YOLO data sets: the polygons of each image, and the names of the classes."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from textmask.errors import DataError
from textmask.layouts.pairing import stem_of
from textmask.layouts.source import LayoutSource

NAME_FILES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml", "classes.txt")
NAMES = re.compile(r"^names\s*:(.*)$", re.MULTILINE)


def yolo_labels(source: LayoutSource) -> dict[str, str]:
    """Image -> its file of polygons, for data sets with a file of class names; else empty."""
    if source.has_tables() or names_file(source) is None:
        return {}
    found = {}
    for image in source.tree.images:
        label = _label_of(image)
        if (source.tree.root / label).is_file():
            found[image] = label
    return found


def _label_of(image: str) -> str:
    """labels/train/a.txt of images/train/a.jpg; a.txt of a.jpg in a folder of another name."""
    folder, name = posixpath.split(image)
    parts = folder.split("/")
    if "images" in parts:
        last = len(parts) - 1 - parts[::-1].index("images")
        parts[last] = "labels"
    return posixpath.join(*parts, f"{stem_of(name)}.txt")


def names_file(source: LayoutSource) -> str | None:
    """The file that names the classes, relative to the root; None without one."""
    for name in NAME_FILES:
        path = source.tree.root / name
        if path.is_file() and (path.suffix == ".txt" or NAMES.search(_text_of(path))):
            return name
    return None


def class_names(path: Path) -> dict[int, str]:
    """Names by number: lines of classes.txt, or `names` of a YAML file as [a, b], a list of lines, or 0: a.

    Raises:
        DataError: there is no name.
    """
    text = _text_of(path)
    found: list[tuple[str, str]] = []
    if path.suffix == ".txt":
        found = [("", line) for line in text.splitlines() if line.strip()]
    elif match := NAMES.search(text):
        inline = match[1].split(" #")[0].strip().strip("[]{}")
        if inline:
            for part in inline.split(","):
                number, mark, name = part.rpartition(":")
                found.append((number if mark else "", name))
        else:
            for line in text[match.end() :].splitlines()[1:]:
                item = re.fullmatch(r"\s*(?:-|(\d+)\s*:)\s+(.+?)\s*(?: #.*)?", line)
                if item is None:
                    if line.strip() and not line.strip().startswith("#"):
                        break
                    continue
                found.append((item[1] or "", item[2]))
    names = {}
    for place, (number, name) in enumerate(found):
        names[int(number) if number.strip() else place] = name.strip().strip("'\"")
    if not names:
        raise DataError(f"{path}: names no class; expected `names: [polyp]` or one name per line.")
    return names


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text ({error}).") from error
