"""BiCLIP: each numbered equation against a literal transcription, and the traps of its released code."""

import math

import numpy as np
import pytest
import torch

from textmask.data.transforms import sample_affine, warp
from textmask.methods.biclip.model import (
    BMF,
    PseudoImageGenerator,
    cycle_loss,
    generation_loss,
    iac_loss,
)
from textmask.methods.registry import build_method, get_method
from textmask.nn.image_encoders import standardise
from textmask.types import Batch, Text


def recipe(**changes):
    return get_method("biclip").recipe().smoke().model_copy(update=changes)


def batch(n=3, size=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(n, 1, size, size, generator=generator).expand(n, 3, size, size)
    mask = (torch.rand(n, 1, size, size, generator=generator) > 0.7).float()
    prompts = tuple(f"lower {side} lung" for side in ("left", "right", "left")[:n])
    return Batch(image, Text(prompts, torch.zeros(n, 9)), mask)


def test_eq1_bmf_adds_the_mlp_of_the_concatenation():
    torch.manual_seed(0)
    bmf = BMF(6, 4)
    t, i = torch.randn(2, 6), torch.randn(2, 4)
    first, norm, _, second = bmf.g
    out = bmf(t, i)
    for b in range(2):
        z = t[b].tolist() + i[b].tolist()
        hidden = [
            sum(w * x for w, x in zip(row.tolist(), z, strict=True)) + c.item()
            for row, c in zip(first.weight, first.bias, strict=True)
        ]
        mean = sum(hidden) / 6
        var = sum((h - mean) ** 2 for h in hidden) / 6
        normed = [(h - mean) / math.sqrt(var + norm.eps) for h in hidden]
        gelu = [0.5 * h * (1 + math.erf(h / math.sqrt(2))) for h in normed]
        delta = [
            sum(w * x for w, x in zip(row.tolist(), gelu, strict=True)) + c.item()
            for row, c in zip(second.weight, second.bias, strict=True)
        ]
        assert out[b].tolist() == pytest.approx(
            [a + d for a, d in zip(t[b].tolist(), delta, strict=True)], abs=1e-5
        )


def test_eq2_cycle_is_the_mean_squared_or_absolute_difference_and_detaches_t():
    t = torch.tensor([[1.0, 2.0], [0.0, -1.0]], requires_grad=True)
    t_hat = torch.tensor([[0.0, 4.0], [0.5, -1.0]], requires_grad=True)
    assert cycle_loss(t, t_hat, "l2").item() == pytest.approx((1 + 4 + 0.25 + 0) / 4)
    assert cycle_loss(t, t_hat, "l1").item() == pytest.approx((1 + 2 + 0.5 + 0) / 4)
    cycle_loss(t, t_hat).backward()
    assert t.grad is None
    assert t_hat.grad is not None


def test_eq3_and_4_one_geometry_for_image_pseudo_image_and_mask():
    method = build_method(recipe(warp="joint"))
    b = batch()
    pseudo = b.image.flip(1) * 0.5
    torch.manual_seed(5)
    weak, warped_pseudo, mask, strong = method._views(b, pseudo, b.mask)
    torch.manual_seed(5)
    generator = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
    seed = int(torch.randint(2**31, (), generator=generator))
    matrices = sample_affine(3, method.recipe.spatial, (32, 32), np.random.default_rng(seed))
    torch.testing.assert_close(weak, warp(b.image, matrices))
    torch.testing.assert_close(warped_pseudo, warp(pseudo, matrices))
    torch.testing.assert_close(mask, warp(b.mask, matrices, mode="nearest"))
    assert not torch.equal(strong, weak)
    joint = method._concat(weak, warped_pseudo)
    torch.testing.assert_close(joint[:, :3], standardise(weak))
    torch.testing.assert_close(joint[:, 3:], (warped_pseudo - 0.5) / 0.25)


def test_eq6_iac_is_one_minus_cosine():
    a, b = torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[4.0, 3.0], [0.0, 2.0]])
    assert float(iac_loss(a, b)) == pytest.approx(((1 - 24 / 25) + (1 - 0)) / 2)


