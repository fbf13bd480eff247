"""Fetch published encoder weights once, check them, and store them as safetensors with a lock."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from textmask.errors import ConfigError, TextMaskError, WeightsError, choose
from textmask.export.import_weights import unpickled
from textmask.io.files import file_sha256, write_json
from textmask.weights import (
    LOCK,
    PUBLISHED,
    Published,
    check_commit,
    stored_weights,
    weights_folder,
)

SAFE, PICKLED = "model.safetensors", "pytorch_model.bin"
# what a tokenizer needs; none of them is code
SMALL_FILES = (
    *("config.json", "vocab.txt", "vocab.json", "merges.txt", "tokenizer.json"),
    *("tokenizer_config.json", "special_tokens_map.json"),
)
SECONDS = 10.0


def get_weights(name: str, revision: str | None = None) -> Path:
    """Store the weights of a named encoder on this machine, unless they are stored already.

    The files are downloaded at the pinned commit, or at the newest one if none is pinned; the lock records which. If
    the hub holds only a pickle, the guarded reader of `import-weights` converts it, and the pickle is deleted.

    Args:
        name: a key of `textmask.weights.PUBLISHED`.
        revision: full commit in place of the pinned one.

    Returns:
        The folder, as `textmask.weights.stored_weights` finds it.

    Raises:
        ConfigError: unknown name, or the revision is not a full commit.
        WeightsError: the hub cannot be reached, or its file is not the pinned one.
        CheckpointError: the pickle on the hub is not a plain state dict.
    """
    published = PUBLISHED[choose("weights", name, list(PUBLISHED))]
    if revision is not None:
        check_commit(revision, published.source)
    try:
        return stored_weights(name, revision)
    except WeightsError:
        # nothing, or something that is not what the lock says: it is fetched again
        pass

    listing = _listing(name, published, revision or published.revision or "main")
    commit = str(listing.sha)
    file = next((f for f in (SAFE, PICKLED) if f in _hub_names(listing)), None)
    if file is None:
        raise WeightsError(f"{published.source}@{commit} holds neither {SAFE} nor {PICKLED}.")
    pinned = published.sha256 if commit == published.revision else None
    on_hub = _hub_sha256(listing, file)
    if pinned and on_hub and on_hub != pinned:
        raise WeightsError(
            f"{file} of {published.source}@{commit}: the hub states sha256 {on_hub}, but {pinned} is pinned. "
            "Nothing was downloaded."
        )

    # a folder appears as a whole
    home = weights_folder() / name / commit
    unfinished = home.with_name(f"{commit}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        _download(published, commit, [file, *_small_files(listing)], unfinished)
        _finish(unfinished, file, published, commit, on_hub)
        shutil.rmtree(home, ignore_errors=True)
        unfinished.replace(home)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return stored_weights(name, commit)


def _finish(folder: Path, file: str, published: Published, commit: str, on_hub: str | None) -> None:
    """Check the downloaded weights, convert a pickle, and write the lock."""
    got = file_sha256(folder / file)
    pinned = published.sha256 if commit == published.revision else None
    expected = pinned or on_hub
    if expected and got != expected:
        raise WeightsError(
            f"{file} of {published.source}@{commit}: sha256 {got}, expected {expected}."
        )
    if file == PICKLED:
        unpickled(folder / PICKLED, folder / SAFE, folder / PICKLED)
        (folder / PICKLED).unlink()

    files: dict[str, str] = {}
    for path in sorted(folder.iterdir()):
        if path.is_file():
            files[path.name] = file_sha256(path)
    lock = {
        "version": 1,
        "source": published.source,
        "licence": published.licence,
        "revision": commit,
        "pinned": {"revision": commit == published.revision, "sha256": pinned is not None},
        "published": {"file": file, "sha256": got},
        "files": files,
    }
    write_json(folder / LOCK, lock)


def convert_weights(source: Path, out: Path | None = None) -> Path:
    """Convert a pickled state dict (.bin, .pt) to safetensors, without unpickling it in this process.

    Args:
        source: the pickle.
        out: file to write; default `model.safetensors` next to `pytorch_model.bin`, otherwise the name of `source` with
            the ending .safetensors.

    Returns:
        The file that was written.

    Raises:
        ConfigError: `source` does not exist, or `out` does.
        CheckpointError: it is not a plain state dict.
    """
    if not source.is_file():
        raise ConfigError(f"{source} does not exist. Give a file such as {PICKLED}.")
    default = (
        source.with_name(SAFE) if source.name == PICKLED else source.with_suffix(".safetensors")
    )
    target = out or default
    if target.exists():
        raise ConfigError(f"{target} exists. Give another file with --out.")
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f"{target.name}.unfinished")
    try:
        unpickled(source, unfinished, source)
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)
    return target


def _listing(name: str, published: Published, revision: str) -> Any:
    """Files of a commit with their sizes and digests; one request, no retries."""
    import huggingface_hub

    api = huggingface_hub.HfApi(endpoint=_endpoint())
    try:
        return api.model_info(
            published.source, revision=revision, files_metadata=True, timeout=SECONDS
        )
    except Exception as error:
        raise _unreachable(name, published, error) from None


def _download(published: Published, commit: str, names: list[str], folder: Path) -> None:
    """Fetch files of a commit into a folder."""
    import huggingface_hub

    for file in names:
        try:
            huggingface_hub.hf_hub_download(
                published.source,
                file,
                revision=commit,
                local_dir=folder,
                endpoint=_endpoint(),
                etag_timeout=SECONDS,
            )
        except Exception as error:
            raise _unreachable(file, published, error) from None

    # bookkeeping of the downloader
    shutil.rmtree(folder / ".cache", ignore_errors=True)


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT") or "https://huggingface.co"


def _unreachable(what: str, published: Published, error: Exception) -> TextMaskError:
    reason = next(iter(str(error).splitlines()), "") or type(error).__name__
    return WeightsError(
        f"cannot get {what} of {published.source} from {_endpoint()}: {reason[:200]}. Run the command on a machine "
        f"with access and copy {weights_folder()} here, or save the model there and give a folder: NAME:FOLDER."
    )


def _hub_names(listing: Any) -> list[str]:
    return [str(file.rfilename) for file in listing.siblings or ()]


def _small_files(listing: Any) -> list[str]:
    names = set(_hub_names(listing))
    return [name for name in SMALL_FILES if name in names]


def _hub_sha256(listing: Any, name: str) -> str | None:
    """The digest that the hub states for a large file."""
    for file in listing.siblings or ():
        if file.rfilename == name and file.lfs is not None:
            return str(file.lfs.sha256)
    return None
