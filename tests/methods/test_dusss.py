"""DuSSS: Eq. 1-17 against slow transcriptions, monotony of the similarity, what the merged label can say."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from textmask.data.loaders import build_text
from textmask.losses.contrastive import info_nce
from textmask.losses.segmentation import bce
from textmask.method import build_method, get_method
from textmask.methods.dusss import DuSSSRecipe
from textmask.methods.dusss.method import merged_label
from textmask.methods.dusss.similarity import (
    Gaussian,
    GroundingDecoder,
    pooled_region,
    uncertain_similarity,
    wasserstein2,
)
from textmask.text.edit import drop_count, meaning_kept
from textmask.text.grammar import parse
from textmask.types import Batch, Laterality

PROMPTS = (
    "unilateral pulmonary infection, one infected areas, lower left lung.",
    "bilateral pulmonary infection, two infected areas, lower left lung and lower right lung.",
    "unilateral pulmonary infection, one infected areas, upper right lung.",
)
TAU = torch.tensor(0.07)


def gaussians(n=4, e=6, seed=0, spread=1.0):
    generator = torch.Generator().manual_seed(seed)
    s, mu = (torch.randn(n, e, generator=generator) for _ in range(2))
    return Gaussian(s, mu * spread, torch.rand(n, e, generator=generator) + 0.1)


def batch(n=3, unlabelled=True, size=(32, 32)):
    generator = torch.Generator().manual_seed(1)

    def stream():
        image = torch.rand(n, 3, *size, generator=generator)
        mask = (torch.rand(n, 1, *size, generator=generator) > 0.7).float()
        statements = [parse(p, laterality=Laterality.IMAGE) for p in PROMPTS[:n]]
        return Batch(image, build_text(PROMPTS[:n], statements), mask, PROMPTS[:n], {"strong": image * 0.9})

    labelled = stream()
    return replace(labelled, unlabelled=replace(stream(), mask=None) if unlabelled else None)


def smoke(*settings):
    method = build_method(DuSSSRecipe().smoke().override(*settings))
    method.prepare(PROMPTS)
    return method


def test_eq_1_to_5_written_out():
    a, b = gaussians(seed=0), gaussians(seed=1)
    found, d_sss = uncertain_similarity(a, b, TAU)
    for i in range(4):
        for j in range(4):
            w2 = sum((float(x) - float(y)) ** 2 for x, y in zip(a.mean[i], b.mean[j], strict=True))
            w2 += sum((float(x) - float(y)) ** 2 for x, y in zip(a.sigma[i], b.sigma[j], strict=True))
            assert wasserstein2(a, b)[i, j].item() == pytest.approx(w2, rel=1e-4)
            d_u = w2 / 6 + 0.05
            s1, s2 = a.embedding[i] / a.embedding[i].norm(), b.embedding[j] / b.embedding[j].norm()
            relative = min(d_u / (float((s1 - s2).norm()) + 1e-6), 50)
            expected = math.exp(-0.2 * relative)
            assert d_sss[i, j].item() == pytest.approx(expected, rel=1e-3)
            assert found[i, j].item() == pytest.approx(1 - (1 - float(s1 @ s2)) * expected, abs=1e-4)


def test_the_similarity_lies_between_the_cosine_and_1():
    a, b = gaussians(20, seed=2), gaussians(20, seed=3)
    found, d_sss = uncertain_similarity(a, b, TAU)
    cosine = torch.nn.functional.cosine_similarity(a.embedding[:, None], b.embedding[None], dim=2)
    assert (found >= cosine - 1e-5).all()
    assert (found <= 1 + 1e-6).all()
    assert 0.2 < d_sss.median() < 0.9  # with constants that do not saturate


def test_it_rises_with_the_distance_of_the_distributions_and_falls_with_that_of_the_embeddings():
    base = gaussians(1)
    scores = [
        uncertain_similarity(base, base._replace(embedding=-base.embedding, mean=base.mean + shift), TAU)[0].item()
        for shift in (0.0, 0.5, 1.0, 2.0)
    ]
    assert scores == sorted(scores)
    assert scores[0] < scores[-1]
    far = [
        uncertain_similarity(
            Gaussian(torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2), torch.ones(1, 2)),
            Gaussian(torch.tensor([[math.cos(t), math.sin(t)]]), torch.ones(1, 2), torch.ones(1, 2)),
            TAU,
        )[0].item()
        for t in (0.1, 0.5, 1.0, 2.0, 3.0)
    ]
    assert far == sorted(far, reverse=True)


def test_the_released_constants_make_every_pair_similar():
    """Orthogonal unit vectors, squared distance 2: nothing is left to contrast."""
    a, b = (gaussians(6, seed=seed)._replace(embedding=torch.eye(6)) for seed in (2, 3))
    found, d_sss = uncertain_similarity(a, b, TAU, "released")
    apart = ~torch.eye(6, dtype=torch.bool)
    assert d_sss[apart].max() < 0.003
    assert found[apart].min() > 0.997


def test_equal_embeddings_have_a_finite_gradient():
    a = gaussians(3)
    leaf = a.embedding.clone().requires_grad_()
    found, _ = uncertain_similarity(a._replace(embedding=leaf), a._replace(embedding=leaf), TAU)
    found.sum().backward()
    assert torch.isfinite(leaf.grad).all()


def test_eq_8_and_9_written_out():
    method = smoke("merge_equal_text=false").eval()
    b = batch(unlabelled=False)
    torch.manual_seed(5)
    losses = method.losses("pretrain", b)
    torch.manual_seed(5)
    rng = np.random.default_rng(int(torch.randint(2**31, ())))
    second = [meaning_kept(prompt, rng) for prompt in b.text.prompts]
    vlm = method.vlm
    i1, i2 = vlm.image(b.image)[0], vlm.image(b.views["strong"])[0]
    t1, t2 = (vlm.text(method.text_encoder(build_text(p, b.text.statements))) for p in (b.text.prompts, second))

    def nce(x, y):
        s = (uncertain_similarity(x, y, vlm.tau)[0] / vlm.tau).detach()
        return -sum(float(s[k, k]) - math.log(sum(math.exp(float(v)) for v in s[k])) for k in range(3)) / 3

    assert losses["cmc"].item() == pytest.approx((nce(i1, t1) + nce(t1, i1)) / 2, rel=1e-3)
    assert losses["imc"].item() == pytest.approx((nce(i1, i2) + nce(t1, t2)) / 2, rel=1e-3)
    plain = smoke("merge_equal_text=false", "sss=false").eval()
    assert plain.losses("pretrain", b)["cmc"].item() != pytest.approx(losses["cmc"].item(), rel=1e-3)


def test_one_direction_of_the_contrast():
    s, y = torch.rand(4, 4), torch.eye(4)
    assert info_nce(s, y, 0.1).item() == pytest.approx(
        torch.nn.functional.cross_entropy(s / 0.1, torch.arange(4)).item()
    )


def test_eq_10_and_the_region_of_eq_11():
    torch.manual_seed(0)
    decoder = GroundingDecoder(5, 6)
    patches, sentence = torch.randn(2, 5, 3, 4), torch.randn(2, 6)
    pixels, logits = decoder(patches, sentence)
    assert pixels.shape == (2, 6, 12, 16)
    assert logits.shape == (2, 1, 12, 16)
    cosine = torch.cosine_similarity(pixels[1, :, 7, 9], sentence[1], 0)
    assert logits[1, 0, 7, 9].item() == pytest.approx(10 * cosine.item() - 2.5, abs=1e-4)
    weight = torch.sigmoid(logits[0, 0])
    expected = (pixels[0] * weight).sum((1, 2)) / weight.sum()
    torch.testing.assert_close(pooled_region(pixels, logits)[0], expected, atol=1e-5, rtol=1e-4)


def test_the_merged_label_can_be_background_unless_it_is_taken_as_printed():
    teacher, text = torch.tensor([[[[-6.0, 6.0]]]]), torch.tensor([[[[-4.0, -1.0]]]])
    logits = merged_label(teacher, text, "logits")
    assert logits[0, 0, 0, 0] < 0.01
    torch.testing.assert_close(logits, torch.sigmoid(teacher + text))
    printed = merged_label(teacher, text, "probability")
    assert (printed >= 0.5).all()  # Eq. 15 over probabilities has no background
    torch.testing.assert_close(merged_label(teacher, text, "mean"), (torch.sigmoid(teacher) + torch.sigmoid(text)) / 2)
    torch.testing.assert_close(merged_label(teacher, text, "teacher"), torch.sigmoid(teacher))


def test_eq_14_to_16_with_each_pictures_own_sentence():
    method = smoke().eval()
    b = batch()
    losses = method.losses("segment", b)
    normal = (b.unlabelled.views["strong"] - 0.5) / 0.25
    student = method.net(normal)[0]
    text = method.vlm.mask_logits(b.unlabelled.image, method.text_encoder(b.unlabelled.text))
    teacher = method.teacher((b.unlabelled.image - 0.5) / 0.25)[0]
    own = method.net((b.image - 0.5) / 0.25)[0]
    torch.testing.assert_close(losses["sup"], bce(own, b.mask), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(losses["merged"], bce(student, torch.sigmoid(teacher + text)), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(losses["text"], bce(student, torch.sigmoid(text)), atol=1e-4, rtol=1e-3)
    other = replace(b, unlabelled=replace(b.unlabelled, text=build_text(PROMPTS[::-1], b.text.statements[::-1])))
    assert not torch.equal(method.losses("segment", other)["text"], losses["text"])
    sum(losses.values()).backward()
    assert all(p.grad is None for p in method.vlm.parameters())  # frozen in step 2


def test_teacher_and_student_start_equal_and_all_labels_switch_the_branch_off():
    method = smoke()
    for name, value in method.net.state_dict().items():
        assert torch.equal(value, method.teacher.net.state_dict()[name])
    losses = method.losses("segment", batch(unlabelled=False))
    assert losses["merged"] == losses["text"] == 0


def test_a_second_view_of_a_sentence_keeps_its_place():
    rng = np.random.default_rng(0)
    for prompt in (*PROMPTS, "One small,circular,smooth colonic polyp on the top left.", "Hello World"):
        for _ in range(12):
            assert parse(meaning_kept(prompt, rng)).zones == parse(prompt).zones
    assert drop_count(PROMPTS[0]) == "unilateral pulmonary infection, lower left lung."


def test_the_tables_are_lists():
    spec = get_method("dusss")
    assert [arm.name for arm in spec.studies["table2"]] == [
        "baseline",
        "sss",
        "dcl",
        "sss-tg",
        "dcl-tg",
        "sss-dcl",
        "all",
    ]
    for study in spec.studies.values():
        for arm in study:
            DuSSSRecipe().override(*arm.settings)
