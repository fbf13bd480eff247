import gzip
import struct
import tracemalloc

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from textmask.errors import DataError, DataWarning
from textmask.io import nifti, nifti_header
from textmask.io.files import inflate
from textmask.io.nifti import NiftiVolume, read_nifti, write_nifti_mask
from textmask.io.nifti_header import is_nifti

VOLUME = (
    np.random.default_rng(0).gamma(2, 100, (7, 9, 5)) + np.arange(7)[:, None, None] * 50
).astype(np.int16)
RAS = np.diag([0.8, 0.9, 3.0, 1.0])
LPS = np.diag([-0.8, -0.9, 3.0, 1.0])


def to_bytes(
    volume: np.ndarray = VOLUME, affine: np.ndarray = RAS, two: bool = False, **fields: object
) -> bytes:
    image = (nibabel.Nifti2Image if two else nibabel.Nifti1Image)(volume, affine)
    for name, value in fields.items():
        image.header[name] = value
    return image.to_bytes()


def greys(volume: np.ndarray) -> np.ndarray:
    low, high = np.percentile(volume, (0.1, 99.9))
    return ((volume.astype(float) - low) / (high - low) * 255).clip(0, 255)


@pytest.mark.parametrize("two", [False, True])
@pytest.mark.parametrize("compressed", [False, True])
def test_slices_are_the_volume_stretched_as_a_whole(two, compressed):
    data = to_bytes(two=two)
    data = gzip.compress(data) if compressed else data
    assert is_nifti(data)
    pictures = read_nifti(data)
    assert [p.index for p in pictures] == [0, 1, 2, 3, 4]
    for i, picture in enumerate(pictures):
        assert picture.pixels.shape == (9, 7)
        assert np.abs(picture.pixels - greys(VOLUME)[:, :, i].T).max() <= 0.51
        assert picture.spacing_mm == pytest.approx((0.9, 0.8))
        assert picture.format == "nifti"
    assert np.array_equal(read_nifti(data, 3)[0].pixels, pictures[3].pixels)


@pytest.mark.parametrize(
    ("affine", "expected"),
    [
        (RAS, "RA"),  # RAS+: the first axis runs to the right, the second to the front
        (LPS, "LP"),
        (np.diag([-0.8, 0.9, 3, 1]), "LA"),
        (np.diag([0.8, -0.9, -3, 1]), "RP"),
        (RAS[:, [1, 0, 2, 3]], "AR"),
        (
            nibabel.affines.from_matvec(
                nibabel.eulerangles.euler2mat(0.3, 0.2, 0.1) @ np.diag([0.8, 0.9, 3])
            ),
            "RA",
        ),
    ],
)
def test_orientation_of_the_affine(affine, expected):
    found = read_nifti(to_bytes(affine=affine))[0].orientation
    assert found.columns + found.rows == expected
    assert found.source == "affine"
    nibabels = "".join(nibabel.aff2axcodes(affine))
    assert expected == nibabels.replace("S", "H").replace("I", "F")[:2]


def test_a_volume_stored_flipped_is_the_same_in_the_usual_view():
    flip = np.diag([-1.0, 1, 1, 1])
    flip[0, 3] = VOLUME.shape[0] - 1
    for straight, flipped in zip(
        read_nifti(to_bytes()), read_nifti(to_bytes(VOLUME[::-1], RAS @ flip)), strict=True
    ):
        assert not np.array_equal(straight.pixels, flipped.pixels)
        a, b = (p.orientation.to_usual(p.pixels) for p in (straight, flipped))
        assert np.array_equal(a, b)


def test_an_affine_without_meaning_is_unknown():
    data = bytearray(to_bytes())
    data[252:256] = bytes(4)  # qform_code and sform_code
    assert read_nifti(bytes(data))[0].orientation is None


@pytest.mark.parametrize(
    ("spacing", "shape", "axis"),
    [
        ((1, 1, 3), (4, 5, 6), 2),
        ((1, 3, 1), (4, 5, 6), 1),
        ((3, 1, 1), (4, 5, 6), 0),
        ((1, 1, 1), (4, 5, 6), 2),  # nearest to head-feet
        ((1, 1, 3), (1, 5, 6), 0),  # one slice
        ((1, 1, 1), (4, 5), 2),
    ],
)
def test_slice_axis(spacing, shape, axis):
    volume = np.random.default_rng(1).integers(0, 99, shape).astype(np.int16)
    pictures = read_nifti(to_bytes(volume, np.diag([*spacing, 1.0])))
    assert pictures[0].header.axis == axis
    assert len(pictures) == (*shape, 1)[axis]
    assert len(read_nifti(to_bytes(volume, np.diag([*spacing, 1.0])), axis=1)) == shape[1]
    with pytest.raises(DataError, match="no axis 3"):
        read_nifti(to_bytes(), axis=3)


