"""What the service keeps is counted: measured as the memory of the process."""

import gc
import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from dicom_files import cr, mr, to_bytes
from serving import upload

from textmask.inference.predictor import Predictor
from textmask.io.orientation import VIEWS
from textmask.methods.registry import build_method, get_method
from textmask.runs.checkpoint import Run
from textmask.runs.layout import WEIGHTS
from textmask.serve.limits import Limits
from textmask.serve.segmenter import PromptRequest, Segmenter
from textmask.serve.uploads import TABLES, VIEWS_KEPT, header_bytes, without_tables

SENTENCE = "opacity in both lower lungs"  # no side: every view answers
MEBI = 1 << 20


@pytest.fixture(scope="module")
def heavy(tmp_path_factory):
    """A segmenter whose model computes features of the image: about a megabyte per view."""
    root = tmp_path_factory.mktemp("heavy")
    (root / WEIGHTS).write_bytes(b"weights")
    recipe = get_method("statement_unet").recipe().smoke().override("image_size=[192,192]")
    run = Run(root, recipe, build_method(recipe).eval(), {"laterality": "image"}, {})
    return Segmenter(Predictor(run))


def resident():
    """Memory of this process in bytes."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def tiny():
    pixels = np.random.default_rng(0).integers(0, 255, (8, 8), np.uint8)
    return cv2.imencode(".png", pixels)[1].tobytes()


def ask_in_all_views(client, name):
    for view in (None, *VIEWS):
        asked = {"sentence": SENTENCE, "view": view, "return": []}
        assert client.post(f"/v1/images/{name}/masks", json=asked).status_code == 200


def test_the_counter_grows_like_the_process(client_of, heavy):
    client = client_of(segmenter=heavy)
    images = client.app.service.images
    for _ in range(3):  # caches of torch and of the allocator
        ask_in_all_views(client, upload(client, tiny()))

    before, counted = resident(), images.size_bytes
    for _ in range(20):
        ask_in_all_views(client, upload(client, tiny()))
    grown, counted = resident() - before, images.size_bytes - counted
    assert counted > 10 * MEBI
    assert grown < 1.3 * counted + 10 * MEBI


def test_the_store_stays_within_its_bound_and_forgets_features_before_images(client_of, heavy):
    bound = 4 * MEBI
    client = client_of(segmenter=heavy, limits=Limits(max_pixels=10_000, store_bytes=bound))
    images = client.app.service.images
    names = [upload(client, tiny()) for _ in range(10)]
    for name in names:
        ask_in_all_views(client, name)
        assert images.size_bytes <= bound
        assert images.size_bytes == sum(one.value.size_bytes for one in images._kept.values())
    assert len(images) == len(names)  # none has to be uploaded again
    ask_in_all_views(client, names[0])


def test_few_views_of_an_image_are_kept(heavy):
    kept = heavy.read(tiny(), 0, 10_000)
    for view in (None, *VIEWS):
        heavy.segment(kept, PromptRequest(SENTENCE, view=view))
    assert len(kept.opened) == VIEWS_KEPT


def test_slices_of_a_volume_count(client_of, heavy):
    client = client_of(segmenter=heavy)
    name = upload(client, to_bytes(mr()), "scan.dcm")
    images = client.app.service.images
    alone = images.size_bytes
    client.get(f"/v1/images/{name}/picture.png", params={"index": 1})
    with_slice = images.size_bytes
    client.post(f"/v1/images/{name}/masks", json={"sentence": SENTENCE, "index": 1, "view": "pa"})
    assert alone < with_slice < images.size_bytes


def with_table(entries):
    """A radiograph with a VOI lookup table of so many entries."""
    import pydicom

    source = cr()
    table = pydicom.Dataset()
    table.LUTDescriptor = [entries, 0, 16]
    table.add_new("LUTData", "OW", np.arange(entries, dtype="<u2").tobytes())
    source.VOILUTSequence = [table]
    for window in ("WindowCenter", "WindowWidth"):
        if window in source:
            delattr(source, window)
    return source


def test_lookup_tables_are_not_kept_and_headers_count(segmenter):
    plain = segmenter.read(to_bytes(cr()), 0, 10**7)
    tabled = segmenter.read(to_bytes(with_table(60_000)), 0, 10**7)
    assert not any(keyword in tabled.image.header for keyword in TABLES)
    assert tabled.size_bytes < plain.size_bytes + 20_000
    assert plain.size_bytes > plain.image.pixels.nbytes + header_bytes(plain.image.header)


def test_nested_values_of_a_header_count():
    import pydicom

    source = with_table(5000)
    assert header_bytes(source) > 10_000
    file = io.BytesIO(to_bytes(source))
    read = pydicom.dcmread(file, stop_before_pixels=True)
    assert header_bytes(read) > 10_000  # not converted yet
    without_tables(read)
    assert header_bytes(read) < 50_000
    assert "VOILUTSequence" not in read
