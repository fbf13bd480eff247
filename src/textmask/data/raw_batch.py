"""Batches whose scaling and augmentation a GPU computes: only bytes cross to it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from textmask.data.transforms import PHOTOMETRIC, Geometry, photometric, warp
from textmask.types import Batch, FurtherPrompt, Text, send


@dataclass(frozen=True)
class RawBatch:
    """B samples as they are in the cache, and what is to be done to them; `to` makes the batch.

    The result is that of the CPU path but for rounding: OpenCV rounds positions to 1/32 pixel and values to whole gray
    levels. Noise of views is drawn on the device and has other values.

    Attributes:
        images: uint8 B C H W, C is 1 for gray images.
        masks: uint8 B H W, 0 or 1; None in an unlabelled batch.
        geometry: warp and tone of each sample; None changes nothing.
        size: rows and columns of the result.
        text: the prompts, already mirrored.
        keys: the B row keys.
        views: name and seed of each further view.
        unlabelled: the unlabelled half of a semi-supervised step.
        further: prompts and masks (uint8 B H W) of `Batch.further`.
    """

    images: Tensor
    masks: Tensor | None
    geometry: Geometry | None
    size: tuple[int, int]
    text: Text
    keys: tuple[str, ...]
    views: tuple[tuple[str, int], ...] = ()
    unlabelled: RawBatch | None = None
    further: tuple[tuple[Text, Tensor], ...] = ()

    def __len__(self) -> int:
        """Number of samples B."""
        return len(self.images)

    def to(
        self,
        device: torch.device | str,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> Batch:
        """The batch on `device`, computed there; images in `memory_format`."""
        image = send(self.images, device).float().div_(255)
        if self.geometry is not None:
            image = _toned(warp(image, self.geometry.matrices, size=self.size), self.geometry)
        mask = None if self.masks is None else self._warped_mask(self.masks, device)
        further = []
        for text, masks in self.further:
            further.append(FurtherPrompt(text.to(device), self._warped_mask(masks, device)))

        # views share the geometry and differ in appearance
        views = {}
        for name, seed in self.views:
            generator = torch.Generator().manual_seed(seed)
            view = photometric(image, PHOTOMETRIC[name], generator)
            views[name] = view.expand(-1, 3, -1, -1).contiguous(memory_format=memory_format)
        return Batch(
            image=image.expand(-1, 3, -1, -1).contiguous(memory_format=memory_format),
            text=self.text.to(device),
            mask=mask,
            keys=self.keys,
            views=views,
            unlabelled=None
            if self.unlabelled is None
            else self.unlabelled.to(device, memory_format),
            further=tuple(further),
        )

    def _warped_mask(self, masks: Tensor, device: torch.device | str) -> Tensor:
        """Masks uint8 B H W -> B 1 h w on the device."""
        mask = send(masks, device)[:, None].float()
        if self.geometry is None:
            return mask
        return warp(mask, self.geometry.matrices, "nearest", self.size)


def _toned(image: Tensor, geometry: Geometry) -> Tensor:
    """Gamma, contrast and brightness of each image B C H W in [0, 1]."""
    factors = np.stack([geometry.gamma, geometry.contrast, geometry.brightness])
    if (factors == np.array([[1.0], [1.0], [0.0]])).all():
        return image
    numbers = send(torch.from_numpy(factors).float()[:, :, None, None, None], image.device)
    gamma, contrast, brightness = numbers.unbind()
    toned: Tensor = ((image**gamma - 0.5) * contrast + 0.5 + brightness).clamp(0, 1)
    return toned
