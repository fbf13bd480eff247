"""A folder of shards: tar files of many images each, and an index; its files are unpacked once on each machine.

A shared file system serves a few large files well and a million small ones badly. What reads images and masks gets them
from the local copy, by the same code and with the same results as from the folder that the shards were made of.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from filelock import FileLock

from textmask.data.cache_folder import UNPACKED, cache_folder
from textmask.data.content import hash_file
from textmask.data.manifest import Manifest, read_manifest
from textmask.errors import DataError
from textmask.io.files import temporary_name, what_to_do, write_json
from textmask.io.mask_rule import MaskRule
from textmask.io.paths import path_problem
from textmask.io.tar_samples import read_samples
from textmask.parallel import map_in_order
from textmask.progress import Progress, with_progress

INDEX = "shards.json"
TABLE = "manifest.csv"
FORMAT = 1
DONE = ".unpacked"  # folder of the names of shards that are unpacked


@dataclass(frozen=True)
class Shard:
    """One tar file.

    Attributes:
        name: of the file.
        images: number of its samples.
        bytes: its size.
        checksum: XXH3 (128 bits, hex) of the file.
    """

    name: str
    images: int
    bytes: int
    checksum: str


@dataclass(frozen=True)
class ShardIndex:
    """What shards.json says.

    Attributes:
        folder: that holds the shards.
        content: SHA-256 of the rows, of the content of their files, and of how they are divided.
        name: of the data set.
        mask_rule: how masks are read; None if there are no masks.
        resize_masks: whether masks are fitted to their images.
        classes: names of the values of label maps.
        table: checksum of the manifest.
        shards: in order; while the folder is being written, those that are finished.
        complete: whether all are there.
    """

    folder: Path
    content: str
    name: str
    mask_rule: MaskRule | None
    resize_masks: bool
    classes: Mapping[int, str] | None
    table: str
    shards: tuple[Shard, ...] = ()
    complete: bool = False

    def write(self) -> None:
        """Write shards.json atomically.

        Raises:
            DataError: it cannot be written.
        """
        fields = asdict(self)
        del fields["folder"]
        write_json(self.folder / INDEX, {"format": FORMAT, **fields})

    @property
    def root(self) -> Path:
        """Where the files are unpacked on this machine; equal shards share it, wherever they are."""
        identity = [self.content, *(shard.checksum for shard in self.shards)]
        name = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:24]
        return cache_folder() / UNPACKED / name


def shard_folder(path: str | Path) -> Path | None:
    """The folder of shards that is meant by the folder itself, its index or its manifest; None if there is none."""
    path = Path(path)
    folder = path.parent if path.name in (INDEX, TABLE) else path
    return folder if (folder / INDEX).is_file() else None


def read_index(folder: Path) -> ShardIndex:
    """Read shards.json.

    Raises:
        DataError: it is missing, damaged, of another version, or not complete.
    """
    path = folder / INDEX
    index = stored_index(folder)
    if not index.complete:
        raise DataError(
            f"{path}: the folder is not complete, it has {len(index.shards)} shards. Run the same "
            "`textmask data shard` again: it continues where it was stopped."
        )
    return index


def stored_index(folder: Path) -> ShardIndex:
    """Read shards.json, also that of a folder that is not complete.

    Raises:
        DataError: it is missing, damaged, or of another version.
    """
    path = folder / INDEX
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        version = fields.pop("format")
        if version != FORMAT:
            raise DataError(
                f"{path}: has format {version!r}, expected {FORMAT}. Install the version of textmask that wrote it."
            )
        fields["shards"] = tuple(Shard(**shard) for shard in fields["shards"])

        # JSON has lists for tuples and text for numbers
        if (rule := fields["mask_rule"]) is not None:
            fields["mask_rule"] = MaskRule(**{**rule, "values": tuple(rule["values"])})
        if (classes := fields["classes"]) is not None:
            fields["classes"] = {int(value): name for value, name in classes.items()}
        return ShardIndex(folder, **fields)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: cannot be read as the index of shards ({error}). Copy it again from where it was made."
        ) from error


def read_shards(path: str | Path) -> Manifest:
    """The data set in a folder of shards; its files are unpacked into the cache folder if they are not there yet.

    Raises:
        DataError: there is no such folder, it is not complete, a shard is missing or damaged, or the cache folder
            cannot be written.
        ConfigError: webdataset is not installed.
    """
    folder = shard_folder(path)
    if folder is None:
        raise DataError(
            f"{path}: has no {INDEX}. Name a folder that `textmask data shard` has written."
        )
    index = read_index(folder)
    table = folder / TABLE
    if hash_file(table) != index.table:
        raise DataError(f"{table}: is damaged. Copy it again from where it was made.")

    found = replace(
        read_manifest(table),
        root=index.root,
        name=index.name,
        mask_rule=index.mask_rule,
        resize_masks=index.resize_masks,
        classes=index.classes,
        shards=folder.absolute(),
    )
    unpack(index)
    return found


def on_this_machine(manifest: Manifest) -> Manifest:
    """The same data set, with its shards unpacked here: it may have been read on another machine of a cluster.

    Raises:
        DataError: as `read_shards`.
    """
    if manifest.shards is None:
        return manifest
    index = read_index(manifest.shards)
    unpack(index)
    return manifest if manifest.root == index.root else replace(manifest, root=index.root)


def unpack(index: ShardIndex, progress: Progress | None = None) -> Path:
    """Unpack the shards that are not unpacked yet on this machine; of several processes one does it.

    A shard whose checksum differs is refused. After a kill, the shards that were finished are not read again.

    Returns:
        The folder of the files.

    Raises:
        DataError: a shard is missing or damaged, names a path outside of the folder, or a file cannot be written.
    """
    root = index.root
    if not _waiting(index, root):
        # its time says when it was last used
        with contextlib.suppress(OSError):
            os.utime(root)
        return root
    try:
        (root / DONE).mkdir(parents=True, exist_ok=True)
        with FileLock(root / f"{DONE}.lock"):
            waiting = _waiting(index, root)
            ended = map_in_order(lambda shard: _unpack_shard(index.folder, shard, root), waiting)
            for shard in with_progress(waiting, "shards", progress):
                next(ended)
                (root / DONE / shard.name).write_text(shard.checksum)
    except OSError as error:
        raise DataError(
            f"{root}: cannot unpack shards ({error.strerror}). {what_to_do(error.errno)} "
            "TEXTMASK_CACHE names another folder."
        ) from error
    return root


def _waiting(index: ShardIndex, root: Path) -> list[Shard]:
    """The shards that are not unpacked."""
    try:
        done = set(os.listdir(root / DONE))
    except OSError:
        done = set()
    return [shard for shard in index.shards if shard.name not in done]


def _unpack_shard(folder: Path, shard: Shard, root: Path) -> None:
    path = folder / shard.name
    if path_problem(shard.name) or "/" in shard.name:
        raise DataError(f"{folder / INDEX}: {shard.name!r} is not the name of a shard.")
    found = hash_file(path)
    if found != shard.checksum:
        what = f"is damaged: its checksum is {found}, expected {shard.checksum}"
        raise DataError(
            f"{path}: {what if found else 'cannot be read'}. Copy it again from where it was made, or write the "
            "shards again with `textmask data shard`."
        )

    for name, files in read_samples(path):
        try:
            paths = dict(json.loads(files["json"])["files"])
        except (KeyError, ValueError, TypeError) as error:
            raise DataError(f"{path}: the sample {name} has no list of files ({error}).") from error
        for ending, relative in paths.items():
            # shards come from elsewhere
            if problem := path_problem(relative) or (ending not in files and "is not in the shard"):
                raise DataError(f"{path}: the sample {name}: {relative!r}: {problem}.")
            _write_unpacked(root / relative, files[ending])


def _write_unpacked(path: Path, data: bytes) -> None:
    """Write a file of the cache: whole, but not flushed, because it can be unpacked again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = temporary_name(path)
    try:
        part.write_bytes(data)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
