"""What a tuning study searches: declared recipe fields with a range or values, and who suggests the next ones."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

from textmask.config import Recipe
from textmask.errors import ConfigError

LOG_FROM = (
    10.0  # a range whose ends are at least this factor apart is searched on a logarithmic scale
)
WHOLE = re.compile(r"[+-]?\d{1,18}")
Value = float | int | str


@dataclass(frozen=True)
class Dimension:
    """One recipe field and its values: a range from `low` to `high`, or `choices`.

    Attributes:
        field: dotted path, as in `--set`.
        low, high: ends of the range, both included; integers if both were written so.
        choices: values as typed; empty for a range.
    """

    field: str
    low: float | int = 0
    high: float | int = 0
    choices: tuple[str, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether the range has whole numbers only."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def is_log(self) -> bool:
        """Whether the range is searched on a logarithmic scale."""
        return not self.choices and self.low > 0 and self.high / self.low >= LOG_FROM

    @classmethod
    def parse(cls, text: str) -> Dimension:
        """Read `stages.*.optim.lr=1e-4..1e-2` or `widths=[8,16],[16,32]`.

        Raises:
            ConfigError: neither a range nor at least two values.
        """
        field, _, values = text.partition("=")
        low, dots, high = values.partition("..")
        if dots and field.strip():
            first, last = _bound(low.strip()), _bound(high.strip())
            if first is not None and last is not None and first < last:
                if isinstance(first, int) and isinstance(last, int):
                    return cls(field.strip(), first, last)
                return cls(field.strip(), float(first), float(last))
        elif field.strip():
            # a comma inside brackets is part of a value
            parts = [part.strip() for part in re.split(r",(?![^\[]*\])", values)]
            if len(parts) > 1 and all(parts):
                return cls(field.strip(), choices=tuple(dict.fromkeys(parts)))
        raise ConfigError(
            f"--over is {text!r}. Expected a range with the smaller number first, e.g. 'stages.*.optim.lr=1e-4..1e-2', "
            "or at least two values, e.g. 'stages.*.batch_size=8,16,32'."
        )

    def ends(self) -> tuple[Value, ...]:
        """The values that are tried on the recipe before the first training."""
        return self.choices or (self.low, self.high)


class Suggests(Protocol):
    """Chooses the values of the next trial."""

    def suggest(
        self,
        space: Sequence[Dimension],
        finished: Sequence[tuple[Mapping[str, Value], float]],
        number: int,
    ) -> dict[str, Value]:
        """The value of each field, from all (values, score) so far; a higher score is better."""
        ...


class OptunaSampler:
    """The tree-structured Parzen estimator of Optuna, seeded per trial, so that a resumed study suggests the same."""

    def __init__(self, seed: int = 0) -> None:
        try:
            optuna: Any = import_module("optuna")
        except ImportError as error:
            raise ConfigError(
                "study tune needs Optuna, which is not installed: pip install 'textmask[tune]'."
            ) from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.optuna = optuna
        self.seed = seed

    def suggest(
        self,
        space: Sequence[Dimension],
        finished: Sequence[tuple[Mapping[str, Value], float]],
        number: int,
    ) -> dict[str, Value]:
        """See `Suggests`."""
        kinds = {}
        for one in space:
            if one.choices:
                kinds[one.field] = self.optuna.distributions.CategoricalDistribution(one.choices)
            elif one.is_whole:
                kinds[one.field] = self.optuna.distributions.IntDistribution(
                    one.low, one.high, log=one.is_log
                )
            else:
                kinds[one.field] = self.optuna.distributions.FloatDistribution(
                    one.low, one.high, log=one.is_log
                )

        sampler = self.optuna.samplers.TPESampler(seed=(self.seed + number) % 2**32)
        study = self.optuna.create_study(direction="maximize", sampler=sampler)
        for values, score in finished:
            study.add_trial(
                self.optuna.trial.create_trial(
                    params=dict(values), distributions=kinds, value=score
                )
            )
        found: dict[str, Value] = study.ask(kinds).params
        return found


def check_space(recipe: Recipe, space: Sequence[Dimension]) -> None:
    """Try the ends of each range and every listed value.

    Raises:
        ConfigError: no field, a field twice or unknown, the seed, or a value that the recipe refuses.
    """
    fields = [one.field for one in space]
    if not fields or len(set(fields)) < len(fields):
        raise ConfigError(
            f"the fields to tune are {', '.join(fields) or 'missing'}; expected at least one --over, each field once."
        )
    for one in space:
        if one.field in ("seed", "method"):
            raise ConfigError(f"--over {one.field}: it is not tuned. Choose another field.")
        for value in one.ends():
            recipe.override(setting(one.field, value))


def setting(field: str, value: Value) -> str:
    """One value as it is given to `--set`."""
    return f"{field}={value!r}" if isinstance(value, float) else f"{field}={value}"


def _bound(text: str) -> int | float | None:
    """A finite number; None if the text is something else."""
    if WHOLE.fullmatch(text):
        return int(text)
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
