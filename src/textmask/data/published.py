"""Facts about the published data sets: how to recognize them, patients, laterality convention, counts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from textmask.data.manifest import Manifest
from textmask.statement import Laterality

# data set -> who made the split -> rows
PUBLISHED: dict[str, dict[str, dict[str, int]]] = {
    "qata-cov19-v2": {"LViT": {"train": 5716, "valid": 1429, "test": 2113}},
    "mosmeddata+": {"LViT": {"train": 2183, "valid": 273, "test": 273}},
    "monuseg": {"LViT": {"train": 24, "valid": 6, "test": 14}, "DuSSS": {"train": 30, "test": 14}},
    "kvasir-seg": {
        "MAdapter": {"train": 900, "test": 100},
        "MedVLSM": {"train": 800, "valid": 100, "test": 100},
    },
    "cvc-clinicdb": {
        "MAdapter": {"train": 550, "test": 62},
        "MedVLSM": {"train": 490, "valid": 61, "test": 61},
    },
    # of 1517 slices; the selection was never published
    "bm-seg": {"DuSSS": {"train": 200, "test": 70}},
}

# MosMedData+ was never measured and BM-Seg has no prompts, so that their convention is unknown
IMAGE_SIDED = {"qata-cov19-v2", "monuseg", "kvasir-seg", "cvc-clinicdb"}

QATA = re.compile(r"covid_\d+$|sub-s\d+_")
MOSMED = re.compile(r"(bjorke)_\d+$|(jun_.+|morozov_study_\d+)_\d+$")
KVASIR = re.compile(r"c[jk][a-z0-9]{23}$")
SUBJECT = re.compile(r"(sub-[a-z0-9]+)_")
TCGA = re.compile(r"(tcga-[a-z0-9]{2}-[a-z0-9]{4})-")


@dataclass(frozen=True)
class SplitCount:
    """Number of rows of one split, found and published (0: the published data set has no such split)."""

    split: str
    found: int
    published: int


@dataclass(frozen=True)
class PublishedCounts:
    """Counts of a data set compared with those of the nearest published split."""

    data_set: str
    source: str
    splits: tuple[SplitCount, ...]

    @property
    def equal(self) -> bool:
        """Whether every split has the published number of rows."""
        return all(count.found == count.published for count in self.splits)


def identify(stems: Sequence[str], texts: Sequence[str], folder: str) -> str:
    """Name of the published data set that file names, prompts and folder name point to; "" for any other data set.

    File names alone do not decide: hospitals use the same `sub-S..._ses-E...` names with another laterality convention.

    Args:
        stems: file names of the images without suffix.
        texts: their prompts.
        folder: name of their folder.
    """
    folder = folder.lower()

    # prompts first: they are the most specific, and a few of them are repeated in all rows
    prompts = Counter(texts)
    if _most(prompts, lambda text: "infected area" in text.lower()):
        if _most(Counter(stems), lambda stem: MOSMED.match(stem.lower())):
            return "mosmeddata+"
        if _most(Counter(stems), lambda stem: QATA.match(stem.lower())):
            return "qata-cov19-v2"

    if _most(prompts, lambda text: "nuclei" in text.lower()) and _most(
        Counter(stems), lambda stem: TCGA.match(stem.lower())
    ):
        return "monuseg"

    if _most(prompts, lambda text: "polyp" in text.lower()):
        if _most(Counter(stems), lambda stem: KVASIR.match(stem.lower())):
            return "kvasir-seg"
        if re.search(r"clinic_?-?db|cvc-?_?612", folder):
            return "cvc-clinicdb"

    return "bm-seg" if re.search(r"bm-?_?seg", folder) else ""


def known_laterality(data_set: str) -> Laterality:
    """Laterality convention of a published data set; UNKNOWN if it was never measured."""
    return Laterality.IMAGE if data_set in IMAGE_SIDED else Laterality.UNKNOWN


def group_of(stem: str, data_set: str) -> str:
    """Patient or study in a file name; "" if it names none.

    `sub-S08047_ses-...` -> sub-s08047; `Morozov_study_0295_12` -> morozov_study_0295; every `bjorke_N` -> bjorke (the
    scan is unknown, so that they stay together); a TCGA barcode -> its participant; QaTa's `covid_N` -> itself.
    """
    stem = stem.lower()
    if match := SUBJECT.match(stem) or TCGA.match(stem):
        return match[1]
    if data_set == "mosmeddata+" and (match := MOSMED.match(stem)):
        return match[1] or match[2]
    return stem if data_set == "qata-cov19-v2" else ""


def compare_counts(manifest: Manifest) -> PublishedCounts | None:
    """Compare rows per split with the nearest published split; None if the data set is not a published one."""
    # file names without folder and suffix
    stems = [row.image.rsplit("/", 1)[-1].rsplit(".", 1)[0] for row in manifest.rows]
    texts = [row.text for row in manifest.rows]
    data_set = identify(stems, texts, f"{manifest.name} {manifest.root.resolve().name}")
    if not data_set:
        return None

    # several papers split the same data set differently
    found = manifest.splits
    candidates = []
    for source, published in PUBLISHED[data_set].items():
        names = list(dict.fromkeys([*published, *found]))
        splits = [SplitCount(name, found.get(name, 0), published.get(name, 0)) for name in names]
        candidates.append(PublishedCounts(data_set, source, tuple(splits)))
    return min(
        candidates, key=lambda counts: sum(abs(c.found - c.published) for c in counts.splits)
    )


def _most(values: Counter[str], holds: Callable[[str], object]) -> bool:
    """Whether something holds for more than half of counted values."""
    return 2 * sum(n for value, n in values.items() if holds(value)) > values.total()
