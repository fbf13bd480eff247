"""Throws damaged files at the readers and odd sentences at the grammar; anything but a `TextMaskError` is a finding.

`python tests/fuzz/fuzz_readers.py --seconds 300 --seed 0` prints the number of cases and each finding with the
bytes that cause it, and ends with status 1 where there is one. A case that takes more than five seconds or half a
gigabyte is one too. The same seed makes the same cases.
"""

from __future__ import annotations

import argparse
import gzip
import io
import random
import resource
import struct
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel
import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
import pydicom
from dicom_files import cr, ct, dx, mr, sc, to_bytes

from textmask.errors import TextMaskError
from textmask.io.read import read_bytes
from textmask.text.grammar import GRAMMARS, explain, parse

ODD = [0, 1, 2, 127, 128, 255, 256, 32767, 32768, 65535, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1]
WORDS = (
    "left right upper lower middle all lung lungs bilateral unilateral pulmonary infection one two infected areas no "
    "and , . ; polyp on the top nuclei lesion in of image clear free without lt rt l r inf bilat lobe base apex there"
).split()
CHARACTERS = "\0\u200b\u202e\u2066\ufeff\u00e9\u77b3\U0001f600\ud800\n\t\x1b\u0131\u0130\u00df\u212a%s{}'\"<>\\"


def seeds() -> dict[str, bytes]:
    """A small valid file of each kind."""
    files = {
        name: to_bytes(make())
        for name, make in {"cr": cr, "dx": dx, "ct": ct, "mr": mr, "sc": sc}.items()
    }
    files |= {f"{name}.dcm": files.pop(name) for name in list(files)}
    for syntax in ("ImplicitVRLittleEndian", "DeflatedExplicitVRLittleEndian", "RLELossless"):
        ds = mr()
        if syntax == "RLELossless":
            ds.compress(pydicom.uid.RLELossless)
        ds.file_meta.TransferSyntaxUID = getattr(pydicom.uid, syntax)
        files[f"{syntax}.dcm"] = to_bytes(ds)
    for syntax in ("JPEGBaseline8Bit", "JPEG2000Lossless"):
        ds = sc()
        ds.file_meta.TransferSyntaxUID = getattr(pydicom.uid, syntax)
        stream = io.BytesIO()
        pixels = np.frombuffer(ds.PixelData, np.uint8)[: ds.Rows * ds.Columns * 3].reshape(
            ds.Rows, ds.Columns, 3
        )
        Image.fromarray(pixels).save(
            stream,
            "JPEG" if "JPEGB" in syntax else "JPEG2000",
            **({} if "JPEGB" in syntax else {"no_jp2": True}),
        )
        ds.PixelData = pydicom.encaps.encapsulate([stream.getvalue()])
        ds["PixelData"].is_undefined_length = True
        files[f"{syntax}.dcm"] = to_bytes(ds)
    volume = np.random.default_rng(0).integers(0, 900, (6, 5, 4)).astype(np.int16)
    for name, kind in (("one.nii", nibabel.Nifti1Image), ("two.nii", nibabel.Nifti2Image)):
        files[name] = kind(volume, np.diag([1, 2, 3, 1])).to_bytes()
    files["float.nii"] = nibabel.Nifti1Image(volume.astype(np.float32), np.eye(4)).to_bytes()
    files["one.nii.gz"] = gzip.compress(files["one.nii"], mtime=0)
    grey = np.random.default_rng(1).integers(0, 256, (13, 9), dtype=np.uint8)
    for form in ("PNG", "TIFF", "JPEG", "BMP"):
        for name, array in (
            ("grey", grey),
            ("rgb", np.stack([grey, grey[::-1], grey], -1)),
            ("deep", grey * np.uint16(99)),
        ):
            if name == "deep" and form in ("JPEG", "BMP"):
                continue
            stream = io.BytesIO()
            Image.fromarray(array).save(stream, form)
            files[f"{name}.{form.lower()}"] = stream.getvalue()
    return files


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One to eight changes: bytes, numbers, pieces cut, doubled, moved, inserted."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        if not out:
            break
        # most of what readers decide on stands in the first kilobytes
        at = rng.randrange(min(len(out), rng.choice((64, 512, 2048, len(out)))))
        kind = rng.randrange(8)
        if kind == 0:
            out[at] = rng.randrange(256)
        elif kind == 1:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            number = struct.pack(rng.choice("<>") + "I", rng.choice(ODD))[: rng.choice((1, 2, 4))]
            out[at : at + len(number)] = number
        elif kind == 3:
            del out[at:]
        elif kind == 4:
            del out[at : at + rng.choice((1, 2, 4, 8, 100))]
        elif kind == 5:
            out[at:at] = out[at : at + rng.choice((1, 2, 8, 64, 300))] * rng.choice((1, 2, 50))
        elif kind == 6:
            out[at:at] = rng.randbytes(rng.choice((1, 2, 4, 16)))
        else:
            size, to = rng.choice((2, 4, 8, 30)), rng.randrange(len(out))
            out[to : to + size] = out[at : at + size]
    return bytes(out)


