"""What a user says about the tables of a data set: the sheet of a workbook, and which columns name the files."""

from __future__ import annotations

from dataclasses import dataclass

from textmask.errors import ConfigError


@dataclass(frozen=True)
class TableChoice:
    """The sheet and the columns to take, if the usual ones are not meant.

    A chosen column takes the usual name, so that a layout finds it as if it were called that.

    Attributes:
        sheet: of workbooks; None takes the first.
        image_column: column of image files.
        mask_column: column of mask files.
    """

    sheet: str | None = None
    image_column: str | None = None
    mask_column: str | None = None

    @property
    def columns(self) -> dict[str, str]:
        """Chosen column -> its usual name."""
        pairs = ((self.image_column, "image"), (self.mask_column, "mask"))
        return {column: usual for column, usual in pairs if column}

    def usual_names(self, header: list[str]) -> list[str]:
        """A header in which the chosen columns have the usual names, and no other column has them.

        Raises:
            ConfigError: one column is chosen for images and for masks.
        """
        if self.image_column and self.image_column == self.mask_column:
            raise ConfigError(
                f"the column {self.image_column!r} is named for images and for masks. A mask is another file than its "
                "image: name another column, or leave --mask-column out."
            )
        names = list(header)
        for column, usual in self.columns.items():
            if column not in header:
                continue
            for i, name in enumerate(header):
                if name == column:
                    names[i] = usual
                elif names[i].lower() == usual:
                    names[i] = f"{name} (not chosen)"
        return names
