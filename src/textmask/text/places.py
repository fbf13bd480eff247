"""Where a piece of a report sentence is: its words grouped into places, and the places as zones of the lungs.

A group is a run of words without a preposition or verb ("the right lower lobe", "on the left"). The groups of a piece
describe one place together: "the base | of | the left lung". An organ beside the lungs keeps the side of its own group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from textmask.statement import Level, Side, Zone
from textmask.text.lexicon import BOTH
from textmask.text.tokens import Token

ALL = frozenset(Level)
_PLACE_ROLES = frozenset({"side", "level", "lung", "place", "segment", "finding", "anatomy"})
_OVER = frozenset({"over", "overlying", "between"})
# organs whose words do not take a side away from the lungs
LUNG_ORGANS = frozenset({"lung", "pleura", "image", "mediastinum"})


@dataclass
class Group:
    """Words of one place.

    Attributes:
        sides, levels: as named.
        fixed: zones of names such as RLL and "bibasilar".
        noun: a noun of the lung is among the words; `lung`: it is the whole lung; `plural`: both sides if unnamed.
        lungs: both whole lungs.
        finding: a finding of lung or pleura is among the words.
        foreign: it is about another organ, whose side is not a place.
        of: the group before it is a part of this one ("the apex of the left lung").
        segment: its level is that of a segment, which counts only where no lobe is named.
        over: it is what the words before it overlie; `over_rib`: a rib.
    """

    sides: frozenset[Side] = frozenset()
    levels: frozenset[Level] = frozenset()
    fixed: frozenset[Zone] = frozenset()
    noun: bool = False
    lung: bool = False
    plural: bool = False
    lungs: bool = False
    finding: bool = False
    foreign: bool = False
    of: bool = False
    segment: bool = False
    adjunct: bool = False
    over: bool = False
    over_rib: bool = False

    @property
    def named(self) -> bool:
        """Whether it says anything about a place in the lungs."""
        return not self.foreign and bool(self.sides or self.levels or self.fixed or self.noun)


@dataclass
class Place:
    """What the groups of a piece say together, before sides and levels are shared between pieces.

    Attributes:
        sides, levels: common to the piece.
        fixed: zones that are complete.
        noun, lung, plural, finding, foreign, adjunct: as in `Group`, of any group.
        own: side or level are words of the finding itself ("left effusion"), so that no other level is shared with it.
        zones: filled by `share`.
    """

    sides: frozenset[Side] = frozenset()
    levels: frozenset[Level] = frozenset()
    fixed: frozenset[Zone] = frozenset()
    noun: bool = False
    lung: bool = False
    plural: bool = False
    finding: bool = False
    foreign: bool = False
    adjunct: bool = False
    own: bool = False
    lungs: bool = False
    zones: set[Zone] = field(default_factory=set)

    @property
    def named(self) -> bool:
        """Whether it says anything about a place in the lungs."""
        return bool(self.sides or self.levels or self.fixed or self.noun)


def place_of(tokens: Sequence[Token]) -> Place:
    """The place that the words of a piece name."""
    if _PLACE_ROLES.isdisjoint([token.role for token in tokens]):
        return Place()
    groups = _groups(tokens)
    _give_sides_away(groups)
    groups = [
        group for group in groups if group.named or group.foreign or group.finding or group.adjunct
    ]
    place = Place(
        finding=any(group.finding for group in groups),
        foreign=any(group.foreign for group in groups),
        adjunct=any(group.adjunct for group in groups),
    )
    if groups and groups[0].foreign and not groups[0].finding and not place.finding:
        return place  # "nipple shadow overlying the left base"
    named = _most_specific([group for group in groups if group.named])
    if not named and place.finding:
        # a rib behind a nodule tells its side, and no level: ribs slope
        place.sides = frozenset(side for group in groups if group.over_rib for side in group.sides)
    place.noun = any(group.noun for group in named)
    place.lung = any(group.lung for group in named)
    place.plural = any(group.plural for group in named)
    place.lungs = any(group.lungs for group in named)
    place.own = any(group.finding for group in named)

    # one side or one level for all groups; several complete groups are places of their own
    complete = [group for group in named if group.sides and group.levels]
    if len(complete) > 1:
        for group in named:
            sides = group.sides or complete[0].sides
            place.fixed |= group.fixed | {
                (s, v) for s in sides - {Side.CENTER} for v in group.levels or ALL
            }
        return place
    for group in named:
        place.sides |= group.sides - {Side.CENTER}
        place.levels |= group.levels
        place.fixed |= group.fixed
    if place.fixed and place.sides and not place.levels:
        own = frozenset(side for side, _ in place.fixed)
        if place.sides <= own or not any(group.noun and not group.fixed for group in named):
            place.fixed = (
                frozenset((s, v) for s in place.sides for _, v in place.fixed) or place.fixed
            )
            place.sides = frozenset()
    return place


def _groups(tokens: Sequence[Token]) -> list[Group]:
    """Cut at prepositions and verbs, and read the words between."""
    groups = [Group()]
    segment_levels: frozenset[Level] = frozenset()
    for i, token in enumerate(tokens):
        term, group = token.term, groups[-1]
        if term is None or term.role == "idiom":
            continue
        if term.role == "prep" or term.role in ("join", "follow"):
            groups.append(
                Group(of=token.word == "of", over=not _OVER.isdisjoint(token.word.split()))
            )
        elif term.role == "side":
            follows = tokens[i + 1].role if i + 1 < len(tokens) else ""
            if token.word != "either" or follows in ("lung", "level", "segment"):
                group.sides |= term.sides  # "either atelectasis or infiltrate" names no side
        elif term.role == "level":
            group.levels |= term.levels
        elif term.role == "lung":
            after = tokens[i + 1].term if i + 1 < len(tokens) else None
            bare = term.name == "any" and not (term.plural or group.sides or group.levels)
            if bare and token.word == "lung" and after is not None and after.role == "finding":
                group.adjunct = True  # "lung nodule" names no place
                continue
            group.levels |= term.levels
            group.noun |= term.noun
            group.lungs |= term.plural and token.word.startswith(("lung", "hemithora"))
            group.lung |= term.name == "any" and token.word.startswith(("lung", "hemithora"))
            group.plural |= term.plural
        elif term.role == "place":
            group.fixed |= term.zones
            group.noun = True
        elif term.role == "segment":
            group.segment = True
            segment_levels |= term.levels
        elif term.role == "finding":
            foreign = term.organ not in LUNG_ORGANS
            group.foreign |= foreign
            group.finding |= not foreign
        elif term.role == "anatomy":
            group.foreign |= term.organ not in LUNG_ORGANS
            group.over_rib |= group.over and token.word.startswith("rib")
    if segment_levels and not any(group.levels for group in groups):
        holder = next(group for group in groups if group.segment)
        holder.levels, holder.noun = segment_levels, True
    return groups


def _give_sides_away(groups: Sequence[Group]) -> None:
    """Read "Fracture of the clavicle | on the left": a side alone belongs to the organ before it."""
    for i, group in enumerate(groups):
        alone = group.sides and not (
            group.levels or group.fixed or group.lung or group.finding or group.foreign
        )
        if not alone:
            continue
        others = [*groups[:i][::-1], *groups[i + 1 :]]
        head = next(
            (other for other in others if other.foreign or other.finding or other.noun), None
        )
        if head is not None and head.foreign and not head.finding:
            group.foreign = True


def _most_specific(groups: list[Group]) -> list[Group]:
    """Without groups that another one narrows: "the base of the left lung", "left pneumothorax at the left apex"."""
    kept: list[Group] = []
    for i, group in enumerate(groups):
        whole = groups[i + 1] if i + 1 < len(groups) and groups[i + 1].of else None
        if (
            whole is not None
            and whole.levels
            and group.levels
            and not group.fixed
            and group.levels != whole.levels
        ):
            group.levels = frozenset()  # "the upper part of the left lower lobe"
            if not group.sides:
                continue
        kept.append(group)
    narrow = [group for group in kept if group.levels or group.fixed]
    if not narrow:
        return kept

    out = []
    for group in kept:
        broad = not group.levels and not group.fixed
        sided = [other for other in narrow if other.sides or other.fixed]
        covered = any(group.sides <= _sides(other) for other in sided)
        if not (broad and group.plural and sided) and not (broad and group.sides and covered):
            out.append(group)
    return out


def _sides(group: Group) -> frozenset[Side]:
    return group.sides | frozenset(side for side, _ in group.fixed)


def share(places: Sequence[Place], known: frozenset[Side]) -> bool:
    """Complete the places of a clause: side and level are shared, as in "left upper and lower lobes".

    Args:
        places: of the pieces of one clause, in order; their `zones` are filled.
        known: sides that are understood when none is named.

    Returns:
        Whether a lung in the singular has no side, so that both were taken.
    """
    unsided = any(place.adjunct and not place.named for place in places)
    named = [place for place in places if place.named]
    any_noun = any(place.noun for place in named)
    originals = [(place.sides, place.levels) for place in named]
    for i, place in enumerate(named):
        before, after = list(range(i))[::-1], list(range(i + 1, len(named)))
        place.zones |= place.fixed
        if not (place.sides or place.levels or (place.noun and not place.fixed)):
            continue
        sides, levels = place.sides, place.levels
        if not sides:
            # "middle and upper right lung": a level without a noun belongs to what follows
            order = after[:1] + before + after if not place.noun else before + after
            sides = next(
                (own for j in order if (own := _with_fixed(named[j], originals[j][0]))), known
            )
        if not levels:
            levels = _shared_levels(named, originals, i, before, after)
        if not sides and not levels and not place.lungs:
            unsided |= not place.plural  # "opacity in the lung"
            continue
        if not sides and (any_noun or place.levels):
            sides = BOTH
            unsided |= not any(other.plural for other in named)
        place.zones |= {(side, level) for side in sides for level in levels or ALL}
    return unsided


def _with_fixed(place: Place, sides: frozenset[Side]) -> frozenset[Side]:
    return sides or frozenset(side for side, _ in place.fixed)


def _shared_levels(
    named: Sequence[Place],
    originals: Sequence[tuple[frozenset[Side], frozenset[Level]]],
    i: int,
    before: Sequence[int],
    after: Sequence[int],
) -> frozenset[Level]:
    """Read "Left and right lower lobes", "lower left and right lung": one noun, so one level."""
    place = named[i]
    if place.plural or (place.sides == BOTH and (place.noun or place.finding)):
        return frozenset()
    if not (place.lung or place.noun or place.own):
        for j in after:
            apart = (
                place.finding and named[j].own
            )  # "pneumothorax on the left and right lower lobe opacity"
            if originals[j][1] and not apart:
                return originals[j][1]
    if before and not place.own and not place.finding:
        earlier = named[before[0]]
        if not (place.noun and earlier.noun):
            return originals[before[0]][1]
    return frozenset()
