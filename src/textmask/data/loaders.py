"""Batches: shuffled, augmented, labelled and unlabelled streams that depend only on (seed, epoch, step)."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from textmask.config import Stage, Tiles
from textmask.data.cache import SplitData, open_split
from textmask.data.transforms import (
    PHOTOMETRIC,
    Geometry,
    apply_image,
    apply_mask,
    apply_prompt,
    make_params,
    photometric,
    random_crops,
)
from textmask.errors import ConfigError, DataError, choose
from textmask.statement import Statement
from textmask.text.edit import drop_position
from textmask.text.grammar import parse
from textmask.types import Batch, Text

__all__ = [
    "Damage",
    "Loader",
    "SplitData",
    "build_text",
    "for_tiles",
    "open_split",
    "scaled",
    "to_image",
]

PREFETCH = 2
Damage = Callable[
    [torch.Tensor, Sequence[str]], torch.Tensor
]  # pictures B C H W in [0, 1] and their keys


def build_text(prompts: Sequence[str], statements: Sequence[Statement]) -> Text:
    """Sentences and their parsed claims as a model reads them."""
    zones = torch.tensor([s.bits() for s in statements], dtype=torch.float32).reshape(-1, 9)
    return Text(tuple(prompts), zones, statements=tuple(statements))


def scaled(images: np.ndarray) -> torch.Tensor:
    """A copy of images N C H W as floats in [0, 1]; uint8 is divided by 255, floats are in that range already."""
    # order="C": strides of a lone picture that came as H W C would choose other kernels than those of a batch
    image = torch.from_numpy(np.array(images, order="C"))
    return image.float().div_(255) if image.dtype == torch.uint8 else image


def to_image(
    images: np.ndarray, damage: Damage | None = None, keys: Sequence[str] = ()
) -> torch.Tensor:
    """Images N C H W -> float N 3 H W in [0, 1], channels last, damaged where that is asked for."""
    image = scaled(images)
    if damage is not None:
        image = damage(image, keys)
    return image.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)


def for_tiles(
    prompts: Sequence[str], statements: Sequence[Statement], tiles: Tiles | None
) -> tuple[tuple[str, ...], tuple[Statement, ...]]:
    """Sentences and statements of pictures as their tiles are told them, see `Tiles.places`."""
    if tiles is None or tiles.places == "kept":
        return tuple(prompts), tuple(statements)
    dropped = tuple(drop_position(prompt) for prompt in prompts)
    pairs = zip(dropped, statements, strict=True)
    return dropped, tuple(
        parse(prompt, laterality=statement.laterality) for prompt, statement in pairs
    )


class Loader:
    """Batches of one stage.

    The global batch (rows and augmentation parameters) is drawn first and each rank takes its slice of it, so two
    processes see exactly the samples of one; only the photometric views are drawn anew by each rank. An epoch is
    `steps_per_epoch` of the stage when given, otherwise one pass over the labelled rows, or over the longer of the two
    streams when there is an unlabelled one.

    Args:
        data: the decoded split.
        stage: batch sizes, augmentation and views.
        seed: of shuffling and augmentation.
        train: shuffle, augment and drop the last incomplete batch; otherwise the rows in order, untouched.
        indices: the labelled rows; None means all rows with a mask that are marked as labelled.
        unlabelled_indices: rows of the unlabelled stream.
        tiles: cut a tile out of every picture at a random place, together with the augmentation, so that what turns
            in from outside the tile is picture; needs `train`.
        rank: of this process.
        world_size: number of processes.

    Raises:
        DataError: no labelled row is left.
    """

    def __init__(
        self,
        data: SplitData,
        stage: Stage,
        *,
        seed: int,
        train: bool,
        indices: np.ndarray | None = None,
        unlabelled_indices: np.ndarray | None = None,
        tiles: Tiles | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        for view in stage.views:
            choose("view", view, list(PHOTOMETRIC))
        if stage.batch_size % world_size or stage.unlabelled_batch_size % world_size:
            raise ConfigError(
                f"the batch of stage {stage.name!r} ({stage.batch_size} + {stage.unlabelled_batch_size}) is global and "
                f"must divide by the {world_size} processes. Choose another batch_size."
            )
        usable = np.array([row.labelled for row in data.rows], dtype=bool) & data.has_mask
        chosen = np.arange(len(data)) if indices is None else np.asarray(indices)
        self.labelled = chosen[usable[chosen]]
        if not len(self.labelled):
            raise DataError(
                "no labelled row with a mask is left to train on. Check `mask` and `labelled` in the table."
            )
        self.unlabelled = unlabelled_indices if stage.unlabelled_batch_size else None
        prompts, statements = for_tiles(data.prompts, data.statements, tiles)
        self.data, self.tiles = (
            replace(data, prompts=prompts, statements=statements),
            tiles if train else None,
        )
        self.stage, self.seed, self.train = stage, seed, train
        self.rank, self.world_size = rank, world_size

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches an epoch."""
        if not self.train:
            return -(-len(self.labelled) // self.stage.batch_size)
        if self.stage.steps_per_epoch is not None:
            return self.stage.steps_per_epoch
        steps = max(len(self.labelled) // self.stage.batch_size, 1)
        if self.unlabelled is not None:
            steps = max(steps, len(self.unlabelled) // self.stage.unlabelled_batch_size)
        return steps

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch, prepared by a background thread two ahead."""
        ready: queue.Queue[Batch | BaseException | None] = queue.Queue(PREFETCH)
        stop = threading.Event()

        def put(item: Batch | BaseException | None) -> None:
            while not stop.is_set():
                try:
                    ready.put(item, timeout=0.1)
                except queue.Full:
                    continue
                return

        def work() -> None:
            try:
                for batch in self.batches(epoch):
                    put(batch)
                    if stop.is_set():
                        return
                put(None)
            except BaseException as error:  # handed to the consumer, which raises it
                put(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            while (item := ready.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stop.set()
            thread.join()

    def batches(self, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch, prepared in this thread."""
        labelled = self._rows(self.labelled, self.stage.batch_size, epoch, stream=0)
        unlabelled = None
        if self.unlabelled is not None:
            unlabelled = self._rows(
                self.unlabelled, self.stage.unlabelled_batch_size, epoch, stream=1
            )
        for step in range(self.steps_per_epoch):
            batch = self._batch(labelled[step], epoch, step, stream=0)
            if unlabelled is not None:
                other = self._batch(unlabelled[step], epoch, step, stream=1)
                batch = Batch(
                    **{**vars(batch), "unlabelled": Batch(**{**vars(other), "mask": None})}
                )
            yield batch

    def _rows(self, indices: np.ndarray, size: int, epoch: int, stream: int) -> list[np.ndarray]:
        """Row numbers of each step: whole passes, each shuffled anew, cut into batches."""
        if not self.train:
            return [indices[i : i + size] for i in range(0, len(indices), size)]
        needed = self.steps_per_epoch * size
        rng = np.random.default_rng([self.seed, epoch, stream])
        passes = [rng.permutation(indices) for _ in range(-(-needed // len(indices)))]
        return list(np.concatenate(passes)[:needed].reshape(self.steps_per_epoch, size))

    def _batch(self, rows: np.ndarray, epoch: int, step: int, stream: int) -> Batch:
        """One global batch's parameters, this rank's samples."""
        share = len(rows) // self.world_size if self.train else len(rows)
        part = slice(self.rank * share, (self.rank + 1) * share) if self.train else slice(None)
        data, augment = self.data, self.stage.augment if self.train else None
        prompts = tuple(data.prompts[i] for i in rows)
        statements = tuple(data.statements[i] for i in rows)
        rng = np.random.default_rng([self.seed, epoch, step, stream])
        whole = data.masks.shape[1:]
        size = whole if self.tiles is None else self.tiles.size
        params = (
            Geometry.still(len(rows))
            if augment is None
            else make_params(prompts, augment, size, rng)
        )
        if self.tiles is not None:
            params = random_crops(params, whole, size, rng)
        view_seeds = rng.integers(2**62, size=(len(self.stage.views), len(rows)))[:, part]
        rows, prompts, statements = rows[part], prompts[part], statements[part]
        if augment is None and self.tiles is None:
            images, masks = data.images[rows], data.masks[rows]
        else:  # row by row from the memory map: a batch of whole pictures could be large
            params = params.slice(part)
            images = apply_image([data.images[i] for i in rows], params, size)
            masks = apply_mask([data.masks[i] for i in rows], params, size)
            pairs = [
                apply_prompt(*item)
                for item in zip(prompts, statements, params.flipped, strict=True)
            ]
            prompts, statements = tuple(p for p, _ in pairs), tuple(s for _, s in pairs)
        image = torch.from_numpy(images).float().div_(255)
        views = {
            name: _view(image, name, seeds)
            for name, seeds in zip(self.stage.views, view_seeds, strict=True)
        }
        return Batch(
            image=_three(image),
            text=build_text(prompts, statements),
            mask=torch.from_numpy(masks)[:, None].float(),
            keys=tuple(data.keys[i] for i in rows),
            views={name: _three(view) for name, view in views.items()},
        )


def _three(image: torch.Tensor) -> torch.Tensor:
    """Grey pictures repeated to three channels without copying."""
    return image.expand(-1, 3, -1, -1) if image.shape[1] == 1 else image


def _view(image: torch.Tensor, name: str, seeds: np.ndarray) -> torch.Tensor:
    """A photometric view; its generator is seeded by the first sample of the slice."""
    generator = torch.Generator().manual_seed(int(seeds[0]))
    return photometric(image, PHOTOMETRIC[name], generator)