def sentence(rng: random.Random) -> str:
    """Words of the grammars, odd characters and random ones, glued or not."""
    parts = []
    for _ in range(rng.choice((0, 1, 3, 10, 40, 2000))):
        kind = rng.randrange(10)
        if kind < 7:
            parts.append(rng.choice(WORDS))
        elif kind == 7:
            parts.append(rng.choice(CHARACTERS))
        elif kind == 8:
            parts.append(chr(rng.randrange(0x110000)))
        else:
            word = rng.choice(WORDS)
            parts.append(
                word[: rng.randrange(len(word) + 1)].upper() + rng.choice(("", ".", "-", "/"))
            )
    return rng.choice((" ", " ", "", ", ")).join(parts)


def cases(seed: int) -> Iterator[tuple[str, object, Callable[[], object]]]:
    """Endless: a name, what is read, and the call that reads it."""
    rng = random.Random(seed)
    files = seeds()
    names = sorted(files)
    while True:
        name = rng.choice(names)
        data = mutate(files[name], rng)
        shown = rng.choice((name, name, "x.png", "x.dcm", "x.nii.gz", ""))
        index = rng.choice((None, None, None, 0, 1, 99, -1))
        yield f"read_bytes {name}", data, lambda d=data, n=shown, i=index: read_bytes(d, n, i)
        text, grammar = sentence(rng), rng.choice(("auto", *GRAMMARS))
        yield f"parse {grammar}", text, lambda t=text, g=grammar: explain(parse(t, g))


def _ours(error: TextMaskError) -> str | None:
    """The place in our DICOM code of an error that `read_dicom` took for damage, such as a TypeError; else None."""
    cause = error.__context__
    if cause is None or isinstance(cause, TextMaskError):
        return None
    last = traceback.extract_tb(cause.__traceback__)[-1]
    own = Path(last.filename).parent.name == "io" and Path(last.filename).name.startswith("dicom")
    return f"hidden {type(cause).__name__} {last.filename}:{last.lineno}" if own else None


def run(seconds: float, seed: int, most: int | None = None) -> tuple[int, int, list[str]]:
    """Number of cases, how many of them were accepted, and findings, one of each place in the code."""
    begin, count, accepted = time.monotonic(), 0, 0
    findings: dict[str, str] = {}
    for name, what, call in cases(seed):
        if time.monotonic() - begin > seconds or count == most:
            break
        count += 1
        start, peak = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                call()
            accepted += 1
        except TextMaskError as error:
            hidden = _ours(error)
            if hidden:
                findings.setdefault(hidden, f"case {count} {name}: {error.__context__!r}\n{what!r}")
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            last = traceback.extract_tb(error.__traceback__)[-1]
            findings.setdefault(
                f"{type(error).__name__} {last.filename}:{last.lineno}",
                f"case {count} {name}: {error!r}\n{what!r}",
            )
        if (more := resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) > 500_000:  # kB
            findings.setdefault(
                f"memory {name}", f"case {count} {name}: {more / 1e6:.1f} GB\n{what!r}"
            )
        if (took := time.monotonic() - start) > 5:
            findings.setdefault(f"slow {name}", f"case {count} {name}: {took:.1f} s\n{what!r}")
    return count, accepted, [f"{place}\n{told}" for place, told in findings.items()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    count, accepted, findings = run(options.seconds, options.seed)
    print(f"{count} cases, {accepted} accepted, {len(findings)} findings")
    print("\n\n".join(findings))
    return 1 if findings else 0


if __name__ == "__main__":
    raise SystemExit(main())
