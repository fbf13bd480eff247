"""Faults that pass do not lose work: a server that fails for hours and then takes everything, without Orthanc."""

import io
import json
import re
import sqlite3
import urllib.error
import urllib.request

import numpy as np
import pydicom
import pytest
from dicom_sources import encoded, film

from textmask.errors import (
    ConfigError,
    DataError,
    DomainError,
    PacsAccessError,
    PacsDownError,
    PacsError,
)
from textmask.io.dicom.domain import Domain
from textmask.io.dicom.facts import ModelFacts, RequestFacts
from textmask.io.dicom.results import encode
from textmask.io.orientation import Orientation
from textmask.pacs.answers import DicomSegmentation
from textmask.pacs.client import Instance, Series
from textmask.pacs.faults import retry_after_s
from textmask.pacs.health import DOWN_S, SILENT_S, Health, serve_health
from textmask.pacs.state import State, TaskKey, open_state, short_hash
from textmask.pacs.watch import MAX_ATTEMPTS, Watcher, WatchEvent, WatchSettings
from textmask.pacs.worklist import ReportReader, WorklistItem, WorklistRows

DAY = 86_400.0


class Clock:
    """Time that only passes when it is told to."""

    def __init__(self):
        self.now = 1_000_000_000.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


class FakePacs:
    """A server with some images in memory; `faults` are raised by the call of that name, one after the other."""

    def __init__(self, *images):
        self.images = {one.SOPInstanceUID: one for one in images}
        self.stored, self.faults, self.down = {}, {}, False

    def _fault(self, name):
        if self.down:
            raise PacsDownError("the PACS does not answer (ConnectionError).")
        waiting = self.faults.get(name, [])
        if waiting and (error := waiting.pop(0)) is not None:
            raise error

    def ping(self):
        self._fault("ping")

    def responds(self):
        try:
            self.ping()
        except (PacsError, ConfigError):
            return False
        return True

    def series(self, modality, study=None, since=None):
        self._fault("series")
        uids = {one.SeriesInstanceUID for one in self.images.values() if one.Modality == modality}
        return [Series(study, uid, modality) for uid in sorted(uids)]

    def instances(self, series):
        self._fault("instances")
        return [
            Instance(one.StudyInstanceUID, series.uid, uid, 1, one.Modality)
            for uid, one in self.images.items()
            if one.SeriesInstanceUID == series.uid
        ]

    def holds(self, study, uid):
        self._fault("holds")
        return uid in self.stored

    def fetch(self, instance):
        self._fault("fetch")
        return encoded(self.images[instance.uid])

    def store(self, study, datasets):
        self._fault("store")
        for one in datasets:
            self.stored[one.SOPInstanceUID] = encode(one)


class Segmenter:
    model, settings = ModelFacts("fake", "1", "cd" * 32, 0.5), "laterality=patient"
    domain = Domain()

    def __init__(self, *errors):
        self.calls, self.errors = 0, list(errors)

    def __call__(self, files, prompt):
        self.calls += 1
        if self.errors and (error := self.errors.pop(0)) is not None:
            raise error
        sources = tuple(pydicom.dcmread(io.BytesIO(data)) for data in files)
        pixels = np.stack([one.pixel_array for one in sources])
        mask = (pixels > 1000).astype(np.uint8)
        shown = (pixels >> 4).astype(np.uint8)
        request = RequestFacts(prompt, "left", "lung")
        probability = mask * np.float32(0.9)
        return DicomSegmentation(sources, shown, mask, probability, request, Orientation("L", "F"))


@pytest.fixture
def image():
    return film(rows=16, columns=12)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def state(tmp_path):
    with open_state(tmp_path / "state.sqlite") as opened:
        yield opened


