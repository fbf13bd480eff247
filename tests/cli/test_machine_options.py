"""`train --devices --num-nodes --strategy --accelerator --precision --batch-size`."""

import pytest
from typer.testing import CliRunner

from textmask.cli.app import app
from textmask.cli.machine_options import machine_settings, process_options
from textmask.errors import ConfigError


def test_the_options_become_those_of_the_training():
    assert process_options("cpu", 1, 1, "auto", None) == {
        "accelerator": "cpu",
        "devices": 1,
        "num_nodes": 1,
        "strategy": "auto",
    }
    found = process_options("auto", 4, 2, "ddp", "cpu")
    assert (found["accelerator"], found["devices"], found["num_nodes"]) == ("cpu", 4, 2)
    assert machine_settings("fp16", "64") == ["precision=fp16", "stages.*.batch_size=64"]
    assert machine_settings(None, "auto") == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--strategy", "dpp"], "'ddp'"),
        (["--strategy", "fsdp"], "'fsdp' is not offered: Lightning Fabric runs FSDP on GPUs only"),
        (["--accelerator", "tpu"], "unknown accelerator 'tpu'"),
        (["--accelerator", "cpu", "--device", "cpu"], "name the same thing"),
        (["--precision", "fp64"], "unknown precision 'fp64'"),
        (["--batch-size", "many"], "a number of images or auto"),
        (["--batch-size", "0"], "a number of images or auto"),
        (["--num-nodes", "0"], "--num-nodes"),
    ],
)
def test_what_no_machine_has_is_refused_before_any_work(phantom_manifest, tmp_path, options, said):
    table = str(phantom_manifest.root / "manifest.csv")
    command = ["train", "unet", table, "--out", str(tmp_path / "run"), "--preset", "smoke"]
    result = CliRunner().invoke(app, [*command, *options])
    assert result.exit_code
    assert said in f"{result.output}{result.exception}"
    assert not (tmp_path / "run").exists()


def test_several_processes_of_one_named_device_are_refused(monkeypatch):
    monkeypatch.setattr("textmask.runs.session.find_device", lambda name: None)
    with pytest.raises(ConfigError, match="which is one device"):
        process_options("cuda:1", 2, 1, "auto", None)
