"""A sentence as tokens: words with their place in the source, misspellings put right, and their role in the vocabulary.

The text is split once. Every rule of `textmask.text.report_grammar`, `findings` and `edit` works on these tokens.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from textmask.text.lexicon import Node, Term, known_words, phrases, term_of
from textmask.text.words import NOT_TYPOS, TYPOS, one_edit_apart

# abbreviations whose full stop ends no sentence
DOTTED = frozenset("lt rt l r bilat unilat inf pulm sup vs approx dr eg ie ca".split())
# how writers join words with a slash
SLASHED = {
    "r/o": "rule out",
    "s/p": "status post",
    "h/o": "history of",
    "w/o": "without",
    "c/w": "consistent with",
}
SLASHED |= {"b/l": "bilateral", "w/": "with"}
_SPLIT = re.compile(
    r"(?P<slashed>(?i:\b(?:r/o|s/p|h/o|w/o|c/w|b/l)\b|\bw/(?=\s)))"
    r"|\(\s*(?P<letter>[LRlr])\s*\)"
    r"|(?P<vertebra>\b[TLCStlcs]\d{1,2}\b)"
    r"|(?P<word>[^\W\d_]+)"
    r"|(?P<number>\d+(?:\.\d+)?)"
    r"|(?P<break>\n[ \t]*(?:\n\s*|(?=(?:\(?\d{1,2}[.)]|[-*•])\s)))"
    r"|(?P<line>\n)"
    r"|(?P<mark>[,;:.?!()/<>+&•]|(?<=\s)[-–—]+(?=\s)|[–—]|--+)"
)
_MARKS = {"•": ".", "!": ".", ";": ";", "/": "and", "+": "and", "&": "and", "<": ">"}
VERTEBRA = Term("anatomy", "vertebra", "bone", "plain")
GREATER = Term("compare", "than")
LETTERS = {"l": "left", "r": "right"}
# place words that are repaired in free text
PLACE_WORDS = ("left", "right", "upper", "middle", "lower", "bottom", "center", "bilateral")
# real words that are one letter away from a place word
REAL_WORDS = NOT_TYPOS | frozenset(
    "fright rights enter blower lowers lowed mower muddle meddle upped centers lent lest heft deft weft cleft lets eft "
    "lefty leat rigid wright bight lewd rower cower sower lowest upkeep riddle piddle fiddle diddle button rite eighth "
    "renter tenter unilateral collateral buttom".split()
)
# a verb and no side when one of these follows: "the patient left the ward"
_VERB_OBJECTS = frozenset(
    "the a an his her its their our my your ama against untreated alone off behind over during before after early "
    "without home hospital us me him them yesterday today".split()
)
_SIDE_LEADS = frozenset(
    "the on to from in of at a for and or with upper lower mid middle its".split()
)


@dataclass(slots=True)
class Token:
    """A word, a phrase of the vocabulary, a number or a mark.

    Attributes:
        word: lower case, without accents, as it was meant.
        start, end: its characters in the source.
        term: its entry in the vocabulary.
        mended: it was misspelt.
        mark: it is punctuation: `,`, `.`, `;`, `:` or `?`.
        role, name: of its term, "" without one.
    """

    word: str
    start: int
    end: int
    term: Term | None = None
    mended: bool = False
    mark: bool = False
    role: str = ""
    name: str = ""

    def __post_init__(self) -> None:
        """Take role and name over from the term."""
        self.take(self.term)

    def take(self, term: Term | None) -> None:
        """Set the term, and its role and name as fields, which the rules read often."""
        self.term = term
        self.role, self.name = ("", "") if term is None else (term.role, term.name)


def plain_text(source: str) -> tuple[str, Sequence[int]]:
    """Text without accents, control and direction characters, and for each of its characters the place in `source`."""
    if source.isascii():
        return source, range(len(source) + 1)
    letters: list[str] = []
    places: list[int] = []
    for i, char in enumerate(source):
        for c in unicodedata.normalize("NFKD", char):
            kind = unicodedata.category(c)[0]
            if kind == "M" or (kind == "C" and not c.isspace()):
                continue
            letters.append("ss" if c == "ß" else c)
            places += [i] * len(letters[-1])
    places.append(len(source))
    return "".join(letters), places


def split(source: str, start: int = 0) -> list[Token]:
    """Words, numbers and marks, without a vocabulary; `start` is added to every place."""
    text, places = plain_text(source)
    out: list[Token] = []
    for match in _SPLIT.finditer(text):
        kind, word = match.lastgroup or "", match.group().lower()
        begin, end = places[match.start()] + start, places[match.end() - 1] + 1 + start
        if kind == "slashed":
            out += [Token(part, begin, end) for part in SLASHED[word].split()]
        elif kind == "vertebra":
            out.append(Token(word, begin, end, VERTEBRA))
        elif kind == "letter":
            out.append(Token(LETTERS[match["letter"].lower()], begin, end))
        elif kind in ("break", "line"):
            if kind == "break" or _begins_anew(text, match.end(), out):
                out.append(Token(".", begin, end, mark=True))
        elif kind == "mark":
            _add_mark(word, begin, end, text[match.start() - 1 : match.start()], out)
        else:
            out.append(Token(word, begin, end))
    return out


def _begins_anew(text: str, i: int, before: Sequence[Token]) -> bool:
    """Whether a new line starts a new sentence: with a capital, after a word that can end one."""
    first = text[i : i + 40].lstrip()[:1]
    if not first.isupper() or not before:
        return False
    term = term_of(before[-1].word)
    open_end = term is not None and term.role in ("prep", "join", "deny", "side", "level", "doubt")
    return not open_end and before[-1].word not in ("a", "an", "the", ",")


def _add_mark(mark: str, begin: int, end: int, previous: str, out: list[Token]) -> None:
    """A mark as the rules read it: "/" is and, ">" compares, a dash between spaces is a comma, brackets are dropped."""
    if mark == "." and out and out[-1].word in DOTTED and previous != " ":
        return
    word = "," if mark[0] in "-–—" else _MARKS.get(mark, mark)
    if word not in "()":
        out.append(
            Token(word, begin, end, term=GREATER if word == ">" else None, mark=word in ",.;:?")
        )


def tokenize(source: str, start: int = 0) -> list[Token]:
    """The tokens of a sentence with misspelt place words put right and the phrases of the vocabulary joined."""
    return tag(split(source, start))


def tag(tokens: list[Token]) -> list[Token]:
    """Put misspelt place words right, join the phrases of the vocabulary and give every token its term."""
    mend_places(tokens)
    table, out, i = phrases(), list[Token](), 0
    while i < len(tokens):
        token = tokens[i]
        length, term = 1, token.term
        if term is None and not token.mark:
            length, term = _longest(tokens, i, table)
        if length > 1:
            joined = " ".join([one.word for one in tokens[i : i + length]])
            token = Token(joined, token.start, tokens[i + length - 1].end, term, token.mended)
        elif term is not None:
            token.take(term)
        out.append(token)
        i += length
    _read_letters(out)
    _drop_verbs(out)
    return out


def _longest(tokens: Sequence[Token], i: int, table: Node) -> tuple[int, Term | None]:
    """The longest phrase that begins at token `i`: its number of words and its term."""
    length, found = 1, None
    node: Node | None = table.after.get(tokens[i].word)
    j = i
    while node is not None:
        j += 1
        if node.term is not None and not (node.term.role == "idiom" and _in_a_place(tokens, j)):
            length, found = j - i, node.term
        node = node.after.get(tokens[j].word) if j < len(tokens) else None
    return length, found


def _in_a_place(tokens: Sequence[Token], i: int) -> bool:
    """Whether a noun or level of the lung follows: "all right lung" is no idiom."""
    return i < len(tokens) and _is_place(tokens[i].word)


def mend_places(tokens: Sequence[Token]) -> None:
    """Write misspelt words of place as they were meant: "riht", "lwer", "lft"."""
    known = known_words()
    for i, token in enumerate(tokens):
        word = token.word
        if token.mark or word in known or not word.isalpha():
            continue
        fixed = TYPOS.get(word) or nearest_place(word)
        if word == "inf":
            fixed = _inf(tokens, i)
        elif word == "let" and i + 1 < len(tokens) and _is_place(tokens[i + 1].word):
            fixed = "left"
        if fixed and " " not in fixed:
            token.word, token.mended = fixed, word != "inf"


def _inf(tokens: Sequence[Token], i: int) -> str:
    """Read "inf." is inferior before a place, infected before its areas, infection elsewhere."""
    following = next((token.word for token in tokens[i + 1 : i + 3] if token.word != "."), "")
    if following in ("area", "areas"):
        return "infected"
    term = term_of(following)
    return "lower" if term is not None and term.role == "lung" else "infection"


def _is_place(word: str) -> bool:
    term = term_of(word)
    return term is not None and term.role in ("lung", "level")


@lru_cache(maxsize=8192)
def nearest_place(word: str) -> str:
    """The place word that a misspelt word is one letter away from, "" where there is none or several."""
    if len(word) < 3 or word in REAL_WORDS or word in known_words():
        return ""
    near = [known for known in PLACE_WORDS if one_edit_apart(word, known)]
    return near[0] if len(near) == 1 else ""


def _read_letters(tokens: Sequence[Token]) -> None:
    """Single letters as sides where they stand before or after a place, a finding or another letter."""
    for i, token in enumerate(tokens):
        if token.word not in LETTERS or token.term is not None:
            continue
        ahead_of = [t for t in tokens[i + 1 : i + 4] if not _is_slash(t)]
        following = next((t for t in ahead_of if t.role or t.mark or t.word in LETTERS), None)
        before = tokens[i - 1] if i else None
        ahead = following is not None and (
            following.role
            in ("lung", "level", "finding", "anatomy", "place", "segment", "compare", "side")
            or following.word in LETTERS
        )
        behind = before is not None and (
            before.role in ("lung", "finding", "level", "compare", "prep", "side")
            or before.word in ("the", "and")
        )
        sided = i + 1 < len(tokens) and tokens[i + 1].word in ("sided", "side")
        if ahead or behind or sided:
            token.word = LETTERS[token.word]
            token.take(term_of(token.word))


def _is_slash(token: Token) -> bool:
    """Whether "and" was written with one character, such as "L/R"."""
    return token.role == "join" and token.end - token.start == 1


def join_slashed_sides(tokens: Sequence[Token]) -> list[Token]:
    """Read "L/R base": both sides of one place, as one token."""
    out: list[Token] = []
    for token in tokens:
        slashed = (
            len(out) > 1 and _is_slash(out[-1]) and out[-2].role == "side" and token.role == "side"
        )
        if slashed:
            out[-2:] = [Token("both", out[-2].start, token.end, term_of("both"))]
        else:
            out.append(token)
    return out


def _drop_verbs(tokens: Sequence[Token]) -> None:
    """Read "left" that is a verb names no side: "the patient left the ward"."""
    for i, token in enumerate(tokens):
        if token.word != "left" or token.role != "side" or i + 1 >= len(tokens):
            continue
        lead = tokens[i - 1].word if i else ""
        subject = lead in ("patient", "he", "she", "they", "who", "i", "we", "mother", "father")
        if (tokens[i + 1].word in _VERB_OBJECTS and i and lead not in _SIDE_LEADS) or subject:
            token.take(Term("idiom", "verb"))


def words_of(tokens: Iterable[Token]) -> list[str]:
    """The words and marks alone, as the grammars of captions read them."""
    return [token.word for token in tokens if token.word != ":"]
