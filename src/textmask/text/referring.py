"""Generates prompts for a label map: what it shows decides which programs make sense, and each gets a wording.

The program of a prompt is known before its words are, so that its mask never rests on the parser.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from textmask.statement import Laterality, Side
from textmask.text.execution import Mask, center_of, components, run_program, share_inside
from textmask.text.program import (
    ORDINALS,
    Above,
    Below,
    Everything,
    Except,
    Find,
    Inside,
    Largest,
    LeftOf,
    Nothing,
    Nth,
    OnSide,
    Opposite,
    Range,
    RightOf,
    Smallest,
    Step,
    Union,
    Unknown,
    steps_of,
    with_laterality,
)
from textmask.text.program_grammar import parse_program
from textmask.text.referring_templates import TEMPLATES
from textmask.text.structures import Named, Start, Structure, StructureList, structure_list

Wording = Literal["training", "unseen"]
HeldOut = Literal["without", "only", "with"]
KINDS = (
    "name", "synonym", "side", "level", "relation", "comparison", "instance", "union", "all-but", "distractor",
    "negation", "negated finding", "absent", "foreign", "contradictory", "report", "implicit",
)  # fmt: skip
# differences that a reader sees: of areas, and of places as a share of the image
CLEAR_AREA, CLEAR_PLACE = 1.15, 0.05
_BORDERS: dict[Start, str] = {
    "top": "topmost",
    "bottom": "lowest",
    "left": "leftmost",
    "right": "rightmost",
}
_DIRECTIONS: dict[type, str] = {
    Above: "above",
    Below: "below",
    LeftOf: "to the image left of",
    RightOf: "to the image right of",
}


@dataclass(frozen=True)
class Expression:
    """A prompt with what it asks for.

    Attributes:
        prompt: the text.
        step: the program, from which the mask follows (`run_program`).
        kind: kind of prompt, one of `KINDS`.
    """

    prompt: str
    step: Step
    kind: str


def expressions(
    masks: Mapping[str, Mask],
    labels: Sequence[str],
    rng: np.random.Generator,
    *,
    wording: Wording = "training",
    held_out: HeldOut = "without",
    laterality: Laterality = Laterality.PATIENT,
    structures: StructureList | None = None,
) -> list[Expression]:
    """One prompt for each program that makes sense for a label map, in the order of `KINDS`.

    Args:
        masks: label -> bool H W of the structures of one image; empty masks are absent structures.
        labels: every label that images of this data set may have.
        rng: draws wordings, synonyms and partners.
        wording: templates and synonyms for training, or those that training never has.
        held_out: without the combinations that training leaves out, only these, or with them.
        laterality: convention of prompts that do not declare one; the labels are sides of the patient.
        structures: the vocabulary; None is that of this package.
    """
    known = structures or structure_list()
    scene = _Scene(
        {label: mask for label, mask in masks.items() if mask.any() and known.find(label)},
        tuple(label for label in labels if known.find(label)),
        rng,
        0 if wording == "training" else 1,
        laterality,
        known,
    )
    found: list[Expression] = []
    for kind in KINDS:
        for template, step, slots in MAKERS[kind](scene):
            held = is_held_out(step, known)
            if held_out == "with" or held == (held_out == "only"):
                found.append(Expression(scene.worded(template, slots), step, kind))
    return found


def draw_expressions(
    found: Sequence[Expression], count: int, rng: np.random.Generator
) -> list[Expression]:
    """Some of the prompts of an image: a kind is drawn first, so that frequent kinds do not crowd out rare ones."""
    by_kind: dict[str, list[Expression]] = {}
    for expression in found:
        by_kind.setdefault(expression.kind, []).append(expression)
    drawn: list[Expression] = []
    while by_kind and len(drawn) < count:
        kind = list(by_kind)[rng.integers(len(by_kind))]
        rest = by_kind[kind]
        drawn.append(rest.pop(rng.integers(len(rest))))
        if not rest:
            del by_kind[kind]
    return drawn


def is_held_out(step: Step, structures: StructureList | None = None) -> bool:
    """Whether a program has a combination that training leaves out, under any convention of sides."""
    patterns = _held_out_steps(structures or structure_list())
    return any(one in patterns for one in steps_of(with_laterality(step, Laterality.UNKNOWN)))


@lru_cache(maxsize=8)
def _held_out_steps(structures: StructureList) -> frozenset[Step]:
    return frozenset(
        parse_program(text, structures=structures).step for text in structures.held_out
    )


Made = Iterator[tuple[str, Step, dict[str, str]]]


@dataclass(frozen=True)
class _Scene:
    """One label map and how prompts for it are worded."""

    masks: Mapping[str, Mask]
    labels: tuple[str, ...]
    rng: np.random.Generator
    wording: int
    laterality: Laterality
    known: StructureList

    def worded(self, template: str, slots: dict[str, str]) -> str:
        """A prompt in one of the wordings of a template."""
        choices = TEMPLATES[template][self.wording]
        structure = self.known.structures.get(slots.get("a", ""))
        plural = structure.plural if structure else ""
        return choices[self.rng.integers(len(choices))].format(plural=plural, **slots)

    def named(self, label: str) -> Named:
        """What a label stands for."""
        found = self.known.find(label)
        assert found is not None  # other labels are left out
        return found

    def step(self, label: str) -> Step:
        """The program of a label."""
        named = self.named(label)
        find = Find(named.structure)
        return OnSide(named.side, find, Laterality.PATIENT) if named.side else find

    def phrase(self, label: str, name: str | None = None) -> str:
        """A label in words, with another name for its structure if one is given."""
        named = self.named(label)
        words = name or named.structure
        whose = "" if self.laterality is Laterality.PATIENT else "patient's "
        return f"{whose}{named.side.value} {words}" if named.side else words

    def other_name(self, structure: str) -> str | None:
        """A synonym, lay word or abbreviation; one that training never has for unseen wordings."""
        phrases = self.known.structures[structure].phrases
        kinds = ("unseen",) if self.wording else ("synonyms", "lay", "abbreviations")
        choices = [phrase for kind in kinds for phrase in phrases.get(kind, ())]
        return choices[self.rng.integers(len(choices))] if choices else None

    def shown(self) -> list[str]:
        """The labels of this image, in the order of the data set."""
        return [label for label in self.labels if label in self.masks]

    def partner(self, label: str) -> str | None:
        """Another label of this image."""
        others = [other for other in self.shown() if other != label]
        return others[self.rng.integers(len(others))] if others else None

    def wholes(self) -> list[Structure]:
        """Pairs and groups of which this image shows at least two members."""
        found = []
        for name, structure in self.known.structures.items():
            shown = sum(label in self.masks for label in self.known.labels(name))
            if shown > 1 and (structure.paired or structure.members):
                found.append(structure)
        return found

    def pieces(self, structure: Structure) -> list[Mask]:
        """The masks of the members of a pair or group."""
        labels = self.known.labels(structure.name)
        return [self.masks[label] for label in labels if label in self.masks]

    def is_clear(self, step: Step) -> bool:
        """Whether a step selects something."""
        return bool(run_program(step, self.masks, self.known).any())


def _name_prompts(scene: _Scene) -> Made:
    for label in scene.shown():
        yield "name", scene.step(label), {"a": scene.phrase(label)}


def _synonyms(scene: _Scene) -> Made:
    for label in scene.shown():
        other = scene.other_name(scene.named(label).structure)
        if other is not None:
            yield "name", scene.step(label), {"a": scene.phrase(label, other)}


def _side_prompts(scene: _Scene) -> Made:
    for label in scene.shown():
        named = scene.named(label)
        if named.side is not None:
            slots = {"a": named.structure, "side": named.side.value}
            yield "patient_side", scene.step(label), slots
    for structure in scene.wholes():
        columns = [center_of(piece)[1] for piece in scene.pieces(structure)]
        if len(columns) == 2 and _apart(columns, scene, axis=1):
            for side in (Side.LEFT, Side.RIGHT):
                step = OnSide(side, Find(structure.name), Laterality.IMAGE)
                yield "image_side", step, {"a": structure.name, "side": side.value}


def _level_prompts(scene: _Scene) -> Made:
    for structure in scene.wholes():
        if structure.start not in ("top", "bottom"):
            continue
        count = len(scene.pieces(structure))
        starts: tuple[Start, ...] = ("top", "bottom")
        for start in starts:
            slots = {"a": structure.name, "start": start, "most": _BORDERS[start]}
            yield "border", Nth(1, start, Find(structure.name)), slots
            for number in range(1, count + 1):
                step = Nth(number, start, Find(structure.name))
                yield "nth", step, {**slots, "nth": ORDINALS[number]}
        shown = [name for name in structure.members if name in scene.masks]
        for first in range(len(shown)):
            for last in range(first + 1, len(shown)):
                a, b = shown[first], shown[last]
                yield "range", Range(Find(a), Find(b)), {"a": a, "b": b}


def _relations(scene: _Scene) -> Made:
    """Above, below, left, right, opposite and inside, where the answer is clear."""
    for structure in scene.wholes():
        own = scene.known.labels(structure.name)
        pieces = scene.pieces(structure)
        for label in scene.shown():
            if label in own and structure.start is None:
                continue
            anchor = scene.step(label)
            slots = {"a": structure.name, "b": scene.phrase(label)}
            for kind in (Above, Below, LeftOf, RightOf):
                axis = 0 if kind in (Above, Below) else 1
                # members of a column are above and below each other only
                if label in own and (structure.start in ("top", "bottom")) != (axis == 0):
                    continue
                step = kind(Find(structure.name), anchor)
                if _is_beyond(scene, step, pieces, label, axis):
                    yield "relation", step, {**slots, "relation": _DIRECTIONS[kind]}
            if structure.paired and len(pieces) == 2 and scene.named(label).side is not None:
                step = Opposite(Find(structure.name), anchor)
                if scene.is_clear(step):
                    yield "relation", step, {**slots, "relation": "opposite to"}
    for label, outline in scene.masks.items():
        shares = [share_inside(mask, outline) for mask in scene.masks.values()]
        if max(shares) > 0.9 and sum(share > 0.1 for share in shares) == 1:
            yield "inside", Inside(Everything(), scene.step(label)), {"b": scene.phrase(label)}


def _is_beyond(scene: _Scene, step: Step, pieces: Sequence[Mask], label: str, axis: int) -> bool:
    """Whether a step selects one piece that lies clearly in the direction, and clearly nearer than any other."""
    got = run_program(step, scene.masks, scene.known)
    if not got.any():
        return False
    anchor = center_of(scene.masks[label])
    size = got.shape[axis]
    if abs(center_of(got)[axis] - anchor[axis]) < CLEAR_PLACE * size:
        return False
    distances = []
    for piece in pieces:
        distances.append(float(np.hypot(*np.subtract(center_of(piece), anchor))))
    nearest = float(np.hypot(*np.subtract(center_of(got), anchor)))
    others = [one for one in distances if one > 0 and abs(one - nearest) > 1e-9]
    return all(abs(one - nearest) > CLEAR_PLACE * size for one in others) or len(distances) > 2


def _comparisons(scene: _Scene) -> Made:
    for structure in scene.wholes():
        areas = sorted(int(piece.sum()) for piece in scene.pieces(structure))
        if structure.paired and len(areas) == 2 and areas[1] > CLEAR_AREA * areas[0]:
            find, a = Find(structure.name), structure.name
            yield "compared", Largest(find), {"a": a, "more": "larger"}
            yield "compared", Smallest(find), {"a": a, "more": "smaller"}


def _instances(scene: _Scene) -> Made:
    for label in scene.shown():
        named = scene.named(label)
        pieces = components(scene.masks[label])
        if named.side is not None or len(pieces) < 2:
            continue
        find, slots = Find(named.structure), {"a": named.structure}
        areas = [int(piece.sum()) for piece in pieces]
        if areas[0] > CLEAR_AREA * areas[1]:
            yield "instance", Largest(find), {**slots, "more": "largest"}
        for start, most in _BORDERS.items():
            axis = 0 if start in ("top", "bottom") else 1
            places = sorted(center_of(piece)[axis] for piece in pieces)
            first, second = places[:2] if start in ("top", "left") else places[:-3:-1]
            if abs(first - second) > CLEAR_PLACE * pieces[0].shape[axis]:
                yield "border", Nth(1, start, find), {**slots, "most": most}


def _unions(scene: _Scene) -> Made:
    for structure in scene.wholes():
        template = "both" if structure.paired else "group"
        yield template, Find(structure.name), {"a": structure.name}
    for label in scene.shown():
        other = scene.partner(label)
        if other is not None:
            step = Union((scene.step(label), scene.step(other)))
            yield "union", step, {"a": scene.phrase(label), "b": scene.phrase(other)}


def _all_but(scene: _Scene) -> Made:
    if len(scene.masks) > 2:
        for label in scene.shown():
            step = Except(Everything(), scene.step(label))
            yield "all_but", step, {"a": scene.phrase(label)}
    for structure in scene.wholes():
        if structure.start in ("top", "bottom"):
            for label in scene.known.labels(structure.name):
                if label in scene.masks:
                    step = Except(Find(structure.name), scene.step(label))
                    yield "group_but", step, {"a": structure.name, "b": scene.phrase(label)}


def _with_partner(template: str) -> Callable[[_Scene], Made]:
    """A maker of prompts that name a second structure in vain."""

    def make(scene: _Scene) -> Made:
        for label in scene.shown():
            other = scene.partner(label)
            if other is not None:
                slots = {"a": scene.phrase(label), "b": scene.phrase(other)}
                yield template, scene.step(label), slots

    return make


def _negated(scene: _Scene) -> Made:
    for label in scene.shown():
        yield "negated_finding", Nothing(), {"a": scene.phrase(label)}


def _absent(scene: _Scene) -> Made:
    for label in scene.labels:
        if label not in scene.masks:
            yield "name", scene.step(label), {"a": scene.phrase(label)}


def _foreign(scene: _Scene) -> Made:
    if scene.known.foreign:
        name = scene.known.foreign[scene.rng.integers(len(scene.known.foreign))]
        yield "name", Unknown(tuple(name.split())), {"a": name}


def _contradictory(scene: _Scene) -> Made:
    for structure in scene.wholes():
        if structure.paired:
            left = OnSide(Side.LEFT, Find(structure.name), scene.laterality)
            yield "contradictory", OnSide(Side.RIGHT, left, scene.laterality), {"a": structure.name}


def _reports(scene: _Scene) -> Made:
    shown = scene.shown()
    if len(shown) > 2:
        a, b, c = (shown[i] for i in scene.rng.permutation(len(shown))[:3])
        step = Union((scene.step(a), scene.step(b)))
        yield (
            "report",
            step,
            {key: scene.phrase(one) for key, one in zip("abc", (a, b, c), strict=True)},
        )


def _implicit(scene: _Scene) -> Made:
    for label in scene.shown():
        named = scene.named(label)
        phrases = scene.known.structures[named.structure].phrases.get("descriptions", ())
        if phrases and named.side is None:
            yield "name", scene.step(label), {"a": phrases[scene.rng.integers(len(phrases))]}


def _apart(places: Sequence[float], scene: _Scene, axis: int) -> bool:
    """Whether two places differ clearly along an axis."""
    shape = next(iter(scene.masks.values())).shape
    return abs(places[0] - places[1]) > CLEAR_PLACE * shape[axis]


MAKERS: dict[str, Callable[[_Scene], Made]] = {
    "name": _name_prompts,
    "synonym": _synonyms,
    "side": _side_prompts,
    "level": _level_prompts,
    "relation": _relations,
    "comparison": _comparisons,
    "instance": _instances,
    "union": _unions,
    "all-but": _all_but,
    "distractor": _with_partner("distractor"),
    "negation": _with_partner("negation"),
    "negated finding": _negated,
    "absent": _absent,
    "foreign": _foreign,
    "contradictory": _contradictory,
    "report": _reports,
    "implicit": _implicit,
}
