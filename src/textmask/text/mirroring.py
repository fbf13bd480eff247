"""Left and right exchanged in a sentence, word by word, where the sentence stays true of the mirrored image."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from textmask.text.tokens import LETTERS, Token, split, tag
from textmask.text.translation import NOT_READ, detect_language, to_english

MIRROR = {
    "left": "right",
    "lt": "rt",
    "l": "r",
    **{f"left{end}": f"right{end}" for end in ("sided", "side", "ward", "wards", "most")},
    **{short: f"r{short[1:]}" for short in ("lul", "lll", "luz", "lmz", "llz")},
}
MIRROR |= {right: left for left, right in MIRROR.items()}
# places without a counterpart in the other lung, clock positions, and sides of writings that are not read: turning the
# image and keeping such a sentence would make it false
_NO_COUNTERPART = re.compile(
    r"\b(?:rml|lml|lingula\w*|middle(?:\s*[,/]\s*(?:(?:and|or)\s+)?\w+|\s+(?:and|or)\s+\w+)*\s+lobes?|"
    r"retrocardiac|(?:minor|horizontal)\s+fissure|o.?clock)\b|[左右]",
    re.IGNORECASE,
)
_ONE_SIDED = frozenset({"dextrocardia"})  # with its synonyms: situs inversus, dextroposition


def mirrored_words(prompt: str) -> str | None:
    """The sentence with its sides exchanged, unchanged if it names none; None if that cannot be done safely."""
    raw = split(prompt)
    language = detect_language(raw, prompt)
    if language == NOT_READ or _NO_COUNTERPART.search(prompt):
        return None
    if language != "en":
        tokens = tag(to_english(raw, language))
        return None if any(token.role in ("side", "place") for token in tokens) else prompt
    tokens = tag(raw)
    if any(token.name in _ONE_SIDED for token in tokens) or any(_unread(token) for token in tokens):
        return None

    pieces: list[str] = []
    end = 0
    for i, token in enumerate(tokens):
        if not _is_sided(token) or _belongs_to_name(tokens, i):
            continue
        word = prompt[token.start : token.end].strip("()")
        if token.mended or word.lower() not in MIRROR or _lies_on_one_side(tokens, i):
            return None
        start = prompt.index(word, token.start)
        pieces += [prompt[end:start], in_case_of(word, MIRROR)]
        end = start + len(word)
    return "".join([*pieces, prompt[end:]])


def in_case_of(word: str, pairs: Mapping[str, str]) -> str:
    """The counterpart of a word, in its capitals."""
    new = pairs[word.lower()]
    return new.upper() if word.isupper() else new.capitalize() if word[0].isupper() else new


def _is_sided(token: Token) -> bool:
    """Whether it names one side."""
    return (
        token.term is not None
        and token.role in ("side", "place")
        and token.name.split("_")[0] in ("left", "right")
    )


def _unread(token: Token) -> bool:
    """A single letter that may be a side."""
    return token.word in LETTERS and token.term is None


def _belongs_to_name(tokens: Sequence[Token], i: int) -> bool:
    """Whether the side is part of an organ's name, as in "left ventricle" and "right and left atrium"."""
    for token in tokens[i + 1 : i + 6]:
        if token.role == "anatomy" and token.term is not None:
            return token.term.group == "named"
        adjective = token.term is None and not token.mark
        listed = token.role == "side" or (token.role == "join" and token.name in ("and", "or"))
        if not (adjective or listed):
            return False
    return False


def _lies_on_one_side(tokens: Sequence[Token], i: int) -> bool:
    """Whether the clause of the side is about an organ that lies on one side only, such as the liver."""
    start = next((j + 1 for j in range(i - 1, -1, -1) if tokens[j].mark), 0)
    end = next((j for j in range(i, len(tokens)) if tokens[j].mark), len(tokens))
    return any(
        t.role == "anatomy" and t.term is not None and t.term.group == "fixed"
        for t in tokens[start:end]
    )
