"""A DICOMweb server that means no good: nothing it sends is followed, unpacked, or taken without end."""

import contextlib
import gzip
import json
import logging
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from dicom_sources import film
from hypothesis import given, settings
from hypothesis import strategies as st

from textmask.errors import ConfigError, PacsAccessError, PacsDownError, PacsError
from textmask.pacs import client as dicomweb
from textmask.pacs import session
from textmask.pacs.client import Instance, Pacs, Series, _only_part
from textmask.pacs.reports import MAX_ITEMS, report_of

HERE = Instance("1.2.3", "1.2.4", "1.2.5")


class Server:
    """Answers every request by `answer(path)`: status, headers, body."""

    def __init__(self):
        self.answer, self.seen = (lambda path: (200, {}, b"[]")), []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                outer.seen.append((self.path, dict(self.headers)))
                status, headers, body = outer.answer(self.path)
                self.send_response(status)
                for name, value in {
                    "Content-Type": "application/dicom+json",
                    "Content-Length": len(body),
                    **headers,
                }.items():
                    self.send_header(name, str(value))
                self.end_headers()
                with contextlib.suppress(OSError):  # the client has had enough
                    self.wfile.write(body)

            do_POST = do_GET

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/dicom-web"
        self.thread = threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.02}
        )
        self.thread.start()


@pytest.fixture
def server():
    found = Server()
    yield found
    found.server.shutdown()
    found.server.server_close()
    found.thread.join()


def row(uid, **more):
    values = {"0020000D": "1.2.3", "0020000E": "1.2.4", "00080060": "CR", "00080018": uid} | more
    return {tag: {"vr": "UI", "Value": [value]} for tag, value in values.items()}


def body(rows):
    return json.dumps(rows).encode()


def multipart(*parts, boundary="b"):
    return b"".join(
        b"--" + boundary.encode() + b"\r\nContent-Type: application/dicom\r\n\r\n" + p + b"\r\n"
        for p in parts
    ) + (b"--" + boundary.encode() + b"--")


def of_parts(*parts):
    return lambda path: (
        200,
        {"Content-Type": 'multipart/related; type="application/dicom"; boundary="b"'},
        multipart(*parts),
    )


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://pacs.example/dicom-web", "expected https"),
        ("http://127.0.0.1.example/dicom-web", "expected https"),
        ("https://user:secret@pacs.example/dicom-web", "contains credentials"),
        ("ftp://127.0.0.1/x", "root of a DICOMweb service"),
        ("https://", "root of a DICOMweb service"),
        ("https://h/x?token=1", "root of a DICOMweb service"),
        ("https://h:port/x", "malformed"),
        ("file:///etc/passwd", "root of a DICOMweb service"),
    ],
)
def test_only_https_or_the_loopback_is_spoken_to(url, said):
    with pytest.raises(ConfigError, match=said) as caught:
        Pacs(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:1/x", "http://[::1]:1/x", "http://localhost/x", "https://pacs.example"],
)
def test_these_addresses_are_spoken_to(url):
    assert Pacs(url)._session.verify is True


def test_credentials_are_sent_to_the_server_and_not_taken_from_netrc(server, tmp_path, monkeypatch):
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login other password other\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    for how in ({}, {"token": "abc"}, {"user": "ü", "password": "p"}):
        Pacs(server.url, **how).ping()
    signed = [headers.get("Authorization") for _, headers in server.seen]
    assert signed == [None, "Bearer abc", "Basic w7w6cA=="]
    with pytest.raises(ConfigError, match="a token and a user"):
        Pacs(server.url, token="a", user="b")


def test_redirects_are_not_followed(server):
    other = Server()
    try:
        server.answer = lambda path: (302, {"Location": other.url}, b"")
        with pytest.raises(PacsError, match="returned status 302"):
            Pacs(server.url, token="abc").fetch(HERE)
        assert other.seen == []
    finally:
        other.server.shutdown()
        other.server.server_close()
        other.thread.join()


def test_more_bytes_than_are_taken_are_refused(server, monkeypatch):
    monkeypatch.setattr(dicomweb, "MAX_INSTANCE_BYTES", 1 << 20)
    monkeypatch.setattr(dicomweb, "MAX_JSON_BYTES", 1 << 20)
    server.answer = lambda path: (200, {}, b" " * (3 << 20))
    for ask in (lambda p: p.fetch(HERE), lambda p: p.series("CR"), lambda p: p.metadata(HERE)):
        with pytest.raises(PacsError, match="more than 1,048,576 bytes"):
            ask(Pacs(server.url))


def test_compressed_answers_are_refused(server):
    packed = gzip.compress(bytes(1 << 20))
    server.answer = lambda path: (200, {"Content-Encoding": "gzip"}, packed)
    with pytest.raises(PacsError, match="compressed response"):
        Pacs(server.url).fetch(HERE)
    assert server.seen[0][1]["Accept-Encoding"] == "identity"


