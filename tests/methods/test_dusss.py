"""DuSSS: Eq. 1-17 against slow transcriptions, monotony of the similarity, what the merged label can say."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from textmask.data.loaders import build_text
from textmask.errors import ConfigError, PromptWarning
from textmask.losses.contrastive import info_nce
from textmask.losses.segmentation import bce
from textmask.methods.dusss import DuSSSRecipe
from textmask.methods.dusss.method import hard_dice, merged_label
from textmask.methods.dusss.similarity import (
    Gaussian,
    GaussianHead,
    GroundingDecoder,
    pooled_region,
    uncertain_similarity,
    wasserstein2,
)
from textmask.methods.registry import build_method, get_method, preset_recipe
from textmask.metrics.overlap import counts, iou_per_image
from textmask.nn.compact_unet import CompactUNet
from textmask.statement import Laterality
from textmask.text.edit import drop_count, meaning_kept
from textmask.text.grammar import parse
from textmask.types import Batch

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
        return Batch(
            image, build_text(PROMPTS[:n], statements), mask, PROMPTS[:n], {"strong": image * 0.9}
        )

    labelled = stream()
    return replace(labelled, unlabelled=replace(stream(), mask=None) if unlabelled else None)


def smoke(*settings):
    method = build_method(DuSSSRecipe().smoke().override(*settings))
    method.prepare(PROMPTS)
    return method


def spread_out(method, image):
    """An untrained encoder gives all images nearly one vector, which hides what a loss does; centre them."""
    vlm = method.vlm
    with torch.no_grad():
        pooled = vlm.encoder(image)[-1].mean(dim=(2, 3))
        vlm.whole.weight /= pooled.std(0).mean()
        vlm.whole.bias.copy_(-(pooled @ vlm.whole.weight.T).mean(0))
    return method


def test_eq_1_to_5_written_out():
    a, b = gaussians(seed=0), gaussians(seed=1)
    found, d_sss = uncertain_similarity(a, b, TAU)
    for i in range(4):
        for j in range(4):
            w2 = sum((float(x) - float(y)) ** 2 for x, y in zip(a.mean[i], b.mean[j], strict=True))
            w2 += sum(
                (float(x) - float(y)) ** 2 for x, y in zip(a.sigma[i], b.sigma[j], strict=True)
            )
            assert wasserstein2(a, b)[i, j].item() == pytest.approx(w2, rel=1e-4)
            d_u = w2 / 6 + 0.05
            s1, s2 = a.embedding[i] / a.embedding[i].norm(), b.embedding[j] / b.embedding[j].norm()
            relative = min(d_u / (float((s1 - s2).norm()) + 1e-6), 50)
            expected = math.exp(-0.2 * relative)
            assert d_sss[i, j].item() == pytest.approx(expected, rel=1e-3)
            assert found[i, j].item() == pytest.approx(
                1 - (1 - float(s1 @ s2)) * expected, abs=1e-4
            )


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
        uncertain_similarity(
            base, base._replace(embedding=-base.embedding, mean=base.mean + shift), TAU
        )[0].item()
        for shift in (0.0, 0.5, 1.0, 2.0)
    ]
    assert scores == sorted(scores)
    assert scores[0] < scores[-1]
    far = [
        uncertain_similarity(
            Gaussian(torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2), torch.ones(1, 2)),
            Gaussian(
                torch.tensor([[math.cos(t), math.sin(t)]]), torch.ones(1, 2), torch.ones(1, 2)
            ),
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
    b = batch(unlabelled=False)
    method = spread_out(smoke("merge_equal_text=false").eval(), b.image)
    torch.manual_seed(5)
    losses = method.losses("pretrain", b)
    torch.manual_seed(5)
    rng = np.random.default_rng(int(torch.randint(2**31, ())))
    second = [meaning_kept(prompt, rng) for prompt in b.text.prompts]
    vlm = method.vlm
    i1, i2 = vlm.image(b.image)[0], vlm.image(b.views["strong"])[0]
    t1, t2 = (
        vlm.text(method.text_encoder(build_text(p, b.text.statements)))
        for p in (b.text.prompts, second)
    )

    def nce(x, y):
        s = (uncertain_similarity(x, y, vlm.tau)[0] / vlm.tau).detach()
        return (
            -sum(float(s[k, k]) - math.log(sum(math.exp(float(v)) for v in s[k])) for k in range(3))
            / 3
        )

    assert losses["cmc"].item() == pytest.approx((nce(i1, t1) + nce(t1, i1)) / 2, rel=1e-3)
    assert losses["imc"].item() == pytest.approx((nce(i1, i2) + nce(t1, t2)) / 2, rel=1e-3)
    assert abs(nce(i1, i2) - math.log(3)) > 0.01  # the images are told apart
    plain = spread_out(smoke("merge_equal_text=false", "sss=false").eval(), b.image)
    assert plain.losses("pretrain", b)["cmc"].item() != pytest.approx(
        losses["cmc"].item(), rel=1e-3
    )


def test_one_direction_of_the_contrast():
    s, y = torch.rand(4, 4), torch.eye(4)
    assert info_nce(s, y, 0.1).item() == pytest.approx(
        torch.nn.functional.cross_entropy(s / 0.1, torch.arange(4)).item()
    )


def test_eq_10_and_the_region_of_eq_11():
    torch.manual_seed(0)
    decoder = GroundingDecoder(6)
    patches, sentence = torch.randn(2, 6, 3, 4), torch.randn(2, 6)
    pixels, logits = decoder(patches, sentence)
    assert pixels.shape == (2, 6, 12, 16)
    assert logits.shape == (2, 1, 12, 16)
    cosine = torch.cosine_similarity(pixels[1, :, 7, 9], sentence[1], 0)
    assert logits[1, 0, 7, 9].item() == pytest.approx(10 * cosine.item() - 2.5, abs=1e-4)
    weight = torch.sigmoid(logits[0, 0])
    expected = (pixels[0] * weight).sum((1, 2)) / weight.sum()
    torch.testing.assert_close(pooled_region(pixels, logits)[0], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_eq_10_and_the_region_are_in_fp32_under_autocast(dtype):
    """In bf16 a logit of y_text near -8 would be a multiple of 0.06."""
    torch.manual_seed(0)
    decoder = GroundingDecoder(6)
    with torch.autocast("cpu", dtype):
        pixels, logits = decoder(torch.randn(2, 6, 3, 4), sentence := torch.randn(2, 6))
        region = pooled_region(pixels, logits)
    assert pixels.dtype == dtype
    exact = pixels.double()
    cosine = torch.cosine_similarity(exact, sentence[:, :, None, None].double(), 1)
    torch.testing.assert_close(
        logits[:, 0].double(), 10 * cosine - 2.5, atol=1e-5, rtol=1e-5, check_dtype=False
    )
    weight = 1 / (1 + (2.5 - 10 * cosine).exp())
    expected = (exact * weight[:, None]).sum((2, 3)) / weight.sum((1, 2))[:, None]
    torch.testing.assert_close(region.double(), expected, atol=1e-5, rtol=1e-4)


def test_eq_11_written_out():
    method = smoke("merge_equal_text=false").eval()
    b = batch(unlabelled=False)
    vlm, features = method.vlm, method.text_encoder(b.text)
    _, patches = vlm.image(b.image)
    pixels, logits = vlm.grounding(patches, vlm.text(features).embedding)
    region, sentence = pooled_region(pixels, logits).detach(), vlm.text(features).embedding.detach()
    tau, loss = vlm.tau.item(), 0.0
    for i in range(3):
        ours = [
            math.exp(float(torch.cosine_similarity(region[i], sentence[k], 0)) / tau)
            for k in range(3)
        ]
        theirs = [
            math.exp(float(torch.cosine_similarity(sentence[i], region[k], 0)) / tau)
            for k in range(3)
        ]
        loss -= (math.log(ours[i] / sum(ours)) + math.log(theirs[i] / sum(theirs))) / 2 / 3
    assert method.losses("pretrain", b)["tg"].item() == pytest.approx(loss, rel=1e-3)


def test_eq_12_and_13_the_teacher_follows_in_the_second_stage_only():
    method = smoke("ema.start=0.9", "ema.end=0.9")
    name, student = next(iter(method.net.named_parameters()))
    start, expected = student.detach().clone(), student.detach().clone()
    for step in range(4):
        with torch.no_grad():
            student += step + 1
        method.after_step("pretrain", step)
        assert torch.equal(method.teacher.net.get_buffer(name), start)
    for step in range(4):
        with torch.no_grad():
            student += step + 1
        method.after_step("segment", step)
        alpha = min(1 - 1 / (step + 1), 0.9)
        expected = alpha * expected + (1 - alpha) * student.detach()
        torch.testing.assert_close(method.teacher.net.get_buffer(name), expected)
    image = torch.rand(2, 3, 32, 32)
    method.eval()
    seen = method(image, build_text(PROMPTS[:2], [parse(p) for p in PROMPTS[:2]])).logits
    torch.testing.assert_close(seen, method.net((image - 0.5) / 0.25)[0])


def test_the_loss_of_eq_14_to_16_pixel_by_pixel_and_the_weights_of_eq_17():
    method = smoke().eval()
    b = batch()
    losses = method.losses("segment", b)
    labels = method._pseudo_labels(b.unlabelled)
    student = (
        torch.sigmoid(method.net((b.unlabelled.views["strong"] - 0.5) / 0.25)[0]).detach().double()
    )
    own = torch.sigmoid(method.net((b.image - 0.5) / 0.25)[0]).detach().double()
    for name, p, y in (
        ("sup", own, b.mask),
        ("merged", student, labels.merged),
        ("text", student, labels.text),
    ):
        total = 0.0
        for i in range(3):
            for q, t in zip(p[i].flatten().tolist(), y[i].flatten().tolist(), strict=True):
                total -= t * math.log(q) + (1 - t) * math.log(1 - q)
        assert losses[name].item() == pytest.approx(total / 3 / 32 / 32, rel=1e-3), name
    weights = DuSSSRecipe().stages[1].weights
    assert weights["sup"] == 1.0
    assert weights["merged"].to == weights["text"].to == 0.5


def test_the_merged_label_can_be_background_unless_it_is_taken_as_printed():
    teacher, text = torch.tensor([[[[-6.0, 6.0]]]]), torch.tensor([[[[-4.0, -1.0]]]])
    logits = merged_label(teacher, text, "logits")
    assert logits[0, 0, 0, 0] < 0.01
    torch.testing.assert_close(logits, torch.sigmoid(teacher + text))
    printed = merged_label(teacher, text, "probability")
    assert (printed >= 0.5).all()  # Eq. 15 over probabilities has no background
    torch.testing.assert_close(
        merged_label(teacher, text, "mean"), (torch.sigmoid(teacher) + torch.sigmoid(text)) / 2
    )


@pytest.mark.parametrize("p", [0.8, 0.9])
@pytest.mark.parametrize("level", [-2.5, 0.0, 3.0])
def test_a_map_that_says_nothing_leaves_the_teachers_decisions_alone(p, level):
    """Pseudo-labels are to be enhanced: a teacher that is right everywhere must stay right beside an empty map."""
    truth = (torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0)) > 0.7).float()
    teacher = torch.where(truth > 0, math.log(p / (1 - p)), math.log((1 - p) / p))
    merged = merged_label(teacher, torch.full_like(teacher, level), DuSSSRecipe().merge)
    torch.testing.assert_close(merged, torch.sigmoid(teacher), atol=1e-5, rtol=1e-4)
    both = ((merged > 0.5) * truth).sum()
    assert 2 * both / ((merged > 0.5).sum() + truth.sum()) == 1
    assert hard_dice(merged, truth) == 1


def test_a_map_that_is_right_corrects_a_teacher_that_is_not_sure():
    truth = torch.zeros(1, 1, 8, 8)
    truth[..., :4, :2] = 1
    teacher = torch.full((1, 1, 8, 8), -0.4)
    text = torch.where(truth > 0, 1.0, -4.0)
    assert hard_dice(torch.sigmoid(teacher), truth) == 0
    assert hard_dice(merged_label(teacher, text, "odds"), truth) == 1


def test_the_dice_of_every_label_with_the_truth_is_logged():
    method = smoke()
    b = batch()
    method.losses("segment", b)
    found = method.monitors()
    assert {"teacher_dice", "text_dice", "merged_dice"} <= set(found)
    labels = method.eval()._pseudo_labels(Batch(b.image, b.text))
    for name, label in labels._asdict().items():
        total = 0.0
        for i in range(3):
            inside, truth = label[i] > 0.5, b.mask[i] > 0.5
            size = int(inside.sum() + truth.sum())
            total += 2 * int((inside & truth).sum()) / size if size else 1.0
        assert found[f"{name}_dice"].item() == pytest.approx(total / 3, abs=0.02), name
    empty = torch.zeros(2, 1, 4, 4)
    assert hard_dice(empty, empty) == 1


# --- what the maps are made from


def test_the_grounding_decoder_reads_the_patch_tokens_that_the_contrast_trains():
    """The paper decodes "patch-level image features from the pre-trained VLM"."""
    for sss in ("true", "false"):
        method = smoke(f"sss={sss}")
        vlm, seen = method.vlm, []
        vlm.grounding.register_forward_hook(lambda _, inputs, __, seen=seen: seen.append(inputs[0]))
        b = batch()
        tokens = vlm.image(b.image)[1]
        vlm.mask_logits(b.image, method.text_encoder(b.text))
        torch.testing.assert_close(seen[0], tokens)
        for name in ("cmc", "imc"):
            assert gradient(method, method.losses("pretrain", b)[name], vlm.patch) > 0


def test_an_arm_whose_maps_are_not_trained_does_not_merge_them():
    with pytest.raises(ConfigError, match="Set merge=teacher"):
        DuSSSRecipe().override("stages.pretrain.weights.tg=0.0")
    for arm in get_method("dusss").ablation_tables["table2"]:
        recipe = DuSSSRecipe().lite().override(*arm.settings)
        trained = recipe.stage("pretrain").epochs and recipe.stage("pretrain").weights["tg"]
        assert (recipe.merge == "teacher") is not bool(trained)


def test_image_and_patches_know_where_something_is():
    """The paper's ViT has position codes; the sentences of QaTa are about places."""
    method = smoke().eval()
    vlm = method.vlm
    generator = torch.Generator().manual_seed(0)
    channels = vlm.encoder.info.channels
    patches = torch.randn(1, channels[-2], 4, 4, generator=generator)
    vlm.encoder = Maps(patches, torch.randn(1, channels[-1], 2, 2, generator=generator))
    apart, tokens = vlm.image(torch.zeros(1, 3, 32, 32))
    vlm.encoder.patches = patches.flip(3)
    moved, mirrored = vlm.image(torch.zeros(1, 3, 32, 32))
    # the same features at other places: a mean over places would not change, nor a token that moves along
    assert (apart.embedding - moved.embedding).abs().max() > 1e-3
    assert (tokens.flip(3) - mirrored).abs().max() > 0.1


