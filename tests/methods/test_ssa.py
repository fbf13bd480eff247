"""SSA: Eq. 1-4 against slow transcriptions, the prior's places, and what must carry no gradient."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from textmask.config import Ramp
from textmask.data.loaders import build_text
from textmask.errors import ConfigError
from textmask.methods.registry import build_method, get_method
from textmask.methods.ssa import SSARecipe
from textmask.methods.ssa.alignment import (
    Aligned,
    attention_map,
    global_loss,
    local_loss,
    mean_token,
)
from textmask.methods.ssa.guidance import (
    bounding_box,
    directed_zones,
    guidance,
    guide_loss,
    prior,
    refined,
    soft_box,
)
from textmask.statement import Laterality, Level, Side
from textmask.text.grammar import parse
from textmask.text.zones import ZONE_MAPS
from textmask.training.optim import weighted_sum
from textmask.types import Batch

LOWER_LEFT = "unilateral pulmonary infection, one infected areas, lower left lung."
UPPER_RIGHT = "unilateral pulmonary infection, one infected areas, upper right lung."
BOTH_LOWER = (
    "bilateral pulmonary infection, two infected areas, lower left lung and lower right lung."
)
WHOLE = torch.tensor([[0.0, 1.0, 0.0, 1.0]])


def claims(*prompts, laterality=Laterality.IMAGE):
    return tuple(parse(prompt, laterality=laterality) for prompt in prompts)


def batch(
    prompts=(LOWER_LEFT, UPPER_RIGHT, BOTH_LOWER), size=(32, 32), laterality=Laterality.IMAGE
):
    generator = torch.Generator().manual_seed(3)
    image = torch.rand(len(prompts), 3, *size, generator=generator)
    mask = (torch.rand(len(prompts), 1, *size, generator=generator) > 0.8).float()
    return Batch(image, build_text(prompts, claims(*prompts, laterality=laterality)), mask)


def aligned(real=(6, 4, 5), places=(3, 4), width=8):
    generator = torch.Generator().manual_seed(5)
    image = torch.randn(len(real), places[0] * places[1], width, generator=generator)
    words = torch.randn(len(real), 7, width, generator=generator)
    return Aligned(image, words, torch.arange(7) < torch.tensor(real)[:, None], places[0])


def smoke(*settings):
    return SSARecipe().smoke().override(*settings)


# --- DSOT (Eq. 1-2)


def test_global_loss_is_symmetric_infonce_on_mean_tokens():
    tokens = aligned()
    sentence = torch.eye(3)
    images = [tokens.image_tokens[b].mean(0) for b in range(3)]
    words = [tokens.text_tokens[b, : int(tokens.token_mask[b].sum())].mean(0) for b in range(3)]
    scores = [[float(torch.cosine_similarity(i, w, 0)) / 0.07 for w in words] for i in images]
    total = 0.0
    for b in range(3):
        total -= scores[b][b] - math.log(sum(math.exp(s) for s in scores[b]))
        total -= scores[b][b] - math.log(sum(math.exp(row[b]) for row in scores))
    assert global_loss(tokens, sentence, 0.07, False).item() == pytest.approx(
        total / 3 / 2, rel=1e-4
    )


def test_equal_sentences_are_no_negatives_when_merged():
    tokens = aligned()
    same = torch.ones(3, 4)
    uniform = Aligned(torch.ones(3, 12, 8), torch.ones(3, 7, 8), tokens.token_mask, 3)
    assert global_loss(uniform, same, 0.07, True).item() == pytest.approx(math.log(3), rel=1e-4)
    assert not torch.isclose(
        global_loss(tokens, same, 0.07, True), global_loss(tokens, same, 0.07, False)
    )


def test_local_loss_is_the_cost_of_the_plans_of_both_directions():
    """Eq. 1 and the loss, against a plan made with loops; far more iterations than the stop needs."""
    tokens, recipe = aligned(), SSARecipe(tolerance=1e-6, max_iterations=3000)
    expected = []
    for b in range(3):
        n, length = 12, int(tokens.token_mask[b].sum())
        cost = np.array(
            [
                [
                    1
                    - float(
                        torch.cosine_similarity(
                            tokens.image_tokens[b, i], tokens.text_tokens[b, j], 0
                        )
                    )
                    for j in range(length)
                ]
                for i in range(n)
            ]
        )
        kernel, u, v = np.exp(-cost / 0.03), np.ones(n), np.ones(length)
        for _ in range(3000):
            u = (1 / n) / (kernel @ v)
            v = (1 / length) / (kernel.T @ u)
        expected.append((u[:, None] * kernel * v[None] * cost).sum())
    assert local_loss(tokens, recipe).item() == pytest.approx(float(np.mean(expected)), rel=1e-3)


def test_padding_and_scale_take_no_part_in_the_alignment():
    tokens = aligned()
    noisy = tokens._replace(
        text_tokens=torch.where(tokens.token_mask[..., None], tokens.text_tokens, torch.tensor(9.0))
    )
    recipe = SSARecipe()
    torch.testing.assert_close(local_loss(noisy, recipe), local_loss(tokens, recipe))
    torch.testing.assert_close(
        mean_token(noisy.text_tokens, tokens.token_mask), mean_token(*tokens[1:3])
    )
    torch.testing.assert_close(attention_map(noisy), attention_map(tokens))


def test_the_attention_map_is_stretched_to_0_and_1_and_flat_where_all_places_agree():
    tokens = aligned()
    found = attention_map(tokens)
    assert found.shape == (3, 1, 3, 4)
    assert torch.equal(found.amin((1, 2, 3)), torch.zeros(3))
    assert torch.equal(found.amax((1, 2, 3)), torch.ones(3))
    words = mean_token(tokens.text_tokens, tokens.token_mask)
    cosine = torch.stack(
        [torch.cosine_similarity(tokens.image_tokens[0, i], words[0], 0) for i in range(12)]
    )
    expected = (cosine - cosine.min()) / (cosine.max() - cosine.min())
    torch.testing.assert_close(found[0, 0], expected.reshape(3, 4))
    flat = tokens._replace(image_tokens=torch.ones(3, 12, 8))
    assert torch.equal(attention_map(flat), torch.ones(3, 1, 3, 4))


# --- CDG (Eq. 3-4)


def test_the_prior_is_the_maximum_of_one_gaussian_a_zone():
    rows, columns = 24, 30
    table = ZONE_MAPS["chest"]
    found = prior(claims(BOTH_LOWER), WHOLE, (rows, columns))
    for i, j in ((0, 0), (14, 8), (14, 23), (23, 29), (5, 15)):
        y, x = (i + 0.5) / rows, (j + 0.5) / columns
        values = []
        for side in (Side.LEFT, Side.RIGHT):
            level = table.levels[Level.LOWER]
            values.append(
                math.exp(
                    -0.5 * ((x - table.sides[side].centre) / table.sides[side].sigma) ** 2
                    - 0.5 * ((y - level.centre) / level.sigma) ** 2
                )
            )
        assert found[0, 0, i, j].item() == pytest.approx(max(values), abs=1e-6)
    assert found.max() <= 1


@pytest.mark.parametrize(
    ("laterality", "left_half"),
    [(Laterality.IMAGE, True), (Laterality.PATIENT, False)],
    ids=["image", "patient"],
)
def test_lower_left_peaks_on_the_side_that_the_convention_names(laterality, left_half):
    found = prior(claims(LOWER_LEFT, laterality=laterality), WHOLE, (64, 64))[0, 0]
    row, column = divmod(int(found.argmax()), 64)
    assert (column < 32) is left_half
    assert row > 32
    mirrored = prior(
        tuple(s.mirrored() for s in claims(LOWER_LEFT, laterality=laterality)), WHOLE, (64, 64)
    )[0, 0]
    assert ((int(mirrored.argmax()) % 64) < 32) is not left_half


def test_with_an_unknown_laterality_convention_only_the_level_guides():
    found = prior(claims(LOWER_LEFT, laterality=Laterality.UNKNOWN), WHOLE, (64, 64))[0, 0]
    assert found[38, 18] > 0.9
    assert found[38, 50] > 0.9


def test_polyps_use_thirds_of_the_image():
    found = prior(
        claims("one small round polyp, located in top right of the image"), WHOLE, (60, 60)
    )[0, 0]
    row, column = divmod(int(found.argmax()), 60)
    assert (row // 20, column // 20) == (0, 2)


def test_no_place_gives_a_prior_of_1_and_bilateral_alone_two_places():
    statements = claims(
        "no pulmonary infection, zero infected areas.",
        "Hello World",
        "bilateral pulmonary infection.",
    )
    found = prior(statements, WHOLE.expand(3, 4), (16, 16))
    assert torch.equal(found[:2], torch.ones(2, 1, 16, 16))
    assert directed_zones(statements[2]) == {(Side.LEFT, Level.MIDDLE), (Side.RIGHT, Level.MIDDLE)}
    assert [bool(directed_zones(s)) for s in statements] == [False, False, True]


def test_the_box_is_tight_and_the_whole_image_if_the_attention_is_not_informative():
    maps = torch.zeros(4, 1, 20, 10)
    maps[0, 0, 4:9, 2:7] = 0.8
    maps[1, 0, 3, 3] = 1.0  # half a percent of the pixels
    maps[2] = 1.0
    maps[3, 0, :10, 9] = 0.5
    expected = [[4 / 20, 9 / 20, 0.2, 0.7], [0, 1, 0, 1], [0, 1, 0, 1], [0, 0.5, 0.9, 1.0]]
    torch.testing.assert_close(bounding_box(maps), torch.tensor(expected))


def test_the_frame_of_the_box_is_the_literal_reading():
    box = torch.tensor([[0.5, 1.0, 0.0, 0.5]])
    found = prior(claims(LOWER_LEFT), box, (80, 80), "box")[0, 0]
    assert not found[:40].any()
    assert not found[:, 40:].any()
    row, column = divmod(int(found.argmax()), 80)
    assert (row, column) == (pytest.approx(40 + 40 * 5 / 6, abs=1), pytest.approx(40 / 4, abs=1))
    image = prior(claims(LOWER_LEFT), box, (80, 80), "image")[0, 0]
    assert not image[:40].any()
    assert divmod(int(image.argmax()), 80) == (
        pytest.approx(0.6 * 80, abs=1),
        pytest.approx(0.28 * 80, abs=1),
    )


def test_eq_3_and_4_written_out():
    attention = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    statements = claims(LOWER_LEFT, "Hello World")
    found = guidance(attention, statements, (16, 16), "image")
    full = torch.nn.functional.interpolate(
        attention, (16, 16), mode="bilinear", align_corners=False
    )
    m_pri = prior(statements, bounding_box(full), (16, 16))
    torch.testing.assert_close(found.guide, full * m_pri)
    assert found.directed.tolist() == [True, False]
    logits = torch.randn(2, 1, 16, 16, requires_grad=True)
    target = refined(logits, found.guide, 0.3)
    assert not target.requires_grad
    total, count = 0.0, 0
    for i in range(16):
        for j in range(16):
            g, z = found.guide[0, 0, i, j].item(), logits[0, 0, i, j].item()
            if 0.3 < g < 0.7:
                continue
            p = 1 / (1 + math.exp(-z))
            t = 0.7 * p + 0.3 * g
            total -= t * math.log(p) + (1 - t) * math.log(1 - p)
            count += 1
    loss = guide_loss(logits, target, found, (0.3, 0.7))
    assert loss.item() == pytest.approx(total / count, rel=1e-4)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient[0].any()
    assert not gradient[1].any()
    assert guide_loss(logits, target, found, None) != loss


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_guide_loss_of_a_batch_of_large_images_is_summed_in_fp32(dtype):
    """Its 524 288 pixels sum up to more than fp16 can hold."""
    attention = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    found = guidance(attention, claims(LOWER_LEFT, UPPER_RIGHT), (512, 512), "image")
    logits = torch.randn(2, 1, 512, 512, generator=torch.Generator().manual_seed(1))
    p = torch.sigmoid(logits.double())
    target = 0.7 * p + 0.3 * found.guide
    expected = -(target * p.log() + (1 - target) * (1 - p).log()).mean()
    with torch.autocast("cpu", dtype):
        loss = guide_loss(logits, refined(logits, found.guide, 0.3), found, None)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_guide_loss_is_exactly_0_without_a_direction():
    found = guidance(torch.rand(2, 1, 4, 4), claims("Hello World", ""), (16, 16), "image")
    logits = torch.randn(2, 1, 16, 16, requires_grad=True)
    loss = guide_loss(logits, refined(logits, found.guide, 0.3), found, (0.3, 0.7))
    assert loss.item() == 0.0
    loss.backward()
    assert not logits.grad.any()


def test_the_guide_follows_the_sentence_of_an_augmented_sample():
    """A mirrored image with its mirrored prompt has the mirrored prior."""
    found = prior(claims(LOWER_LEFT), WHOLE, (32, 32))
    table = ZONE_MAPS["chest"]
    right = prior(tuple(s.mirrored() for s in claims(LOWER_LEFT)), WHOLE, (32, 32))
    assert table.sides[Side.LEFT].centre + table.sides[Side.RIGHT].centre == pytest.approx(1.07)
    assert (found.flip(3) - right).abs().max() < 0.4  # the measured centres are not quite symmetric
    assert right[..., 16:].sum() > 5 * right[..., :16].sum()


def lesion(prompt=LOWER_LEFT, size=64):
    """A lesion of the measured extent where the prompt says, and the attention that fits it exactly."""
    mask = torch.zeros(1, 1, size, size)
    mask[..., int(0.42 * size) : int(0.78 * size), int(0.12 * size) : int(0.44 * size)] = 1
    return mask, claims(prompt)


def pushed(refine, dead_zone, frame="image"):
    """Share of lesion pixels that an undecided prediction is told to lower, leave and raise; attention = true mask."""
    mask, statements = lesion()
    found = guidance(mask, statements, mask.shape[2:], frame)
    logits = torch.zeros_like(mask)
    target = refined(logits, found.guide, 0.3, refine)
    inside = mask > 0.5
    counted = torch.ones_like(inside)
    if dead_zone:
        counted = (found.guide <= dead_zone[0]) | (found.guide >= dead_zone[1])
    lower = (inside & counted & (target < 0.5)).sum() / inside.sum()
    higher = (inside & counted & (target > 0.5)).sum() / inside.sum()
    return lower.item(), higher.item()


def test_a_mix_lowers_much_of_a_lesion_that_the_attention_fits_and_a_renormalised_product_does_not():
    """28 % of QaTa's lesion pixels at 7 x 7 places: benchmarks/ssa_guidance.py."""
    lower, higher = pushed("mix", (0.3, 0.7))
    assert lower > 0.01
    assert higher < 0.6
    assert pushed("mix", None)[0] > 0.15
    assert pushed("product", None) == (1.0, 0.0)
    lower, higher = pushed("renormalised", None)
    assert lower < 0.02
    assert higher > 0.9


