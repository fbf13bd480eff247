"""Recognizes the layout of a data set from the headers of its tables."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from textmask.data.manifest import COLUMNS, REQUIRED
from textmask.data.shard_files import INDEX
from textmask.errors import DataError
from textmask.io.array_files import has_mask_array
from textmask.io.spreadsheets import (
    column_of,
    csv_records,
    read_csv,
    sheet_headers,
    without_value,
)
from textmask.layouts.choice import TableChoice
from textmask.layouts.pairing import bare_stems, named_kind, plain_stem
from textmask.layouts.source import (
    IMAGE_NAMES,
    MASK_NAMES,
    SHOWN_TABLES,
    SPLIT_NAMES,
    TEXT_NAMES,
    LayoutSource,
    is_flat_list,
)
from textmask.layouts.yolo_files import yolo_labels

PROMPT_FOLDERS = ("prompt", "prompts")

LOOKED_FOR = """looked for
  shards           shards.json next to tar files, as `textmask data shard` writes them
  manifest         a CSV with the columns image, text, split (and mask, group, laterality, labelled)
  imagefolder      metadata.jsonl or metadata.csv with file_name and text, in the folder of the images
  nnunet           dataset.json with labels, next to imagesTr and labelsTr (PNG, TIFF, ...)
  refcoco          a JSON list of references (ann_id, split, sentences) next to a COCO file with the annotations
  coco             a JSON object with the lists images, annotations (polygons or run lengths) and categories
  csv              a CSV that names an image column and a mask or split column; a TSV, JSON Lines file, JSON list of
                   objects or .txt with tabs that names an image column and a text, mask or split column
                   (other names: --image-column, --mask-column, --text-column; another sheet: --sheet)
  lvit             *_text.xlsx (Image, Description) next to {Train,Val,Test}_Folder/{img,labelcol}
  languidemedseg   prompt/{train,test}.csv (Image, Description) next to {Train,Test}/{Images,GTs}
  sgseg            a JSON object train/valid/test of entries with image_path, caption
  medvlsm          anns/{train,val,test}.json, a list of entries with img_name, mask_name, prompts
  semi_medref_csv  {Train,Val,Test}_text*.csv (Image, text)
  madapter         *_{train,test}.csv (Image, Description)
  folders          no table: {images,img,...} next to {masks,labelcol,lesion mask,...}, also below Train/ and Test/
  name_pairs       no table: case.png and case_mask.png (or _seg, _gt, mask_case.png) in one folder
  npz              no table: .npz files with an image (imgs) and its mask (gts)
  yolo             images/ next to labels/ with a .txt of polygons per image, and data.yaml or classes.txt"""


def detect_in(source: LayoutSource) -> str:
    """Name of the layout of a data set.

    Raises:
        DataError: no layout fits; the message lists what was looked for.
    """
    for layout, test in TESTS.items():
        if test(source):
            return layout

    # a common mistake is to name the folder above the data set
    folders = sorted({name.split("/")[0] for name in source.names if "/" in name})
    hint = (
        f"\nThere are tables below {', '.join(folders[:5])}: name one of these folders."
        if folders
        else ""
    )
    raise DataError(
        f"{source.path}: no layout recognized.{_found(source)}{_no_pairs_advice(source)} {LOOKED_FOR}{hint}"
    )


def _no_pairs_advice(source: LayoutSource) -> str:
    """What to do with images that have neither masks nor a table."""
    if source.has_tables() or not source.tree.images:
        return ""
    return (
        f"there are neither masks nor a table. To segment the images: textmask predict {source.path} PROMPT. To train, "
        "add a table with image, mask, text and split, or name the folders images and masks.\n"
    )


def _why_not(source: LayoutSource, name: str) -> str:
    """What is wrong with a CSV that cannot be read, in parentheses; "" if it is something else."""
    if not name.lower().endswith(".csv"):
        return ""
    try:
        read_csv(source.tree.root / name)
    except DataError as error:
        return f" ({str(error).partition(': ')[2].rstrip('.')})"
    return ""


def _found(source: LayoutSource) -> str:
    """What a data set contains, when no layout fits: its tables with their columns, and how many images."""
    lines = []
    for name in source.names[:SHOWN_TABLES]:
        lower = name.lower()
        flat = not lower.endswith(".json") or is_flat_list(source.content(name))
        header = source.header(name) if flat else []
        if header:
            sheets = list(sheet_headers(source.tree.root / name)) if lower.endswith(".xlsx") else []
            sheet = f" (of the sheets {', '.join(sheets)}; --sheet)" if sheets[1:] else ""
            columns = ", ".join(header[:12])
            lines.append(f"{name} with the columns {columns}{sheet}{_what_lacks(header)}")
        else:
            lines.append(f"{name}, which is not read as a table{_why_not(source, name)}")
    if len(source.names) > SHOWN_TABLES:
        lines.append(f"... and {len(source.names) - SHOWN_TABLES} more tables")
    folders = sorted({posixpath.dirname(path) or "." for path in source.tree.images})
    images = f"{len(source.tree.images)} images"
    lines.append(f"{images} in {', '.join(folders[:5])}" if folders else "no images")
    return "\nfound\n  " + "\n  ".join(lines) + "\n"


def _what_lacks(header: list[str]) -> str:
    """What a table lacks to be read as `csv`."""
    if column_of(header, IMAGE_NAMES) is None:
        return " (nearest layout: csv; name the column of image files with --image-column)"
    if column_of(header, TEXT_NAMES) is None:
        return f" (nearest layout: csv; rename the column of prompts to {TEXT_NAMES[1]}, or add mask or split)"
    return " (nearest layout: csv; add a column mask or split)"


def native_table(path: Path, choice: TableChoice | None = None) -> Path | None:
    """The table of a manifest, found without a look at the other files of its folder.

    None does not mean that there is none: a table without a column for masks, or with names of files that must be
    searched for, depends on the other files.

    Args:
        path: a folder, or a table.
        choice: a choice of sheet or columns says that the table is not a manifest.
    """
    if choice is not None and choice != TableChoice():
        return None
    if path.is_dir():
        tables = sorted(file for file in path.iterdir() if _is_visible_csv(file.name))
        tables.sort(key=lambda file: file.name != "manifest.csv")
    else:
        tables = [path] if path.is_file() and _is_visible_csv(path.name) else []

    for table in tables:
        try:
            header, first = _first_rows(table)
        except DataError:
            return None
        if set(REQUIRED) <= set(header) <= set(COLUMNS):
            named = table.name == "manifest.csv" or not _must_search(table.parent, header, first)
            return table if "mask" in header and named else None
        if table.name == "manifest.csv":
            return None
    return None


def _is_visible_csv(name: str) -> bool:
    return name.lower().endswith(".csv") and not name.startswith((".", "~$"))


def _first_rows(table: Path) -> tuple[list[str], list[str]]:
    """The header of a CSV and its first row; an empty one if it has none."""
    records = csv_records(table)
    header = next(records)[1]
    return header, without_value(next(records, (0, []))[1])


def _must_search(root: Path, header: list[str], first: list[str]) -> bool:
    """Whether a table names its images in a way that only a search finds: a.png for images/a.png, C:\\a.png."""
    if len(first) != len(header) or not {"label", "grammar"}.isdisjoint(header):
        return False
    cell = first[header.index("image")].strip()
    return bool(cell) and (cell.startswith("/") or not (root / cell).is_file())


def native_tables(source: LayoutSource) -> list[str]:
    """Tables in the manifest format."""
    # a manifest with a misspelled column must not be taken for another layout
    names = source.top_csv()
    if source.choice.columns:
        return []  # a manifest has its own names
    # beside masks, a table without a column for them is not a manifest of images without masks
    if source.tree.folders("mask"):
        names = [name for name in names if not _has_no_masks(source.header(name))]
    if "manifest.csv" in names:
        return ["manifest.csv"]
    fits = [name for name in names if set(REQUIRED) <= set(source.header(name)) <= set(COLUMNS)]
    # the manifest has commas; the same columns with semicolons are somebody's own table
    fits = [name for name in fits if len(read_csv(source.tree.root / name)[0]) > 1]
    return [name for name in fits if not _names_files_otherwise(source, name)]


def _names_files_otherwise(source: LayoutSource, name: str) -> bool:
    header, records = source.table(name)
    return _must_search(source.tree.root, header, records[0][1] if records else [])


def _has_no_masks(header: list[str]) -> bool:
    """Whether a table in the manifest format has no column for masks."""
    return set(REQUIRED) <= set(header) <= set(COLUMNS) and "mask" not in header


def plain_tables(source: LayoutSource) -> list[str]:
    """CSVs that name an image, and a mask or a split."""

    def fits(header: list[str]) -> bool:
        splits = any(name.lower().startswith("split_") for name in header)
        more = splits or column_of(header, MASK_NAMES) or column_of(header, SPLIT_NAMES)
        return column_of(header, IMAGE_NAMES) is not None and bool(more)

    # a table with prompts alone belongs to a published layout, unless the user names its columns
    found = []
    for name in (*source.top_csv(), *source.top_xlsx()):
        header = source.header(name)
        texts = column_of(header, IMAGE_NAMES) and column_of(header, TEXT_NAMES)
        if fits(header) or (texts and _is_own_table(source, name, header)):
            found.append(name)
    for name in source.top_others():
        header = source.header(name)
        texts = column_of(header, IMAGE_NAMES) and column_of(header, TEXT_NAMES)
        if texts or fits(header):
            found.append(name)
    return found


def _is_own_table(source: LayoutSource, name: str, header: list[str]) -> bool:
    """Whether a CSV with images and prompts alone is somebody's own: no published one has such columns."""
    if source.choice.columns:
        return True
    published = column_of(header, ("text", "description"))
    return name.lower().endswith(".csv") and published is None


