"""Every endpoint, and every limit a client may run into."""

import asyncio
import base64
import io
import json
import struct
import threading
import time
import zlib

import cv2
import nibabel
import numpy as np
import pydicom
import pytest
from dicom_files import cr, mr, to_bytes
from serving import LOWER_LEFT, Gated, refused, upload

from textmask.inference.predictor import Predictor
from textmask.io.images import read_image
from textmask.io.loaded import LoadedImage
from textmask.io.orientation import Orientation
from textmask.serve.app import create_app
from textmask.serve.limits import Limits
from textmask.serve.segmenter import PromptRequest, Segmenter, Upload
from textmask.serve.service import ServiceOptions

TOKEN = "a-token-of-more-than-16"


def decoded(data):
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)


def test_upload_once_and_ask_many_sentences(client, run, film):
    name = upload(client, film.read_bytes())
    everything = ["png", "rle", "overlay", "probability", "png"]
    answer = client.post(f"/v1/images/{name}/masks", json={**LOWER_LEFT, "return": everything})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    predictor = Predictor(run).set_image(read_image(film))
    wanted = predictor.segment(LOWER_LEFT["sentence"])
    assert np.array_equal(decoded(base64.b64decode(body["png"])), wanted.mask * 255)
    probability = decoded(base64.b64decode(body["probability"]))
    assert np.abs(probability / 255 - wanted.probability).max() < 0.003
    assert decoded(base64.b64decode(body["overlay"])).shape == (*wanted.mask.shape, 3)
    assert body["rle"]["size"] == [body["rows"], body["columns"]] == [64, 64]
    assert sum(body["rle"]["counts"][1::2]) == body["foreground_px"] == wanted.mask.sum()
    assert body["statement"]["zones"] == [["left", "lower"]] == body["statement"]["cells"]
    assert body["statement"]["grid"] == "2x3"
    assert (body["asked"]["said"], body["asked"]["model"]) == ("image", "image")
    assert (body["abstained"], body["warnings"], body["threshold"]) == (False, [], 0.1)
    assert body["model_sha256"] == predictor.weights_sha256
    for kind, part in (("mask.png", "png"), ("overlay.png", "overlay")):
        linked = client.get(body["links"][kind])
        assert linked.headers["content-type"] == "image/png"
        assert linked.content == base64.b64decode(body[part])
    other = client.post(
        f"/v1/images/{name}/masks", json={"sentence": "opacity in the upper right lung"}
    ).json()
    assert other["png"] != body["png"]
    assert "rle" not in other


def test_the_threshold_is_the_clients(client, film):
    name = upload(client, film.read_bytes())
    ask = {**LOWER_LEFT, "return": ["rle"]}
    sizes = [
        client.post(f"/v1/images/{name}/masks", json={**ask, "threshold": t}).json()[
            "foreground_px"
        ]
        for t in (0, 1)
    ]
    assert sizes == [64 * 64, 0]
    mask = client.get(f"/v1/images/{name}/mask.png", params={**LOWER_LEFT, "threshold": 0}).content
    assert (decoded(mask) == 255).all()


def test_the_upload_is_described_and_shown(client, png):
    answer = client.post("/v1/images", files={"file": ("x.png", png)})
    body = answer.json()
    assert answer.status_code == 201
    assert (body["rows"], body["columns"], body["channels"], body["format"]) == (
        40,
        50,
        1,
        "picture",
    )
    assert (body["sides_known"], body["orientation"], body["count"]) == (False, None, 1)
    shown = client.get(f"/v1/images/{body['id']}/picture.png")
    assert np.array_equal(decoded(shown.content), decoded(png))


def test_an_image_can_be_forgotten(client, png):
    name = upload(client, png)
    assert client.delete(f"/v1/images/{name}").status_code == 204
    refused(client.delete(f"/v1/images/{name}"), 404, "no_such_image")
    refused(client.post(f"/v1/images/{name}/masks", json=LOWER_LEFT), 404, "no_such_image")
    refused(client.get(f"/v1/images/{name}/picture.png"), 404, "no_such_image")


