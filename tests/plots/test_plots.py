import ast
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from textmask.errors import DataError
from textmask.plots import charts as figures
from textmask.plots import overlays
from textmask.plots.charts import (
    CurvePoint,
    bar_intervals_png,
    forest_png,
    log_curves_png,
    scatter_panels_png,
    severity_png,
)
from textmask.plots.overlays import (
    BLUE,
    GREEN,
    LEGEND,
    PALETTE,
    VERMILION,
    contour,
    error_overlay,
    overlay,
    side_by_side,
)


@pytest.fixture
def film():
    return np.random.default_rng(0).integers(0, 256, (40, 50), dtype=np.uint8)


def square(top, left, bottom, right, size=(40, 50)):
    mask = np.zeros(size, np.uint8)
    mask[top:bottom, left:right] = 1
    return mask


def pixels(png):
    picture = Image.open(io.BytesIO(png))
    assert picture.format == "PNG"
    return np.asarray(picture.convert("RGB")).astype(int)


def test_overlay_tints_the_mask_and_nothing_else(film):
    mask = square(5, 5, 20, 20)
    out = overlay(film, mask, (255, 0, 0), 0.5)
    grey = np.repeat(film[..., None], 3, 2)
    assert (out[mask == 0] == grey[mask == 0]).all()
    expected = np.round(grey[mask == 1] * 0.5 + np.array([127.5, 0, 0]))
    np.testing.assert_array_equal(out[mask == 1], expected)


@pytest.mark.parametrize(
    "draw", [overlay, contour, lambda image, mask: error_overlay(image, mask, mask)]
)
def test_the_input_stays_as_it_was(film, draw):
    for image in (film, np.stack([film] * 3, 2)):
        before = image.copy()
        draw(image, square(5, 5, 20, 20))
        assert (image == before).all()


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_overlay_limits(film, alpha):
    mask = square(0, 0, 40, 50)
    expected = np.repeat(film[..., None], 3, 2) if alpha == 0 else np.full((40, 50, 3), GREEN)
    np.testing.assert_array_equal(overlay(film, mask, alpha=alpha), expected)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.float32])
def test_masks_of_any_number_type(film, dtype):
    mask = square(5, 5, 20, 20)
    np.testing.assert_array_equal(overlay(film, mask.astype(dtype)), overlay(film, mask * 255))


def test_contour_is_one_pixel_wide_and_lies_on_the_border(film):
    mask = square(5, 5, 20, 30)
    coloured = (contour(film, mask, (255, 0, 0)) == (255, 0, 0)).all(2)
    inside = square(6, 6, 19, 29) == 1
    np.testing.assert_array_equal(coloured, (mask == 1) & ~inside)


def test_error_overlay_colors_hits_misses_and_false_alarms(film):
    out = error_overlay(film, square(5, 5, 25, 25), square(15, 15, 35, 35), alpha=1.0)
    assert tuple(out[20, 20]) == GREEN == LEGEND["found (TP)"]
    assert tuple(out[30, 30]) == VERMILION == LEGEND["missed (FN)"]
    assert tuple(out[10, 10]) == BLUE == LEGEND["false alarm (FP)"]
    assert tuple(out[38, 2]) == (film[38, 2],) * 3


def test_error_overlay_outlines_each_region(film):
    out = error_overlay(film, square(0, 0, 10, 10), square(20, 20, 30, 30), alpha=0.0)
    assert tuple(out[0, 0]) == tuple(out[9, 5]) == BLUE  # also along the edge of the image
    assert tuple(out[20, 25]) == VERMILION
    assert tuple(out[5, 5]) == (film[5, 5],) * 3


def _seen_by(colour, kind):
    """Linear-light simulation of Viénot, Brettel and Mollon (1999)."""
    linear = (np.array(colour) / 255) ** 2.2
    matrices = {
        "protan": [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
        "deutan": [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]],
    }
    return (np.array(matrices[kind]) @ linear).clip(0, 1) ** (1 / 2.2) * 255


@pytest.mark.parametrize("kind", ["protan", "deutan"])
def test_colors_differ_for_the_color_blind(kind):
    seen = [_seen_by(colour, kind) for colour in LEGEND.values()]
    gaps = [np.linalg.norm(a - b) for i, a in enumerate(seen) for b in seen[:i]]
    assert min(gaps) > 90
    # a plain green and a brown, as far apart for others (164), are not
    assert np.linalg.norm(_seen_by((0, 128, 0), kind) - _seen_by((160, 90, 0), kind)) < 90


