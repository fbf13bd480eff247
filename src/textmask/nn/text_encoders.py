"""Text encoders, frozen or trainable; `text_cache` makes a frozen one cost nothing in training."""

from __future__ import annotations

import hashlib
import re
import threading
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from textmask.errors import ConfigError, warn_prompt
from textmask.types import Embedding, Text, TextFeatures, TextTokens, TokenMask, send

Pool = Literal["mean", "cls", "legacy_padding", "eos"]
# the tokenizers of `transformers` are not thread-safe, and only one thread may add a new prompt to a cache
ONE_AT_A_TIME = threading.RLock()


class TextEncoder(nn.Module):
    """Prompts -> one vector per token and one per prompt. Subclasses implement `ids_of` and `hidden`.

    Args:
        name: for messages and the fingerprint.
        width: D of both outputs.
        max_length: longest prompt in tokens, special tokens included; longer ones are cut with a warning.
        pool, pool_layers: see `TextEncoderInfo`.
    """

    pad_id: int = 0
    blank: str = "unknown"  # replaces a word that is left out of a prompt

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
        """Token ids of each prompt, special tokens included, not cut."""
        raise NotImplementedError(f"{type(self).__name__}.ids_of")

    def hidden(
        self, token_ids: Tensor, token_mask: TokenMask
    ) -> tuple[TextTokens, TextTokens, Embedding | None]:
        """Token vectors, the vectors to pool, and a text embedding if the model computes its own."""
        raise NotImplementedError(f"{type(self).__name__}.hidden")

    def prepare(self, prompts: Sequence[str]) -> None:
        """Nothing to do: an encoder that trains has no table (see `TextCache.prepare`)."""

    def too_long(self, prompts: Sequence[str]) -> int:
        """How many of the prompts have more than `max_length` tokens, so that their end would not be read."""
        counts = Counter(prompts)
        rows = self.ids_of(list(counts)) if counts else []
        total = 0
        for n, row in zip(counts.values(), rows, strict=True):
            total += n if len(row) > self.max_length else 0
        return total

    def tokenize(self, text: Text, length: int | None = None) -> Text:
        """Fill `token_ids` and `token_mask`, padded to the longest prompt of the batch, or to `length`.

        Warns:
            PromptWarning: prompts were longer than the window and were cut; says how many.

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
                f"{len(too_long)} of {len(rows)} prompts are longer than the {window} tokens that {self.name} reads "
                f"(longest {max(map(len, rows))}) and were cut, the first: {text.prompts[too_long[0]][:80]!r}. "
                "Their end is not read. Shorten them or raise max_length.",
                stacklevel=2,
            )

        # the last token is a special one in all tokenizers used here and must stay
        rows = [row if len(row) <= window else [*row[: window - 1], row[-1]] for row in rows]
        padded = max([*map(len, rows), 1]) if length is None else length

        # short rows are filled up and masked
        token_ids = torch.tensor(
            [row + [self.pad_id] * (padded - len(row)) for row in rows], dtype=torch.long
        )
        lengths = torch.tensor([len(row) for row in rows], dtype=torch.long)
        token_mask = torch.arange(padded) < lengths[:, None]
        device = text.zones.device
        return replace(text, token_ids=send(token_ids, device), token_mask=send(token_mask, device))

    def forward(self, text: Text) -> TextFeatures:
        """Prompts -> text_tokens B L D, text_embedding B D, token_mask B L (tokenizes unless `token_ids` is set)."""
        if text.token_ids is None:
            text = self.tokenize(text)
        if text.token_ids is None or text.token_mask is None:
            raise ConfigError("The text has token_ids but no token_mask. Give both, or neither.")

        mask = text.token_mask
        # attention over no token at all is NaN: such a row looks at its first padding token, which pooling ignores
        visible = torch.cat([mask[:, :1] | ~mask.any(dim=1, keepdim=True), mask[:, 1:]], dim=1)
        tokens, to_pool, own = self.hidden(text.token_ids, visible)
        return TextFeatures(tokens, own if own is not None else self._pooled(to_pool, mask), mask)

    def _pooled(self, tokens: TextTokens, mask: TokenMask) -> Embedding:
        """B L D -> B D; zeros for a prompt without a real token."""
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
        """Digest of all weights and of the vocabulary, which together decide the output for a prompt."""
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
        # CLIP has none, and its unknown token ends a prompt
        self.blank = tokenizer.mask_token or ""
        if not all(-1 <= i <= config.num_hidden_layers for i in pool_layers):
            raise ConfigError(
                f"pool_layers is {pool_layers}; {name} has layers 1 to {config.num_hidden_layers}, and -1."
            )

    def ids_of(self, prompts: Sequence[str]) -> list[list[int]]:
        """Word pieces between the special tokens."""
        # half a surrogate pair stops a tokenizer
        clean = [prompt.encode(errors="replace").decode() for prompt in prompts]
        with ONE_AT_A_TIME:
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

        pooled = [out.hidden_states[i] for i in self.pool_layers]
        return last, torch.stack(pooled).mean(dim=0), None

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
