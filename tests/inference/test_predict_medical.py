"""Prediction on DICOM and NIfTI files: whose left, slice by slice, and the geometry of the file back."""

import json
from dataclasses import replace

import nibabel
import numpy as np
import pytest
import torch
from dicom_files import cr, film, mr, to_bytes

from textmask.errors import CheckpointError, LateralityError
from textmask.inference.batch import predict_folder
from textmask.inference.jobs import BatchItem, read_jobs
from textmask.inference.predictor import Predictor
from textmask.io.dicom.domain import CHEST_RADIOGRAPH, Domain
from textmask.io.read import load_image
from textmask.methods.base import Method
from textmask.methods.registry import get_method
from textmask.runs.checkpoint import load_run
from textmask.runs.folder import DOMAINS
from textmask.training.loop import train
from textmask.types import Output

LEFT = "Opacity in the left lower lobe."


class Obedient(Method):
    """Marks the half of the picture that the sentence names, as a model of image-side captions does."""

    def forward(self, image, text):
        logits = torch.full((len(image), 1, *image.shape[-2:]), -9.0)
        for i, statement in enumerate(text.statements):
            for side, _ in statement.zones:
                half = image.shape[-1] // 2
                logits[i, ..., slice(half) if side == "left" else slice(half, None)] = 9.0
        return Output(logits)


@pytest.fixture(scope="module")
def run(phantom_manifest, tmp_path_factory):
    out = tmp_path_factory.mktemp("medical")
    train(
        get_method("statement_unet").recipe().smoke(),
        phantom_manifest,
        out / "run",
        cache_dir=out,
        progress=False,
    )
    return load_run(out / "run")


@pytest.fixture
def obedient(run):
    return Predictor(replace(run, method=Obedient()))


def store(path, dataset):
    path.write_bytes(to_bytes(dataset))
    return path


def columns(mask):
    """Mean column of the marked pixels, 0 to 1."""
    return np.nonzero(mask)[1].mean() / mask.shape[1]


def test_the_same_film_with_lf_and_rf_gives_mirrored_masks(obedient, tmp_path):
    hung, mirrored = (
        store(tmp_path / f"{i}.dcm", cr(orientation=pair))
        for i, pair in enumerate(("L\\F", "R\\F"))
    )
    a, b = (obedient.set_image(path).segment(LEFT) for path in (hung, mirrored))
    assert columns(a.mask) > 0.5  # the patient's left is on the right of a film that hangs as usual
    np.testing.assert_array_equal(b.mask, a.mask[:, ::-1])
    assert (a.asked.said, a.asked.model) == ("patient", "image")
    assert a.asked.sentence == "Opacity in the right lower lobe."
    assert a.asked.view == "L\\F (PatientOrientation)"


def test_the_same_patient_stored_mirrored_gives_the_mirrored_mask_of_a_trained_model(run, tmp_path):
    pixels = film()
    hung = store(tmp_path / "a.dcm", cr(pixels, "L\\F"))
    mirrored = store(tmp_path / "b.dcm", cr(np.ascontiguousarray(pixels[:, ::-1]), "R\\F"))
    a, b = (Predictor(run).set_image(path).segment(LEFT).probability for path in (hung, mirrored))
    np.testing.assert_allclose(b, a[:, ::-1], atol=1e-6)


def test_a_film_without_orientation_is_refused_until_somebody_says_its_view(obedient, tmp_path):
    path = store(tmp_path / "bare.dcm", cr(orientation=""))
    with pytest.raises(LateralityError, match="unknown where the patient's left is"):
        obedient.set_image(path).segment(LEFT)
    assert columns(obedient.set_image(path, view="ap").segment(LEFT).mask) > 0.5
    assert columns(obedient.set_image(path, view="mirrored").segment(LEFT).mask) < 0.5


def test_a_volume_is_segmented_slice_by_slice_and_its_geometry_comes_back(run, tmp_path):
    volume = np.random.default_rng(0).normal(size=(20, 30, 3)).astype(np.float32)
    affine = np.array([[-0.7, 0, 0, 10], [0, -0.7, 0, 20], [0, 0, 5, -30], [0, 0, 0, 1]])
    path = tmp_path / "scan.nii.gz"
    nibabel.save(nibabel.Nifti1Image(volume, affine), path)
    (job,) = read_jobs(path, "opacity in the left lower lobe")
    (result,) = predict_folder(run, [job], tmp_path / "out")
    assert (result.status, result.message) == ("done", "")
    mask = nibabel.load(tmp_path / "out" / f"{job.stem}.mask.nii.gz")
    assert mask.shape == volume.shape
    np.testing.assert_allclose(mask.affine, affine)
    for i in range(3):
        alone = Predictor(run).set_image(load_image(path, i)).segment(job.text).mask
        np.testing.assert_array_equal(np.asarray(mask.dataobj)[..., i], alone.T)
    record = json.loads((tmp_path / "out" / f"{job.stem}.json").read_text())
    assert (
        record["foreground_px"]
        == sum(record["foreground_px_of_slices"])
        == int(np.asarray(mask.dataobj).sum())
    )
    assert record["asked"]["said"] == "patient"
    assert [r.status for r in predict_folder(run, [job], tmp_path / "out")] == ["skipped"]
    (one,) = predict_folder(run, [BatchItem(path, job.text, index=1)], tmp_path / "one")
    kept = nibabel.load(tmp_path / "one" / f"{one.job.stem}.mask.nii.gz")
    np.testing.assert_array_equal(
        np.asarray(kept.dataobj)[..., 1], np.asarray(mask.dataobj)[..., 1]
    )
    assert not np.asarray(kept.dataobj)[..., [0, 2]].any()


def test_frames_of_a_dicom_file_are_asked_one_at_a_time(run, tmp_path):
    path = store(tmp_path / "mr.dcm", mr())
    many, one, none = predict_folder(
        run, [BatchItem(path, LEFT, index=i) for i in (None, 2, 7)], tmp_path / "out"
    )
    assert (many.status, one.status, none.status) == ("failed", "done", "failed")
    assert "mr.dcm: contains 3 frames, expected one. Give --index" in many.message


@pytest.mark.filterwarnings("ignore::textmask.errors.PromptWarning")
def test_an_image_outside_of_the_domain_has_no_mask_unless_it_is_wanted(obedient, tmp_path):
    obedient.domain = CHEST_RADIOGRAPH
    chest = store(tmp_path / "chest.dcm", cr(BodyPartExamined="CHEST"))
    wrist = store(tmp_path / "wrist.dcm", cr(BodyPartExamined="WRIST"))
    known, other = (obedient.set_image(path).segment(LEFT) for path in (chest, wrist))
    assert known.mask.any()
    assert not known.abstained
    assert other.abstained
    assert not other.mask.any()
    assert other.warnings[-2:] == ("abstained", "outside_domain_header")
    kept = obedient.set_image(wrist).segment(LEFT, abstain=False)
    assert kept.mask.any()
    assert kept.warnings == other.warnings


def test_a_run_stores_the_domain_of_its_data(run):
    assert CHEST_RADIOGRAPH.as_json() == DOMAINS["qata"].as_json()
    assert Predictor("default").domain == CHEST_RADIOGRAPH
    assert Predictor(run).domain == DOMAINS.get(run.data["grammar"], Domain())
    with pytest.raises(CheckpointError, match="domain in data"):
        Predictor(replace(run, data={**run.data, "domain": "chest"}))
