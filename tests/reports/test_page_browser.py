"""The report in a real browser: silent, complete, sortable by mouse and keyboard, and nothing leaves it."""

import re

import pytest

from textmask.reports.page import write_report


class Opened:
    """A page and all that it said and asked for."""

    def __init__(self, page):
        self.page, self.said, self.asked = page, [], []
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("dialog", lambda dialog: (self.said.append(dialog.message), dialog.dismiss()))
        page.context.route("**/*", self.route)

    def route(self, route):
        self.asked.append(route.request.url)
        return route.continue_() if route.request.url.startswith("file:") else route.abort()


def filter_by(page, words, said):
    from playwright.sync_api import expect

    page.get_by_label("Filter by prompt").fill(words)
    expect(page.locator("#found")).to_have_text(said)


@pytest.fixture(scope="module")
def path(evaluated, tmp_path_factory):
    folder = tmp_path_factory.mktemp("many")
    return write_report([evaluated / "text_prior", evaluated / "unet"], folder / "report.html")


@pytest.fixture
def opened(browser, path):
    opened = Opened(browser.new_page(viewport={"width": 1200, "height": 900}))
    opened.page.goto(path.as_uri())
    yield opened
    opened.page.context.close()
    assert opened.said == []
    assert opened.asked == [path.as_uri()]


def test_it_opens_silently_with_every_picture(opened):
    page = opened.page
    assert "2 runs" in page.title()
    widths = page.eval_on_selector_all("img", "nodes => nodes.map(node => node.naturalWidth)")
    assert (
        len(widths) == (2 + 1) * 3 * 4
    )  # three evaluations, the worst, best and median four of each
    assert min(widths) > 100
    sizes = page.eval_on_selector_all(
        "svg[role=img]", "all => all.map(one => one.getBoundingClientRect().width)"
    )
    assert len(sizes) > 20
    assert min(sizes) > 100
    assert page.evaluate("document.documentElement.scrollWidth") == 1200
    names = page.locator(".images tbody th").first.inner_text()
    assert names == "images/<img src=x onerror=alert(3)>.png"


def test_tables_sort_by_mouse_and_by_keyboard(opened):
    page = opened.page
    rows = page.locator("section.results table.sortable").first
    before = rows.locator("tbody th").all_inner_texts()
    head = rows.locator("thead th").nth(1)

    def scores():
        texts = rows.locator("tbody tr").evaluate_all(
            "lines => lines.map(line => line.children[1].textContent)"
        )
        return [float(text.split()[0]) for text in texts if re.match(r"[-\d]", text)]

    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "descending"  # the best first
    assert scores() == sorted(scores(), reverse=True)
    assert "the same" in rows.locator("tbody tr").last.inner_text()  # what has no figure stays last
    head.get_by_role("button").press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert scores() == sorted(scores())
    assert "the same" in rows.locator("tbody tr").last.inner_text()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Space")
    assert rows.locator("thead th").first.get_attribute("aria-sort") == "ascending"
    assert head.get_attribute("aria-sort") == "none"
    assert rows.locator("tbody th").all_inner_texts() == sorted(before)


def test_the_filter_leaves_what_its_words_are_in(opened):
    page = opened.page
    section = page.locator("section.results").first
    text = section.locator(".images tbody td.words").nth(2).inner_text()
    filter_by(page, text.upper(), re.compile("of 32 images match"))
    kept = section.locator(".images tbody td.words").all_inner_texts()
    assert kept
    assert set(kept) == {text}
    assert section.locator(".scatter").first.locator(".pt:not(.off)").count() == len(kept)
    for case in section.locator(".case").all():
        assert case.evaluate("node => node.hidden") == (
            text.lower() not in case.get_attribute("data-words").lower()
        )
    assert f"{len(kept)} of 8 images match" in section.locator(".matches").inner_text()
    filter_by(page, "<img src=x onerror=alert(3)>", re.compile("^1 of"))
    assert section.locator(".images tbody tr").count() == 1
    filter_by(page, "no prompt has this", re.compile("^0 of"))
    assert section.locator(".nothing").first.is_visible()
    assert section.locator("input[type=range]").first.is_disabled()
    filter_by(page, "", "")
    assert section.locator(".images tbody tr").count() == 8


def test_points_say_their_prompt_to_the_mouse_and_to_the_keyboard(opened):
    page = opened.page
    figure = page.locator(".scatter").first
    words = figure.locator(".readout")
    assert "Point at the plot" in words.inner_text()
    slider = figure.get_by_role("slider")
    slider.focus()
    first = words.inner_text()
    page.keyboard.press("ArrowRight")
    assert words.inner_text() != first
    assert words.inner_text().split("\n")[0] in slider.get_attribute("aria-valuetext")
    assert figure.locator(".pt.now").count() == 1
    point = figure.locator(".pt:not(.now)").first
    number = int(point.get_attribute("data-i"))
    box = point.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    name = page.evaluate(
        "i => JSON.parse(document.querySelector('script.figures').textContent).images[i]", number
    )
    assert name in words.inner_text()
    before = figure.locator(".pt").first.get_attribute("cy")
    figure.get_by_label("up").select_option(
        "0"
    )  # the same run on both axes: all points on the line
    places = figure.locator(".pt").evaluate_all(
        "all => all.map(p => [p.cx.baseVal.value, p.cy.baseVal.value])"
    )
    assert figure.locator(".pt").first.get_attribute("cy") != before
    left, top, right, bottom = map(
        float, figure.locator("svg").get_attribute("data-box").split(",")
    )
    for x, y in places:
        assert (x - left) / (right - left) == pytest.approx((bottom - y) / (bottom - top), abs=1e-3)
    assert figure.locator(".ylabel").text_content() == figure.locator(".xlabel").text_content()


def test_it_prints_without_its_controls_and_fits_a_phone(opened):
    page = opened.page
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    page.set_viewport_size({"width": 690, "height": 980})
    page.emulate_media(media="print")
    for selector in (".tools", ".pager", "nav", ".readout"):
        assert not page.locator(selector).first.is_visible()
    assert page.locator("section.results table").first.is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 690
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details.printed").last.evaluate("node => node.open")
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert not page.locator("details.printed").nth(1).evaluate("node => node.open")


def test_markup_that_slipped_through_could_not_run_or_load(browser, path, tmp_path):
    bad = "<script>document.title='run'</script><img src='https://example.org/x.png' onerror=\"document.title='run'\">"
    (tmp_path / "bad.html").write_text(path.read_text().replace("<main>", f"<main>{bad}"))
    opened = Opened(browser.new_page())
    opened.page.goto((tmp_path / "bad.html").as_uri())
    assert "2 runs" in opened.page.title()
    assert len(opened.said) >= 2  # the browser says what it refused
    assert all("Content Security Policy" in text for text in opened.said)
    assert [url for url in opened.asked if not url.startswith("file:")] == []
    opened.page.context.close()
