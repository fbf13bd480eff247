"""The cache that encodes every distinct prompt once: a frozen text encoder then costs nothing in training."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from textmask.errors import ConfigError
from textmask.nn.text_encoders import ONE_AT_A_TIME, TextEncoder
from textmask.types import Text, TextFeatures, send

# a full table is dropped and filled again: 24 tokens x 768 in fp32 are 74 KB per prompt
MAX_CACHED_SENTENCES = 20_000
CHUNK = 32
STEP = 1024  # prompts that are tokenized together


class _FrozenTower:
    """A frozen encoder and its output for every prompt so far.

    In a training (after `TextCache.prepare`) the table does not depend on history, so that a resumed training has the
    same numbers: what was prepared stays as it is, and every other prompt is encoded by itself, because the last bits
    of a vector depend on the prompts that share its batch. Without `prepare` prompts are encoded in chunks.

    Not a module, so that it is in no state_dict and no parameter list; copies of a method (a teacher) share it.
    """

    def __init__(self, encoder: TextEncoder, dtype: torch.dtype) -> None:
        self.encoder = encoder.eval().requires_grad_(False)
        self.dtype = dtype
        self.rows: dict[str, tuple[Tensor, Tensor]] = {}
        self.prepared: dict[str, tuple[Tensor, Tensor]] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self

    @cached_property
    def fingerprint(self) -> str:
        """Name, pooling and weights: equal fingerprints give equal features."""
        encoder = self.encoder
        layers = ",".join(map(str, encoder.pool_layers))
        family = re.split("[:@]", encoder.name)[0]
        return f"{family} pool={encoder.pool} layers={layers} sha256={encoder.weights_sha256()}"

    def encode(self, text: Text, device: torch.device) -> TextFeatures:
        """Run the tower, never with gradient, dropout or autocast, so that a prompt always has the same features."""
        # tensors (also weights, by .to) made in inference mode could not take part in a later training step
        with (
            torch.inference_mode(False),
            torch.no_grad(),
            torch.autocast(device.type, enabled=False),
        ):
            features: TextFeatures = self.encoder.to(device).eval()(text.to(device))
        return features

    def look_up(self, prompts: Sequence[str], device: torch.device) -> TextFeatures:
        """Features of the prompts, on the CPU; new prompts are encoded on `device` first."""
        try:
            found = self._rows_of(prompts, self.rows)
        except KeyError:
            with ONE_AT_A_TIME:
                rows = self._with(list(dict.fromkeys(prompts)), device)
            found = self._rows_of(prompts, rows)

        tokens = pad_sequence([row for row, _ in found], batch_first=True)
        lengths = torch.tensor([len(row) for row, _ in found])
        token_mask = torch.arange(tokens.shape[1]) < lengths[:, None]
        embeddings = torch.stack([embedding for _, embedding in found])
        return TextFeatures(tokens.float(), embeddings.float(), token_mask)

    def prepare(self, prompts: Sequence[str], device: torch.device) -> Tensor:
        """Encode distinct prompts in chunks and keep them, if they fit into the table; returns their embeddings N D."""
        embeddings = []
        kept: dict[str, tuple[Tensor, Tensor]] = {}
        for start in range(0, len(prompts), STEP):
            part = prompts[start : start + STEP]
            rows = self._encode_all(list(part), device, CHUNK)
            embeddings += [rows[prompt][1] for prompt in part]
            if len(prompts) <= MAX_CACHED_SENTENCES:
                kept |= rows
        self.prepared, self.rows = kept | (self.prepared or {}), {}
        return torch.stack(embeddings) if embeddings else torch.zeros(0, self.encoder.width)

    def _rows_of(
        self, prompts: Sequence[str], rows: dict[str, tuple[Tensor, Tensor]]
    ) -> list[tuple[Tensor, Tensor]]:
        prepared = self.prepared or {}
        return [prepared.get(prompt) or rows[prompt] for prompt in prompts]

    def _with(self, prompts: list[str], device: torch.device) -> dict[str, tuple[Tensor, Tensor]]:
        """The table with all of the prompts in it. Threads that read a full table keep it; a new one takes over."""
        wanted = [prompt for prompt in prompts if prompt not in (self.prepared or {})]
        missing = [prompt for prompt in wanted if prompt not in self.rows]
        if missing and len(self.rows) + len(missing) > MAX_CACHED_SENTENCES:
            self.rows, missing = {}, wanted
        if missing:
            self.rows |= self._encode_all(missing, device, CHUNK if self.prepared is None else 1)
        return self.rows

    def _encode_all(
        self, prompts: list[str], device: torch.device, chunk: int
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """The table rows of some prompts, encoded `chunk` at a time."""
        # prompts of similar length share a chunk, which then needs little padding
        prompts = sorted(prompts, key=lambda p: (len(p), p))
        # all at once, so that one warning counts all that are too long
        whole = self.encoder.tokenize(Text(tuple(prompts), torch.zeros(len(prompts), 9)))
        trim = self.encoder.pool != "legacy_padding"

        rows = {}
        for start in range(0, len(prompts), chunk):
            text = _sub_batch(whole, slice(start, start + chunk), trim)
            features = self.encode(text, device)
            tokens, embeddings = features.text_tokens.cpu(), features.text_embedding.cpu()
            mask = features.token_mask.cpu()
            for i, prompt in enumerate(text.prompts):
                rows[prompt] = tokens[i][mask[i]].to(self.dtype), embeddings[i].clone()
        return rows


def _sub_batch(text: Text, part: slice, trim: bool) -> Text:
    """Some prompts of a tokenized text; `trim` removes the padding that none of them needs."""
    if text.token_ids is None or text.token_mask is None:
        raise ConfigError("The text is not tokenized. Call `TextEncoder.tokenize` first.")
    ids, mask = text.token_ids[part], text.token_mask[part]
    length = max(int(mask.sum(dim=1).max()), 1) if trim else mask.shape[1]
    return replace(
        text,
        prompts=text.prompts[part],
        zones=text.zones[part],
        token_ids=ids[:, :length],
        token_mask=mask[:, :length],
    )


class TextCache(nn.Module):
    """A frozen text encoder that runs once per distinct prompt.

    The tower is neither in `state_dict()` nor in `parameters()`; store `fingerprint` next to the weights instead. Text
    with `token_ids` bypasses the table and runs the tower.

    Args:
        encoder: is frozen here.
        standardise: shift and scale `text_embedding` by the mean and deviation of the distinct training prompts
            (`prepare`). Frozen vectors of captions that differ in "left" and "right" alone have a cosine of 0.99.
        dtype: of the token vectors in the table; the output is float32.
    """

    embedding_mean: Tensor
    embedding_std: Tensor
    _place: Tensor

    def __init__(
        self, encoder: TextEncoder, *, standardise: bool = False, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self._tower = _FrozenTower(encoder, dtype)
        self.standardise = standardise
        # an empty buffer follows .to() and says where the tower runs
        self.register_buffer("_place", torch.empty(0), persistent=False)
        if standardise:
            self.register_buffer("embedding_mean", torch.zeros(encoder.width))
            self.register_buffer("embedding_std", torch.ones(encoder.width))

    @property
    def encoder(self) -> TextEncoder:
        """The frozen encoder itself, without the table."""
        return self._tower.encoder

    @property
    def name(self) -> str:
        """Name of the encoder."""
        return self._tower.encoder.name

    @property
    def width(self) -> int:
        """D of tokens and text embedding."""
        return self._tower.encoder.width

    @property
    def max_length(self) -> int:
        """Longest prompt in tokens."""
        return self._tower.encoder.max_length

    @property
    def fingerprint(self) -> str:
        """Identity of the frozen tower (name, pooling, sha256 of the weights), to be stored in checkpoints."""
        return self._tower.fingerprint

    @property
    def blank(self) -> str:
        """Text that replaces a word which is left out, as the tokenizer reads it."""
        return self._tower.encoder.blank

    @property
    def cached_sentences(self) -> int:
        """Number of prompts in the table."""
        return len(self._tower.rows) + len(self._tower.prepared or {})

    def too_long(self, prompts: Sequence[str]) -> int:
        """As `TextEncoder.too_long`."""
        return self._tower.encoder.too_long(prompts)

    def tokenize(self, text: Text, length: int | None = None) -> Text:
        """As `TextEncoder.tokenize`; the result bypasses the table."""
        return self._tower.encoder.tokenize(text, length)

    @torch.no_grad()
    def prepare(self, prompts: Sequence[str]) -> None:
        """Encode the distinct prompts; in training mode also take their mean and deviation for `standardise`."""
        distinct = sorted(set(prompts))
        embeddings = self._tower.prepare(distinct, self._place.device)
        if not (self.standardise and self.training and distinct):
            return

        table = embeddings.double()
        std = table.std(dim=0, unbiased=False)
        self.embedding_mean.copy_(table.mean(dim=0))
        self.embedding_std.copy_(torch.where(std > 1e-6, std, 1.0))

    def forward(self, text: Text) -> TextFeatures:
        """Prompts -> text_tokens B L D, text_embedding B D, token_mask B L, on the device of the batch."""
        if text.token_ids is None:
            features = self._tower.look_up(text.prompts, self._place.device)
            device = text.zones.device
        else:
            features, device = self._tower.encode(text, self._place.device), text.token_ids.device

        tokens, embedding = (
            send(features.text_tokens, device),
            send(features.text_embedding, device),
        )
        if self.standardise:
            embedding = (embedding - self.embedding_mean.to(device)) / self.embedding_std.to(device)
        return TextFeatures(tokens, embedding, send(features.token_mask, device))
