"""Attention: against a slow transcription, and padding that never matters."""

import math

import pytest
import torch

from textmask.errors import ConfigError
from textmask.nn.attention import Attention, Interactor, position_codes


def block(channels=16, heads=2):
    torch.manual_seed(0)
    return Attention(channels, heads)


def inputs(length=7, real=(7, 4), channels=16, places=15):
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randn(2, places, channels, generator=generator)
    words = torch.randn(2, length, channels, generator=generator)
    return tokens, words, torch.arange(length) < torch.tensor(real)[:, None]


def pad(words, mask, length, fill):
    extra = length - words.shape[1]
    padding = torch.full((len(words), extra, words.shape[2]), fill)
    return torch.cat([words, padding], 1), torch.cat([mask, mask.new_zeros(len(mask), extra)], 1)


def test_against_a_slow_transcription():
    attend = block()
    tokens, words, mask = inputs()
    codes = torch.rand(
        words.shape, generator=torch.Generator().manual_seed(2)
    )  # keys and values may differ
    out = attend(tokens, words + codes, words, mask)
    b, place = 1, 11
    count, answer = int(mask[b].sum()), []
    for head in range(2):
        part = slice(8 * head, 8 * head + 8)
        query = attend.query(tokens[b, place])[part]
        scores = torch.stack(
            [query @ attend.key((words + codes)[b, i])[part] / math.sqrt(8) for i in range(count)]
        )
        weights = scores.exp() / scores.exp().sum()
        answer.append(sum(w * attend.value(words[b, i])[part] for i, w in enumerate(weights)))
    torch.testing.assert_close(out[b, place], attend.out(torch.cat(answer)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("length", "fill"), [(24, 0.0), (32, 0.0), (32, 1e3)])
def test_padding_never_changes_the_output(length, fill):
    tokens, words, mask = inputs()
    longer, longer_mask = pad(words, mask, length, fill)
    attend = block()
    torch.testing.assert_close(
        attend(tokens, longer, longer, longer_mask),
        attend(tokens, words, words, mask),
        atol=1e-5,
        rtol=0,
    )
    torch.manual_seed(0)
    interact = Interactor(16, 2, 8).eval()
    torch.testing.assert_close(
        interact(tokens, longer, None, longer_mask),
        interact(tokens, words, None, mask),
        atol=1e-5,
        rtol=0,
    )
    asked = interact(longer, tokens, longer_mask, None)[:, :7]
    torch.testing.assert_close(
        asked[mask], interact(words, tokens, mask, None)[mask], atol=1e-5, rtol=0
    )
    everything = torch.ones_like(mask)
    assert not torch.allclose(
        attend(tokens, words, words, everything), attend(tokens, words, words, mask), atol=1e-3
    )


def test_a_prompt_without_tokens_gives_zeros_and_no_nan():
    tokens, words, mask = inputs(real=(7, 0))
    tokens.requires_grad_()
    words.requires_grad_()
    attend = block()
    out = attend(tokens, words, words, mask)
    assert not out[1].any()
    assert out[0].any()
    gradients = torch.autograd.grad(out.pow(2).sum(), [tokens, words, *attend.parameters()])
    assert all(torch.isfinite(g).all() for g in gradients)


def test_the_interactor_is_three_residual_steps_with_norms():
    torch.manual_seed(0)
    interact = Interactor(16, 2, 8).eval()
    tokens, words, mask = inputs()
    x = interact.norms[0](tokens + interact.self_attention(tokens, tokens, tokens))
    x = interact.norms[1](x + interact.cross_attention(x, words, words, mask))
    hidden = torch.relu(interact.mlp[0](x))
    expected = interact.norms[2](x + interact.mlp[3](hidden))
    torch.testing.assert_close(interact(tokens, words, None, mask), expected)


def test_position_codes_are_distinct_and_keep_places_across_sizes():
    codes = position_codes(16, 14, 14)
    assert codes.shape == (196, 16)
    assert (torch.cdist(codes, codes) + torch.eye(196)).min() > 0.05
    # the centre of the image has one code at every odd size
    centre = [position_codes(16, n, n)[n * n // 2] for n in (7, 15, 29)]
    torch.testing.assert_close(centre[0], centre[1])
    torch.testing.assert_close(centre[1], centre[2])


def test_every_parameter_gets_a_gradient_under_autocast():
    torch.manual_seed(0)
    interact = Interactor(16, 2, 8)
    tokens, words, mask = inputs()
    with torch.autocast("cpu", torch.bfloat16):
        out = interact(tokens, words, None, mask)
    out.float().pow(2).mul(torch.rand(out.shape)).sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in interact.parameters())


def test_widths_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="4 heads"):
        Attention(10, 4)
    with pytest.raises(ConfigError, match="multiples of 4"):
        position_codes(6, 2, 2)
