"""The structures that a prompt can name: their names, synonyms, sides, order and containment, read from a file.

`structures.toml` describes the fields. A label map and a prompt meet in the canonical names of this vocabulary.
"""

from __future__ import annotations

import re
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from textmask.errors import ConfigError
from textmask.statement import Side
from textmask.text.lexicon import phrases_of
from textmask.text.zones import ZONE_MAPS

Start = Literal["top", "bottom", "left", "right"]
STARTS: tuple[Start, ...] = ("top", "bottom", "left", "right")
# kinds of phrases that generated prompts may have
PHRASE_KINDS = ("synonyms", "lay", "abbreviations", "descriptions", "unseen")
_REFERENCES = ("inside", "left_of", "brighter_than")
_FIELDS = (
    "regions", "modality", "plural", "paired", "members", "start", "zone_map", "image_side",
    *PHRASE_KINDS, *_REFERENCES,
)  # fmt: skip
_WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?")
_PAIR = (Side.RIGHT, Side.LEFT)
_NEAREST = 3


@dataclass(frozen=True)
class Structure:
    """One structure or group of structures; see `structures.toml` for the meaning of the fields.

    Attributes:
        name: canonical name, without a side if it is paired.
        plural: of the name.
        phrases: kind of phrase (`PHRASE_KINDS`) -> phrases.
    """

    name: str
    regions: tuple[str, ...]
    modality: str = ""
    plural: str = ""
    paired: bool = False
    members: tuple[str, ...] = ()
    start: Start | None = None
    zone_map: str = ""
    inside: str = ""
    image_side: str = ""
    left_of: str = ""
    brighter_than: str = ""
    phrases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Named:
    """What a phrase stands for: a structure, and for a member of a pair its side of the patient."""

    structure: str
    side: Side | None = None

    @property
    def label(self) -> str:
        """The name that label maps use, such as "left lung"."""
        return f"{self.side.value} {self.structure}" if self.side else self.structure


@dataclass(frozen=True, eq=False)
class StructureList:
    """The vocabulary of structures.

    Attributes:
        structures: canonical name -> structure.
        foreign: names of structures that the vocabulary does not have, for prompts that have to be refused.
        held_out: prompts of combinations that generated prompts for training leave out.
        source: the file.
    """

    structures: Mapping[str, Structure]
    foreign: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()
    source: str = "structures.toml"

    @cached_property
    def phrase_table(self) -> dict[tuple[str, ...], str]:
        """Words of each phrase, plurals included -> canonical name."""
        table: dict[tuple[str, ...], str] = {}
        for name, structure in self.structures.items():
            for phrase in self.phrases_of(structure):
                table[name_words(phrase)] = name
        for words, name in list(table.items()):
            if not words[-1].endswith("s"):
                table.setdefault((*words[:-1], f"{words[-1]}s"), name)
        return table

    @staticmethod
    def phrases_of(structure: Structure) -> list[str]:
        """All phrases of a structure, its name first."""
        found = [structure.name, structure.plural]
        for kind in PHRASE_KINDS:
            found += structure.phrases.get(kind, ())
        return found

    def find(self, phrase: str) -> Named | None:
        """What a name such as "Left lung", "RV" or "L3" stands for, None if it is not in the vocabulary."""
        words = name_words(phrase)
        if words in self.phrase_table:
            return Named(self.phrase_table[words])
        if len(words) > 1 and words[0] in ("left", "right") and words[1:] in self.phrase_table:
            name = self.phrase_table[words[1:]]
            if self.structures[name].paired:
                return Named(name, Side(words[0]))
        return None

    def labels(self, name: str) -> tuple[str, ...]:
        """The names in label maps that a structure stands for: both of a pair, all members of a group, or itself."""
        structure = self.structures[name]
        if structure.paired:
            return tuple(f"{side.value} {name}" for side in _PAIR)
        found: list[str] = []
        for member in structure.members:
            found += self.labels(member)
        return tuple(found) or (name,)

    @cached_property
    def regions(self) -> dict[str, tuple[str, ...]]:
        """Region -> the names in label maps of its structures, groups left out."""
        found: dict[str, list[str]] = defaultdict(list)
        for name, structure in self.structures.items():
            if not structure.members:
                for region in structure.regions:
                    found[region] += self.labels(name)
        return {region: tuple(names) for region, names in found.items()}

    def group_of(self, *names: str) -> Structure | None:
        """The ordered group that has all these members, None if there is none."""
        for structure in self.structures.values():
            if structure.start and all(name in structure.members for name in names):
                return structure
        return None

    @cached_property
    def _trigrams(self) -> tuple[dict[str, list[int]], list[tuple[str, int]]]:
        """Three letters -> numbers of the phrases with them; name and number of such parts of each phrase."""
        found: dict[str, list[int]] = defaultdict(list)
        phrases = []
        for number, (words, name) in enumerate(self.phrase_table.items()):
            parts = _trigrams_in(words)
            phrases.append((name, len(parts)))
            for part in parts:
                found[part].append(number)
        return found, phrases

    def nearest(self, words: tuple[str, ...]) -> tuple[str, ...]:
        """The three names with a phrase that looks most like some words, the most similar first."""
        table, phrases = self._trigrams
        parts = _trigrams_in(words)
        counts: dict[int, int] = defaultdict(int)
        for part in parts:
            for number in table.get(part, ()):
                counts[number] += 1

        # Dice of the parts, the best phrase of each name
        best = dict.fromkeys(self.structures, 0.0)
        for number, count in counts.items():
            name, size = phrases[number]
            best[name] = max(best[name], 2 * count / (size + len(parts)))
        return tuple(sorted(best, key=lambda name: -best[name])[:_NEAREST])


