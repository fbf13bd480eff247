"""Published weights: fetched once from a hub (here a server in this process), checked, converted, locked, read back."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from textmask import weights
from textmask.cli.app import app
from textmask.errors import CheckpointError, ConfigError, WeightsError
from textmask.export.published import _finish, convert_weights, get_weights
from textmask.methods.registry import build_method, count_parameters, preset_recipe
from textmask.nn.pretrained_image import build_image_encoder
from textmask.nn.pretrained_text import build_text_encoder
from textmask.weights import LOCK, PUBLISHED, Published, read_lock, stored_weights

COMMIT, OTHER = "a" * 40, "b" * 40
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "lower", "left"]


def bert_files(folder, pickled):
    """A tiny BERT as the hub holds CXR-BERT: weights under a prefix, a head that nobody needs, remote code."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=32,
    )  # fmt: skip
    torch.manual_seed(0)
    state = {f"bert.{k}": v for k, v in BertModel(config).state_dict().items()}
    state["cls.predictions.bias"] = torch.zeros(len(WORDS))
    folder.mkdir(parents=True, exist_ok=True)
    if pickled:
        torch.save(state, folder / "pytorch_model.bin")
    else:
        save_file(state, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps({**config.to_dict(), "model_type": "cxr-bert"}))
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    (folder / "modeling_evil.py").write_text("raise SystemExit('remote code ran')")
    return folder


class Hub:
    """The two requests of a model hub that a download needs, and a list of what was asked."""

    def __init__(self):
        self.repositories, self.asked = {}, []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *arguments):
                pass

            def do_HEAD(self):
                self.do_GET()

            def do_GET(self):
                hub.asked.append(self.path)
                found = hub.answer(self.path.split("?")[0])
                if found is None:
                    self.send_error(404)
                    return
                body, headers = found
                self.send_response(200)
                for key, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(key, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, path):
        for (source, commit), folder in self.repositories.items():
            if path in (f"/api/models/{source}/revision/{r}" for r in (commit, "main")):
                files = []
                for file in sorted(folder.iterdir()):
                    data = file.read_bytes()
                    entry = {"rfilename": file.name, "size": len(data)}
                    if file.suffix in (".bin", ".safetensors"):
                        digest = hashlib.sha256(data).hexdigest()
                        entry["lfs"] = {"sha256": digest, "size": len(data), "pointerSize": 134}
                    files.append(entry)
                reply = {"id": source, "sha": commit, "siblings": files}
                return json.dumps(reply).encode(), {"Content-Type": "application/json"}
            prefix = f"/{source}/resolve/{commit}/"
            if path.startswith(prefix) and (folder / path.removeprefix(prefix)).is_file():
                data = (folder / path.removeprefix(prefix)).read_bytes()
                etag = f'"{hashlib.sha256(data).hexdigest()}"'
                return data, {"ETag": etag, "X-Repo-Commit": commit}
        return None