def test_an_answer_that_never_ends_is_given_up(server, monkeypatch):
    monkeypatch.setattr(session, "MAX_RESPONSE_S", -1.0)
    server.answer = of_parts(b"x")
    with pytest.raises(PacsDownError, match="for one response"):
        Pacs(server.url).fetch(HERE)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, PacsAccessError), (403, PacsAccessError), (503, PacsDownError), (500, PacsError)],
)
def test_each_status_is_one_kind_of_error(server, status, kind):
    server.answer = lambda path: (status, {}, b"secret <script>")
    with pytest.raises(kind) as caught:
        Pacs(server.url).series("CR")
    assert type(caught.value) is kind
    assert "secret" not in str(caught.value)
    assert len(server.seen) == 1  # whoever asks decides whether to wait


@pytest.mark.parametrize(
    "answer",
    [
        b"no json",
        b"{}",
        b'{"a": 1}',
        b"5",
        b'"x"',
        b"[" * 100_000,
        b'[1, null, "x", [], {"00080018": 5}]',
        b"\xff",
    ],
)
def test_what_is_no_dicom_json_is_an_error_or_nothing(server, answer):
    server.answer = lambda path: (200, {}, answer)
    pacs = Pacs(server.url)
    for ask in (
        lambda: pacs.series("CR"),
        lambda: pacs.instances(Series("1.2.3", "1.2.4", "CR")),
        lambda: pacs.studies("A"),
    ):
        with contextlib.suppress(PacsError):
            assert ask() == []


def test_rows_with_hostile_uids_are_left_out(server):
    bad = (
        "../../../etc",
        "1.2.3/../../x",
        "1.2.3?x=1",
        "1.2.3#",
        "",
        "1" * 70,
        "1.2.3\r\nX: y",
        None,
        {"a": 1},
    )
    good = row("1.2.9")
    rows = [row(uid) for uid in bad] + [row("1.2.8", **{"0020000E": "../x"}), good]
    server.answer = lambda path: (200, {}, body(rows) if "offset=0" in path else b"[]")
    found = Pacs(server.url).instances(Series("1.2.3", "1.2.4", "CR"))
    assert {one.uid for one in found} == {"1.2.8", "1.2.9"}
    assert {(one.study, one.series) for one in found} == {
        ("1.2.3", "1.2.4")
    }  # as asked, not as answered


def test_series_of_other_studies_and_modalities_are_left_out(server):
    other = [
        row("x", **{"0020000D": "9.9", "0020000E": "1.2.5"}),
        row("x", **{"00080060": "SEG", "0020000E": "1.2.6"}),
    ]
    server.answer = lambda path: (200, {}, body([row("x"), *other]))
    assert Pacs(server.url).series("CR", "1.2.3") == [Series("1.2.3", "1.2.4", "CR")]


def test_a_page_that_comes_again_ends_the_search_and_endless_pages_do(server, monkeypatch):
    server.answer = lambda path: (200, {}, body([row("1.2.9")]))
    assert len(Pacs(server.url).instances(Series("1.2.3", "1.2.4", "CR"))) == 1
    assert len(server.seen) == 2
    monkeypatch.setattr(dicomweb, "MAX_RESULTS", 30)
    count = iter(range(1, 1000))
    server.answer = lambda path: (200, {}, body([row(f"1.3.{next(count)}") for _ in range(10)]))
    with pytest.raises(PacsError, match="more than 30"):
        Pacs(server.url).instances(Series("1.2.3", "1.2.4", "CR"))


def test_short_pages_are_all_asked_for(server):
    pages = {0: [row("1.3.1"), row("1.3.2")], 2: [row("1.3.3")], 3: []}
    server.answer = lambda path: (200, {}, body(pages[int(path.split("offset=")[1].split("&")[0])]))
    assert len(Pacs(server.url).instances(Series("1.2.3", "1.2.4", "CR"))) == 3


def test_an_accession_number_means_itself_and_one_patient(server):
    rows = [row("x", **{"00080050": "A1", "00100020": "P", "0020000D": f"1.2.{i}"}) for i in (1, 2)]
    rows.append(row("x", **{"00080050": "A11", "00100020": "Q", "0020000D": "1.2.3"}))
    server.answer = lambda path: (200, {}, body(rows))
    assert Pacs(server.url).studies("A1") == ["1.2.1", "1.2.2"]
    rows.append(row("x", **{"00080050": "A1", "00100020": "Q", "0020000D": "1.2.4"}))
    with pytest.raises(PacsError, match="several patients") as caught:
        Pacs(server.url).studies("A1")
    assert "A1" not in str(caught.value)


