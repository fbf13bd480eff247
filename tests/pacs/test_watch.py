"""The watcher against a real Orthanc: each result once, whatever stops in between."""

import io
import re
import sqlite3

import numpy as np
import pydicom
import pytest
from dicom_sources import SECRETS, encoded, film, report, slices, study_of
from orthanc import Orthanc

from textmask.errors import ConfigError, DataError, LateralityError, PacsDownError, PacsError
from textmask.inference.dicom_request import patient_side
from textmask.io.dicom.domain import Domain
from textmask.io.dicom.facts import ModelFacts, RequestFacts
from textmask.io.loaded import LoadedImage
from textmask.io.orientation import Orientation
from textmask.pacs.answers import DicomSegmentation, PredictorSegmenter, segment_files
from textmask.pacs.client import Instance, Pacs
from textmask.pacs.state import State, TaskKey, open_state, short_hash
from textmask.pacs.watch import MAX_ATTEMPTS, Watcher, WatchSettings
from textmask.pacs.worklist import ReportReader, WorklistItem, read_worklist
from textmask.statement import Laterality
from textmask.text.grammar import parse

SENTENCE = "opacity in the lower left lung 瞳"
MODEL = ModelFacts("fake", "1", "cd" * 32, 0.5)


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory):
    found = Orthanc(tmp_path_factory.mktemp("orthanc"))
    yield found
    found.stop()


@pytest.fixture
def pacs(orthanc):
    return Pacs(orthanc.url, user="u", password="p")


@pytest.fixture
def state(tmp_path):
    with open_state(tmp_path / "state.sqlite") as opened:
        yield opened


class BrightSegmenter:
    """Marks what is bright, read by pydicom alone."""

    model, settings, domain = MODEL, "laterality=patient", Domain()

    def __init__(self):
        self.asked = []

    def __call__(self, files, sentence):
        self.asked.append(sentence)
        sources = [pydicom.dcmread(io.BytesIO(data)) for data in files]
        pixels = np.stack([source.pixel_array for source in sources])
        if "laterality" in sentence:
            raise LateralityError(f"{sentence[:80]!r} names a side")
        if "crash" in sentence:
            raise RuntimeError(f"secret of {sources[0].PatientName}")
        mask = (pixels > 1000).astype(np.uint8)
        request = RequestFacts(sentence, side="left", site="lung")
        return DicomSegmentation(
            tuple(sources),
            (pixels >> 4).astype(np.uint8),
            mask,
            mask * np.float32(0.9),
            request,
            Orientation("L", "F"),
        )


def store(pacs, *datasets):
    for dataset in datasets:
        pacs.store(dataset.StudyInstanceUID, [dataset])
    return datasets[0].StudyInstanceUID


def stored(pacs, study):
    """How many instances of each kind of result a study has."""
    return {
        kind: sum(len(pacs.instances(series)) for series in pacs.series(kind, study))
        for kind in ("SEG", "SR", "OT")
    }


def watcher(pacs, state, asks, **more):
    events = []
    values = {
        "segmenter": BrightSegmenter(),
        "report": events.append,
        "wait": lambda seconds: None,
    } | more
    made = Watcher(pacs=pacs, state=state, worklist=lambda: asks, **values)
    return made, events


def test_films_and_series_are_answered_once(pacs, state):
    study = study_of()
    image, scan = film(study), slices(study)
    store(pacs, image, *scan)
    made, events = watcher(
        pacs, state, [WorklistItem("study", study["StudyInstanceUID"], SENTENCE)]
    )
    assert made.run(once=True)["stored"] == 2
    assert stored(pacs, image.StudyInstanceUID) == {"SEG": 2, "SR": 2, "OT": 0}
    again, _ = watcher(pacs, state, [WorklistItem("study", study["StudyInstanceUID"], SENTENCE)])
    assert again.run(once=True) == {"known": 2}
    assert again.segmenter.asked == []
    assert stored(pacs, image.StudyInstanceUID) == {"SEG": 2, "SR": 2, "OT": 0}
    found = [
        pydicom.dcmread(io.BytesIO(pacs.fetch(one)))
        for one in results_of(pacs, image.StudyInstanceUID, "SEG")
    ]
    of_film = next(
        one
        for one in found
        if one.ReferencedSeriesSequence[0].SeriesInstanceUID == image.SeriesInstanceUID
    )
    assert of_film.pixel_array.sum() == (image.pixel_array > 1000).sum()
    assert of_film.SegmentSequence[0].SegmentDescription == SENTENCE
    assert sum(int(one.pixel_array.sum()) for one in found) == sum(
        (i.pixel_array > 1000).sum() for i in (image, *scan)
    )
    assert {event.what for event in events} == {"stored"}