def test_the_upright_axis_of_an_isotropic_coronal_volume():
    coronal = np.eye(4)[:, [0, 2, 1, 3]]  # the second axis runs to the head
    assert read_nifti(to_bytes(affine=coronal))[0].header.axis == 1


def test_bytes_stay_and_a_negative_slope_inverts():
    small = VOLUME.astype(np.uint8)
    assert np.array_equal(read_nifti(to_bytes(small))[2].pixels, small[:, :, 2].T)
    data = bytearray(to_bytes())
    data[112:120] = struct.pack("<2f", -2.0, 5.0)  # scl_slope, scl_inter
    assert (
        np.abs(read_nifti(bytes(data))[1].pixels - (255 - greys(VOLUME)[:, :, 1].T)).max() <= 0.51
    )


@settings(deadline=None, max_examples=15)
@given(
    seed=st.integers(0, 99),
    two=st.booleans(),
    axis=st.integers(0, 2),
    codes=st.tuples(*[st.integers(0, 4)] * 2),
)
def test_a_mask_has_exactly_the_geometry_of_its_image(tmp_path_factory, seed, two, axis, codes):
    rng = np.random.default_rng(seed)
    rotation = nibabel.eulerangles.euler2mat(*rng.uniform(-3, 3, 3))
    affine = nibabel.affines.from_matvec(
        rotation @ np.diag(rng.uniform(0.5, 4, 3)), rng.uniform(-99, 99, 3)
    )
    image = (nibabel.Nifti2Image if two else nibabel.Nifti1Image)(VOLUME, None)
    image.header.set_qform(affine, codes[0])
    image.header.set_sform(affine + 1e-4, codes[1])
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"], image.header["scl_slope"], image.header["scl_inter"] = (
        b"Doe^Jane",
        3,
        1,
    )
    pictures = read_nifti(image.to_bytes(), axis=axis)
    masks = [rng.integers(0, 2, p.pixels.shape).astype(np.uint8) for p in pictures]
    path = tmp_path_factory.mktemp("nifti") / f"mask.nii{'.gz' if seed % 2 else ''}"
    write_nifti_mask(path, masks, pictures[0].header)
    found = nibabel.load(path)
    assert found.get_data_dtype() == np.uint8
    assert found.shape == VOLUME.shape
    header = pictures[0].header.header
    for field in (
        "pixdim",
        "qform_code",
        "sform_code",
        "quatern_b",
        "qoffset_x",
        "srow_x",
        "srow_z",
        "xyzt_units",
    ):
        assert np.array_equal(found.header[field], header[field])
    assert np.array_equal(found.affine, header.get_best_affine())
    assert b"Doe" not in found.header.binaryblock
    assert np.array_equal(
        np.moveaxis(np.asarray(found.dataobj), axis, 0), [mask.T for mask in masks]
    )


def test_masks_by_index_and_wrong_masks(tmp_path):
    pictures = read_nifti(to_bytes())
    header, mask = pictures[0].header, np.ones((9, 7), np.uint8)
    write_nifti_mask(tmp_path / "a.nii", {3: mask}, header)
    assert np.asarray(nibabel.load(tmp_path / "a.nii").dataobj).sum(axis=(0, 1)).tolist() == [
        0,
        0,
        0,
        63,
        0,
    ]
    for masks, match in (
        ([mask], "1 masks for 5 slices"),
        ({5: mask}, "slice 5"),
        ({0: mask.T}, r"mask of \(7, 9\)"),
    ):
        with pytest.raises(DataError, match=match):
            write_nifti_mask(tmp_path / "b.nii", masks, header)
    with pytest.raises(DataError, match=r"ends in \.nii"):
        write_nifti_mask(tmp_path / "b.png", {}, header)
    assert not (tmp_path / "b.nii").exists()


