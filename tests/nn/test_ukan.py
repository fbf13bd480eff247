"""U-KAN: scales, sizes, and the parameter counts that the papers imply."""

from functools import partial

import pytest
import torch
from torch import nn

from textmask.nn.kan import KANLinear
from textmask.nn.ukan import ChannelNorm, KANBlock, UKANDecoder, UKANEncoder, build_head

WIDTHS = (4, 8, 12, 16, 20)


@pytest.mark.parametrize("size", [(64, 64), (33, 45), (50, 32)])
@pytest.mark.parametrize("stride", [2, 4])
@pytest.mark.parametrize("kan_stages", [0, 2, 5])
def test_published_channels_and_strides_hold_at_any_size(size, stride, kan_stages):
    encoder = UKANEncoder(WIDTHS, KANLinear, kan_stages, stem_stride=stride)
    assert encoder.info.strides == tuple(stride * 2**i for i in range(5))
    image = torch.rand(2, 3, *size)
    features = encoder(image)
    for feature, channels, s in zip(features, WIDTHS, encoder.info.strides, strict=True):
        assert feature.shape == (2, channels, -(-size[0] // s), -(-size[1] // s))
    decoder, head = UKANDecoder(WIDTHS, KANLinear), build_head(WIDTHS[0], stride)
    assert head(decoder(features), image).shape == (2, 1, *size)


def test_kan_stages_choose_where_kan_layers_stand():
    def layers(kan_stages, depth=1):
        encoder = UKANEncoder(WIDTHS, KANLinear, kan_stages, depth)
        return sum(isinstance(m, KANLinear) for m in encoder.modules())

    assert [layers(n) for n in (0, 2, 5)] == [0, 6, 15]
    assert layers(2, 2) == 12


def test_kan_block_is_the_residual_of_three_maps_and_mixes():
    torch.manual_seed(0)
    block = KANBlock(6, KANLinear).eval()
    x = torch.randn(2, 6, 5, 4)
    y = x
    for layer, mix, norm in zip(block.maps, block.mixes, block.norms, strict=True):
        tokens = layer(y.flatten(2).transpose(1, 2))  # tokens of U-KAN: B N C
        y = norm(mix(tokens.transpose(1, 2).reshape(2, 6, 5, 4))).relu()
    assert torch.allclose(block(x), x + y, atol=1e-6)


def test_channel_norm_is_layer_norm_over_channels():
    norm = ChannelNorm(6)
    nn.init.normal_(norm.weight)
    x = torch.randn(2, 6, 3, 4)
    expected = nn.functional.layer_norm(x.movedim(1, -1), (6,), norm.weight, norm.bias).movedim(
        -1, 1
    )
    assert torch.allclose(norm(x), expected)


def test_parameter_count_of_the_released_ukan():
    """REFERENCE 2.3: 6.36 M with one block a stage; ours adds a layer norm before every KAN layer."""
    widths = (16, 32, 128, 160, 256)
    kan = partial(KANLinear, grid=5, order=3)
    parts = (UKANEncoder(widths, kan), UKANDecoder(widths, kan), build_head(16, 2))
    count = sum(p.numel() for part in parts for p in part.parameters()) / 1e6
    assert count == pytest.approx(6.36, rel=0.01)