def test_side_by_side_places_panels_of_any_size(film):
    colour = np.zeros((20, 30, 3), np.uint8)
    plain = side_by_side([film, colour])
    assert plain.shape == (40, 50 + 4 + 30, 3)
    np.testing.assert_array_equal(plain[:, :50, 0], film)
    assert (plain[:20, 54:] == 0).all()
    assert (plain[20:, 54:] == 255).all()
    captioned = side_by_side([film, colour], ["film", "prediction"])
    assert captioned.shape == (40 + overlays.CAPTION_HEIGHT_PX, 84, 3)
    np.testing.assert_array_equal(captioned[overlays.CAPTION_HEIGHT_PX :], plain)
    assert (captioned[: overlays.CAPTION_HEIGHT_PX] < 128).any()


def test_long_caption_stays_in_its_panel(film):
    out = side_by_side(
        [film, film], ["Bilateral pulmonary infection, two infected areas " * 50, ""]
    )
    assert (out[: overlays.CAPTION_HEIGHT_PX, 52:] == 255).all()


@pytest.mark.parametrize(
    "bad",
    [
        lambda f: overlay(f.astype(np.float32), square(0, 0, 5, 5)),
        lambda f: overlay(f, square(0, 0, 5, 5, (50, 40))),
        lambda f: overlay(f, square(0, 0, 5, 5), alpha=1.5),
        lambda f: contour(np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4))),
        lambda f: error_overlay(f, np.zeros((1, 40, 50)), np.zeros((40, 50))),
        lambda f: side_by_side([]),
        lambda f: side_by_side([f, f], ["one"]),
        lambda f: bar_intervals_png([]),
        lambda f: bar_intervals_png([("a", 0.5, 0.6, 0.7)]),
        lambda f: bar_intervals_png([("a", float("nan"), 0.6, 0.7)]),
        lambda f: log_curves_png({}, "x", "y"),
        lambda f: log_curves_png({"a": []}, "x", "y"),
        lambda f: log_curves_png({"a": [CurvePoint(0.0, 0.5, 0.4, 0.6)]}, "x", "y"),
        lambda f: log_curves_png({"a": [CurvePoint(0.1, 0.5, 0.6, 0.7)]}, "x", "y"),
    ],
)
def test_what_cannot_be_drawn_is_refused(film, bad):
    with pytest.raises(DataError, match=r"got|has"):
        bad(film)


def test_charts_are_sharp_and_carry_their_colors():
    points = [CurvePoint(x, y, y, y) for x, y in ((0.1, 0.5), (1.0, 0.9))]
    below = [point._replace(estimate=0.2, low=0.2, high=0.2) for point in points]
    curve = pixels(log_curves_png({"train": points, "valid $a$": below}, "share", "Dice", "Loss"))
    bars = pixels(
        bar_intervals_png(
            [("unet", 0.8, 0.7, 0.9), ("text_prior", 0.5, 0.4, 0.6)], "dice_per_image"
        )
    )
    for picture in (curve, bars):
        assert picture.shape[1] >= 800
        assert (picture == figures.PALETTE[0]).all(2).sum() > 200
    assert (curve == figures.PALETTE[1]).all(2).sum() > 200


def test_single_values_stand_below_their_interval():
    rows = [("a", 0.5, 0.2, 0.8)]
    picture = pixels(bar_intervals_png(rows, dots=[[0.3, 0.6]]))
    bare = pixels(bar_intervals_png(rows))
    changed = np.nonzero((picture != bare).any(2))[0]
    assert changed.size > 50
    assert changed.min() > np.nonzero((bare == figures.PALETTE[0]).all(2))[0].mean()


def test_shares_stand_on_a_logarithmic_axis():
    """Of 1, 10 and 100 % the middle one is in the middle; a linear axis would have it at the left."""
    points = [CurvePoint(x, y, y, y) for x, y in ((1.0, 0.2), (0.01, 0.2), (0.1, 0.9))]
    picture = pixels(log_curves_png({"unet": points}, "share", "dice_per_image"))
    rows, columns = np.nonzero((picture == figures.PALETTE[0]).all(2))
    left, right, peak = columns.min(), columns.max(), columns[rows == rows.min()].mean()
    assert abs(peak - (left + right) / 2) < 15
    dotted = pixels(
        log_curves_png({"unet": [point._replace(dots=(0.5,)) for point in points]}, "share", "dice")
    )
    assert (dotted != picture).any()
    pair = pixels(log_curves_png({"unet": points, "c2seg": points}, "share", "dice_per_image"))
    assert all(
        (pair == colour).all(2).sum() > 200 for colour in figures.PALETTE[:2]
    )  # not on top of each other


