"""The field's sentences as statements: chest captions, polyp, nuclei and lesion prompts, plain report sentences."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from textmask.errors import choose
from textmask.statement import LUNG_ZONES, Laterality, Statement
from textmask.text.captions import (
    PROSE,
    mend,
    read_captions,
    read_cells,
    read_nuclei,
    recognize_caption,
    spelled_out,
)
from textmask.text.lexicon import BOTH, term_of
from textmask.text.recognition import about_chest, is_place_alone, names_image, subject_of
from textmask.text.report_grammar import Reading, read_report
from textmask.text.sections import sections
from textmask.text.tokens import LETTERS, Token, split, tag, words_of
from textmask.text.translation import NOT_READ, detect_language, to_english
from textmask.text.words import MAX_LENGTH, clean

GRAMMARS = ("qata", "mosmed", "polyp", "nuclei", "lesion", "report")
WARNINGS = {
    "empty_text": "the sentence is empty",
    "too_long": f"only the first {MAX_LENGTH} characters were read",
    "control_characters": "control, zero-width or direction characters were ignored",
    "nothing_parsed": "no place or finding was understood; a text-guided mask may be meaningless",
    "repaired_typo": "a misspelled word was read as the nearest word of the captions",
    "contradiction_lateral": "unilateral or bilateral contradicts the sides that are named",
    "contradiction_count": "the number of findings contradicts the places that are named",
    "contradiction_negation": "the same place is said to be affected and free",
    "missing_side": "a lung is named without its side; the side was inferred from the rest",
    "missing_level": "a lung is named without upper, middle or lower; all of it was assumed",
    "unread_side": "a letter or word that may be a side was not understood",
    "section_skipped": "a section that says what was asked or compared, not what is seen, was not read",
    "history": "a finding is reported as history",
    "other_language": "the language is not supported; sides and findings were not read",
}


@lru_cache(maxsize=65536)
def parse(
    sentence: str, grammar: str = "auto", laterality: Laterality = Laterality.UNKNOWN
) -> Statement:
    """What a sentence claims. Never fails: what is not understood is left out and named in `warnings`.

    Args:
        sentence: any text.
        grammar: one of `GRAMMARS`; `auto` chooses by all words. MosMedData+ is read as such only when named, since its
            captions look like QaTa's: there a bare "left lung" means that the lung is *not* affected. When `report`
            is named, places are read as places in the lungs even if no word is about the chest.
        laterality: which side "left" means; recorded, and changes nothing else.

    Raises:
        ConfigError: unknown grammar.
    """
    if grammar != "auto":
        choose("grammar", grammar, GRAMMARS)
    reading = Reading()
    text, hidden = clean(sentence)
    if len(sentence) > MAX_LENGTH:
        reading.warn("too_long")
    if hidden:
        reading.warn("control_characters")
    if not text:
        reading.warn("empty_text")
        return Statement(laterality=laterality, warnings=tuple(reading.warnings))

    tokens = split(sentence[:MAX_LENGTH])
    language = detect_language(tokens, sentence[:MAX_LENGTH])
    if language == NOT_READ:
        for code in ("other_language", "nothing_parsed"):
            reading.warn(code)
        return Statement(laterality=laterality, language="", warnings=tuple(reading.warnings))
    if language != "en":
        tokens = to_english(tokens, language)
    name = _read(tokens, sentence[:MAX_LENGTH], grammar, language, reading)
    return _state(reading, name, laterality, language)


def explain(statement: Statement) -> list[str]:
    """The warnings of a statement as sentences."""
    return [WARNINGS[code] for code in statement.warnings]


def _read(tokens: list[Token], source: str, grammar: str, language: str, reading: Reading) -> str:
    """Choose the grammar, read by it, and return its name."""
    words = spelled_out(words_of(tokens))
    caption = mend(words, chest=True) if grammar in ("auto", "qata", "mosmed") else []
    name = grammar
    if grammar == "auto":
        name = recognize_caption(caption) or "report"
    if name in ("qata", "report") and grammar == "auto" and (apart := _caption_apart(tokens)):
        first, rest = apart
        read_captions(_mended(first, True, reading), reading, mosmed=False)
        rest = tag(rest)
        if any(token.mended for token in rest):
            reading.warn("repaired_typo")
        _read_tokens(rest, reading)
        return "report"
    if name in ("qata", "mosmed"):
        read_captions(_mended(tokens, True, reading), reading, mosmed=name == "mosmed")
        return name
    if name == "report":
        return _read_free(tokens, source, grammar, language, reading)
    reader = read_nuclei if name == "nuclei" else read_cells
    reader(_mended(tokens, False, reading), reading)
    return name


def _mended(tokens: Sequence[Token], chest: bool, reading: Reading) -> list[str]:
    """The words of captions and prompts with misspelled ones put right."""
    words = spelled_out(words_of(tokens))
    fixed = mend(words, chest)
    if fixed != words:
        reading.warn("repaired_typo")
    return fixed


def _read_free(
    tokens: list[Token], source: str, grammar: str, language: str, reading: Reading
) -> str:
    """Read free text: as places in the lungs, or as places in the image where nothing is about the chest."""
    if language == "en" and (":" in source or "\n" in source):
        divided = sections(source)
        if divided.skipped:
            reading.warn("section_skipped")
        tokens = [token for start, end in divided.seen for token in _stretch(source, start, end)]
    raw = tokens
    tokens = tag(_unglue(tokens))
    if any(token.mended for token in tokens):
        reading.warn("repaired_typo")
    if (grammar == "auto" and not about_chest(tokens)) or names_image(tokens):
        if grammar == "auto" and (
            names_image(tokens) or subject_of(tokens) or is_place_alone(tokens)
        ):
            read_cells(_mended(raw, False, reading), reading)
            if not names_image(tokens) and not is_place_alone(tokens):
                reading.zones = set()  # "ulcer of the left heel"
            return "lesion"
        if grammar == "auto":
            _read_tokens(tokens, reading)
            reading.zones, reading.negated = set(), set()
            reading.warnings = [code for code in reading.warnings if code != "missing_side"]
            return "report"
    _read_tokens(tokens, reading)
    return "report"


def _stretch(source: str, start: int, end: int) -> list[Token]:
    """The tokens of a part of the source, closed by a full stop."""
    return [*split(source[start:end], start), Token(".", end, end, mark=True)]


def _unglue(tokens: Sequence[Token]) -> list[Token]:
    """Two words of place that lost the space between them as two tokens."""
    out: list[Token] = []
    for token in tokens:
        parts = (
            mend([token.word], chest=False)
            if len(token.word) > 5 and term_of(token.word) is None
            else [token.word]
        )
        if len(parts) == 1:
            out.append(token)
        else:
            out += [Token(part, token.start, token.end, mended=True) for part in parts]
    return out


def _read_tokens(tokens: Sequence[Token], reading: Reading) -> None:
    """Read report sentences and note what could not be read of them."""
    if any(token.word in LETTERS and token.term is None for token in tokens):
        reading.warn("unread_side")
    read_report(tokens, reading)
    if any("history" in finding.attributes and finding.present for finding in reading.findings):
        reading.warn("history")


def _caption_apart(tokens: Sequence[Token]) -> tuple[list[Token], list[Token]] | None:
    """The caption, and what a report says before or after it: "..., lower left lung. No pleural effusion."."""
    sentences: list[list[Token]] = [[]]
    for token in tokens:
        sentences[-1].append(token)
        if token.mark and token.word in (".", ";"):
            sentences.append([])
    sentences = [sentence for sentence in sentences if sentence]
    kinds = [recognize_caption(mend(spelled_out(words_of(one)), chest=True)) for one in sentences]
    if "qata" not in kinds or len(sentences) < 2:
        return None

    captions: list[Token] = []
    rest: list[Token] = []
    for sentence, kind in zip(sentences, kinds, strict=True):
        target = captions if kind == "qata" or not _speaks(sentence) else rest
        target += sentence
    return (captions, rest) if rest else None


def _speaks(sentence: Sequence[Token]) -> bool:
    """Whether a sentence says something of its own about organs or findings."""
    copies = [
        Token(token.word, token.start, token.end, token.term, mark=token.mark) for token in sentence
    ]
    roles = {token.role for token in tag(copies)}
    return bool(roles & {"finding", "anatomy", "deny", "free"}) or bool(
        PROSE & {token.word for token in sentence}
    )


def _state(reading: Reading, name: str, laterality: Laterality, language: str) -> Statement:
    """Draw the conclusions of a reading and check it against itself."""
    reading.settle()
    zones = frozenset(reading.zones)
    sides = {side for side, _ in zones}
    caption = name in ("qata", "mosmed")
    found = reading.found and not caption
    free = reading.denied or reading.negated >= set(LUNG_ZONES)
    absent = not zones and not found and free

    # a statement that contradicts itself
    few = reading.count is not None and reading.count < (len(sides) if caption else 1)
    if zones and (few or (reading.denied and caption)):
        reading.warn("contradiction_count")
    one_sided = {"unilateral": sides >= BOTH, "bilateral": len(sides) == 1}
    if reading.lateral and one_sided[reading.lateral]:
        reading.warn("contradiction_lateral")
    if zones & reading.negated:
        reading.warn("contradiction_negation")

    understood = bool(
        zones or reading.negated or absent or reading.count is not None or reading.lateral
    )
    understood = understood or bool(reading.findings)
    if not (understood or reading.found):
        reading.warn("nothing_parsed")
    return Statement(
        zones=zones,
        count=0 if absent and name != "report" else reading.count,
        lateral=reading.lateral,
        absent=absent,
        negated=frozenset(reading.negated),
        size=reading.size,
        laterality=laterality,
        grammar=name if understood or reading.found else "",
        findings=tuple(reading.findings),
        language=language,
        warnings=tuple(reading.warnings),
    )
