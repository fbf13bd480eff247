"""What every method must keep, built-in or third-party; runs over `list_methods()` offline with tiny encoders."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal, get_args, get_origin

import pytest
import torch

from textmask.config import Config, Recipe
from textmask.data.loaders import build_text
from textmask.methods.base import Method
from textmask.methods.presets import TwoStreamRecipe
from textmask.methods.registry import build_method, get_method, list_methods, load_recipe
from textmask.text.grammar import parse
from textmask.training.optim import build_optimizer, parameter_groups, weighted_sum
from textmask.types import Batch

PROMPTS = (
    "unilateral pulmonary infection, one infected areas, lower left lung.",
    "unilateral pulmonary infection, one infected areas, upper right lung.",
    "bilateral pulmonary infection, two infected areas, lower left lung and lower right lung.",
)

# what some values need next to themselves
COMPANIONS = {"contrast=none": ("stages.pretrain.epochs=0",)}
# fields of the networks that the semi-supervised baselines share: all their values with one of them
OF_SHARED_NETWORKS = ("backbone.mmi_unet.", "backbone.guide_decoder.", "unet.", "ema.")
# fields of every recipe that no method reads: validation and scoring have tests of their own
NOT_READ_BY_METHODS = {"select_on", "empty_policy"}


def values_of(config: type[Config], path: str = "") -> Iterator[str]:
    """Each value of each Literal and bool field, as `Recipe.override` takes it, without stages and tiles."""
    for name, field in config.model_fields.items():
        kind = field.annotation
        if name in NOT_READ_BY_METHODS or name in ("stages", "tiles", "precision"):
            continue
        if isinstance(kind, type) and issubclass(kind, Config):
            yield from values_of(kind, f"{path}{name}.")
        elif kind is bool:
            yield from (f"{path}{name}=true", f"{path}{name}=false")
        elif get_origin(kind) is Literal:
            yield from (f"{path}{name}={value}" for value in get_args(kind))


def settings() -> Iterator[tuple[str, Recipe]]:
    """The smoke recipe of each method in each precision; and in bf16, as all presets train, with each other value."""
    for name in list_methods():
        base = get_method(name).recipe().smoke()
        for precision in get_args(Recipe.model_fields["precision"].annotation):
            yield f"{name}-{precision}", base.override(f"precision={precision}")
        for value in values_of(type(base)):
            recipe = base.override(value, *COMPANIONS.get(value, ()))
            twin = isinstance(base, TwoStreamRecipe) and name != "mean_teacher"
            if recipe != base and not (twin and value.startswith(OF_SHARED_NETWORKS)):
                yield f"{name}-{value}", recipe.override("precision=bf16")


SETTINGS = dict(settings())


def autocast(recipe: Recipe) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bf16")


def make_batch(
    recipe: Recipe, stage: str, n: int = 3, size: tuple[int, int] | None = None
) -> Batch:
    rows, columns = size or recipe.image_size
    generator = torch.Generator().manual_seed(7)
    prompts = tuple(PROMPTS[i % 3] for i in range(n))
    statements = tuple(parse(prompt) for prompt in prompts)
    text = build_text(prompts, statements)
    image = torch.rand(n, 1, rows, columns, generator=generator).expand(n, 3, rows, columns)
    mask = torch.zeros(n, 1, rows, columns)
    mask[0::3, :, rows // 2 :, : columns // 2] = 1
    mask[1::3, :, : rows // 2, columns // 2 :] = 1
    mask[2::3, :, rows // 2 :] = 1
    views = {name: image.clone() for name in recipe.stage(stage).views}
    batch = Batch(image, text, mask, prompts, views)
    if recipe.stage(stage).unlabelled_batch_size:
        batch = replace(batch, unlabelled=replace(batch, mask=None))
    return batch


def smoke(name: str) -> tuple[Recipe, Method]:
    recipe = get_method(name).recipe().smoke()
    method = build_method(recipe)
    method.prepare(PROMPTS)
    return recipe, method


def gradient_stages(recipe: Recipe) -> list[str]:
    return [stage.name for stage in recipe.stages if stage.optim is not None and stage.epochs]


def observed(recipe: Recipe, method: Method) -> Method:
    for stage in recipe.stages:
        if stage.optim is None:
            method.observe(stage.name, make_batch(recipe, stage.name))
    return method


@pytest.fixture(params=list_methods())
def name(request):
    return request.param


def test_the_four_methods_are_listed():
    assert {"unet", "text_prior", "statement_unet", "biclip"} <= set(list_methods())


def test_logits_have_the_shape_of_the_image(name):
    recipe, method = smoke(name)
    observed(recipe, method).eval()
    for n, size in ((1, (32, 32)), (2, (33, 45)), (3, (48, 32))):
        batch = make_batch(recipe, recipe.stages[0].name, n, size)
        assert method(batch.image, batch.text).logits.shape == (n, 1, *size)


def test_loss_keys_are_the_weight_keys_and_a_mismatch_is_refused(name):
    recipe, method = smoke(name)
    for stage in gradient_stages(recipe):
        losses = method.losses(stage, make_batch(recipe, stage))
        assert set(losses) == set(recipe.stage(stage).weights)
        assert all(loss.ndim == 0 and torch.isfinite(loss) for loss in losses.values())
        with pytest.raises(Exception, match="Name exactly the returned terms"):
            weighted_sum(losses, {**recipe.stage(stage).weights, "no_such_term": 1.0}, 0)


def test_every_trainable_parameter_gets_a_gradient_and_no_frozen_one(name):
    recipe, method = smoke(name)
    seen: set[str] = set()
    for stage in gradient_stages(recipe):
        parameter_groups(method, recipe.stage(stage))
        method.zero_grad()
        sum(method.losses(stage, make_batch(recipe, stage)).values()).backward()
        frozen = {n for n, p in method.named_parameters() if not p.requires_grad}
        got = {n for n, p in method.named_parameters() if p.grad is not None}
        assert not frozen & got
        seen |= got
    if gradient_stages(recipe):
        assert seen == {n for n, _ in method.named_parameters()}


def test_a_few_steps_lower_the_loss_on_one_batch(name):
    recipe, method = smoke(name)
    for stage_name in gradient_stages(recipe):
        stage = recipe.stage(stage_name)
        optimizer = build_optimizer(
            stage.optim.model_copy(update={"lr": 1e-2}), parameter_groups(method, stage)
        )
        batch = make_batch(recipe, stage_name)
        values = []
        for _ in range(12):
            torch.manual_seed(0)
            loss = weighted_sum(method.losses(stage_name, batch), stage.weights, 0.0)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            values.append(loss.item())
        assert values[-1] < values[0]


def test_same_seed_same_result(name):
    recipe, method = smoke(name)
    again = build_method(recipe)
    state = torch.get_rng_state()
    other = build_method(recipe.model_copy(update={"seed": 1}))
    assert torch.equal(state, torch.get_rng_state())
    assert all(
        torch.equal(a, b) for a, b in zip(method.parameters(), again.parameters(), strict=True)
    )
    if list(method.parameters()):
        assert any(
            not torch.equal(a, b)
            for a, b in zip(method.parameters(), other.parameters(), strict=True)
        )


def test_state_dict_round_trip_gives_the_same_logits(name, tmp_path):
    from textmask.runs import checkpoint

    recipe, method = smoke(name)
    observed(recipe, method).eval()
    path = tmp_path / "w.safetensors"
    metadata = {"method": name, "text_encoder": checkpoint.text_fingerprint(method)}
    checkpoint.write_tensors(path, method.state_dict(), metadata)
    again = build_method(recipe).eval()
    checkpoint.load_weights(again, *checkpoint.read_tensors(path), recipe)
    batch = make_batch(recipe, recipe.stages[0].name)
    assert torch.equal(
        method(batch.image, batch.text).logits, again(batch.image, batch.text).logits
    )


def test_the_mask_is_never_needed_at_test_time(name):
    recipe, method = smoke(name)
    observed(recipe, method).eval()
    batch = make_batch(recipe, recipe.stages[0].name)
    with torch.no_grad():
        before = method(batch.image, batch.text).logits
        after = copy.deepcopy(method)(batch.image, batch.text).logits
    assert torch.equal(before, after)
    assert "mask" not in Method.forward.__annotations__


def test_padding_never_changes_the_output(name):
    recipe, method = smoke(name)
    observed(recipe, method).eval()
    encoder = method.text_encoder
    if encoder is None:
        return
    batch = make_batch(recipe, recipe.stages[0].name)
    outputs = [
        method(batch.image, encoder.tokenize(batch.text, length)).logits.detach()
        for length in (None, 24, 32)
    ]
    torch.testing.assert_close(outputs[0], outputs[1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(outputs[0], outputs[2], atol=1e-5, rtol=1e-5)


def test_image_and_text_apart_give_the_result_of_both_together(name):
    recipe, method = smoke(name)
    observed(recipe, method).eval()
    batch = make_batch(recipe, recipe.stages[0].name)
    with torch.inference_mode():
        for variant in method.weights_to_use or ("",):
            if variant:
                method.use(variant)
            features = method.image_features(batch.image)
            whole = method(batch.image, batch.text)
            apart = method.decode(features, batch.image, batch.text)
            anew = method.decode(None, batch.image, batch.text)
            assert torch.equal(apart.logits, whole.logits)
            assert torch.equal(anew.logits, whole.logits)
            assert apart.aux.keys() == whole.aux.keys()
            if features is not None:  # the same features serve another sentence
                assert all(isinstance(x, torch.Tensor) and len(x) == len(batch) for x in features)
                other = build_text(batch.text.prompts[::-1], batch.text.statements[::-1])
                again = method.decode(features, batch.image, other)
                assert torch.equal(again.logits, method(batch.image, other).logits)
                assert torch.equal(
                    method.decode(features, batch.image, batch.text).logits, whole.logits
                )


def test_what_the_card_says_about_image_and_text_is_true(name):
    recipe, method = smoke(name)
    observed(recipe, method).eval()
    card = get_method(name).card
    batch = make_batch(recipe, recipe.stages[0].name)
    swapped = build_text(batch.text.prompts[::-1], batch.text.statements[::-1])
    with torch.no_grad():
        for p in method.parameters():  # conditions that start at zero would hide the dependence
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
        base = method(batch.image, batch.text).logits
        assert torch.equal(base, method(1 - batch.image, batch.text).logits) is not card.uses_image
        assert torch.equal(base, method(batch.image, swapped).logits) is not card.uses_text


@pytest.mark.parametrize("preset", ["paper", "lite", "smoke"])
def test_recipes_survive_json(name, preset):
    recipe = get_method(name).recipe()
    recipe = recipe if preset == "paper" else getattr(recipe, preset)()
    assert load_recipe(recipe.to_json()) == recipe


def train_a_little(recipe: Recipe, method: Method, steps: int) -> dict[str, list[float]]:
    """Loss of each step of each stage, on one batch, as the training loop runs it; checks terms and gradients.

    A stage ends after three steps, or later with the first step that has a lower loss than the first one.
    """
    trainable: set[str] = set()
    reached: set[str] = set()
    losses_of: dict[str, list[float]] = {}
    for name in gradient_stages(recipe):
        stage = recipe.stage(name)
        groups = parameter_groups(method, stage)
        method.zero_grad()
        optimizer = build_optimizer(stage.optim.model_copy(update={"lr": 1e-2}), groups)
        batch = make_batch(recipe, name).to("cpu", torch.channels_last)
        method.train()
        losses_of[name] = []

        for step in range(steps):
            torch.manual_seed(0)
            with autocast(recipe):
                losses = method.losses(name, batch)
            assert set(losses) == set(stage.weights)
            assert all(loss.ndim == 0 and torch.isfinite(loss) for loss in losses.values())
            loss = weighted_sum(losses, stage.weights, 0.0)
            optimizer.zero_grad()
            loss.backward()
            for key, parameter in method.named_parameters():
                assert parameter.requires_grad or parameter.grad is None, key
                if parameter.requires_grad:
                    trainable.add(key)
                if parameter.grad is not None:
                    assert torch.isfinite(parameter.grad).all(), key
                    reached.add(key)
            optimizer.step()
            method.after_step(name, step)
            losses_of[name].append(loss.item())
            if step >= 2 and losses_of[name][-1] < losses_of[name][0]:
                break
    assert trainable - reached == set()
    return losses_of


def prepared(recipe: Recipe) -> Method:
    method = build_method(recipe).to(memory_format=torch.channels_last)
    method.prepare(PROMPTS)
    return observed(recipe, method)


@pytest.mark.parametrize("recipe", SETTINGS.values(), ids=SETTINGS)
def test_every_value_of_every_field_trains_and_predicts(recipe):
    method = prepared(recipe)
    found = train_a_little(recipe, method, 20)
    assert all(losses[-1] < losses[0] for losses in found.values()), found

    # an odd, non-square batch of one; padding may change nothing but the rounding
    method.eval()
    batch = make_batch(recipe, recipe.stages[0].name, 1, (33, 45))
    tolerance = 1e-5 if recipe.precision == "fp32" else 0.05
    for weights in method.weights_to_use[-1:]:
        method.use(weights)
    with torch.inference_mode(), autocast(recipe):
        logits = method(batch.image, batch.text).logits
        assert logits.shape == (1, 1, 33, 45)
        assert torch.isfinite(logits).all()
        if method.text_encoder is not None:
            padded = method.text_encoder.tokenize(batch.text, 32)
            same = method(batch.image, padded).logits
            torch.testing.assert_close(same, logits, atol=tolerance, rtol=tolerance)


def test_twenty_steps_with_other_random_numbers_each_train_in_the_precision_of_every_preset(name):
    """Each step draws its own views, words and mixes: what one draw does not do, another one does."""
    spec = get_method(name).recipe()
    for precision in {spec.precision, spec.lite().precision, spec.smoke().precision}:
        recipe = spec.smoke().override(f"precision={precision}")
        method = prepared(recipe)
        for stage_name in gradient_stages(recipe):
            stage = recipe.stage(stage_name)
            optimizer = build_optimizer(stage.optim, parameter_groups(method, stage))
            batch = make_batch(recipe, stage_name).to("cpu", torch.channels_last)
            for step in range(20):
                torch.manual_seed(step)
                with autocast(recipe):
                    losses = method.losses(stage_name, replace(batch, views={}))
                loss = weighted_sum(losses, stage.weights, 0.0)
                assert torch.isfinite(loss)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                method.after_step(stage_name, step)


def test_training_again_from_the_same_seed_gives_the_same_losses(name):
    recipe = get_method(name).recipe().smoke()
    once, again = (train_a_little(recipe, prepared(recipe), 2) for _ in range(2))
    assert once == again
