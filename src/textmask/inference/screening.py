"""Codes for questionable requests, and whether the model should abstain."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from textmask.errors import CheckpointError
from textmask.inference.likeness import KnownImages
from textmask.io.orientation import Orientation
from textmask.metrics.agreement import share_in_zones
from textmask.statement import Statement
from textmask.text.grammar import WARNINGS
from textmask.text.vocabulary import known_share, organs, unknown_words

CUT = "longer_than_window"
# the masks of the split were predicted in half precision, and values may repeat
HALF = 1e-3
NOT_MIRRORED = "not_mirrored"
REFUSED_NAME = "refused_name"
DOUBTFUL = 0.05  # rank of `existence` below which the finding may be absent
ELSEWHERE = 0.5  # of `agreement`: most of the mask lies outside the places
# codes about image and mask rather than about the prompt
DOUBTS = ("unlike_training_images", "may_be_absent", "mask_elsewhere")
CODES: Mapping[str, str] = {
    **WARNINGS,
    CUT: "the text encoder does not read the prompt to its end; the rest is lost",
    "other_script": "letters of a non-Latin script; the grammar reads English",
    "out_of_vocabulary": "words that neither the training prompts nor the medical vocabulary contain",
    "absent_finding": "the prompt reports that there is no finding, so nothing is marked",
    "negated": "places reported as free of findings are not marked",
    "view_overruled": "the named view differs from the one in the file; the named one is used",
    "unlike_training_images": "the image is unlike the images that the model knows, so the mask may mean nothing",
    "may_be_absent": "the model is less sure that the finding is there than for nearly all findings that are",
    "mask_elsewhere": "most of the mask lies outside the places that the prompt names",
    NOT_MIRRORED: "the prompt cannot be mirrored, so the flipped image is left out of the average",
    REFUSED_NAME: "the prompt names a structure that the model does not know, so nothing is marked",
    "abstained": "the mask is withheld, for the reason next to this code",
    "no_medical_word": "neither a place nor a medical word was found in the prompt",
    "unlike_training_text": "too few words of the prompt are known from the training prompts or from medicine",
    "other_organ": "the prompt is about an organ that no training prompt named",
    "outside_domain_header": "the DICOM header names a kind of image that the model does not know (modality, body "
    "part, view, localizer or raw data)",
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
        known_images: the training images; None in a calibration of version 0.1, or with fewer than 20 images.
    """

    vocabulary: frozenset[str]
    share: float
    confidence: tuple[float, ...]
    level: float
    weights_sha256: str
    known_images: KnownImages | None = None

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Calibration:
        """Read back what `textmask calibrate` wrote.

        Raises:
            CheckpointError: a field is missing or has another type.
        """
        # the file may be edited by hand or truncated
        try:
            quantiles = tuple(map(float, value["confidence_quantiles"]))
            known = value.get("known_images")
            found = cls(
                frozenset(map(str, value["vocabulary"])),
                float(value["share_needed"]),
                quantiles,
                float(value["level"]),
                str(value["weights_sha256"]),
                None if known is None else KnownImages.from_json(known),
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
class Scores:
    """Three numbers in [0, 1] about a result; low ones are reasons to doubt it. docs/predict.md has what they detect.

    Attributes:
        likeness: share of the validation images that are at least as unlike the training images as this one.
        existence: `Calibration.rank` of the confidence in the mask: share of the validation masks, whose findings are
            there, in which the model was at most as confident; 0 if nothing is marked.
        agreement: share of the mask that lies in the places that the prompt names; None without a place or a mask.
    """

    likeness: float | None = None
    existence: float | None = None
    agreement: float | None = None

    def as_json(self) -> dict[str, float | None]:
        """For results and tables."""
        return {
            name: None if value is None else round(value, 4) for name, value in asdict(self).items()
        }

    def lowest(self, other: Scores) -> Scores:
        """The lower of each score, for two findings of one image."""
        values: dict[str, float | None] = {}
        for name, mine in asdict(self).items():
            theirs = getattr(other, name)
            known = [value for value in (mine, theirs) if value is not None]
            values[name] = min(known) if known else None
        return Scores(**values)


NO_SCORES = Scores()


@dataclass(frozen=True)
class Screening:
    """The assessment of a request.

    Attributes:
        codes: keys of `CODES`, per source in the order of importance.
        empty: nothing should be marked: the model abstains, or the prompt denies the finding.
        abstained: the model abstains.
        scores: numbers about image, finding and mask.
        unknown_words: content words that neither the training prompts nor medicine know.
    """

    codes: tuple[str, ...]
    empty: bool
    abstained: bool
    scores: Scores
    unknown_words: tuple[str, ...]


def screen(
    sentence: str,
    statement: Statement,
    probability: np.ndarray,
    threshold: float,
    calibration: Calibration | None = None,
    *,
    read: Statement | None = None,
    likeness: float | None = None,
    cut: bool = False,
) -> Screening:
    """Assess a prompt and the prediction for it.

    Args:
        sentence: the prompt as given.
        statement: what it claims.
        probability: h w in [0, 1], as the network predicted it.
        threshold: probability above which a pixel is foreground.
        calibration: of the run, if it has been calibrated.
        read: what the prompt claims as the network reads it, after the conversion of sides; None means `statement`.
        likeness: `KnownImages.rank` of the image.
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
    existence = agreement = None
    sure = confidence(probability, threshold)
    if calibration is not None:
        if share < calibration.share and not reasons:
            reasons.append("unlike_training_text")
        if not denied:
            existence = 0.0 if sure is None else calibration.rank(sure)
            if sure is not None and existence < calibration.level:
                reasons.append("unlike_validation_masks")
    if sure is not None and not denied:
        agreement = share_in_zones(probability > threshold, read or statement)

    # what is doubtful but answered
    if likeness is not None and calibration is not None and likeness < calibration.level:
        codes.append("unlike_training_images")
    if existence is not None and existence < DOUBTFUL:
        codes.append("may_be_absent")
    if agreement is not None and agreement < ELSEWHERE:
        codes.append("mask_elsewhere")

    # the reasons follow the code that they explain
    abstained = bool(reasons)
    if abstained:
        codes += ["abstained", *reasons]
    scores = Scores(likeness, existence, agreement)
    return Screening(tuple(codes), abstained or denied, abstained, scores, strange)


def view_codes(file: Orientation | None, named: Orientation | None) -> tuple[str, ...]:
    """The code for an orientation that was named and differs from the one in the file."""
    if file is None or named is None or (file.columns, file.rows) == (named.columns, named.rows):
        return ()
    return ("view_overruled",)


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
