"""The released heads, blocks and scaling of GuideDecoder and MMI-UNet, against MONAI and the annex's numbers."""

import math

import numpy as np
import pytest
import torch

from textmask.config import Augment
from textmask.data.transforms import sample_affine
from textmask.methods.registry import preset_recipe
from textmask.nn.decoders import UpBlock
from textmask.nn.fields import (
    RELEASED_GUIDE_DECODER,
    RELEASED_MMI_UNET,
    GuideDecoderFields,
    MMIUNetFields,
)
from textmask.nn.guide_decoder import GuideDecoder
from textmask.nn.image_encoders import zscored
from textmask.nn.mmi_unet import Bridger, MMIUNet
from textmask.nn.pretrained_image import ConvNextTiny, build_image_encoder
from textmask.nn.shuffle_head import ShuffleHead
from textmask.types import TextFeatures


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def text(width=12):
    tokens = torch.randn(2, 5, width, generator=torch.Generator().manual_seed(1))
    return TextFeatures(tokens, tokens.mean(1), torch.ones(2, 5, dtype=torch.bool))


def test_the_released_head_has_332_185_parameters_and_does_not_see_the_image():
    torch.manual_seed(0)
    head = ShuffleHead(96, 4)
    assert parameters(head) == 332_185
    feature = torch.randn(2, 96, 7, 5)
    a, b = (head(feature, torch.rand(2, 3, 28, 20)) for _ in range(2))
    assert a.shape == (2, 1, 28, 20)
    assert torch.equal(a, b)
    torch.testing.assert_close(head.join(feature, head.image_part(torch.rand(2, 3, 28, 20))), a)


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_the_head_is_a_subpixel_upsampling_and_a_1x1_convolution(stride):
    monai = pytest.importorskip("monai.networks.blocks")
    torch.manual_seed(0)
    mine = ShuffleHead(6, stride, channels=5)
    theirs = torch.nn.Sequential(monai.SubpixelUpsample(2, 6, 5, stride), torch.nn.Conv2d(5, 1, 1))
    theirs[0].conv_block.load_state_dict(mine.expand.state_dict())
    theirs[1].load_state_dict(mine.out.state_dict())
    feature = torch.randn(2, 6, 5, 4)
    torch.testing.assert_close(
        mine(feature, torch.rand(2, 3, 5 * stride, 4 * stride)), theirs(feature)
    )


def test_the_head_starts_without_a_checkerboard():
    torch.manual_seed(0)
    head = ShuffleHead(6, 4, channels=5)
    head.expand.bias.data.zero_()
    x = torch.nn.functional.pixel_shuffle(head.expand(torch.randn(1, 6, 3, 3)), 4)
    blocks = x.unfold(2, 4, 4).unfold(3, 4, 4).flatten(4)
    assert blocks.std(dim=4).max() < 1e-6
    assert x.std() > 0.1


def test_the_released_up_block_is_monais():
    monai = pytest.importorskip("monai.networks.blocks")
    torch.manual_seed(0)
    mine = UpBlock(12, 8, leaky=True)
    theirs = monai.UnetrUpBlock(2, 12, 8, 3, 2, norm_name="BATCH")
    assert parameters(mine) == parameters(theirs)
    block = theirs.conv_block
    pairs = {
        theirs.transp_conv.conv: mine.up,
        block.conv1.conv: mine.mix[0],
        block.norm1: mine.mix[1],
        block.conv2.conv: mine.mix[3],
        block.norm2: mine.mix[4],
    }
    for target, source in pairs.items():
        target.load_state_dict(source.state_dict())
    x, skip = torch.randn(2, 12, 5, 6), torch.randn(2, 8, 10, 12)
    torch.testing.assert_close(mine(x, skip), theirs(x, skip))
    torch.testing.assert_close(mine.join(x, mine.skip_part(skip)), theirs(x, skip))


def test_the_released_bridger_starts_by_kaiming_fan_out():
    torch.manual_seed(0)
    bridger = Bridger(96, 768, RELEASED_MMI_UNET)
    for weight, fan_out in ((bridger.down.weight, 96 * 4), (bridger.text_in.weight, 96)):
        assert weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.02)
    # torch's own start is narrower
    assert Bridger(96, 768, MMIUNetFields()).text_in.weight.std() < 0.03