def test_eq7_prediction_comes_from_the_weak_branch_and_needs_no_mask():
    method = build_method(recipe()).eval()
    b = batch()
    with torch.no_grad():
        out = method(b.image, b.text)
        painting = method.paint(b.image, b.text)
        logits, _ = method.unet(
            torch.cat([(b.image - 0.5) / 0.25, (painting.pseudo_image - 0.5) / 0.25], 1)
        )
    torch.testing.assert_close(out.logits, logits)
    torch.testing.assert_close(out.probability, torch.sigmoid(logits))


def test_eq8_terms_are_those_of_the_paper_with_the_published_weights():
    stage = get_method("biclip").recipe().stages[0]
    assert stage.weights == {"seg": 1.0, "gen": 0.1, "iac": 0.05, "cycle": 0.07}
    method = build_method(recipe(warp="input"))
    b = batch()
    torch.manual_seed(0)
    losses = method.losses("segment", b)
    painting = method.paint(b.image, b.text)
    target = torch.where(b.mask != 0, b.image, torch.zeros(()))
    assert losses["gen"].item() == pytest.approx(
        (painting.pseudo_image - target).abs().mean().item(), abs=1e-6
    )
    assert losses["cycle"].item() == pytest.approx(
        ((painting.text - method.image_to_text(painting.pseudo_image)) ** 2).mean().item(), abs=1e-6
    )
    assert set(losses) == set(stage.weights)


def test_generator_target_is_the_image_inside_the_mask():
    image = torch.rand(1, 3, 4, 4)
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., 1:3, 1:3] = 1
    assert float(generation_loss(image * mask, image, mask)) == 0
    assert float(generation_loss(torch.zeros(1, 3, 4, 4), image, mask)) == pytest.approx(
        float((image * mask).mean()), abs=1e-6
    )


def test_strong_branch_is_detached_unless_asked():
    for target, grows in (("detached", False), ("both", True)):
        method = build_method(recipe(iac_target=target, warp="input"))
        seen = []
        original = method.unet.features
        method.unet.features = lambda *a, original=original, seen=seen: (
            seen.append(original(*a)) or seen[-1]
        )
        method.losses("segment", batch())
        assert seen[-1].requires_grad is grows


def test_pseudo_image_has_the_published_size_and_follows_other_sizes():
    generator = PseudoImageGenerator(28, (16, 8))
    t = torch.randn(2, 784)
    assert generator(t, (224, 224)).shape == (2, 3, 224, 224)
    assert generator(t, (97, 130)).shape == (2, 3, 97, 130)
    assert (
        0
        <= float(generator(t, (224, 224)).detach().min())
        <= float(generator(t, (224, 224)).detach().max())
        <= 1
    )


def test_published_dimensions_of_the_paper_preset():
    paper = get_method("biclip").recipe()
    assert (paper.text_grid**2, paper.image_widths, paper.widths[-1]) == (784, (64, 256), 1024)
    assert paper.stages[0].epochs == 150
    assert paper.stages[0].batch_size == 16
    assert paper.spatial.flip == 0.0


def test_ef_unet_generates_the_pseudo_image_from_the_text_alone():
    """The baseline of Tables 1 to 3: Dice and cross-entropy plus 0.1 L1, no image branch, cycle or IAC."""
    arm = next(a for a in get_method("biclip").ablation_tables["table1"] if a.name == "ef_unet")
    settings = get_method("biclip").recipe().override(*arm.settings)
    assert settings.stages[0].weights == {"seg": 1.0, "gen": 0.1, "iac": 0.0, "cycle": 0.0}

    method, b = build_method(recipe(fusion=settings.fusion, warp="input")).eval(), batch()
    assert not [n for n, _ in method.named_parameters() if n.startswith(("bmf", "image_branch"))]
    with torch.no_grad():
        painting = method.paint(b.image, b.text)
        text = method.text_head(method.text_encoder(b.text).text_embedding)
        other = method.paint(1 - b.image, b.text)
    torch.testing.assert_close(painting.refined, text)
    torch.testing.assert_close(painting.pseudo_image, method.generator(text, (32, 32)))
    torch.testing.assert_close(painting.pseudo_image, other.pseudo_image)


def test_table2_compares_both_at_each_fraction():
    arms = get_method("biclip").ablation_tables["table2"]
    recipes = [get_method("biclip").recipe().override(*arm.settings) for arm in arms]
    found = [(r.fusion, r.stages[0].labelled_fraction) for r in recipes]
    fractions = (0.25, 0.1, 0.05, 0.01)
    assert found == [(fusion, f) for f in fractions for fusion in ("none", "bmf")]
