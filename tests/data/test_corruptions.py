import inspect

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from textmask.data import corruptions
from textmask.data.corruptions import (
    BICLIP_TABLE_3,
    CORRUPTIONS,
    burned_text,
    contrast,
    corrupt,
    downsample,
    gamma,
    image_generators,
    line_kernel,
    low_dose,
    motion_blur,
)
from textmask.errors import ConfigError, DataError


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def images():
    return torch.rand(3, 1, 40, 52, generator=rng(1))


@pytest.mark.parametrize("count", [0.4, 3.0, 12.0, 19.9, 20.1, 60.0, 400.0])
def test_noise_has_the_moments_of_torch_poisson(count):
    n = 400_000
    dose = 20 * count  # x = 0.05, so that clipping at 1 touches next to nothing
    ours = low_dose(torch.full((1, 1, 1, n), 0.05), dose, rng()).double().flatten() * dose
    exact = torch.poisson(torch.full((n,), count, dtype=torch.float64), generator=rng(1)).clamp(
        max=dose
    )
    error = (2 * exact.var() / n).sqrt() * 5
    assert abs(ours.mean() - exact.mean()) < error
    assert abs(ours.var() / exact.var() - 1) < 0.02
    if 3 <= count <= 60:
        assert abs(stats.skew(ours) - stats.skew(exact)) < 0.04
    assert (ours - ours.round()).abs().max() < 1e-3  # whole photons


@pytest.mark.parametrize("count", [0.4, 3.0, 12.0, 19.9])
def test_few_photons_are_exactly_poisson(count):
    n = 200_000
    drawn = (
        (low_dose(torch.full((1, 1, 1, n), 0.1), 10 * count, rng(3)) * 10 * count)
        .flatten()
        .round()
        .numpy()
    )
    seen = np.arange(int(stats.poisson.ppf(1e-3, count)), int(stats.poisson.ppf(1 - 1e-3, count)))
    below, inside = stats.poisson.cdf(seen[0] - 1, count), stats.poisson.pmf(seen, count)
    expected = np.array([below, *inside, 1 - below - inside.sum()]) * n
    got = np.array(
        [(drawn < seen[0]).sum(), *((drawn == k).sum() for k in seen), (drawn > seen[-1]).sum()]
    )
    keep = expected > 5
    assert (((got - expected) ** 2)[keep] / expected[keep]).sum() < stats.chi2.ppf(
        1 - 1e-4, keep.sum() - 1
    )
    gaussian = np.random.default_rng(0).normal(count, np.sqrt(count), n).round()
    wrong = np.array(
        [
            (gaussian < seen[0]).sum(),
            *((gaussian == k).sum() for k in seen),
            (gaussian > seen[-1]).sum(),
        ]
    )
    assert (((wrong - expected) ** 2)[keep] / expected[keep]).sum() > stats.chi2.ppf(
        1 - 1e-4, keep.sum() - 1
    )


def test_dose_and_scale_multiply(images):
    assert torch.equal(low_dose(images, 140, rng(), scale=2), low_dose(images, 280, rng()))
    noise = [(low_dose(images, dose, rng()) - images).std() for dose in (140, 1400, 14000)]
    assert noise[0] > 2.5 * noise[1] > 6 * noise[2]


def test_no_light_no_noise_and_never_above_white():
    assert (low_dose(torch.zeros(1, 1, 9, 9), 140, rng()) == 0).all()
    white = low_dose(torch.ones(1, 1, 99, 99), 140, rng())
    assert white.max() == 1
    assert white.min() < 1


def test_gray_images_stay_gray_and_color_gets_noise_of_its_own(images):
    grey = low_dose(images.expand(-1, 3, -1, -1), 140, rng())
    assert torch.equal(grey, low_dose(images, 140, rng()).expand(-1, 3, -1, -1))
    colour = images.repeat(1, 3, 1, 1) * torch.tensor([1.0, 0.99, 0.98])[:, None, None]
    noise = low_dose(colour, 140, rng()) - colour
    assert abs(np.corrcoef(noise[:, 0].flatten(), noise[:, 1].flatten())[0, 1]) < 0.1


@pytest.mark.parametrize("kernel_px", [1, 3, 5, 7, 15])
@pytest.mark.parametrize("angle_deg", [0, 30, 45, 90, 137])
def test_line_kernel_is_a_normalised_centred_line(kernel_px, angle_deg):
    kernel = line_kernel(kernel_px, angle_deg)
    assert kernel.shape == (kernel_px, kernel_px)
    assert float(kernel.sum()) == pytest.approx(1, abs=1e-6)
    assert kernel.min() >= 0
    torch.testing.assert_close(kernel, kernel.flip(0, 1))


def test_line_kernel_directions():
    expected = torch.zeros(5, 5)
    expected[2] = 0.2
    torch.testing.assert_close(line_kernel(5), expected)
    torch.testing.assert_close(line_kernel(5, 90), expected.T)
    rising = line_kernel(5, 45)  # counter-clockwise: up on the right
    assert rising[0, 4] + rising[1, 3] > 0.2
    assert rising[0, 0] == rising[1, 1] == 0


@pytest.mark.parametrize("kernel_px", [3, 5, 7, 15])
def test_blur_equals_scipy(images, kernel_px):
    angles = [0.0, 30.0, 100.0]
    colour = torch.cat([images, images.flip(3), images**2], 1)
    ours = motion_blur(colour, kernel_px, angles)
    for i, angle in enumerate(angles):
        kernel = line_kernel(kernel_px, angle).numpy().astype(np.float64)
        for c in range(3):
            expected = ndimage.correlate(colour[i, c].double().numpy(), kernel, mode="mirror")
            np.testing.assert_allclose(ours[i, c], expected, atol=1e-6)


