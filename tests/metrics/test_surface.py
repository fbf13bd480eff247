"""HD95 and ASSD against the direct SciPy definition, MONAI and surface-distance; the empty cases."""

import math
import warnings

import cv2
import numpy as np
import pytest
import surface_distance
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance
from scipy import ndimage

from textmask.errors import ConfigError, DataError
from textmask.metrics.overlap import counts, dice_per_image
from textmask.metrics.surface import SurfaceResult, surface_distances


def direct(
    prediction: np.ndarray, truth: np.ndarray, spacing: tuple[float, float]
) -> tuple[float, float, float]:
    """(pooled HD95, max directed HD95, ASSD) literally as defined, with whole-image distance transforms."""

    def surface(mask: np.ndarray) -> np.ndarray:
        return mask & ~ndimage.binary_erosion(
            mask, ndimage.generate_binary_structure(2, 1), border_value=0
        )

    s, g = surface(prediction), surface(truth)
    forth = ndimage.distance_transform_edt(~g, sampling=spacing)[s]
    back = ndimage.distance_transform_edt(~s, sampling=spacing)[g]
    directed = max(np.percentile(forth, 95), np.percentile(back, 95))
    return (
        np.percentile(np.concatenate([forth, back]), 95),
        directed,
        (forth.mean() + back.mean()) / 2,
    )


def lesions(n: int, size: int, seed: int) -> np.ndarray:
    """N masks of a few smooth blobs, some of them cut by the border."""
    rng = np.random.default_rng(seed)
    fields = (
        cv2.GaussianBlur(rng.standard_normal((size, size)).astype(np.float32), (0, 0), size / 14)
        for _ in range(n)
    )
    return np.stack([field > np.quantile(field, 0.89) for field in fields])


def values(result: SurfaceResult) -> np.ndarray:
    return np.stack([result.hd95_pooled, result.hd95_max_directed, result.assd], axis=1)


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.7, 0.7), (0.5, 2.0), (3.1, 0.4)])
@pytest.mark.parametrize("size", [40, 97])
def test_equal_to_the_scipy_definition(spacing, size):
    p, t = lesions(12, size, 1), lesions(12, size, 2)
    want = [direct(a, b, spacing) for a, b in zip(p, t, strict=True)]
    np.testing.assert_allclose(values(surface_distances(p, t, spacing)), want, atol=1e-6, rtol=0)


@settings(max_examples=150, deadline=None)
@given(st.data(), st.integers(1, 9), st.integers(1, 9), st.sampled_from([(1.0, 1.0), (2.0, 0.3)]))
def test_small_random_masks_equal_the_definition(data, h, w, spacing):
    p, t = (data.draw(hnp.arrays(np.bool_, (h, w))) for _ in "ab")
    result = surface_distances(p[None], t[None], spacing)
    if p.any() and t.any():
        np.testing.assert_allclose(values(result)[0], direct(p, t, spacing), atol=1e-9)
    elif p.any() or t.any():
        assert result.assd[0] == math.hypot(h * spacing[0], w * spacing[1])
    else:
        assert result.assd[0] == result.hd95[0] == 0


def test_non_square_images_and_255():
    p, t = lesions(3, 60, 3)[:, :37], lesions(3, 60, 4)[:, :37]
    want = [direct(a, b, (1, 1)) for a, b in zip(p, t, strict=True)]
    np.testing.assert_allclose(
        values(surface_distances(p * np.uint8(255), t.astype(np.uint8))), want, atol=1e-9
    )


def test_symmetric_identity_and_mirror():
    p, t = lesions(4, 50, 5), lesions(4, 50, 6)
    here = values(surface_distances(p, t, (0.8, 1.3)))
    np.testing.assert_allclose(values(surface_distances(t, p, (0.8, 1.3))), here, atol=1e-12)
    mirrored = surface_distances(p[:, :, ::-1], t[:, :, ::-1], (0.8, 1.3))
    np.testing.assert_allclose(values(mirrored), here, atol=1e-12)
    assert not values(surface_distances(p, p)).any()


def test_spacing_scales_and_units_are_named():
    p, t = lesions(3, 50, 7), lesions(3, 50, 8)
    px, mm = surface_distances(p, t), surface_distances(p, t, (2.5, 2.5))
    np.testing.assert_allclose(values(mm), 2.5 * values(px), rtol=1e-12)
    assert (px.unit, mm.unit) == ("px", "mm")


def test_max_directed_is_monai_and_never_below_pooled():
    p, t = lesions(10, 64, 9), lesions(10, 64, 10)
    a, b = (torch.from_numpy(x)[:, None] for x in (p, t))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # MONAI deprecates an argument of its own
        monai = compute_hausdorff_distance(a, b, include_background=True, percentile=95)[
            :, 0
        ].numpy()
    result = surface_distances(p, t, definition="max_directed")
    np.testing.assert_allclose(result.hd95, monai, atol=1e-3)  # MONAI measures in float32
    assert (result.hd95_max_directed >= result.hd95_pooled - 1e-12).all()
    pooled = surface_distances(p, t)
    assert (pooled.definition, result.definition) == ("pooled", "max_directed")
    assert result.hd95_mean > pooled.hd95_mean + 1  # the definition matters more than the library


def shifted_square(speck: bool) -> tuple[np.ndarray, np.ndarray]:
    """A square of 20 pixels and the same one four rows and two columns off, with or without a far one-pixel speck."""
    truth, prediction = np.zeros((2, 1, 64, 64), bool)
    truth[:, 20:40, 20:40] = True
    prediction[:, 24:44, 22:42] = True
    prediction[:, 0, 0] = speck
    return prediction, truth