class Maps(torch.nn.Module):
    """An encoder whose two coarsest maps are given."""

    def __init__(self, patches, coarsest):
        super().__init__()
        self.patches, self.coarsest = patches, coarsest

    def forward(self, image):
        return [self.patches, self.coarsest]


def test_reworded_prompts_are_not_farther_away_than_prompts_of_another_place():
    """Standardised by the prompts alone, a direction in which only wordings differ is stretched without bound."""
    prompts = [
        f"{lateral} pulmonary infection, {count} infected areas, {place}."
        for lateral, place in (
            ("unilateral", "lower left lung"),
            ("unilateral", "upper right lung"),
            ("bilateral", "lower left lung and lower right lung"),
        )
        for count in ("one", "two", "three")
    ]
    method = build_method(DuSSSRecipe().smoke().override("standardise_text=true"))
    method.prepare(prompts)

    def embedded(texts):
        return method.text_encoder(build_text(texts, [parse(t) for t in texts])).text_embedding

    rng = np.random.default_rng(1)
    views = [meaning_kept(prompt, rng) for prompt in prompts for _ in range(4)]
    spread = embedded(views).std(dim=0)
    assert spread.max() < 3
    own = embedded([prompt for prompt in prompts for _ in range(4)])
    reworded = (embedded(views) - own).norm(dim=1).mean()
    other = (embedded(prompts)[:3].mean(0) - embedded(prompts)[3:6].mean(0)).norm()
    assert reworded < 2 * other