def test_blur_of_one_pixel_changes_nothing(images):
    torch.testing.assert_close(motion_blur(images, 1, 33.0), images, rtol=0, atol=1e-7)


def test_contrast_gamma_and_resolution(images):
    torch.testing.assert_close(contrast(images, 1.0), images)
    assert contrast(images, 0.5).std() == pytest.approx(float(images.std()) / 2, rel=0.01)
    assert contrast(images, 0.5).mean() == pytest.approx(float(images.mean()), abs=1e-5)
    torch.testing.assert_close(gamma(images, 2.0), images * images)
    torch.testing.assert_close(downsample(images, 1), images)
    flat = torch.full((1, 1, 31, 45), 0.3)
    torch.testing.assert_close(downsample(flat, 4), flat)
    assert downsample(images, 4).shape == images.shape
    assert downsample(images, 4).std() < 0.5 * images.std()


def test_burned_text_brightens_one_corner_only():
    black = torch.zeros(16, 3, 120, 160)
    out = burned_text(black, 0.08, rng())
    for picture in out:
        rows, columns = torch.nonzero(picture[0] > 0.5, as_tuple=True)
        assert 0.05 * 120 <= rows.max() - rows.min() + 1 <= 0.12 * 120
        assert min(rows.min(), 119 - rows.max()) <= 6
        assert min(columns.min(), 159 - columns.max()) <= 6
        assert torch.equal(picture[0], picture[2])
    assert len({tuple(picture.flatten().tolist()) for picture in out}) > 4
    white = torch.ones(1, 1, 120, 160)
    assert torch.equal(burned_text(white, 0.08, rng()), white)


def test_markers_name_no_side():
    for marker in corruptions.MARKERS:
        assert not {"L", "R", "LEFT", "RIGHT"} & set(marker.split())


@pytest.mark.parametrize("name", list(CORRUPTIONS))
@pytest.mark.parametrize("channels", [1, 3])
def test_every_corruption_keeps_shape_range_and_input(name, channels):
    image = torch.rand(2, channels, 48, 64, generator=rng())
    before = image.clone()
    strength = []
    for severity in CORRUPTIONS[name].severities:
        out = corrupt(image, name, severity, rng())
        assert out.shape == image.shape
        assert out.dtype == torch.float32
        assert 0 <= out.min() <= out.max() <= 1
        strength.append(float((out - image).abs().mean()))
        assert torch.equal(out, corrupt(image, name, severity, rng()))
    assert torch.equal(image, before)
    assert strength == sorted(strength)
    assert strength[0] > 0


@pytest.mark.parametrize("name", list(CORRUPTIONS))
def test_an_image_is_damaged_alike_in_every_batch(name, images):
    keys, severity = ["a.png", "b.png", "c.png"], CORRUPTIONS[name].severities[0]
    batch = corrupt(images, name, severity, image_generators(keys, 7))
    alone = corrupt(images[1:2], name, severity, image_generators(["b.png"], 7))
    assert torch.equal(batch[1:2], alone)
    if name in ("low_dose", "burned_text"):
        others = [
            corrupt(images[1:2], name, severity, image_generators(["b.png"], seed))
            for seed in range(8, 12)
        ]
        assert any(not torch.equal(alone, other) for other in others)


def test_masks_never_pass_through():
    parameters = inspect.signature(corrupt).parameters
    assert list(parameters) == ["image", "name", "severity", "generator"]


def test_global_random_state_is_left_alone(images):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    for name, corruption in CORRUPTIONS.items():
        corrupt(images, name, corruption.severities[0], rng())
    assert torch.equal(before, torch.get_rng_state())


def test_table_of_the_paper():
    assert BICLIP_TABLE_3 == (
        ("low_dose", 140), ("low_dose", 120), ("low_dose", 110),
        ("motion_blur", 3), ("motion_blur", 5), ("motion_blur", 7),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "severity"),
    [
        ("low_dose", 0),
        ("low_dose", float("nan")),
        ("motion_blur", 4),
        ("motion_blur", -1),
        ("motion_blur", 2.5),
        ("motion_blur", 41),
        ("motion_blur", float("nan")),
        ("contrast", -1),
        ("gamma", 0),
        ("downsample", 0.5),
        ("downsample", 1000),
        ("burned_text", 0),
    ],
)
def test_impossible_severities_are_named(images, name, severity):
    with pytest.raises(ConfigError, match=str(severity)):
        corrupt(images, name, severity, rng())


def test_wrong_arguments_are_named(images):
    with pytest.raises(ConfigError, match="Did you mean 'low_dose'"):
        corrupt(images, "low_does", 140, rng())
    with pytest.raises(ConfigError, match="2 generators for 3"):
        corrupt(images, "gamma", 2, image_generators(["a", "b"], 0))
    with pytest.raises(ConfigError, match="2 angles for 3"):
        motion_blur(images, 3, [0.0, 1.0])
    with pytest.raises(DataError, match="expected 0 to 1"):
        corrupt(images * 255, "gamma", 2, rng())
    with pytest.raises(DataError, match="expected 0 to 1"):
        corrupt(images * float("nan"), "gamma", 2, rng())
    with pytest.raises(DataError, match="expected a float B C H W"):
        corrupt((images * 255).byte(), "gamma", 2, rng())
    with pytest.raises(DataError, match="expected a float B C H W"):
        corrupt(images[0], "gamma", 2, rng())
