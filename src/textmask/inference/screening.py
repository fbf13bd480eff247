"""Codes for questionable requests, and whether the model should abstain."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from textmask.errors import CheckpointError
from textmask.statement import Statement
from textmask.text.grammar import WARNINGS
from textmask.text.vocabulary import known_share, organs, unknown_words

CUT = "longer_than_window"
# the masks of the split were predicted in half precision, and values may repeat
HALF = 1e-3
NOT_MIRRORED = "not_mirrored"
REFUSED_NAME = "refused_name"
CODES: Mapping[str, str] = {
    **WARNINGS,
    CUT: "the text encoder does not read the prompt to its end; the rest is lost",
    "other_script": "letters of a non-Latin script; the grammar reads English",
    "out_of_vocabulary": "words that do not occur in the training prompts",
    "absent_finding": "the prompt reports that there is no finding, so nothing is marked",
    "negated": "places reported as free of findings are not marked",
    "view_overruled": "the named view differs from the one in the file; the named one is used",
    NOT_MIRRORED: "the prompt cannot be mirrored, so the flipped image is left out of the average",
    REFUSED_NAME: "the prompt names a structure that the model does not know, so nothing is marked",
    "abstained": "the mask is withheld, for the reason next to this code",
    "no_medical_word": "neither a place nor a medical word was found in the prompt",
    "unlike_training_text": "too few words of the prompt are known from the training prompts or from medicine",
    "other_organ": "the prompt is about an organ that no training prompt named",
    "unlike_validation_masks": "the model is less confident in this mask than in nearly all of its validation masks",
}


@dataclass(frozen=True)
class Calibration:
    """What is usual for a run, measured on its training prompts and its validation split.

    Attributes:
        vocabulary: words of the training prompts.
        share: smallest share of known words in a prompt that is answered, in [0, 1].
        confidence: 101 ascending quantiles of the mean probability inside the mask, over the validation split.
        level: share of the validation masks below which the model abstains, in (0, 0.5).
        weights_sha256: hash of the weights that were calibrated.
    """

    vocabulary: frozenset[str]
    share: float
    confidence: tuple[float, ...]
    level: float
    weights_sha256: str

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Calibration:
        """Read back what `textmask calibrate` wrote.

        Raises:
            CheckpointError: a field is missing or has another type.
        """
        # the file may be edited by hand or truncated
        try:
            quantiles = tuple(map(float, value["confidence_quantiles"]))
            found = cls(
                frozenset(map(str, value["vocabulary"])),
                float(value["share_needed"]),
                quantiles,
                float(value["level"]),
                str(value["weights_sha256"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"calibration.json is malformed ({error!r}). Run textmask calibrate again."
            ) from error

        # ranks need ascending quantiles
        finite = bool(quantiles) and bool(np.isfinite(quantiles).all())
        if not finite or list(quantiles) != sorted(quantiles):
            raise CheckpointError(
                "calibration.json is malformed: expected ascending quantiles. Run textmask calibrate again."
            )
        return found

    def rank(self, confidence: float) -> float:
        """Share of the validation masks in which the model was at most as confident, in [0, 1]."""
        place = np.searchsorted(self.confidence, confidence + HALF, side="right")
        return float(place / len(self.confidence))


@dataclass(frozen=True)
class Screening:
    """The assessment of a request.

    Attributes:
        codes: keys of `CODES`, per source in the order of importance.
        empty: nothing should be marked: the model abstains, or the prompt denies the finding.
        abstained: the model abstains.
        compatibility: the lower of the share of known words and the rank of the mask's confidence, in [0, 1]; None
            without a calibration.
        unknown_words: content words that do not occur in the training prompts.
    """

    codes: tuple[str, ...]
    empty: bool
    abstained: bool
    compatibility: float | None
    unknown_words: tuple[str, ...]


def screen(
    sentence: str,
    statement: Statement,
    probability: np.ndarray,
    threshold: float,
    calibration: Calibration | None = None,
    *,
    cut: bool = False,
) -> Screening:
    """Assess a prompt and the prediction for it.

    Args:
        sentence: the prompt as given.
        statement: what it claims.
        probability: h w in [0, 1], as the network predicted it.
        threshold: probability above which a pixel is foreground.
        calibration: of the run, if it has been calibrated.
        cut: the text encoder did not read the prompt to its end.
    """
    vocabulary = frozenset() if calibration is None else calibration.vocabulary
    strange = () if calibration is None else unknown_words(sentence, vocabulary)
    denied = not statement.zones and (statement.absent or bool(statement.negated))

    # what is questionable about the prompt alone
    codes = list(statement.warnings)
    if cut:
        codes.append(CUT)
    if _has_other_script(sentence):
        codes.append("other_script")
    if strange:
        codes.append("out_of_vocabulary")
    if statement.absent and denied:
        codes.append("absent_finding")
    elif statement.negated:
        codes.append("negated")

    # a prompt of sides, levels and numbers alone has no share of known words
    share = known_share(sentence, vocabulary)
    if share is None:
        share = float(statement.has_location or denied)
    reasons = []
    if {"nothing_parsed", "empty_text"} & set(statement.warnings) and share == 0:
        reasons.append("no_medical_word")
    if "other_language" in statement.warnings and not reasons:
        reasons.append("other_language")
    if calibration is not None and not reasons and _other_organ(sentence, statement, calibration):
        reasons.append("other_organ")

    # what is unusual compared with the training prompts and the validation masks
    compatibility = None
    if calibration is not None:
        compatibility = share
        if share < calibration.share and not reasons:
            reasons.append("unlike_training_text")
        sure = confidence(probability, threshold)
        if sure is not None and not denied:
            rank = calibration.rank(sure)
            compatibility = min(share, rank)
            if rank < calibration.level:
                reasons.append("unlike_validation_masks")

    # the reasons follow the code that they explain
    abstained = bool(reasons)
    if abstained:
        codes += ["abstained", *reasons]
    return Screening(tuple(codes), abstained or denied, abstained, compatibility, strange)


def _other_organ(sentence: str, statement: Statement, calibration: Calibration) -> bool:
    """Whether the prompt names organs, and none that the training prompts named."""
    known = organs(" . ".join(sorted(calibration.vocabulary)))
    named = organs(sentence)
    return bool(known and named) and not known & named and not statement.zones


def confidence(probability: np.ndarray, threshold: float) -> float | None:
    """Mean probability inside the mask; None if nothing is marked."""
    inside = probability[probability > threshold]
    return float(inside.mean()) if inside.size else None


def _has_other_script(sentence: str) -> bool:
    """Whether a letter is not Latin; accents and full-width forms of Latin letters are Latin."""
    letters = (c for c in unicodedata.normalize("NFKC", sentence[:2000]) if c.isalpha())
    return any(not unicodedata.name(c, "").startswith("LATIN") for c in letters)