def test_scatter_has_a_color_a_name_and_a_panel_each():
    rng = np.random.default_rng(0)
    places = rng.normal(size=(300, 2))
    one = [("run $a$", places, np.arange(300) % 2)]
    picture = pixels(scatter_panels_png(one, ["left", "right"], "two lines\nof words"))
    wide = pixels(scatter_panels_png(one * 3, ["left", "right"], "two lines\nof words"))
    assert wide.shape[1] > picture.shape[1]
    for panels, names in (
        ([], ["x"]),
        (one, []),
        (one, list("abcdefgh")),
        ([("empty", places[:0], np.zeros(0))], ["x"]),
    ):
        with pytest.raises(DataError, match="scatter_panels_png"):
            scatter_panels_png(panels, names, "")


def test_severity_curves_have_a_color_and_a_panel_each():
    flat, falling = [(0.0, 0.0, 0.0)] * 3, [(0.0, 0.0, 0.0), (-5.0, -6.0, -4.0)]
    one = severity_png({"Dice": {"blur": flat}}, ["clean", "1", "2"], "steps")
    two = severity_png(
        {"Dice": {"blur": flat, "noise": falling}, "F1": {"noise": falling}},
        ["clean", "1", "2"],
        "steps",
    )
    assert pixels(two).shape[1] > 1.9 * pixels(one).shape[1]
    for i, present in ((0, True), (1, False)):
        assert (pixels(one) == PALETTE[i]).all(-1).any() == present
        assert (pixels(two) == PALETTE[i]).all(-1).any()
    for panels in (
        {},
        {"Dice": {}},
        {"Dice": {"blur": []}},
        {"Dice": {"blur": [(0.0, 0.0, 0.0)] * 4}},
    ):
        with pytest.raises(DataError, match="severity_png"):
            severity_png(panels, ["clean", "1", "2"], "steps")


def test_rows_keep_their_order_from_the_top():
    high_first = pixels(bar_intervals_png([("a", 0.9, 0.88, 0.92), ("b", 0.1, 0.08, 0.12)]))
    rows, columns = np.nonzero((high_first == figures.PALETTE[0]).all(2))
    upper = rows < rows.mean()
    assert columns[upper].mean() > columns[~upper].mean() + 100


def test_same_chart_same_bytes():
    rows = [("a", 0.5, 0.2, 0.8)]
    assert bar_intervals_png(rows) == bar_intervals_png(rows)


def test_dollar_signs_are_letters():
    rows = [("a", 0.5, 0.2, 0.8)]
    assert bar_intervals_png(rows, title="cost $1 and $2") != bar_intervals_png(
        rows, title="cost 1 and 2"
    )
    assert bar_intervals_png(rows, title=r"$\undefined{$")


def test_matplotlib_is_imported_here_only_and_pyplot_nowhere():
    package = Path(figures.__file__).parents[1]
    users = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] == "matplotlib" for name in names):
                users.add(path.relative_to(package).as_posix())
                assert not any("pyplot" in name for name in names)
    assert users == {"plots/charts.py"}


def test_forest_draws_both_and_refuses_what_is_no_interval():
    names = "ours", "the paper's"
    row = ("a $1 claim", 1.01, 0.5, -0.2, 1.2)
    picture = pixels(forest_png([row], "points", names))
    assert forest_png([row], "points", names) == forest_png([row], "points", names)
    for colour in (figures.PALETTE[0], figures.PALETTE[4]):
        assert (np.abs(picture - colour).sum(-1) < 12).any()
    assert pixels(forest_png([row] * 40, "points", names)).shape[0] > 3 * picture.shape[0]
    for wrong in ([], [("x", 1.0, 0.5, 0.6, 0.7)], [("x", float("nan"), 0.5, 0.4, 0.7)]):
        with pytest.raises(DataError, match="forest_png"):
            forest_png(wrong, "points", names)
