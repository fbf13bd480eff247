"""How the stored values of a mask become foreground: one rule per data set, never one per image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

RuleKind = Literal["binary", "threshold", "values", "labels"]


@dataclass(frozen=True)
class MaskRule:
    """Which stored values of a mask are foreground, for all masks of a data set.

    Attributes:
        kind: "binary": every value but 0; "threshold": values above `threshold`; "values": those in `values`;
            "labels": the values of a label map are kept as they are.
        threshold: in stored units, for kind "threshold".
        values: for kind "values".
    """

    kind: RuleKind = "binary"
    threshold: float = 0.0
    values: tuple[int, ...] = ()

    def foreground(
        self, stored: npt.NDArray[Any], label: tuple[int, ...] = ()
    ) -> npt.NDArray[np.uint8]:
        """Stored values H W -> 0 and 1, or the values themselves for kind "labels" (at most 255).

        Args:
            stored: H W.
            label: the values of one structure of a label map; they take the place of the rule.
        """
        if label or self.kind == "values":
            found = np.isin(stored, label or self.values)
        elif self.kind == "labels":
            found = stored
        elif self.kind == "threshold":
            found = stored > self.threshold
        else:
            found = stored != 0
        return np.ascontiguousarray(found, dtype=np.uint8)
