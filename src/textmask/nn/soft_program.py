"""Programs over logits: soft unions, intersections and complements, which learn; pieces only at inference."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from textmask.statement import Laterality, Level, Side
from textmask.text.execution import run_program
from textmask.text.program import (
    AtLevel,
    Everything,
    Except,
    Find,
    Nothing,
    OnSide,
    Program,
    Range,
    Step,
    Union,
    Unknown,
    steps_of,
    with_laterality,
)
from textmask.text.structures import StructureList

# the logit of an empty mask
EMPTY = -12.0
SOFT = (Find, Everything, Range, Unknown, Union, Except, Nothing, OnSide, AtLevel)
RegionOf = Callable[[Side | Level], Tensor]


def soft_or(*logits: Tensor) -> Tensor:
    """Soft maximum: log sum_i exp(l_i)."""
    return logits[0] if len(logits) == 1 else torch.logsumexp(torch.stack(logits), dim=0)


def soft_and(*logits: Tensor) -> Tensor:
    """Soft minimum: -log sum_i exp(-l_i)."""
    return -soft_or(*[-one for one in logits])


@dataclass(frozen=True)
class ProgramExecutor:
    """Executes programs over logits H W of named structures.

    Attributes:
        structures: the vocabulary.
    """

    structures: StructureList

    def names(self, program: Program) -> tuple[str, ...]:
        """The names whose logits a program needs, each once; unknown words are names of their own."""
        found: list[str] = []
        for step in steps_of(program.step):
            found += self._names_of(step, program)
        return tuple(dict.fromkeys(found))

    def wordings(self, name: str) -> list[str]:
        """The phrases for a name in training: all but those kept for tests; unknown words are their only phrase."""
        structure = self.structures.structures.get(name)
        if structure is None:
            return [name]
        kept = structure.phrases.get("unseen", ())
        return [phrase for phrase in self.structures.phrases_of(structure) if phrase not in kept]

    def is_soft(self, program: Program) -> bool:
        """Whether no step chooses among pieces, whose borders have no gradient."""
        return all(self._is_soft(step) for step in steps_of(program.step))

    def logits(
        self, program: Program, logits: Mapping[str, Tensor], region: RegionOf, training: bool
    ) -> Tensor:
        """Logits H W of any program; in training those of a program that chooses pieces are 0.

        Args:
            program: see `parse_program`.
            logits: H W of each of its `names`.
            region: logits H W of a side or level of the image.
            training: whether the result must have a gradient.
        """
        if self.is_soft(program):
            return self.soft(program, logits, region)
        if training:
            return 0 * region(Side.LEFT)
        return self.pieces(program, logits, region)

    def soft(self, program: Program, logits: Mapping[str, Tensor], region: RegionOf) -> Tensor:
        """Logits H W of a program that `is_soft`, differentiable; arguments as for `logits`."""

        def value(step: Step) -> Tensor:
            if isinstance(step, OnSide):
                return soft_and(value(step.of), region(_image_side(step)))
            if isinstance(step, AtLevel):
                return soft_and(value(step.of), region(step.level))
            if isinstance(step, Union):
                return soft_or(*map(value, step.parts))
            if isinstance(step, Except):
                return soft_and(value(step.of), -value(step.without))
            found = [logits[name] for name in self._names_of(step, program)]
            return soft_or(*found) if found else torch.full_like(region(Side.LEFT), EMPTY)

        return value(program.step)

    def pieces(self, program: Program, logits: Mapping[str, Tensor], region: RegionOf) -> Tensor:
        """Logits H W of any program, executed on the thresholded maps of its names; no gradient."""
        masks: dict[str, np.ndarray] = {}
        for name, found in logits.items():
            structure = self.structures.structures.get(name)
            if structure is None or not structure.paired:
                masks[name] = _thresholded(found)
                continue
            # right of the image is left of the patient, as images are displayed
            for side in (Side.LEFT, Side.RIGHT):
                masks[f"{side.value} {name}"] = _thresholded(soft_and(found, region(side.mirrored)))

        declared = with_laterality(program.step, _convention(program))
        hard = run_program(declared, masks, self.structures)
        strength = soft_or(*logits.values()).abs()
        return torch.where(torch.from_numpy(hard).to(strength.device), strength, -strength)

    def _names_of(self, step: Step, program: Program) -> Sequence[str]:
        """The names that one step needs itself, without the steps in it."""
        if isinstance(step, Unknown):
            return (" ".join(step.words),)
        if isinstance(step, Find):
            members = self.structures.structures[step.name].members
            return members or (step.name,)
        if isinstance(step, Range):
            group = self.structures.group_of(step.first.name, step.last.name)
            members = group.members if group else ()
            ends = sorted(
                members.index(name) for name in (step.first.name, step.last.name) if group
            )
            return members[ends[0] : ends[1] + 1] if ends else ()
        if isinstance(step, Everything):
            return self._everything(program)
        return ()

    def _everything(self, program: Program) -> list[str]:
        """The structures of the regions that the program names, or all structures."""
        listed = self.structures.structures
        regions: set[str] = set()
        for name in program.names:
            regions |= set(listed[name].regions)
        found = []
        for name, structure in listed.items():
            if not structure.members and (not regions or regions & set(structure.regions)):
                found.append(name)
        return found

    def _is_soft(self, step: Step) -> bool:
        """Whether a step is an operation on pixels. Levels of most structures are shares of their extent."""
        if not isinstance(step, OnSide | AtLevel):
            return isinstance(step, SOFT)
        inner = [self.structures.structures[s.name] for s in steps_of(step) if isinstance(s, Find)]
        zoned = all(structure.zone_map for structure in inner)
        return zoned or (isinstance(step, OnSide) and not any(s.members for s in inner))


def _image_side(step: OnSide) -> Side:
    """The side of the image; without a convention it is that of the image."""
    return step.side.mirrored if step.laterality is Laterality.PATIENT else step.side


def _convention(program: Program) -> Laterality:
    """The convention that the program declares, the image's if it declares none."""
    for step in steps_of(program.step):
        if isinstance(step, OnSide) and step.laterality is not Laterality.UNKNOWN:
            return step.laterality
    return Laterality.IMAGE


def _thresholded(logits: Tensor) -> np.ndarray:
    found: np.ndarray = (logits.detach() > 0).cpu().numpy()
    return found
