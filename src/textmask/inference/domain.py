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
OVERRULED = "view_overruled"


def domain_of(data: Mapping[str, Any]) -> Domain:
    """The domain that a run has stored in data.json; a run without one knows every image.

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
    """Add what is questionable about the image to the assessment of a request.

    An image whose DICOM header says that the model does not know its kind has no mask: the model abstains.

    Args:
        screening: of the prompt and the prediction.
        domain: of the run; None knows every image.
        loaded: the image.
        orientation: with which it was segmented: that of the file, or of the view that the user named.
    """
    codes, file = screening.codes, loaded.orientation
    if file is not None and orientation is not None:
        overruled = (file.columns, file.rows) != (orientation.columns, orientation.rows)
        codes += (OVERRULED,) if overruled else ()
    if loaded.format != "dicom" or domain is None:
        return replace(screening, codes=codes)
    if not domain.mismatch(loaded.header, orientation, named=orientation != file):
        return replace(screening, codes=codes)

    # the reasons follow the code that they explain
    codes += (OUTSIDE,) if screening.abstained else ("abstained", OUTSIDE)
    return replace(screening, codes=codes, empty=True, abstained=True)
