"""The page in a real browser, clicked and typed through; nothing typed runs, nothing comes from elsewhere."""

import shutil

import cv2
import numpy as np
import pytest
from browsing import Page, cells
from serving import listening

from textmask.serve.app import create_app
from textmask.serve.limits import Limits
from textmask.serve.service import ServiceOptions

EVIL = "<img src=x onerror=alert(1)>"
TOKEN = "a-token-of-more-than-16"


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


def test_drop_ask_edit_compare_and_download(opened, film, tmp_path):
    from playwright.sync_api import expect

    page = opened.page
    expect(page.locator("#model")).to_contain_text("text_prior")
    assert page.get_by_text("Research use only").is_visible()
    opened.open(film)
    bare = opened.pixels()
    opened.ask("opacity in the lower left lung")
    assert cells(page) == ["lower left: named"]
    assert "ms" in page.locator("#status").inner_text()
    first = opened.pixels()
    assert (first != bare).any()
    assert page.get_by_role("radio", name="previous result").is_disabled()
    opened.ask("opacity in the upper right lung")
    assert cells(page) == ["upper right: named"]
    second = opened.pixels()
    assert (second != first).any()
    assert "opacity in the lower left lung" in page.locator("#change").inner_text()
    page.get_by_role("radio", name="previous result").check()
    before = opened.pixels()
    assert (
        (before != bare).any(axis=2) == (first != bare).any(axis=2)
    ).all()  # the same place, the other color
    page.get_by_role("radio", name="both").check()
    assert ((opened.pixels() != bare).any(axis=2) >= (first != bare).any(axis=2)).all()
    page.get_by_role("radio", name="image only").check()
    assert (opened.pixels() == bare).all()
    page.get_by_role("radio", name="this result").check()
    page.get_by_role("slider", name="Opacity").fill("0")
    page.get_by_label("outline").uncheck()
    assert (opened.pixels() == bare).all()
    page.get_by_role("slider", name="Opacity").fill("80")
    page.get_by_role("slider", name="Threshold").fill("1")
    low = (opened.pixels() != bare).any(axis=2).sum()
    page.get_by_role("slider", name="Threshold").fill("40")
    high = (opened.pixels() != bare).any(axis=2)
    assert low > high.sum() > 0
    with page.expect_download() as download:
        page.get_by_role("button", name="Download mask").click()
    download.value.save_as(tmp_path / "mask.png")
    mask = cv2.imread(str(tmp_path / "mask.png"), cv2.IMREAD_UNCHANGED)
    assert set(np.unique(mask)) == {0, 255}
    assert (mask.shape, high[mask == 0].any()) == (
        (64, 64),
        False,
    )  # what was seen is what is saved
    assert page.get_by_role("button", name="DICOM").is_disabled()


def test_everything_works_by_keyboard(opened, film):
    page = opened.page
    opened.open(film)
    bare = opened.pixels()
    assert page.evaluate("document.activeElement.id") == "sentence"  # ready to type
    page.keyboard.type("opacity in the lower left lung")
    page.keyboard.press("Enter")
    page.locator("#answer").wait_for()
    opened.wait("document.querySelector('#status').textContent.includes('ms')")
    page.keyboard.press("Control+A")
    page.keyboard.type("opacity in the lower right lung")
    page.keyboard.press("Enter")
    opened.wait("byId('change').textContent !== ''")
    now = opened.pixels()
    page.keyboard.press("Escape")
    page.keyboard.down("b")
    assert (opened.pixels() != now).any()
    page.keyboard.up("b")
    assert (opened.pixels() == now).all()
    page.keyboard.down("h")
    assert (opened.pixels() == bare).all()
    page.keyboard.up("h")
    value = int(page.get_by_role("slider", name="Threshold").input_value())
    page.keyboard.press("]")
    assert int(page.get_by_role("slider", name="Threshold").input_value()) == value + 1
    page.keyboard.press("l")
    assert page.get_by_role("radio", name="the patient").is_checked()
    opened.wait("!byId('error').hidden")  # the view is not known
    assert (opened.pixels() == bare).all()  # no mask of another question beside it
    opened.said.clear()  # the browser notes the refusal, 422
    page.keyboard.press("l")
    page.keyboard.press("l")  # back to the image: after a refusal there is nothing to download
    opened.wait("!byId('answer').hidden")
    opened.said.clear()
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "sentence"
    with page.expect_file_chooser(timeout=60_000):  # a busy machine
        page.keyboard.press("Escape")
        page.keyboard.press("o")
    reached = set()
    page.evaluate("document.activeElement.blur()")
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.value"))
    assert reached >= {
        "file",
        "sentence",
        "view",
        "go",
        "opacity",
        "threshold",
        "outline",
        "save-png",
    }


