"""What writers do to a sentence: misspell, shorten, reword, reorder, leave out, add, deny; each at graded severity.

The counterpart of `textmask.data.corruptions` for text: images and masks are not touched.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from textmask.errors import ConfigError, choose
from textmask.statement import LUNG_ZONES, Level, Side, Zone
from textmask.text.edit import (
    LONG_WORD,
    PLACE,
    deny,
    drop_position,
    paraphrase,
    reorder_clauses,
    same_meaning,
    spoken_kind,
    typo,
)
from textmask.text.grammar import parse
from textmask.text.render import places
from textmask.text.vocabulary import organs
from textmask.text.words import MISSPELT

Edit = Callable[[str, np.random.Generator, int], str | None]
TRIES = 8  # orders of clauses that are drawn: of two, half are no change
CHESTS = ("qata", "mosmed", "report")
SHORT_WORDS = {"bilateral": "bilat.", "unilateral": "unilat.", "infection": "inf."}
# other wordings: each must still parse to the zones and the kind of finding it was made from
WORDINGS = {
    "opacity": (
        "Hazy opacification is seen in {}.",
        "There is consolidation involving {}.",
        "Airspace disease in {}, as marked.",
    ),
    "other": (
        "There is {finding} in {}.",
        "{finding} is seen in {}.",
        "Also noted: {finding} in {}.",
    ),
    "polyp": ("A polyp can be seen in {} of the image.", "There is one polyp, it sits in {}."),
}
# about something else, without a place and without a denial
EXTRA = {
    "chest": (
        "The film is slightly rotated.",
        "Heart size is within limits.",
        "A gastric tube is in place.",
        "Degenerative changes of the spine.",
        "Compared with the film of yesterday.",
        "The trachea is midline.",
        "The patient was upright.",
    ),
    "polyp": (
        "The mucosa is well seen.",
        "Bowel preparation is adequate.",
        "Some residue was washed away.",
        "The folds are regular.",
    ),
    "nuclei": (
        "The stain is even.",
        "The slide is in focus.",
        "Taken at high magnification.",
        "The tissue is intact.",
    ),
}
# denials of something else
DENIALS = {
    "chest": (
        "No pneumothorax.",
        "No pleural effusion.",
        "No rib fracture.",
        "No cardiomegaly.",
        "No pneumomediastinum.",
    ),
    "polyp": ("No bleeding.", "No ulcer.", "No stenosis.", "No residue."),
    "nuclei": ("No folds.", "No blur.", "No pen marks.", "No air bubbles."),
}


@dataclass(frozen=True)
class TextNoise:
    """One way to spoil a sentence.

    Attributes:
        edit: (prompt, rng, severity) -> prompt, None if the sentence offers no room for it.
        severities: the values offered, mild to strong.
        meaning: what the severity is.
        keeps: whether the sentence still claims the same to a person who reads it.
    """

    edit: Edit
    severities: tuple[int, ...]
    meaning: str
    keeps: bool = True


def spoil(prompt: str, name: str, severity: int, rng: np.random.Generator) -> str | None:
    """The spoiled sentence; None if it cannot be, or comes out as it was.

    Args:
        prompt: any text.
        name: a key of `TEXT_NOISE`.
        severity: one of its severities.
        rng: source of what is chosen.

    Raises:
        ConfigError: unknown name or severity.
    """
    noise = TEXT_NOISE[choose("text noise", name, list(TEXT_NOISE))]
    if severity not in noise.severities:
        raise ConfigError(
            f"text noise {name!r}: got severity {severity}, expected one of {', '.join(map(str, noise.severities))} "
            f"({noise.meaning})."
        )
    out = noise.edit(prompt, rng, severity)
    return None if out is None or out == prompt else out


def _misspelt(kind: str) -> Edit:
    def edit(prompt: str, rng: np.random.Generator, n: int) -> str | None:
        return typo(prompt, rng, n, kind) if len(LONG_WORD.findall(prompt)) >= n else None

    return edit


def _real_typos(prompt: str, rng: np.random.Generator, n: int) -> str | None:
    """N of its words as the released table misspells them."""
    found = list(re.finditer(rf"\b(?:{'|'.join(MISSPELT)})\b", prompt, re.IGNORECASE))
    if len(found) < n:
        return None
    for i in sorted(rng.choice(len(found), n, replace=False))[::-1]:
        match = found[i]
        wrong = str(rng.choice(MISSPELT[match.group().lower()]))
        wrong = wrong.capitalize() if match.group()[0].isupper() else wrong
        prompt = prompt[: match.start()] + wrong + prompt[match.end() :]
    return prompt


def _abbreviated(prompt: str, _: np.random.Generator, severity: int) -> str | None:
    """Severity 1: bilat., unilat., inf.; 2: the places as well (RLL, LUL)."""
    if parse(prompt).grammar not in CHESTS:
        return None
    words = re.compile(rf"\b(?:{'|'.join(SHORT_WORDS)})\b", re.IGNORECASE)
    short = words.sub(lambda match: SHORT_WORDS[match.group().lower()], prompt)
    if severity == 1:
        return short
    out = PLACE.sub(_place_letters, short)
    return out if out != short else None


def _place_letters(match: re.Match[str]) -> str:
    """LLL for "lower left lung"; a whole lung, and what names no side, stay."""
    zones = parse(match.group()).zones
    per_side = [
        [zone for zone in LUNG_ZONES if zone in zones and zone[0] is side]
        for side in (Side.LEFT, Side.RIGHT)
    ]
    if (
        not zones
        or any(len(listed) == len(Level) for listed in per_side)
        or not zones <= set(LUNG_ZONES)
    ):
        return match.group()
    return " and ".join(letters(zone) for listed in per_side for zone in listed)


def letters(zone: Zone) -> str:
    """Radiologists' letters of a lung zone: "RLL"; there is no left middle lobe, so that one is a zone, "LMZ"."""
    side, level = zone
    left_middle = (Side.LEFT, Level.MIDDLE)
    return f"{side.value[0]}{level.value[0]}{'z' if zone == left_middle else 'l'}".upper()