def test_the_three_refinements_written_out():
    generator = torch.Generator().manual_seed(0)
    guide = torch.rand(2, 1, 4, 4, generator=generator)
    logits = torch.randn(2, 1, 4, 4, generator=generator)
    p, m = torch.sigmoid(logits).numpy(), guide.numpy()
    for b in range(2):
        product = p[b] * m[b]
        wanted = {
            "mix": m[b],
            "product": product,
            "renormalised": product * p[b].sum() / product.sum(),
        }
        for name, fused in wanted.items():
            expected = np.clip(0.7 * p[b] + 0.3 * fused, 0, 1)
            np.testing.assert_allclose(
                refined(logits, guide, 0.3, name)[b].numpy(), expected, atol=1e-5
            )
    # a renormalised product has the area of the prediction
    whole = refined(logits - 3, guide, 1.0, "renormalised")
    np.testing.assert_allclose(
        whole.sum((1, 2, 3)), torch.sigmoid(logits - 3).sum((1, 2, 3)), rtol=1e-4
    )


def test_a_soft_box_is_the_tight_one_with_soft_edges():
    attention = torch.zeros(1, 1, 20, 10)
    attention[..., 4:9, 2:7] = 1.0
    hard = torch.zeros(1, 1, 20, 10)
    hard[..., 4:9, 2:7] = 1.0
    torch.testing.assert_close(soft_box(attention, width=1e-3), hard)
    assert 0 < soft_box(attention)[0, 0, 0, 0] < 0.01
    assert soft_box(attention)[0, 0, 5, 3] > 0.95