def watcher(pacs, state, clock, segmenter=None, prompts=("left lung",), **settings):
    events = []
    study = next(iter(pacs.images.values())).StudyInstanceUID
    asks = [WorklistItem("study", study, prompt) for prompt in prompts]
    made = Watcher(
        pacs,
        segmenter or Segmenter(),
        state,
        lambda: asks,
        WatchSettings(modalities=("CR",), interval_s=900, **settings),
        events.append,
        clock.sleep,
        Health(clock),
    )
    return made, events


class Enough(BaseException):
    """Ends a watcher that runs until it is stopped."""


def run_for(made, clock, seconds):
    """Rounds until the clock has gone on by that much."""
    until = clock.now + seconds

    def wait(duration):
        clock.sleep(duration)
        if clock.now >= until:
            raise Enough

    made.wait = wait
    with pytest.raises(Enough):
        made.run()


FAULTS = [
    *(PacsError(f"the PACS returned status {status}.") for status in (500, 507, 409, 413, 404)),
    PacsError("the PACS returned an instance with an incomplete multipart body."),
    PacsError("the PACS refused to store 1 of 2 results."),
    PacsDownError("the PACS does not answer (ChunkedEncodingError)."),
    PacsAccessError("the PACS refused the credentials (status 403)."),
    OSError(28, "No space left on device", "/secret/place"),
    MemoryError(),
]


PLACES = [("store", fault) for fault in FAULTS] + [("holds", FAULTS[0]), ("fetch", FAULTS[5])]


@pytest.mark.parametrize(("place", "fault"), PLACES)
def test_a_fault_of_a_night_passes_and_nothing_is_lost(image, state, clock, fault, place):
    pacs = FakePacs(image)
    made, events = watcher(pacs, state, clock)
    pacs.faults[place] = [fault] * 10_000
    run_for(made, clock, 0.5 * DAY)
    (entry,) = state.entries()
    assert entry.status == "waiting"
    assert 10 < entry.faults < 20  # at most once an hour in the end, of 49 rounds
    assert "secret" not in " ".join(map(str, events)) + entry.reason
    assert any(str(event).startswith("ALARM overdue") for event in events)
    pacs.faults.clear()
    run_for(made, clock, 3700)
    assert state.counts() == {"stored": 1}
    assert len(pacs.stored) == 2


def test_the_time_between_tries_grows_to_an_hour_and_ends_after_a_week(image, state, clock):
    assert [retry_after_s(n) for n in (1, 2, 3, 8, 1000)] == [30, 60, 120, 3600, 3600]
    pacs = FakePacs(image)
    made, events = watcher(pacs, state, clock)
    pacs.faults["fetch"] = [PacsError("the PACS returned status 500.")] * 10_000
    run_for(made, clock, 0.1 * DAY)
    clock.sleep(6.8 * DAY)
    run_for(made, clock, 0.01 * DAY)
    assert state.counts() == {"waiting": 1}
    clock.sleep(0.1 * DAY)
    run_for(made, clock, 0.01 * DAY)
    (entry,) = state.entries()
    assert entry.status == "failed"
    assert "in 7 days" in entry.reason
    assert "status 500" in entry.reason
    assert str(events[-1]).startswith("ALARM failed")


def test_results_that_the_server_did_not_take_are_not_made_again(image, state, clock, tmp_path):
    pacs, segmenter = FakePacs(image), Segmenter()
    made, _ = watcher(pacs, state, clock, segmenter)
    pacs.faults["store"] = [PacsError("the PACS returned status 507.")] * 3
    for _ in range(3):
        assert made.run(once=True) == {"later": 1}
    assert segmenter.calls == 1
    assert b"left lung" in (tmp_path / "state.sqlite").read_bytes()
    pacs.faults["fetch"] = [PacsError("gone")] * 99  # the image itself is not needed any more
    assert made.run(once=True) == {"stored": 1}
    assert segmenter.calls == 1
    kinds = {pydicom.dcmread(io.BytesIO(data)).Modality for data in pacs.stored.values()}
    assert kinds == {"SEG", "SR"}
    # what was kept of the patient is erased
    assert b"left lung" not in (tmp_path / "state.sqlite").read_bytes()
    assert b"Doe" not in (tmp_path / "state.sqlite").read_bytes()