def metadata_tables(source: LayoutSource) -> list[str]:
    """metadata.jsonl or metadata.csv of Hugging Face image folders, whose names start from the folder of the table."""
    found = []
    for name in source.names:
        base = posixpath.basename(name).lower()
        named = "image" if source.choice.image_column else "file_name"
        if base in ("metadata.jsonl", "metadata.csv") and named in source.header(name):
            found.append(name)
    return found


def text_tables(
    source: LayoutSource, suffix: str = ".csv", texts: Sequence[str] = TEXT_NAMES
) -> list[str]:
    """Tables with an image column and one of the given text columns."""

    def fits(header: list[str]) -> bool:
        return column_of(header, IMAGE_NAMES) is not None and column_of(header, texts) is not None

    return [name for name in source.named(suffix) if fits(source.header(name))]


def prompt_tables(source: LayoutSource) -> list[str]:
    """Text CSVs in a folder called prompt."""
    found = []
    for name in text_tables(source):
        folders = name.lower().split("/")
        if not set(PROMPT_FOLDERS).isdisjoint(folders):
            found.append(name)
    return found


def caption_jsons(source: LayoutSource) -> list[str]:
    """JSON objects that map a split to entries with a caption."""

    def fits(content: object) -> bool:
        parts = list(content.values()) if isinstance(content, dict) else []
        first = next((part[0] for part in parts if isinstance(part, list) and part), None)
        return isinstance(first, dict) and {"image_path", "caption"} <= set(first)

    return [name for name in source.named(".json") if fits(source.content(name))]