# --- the U-Net of Table 1


def test_the_unet_has_the_printed_number_of_parameters():
    """14.75 M: one convolution as stem, 64-128-256-512-512, transposed convolutions, and nothing else."""

    def convolution(i, o):  # 3x3 with bias, and batch norm
        return 9 * i * o + o + 2 * o

    widths = (64, 128, 256, 512, 512)
    total = convolution(3, 64)
    for a, b in itertools.pairwise(widths):
        total += convolution(a, b) + convolution(b, b)
    for a, skip, out in ((512, 512, 256), (256, 256, 128), (128, 128, 64), (64, 64, 64)):
        total += 4 * a * a + a + convolution(a + skip, out) + convolution(out, out)
    total += 64 + 1
    assert round(total / 1e6, 2) == 14.75

    net = build_method(DuSSSRecipe(image_encoder="tiny", text_encoder="tiny")).net
    assert sum(p.numel() for p in net.parameters()) == total
    assert len([m for m in net.modules() if isinstance(m, torch.nn.ConvTranspose2d)]) == 4


@pytest.mark.parametrize("size", [(32, 32), (33, 45), (7, 70)])
def test_the_compact_unet_takes_any_size(size):
    net = CompactUNet((4, 6, 8, 8)).eval()
    logits, feature = net(torch.rand(2, 3, *size))
    assert logits.shape == (2, 1, *size)
    assert feature.shape == (2, 4, *size)