def test_kept_results_have_an_upper_limit(image, state, clock, monkeypatch):
    monkeypatch.setattr("textmask.pacs.state.MAX_KEPT_BYTES", 10)
    pacs, segmenter = FakePacs(image), Segmenter()
    made, events = watcher(pacs, state, clock, segmenter)
    pacs.faults["store"] = [PacsError("the PACS returned status 507.")]
    assert made.run(once=True) == {"later": 1}
    assert events[0].what == "not kept"
    assert made.run(once=True) == {"stored": 1}
    assert segmenter.calls == 2


def test_a_search_that_fails_for_one_study_does_not_stop_the_others(image, state, clock):
    pacs = FakePacs(image)
    made, events = watcher(pacs, state, clock, prompts=("left lung", "right lung"))
    pacs.faults["series"] = [PacsDownError("the PACS does not answer (ReadTimeout).")]
    assert made.run(once=True) == {"stored": 1}
    assert [event.what for event in events] == ["cannot search", "stored"]


def test_a_report_that_cannot_be_read_does_not_stop_the_others():
    first, second = film(modality="CR"), film(modality="CR")
    first.Modality = second.Modality = "SR"
    pacs = FakePacs(first, second)
    text = {"0040A040": {"Value": ["TEXT"]}, "0040A160": {"Value": ["Opacity in the left lung"]}}
    answers = iter([PacsDownError("no answer"), {"0040A730": {"Value": [text]}}])

    def metadata(instance):
        found = next(answers)
        if isinstance(found, Exception):
            raise found
        return found

    pacs.metadata = metadata
    assert [one.prompt for one in ReportReader(pacs).items()] == ["Opacity in the left lung"]


def test_a_report_is_asked_finding_by_finding():
    image = film()
    image.Modality = "SR"
    pacs = FakePacs(image)
    words = "Opacity in the right lower lung. No effusion on the left. Consolidation in the left upper lung"
    text = {"0040A040": {"Value": ["TEXT"]}, "0040A160": {"Value": [words]}}
    pacs.metadata = lambda instance: {"0040A730": {"Value": [text]}}
    found = [one.prompt for one in ReportReader(pacs).items()]
    assert found == [
        "Opacity in the right lower lung",
        "Consolidation in the left upper lung",
    ]


def test_a_server_that_is_down_is_an_alarm_and_costs_no_task(image, state, clock):
    pacs = FakePacs(image)
    made, events = watcher(pacs, state, clock)
    pacs.down = True
    run_for(made, clock, 0.1 * DAY)
    lines = [str(event) for event in events]
    assert not any(line.startswith("ALARM") for line in lines[:4])
    assert lines[-1].startswith("ALARM down")
    assert made.health.as_json()["status"] == "down"
    pacs.down = False
    run_for(made, clock, 100)
    assert state.counts() == {"stored": 1}
    assert made.health.as_json()["status"] == "ok"


