"""Text encoders, frozen or trainable, and the cache that makes a frozen one free of cost in training."""

from __future__ import annotations

import hashlib
import re
import threading
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from textmask.errors import ConfigError, warn_prompt
from textmask.types import Embedding, Text, TextFeatures, TextTokens, TokenMask

Pool = Literal["mean", "cls", "legacy_padding", "eos"]
MAX_CACHED_SENTENCES = (
    20_000  # then the table starts again: 24 tokens x 768 in fp32 are 74 KB a sentence
)
CHUNK = 32
# the tokenizers of `transformers` are not made for several threads, and of a new sentence one thread fills the table
_ONE_AT_A_TIME = threading.RLock()


class TextEncoder(nn.Module):
    """Sentences -> one vector per token and one per sentence. Subclasses give `ids_of` and `hidden`.

    Args:
        name: for messages and the fingerprint.
        width: D of both outputs.
        max_length: longest sentence in tokens, special tokens included; more is cut off with a warning.
        pool, pool_layers: see `TextEncoderInfo`.
    """

    pad_id: int = 0
    blank: str = "unknown"  # written into a sentence, what stands for a word that is not said

    def __init__(
        self,
        name: str,
        width: int,
        max_length: int,
        pool: Pool = "mean",
        pool_layers: tuple[int, ...] = (-1,),
    ) -> None:
        super().__init__()
        self.name, self.width, self.max_length = name, width, max_length
        self.pool, self.pool_layers = pool, pool_layers

    def ids_of(self, prompts: Sequence[str]) -> list[list[int]]:
        """Token numbers of each sentence, special tokens included, not cut."""
        raise NotImplementedError(f"{type(self).__name__}.ids_of")

    def hidden(
        self, token_ids: Tensor, token_mask: TokenMask
    ) -> tuple[TextTokens, TextTokens, Embedding | None]:
        """Token vectors, the vectors to pool, and a sentence vector where the model makes its own."""
        raise NotImplementedError(f"{type(self).__name__}.hidden")

    def prepare(self, prompts: Sequence[str]) -> None:
        """Nothing to do: an encoder that trains has no table (see `TextCache.prepare`)."""

    def too_long(self, prompts: Sequence[str]) -> int:
        """How many of the sentences have more than `max_length` tokens, so that their end would not be read."""
        counts = Counter(prompts)
        rows = self.ids_of(list(counts)) if counts else []
        return sum(
            n for n, row in zip(counts.values(), rows, strict=True) if len(row) > self.max_length
        )

    def tokenize(self, text: Text, length: int | None = None) -> Text:
        """Fill `token_ids` and `token_mask`, padded to the longest sentence of the batch, or to `length`.

        Warns:
            PromptWarning: how many sentences were longer than the window and cut.

        Raises:
            ConfigError: `length` is more than the encoder's `max_length`.
        """
        if length is None and self.pool == "legacy_padding":
            length = self.max_length
        window = self.max_length if length is None else length
        if not 3 <= window <= self.max_length:
            raise ConfigError(
                f"length is {length}; this {self.name} reads 3 to {self.max_length} tokens (max_length)."
            )
        rows = self.ids_of(text.prompts)
        too_long = [i for i, row in enumerate(rows) if len(row) > window]
        if too_long:
            warn_prompt(
                f"{len(too_long)} of {len(rows)} sentences are longer than the {window} tokens that {self.name} reads "
                f"(longest {max(map(len, rows))}) and were cut, the first: {text.prompts[too_long[0]][:80]!r}. "
                "What is said at their end is lost; shorten them or raise max_length.",
                stacklevel=2,
            )
        # the last token is a special one in all tokenizers used here and must stay
        rows = [row if len(row) <= window else [*row[: window - 1], row[-1]] for row in rows]
        padded = max([*map(len, rows), 1]) if length is None else length
        token_ids = torch.tensor(
            [row + [self.pad_id] * (padded - len(row)) for row in rows], dtype=torch.long
        )
        lengths = torch.tensor([len(row) for row in rows], dtype=torch.long)
        token_mask = torch.arange(padded) < lengths[:, None]
        device = text.zones.device
        return replace(text, token_ids=token_ids.to(device), token_mask=token_mask.to(device))

    def forward(self, text: Text) -> TextFeatures:
        """Sentences -> text_tokens B L D, text_embedding B D, token_mask B L (tokenizes unless `token_ids` is set)."""
        if text.token_ids is None:
            text = self.tokenize(text)
        if text.token_ids is None or text.token_mask is None:
            raise ConfigError("text has token_ids but no token_mask. Give both, or neither.")
        mask = text.token_mask
        # attention over no token at all is NaN: such a row looks at its first padding token, which pooling ignores
        visible = torch.cat([mask[:, :1] | ~mask.any(dim=1, keepdim=True), mask[:, 1:]], dim=1)
        tokens, to_pool, own = self.hidden(text.token_ids, visible)
        return TextFeatures(tokens, own if own is not None else self._pooled(to_pool, mask), mask)

    def _pooled(self, tokens: TextTokens, mask: TokenMask) -> Embedding:
        """B L D -> B D; zeros for a sentence without a real token."""
        if self.pool == "cls":
            return tokens[:, 0] * mask[:, :1]
        if self.pool == "legacy_padding":
            return tokens.mean(dim=1)
        real = mask.unsqueeze(-1).to(tokens.dtype)
        return (tokens * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)

    def vocabulary(self) -> dict[str, int]:
        """Token -> number, part of the fingerprint."""
        return {}

    def weights_sha256(self) -> str:
        """Digest of all weights and of the vocabulary: what decides the output for a sentence."""
        digest = hashlib.sha256(repr(sorted(self.vocabulary().items())).encode())
        for key, value in sorted(self.state_dict().items()):
            value = value.detach().cpu().contiguous()
            digest.update(f"{key} {tuple(value.shape)} {value.dtype}".encode())
            digest.update(value.flatten().view(torch.uint8).numpy())
        return digest.hexdigest()


