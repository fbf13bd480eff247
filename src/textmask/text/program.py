"""Programs: what a prompt asks for as a small tree of steps, such as the vertebra above L3, or all but the heart.

`textmask.text.program_grammar.parse_program` reads a prompt as a program, `render_program` writes one as a prompt, and
`textmask.text.execution.run_program` executes one over the masks of named structures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeAlias

from textmask.statement import Laterality, Level, Side
from textmask.text.structures import Start

Span = tuple[int, int]
# the characters of a prompt that a step rests on do not make it another step
NO_SPAN: Span = (0, 0)
_ORDINAL_WORDS = (
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth "
    "fourteenth fifteenth"
)
ORDINALS = dict(enumerate(_ORDINAL_WORDS.split(), start=1))


@dataclass(frozen=True)
class Find:
    """All of a structure of the vocabulary: both of a pair, all members of a group."""

    name: str
    span: Span = field(default=NO_SPAN, compare=False)


@dataclass(frozen=True)
class Everything:
    """Every structure that the image has."""

    span: Span = field(default=NO_SPAN, compare=False)


@dataclass(frozen=True)
class OnSide:
    """What of a step lies on a side: of the patient or of the image, as `laterality` says."""

    side: Side
    of: Step
    laterality: Laterality = Laterality.UNKNOWN
    span: Span = field(default=NO_SPAN, compare=False)


@dataclass(frozen=True)
class AtLevel:
    """The upper, middle or lower part of a step."""

    level: Level
    of: Step
    span: Span = field(default=NO_SPAN, compare=False)


@dataclass(frozen=True)
class Nth:
    """The piece with this number, from 1, counted from one border of the image."""

    number: int
    start: Start
    of: Step
    span: Span = field(default=NO_SPAN, compare=False)


@dataclass(frozen=True)
class Range:
    """The members of an ordered group from one to another, both included."""

    first: Find
    last: Find
    span: Span = field(default=NO_SPAN, compare=False)


@dataclass(frozen=True)
class Union:
    """Several steps together."""

    parts: tuple[Step, ...]
    span: Span = field(default=NO_SPAN, compare=False)


@dataclass(frozen=True)
class Except:
    """A step without another one."""

    of: Step
    without: Step
    span: Span = field(default=NO_SPAN, compare=False)


@dataclass(frozen=True)
class Largest:
    """The piece with the largest area."""

    of: Step
    span: Span = field(default=NO_SPAN, compare=False)


@dataclass(frozen=True)
class Smallest:
    """The piece with the smallest area."""

    of: Step
    span: Span = field(default=NO_SPAN, compare=False)


@dataclass(frozen=True)
class Nearest:
    """The piece nearest to another step."""

    of: Step
    anchor: Step
    span: Span = field(default=NO_SPAN, compare=False)


@dataclass(frozen=True)
class Above:
    """The nearest piece above another step."""

    of: Step
    anchor: Step
    span: Span = field(default=NO_SPAN, compare=False)


@dataclass(frozen=True)
class Below:
    """The nearest piece below another step."""

    of: Step
    anchor: Step
    span: Span = field(default=NO_SPAN, compare=False)


@dataclass(frozen=True)
class LeftOf:
    """The nearest piece to the left of another step, in the image as it is displayed."""

    of: Step
    anchor: Step
    span: Span = field(default=NO_SPAN, compare=False)


@dataclass(frozen=True)
class RightOf:
    """The nearest piece to the right of another step, in the image as it is displayed."""

    of: Step
    anchor: Step
    span: Span = field(default=NO_SPAN, compare=False)


@dataclass(frozen=True)
class Inside:
    """The pieces inside of another step, such as the cavity in the ring of the heart muscle."""

    of: Step
    anchor: Step
    span: Span = field(default=NO_SPAN, compare=False)


@dataclass(frozen=True)
class Opposite:
    """The piece on the other side of the body from another step."""

    of: Step
    anchor: Step
    span: Span = field(default=NO_SPAN, compare=False)


@dataclass(frozen=True)
class Nothing:
    """An empty mask: the prompt says that nothing is to be segmented."""

    span: Span = field(default=NO_SPAN, compare=False)


@dataclass(frozen=True)
class Unknown:
    """Words outside of the vocabulary; as a target they are refused.

    Attributes:
        words: the words, in lower case.
        nearest: the three known names that look most like them.
    """

    words: tuple[str, ...]
    nearest: tuple[str, ...] = field(default=(), compare=False)
    span: Span = field(default=NO_SPAN, compare=False)


Relation: TypeAlias = Nearest | Above | Below | LeftOf | RightOf | Inside | Opposite
_Selected: TypeAlias = OnSide | AtLevel | Nth | Range | Largest | Smallest | Relation
Step: TypeAlias = Find | Everything | Union | Except | _Selected | Nothing | Unknown


@dataclass(frozen=True)
class Program:
    """What a prompt asks for.

    Attributes:
        step: the whole target.
        parts: the target of each sentence that has one, in order; a report has several.
        ignored: words that were not understood and that are not the target.
        warnings: codes of what is questionable (`textmask.text.program_grammar.PROGRAM_WARNINGS`).
        prompt: the text that was read.
    """

    step: Step
    parts: tuple[Step, ...] = field(default=(), compare=False)
    ignored: tuple[Unknown, ...] = field(default=(), compare=False)
    warnings: tuple[str, ...] = field(default=(), compare=False)
    prompt: str = field(default="", compare=False)

    @property
    def refused(self) -> tuple[Unknown, ...]:
        """The targets that are not in the vocabulary."""
        return tuple(step for step in steps_of(self.step) if isinstance(step, Unknown))

    @property
    def names(self) -> tuple[str, ...]:
        """The structures that the program rests on, each once."""
        found = [step.name for step in steps_of(self.step) if isinstance(step, Find)]
        return tuple(dict.fromkeys(found))

    def __str__(self) -> str:
        """The program as a prompt."""
        return render_program(self.step)

    def as_json(self) -> dict[str, Any]:
        """For results, logs and pages."""
        return {
            "step": step_json(self.step),
            "text": str(self),
            "ignored": [" ".join(unknown.words) for unknown in self.ignored],
            "warnings": list(self.warnings),
        }


def children(step: Step) -> tuple[Step, ...]:
    """The steps that a step is made of."""
    found: list[Step] = []
    for name in ("of", "anchor", "without", "first", "last"):
        child = getattr(step, name, None)
        if child is not None:
            found.append(child)
    return (*found, *step.parts) if isinstance(step, Union) else tuple(found)


def steps_of(step: Step) -> Iterator[Step]:
    """A step and all steps in it, from the outside in."""
    yield step
    for child in children(step):
        yield from steps_of(child)


def changed(step: Step, change: Callable[[Step], Step]) -> Step:
    """A step with a change made to it and to all steps in it, from the inside out."""
    fresh: dict[str, Any] = {}
    for one in fields(step):
        value = getattr(step, one.name)
        if one.name == "parts":
            fresh[one.name] = tuple(changed(part, change) for part in value)
        elif one.name in ("of", "anchor", "without", "first", "last"):
            fresh[one.name] = changed(value, change)
    return change(replace(step, **fresh) if fresh else step)


def mirrored_program(step: Step) -> Step:
    """The program that is true of the mirrored image."""
    return changed(step, _mirror)


def with_laterality(step: Step, laterality: Laterality) -> Step:
    """The program with one convention for all its sides."""

    def change(one: Step) -> Step:
        return replace(one, laterality=laterality) if isinstance(one, OnSide) else one

    return changed(step, change)


def _mirror(step: Step) -> Step:
    if isinstance(step, OnSide):
        return replace(step, side=step.side.mirrored)
    if isinstance(step, Nth):
        other: dict[Start, Start] = {"left": "right", "right": "left"}
        return replace(step, start=other.get(step.start, step.start))
    if isinstance(step, LeftOf):
        return RightOf(step.of, step.anchor, step.span)
    if isinstance(step, RightOf):
        return LeftOf(step.of, step.anchor, step.span)
    return step


def step_json(step: Step) -> dict[str, Any]:
    """A step as JSON: its kind, its values and the steps in it."""
    found: dict[str, Any] = {"step": type(step).__name__}
    for one in fields(step):
        value = getattr(step, one.name)
        if one.name == "parts":
            found["parts"] = [step_json(part) for part in value]
        elif one.name in ("of", "anchor", "without", "first", "last"):
            found[one.name] = step_json(value)
        elif isinstance(value, tuple):
            found[one.name] = list(value)
        else:
            found[one.name] = value
    return found


_BETWEEN: dict[type, str] = {
    Nearest: "nearest to",
    Above: "above",
    Below: "below",
    LeftOf: "image left of",
    RightOf: "image right of",
    Inside: "inside",
    Opposite: "opposite to",
}


def render_program(step: Step) -> str:
    """A program as a prompt with brackets; parsing it gives the same program."""
    if isinstance(step, Find):
        return step.name
    if isinstance(step, Everything):
        return "every structure"
    if isinstance(step, Nothing):
        return "nothing"
    if isinstance(step, Unknown):
        return " ".join(step.words)
    if isinstance(step, Union):
        return " and ".join(map(_in_brackets, step.parts))
    if isinstance(step, Range):
        return f"{step.first.name} to {step.last.name}"

    # "left ventricle" is a name, "left (ventricle)" is not
    of = _in_brackets(step.of)
    if isinstance(step, OnSide):
        whose = {Laterality.IMAGE: "image ", Laterality.PATIENT: "patient's "}
        return f"{whose.get(step.laterality, '')}{step.side.value} ({render_program(step.of)})"
    if isinstance(step, AtLevel):
        return f"{step.level.value} ({render_program(step.of)})"
    if isinstance(step, Nth):
        number = ORDINALS.get(step.number, f"{step.number}th")
        return f"{number} ({render_program(step.of)}) from the {step.start}"
    if isinstance(step, Except):
        return f"{of} except {_in_brackets(step.without)}"
    if isinstance(step, Largest | Smallest):
        return (
            f"{'largest' if isinstance(step, Largest) else 'smallest'} ({render_program(step.of)})"
        )
    return f"{of} {_BETWEEN[type(step)]} {_in_brackets(step.anchor)}"


def _in_brackets(step: Step) -> str:
    plain = isinstance(step, Find | Everything | Unknown)  # "nothing except" means only
    return render_program(step) if plain else f"({render_program(step)})"