def results_of(pacs, study, kind):
    return [one for series in pacs.series(kind, study) for one in pacs.instances(series)]


def test_a_crash_between_storing_and_noting_it_stores_nothing_twice(pacs, tmp_path, monkeypatch):
    study = store(pacs, film())
    path = tmp_path / "state.sqlite"

    class Killed(BaseException):
        pass

    def die(*_, **__):
        raise Killed

    with open_state(path) as state:
        made, _ = watcher(pacs, state, [WorklistItem("study", study, SENTENCE)])
        monkeypatch.setattr(State, "finish", die)
        with pytest.raises(Killed):
            made.run(once=True)
    monkeypatch.undo()
    assert stored(pacs, study) == {"SEG": 1, "SR": 1, "OT": 0}
    with open_state(path) as state:
        made, events = watcher(pacs, state, [WorklistItem("study", study, SENTENCE)])
        assert made.run(once=True) == {"stored": 1}
        assert [event.what for event in events] == ["was there"]
        assert made.segmenter.asked == []
    path.unlink()  # a lost state is no loss either: the server knows
    with open_state(path) as state:
        assert watcher(pacs, state, [WorklistItem("study", study, SENTENCE)])[0].run(once=True) == {
            "stored": 1
        }
    assert stored(pacs, study) == {"SEG": 1, "SR": 1, "OT": 0}


def test_a_crash_between_two_results_stores_the_missing_one(pacs, state, monkeypatch):
    study = store(pacs, film())
    whole = Pacs.store
    monkeypatch.setattr(Pacs, "store", lambda self, uid, datasets: whole(self, uid, datasets[:1]))
    watcher(pacs, state, [WorklistItem("study", study, SENTENCE)])[0].run(once=True)
    monkeypatch.undo()
    assert stored(pacs, study) == {"SEG": 1, "SR": 0, "OT": 0}
    state._run("UPDATE job SET status = 'started'")
    watcher(pacs, state, [WorklistItem("study", study, SENTENCE)])[0].run(once=True)
    assert stored(pacs, study) == {"SEG": 1, "SR": 1, "OT": 0}


def test_a_server_that_restarts_is_waited_for(orthanc, pacs, state):
    study = study_of()
    films = [film(study) for _ in range(3)]
    store(pacs, *films)
    waits = []

    class Stops(BrightSegmenter):
        def __call__(self, files, sentence):
            if len(self.asked) == 1:
                orthanc.stop()
            return super().__call__(files, sentence)

    def wait(seconds):
        waits.append(seconds)
        if len(waits) == 3:
            orthanc.start()

    made, events = watcher(
        pacs,
        state,
        [WorklistItem("study", study["StudyInstanceUID"], SENTENCE)],
        segmenter=Stops(),
        wait=wait,
    )
    made.run(once=True)
    assert waits == [1, 2, 4]
    assert stored(pacs, study["StudyInstanceUID"]) == {"SEG": 3, "SR": 3, "OT": 0}
    assert {entry[0] for entry in state._run("SELECT attempts FROM job").fetchall()} == {
        1
    }  # nobody's fault
    assert [event.what for event in events].count("waiting") == 3


def test_waiting_has_a_longest_and_once_an_end(state):
    nowhere = Pacs("http://127.0.0.1:9/dicom-web")
    waits = []
    made, _ = watcher(nowhere, state, [WorklistItem("study", "1.2", SENTENCE)], wait=waits.append)
    with pytest.raises(PacsDownError, match="does not answer"):
        made.run(once=True)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]


def test_bad_images_and_sentences_fail_alone(pacs, state):
    study = study_of(patient="Secret-Patient")
    image = film(study)
    uid = store(pacs, image)
    asks = [
        WorklistItem("study", uid, text)
        for text in ("laterality's " + "words" * 30, "crash", "x" * 3000, "good")
    ]
    made, events = watcher(pacs, state, asks)
    assert made.run(once=True) == {"failed": 3, "stored": 1}
    assert made.run(once=True) == {"known": 4}
    reasons = [
        row[0] for row in state._run("SELECT reason FROM job WHERE status = 'failed'").fetchall()
    ]
    assert sorted(reason.split(":")[0] for reason in reasons) == [
        "DataError",
        "LateralityError",
        "RuntimeError",
    ]
    said = " ".join(map(str, events)) + " ".join(reasons)
    assert not any(
        word in said
        for word in ("Doe", "Secret", "xxx", "crash", "words", image.SOPInstanceUID, uid)
    )
    assert short_hash(image.SOPInstanceUID) in said
    assert stored(pacs, uid) == {"SEG": 1, "SR": 1, "OT": 0}


