"""Data frames of pandas, which is optional."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from textmask.errors import ConfigError

if TYPE_CHECKING:
    import pandas


def data_frame(records: Sequence[dict[str, Any]]) -> pandas.DataFrame:
    """Records as a data frame, one row each; columns of numbers become numbers.

    Raises:
        ConfigError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise ConfigError(
            "a data frame needs pandas, which is not installed. Run pip install 'textmask[pandas]'."
        ) from error
    frame = pandas.DataFrame.from_records(records)
    for name in frame.columns:
        try:
            frame[name] = pandas.to_numeric(frame[name].replace("", None))
        except (ValueError, TypeError):
            continue  # words
    return frame
