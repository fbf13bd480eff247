"""Plans of studies: the arms, and which of them are compared."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from textmask.config import Recipe
from textmask.errors import ConfigError, choose
from textmask.evaluation.summary import StudyKind
from textmask.methods.registry import Arm, get_method, preset_recipe


@dataclass(frozen=True)
class StudyPlan:
    """Arms of a study, and the pairs (an arm, the arm that is subtracted) that are compared.

    Attributes:
        kind: how arms were chosen.
        study: name of the ablation table, or of the fields that vary.
        title: heading of the result table.
        method: of all arms that name none.
        arms: in the order of the table.
        pairs: compared on the same images.
    """

    kind: StudyKind
    study: str
    title: str
    method: str
    arms: tuple[Arm, ...]
    pairs: tuple[tuple[Arm, Arm], ...]


def find_arms(method: str, study: str, names: Sequence[str] | None = None) -> tuple[Arm, ...]:
    """The arms of a method's ablation table or of a common one, in its order; `names` keeps some of them.

    Raises:
        ConfigError: unknown method, table or arm (names the valid ones); a table that names an arm twice.
    """
    tables = get_method(method).tables
    arms = tables[choose(f"table of {method}", study, list(tables))]
    valid = [arm.name for arm in arms]
    if len(set(valid)) != len(valid):
        raise ConfigError(
            f"table {study!r} of {method!r} names an arm twice: {', '.join(valid)}. Rename one of them."
        )
    wanted = valid if names is None else [choose(f"arm of {study}", name, valid) for name in names]
    return tuple(arm for arm in arms if arm.name in wanted)


def plan_ablation(method: str, study: str, names: Sequence[str] | None = None) -> StudyPlan:
    """A method's ablation table: each arm minus the one before it, and minus the first.

    In a table with other methods, also the method's own last arm minus each other one, at each share of labels.

    Args:
        method: name of the method.
        study: name of its table.
        names: some of its arms (default: all).

    Raises:
        ConfigError: as `find_arms`.
    """
    arms = find_arms(method, study, names)
    pairs = [*_successive_pairs(arms), *((arm, arms[0]) for arm in arms[2:])]

    # with other methods, the method's last arm at each share of labels minus all arms at that share
    if any(arm.method not in (None, method) for arm in arms):
        last = {_labels_of(arm): arm for arm in arms if arm.method in (None, method)}
        for arm in arms:
            own = last.get(_labels_of(arm), arm)
            pairs += [] if own is arm else [(own, arm)]
    distinct = tuple(dict.fromkeys(pairs))
    return StudyPlan("ablation", study, f"{study} of {method}", method, arms, distinct)


def plan_labels(method: str, fractions: Sequence[float], beside: Sequence[str] = ()) -> StudyPlan:
    """Methods over label fractions: at each fraction all methods minus the first; a single method step by step.

    Args:
        method: the first method.
        fractions: shares of train that keep their masks; smaller ones are subsets of larger ones of the same seed.
        beside: further methods.

    Raises:
        ConfigError: an unknown method; no fraction, or one that is not in (0, 1].
    """
    methods = list(dict.fromkeys((method, *beside)))
    for name in methods:
        get_method(name)
    wrong = [fraction for fraction in fractions if not 0 < fraction <= 1]
    if wrong or not fractions:
        raise ConfigError(
            f"label fractions are {', '.join(f'{fraction:g}' for fraction in fractions) or 'missing'}, expected "
            "numbers above 0 and at most 1, e.g. 0.01,0.05,0.25."
        )
    rows = []
    for fraction in sorted(set(fractions)):
        rows.append([_arm_at_fraction(name, fraction) for name in methods])
    arms = tuple(chain.from_iterable(rows))
    _refuse_twins(arms)

    # with several methods they are compared at each fraction, else the fractions with each other
    pairs = list(_successive_pairs(arms))
    if beside:
        pairs = []
        for first, *others in rows:
            pairs += [(arm, first) for arm in others]
    title = f"label fractions of {', '.join(methods)}"
    return StudyPlan("labels", "labels", title, method, arms, tuple(pairs))


def plan_sensitivity(
    method: str,
    fields: Sequence[tuple[str, Sequence[str]]],
    preset: str = "lite",
    settings: Sequence[str] = (),
) -> StudyPlan:
    """One field varied at a time around the preset; each value minus the preset.

    A value that is the preset's own is not trained twice.

    Args:
        method: name of the method.
        fields: (field, its values), as `Recipe.override` takes them.
        preset: paper, lite or smoke.
        settings: overrides of the preset, for all arms.

    Raises:
        ConfigError: no field or no value; a field or value that the recipe does not have.
    """
    base = preset_recipe(method, preset).override(*settings)
    if not fields or not all(values for _, values in fields):
        raise ConfigError(
            "sensitivity needs a field with its values, e.g. --field tau=0.05,0.07,0.1."
        )

    arms = []
    for name, values in fields:
        for value in dict.fromkeys(values):
            setting = f"{name}={value}"
            if base.override(setting) != base:
                arms.append(Arm(_as_name(f"{name}-{value}"), f"{name} = {value}", (setting,)))

    kept = ", ".join(f"{name} = {field_value(base, name)}" for name, _ in fields)
    first = Arm("preset", kept)
    _refuse_twins((first, *arms))

    study = ", ".join(name for name, _ in fields)
    title = f"sensitivity of {method} to {study}"
    pairs = tuple((arm, first) for arm in arms)
    return StudyPlan("sensitivity", study, title, method, (first, *arms), pairs)


def field_value(recipe: Recipe, path: str) -> str:
    """The value of a field as `Recipe.override` addresses it; all values if stages differ."""
    found: list[Any] = [recipe.model_dump(mode="json")]
    for key in path.split("."):
        below: list[Any] = []
        for node in found:
            if not isinstance(node, list):
                below.append(node.get(key))
            elif key == "*":
                below += node
            else:
                below.append(
                    node[int(key)] if key.isdigit() else next(s for s in node if s["name"] == key)
                )
        found = below

    words = [value if isinstance(value, str) else json.dumps(value) for value in found]
    return " / ".join(dict.fromkeys(words))


def _successive_pairs(arms: Sequence[Arm]) -> tuple[tuple[Arm, Arm], ...]:
    return tuple((arm, arms[i]) for i, arm in enumerate(arms[1:]))


def _labels_of(arm: Arm) -> tuple[str, ...]:
    """What an arm says of its share of labels."""
    return tuple(setting for setting in arm.settings if "labelled_fraction" in setting)


def _arm_at_fraction(method: str, fraction: float) -> Arm:
    name = f"{method}-{fraction:g}"
    return Arm(
        name, f"{method}, {fraction * 100:g} %", (f"stages.*.labelled_fraction={fraction}",), method
    )


def _as_name(text: str) -> str:
    """A folder name; characters that a shell or another system may not take become a dash."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")


def _refuse_twins(arms: Sequence[Arm]) -> None:
    names = [arm.name for arm in arms]
    twins = sorted({name for name in names if names.count(name) > 1})
    if twins:
        raise ConfigError(
            f"several arms have the name {', '.join(twins)}: their values are too similar. Drop one."
        )