def test_a_job_that_ends_the_process_each_time_is_given_up(pacs, tmp_path):
    study = store(pacs, film())

    class Killed(BaseException):
        """Stands for the end of the process, as by a lack of memory."""

    class Kills(BrightSegmenter):
        def __call__(self, files, sentence):
            raise Killed

    with open_state(tmp_path / "s") as state:
        for _ in range(MAX_ATTEMPTS):
            with pytest.raises(Killed):
                watcher(pacs, state, [WorklistItem("study", study, SENTENCE)], segmenter=Kills())[
                    0
                ].run(once=True)
        made, _ = watcher(pacs, state, [WorklistItem("study", study, SENTENCE)], segmenter=Kills())
        assert made.run(once=True) == {"failed": 1}


def test_a_server_that_refuses_one_job_does_not_stop_the_others(pacs, state, monkeypatch):
    study = study_of()
    films = [film(study) for _ in range(2)]
    store(pacs, *films)
    whole = Pacs.fetch

    def fetch(self, instance):
        if instance.uid == films[0].SOPInstanceUID:
            raise PacsDownError("the PACS does not answer (ConnectionError).")
        return whole(self, instance)

    monkeypatch.setattr(Pacs, "fetch", fetch)
    made, _ = watcher(pacs, state, [WorklistItem("study", study["StudyInstanceUID"], SENTENCE)])
    assert made.run(once=True) == {"later": 1, "stored": 1}
    for _ in range(MAX_ATTEMPTS + 2):  # however often: the server may take it tomorrow
        assert made.run(once=True)["failed"] == 0
    monkeypatch.undo()
    assert made.run(once=True)["stored"] == 1


def test_another_image_than_asked_for_is_not_answered(pacs, state, monkeypatch):
    study = store(pacs, film())
    monkeypatch.setattr(Pacs, "fetch", lambda self, instance: encoded(film()))
    assert watcher(pacs, state, [WorklistItem("study", study, SENTENCE)])[0].run(once=True) == {
        "failed": 1
    }
    assert stored(pacs, study) == {"SEG": 0, "SR": 0, "OT": 0}


def test_sentences_of_reports_are_asked_of_the_images_they_refer_to(pacs, state):
    study = study_of(StudyDate="20300101")
    films = [film(study), film(study)]
    store(pacs, *films, report(study, ["Opacity in the left lung", "No effusion."], [films[1]]))
    reader = ReportReader(pacs)
    asks = list(reader.items(since="20300101"))
    assert [item.prompt for item in asks] == ["Opacity in the left lung"]
    made, _ = watcher(pacs, state, asks, settings=WatchSettings(with_capture=True))
    assert made.run(once=True) == {"stored": 1}
    assert stored(pacs, study["StudyInstanceUID"]) == {"SEG": 1, "SR": 2, "OT": 1}
    segment = pydicom.dcmread(
        io.BytesIO(pacs.fetch(results_of(pacs, study["StudyInstanceUID"], "SEG")[0]))
    )
    assert segment.SourceImageSequence[0].ReferencedSOPInstanceUID == films[1].SOPInstanceUID
    # our own report is not the next request
    assert (
        list(ReportReader(pacs).items(since="20300101"))
        == list(reader.items(since="20300101"))
        == asks
    )


def test_accession_numbers_and_instances_are_found(pacs, state):
    first, second = film(study_of(accession="ACC7")), film(study_of(accession="ACC71"))
    store(pacs, first)
    store(pacs, second)
    asks = [
        WorklistItem("accession", "ACC7", SENTENCE),
        WorklistItem("instance", second.SOPInstanceUID, SENTENCE),
        WorklistItem("study", "1.2.3", "x"),
    ]
    assert watcher(pacs, state, asks)[0].run(once=True) == {"stored": 2}
    assert (
        stored(pacs, first.StudyInstanceUID)["SEG"]
        == stored(pacs, second.StudyInstanceUID)["SEG"]
        == 1
    )
    other = film(study_of(patient="P2", accession="ACC7"))
    store(pacs, other)
    made, events = watcher(pacs, state, [WorklistItem("accession", "ACC7", "another")])
    assert made.run(once=True) == {}
    assert "several patients" in events[0].detail
    assert "ACC7" not in str(events[0])