def test_the_findings_of_the_prompt_are_listed(opened, film):
    page = opened.page
    opened.open(film)
    opened.ask(
        "Possible 8 mm nodule in the upper left lung, no effusion on the right, in stable opacities"
    )
    listed = page.get_by_role("list", name="Findings").get_by_role("listitem")
    lines = listed.all_inner_texts()
    assert lines[0].startswith("possible nodule, left upper, 8 mm")
    assert any(line.startswith("no effusion, right") for line in lines)
    opened.ask("the whole image")
    assert not page.get_by_role("list", name="Findings").is_visible()


def test_warnings_and_refusals_are_plain_words(opened, film):
    page = opened.page
    opened.open(film).ask("what a day")
    assert "no place or finding was understood" in page.locator("#warnings").inner_text()
    page.get_by_role("radio", name="unknown").check()
    opened.ask("opacity in the lower left lung")
    assert "laterality convention is unknown" in page.get_by_role("alert").inner_text()
    opened.said.clear()  # the browser notes the refusal, 422


def test_the_letters_on_the_edges_follow_whose_left_is_meant(opened, film):
    page = opened.page
    opened.open(film).ask("opacity in the lower left lung")

    def marks():
        return [page.locator(f"#mark-{side}").inner_text() for side in ("left", "right")]

    assert marks() == ["left", "right"]
    page.get_by_label("View").select_option("pa")
    page.get_by_role("radio", name="the patient").check()
    assert marks() == ["R", "L"]
    opened.wait(
        "document.querySelector('#zones td.named').getAttribute('aria-label').includes('right')"
    )
    page.get_by_label("View").select_option("mirrored")
    assert marks() == ["L", "R"]
    opened.wait(
        "document.querySelector('#zones td.named').getAttribute('aria-label').includes('left')"
    )
    page.get_by_role("radio", name="unknown").check()
    assert marks() == ["?", "?"]
    opened.wait("!byId('error').hidden")
    opened.said.clear()  # the browser notes the refusal, 422


def test_what_is_typed_and_what_a_file_is_called_never_runs(opened, film, tmp_path):
    page = opened.page
    evil = tmp_path / "<img src=x onerror=alert(2)>.png"
    shutil.copy(film, evil)
    opened.open(evil).ask(EVIL).ask(EVIL + " lower left lung")
    assert evil.name in page.locator("#about").inner_text()
    assert EVIL in page.locator("#change").inner_text()
    assert page.locator("img").count() == 0
    page.evaluate(
        "document.body.insertAdjacentHTML('beforeend', '<p onclick=\"document.title=1\" id=slipped>x</p>')"
    )
    page.locator("#slipped").click()
    assert "textmask" in page.title()
    assert all("Content Security Policy" in text for text in opened.said)
    opened.said.clear()


def test_a_file_that_is_no_image_is_said_to_be_none(opened, tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    opened.page.get_by_label("Choose an image").first.set_input_files(tmp_path / "a.png")
    opened.wait("!byId('error').hidden")
    assert "expected a PNG" in opened.page.get_by_role("alert").inner_text()
    opened.said.clear()  # the browser notes the refusal, 415


def test_it_fits_a_phone_and_both_schemes(opened, film):
    page = opened.page
    opened.open(film).ask("opacity in the lower left lung")
    colours = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        colours.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert colours[0] != colours[1]
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_a_token_is_asked_for_and_kept_in_the_page(browser, segmenter, film):
    with listening(create_app(segmenter, ServiceOptions(Limits(), token=TOKEN))) as address:
        opened = Page(browser, address)
        opened.page.locator("#token-form").wait_for()
        opened.page.get_by_label("Token").fill(TOKEN)
        opened.page.get_by_role("button", name="Use").click()
        opened.wait("byId('model').textContent.includes('text_prior')")
        opened.open(film).ask("opacity in the lower left lung")
        assert cells(opened.page) == ["lower left: named"]
        assert opened.page.evaluate(
            "[localStorage.length, sessionStorage.length, document.cookie]"
        ) == [0, 0, ""]
        assert not any(TOKEN in url for url in opened.asked)
        opened.close()