class TinyTextEncoder(TextEncoder):
    """Words and punctuation hashed into a small vocabulary, an embedding and one transformer layer. No files."""

    VOCABULARY = 512
    CLS, SEP, SPECIAL = 1, 2, 3

    def __init__(
        self, width: int = 32, max_length: int = 64, pool: Pool = "mean", heads: int = 2
    ) -> None:
        super().__init__("tiny", width, max_length, pool)
        self.token = nn.Embedding(self.VOCABULARY, width)
        self.position = nn.Embedding(max_length, width)
        self.layer = nn.TransformerEncoderLayer(
            width, heads, 2 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.norm = nn.LayerNorm(width)

    def ids_of(self, prompts: Sequence[str]) -> list[list[int]]:
        """CLS, one number per word or punctuation mark, SEP."""
        buckets = self.VOCABULARY - self.SPECIAL

        def number(word: str) -> int:
            # Python's own hash differs from process to process
            return self.SPECIAL + zlib.crc32(word.encode("utf-8", "surrogatepass")) % buckets

        words = [re.findall(r"\w+|[^\w\s]", prompt.lower()) for prompt in prompts]
        return [[self.CLS, *map(number, row), self.SEP] for row in words]

    def hidden(
        self, token_ids: Tensor, token_mask: TokenMask
    ) -> tuple[TextTokens, TextTokens, Embedding | None]:
        """Pre-norm transformer layer over embedding + position."""
        if token_ids.shape[1] > self.max_length:
            raise ConfigError(
                f"token_ids has {token_ids.shape[1]} positions, tiny reads {self.max_length}."
            )
        x = self.token(token_ids) + self.position.weight[: token_ids.shape[1]]
        x = self.norm(self._transformed(x, token_mask))
        return x, x, None

    def _transformed(self, x: TextTokens, token_mask: TokenMask) -> TextTokens:
        """`self.layer(x, src_key_padding_mask=~token_mask)`, which cannot be exported with a free number of tokens."""
        layer = self.layer
        attention = layer.self_attn
        projected = nn.functional.linear(
            layer.norm1(x), attention.in_proj_weight, attention.in_proj_bias
        )
        shape = (*projected.shape[:2], attention.num_heads, -1)
        q, k, v = (part.reshape(shape).transpose(1, 2) for part in projected.chunk(3, dim=2))
        seen = nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=token_mask[:, None, None]
        )
        x = x + attention.out_proj(seen.transpose(1, 2).flatten(2))
        out: TextTokens = x + layer.linear2(torch.relu(layer.linear1(layer.norm2(x))))
        return out