def test_the_store_lets_the_oldest_go(client_of, png):
    client = client_of(limits=Limits(images=2))
    names = [upload(client, png) for _ in range(3)]
    answers = [client.get(f"/v1/images/{name}/picture.png").status_code for name in names]
    assert answers == [404, 200, 200]


def test_odd_sentences_are_answered_with_warnings_in_plain_words(client, png):
    name = upload(client, png)
    expected = {
        "what a day": "nothing_parsed",
        "lower left lung\x00\x1b[31m\u202e": "control_characters",
        "   ": "empty_text",
        "unilateral infection, upper left lung and lower right lung": "contradiction_lateral",
        "<img src=x onerror=alert(1)>": "nothing_parsed",
    }
    for sentence, code in expected.items():
        body = client.post(f"/v1/images/{name}/masks", json={"sentence": sentence}).json()
        found = {one["code"]: one["message"] for one in body["warnings"]}
        assert code in found, (sentence, body)
        assert " " in found[code]


@pytest.mark.parametrize(
    "change",
    [
        {"sentence": "x" * 2001},
        {"sentence": ""},
        {"sentence": 5},
        {"threshold": 1.5},
        {"threshold": "0.5"},
        {"laterality": "mine"},
        {"view": "PA"},
        {"return": ["gif"]},
        {"return": ["png"] * 13},
        {"unknown": 1},
    ],
    ids=str,
)
def test_what_does_not_fit_the_description_is_refused(client, png, change):
    name = upload(client, png)
    refused(client.post(f"/v1/images/{name}/masks", json={**LOWER_LEFT, **change}), 422, "invalid")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"sentence": "a', 422),
        (b"[" * 60000, 400),
        (b'{"sentence": "\\ud800"}', 422),
        (b"\xff\xfe", 422),
    ],
)
def test_bodies_that_are_no_json_are_refused(client, png, body, status):
    name = upload(client, png)
    answer = client.post(
        f"/v1/images/{name}/masks", content=body, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


def test_what_was_sent_is_not_repeated_in_refusals(client, png):
    name = upload(client, png)
    secret = "Jane Doe 1970"
    for change in ({"sentence": secret * 500}, {"laterality": secret}, {secret: [secret]}):
        answer = client.post(f"/v1/images/{name}/masks", json={**LOWER_LEFT, **change})
        values = [v for v in change.values() if v == secret or len(v) > 100]
        assert answer.status_code == 422
        assert not any(value in answer.text for value in values)


def test_a_side_that_cannot_be_known_is_refused_unless_assumed(client, png):
    name = upload(client, png)
    ask = f"/v1/images/{name}/masks"
    refused(client.post(ask, json={**LOWER_LEFT, "laterality": "unknown"}), 422, "laterality")
    assumed = client.post(
        ask, json={**LOWER_LEFT, "laterality": "unknown", "assume": "image"}
    ).json()
    assert assumed["asked"]["assumed"] is True
    assert (
        client.post(ask, json={"sentence": "lower lung", "laterality": "unknown"}).status_code
        == 200
    )
    refused(client.post(ask, json={**LOWER_LEFT, "laterality": "patient"}), 422, "laterality")


def test_the_patients_left_is_the_images_right_in_a_usual_film(client, film):
    name = upload(client, film.read_bytes())
    ask = f"/v1/images/{name}/masks"
    ours = client.post(ask, json={**LOWER_LEFT, "laterality": "patient", "view": "pa"}).json()
    same = client.post(ask, json={"sentence": "opacity in the lower right lung"}).json()
    assert ours["png"] == same["png"]
    assert ours["statement"]["zones"] == [["left", "lower"]]
    assert ours["statement"]["cells"] == [["right", "lower"]]
    assert ours["asked"]["conversion"] != "none"
    turned = client.post(
        ask, json={**LOWER_LEFT, "laterality": "patient", "view": "mirrored"}
    ).json()
    assert turned["statement"]["cells"] == [["left", "lower"]]


def test_an_image_that_says_where_the_patient_is_needs_no_view(segmenter, film):
    place = Orientation.of_view("pa")
    known = Upload(LoadedImage(read_image(film), "dicom", place), 1, "")
    answer = segmenter.segment(known, PromptRequest(LOWER_LEFT["sentence"]))
    assert answer.conversion["said"] == "patient"
    assert answer.cells == {("right", "lower")}


# uploads


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"", 415, "not_a_picture"),
        (b"no picture", 415, "not_a_picture"),
        (b"<svg onload='alert(1)'/>", 415, "not_a_picture"),
        (b"\0" * 128 + b"DICM" + b"\0" * 50, 422, "damaged"),
        (b"\x1f\x8b" + b"\0" * 50, 422, "damaged"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 50, 422, "damaged"),
    ],
)
def test_what_is_no_image_is_refused(client, data, status, code):
    answer = client.post("/v1/images", files={"file": ("film.png", data)})
    message = refused(answer, status, code)
    assert "/tmp" not in message


