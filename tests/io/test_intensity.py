import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from textmask.errors import DataError
from textmask.io.intensity import Window, apply_window, stretch, value_range

SHORT = {np.uint8: (0, 255), np.uint16: (0, 65535), np.int16: (-32768, 32767)}


@settings(deadline=None)
@given(
    dtype=st.sampled_from([*SHORT, np.int32]),
    center=st.floats(-70000, 70000),
    width=st.floats(1.001, 200000),
    slope=st.sampled_from([1.0, -1.0, 0.01, -0.3, 7.0, 400.0]),
    intercept=st.floats(-70000, 70000),
    function=st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"]),
)
def test_a_window_is_the_formula_for_every_number(dtype, center, width, slope, intercept, function):
    low, high = SHORT.get(dtype, (-100_000, 100_000))
    numbers = np.arange(low, high + 1, 1 if high < 256 else 97)[:, None].astype(dtype)
    numbers[-1] = high
    values = numbers.astype(np.float64) * slope + intercept
    if function == "LINEAR":
        expected = ((values - (center - 0.5)) / (width - 1) + 0.5) * 255
    elif function == "LINEAR_EXACT":
        expected = ((values - center) / width + 0.5) * 255
    else:
        expected = 255 / (1 + np.exp((-4 * (values - center) / width).clip(-700, 700)))
    got = apply_window(numbers, Window(center, width, function), slope, intercept)
    assert got.dtype == np.uint8
    assert got.shape == numbers.shape
    steep = abs(slope) * 255 / (width - 1 if function == "LINEAR" else width)
    assert np.abs(got - expected.clip(0, 255)).max() <= 0.51 + min(1e-5 * steep * 65536, 0.5)


def test_range_and_stretch():
    ramp = np.arange(1001.0)
    assert value_range(ramp, "x") == pytest.approx((1, 999))
    assert value_range(ramp, "x", ramp > 500) == pytest.approx((501.499, 999.501))
    assert value_range(ramp, "x", ramp > 5000) == (0, 0)
    assert stretch(np.array([0, 5, 10, 20]), 5, 10).tolist() == [0, 0, 255, 255]
    assert stretch(np.array([0, 5, 10, 20]), 5, 10, inverted=True).tolist() == [255, 255, 0, 0]
    assert not stretch(np.array([0, 5]), 5, 5).any()


@pytest.mark.parametrize(
    ("value", "match"), [(np.nan, "NaN"), (np.inf, "NaN or inf"), (-1e31, "values beyond 1e")]
)
def test_values_that_are_no_image(value, match):
    with pytest.raises(DataError, match=f"a.tif: contains {match}"):
        value_range(np.array([1.0, value]), "a.tif")
