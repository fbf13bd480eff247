"""Progressive resizing (`Stage.sizes`) and batches in parts (`Stage.accumulate`)."""

import pytest
import torch
from test_contract import gradient_stages, make_batch, observed, smoke
from test_resume import Killed, assert_equal_runs, data, go, kill_at  # noqa: F401

from textmask.config import Stage, Tiles
from textmask.errors import ConfigError
from textmask.methods.registry import get_method, list_methods
from textmask.training.sizes import smaller_parts
from textmask.training.steps import GradientStep

SIZES = "stages.*.sizes=[[0.34,0.25],[0.67,0.25]]"


def recipe_with_sizes(name="unet", *more):
    settings = ("image_size=[48,48]", SIZES, "stages.*.epochs=3", "stages.*.steps_per_epoch=4")
    return get_method(name).recipe().smoke().override(*settings, *more)


def seen_sizes(monkeypatch):
    """The rows of the images of each step, as they are trained."""
    real, rows = GradientStep.run, []

    def run(self, batch, *args):
        rows.append(batch.image.shape[-2])
        return real(self, batch, *args)

    monkeypatch.setattr(GradientStep, "run", run)
    return rows


def test_sizes_are_shares_and_fall_on_multiples_of_16():
    stage = Stage(name="s", sizes=((0.5, 0.4), (0.7, 0.3)))
    recipe = get_method("unet").recipe().model_copy(update={"image_size": (224, 200)})
    assert [part.size for part in smaller_parts(recipe, stage)] == [(112, 96), (160, 144)]
    tiled = recipe.model_copy(update={"tiles": Tiles(size=(128, 64), overlap=16)})
    assert [part.tiles.size for part in smaller_parts(tiled, stage)] == [(64, 32), (96, 48)]
    assert smaller_parts(recipe, stage.model_copy(update={"optim": None})) == []


@pytest.mark.parametrize(
    "wrong", ["[[0.5,0.6],[0.7,0.4]]", "[[1.5,0.2]]", "[[0.5,0]]", "[[0.5]]", "0.5"]
)
def test_shares_that_leave_nothing_for_the_full_size_are_refused(wrong):
    with pytest.raises(ConfigError, match="sizes"):
        get_method("unet").recipe().override(f"stages.*.sizes={wrong}")


def test_the_last_steps_have_the_full_size(data, tmp_path, monkeypatch, capsys):  # noqa: F811
    rows = seen_sizes(monkeypatch)
    go(recipe_with_sizes(), data, tmp_path / "run", tmp_path / "cache")
    assert rows == [16] * 3 + [32] * 3 + [48] * 6
    assert "sizes: 16 x 16 for 25%, 32 x 32 for 25% of the steps, then" in capsys.readouterr().out


@pytest.mark.parametrize("step", [2, 5, 9], ids=["first", "second", "full"])
def test_a_kill_in_each_part_changes_nothing(data, tmp_path, monkeypatch, step):  # noqa: F811
    recipe, cache = recipe_with_sizes("unet", "stages.*.ema_decay=0.9"), tmp_path / "cache"
    go(recipe, data, tmp_path / "whole", cache, save_every_steps=1)
    with monkeypatch.context() as patch:
        kill_at(patch, step)
        with pytest.raises(Killed):
            go(recipe, data, tmp_path / "killed", cache, save_every_steps=1)
    go(recipe, data, tmp_path / "killed", cache, resume=True, save_every_steps=1)
    assert_equal_runs(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.parametrize("name", list_methods())
def test_every_method_trains_at_several_sizes(name):
    recipe, method = smoke(name)
    observed(recipe, method).train()
    for stage in gradient_stages(recipe):
        for side in (16, 48):
            losses = method.losses(stage, make_batch(recipe, stage, 4, (side, side)))
            assert all(torch.isfinite(loss) for loss in losses.values())


def test_tiles_shrink_with_their_images(data, tmp_path, monkeypatch):  # noqa: F811
    rows = seen_sizes(monkeypatch)
    tiles = 'tiles={"size":[32,32],"overlap":8}'
    recipe = recipe_with_sizes("statement_unet", tiles, "stages.*.sizes=[[0.5,0.5]]")
    go(recipe, data, tmp_path / "run", tmp_path / "cache")
    assert rows == [16] * 6 + [32] * 6


def test_a_batch_in_parts_has_the_gradients_of_the_whole(data, tmp_path):  # noqa: F811
    scores = []
    for parts in (1, 2, 4):
        recipe = get_method("statement_unet").recipe().smoke()
        recipe = recipe.override("norm=group", "stages.*.batch_size=8", "stages.*.epochs=2")
        recipe = recipe.override(f"stages.*.accumulate={parts}")
        run = tmp_path / str(parts)
        go(recipe, data, run, tmp_path / "cache")
        scores.append(rows_of_losses(run))
    for other in scores[1:]:
        assert other == pytest.approx(scores[0], abs=1e-4)


def rows_of_losses(run):
    import json

    return [json.loads(line)["loss"] for line in (run / "log.jsonl").read_text().splitlines()]


def test_parts_hold_every_sample_once(data, tmp_path):  # noqa: F811
    recipe, _ = smoke("mean_teacher")
    batch = make_batch(recipe, recipe.stages[-1].name, 6)
    parts = batch.parts(3)
    assert [len(part) for part in parts] == [2, 2, 2]
    assert torch.equal(torch.cat([part.image for part in parts]), batch.image)
    assert sum((part.text.prompts for part in parts), ()) == batch.text.prompts
    assert torch.equal(torch.cat([part.unlabelled.image for part in parts]), batch.unlabelled.image)


def test_a_batch_that_cannot_be_cut_is_refused():
    with pytest.raises(ConfigError, match="not divisible by accumulate"):
        get_method("unet").recipe().override("stages.*.accumulate=5")
