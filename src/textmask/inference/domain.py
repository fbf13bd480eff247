"""The domain of a run: which images it knows, and what happens to the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from textmask.errors import CheckpointError, DataError
from textmask.inference.screening import Screening
from textmask.io.dicom.domain import Domain
from textmask.io.loaded import LoadedImage
from textmask.io.orientation import Orientation

OUTSIDE = "outside_domain_header"


def domain_of(data: Mapping[str, Any]) -> Domain | None:
    """The domain that a run has stored in data.json, or one of every image; `Predictor.domain`, where None answers all.

    Raises:
        CheckpointError: the stored domain is malformed.
    """
    try:
        return Domain.from_json(data.get("domain", {}))
    except DataError as error:
        raise CheckpointError(str(error)) from error


def screen_image(
    screening: Screening,
    domain: Domain | None,
    loaded: LoadedImage,
    orientation: Orientation | None,
) -> Screening:
    """Withhold the mask of an image that the model does not know.

    An image whose DICOM header says that the model does not know its kind has no mask: the model abstains.

    Args:
        screening: of the prompt and the prediction.
        domain: of the run; None knows every image.
        loaded: the image.
        orientation: with which it was segmented: that of the file, or of the view that the user named.
    """
    named = orientation != loaded.orientation
    # an image made in code may have no header
    if loaded.format != "dicom" or loaded.header is None or domain is None:
        return screening
    if not domain.mismatch(loaded.header, orientation, named):
        return screening

    # the reasons follow the code that they explain
    more = (OUTSIDE,) if screening.abstained else ("abstained", OUTSIDE)
    return replace(screening, codes=(*screening.codes, *more), empty=True, abstained=True)
