"""Executes a program over the masks of named structures: the truth of prompts, and the last step of inference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from textmask.errors import ConfigError, LateralityError
from textmask.statement import Laterality, Level, Side
from textmask.text.program import (
    Above,
    AtLevel,
    Below,
    Everything,
    Except,
    Find,
    Inside,
    Largest,
    LeftOf,
    Nearest,
    Nothing,
    Nth,
    OnSide,
    Opposite,
    Program,
    Range,
    Relation,
    RightOf,
    Smallest,
    Step,
    Union,
    Unknown,
    steps_of,
)
from textmask.text.structures import StructureList, structure_list
from textmask.text.zones import ZONE_MAPS

Mask = npt.NDArray[np.bool_]
# components smaller than this share of the largest one are specks, not instances
SPECK = 0.02
# share of a piece that must lie in a ring's outline, and that may overlap what it is compared with
WITHIN, SAME = 0.5, 0.5
_EIGHT = np.ones((3, 3), dtype=bool)


def run_program(
    program: Program | Step,
    masks: Mapping[str, Mask],
    structures: StructureList | None = None,
    shape: tuple[int, int] | None = None,
) -> Mask:
    """The mask that a program asks for.

    A single structure has its connected components as pieces, a pair or group its members. Paired structures know the
    patient's side by their names; sides of the image, order, nearness and containment follow from the masks.

    Args:
        program: what to execute; unknown words and absent structures give an empty mask.
        masks: name in label maps ("left lung") -> bool H W; structures that are left out are absent.
        structures: the vocabulary; None is that of this package.
        shape: H and W, needed if there are no masks.

    Returns:
        Bool H W.

    Raises:
        ConfigError: there is neither a mask nor a shape, or the masks differ in size.
        LateralityError: the program names a side without a convention.
    """
    step = program.step if isinstance(program, Program) else program
    sizes = {mask.shape for mask in masks.values()} | ({shape} if shape else set())
    if len(sizes) != 1:
        found = ", ".join(map(str, sorted(sizes))) or "none"
        raise ConfigError(f"the masks of a program must have one size H W, got {found}.")
    for one in steps_of(step):
        sided = isinstance(one, OnSide) and one.side is not Side.CENTER
        if isinstance(one, OnSide) and sided and one.laterality is Laterality.UNKNOWN:
            raise LateralityError(
                f"the program names the {one.side.value} side, and it is unknown whether that is the patient's or "
                "the image's. Declare the laterality: image or patient."
            )
    size = sizes.pop()
    shown = {name: mask for name, mask in masks.items() if mask.any()}
    return _Run(shown, structures or structure_list(), (size[0], size[1])).region(step)


def label_set(
    step: Step, present: Sequence[str], structures: StructureList | None = None
) -> frozenset[str] | None:
    """The names in label maps whose union a step is, None if it is not a union of whole structures.

    Args:
        step: the step.
        present: the names that "every structure" stands for.
        structures: the vocabulary; None is that of this package.
    """
    known = structures or structure_list()
    if isinstance(step, Everything):
        return frozenset(present)
    if isinstance(step, Nothing | Unknown):
        return frozenset()
    if isinstance(step, Find):
        return frozenset(known.labels(step.name))
    if isinstance(step, Range):
        return frozenset(_range_labels(step, known))
    if isinstance(step, OnSide):
        paired = isinstance(step.of, Find) and known.structures[step.of.name].paired
        if not paired or step.laterality is not Laterality.PATIENT or step.side is Side.CENTER:
            return None
        return frozenset({f"{step.side.value} {step.of.name}"})  # type: ignore[union-attr]
    if isinstance(step, Union):
        parts = [label_set(part, present, known) for part in step.parts]
        found: frozenset[str] = frozenset()
        for part in parts:
            if part is None:
                return None
            found |= part
        return found
    if isinstance(step, Except):
        whole = label_set(step.of, present, known)
        without = label_set(step.without, present, known)
        return None if whole is None or without is None else whole - without
    return None


def _range_labels(step: Range, structures: StructureList) -> tuple[str, ...]:
    """The members of a group from one to another, in either direction."""
    group = structures.group_of(step.first.name, step.last.name)
    if group is None:
        return ()
    first, last = sorted(group.members.index(one.name) for one in (step.first, step.last))
    return group.members[first : last + 1]


def center_of(mask: Mask) -> tuple[float, float]:
    """Row and column of the centroid of a mask that is not empty."""
    rows, columns = np.nonzero(mask)
    return float(rows.mean()), float(columns.mean())


def components(mask: Mask) -> list[Mask]:
    """The 8-connected components of a mask without specks, the largest first."""
    labels, count = ndimage.label(mask, structure=_EIGHT)
    if count == 0:
        return []
    areas = np.bincount(labels.ravel())[1:]
    order = np.argsort(-areas, kind="stable")
    return [labels == number + 1 for number in order if areas[number] >= SPECK * areas[order[0]]]


def share_inside(mask: Mask, outline: Mask) -> float:
    """Share of a mask that lies within the convex outline of another one, whose own pixels do not count."""
    points = cv2.findNonZero(outline.astype(np.uint8))
    if points is None or not mask.any():
        return 0.0
    hull = np.zeros(mask.shape, np.uint8)
    cv2.fillConvexPoly(hull, cv2.convexHull(points), 1)
    return float((mask & (hull > 0) & ~outline).sum() / mask.sum())


@dataclass(frozen=True)
class _Run:
    """One program on one image: `region` gives the mask of a step, `pieces` what it can choose from."""

    masks: Mapping[str, Mask]
    structures: StructureList
    shape: tuple[int, int]

    def region(self, step: Step) -> Mask:
        """All pixels of a step."""
        names = label_set(step, tuple(self.masks), self.structures)
        if names is not None:
            return self._joined([self.masks[name] for name in names if name in self.masks])
        if isinstance(step, Except):
            return self.region(step.of) & ~self.region(step.without)
        return self._joined(self.pieces(step))

    def pieces(self, step: Step) -> list[Mask]:
        """What a step consists of: members of a pair or group, else connected components."""
        if isinstance(step, Find):
            labels = self.structures.labels(step.name)
            if len(labels) == 1:
                return components(self._joined(self._shown(labels)))
            return self._shown(labels)
        if isinstance(step, Everything):
            return list(self.masks.values())
        if isinstance(step, Range):
            return self._shown(_range_labels(step, self.structures))
        if isinstance(step, Union):
            return [part for part in map(self.region, step.parts) if part.any()]
        if isinstance(step, OnSide):
            return self._on_side(step)
        if isinstance(step, AtLevel):
            return self._cut(self.pieces(step.of), self._level_rows(step))
        if isinstance(step, Nth):
            return self._nth(step)
        if isinstance(step, Largest | Smallest):
            pieces = sorted(self.pieces(step.of), key=np.count_nonzero)
            return pieces[-1:] if isinstance(step, Largest) else pieces[:1]
        if isinstance(step, Except):
            return self._except(step)
        if isinstance(step, Nothing | Unknown):
            return []
        return self._related(step)

    def _shown(self, labels: Sequence[str]) -> list[Mask]:
        return [self.masks[label] for label in labels if label in self.masks]

    def _joined(self, pieces: Sequence[Mask]) -> Mask:
        whole = np.zeros(self.shape, dtype=bool)
        for piece in pieces:
            whole |= piece
        return whole

    def _cut(self, pieces: Sequence[Mask], where: Mask) -> list[Mask]:
        """The parts of pieces in a part of the image."""
        parts = [piece & where for piece in pieces]
        return [part for part in parts if part.any()]

    def _except(self, step: Except) -> list[Mask]:
        """The pieces that what is left out does not contain; what else it covers is cut away."""
        names = label_set(step, tuple(self.masks), self.structures)
        if names is None:
            return self._cut(self.pieces(step.of), ~self.region(step.without))
        return [mask for name, mask in self.masks.items() if name in names]

    # ---- places ----------------------------------------------------------------------------------------------

    def _on_side(self, step: OnSide) -> list[Mask]:
        """The member of a pair or group on a side, else the pixels in that part of the image."""
        structure = None
        if isinstance(step.of, Find):
            structure = self.structures.structures[step.of.name]
        if structure is None or not (structure.paired or structure.members):
            return self._cut(self.pieces(step.of), self._side_columns(step))
        if structure.paired and step.laterality is Laterality.PATIENT:
            return self._shown([f"{step.side.value} {structure.name}"])

        # by the place in the image: of two or more the outermost, of one only if it lies there
        right = (step.side is Side.RIGHT) != (step.laterality is Laterality.PATIENT)
        pieces = sorted(self.pieces(step.of), key=lambda piece: center_of(piece)[1])
        if step.side is Side.CENTER:
            return pieces[1:-1] if len(pieces) > 2 else []
        if len(pieces) > 1:
            return pieces[-1:] if right else pieces[:1]
        middle = (self.shape[1] - 1) / 2
        return [piece for piece in pieces if (center_of(piece)[1] > middle) == right]

    def _side_columns(self, step: OnSide) -> Mask:
        """The columns of a side, by the cuts of the structure's zone map, else the halves of the image."""
        name = self._zone_map(step.of) or "halves"
        low, high = ZONE_MAPS[name].side_cuts
        x = (np.arange(self.shape[1]) + 0.5) / self.shape[1]
        side = step.side.mirrored if step.laterality is Laterality.PATIENT else step.side
        parts = {Side.LEFT: x < low, Side.CENTER: (x >= low) & (x < high), Side.RIGHT: x >= high}
        return np.broadcast_to(parts[side][None, :], self.shape)

    def _level_rows(self, step: AtLevel) -> Mask:
        """The rows of a level: of the image where the structure has a zone map, else thirds of the step's extent."""
        rows = np.arange(self.shape[0]) + 0.5
        name = self._zone_map(step.of)
        if name:
            low, high = ZONE_MAPS[name].level_cuts
            y = rows / self.shape[0]
        else:
            low, high = 1 / 3, 2 / 3
            shown = np.flatnonzero(self.region(step.of).any(axis=1))
            top, height = (shown[0], shown[-1] + 1 - shown[0]) if len(shown) else (0, 1)
            y = (rows - top) / height
        parts = {
            Level.UPPER: y < low,
            Level.MIDDLE: (y >= low) & (y < high),
            Level.LOWER: y >= high,
        }
        return np.broadcast_to(parts[step.level][:, None], self.shape)

    def _zone_map(self, step: Step) -> str:
        """The zone map of the structure that a step is about, "" without one."""
        names = {one.name for one in steps_of(step) if isinstance(one, Find)}
        maps = {self.structures.structures[name].zone_map for name in names}
        return maps.pop() if len(maps) == 1 else ""

    def _nth(self, step: Nth) -> list[Mask]:
        axis = 0 if step.start in ("top", "bottom") else 1
        pieces = sorted(self.pieces(step.of), key=lambda piece: center_of(piece)[axis])
        if step.start in ("bottom", "right"):
            pieces.reverse()
        return pieces[step.number - 1 : step.number]

    # ---- relations -------------------------------------------------------------------------------------------

    def _related(self, step: Relation) -> list[Mask]:
        """The piece, or the pieces for `Inside`, that stand in a relation to the anchor."""
        anchor = self.region(step.anchor)
        if not anchor.any():
            return []
        pieces = []
        for piece in self.pieces(step.of):
            if (piece & anchor).sum() <= SAME * piece.sum():
                pieces.append(piece)
        if isinstance(step, Inside):
            return [piece for piece in pieces if share_inside(piece, anchor) >= WITHIN]
        if isinstance(step, Opposite):
            return self._opposite(pieces, center_of(anchor)[1])
        if isinstance(step, Nearest):
            distance = ndimage.distance_transform_edt(~anchor)
            return sorted(pieces, key=lambda piece: float(distance[piece].min()))[:1]

        # in the direction, and of these the nearest
        row, column = center_of(anchor)
        found: list[tuple[float, int]] = []
        for number, piece in enumerate(pieces):
            r, c = center_of(piece)
            beyond = {Above: r < row, Below: r > row, LeftOf: c < column, RightOf: c > column}
            if beyond[type(step)]:
                found.append((float(np.hypot(r - row, c - column)), number))
        return [pieces[min(found)[1]]] if found else []

    def _opposite(self, pieces: Sequence[Mask], column: float) -> list[Mask]:
        """The outermost piece on the other side of the middle between the pieces."""
        centers = [center_of(piece)[1] for piece in pieces]
        if not centers:
            return []
        middle = (min(centers) + max(centers)) / 2 if len(centers) > 1 else (self.shape[1] - 1) / 2
        far = max(centers) if column < middle else min(centers)
        beyond = (far > middle) if column < middle else (far < middle)
        return [pieces[centers.index(far)]] if beyond else []
