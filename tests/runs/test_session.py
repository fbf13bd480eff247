from pathlib import Path

import pytest
import torch

import textmask
from textmask.config import Recipe
from textmask.errors import ConfigError
from textmask.inference.predictor import Predictor
from textmask.methods.registry import build_method, preset_recipe
from textmask.runs import session as module
from textmask.runs.checkpoint import Run, load_run
from textmask.runs.session import Session, device_of, fabric_device, find_device


@pytest.fixture
def unet() -> Run:
    recipe = preset_recipe("unet", "smoke")
    return Run(Path(), recipe, build_method(recipe), {}, {})


def with_precision(recipe: Recipe, precision: str) -> Recipe:
    return recipe.model_copy(update={"precision": precision})


@pytest.mark.parametrize("device", [None, "cpu"])
def test_a_run_that_is_loaded_has_its_weights_in_channels_last(device):
    method = load_run("default", device or "auto").method
    filters = [weight for weight in method.parameters() if weight.ndim == 4]
    assert filters
    for weight in filters:
        assert weight.is_contiguous(memory_format=torch.channels_last)


def test_a_session_on_a_cpu_keeps_freed_memory_in_the_process(unet, monkeypatch):
    prepared = []
    monkeypatch.setattr(module, "prepare_cpu", lambda: prepared.append(1))
    unet.session()  # inside a training, which has prepared the process
    assert not prepared
    unet.session("cpu")
    assert prepared == [1]


def test_auto_is_the_best_device_of_the_machine(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert find_device("auto") == torch.device("cpu")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert find_device("auto") == torch.device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert find_device("auto") == torch.device("cuda")


def test_a_device_that_the_machine_lacks_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert find_device("cuda:0") == torch.device("cuda:0")
    with pytest.raises(ConfigError, match=r"device cuda:1 is not available.* 1 CUDA devices"):
        find_device("cuda:1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for name in ("cuda", "cuda:0", "mps"):
        with pytest.raises(ConfigError, match=f"device {name} is not available"):
            find_device(name)
    for name in ("", "gpu", "cuda:", "cuda:x", "cpu:0", "CPU", "cuda:0 "):
        with pytest.raises(ConfigError, match="expected auto, cpu"):
            find_device(name)


@pytest.mark.parametrize("opened", [load_run, Predictor, textmask.load])
def test_a_missing_device_is_said_before_weights_are_read(opened, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="device cuda is not available"):
        opened(tmp_path / "no such run", device="cuda")


def test_exported_graphs_run_on_the_cpu(unet):
    with pytest.raises(ConfigError, match="backend onnxruntime runs on the CPU, got device cuda"):
        Predictor(unet, "onnxruntime", device="cuda")


@pytest.mark.parametrize("software", [False, True])
def test_a_session_runs_the_method_under_its_recipe(unet, monkeypatch, software):
    # a CPU that computes bf16 in software runs in fp32
    monkeypatch.setattr("textmask.runs.session.slow_bf16", lambda device: software)
    unet.method.train()
    session = unet.session("cpu")
    assert device_of(session.method) == session.device == torch.device("cpu")
    kernel = next(p for p in session.method.parameters() if p.dim() == 4 and p.shape[1] > 1)
    assert kernel.is_contiguous(memory_format=torch.channels_last)
    for precision in ("fp32", "bf16"):
        recipe = with_precision(unet.recipe, precision)
        with Session(unet.method, recipe).running() as model:
            assert model is unet.method
            assert not model.training
            assert torch.is_inference_mode_enabled()
            assert torch.is_autocast_enabled("cpu") == (precision == "bf16" and not software)
        with Session(unet.method, recipe, precision="fp32").running():
            assert not torch.is_autocast_enabled("cpu")
    assert unet.method.training
    assert not torch.is_inference_mode_enabled()


def test_a_session_may_be_entered_twice_and_leaves_eval_mode_after_an_error(unet):
    unet.method.train()
    session = unet.session()
    with pytest.raises(ZeroDivisionError), session.running(), session.running():
        _ = 1 / 0
    assert unet.method.training


def test_fp32_on_cuda_means_no_tf32_and_the_setting_comes_back():
    before = torch.backends.cudnn.allow_tf32
    with module._TF32_OFF, module._TF32_OFF:
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32 == before


def test_devices_of_a_training():
    assert fabric_device("auto") == ("auto", 1)
    assert fabric_device("cpu") == ("cpu", 1)
    assert fabric_device("cuda:2") == ("cuda", [2])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_masks_on_cuda_equal_those_on_the_cpu():
    import numpy as np

    pixels = np.random.default_rng(0).integers(0, 255, (224, 224), dtype=np.uint8)
    for precision, tolerance in (("fp32", 1e-4), ("bf16", 5e-2)):
        found = []
        for device in ("cpu", "cuda"):
            run = load_run("default")
            run = Run(run.path, with_precision(run.recipe, precision), run.method, run.data, {})
            opened = Predictor(run, device=device).open(pixels)
            found.append(opened.segment("lower left lung", abstain=False).probability)
        np.testing.assert_allclose(found[0], found[1], atol=tolerance)
