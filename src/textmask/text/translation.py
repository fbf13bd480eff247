"""Languages of reports: detected by their words, and read by putting English words in the place of their own.

A vocabulary file of `textmask/text/languages` lists, for English words of the grammar, the words of one language. The
rules over tokens then read the sentence: they do not depend on the order of side, level and noun.
"""

from __future__ import annotations

import tomllib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files

from textmask.text.lexicon import known_words, lexicon, phrases_of, plain_words, term_of
from textmask.text.tokens import Token

LANGUAGES = {"de": "german", "es": "spanish", "fr": "french", "it": "italian", "pt": "portuguese"}
NAMES = {"en": "English", **{code: name.capitalize() for code, name in LANGUAGES.items()}}
NOT_READ = "other"


@dataclass(frozen=True)
class Vocabulary:
    """The words of one language.

    Attributes:
        phrases: first word -> the phrases that begin with it, longest first, and what they are in English.
        function: words that tell the language but claim nothing.
        endings: last parts of compound words and what they are in English ("oberlappen").
        words: every single word, to detect the language by.
    """

    phrases: dict[str, tuple[tuple[tuple[str, ...], str], ...]]
    function: frozenset[str]
    endings: dict[str, str]
    words: frozenset[str]


@cache
def language_vocabulary(code: str) -> Vocabulary:
    """The vocabulary file of a language."""
    path = files("textmask.text").joinpath("languages", f"{LANGUAGES[code]}.toml")
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    table: dict[str, list[tuple[tuple[str, ...], str]]] = {}
    words: set[str] = set()
    for english, text in content["words"].items():
        for phrase in phrases_of(text):
            parts = tuple(phrase.split())
            table.setdefault(parts[0], []).append((parts, english))
            words.update(parts)
    function = frozenset(phrases_of(content["function"]["words"]))
    endings: dict[str, str] = {}
    for english, text in content.get("endings", {}).items():
        endings |= dict.fromkeys(phrases_of(text), english)
    phrases = {
        first: tuple(sorted(rows, key=lambda row: -len(row[0]))) for first, rows in table.items()
    }
    return Vocabulary(phrases, function, endings, frozenset(words) | function)


@cache
def _foreign_words() -> frozenset[str]:
    """Words that tell languages that are not read."""
    content = tomllib.loads(
        files("textmask.text").joinpath("languages", "others.toml").read_text(encoding="utf-8")
    )
    words = {word for text in content["words"].values() for word in text.replace(",", " ").split()}
    return frozenset(words - known_words())


def detect_language(tokens: Sequence[Token], source: str) -> str:
    """The language of a sentence as an ISO 639 code, `NOT_READ` for one that is known not to be supported.

    English is assumed without evidence of another language.
    """
    words = [token.word for token in tokens if token.word.isalpha() and len(token.word) > 1]
    strange = [word for word in words if word not in known_words()]
    other_script = not source.isascii() and any(c.isalpha() and not _is_latin(c) for c in source)
    if not strange:
        return NOT_READ if other_script and not words else "en"
    if other_script and len(strange) * 2 > len(words):
        return NOT_READ

    # a word that only the language has, against those that only English has
    evidence = {code: sum(_knows(code, word) for word in strange) for code in LANGUAGES}
    best = max(evidence, key=lambda code: evidence[code])
    english = sum(_is_english(word) and not _knows(best, word) for word in words)
    other = sum(word in _foreign_words() for word in strange)
    if other > evidence[best] and other > english:
        return NOT_READ
    if evidence[best] > english:
        return best
    accented = not source.isascii() and any(_is_accented(word) for word in source.split())
    return NOT_READ if accented and len(strange) * 2 > len(words) and not evidence[best] else "en"


@lru_cache(maxsize=8192)
def _knows(code: str, word: str) -> bool:
    found = language_vocabulary(code)
    return word in found.words or _compound(word, code) is not None


@lru_cache(maxsize=8192)
def _is_english(word: str) -> bool:
    """Whether a word tells English: names of findings and organs are much the same in many languages."""
    term = term_of(word)
    if term is None:
        return word in plain_words("function") or word in plain_words("descriptor")
    return term.role not in ("finding", "anatomy")


def _is_accented(word: str) -> bool:
    return word.isalpha() and not word.isascii()


@lru_cache(maxsize=4096)
def _is_latin(c: str) -> bool:
    return unicodedata.name(unicodedata.normalize("NFKC", c)[:1], "").startswith("LATIN")


def to_english(tokens: Sequence[Token], code: str) -> list[Token]:
    """The tokens with English words in the place of those of a language; words without a counterpart stay."""
    found = language_vocabulary(code)
    out: list[Token] = []
    i = 0
    while i < len(tokens):
        token = tokens[i]
        length, english = 1, None
        for words, meaning in found.phrases.get(token.word, ()):
            if tuple(one.word for one in tokens[i : i + len(words)]) == words:
                length, english = len(words), meaning
                break
        english = english or _compound(token.word, code)
        end = tokens[i + length - 1].end
        if english is None:
            # a false friend of an English word must not be read as one
            word = (
                f"{token.word}_"
                if token.word in lexicon() and token.word in found.function
                else token.word
            )
            out.append(Token(word, token.start, end, mark=token.mark))
        else:
            out += [Token(word, token.start, end) for word in english.replace("_", " ").split()]
        i += length
    return out


@lru_cache(maxsize=8192)
def _compound(word: str, code: str) -> str | None:
    """A compound in English, from its parts: "unterlappeninfiltrat" is "lower lobe infiltrate"."""
    found = language_vocabulary(code)
    if not found.endings or len(word) < 7:
        return None
    if word in found.words:
        return None
    for cut in range(len(word) - 3, 2, -1):
        tail = found.endings.get(word[cut:])
        if tail is None:
            continue
        head = word[:cut]
        for stem in (head, head.removesuffix("s"), head.removesuffix("n"), head.removesuffix("en")):
            if stem in found.endings:
                return f"{found.endings[stem]} {tail}"
            rows = [meaning for words, meaning in found.phrases.get(stem, ()) if len(words) == 1]
            if rows:
                return f"{rows[0]} {tail}"
    return None
