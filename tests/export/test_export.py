"""Exports answer as eager torch does, say what they are, and are refused where they do not."""

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from textmask.config import Tiles
from textmask.data.loaders import build_text, open_split
from textmask.errors import CheckpointError, ConfigError, DataError
from textmask.export import export as export_module
from textmask.export.export import export
from textmask.export.graphs import write_graphs
from textmask.export.parity import compare_backends
from textmask.inference.backends.graphs import BACKENDS, GraphBackend, load_graphs, open_backend
from textmask.inference.batch import predict_folder
from textmask.inference.jobs import read_jobs
from textmask.inference.predictor import Predictor
from textmask.io.files import file_sha256
from textmask.methods.registry import get_method, list_methods
from textmask.runs.checkpoint import Run, load_run
from textmask.text.grammar import parse
from textmask.training.loop import TrainOptions, train
from textmask.types import Output

PROMPTS = (
    "upper left lung",
    "bilateral infection, lower left lung and lower right lung, and more than that",
    "",
    "mid",
)


@pytest.fixture(scope="module")
def runs(phantom_manifest, tmp_path_factory):
    """One run that splits image and sentence, and one that does not."""
    root = tmp_path_factory.mktemp("export")
    for name in ("guide_decoder", "statement_unet"):
        train(
            get_method(name).recipe().smoke(),
            phantom_manifest,
            root / name,
            cache_dir=root / "c",
            progress=False,
        )
    return root


@pytest.fixture(scope="module")
def exported(runs, phantom_manifest):
    export(
        runs / "guide_decoder",
        runs / "guide_decoder" / "onnx",
        data=phantom_manifest,
        cache_dir=runs / "c",
    )
    return runs / "guide_decoder"


def jittered(name):
    from textmask.methods.registry import build_method

    recipe = get_method(name).recipe().smoke()
    method = build_method(recipe).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    for p in method.parameters():  # what starts at zero would hide a mistake
        p.add_(0.02 * torch.randn(p.shape, generator=generator))
    return recipe, method


