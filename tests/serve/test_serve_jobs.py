"""Folders as jobs: progress, failures, results, and no way out of the folder."""

import json
import shutil
import threading
import time

import cv2
import numpy as np
import pytest
from serving import LOWER_LEFT, Gated, refused, upload

from textmask.inference.jobs import BatchItem
from textmask.serve.background import BackgroundJob, BackgroundJobs
from textmask.serve.limits import Limits
from textmask.serve.problems import Problem


@pytest.fixture
def root(tmp_path, film):
    root = tmp_path / "root"
    (root / "films").mkdir(parents=True)
    for name in ("a.png", "b.png"):
        shutil.copy(film, root / "films" / name)
    (root / "films" / "bad.png").write_bytes(b"no picture")
    (tmp_path / "outside.png").write_bytes(film.read_bytes())
    return root


def ended(client, name):
    for _ in range(2000):
        body = client.get(f"/v1/jobs/{name}").json()
        if body["status"] not in ("waiting", "running"):
            return body
        time.sleep(0.005)
    raise AssertionError(body)


def test_a_folder_is_segmented_with_progress(client_of, root):
    client = client_of(jobs_root=root)
    answer = client.post("/v1/jobs", json={"source": "films", **LOWER_LEFT, "out": "masks"})
    assert answer.status_code == 202, answer.text
    body = ended(client, answer.json()["id"])
    assert (body["status"], body["total"], body["done"], body["failed"]) == ("done", 3, 2, 1)
    assert [one["image"] for one in body["failures"]] == ["bad.png"]
    assert str(root) not in json.dumps(body)
    masks = sorted((root / "masks").glob("*.mask.png"))
    assert len(masks) == len(list((root / "masks").glob("*.json"))) == 2
    assert cv2.imread(str(masks[0]), cv2.IMREAD_GRAYSCALE).shape == (64, 64)
    record = json.loads(next((root / "masks").glob("a-*.json")).read_text())
    assert record["text"] == LOWER_LEFT["sentence"]
    assert len(record["weights_sha256"]) == 64
    assert client.delete(f"/v1/jobs/{body['id']}").status_code == 204
    refused(client.get(f"/v1/jobs/{body['id']}"), 404, "no_such_job")
    refused(client.delete(f"/v1/jobs/{body['id']}"), 404, "no_such_job")
    assert 'textmask_job_rows_total{status="done"} 2.0' in client.get("/metrics").text


def test_a_jobs_file_brings_its_own_sentences_and_the_audit_log_has_each(client_of, root, tmp_path):
    rows = [{"image": "films/a.png", "text": text} for text in ("upper left lung", "what a day")]
    (root / "jobs.json").write_text(json.dumps(rows))
    log = tmp_path / "audit.jsonl"
    client = client_of(jobs_root=root, audit=log)
    body = ended(client, client.post("/v1/jobs", json={"source": "jobs.json"}).json()["id"])
    assert (body["status"], body["done"], body["with_warnings"]) == ("done", 2, 1)
    assert len(list((root / body["out"]).glob("*.mask.png"))) == 2
    actions = [json.loads(line)["action"] for line in log.read_text().splitlines()]
    assert actions == ["job", "job_row", "job_row"]
    assert "upper left" not in log.read_text()


@pytest.mark.parametrize(
    "source", ["..", "../outside.png", "/etc", "films/../../outside.png", "link", "a\0b"]
)
@pytest.mark.parametrize("field", ["source", "out"])
def test_nothing_outside_the_folder_is_read_or_written(client_of, root, source, field):
    (root / "link").symlink_to(root.parent)
    client = client_of(jobs_root=root)
    ask = {"source": "films", **LOWER_LEFT, field: source}
    message = refused(client.post("/v1/jobs", json=ask), 403, "outside_jobs_root")
    assert str(root) not in message


@pytest.mark.parametrize(
    "image", ["../outside.png", "/etc/hostname", "films/../../outside.png", "films/link.png"]
)
def test_no_row_of_a_jobs_file_leads_out(client_of, root, image):
    (root / "films" / "link.png").symlink_to(root.parent / "outside.png")
    (root / "jobs.csv").write_text(f"image,text\n{image},left lung\n")
    client = client_of(jobs_root=root)
    refused(client.post("/v1/jobs", json={"source": "jobs.csv"}), 403, "outside_jobs_root")
    refused(
        client.post("/v1/jobs", json={"source": "films", **LOWER_LEFT}), 403, "outside_jobs_root"
    )
    assert not list(root.rglob("*.mask.png"))


