"""Options that say how the tables and masks of a person's own data are read."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from textmask.runs.data_options import DataOptions

# None means not given, so that a run's own options apply
ImageColumn = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Column of the image files; '' for none (default: image, file_name, ...).",
    ),
]
MaskColumn = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Column of the mask files; '' for none (default: mask, ...)."
    ),
]
Sheet = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Sheet of Excel workbooks; '' for none (default: the first)."
    ),
]
ResizeMasks = Annotated[
    str | None,
    typer.Option(
        metavar="nearest",
        help="Fit masks that differ from their image by a pixel or a common factor; '' for none (default: refuse).",
    ),
]


def with_table_options(
    options: DataOptions,
    image_column: str | None,
    mask_column: str | None,
    sheet: str | None,
    resize_masks: str | None,
) -> DataOptions:
    """The data options with those of these four that were given."""
    given: dict[str, Any] = {
        "image_column": image_column,
        "mask_column": mask_column,
        "sheet": sheet,
        "resize_masks": resize_masks,
    }
    return replace(options, **{name: value for name, value in given.items() if value is not None})