def test_a_truncated_image_is_refused(client, film):
    data = film.read_bytes()
    refused(
        client.post("/v1/images", files={"file": ("a.png", data[: len(data) // 2])}), 422, "damaged"
    )


@pytest.mark.parametrize(
    "name", ["../../../etc/passwd", "/abs.png", "<img src=x onerror=alert(1)>.png", "a" * 3000]
)
def test_the_name_of_a_file_means_nothing(client, png, name, tmp_path):
    answer = client.post("/v1/images", files={"file": (name, png)})
    assert answer.status_code == 201
    assert name not in answer.text


def bomb(rows, columns):
    """A PNG whose header promises far more pixels than it brings."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", columns, rows, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0"))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(5001, 5000), (12000, 9000), (60000, 60000)])
def test_a_pixel_bomb_is_refused_before_it_is_decoded(client, size):
    refused(
        client.post("/v1/images", files={"file": ("a.png", bomb(*size))}), 413, "too_many_pixels"
    )


def test_an_upload_over_the_cap_is_refused(client_of, png):
    client = client_of(limits=Limits(max_bytes=10_000))
    assert upload(client, png)
    refused(
        client.post("/v1/images", files={"file": ("a.png", b"x" * 20_000)}), 413, "too_many_bytes"
    )
    refused(
        client.post("/v1/jobs", content=b"x" * 70_000), 413, "too_many_bytes"
    )  # JSON has a cap of its own


def scope_of(headers=(), path="/v1/images"):
    host = (b"host", b"127.0.0.1:8000")
    return {
        "type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"",
        "headers": [host, *headers], "client": ("127.0.0.1", 5), "server": ("127.0.0.1", 8000), "scheme": "http",
        "http_version": "1.1", "root_path": "", "asgi": {"version": "3.0"},
    }  # fmt: skip


def call(app, scope, receive):
    sent = []

    async def send(message):
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return (
        sent[0]["status"],
        dict(sent[0]["headers"]),
        b"".join(part.get("body", b"") for part in sent[1:]),
    )


MULTIPART = (b"content-type", b"multipart/form-data; boundary=xx")
HEAD = b'--xx\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'


def test_reading_stops_at_the_cap_and_nothing_more_is_taken(segmenter):
    """A body without a length, far beyond the cap: the service takes no more than the cap and one chunk."""
    app, taken = create_app(segmenter, ServiceOptions(limits=Limits(max_bytes=1_000_000))), 0

    async def receive():
        nonlocal taken
        chunk = HEAD if taken == 0 else b"x" * 65536
        taken += len(chunk)
        assert taken < 2_000_000, "read on beyond the cap"
        return {"type": "http.request", "body": chunk, "more_body": True}

    status, headers, body = call(
        app, scope_of([MULTIPART, (b"transfer-encoding", b"chunked")]), receive
    )
    assert (status, json.loads(body)["code"]) == (413, "too_many_bytes")
    assert headers[b"connection"] == b"close"
    assert taken < 1_000_000 + 2 * 65536


def test_a_length_over_the_cap_is_refused_without_reading(segmenter):
    async def receive():
        raise AssertionError("nothing is to be read")

    app = create_app(segmenter)
    for length in (b"999999999999", b"9" * 100):
        status, headers, _ = call(app, scope_of([MULTIPART, (b"content-length", length)]), receive)
        assert (status, headers[b"connection"]) == (413, b"close")


def test_a_body_that_does_not_arrive_ends_the_request(segmenter):
    app, first = create_app(segmenter, ServiceOptions(limits=Limits(body_seconds=0.1))), True

    async def receive():
        nonlocal first
        if first:
            first = False
            return {"type": "http.request", "body": HEAD, "more_body": True}
        return await asyncio.sleep(60)

    status, headers, body = call(app, scope_of([MULTIPART, (b"content-length", b"5000")]), receive)
    assert (status, json.loads(body)["code"]) == (408, "slow")
    assert headers[b"connection"] == b"close"


def test_dripping_bytes_do_not_extend_the_time(segmenter):
    app = create_app(segmenter, ServiceOptions(limits=Limits(body_seconds=0.1)))

    async def receive():
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b" ", "more_body": True}

    headers = [(b"content-type", b"application/json"), (b"transfer-encoding", b"chunked")]
    status, _, _ = call(app, scope_of(headers, f"/v1/images/{'a' * 22}/masks"), receive)
    assert status == 408


# who may ask


def test_a_token_is_asked_for_and_compared(client_of, png):
    client = client_of(token=TOKEN)
    for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": ""},
    ):
        answer = client.get("/v1/capabilities", headers=headers)
        refused(answer, 401, "token")
        assert answer.headers["www-authenticate"].startswith("Bearer")
        refused(
            client.post("/v1/images", files={"file": ("a.png", png)}, headers=headers), 401, "token"
        )
        refused(client.get("/metrics", headers=headers), 401, "token")
    right = {"Authorization": f"Bearer {TOKEN}"}
    assert client.get("/v1/capabilities", headers=right).status_code == 200
    name = upload(client, png, headers=right)
    refused(client.post(f"/v1/images/{name}/masks", json=LOWER_LEFT), 401, "token")
    for path in ("/", "/healthz", "/readyz", "/static/app.js", "/openapi.json"):
        assert client.get(path).status_code == 200, path
    schema = client.get("/openapi.json").json()
    assert schema["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    assert schema["paths"]["/v1/images"]["post"]["security"] == [{"bearer": []}]


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "", "10.0.0.1"]
)
def test_a_name_that_was_bound_to_this_machine_by_others_is_refused(client, host):
    refused(client.get("/v1/capabilities", headers={"Host": host}), 400, "unknown_host")


def test_further_names_can_be_allowed(client_of):
    client = client_of(hosts=("Seg.Example.org",))
    assert client.get("/healthz", headers={"Host": "seg.example.org:443"}).status_code == 200
    assert client.get("/healthz", headers={"Host": "[::1]:8000"}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
    ids=str,
)
def test_pages_of_other_origins_are_refused(client, png, headers):
    refused(
        client.post("/v1/images", files={"file": ("a.png", png)}, headers=headers),
        403,
        "other_origin",
    )


def test_the_pages_own_requests_are_not(client, png):
    assert upload(
        client, png, headers={"Origin": "http://127.0.0.1:8000", "Sec-Fetch-Site": "same-origin"}
    )


def test_every_answer_has_the_headers(client):
    for path in ("/", "/static/app.js", "/healthz", "/nowhere", "/v1/images"):
        headers = client.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'self';")
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in headers


def test_unknown_routes_and_methods_are_problems(client):
    refused(client.get("/nowhere"), 404, "no_such_route")
    answer = client.put("/v1/images")
    refused(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"
    assert client.put(f"/v1/jobs/{'a' * 22}").headers["allow"] == "DELETE, GET, HEAD"
    refused(client.get("/static/../app.py"), 404, "no_such_route")
    refused(client.get("/static/%2e%2e/app.py"), 404, "no_such_route")


def test_dicom_results_are_for_dicom_uploads(client, png):
    name = upload(client, png)
    refused(client.get(f"/v1/images/{name}/mask.dcm", params=LOWER_LEFT), 415, "not_dicom")
    refused(
        client.post(f"/v1/images/{name}/masks", json={**LOWER_LEFT, "return": ["sr"]}),
        415,
        "not_dicom",
    )


def test_a_dicom_film_is_asked_of_its_patient_and_gives_a_seg_and_a_report(client):
    name = upload(client, to_bytes(cr()))
    body = client.get(
        f"/v1/images/{name}/mask.dcm", params={"sentence": "opacity in the left lower lung"}
    )
    seg = pydicom.dcmread(io.BytesIO(body.content))
    answer = client.post(
        f"/v1/images/{name}/masks",
        json={"sentence": "opacity in the left lower lung", "return": ["rle", "sr"]},
    ).json()
    assert answer["asked"]["said"] == "patient"
    assert answer["statement"]["cells"] == [["right", "lower"]]
    assert seg.Modality == "SEG"
    assert int(seg.pixel_array.sum()) == answer["foreground_px"] > 0
    assert seg.SegmentSequence[0].SegmentDescription.startswith("opacity in the left lower lung")
    report = pydicom.dcmread(io.BytesIO(base64.b64decode(answer["sr"])))
    assert report.Modality == "SR"
    assert report.StudyInstanceUID == seg.StudyInstanceUID == cr().StudyInstanceUID


def test_a_nifti_slice_is_chosen_by_its_index(client):
    volume = nibabel.Nifti1Image(
        np.random.default_rng(0).normal(size=(20, 30, 3)).astype(np.float32), np.diag([1, 1, 5, 1])
    )
    files = {"file": ("scan.nii", volume.to_bytes())}
    answer = client.post("/v1/images", files=files, params={"index": 2})
    assert answer.status_code == 201, answer.text
    assert (answer.json()["format"], answer.json()["count"]) == ("nifti", 3)
    refused(client.post("/v1/images", files=files, params={"index": 3}), 422, "damaged")


def scan(shape=(20, 30, 3)):
    voxels = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return nibabel.Nifti1Image(voxels, np.diag([1, 1, 5, 1])).to_bytes()


def frames():
    return to_bytes(mr())


@pytest.mark.parametrize(("name", "data"), [("scan.nii", scan), ("film.dcm", frames)])
def test_a_volume_is_uploaded_once_and_asked_per_slice(client, name, data):
    content, about = data(), {**LOWER_LEFT, "view": "pa", "return": ["png", "probability"]}
    first = upload(client, content, name)
    for index in (0, 2, 1, 2):
        sent = {"file": (name, content)}
        alone = client.post("/v1/images", files=sent, params={"index": index}).json()["id"]
        expected = client.post(f"/v1/images/{alone}/masks", json=about)
        answer = client.post(f"/v1/images/{first}/masks", json={**about, "index": index})
        assert answer.status_code == expected.status_code == 200, answer.text
        for part in ("png", "probability", "statement"):
            assert answer.json()[part] == expected.json()[part]

        # and as links
        linked = client.get(answer.json()["links"]["mask.png"])
        assert linked.content == base64.b64decode(answer.json()["png"])
        shown, other = (
            client.get(f"/v1/images/{id}/picture.png", params=params).content
            for id, params in ((first, {"index": index}), (alone, {}))
        )
        assert shown == other

    answer = client.post(f"/v1/images/{first}/masks", json={**about, "index": 3})
    assert "contains 3 images" in refused(answer, 404, "no_such_index")


def test_a_single_image_has_one_index(client, png):
    path = f"/v1/images/{upload(client, png)}/masks"
    assert client.post(path, json={**LOWER_LEFT, "index": 0}).status_code == 200
    refused(client.post(path, json={**LOWER_LEFT, "index": 1}), 404, "no_such_index")


def test_a_volume_counts_with_all_its_voxels_and_must_fit(client_of):
    small = Limits(max_pixels=1000, store_bytes=5000)
    client = client_of(limits=small)
    message = refused(
        client.post("/v1/images", files={"file": ("scan.nii", scan())}), 413, "too_many_voxels"
    )
    assert "7,800 bytes" in message  # 20 x 30 x 3 float32, and one slice in 8 bits


class SlowToRead(Segmenter):
    """A segmenter that reads a file of one byte more only when it may."""

    def __init__(self, segmenter, slow):
        self.__dict__.update(segmenter.__dict__)
        self.slow, self.begun, self.gate = slow, threading.Event(), threading.Event()

    def read(self, data, index, max_pixels):
        if data == self.slow:
            self.begun.set()
            assert self.gate.wait(20)
        return super().read(data, index, max_pixels)


def test_a_file_that_is_slow_to_decode_keeps_nobody_waiting(client_of, segmenter, png):
    slow = SlowToRead(segmenter, png + b" ")
    client = client_of(segmenter=slow)
    answers = []
    waiting = threading.Thread(
        target=lambda: answers.append(
            client.post("/v1/images", files={"file": ("a.png", slow.slow)})
        )
    )
    waiting.start()
    assert slow.begun.wait(10)
    name = upload(client, png)
    assert client.post(f"/v1/images/{name}/masks", json=LOWER_LEFT).status_code == 200
    assert not answers
    slow.gate.set()
    waiting.join()
    assert answers[0].status_code == 201


def test_a_slice_that_is_slow_to_decode_keeps_nobody_waiting(client_of, png, monkeypatch):
    """The frame is decoded by a reader and not by the only worker, and it has a time limit."""
    begun, gate = threading.Event(), threading.Event()

    class Slow:
        size_bytes = 10

        def image(self, index):
            begun.set()
            assert gate.wait(20)
            raise AssertionError("too late")

    client = client_of(limits=Limits(workers=1, decode_seconds=0.3))
    service = client.app.service
    kept = Upload(LoadedImage(np.zeros((20, 30), np.uint8)), 3, "", Slow())
    slow, name = service.images.put(kept, 600), upload(client, png)
    answers = []
    waiting = threading.Thread(
        target=lambda: answers.append(
            client.post(f"/v1/images/{slow}/masks", json={**LOWER_LEFT, "index": 1})
        )
    )
    waiting.start()
    assert begun.wait(10)
    assert client.post(f"/v1/images/{name}/masks", json=LOWER_LEFT).status_code == 200
    waiting.join()
    assert "within 0.3 s" in refused(answers[0], 422, "too_slow")
    gate.set()


def test_decoding_has_a_time_limit(client_of, segmenter, png):
    slow = SlowToRead(segmenter, png + b" ")
    client = client_of(segmenter=slow, limits=Limits(decode_seconds=0.2))
    answer = client.post("/v1/images", files={"file": ("a.png", slow.slow)})
    assert "within 0.2 s" in refused(answer, 422, "too_slow")
    slow.gate.set()
    assert client.post("/v1/images", files={"file": ("a.png", png)}).status_code == 201


def test_a_full_queue_answers_429_and_recovers(client_of, segmenter, png):
    gated = Gated(segmenter)
    client = client_of(segmenter=gated, limits=Limits(queue=1))
    name = upload(client, png)
    ask, answers = f"/v1/images/{name}/masks", []
    threads = [
        threading.Thread(
            target=lambda: answers.append(client.post(ask, json={"sentence": "wait"}).status_code)
        )
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    assert gated.begun.wait(10)
    pending = {"textmask_queue 2.0"}
    while not pending & set(client.get("/metrics").text.splitlines()):
        time.sleep(0.005)
    answer = client.post(ask, json=LOWER_LEFT)
    refused(answer, 429, "busy")
    assert int(answer.headers["retry-after"]) >= 1
    # an upload waits for no prompt: it has threads of its own
    assert client.post("/v1/images", files={"file": ("a.png", png)}).status_code == 201
    assert client.get("/healthz").status_code == 200  # lives, however busy
    gated.gate.set()
    for thread in threads:
        thread.join()
    assert answers == [200, 200]
    assert client.post(ask, json=LOWER_LEFT).status_code == 200


def test_an_unexpected_error_tells_no_more_than_its_kind(segmenter, png):
    from fastapi.testclient import TestClient

    class Broken(Gated):
        def segment(self, upload, request):
            if request.prompt == "break":
                raise RuntimeError("secret")
            return super().segment(upload, request)

    with TestClient(
        create_app(Broken(segmenter)), base_url="http://localhost", raise_server_exceptions=False
    ) as client:
        name = upload(client, png)
        message = refused(
            client.post(f"/v1/images/{name}/masks", json={"sentence": "break"}), 500, "internal"
        )
        assert "secret" not in message
        assert client.post(f"/v1/images/{name}/masks", json=LOWER_LEFT).status_code == 200


# operation


def test_health_readiness_capabilities_and_metrics(client, segmenter, png):
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ready"}
    body = client.get("/v1/capabilities").json()
    assert (body["method"], body["model_sha256"]) == ("text_prior", segmenter.sha256)
    assert (body["laterality"], body["jobs"], body["max_sentence"]) == ("image", False, 2000)
    name = upload(client, png)
    client.post(f"/v1/images/{name}/masks", json={"sentence": "<b>odd</b> sentence of Jane Doe"})
    client.get(f"/nowhere/{name}")
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = answer.text.splitlines()
    assert (
        'textmask_requests_total{method="POST",route="/v1/images/{id}/masks",status="200"} 1.0'
        in lines
    )
    assert 'textmask_warnings_total{code="nothing_parsed"} 1.0' in lines
    assert "textmask_images 1.0" in lines
    assert any(line.startswith("textmask_model_seconds_bucket") for line in lines)
    assert name not in answer.text
    assert "Jane" not in answer.text


def test_it_is_not_ready_before_it_started_and_while_it_stops(segmenter):
    app = create_app(segmenter)
    from fastapi.testclient import TestClient

    client = TestClient(app, base_url="http://localhost")
    refused(client.get("/readyz"), 503, "not_ready")
    with client:
        assert client.get("/readyz").status_code == 200
    refused(client.get("/readyz"), 503, "not_ready")


def test_the_audit_log_says_who_asked_what_of_which_model(client_of, segmenter, png, tmp_path):
    log = tmp_path / "audit.jsonl"
    client = client_of(audit=log)
    name = upload(client, png)
    evil = 'lower left lung\n{"action": "forged"}'
    client.post(f"/v1/images/{name}/masks", json={"sentence": evil})
    client.get(f"/v1/images/{name}/mask.png", params={"sentence": evil, "laterality": "unknown"})
    client.delete(f"/v1/images/{name}")
    text = log.read_text()
    records = [json.loads(line) for line in text.splitlines()]
    assert [record["action"] for record in records] == ["upload", "ask", "ask", "forget"]
    assert "lower left" not in text
    assert name not in text  # an id opens the image
    assert {record.get("model_sha256", segmenter.sha256) for record in records} == {
        segmenter.sha256
    }
    assert len(records[1]["sentence_sha256"]) == 64
    assert records[1]["who"] == "testclient"
    assert records[2]["refused"] == "laterality"
    opted = tmp_path / "opted.jsonl"
    client = client_of(audit=opted, audit_sentences=True)
    client.post(f"/v1/images/{upload(client, png)}/masks", json={"sentence": evil})
    assert json.loads(opted.read_text().splitlines()[1])["sentence"] == evil


def test_nothing_is_answered_that_cannot_be_put_on_record(client_of, png, tmp_path):
    client = client_of(audit=tmp_path / "audit.jsonl")
    name = upload(client, png)
    client.app.service.audit.close()
    refused(client.post(f"/v1/images/{name}/masks", json=LOWER_LEFT), 503, "audit")
    client.app.service.audit._file = None


def test_no_file_of_an_upload_stays_behind(client, png, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    upload(client, png)
    client.post("/v1/images", files={"file": ("a.png", b"\x89PNG\r\n\x1a\n")})
    big = io.BytesIO(b"\x89PNG\r\n\x1a\n" + b"0" * 3_000_000)  # spooled to disk
    client.post("/v1/images", files={"file": ("a.png", big)})
    assert list(tmp_path.iterdir()) == []
