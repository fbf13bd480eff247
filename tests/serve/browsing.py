"""The page in a browser, as the tests use it."""

import numpy as np


class Page:
    """A page and all that it said and asked for."""

    def __init__(self, browser, address):
        context = browser.new_context(
            viewport={"width": 1280, "height": 900}, accept_downloads=True
        )
        self.page, self.said, self.asked = context.new_page(), [], []
        self.page.set_default_timeout(15_000)
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.said.append(dialog.message), dialog.dismiss()))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(address)
        self.address = address

    def open(self, film):
        self.page.get_by_label("Choose an image").first.set_input_files(film)
        self.page.locator("#stage").wait_for()
        return self

    def wait(self, expression):
        """Until an expression is true; by asking again, because the page may not make code of a text."""
        for _ in range(600):
            if self.page.evaluate(expression):
                return
            self.page.wait_for_timeout(25)
        raise AssertionError(f"never: {expression}")

    def ask(self, sentence):
        self.page.evaluate("byId('status').textContent = ''")
        self.page.get_by_label("Prompt").fill(sentence)
        self.page.get_by_label("Prompt").press("Enter")
        self.wait(
            "!byId('busy').textContent && (byId('status').textContent !== '' || !byId('error').hidden)"
        )
        return self

    def pixels(self):
        """What the canvas shows, H W 4."""
        data, width = self.page.evaluate(
            "(() => { const c = byId('canvas'), d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; "
            "return [[...d], c.width]; })()"
        )
        return np.array(data, np.uint8).reshape(-1, width, 4)

    def close(self):
        self.page.context.close()
        assert [url for url in self.asked if not url.startswith((self.address, "blob:"))] == []


def cells(page):
    return page.locator("#zones td.named").evaluate_all(
        "all => all.map(cell => cell.getAttribute('aria-label'))"
    )
