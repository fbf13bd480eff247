"""What is wrong with a request, as codes, and whether the model should answer it at all."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from textmask.errors import CheckpointError
from textmask.text.grammar import WARNINGS
from textmask.text.statement import Statement
from textmask.text.vocabulary import known_share, organs, unknown_words

CALIBRATION = "calibration.json"  # in a run folder
CUT = "longer_than_window"
HALF = 1e-3  # the masks of the split were predicted in half precision, and values may repeat
CODES: Mapping[str, str] = {
    **WARNINGS,
    CUT: "the text encoder does not read the sentence to its end; what is said there is lost",
    "other_script": "letters of another script; the grammar reads English",
    "out_of_vocabulary": "words that the sentences of the training never had",
    "absent_finding": "the sentence says that there is no finding, so nothing is marked",
    "negated": "what is said to be free of findings is not marked",
    "view_overruled": "the view that was named is not the one the file has; the one that was named counts",
    "abstained": "no mask is given, for the reason beside this code",
    "no_medical_word": "neither a place nor a medical word was found in the sentence",
    "unlike_training_text": "too few words of the sentence are known from the training or from medicine",
    "other_organ": "the sentence is about an organ that the sentences of the training never had",
    "unlike_validation_masks": "the model is less sure of this mask than of nearly all masks of its validation split",
}


@dataclass(frozen=True)
class Calibration:
    """What is usual for a run, taken from its training sentences and its validation split.

    Attributes:
        vocabulary: words of the training sentences.
        share: smallest share of known words of a sentence that is answered.
        confidence: 101 ascending quantiles of the mean probability within the mask, over the validation split.
        level: share of the validation masks below which the model abstains.
        weights_sha256: of the weights that were calibrated.
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
            CheckpointError: a field is missing or of another type.
        """
        try:
            words, quantiles = value["vocabulary"], tuple(float(x) for x in value["confidence_quantiles"])
            found = cls(
                frozenset(str(word) for word in words),
                float(value["share_needed"]),
                quantiles,
                float(value["level"]),
                str(value["weights_sha256"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"calibration.json is not one ({error!r}). Run textmask calibrate again.") from error
        if not quantiles or not np.isfinite(quantiles).all() or list(quantiles) != sorted(quantiles):
            raise CheckpointError("calibration.json has no ascending quantiles. Run textmask calibrate again.")
        return found

    def rank(self, confidence: float) -> float:
        """Share of the validation masks that the model was at most as sure of."""
        place = np.searchsorted(self.confidence, confidence + HALF, side="right")
        return float(place / len(self.confidence))


@dataclass(frozen=True)
class Verdict:
    """What is to be said of a request.

    Attributes:
        codes: of `CODES`, in the order of importance within their source.
        empty: nothing is to be marked: the model abstains, or the sentence denies the finding.
        abstained: the model abstains.
        compatibility: the lower of the share of known words and of the rank of the mask's confidence, in [0, 1]; None
            without a calibration.
        unknown_words: content words that the training never had.
    """

    codes: tuple[str, ...]
    empty: bool
    abstained: bool
    compatibility: float | None
    unknown_words: tuple[str, ...]


def judge(
    sentence: str,
    statement: Statement,
    probability: np.ndarray,
    threshold: float,
    calibration: Calibration | None = None,
    *,
    cut: bool = False,
) -> Verdict:
    """Judge a sentence and the answer to it.

    Args:
        sentence: as it was asked.
        statement: what it claims.
        probability: h w, what the network said.
        threshold: above which a pixel is foreground.
        calibration: of the run, where there is one.
        cut: the text encoder did not read the sentence to its end.
    """
    codes = [*statement.warnings, *([CUT] if cut else []), *(["other_script"] if _other_script(sentence) else [])]
    strange = () if calibration is None else unknown_words(sentence, calibration.vocabulary)
    denied = not statement.zones and (statement.absent or bool(statement.negated))
    codes += ["out_of_vocabulary"] if strange else []
    codes += ["absent_finding"] if statement.absent and denied else ["negated"] if statement.negated else []
    share = known_share(sentence, () if calibration is None else calibration.vocabulary)
    if share is None:  # sides, levels and numbers alone
        share = float(statement.has_location or denied)
    reasons = []
    if {"nothing_parsed", "empty_text"} & set(statement.warnings) and share == 0:
        reasons.append("no_medical_word")
    if "other_language" in statement.warnings and not reasons:
        reasons.append("other_language")
    if calibration is not None and not reasons and _other_organ(sentence, statement, calibration):
        reasons.append("other_organ")
    compatibility = None
    if calibration is not None:
        compatibility = share
        if share < calibration.share and not reasons:
            reasons.append("unlike_training_text")
        sure = confidence(probability, threshold)
        if sure is not None and not denied:
            rank = calibration.rank(sure)
            compatibility = min(share, rank)
            reasons += ["unlike_validation_masks"] if rank < calibration.level else []
    abstained = bool(reasons)
    codes += ["abstained", *reasons] if abstained else []
    return Verdict(tuple(codes), abstained or denied, abstained, compatibility, strange)


def _other_organ(sentence: str, statement: Statement, calibration: Calibration) -> bool:
    """Whether the sentence names organs, and none that the training sentences had."""
    known = organs(" . ".join(sorted(calibration.vocabulary)))
    named = organs(sentence)
    return bool(known and named) and not known & named and not statement.zones


def confidence(probability: np.ndarray, threshold: float) -> float | None:
    """Mean probability within the mask; None where nothing is marked."""
    inside = probability[probability > threshold]
    return float(inside.mean()) if inside.size else None


def _other_script(sentence: str) -> bool:
    """Whether a letter is none of the Latin alphabet (marks and full-width forms of Latin letters are)."""
    letters = (c for c in unicodedata.normalize("NFKC", sentence[:2000]) if c.isalpha())
    return any(not unicodedata.name(c, "").startswith("LATIN") for c in letters)
