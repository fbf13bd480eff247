"""Label maps as referring data: images and label maps are decoded once, prompts and their masks are made on the fly."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from textmask.data.cache import SplitData, open_split
from textmask.data.label_maps import ClassNames, as_label_maps
from textmask.data.manifest import Manifest
from textmask.errors import DataWarning, LateralityError
from textmask.io.images import Bytes
from textmask.progress import Progress
from textmask.statement import Laterality
from textmask.text.execution import Mask, run_program
from textmask.text.program import Program, Step
from textmask.text.referring import Expression, HeldOut, Wording, draw_expressions, expressions
from textmask.text.structures import StructureList, structure_list


@dataclass(frozen=True)
class ReferringData:
    """One split of label maps with named structures.

    Attributes:
        data: the N images; `data.masks` are their label maps.
        labels: label of each structure, by the sides of the patient -> the values that show it.
        structures: the vocabulary.
        laterality: convention of generated prompts that do not declare one.
    """

    data: SplitData
    labels: Mapping[str, tuple[int, ...]]
    structures: StructureList
    laterality: Laterality

    def __len__(self) -> int:
        """Number of images N."""
        return len(self.data)

    def masks(self, number: int) -> dict[str, Mask]:
        """Label -> bool H W of one image; structures that it does not show have an empty mask."""
        return label_masks(np.asarray(self.data.masks[number]), self.labels)

    def mask(self, number: int, program: Program | Step) -> Bytes:
        """The mask that a program asks for, uint8 H W of 0 and 1."""
        found = run_program(program, self.masks(number), self.structures, self._shape)
        return found.astype(np.uint8)

    def expressions(
        self,
        number: int,
        rng: np.random.Generator,
        *,
        wording: Wording = "training",
        held_out: HeldOut = "without",
    ) -> list[Expression]:
        """All prompts for one image, see `textmask.text.referring.expressions`."""
        return expressions(
            self.masks(number),
            tuple(self.labels),
            rng,
            wording=wording,
            held_out=held_out,
            laterality=self.laterality,
            structures=self.structures,
        )

    def draw(
        self,
        number: int,
        count: int,
        rng: np.random.Generator,
        *,
        wording: Wording = "training",
        held_out: HeldOut = "without",
    ) -> list[tuple[Expression, Bytes]]:
        """At most `count` prompts for one image, each with its mask uint8 H W."""
        found = self.expressions(number, rng, wording=wording, held_out=held_out)
        masks = self.masks(number)
        drawn = []
        for expression in draw_expressions(found, count, rng):
            mask = run_program(expression.step, masks, self.structures, self._shape)
            drawn.append((expression, mask.astype(np.uint8)))
        return drawn

    @property
    def _shape(self) -> tuple[int, int]:
        return (self.data.masks.shape[1], self.data.masks.shape[2])


def label_masks(values: Bytes, labels: Mapping[str, tuple[int, ...]]) -> dict[str, Mask]:
    """Label map H W -> the mask of each label, bool H W."""
    found = {}
    for label, shown in labels.items():
        table = np.zeros(256, dtype=bool)
        table[[value for value in shown if value < 256]] = True
        found[label] = table[values]
    return found


def open_referring(
    manifest: Manifest,
    classes: ClassNames,
    split: str,
    image_size: tuple[int, int],
    *,
    structures: StructureList | None = None,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> ReferringData:
    """Open a split of label maps as referring data.

    Args:
        manifest: rows whose masks are label maps.
        classes: the names of their values.
        split: name of the split.
        image_size: rows and columns to resize to.
        structures: the vocabulary; None is that of this package.
        cache_dir: folder of the cache; None means the user's.
        progress: called with (task, done, total) while files are read.

    Raises:
        DataError: as `as_label_maps` and `open_split`.
        LateralityError: a name has a side, and the data do not declare whose.
    """
    known = structures or structure_list()
    kept, named = as_label_maps(manifest, classes, cache_dir=cache_dir, progress=progress)
    labels = vocabulary_labels(named, manifest, classes.source, known)
    data = open_split(kept, split, image_size, cache_dir, progress)
    whose = manifest.laterality
    patient = Laterality.PATIENT
    return ReferringData(data, labels, known, patient if whose is Laterality.UNKNOWN else whose)


def vocabulary_labels(
    named: Mapping[str, tuple[int, ...]], manifest: Manifest, source: str, known: StructureList
) -> dict[str, tuple[int, ...]]:
    """Names of a data set as labels of the vocabulary -> their values; a name outside of it stays, after a warning.

    Args:
        named: name in the data set -> values.
        manifest: the data set, whose laterality says whose left is in a name.
        source: the file of the names.
        known: the vocabulary.

    Raises:
        LateralityError: a name has a side, and the data set does not declare whose.
    """
    labels: dict[str, tuple[int, ...]] = {}
    foreign = []
    for name, values in named.items():
        found = known.find(name)
        label = found.label if found else name
        if found is None:
            foreign.append(name)
        elif found.side is not None:
            if manifest.laterality is Laterality.UNKNOWN:
                raise LateralityError(
                    f"{source}: {name!r} has a side, and it is unknown whether that is the patient's or the image's. "
                    "Declare it: --laterality patient or --laterality image."
                )
            # labels are sides of the patient, which lie on the other side of the image
            if manifest.laterality is Laterality.IMAGE:
                label = f"{found.side.mirrored.value} {found.structure}"
        labels[label] = tuple(sorted({*labels.get(label, ()), *values}))
    if foreign:
        warnings.warn(
            f"{source}: {len(foreign)} names are not in the vocabulary {known.source}, so that no prompt is made for "
            f"them: {', '.join(foreign[:8])}.",
            DataWarning,
            stacklevel=3,
        )
    return labels