def test_a_merge_by_the_teacher_alone_is_a_mean_teacher_that_never_asks_the_sentence(monkeypatch):
    method = smoke("merge=teacher").eval()
    monkeypatch.setattr(method.vlm, "mask_logits", None)
    b = batch()
    taught = torch.sigmoid(method.teacher((b.unlabelled.image - 0.5) / 0.25)[0])
    labels = method._pseudo_labels(b.unlabelled)
    assert labels.text is None
    torch.testing.assert_close(labels.merged, taught)
    losses = method.losses("segment", b)
    assert losses["merged"].item() > 0
    # the unlabelled images weigh as much as with a map, or the baseline would learn less from them than DuSSS
    assert torch.equal(losses["text"], losses["merged"])
    assert set(method.monitors()) == {"merged_share", "teacher_dice", "merged_dice"}


def test_eq_14_to_16_with_each_images_own_prompt():
    method = smoke().eval()
    b = batch()
    losses = method.losses("segment", b)
    normal = (b.unlabelled.views["strong"] - 0.5) / 0.25
    student = method.net(normal)[0]
    text = method.vlm.mask_logits(b.unlabelled.image, method.text_encoder(b.unlabelled.text))
    teacher = method.teacher((b.unlabelled.image - 0.5) / 0.25)[0]
    own = method.net((b.image - 0.5) / 0.25)[0]
    torch.testing.assert_close(losses["sup"], bce(own, b.mask), atol=1e-5, rtol=1e-4)
    # odds of the teacher, times odds of the text over those of its mean
    level = torch.sigmoid(text).mean(dim=(2, 3), keepdim=True)
    odds = teacher.exp() * text.exp() / (level / (1 - level))
    torch.testing.assert_close(
        losses["merged"], bce(student, odds / (1 + odds)), atol=1e-4, rtol=1e-3
    )
    torch.testing.assert_close(
        losses["text"], bce(student, torch.sigmoid(text)), atol=1e-4, rtol=1e-3
    )
    other = replace(
        b, unlabelled=replace(b.unlabelled, text=build_text(PROMPTS[::-1], b.text.statements[::-1]))
    )
    assert not torch.equal(method.losses("segment", other)["text"], losses["text"])
    sum(losses.values()).backward()
    assert all(p.grad is None for p in method.vlm.parameters())  # frozen in step 2