def test_one_part_is_one_file(server):
    data = bytes(range(256)) * 5 + b"\r\n\r\n--c\r\n"
    server.answer = of_parts(data)
    assert Pacs(server.url).fetch(HERE) == data
    path, headers = server.seen[0]
    assert path == "/dicom-web/studies/1.2.3/series/1.2.4/instances/1.2.5"
    assert 'type="application/dicom"' in headers["Accept"]


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (multipart(b"a", b"b"), 'multipart/related; boundary="b"'),
        (multipart(b"a")[:-5], 'multipart/related; boundary="b"'),
        (b"", 'multipart/related; boundary="b"'),
        (multipart(b"a"), "multipart/related"),
        (multipart(b"a"), 'multipart/related; boundary=""'),
        (b"<html>", "text/html"),
        (b"", ""),
    ],
)
def test_another_form_is_refused(content, kind):
    with pytest.raises(PacsError, match="the PACS returned"):
        _only_part(content, kind)


@given(st.binary(max_size=300), st.text(max_size=60))
@settings(max_examples=200, deadline=None)
def test_any_answer_is_a_file_or_an_error(content, kind):
    for form in (kind, f'multipart/related; boundary="{kind}"'):
        with contextlib.suppress(PacsError):
            assert isinstance(_only_part(content, form), bytes)


@given(st.binary(max_size=500))
@settings(max_examples=100, deadline=None)
def test_a_part_comes_back_as_it_was_sent(data):
    boundary = "0f3cf5c0-70e0"
    assert (
        _only_part(multipart(data, boundary=boundary), f"multipart/related; boundary={boundary}")
        == data
    )


def test_a_refused_result_is_an_error_and_an_unreadable_receipt_too(server):
    refused = {"00081198": {"vr": "SQ", "Value": [{"00081155": {"vr": "UI", "Value": ["1.2"]}}]}}
    server.answer = lambda path: (
        202,
        {"Content-Type": "application/dicom+json"},
        json.dumps(refused).encode(),
    )
    with pytest.raises(PacsError, match="refused to store 1 of 1"):
        Pacs(server.url).store("1.2.3", [film()])
    server.answer = lambda path: (200, {"Content-Type": "application/dicom+json"}, b"[[[")
    with pytest.raises(PacsError, match="not DICOMweb"):
        Pacs(server.url).store("1.2.3", [film()])


def test_nothing_is_logged_with_a_uid(server, caplog):
    with caplog.at_level(logging.DEBUG):
        Pacs(server.url).instances(Series("1.2.3", "1.2.4", "CR"))
    assert not any("1.2.3" in record.getMessage() for record in caplog.records)


def item(kind, text=None, code="121071", inner=(), image=None):
    found = {"0040A040": {"vr": "CS", "Value": [kind]}}
    found["0040A043"] = {"vr": "SQ", "Value": [{"00080100": {"vr": "SH", "Value": [code]}}]}
    if text is not None:
        found["0040A160"] = {"vr": "UT", "Value": [text]}
    if inner:
        found["0040A730"] = {"vr": "SQ", "Value": list(inner)}
    if image is not None:
        found["00081199"] = {"vr": "SQ", "Value": [{"00081155": {"vr": "UI", "Value": [image]}}]}
    return found


def document(*items, maker="x"):
    return {
        "00080070": {"vr": "LO", "Value": [maker]},
        "0040A730": {"vr": "SQ", "Value": list(items)},
    }


def test_findings_are_taken_and_other_words_left():
    found = report_of(
        document(
            item("TEXT", "Cough for two weeks", "121060"),
            item(
                "CONTAINER",
                code="121070",
                inner=[item("TEXT", "Opacity in the left lung", "1"), item("TEXT", "Clear.")],
            ),
            item("IMAGE", image="1.2.3"),
            item("IMAGE", image="../x"),
            item("TEXT", "\u202e\0", "121073"),
        )
    )
    assert found.prompt == "Opacity in the left lung. Clear."
    assert found.images == {"1.2.3"}


def test_without_findings_all_words_are_taken_and_without_words_nothing_is():
    assert report_of(document(item("TEXT", "a", "1"), item("TEXT", "b", "2"))).prompt == "a. b."
    assert report_of(document(item("CODE"))) is None
    assert report_of({}) is None


def test_our_own_reports_are_no_requests():
    assert report_of(document(item("TEXT", "a"), maker="textmask")) is None
    assert report_of(document(item("TEXT", "a"), maker=" TextMask ")) is None


def test_deep_and_endless_trees_are_cut():
    tree = item("TEXT", "deep")
    for _ in range(500):
        tree = item("CONTAINER", inner=[tree])
    assert report_of(document(tree)) is None
    many = report_of(document(*[item("TEXT", "x")] * (MAX_ITEMS + 100)))
    assert many.prompt.count("x") == MAX_ITEMS


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["Value", "0040A730", "0040A040", "0040A160", "00081199", "00080070"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(["0040A730", "00080070"]), json_values, max_size=2))
@settings(max_examples=200, deadline=None)
def test_any_json_is_a_report_or_none(header):
    found = report_of(header)
    assert found is None or found.prompt
