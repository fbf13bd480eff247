"""Write a data set as shards: tar files of many images each, with all that a manifest row says of them."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import takewhile
from pathlib import Path

import xxhash

from textmask.data.content import MISSING, file_hashes, hash_file
from textmask.data.manifest import Manifest, Row, read_manifest, write_manifest
from textmask.data.mask_scan import decide_rule
from textmask.data.shard_files import INDEX, TABLE, Shard, ShardIndex, stored_index
from textmask.errors import DataError
from textmask.io.files import what_to_do
from textmask.io.locks import one_writer
from textmask.io.tar_samples import Sample, import_webdataset, write_samples
from textmask.parallel import map_in_order
from textmask.progress import Progress, with_progress

SHARD_BYTES = 256 << 20
TAR_BYTES = 1024  # of a file in a tar, at most, besides its content


@dataclass
class PlannedSample:
    """One image, with its masks and rows.

    Attributes:
        name: of the sample, unique in all shards.
        files: ending in the tar -> path in the manifest; a file that several images share is in the first sample.
        rows: of the image.
        size: bytes of the files.
    """

    name: str
    files: dict[str, str] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    size: int = 0


@one_writer
def write_shards(
    manifest: Manifest,
    out: Path,
    *,
    shard_bytes: int = SHARD_BYTES,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> ShardIndex:
    """Write a data set as shards into a folder; the same call again continues where it was stopped.

    Each image is a sample of WebDataset: NUMBER.image.png, NUMBER.mask.png and NUMBER.json, which holds the rows. Files
    are copied byte for byte. The index is written last and makes the folder valid.

    Args:
        manifest: the data set.
        out: folder to write; created if it is missing.
        shard_bytes: size at which a shard is full; at least one image is in each.
        cache_dir: see `decide_rule`.
        progress: called with (task, done, total).

    Returns:
        The index.

    Raises:
        DataError: a file cannot be read or changes meanwhile, masks do not say what is foreground, or the folder has
            shards of other data, or cannot be written.
        ConfigError: webdataset is not installed.
        BusyError: another process writes there.
    """
    import_webdataset()
    manifest = decide_rule(manifest, cache_dir, progress)
    paths = {path for row in manifest.rows for path in (row.image, row.mask) if path}
    hashes = file_hashes(manifest, paths, cache_dir, progress)
    if unread := sorted(path for path in paths if hashes[path] == MISSING):
        raise DataError(
            f"{manifest.root}: {len(unread)} files cannot be read, e.g. {unread[0]}. Correct or remove their rows."
        )

    plan = _plan(manifest, shard_bytes)
    index = _started(manifest, out, plan, hashes)
    waiting = range(len(index.shards), len(plan))
    root = manifest.root

    def write(number: int) -> Shard:
        return _write_shard(manifest, out / f"shard-{number:05d}.tar", plan[number], hashes, root)

    # written on all cores; each is part of the index as soon as it and those before it are finished
    ended = map_in_order(write, waiting)
    for _ in with_progress(waiting, "shards", progress):
        index = replace(index, shards=(*index.shards, next(ended)))
        index.write()
    index = replace(index, complete=True)
    index.write()
    return index


def _plan(manifest: Manifest, shard_bytes: int) -> list[list[PlannedSample]]:
    """The samples of each shard, in the order in which the manifest first names their images."""
    samples: dict[str, PlannedSample] = {}
    stored: set[str] = set()
    for row in manifest.rows:
        sample = samples.setdefault(row.image, PlannedSample(f"{len(samples):09d}"))
        sample.rows.append(row)
        for kind, path in (("image", row.image), ("mask", row.mask)):
            if path is not None and path not in stored:
                stored.add(path)
                ending = _ending(path)
                same = sum(name.startswith(kind) for name in sample.files)
                sample.files[f"{kind}{same or ''}{ending}"] = path
                sample.size += os.path.getsize(manifest.root / path) + TAR_BYTES

    plan: list[list[PlannedSample]] = []
    free = 0
    for sample in samples.values():
        size = sample.size + len(_sample_json(manifest, sample)) + TAR_BYTES
        if not plan or size > free:
            plan.append([])
            free = shard_bytes
        plan[-1].append(sample)
        free -= size
    return plan


def _ending(path: str) -> str:
    """The ending of a file name as WebDataset reads it; "" if there is none or it is unusual."""
    name = path.rpartition("/")[2].lower()
    ending = ".nii.gz" if name.endswith(".nii.gz") else os.path.splitext(name)[1]
    return ending if ending.isascii() and ending.replace(".", "").isalnum() else ""


def _started(
    manifest: Manifest,
    out: Path,
    plan: Sequence[Sequence[PlannedSample]],
    hashes: Mapping[str, str],
) -> ShardIndex:
    """The index with the shards that an earlier call finished."""
    digest = hashlib.sha256()
    for samples in plan:
        digest.update(f"shard of {len(samples)}\n".encode())
        for sample in samples:
            digest.update(_sample_json(manifest, sample))
            for path in sample.files.values():
                digest.update(hashes[path].encode())

    # the table has the paths that the files will have when they are unpacked
    table = out / TABLE
    index = ShardIndex(
        folder=out,
        content=digest.hexdigest(),
        name=manifest.name or manifest.root.resolve().name,
        mask_rule=manifest.mask_rule,
        resize_masks=manifest.resize_masks,
        classes=manifest.classes,
        table="",
    )
    if (out / INDEX).exists():
        earlier = stored_index(out)
        if earlier.content != index.content:
            raise DataError(
                f"{out} has shards of other data, or of another size. Give another --out, or remove the folder."
            )
        # those up to the first one that is missing or damaged
        whole = (hash_file(out / shard.name) == shard.checksum for shard in earlier.shards)
        kept = earlier.shards[: len(list(takewhile(bool, whole)))]
        # what does not change the shards, such as names of classes, is in the index only
        finished = replace(index, table=earlier.table, shards=kept, complete=True)
        if earlier == finished and hash_file(table) == earlier.table:
            return earlier
        index = replace(index, shards=kept)

    write_manifest(replace(manifest, root=out), table)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about prompts: who reads the shards is warned
        same = read_manifest(table).hash() == manifest.hash()
    if not same:
        raise DataError(
            f"{table}: cannot hold all rows as they are (spaces around a group, for example). Write a manifest with "
            "`textmask data convert`, correct it, and make the shards of it."
        )
    index = replace(index, table=hash_file(table))
    index.write()
    return index


def _write_shard(
    manifest: Manifest,
    path: Path,
    samples: Sequence[PlannedSample],
    hashes: Mapping[str, str],
    root: Path,
) -> Shard:
    """Write one shard, and check that each file still is what the index says."""

    def contents() -> Iterator[tuple[str, Sample]]:
        for sample in samples:
            files = {"json": _sample_json(manifest, sample)}
            for ending, relative in sample.files.items():
                data = (root / relative).read_bytes()
                if xxhash.xxh3_128_hexdigest(data) != hashes[relative]:
                    raise DataError(
                        f"{root / relative}: has changed while the shards were written. Run the command again, with "
                        "another --out."
                    )
                files[ending] = data
            yield sample.name, files

    try:
        write_samples(path, contents())
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written ({error}). {what_to_do(error.errno)} Then run the command again."
        ) from error
    return Shard(path.name, len(samples), path.stat().st_size, hash_file(path))


def _sample_json(manifest: Manifest, sample: PlannedSample) -> bytes:
    """The JSON of a sample: where its files belong, and its rows."""
    rows = []
    for row in sample.rows:
        fields = asdict(row)
        fields["laterality"] = row.laterality.value
        rows.append({"key": manifest.key(row), **fields})
    rule = None if manifest.mask_rule is None else asdict(manifest.mask_rule)
    content = {"files": sample.files, "rows": rows, "mask_rule": rule}
    return json.dumps(content, sort_keys=True).encode()
