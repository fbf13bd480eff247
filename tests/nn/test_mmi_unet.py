"""MMI-UNet: the bridger written out, which text and map go where, padding, sizes."""

import pytest
import torch

from textmask.errors import ConfigError
from textmask.nn.fields import MMIUNetFields
from textmask.nn.mmi_unet import Bridger, MMIUNet
from textmask.nn.pretrained_image import PlainUNetEncoder, build_image_encoder
from textmask.types import TextFeatures

FIELDS = MMIUNetFields(heads=2, hidden=8, head_channels=4)


def sentence(length=5, real=(5, 3), width=12):
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randn(len(real), length, width, generator=generator)
    mask = torch.arange(length) < torch.tensor(real)[:, None]
    return TextFeatures(tokens, (tokens * mask[..., None]).sum(1), mask)


def net(fields=FIELDS, **settings):
    torch.manual_seed(0)
    return MMIUNet(build_image_encoder("tiny"), 12, fields, **settings).eval()


def test_the_bridger_updates_both_from_what_they_were_before():
    torch.manual_seed(0)
    bridger = Bridger(8, 12, FIELDS).eval()
    text, feature = sentence(), torch.randn(2, 8, 6, 4)
    out, told = bridger(feature, text.text_tokens, text.token_mask)
    small = bridger.down(feature)
    image = bridger.norm_image(small.flatten(2).mT)
    words = bridger.norm_text(bridger.text_in(text.text_tokens))
    seen = bridger.image_asks(image, words, None, text.token_mask)
    said = bridger.text_out(bridger.text_asks(words, image, text.token_mask, None))
    torch.testing.assert_close(out, feature + bridger.up(seen.mT.reshape(2, 8, 3, 2)))
    torch.testing.assert_close(told, text.text_tokens + said * text.token_mask[..., None])
    assert small.shape[2:] == (3, 2)


def test_odd_maps_meet_the_sentence_everywhere():
    """The released code halves 7 to 3 and leaves the last row without text."""
    torch.manual_seed(0)
    bridger = Bridger(8, 12, FIELDS).eval()
    text, feature = sentence(), torch.randn(2, 8, 7, 1)
    out, _ = bridger(feature, text.text_tokens, text.token_mask)
    other, _ = bridger(feature, text.text_tokens + 1, text.token_mask)
    assert out.shape == feature.shape
    assert ((out - other).abs().amax(1) > 0).all()


def test_the_next_scale_reads_the_map_twice_and_the_text_as_the_annex_says():
    model, text, image = net(), sentence(), torch.rand(2, 3, 32, 32)
    found = model(image, text)
    x, words, skips = model.encoder.begin(image), text.text_tokens, []
    for i, bridger in enumerate(model.bridgers):
        stage = model.encoder.scale(i, x)
        fused, told = bridger(stage, words, text.token_mask)
        x, words = fused + stage, text.text_tokens + told
        skips.append(fused)
    for mine, theirs in zip(found.maps, skips[::-1], strict=True):
        torch.testing.assert_close(mine, theirs)
    assert len(found.maps) == len(found.texts) == 4
    assert model.widths == ((16, 12), (16, 12), (12, 12), (8, 12))


def test_the_coarsest_sentence_is_updated_only_for_whoever_reads_it():
    assert net().bridgers[-1].text_asks is None
    assert net(last_answers=True).bridgers[-1].text_asks is not None
    text, image = sentence(), torch.rand(2, 3, 32, 32)
    assert not torch.equal(
        net(last_answers=True)(image, text).texts[0], net()(image, text).texts[0]
    )


@pytest.mark.parametrize("fused", [1, 3, 4])
@pytest.mark.parametrize("size", [(32, 32), (33, 47), (17, 64)])
def test_any_size_any_padding_and_any_number_of_bridgers(size, fused):
    model = net(FIELDS.model_copy(update={"fused": fused}))
    image, text = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(3)), sentence()
    found = model(image, text)
    assert found.logits.shape == (2, 1, *size)
    assert len(found.maps) == len(found.texts) == len(found.token_masks) == fused
    longer = torch.nn.functional.pad(text.text_tokens, (0, 0, 0, 19), value=1e3)
    again = model(
        image,
        TextFeatures(
            longer, text.text_embedding, torch.nn.functional.pad(text.token_mask, (0, 19))
        ),
    )
    torch.testing.assert_close(again.logits, found.logits, atol=1e-5, rtol=1e-5)


def test_an_empty_sentence_gives_no_nan():
    model, text = net(last_answers=True).train(), sentence(real=(5, 0))
    found = model(torch.rand(2, 3, 32, 32), text)
    (found.logits.sum() + sum(t.sum() for t in found.texts)).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_more_scales_than_the_encoder_has_are_refused():
    with pytest.raises(ConfigError, match="has 3 scales, 4 are wanted"):
        MMIUNet(PlainUNetEncoder((8, 12, 16), 2), 12, FIELDS)


def test_size_with_convnext_is_that_of_the_published_network():
    """56.2 M without the text encoder, as C2Seg quotes it; the released one also trains the last unread answer."""
    model = MMIUNet(
        build_image_encoder("convnext_tiny:random"), 768, MMIUNetFields(), last_answers=True
    )
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(56.2, rel=0.05)


def test_a_saved_convnext_is_read_and_trained(tmp_path):
    from transformers import ConvNextConfig, ConvNextModel

    ConvNextModel(
        ConvNextConfig(hidden_sizes=[8, 12, 16, 20], depths=[1, 1, 1, 1])
    ).save_pretrained(tmp_path)
    torch.manual_seed(0)
    encoder = build_image_encoder(f"convnext_tiny:{tmp_path}")
    model = MMIUNet(encoder, 12, FIELDS.model_copy(update={"heads": 4}))
    found = model(torch.rand(2, 3, 70, 45), sentence())
    assert found.logits.shape == (2, 1, 70, 45)
    found.logits.mean().backward()
    assert all(p.grad is not None for p in model.parameters())
