"""Reading 100 CT slices of 512 x 512, 16 bit, uncompressed: read, rescale, window, as uint8.

`read_dicom` also checks all limits and determines the patient's left. The peers read the same files: the simplest code
with pydicom and numpy, and pydicom's own functions for rescaling and window.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import pydicom
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from timing import Goals, interleave

from textmask.io.dicom.reader import read_dicom

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from dicom_files import ct, to_bytes

SLICES, SIDE = 100, 512


def write_slices(folder: Path) -> list[Path]:
    """Synthetic slices with the attributes of a plain CT file."""
    rng = np.random.default_rng(0)
    paths = []
    for i in range(SLICES):
        ds = ct(2.0 * i)
        ds.Rows = ds.Columns = SIDE
        ds.PixelData = rng.integers(0, 4096, (SIDE, SIDE), dtype=np.uint16).tobytes()
        paths.append(folder / f"{i:03}.dcm")
        paths[-1].write_bytes(to_bytes(ds))
    return paths


def ours(path: Path) -> np.ndarray:
    return read_dicom(path)[0].pixels


def with_numpy(path: Path) -> np.ndarray:
    ds = pydicom.dcmread(path)
    values = ds.pixel_array.astype(np.float32) * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
    center, width = float(ds.WindowCenter[0]), float(ds.WindowWidth[0])
    greys = ((values - (center - 0.5)) / (width - 1) + 0.5) * 255
    return np.clip(greys, 0, 255).round().astype(np.uint8)


def with_pydicom(path: Path) -> np.ndarray:
    ds = pydicom.dcmread(path)
    values = apply_voi_lut(apply_modality_lut(ds.pixel_array, ds), ds, index=0)
    slope, intercept = float(ds.RescaleSlope), float(ds.RescaleIntercept)
    greys = (values - intercept) / ((2**ds.BitsStored - 1) * slope) * 255
    return greys.round().astype(np.uint8)


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        paths = write_slices(Path(folder))
        for path in paths[::10]:
            found = ours(path).astype(int)
            for peer in (with_numpy, with_pydicom):
                assert np.abs(found - peer(path)).max() <= 1, peer.__name__  # rounding of halves
        readers = {"ours": ours, "pydicom + numpy": with_numpy, "pydicom": with_pydicom}
        times = interleave(
            {
                name: lambda read=read: [read(path) for path in paths]
                for name, read in readers.items()
            }
        )
        size = sum(path.stat().st_size for path in paths)
        times |= interleave({"bytes alone": lambda: [path.read_bytes() for path in paths]})
    print(f"{SLICES} slices of {SIDE} x {SIDE}, {size / 1e6:.0f} MB")
    for name, seconds in times.items():
        print(f"{name:16} {SLICES / seconds:7.0f} files/s")
    goals = Goals()
    goals.at_least("dicom_ct", times["pydicom + numpy"] / times["ours"], 1.6)
    return goals.finish()


if __name__ == "__main__":
    raise SystemExit(main())
