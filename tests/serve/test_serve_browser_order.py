"""The page while answers are late: an answer meets only its own image and request, and the last request wins."""

import threading

import cv2
import numpy as np
import pytest
from browsing import Page, cells
from serving import listening

from textmask.serve.app import create_app
from textmask.serve.limits import Limits
from textmask.serve.segmenter import Segmenter
from textmask.serve.service import ServiceOptions

SLOW, FAST = "opacity in the lower left lung", "opacity in the upper right lung"
SLOW_ROWS = 48  # an image of so many rows is read slowly


class Delayed(Segmenter):
    """A segmenter that holds back the answers to SLOW, and images of SLOW_ROWS rows, until it is let go."""

    def __init__(self, segmenter):
        self.__dict__.update(segmenter.__dict__)
        self.gate, self.begun, self.prompts = threading.Event(), threading.Event(), []

    def segment_opened(self, upload, request):
        self.prompts.append(request.prompt)
        if request.prompt == SLOW:
            self.hold()
        return super().segment_opened(upload, request)

    def read(self, data, index, max_pixels):
        found = super().read(data, index, max_pixels)
        if found.image.pixels.shape[0] == SLOW_ROWS:
            self.hold()
        return found

    def hold(self):
        self.begun.set()
        assert self.gate.wait(20)


@pytest.fixture
def late(browser, segmenter):
    """A page of a service whose answers can be held back, and its segmenter."""
    delayed = Delayed(segmenter)
    app = create_app(delayed, ServiceOptions(Limits(workers=2)))
    with listening(app) as address:
        opened = Page(browser, address)
        opened.app = app
        yield opened, delayed
        delayed.gate.set()
        opened.close()
    assert opened.said == []


@pytest.fixture
def images(tmp_path):
    """Paths of two plain images: one that is read slowly, and one that is read at once."""
    paths = {}
    for name, rows, value in (("slow", SLOW_ROWS, 60), ("other", 40, 200)):
        paths[name] = tmp_path / f"{name}.png"
        cv2.imwrite(str(paths[name]), np.full((rows, 40), value, np.uint8))
    return paths


def press(opened, sentence):
    opened.page.get_by_label("Prompt").fill(sentence)
    opened.page.get_by_label("Prompt").press("Enter")


def settled(opened):
    """Wait until nothing is on its way, and a moment longer for what should not come."""
    opened.wait("!state.reading && !(state.opened && state.opened.pending)")
    opened.page.wait_for_timeout(300)


def bare(opened):
    """The image as the page shows it without any mask."""
    page = opened.page
    assert not page.locator("#answer").is_visible()
    assert not page.get_by_role("button", name="Download mask").is_visible()
    assert "Mask of" not in page.locator("#status").inner_text()
    return opened.pixels()


def test_the_answer_for_an_image_is_not_drawn_on_another(late, film, images):
    opened, delayed = late
    opened.open(film)
    press(opened, SLOW)
    assert delayed.begun.wait(10)
    opened.open(images["other"])
    delayed.gate.set()
    settled(opened)
    shown = bare(opened)
    assert shown.shape[:2] == (40, 40)
    assert (shown[..., :3] == 200).all()
    assert "other.png" in opened.page.locator("#about").inner_text()


def test_the_mask_of_an_image_is_gone_while_the_next_one_is_read(late, film, images):
    opened, delayed = late
    opened.open(film).ask(FAST)
    opened.page.get_by_label("Choose an image").first.set_input_files(images["slow"])
    assert delayed.begun.wait(10)
    assert not opened.page.locator("#stage").is_visible()
    assert not opened.page.locator("#answer").is_visible()
    assert "slow.png" in opened.page.locator("#status").inner_text()
    delayed.gate.set()
    opened.page.locator("#stage").wait_for()
    settled(opened)
    assert (bare(opened)[..., :3] == 60).all()


