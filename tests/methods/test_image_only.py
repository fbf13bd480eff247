"""U-Net++, Attention U-Net, the nnU-Net-like network, TransUNet and Swin-Unet: equations, sizes, what they share."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from textmask.errors import ConfigError, DataError
from textmask.methods.attention_unet.model import AttentionGate
from textmask.methods.nnunet_like.model import PlainUNet
from textmask.methods.registry import build_method, get_method, preset_recipe
from textmask.methods.unet_pp.model import NestedUNet
from textmask.nn.swin_unet import PatchExpanding, PatchMerging, WindowAttention
from textmask.nn.trans_unet import GridTransformer
from textmask.types import Batch, Text

NAMES = ("unet_pp", "attention_unet", "nnunet_like", "trans_unet", "swin_unet")


def array(x):
    return x.detach().double().numpy()


def batch_of(n=2, size=(32, 32), seed=0):
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(n, 3, *size, generator=generator)
    mask = (torch.rand(n, 1, *size, generator=generator) > 0.7).float()
    return Batch(image, Text(("",) * n, torch.zeros(n, 9)), mask)


# ------------------------------------------------------------------------------ literal forms of what equations name


def convolution(x, weight):
    """3x3, zero padding: O I 3 3 over I H W, place by place."""
    _, rows, columns = x.shape
    out = np.zeros((len(weight), rows, columns))
    for o, r, c in np.ndindex(out.shape):
        for i, a, b in np.ndindex(weight.shape[1:]):
            row, column = r + a - 1, c + b - 1
            if 0 <= row < rows and 0 <= column < columns:
                out[o, r, c] += weight[o, i, a, b] * x[i, row, column]
    return out


def enlarged(x, rows, columns):
    """Bilinear interpolation of C H W between the centers of pixels."""
    out = np.zeros((len(x), rows, columns))
    for r, c in np.ndindex(rows, columns):
        at = []
        for place, new, old in ((r, rows, x.shape[1]), (c, columns, x.shape[2])):
            source = max((place + 0.5) * old / new - 0.5, 0)
            low = min(int(source), old - 1)
            at.append((low, min(low + 1, old - 1), source - low))
        (r0, r1, fr), (c0, c1, fc) = at
        top = (1 - fc) * x[:, r0, c0] + fc * x[:, r0, c1]
        bottom = (1 - fc) * x[:, r1, c0] + fc * x[:, r1, c1]
        out[:, r, c] = (1 - fr) * top + fr * bottom
    return out


def normed(x, layer):
    """Layer norm of one vector."""
    centered = x - x.mean()
    scaled = centered / math.sqrt((centered**2).mean() + layer.eps)
    return scaled * array(layer.weight) + array(layer.bias)


def linear(x, layer):
    return array(layer.weight) @ x + (0 if layer.bias is None else array(layer.bias))


def softmax(scores):
    powers = np.exp(np.array(scores) - max(scores))
    return powers / powers.sum()


def gelu(x):
    return np.array([0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x])


# -------------------------------------------------------------------------------------------------------- equations


def test_nested_nodes_are_two_convolutions_of_all_earlier_ones_and_the_enlarged_one_below():
    """U-Net++ Eq. 1, by recursion."""
    torch.manual_seed(0)
    net = NestedUNet((2, 3, 4)).eval()
    image = torch.rand(1, 3, 8, 8)
    encoded = [array(x[0]) for x in net.encoder(image)]

    def h(block, x):
        for conv, norm in ((block.conv1, block.norm1), (block.conv2, block.norm2)):
            x = convolution(x, array(conv.weight)) / math.sqrt(1 + norm.eps)
            x = np.maximum(x, 0)
        return x

    def node(i, j):
        if j == 0:
            return encoded[i]
        same = [node(i, k) for k in range(j)]
        below = enlarged(node(i + 1, j - 1), *encoded[i].shape[1:])
        return h(net.nodes[f"{i}-{j}"], np.concatenate([*same, below]))

    found = net(image)
    assert len(found) == 2
    for j, x in enumerate(found, start=1):
        np.testing.assert_allclose(array(x[0]), node(0, j), atol=1e-5)


def test_the_attention_gate_is_additive_and_on_the_grid_of_the_gating_signal():
    """Attention U-Net Eq. 1 and 2, place by place."""
    torch.manual_seed(1)
    gate = AttentionGate(3, 5, 2)
    x, g = torch.randn(1, 3, 6, 8), torch.randn(1, 5, 3, 4)
    w_x, w_g = array(gate.w_x.weight)[:, :, 0, 0], array(gate.w_g.weight)[:, :, 0, 0]
    psi = array(gate.psi.weight)[0, :, 0, 0]

    alpha = np.zeros((1, 3, 4))
    for r, c in np.ndindex(3, 4):
        skip, signal = array(x[0, :, 2 * r, 2 * c]), array(g[0, :, r, c])
        joined = np.maximum(w_x @ skip + w_g @ signal + array(gate.w_g.bias), 0)
        q = psi @ joined + gate.psi.bias.item()
        alpha[0, r, c] = 1 / (1 + math.exp(-q))
    expected = array(x[0]) * enlarged(alpha, 6, 8)
    np.testing.assert_allclose(array(gate(x, g)[0]), expected, atol=1e-6)


def test_the_finest_skip_has_no_gate():
    method = build_method(preset_recipe("attention_unet", "smoke"))
    assert [gate.w_x.in_channels for gate in method.decoder.gates] == [6]
    assert [block.conv2.out_channels for block in method.decoder.blocks] == [6, 4]


def test_the_heads_of_nnunet_have_halved_weights_and_smaller_masks():
    """L = w_1 L_1 + w_2 L_2 + ..., w_2 = w_1 / 2, the sum of the weights 1; none at the two coarsest scales."""
    recipe = preset_recipe("nnunet_like", "smoke").override("widths=[4,6,8,8,8]")
    method = build_method(recipe)
    batch = batch_of()
    losses = method.losses("segment", batch)

    mean = batch.image.mean(dim=(2, 3), keepdim=True)
    std = batch.image.std(dim=(2, 3), keepdim=True, correction=0)
    maps = method.net((batch.image - mean) / std)[-3:]
    assert [x.shape[-1] for x in maps] == [8, 16, 32]
    assert len(method.heads) == 3
    dice = cross_entropy = 0.0
    for weight, step, head, x in zip(
        (1 / 7, 2 / 7, 4 / 7), (4, 2, 1), method.heads, maps, strict=True
    ):
        p, y = array(torch.sigmoid(head(x))), array(batch.mask)[..., ::step, ::step]
        for i in range(2):
            overlap = (2 * (p[i] * y[i]).sum() + 1e-5) / (p[i].sum() + y[i].sum() + 1e-5)
            dice += weight * (1 - overlap) / 2
        cross_entropy -= weight * np.where(y == 1, np.log(p), np.log(1 - p)).mean()
    assert losses["dice"].item() == pytest.approx(dice, abs=1e-5)
    assert losses["bce"].item() == pytest.approx(cross_entropy, abs=1e-5)


def test_nnunet_normalizes_each_map_of_each_image():
    torch.manual_seed(0)
    stage = PlainUNet((4, 6, 8)).encoder[1]
    conv, norm = stage[0], stage[1]
    assert (conv.stride, len([x for x in stage if isinstance(x, nn.Conv2d)])) == ((2, 2), 2)
    x = torch.randn(2, 4, 8, 8)
    y = conv(x)
    for image, channel in np.ndindex(2, 6):
        values = array(y[image, channel])
        expected = (values - values.mean()) / math.sqrt(values.var() + norm.eps)
        np.testing.assert_allclose(array(norm(y)[image, channel]), expected, atol=1e-5)


def test_the_transformer_of_transunet_adds_positions_and_is_pre_norm():
    """TransUNet Eq. 1 to 3, token by token."""
    torch.manual_seed(2)
    net = GridTransformer(3, 4, (2, 3), depth=1, heads=2, hidden=5, dropout=0.1).eval()
    x = torch.randn(1, 3, 2, 3)
    block = net.blocks[0]

    tokens = []
    for r, c in np.ndindex(2, 3):  # Eq. 1
        embedded = array(net.embed.weight)[:, :, 0, 0] @ array(x[0, :, r, c])
        tokens.append(embedded + array(net.embed.bias) + array(net.position[0, :, r, c]))

    inner = [normed(z, block.norm1) for z in tokens]
    a = block.attention
    keys, values = [linear(z, a.key) for z in inner], [linear(z, a.value) for z in inner]
    after = []
    for z, token in zip(inner, tokens, strict=True):  # Eq. 2
        query, heads = linear(z, a.query), []
        for part in (slice(0, 2), slice(2, 4)):
            share = softmax([query[part] @ key[part] / math.sqrt(2) for key in keys])
            heads.append(sum(s * value[part] for s, value in zip(share, values, strict=True)))
        after.append(linear(np.concatenate(heads), a.out) + token)

    found = net(x)
    for (r, c), z in zip(np.ndindex(2, 3), after, strict=True):  # Eq. 3
        hidden = gelu(linear(normed(z, block.norm2), block.mlp[0]))
        expected = normed(linear(hidden, block.mlp[3]) + z, net.norm)
        np.testing.assert_allclose(array(found[0, :, r, c]), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "shift"), [((6, 6), 0), ((6, 6), 1), ((7, 8), 1), ((5, 4), 0), ((3, 2), 1)], ids=str
)
def test_window_attention_joins_the_places_of_a_window_with_a_bias_per_offset(size, shift):
    """Swin-Unet Eq. 5, place by place; places that only the shift brings together do not attend to each other."""
    torch.manual_seed(3)
    window, heads, width = 3, 2, 4
    attention = WindowAttention(width, heads, window, shift)
    nn.init.normal_(attention.bias)
    x = torch.randn(1, *size, width)
    rows, columns = (math.ceil(side / window) * window for side in size)
    moved = shift if max(size) > window else 0
    weight, bias = array(attention.qkv.weight), array(attention.qkv.bias)
    maps = {at: np.split(weight @ array(x[0, *at]) + bias, 3) for at in np.ndindex(*size)}

    def home(at):
        return (at[0] - moved) % rows // window, (at[1] - moved) % columns // window

    found = attention(x)
    for at, (query, _, _) in maps.items():
        seen = [
            other
            for other in maps
            if home(other) == home(at)
            and abs(at[0] - other[0]) < window
            and abs(at[1] - other[1]) < window
        ]
        parts = []
        for head in range(heads):
            part = slice(2 * head, 2 * head + 2)
            scores = []
            for other in seen:
                down, right = at[0] - other[0] + 2, at[1] - other[1] + 2
                offset = attention.bias[5 * down + right, head].item()
                scores.append(query[part] @ maps[other][1][part] / math.sqrt(2) + offset)
            share = softmax(scores)
            parts.append(sum(s * maps[o][2][part] for s, o in zip(share, seen, strict=True)))
        expected = linear(np.concatenate(parts), attention.out)
        np.testing.assert_allclose(array(found[0, *at]), expected, atol=1e-5)


def test_every_second_block_of_swin_unet_is_shifted_by_half_a_window():
    method = build_method(preset_recipe("swin_unet", "smoke"))
    for blocks in (*method.net.encoder, *method.net.decoder):
        assert [block.attention.shift for block in blocks] == [0, 2]


def test_patches_merge_and_expand():
    torch.manual_seed(4)
    merge, expand, x = PatchMerging(3), PatchExpanding(4), torch.randn(1, 4, 6, 3)
    merged = merge(x)
    for r, c in np.ndindex(2, 3):
        four = [array(x[0, 2 * r + a, 2 * c + b]) for a, b in np.ndindex(2, 2)]
        expected = linear(normed(np.concatenate(four), merge.norm), merge.reduce)
        np.testing.assert_allclose(array(merged[0, r, c]), expected, atol=1e-5)

    y = torch.randn(1, 2, 3, 4)
    expanded = expand(y)
    assert expanded.shape == (1, 4, 6, 2)
    for r, c in np.ndindex(2, 3):
        four = np.split(linear(array(y[0, r, c]), expand.expand), 4)
        for (a, b), values in zip(np.ndindex(2, 2), four, strict=True):
            got = array(expanded[0, 2 * r + a, 2 * c + b])
            np.testing.assert_allclose(got, normed(values, expand.norm), atol=1e-5)


# ------------------------------------------------------------------------------------------------ what they share


def millions(name, preset):
    with torch.device("meta"):
        method = build_method(preset_recipe(name, preset))
    return sum(p.numel() for p in method.parameters()) / 1e6


@pytest.mark.parametrize(
    ("name", "published"),
    # U-Net++: its paper; TransUNet: the table of C2Seg; Swin-Unet: 27.17 M in its paper's comparison
    [("unet_pp", 9.04), ("trans_unet", 105.0), ("swin_unet", 27.17)],
)
def test_paper_presets_have_the_published_number_of_parameters(name, published):
    assert millions(name, "paper") == pytest.approx(published, rel=0.02)


@pytest.mark.parametrize("name", NAMES)
def test_cpu_presets_are_small(name):
    assert 1 < millions(name, "lite") < 3.5


@pytest.mark.parametrize("name", NAMES)
def test_images_without_masks_are_refused(name):
    method, batch = build_method(preset_recipe(name, "smoke")), batch_of()
    with pytest.raises(DataError, match="labelled rows only"):
        method.losses("segment", Batch(batch.image, batch.text))


def test_unetpp_predicts_the_mean_of_its_heads_and_trains_each():
    method, batch = build_method(preset_recipe("unet_pp", "smoke")).eval(), batch_of()
    features = method.image_features(batch.image)
    heads = [
        head(x, (batch.image - 0.5) / 0.25) for head, x in zip(method.heads, features, strict=True)
    ]
    mean = (heads[0] + heads[1]) / 2
    torch.testing.assert_close(method(batch.image, batch.text).logits, mean)
    alone = [
        nn.functional.binary_cross_entropy_with_logits(logits, batch.mask).item()
        for logits in heads
    ]
    losses = method.losses("segment", batch)
    assert losses["bce"].item() == pytest.approx(sum(alone) / 2, abs=1e-6)


def test_one_head_without_deep_supervision():
    for name in ("unet_pp", "nnunet_like"):
        method = build_method(preset_recipe(name, "smoke").override("deep_supervision=false"))
        assert len(method.heads) == 1
        assert len(method.image_features(batch_of().image)) == 1


@pytest.mark.parametrize(
    ("name", "setting", "message"),
    [
        ("unet_pp", "widths=[8]", "at least 2"),
        ("attention_unet", "widths=[8,8]", "at least 3"),
        ("nnunet_like", "widths=[8,8]", "at least 3"),
        ("trans_unet", "decoder_widths=[8,8]", "one per doubling"),
        ("swin_unet", "heads=[2]", "one per scale"),
        ("swin_unet", "heads=[1,3]", "do not divide"),
    ],
)
def test_settings_that_do_not_fit_are_refused(name, setting, message):
    with pytest.raises(ConfigError, match=message):
        preset_recipe(name, "smoke").override(setting)


@pytest.mark.parametrize(
    ("method", "rows"),
    [
        ("c2seg", ["unet", "unet_pp", "nnunet_like", "trans_unet", "swin_unet", "ukan"]),
        ("ssa", ["unet", "unet_pp", "attention_unet", "nnunet_like"]),
        ("biclip", ["unet", "unet_pp", "nnunet_like", "swin_unet", "ef_unet", "biclip"]),
        ("dusss", ["unet"]),
    ],
)
def test_tables_of_the_papers_list_the_image_only_rows_in_their_order(method, rows):
    arms = get_method(method).ablation_tables["table1"]
    assert [arm.name for arm in arms if arm.name in rows] == rows
    for arm in arms:
        preset_recipe(arm.method or method, "lite").override(*arm.settings)
    # one of them is the paper's own method
    assert None in {arm.method for arm in arms}
