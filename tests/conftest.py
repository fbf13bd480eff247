"""Shared fixtures. Nothing here needs a network or a GPU."""

import os
import shutil
import tempfile

# what is known about masks is kept for the next call, but not in the home folder of whoever runs the tests
os.environ["TEXTMASK_CACHE"] = tempfile.mkdtemp(prefix="textmask-cache-")
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
        "textmask.methods.compose.model",
        "textmask.data.patch_mix",
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
        pytest.skip(
            "real data: set TEXTMASK_DATA to the folder that holds qata-cov19-v2, kvasir-seg ..."
        )
    return Path(root)


@pytest.fixture(scope="session")
def phantom_manifest(tmp_path_factory):
    """A small set of synthetic films with exact sentences: 24 train, 8 valid, 8 test, 64 x 64."""
    from textmask.data.manifest import read_manifest
    from textmask.data.phantom import PhantomConfig, write_phantoms

    root = tmp_path_factory.mktemp("phantoms")
    counts = {"train": 24, "valid": 8, "test": 8}
    return read_manifest(write_phantoms(root, counts, PhantomConfig(size=(64, 64)), seed=0))


CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
MUST = (
    os.environ.get("CI") == "true"
)  # where the browser is installed first: missing it is a failure


@pytest.fixture(scope="module")
def browser():
    """Debian's chromium, headless; closed after each module, because its event loop keeps others out."""
    if not MUST:
        pytest.importorskip(
            "playwright", reason="playwright is not installed: pip install -e '.[test]'"
        )
        if not Path(CHROMIUM).exists():
            pytest.skip("chromium is not installed: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()