@pytest.mark.parametrize("box", ["tight", "soft"])
def test_end_to_end_the_guide_loss_trains_the_attention_too(box):
    """The paper: the guidance mask is synthesized "in a dynamic, end-to-end manner"."""
    attention = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    attention.requires_grad_()
    found = guidance(attention, claims(LOWER_LEFT), (16, 16), "image", box)
    logits = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    logits.requires_grad_()
    target = refined(logits, found.guide, 0.3)
    guide_loss(logits, target, found, None).backward()
    assert attention.grad.any()
    # the prediction is pulled to the target, and the target's own share of it is not pulled back
    p = torch.sigmoid(logits.detach())
    torch.testing.assert_close(logits.grad, (p - target.detach()) / 256, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("gradient", ["none", "attention"])
def test_the_field_decides_whether_the_alignment_learns_from_the_guide(gradient):
    method = build_method(smoke(f"guide_gradient={gradient}", "dead_zone=null"))
    method.prepare((LOWER_LEFT, UPPER_RIGHT, BOTH_LOWER))
    method.losses("segment", batch())["guide"].backward()
    weight = method.alignment.image[0].weight
    assert (weight.grad is not None and bool(weight.grad.any())) is (gradient == "attention")


def test_the_prior_of_axial_ct_knows_sides_and_no_levels():
    """Bands measured on chest radiographs say nothing about an axial slice."""
    upper, lower = (
        parse(
            f"Unilateral pulmonary infection, two infected areas, {x} left lung.", grammar="mosmed"
        )
        for x in ("upper", "lower")
    )
    statements = [replace(s, laterality=Laterality.IMAGE) for s in (upper, lower)]
    found = prior(statements, WHOLE.expand(2, 4), (40, 40))
    torch.testing.assert_close(found[0], found[1])
    rows, columns = found[0, 0].mean(1), found[0, 0].mean(0)
    assert rows.max() - rows.min() < 1e-3
    assert columns[:20].sum() > 3 * columns[20:].sum()


# --- the method


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("backbone.name=guide_decoder",),
        ("backbone.name=guide_decoder", "align_scale=2"),
        ("align_scale=1",),
    ],
)
def test_both_backbones_train_every_parameter(settings):
    recipe = smoke(*settings)
    method = build_method(recipe)
    method.prepare((LOWER_LEFT, UPPER_RIGHT, BOTH_LOWER))
    losses = method.losses("segment", batch())
    assert (
        set(losses) == set(recipe.stages[0].weights) == {"dice", "bce", "global", "local", "guide"}
    )
    sum(losses.values()).backward()
    assert [name for name, p in method.named_parameters() if p.grad is None] == []
    assert set(method.monitors()) == {"guide_shift", "lesion_lower", "lesion_left_out"}


