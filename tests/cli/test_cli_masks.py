"""Own data on the command line: masks of any values, label maps, and nothing half-written when they are wrong."""

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from textmask.data.manifest import read_manifest

SPLITS = ("train",) * 6 + ("valid",) * 3 + ("test",) * 3


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """The entry point in this process: (exit code, everything printed)."""
    import textmask.cli.app as entry

    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.chdir(tmp_path)

    def enter(*arguments):
        monkeypatch.setattr(sys, "argv", ["textmask", *map(str, arguments)])
        code = 0
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            try:
                entry.main()
            except SystemExit as stop:
                code = stop.code
        return code or 0, " ".join("".join(capsys.readouterr()).split())

    return enter


def organs(root: Path, values: tuple[int, int] = (1, 2), text: str = "") -> None:
    """Twelve images with two bright squares, a label map of them, and a table."""
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True)
    lines = ["image,caption,split"]
    rng = np.random.default_rng(0)
    for i, split in enumerate(SPLITS):
        labels = np.zeros((64, 64), np.uint8)
        top, left = rng.integers(4, 30, 2)
        labels[top : top + 20, left : left + 12] = values[0]
        if i % 3:
            labels[top : top + 12, left + 14 : left + 26] = values[1]
        pixels = rng.integers(20, 60, (64, 64)) + 60 * (labels > 0) + 40 * (labels == values[1])
        Image.fromarray(pixels.astype(np.uint8)).save(root / f"images/c{i}.png")
        Image.fromarray(labels).save(root / f"masks/c{i}.png")
        lines.append(f"images/c{i}.png,{text},{split}")
    (root / "table.csv").write_text("\n".join(lines))
    (root / "classes.csv").write_text("value,name\n1,liver\n2,spleen\n")


def test_label_maps_stop_every_command_and_leave_nothing(call, tmp_path):
    organs(tmp_path / "data", text="the organs")
    for command in (
        ("data", "inspect", "data"),
        ("data", "convert", "data", "--out", "data/new.csv"),
        ("train", "unet", "data", "--preset", "smoke", "--out", "run"),
    ):
        code, said = call(*command)
        assert code != 0, command
        assert "0, 1, 2" in said
        for way in ("--mask-threshold", "--mask-values", "--classes"):
            assert way in said
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "data/new.csv").exists()


def test_values_are_chosen_and_survive_conversion(call, tmp_path):
    organs(tmp_path / "data", text="the organs")
    code, said = call("data", "convert", "data", "--mask-values", "2", "--out", "data/new.csv")
    assert code == 0, said
    assert {row.label for row in read_manifest(tmp_path / "data/new.csv").rows} == {(2,)}
    assert {row.mask for row in read_manifest(tmp_path / "data/new.csv").rows} == {
        f"masks/c{i}.png" for i in range(12)
    }
    code, said = call("data", "inspect", "data/new.csv")
    assert code == 0, said
    assert "empty-mask" in said


def test_a_label_map_is_trained_and_scored_per_structure(call, tmp_path):
    organs(tmp_path / "data")
    mine = ("data", "--classes", "classes.csv")
    code, said = call("train", "unet", *mine, "--absent", "--preset", "smoke", "--out", "run")
    assert code == 0, said

    # the run remembers how its masks are read
    options = json.loads((tmp_path / "run/data.json").read_text())["options"]
    assert (options["classes"], options["absent"]) == ("classes.csv", True)
    code, said = call("evaluate", "run", "data", "--split", "test")
    assert code == 0, said
    assert "data options of run: --classes classes.csv --absent" in said
    assert "structure" in said
    folder = tmp_path / "run/evaluation/test"
    summary = json.loads((folder / "summary.json").read_text())
    assert [(entry["name"], entry["truth_empty"]) for entry in summary["structures"]] == [
        ("liver", 0),
        ("spleen", 1),
    ]
    assert (summary["protocol"]["n"], summary["protocol"]["n_groups"]) == (6, 3)
    table = (folder / "per_image.csv").read_text()
    assert "images/c9.png#1" in table
    page = (folder / "table.md").read_text()
    assert "| liver | 3 | 0 |" in page
    assert "| mean of structures | 2 |" in page

    # an image that was trained on is not scored in another row of it
    lines = (tmp_path / "data/table.csv").read_text().replace(",test", ",late")
    (tmp_path / "data/table.csv").write_text(lines.replace("c0.png,,train", "c0.png,,test"))
    code, said = call("evaluate", "run", "data", "--split", "test")
    assert code != 0
    assert "trained on" in said


def test_a_method_that_reads_prompts_refuses_to_train_without(call, tmp_path):
    organs(tmp_path / "data", values=(1, 1))
    train = ("train", "biclip", "data", "--preset", "smoke", "--out", "run")
    code, said = call(*train)
    assert code != 0
    assert "6 of 6 train rows have no prompt, but biclip reads prompts" in said
    assert not (tmp_path / "run").exists()
    code, said = call(*train, "--allow-empty-text")
    assert code == 0, said


def test_two_ways_to_read_masks_exclude_each_other(call, tmp_path):
    organs(tmp_path / "data", text="the organs")
    code, said = call("data", "inspect", "data", "--mask-values", "1", "--classes", "classes.csv")
    assert code != 0
    assert "--mask-values and --classes exclude each other" in said
