"""Which grammar a sentence is read by: from all its words, never from a single noun.

A sentence is read as places in the lungs only when one of its words is about the chest, or when the data set or the run
says so.
"""

from __future__ import annotations

from collections.abc import Sequence

from textmask.text.places import LUNG_ORGANS, place_of
from textmask.text.tokens import Token

# findings that many organs have, and nouns that other images have too
ANYWHERE = frozenset(
    {
        "airspace disease",
        "abnormality",
        "mass",
        "tumor",
        "nodule",
        "calcification",
        "cyst",
        "cavity",
        "scar",
        "edema",
    }
    | {"infection", "contusion", "infarct", "thickening", "hernia"}
)
_VAGUE_NOUNS = frozenset(
    "zone zones field fields region regions side all whole entire throughout entirety".split()
)
_CHEST_ORGANS = frozenset({"heart", "airway", "diaphragm", "lung", "device"})
_CHEST_BONES = ("rib", "clav", "scap", "stern", "thoracic", "costo", "chest wall", "axill")
_LOCATES = frozenset("in on at located".split())


def about_chest(tokens: Sequence[Token]) -> bool:
    """Whether a word of the sentence is about the chest."""
    return any(_is_chest(token) for token in tokens)


def _is_chest(token: Token) -> bool:
    term = token.term
    if term is None:
        return False
    if term.role == "lung":
        return token.word not in _VAGUE_NOUNS
    if term.role == "finding":
        return (
            term.organ in ("lung", "pleura", "heart", "mediastinum") and term.name not in ANYWHERE
        )
    if term.role == "anatomy":
        return term.organ in _CHEST_ORGANS or token.word.startswith(_CHEST_BONES)
    return term.role in ("place", "segment")


def names_image(tokens: Sequence[Token]) -> bool:
    """Whether the places of the sentence are parts of the image: "..., located in top left of the frontal view"."""
    frame = any(
        token.role == "anatomy" and token.term is not None and token.term.organ == "image"
        for token in tokens
    )
    if not frame or any(_is_lung_place(tokens, i) for i in range(len(tokens))):
        return False
    first = next(
        (i for i, token in enumerate(tokens) if set(token.word.split()) & _LOCATES), len(tokens)
    )
    return not place_of(tokens[:first]).named


def _is_lung_place(tokens: Sequence[Token], i: int) -> bool:
    """Whether a token names a place in a lung; "lung opacity" names none."""
    token = tokens[i]
    if token.role in ("place", "segment"):
        return True
    if token.role != "lung" or token.word in _VAGUE_NOUNS:
        return False
    adjunct = i + 1 < len(tokens) and tokens[i + 1].role == "finding"
    return not (token.word == "lung" and adjunct)


def is_place_alone(tokens: Sequence[Token]) -> bool:
    """A place and at most a finding that any organ can have: "upper left", "mass on the left"."""
    sided = any(token.role in ("side", "level") for token in tokens)
    organs = any(
        token.term is not None
        and (
            token.role == "anatomy"
            or (token.role == "finding" and token.term.organ not in LUNG_ORGANS)
        )
        for token in tokens
    )
    # "you are right" names no place
    said = any(token.name == "verb" for token in tokens) and not any(
        token.role == "finding" for token in tokens
    )
    strange = said or any(
        token.term is None and token.word.isalpha() and len(token.word) > 3 for token in tokens
    )
    return sided and not organs and not strange


def subject_of(tokens: Sequence[Token]) -> bool:
    """Whether the sentence names a finding of an image of skin, foot or bowel ("foot ulcer", "skin melanoma")."""
    return any(
        token.role == "finding" and token.term is not None and token.term.organ == "image"
        for token in tokens
    )