def test_a_series_is_answered_when_it_has_stopped_growing(pacs, state):
    scan = slices(n=3)
    study = store(pacs, *scan[:2])
    rounds = []

    class Enough(BaseException):
        pass

    def wait(seconds):
        rounds.append(stored(pacs, study)["SEG"])
        if len(rounds) == 1:
            store(pacs, scan[2])
        if len(rounds) == 3:
            raise Enough

    made, _ = watcher(pacs, state, [WorklistItem("study", study, SENTENCE)], wait=wait)
    with pytest.raises(Enough):
        made.run()
    assert rounds == [0, 0, 1]
    store(pacs, *[s for s in slices(n=4, study={**study_of(), "StudyInstanceUID": study}) if not s.update(
        {"SeriesInstanceUID": scan[0].SeriesInstanceUID})][3:])  # fmt: skip
    again, events = watcher(pacs, state, [WorklistItem("study", study, SENTENCE)])
    assert again.run(once=True) == {"known": 1}
    assert [event.what for event in events] == ["grown"]


def test_other_modalities_are_left_alone(pacs, state):
    study = store(pacs, film())
    made, _ = watcher(
        pacs,
        state,
        [WorklistItem("study", study, SENTENCE)],
        settings=WatchSettings(modalities=("DX",)),
    )
    assert made.run(once=True) == {}
    for wrong in (("SEG",), ("OT", "CR"), (), ("cr",), ("C*",)):
        with pytest.raises(ConfigError, match="modalities"):
            WatchSettings(modalities=wrong)
    with pytest.raises(ConfigError, match="YYYYMMDD"):
        WatchSettings(since="2024-01-01")
    with pytest.raises(ConfigError, match="at least 1"):
        WatchSettings(interval_s=0)


def test_nothing_secret_of_the_source_is_in_what_is_stored(pacs, state):
    study = store(pacs, film())
    watcher(
        pacs,
        state,
        [WorklistItem("study", study, SENTENCE)],
        settings=WatchSettings(with_capture=True),
    )[0].run(once=True)
    for kind in ("SEG", "SR", "OT"):
        for one in results_of(pacs, study, kind):
            data = pacs.fetch(one)
            assert not any(secret.encode() in data for secret in SECRETS)


def test_results_of_several_megabytes_are_stored(pacs, state):
    study = store(pacs, film(rows=1300, columns=1100))
    settings = WatchSettings(with_capture=True, fractional=True)
    assert watcher(pacs, state, [WorklistItem("study", study, SENTENCE)], settings=settings)[0].run(
        once=True
    ) == {"stored": 1}
    assert stored(pacs, study) == {"SEG": 1, "SR": 1, "OT": 1}
    (segment,) = results_of(pacs, study, "SEG")
    assert pydicom.dcmread(io.BytesIO(pacs.fetch(segment))).pixel_array.max() == round(0.9 * 255)


def test_wrong_credentials_are_said_at_once(orthanc, state):
    made, _ = watcher(
        Pacs(orthanc.url, user="u", password="no"), state, [WorklistItem("study", "1.2", SENTENCE)]
    )
    with pytest.raises(ConfigError, match="credentials"):
        made.run(once=True)


def test_what_is_not_there_or_refused_is_an_error_of_the_pacs(pacs):
    with pytest.raises(PacsError, match="404"):
        pacs.fetch(Instance("1.2.3", "1.2.4", "1.2.5"))
    with pytest.raises(PacsError, match=r"refused|returned status 4"):
        pacs.store("1.2.3.4", [film()])  # of another study
    assert pacs.instance("1.2.3.4.5") is None


