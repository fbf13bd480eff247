"""LViT: its equations against literal transcriptions, and its stream of unlabelled images."""

from dataclasses import replace

import pytest
import torch

from textmask.data.loaders import build_text
from textmask.errors import ConfigError, PromptWarning
from textmask.methods.lvit import LViTRecipe
from textmask.methods.lvit.method import language_vision, pseudo_label
from textmask.methods.registry import build_method, count_parameters
from textmask.nn.lvit import PLAM
from textmask.text.grammar import parse
from textmask.types import Batch

PROMPTS = (
    "unilateral pulmonary infection, one infected areas, lower left lung.",
    "bilateral pulmonary infection, two infected areas, lower left lung and upper right lung.",
)


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def batch_of(unlabelled: bool) -> Batch:
    text = build_text(PROMPTS, [parse(prompt) for prompt in PROMPTS])
    batch = Batch(numbers(2, 3, 32, 32), text, (numbers(2, 1, 32, 32, seed=1) > 0.5).float())
    other = replace(batch, image=numbers(2, 3, 32, 32, seed=2), mask=None)
    return replace(batch, unlabelled=other) if unlabelled else batch


def test_pixel_level_attention_one_pixel_at_a_time():
    torch.manual_seed(0)
    module = PLAM(5)
    x = torch.randn(1, 5, 3, 4)
    found = module(x)
    weight = {name: value.detach() for name, value in module.named_parameters()}
    for row in range(3):
        for column in range(4):
            pixel = x[0, :, row, column]
            mean = torch.relu(weight["mean.weight"][:, :, 0, 0] @ pixel).mean()
            largest = torch.relu(weight["largest.weight"][:, :, 0, 0] @ pixel).max()
            three = torch.stack([mean, largest, mean + largest])
            hidden = torch.relu(weight["mlp.0.weight"][:, :, 0, 0] @ three + weight["mlp.0.bias"])
            number = weight["mlp.2.weight"][:, :, 0, 0] @ hidden + weight["mlp.2.bias"]
            torch.testing.assert_close(found[0, :, row, column], pixel * number)


def test_pseudo_labels_keep_99_percent_of_what_was_before():
    before, now = numbers(1, 1, 4, 4), numbers(1, 1, 4, 4, seed=1)
    found = pseudo_label(before, now, LViTRecipe().ema.end)
    for i in range(4):
        for j in range(4):
            literal = 0.99 * float(before[0, 0, i, j]) + 0.01 * float(now[0, 0, i, j])
            assert float(found[0, 0, i, j]) == pytest.approx(literal, rel=1e-5)


def test_language_vision_loss_takes_the_mask_of_the_most_similar_prompt():
    probability, masks = numbers(2, 1, 3, 3), (numbers(3, 1, 3, 3, seed=1) > 0.5).float()
    own, theirs = torch.randn(2, 4), torch.randn(3, 4)
    literal = 0.0
    for i in range(2):
        similar = []
        for j in range(3):
            similar.append(float(own[i] @ theirs[j] / (own[i].norm() * theirs[j].norm())))
        p, y = probability[i].flatten(), masks[similar.index(max(similar))].flatten()
        literal += (1 - float(p @ y / (p.norm() * y.norm()))) / 2
    assert float(language_vision(probability, own, masks, theirs)) == pytest.approx(
        literal, rel=1e-4
    )


def test_unlabelled_images_teach_only_where_there_are_some():
    recipe = LViTRecipe().smoke()
    method = build_method(recipe)
    method.prepare(PROMPTS)
    losses = method.losses("segment", batch_of(True))
    assert all(loss > 0 for loss in losses.values())
    alone = method.losses("segment", batch_of(False))
    assert alone["pseudo"] == alone["lv"] == 0

    # without such a stream there is no second network
    assert method.weights_to_use == ("student", "teacher")
    plain = build_method(recipe.override("stages.segment.unlabelled_batch_size=0"))
    assert plain.teacher is None
    assert plain.weights_to_use == ()


def test_a_prompt_that_is_too_long_is_cut_with_a_warning():
    method = build_method(LViTRecipe().smoke().override("max_tokens=6")).eval()
    batch = batch_of(False)
    with pytest.warns(PromptWarning, match="longer than the 6 tokens"):
        method(batch.image, batch.text)


def test_widths_that_do_not_grow_are_refused():
    with pytest.raises(ConfigError, match="growing"):
        LViTRecipe().override("widths=[64,64,128]")


def test_the_paper_preset_is_as_large_as_printed():
    """29.72 M in DuSSS's Table 1; the code also has layers that nothing reads."""
    assert count_parameters(LViTRecipe()) == pytest.approx(29.72e6, rel=0.1)