@pytest.mark.parametrize("backbone", ["mmi_unet", "guide_decoder"])
def test_the_backbone_alone_decides_the_mask(backbone):
    """At equal weights ssa predicts what the backbone of its own method predicts."""
    ssa = build_method(smoke(f"backbone.name={backbone}")).eval()
    alone = build_method(get_method(backbone).recipe().smoke()).eval()
    state = {key: value for key, value in ssa.state_dict().items() if key in alone.state_dict()}
    alone.load_state_dict(state)
    b = batch()
    assert torch.equal(ssa(b.image, b.text).logits, alone(b.image, b.text).logits)


def test_forward_publishes_the_maps_of_fig_4():
    method, b = build_method(smoke()).eval(), batch(size=(33, 45))
    maps = method(b.image, b.text).aux
    assert set(maps) == {"attention", "prior", "guide"}
    for found in maps.values():
        assert found.shape == (3, 1, 33, 45)
        assert found.min() >= 0
        assert found.max() <= 1
    torch.testing.assert_close(maps["guide"], maps["attention"] * maps["prior"])


def test_the_convention_of_the_data_reaches_the_guide():
    method = build_method(smoke()).eval()
    image, patient = batch((LOWER_LEFT,)), batch((LOWER_LEFT,), laterality=Laterality.PATIENT)
    a, b = (method(x.image, x.text).aux["prior"][0, 0] for x in (image, patient))
    assert a[:, :16].sum() > b[:, :16].sum()
    assert a[:, 16:].sum() < b[:, 16:].sum()