def _reworded(prompt: str, rng: np.random.Generator, severity: int) -> str | None:
    """Severity 1: another published style; 2: words of a report that no style has."""
    if severity == 1:
        return paraphrase(prompt, rng)
    statement = parse(prompt)
    if statement.negated or not places(statement):
        return None
    polyp, finding = statement.grammar == "polyp", spoken_kind(statement)
    listed = (
        " and " if polyp else f"; also {finding} in " if finding != "opacity" else "; also in "
    ).join(places(statement))
    wordings = WORDINGS["polyp" if polyp else "opacity" if finding == "opacity" else "other"]
    texts = [_capital(wording.format(listed, finding=finding)) for wording in wordings]
    texts = [
        text
        for text in texts
        if parse(text).zones == statement.zones and (polyp or same_meaning(prompt, text))
    ]
    return str(rng.choice(texts)) if texts else None


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _reordered(prompt: str, rng: np.random.Generator, severity: int) -> str | None:
    """Severity 1: clauses; 2: two neighbouring words; 3: all words."""
    if severity == 1:
        orders = (reorder_clauses(prompt, rng) for _ in range(TRIES))
        return next((text for text in orders if text != prompt), None)
    words = prompt.split()
    if len(words) < severity:
        return None
    if severity == 2:
        i = int(rng.integers(len(words) - 1))
        words[i : i + 2] = words[i + 1], words[i]
        return " ".join(words)
    return " ".join(words[i] for i in rng.permutation(len(words)))


def _shortened(prompt: str, rng: np.random.Generator, severity: int) -> str | None:
    """Severity 1: one clause without a place is missing; 2: all of them; 3: only the places are."""
    if severity == 3:
        return drop_position(prompt) or None
    clauses = re.findall(
        r"(?:[^,.;]|\.(?=\d))+[,.;]*", prompt
    )  # the point of "2.5 cm" ends no clause
    plain = [i for i, clause in enumerate(clauses) if not parse(clause).zones]
    if len(plain) == len(clauses) or len(plain) < severity:
        return None
    gone = set(plain) if severity == 2 else {int(rng.choice(plain))}
    return "".join(clause for i, clause in enumerate(clauses) if i not in gone).strip()


def _longer(prompt: str, rng: np.random.Generator, n: int) -> str | None:
    """N further sentences, each before or after; none that says something about a finding of the sentence."""
    listed = _unrelated(prompt, EXTRA.get(_subject(prompt), ()))
    if len(listed) < n:
        return None
    chosen = [listed[i] for i in rng.permutation(len(listed))[:n]]
    after = rng.integers(2, size=n)
    sentence = f"{prompt.rstrip().rstrip('.')}."
    head = [text for text, later in zip(chosen, after, strict=True) if not later]
    tail = [text for text, later in zip(chosen, after, strict=True) if later]
    return " ".join([*head, sentence, *tail])


def _denying(prompt: str, rng: np.random.Generator, n: int) -> str | None:
    """N denials of something else after it; the first says that the other lung is clear, if one lung is named."""
    statement = parse(prompt)
    listed = _unrelated(prompt, DENIALS.get(_subject(prompt), ()))
    if len(listed) < n:
        return None
    texts = [listed[i] for i in rng.permutation(len(listed))[:n]]
    if statement.grammar in CHESTS and statement.sides in ({Side.LEFT}, {Side.RIGHT}):
        (side,) = statement.sides
        texts[0] = f"The {side.mirrored.value} lung is clear."
    return " ".join([f"{prompt.rstrip().rstrip('.')}.", *texts])


def _unrelated(prompt: str, sentences: Sequence[str]) -> list[str]:
    """Those of the sentences that are about no finding and no organ of the prompt."""
    named = {(finding.organ, finding.group) for finding in parse(prompt).findings}
    about = organs(prompt) - {"lung"}
    chosen = []
    for sentence in sentences:
        kinds = {(finding.organ, finding.group) for finding in parse(sentence).findings}
        if not kinds & named and not organs(sentence) & about:
            chosen.append(sentence)
    return chosen


def _subject(prompt: str) -> str:
    grammar = parse(prompt).grammar
    return "chest" if grammar in CHESTS else grammar


TEXT_NOISE: dict[str, TextNoise] = {
    **{
        name: TextNoise(_misspelt(name), (1, 2, 3), f"words with a letter {what}")
        for name, what in (
            ("keyboard", "hit next to its key"),
            ("swap", "swapped with the next"),
            ("drop", "missing"),
        )
    },
    "real_typos": TextNoise(_real_typos, (1, 2, 3), "words misspelt as in the released QaTa table"),
    "abbreviation": TextNoise(_abbreviated, (1, 2), "1 bilat., unilat., inf.; 2 also RLL, LUL"),
    "paraphrase": TextNoise(_reworded, (1, 2), "1 another published style; 2 free report words"),
    "word_order": TextNoise(
        _reordered, (1, 2, 3), "1 clauses; 2 two neighbouring words; 3 all words"
    ),
    "missing": TextNoise(
        _shortened, (1, 2, 3), "1 one clause without place; 2 all of them; 3 the places"
    ),
    "extra": TextNoise(_longer, (1, 2, 3), "further sentences about something else"),
    "negation": TextNoise(_denying, (1, 2, 3), "further denials of something else"),
    "denied": TextNoise(
        lambda prompt, _, __: deny(prompt), (1,), "the finding is said not to be there", keeps=False
    ),
}