def name_words(text: str) -> tuple[str, ...]:
    """The words of a name, in lower case."""
    return tuple(_WORD.findall(text.lower()))


@cache
def structure_list() -> StructureList:
    """The vocabulary of this package."""
    content = files("textmask.text").joinpath("structures.toml").read_text(encoding="utf-8")
    return _parse(content, "structures.toml")


def read_structures(path: str | Path) -> StructureList:
    """Read a vocabulary of structures from a TOML file in the form of `structures.toml`.

    Raises:
        ConfigError: the file cannot be read, has no structures, two structures share a name, a name or field is
            unknown, or structures contain each other in a circle.
    """
    try:
        content = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a text file ({error}).") from error
    return _parse(content, str(path))


def _parse(content: str, source: str) -> StructureList:
    try:
        table = tomllib.loads(content)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source}: is not a TOML file ({error}).") from error
    entries = table.get("structure")
    if not isinstance(entries, dict) or not entries:
        raise ConfigError(
            f"{source}: has no structures. Write one table per structure, e.g. "
            '[structure.liver] with regions = "abdomen".'
        )
    structures = {name: _structure(name, entry, source) for name, entry in entries.items()}
    foreign = tuple(phrases_of(table.get("foreign", {}).get("names", "")))
    programs = table.get("held_out", {}).get("programs", "")
    held_out = tuple(filter(None, (part.strip() for part in programs.split(";"))))
    found = StructureList(structures, foreign, held_out, source)
    _check_references(found)
    _check_circles(found)
    _check_names(found)
    return found


def _structure(name: str, entry: Any, source: str) -> Structure:
    """One table of the file."""
    where = f"{source}: structure {name!r}"
    if not isinstance(entry, dict) or not name_words(name):
        raise ConfigError(f"{where}: expected a name and a table of fields ({', '.join(_FIELDS)}).")
    if unknown := [key for key in entry if key not in _FIELDS]:
        raise ConfigError(
            f"{where}: unknown field {', '.join(unknown)}. Valid: {', '.join(_FIELDS)}."
        )
    for key, value in entry.items():
        wanted = bool if key == "paired" else str
        if type(value) is not wanted:
            raise ConfigError(f"{where}: {key} is {value!r}; expected a {wanted.__name__}.")

    # names of one of a few values
    choices = {
        "start": STARTS,
        "image_side": ("left", "right"),
        "zone_map": tuple(ZONE_MAPS),
    }
    for key, valid in choices.items():
        if entry.get(key) and entry[key] not in valid:
            raise ConfigError(f"{where}: {key} is {entry[key]!r}; expected {', '.join(valid)}.")
    regions = tuple(phrases_of(entry.get("regions", "")))
    members = tuple(phrases_of(entry.get("members", "")))
    if not regions:
        raise ConfigError(f'{where}: has no regions; write e.g. regions = "chest".')
    if members and entry.get("paired"):
        raise ConfigError(f"{where}: is paired and has members; keep one of them.")
    return Structure(
        name=name,
        regions=regions,
        modality=entry.get("modality", ""),
        plural=entry.get("plural", f"{name}s"),
        paired=entry.get("paired", False),
        members=members,
        start=entry.get("start"),
        zone_map=entry.get("zone_map", ""),
        inside=entry.get("inside", ""),
        image_side=entry.get("image_side", ""),
        left_of=entry.get("left_of", ""),
        brighter_than=entry.get("brighter_than", ""),
        phrases={kind: tuple(phrases_of(entry.get(kind, ""))) for kind in PHRASE_KINDS},
    )


def _references(structure: Structure) -> Iterator[tuple[str, str]]:
    """The other structures that a structure names, with the field that does."""
    for member in structure.members:
        yield "members", member
    for key in _REFERENCES:
        if value := getattr(structure, key):
            yield key, value


def _check_references(found: StructureList) -> None:
    for name, structure in found.structures.items():
        for key, other in _references(structure):
            if other not in found.structures:
                raise ConfigError(
                    f"{found.source}: structure {name!r}: {key} names {other!r}, which the file does not have. "
                    "Add a table for it, or correct the name."
                )


def _check_circles(found: StructureList) -> None:
    """Refuse structures that contain, precede or outshine themselves through others."""
    for key in ("members", *_REFERENCES):
        done: set[str] = set()

        def visit(name: str, trail: tuple[str, ...], key: str = key, done: set[str] = done) -> None:
            if name in trail:
                circle = " -> ".join((*trail[trail.index(name) :], name))
                raise ConfigError(
                    f"{found.source}: {key} goes in a circle: {circle}. Remove one of these."
                )
            if name in done:
                return
            done.add(name)
            for field_name, other in _references(found.structures[name]):
                if field_name == key:
                    visit(other, (*trail, name))

        for name in found.structures:
            visit(name, ())


def _check_names(found: StructureList) -> None:
    """Refuse phrases that two structures share, and foreign names that are not foreign."""
    homes: dict[tuple[str, ...], str] = {}
    for name, structure in found.structures.items():
        for phrase in found.phrases_of(structure):
            words = name_words(phrase)
            other = homes.setdefault(words, name)
            if other != name:
                raise ConfigError(
                    f"{found.source}: the phrase {phrase!r} belongs to {other!r} and to {name!r}. Remove it from "
                    "one of them: a prompt with it would be ambiguous."
                )
    for phrase in found.foreign:
        if (known := found.find(phrase)) is not None:
            raise ConfigError(
                f"{found.source}: foreign names {phrase!r}, which is a phrase of {known.structure!r}. Remove it there."
            )


def _trigrams_in(words: tuple[str, ...]) -> set[str]:
    """The groups of three letters in some words, with their beginnings and ends."""
    text = f" {' '.join(words)} "
    return {text[i : i + 3] for i in range(len(text) - 2)}
