"""A moving average of a network's weights."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from textmask.config import EMA


class Teacher(nn.Module):
    """A moving average of a student's weights, never trained, always in eval mode, without gradient.

    Its tensors are buffers: optimizers, gradient checks and parameter counts skip them, and checkpoints contain them.
    The two numbers among them are kept on the host too: reading them from a GPU at each step would wait for it.

    Args:
        student: the network; the teacher starts as its copy.
        ema: how fast it follows.
    """

    steps: Tensor
    answers: Tensor

    def __init__(self, student: nn.Module, ema: EMA) -> None:
        super().__init__()
        self.ema = ema
        self.net = deepcopy(student)

        # parameters become buffers under the same names
        for module in self.net.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                delattr(module, name)
                module.register_buffer(name, parameter.detach())

        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        # whether the teacher predicts rather than the student
        self.register_buffer("answers", torch.zeros((), dtype=torch.bool))
        self._steps, self._answers = 0, False
        self.register_load_state_dict_post_hook(_read_numbers)  # type: ignore[no-untyped-call]
        self.train(False)

    def train(self, mode: bool = True) -> Teacher:
        """Stays in eval mode."""
        return super().train(False)

    @property
    def is_chosen(self) -> bool:
        """Whether the teacher predicts rather than the student."""
        return self._answers

    def choose(self, chosen: bool) -> None:
        """Let the teacher predict rather than the student, or the other way round; part of the state dict."""
        self._answers = chosen
        self.answers.fill_(chosen)

    @torch.no_grad()
    def forward(self, *inputs: Any) -> Any:
        """Output of the averaged network."""
        return self.net(*inputs)

    def probability(self, image: Tensor, text: Any) -> Tensor:
        """Probability B 1 H W of an averaged text-guided network, in fp32: image B 3 H W and its text features."""
        return torch.sigmoid(self(image, text).logits.float())

    @torch.no_grad()
    def follow(self, student: nn.Module, decay: float | None = None) -> None:
        """Move one step towards the student.

        Args:
            student: the network.
            decay: share of the old weights that is kept; None is that of the step, 0 copies the student.
        """
        decay = self.ema.at(self._steps) if decay is None else decay
        self._steps += 1
        self.steps += 1

        # weights always, running statistics only if the recipe says so
        weights = {name for name, _ in student.named_parameters()}
        mine, theirs = self.net.state_dict(), student.state_dict()
        averaged = [name for name in mine if name in weights or self.ema.buffers == "average"]
        averaged = [name for name in averaged if mine[name].is_floating_point()]
        torch._foreach_lerp_(
            [mine[name] for name in averaged], [theirs[name] for name in averaged], 1 - decay
        )

        # the rest is copied: counters, and statistics that are not averaged
        for name in mine.keys() - set(averaged):
            mine[name].copy_(theirs[name])


def _read_numbers(teacher: Teacher, _: Any) -> None:
    """Read the numbers of a teacher whose state dict was loaded; called by torch."""
    teacher._steps, teacher._answers = int(teacher.steps), bool(teacher.answers)
