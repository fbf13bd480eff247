"""Samples in tar files as WebDataset defines them: files whose names agree up to the first dot are one sample."""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from textmask.errors import ConfigError, DataError
from textmask.io.files import replacing

# ending -> bytes of the file
Sample = Mapping[str, bytes]


def import_webdataset() -> Any:
    """Import webdataset.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import webdataset
        import webdataset.tariterators
    except ImportError as error:
        raise ConfigError(
            f"shards need WebDataset: pip install 'textmask[shards]' ({error})."
        ) from error
    return webdataset


def write_samples(path: Path, samples: Iterable[tuple[str, Sample]]) -> None:
    """Write a tar file atomically; equal samples give equal bytes.

    Args:
        path: the tar file.
        samples: name without a dot, and the files by their endings, such as `image.png`.

    Raises:
        OSError: the file cannot be written.
        ConfigError: webdataset is not installed.
    """
    webdataset = import_webdataset()
    with (
        replacing(path) as part,
        part.open("wb") as stream,
        webdataset.TarWriter(
            stream, encoder=False, mtime=0, user="textmask", group="textmask"
        ) as tar,
    ):
        for name, files in samples:
            tar.write({"__key__": name, **files})


def read_samples(path: Path) -> Iterator[tuple[str, Sample]]:
    """The samples of a tar file, one after the other; links and devices in it are skipped.

    Raises:
        DataError: the file cannot be read, or is not a tar file.
        ConfigError: webdataset is not installed.
    """
    tar = import_webdataset().tariterators
    try:
        _refuse_bombs(path)
        with path.open("rb") as stream:
            files = ({**file, "__url__": path.name} for file in tar.tar_file_iterator(stream))
            for sample in tar.group_by_keys(files):
                ending = {name: data for name, data in sample.items() if name[:2] != "__"}
                yield sample["__key__"], ending
    except (OSError, ValueError, tarfile.TarError) as error:
        raise DataError(
            f"{path}: cannot be read as a tar file ({error}). Copy it again from where it was made."
        ) from error


def _refuse_bombs(path: Path) -> None:
    """Refuse a tar file that is compressed or has sparse files: a few bytes would fill the memory or the disk."""
    with tarfile.open(path, "r:") as tar:
        announced = sum(member.size for member in tar)
    if announced > path.stat().st_size:
        raise DataError(
            f"{path}: announces {announced:,} bytes and has {path.stat().st_size:,}. Copy it again from where it was "
            "made."
        )
