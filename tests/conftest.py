"""Shared fixtures. Nothing here needs a network or a GPU."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from pathlib import Path

import pytest
from jaxtyping import install_import_hook

# shapes in signatures are checked while testing, and cost nothing elsewhere
install_import_hook(
    [
        "textmask.nn",
        "textmask.losses",
        "textmask.methods.biclip.model",
        "textmask.methods.c2seg.model",
        "textmask.methods.semi_medref.patch_mix",
        "textmask.methods.ssa.alignment",
        "textmask.methods.ssa.guidance",
    ],
    "beartype.beartype",
)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder that holds qata-cov19-v2, kvasir-seg ...; skips where TEXTMASK_DATA is not set."""
    root = os.environ.get("TEXTMASK_DATA", "")
    if not root or not Path(root).is_dir():
        pytest.skip("real data: set TEXTMASK_DATA to the folder that holds qata-cov19-v2, kvasir-seg ...")
    return Path(root)


@pytest.fixture(scope="session")
def phantom_manifest(tmp_path_factory):
    """A small set of synthetic films with exact sentences: 24 train, 8 valid, 8 test, 64 x 64."""
    from textmask.data.manifest import read_manifest
    from textmask.data.phantom import PhantomConfig, write_phantoms

    root = tmp_path_factory.mktemp("phantoms")
    counts = {"train": 24, "valid": 8, "test": 8}
    return read_manifest(write_phantoms(root, counts, PhantomConfig(size=(64, 64)), seed=0))