def test_the_image_that_was_chosen_last_is_shown_not_the_one_that_was_read_last(late, images):
    opened, delayed = late
    opened.page.get_by_label("Choose an image").first.set_input_files(images["slow"])
    assert delayed.begun.wait(10)
    opened.open(images["other"])
    delayed.gate.set()
    settled(opened)
    assert "other.png" in opened.page.locator("#about").inner_text()
    assert (bare(opened)[..., :3] == 200).all()


def test_the_prompt_that_was_sent_last_is_shown_not_the_one_that_was_answered_last(late, film):
    opened, delayed = late
    opened.open(film)
    press(opened, SLOW)
    assert delayed.begun.wait(10)
    opened.ask(FAST)
    assert cells(opened.page) == ["upper right: named"]
    shown = opened.pixels()
    delayed.gate.set()
    settled(opened)
    assert cells(opened.page) == ["upper right: named"]
    assert (opened.pixels() == shown).all()


def test_thirty_presses_of_enter_send_one_request(late, film):
    opened, delayed = late
    opened.open(film)
    opened.page.get_by_label("Prompt").fill(SLOW)
    for _ in range(30):
        opened.page.get_by_label("Prompt").press("Enter")
    delayed.gate.set()
    settled(opened)
    assert cells(opened.page) == ["lower left: named"]
    opened.page.get_by_label("Prompt").press("Enter")  # its answer is already shown
    settled(opened)
    assert delayed.prompts.count(SLOW) == 1


def test_a_prompt_that_is_taken_back_while_it_is_asked_is_not_shown(late, film):
    opened, delayed = late
    opened.open(film).ask(FAST)
    press(opened, SLOW)
    assert delayed.begun.wait(10)
    opened.ask(FAST)
    delayed.gate.set()
    settled(opened)
    assert cells(opened.page) == ["upper right: named"]
    assert delayed.prompts.count(FAST) == 1


def test_after_a_refusal_nothing_of_the_answer_before_it_is_left(late, film):
    opened, _ = late
    opened.open(film)
    plain = opened.pixels()
    opened.ask(FAST)
    assert opened.page.locator("#answer").is_visible()
    opened.page.get_by_role("radio", name="unknown").check()
    opened.wait("!byId('error').hidden")
    assert (bare(opened) == plain).all()
    opened.said.clear()  # the browser notes the refusal, 422
    opened.page.get_by_role("radio", name="the image").check()
    opened.wait("!byId('answer').hidden")
    assert cells(opened.page) == ["upper right: named"]
    assert not opened.page.get_by_role("alert").is_visible()


def test_after_an_image_that_cannot_be_read_nothing_of_the_one_before_it_is_left(
    late, film, tmp_path
):
    opened, _ = late
    opened.open(film).ask(FAST)
    (tmp_path / "broken.png").write_bytes(b"no image")
    opened.page.get_by_label("Choose an image").first.set_input_files(tmp_path / "broken.png")
    opened.wait("!byId('error').hidden")
    assert "broken.png" in opened.page.get_by_role("alert").inner_text()
    for part in ("#stage", "#answer", "#viewing"):
        assert not opened.page.locator(part).is_visible(), part
    opened.said.clear()  # the browser notes the refusal, 415


def test_an_image_that_the_service_has_lost_is_uploaded_again(late, film):
    opened, _ = late
    opened.open(film)
    service = opened.app.service
    service.forget(opened.page.evaluate("state.opened.info.id"), "a restart")
    opened.ask(FAST)
    assert cells(opened.page) == ["upper right: named"]
    opened.said.clear()  # the browser notes that the image was not found, 404


def test_a_denied_finding_has_no_mask(late, film):
    opened, _ = late
    opened.open(film)
    plain = opened.pixels()
    opened.ask("no opacity in the lower left lung")
    assert "Mask of 0 pixels" in opened.page.locator("#status").inner_text()
    assert (opened.pixels() == plain).all()


def test_a_download_is_named_after_its_image(late, film):
    opened, _ = late
    opened.open(film).ask(FAST)
    with opened.page.expect_download() as download:
        opened.page.get_by_role("button", name="Download mask").click()
    assert download.value.suggested_filename == f"{film.stem}.mask.png"