class TestState:
    KEY = TaskKey("1.2.3", "a" * 64, "b" * 64)

    def test_a_second_watcher_is_refused_until_the_first_ends(self, tmp_path):
        with open_state(tmp_path / "s"), pytest.raises(DataError, match="another watcher"):
            State(tmp_path / "s")
        State(tmp_path / "s").close()

    def test_only_its_owner_may_read_it_and_no_sentence_is_in_it(self, tmp_path, pacs):
        study = store(pacs, film())
        with open_state(tmp_path / "s") as state:
            watcher(pacs, state, [WorklistItem("study", study, "a sentence")])[0].run(once=True)
        assert (tmp_path / "s").stat().st_mode & 0o077 == 0
        data = (tmp_path / "s").read_bytes()
        assert not any(word in data for word in (b"sentence ", b"Doe", b"P1"))

    @pytest.mark.parametrize("content", [b"no database" * 100, b"SQLite format 3\0" + bytes(100)])
    def test_a_damaged_file_is_named(self, tmp_path, content):
        (tmp_path / "s").write_bytes(content)
        with pytest.raises(DataError, match="Move it away"):
            State(tmp_path / "s")

    def test_another_version_or_no_folder_is_named(self, tmp_path):
        with sqlite3.connect(tmp_path / "s") as db:
            db.execute("PRAGMA user_version = 9")
        db.close()
        with pytest.raises(DataError, match="version 9"):
            State(tmp_path / "s")
        with pytest.raises(DataError, match="cannot be written"):
            State(tmp_path / "none" / "s")

    def test_attempts_are_counted_before_anything_is_done(self, tmp_path):
        with open_state(tmp_path / "s") as state:
            assert state.get(self.KEY) is None
            assert [state.start(self.KEY, 2), state.start(self.KEY, 3)] == [1, 2]
            state.release(self.KEY)
            assert (state.get(self.KEY).attempts, state.get(self.KEY).images) == (1, 3)
            state.finish(self.KEY, "stored", seg="1.2")
            assert state.counts() == {"stored": 1}


class TestWorklist:
    def write(self, tmp_path, text):
        (tmp_path / "w.csv").write_text(text, encoding="utf-8")
        return read_worklist(tmp_path / "w.csv")

    def test_rows_are_read_and_the_same_is_asked_once(self, tmp_path):
        found = self.write(
            tmp_path,
            "studyinstanceuid,Text\n1.2.3,left lung\n1.2.3,left lung\n1.2.4, right  lung\n",
        )
        assert found.items == (
            WorklistItem("study", "1.2.3", "left lung"),
            WorklistItem("study", "1.2.4", "right lung"),
        )
        assert found.problems == ()

    @pytest.mark.parametrize(
        ("row", "said"),
        [
            ("../../etc/passwd,x", "not well-formed"),
            ("1.2.3/../..,x", "not well-formed"),
            ("'=cmd|' /C calc'!A0,x", "not well-formed"),
            ("1.2.*,x", "not well-formed"),
            ("1.2.3\\1.2.4,x", "not well-formed"),
            (",x", "not well-formed"),
            ("1.2.3,", "empty"),
            ("1.2.3,\u200b\u202e", "empty"),
            (f"1.2.3,{'x' * 5000}", "5,000 characters"),
            ("1.2.3,a,b", "more cells"),
            ("1.2.3", "empty"),
        ],
    )
    def test_hostile_rows_are_left_out_and_the_others_asked(self, tmp_path, row, said):
        found = self.write(tmp_path, f"SOPInstanceUID,text\n{row}\n1.2.9,good\n")
        assert found.items == (WorklistItem("instance", "1.2.9", "good"),)
        ((number, reason),) = found.problems
        assert number == 2
        assert said in reason

    def test_a_formula_is_a_sentence_like_any_other(self, tmp_path):
        found = self.write(tmp_path, 'SOPInstanceUID,text\n1.2.9,"=HYPERLINK(""http://x"")"\n')
        assert found.items[0].prompt == '=HYPERLINK("http://x")'

    @pytest.mark.parametrize("value", ["*", "A?", "A\\B", "", "A" * 17, "A\x07"])
    def test_accession_numbers_hold_no_wildcards(self, tmp_path, value):
        found = self.write(tmp_path, f"AccessionNumber,text\n{value},x\n")
        assert found.items == ()
        assert "AccessionNumber" in found.problems[0][1]

    @pytest.mark.parametrize(
        "header", ["text", "StudyInstanceUID", "StudyInstanceUID,AccessionNumber,text", "a,b"]
    )
    def test_other_columns_are_named(self, tmp_path, header):
        with pytest.raises(DataError, match="exactly one of"):
            self.write(tmp_path, f"{header}\n1,2,3\n")

    def test_too_large_or_missing_worklists_are_refused(self, tmp_path, monkeypatch):
        with pytest.raises(DataError, match="cannot be read"):
            read_worklist(tmp_path / "none.csv")
        monkeypatch.setattr("textmask.pacs.worklist.MAX_ROWS", 2)
        with pytest.raises(DataError, match="3 rows"):
            self.write(tmp_path, "SOPInstanceUID,text\n" + "1.2.3,x\n" * 3)
        monkeypatch.setattr("textmask.pacs.worklist.MAX_WORKLIST_BYTES", 10)
        with pytest.raises(DataError, match="limit for a worklist is 10"):
            self.write(tmp_path, "SOPInstanceUID,text\n1.2.3,x\n")


