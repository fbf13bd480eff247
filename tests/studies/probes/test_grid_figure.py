"""`figure grid`: what each panel shows, the damage, attention of two arms; t-SNE keeps groups apart."""

import numpy as np
import pytest
from typer.testing import CliRunner

from textmask.cli.app import app
from textmask.data.corruptions import corrupt, image_generators
from textmask.data.loaders import open_split, scaled
from textmask.data.manifest import write_manifest
from textmask.errors import ConfigError, DataError
from textmask.inference.predict_split import predict_split
from textmask.io.images import read_image
from textmask.methods.registry import get_method
from textmask.plots.overlays import CAPTION_HEIGHT_PX, GAP_PX, error_overlay, stacked
from textmask.runs.checkpoint import load_run
from textmask.studies.probes.grid_figure import GridOptions, draw_grid
from textmask.studies.probes.tsne import tsne_plane
from textmask.training.loop import train

SIDE = 32  # the image size of the smoke presets: panels are then not resized


@pytest.fixture(scope="module")
def runs(phantom_manifest, tmp_path_factory):
    root = tmp_path_factory.mktemp("grid")
    for name in ("mmi_unet", "guide_decoder", "unet"):
        recipe = get_method(name).recipe().smoke()
        train(recipe, phantom_manifest, root / name, cache_dir=root / "cache", progress=False)
    return root


def panel(picture, strip_top, column):
    left = column * SIDE + max(column, 0) * GAP_PX
    return picture[strip_top : strip_top + SIDE, left : left + SIDE]


def test_panels_are_the_image_the_mask_and_each_runs_errors(runs, phantom_manifest, tmp_path):
    names = [row.image for row in phantom_manifest.rows_of("test")][:2]
    options = GridOptions(
        rows=tuple(names),
        corruptions=(("motion_blur", 7.0),),
        side_px=SIDE,
        cache_dir=runs / "cache",
    )
    paths = [runs / "mmi_unet", runs / "unet"]
    keys = draw_grid(paths, phantom_manifest, tmp_path / "grid.png", options)
    assert len(keys) == 2
    picture = read_image(tmp_path / "grid.png")
    assert picture.shape[1] >= 4 * SIDE + 3 * GAP_PX  # the legend is wider than four small panels

    # the first strip lies below its heading and the captions of its panels
    data = open_split(phantom_manifest, "test", (SIDE, SIDE), runs / "cache").take(np.array([0, 1]))
    tops = strip_tops(picture, count=4)
    pixels = np.repeat(data.images[0].transpose(1, 2, 0), 3, 2)[..., :3]
    np.testing.assert_array_equal(panel(picture, tops[0], 0), pixels)

    damage = lambda x, keys: corrupt(x, "motion_blur", 7, image_generators(keys, 0))  # noqa: E731
    blurred = damage(scaled(data.images), data.keys).numpy()
    blurred = np.repeat((blurred[0].transpose(1, 2, 0) * 255 + 0.5).astype(np.uint8), 3, 2)[..., :3]
    np.testing.assert_array_equal(panel(picture, tops[1], 0), blurred)
    assert not np.array_equal(blurred, pixels)

    # each run sees what the first panel shows, and its mask is the one that `evaluate` would score
    for column, path in enumerate(paths, start=2):
        run = load_run(path)
        for top, seen, harm in ((tops[0], pixels, None), (tops[1], blurred, damage)):
            found = predict_split(run.method, data, run.recipe, damage=harm)[0] > 0.5
            expected = error_overlay(seen, found, data.masks[0])
            np.testing.assert_array_equal(panel(picture, top, column), expected)


def strip_tops(picture, count):
    """Rows at which strips begin: where a run of SIDE rows with image content starts in the first column."""
    dark = (picture[:, :SIDE] != 255).any(2).mean(1) > 0.9
    tops, i = [], 0
    while i < len(dark) and len(tops) < count:
        if dark[i : i + SIDE].all() and len(dark[i : i + SIDE]) == SIDE:
            tops.append(i)
            i += SIDE
        else:
            i += 1
    assert len(tops) == count
    return tops


