"""Shared data types: the batch, the output of a method, and shape aliases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

if TYPE_CHECKING:
    from textmask.statement import Statement

Image: TypeAlias = Float[Tensor, "b c h w"]
Mask: TypeAlias = Float[Tensor, "b 1 h w"]
Logits: TypeAlias = Float[Tensor, "b 1 h w"]
TokenIds: TypeAlias = Int[Tensor, "b l"]
TokenMask: TypeAlias = Bool[Tensor, "b l"]
TextTokens: TypeAlias = Float[Tensor, "b l d"]
Embedding: TypeAlias = Float[Tensor, "b _d"]  # _d: may differ between arguments
ZoneBits: TypeAlias = Float[Tensor, "b 9"]


def send(x: Tensor, device: torch.device | str) -> Tensor:
    """The tensor on a device; copies from the CPU start from pinned memory, so that the host does not wait for them."""
    target = torch.device(device)
    if x.device.type != "cpu" or target.type == "cpu":
        return x.to(target)
    if torch.cuda.is_available():
        x = x.pin_memory()
    return x.to(target, non_blocking=True)


class TextFeatures(NamedTuple):
    """The result of a text encoder; `token_mask` is True for real tokens."""

    text_tokens: TextTokens
    text_embedding: Embedding
    token_mask: TokenMask


@dataclass(frozen=True)
class Text:
    """Everything a model may know about the prompts of a batch.

    Attributes:
        prompts: the B prompts, after any rewriting by a transform.
        zones: B 9, 0 or 1, the parsed `Statement.bits()` of each prompt (all 0 if nothing was parsed).
        statements: the B parsed prompts, with their laterality convention; () if they were not parsed.
        token_ids, token_mask: B L, set by `TextEncoder.tokenize` for encoders that train; a frozen encoder finds its
            cached output by the prompt and needs neither.
    """

    prompts: tuple[str, ...]
    zones: ZoneBits
    token_ids: TokenIds | None = None
    token_mask: TokenMask | None = None
    statements: tuple[Statement, ...] = ()

    def __len__(self) -> int:
        """Number of prompts B."""
        return len(self.prompts)

    @classmethod
    def joined(cls, first: Text, second: Text) -> Text:
        """The prompts of both, one after the other, on one device; token ids are left to the encoder."""
        zones = torch.cat([first.zones, second.zones])
        return cls(
            first.prompts + second.prompts, zones, statements=first.statements + second.statements
        )

    def take(self, part: slice) -> Text:
        """Some of the prompts, one after the other."""
        return replace(
            self,
            prompts=self.prompts[part],
            zones=self.zones[part],
            token_ids=None if self.token_ids is None else self.token_ids[part],
            token_mask=None if self.token_mask is None else self.token_mask[part],
            statements=self.statements[part],
        )

    def to(self, device: torch.device | str) -> Text:
        """Move the tensors to `device`."""
        return replace(
            self,
            zones=send(self.zones, device),
            token_ids=None if self.token_ids is None else send(self.token_ids, device),
            token_mask=None if self.token_mask is None else send(self.token_mask, device),
        )


@dataclass(frozen=True)
class FurtherPrompt:
    """One more prompt for each image of a batch, with its own mask.

    Attributes:
        text: the B prompts.
        mask: B 1 H W, 0 or 1.
    """

    text: Text
    mask: Mask


@dataclass(frozen=True)
class Batch:
    """B samples. Labelled means `mask is not None`.

    Attributes:
        image: B 3 H W in [0, 1], gray images repeated; a method normalizes inside.
        text: the prompts.
        mask: B 1 H W, 0 or 1.
        keys: the B row keys of the manifest (the image path).
        views: further images with the same geometry as `image`, e.g. {"strong": B 3 H W}.
        unlabelled: the unlabelled half of a semi-supervised step.
        further: more prompts for the same images, see `Stage.prompts`; methods see one prompt at a time (`by_prompt`).
    """

    image: Image
    text: Text
    mask: Mask | None = None
    keys: tuple[str, ...] = ()
    views: dict[str, Image] = field(default_factory=dict)
    unlabelled: Batch | None = None
    further: tuple[FurtherPrompt, ...] = ()

    def __len__(self) -> int:
        """Number of samples B."""
        return self.image.shape[0]

    def by_prompt(self) -> list[Batch]:
        """The batch once per prompt, with the very same images each time."""
        batches = [replace(self, further=())]
        for prompt in self.further:
            batches.append(replace(batches[0], text=prompt.text, mask=prompt.mask))
        return batches

    def parts(self, n: int) -> list[Batch]:
        """The batch cut into `n` equal parts, each with its part of the unlabelled batch."""
        return [self] if n == 1 else [self._part(i, n) for i in range(n)]

    def _part(self, i: int, n: int) -> Batch:
        size = len(self) // n
        part = slice(i * size, (i + 1) * size)
        return replace(
            self,
            image=self.image[part],
            text=self.text.take(part),
            mask=None if self.mask is None else self.mask[part],
            keys=self.keys[part],
            views={name: view[part] for name, view in self.views.items()},
            unlabelled=None if self.unlabelled is None else self.unlabelled._part(i, n),
            further=tuple(FurtherPrompt(p.text.take(part), p.mask[part]) for p in self.further),
        )

    def to(
        self,
        device: torch.device | str,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> Batch:
        """Move the tensors to `device`; images also to `memory_format`."""

        def moved(x: Tensor) -> Tensor:
            return send(x, device).contiguous(memory_format=memory_format)

        # only images are convolved, so only they have a memory format
        return replace(
            self,
            image=moved(self.image),
            text=self.text.to(device),
            mask=None if self.mask is None else send(self.mask, device),
            views={name: moved(view) for name, view in self.views.items()},
            unlabelled=None
            if self.unlabelled is None
            else self.unlabelled.to(device, memory_format),
            further=tuple(
                FurtherPrompt(p.text.to(device), send(p.mask, device)) for p in self.further
            ),
        )


@dataclass(frozen=True)
class PromptReading:
    """What a method understood of one prompt.

    Attributes:
        program: the steps, as JSON.
        vocabulary: the names that the method knows.
        refused: words outside the vocabulary for which nothing is segmented -> the known names that are nearest.
    """

    program: Mapping[str, Any]
    vocabulary: tuple[str, ...]
    refused: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Output:
    """The prediction of a method.

    Attributes:
        logits: B 1 H W before the sigmoid, at the size of the input image.
        aux: named intermediates (features, attention maps, pseudo image ...), for losses, plots and debugging.
    """

    logits: Logits
    aux: dict[str, Tensor] = field(default_factory=dict)

    @property
    def probability(self) -> Mask:
        """B 1 H W in [0, 1], fp32."""
        return torch.sigmoid(self.logits.float())
