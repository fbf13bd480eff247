"""The page's tools for looking: slices, level and window, zoom, the findings of a report, and the example."""

import nibabel
import numpy as np
import pytest
from browsing import Page, cells
from serving import listening

from textmask.serve.app import create_app

TWO = "Consolidation in the left upper lobe. Opacity in the right lower lobe."


@pytest.fixture(scope="module")
def address(browser, segmenter):
    with listening(create_app(segmenter)) as address:
        yield address


@pytest.fixture
def opened(browser, address):
    opened = Page(browser, address)
    yield opened
    opened.close()
    assert opened.said == []


@pytest.fixture
def scan(tmp_path):
    """Path of a volume of three slices, each of its own gray level."""
    voxels = np.zeros((40, 32, 3), np.uint8)
    voxels[:] = [50, 100, 150]
    path = tmp_path / "scan.nii.gz"
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([1, 1, 5, 1])), path)
    return path


def gray(opened):
    return int(np.median(opened.pixels()[..., 0]))


def test_a_volume_is_uploaded_once_and_asked_slice_by_slice(opened, scan):
    page = opened.page
    opened.open(scan)
    assert page.locator("#slice-value").inner_text() == "1 of 3"
    assert gray(opened) == 50
    page.get_by_label("View").select_option("axial")
    page.get_by_role("radio", name="the image").check()
    opened.ask("opacity in the lower left lung")
    page.get_by_role("slider", name="Slice").fill("2")
    opened.wait("state.opened.now && state.opened.now.asked.index === 2")  # asked again
    page.get_by_role("radio", name="image only").check()
    assert gray(opened) == 150
    page.get_by_label("Prompt").blur()
    page.keyboard.press(",")
    opened.wait("state.opened.now && state.opened.now.asked.index === 1")
    page.get_by_role("radio", name="image only").check()
    assert gray(opened) == 100
    uploads = [url for url in opened.asked if url.endswith("/v1/images")]
    assert len(uploads) == 1


def test_many_slices_in_a_row_end_at_the_last_one(opened, scan):
    opened.open(scan)
    opened.page.evaluate("turn(1); turn(2); turn(1); turn(2);")
    opened.wait("!state.opened.turning")
    assert gray(opened) == 150
    assert opened.page.locator("#slice-value").inner_text() == "3 of 3"
    assert not opened.page.locator("#answer").is_visible()


def test_level_and_window_change_what_is_shown_and_not_what_is_asked(opened, film):
    page = opened.page
    opened.open(film)
    stored = opened.pixels()
    assert not page.get_by_role("slider", name="Slice").is_visible()
    page.get_by_role("slider", name="Level").fill("100")
    page.get_by_role("slider", name="Window").fill("20")
    shown = opened.pixels()
    assert set(np.unique(shown[stored[..., 0] < 85][:, 0])) <= {0}
    assert set(np.unique(shown[stored[..., 0] > 115][:, 0])) <= {255}
    page.get_by_role("button", name="Reset view").click()
    assert (opened.pixels() == stored).all()


def test_the_image_can_be_enlarged_and_moved(opened, film):
    page = opened.page
    opened.open(film)
    for _ in range(4):
        page.get_by_role("button", name="Zoom in").click()
    assert page.locator("#zoom-value").inner_text() == "244 %"
    before = page.evaluate("state.opened.zoom.x")
    box = page.locator("#stage").bounding_box()
    page.mouse.move(box["x"] + 200, box["y"] + 200)
    page.mouse.down()
    page.mouse.move(box["x"] + 100, box["y"] + 200)
    page.mouse.up()
    assert page.evaluate("state.opened.zoom.x") > before
    page.evaluate("pan(-1e6, -1e6)")  # no further than the edge
    assert page.evaluate("state.opened.zoom.x") == pytest.approx(1 - 1 / 2.44140625)
    page.keyboard.press("Escape")
    page.locator("#fit").focus()
    page.keyboard.press("0")
    assert page.locator("#zoom-value").inner_text() == "100 %"


def test_the_findings_of_a_report_have_colors_of_their_own(opened, film):
    page = opened.page
    opened.open(film).ask(TWO)
    assert cells(page) == ["upper left: named", "lower right: named"]
    listed = page.get_by_role("list", name="Masks").get_by_role("listitem").all_inner_texts()
    assert [line.split(":")[0] for line in listed] == [
        "Consolidation in the left upper lobe",
        "Opacity in the right lower lobe",
    ]
    pixels = opened.pixels()[..., :3].astype(int)
    outlines = [(pixels == color).all(axis=2).sum() for color in ([0, 158, 115], [230, 159, 0])]
    assert min(outlines) > 5
    opened.ask("opacity in the lower left lung")
    assert not page.get_by_role("list", name="Masks").is_visible()


def test_the_page_can_be_tried_without_an_image(opened):
    page = opened.page
    page.get_by_role("button", name="Open a synthetic radiograph").click()
    page.locator("#stage").wait_for()
    page.get_by_role("button", name="opacity in the lower left lung").click()
    opened.wait("state.opened.now")
    assert cells(page) == ["lower left: named"]
    assert page.get_by_label("Prompt").input_value() == "opacity in the lower left lung"
