"""One label map of an image with several prompts: NAME.labels.png, and its legend NAME.labels.json."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from textmask.errors import DataError
from textmask.inference.jobs import BatchItem, readable_name
from textmask.inference.predictor import Segmentation
from textmask.io.files import write_json
from textmask.io.images import write_png

LABELS, LEGEND_FILE = ".labels.png", ".labels.json"
MAX_LABELS = 65535


class LabelMap:
    """The masks of an image as one array of numbers: 0 is background, 1 the first prompt, 2 the second, and so on.

    Where masks overlap, the prompt with the highest probability has the pixel; the legend counts such pixels.

    Args:
        jobs: all prompts of the image; the first has the number 1.
    """

    def __init__(self, jobs: Sequence[BatchItem]) -> None:
        if len(jobs) > MAX_LABELS:
            raise DataError(
                f"{jobs[0].image}: {len(jobs):,} prompts, at most {MAX_LABELS:,} fit into a label map. Split the jobs."
            )
        self.jobs = tuple(jobs)
        self._labels: npt.NDArray[np.uint16] | None = None
        self._best = np.zeros(0, np.float32)
        self._claims = np.zeros(0, np.uint16)
        self._found: dict[int, int] = {}

    @property
    def stem(self) -> str:
        """Start of the file names: the same for the same image and prompts, in any folder."""
        digest = hashlib.sha256("\0".join(job.stem for job in self.jobs).encode()).hexdigest()
        shown = readable_name(self.jobs[0].image.stem)[:60].encode()[:180].decode(errors="ignore")
        return f"{shown.strip('-') or 'image'}-{len(self.jobs)}-prompts-{digest[:10]}"

    def exists(self, out: Path) -> bool:
        """Whether both files were written by an earlier call."""
        return all((out / f"{self.stem}{ending}").exists() for ending in (LABELS, LEGEND_FILE))

    def add(self, job: BatchItem, found: Segmentation) -> None:
        """Enter the mask of one prompt."""
        value = self.jobs.index(job) + 1
        mask, probability = found.mask > 0, found.probability
        if self._labels is None:
            self._labels = np.zeros(mask.shape, np.uint16)
            self._best = np.zeros(mask.shape, np.float32)
            self._claims = np.zeros(mask.shape, np.uint16)

        # a pixel belongs to the prompt that is surest of it; of two equal ones to the first
        wins = mask & (probability > self._best)
        self._labels[wins] = value
        self._best[wins] = probability[wins]
        self._claims += mask
        self._found[value] = int(mask.sum())

    def write(self, out: Path) -> None:
        """Write the map and, last, its legend; nothing if fewer than two prompts have a mask.

        Raises:
            DataError: a file cannot be written.
        """
        if self._labels is None or len(self._found) < 2:
            return
        path = out / f"{self.stem}{LABELS}"
        if len(self.jobs) < 256:
            write_png(path, self._labels.astype(np.uint8))
        else:
            write_png(path, self._labels)

        # what each number means, and what of each mask is visible in the map
        legend: list[dict[str, Any]] = []
        for value, job in enumerate(self.jobs, start=1):
            entry = {"value": value, "text": job.text, "mask_file": f"{job.stem}.mask.png"}
            if value in self._found:
                entry["foreground_px"] = self._found[value]
                entry["labelled_px"] = int((self._labels == value).sum())
            else:
                entry["failed"] = True
            legend.append(entry)
        record = {
            "image": str(self.jobs[0].image),
            "index": self.jobs[0].index,
            "background": 0,
            "overlap_px": int((self._claims > 1).sum()),
            "overlap": "the prompt with the highest probability",
            "labels": legend,
        }
        write_json(out / f"{self.stem}{LEGEND_FILE}", record)
