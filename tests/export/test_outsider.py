"""An outsider's program, which has only the files of an export, gives the masks of the product."""

import json

import cv2
import numpy as np
import onnxruntime
import pytest

from textmask.data.phantom import PhantomConfig, make_phantom
from textmask.export.export import export
from textmask.inference.predictor import Predictor

PROMPT, ZONES = "opacity in the lower left lung", ["left lower"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("outsider") / "onnx"
    export(Predictor("default", device="cpu").run, folder, "onnx", gate=False)
    return folder


def outsiders_mask(folder, pixels, zones):
    """Written from the sentences of export.json and README.md; nothing of textmask is used."""
    told = json.loads((folder / "export.json").read_text())
    assert "area averaging if rows x columns become fewer" in told["image"]["resize"]
    _, _, rows, columns = told["image"]["shape"]
    fewer = rows * columns < pixels.shape[0] * pixels.shape[1]
    method = cv2.INTER_AREA if fewer else cv2.INTER_LINEAR
    small = cv2.resize(pixels, (columns, rows), interpolation=method)
    image = np.repeat(small[None, None].astype(np.float32) / 255, 3, axis=1)
    named = [[float(zone in zones) for zone in told["text"]["zone_order"]]]

    feed = {"image": image, "zones": np.array(named, np.float32)}
    for name in ("image", "model", "decoder"):
        if name in told["graphs"]:
            session = onnxruntime.InferenceSession(str(folder / told["graphs"][name]["file"]))
            wanted = {one.name: feed[one.name] for one in session.get_inputs()}
            outputs = [one.name for one in session.get_outputs()]
            feed.update(zip(outputs, session.run(None, wanted), strict=True))
    probability = 1 / (1 + np.exp(-feed["logits"][0, 0]))
    size = pixels.shape[::-1]
    large = cv2.resize(probability.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    return large > told["mask"]["threshold"]


@pytest.mark.parametrize("size", [(1500, 1200), (700, 900), (224, 224), (150, 180)])
def test_the_masks_are_those_of_the_product(exported, size):
    pixels = make_phantom(PhantomConfig(size=(224, 224)), 1).image
    # noise of single pixels is what the two kinds of resizing treat differently
    grain = np.random.default_rng(0).integers(-40, 40, size)
    pixels = np.clip(cv2.resize(pixels, size[::-1]) + grain, 0, 255).astype(np.uint8)
    product = Predictor("default", device="cpu").open(pixels).segment(PROMPT, abstain=False).mask
    ours = outsiders_mask(exported, pixels, ZONES)
    assert product.any()
    dice = 2 * np.sum(ours & (product > 0)) / (ours.sum() + product.sum())
    assert dice >= 0.999


def test_a_graph_that_is_passed_on_alone_says_what_it_is(exported):
    told = json.loads((exported / "export.json").read_text())
    for graph in told["graphs"].values():
        session = onnxruntime.InferenceSession(str(exported / graph["file"]))
        facts = session.get_modelmeta().custom_metadata_map
        assert facts["weights_sha256"] == told["weights_sha256"]
        assert facts["image_resize"] == told["image"]["resize"]
        assert facts["threshold"] == "0.5"
        assert facts["laterality"] == "image"
        for output in session.get_outputs():
            assert output.shape[0] == "batch"
            assert all(isinstance(size, int) for size in output.shape[1:])
    card = (exported / "README.md").read_text()
    assert told["image"]["resize"] in card
    assert told["mask"]["resize"] in card
