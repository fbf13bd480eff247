"""Transforms keep image, mask and prompt in step."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from textmask.config import Augment
from textmask.data.transforms import (
    PHOTOMETRIC,
    Geometry,
    Photometric,
    apply_image,
    apply_mask,
    apply_prompt,
    make_params,
    photometric,
    sample_affine,
    warp,
)
from textmask.statement import LUNG_ZONES, ZONES, Side, Statement
from textmask.text.grammar import parse
from textmask.text.render import render

STILL = Augment(rotate_deg=0.0, translate=0.0, scale=(1.0, 1.0))
SIZE = (24, 30)


def pictures(n=3, seed=0, size=SIZE):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 1, *size), dtype=np.uint8), rng.integers(
        0, 2, (n, *size), dtype=np.uint8
    )


def params(augment, prompts=("lower left lung",) * 3, seed=0, size=SIZE):
    return make_params(tuple(prompts), augment, size, np.random.default_rng(seed))


def test_no_change_is_the_identity():
    images, masks = pictures()
    np.testing.assert_array_equal(apply_image(images, params(STILL)), images)
    np.testing.assert_array_equal(apply_mask(masks, params(STILL)), masks)


def test_a_flip_mirrors_image_mask_prompt_and_statement():
    images, masks = pictures()
    done = params(STILL.model_copy(update={"flip": 1.0}))
    assert done.flipped.all()
    np.testing.assert_array_equal(apply_image(images, done), images[..., ::-1])
    np.testing.assert_array_equal(apply_mask(masks, done), masks[..., ::-1])
    text, statement = apply_prompt("lower left lung", parse("lower left lung"), True)
    assert text == "lower right lung"
    assert statement == parse("lower right lung")


@given(st.integers(0, 10_000))
@settings(max_examples=20)
def test_flipping_twice_is_nothing(seed):
    images, masks = pictures(seed=seed)
    done = params(STILL.model_copy(update={"flip": 1.0}), seed=seed)
    np.testing.assert_array_equal(apply_image(apply_image(images, done), done), images)
    np.testing.assert_array_equal(apply_mask(apply_mask(masks, done), done), masks)
    once = apply_prompt("upper right lung", parse("upper right lung"), True)
    assert apply_prompt(*once, True) == ("upper right lung", parse("upper right lung"))


@given(st.frozensets(st.sampled_from(LUNG_ZONES), min_size=1), st.integers(0, 1000))
@settings(max_examples=30)
def test_after_a_flip_the_zone_bits_still_say_where_the_mask_is(zones, seed):
    """A mask painted from the zones, flipped, lies where the rewritten prompt says."""
    rows, columns = 30, 30
    prompt = render(Statement(zones), "qata")

    def painted(bits):
        mask = np.zeros((rows, columns), np.uint8)
        for bit, (side, level) in zip(bits, ZONES, strict=True):
            i, j = list(type(level)).index(level), list(Side).index(side)
            mask[i * 10 : i * 10 + 10, j * 10 : j * 10 + 10] = bit
        return mask

    statement = parse(prompt)
    augment = STILL.model_copy(update={"flip": 1.0})
    done = make_params((prompt,), augment, (rows, columns), np.random.default_rng(seed))
    text, said = apply_prompt(prompt, statement, bool(done.flipped[0]))
    moved = apply_mask(painted(statement.bits())[None], done)[0]
    np.testing.assert_array_equal(moved, painted(said.bits()))
    np.testing.assert_array_equal(moved, painted(parse(text).bits()))


def test_a_prompt_without_a_mirror_image_refuses_the_flip():
    done = params(
        STILL.model_copy(update={"flip": 1.0}),
        ("RML opacity", "lower left lung", "lingular opacity"),
    )
    assert done.flipped.tolist() == [False, True, False]


def test_the_same_seed_gives_the_same_parameters_and_slices_are_rows():
    augment = Augment(flip=0.5, gamma=(0.8, 1.2), brightness=0.1, contrast=0.1)
    a, b = params(augment, seed=4), params(augment, seed=4)
    assert all(np.array_equal(getattr(a, k), getattr(b, k)) for k in Geometry.__dataclass_fields__)
    assert not np.array_equal(a.matrices, params(augment, seed=5).matrices)
    np.testing.assert_array_equal(a.slice(slice(1, 3)).matrices, a.matrices[1:3])


def test_rotation_turns_about_the_centre_and_a_shift_moves_by_a_share_of_the_size():
    augment = Augment(rotate_deg=30.0, translate=0.0, scale=(0.8, 1.25))
    matrices = sample_affine(50, augment, SIZE, np.random.default_rng(0))
    centre = np.array([(SIZE[1] - 1) / 2, (SIZE[0] - 1) / 2, 1.0])
    np.testing.assert_allclose(matrices @ centre, np.tile(centre[:2], (50, 1)), atol=1e-9)
    scales = 1 / np.sqrt(np.linalg.det(matrices[:, :, :2]))
    assert 0.8 <= scales.min() < scales.max() <= 1.25
    angles = np.rad2deg(np.arctan2(matrices[:, 0, 1], matrices[:, 0, 0]))
    assert np.abs(angles).max() <= 30
    moved = sample_affine(
        200,
        Augment(rotate_deg=0.0, translate=0.1, scale=(1.0, 1.0)),
        SIZE,
        np.random.default_rng(0),
    )
    assert np.abs(moved[:, 0, 2]).max() <= 0.1 * SIZE[1]
    assert np.abs(moved[:, 1, 2]).max() <= 0.1 * SIZE[0]


def test_the_tensor_warp_is_the_image_warp():
    rng = np.random.default_rng(0)
    images = cv2.GaussianBlur(rng.integers(0, 256, (40, 48), dtype=np.uint8), (9, 9), 3)[
        None, None
    ].repeat(4, 0)
    matrices = sample_affine(4, Augment(rotate_deg=20.0), (40, 48), rng)
    neutral = np.ones(4)
    done = Geometry(matrices, np.zeros(4, bool), neutral, neutral * 0, neutral)
    ours = warp(torch.from_numpy(images).float(), matrices)
    inside = (
        slice(None),
        slice(None),
        slice(8, -8),
        slice(8, -8),
    )  # OpenCV rounds positions to 1/32 pixel
    np.testing.assert_allclose(ours.numpy()[inside], apply_image(images, done)[inside], atol=2.0)


def test_the_tensor_warp_passes_gradients_and_keeps_masks_binary():
    x = torch.rand(2, 3, 16, 16, requires_grad=True)
    matrices = sample_affine(2, Augment(), (16, 16), np.random.default_rng(0))
    warp(x, matrices).sum().backward()
    assert float(x.grad.abs().sum()) > 0
    mask = (torch.rand(2, 1, 16, 16) > 0.5).float()
    assert set(warp(mask, matrices, mode="nearest").unique().tolist()) <= {0.0, 1.0}


def test_tone_is_gamma_then_contrast_then_brightness():
    images, _ = pictures(1)
    one = np.ones(1)
    done = Geometry(params(STILL).matrices[:1], np.zeros(1, bool), one * 1.5, one * 0.1, one * 0.8)
    x = (images / 255) ** 1.5
    expected = np.clip(((x - 0.5) * 0.8 + 0.5 + 0.1) * 255 + 0.5, 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(apply_image(images, done), expected)


def test_weak_view_is_the_image_itself():
    x = torch.rand(2, 1, 8, 8)
    assert photometric(x, PHOTOMETRIC["weak"], torch.Generator()) is x


@pytest.mark.parametrize("name", ["strong", "strong_blur"])
def test_strong_views_are_seeded_bounded_and_keep_the_geometry(name):
    x = torch.rand(16, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    a, b, c = (
        photometric(x, PHOTOMETRIC[name], torch.Generator().manual_seed(s)) for s in (0, 0, 1)
    )
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert 0 <= float(a.min()) <= float(a.max()) <= 1
    correlation = torch.corrcoef(torch.stack([x.flatten(), a.flatten()]))[0, 1]
    assert float(correlation) > 0.5


def test_published_values_of_the_strong_views():
    biclip, semi = PHOTOMETRIC["strong"], PHOTOMETRIC["strong_blur"]
    assert (biclip.gamma, biclip.noise_sigma, biclip.brightness, biclip.motion_kernel) == (
        (0.9, 1.1),
        0.01,
        0.3,
        5,
    )
    assert (semi.brightness, semi.contrast, semi.brightness_p, semi.blur_kernel) == (
        0.2,
        0.2,
        0.8,
        7,
    )


def test_blur_keeps_a_flat_image_and_noise_has_its_deviation():
    flat = torch.full((4, 1, 64, 64), 0.5)
    blur = Photometric(motion_p=1.0, blur_p=1.0)
    torch.testing.assert_close(photometric(flat, blur, torch.Generator().manual_seed(0)), flat)
    noisy = photometric(
        flat, Photometric(noise_sigma=0.05, noise_p=1.0), torch.Generator().manual_seed(0)
    )
    assert float((noisy - flat).std()) == pytest.approx(0.05, rel=0.05)


@pytest.mark.parametrize("name", ["strong", "strong_blur"])
def test_a_view_that_is_made_inside_a_loss_is_that_of_the_loader(name):
    """Losses run under autocast, which turns convolutions into bf16."""
    x = torch.rand(8, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    for seed in range(6):
        plain = photometric(x, PHOTOMETRIC[name], torch.Generator().manual_seed(seed))
        with torch.autocast("cpu", torch.bfloat16):
            inside = photometric(x, PHOTOMETRIC[name], torch.Generator().manual_seed(seed))
        assert torch.equal(plain, inside)


def test_a_warp_inside_a_loss_has_full_precision():
    x = torch.rand(3, 4, *SIZE, generator=torch.Generator().manual_seed(0))
    matrices = sample_affine(3, Augment(), SIZE, np.random.default_rng(0))
    with torch.autocast("cpu", torch.bfloat16):
        inside = warp(x, matrices)
    assert torch.equal(warp(x, matrices), inside)