def test_teacher_and_student_start_equal_and_all_labels_switch_the_branch_off():
    method = smoke()
    for name, value in method.net.state_dict().items():
        assert torch.equal(value, method.teacher.net.state_dict()[name])
    losses = method.losses("segment", batch(unlabelled=False))
    assert losses["merged"] == losses["text"] == 0


# --- what the released code does, and this must not -------------------------------------------------------------------


def gradient(method, loss, module):
    method.zero_grad()
    loss.backward()
    return sum(float(p.grad.abs().sum()) for p in module.parameters() if p.grad is not None)


def test_the_uncertain_similarity_is_what_is_contrasted_not_the_cosine():
    """There it is computed and not used: nothing would train the Gaussians."""
    method = smoke("sss=true")
    for name in ("cmc", "imc"):
        for head in (method.vlm.image_head, method.vlm.text_head):
            assert gradient(method, method.losses("pretrain", batch())[name], head) > 0
    plain = smoke("sss=false")
    assert not any(isinstance(module, GaussianHead) for module in plain.modules())
    assert plain.losses("pretrain", batch())["cmc"].isfinite()
    method = smoke()
    method.losses("pretrain", batch())["cmc"].backward()
    assert method.vlm.log_tau.grad.abs() > 0  # nor is the temperature left out


