"""The vocabulary files as one table: every word or phrase that the rules of language know, and its role.

`medical.toml` names places, findings and organs; `english.toml` holds the words that decide what a sentence claims.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from textmask.statement import Level, Side, Zone

BOTH = frozenset({Side.LEFT, Side.RIGHT})
SIDE_NAMES: dict[str, frozenset[Side]] = {
    "left": frozenset({Side.LEFT}),
    "right": frozenset({Side.RIGHT}),
    "both": BOTH,
    "center": frozenset({Side.CENTER}),
}
# if a phrase has several roles, the first of these counts
ROLES = (
    "idiom",
    "remains",
    "place",
    "segment",
    "finding",
    "doubt",
    "deny",
    "free",
    "inert",
    "except",
    "compare",
    "history",
    "recommend",
    "side",
    "level",
    "lung",
    "anatomy",
    "change",
    "rest",
    "join",
    "follow",
    "prep",
)


@dataclass(frozen=True)
class Term:
    """One word or phrase of the vocabulary.

    Attributes:
        role: what the rules use it for, one of `ROLES`.
        name: canonical name, e.g. "effusion" for "pleural fluid".
        organ: of findings and anatomy, e.g. "pleura".
        group: findings of one group may stand for each other in a paraphrase.
        sides: of sides, places and sided nouns.
        levels: of levels and of nouns that imply one ("base").
        plural: the noun means both lungs when no side is named.
        noun: the word can be the head of a place ("base", but not "lower").
    """

    role: str
    name: str
    organ: str = ""
    group: str = ""
    sides: frozenset[Side] = frozenset()
    levels: frozenset[Level] = frozenset()
    plural: bool = False
    noun: bool = False

    @property
    def zones(self) -> frozenset[Zone]:
        """The zones of a place that is named as a whole, such as RLL."""
        return frozenset((side, level) for side in self.sides for level in self.levels)


@dataclass
class Node:
    """A step in the tree of phrases: the term that ends here, and the words that may follow."""

    term: Term | None = None
    after: dict[str, Node] = field(default_factory=dict)


def phrases_of(text: str) -> Iterator[str]:
    """The phrases of a value of a vocabulary file."""
    for phrase in text.split(","):
        if words := " ".join(phrase.split()):
            yield words


def read_toml(name: str) -> dict[str, Any]:
    """A vocabulary file of this package."""
    return tomllib.loads(files("textmask.text").joinpath(name).read_text(encoding="utf-8"))


@cache
def lexicon() -> Mapping[str, Term]:
    """Every word and phrase of the vocabulary files with its term."""
    found: dict[str, Term] = {}
    for phrase, term in sorted(
        [*_read_medical(), *_english()], key=lambda entry: ROLES.index(entry[1].role)
    ):
        found.setdefault(phrase, term)

    # plurals that are not listed
    for phrase, term in list(found.items()):
        if term.role in ("finding", "anatomy") and not phrase.endswith("s"):
            found.setdefault(f"{phrase}s", term)
    return found


@cache
def phrases() -> Node:
    """The vocabulary as a tree, so that the longest phrase is found in one pass."""
    root = Node()
    for phrase, term in lexicon().items():
        node = root
        for word in phrase.split():
            node = node.after.setdefault(word, Node())
        node.term = term
    return root


def _read_medical() -> Iterator[tuple[str, Term]]:
    """Places, findings and anatomy."""
    content = read_toml("medical.toml")
    for name, text in content["side"].items():
        for phrase in phrases_of(text):
            yield phrase, Term("side", name, sides=SIDE_NAMES[name])
    for name, text in content["level"].items():
        for phrase in phrases_of(text):
            yield phrase, Term("level", name, levels=frozenset({Level(name)}))
    yield from _lung_nouns(content["lung"])
    for name, text in content["place"].items():
        side, level = name.split("_")
        for phrase in phrases_of(text):
            yield (
                phrase,
                Term(
                    "place",
                    name,
                    sides=SIDE_NAMES[side],
                    levels=frozenset({Level(level)}),
                    noun=True,
                ),
            )
    for name, text in content["segment"].items():
        levels = frozenset[Level]() if name == "none" else frozenset({Level(name)})
        for phrase in phrases_of(text):
            yield phrase, Term("segment", name, levels=levels)

    for organ, groups in content["finding"].items():
        for group, kinds in groups.items():
            for kind, text in kinds.items():
                for phrase in phrases_of(text):
                    yield phrase, Term("finding", kind.replace("_", " "), organ, group)
    for organ, kinds in content["anatomy"].items():
        for rule, text in kinds.items():
            for phrase in phrases_of(text):
                yield phrase, Term("anatomy", phrase, organ, rule)
    for name, text in content["image"].items():
        for phrase in phrases_of(text):
            yield phrase, Term("anatomy", name, "image", "plain")


def _lung_nouns(content: Mapping[str, str]) -> Iterator[tuple[str, Term]]:
    plural = set(phrases_of(content["plural"]))
    for phrase in phrases_of(content["whole"]):
        yield phrase, Term("lung", "whole")
    for name in ("upper", "middle", "lower", "any"):
        levels = frozenset[Level]() if name == "any" else frozenset({Level(name)})
        for phrase in phrases_of(content[name]):
            yield phrase, Term("lung", name, levels=levels, plural=phrase in plural, noun=True)


def _english() -> Iterator[tuple[str, Term]]:
    for role, kinds in read_toml("english.toml").items():
        if role != "plain":
            for name, text in kinds.items():
                for phrase in phrases_of(text):
                    yield phrase, Term(role, name)


def term_of(word: str) -> Term | None:
    """The term of a single word, None if it is unknown or begins phrases only."""
    return lexicon().get(word)


@cache
def plain_words(kind: str) -> frozenset[str]:
    """Words that any sentence may have: `function` words or `descriptor`s."""
    return frozenset(phrases_of(read_toml("english.toml")["plain"][kind]))


@cache
def known_words() -> frozenset[str]:
    """Every single word that occurs in the vocabulary files."""
    inside = {word for phrase in lexicon() for word in phrase.split()}
    return frozenset(inside) | plain_words("function") | plain_words("descriptor")
