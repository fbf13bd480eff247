"""Cross-attention: against a slow transcription, and padding that never matters."""

import math

import pytest
import torch

from textmask.errors import ConfigError
from textmask.nn.attention import CrossAttention, position_codes


def block(channels=16, width=12, **settings):
    torch.manual_seed(0)
    return CrossAttention(channels, width, **settings)


def inputs(length=7, real=(7, 4), channels=16, width=12, size=(3, 5)):
    generator = torch.Generator().manual_seed(1)
    feature = torch.randn(2, channels, *size, generator=generator)
    tokens = torch.randn(2, length, width, generator=generator)
    return feature, tokens, torch.arange(length) < torch.tensor(real)[:, None]


def pad(tokens, mask, length, fill):
    extra = length - tokens.shape[1]
    padding = torch.full((len(tokens), extra, tokens.shape[2]), fill)
    return torch.cat([tokens, padding], 1), torch.cat([mask, mask.new_zeros(len(mask), extra)], 1)


def test_against_a_slow_transcription():
    attend = block(heads=2, gate=0.7, positions=False)
    feature, tokens, mask = inputs()
    out, maps = attend.with_map(feature, tokens, mask)
    b, place = 1, (2, 3)
    x = feature[b, :, place[0], place[1]]
    normed = attend.norm_image(x)
    text = [attend.norm_text(tokens[b, i]) for i in range(int(mask[b].sum()))]
    answer, seen = [], torch.zeros(len(text))
    for head in range(2):
        part = slice(8 * head, 8 * head + 8)
        query = attend.query(normed)[part]
        scores = torch.stack([query @ attend.key(t)[part] / math.sqrt(8) for t in text])
        weights = scores.exp() / scores.exp().sum()
        seen += weights / 2
        answer.append(sum(w * attend.value(t)[part] for w, t in zip(weights, text, strict=True)))
    expected = x + 0.7 * attend.out(torch.cat(answer))
    torch.testing.assert_close(out[b, :, place[0], place[1]], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(maps[b, : len(text), place[0], place[1]], seen, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("positions", [True, False])
def test_padding_never_changes_the_output(positions):
    attend = block(positions=positions).eval()
    feature, tokens, mask = inputs()
    dynamic = attend(feature, tokens, mask)
    for length, fill in ((24, 0.0), (32, 0.0), (32, 1e3)):
        padded = attend(feature, *pad(tokens, mask, length, fill))
        torch.testing.assert_close(padded, dynamic, atol=1e-6, rtol=0)
        with_map, maps = attend.with_map(feature, *pad(tokens, mask, length, fill))
        torch.testing.assert_close(with_map, dynamic, atol=1e-5, rtol=0)
        assert not maps[:, 7:].any()
    assert not torch.allclose(attend(feature, tokens, torch.ones_like(mask)), dynamic, atol=1e-3)  # the mask is used


def test_the_map_is_a_distribution_over_real_tokens():
    feature, tokens, mask = inputs()
    out, maps = block().with_map(feature, tokens, mask)
    assert maps.shape == (2, 7, 3, 5)
    torch.testing.assert_close(maps.sum(1), torch.ones(2, 3, 5))
    assert not maps[1, 4:].any()
    torch.testing.assert_close(out, block()(feature, tokens, mask), atol=1e-5, rtol=1e-5)


def test_a_sentence_without_tokens_leaves_the_feature_and_gives_no_nan():
    attend = block()
    feature, tokens, mask = inputs(real=(7, 0))
    feature.requires_grad_()
    tokens.requires_grad_()
    for out, maps in ((attend(feature, tokens, mask), None), attend.with_map(feature, tokens, mask)):
        assert torch.equal(out[1], feature[1])
        assert not torch.equal(out[0], feature[0])
        assert maps is None or not maps[1].any()
        gradients = torch.autograd.grad(out.pow(2).sum(), [feature, tokens, *attend.parameters()])
        assert all(torch.isfinite(g).all() for g in gradients)


def test_gate_zero_starts_as_the_identity_and_can_open():
    attend = block(gate=0.0)
    feature, tokens, mask = inputs()
    out = attend(feature, tokens, mask)
    assert torch.equal(out, feature)
    out.pow(2).sum().backward()
    assert attend.gate.grad.abs() > 0


def test_positions_tell_places_with_equal_pixels_apart():
    _, tokens, mask = inputs()
    flat = torch.ones(2, 16, 4, 6)
    same, different = block(positions=False)(flat, tokens, mask), block()(flat, tokens, mask)
    torch.testing.assert_close(same, same[:, :, :1, :1].expand_as(same), atol=1e-6, rtol=0)
    places = different[0].flatten(1).T
    distance = torch.cdist(places, places) + torch.eye(len(places))
    assert distance.min() > 1e-4


def test_position_codes_are_distinct_and_keep_places_across_sizes():
    codes = position_codes(16, 14, 14)
    assert codes.shape == (196, 16)
    assert (torch.cdist(codes, codes) + torch.eye(196)).min() > 0.05
    # the centre of the picture has one code at every odd size
    centre = [position_codes(16, n, n)[n * n // 2] for n in (7, 15, 29)]
    torch.testing.assert_close(centre[0], centre[1])
    torch.testing.assert_close(centre[1], centre[2])


def test_every_parameter_gets_a_gradient_under_autocast():
    attend = block()
    feature, tokens, mask = inputs()
    with torch.autocast("cpu", torch.bfloat16):
        out = attend(feature, tokens, mask)
    assert out.dtype == torch.float32
    out.pow(2).sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in attend.parameters())


@pytest.mark.parametrize(("channels", "heads", "message"), [(10, 4, "4 heads"), (6, 2, "multiples of 4")])
def test_widths_that_do_not_fit_are_refused(channels, heads, message):
    with pytest.raises(ConfigError, match=message):
        CrossAttention(channels, 12, heads=heads)
    with pytest.raises(ConfigError, match="multiples of 4"):
        position_codes(6, 2, 2)