def test_a_method_whose_prompts_are_programs_is_refused(tmp_path):
    recipe, method = jittered("compose")
    with pytest.raises(ConfigError, match=r"Compose cannot be exported.*backend torch"):
        write_graphs(method, recipe.image_size, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", sorted(set(list_methods()) - {"compose"}))
def test_the_graphs_of_every_method_equal_it_for_any_batch_and_number_of_tokens(name, tmp_path):
    recipe, method = jittered(name)
    files = write_graphs(method, recipe.image_size, tmp_path)
    assert not method.training
    assert ("image" in files) == (
        method.image_features(torch.zeros(1, 3, *recipe.image_size)) is not None
    )
    encoder = method.text_encoder
    backend = GraphBackend(
        load_graphs(files, "onnxruntime", threads=1), encoder and encoder.tokenize
    )
    for prompts in (PROMPTS[:1], PROMPTS, PROMPTS[1:]):
        image = torch.rand(
            len(prompts), 3, *recipe.image_size, generator=torch.Generator().manual_seed(2)
        )
        text = build_text(prompts, tuple(map(parse, prompts)))
        want, got = method(image, text).logits, backend(image, text).logits
        torch.testing.assert_close(got, want, atol=2e-5, rtol=1e-4)
        features = backend.image_features(image)
        torch.testing.assert_close(backend.decode(features, image, text).logits, got)


def test_the_gate_passes_and_everything_is_described(exported):
    folder = exported / "onnx"
    told = json.loads((folder / "export.json").read_text())
    assert set(told["graphs"]) == {"image", "text", "decoder"}
    for graph in told["graphs"].values():
        assert file_sha256(folder / graph["file"]) == graph["sha256"]
    assert told["graphs"]["image"]["inputs"] == {
        "image": {"type": "float", "shape": ["batch", 3, 32, 32]}
    }
    assert told["graphs"]["decoder"]["inputs"]["text_tokens"]["shape"] == ["batch", "tokens", 32]
    assert told["laterality"] == "image"
    assert told["mask"]["threshold"] == 0.5
    assert len(told["text"]["zone_order"]) == 9
    assert told["text"]["fingerprint"].startswith("tiny ")
    assert told["weights_sha256"] == file_sha256(exported / "weights.safetensors")
    gate = told["gate"]
    assert gate["checked"]
    assert gate["data_of_the_run"]
    assert gate["bound"] == 1e-4
    assert set(gate["measured"]) == set(told["engines"]) == {"onnxruntime", "openvino"}
    for measured in gate["measured"].values():
        assert measured["n"] == measured["n_masks"] == 8
        assert measured["flipped"] <= 1e-4
        assert measured["max_dp"] < 1e-4
        assert abs(measured["dice_loss"]) < 1e-3
    card = (folder / "README.md").read_text()
    assert "of the pixels flipped" in card
    assert "n = 8" in card
    assert not list(exported.glob(".onnx*"))


def test_above_the_bound_nothing_is_left_behind(runs, phantom_manifest, monkeypatch):
    class Wrong:
        def __call__(self, image, text):
            return Output(torch.full((len(image), 1, *image.shape[2:]), 9.0))

    monkeypatch.setattr(export_module, "graph_backend", lambda run, graphs: Wrong())
    before = sorted(runs.iterdir())
    with pytest.raises(
        DataError, match=r"refused: fraction of flipped pixels.*on 8 rows, the bound is 0.0001"
    ):
        export(
            runs / "statement_unet", runs / "refused", data=phantom_manifest, cache_dir=runs / "c"
        )
    assert sorted(runs.iterdir()) == before


def test_an_engine_that_fails_alone_is_left_out(runs, phantom_manifest, monkeypatch):
    real = export_module.graph_backend
    calls = []

    def one_wrong(run, graphs):
        calls.append(1)
        return (
            real(run, graphs)
            if len(calls) == 1
            else lambda image, text: Output(-run.method(image, text).logits)
        )

    monkeypatch.setattr(export_module, "graph_backend", one_wrong)
    result = export(
        runs / "statement_unet", runs / "half", data=phantom_manifest, cache_dir=runs / "c"
    )
    assert result.runtimes == ("onnxruntime",)
    with pytest.raises(CheckpointError, match="may not be run by openvino"):
        open_backend(load_run(runs / "statement_unet"), "openvino", runs / "half")


def test_the_figures_of_the_gate_are_those_of_the_masks(runs, phantom_manifest):
    run = load_run(runs / "guide_decoder")
    data = open_split(phantom_manifest, "valid", run.recipe.image_size, runs / "c")

    def shifted(image, text):
        return Output(run.method(image, text).logits + 0.5)

    with torch.inference_mode():
        text = build_text(data.prompts, data.statements)
        image = torch.from_numpy(np.array(data.images)).float().div(255).expand(-1, 3, -1, -1)
        p, q = (torch.sigmoid(run.method(image, text).logits + c)[:, 0].numpy() for c in (0.0, 0.5))
    found = compare_backends(run, {"x": shifted}, data)["x"]
    assert found.flipped == pytest.approx(((p > 0.5) != (q > 0.5)).mean(), abs=1e-4)
    assert found.max_dp == pytest.approx(np.abs(p - q).max(), abs=1e-4)

    def dice(mask):
        truth = data.masks > 0
        both, sums = (mask & truth).sum((1, 2)), mask.sum((1, 2)) + truth.sum((1, 2))
        return np.where(sums == 0, 1.0, 2 * both / np.maximum(sums, 1)).mean()

    assert found.dice_loss == pytest.approx(dice(p > 0.5) - dice(q > 0.5), abs=2e-3)
    assert found.measured("int8") == found.dice_loss
    without = replace(data, has_mask=np.zeros(len(data), bool))
    with pytest.raises(DataError, match="none of these rows has a mask"):
        compare_backends(run, {"x": shifted}, without)["x"].measured("bf16")


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_lower_precisions_are_judged_by_dice(runs, phantom_manifest, monkeypatch, precision):
    monkeypatch.setattr(export_module, "CALIBRATION_IMAGES", 4)
    out = runs / precision
    run = runs / ("guide_decoder" if precision == "int8" else "statement_unet")
    result = export(
        run, out, data=phantom_manifest, precision=precision, bound=0.2, cache_dir=runs / "c"
    )
    told = json.loads((out / "export.json").read_text())
    assert told["gate"]["bound_on"] == "dice_loss"
    assert told["precision"] == precision
    assert "openvino" in result.runtimes
    if precision == "int8":
        size = (out / "image.onnx").read_bytes()
        assert b"DequantizeLinear" in size
        assert b"DequantizeLinear" not in (out / "text.onnx").read_bytes()
    else:
        with pytest.raises(DataError, match=r"bf16 export is refused: loss of mean Dice"):
            export(
                run,
                runs / "none",
                data=phantom_manifest,
                precision=precision,
                bound=-1.0,
                cache_dir=runs / "c",
            )
        assert not (runs / "none").exists()


def test_without_data_there_is_no_gate_and_the_card_says_so(runs, tmp_path):
    run = runs / "statement_unet"
    with pytest.raises(DataError, match="--no-gate"):
        export(run, tmp_path / "a")
    with pytest.raises(DataError, match="int8 takes its ranges"):
        export(run, tmp_path / "a", precision="int8", gate=False)
    export(run, tmp_path / "a", gate=False)
    assert "**Not compared**" in (tmp_path / "a" / "README.md").read_text()
    told = json.loads((tmp_path / "a" / "export.json").read_text())
    assert told["gate"] == {"checked": False}
    assert set(told["graphs"]) == {"model"}  # the zones are mixed in from the first block on
    assert set(told["graphs"]["model"]["inputs"]) == {"image", "zones"}
    with pytest.raises(ConfigError, match="exists"):
        export(run, tmp_path / "a", gate=False)
    with pytest.raises(ConfigError, match="Did you mean 'onnx'"):
        export(run, tmp_path / "b", "onxx", gate=False)


@pytest.mark.parametrize("backend", BACKENDS[1:])
def test_predict_answers_alike_with_every_backend(exported, phantom_manifest, tmp_path, backend):
    row = phantom_manifest.rows[0]
    picture = phantom_manifest.root / row.image
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        want = Predictor(exported).set_image(picture).segment(row.text)
        got = Predictor(exported, backend).set_image(picture).segment(row.text)
    np.testing.assert_allclose(got.probability, want.probability, atol=1e-4)
    results = predict_folder(
        exported, read_jobs(picture, row.text), tmp_path / "out", backend=backend
    )
    assert [r.status for r in results] == ["done"]
    (written,) = (tmp_path / "out").glob("*.json")
    assert json.loads(written.read_text())["backend"] == backend
    with pytest.raises(ConfigError, match="--explain needs --backend torch"):
        predict_folder(
            exported, read_jobs(picture, row.text), tmp_path / "out", backend=backend, explain=True
        )


def test_tiles_go_through_a_backend_too(exported):
    run = load_run(exported)
    tiled = Run(
        run.path,
        run.recipe.model_copy(update={"tiles": Tiles(size=(32, 32), overlap=8)}),
        run.method,
        {},
        {},
    )
    pixels = np.random.default_rng(0).integers(0, 255, (48, 40), dtype=np.uint8)
    answers = [
        Predictor(tiled, b).set_image(pixels).segment("lower left lung", assume="image")
        for b in BACKENDS
    ]
    for found in answers[1:]:
        np.testing.assert_allclose(found.probability, answers[0].probability, atol=1e-4)


def test_a_backend_refuses_what_it_cannot_vouch_for(exported, runs, tmp_path):
    run = load_run(exported)
    assert open_backend(run, "torch") is run.method
    with pytest.raises(ConfigError, match="unknown backend"):
        open_backend(run, "tensorrt")
    with pytest.raises(CheckpointError, match=r"holds no export.*textmask export"):
        open_backend(run, "onnxruntime", tmp_path)
    with pytest.raises(CheckpointError, match="other weights"):
        open_backend(load_run(runs / "statement_unet"), "onnxruntime", exported / "onnx")
    import shutil

    copy = shutil.copytree(exported / "onnx", tmp_path / "copy")
    with (copy / "decoder.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(CheckpointError, match="changed after the export"):
        open_backend(run, "openvino", copy)


def test_openvino_computes_in_fp32_unless_bf16_is_asked_for(exported, monkeypatch):
    import openvino

    asked = []
    real = openvino.Core.compile_model

    def spy(self, path, device, settings):
        asked.append(settings["INFERENCE_PRECISION_HINT"])
        return real(self, path, device, settings)

    monkeypatch.setattr(openvino.Core, "compile_model", spy)
    files = {name: exported / "onnx" / f"{name}.onnx" for name in ("image", "text", "decoder")}
    load_graphs(files, "openvino")
    assert asked == ["f32"] * 3
    load_graphs(files, "openvino", precision="bf16")
    assert asked[3:] == ["bf16", "f32", "bf16"]  # what the text tower says is kept


def test_a_hub_folder_is_loaded_back(runs, tmp_path):
    import textmask

    out = tmp_path / "hub"
    export(runs / "guide_decoder", out, "hf")
    assert {path.name for path in out.iterdir()} == {
        "config.json",
        "model.safetensors",
        "README.md",
    }
    card = (out / "README.md").read_text()
    front = card.split("---\n")[1]
    assert "library_name: textmask\npipeline_tag: image-segmentation\n" in front
    assert "- medical\n" in front
    pixels = np.random.default_rng(0).integers(0, 255, (40, 40), dtype=np.uint8)
    a, b = (
        textmask.load(str(p)).set_image(pixels).segment("lower left lung")
        for p in (out, runs / "guide_decoder")
    )
    np.testing.assert_array_equal(a.probability, b.probability)
    assert load_run(out).data["laterality"] == "image"
    export(out, tmp_path / "graphs", gate=False)  # a hub folder is as good as a run
    assert (tmp_path / "graphs" / "recipe.json").read_text() == (
        runs / "guide_decoder" / "recipe.json"
    ).read_text()
    with pytest.raises(ConfigError, match="precision int8 is for"):
        export(runs / "guide_decoder", tmp_path / "h2", "hf", precision="int8")
    (out / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="not written by textmask"):
        load_run(out)


def test_an_export_names_no_path_of_this_machine(phantom_manifest, tmp_path):
    run, out = tmp_path / "run", tmp_path / "hub"
    recipe = get_method("statement_unet").recipe().smoke()
    options = TrainOptions(source=tmp_path / "hospital" / "table.csv")
    train(recipe, phantom_manifest, run, progress=False, options=options)
    assert "hospital" in (run / "data.json").read_text()

    export(run, out, "hf")
    assert not [path for path in out.iterdir() if b"hospital" in path.read_bytes()]


def test_a_monai_bundle_has_what_the_specification_wants(runs, phantom_manifest, tmp_path):
    from monai.bundle import ConfigParser, verify_metadata

    out = tmp_path / "bundle"
    export(runs / "guide_decoder", out, "monai", data=phantom_manifest, cache_dir=runs / "c")
    meta = json.loads((out / "configs" / "metadata.json").read_text())
    needed = {
        "version", "monai_version", "pytorch_version", "numpy_version", "optional_packages_version", "task",
        "description", "authors", "copyright", "network_data_format", "changelog", "name", "license", "intended_use",
        "eval_metrics", "schema",
    }  # fmt: skip
    assert needed <= meta.keys()
    tensor = ["type", "format", "modality", "num_channels", "spatial_shape", "dtype", "value_range", "is_patch_data",
              "channel_def"]  # fmt: skip
    one = {"type": "object", "required": tensor}
    formats = {"type": "object", "required": ["inputs", "outputs"]}
    formats["properties"] = {
        key: {"type": "object", "additionalProperties": one} for key in ("inputs", "outputs")
    }
    schema = {
        "type": "object",
        "required": sorted(needed),
        "properties": {"network_data_format": formats},
    }
    path = tmp_path / "schema.json"  # stands for the published one, which needs a network
    path.write_text(json.dumps(schema))
    verify_metadata(
        meta_file=str(out / "configs" / "metadata.json"),
        filepath=str(path),
        hash_val=file_sha256(path),
        hash_type="sha256",
    )
    assert (
        ConfigParser.load_config_files(str(out / "configs" / "metadata.json"))["laterality"]
        == "image"
    )
    weights = torch.load(out / "models" / "model.pt", weights_only=True)
    state = load_run(runs / "guide_decoder").method.state_dict()
    assert weights.keys() == state.keys()
    assert all(torch.equal(weights[key], state[key]) for key in state)
    assert {p.name for p in (out / "models").iterdir()} == {
        "model.pt",
        "model.onnx",
        "text.onnx",
        "export.json",
    }
    assert "of the pixels flipped" in (out / "docs" / "README.md").read_text()
    assert set(meta["network_data_format"]["inputs"]) == {"image", "text_tokens", "token_mask"}


def test_the_commands(runs, phantom_manifest, tmp_path):
    from typer.testing import CliRunner

    from textmask.cli.app import app
    from textmask.data.manifest import write_manifest

    table = phantom_manifest.root / "export.csv"
    write_manifest(phantom_manifest, table)
    run, out = runs / "statement_unet", tmp_path / "out"
    told = CliRunner().invoke(
        app, ["export", str(run), str(out), "--data", str(table), "--cache-dir", str(runs / "c")]
    )
    assert told.exit_code == 0, told.output
    assert "of the pixels flipped" in told.output
    assert "bound 0.0001; runs with" in told.output
    picture = str(phantom_manifest.root / phantom_manifest.rows[0].image)
    asked = [
        "predict",
        str(run),
        picture,
        "lower left lung",
        "--backend",
        "onnxruntime",
        "--export",
        str(out),
    ]
    told = CliRunner().invoke(app, [*asked, "--out", str(tmp_path / "masks")])
    assert told.exit_code == 0, told.output
    assert "1 done" in told.output
    told = CliRunner().invoke(app, ["export", str(run), str(tmp_path / "hub"), "--target", "hf"])
    assert told.exit_code == 0, told.output
    told = CliRunner().invoke(
        app, ["import-weights", str(tmp_path / "none.pt"), str(tmp_path / "r")]
    )
    assert isinstance(told.exception, CheckpointError)
