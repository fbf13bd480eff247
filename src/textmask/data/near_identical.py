"""Search for nearly identical images in different splits, in a time that grows with their number, not its square.

Each thumbnail has a signature of 256 bits: on which side of random planes it lies. Two alike thumbnails differ in few
bits. The signatures are sorted 32 times, each time by other bits first, and each image is compared only with its
neighbors in that order.

Source: M. S. Charikar, Similarity estimation techniques from rounding algorithms, STOC 2002.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np
import numpy.typing as npt

from textmask.data.facts import THUMBNAIL, Facts, distinct_images
from textmask.data.manifest import Row
from textmask.io.images import Bytes

# of 23 million pairs across the splits of QaTa, three are above this; each shows one radiograph twice (inspected)
MIN_CORRELATION = 0.985
BLOCK = 4096  # images in single precision at a time
TABLES = 32  # orders of the signatures, each led by other 8 of their 256 bits
WINDOW = 32  # neighbors to each side
# two images with a correlation r differ in a bit with the probability arccos(r) / pi: at the limit in 14 of 256 bits on
# average, with a standard deviation of 3.6
MAX_FLIPS = 36
PARTNERS = 20  # pairs that an image is in, unless its partner is in fewer

Words = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.int64]


def near_identical(facts: list[Facts]) -> list[tuple[Row, Row]]:
    """Pairs of nearly identical images in different splits: the same radiograph processed differently, or frames
    of a video.

    Two images are alike if their 32 x 32 thumbnails correlate at 0.985 or more, independent of brightness and
    contrast. Images of one flat color are left out: they all look the same. Of a long video not all pairs are listed,
    only some of each frame: about those whose two frames are not both in 20 pairs already.
    """
    found = [fact for fact in distinct_images(facts) if fact.thumbnail is not None]
    if not found:
        return []
    images = np.stack([fact.thumbnail for fact in found if fact.thumbnail is not None])
    images = images.reshape(len(images), THUMBNAIL * THUMBNAIL)
    flat = np.concatenate([images[part].std(axis=1) <= 1 for part in _blocks(len(images))])

    splits: dict[str, list[int]] = {}
    for i in np.flatnonzero(~flat).tolist():
        splits.setdefault(found[i].row.split, []).append(i)
    if len(splits) < 2:
        return []

    signatures = _signatures(images)
    pairs = []
    for one, two in combinations(splits.values(), 2):
        for i, j in _alike(images, signatures, np.array(one), np.array(two)):
            pairs.append((found[i].row, found[j].row))
    return pairs


def _blocks(n: int) -> Iterator[slice]:
    for begin in range(0, n, BLOCK):
        yield slice(begin, begin + BLOCK)


def _standardized(images: Bytes) -> npt.NDArray[np.float32]:
    """Thumbnails N 1024 with mean 0 and length 1: their products are correlations."""
    flat = images.astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.asarray(flat / np.maximum(length, 1e-6), np.float32)


def _signatures(images: Bytes) -> Bytes:
    """Signatures N 32 (256 bits) of thumbnails N 1024."""
    planes = np.linalg.qr(np.random.default_rng(0).normal(size=(images.shape[1], 8 * TABLES)))[0]
    sides = planes.astype(np.float32)
    parts = [
        np.packbits(_standardized(images[part]) @ sides > 0, axis=1)
        for part in _blocks(len(images))
    ]
    return np.concatenate(parts)


def _alike(images: Bytes, signatures: Bytes, one: Numbers, two: Numbers) -> list[tuple[int, int]]:
    """Pairs of alike images, the first of which is in `one` and the second in `two`, in this order."""
    swapped = len(two) > len(one)
    many, few = (two, one) if swapped else (one, two)
    known = np.zeros(0, np.int64)  # sorted; a pair is a number in `many` times N, and one in `few`
    partners = np.zeros(len(images), np.int64)

    for table in range(TABLES):
        found = [known]
        for i, j in _neighbors(signatures, many, few, table):
            # new ones, but not all pairs of a video
            pair = i * len(images) + j
            new = (partners[i] < PARTNERS) | (partners[j] < PARTNERS)
            new &= ~_contains(known, pair)
            i, j, pair = i[new], j[new], pair[new]
            alike = _correlate(images, i, j)
            np.add.at(partners, i[alike], 1)
            np.add.at(partners, j[alike], 1)
            found.append(pair[alike])
        known = np.sort(np.concatenate(found))

    pairs = np.stack(np.divmod(known, len(images)), axis=1)
    if swapped:
        pairs = pairs[np.argsort(pairs[:, 1], kind="stable"), ::-1]
    return [(int(i), int(j)) for i, j in pairs]


def _contains(known: Numbers, values: Numbers) -> npt.NDArray[np.bool_]:
    """Which values are among known ones, which are sorted."""
    if not len(known):
        return np.zeros(len(values), np.bool_)
    places = np.minimum(np.searchsorted(known, values), len(known) - 1)
    return np.asarray(known[places] == values)


def _neighbors(
    signatures: Bytes, many: Numbers, few: Numbers, table: int
) -> Iterator[tuple[Numbers, Numbers]]:
    """Candidates of one order: numbers in `many` and in `few` whose signatures are neighbors and differ in few bits."""
    # other bits come first in each order
    rng = np.random.default_rng(table)
    leading = rng.permutation(TABLES)[:8]
    leading[0] = table
    keys = np.ascontiguousarray(signatures[:, leading]).view(">u8")[:, 0].astype(np.uint64)
    many = rng.permutation(many)
    many = many[np.argsort(keys[many], kind="stable")]
    few = few[np.argsort(keys[few], kind="stable")]

    # equal frames are dealt out among their equals, so that not all of them meet the same one
    ours, theirs = keys[few], keys[many]
    places = np.searchsorted(theirs, ours)
    equals = np.searchsorted(theirs, ours, "right") - places
    places += (np.arange(len(ours)) - np.searchsorted(ours, ours)) % np.maximum(equals, 1)

    words = signatures.view(np.uint64)
    of_many, of_few = words[many], words[few]
    for shift in range(-WINDOW, WINDOW):
        place = places + shift
        inside = np.flatnonzero((place >= 0) & (place < len(many)))
        flips = np.bitwise_count(of_many[place[inside]] ^ of_few[inside]).sum(axis=1)
        near = inside[flips <= MAX_FLIPS]
        yield many[place[near]], few[near]


def _correlate(images: Bytes, i: Numbers, j: Numbers) -> npt.NDArray[np.bool_]:
    """Whether the thumbnails of each pair correlate enough."""
    found = np.zeros(len(i), np.bool_)
    for part in _blocks(len(i)):
        first, second = _standardized(images[i[part]]), _standardized(images[j[part]])
        found[part] = np.einsum("nd,nd->n", first, second) >= MIN_CORRELATION
    return found
