"""GuideDecoder: one level against the annex's description, written out slowly; tokens, gate, padding, sizes."""

import pytest
import torch

from textmask.errors import ConfigError, PromptWarning
from textmask.nn.attention import position_codes
from textmask.nn.decoders import SubPixelHead, UpBlock
from textmask.nn.fields import GuideDecoderFields
from textmask.nn.guide_decoder import GuideBlock, GuideDecoder, TokenMixer
from textmask.nn.pretrained_image import PlainUNetEncoder, build_image_encoder
from textmask.types import TextFeatures

FIELDS = GuideDecoderFields(token_counts=(6, 4, 3), max_tokens=8, head_channels=4)


def sentence(length=5, real=(5, 3), width=12):
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randn(len(real), length, width, generator=generator)
    mask = torch.arange(length) < torch.tensor(real)[:, None]
    return TextFeatures(tokens, (tokens * mask[..., None]).sum(1), mask)


def padded(text, length, fill):
    extra = length - text.text_tokens.shape[1]
    tokens = torch.nn.functional.pad(text.text_tokens, (0, 0, 0, extra), value=fill)
    return TextFeatures(
        tokens, text.text_embedding, torch.nn.functional.pad(text.token_mask, (0, extra))
    )


def test_the_token_mixer_is_a_convolution_over_positions_then_a_linear_map():
    torch.manual_seed(0)
    mixer = TokenMixer(8, 6, 12, 16)
    text = sentence()
    conv = torch.nn.Conv1d(8, 6, 1)
    conv.weight.data, conv.bias.data = mixer.positions.weight[..., None], mixer.positions.bias
    whole = torch.zeros(2, 8, 12)
    whole[:, :5] = text.text_tokens * text.token_mask[..., None]
    expected = torch.nn.functional.leaky_relu(mixer.channels(torch.nn.functional.gelu(conv(whole))))
    torch.testing.assert_close(mixer(text.text_tokens, text.token_mask), expected)


def test_one_block_written_out():
    torch.manual_seed(0)
    block = GuideBlock(16, 12, 6, FIELDS)
    text, feature = sentence(), torch.randn(2, 16, 3, 5)
    out, words = block(feature, text.text_tokens, text.token_mask)
    x = feature.flatten(2).mT
    places, order = position_codes(16, 3, 5), position_codes(16, 1, 6)
    y = block.norms[0](x)
    x = x + block.norms[1](block.self_attention(y + places, y + places, y))
    y = block.norms[2](x)
    said = block.norms[3](block.cross_attention(y + places, words + order, words))
    torch.testing.assert_close(out, (x + 1.421 * said).mT.reshape(2, 16, 3, 5))
    assert block.gate.item() == pytest.approx(1.421)
    assert GuideBlock(
        16, 12, 6, FIELDS.model_copy(update={"gate": 0.01})
    ).gate.item() == pytest.approx(0.01)


def net(fields=FIELDS):
    torch.manual_seed(0)
    return GuideDecoder(build_image_encoder("tiny"), 12, fields).eval()


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (17, 64)])
def test_any_size_and_any_padding(size):
    model, image = net(), torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(3))
    found = model(image, sentence())
    assert found.logits.shape == (2, 1, *size)
    assert [m.shape[1] for m in found.maps] == [16, 16, 12]
    assert [(t.shape[1], t.shape[2]) for t in found.texts] == [(6, 16), (4, 16), (3, 12)]
    assert model.widths == ((16, 16), (16, 16), (12, 12))
    for length, fill in ((8, 0.0), (12, 1e3)):
        again = model(image, padded(sentence(), length, fill))
        torch.testing.assert_close(again.logits, found.logits, atol=1e-5, rtol=1e-5)


def test_an_empty_sentence_adds_nothing():
    model, image = net(), torch.rand(1, 3, 32, 32)
    a = model(image, sentence(real=(0,)))
    other = sentence(real=(0,))
    b = model(image, TextFeatures(other.text_tokens + 5, other.text_embedding, other.token_mask))
    assert torch.equal(a.logits, b.logits)
    assert torch.isfinite(a.logits).all()


def test_what_is_cut_is_counted():
    with pytest.warns(PromptWarning, match="1 of 2 prompts are longer than the 8 tokens"):
        net()(torch.rand(2, 3, 32, 32), sentence(12, (12, 5)))


def test_too_few_scales_are_refused():
    with pytest.raises(ConfigError, match="has 2 scales, 4 are wanted"):
        GuideDecoder(PlainUNetEncoder((8, 12), 2), 12, FIELDS)


def test_the_skip_may_be_convolved_before_the_rest_is_known():
    torch.manual_seed(0)
    block = UpBlock(12, 8).double().eval()
    x, skip = torch.rand(2, 12, 5, 6).double(), torch.rand(2, 8, 10, 12).double()
    torch.testing.assert_close(block.join(x, block.skip_part(skip)), block(x, skip))


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_the_image_may_be_convolved_before_the_rest_is_known(stride):
    torch.manual_seed(0)
    head = SubPixelHead(6, stride).double()
    feature, image = (
        torch.rand(2, 6, 5, 4).double(),
        torch.rand(2, 3, 5 * stride, 4 * stride).double(),
    )
    torch.testing.assert_close(head.join(feature, head.image_part(image)), head(feature, image))
