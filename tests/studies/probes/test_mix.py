"""`study mix`: what is drawn and counted, with a perfect teacher and with that of a run."""

import json
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from textmask.cli.app import app
from textmask.data.manifest import write_manifest
from textmask.errors import ConfigError
from textmask.io.images import read_image
from textmask.methods.registry import build_method, get_method
from textmask.runs.checkpoint import text_fingerprint, write_tensors
from textmask.runs.layout import WEIGHTS
from textmask.studies.probes.mix import TRUTH, MixOptions, draw_mix


@pytest.mark.parametrize("mode", ["position", "probability", "released", "naive"])
def test_it_counts_what_it_draws(mode, phantom_manifest, tmp_path):
    options = MixOptions(
        mode=mode, block_px=4, share=1.0, p=1.0, size=32, images=2, cache_dir=tmp_path / "cache"
    )
    if mode == "released":  # a single block rarely meets a lesion: let all pass
        options = replace(options, tau=0.0)
    out = tmp_path / "mix.png"
    found = draw_mix(phantom_manifest, out, options)
    assert found.teacher == TRUTH
    assert 0 < found.mixed_pixels <= found.mixed_samples <= 1
    if mode == "released":  # one block of 64 per sample
        assert found.mixed_pixels == pytest.approx(found.mixed_samples / 64)
    if mode == "naive":
        assert (found.mixed_pixels, found.changed_prompts) == (1.0, 0.0)
    picture = read_image(out)
    assert picture.shape[1] >= 4 * 32
    assert picture.shape[0] >= 2 * 32
    written = json.loads(out.with_suffix(".json").read_text("utf-8"))
    assert written["mixed_samples"] == pytest.approx(found.mixed_samples)
    assert len(written["drawn"]) == 2
    assert written["drawn"][0]["image"] != written["drawn"][0]["partner"]
    again = draw_mix(phantom_manifest, tmp_path / "again.png", options)
    assert again == found
    assert np.array_equal(read_image(tmp_path / "again.png"), picture)


def test_the_teacher_may_be_a_run(phantom_manifest, tmp_path):
    recipe = get_method("unet").recipe().smoke()
    method = build_method(recipe)
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.json").write_text(recipe.to_json())
    (run / "data.json").write_text('{"laterality": "image"}')
    told = {"method": "unet", "text_encoder": text_fingerprint(method)}
    write_tensors(run / WEIGHTS, method.state_dict(), told)
    options = MixOptions(tau=0.0, block_px=4, run=run, images=1, cache_dir=tmp_path / "cache")
    found = draw_mix(phantom_manifest, tmp_path / "mix.png", options)
    assert found.teacher == "run"
    assert found.mixed_samples > 0  # a threshold of 0 lets everything pass


@pytest.mark.parametrize("wrong", [{"images": 0}, {"share": 1.5}, {"block_px": 0}, {"tau": -1.0}])
def test_impossible_numbers_stop_before_the_work(wrong, phantom_manifest, tmp_path):
    with pytest.raises(ConfigError, match="mix: "):
        draw_mix(phantom_manifest, tmp_path / "mix.png", MixOptions(**wrong))
    assert not (tmp_path / "mix.png").exists()


def test_the_mix_command(phantom_manifest, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    table = phantom_manifest.root / "mix.csv"
    write_manifest(phantom_manifest, table)
    words = ["study", "mix", str(table), "--size", "32", "--block", "4", "--pictures", "1"]
    words += ["--cache-dir", str(tmp_path / "cache"), "--out", str(tmp_path / "mix.png")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "teacher: true masks" in " ".join(result.output.split())
    assert (tmp_path / "mix.png").exists()
    refused = CliRunner().invoke(app, [*words, "--mode", "cutout"])
    assert refused.exit_code != 0
