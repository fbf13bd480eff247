"""Loss values of an epoch: they stay on the device and are read together every few steps."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from textmask.errors import TextMaskError

# steps between two readings; a CPU does not run ahead of Python, so that nothing is gained by waiting
READ_EVERY = 20


class Readings:
    """Sums of the values of each step.

    Reading a value from a GPU waits until it has computed everything before it, so values are kept there and read
    `READ_EVERY` steps at a time, before each checkpoint and at the end of the epoch. The sums do not depend on when.

    Args:
        device: of the values.
        sums: of the steps before, if the epoch is continued.
        epoch: from 0; for the message of a loss that is not finite.
    """

    def __init__(self, device: torch.device, sums: Mapping[str, float], epoch: int) -> None:
        self.device, self.epoch = device, epoch
        self.sums, self.last = dict(sums), dict.fromkeys(("loss",), math.nan)
        self.every = 1 if device.type == "cpu" else READ_EVERY
        self._waiting: list[tuple[int, tuple[str, ...], Tensor]] = []

    def add(self, i: int, values: Mapping[str, Tensor]) -> bool:
        """Add the values (scalars) of step `i`; returns whether all values so far have been read.

        Raises:
            TextMaskError: a loss that was read is not finite.
        """
        scalars = []
        for value in values.values():
            scalars.append(value.detach().float().reshape(()).to(self.device, non_blocking=True))
        self._waiting.append((i, tuple(values), torch.stack(scalars)))
        if len(self._waiting) < self.every:
            return False
        self.read()
        return True

    def read(self) -> dict[str, float]:
        """Read what is still on the device; returns the sums.

        Raises:
            TextMaskError: the loss of a step is not finite.
        """
        if not self._waiting:
            return self.sums
        numbers = iter(torch.cat([vector for _, _, vector in self._waiting]).tolist())
        waiting, self._waiting = self._waiting, []
        for i, names, _ in waiting:
            values = {name: next(numbers) for name in names}
            if not math.isfinite(values["loss"]):
                raise TextMaskError(
                    f"the loss is not finite at epoch {self.epoch + 1}, step {i + 1}: {values}. "
                    "Lower the learning rate or set precision=fp32."
                )
            for name, value in values.items():
                self.sums[name] = self.sums.get(name, 0.0) + value
            self.last = values
        return self.sums