def test_the_whole_sentence_is_read_and_file_names_are_not():
    """There the online encoder gets the first letter of each sentence, and step 2 the names of the files."""
    method = smoke().eval()
    b = batch()
    tails = tuple(
        p.replace("lower", "upper") for p in PROMPTS
    )  # the same first letter, and much more
    assert [p[:10] for p in tails] == [p[:10] for p in PROMPTS]
    other = build_text(tails, [parse(p, laterality=Laterality.IMAGE) for p in tails])
    renamed = replace(
        b, keys=("a", "b", "c"), unlabelled=replace(b.unlabelled, keys=("d", "e", "f"))
    )
    for stage, name in (("pretrain", "cmc"), ("segment", "text")):

        def loss(given, stage=stage, name=name):
            torch.manual_seed(0)
            return method.losses(stage, given)[name].item()

        assert loss(renamed) == loss(b)
        assert loss(replace(b, text=other, unlabelled=replace(b.unlabelled, text=other))) != loss(b)


def test_a_pseudo_label_does_not_depend_on_the_sentences_of_its_neighbours():
    """There the masks of all sentences of the batch are averaged."""
    method = smoke().eval()
    unlabelled = batch().unlabelled
    prompts = (PROMPTS[0], PROMPTS[2], PROMPTS[1])
    others = replace(
        unlabelled,
        text=build_text(prompts, [parse(p, laterality=Laterality.IMAGE) for p in prompts]),
    )
    found, changed = method._pseudo_labels(unlabelled), method._pseudo_labels(others)
    for one, two in ((found.text, changed.text), (found.merged, changed.merged)):
        torch.testing.assert_close(one[0], two[0])
        assert not torch.allclose(one[1], two[1], atol=1e-6)


