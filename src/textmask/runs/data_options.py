"""How a data set is read: the options that a run remembers, so that later commands read the data the same way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from textmask.errors import DataError


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
    allow_empty_text: bool = False

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