@pytest.mark.parametrize(("speck", "dice", "assd"), [(False, 0.72, 2.819), (True, 0.7191, 2.985)])
def test_libraries_agree_on_a_shifted_square_and_we_with_them(speck, dice, assd):
    p, t = shifted_square(speck)
    result = surface_distances(p, t)
    assert dice_per_image(counts(p, t))[0] == pytest.approx(dice, abs=5e-5)
    assert (result.hd95_pooled[0], result.hd95_max_directed[0]) == (4.0, 4.0)
    assert result.assd[0] == pytest.approx(assd, abs=5e-4)


def test_monai_assd_is_the_pooled_mean_ours_the_mean_of_means():
    p, t = shifted_square(speck=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        a, b = (torch.from_numpy(x)[:, None] for x in (p, t))
        monai = compute_average_surface_distance(
            a, b, include_background=True, symmetric=True
        ).item()
    edges = [m & ~ndimage.binary_erosion(m) for m in (p[0], t[0])]
    forth, back = (ndimage.distance_transform_edt(~edges[1 - k])[edges[k]] for k in (0, 1))
    assert monai == pytest.approx(np.concatenate([forth, back]).mean(), abs=1e-5)
    assert surface_distances(p, t).assd[0] == pytest.approx(
        (forth.mean() + back.mean()) / 2, abs=1e-12
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # its calls into scipy.ndimage.filters
@pytest.mark.parametrize("spacing", [(1, 1), (2, 2)])
def test_surface_distance_package_agrees_on_a_shifted_square(spacing):
    truth, prediction = np.zeros((2, 64, 64), bool)
    truth[10:40, 10:40] = True
    prediction[14:44, 10:40] = True
    theirs = surface_distance.compute_surface_distances(truth, prediction, spacing)
    got = surface_distances(prediction[None], truth[None], spacing)
    assert got.hd95[0] == pytest.approx(
        surface_distance.compute_robust_hausdorff(theirs, 95), abs=1e-9
    )
    both = surface_distance.compute_average_surface_distance(theirs)
    assert got.assd[0] == pytest.approx(
        np.mean(both), rel=0.05
    )  # it weights by the length of surface elements


def empty_cases() -> tuple[np.ndarray, np.ndarray]:
    """Good pair, prediction empty, truth empty, both empty."""
    full = lesions(1, 48, 11)[0]
    none = np.zeros_like(full)
    return np.stack([np.roll(full, 2, 0), none, full, none]), np.stack([full, full, none, none])


def test_one_empty_mask_costs_the_diagonal():
    result = surface_distances(*empty_cases())
    assert result.hd95[1] == result.hd95[2] == result.assd[1] == math.hypot(48, 48)
    assert result.hd95[3] == result.assd[3] == 0
    assert (result.n_both_empty, result.n_one_empty, result.n_excluded) == (1, 2, 0)
    assert result.hd95_mean == pytest.approx(result.hd95.sum() / 4)
    assert np.isfinite(values(result)).all()


def test_excluded_images_are_counted():
    result = surface_distances(*empty_cases(), one_empty="exclude")
    assert (len(result), result.n_excluded, result.kept.tolist()) == (
        4,
        2,
        [True, False, False, True],
    )
    assert np.isnan(result.hd95).tolist() == [False, True, True, False]
    assert result.assd_mean == pytest.approx(result.assd[0] / 2)


def test_finding_less_never_pays_where_monai_drops_nan():
    p, t = empty_cases()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        a, b = (torch.from_numpy(x[:2])[:, None] for x in (p, t))
        monai = compute_hausdorff_distance(a, b, include_background=True, percentile=95)[:, 0]
    assert torch.isnan(monai).tolist() == [False, True]
    assert surface_distances(p[:2], t[:2]).hd95_mean > surface_distances(p[:1], t[:1]).hd95_mean


def test_only_excluded_images_leave_no_mean():
    p, t = empty_cases()
    result = surface_distances(p[1:2], t[1:2], one_empty="exclude")
    assert math.isnan(result.hd95_mean)
    assert math.isnan(result.assd_mean)
    assert result.n_excluded == 1


def test_batches_join():
    p, t = empty_cases()
    whole = surface_distances(p, t)
    joined = SurfaceResult.concatenate(
        [surface_distances(p[:1], t[:1]), surface_distances(p[1:], t[1:])]
    )
    np.testing.assert_array_equal(values(joined), values(whole))
    assert (joined.n_one_empty, joined.n_both_empty, joined.definition) == (2, 1, "pooled")
    with pytest.raises(DataError, match="one definition"):
        SurfaceResult.concatenate([whole, surface_distances(p, t, definition="max_directed")])
    assert len(surface_distances(p[:0], t[:0])) == 0


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"definition": "max"}, ConfigError, "pooled, max_directed"),
        ({"one_empty": "nan"}, ConfigError, "diagonal, exclude"),
        ({"spacing_mm": (0.0, 1.0)}, DataError, "above 0"),
        ({"spacing_mm": (1.0, math.nan)}, DataError, "above 0"),
    ],
)
def test_wrong_options(options, error, message):
    with pytest.raises(error, match=message):
        surface_distances(*empty_cases(), **options)


def test_probabilities_are_refused():
    p, t = empty_cases()
    with pytest.raises(DataError, match="threshold"):
        surface_distances(p.astype(np.float32), t)
