"""Which prompts the images of a batch get: several per image, in other words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from textmask.config import Stage
from textmask.data.cache import SplitData
from textmask.data.wordings import AS_IT_IS, Wording, draw_kinds, reworded


@dataclass(frozen=True)
class DrawnPrompts:
    """K prompts for each of N images.

    Attributes:
        rows: K N, the rows whose prompt and mask are taken; the first K is the row that was drawn itself.
        kinds: K N 2, other wording of each, see `draw_kinds`.
    """

    rows: np.ndarray
    kinds: np.ndarray

    def slice(self, part: slice) -> DrawnPrompts:
        """The prompts of some of the images."""
        return DrawnPrompts(self.rows[:, part], self.kinds[:, part])


class PromptDraws:
    """Draws the prompts of a stage.

    Args:
        data: the decoded split.
        labelled: rows whose masks the stage may see.
        stage: number of prompts and their wordings.
    """

    def __init__(self, data: SplitData, labelled: np.ndarray, stage: Stage) -> None:
        self.data, self.stage = data, stage
        self.rows_of: dict[str, list[int]] = {}
        if stage.prompts > 1:
            for i in labelled:
                self.rows_of.setdefault(data.rows[i].image, []).append(int(i))

    @property
    def is_plain(self) -> bool:
        """Whether every image has the one prompt of its row, as it is."""
        return self.stage.prompts == 1 and not any(self.stage.text.shares.values())

    def as_they_are(self, rows: np.ndarray) -> DrawnPrompts:
        """The prompts of N rows themselves."""
        kinds = np.full((1, len(rows), 2), AS_IT_IS)
        return DrawnPrompts(np.asarray(rows)[None], kinds)

    def draw(self, rows: np.ndarray, rng: np.random.Generator) -> DrawnPrompts:
        """Draw the prompts of N rows.

        The further prompts of an image are distinct as long as it has rows. After that its rows come again, which
        differ only in their wording.
        """
        k, n = self.stage.prompts, len(rows)
        drawn = np.empty((k, n), dtype=np.int64)
        drawn[0] = rows
        for i, row in enumerate(rows if k > 1 else ()):
            own = self.rows_of[self.data.rows[row].image]
            others = rng.permutation([other for other in own if other != row])
            again = rng.choice(own, size=max(k - 1 - len(others), 0))
            drawn[1:, i] = np.concatenate([others[: k - 1], again])

        kinds = draw_kinds(self.stage.text, k * n, rng).reshape(k, n, 2)
        return DrawnPrompts(drawn, kinds)

    def wording(self, prompt: str, row: int, kind: np.ndarray) -> Wording:
        """The prompt of a row in the drawn words."""
        is_name = bool(self.data.rows[row].label)
        return reworded(prompt, int(kind[0]), int(kind[1]), is_name)
