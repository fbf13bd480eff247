"""`predict --explain`: the maps that a method publishes, side by side, and a clear word where there are none."""

import numpy as np
import pytest
from typer.testing import CliRunner

from textmask.cli.app import app
from textmask.errors import ConfigError
from textmask.inference.batch import predict_folder
from textmask.inference.jobs import BatchItem
from textmask.inference.predictor import Predictor, Segmentation, explanation
from textmask.io.images import read_image, write_png
from textmask.methods.registry import get_method
from textmask.plots.overlays import GAP_PX, heat
from textmask.text.grammar import parse
from textmask.training.loop import train

SENTENCE = "lower left lung"


@pytest.fixture(scope="module")
def runs(phantom_manifest, tmp_path_factory):
    root = tmp_path_factory.mktemp("explain")
    for name in ("ssa", "c2seg", "statement_unet"):
        recipe = get_method(name).recipe().smoke()
        train(recipe, phantom_manifest, root / name, cache_dir=root / "cache", progress=False)
    return root


@pytest.fixture
def film(tmp_path):
    path = tmp_path / "film.png"
    write_png(path, np.random.default_rng(0).integers(0, 255, (40, 56), dtype=np.uint8))
    return path


@pytest.mark.parametrize(
    ("name", "maps"),
    [("ssa", ["attention", "prior", "guide"]), ("c2seg", ["attention"]), ("statement_unet", [])],
)
def test_a_segmentation_carries_what_the_method_publishes(runs, film, name, maps):
    found = Predictor(runs / name).set_image(film).segment(SENTENCE)
    assert list(found.maps) == maps
    for values in found.maps.values():
        assert values.shape == (40, 56)
        assert values.dtype == np.float32
        assert 0 <= values.min() <= values.max() <= 1


def test_the_panels_are_in_the_order_of_fig_4(runs, film):
    predictor = Predictor(runs / "ssa").set_image(film)
    found = predictor.segment(SENTENCE)
    picture = explanation(predictor.pixels, found)
    assert picture.shape == (40 + 18, 5 * 56 + 4 * GAP_PX, 3)
    second = picture[18:, 56 + GAP_PX : 2 * 56 + GAP_PX]
    np.testing.assert_array_equal(second, heat(predictor.pixels, found.maps["attention"]))


def test_the_command_line_writes_skips_and_makes_again(runs, film, tmp_path):
    command = ["predict", str(runs / "ssa"), str(film), SENTENCE, "--out", str(tmp_path / "out")]
    assert CliRunner().invoke(app, command).exit_code == 0
    assert not list((tmp_path / "out").glob("*.explain.png"))
    result = CliRunner().invoke(
        app, [*command, "--explain"]
    )  # the mask exists, its explanation does not
    assert result.exit_code == 0, result.output
    (made,) = (tmp_path / "out").glob("*.explain.png")
    assert read_image(made).shape[2] == 3
    before = made.stat().st_mtime_ns
    assert "1 skipped" in CliRunner().invoke(app, [*command, "--explain"]).output
    assert made.stat().st_mtime_ns == before
    folder = [
        "predict",
        str(runs / "ssa"),
        str(tmp_path / "out"),
        SENTENCE,
        "--out",
        str(tmp_path / "again"),
    ]
    assert "contains no image" in str(
        CliRunner().invoke(app, folder).exception
    )  # results are never read as pictures


def test_a_method_without_a_map_says_so_before_anything_is_written(runs, film, tmp_path):
    with pytest.raises(ConfigError, match="publishes no attention map"):
        predict_folder(
            runs / "statement_unet", [BatchItem(film, SENTENCE)], tmp_path / "out", explain=True
        )
    assert not (tmp_path / "out").exists()


def test_flat_maps_and_colour_pictures_are_drawn():
    pixels = np.random.default_rng(1).integers(0, 255, (5, 7, 3), dtype=np.uint8)
    flat = {"attention": np.ones((5, 7), np.float32)}
    found = Segmentation(
        np.zeros((5, 7), np.uint8), np.zeros((5, 7), np.float32), parse(SENTENCE), (), flat
    )
    assert explanation(pixels, found).shape[0] == 5 + 18
    assert heat(pixels, np.full((5, 7), np.nan)).shape == (5, 7, 3)