def prompt_jsons(source: LayoutSource) -> list[str]:
    """JSON lists of entries with an image name and prompts."""

    def fits(content: object) -> bool:
        first = content[0] if isinstance(content, list) and content else None
        return isinstance(first, dict) and {"img_name", "prompts"} <= set(first)

    return [name for name in source.named(".json") if fits(source.content(name))]


def mask_folders(source: LayoutSource) -> list[str]:
    """Folders of masks next to folders of images; empty if there is any table."""
    if source.has_tables() or not any(named_kind(path) == "image" for path in source.tree.images):
        return []
    return sorted(
        {posixpath.dirname(path) for path in source.tree.images if named_kind(path) == "mask"}
    )


def mask_pairs(source: LayoutSource) -> dict[str, str]:
    """Mask -> image of the same folder, by names such as case_mask.png; empty if there is any table."""
    if source.has_tables():
        return {}
    stems: dict[tuple[str, str], str] = {}
    for path in source.tree.images:
        stems.setdefault((posixpath.dirname(path), plain_stem(path)), path)
    found = {}
    for path in source.tree.images:
        folder = posixpath.dirname(path)
        for bare in bare_stems(plain_stem(path)):
            if (folder, bare) in stems:
                found[path] = stems[folder, bare]
                break
    return found


def npz_files(source: LayoutSource) -> list[str]:
    """Files that hold an image and its mask; empty if there is any table."""
    if source.has_tables():
        return []
    names = [name for name in source.tree.images if name.lower().endswith(".npz")]
    return [name for name in names if has_mask_array(source.tree.root / name)]


def nnunet_json(source: LayoutSource) -> list[str]:
    """dataset.json of an nnU-Net raw data set: it has labels, and a folder imagesTr beside it."""
    found = []
    for name in source.named(".json"):
        folder = source.tree.root / posixpath.dirname(name) / "imagesTr"
        if posixpath.basename(name) == "dataset.json" and folder.is_dir():
            content = source.content(name)
            if isinstance(content, dict) and "labels" in content:
                found.append(name)
    return found


def reference_jsons(source: LayoutSource) -> list[str]:
    """Lists of references: objects with sentences and the annotation (ann_id) that they mean."""

    def fits(content: object) -> bool:
        refs = content.get("refs") if isinstance(content, dict) else content
        first = refs[0] if isinstance(refs, list) and refs else None
        return isinstance(first, dict) and {"sentences", "ann_id"} <= set(first)

    return [name for name in source.named(".json") if fits(source.content(name))]


def coco_jsons(source: LayoutSource) -> list[str]:
    """COCO files: objects with the lists images and annotations, of which one has a segmentation."""

    def fits(content: object) -> bool:
        if not isinstance(content, dict):
            return False
        images, annotations = content.get("images"), content.get("annotations")
        if not (isinstance(images, list) and isinstance(annotations, list)):
            return False
        objects = all(isinstance(item, dict) for item in (*images, *annotations))
        return objects and any(item.get("segmentation") for item in annotations)

    return [name for name in source.named(".json") if fits(source.content(name))]


TESTS: dict[str, Callable[[LayoutSource], Collection[str]]] = {
    "shards": lambda source: [name for name in source.names if name == INDEX],
    "manifest": native_tables,
    "imagefolder": metadata_tables,
    "nnunet": nnunet_json,
    "refcoco": reference_jsons,
    "coco": coco_jsons,
    "csv": plain_tables,
    "lvit": lambda source: text_tables(source, ".xlsx"),
    "languidemedseg": prompt_tables,
    "sgseg": caption_jsons,
    "medvlsm": prompt_jsons,
    "semi_medref_csv": lambda source: text_tables(source, texts=("text",)),
    "madapter": lambda source: text_tables(source, texts=("description",)),
    "folders": mask_folders,
    "name_pairs": mask_pairs,
    "npz": npz_files,
    "yolo": yolo_labels,
}
LAYOUTS = tuple(TESTS)