def test_the_second_view_of_an_image_is_encoded_itself():
    """There the Gaussian of the second view is that of the first."""
    b = batch(unlabelled=False)
    method = spread_out(smoke().eval(), b.image)
    found = []
    for views in (b.views, {"strong": 1 - b.image}):
        torch.manual_seed(0)
        found.append(method.losses("pretrain", replace(b, views=views)))
    assert found[0]["imc"] != found[1]["imc"]
    assert found[0]["cmc"] == found[1]["cmc"]


def test_the_text_term_trains_the_student_which_sees_another_view_than_the_teacher():
    """There it compares the sentence's mask with the teacher, and both networks see the same pixels."""
    method = smoke()
    b = batch()
    for name in ("merged", "text"):
        assert gradient(method, method.losses("segment", b)[name], method.net) > 0
    method.eval()
    before, losses = method._pseudo_labels(b.unlabelled), method.losses("segment", b)
    darker = replace(b.unlabelled, views={"strong": b.unlabelled.image * 0.2})
    for one, two in zip(before, method._pseudo_labels(darker), strict=True):
        assert torch.equal(one, two)
    assert method.losses("segment", replace(b, unlabelled=darker))["merged"] != losses["merged"]


def test_the_iou_of_a_batch_is_that_of_all_its_images():
    """There only that of the last image is kept."""
    truth = np.zeros((3, 4, 4), np.uint8)
    truth[:, :2] = 1
    guess = truth.copy()
    guess[:2] = 1 - truth[:2]  # only the last is right
    assert iou_per_image(counts(guess, truth)).mean() == pytest.approx(1 / 3)


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("merged", ["true", "false"])
def test_a_batch_of_equal_sentences_trains_with_finite_numbers(merged):
    method = smoke(f"merge_equal_text={merged}")
    b = batch()
    same = build_text(PROMPTS[:1] * 3, [parse(PROMPTS[0], laterality=Laterality.IMAGE)] * 3)
    losses = method.losses(
        "pretrain", replace(b, text=same, unlabelled=replace(b.unlabelled, text=same))
    )
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)


@pytest.mark.parametrize("dice_weight", [0.0, 0.5])
def test_tiles_without_foreground_train_with_finite_numbers(dice_weight):
    method = smoke(f"dice_weight={dice_weight}")
    b = batch()
    losses = method.losses("segment", replace(b, mask=torch.zeros_like(b.mask)))
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert all(torch.isfinite(p.grad).all() for p in method.net.parameters())


def test_sentences_longer_than_the_window_are_counted_and_told():
    method = build_method(DuSSSRecipe().smoke())
    with pytest.warns(
        PromptWarning, match=r"1 of 3 prompts are longer than the 64 tokens that tiny reads"
    ):
        method.prepare([*PROMPTS[:2], "lower left lung and " * 40])


def test_the_temperature_stays_in_its_range():
    method = smoke()
    for value, expected in ((-9.0, 0.01), (3.0, 0.5)):
        method.vlm.log_tau.data.fill_(value)
        assert method.vlm.tau.item() == pytest.approx(expected)


def test_a_second_view_of_a_sentence_keeps_its_place():
    rng = np.random.default_rng(0)
    for prompt in (
        *PROMPTS,
        "One small,circular,smooth colonic polyp on the top left.",
        "Hello World",
    ):
        for _ in range(12):
            assert parse(meaning_kept(prompt, rng)).zones == parse(prompt).zones
    assert drop_count(PROMPTS[0]) == "unilateral pulmonary infection, lower left lung."


def test_the_tables_are_lists():
    spec = get_method("dusss")
    assert [arm.name for arm in spec.ablation_tables["table2"]] == [
        "baseline",
        "sss",
        "dcl",
        "sss-tg",
        "dcl-tg",
        "sss-dcl",
        "all",
    ]
    for study in spec.ablation_tables.values():
        for arm in study:
            preset_recipe(arm.method or "dusss", "lite").override(*arm.settings)