class BertTextEncoder(TextEncoder):
    """A BertModel of `transformers` with its tokenizer."""

    def __init__(
        self,
        name: str,
        model: nn.Module,
        tokenizer: Any,
        max_length: int,
        pool: Pool = "mean",
        pool_layers: tuple[int, ...] = (-1,),
    ) -> None:
        config: Any = model.config
        super().__init__(name, int(config.hidden_size), max_length, pool, pool_layers)
        self.model, self.tokenizer = model, tokenizer
        self.pad_id = int(tokenizer.pad_token_id)
        self.blank = (
            tokenizer.mask_token or ""
        )  # CLIP has none, and its unknown token ends a sentence
        if not all(-1 <= i <= config.num_hidden_layers for i in pool_layers):
            raise ConfigError(
                f"pool_layers {pool_layers}: {name} has layers 1 to {config.num_hidden_layers}, and -1."
            )

    def ids_of(self, prompts: Sequence[str]) -> list[list[int]]:
        """Word pieces between the special tokens."""
        clean = [
            prompt.encode(errors="replace").decode() for prompt in prompts
        ]  # half a character stops a tokenizer
        with _ONE_AT_A_TIME:
            rows: list[list[int]] = self.tokenizer(clean, truncation=False, padding=False)[
                "input_ids"
            ]
        return rows

    def hidden(
        self, token_ids: Tensor, token_mask: TokenMask
    ) -> tuple[TextTokens, TextTokens, Embedding | None]:
        """Last hidden state, and the mean of the hidden states that are pooled."""
        several = self.pool_layers != (-1,)
        out = self.model(
            input_ids=token_ids, attention_mask=token_mask.long(), output_hidden_states=several
        )
        last: Tensor = out.last_hidden_state
        if not several:
            return last, last, None
        return last, torch.stack([out.hidden_states[i] for i in self.pool_layers]).mean(dim=0), None

    def vocabulary(self) -> dict[str, int]:
        """Word piece -> number."""
        return dict(self.tokenizer.get_vocab())


class ClipTextEncoder(BertTextEncoder):
    """The text tower of CLIP: token vectors after the final norm, and the projected vector of the end token."""

    def hidden(
        self, token_ids: Tensor, token_mask: TokenMask
    ) -> tuple[TextTokens, TextTokens, Embedding | None]:
        """Last hidden state and, with pool `eos`, the projection of the end token."""
        if self.pool != "eos":
            return super().hidden(token_ids, token_mask)
        out = self.model(input_ids=token_ids, attention_mask=token_mask.long())
        return out.last_hidden_state, out.last_hidden_state, out.text_embeds


class _FrozenTower:
    """A frozen encoder and what it said about every sentence so far.

    Not a module, so that it is in no state_dict and no parameter list; copies of a method (a teacher) share it.
    """

    def __init__(self, encoder: TextEncoder, dtype: torch.dtype) -> None:
        self.encoder = encoder.eval().requires_grad_(False)
        self.dtype = dtype
        self.rows: dict[str, tuple[Tensor, Tensor]] = {}

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
        """Run the tower: never with gradient, dropout or autocast, so that a sentence always has the same features."""
        # what inference mode makes (also weights, by .to) could not take part in a later training step
        with (
            torch.inference_mode(False),
            torch.no_grad(),
            torch.autocast(device.type, enabled=False),
        ):
            features: TextFeatures = self.encoder.to(device).eval()(text.to(device))
        return features

    def look_up(self, prompts: Sequence[str], device: torch.device) -> TextFeatures:
        """Features of the sentences, on the CPU; those not seen before are encoded on `device` first."""
        rows = self.rows
        try:
            found = [rows[prompt] for prompt in prompts]
        except KeyError:
            with _ONE_AT_A_TIME:
                rows = self._with(list(dict.fromkeys(prompts)), device)
            found = [rows[prompt] for prompt in prompts]
        tokens = pad_sequence([row for row, _ in found], batch_first=True)
        lengths = torch.tensor([len(row) for row, _ in found])
        token_mask = torch.arange(tokens.shape[1]) < lengths[:, None]
        return TextFeatures(tokens.float(), torch.stack([e for _, e in found]).float(), token_mask)

    def _with(self, prompts: list[str], device: torch.device) -> dict[str, tuple[Tensor, Tensor]]:
        """The table with all of the sentences in it; a full one is left to the threads that read it, for a new one."""
        missing = [prompt for prompt in prompts if prompt not in self.rows]
        if missing and len(self.rows) + len(missing) > MAX_CACHED_SENTENCES:
            self.rows, missing = {}, prompts
        if missing:
            self._fill(missing, device)
        return self.rows

    def _fill(self, missing: list[str], device: torch.device) -> None:
        """Encode sentences into the table."""
        missing.sort(key=lambda p: (len(p), p))  # neighbours in a chunk need little padding
        # all at once, so that one warning counts all that are too long
        whole = self.encoder.tokenize(Text(tuple(missing), torch.zeros(len(missing), 9)))
        for start in range(0, len(missing), CHUNK):
            text = _sub_batch(
                whole, slice(start, start + CHUNK), trim=self.encoder.pool != "legacy_padding"
            )
            tokens, embeddings, mask = (x.cpu() for x in self.encode(text, device))
            for prompt, row, embedding, real in zip(
                text.prompts, tokens, embeddings, mask, strict=True
            ):
                self.rows[prompt] = row[real].to(self.dtype), embedding.clone()


