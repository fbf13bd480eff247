"""Batches of shuffled, augmented, labelled and unlabelled images that depend only on (seed, epoch, step)."""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from textmask.config import Stage, Tiles
from textmask.data.cache import SharedRows, SplitData, open_split
from textmask.data.prompt_draws import DrawnPrompts, PromptDraws
from textmask.data.raw_batch import RawBatch
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
from textmask.types import Batch, FurtherPrompt, Text

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
PROMPT_STREAM = 2  # next to the labelled and the unlabelled one
# images B C H W in [0, 1] and their keys -> images
Damage = Callable[[torch.Tensor, Sequence[str]], torch.Tensor]


def build_text(prompts: Sequence[str], statements: Sequence[Statement]) -> Text:
    """Prompts and their parsed claims as a batch of `Text`."""
    zones = torch.tensor([s.bits() for s in statements], dtype=torch.float32).reshape(-1, 9)
    return Text(tuple(prompts), zones, statements=tuple(statements))


def scaled(images: np.ndarray) -> torch.Tensor:
    """A copy of images N C H W as floats in [0, 1]; uint8 is divided by 255, floats are expected in that range."""
    # order="C": the strides of a single H W C image would select other kernels than those of a batch
    image = torch.from_numpy(np.array(images, order="C"))
    return image.float().div_(255) if image.dtype == torch.uint8 else image


def to_image(
    images: np.ndarray, damage: Damage | None = None, keys: Sequence[str] = ()
) -> torch.Tensor:
    """Images N C H W -> float N 3 H W in [0, 1], channels last.

    Args:
        images: uint8, or float in [0, 1].
        damage: changes the images; None leaves them as they are.
        keys: the N row keys, for `damage`.
    """
    image = scaled(images)
    if damage is not None:
        image = damage(image, keys)
    return image.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)


def for_tiles(
    prompts: Sequence[str], statements: Sequence[Statement], tiles: Tiles | None
) -> tuple[tuple[str, ...], tuple[Statement, ...]]:
    """Prompts and statements as they are given with the tiles of an image, see `Tiles.places`."""
    if tiles is None or tiles.places == "kept":
        return tuple(prompts), tuple(statements)
    dropped = tuple(drop_position(prompt) for prompt in prompts)

    # without its position a prompt claims less
    parsed = []
    for prompt, statement in zip(dropped, statements, strict=True):
        parsed.append(parse(prompt, laterality=statement.laterality))
    return dropped, tuple(parsed)