def test_each_channel_of_each_image_is_scaled_on_its_own():
    image = torch.rand(2, 3, 8, 9)
    image[1, 2] = 0.25
    scaled = zscored(image)
    for one, other in zip(image.flatten(0, 1), scaled.flatten(0, 1), strict=True):
        values = one.numpy().astype(np.float64)
        expected = (values - values.mean()) / (values.std() or 1.0)
        np.testing.assert_allclose(other.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize(
    "image_encoder", ["tiny", "efficientnet_lite0:random", "convnext_tiny:random"]
)
@pytest.mark.parametrize("kind", [GuideDecoder, MMIUNet])
def test_brightness_and_contrast_do_not_matter_to_a_released_network(kind, image_encoder):
    torch.manual_seed(0)
    fields = RELEASED_GUIDE_DECODER if kind is GuideDecoder else RELEASED_MMI_UNET
    encoder = build_image_encoder(image_encoder)
    if image_encoder == "tiny":
        fields = fields.model_copy(update={"heads": 2})
    model = kind(encoder, 12, fields).eval()
    image = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        a, b = model(image, text()).logits, model(0.3 * image + 0.2, text()).logits
    torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)


def test_mmi_unet_has_the_released_parameters_but_for_those_that_nothing_reads():
    """56.17 M: ours, the text half of the coarsest bridger, and the projection of the pooled text (annex 1.1)."""
    encoder = ConvNextTiny()
    ours = parameters(MMIUNet(encoder, 768, RELEASED_MMI_UNET))
    with_unread_half = parameters(MMIUNet(encoder, 768, RELEASED_MMI_UNET, last_answers=True))
    projection = torch.nn.Sequential(
        torch.nn.Linear(768, 768),
        torch.nn.LayerNorm(768),
        torch.nn.GELU(),
        torch.nn.Linear(768, 768),
    )
    assert round((with_unread_half + parameters(projection)) / 1e6, 2) == 56.17
    assert round(ours / 1e6, 2) == 49.47


@pytest.mark.parametrize("name", ["guide_decoder", "mmi_unet"])
def test_the_paper_presets_are_the_released_settings(name):
    recipe = preset_recipe(name, "paper")
    assert (recipe.net.head, recipe.net.blocks, recipe.net.intensity) == ("released",) * 3
    stage = recipe.stages[0]
    assert (stage.optim.lr, stage.batch_size, stage.patience) == (3e-4, 32, 20)
    assert (stage.schedule.period_epochs, stage.schedule.lr_min) == (200, 1e-6)
    assert stage.augment == Augment(p=0.1, rotate_deg=0.0, translate=0.0, scale=(0.95, 1.2))


@pytest.mark.parametrize("name", ["ssa", "semi_medref", "mean_teacher"])
def test_methods_that_build_on_them_take_the_released_networks(name):
    backbone = preset_recipe(name, "paper").backbone
    assert backbone.mmi_unet == RELEASED_MMI_UNET
    assert backbone.guide_decoder == RELEASED_GUIDE_DECODER


@pytest.mark.parametrize("name", ["guide_decoder", "mmi_unet", "ssa", "semi_medref"])
def test_the_cpu_presets_keep_what_they_were_trained_with(name):
    recipe = preset_recipe(name, "lite")
    net = recipe.net if hasattr(recipe, "net") else recipe.backbone.mmi_unet
    assert (net.head, net.blocks, net.intensity) == ("image", "plain", "encoder")


def test_a_recipe_that_was_written_before_there_was_a_choice_builds_what_it_built():
    old = {"scales": 4, "fused": 3, "heads": 8, "hidden": 128, "dropout": 0.1, "head_channels": 8}
    assert MMIUNetFields(**old).head == "image"
    assert GuideDecoderFields(gate=1.421).blocks == "plain"


def test_one_image_in_ten_is_zoomed():
    rng = np.random.default_rng(0)
    augment = Augment(p=0.1, rotate_deg=0.0, translate=0.0, scale=(0.95, 1.2))
    matrices = sample_affine(5000, augment, (64, 64), rng)
    zoom = 1 / matrices[:, 0, 0]
    assert 0.08 < np.mean(zoom != 1) < 0.12
    assert 0.95 <= zoom.min() < 0.97
    assert 1.18 < zoom.max() <= 1.2
    assert np.abs(matrices[zoom == 1] - [[1, 0, 0], [0, 1, 0]]).max() < 1e-12