def test_a_flat_image_comes_back_flat(tmp_path):
    flat = VOLUME[:, :, 0]
    picture = read_nifti(to_bytes(flat))[0]
    write_nifti_mask(tmp_path / "a.nii.gz", [picture.pixels > 100], picture.header)
    assert nibabel.load(tmp_path / "a.nii.gz").shape == flat.shape


# the cost of a slice


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slice_costs_a_slice_and_not_a_copy_of_the_volume(axis):
    big = np.random.default_rng(0).integers(-999, 999, (90, 100, 110)).astype(np.int16)
    volume = NiftiVolume(to_bytes(big), axis=axis)
    first = volume.image(0).pixels
    tracemalloc.start()
    try:
        other = volume.image(60).pixels
        # float32, bytes, and what is in between
        assert tracemalloc.get_traced_memory()[1] < 20 * other.size
    finally:
        tracemalloc.stop()
    assert other.flags.c_contiguous
    expected = greys(big)
    for index, pixels in ((0, first), (60, other)):
        assert np.abs(pixels - np.take(expected, index, axis).T).max() <= 0.51
    assert len(volume) == big.shape[axis]
    assert volume.slice_shape == other.shape
    assert volume.size_bytes == big.nbytes


def test_slices_of_one_file_are_inflated_once_and_again_when_it_changes(tmp_path, monkeypatch):
    inflated = []

    def counted(*args, **kwargs):
        inflated.append(1)
        return inflate(*args, **kwargs)

    monkeypatch.setattr(nifti_header, "inflate", counted)
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(gzip.compress(to_bytes()))
    slices = [read_nifti(path, i)[0] for i in range(5)]
    assert len(inflated) == 1
    for one, other in zip(slices, read_nifti(path), strict=True):
        assert np.array_equal(one.pixels, other.pixels)
        assert one.source == path

    path.write_bytes(gzip.compress(to_bytes(VOLUME[:, ::-1].copy())) + b"\0")
    assert np.array_equal(read_nifti(path, 2)[0].pixels, slices[2].pixels[::-1])


def test_a_large_volume_is_not_kept_after_its_slice(tmp_path, monkeypatch):
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(gzip.compress(to_bytes()))
    monkeypatch.setattr(nifti, "MAX_KEPT_BYTES", VOLUME.nbytes - 1)
    read_nifti(path, 2)
    assert nifti._volume_in_state.cache_info().currsize == 0


def test_the_grey_scale_of_many_voxels_comes_from_every_nth(monkeypatch):
    rng = np.random.default_rng(2)
    big = rng.normal(100, 30, (60, 70, 50)).astype(np.float32)
    exact = read_nifti(to_bytes(big), 20)[0].pixels
    monkeypatch.setattr(nifti, "MAX_RANKED", big.size // 3)
    close = read_nifti(to_bytes(big), 20)[0].pixels
    assert not np.array_equal(exact, close)
    assert np.abs(exact.astype(int) - close).max() <= 4

    # one that is never ranked is still found
    big[1, 0, 0] = np.nan
    assert np.isfinite(big.ravel(order="F")[::3]).all()
    refused(to_bytes(big), "NaN or infinite")


# damage and abuse


def refused(data: bytes, match: str, most: int = 30_000_000) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=match) as caught:
            read_nifti(data, name="x.nii")
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()
    assert str(caught.value).startswith("x.nii: ")


def header_of(shape: tuple[int, ...]) -> bytearray:
    data = bytearray(to_bytes())
    data[40:56] = struct.pack("<8h", len(shape), *shape, *[1] * (7 - len(shape)))
    return data


def test_a_gzip_bomb_is_refused_while_it_inflates():
    bomb = gzip.compress(bytes(to_bytes()) + b"\0" * 40_000_000, 1)
    assert len(bomb) < 2_000_000
    refused(bomb, "inflates to more than")
    refused(gzip.compress(bytes(to_bytes()))[:-30], "end too early|is truncated")
    refused(gzip.compress(to_bytes())[:-8] + b"\0" * 8, "compressed data are damaged")
    refused(
        gzip.compress(bytes(header_of((20000, 20000, 20000)))),
        "the limit is 100,000,000 pixels per slice",
    )


def test_gzip_of_several_members_and_padding():
    data = to_bytes()
    assert len(read_nifti(gzip.compress(data[:400]) + gzip.compress(data[400:]) + b"\0" * 9)) == 5