def one_pass(stage: Stage, labelled: int, unlabelled: int) -> int:
    """Steps of a training epoch: those of the stage, or one pass over the longer stream.

    Args:
        stage: batch sizes.
        labelled: number of labelled rows; the stream repeats them if there are fewer than a batch.
        unlabelled: number of rows of the unlabelled stream, 0 without one.
    """
    if stage.steps_per_epoch is not None:
        return stage.steps_per_epoch
    steps = max(labelled // stage.batch_size, 1)
    if unlabelled:
        steps = max(steps, unlabelled // stage.unlabelled_batch_size)
    return steps


@dataclass(frozen=True)
class SmallerImages:
    """The images of a split at a smaller size, for the first steps of a stage.

    Attributes:
        share: of the steps of the stage.
        images: N C h w, the same rows as the full size.
        masks: N h w.
        tiles: cut out of them.
    """

    share: float
    images: np.ndarray | SharedRows
    masks: np.ndarray
    tiles: Tiles | None = None


class Loader:
    """Batches of one stage.

    The global batch (rows and augmentation parameters) is drawn first and each rank takes its slice, so that two
    processes see exactly the samples of one; only the photometric views are drawn again by each rank. An epoch has the
    `steps_per_epoch` of the stage. If they are not set, it is one pass over the labelled rows, or over the longer
    stream if there is an unlabelled one.

    Args:
        data: the decoded split.
        stage: batch sizes, augmentation, views and prompts.
        seed: of shuffling and augmentation.
        train: shuffle, augment and drop the last incomplete batch; otherwise the rows in order, untouched.
        indices: the labelled rows; None means all rows with a mask that are marked as labelled.
        unlabelled_indices: rows of the unlabelled stream.
        tiles: cut a tile out of every image at a random place, in one warp with the augmentation, so that a rotated
            tile is filled from its image; used only with `train`.
        process: rank of this process, from 0, and number of processes.
        smaller: smaller images for the first steps, in order; used only with `train`.
        on_device: prepare a `RawBatch`, whose augmentation the device computes.

    Raises:
        ConfigError: a view is unknown, or a batch size is not divisible by the number of processes.
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
        process: tuple[int, int] = (0, 1),
        smaller: Sequence[SmallerImages] = (),
        on_device: bool = False,
    ) -> None:
        self.rank, self.world_size = process
        for view in stage.views:
            choose("view", view, list(PHOTOMETRIC))
        parts = self.world_size * stage.accumulate
        if stage.batch_size % parts or stage.unlabelled_batch_size % parts:
            each = f" and into {stage.accumulate} parts in each" if stage.accumulate > 1 else ""
            raise ConfigError(
                f"the batch of stage {stage.name!r} ({stage.batch_size} + {stage.unlabelled_batch_size}) is global and "
                f"must be divisible by the {self.world_size} processes{each}. Choose another batch_size."
            )

        # rows whose masks may be used for training
        usable = np.array([row.labelled for row in data.rows], dtype=bool) & data.has_mask
        chosen = np.arange(len(data)) if indices is None else np.asarray(indices)
        self.labelled = chosen[usable[chosen]]
        if not len(self.labelled):
            raise DataError(
                "no labelled row with a mask is left to train on. Check `mask` and `labelled` in the manifest."
            )

        self.unlabelled = unlabelled_indices if stage.unlabelled_batch_size else None
        # prompts of tiles may lose their place
        prompts, statements = for_tiles(data.prompts, data.statements, tiles)
        self.data = replace(data, prompts=prompts, statements=statements)
        self.stage, self.seed, self.train = stage, seed, train
        self.full = SmallerImages(1.0, data.images, data.masks, tiles if train else None)
        self.smaller = tuple(smaller) if train else ()
        self.draws = PromptDraws(self.data, self.labelled, stage)
        self.on_device = on_device

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches per epoch."""
        if not self.train:
            return -(-len(self.labelled) // self.stage.batch_size)
        return one_pass(
            self.stage, len(self.labelled), 0 if self.unlabelled is None else len(self.unlabelled)
        )

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch | RawBatch]:
        """The batches of an epoch from step `start` on; a background thread prepares two in advance."""
        # a bounded queue, so that the thread does not run ahead
        ready: queue.Queue[Batch | RawBatch | BaseException | None] = queue.Queue(PREFETCH)
        stop = threading.Event()

        def put(item: Batch | RawBatch | BaseException | None) -> None:
            while not stop.is_set():
                try:
                    ready.put(item, timeout=0.1)
                except queue.Full:
                    continue
                return

        def work() -> None:
            try:
                for batch in self.batches(epoch, start):
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

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch | RawBatch]:
        """The batches of an epoch from step `start` on, prepared in this thread."""
        labelled = self._rows(self.labelled, self.stage.batch_size, epoch, stream=0)
        unlabelled = None
        if self.unlabelled is not None:
            unlabelled = self._rows(
                self.unlabelled, self.stage.unlabelled_batch_size, epoch, stream=1
            )
        for step in range(start, self.steps_per_epoch):
            batch = self._batch(labelled[step], epoch, step, stream=0)
            if unlabelled is not None:
                other = self._batch(unlabelled[step], epoch, step, stream=1)
                batch = _joined_streams(batch, other)
            yield batch

    def _size_at(self, step: int) -> SmallerImages:
        """The images that a step of the stage sees, from 0."""
        steps, share = self.stage.epochs * self.steps_per_epoch, 0.0
        for smaller in self.smaller:
            share += smaller.share
            if step < round(share * steps):
                return smaller
        return self.full

    def _rows(self, indices: np.ndarray, size: int, epoch: int, stream: int) -> list[np.ndarray]:
        """Row numbers of each step: whole passes, each with its own shuffle, cut into batches."""
        if not self.train:
            return [indices[i : i + size] for i in range(0, len(indices), size)]
        needed = self.steps_per_epoch * size
        rng = np.random.default_rng([self.seed, epoch, stream])
        # enough whole passes for all steps
        passes = [rng.permutation(indices) for _ in range(math.ceil(needed / len(indices)))]
        return list(np.concatenate(passes)[:needed].reshape(self.steps_per_epoch, size))

    def _batch(self, rows: np.ndarray, epoch: int, step: int, stream: int) -> Batch | RawBatch:
        """Draw the parameters of a global batch and prepare the samples of this rank."""
        # this rank's part of the global batch
        share = len(rows) // self.world_size if self.train else len(rows)
        part = slice(self.rank * share, (self.rank + 1) * share) if self.train else slice(None)

        # everything random is drawn for the whole batch, so that it is the same in every process
        data, augment = self.data, self.stage.augment if self.train else None
        sized = self._size_at(epoch * self.steps_per_epoch + step)
        drawn = self._draw_prompts(rows, epoch, step, stream)
        listed = [tuple(data.prompts[i] for i in each) for each in drawn.rows]
        rng = np.random.default_rng([self.seed, epoch, step, stream])
        whole = sized.masks.shape[1:]
        size = whole if sized.tiles is None else sized.tiles.size
        params = Geometry.still(len(rows))
        if augment is not None:
            params = make_params(listed[0], augment, size, rng, listed[1:])
        if sized.tiles is not None:
            params = random_crops(params, whole, size, rng)
        view_seeds = rng.integers(2**62, size=(len(self.stage.views), len(rows)))[:, part]

        rows, drawn, params = rows[part], drawn.slice(part), params.slice(part)
        untouched = augment is None and sized.tiles is None
        texts, masks = [], []
        for each, kinds in zip(drawn.rows, drawn.kinds, strict=True):
            text, empty = self._text(each, kinds, params.flipped)
            texts.append(text)
            # row by row from the memory map: a batch of whole images could be large
            masks.append([np.zeros_like(sized.masks[i]) if e else sized.masks[i] for i, e in empty])
        keys = tuple(data.keys[i] for i in rows)
        seeds = tuple(int(each[0]) for each in view_seeds)
        if self.on_device:
            sent = [torch.from_numpy(np.stack(each)) for each in masks]
            return RawBatch(
                images=torch.from_numpy(np.stack([sized.images[i] for i in rows])),
                masks=sent[0],
                geometry=None if untouched else params,
                size=size,
                text=texts[0],
                keys=keys,
                views=tuple(zip(self.stage.views, seeds, strict=True)),
                further=tuple(zip(texts[1:], sent[1:], strict=True)),
            )

        if untouched:
            images = sized.images[rows]
            planes = [np.stack(each) for each in masks]
        else:
            images = apply_image([sized.images[i] for i in rows], params, size)
            planes = [apply_mask(each, params, size) for each in masks]

        image = torch.from_numpy(images).float().div_(255)
        # views share the geometry and differ in appearance
        views = {}
        for name, seed in zip(self.stage.views, seeds, strict=True):
            generator = torch.Generator().manual_seed(seed)
            views[name] = _three(photometric(image, PHOTOMETRIC[name], generator))
        found = [torch.from_numpy(plane)[:, None].float() for plane in planes]
        return Batch(
            image=_three(image),
            text=texts[0],
            mask=found[0],
            keys=keys,
            views=views,
            further=tuple(map(FurtherPrompt, texts[1:], found[1:])),
        )

    def _draw_prompts(self, rows: np.ndarray, epoch: int, step: int, stream: int) -> DrawnPrompts:
        """The prompts of a global batch; from numbers of their own, so that images are drawn as without them."""
        if not self.train or stream or self.draws.is_plain:
            return self.draws.as_they_are(rows)
        return self.draws.draw(rows, np.random.default_rng([self.seed, epoch, step, PROMPT_STREAM]))

    def _text(
        self, rows: np.ndarray, kinds: np.ndarray, flipped: np.ndarray
    ) -> tuple[Text, list[tuple[int, bool]]]:
        """One prompt per image, true of the flipped images, and for each its row and whether its mask is empty."""
        prompts, statements, empty = [], [], []
        for row, kind, flip in zip(rows.tolist(), kinds, flipped, strict=True):
            prompt, statement = apply_prompt(
                self.data.prompts[row], self.data.statements[row], flip
            )
            wording = self.draws.wording(prompt, row, kind)
            if wording.prompt != prompt:
                grammar = self.data.rows[row].grammar
                statement = parse(wording.prompt, grammar, statement.laterality)
            prompts.append(wording.prompt)
            statements.append(statement)
            empty.append((row, wording.is_empty))
        return build_text(prompts, statements), empty


def _joined_streams(batch: Batch | RawBatch, other: Batch | RawBatch) -> Batch | RawBatch:
    """A labelled batch with an unlabelled one."""
    if isinstance(batch, RawBatch) and isinstance(other, RawBatch):
        return replace(batch, unlabelled=replace(other, masks=None))
    if isinstance(batch, Batch) and isinstance(other, Batch):
        return replace(batch, unlabelled=replace(other, mask=None))
    raise TypeError("the two streams have batches of two kinds")


def _three(image: torch.Tensor) -> torch.Tensor:
    """Repeat gray images to three channels without copying."""
    return image.expand(-1, 3, -1, -1) if image.shape[1] == 1 else image
