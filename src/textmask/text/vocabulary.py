"""Which words of a sentence carry its content, and which of them medicine or a training set knows."""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import cache, lru_cache

from textmask.text.lexicon import lexicon, plain_words
from textmask.text.places import LUNG_ORGANS
from textmask.text.recognition import ANYWHERE
from textmask.text.tokens import nearest_place, split, tag
from textmask.text.words import CHEST, LEVELS, NUMBERS, SIDES, clean, repair, split_words

# medical words without a role in the grammar
_FURTHER = frozenset(
    "abscess adenoma aneurysm anterior artery attenuation biopsy blood cell cells contrast ct cystic "
    "cytoplasm duct echogenic endoscopic enhancement enlarged epithelium film fissure flair flat fluid glands "
    "glass glioma hepatic hypodense hyperdense hypoechoic inflammation inflamed injury joint kidney lateral "
    "lumen lump lymph malignant margin medial membrane meniscus mri mucosa muscle necrosis necrotic nerve "
    "node nodes oncocytic organ pathological pigmented pneumonic posterior quadrant radiograph scan sessile "
    "specimen stenosis swelling thrombus tissue trachea vein ventral vessel vessels xray benign round oval "
    "irregular covid chest thorax lesion image lobar angle angles shift midline silhouette contour tube "
    "lucency lucencies air fluid level".split()
)
_SUFFIX = re.compile(
    r"\w{3,}(?:itis|oma|omas|omata|osis|oses|pathy|ectasis|ectasia|aemia|emia|megaly)$"
)
_CONTENT_ROLES = ("finding", "anatomy", "place", "segment")
# words of the vocabulary files that any sentence may have
_EVERYDAY = frozenset(
    "all whole entire side field fields region regions process disease finding findings findings change line "
    "lines lead leads port device devices drain clip clips wire wires hand hands foot head arm arms neck tip "
    "face block stone stones mole cage body picture view arch shadow shadows disc plate image cabinet line "
    "hardware generator leg".split()
)


@cache
def _neutral() -> frozenset[str]:
    """Words that neither make a sentence medical ("she left the room at nine") nor are strange in one."""
    places = {phrase for phrase, term in lexicon().items() if term.role == "level"}
    nouns = {
        "apex",
        "apical",
        "apices",
        "base",
        "bases",
        "basal",
        "basilar",
        "perihilar",
        "hilar",
        "hilum",
        "hila",
    }
    plain = plain_words("function") | plain_words("descriptor")
    return (
        plain
        | frozenset(SIDES)
        | frozenset(LEVELS)
        | frozenset(NUMBERS)
        | places
        | nouns
        | {"costophrenic"}
    )


@cache
def _medical() -> frozenset[str]:
    """Single words of findings, organs and places."""
    found = set(_FURTHER) | set(CHEST)
    for phrase, term in lexicon().items():
        words = phrase.split()
        if term.role in _CONTENT_ROLES or (term.role == "lung" and term.noun):
            found.update(words if len(words) == 1 else [word for word in words if len(word) > 4])
    return frozenset(found) - _neutral()


@lru_cache(maxsize=4096)
def content_words(sentence: str) -> tuple[str, ...]:
    """The distinct words that say what is meant: not those every sentence has, and no sides, levels and numbers."""
    neutral = _neutral()
    words = dict.fromkeys(word for word in split_words(clean(sentence)[0]) if word.isalpha())
    return tuple(
        word for word in words if word not in neutral and not _is_misspelled(word, neutral)
    )


def _is_misspelled(word: str, neutral: Collection[str]) -> bool:
    return repair(word) in neutral or nearest_place(word) in neutral


def is_medical(word: str) -> bool:
    """Whether a word is a medical word, by the vocabulary and by its ending."""
    known = {word, repair(word), word.removesuffix("s"), word.removesuffix("es")} & _medical()
    return bool(known) or _SUFFIX.match(word) is not None


def known_share(sentence: str, vocabulary: Collection[str] = ()) -> float | None:
    """Share of the content words that medicine or `vocabulary` knows; None if the sentence has none."""
    words = content_words(sentence)
    return (
        sum(word in vocabulary or is_medical(word) for word in words) / len(words)
        if words
        else None
    )


def unknown_words(sentence: str, vocabulary: Collection[str]) -> tuple[str, ...]:
    """The content words that neither `vocabulary` nor medicine knows, also not as they were meant."""
    return tuple(
        word
        for word in content_words(sentence)
        if not (word in vocabulary or repair(word) in vocabulary or is_medical(word))
    )


@lru_cache(maxsize=4096)
def organs(sentence: str) -> frozenset[str]:
    """The organs that a sentence names, lungs and pleura as "lung"; empty if it names none."""
    found = set()
    for token in tag(split(sentence)):
        term = token.term
        if term is None:
            continue
        if term.role in ("place", "segment") or (
            term.role == "lung" and token.word not in _EVERYDAY
        ):
            found.add("lung")
        elif term.name in ANYWHERE:
            continue  # a cyst can be in any organ
        elif term.role in ("finding", "anatomy") and token.word not in _EVERYDAY:
            found.add("lung" if term.organ in LUNG_ORGANS - {"image"} else term.organ)
    return frozenset(found)
