"""The commands around DICOM, with a stand-in for the model."""

import io
import warnings

import numpy as np
import pydicom
import pytest
from dicom_sources import encoded, film, slices
from orthanc import Orthanc
from typer.testing import CliRunner

from textmask.cli import dicom as cli_dicom
from textmask.cli.app import app
from textmask.cli.options import complain
from textmask.errors import ConfigError, DataError
from textmask.io.dicom.domain import Domain
from textmask.io.dicom.facts import ModelFacts, RequestFacts
from textmask.io.orientation import Orientation
from textmask.pacs.answers import DicomSegmentation
from textmask.pacs.client import Pacs
from textmask.pacs.state import TaskKey, open_state, short_hash
from textmask.pacs.watch import watched_modalities
from textmask.pacs.worklist import WorklistRows


class Bright:
    model, settings, domain = ModelFacts("fake", "1", "cd" * 32, 0.5), "", Domain()

    def __call__(self, files, sentence):
        sources = [pydicom.dcmread(io.BytesIO(data)) for data in files]
        pixels = np.stack([source.pixel_array for source in sources])
        mask = (pixels > 1000).astype(np.uint8)
        request = RequestFacts(sentence, side="left", notes=("Left means the patient's left.",))
        shown = (pixels >> 4).astype(np.uint8)
        return DicomSegmentation(
            tuple(sources), shown, mask, mask * np.float32(0.9), request, Orientation("L", "F")
        )


@pytest.fixture
def run(monkeypatch):
    monkeypatch.setattr(cli_dicom, "_segmenter", lambda *_: Bright())

    def invoke(*arguments):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return CliRunner().invoke(app, ["dicom", *map(str, arguments)])

    return invoke


def test_a_film_becomes_three_results(run, tmp_path):
    image = film()
    (tmp_path / "film.dcm").write_bytes(encoded(image))
    done = run(
        "segment",
        "runs/x",
        tmp_path / "film.dcm",
        "../../left <b>lung</b>",
        "--out",
        tmp_path / "out",
    )
    assert done.exit_code == 0, done.output
    assert "patient's left" in done.output
    found = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert [name.split(".", 1)[1] for name in found] == ["sc.dcm", "seg.dcm", "sr.dcm"]
    seg, sr = (pydicom.dcmread(tmp_path / "out" / found[i]) for i in (1, 2))
    assert seg.pixel_array.sum() == (image.pixel_array > 1000).sum()
    assert seg.SOPInstanceUID in str(sr)
    before = (tmp_path / "out" / found[1]).read_bytes()
    run(
        "segment",
        "runs/x",
        tmp_path / "film.dcm",
        "../../left <b>lung</b>",
        "--out",
        tmp_path / "out",
    )
    assert (
        pydicom.dcmread(tmp_path / "out" / found[1]).SOPInstanceUID
        == pydicom.dcmread(io.BytesIO(before)).SOPInstanceUID
    )


def test_a_folder_is_one_series(run, tmp_path):
    (tmp_path / "ct").mkdir()
    for i, one in enumerate(slices()):
        (tmp_path / "ct" / f"{i}.dcm").write_bytes(encoded(one))
    (tmp_path / "ct" / ".hidden").write_bytes(b"x")
    done = run(
        "segment", "runs/x", tmp_path / "ct", "lung", "--out", tmp_path / "out", "--fractional"
    )
    assert done.exit_code == 0, done.output
    seg = pydicom.dcmread(next((tmp_path / "out").glob("*.seg.dcm")))
    assert (seg.SegmentationType, int(seg.NumberOfFrames)) == ("FRACTIONAL", 4)