@pytest.mark.parametrize(
    ("source", "status", "code"),
    [
        ("nowhere", 404, "no_such_source"),
        ("films/a.txt", 404, "no_such_source"),
        ("empty", 422, "no_jobs"),
        ("a" * 900, 404, "no_such_source"),
    ],
)
def test_nothing_to_do_is_said_without_the_place_on_this_machine(
    client_of, root, source, status, code
):
    (root / "empty").mkdir()
    client = client_of(jobs_root=root)
    message = refused(client.post("/v1/jobs", json={"source": source, **LOWER_LEFT}), status, code)
    assert str(root) not in message
    refused(client.post("/v1/jobs", json={"source": "films"}), 422, "no_jobs")  # no sentence


def test_jobs_are_off_unless_a_folder_is_named_and_have_a_cap(client_of, root):
    refused(
        client_of().post("/v1/jobs", json={"source": "films", **LOWER_LEFT}), 404, "no_jobs_root"
    )
    client = client_of(jobs_root=root, limits=Limits(job_rows=2))
    refused(client.post("/v1/jobs", json={"source": "films", **LOWER_LEFT}), 413, "too_many_rows")


def test_a_special_file_does_not_block_the_job(client_of, root):
    import os

    os.mkfifo(root / "pipe.png")
    (root / "jobs.csv").write_text("image,text\npipe.png,left lung\n")
    client = client_of(jobs_root=root)
    body = ended(client, client.post("/v1/jobs", json={"source": "jobs.csv"}).json()["id"])
    assert (body["status"], body["failures"][0]["message"]) == ("failed", "pipe.png is not a file.")


def test_a_job_can_be_cancelled_while_others_are_answered(client_of, segmenter, root, png):
    gated = Gated(segmenter)
    client = client_of(segmenter=gated, jobs_root=root, limits=Limits(workers=2))
    name = client.post("/v1/jobs", json={"source": "films", "sentence": "wait"}).json()["id"]
    assert gated.begun.wait(10)
    assert client.get(f"/v1/jobs/{name}").json()["status"] == "running"
    assert (
        client.post(f"/v1/images/{upload(client, png)}/masks", json=LOWER_LEFT).status_code == 200
    )
    kept = client.app.service.jobs.get(name)
    assert client.delete(f"/v1/jobs/{name}").status_code == 204
    gated.gate.set()
    while kept.status == "running":
        time.sleep(0.005)
    assert (kept.status, kept.done) == ("cancelled", 1)


def test_jobs_wait_in_a_bounded_line_and_old_ones_are_forgotten(tmp_path):
    gate = threading.Event()
    jobs = BackgroundJobs(2)

    def job():
        return BackgroundJob(
            [BatchItem(tmp_path / "a.png", "left lung")],
            tmp_path,
            "",
            lambda row: gate.wait(10) and (),
        )

    first, second = jobs.add(job()), jobs.add(job())
    with pytest.raises(Problem) as caught:
        jobs.add(job())
    assert caught.value.status_code == 429
    gate.set()
    while jobs.active:
        time.sleep(0.002)
    for _ in range(70):
        last = jobs.add(job())
        while jobs.active:
            time.sleep(0.0005)
    assert jobs.get(first.id) is jobs.get(second.id) is None
    assert jobs.get(last.id).status == "done"
    jobs.close()


def test_one_row_that_breaks_does_not_end_the_job(tmp_path):
    def work(row):
        if row.text == "break":
            raise RuntimeError("secret")
        return ()

    jobs = BackgroundJobs(1)
    rows = [BatchItem(tmp_path / "a.png", text) for text in ("break", "left lung")]
    job = jobs.add(BackgroundJob(rows, tmp_path, "", work))
    while jobs.active:
        time.sleep(0.002)
    jobs.close()
    assert (job.status, job.done, job.failures) == (
        "done",
        1,
        [("a.png", "unexpected RuntimeError")],
    )


def test_mask_shapes_are_those_of_the_images(client_of, root):
    cv2.imwrite(str(root / "wide.png"), np.zeros((30, 90), np.uint8))
    client = client_of(jobs_root=root)
    ask = {"source": "wide.png", **LOWER_LEFT, "laterality": "patient"}
    body = ended(client, client.post("/v1/jobs", json=ask).json()["id"])
    assert (body["status"], body["failed"]) == ("failed", 1)  # the view is not known
    body = ended(
        client, client.post("/v1/jobs", json={**ask, "view": "pa", "out": "o"}).json()["id"]
    )
    assert body["done"] == 1
    mask = cv2.imread(str(next((root / "o").glob("*.mask.png"))), cv2.IMREAD_GRAYSCALE)
    assert mask.shape == (30, 90)
