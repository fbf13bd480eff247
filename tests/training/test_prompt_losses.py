"""Several prompts per image (`Stage.prompts`): image features once, losses averaged, refused where that cannot be."""

import copy
from dataclasses import replace

import pytest
import torch
from test_contract import make_batch, prepared
from test_resume import Killed, assert_equal_runs, data, go, kill_at  # noqa: F401

from textmask.errors import ConfigError
from textmask.methods.registry import get_method, list_methods
from textmask.training.prompt_losses import prompt_losses, refuse_prompts, shared_features
from textmask.types import FurtherPrompt

# their losses read the text after the image features, in the stage that segments
SHARING = {"c2seg": "segment", "compose": "segment", "guide_decoder": "segment"}
SHARING |= {"mmi_unet": "segment", "ssa": "segment", "ukan": "segment", "unet": "segment"}

# no image features, losses that compute them anew, or a stage with an unlabelled stream
REFUSED = ("biclip", "dusss", "mean_teacher", "semi_medref", "statement_unet", "text_prior")


def several(recipe, stage, k=3):
    """A batch whose further prompts are those of other samples, with their masks."""
    batch = make_batch(recipe, stage).to("cpu", torch.channels_last)
    further = []
    for shift in range(1, k):
        order = [(i + shift) % len(batch) for i in range(len(batch))]
        prompts = tuple(batch.text.prompts[i] for i in order)
        statements = tuple(batch.text.statements[i] for i in order)
        text = replace(
            batch.text, prompts=prompts, zones=batch.text.zones[order], statements=statements
        )
        further.append(FurtherPrompt(text, batch.mask[order]))
    return replace(batch, further=tuple(further))


def trained_recipe(name):
    return get_method(name).recipe().smoke().override("precision=fp32")


@pytest.mark.parametrize("name", sorted(set(SHARING) & set(list_methods())))
def test_losses_and_gradients_are_the_means_over_prompts_at_one_pass_over_the_image(name):
    recipe, stage = trained_recipe(name), SHARING[name]
    method = prepared(recipe).train()
    apart = copy.deepcopy(method)
    batch = several(recipe, stage)
    refuse_prompts(method, recipe.stage(stage).model_copy(update={"prompts": 3}))

    torch.manual_seed(0)
    found = []
    for each in batch.by_prompt():
        found.append(apart.losses(stage, each))
    expected = {key: sum(losses[key] for losses in found) / 3 for key in found[0]}
    sum(expected.values()).backward()

    torch.manual_seed(0)
    losses = prompt_losses(method, stage, batch)
    sum(losses.values()).backward()
    assert losses.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(losses[key], value, atol=1e-5, rtol=1e-4)
    for (key, a), b in zip(method.named_parameters(), apart.parameters(), strict=True):
        if b.grad is None:
            assert a.grad is None
            continue
        scale = max(float(b.grad.abs().max()), 1e-3)
        assert float((a.grad - b.grad).abs().max()) <= 1e-3 * scale, key


def test_the_features_are_computed_once_and_only_for_this_image():
    recipe = trained_recipe("unet")
    method, calls = prepared(recipe), []
    method.unet.encoder.register_forward_hook(lambda *_: calls.append(1))
    batch = several(recipe, "segment", k=4)
    prompt_losses(method, "segment", batch)
    assert len(calls) == 1

    with shared_features(method, batch.image) as shared:
        first = method.image_features(batch.image)
        assert method.image_features(batch.image) is first
        assert method.image_features(batch.image.clone()) is not first
        assert shared.uses == 2
    assert "image_features" not in vars(method)
    assert len(calls) == 3


def test_one_prompt_is_the_plain_step():
    recipe = trained_recipe("unet")
    method = prepared(recipe).eval()
    batch = make_batch(recipe, "segment")
    assert prompt_losses(method, "segment", batch) == method.losses("segment", batch)


@pytest.mark.parametrize("name", REFUSED)
def test_a_method_whose_losses_do_not_share_image_features_is_refused(name):
    recipe = trained_recipe(name)
    stage = next((s for s in recipe.stages if s.optim is not None), None)
    if stage is None:
        return
    method = prepared(recipe).train()
    stage = stage.model_copy(update={"prompts": 3})

    def first_step():
        refuse_prompts(method, stage)
        prompt_losses(method, stage.name, several(recipe, stage.name))

    with pytest.raises(ConfigError, match=r"draws 3 prompts per image.*prompts=1"):
        first_step()


def test_a_refused_training_leaves_no_run(data, tmp_path):  # noqa: F811
    recipe = get_method("biclip").recipe().smoke().override("stages.*.prompts=2")
    with pytest.raises(ConfigError, match="draws 2 prompts per image"):
        go(recipe, data, tmp_path / "run", tmp_path / "cache")
    assert not (tmp_path / "run" / "data.json").exists()


SETTINGS = ("stages.*.prompts=3", "stages.*.text.typo=0.3", "stages.*.text.absent=0.3")


def test_a_kill_within_an_epoch_changes_nothing(data, tmp_path, monkeypatch):  # noqa: F811
    settings = ("stages.*.epochs=2", "stages.*.steps_per_epoch=3", *SETTINGS)
    recipe, cache = get_method("unet").recipe().smoke().override(*settings), tmp_path / "cache"
    go(recipe, data, tmp_path / "whole", cache, save_every_steps=1)
    with monkeypatch.context() as patch:
        kill_at(patch, 5)
        with pytest.raises(Killed):
            go(recipe, data, tmp_path / "killed", cache, save_every_steps=1)
    go(recipe, data, tmp_path / "killed", cache, resume=True, save_every_steps=1)
    assert_equal_runs(tmp_path / "whole", tmp_path / "killed")
