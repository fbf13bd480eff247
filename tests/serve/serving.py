"""What the tests of the service share."""

import threading
import time
from contextlib import contextmanager
from http import HTTPStatus

from textmask.serve.segmenter import Segmenter

LOWER_LEFT = {"sentence": "opacity in the lower left lung"}


def refused(answer, status, code):
    """A refusal is problem JSON with a code; its detail."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert (body["status"], body["code"]) == (status, code), body
    assert body["title"] == HTTPStatus(status).phrase
    assert set(body) == {"type", "title", "status", "detail", "code"}
    assert body["detail"]
    return body["detail"]


class Gated(Segmenter):
    """A segmenter that waits until it is told."""

    def __init__(self, segmenter):
        self.__dict__.update(segmenter.__dict__)
        self.gate, self.begun = threading.Event(), threading.Event()

    def segment_opened(self, upload, request):
        if request.prompt == "wait":
            self.begun.set()
            assert self.gate.wait(20)
        return super().segment_opened(upload, request)


def upload(client, data, name="film.png", **how):
    """Upload an image; its id."""
    answer = client.post("/v1/images", files={"file": (name, data, "image/png")}, **how)
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


@contextmanager
def listening(app):
    """The service on a free port of this machine, in a thread; gives its address."""
    from textmask.serve.server import listen, server_of

    server = server_of(app)
    with listen("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
