"""The plain U-Net: published channels and strides, any size, FiLM, parameter counts."""

import pytest
import torch

from textmask.errors import ConfigError
from textmask.methods.registry import build_method, get_method
from textmask.nn.decoders import SubPixelHead, UNet
from textmask.nn.image_encoders import ConvBlock, UNetEncoder


@pytest.mark.parametrize("stem_stride", [1, 2, 4])
@pytest.mark.parametrize("size", [(64, 64), (37, 50), (1, 1)])
def test_published_channels_and_strides_are_the_real_ones(stem_stride, size):
    encoder = UNetEncoder((4, 8, 12), stem_stride, stem_extra=2).eval()
    features = encoder(torch.rand(2, 3, *size), extra=torch.rand(2, 2, 5, 5))
    assert [f.shape[1] for f in features] == list(encoder.info.channels)
    for feature, stride in zip(features, encoder.info.strides, strict=True):
        assert feature.shape[-2:] == tuple(-(-side // stride) for side in size)


@pytest.mark.parametrize("in_channels", [3, 6])
@pytest.mark.parametrize("stem_stride", [1, 4])
def test_logits_have_the_size_of_the_image(stem_stride, in_channels):
    net = UNet((4, 8), stem_stride, in_channels).eval()
    logits, feature = net(torch.rand(1, in_channels, 45, 70))
    assert logits.shape == (1, 1, 45, 70)
    assert feature.shape == (1, 4, -(-45 // stem_stride), -(-70 // stem_stride))


def test_other_stem_strides_are_refused():
    with pytest.raises(ConfigError, match="expected 1, 2 or 4"):
        UNetEncoder((4, 8), 3)


def test_film_is_scale_and_shift_of_the_second_norm():
    torch.manual_seed(0)
    block = ConvBlock(3, 4).eval()
    x, film = torch.rand(2, 3, 5, 5), torch.randn(2, 8)
    normed = block.norm2(block.conv2(torch.relu(block.norm1(block.conv1(x)))))
    expected = torch.stack(
        [
            torch.stack(
                [(normed[b, c] * (1 + film[b, c]) + film[b, 4 + c]).clamp(min=0) for c in range(4)]
            )
            for b in range(2)
        ]
    )
    torch.testing.assert_close(block(x, film), expected)
    torch.testing.assert_close(block(x, torch.zeros(2, 8)), block(x))


def test_group_norm_does_not_mix_the_samples_of_a_batch():
    torch.manual_seed(0)
    net = UNet((8, 12), 2, norm="group").train()
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(net(x)[0][:1], net(x[:1])[0])


def test_sub_pixel_head_sees_the_image_again():
    torch.manual_seed(0)
    head = SubPixelHead(4, 4)
    feature, image = torch.rand(1, 4, 8, 8), torch.rand(1, 3, 32, 32)
    assert not torch.equal(head(feature, image), head(feature, 1 - image))


def test_parameter_counts_of_the_presets():
    """The original U-Net has 31.0 M; the CPU preset is about 2 M, with or without the statement."""
    count = {
        (name, preset): sum(
            p.numel()
            for p in build_method(getattr(get_method(name).recipe(), preset)()).parameters()
        )
        for name, preset in (("unet", "lite"), ("statement_unet", "lite"))
    }
    assert 1.9e6 < count["unet", "lite"] < 2.2e6
    assert 2.0e6 < count["statement_unet", "lite"] < 2.3e6
    paper = build_method(get_method("unet").recipe())
    assert sum(p.numel() for p in paper.parameters()) == pytest.approx(31e6, rel=0.15)
