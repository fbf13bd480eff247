"""One small run that all tests of the service share."""

import cv2
import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the service is not installed: pip install 'textmask[serve]'")


@pytest.fixture(scope="session")
def run(phantom_manifest, tmp_path_factory):
    """A small run on phantoms."""
    from textmask.methods.registry import get_method
    from textmask.training.loop import train

    root = tmp_path_factory.mktemp("served")
    recipe = (
        get_method("text_prior").recipe().smoke().override("threshold=0.1")
    )  # follows the sentence at once
    train(recipe, phantom_manifest, root / "run", cache_dir=root / "cache", progress=False)
    return root / "run"


@pytest.fixture(scope="session")
def segmenter(run):
    from textmask.serve.segmenter import Segmenter

    return Segmenter(run)


@pytest.fixture(scope="session")
def film(phantom_manifest):
    """Path of a film of the test split."""
    return phantom_manifest.root / phantom_manifest.rows_of("test")[0].image


@pytest.fixture(scope="session")
def png():
    """A small image as the bytes of a PNG."""
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50), np.uint8)
    return cv2.imencode(".png", pixels)[1].tobytes()


@pytest.fixture
def client_of(segmenter):
    """Opens a client of a service with options; all are closed afterwards."""
    from contextlib import ExitStack

    from fastapi.testclient import TestClient

    from textmask.serve.app import create_app
    from textmask.serve.service import ServiceOptions

    with ExitStack() as stack:

        def client(**options):
            app = create_app(options.pop("segmenter", segmenter), ServiceOptions(**options))
            return stack.enter_context(TestClient(app, base_url="http://127.0.0.1:8000"))

        yield client


@pytest.fixture
def client(client_of):
    return client_of()
