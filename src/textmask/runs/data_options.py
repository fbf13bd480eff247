"""How a data set is read: the options that a run remembers, so that later commands read the data the same way."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from textmask.errors import DataError
from textmask.layouts.choice import TableChoice


@dataclass(frozen=True)
class DataOptions:
    """What a user may choose when a data set is read.

    Attributes:
        layout: name of the layout; `auto` detects it.
        text_column: column of the prompts, if the manifest has several.
        split_column: column of the splits, if the manifest has several.
        laterality: convention of the prompts: `image`, `patient` or `unknown`; None takes that of the layout.
        hold_out: share of `train` that is held out as `valid`, in [0, 1); 0 holds nothing out.
        merge_valid: train on `valid` too.
        grammar: grammar of the prompts, see `textmask.text.grammar.parse`; None takes that of the data.
        mask_threshold: values of a mask above it are foreground; None leaves that to the values of all masks.
        mask_values: the values that are foreground, separated by commas; None as above.
        classes: file with the names of the values of label maps, in the folder of the data or elsewhere.
        absent: with `classes`, keep structures that an image does not show, as rows with an empty mask.
        image_column, mask_column: columns of image and mask files, if they are not the usual ones.
        sheet: of workbooks; None takes the first.
        resize_masks: "nearest" fits masks whose size differs from their image; None refuses them.
        allow_empty_text: train a method that reads prompts although most rows have none.
    """

    layout: str = "auto"
    text_column: str | None = None
    split_column: str | None = None
    laterality: str | None = None
    hold_out: float = 0.0
    merge_valid: bool = False
    grammar: str | None = None
    mask_threshold: float | None = None
    mask_values: str | None = None
    classes: str | None = None
    absent: bool = False
    image_column: str | None = None
    mask_column: str | None = None
    sheet: str | None = None
    resize_masks: str | None = None
    allow_empty_text: bool = False

    def words(self) -> str:
        """The options that differ from the defaults, as they are typed on the command line."""
        words: list[str] = []
        if self.layout != "auto":
            words += ["--layout", self.layout]
        texts = (
            "text_column",
            "split_column",
            "image_column",
            "mask_column",
            "sheet",
            "resize_masks",
        )
        for name in (*texts, "laterality"):
            if getattr(self, name):
                words += [f"--{name.replace('_', '-')}", getattr(self, name)]
        if self.hold_out:
            words += ["--hold-out", f"{self.hold_out:g}"]
        if self.merge_valid:
            words.append("--merge-valid")
        if self.grammar:
            words += ["--grammar", self.grammar]
        if self.mask_threshold is not None:
            words += ["--mask-threshold", f"{self.mask_threshold:g}"]
        if self.mask_values:
            words += ["--mask-values", self.mask_values]
        if self.classes:
            words += ["--classes", self.classes]
        if self.absent:
            words.append("--absent")
        return shlex.join(words)

    @property
    def choice(self) -> TableChoice:
        """What of this concerns the tables."""
        return TableChoice(self.sheet or None, self.image_column or None, self.mask_column or None)

    def as_json(self) -> dict[str, Any]:
        """The options as they are stored in data.json."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> DataOptions:
        """Read stored options back; what is missing has its default.

        Raises:
            DataError: an option is unknown or has another type.
        """
        # data.json may be edited by hand, or written by a newer version
        known = {field.name: field.default for field in fields(cls)}
        for name, found in value.items():
            default = known.get(name, found)
            text = default is None and isinstance(found, str | None)
            numeric = isinstance(default, float) or name == "mask_threshold"
            number = numeric and type(found) in (int, float)
            if name not in known or not (text or number or type(found) is type(default)):
                raise DataError(
                    f"the stored data option {name}={found!r} is not valid. Known options: {', '.join(known)}. "
                    "Correct `options` in data.json, or remove it to use the defaults."
                )
        return cls(**value)