def _sub_batch(text: Text, part: slice, trim: bool) -> Text:
    """Some sentences of a tokenized text, without the padding that none of them needs where `trim` says so."""
    if text.token_ids is None or text.token_mask is None:
        raise ConfigError("text is not tokenized.")
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
    """A frozen text encoder that runs once per distinct sentence.

    The tower is neither in `state_dict()` nor in `parameters()`; store `fingerprint` beside the weights instead. Text
    that comes with `token_ids` bypasses the table and runs the tower.

    Args:
        encoder: is frozen here.
        standardise: shift and scale `text_embedding` by the mean and deviation of the distinct training sentences
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
        self.register_buffer(
            "_place", torch.empty(0), persistent=False
        )  # follows .to(): where the tower runs
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
        """D of tokens and sentence vector."""
        return self._tower.encoder.width

    @property
    def max_length(self) -> int:
        """Longest sentence in tokens."""
        return self._tower.encoder.max_length

    @property
    def fingerprint(self) -> str:
        """Identity of the frozen tower (name, pooling, sha256 of the weights), to be stored in checkpoints."""
        return self._tower.fingerprint

    @property
    def blank(self) -> str:
        """What stands for a word that is not said, as the tokenizer reads it."""
        return self._tower.encoder.blank

    @property
    def cached_sentences(self) -> int:
        """Number of sentences in the table."""
        return len(self._tower.rows)

    def too_long(self, prompts: Sequence[str]) -> int:
        """As `TextEncoder.too_long`."""
        return self._tower.encoder.too_long(prompts)

    def tokenize(self, text: Text, length: int | None = None) -> Text:
        """As `TextEncoder.tokenize`; the result bypasses the table."""
        return self._tower.encoder.tokenize(text, length)

    @torch.no_grad()
    def prepare(self, prompts: Sequence[str]) -> None:
        """Encode the distinct sentences; in training mode also take their mean and deviation for `standardise`."""
        distinct = sorted(set(prompts))
        embeddings = [
            self._tower.look_up(
                distinct[start : start + CHUNK * 32], self._place.device
            ).text_embedding
            for start in range(0, len(distinct), CHUNK * 32)
        ]
        if not (self.standardise and self.training and distinct):
            return
        table = torch.cat(embeddings).double()
        std = table.std(dim=0, unbiased=False)
        self.embedding_mean.copy_(table.mean(dim=0))
        self.embedding_std.copy_(torch.where(std > 1e-6, std, 1.0))

    def forward(self, text: Text) -> TextFeatures:
        """Sentences -> text_tokens B L D, text_embedding B D, token_mask B L, on the device of the batch."""
        if text.token_ids is None:
            features, device = (
                self._tower.look_up(text.prompts, self._place.device),
                text.zones.device,
            )
        else:
            features, device = self._tower.encode(text, self._place.device), text.token_ids.device
        tokens, embedding, token_mask = (x.to(device) for x in features)
        if self.standardise:
            embedding = (embedding - self.embedding_mean.to(device)) / self.embedding_std.to(device)
        return TextFeatures(tokens, embedding, token_mask)