def test_stopping_the_watcher_is_not_a_fault_of_the_image(image, state, clock):
    pacs = FakePacs(image)
    for _ in range(MAX_ATTEMPTS + 2):
        made, _ = watcher(pacs, state, clock, Segmenter(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            made.run(once=True)
    assert watcher(pacs, state, clock)[0].run(once=True) == {"stored": 1}


def test_the_place_of_an_unexpected_failure_is_kept_and_no_value_is(image, state, clock):
    pacs = FakePacs(image)
    made, events = watcher(pacs, state, clock, Segmenter(RuntimeError("Doe^Jane of left lung")))
    assert made.run(once=True) == {"failed": 1}
    (entry,) = state.entries()
    assert "test_faults.py" in entry.trace
    assert entry.trace.endswith("RuntimeError")
    assert "Doe" not in entry.trace + entry.reason + str(events[0])
    assert str(events[0]).startswith("ALARM failed")
    assert short_hash("left lung") == entry.prompt


def test_an_image_that_the_model_does_not_know_is_skipped_without_an_alarm(image, state, clock):
    pacs = FakePacs(image)
    made, events = watcher(pacs, state, clock, Segmenter(DomainError("Modality is MG")))
    assert made.run(once=True) == {"skipped": 1}
    assert made.run(once=True) == {"known": 1}
    assert [str(event).split()[0] for event in events] == ["skipped"]


class TestTasks:
    KEY = TaskKey("1.2.3", "a" * 64, "b" * 64)

    def test_a_failed_task_is_tried_again_and_a_dropped_one_is_not(self, image, state, clock):
        pacs = FakePacs(image)
        made, _ = watcher(pacs, state, clock, Segmenter(DataError("bad"), DataError("bad")))
        assert made.run(once=True) == {"failed": 1}
        (entry,) = state.entries(("failed",))
        state.retry(entry.key)
        assert made.run(once=True)["failed"] == 1
        state.finish(entry.key, "dropped")
        assert made.run(once=True)["known"] == 1
        state.retry(entry.key)
        assert made.run(once=True)["stored"] == 1

    def test_a_file_of_version_1_is_read_and_what_the_server_failed_is_tried_again(self, tmp_path):
        path = tmp_path / "s"
        with sqlite3.connect(path) as db:
            db.execute(
                "CREATE TABLE job (subject TEXT NOT NULL, asked_sha256 TEXT NOT NULL, model_sha256 TEXT NOT NULL, "
                "status TEXT NOT NULL CHECK (status IN ('started', 'stored', 'failed')), attempts INTEGER NOT NULL, "
                "images INTEGER NOT NULL, reason TEXT NOT NULL DEFAULT '', seg TEXT NOT NULL DEFAULT '', "
                "changed TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP, PRIMARY KEY (subject, asked_sha256, model_sha256)) "
                "WITHOUT ROWID"
            )
            rows = [
                ("1.1", "stored", ""),
                ("1.2", "failed", "PacsError: the PACS returned status 507."),
                ("1.3", "failed", "DataError: no image"),
            ]
            for uid, status, reason in rows:
                db.execute(
                    "INSERT INTO job VALUES (?, 'a', 'b', ?, 5, 1, ?, '', '2026-01-01')",
                    (uid, status, reason),
                )
            db.execute("PRAGMA user_version = 1")
        db.close()
        with open_state(path) as state:
            found = {one.key.subject: (one.status, one.attempts) for one in state.entries()}
        assert found == {"1.1": ("stored", 5), "1.2": ("waiting", 0), "1.3": ("failed", 0)}

    def test_tasks_can_be_listed_while_a_watcher_has_the_file(self, tmp_path):
        with pytest.raises(DataError, match="does not exist"):
            State(tmp_path / "s", shared=True)
        with open_state(tmp_path / "s") as state:
            state.start(self.KEY, 1)
            with open_state(tmp_path / "s", shared=True) as other:
                assert other.entries()[0].key == self.KEY
                other.retry(self.KEY)
            assert state.get(self.KEY).status == "waiting"


class TestHealth:
    def ask(self, port, path="/health"):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    def test_the_endpoint_says_ok_degraded_and_down(self, clock):
        health = Health(clock)
        with serve_health(health, 0) as port:
            assert self.ask(port)[0] == 200
            health.tasks = {"failed": 1, "stored": 2}
            status, found = self.ask(port)
            assert (status, found["status"], found["tasks"]["failed"]) == (200, "degraded", 1)
            health.unanswered()
            clock.sleep(DOWN_S + 1)
            status, found = self.ask(port)
            assert (status, found["status"], found["pacs_down_s"]) == (503, "down", 301)
            health.answered()
            assert self.ask(port)[0] == 200
            clock.sleep(SILENT_S + 1)  # a watcher that hangs
            assert self.ask(port)[0] == 503
            assert self.ask(port, "/other")[0] == 404
            with pytest.raises(ConfigError, match="cannot be used"), serve_health(health, port):
                pass

    def test_a_waiting_task_degrades_it_after_an_hour(self, image, state, clock):
        pacs = FakePacs(image)
        pacs.faults["fetch"] = [PacsError("the PACS returned status 500.")] * 99
        made, _ = watcher(pacs, state, clock)
        run_for(made, clock, 3000)
        assert made.health.as_json()["status"] == "ok"
        run_for(made, clock, 3000)
        found = made.health.as_json()
        assert found["status"] == "degraded"
        assert found["tasks"] == {"waiting": 1}
        assert found["longest_wait_s"] > 3600


def test_a_line_of_the_log_can_be_searched_for():
    assert re.match(r"ALARM failed image abc", str(WatchEvent("failed", "abc")))
    assert not str(WatchEvent("stored", "abc")).startswith("ALARM")


class TestSettling:
    """A worklist that is being written is not believed."""

    WHOLE = (
        "StudyInstanceUID,text\n1.2.3,no opacity in the left lung but one in the right lower lung\n"
    )

    def rows(self, path, clock, grow=lambda: None):
        said = []

        def wait(seconds):
            clock.sleep(seconds)
            grow()

        return WorklistRows(path, said.append, wait, clock), said

    def write(self, path, text, clock):
        import os

        path.write_text(text)
        os.utime(path, (clock.now, clock.now))

    @pytest.mark.parametrize("end", [27, 40, 60, len(WHOLE) - 1])
    def test_a_cut_row_is_never_a_prompt(self, tmp_path, clock, end):
        path = tmp_path / "w.csv"
        self.write(path, self.WHOLE[:end], clock)
        rows, _ = self.rows(path, clock)
        with pytest.raises(DataError, match="being written"):
            rows()
        self.write(path, self.WHOLE, clock)
        assert [one.prompt for one in rows()] == [self.WHOLE.split(",")[2].strip()]
        # also if it was whole before
        self.write(path, self.WHOLE[:end], clock)
        assert len(rows()) == 1

    def test_a_file_that_grows_while_it_is_looked_at_is_read_when_it_rests(self, tmp_path, clock):
        path = tmp_path / "w.csv"
        lines = ["SOPInstanceUID,text\n", *(f"1.2.{i},left lung\n" for i in range(5))]
        self.write(path, lines.pop(0), clock)

        def grow():
            if lines:
                self.write(path, path.read_text() + lines.pop(0), clock)

        rows, _ = self.rows(path, clock, grow)
        assert len(rows()) == 5

    def test_fewer_rows_are_believed_after_ten_minutes(self, tmp_path, clock):
        path = tmp_path / "w.csv"
        many = "SOPInstanceUID,text\n" + "".join(f"1.2.{i},left lung\n" for i in range(5))
        self.write(path, many, clock)
        rows, said = self.rows(path, clock)
        assert len(rows()) == 5
        clock.sleep(60)
        self.write(path, many[: len("SOPInstanceUID,text\n1.2.0,left lung\n")], clock)
        assert len(rows()) == 5
        assert "had 5" in said[0]
        clock.sleep(601)
        assert len(rows()) == 1

    def test_a_file_that_vanishes_keeps_its_rows_once_it_was_read(self, tmp_path, clock):
        path = tmp_path / "w.csv"
        rows, said = self.rows(path, clock)
        with pytest.raises(DataError, match="cannot be read"):
            rows()
        self.write(path, self.WHOLE, clock)
        assert len(rows()) == 1
        path.unlink()
        assert len(rows()) == 1
        assert "cannot be read" in said[0]