@pytest.mark.parametrize(
    ("arguments", "kind", "said"),
    [
        (["segment", "r", "nowhere.dcm", "x"], DataError, "does not exist"),
        (["watch", "r", "--dicomweb", "http://pacs/x"], ConfigError, "expected https"),
        (
            ["watch", "r", "--dicomweb", "https://pacs/x", "--user-env", "U"],
            ConfigError,
            "belong together",
        ),
        (
            ["watch", "r", "--dicomweb", "https://pacs/x", "--token-env", "NOT_SET_ANYWHERE"],
            ConfigError,
            "not set",
        ),
        (
            ["watch", "r", "--dicomweb", "https://pacs/x", "--modality", "SEG"],
            ConfigError,
            "modalities SEG",
        ),
        (
            ["watch", "r", "--dicomweb", "http://127.0.0.1:9/x", "--worklist", "no.csv", "--once"],
            DataError,
            "no.csv",
        ),
    ],
)
def test_mistakes_are_named(run, arguments, kind, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run(*arguments)
    assert isinstance(done.exception, kind)
    assert said in str(done.exception)


def test_other_conventions_are_refused():
    with pytest.raises((ConfigError, ModuleNotFoundError)):
        cli_dicom._segmenter("r", "mine", None, None, "cpu")


def test_watching_by_a_worklist_and_by_reports(run, tmp_path, monkeypatch):
    orthanc = Orthanc(tmp_path)
    try:
        pacs = Pacs(orthanc.url, user="u", password="p")
        image = film()
        pacs.store(image.StudyInstanceUID, [image])
        (tmp_path / "w.csv").write_text(
            f"StudyInstanceUID,text\n{image.StudyInstanceUID},left lung\nx/../y,z\n"
        )
        monkeypatch.setenv("PACS_USER", "u")
        monkeypatch.setenv("PACS_PASSWORD", "p")
        common = [
            "watch",
            "r",
            "--dicomweb",
            orthanc.url,
            "--once",
            "--state",
            tmp_path / "s",
            "--capture",
        ]
        common += ["--user-env", "PACS_USER", "--password-env", "PACS_PASSWORD"]
        done = run(*common, "--worklist", tmp_path / "w.csv")
        assert done.exit_code == 0, done.output
        assert "1 stored, 0 done before, 0 failed" in " ".join(done.output.split())
        assert "row 3: the UID is not well-formed" in done.output
        assert not any(
            word in done.output
            for word in (image.StudyInstanceUID, image.SOPInstanceUID, "left lung", "Doe")
        )
        assert "0 stored, 1 done before" in " ".join(
            run(*common, "--worklist", tmp_path / "w.csv").output.split()
        )
        assert "0 stored, 0 done before" in " ".join(
            run(*common).output.split()
        )  # the only report is our own
    finally:
        orthanc.stop()


def test_a_worklist_that_breaks_keeps_its_last_rows(tmp_path, capsys):
    path = tmp_path / "w.csv"
    path.write_text("SOPInstanceUID,text\n1.2.3,left lung\n")
    rows = WorklistRows(path, lambda message: complain(message, "yellow"))
    first = rows()
    path.write_text("half a li")
    assert rows() == rows() == first
    assert capsys.readouterr().err.count("warning") == 1
    path.write_text("SOPInstanceUID,text\n1.2.4,left lung\n")
    assert rows() != first


class TestTasks:
    FAILED, STORED = TaskKey("1.2.3", "a" * 64, "b" * 64), TaskKey("1.2.4", "a" * 64, "b" * 64)

    @pytest.fixture
    def path(self, tmp_path):
        with open_state(tmp_path / "s") as state:
            for key in (self.FAILED, self.STORED):
                state.start(key, 1, "0123456789ab")
            state.finish(self.FAILED, "failed", "DataError: bad", trace="file.py, line 3")
            state.finish(self.STORED, "stored")
        return tmp_path / "s"

    def test_failed_and_waiting_tasks_are_listed_without_uids(self, run, path):
        done = run("tasks", "list", "--state", path)
        assert self.FAILED.id in done.output
        assert "DataError: bad" in done.output
        assert "1 listed" in done.output
        assert "1 stored, 1 failed" in done.output
        assert "1.2.3" not in done.output
        assert "file.py" not in done.output
        more = run("tasks", "list", "--state", path, "--status", "failed", "--uids", "--trace")
        assert "1.2.3" in more.output
        assert "file.py, line 3" in more.output

    @pytest.mark.parametrize("name", ["id", "image", "--failed"])
    def test_a_task_is_named_by_its_id_or_its_image(self, run, path, name):
        named = {"id": self.FAILED.id[:6], "image": short_hash("1.2.3"), "--failed": "--failed"}
        done = run("tasks", "retry", named[name], "--state", path)
        assert "1 tasks are tried again" in done.output
        done = run("tasks", "drop", named[name], "--state", path)
        assert "1 tasks are dropped" in done.output
        with open_state(path) as state:
            assert state.get(self.FAILED).status == "dropped"
            assert state.get(self.STORED).status == "stored"

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["list", "--status", "lost"], "unknown status"),
            (["retry"], "either ids"),
            (["drop", "abcd", "--failed"], "either ids"),
            (["retry", "abcd"], "no task is named 'abcd'"),
            (["retry", "a"], "4 letters"),
        ],
    )
    def test_other_names_are_refused(self, run, path, arguments, said):
        done = run("tasks", *arguments, "--state", path)
        assert isinstance(done.exception, ConfigError)
        assert said in str(done.exception)


def test_only_modalities_that_the_model_knows_are_watched():
    known = Domain(("CR", "DX"), "CHEST", "frontal")
    assert watched_modalities((), known) == ("CR", "DX")
    assert watched_modalities(("DX",), known) == ("DX",)
    assert watched_modalities((), Domain()) == ("CR", "DX", "CT")
    with pytest.raises(ConfigError, match="modality CT; it knows CR, DX"):
        watched_modalities(("CR", "CT"), known)