@pytest.mark.parametrize(
    ("shape", "match"),
    [
        ((32767, 32767, 32767), "pixels per slice"),
        ((9000, 9000, 9), "more than the limit of 1,073,741,824 bytes"),
        ((700, 900, 5), "is truncated"),
        ((7, 9, 5, 2), r"4 dimensions.*volume\[\.\.\., index\]"),
        ((7,), "two or three dimensions"),
        ((7, 0, 5), "at least 1"),
        ((-7, 9, 5), "at least 1|damaged"),
    ],
)
def test_sizes(shape, match):
    refused(bytes(header_of(shape)), match)


def test_sizes_of_nifti_2_that_overflow_64_bits():
    data = bytearray(to_bytes(two=True))
    data[16:48] = struct.pack("<4q", 3, 2**40, 2**40, 2**40)
    refused(bytes(data), "pixels per slice")
    data[16:48] = struct.pack("<4q", 3, 2**62, 2, 1)  # the product of sizes and bytes wraps to 0
    refused(bytes(data), "pixels per slice|more than")


def test_four_dimensions_of_which_one_is_1_are_a_volume():
    assert len(read_nifti(bytes(header_of((7, 9, 5, 1))))) == 5


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_values_that_are_no_image(value):
    volume = VOLUME.astype(np.float64)
    volume[3, 3, 3] = value
    refused(to_bytes(volume), "NaN or infinite|values beyond")


def test_colors_pairs_and_other_files():
    refused(to_bytes(VOLUME.astype(np.complex64)), "contains complex64 voxels")
    refused(to_bytes().replace(b"n+1\0", b"ni1\0"), r"pair of files")
    refused(b"\0" * 400, "is not NIfTI")
    refused(b"", "is empty")
    refused(gzip.compress(b"text"), "is not NIfTI")
    for length in (1, 200, 347, 352, 400):
        refused(bytes(to_bytes()[:length]), "is not NIfTI|is truncated")


def test_damaged_headers():
    for at, value in (
        (70, b"\x63\x00"),
        (108, struct.pack("<f", np.nan)),
        (108, struct.pack("<f", -1e9)),
    ):
        data = bytearray(to_bytes())
        data[at : at + len(value)] = value
        refused(bytes(data), "damaged|is truncated|more than")
    data = bytearray(to_bytes())
    data[280:284] = struct.pack("<f", np.nan)  # of the affine
    assert read_nifti(bytes(data))[0].orientation is None


def test_index_and_too_many_slices(monkeypatch):
    with pytest.raises(DataError, match="has no slice 5; it has 5"):
        read_nifti(to_bytes(), 5)
    monkeypatch.setattr(nifti, "MAX_SLICES", 4)
    refused(to_bytes(), "has 5 slices; the limit is 4")
    assert len(read_nifti(to_bytes(), 4)) == 1


def with_forms(sform: np.ndarray, qform: np.ndarray, codes: tuple[int, int] = (1, 1)) -> bytes:
    image = nibabel.Nifti1Image(np.zeros((8, 9, 10), np.int16), np.eye(4))
    image.header.set_sform(sform, codes[0])
    image.header.set_qform(qform, codes[1])
    return image.to_bytes()


MIRRORED = np.diag([-1.0, 1.0, 1.0, 1.0])
TURNED = np.array([[0.9848, -0.1736, 0, 5], [0.1736, 0.9848, 0, 5], [0, 0, 1, 5], [0, 0, 0, 1]])


@pytest.mark.parametrize("other", [MIRRORED, np.diag([-1.0, -1.0, 1.0, 1.0])])
def test_two_affines_that_disagree_on_left_and_right_are_an_unknown_orientation(other):
    with pytest.warns(DataWarning, match="sform and qform"):
        (found,) = read_nifti(with_forms(np.eye(4), other), 3, "x.nii")
    assert found.orientation is None


@pytest.mark.parametrize(
    ("other", "codes"),
    [(MIRRORED, (1, 0)), (MIRRORED, (0, 1)), (TURNED, (2, 1)), (np.eye(4), (1, 1))],
)
def test_one_affine_or_two_that_agree_are_known(other, codes):
    (found,) = read_nifti(with_forms(np.eye(4), other, codes), 3, "x.nii")
    assert found.orientation is not None