@pytest.mark.parametrize(
    "prompts", [("",), ("No pulmonary infection, zero infected areas.", LOWER_LEFT)]
)
def test_sentences_that_name_nothing_train_without_nan(prompts):
    method = build_method(smoke())
    recipe = smoke()
    loss = weighted_sum(method.losses("segment", batch(prompts)), recipe.stages[0].weights, 0.0)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)


def test_the_ablations_are_weights_and_the_tables_are_lists():
    spec = get_method("ssa")
    assert [arm.name for arm in spec.ablation_tables["table2"]] == ["1", "2", "3", "4"]
    off = {
        arm.name: {
            term
            for term, weight in SSARecipe().override(*arm.settings).stages[0].weights.items()
            if not isinstance(weight, Ramp) and weight == 0
        }
        for arm in spec.ablation_tables["table2"]
    }
    assert off == {
        "1": {"global", "local", "guide"},
        "2": {"global", "local"},
        "3": {"guide"},
        "4": set(),
    }
    fractions = [
        SSARecipe().override(*arm.settings).stages[0].labelled_fraction
        for arm in spec.ablation_tables["table3"][1:]
    ]
    assert fractions == [0.15, 0.25, 0.5, 1.0]


def test_fields_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="fuses 3 scales"):
        SSARecipe().override("backbone.name=guide_decoder", "align_scale=3")
    with pytest.raises(ConfigError, match="the lower first"):
        SSARecipe().override("dead_zone=[0.7, 0.3]")