def test_attention_of_two_arms_from_the_command(runs, phantom_manifest, tmp_path):
    table = phantom_manifest.root / "grid.csv"
    write_manifest(phantom_manifest, table)
    command = ["figure", "grid", str(runs / "mmi_unet"), str(runs / "guide_decoder"), str(table)]
    command += [
        "--rows",
        "2",
        "--show",
        "attention",
        "--side",
        "48",
        "--out",
        str(tmp_path / "a.png"),
    ]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "2 runs, 2 images" in done.output
    assert read_image(tmp_path / "a.png").shape[1] == 4 * 48 + 3 * GAP_PX


@pytest.mark.parametrize("name", ["mmi_unet", "guide_decoder"])
@pytest.mark.parametrize("size", [(32, 32), (33, 47)])
def test_both_backbones_publish_where_they_look_for_the_words(name, size):
    import torch

    from textmask.data.loaders import build_text
    from textmask.methods.registry import build_method
    from textmask.text.grammar import parse

    prompts = ("lower left lung", "a much longer prompt about the upper right lung", "")
    text = build_text(prompts, [parse(p) for p in prompts])
    method = build_method(get_method(name).recipe().smoke())
    image = torch.rand(3, 3, *size)
    assert "attention" not in method.train()(image, text).aux
    with torch.no_grad():
        found = method.eval()(image, text).aux["attention"]
    assert found.shape == (3, 1, *size)
    assert 0 <= found.min() <= found.max() <= 1
    assert torch.isfinite(found).all()


def test_the_mean_score_is_the_mean_of_the_scaled_products():
    import torch

    from textmask.nn.attention import Attention

    torch.manual_seed(0)
    attention = Attention(8, heads=2)
    query, key = torch.randn(1, 3, 8), torch.randn(1, 4, 8)
    mask = torch.tensor([[True, True, True, False]])
    q, k = attention.query(query)[0].detach(), attention.key(key)[0].detach()
    for i in range(3):
        products = [
            float(q[i, h * 4 : h * 4 + 4] @ k[j, h * 4 : h * 4 + 4]) / 2
            for h in (0, 1)
            for j in range(3)
        ]
        assert attention.mean_score(query, key, mask)[0, i].item() == pytest.approx(
            np.mean(products), abs=1e-5
        )


def test_what_cannot_be_drawn_is_said(runs, phantom_manifest, tmp_path):
    options = GridOptions(rows=1, show="attention", cache_dir=runs / "cache")
    with pytest.raises(ConfigError, match="unet publishes no attention map"):
        draw_grid([runs / "unet"], phantom_manifest, tmp_path / "x.png", options)
    with pytest.raises(DataError, match="--rows nothing: no such image"):
        draw_grid(
            [runs / "unet"], phantom_manifest, tmp_path / "x.png", GridOptions(rows=("nothing",))
        )
    wrong = GridOptions(rows=1, corruptions=(("fog", 1.0),), cache_dir=runs / "cache")
    with pytest.raises(ConfigError, match="unknown corruption 'fog'"):
        draw_grid([runs / "unet"], phantom_manifest, tmp_path / "x.png", wrong)
    done = CliRunner().invoke(
        app, ["figure", "grid", str(runs / "unet"), "data.csv", "--corruption", "motion_blur"]
    )
    assert done.exit_code != 0
    assert not (tmp_path / "x.png").exists()


def test_headings_are_wrapped_and_rows_are_padded():
    rows = [np.zeros((10, 60, 3), np.uint8), np.zeros((6, 100, 3), np.uint8)]
    picture = stacked(rows, ["a heading that is longer than the widest row", "b"])
    assert picture.shape[1] == 100
    assert picture.shape[0] > 2 * CAPTION_HEIGHT_PX + 16 + 2 * GAP_PX + CAPTION_HEIGHT_PX
    with pytest.raises(DataError, match="2 rows and 1 headings"):
        stacked(rows, ["a"])


def test_tsne_keeps_groups_apart_and_is_repeatable():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 20)
    vectors = rng.normal(size=(60, 8)) + 8 * np.eye(8)[labels]
    places = tsne_plane(vectors)
    centers = np.array([places[labels == k].mean(0) for k in range(3)])
    spread = max(np.linalg.norm(places[labels == k] - centers[k], axis=1).mean() for k in range(3))
    apart = min(np.linalg.norm(centers[a] - centers[b]) for a, b in ((0, 1), (0, 2), (1, 2)))
    assert apart > 3 * spread
    np.testing.assert_array_equal(places, tsne_plane(vectors))
    assert tsne_plane(vectors[:2]).shape == (2, 2)