class TestAnswer:
    """The adapter over a predictor, against the interface of `Predictor`."""

    class Fake:
        """Marks the patient's left half of the image as it is stored."""

        weights_sha256, domain = "ef" * 32, Domain()

        class run:
            class recipe:
                method, threshold = "fake", 0.5

        def open(self, image, view=None):
            self.image = image
            return self

        def segment(self, sentence, laterality=None, assume=None):
            rows, columns = self.image.pixels.shape
            probability = np.zeros((rows, columns), np.float32)
            probability[:, columns // 2 :] = 0.75

            class found:
                mask, statement, warnings, abstained = (
                    (probability > 0.5).astype(np.uint8),
                    parse(sentence),
                    ("odd",),
                    True,
                )

                class asked:
                    said, conversion, assumed = (
                        Laterality(laterality or "patient"),
                        "none needed",
                        bool(assume),
                    )

            found.probability = probability
            return found()

    @staticmethod
    def read(data, name):
        source = pydicom.dcmread(io.BytesIO(data))
        letters = source.get("PatientOrientation") or None
        orientation = None if letters is None else Orientation(*letters, "PatientOrientation")
        return [
            LoadedImage(
                (source.pixel_array >> 4).astype(np.uint8), "dicom", orientation, header=source
            )
        ]

    def test_it_hands_over_masks_and_what_is_written_beside_them(self):
        image = film()
        segmenter = PredictorSegmenter(self.Fake(), self.read, "1.0", assume="patient")
        found = segmenter([encoded(image)], "Opacity in the left lower lobe.")
        assert found.mask.shape == found.probability.shape == found.pixels.shape == (1, 60, 50)
        assert found.sources[0].SOPInstanceUID == image.SOPInstanceUID
        assert (found.request.side, found.request.site) == ("left", "lung")
        notes = " ".join(found.request.notes)
        assert re.search(
            "patient's left.*none needed.*assumed by the operator.*odd.*abstained", notes
        )
        assert segmenter.model == ModelFacts("fake", "1.0", "ef" * 32, 0.5)
        assert segmenter.settings != PredictorSegmenter(self.Fake(), self.read, "1.0").settings

    def test_a_view_that_somebody_names_is_the_orientation_and_is_noted(self):
        segmenter = PredictorSegmenter(
            self.Fake(), self.read, "1.0", laterality="image", view="mirrored"
        )
        found = segmenter([encoded(film(orientation=None))], "left lung")
        assert (found.orientation.columns, found.request.side) == ("R", "left")
        assert "The operator named the view: mirrored." in found.request.notes

    def test_through_the_watcher_to_the_pacs(self, pacs, state):
        study = store(pacs, film())
        segmenter = PredictorSegmenter(self.Fake(), self.read, "1.0")
        assert watcher(
            pacs, state, [WorklistItem("study", study, "left lung")], segmenter=segmenter
        )[0].run(once=True) == {"stored": 1}

    def test_what_is_no_single_image_is_refused(self):
        with pytest.raises(DataError, match="2 frames"):
            segment_files(
                self.Fake(), [b""], "x", lambda data, name: self.read(encoded(film()), name) * 2
            )
        with pytest.raises(DataError, match="not a DICOM image"):
            segment_files(
                self.Fake(),
                [b""],
                "x",
                lambda data, name: [LoadedImage(np.zeros((3, 3), np.uint8))],
            )
        with pytest.raises(DataError, match="differ in size"):
            segment_files(self.Fake(), [encoded(film()), encoded(film(rows=70))], "x", self.read)

    @pytest.mark.parametrize(
        ("sentence", "said", "columns", "side"),
        [
            ("left lung", "patient", "L", "left"), ("left lung", "image", "L", "right"),
            ("left lung", "image", "R", "left"), ("left lung", "image", None, None),
            ("left lung", "unknown", "L", None), ("left lung", "patient", None, "left"),
            ("left lung", "image", "P", None), ("opacity", "patient", "L", None),
            ("left lung and right lung", "patient", None, "both"), ("left lung and right lung", "image", "R", "both"),
            ("left lung and right lung", "image", "P", None),
        ],
    )  # fmt: skip
    def test_the_patients_side_is_told_only_where_it_is_known(self, sentence, said, columns, side):
        orientation = None if columns is None else Orientation(columns, "F")
        assert patient_side(parse(sentence), said, orientation) == side
