"""The options that say how data are read: the same for every command that reads data."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import typer

from textmask.errors import choose
from textmask.runs.data_options import DataOptions

# field of `DataOptions` -> its option; None means not given, so that a run's own options apply
OPTIONS: dict[str, Any] = {
    "layout": Annotated[str | None, typer.Option(help="Data layout (default: detected).")],
    "text_column": Annotated[
        str | None,
        typer.Option(help="Column of the prompts; '' for none (default: the only one)."),
    ],
    "split_column": Annotated[
        str | None,
        typer.Option(help="Column of the splits; '' for none (default: the only one)."),
    ],
    "image_column": Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Column of the image files; '' for none (default: image, file_name, ...).",
        ),
    ],
    "mask_column": Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Column of the mask files; '' for none (default: mask, ...)."
        ),
    ],
    "sheet": Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Sheet of Excel workbooks; '' for none (default: the first)."
        ),
    ],
    "laterality": Annotated[
        str | None,
        typer.Option(
            help="Laterality convention of the prompts: image, patient or unknown (default: the data's)."
        ),
    ],
    "hold_out": Annotated[
        float | None,
        typer.Option(help="Fraction of train to hold out as valid, if there is none (default: 0)."),
    ],
    "merge_valid": Annotated[
        bool | None,
        typer.Option("--merge-valid/--no-merge-valid", help="Train on valid too (default: no)."),
    ],
    "grammar": Annotated[
        str | None,
        typer.Option(
            help="Grammar of the prompts: auto, qata, mosmed, polyp, nuclei, lesion or report (default: the data's)."
        ),
    ],
    "mask_threshold": Annotated[
        float | None,
        typer.Option(help="Mask values above it are foreground (default: decided by all masks)."),
    ],
    "mask_values": Annotated[
        str | None,
        typer.Option(
            metavar="1,2", help="Mask values that are foreground (default: decided by all masks)."
        ),
    ],
    "classes": Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Table value,name of label maps: one row per structure (default: the masks are binary).",
        ),
    ],
    "absent": Annotated[
        bool | None,
        typer.Option(
            "--absent/--no-absent",
            help="With --classes, keep absent structures as empty masks (default: no).",
        ),
    ],
    "resize_masks": Annotated[
        str | None,
        typer.Option(
            metavar="nearest",
            help="Fit masks that differ from their image by a pixel or a common factor; '' for none (default: refuse).",
        ),
    ],
    "allow_empty_text": Annotated[
        bool | None,
        typer.Option(
            "--allow-empty-text",
            help="Train a method that reads prompts although most rows have none (default: refuse).",
        ),
    ],
}
ONLY_TRAINING = ("allow_empty_text",)
# each of these replaces what a run remembers of the others
WAYS_TO_READ_MASKS = ("mask_threshold", "mask_values", "classes")


@dataclass(frozen=True)
class GivenOptions:
    """The data options that were typed.

    Attributes:
        values: field of `DataOptions` -> value; None if it was not typed.
    """

    values: Mapping[str, Any] = field(default_factory=dict)

    def over(self, remembered: DataOptions) -> DataOptions:
        """The data options of the command: those that were typed, and else those of the run, or the defaults.

        Raises:
            ConfigError: the laterality or the grammar is unknown.
        """
        from textmask.statement import Laterality
        from textmask.text.grammar import GRAMMARS

        changes = {name: value for name, value in self.values.items() if value is not None}
        if "grammar" in changes:
            choose("grammar", changes["grammar"], ["auto", *GRAMMARS])
        if "laterality" in changes:
            choose("laterality", changes["laterality"], [str(side) for side in Laterality])
        if not changes.keys().isdisjoint(WAYS_TO_READ_MASKS):
            remembered = replace(
                remembered, mask_threshold=None, mask_values=None, classes=None, absent=False
            )
        return replace(remembered, **changes)


NOTHING_GIVEN = GivenOptions()


def reads_data(
    *, trains: bool = False, without: tuple[str, ...] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command all data options in place of its parameter `given`.

    Args:
        trains: whether the command also takes the options that matter for training alone.
        without: the options that have no meaning for it, or another one.
    """
    left_out = without if trains else (*without, *ONLY_TRAINING)
    taken = {name: option for name, option in OPTIONS.items() if name not in left_out}

    def widen(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def call(**words: Any) -> None:
            values = {name: words.pop(name) for name in taken}
            command(**words, given=GivenOptions(values))

        # the command line is built from the signature
        signature = inspect.signature(command, eval_str=True)
        parameters: list[inspect.Parameter] = []
        for parameter in signature.parameters.values():
            if parameter.name != "given":
                parameters.append(parameter)
                continue
            for name, option in taken.items():
                parameters.append(parameter.replace(name=name, default=None, annotation=option))
        call.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        call.__annotations__ = {one.name: one.annotation for one in parameters}
        return call

    return widen