@pytest.fixture
def online(monkeypatch):
    """The suite runs with HF_HUB_OFFLINE; here requests go to this machine only."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)


@pytest.fixture
def hub(online, monkeypatch, tmp_path):
    found = Hub()
    monkeypatch.setenv("HF_ENDPOINT", found.url)
    monkeypatch.setenv("TEXTMASK_WEIGHTS", str(tmp_path / "weights"))
    yield found
    found.server.shutdown()
    found.server.server_close()


def publish(hub, monkeypatch, tmp_path, name="cxr_bert", pickled=True, **pins):
    folder = bert_files(tmp_path / "published", pickled)
    source = PUBLISHED[name].source
    monkeypatch.setitem(PUBLISHED, name, Published(source, "MIT", **pins))
    hub.repositories[source, COMMIT] = folder
    return folder


def test_a_pickle_on_the_hub_is_converted_locked_and_read(hub, monkeypatch, tmp_path):
    published = publish(hub, monkeypatch, tmp_path, revision=COMMIT)
    folder = get_weights("cxr_bert")
    assert folder == tmp_path / "weights" / "cxr_bert" / COMMIT
    assert {path.name for path in folder.iterdir()} == {
        *("config.json", "vocab.txt", "model.safetensors", LOCK)
    }
    original = torch.load(published / "pytorch_model.bin", weights_only=True)
    assert all(
        torch.equal(original[k], v) for k, v in load_file(folder / "model.safetensors").items()
    )

    lock = read_lock(folder)
    digest = hashlib.sha256((published / "pytorch_model.bin").read_bytes()).hexdigest()
    assert lock["published"] == {"file": "pytorch_model.bin", "sha256": digest}
    assert lock["pinned"] == {"revision": True, "sha256": False}
    assert set(lock["files"]) == {"config.json", "vocab.txt", "model.safetensors"}

    # the recipe's name is enough from now on, and the hub is not asked again
    asked = len(hub.asked)
    assert build_text_encoder("cxr_bert").width == 16
    assert build_text_encoder(f"cxr_bert@{COMMIT}").width == 16
    assert get_weights("cxr_bert") == folder
    assert len(hub.asked) == asked


def test_safetensors_are_preferred_and_an_unpinned_revision_is_recorded(hub, monkeypatch, tmp_path):
    published = publish(hub, monkeypatch, tmp_path, "biobert", pickled=False)
    (published / "pytorch_model.bin").write_bytes(b"never fetched")
    done = CliRunner().invoke(app, ["weights", "get", "biobert"])
    assert done.exit_code == 0, done.output
    assert f"@{COMMIT}" in done.output
    assert "revision is not pinned" in done.output
    assert "sha256 is not pinned" in done.output
    assert not [path for path in hub.asked if path.endswith((".bin", ".py"))]
    assert build_text_encoder("biobert").width == 16
    with pytest.raises(WeightsError, match=f"weights get biobert --revision {OTHER}"):
        build_text_encoder(f"biobert@{OTHER}")


def test_a_file_that_changed_is_refused(hub, monkeypatch, tmp_path):
    publish(hub, monkeypatch, tmp_path, pickled=False, revision=COMMIT)
    folder = get_weights("cxr_bert")
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text(vocabulary.read_text() + "\nright")
    with pytest.raises(WeightsError, match=r"vocab\.txt: sha256 .* the lock records"):
        build_text_encoder("cxr_bert")
    assert get_weights("cxr_bert") == folder  # fetched again
    assert stored_weights("cxr_bert") == folder


def test_another_file_than_the_pinned_one_is_not_even_downloaded(hub, monkeypatch, tmp_path):
    publish(hub, monkeypatch, tmp_path, revision=COMMIT, sha256="0" * 64)
    with pytest.raises(WeightsError, match=r"but 0{64} is pinned\. Nothing was downloaded"):
        get_weights("cxr_bert")
    assert not [path for path in hub.asked if "/resolve/" in path]


def test_a_pickle_that_is_more_than_tensors_is_refused(hub, monkeypatch, tmp_path):
    published = publish(hub, monkeypatch, tmp_path, revision=COMMIT)
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return open, (str(marker), "w")

    torch.save({"x": Evil()}, published / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="not a plain state dict"):
        get_weights("cxr_bert")
    assert not marker.exists()
    assert list((tmp_path / "weights" / "cxr_bert").iterdir()) == []
    # what was found is named, and nobody is advised to switch the guard off
    with pytest.raises(
        CheckpointError, match=r"not a plain state dict.*GLOBAL (_io|io)\.open"
    ) as refused:
        convert_weights(published / "pytorch_model.bin")
    assert "weights_only" not in str(refused.value)
    assert not (published / "model.safetensors").exists()
    assert not marker.exists()


def test_a_local_pickle_becomes_a_folder_that_a_recipe_reads(tmp_path):
    folder = bert_files(tmp_path / "cxr", pickled=True)
    done = CliRunner().invoke(app, ["weights", "convert", str(folder / "pytorch_model.bin")])
    assert done.exit_code == 0, done.output
    assert build_text_encoder(f"cxr_bert:{folder}").width == 16
    with pytest.raises(ConfigError, match="exists"):
        convert_weights(folder / "pytorch_model.bin")


def test_without_network_the_answer_is_one_line_at_once(online, monkeypatch, tmp_path):
    monkeypatch.setenv("TEXTMASK_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    requests = []
    import httpx2

    original = httpx2.HTTPTransport.handle_request
    monkeypatch.setattr(
        httpx2.HTTPTransport,
        "handle_request",
        lambda self, request: requests.append(request) or original(self, request),
    )
    with pytest.raises(WeightsError) as caught:
        get_weights("clip")
    assert "cannot get clip of openai/clip-vit-base-patch32" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len([request for request in requests if request.url.host == "127.0.0.1"]) == 1


def test_names_and_revisions_are_checked_before_any_request(monkeypatch, tmp_path):
    monkeypatch.setenv("TEXTMASK_WEIGHTS", str(tmp_path))
    with pytest.raises(ConfigError, match="unknown weights 'cxrbert'"):
        get_weights("cxrbert")
    with pytest.raises(ConfigError, match="40 hex digits"):
        get_weights("clip", "main")


def test_what_is_pinned_looks_like_what_the_hub_uses():
    for published in PUBLISHED.values():
        assert published.revision is None or len(published.revision) == 40
        assert published.sha256 is None or len(published.sha256) == 64
    assert PUBLISHED["clip"].sha256 is not None


def test_the_list_says_what_is_pinned_and_what_is_here(monkeypatch, tmp_path):
    monkeypatch.setenv("TEXTMASK_WEIGHTS", str(tmp_path))
    done = CliRunner().invoke(app, ["weights", "list"], env={"COLUMNS": "300"})
    assert done.exit_code == 0
    for name in PUBLISHED:
        assert name in done.output
    assert str(tmp_path) in done.output.replace("\n", "")


@pytest.mark.parametrize(
    "name", ["ssa", "mmi_unet", "guide_decoder", "semi_medref", "mean_teacher"]
)
def test_paper_presets_are_counted_without_their_weights(name, monkeypatch, tmp_path):
    monkeypatch.setenv("TEXTMASK_WEIGHTS", str(tmp_path))
    assert count_parameters(preset_recipe(name, "paper")) > 40e6
    assert not weights.structure_only()


def test_convnext_is_read_from_the_store(hub, monkeypatch, tmp_path):
    from transformers import ConvNextConfig, ConvNextForImageClassification

    folder = tmp_path / "published"
    sizes = {"hidden_sizes": [8, 12, 16, 20], "depths": [1, 1, 1, 1]}
    ConvNextForImageClassification(ConvNextConfig(**sizes)).save_pretrained(folder)
    hub.repositories[PUBLISHED["convnext_tiny"].source, COMMIT] = folder
    get_weights("convnext_tiny")
    assert build_image_encoder("convnext_tiny").info.channels == (8, 12, 16, 20)


PAPER_PRESETS = (
    *("ssa", "mmi_unet", "guide_decoder", "biclip", "dusss", "semi_medref", "mean_teacher"),
)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """CXR-BERT and ConvNeXt-Tiny in small, as `weights get` leaves them."""
    from transformers import ConvNextConfig, ConvNextForImageClassification

    root = tmp_path_factory.mktemp("stored")
    bert = bert_files(root / "cxr_bert" / PUBLISHED["cxr_bert"].revision, pickled=False)
    convnext = root / "convnext_tiny" / COMMIT
    sizes = {"hidden_sizes": [16, 32, 64, 128], "depths": [1, 1, 1, 1]}
    ConvNextForImageClassification(ConvNextConfig(**sizes)).save_pretrained(convnext)
    _finish(bert, "model.safetensors", PUBLISHED["cxr_bert"], bert.name, None)
    _finish(convnext, "model.safetensors", PUBLISHED["convnext_tiny"], COMMIT, None)
    return root


@pytest.mark.parametrize("name", PAPER_PRESETS)
def test_every_paper_preset_starts_once_its_weights_are_stored(name, stored, monkeypatch):
    monkeypatch.setenv("TEXTMASK_WEIGHTS", str(stored))
    recipe = preset_recipe(name, "paper")
    method = build_method(recipe)
    method.prepare(("lower left",))
    assert method.text_encoder.width == 16


@pytest.mark.parametrize("name", PAPER_PRESETS)
def test_without_them_it_says_which_command_to_run(name, monkeypatch, tmp_path):
    monkeypatch.setenv("TEXTMASK_WEIGHTS", str(tmp_path))
    with pytest.raises(WeightsError, match=r"Run `textmask weights get (cxr_bert|convnext_tiny)`"):
        build_method(preset_recipe(name, "paper"))


def test_train_looks_for_the_weights_before_it_reads_the_data(
    phantom_manifest, monkeypatch, tmp_path
):
    monkeypatch.setenv("TEXTMASK_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setattr(
        "textmask.runs.read_data.read_data", lambda *a, **k: pytest.fail("data were read")
    )
    command = ["train", "mmi_unet", str(phantom_manifest.root), "--preset", "paper"]
    done = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "run")])
    assert isinstance(done.exception, WeightsError)
    assert "weights get" in str(done.exception)
    assert not (tmp_path / "run").exists()
