"""Semi-MedRef and Mean Teacher: Eq. 2-9 against slow transcriptions, the gate, conflicting sides, who sees what."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from textmask.data.loaders import build_text
from textmask.data.patch_mix import (
    PatchMix,
    conflict,
    gated,
    patch_mix,
    region,
    union,
)
from textmask.losses.contrastive import jaccard_target, soft_contrastive
from textmask.losses.segmentation import bce, soft_dice
from textmask.methods.registry import build_method, get_method, preset_recipe
from textmask.methods.semi_medref import SemiMedRefRecipe
from textmask.methods.semi_medref.text_views import position_augmented, text_view
from textmask.statement import Laterality, Level, Side
from textmask.text.grammar import parse
from textmask.types import Batch

LEFT = "unilateral pulmonary infection, one infected areas, lower left lung."
UPPER_LEFT = "unilateral pulmonary infection, one infected areas, upper left lung."
RIGHT = "unilateral pulmonary infection, one infected areas, upper right lung."
BOTH = "bilateral pulmonary infection, two infected areas, lower left lung and lower right lung."
POLYP = "one small round polyp, located in top right of the image"


def text(*prompts, laterality=Laterality.IMAGE):
    return build_text(prompts, [parse(p, laterality=laterality) for p in prompts])


def settings(mode="position", share=1.0, tau=0.55, scope="sample", block=8):
    return PatchMix(mode, block, share, tau, scope)


def mix(t, probability, how, image=None, seed=0):
    n, _, rows, columns = probability.shape
    if image is None:
        image = (
            torch.arange(n, dtype=torch.float32)[:, None, None, None]
            .expand(n, 3, rows, columns)
            .clone()
        )
    return patch_mix(image, probability, t, t.prompts, how, torch.Generator().manual_seed(seed))


# --- PosAug


@pytest.mark.parametrize(
    "prompt",
    [
        LEFT,
        "Bilateral pulmonary infection, two infected areas, all left lung and midlle lower right lung.",
        "Unilateral pulmonary infection, one infected area,lower left lung.",
        "Patchy opacity in the left lower lobe.",
        POLYP,
        "One small,circular,smooth colonic polyp on the top left.",
    ],
)
def test_posaug_finds_the_place_in_every_style_and_typo(prompt):
    rng = np.random.default_rng(0)
    assert parse(prompt).zones
    dropped = position_augmented(prompt, "[MASK]", 1.0, "dropout", rng)
    blurred = position_augmented(prompt, "[MASK]", 1.0, "fuzzing", rng)
    assert "[MASK]" in dropped
    assert "a region of the" in blurred
    for changed in (dropped, blurred):
        assert not parse(changed).zones


def test_posaug_keeps_a_share_of_sentences_and_mixes_both_edits():
    t = text(*[LEFT] * 400)
    view = text_view(t, "posaug", "[MASK]", 0.5, "mix", np.random.default_rng(0))
    kept = sum(p == LEFT for p in view.prompts)
    dropped = sum("[MASK]" in p for p in view.prompts)
    assert 150 < kept < 250
    assert 60 < dropped < 140
    assert view.statements == t.statements  # what is true of the image does not change
    assert text_view(t, "none", "[MASK]", 0.5, "mix", np.random.default_rng(0)) is t
    assert (
        position_augmented("Hello World", "[MASK]", 1.0, "mix", np.random.default_rng(0))
        == "Hello World"
    )


# --- T-PatchMix (Eq. 6-8)


def test_regions_follow_the_bands_and_the_convention():
    assert region(text(LEFT).statements[0]) == (0.42, 0.80, 0.0, 0.5)
    assert region(text(LEFT, laterality=Laterality.PATIENT).statements[0]) == (0.42, 0.80, 0.5, 1.0)
    assert region(text(BOTH).statements[0]) == (0.42, 0.80, 0.0, 1.0)
    assert region(text("Hello World").statements[0]) is None
    assert region(text(POLYP).statements[0]) == pytest.approx((0, 1 / 3, 2 / 3, 1))


def test_mixing_is_off_for_opposite_sides_and_on_for_shared_ones():
    left, right, both = text(LEFT, RIGHT, BOTH).statements
    assert conflict(left, right)
    assert not conflict(left, both)
    assert not conflict(left, left)
    assert not conflict(text("Hello World").statements[0], left)
    certain = torch.ones(2, 1, 32, 32)
    assert not mix(text(LEFT, RIGHT), certain, settings()).mix_mask.any()
    assert mix(text(LEFT, UPPER_LEFT), certain, settings()).mix_mask.any()


def test_eq_6_to_8_written_out():
    """Two samples, all blocks of a sample's own region, gate passed: image, target and text by loops."""
    generator = torch.Generator().manual_seed(1)
    probability = torch.rand(2, 1, 32, 32, generator=generator) * 0.2 + 0.6
    image = torch.rand(2, 3, 32, 32, generator=generator)
    t = text(LEFT, UPPER_LEFT)
    found = mix(t, probability, settings(tau=0.7, scope="block", block=8), image)
    for i, j in ((0, 1), (1, 0)):
        top, bottom, left, right = region(t.statements[i])
        for by in range(4):
            for bx in range(4):
                inside = round(top * 4) <= by < round(bottom * 4) and round(left * 4) <= bx < round(
                    right * 4
                )
                block = slice(8 * by, 8 * by + 8), slice(8 * bx, 8 * bx + 8)
                ratio = probability[j, 0][block].mean()  # Eq. 7
                taken = bool(inside and ratio >= 0.7)
                source = j if taken else i
                assert bool(found.mix_mask[i, 0][block].all()) is taken
                assert torch.equal(
                    found.image[i, :, block[0], block[1]], image[source, :, block[0], block[1]]
                )  # Eq. 6
                expected = probability[source, 0][block] >= 0.7  # Eq. 8
                assert torch.equal(found.target[i, 0][block], expected)


def test_the_region_is_named_by_the_students_own_prompt():
    """Section 2.3: the phrase of "the student text" names the region, and M is sampled "only within this region"."""
    certain = torch.ones(2, 1, 200, 200)
    found = mix(text(UPPER_LEFT, BOTH), certain, settings(block=10)).mix_mask[:, 0]
    # upper left: image columns 0 to 100, and rows of the upper band, 0 to 45 %; lower, both sides: 42 to 80 %
    expected = torch.zeros(2, 200, 200, dtype=torch.bool)
    expected[0, :90, :100] = True
    expected[1, 80:160, :] = True
    assert torch.equal(found, expected)


def test_a_perfect_teacher_mixes_the_lesion_of_the_partner_where_the_own_prompt_looks():
    """Eq. 7 keeps "background or non-lesion patches" out: every lesion block of the region passes, and no other."""
    truth = torch.zeros(2, 1, 200, 200)
    truth[0, :, 90:150, 20:80] = 1
    truth[1, :, 100:180, 40:60] = 1
    recipe = SemiMedRefRecipe()
    how = PatchMix(recipe.mix, 10, 1.0, recipe.tau, recipe.gate, recipe.mix_p)
    found = mix(text(LEFT, LEFT), truth, how).mix_mask
    inside = torch.zeros(200, 200, dtype=torch.bool)
    inside[80:160, :100] = True  # lower left: rows 42 to 80 % by blocks of ten
    assert torch.equal(found[0, 0], (truth[1, 0] > 0) & inside)
    assert torch.equal(found[1, 0], (truth[0, 0] > 0) & inside)

    half = PatchMix(recipe.mix, 10, recipe.mix_share, recipe.tau, recipe.gate, recipe.mix_p)
    shares = [
        mix(text(LEFT, LEFT), truth, half, seed=seed).mix_mask[1].sum() / 3600 for seed in range(20)
    ]
    assert 0.4 < sum(shares) / 20 < 0.6


def test_the_released_rule_mixes_one_block_into_eight_percent_of_the_samples():
    n = 250
    certain = torch.ones(n, 1, 200, 200)
    how = PatchMix("released", 10, 1.0, 0.55, "sample", 0.08)
    image = torch.zeros(n, 3, 200, 200)
    found = mix(text(*[UPPER_LEFT] * n), certain, how, image)
    per_sample = found.blocks.flatten(1).sum(1)
    assert set(per_sample.tolist()) == {0, 1}
    assert 8 <= int(per_sample.sum()) <= 34  # 20 expected, three deviations
    assert not found.mix_mask[:, :, 90:].any()
    assert not found.mix_mask[..., 100:].any()
    apart = text(*[LEFT, RIGHT] * 2)
    shift_by_one = mix(apart, certain[:4], PatchMix("released", 10, 1.0, 0.55, "sample", 1.0))
    for i, j in enumerate(shift_by_one.partner.tolist()):
        assert bool(shift_by_one.blocks[i].any()) is ((i - j) % 2 == 0)  # off for other sides


def test_mixed_samples_and_pixels_are_logged():
    method = smoke()
    with torch.no_grad():
        torch.manual_seed(0)
        method.losses("semi", batch())
    found = method.monitors()
    assert {"mixed_samples", "mixed_pixels", "pseudo_share"} <= set(found)
    assert 0 <= found["mixed_pixels"] <= found["mixed_samples"] <= 1


def test_a_sample_whose_gate_fails_is_unchanged_in_image_target_and_text():
    """The released code mixes the image with the ungated mask: a foreign patch that neither label nor text knows."""
    probability = torch.full((2, 1, 32, 32), 0.3)
    probability[0] = 0.9  # sample 1 may take from 0, but 0 must not take from 1
    t = text(LEFT, UPPER_LEFT)
    found = mix(t, probability, settings())
    assert not found.mix_mask[0].any()
    assert torch.equal(found.image[0], torch.zeros(3, 32, 32))
    assert found.target[0].all()
    assert found.text.prompts[0] == LEFT
    assert found.mix_mask[1].any()
    pasted = found.mix_mask[1, 0]
    assert torch.equal(found.image[1, :, pasted], torch.zeros(3, int(pasted.sum())))
    assert torch.equal(found.target[1, 0], pasted)


def test_the_gate_is_the_mean_inside_the_whole_patch_or_of_each_block():
    blocks = torch.tensor([[[True, True], [False, False]]])
    confidence = torch.tensor([[[0.9, 0.1], [1.0, 1.0]]])
    assert not gated(blocks, confidence, settings(tau=0.55)).any()
    assert torch.equal(gated(blocks, confidence, settings(tau=0.5)), blocks)
    each = gated(blocks, confidence, settings(tau=0.55, scope="block"))
    assert each.tolist() == [[[True, False], [False, False]]]
    assert torch.equal(gated(blocks, confidence * 0, settings("naive")), blocks)


def test_the_text_is_rebuilt_from_what_the_mixed_target_shows():
    probability = torch.full((2, 1, 32, 32), 0.9)
    found = mix(text(LEFT, UPPER_LEFT), probability, settings())
    zones = {(Side.LEFT, Level.UPPER), (Side.LEFT, Level.LOWER)}
    for prompt, statement in zip(found.text.prompts, found.text.statements, strict=True):
        assert parse(prompt).zones == statement.zones == zones
    assert (
        found.text.prompts[0]
        == "unilateral pulmonary infection, two infected areas, upper lower left lung."
    )
    target = np.zeros((32, 32), bool)
    target[2:6, 2:6] = True
    claim, said = union(*text(LEFT, UPPER_LEFT).statements, target)
    assert (
        claim.zones == parse(said).zones == {(Side.LEFT, Level.UPPER)}
    )  # the lower zone is empty now
    empty, said = union(*text(LEFT, UPPER_LEFT).statements, np.zeros((32, 32), bool))
    assert empty.absent
    assert parse(said).absent


def test_sentences_that_cannot_be_united_are_not_mixed():
    a, b = text(LEFT).statements[0], text(UPPER_LEFT, laterality=Laterality.PATIENT).statements[0]
    whole = np.ones((8, 8), bool)
    assert union(a, b, whole) is None
    mosmed = parse(
        "Unilateral pulmonary infection, one infected areas, lower left lung.",
        "mosmed",
        Laterality.IMAGE,
    )
    upper = parse(
        "Unilateral pulmonary infection, one infected areas, upper left lung.",
        "mosmed",
        Laterality.IMAGE,
    )
    assert union(mosmed, upper, whole) is None  # that style has no words for two levels of a lung


def test_polyps_are_mixed_in_their_own_words():
    other = "one large polyp, located in center right of the image"
    found = mix(text(POLYP, other), torch.full((2, 1, 48, 48), 0.9), settings(scope="block"))
    assert found.mix_mask.any()
    for prompt, statement in zip(found.text.prompts, found.text.statements, strict=True):
        assert "polyp" in prompt
        assert parse(prompt).zones == statement.zones


def test_probability_mode_takes_confident_blocks_and_naive_checks_nothing():
    probability = torch.zeros(2, 1, 32, 32)
    probability[1, 0, :8, :8] = 1.0
    found = mix(text(LEFT, BOTH), probability, settings("probability"))
    assert found.mix_mask[0, 0, :8, :8].all()
    assert int(found.mix_mask[0].sum()) == 64
    naive = mix(text(LEFT, RIGHT), probability, settings("naive"))
    assert naive.mix_mask.all()
    assert naive.text.prompts == (LEFT, RIGHT)  # the sentences now say what is not there
    none = mix(text(LEFT, RIGHT), probability, settings("none"))
    assert not none.mix_mask.any()


@pytest.mark.parametrize("size", [(33, 47), (8, 8), (5, 9)])
def test_any_size_and_a_batch_of_one(size):
    found = mix(text(LEFT, UPPER_LEFT), torch.full((2, 1, *size), 0.9), settings())
    assert found.image.shape == (2, 3, *size)
    assert found.mix_mask.shape == (2, 1, *size)
    alone = mix(text(LEFT), torch.full((1, 1, *size), 0.9), settings())
    assert not alone.mix_mask.any()


# --- ITCL (Eq. 9)


def test_eq_9_written_out():
    zones = text(LEFT, UPPER_LEFT, BOTH, "no pulmonary infection, zero infected areas.").zones
    generator = torch.Generator().manual_seed(2)
    similarity = torch.rand(4, 4, generator=generator) * 2 - 1
    affinity = [[0.0] * 4 for _ in range(4)]
    for i in range(4):
        for j in range(4):
            a, b = ({k for k in range(9) if zones[n, k]} for n in (i, j))
            affinity[i][j] = 1.0 if i == j or not (a | b) else len(a & b) / len(a | b)
    assert affinity[0][2] == 0.5
    total = 0.0
    for i in range(4):
        rows = math.log(sum(math.exp(similarity[i, k].item() / 0.07) for k in range(4)))
        columns = math.log(sum(math.exp(similarity[k, i].item() / 0.07) for k in range(4)))
        weight = sum(affinity[i])
        total -= (
            sum(affinity[i][j] * (similarity[i, j].item() / 0.07 - rows) for j in range(4))
            / weight
            / 4
        )
        total -= (
            sum(affinity[i][j] * (similarity[j, i].item() / 0.07 - columns) for j in range(4))
            / weight
            / 4
        )
    found = soft_contrastive(similarity, jaccard_target(zones), 0.07) / 2
    assert found.item() == pytest.approx(total / 2, rel=1e-4)
    torch.testing.assert_close(jaccard_target(zones).sum(1), torch.ones(4))


# --- the methods


def batch(stage="semi", n=3, size=(32, 32), unlabelled=True):
    prompts = (LEFT, RIGHT, BOTH)[:n]
    generator = torch.Generator().manual_seed(3)

    def stream():
        image = torch.rand(n, 3, *size, generator=generator)
        mask = (torch.rand(n, 1, *size, generator=generator) > 0.7).float()
        return Batch(image, text(*prompts), mask, prompts, {"strong_blur": image * 0.9})

    labelled = stream()
    return replace(labelled, unlabelled=replace(stream(), mask=None) if unlabelled else None)


def smoke(name="semi_medref", *overrides):
    method = build_method(get_method(name).recipe().smoke().override(*overrides))
    method.prepare((LEFT, RIGHT, BOTH))
    return method


PLAIN = ("text_view=none", "mix=none")


@pytest.mark.parametrize("backbone", ["mmi_unet", "guide_decoder"])
def test_the_consistency_is_dice_and_bce_with_the_hard_pseudo_mask(backbone):
    """Eq. 3-4: the teacher sees the weak view and the sentence as it is, the student the strong one."""
    method = smoke("semi_medref", f"backbone.name={backbone}", *PLAIN).train()
    for module in method.net.modules():  # dropout would differ between the two passes
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    b = batch()
    features = method.text_encoder
    weak = method.teacher(b.unlabelled.image, features(b.unlabelled.text)).logits
    with torch.no_grad():  # about half of the pixels reach tau
        method.teacher.net.head.out.bias += math.log(0.55 / 0.45) - weak.median()
    weak = method.teacher(b.unlabelled.image, features(b.unlabelled.text)).logits
    losses = method.losses("semi", b)
    pseudo = (torch.sigmoid(weak.float()) >= 0.55).float()
    image = torch.cat([b.image, b.unlabelled.views["strong_blur"]])
    joined = build_text(b.text.prompts * 2, b.text.statements * 2)
    strong = method.net(image, features(joined)).logits
    expected = soft_dice(strong[3:], pseudo) + bce(strong[3:], pseudo)
    torch.testing.assert_close(losses["cons"], expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(losses["dice"], soft_dice(strong[:3], b.mask), atol=1e-4, rtol=1e-4)
    assert set(losses) == {"dice", "bce", "cons", "itcl_l", "itcl_u"}


def test_an_empty_pseudo_mask_teaches_nothing_while_its_prompt_names_a_place():
    """Only a pseudo-mask that is empty because the prompt names no place may teach "nothing there"."""
    method = smoke("semi_medref", *PLAIN)
    with torch.no_grad():  # a teacher that marks nothing
        method.teacher.net.head.out.weight.zero_()
        method.teacher.net.head.out.bias.fill_(-3.0)
    b = batch()
    losses = method.losses("semi", b)
    assert losses["cons"] == 0
    losses["cons"].backward(retain_graph=True)
    assert not any(p.grad is not None and p.grad.any() for p in method.net.parameters())
    assert method.monitors()["taught"] == 0

    # the second image shows nothing and says so
    normal = text(LEFT, "no pulmonary infection, zero infected areas.", BOTH)
    b = replace(b, unlabelled=replace(b.unlabelled, text=normal))
    losses = method.losses("semi", b)
    assert losses["cons"] > 0
    assert method.monitors()["taught"] == pytest.approx(1 / 3)


def test_a_skipped_image_counts_as_0_in_the_mean_over_the_unlabelled_images():
    logits = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    mask = (logits > 0.3).float().flip(0)
    counted = torch.tensor([True, False, True])
    for loss in (soft_dice, bce):
        each = [loss(logits[i : i + 1], mask[i : i + 1]) for i in range(3)]
        torch.testing.assert_close(loss(logits, mask, counted), (each[0] + each[2]) / 3)
        torch.testing.assert_close(loss(logits, mask), sum(each) / 3)


def test_the_second_stage_starts_with_a_teacher_that_is_the_student():
    """Unbiased Teacher, to which the paper refers for its burn-in: the student is copied when it ends."""
    method = smoke("semi_medref", "ema.start=0.99", "ema.end=0.99")
    for step in range(3):
        with torch.no_grad():
            for p in method.net.parameters():
                p.add_(0.1)
        method.after_step("burn_in", step)
    student = method.net.state_dict()
    assert all(torch.equal(v, student[k]) for k, v in method.teacher.net.state_dict().items())

    # then it is an average
    with torch.no_grad():
        for p in method.net.parameters():
            p.add_(0.1)
    method.after_step("semi", 0)
    kept = method.teacher.net.state_dict()["head.out.bias"]
    assert kept < method.net.state_dict()["head.out.bias"]


def test_the_burn_in_never_looks_at_the_unlabelled_stream():
    method = smoke()
    state = torch.get_rng_state()
    a = method.losses("burn_in", batch())
    torch.set_rng_state(state)
    b = method.losses("burn_in", batch(unlabelled=False))
    assert set(a) == {"dice", "bce"}
    assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("name", ["semi_medref", "mean_teacher"])
def test_with_all_labels_the_unlabelled_terms_are_0(name):
    losses = smoke(name).losses("semi", batch(unlabelled=False))
    assert losses["cons"] == 0
    assert losses.get("itcl_u", torch.zeros(())) == 0
    sum(losses.values()).backward()


def test_the_student_alone_gets_gradients_and_the_teacher_follows():
    method = smoke()
    before = {k: v.clone() for k, v in method.teacher.state_dict().items()}
    sum(method.losses("semi", batch()).values()).backward()
    assert all(p.grad is not None for p in method.parameters())
    assert all(torch.equal(v, before[k]) for k, v in method.teacher.state_dict().items())
    with torch.no_grad():
        for p in method.parameters():
            p.add_(0.1)
    method.after_step("semi", 0)
    method.after_step("semi", 1)
    assert int(method.teacher.steps) == 2
    assert not torch.equal(method.teacher.net.ups[0].up.weight, before["net.ups.0.up.weight"])


def test_mean_teacher_is_the_squared_distance_of_probabilities():
    method = smoke("mean_teacher").train()
    for module in method.net.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    b = batch()
    losses = method.losses("semi", b)
    taught = torch.sigmoid(
        method.teacher(b.unlabelled.image, method.text_encoder(b.unlabelled.text)).logits
    )
    image = torch.cat([b.image, b.unlabelled.views["strong_blur"]])
    said = build_text(b.text.prompts * 2, b.text.statements * 2)
    probability = torch.sigmoid(method.net(image, method.text_encoder(said)).logits[3:])
    torch.testing.assert_close(
        losses["cons"], (probability - taught).square().mean(), atol=1e-5, rtol=1e-4
    )


def test_the_tables_are_lists_and_every_ablation_is_a_value():
    spec = get_method("semi_medref")
    assert [arm.name for arm in spec.ablation_tables["table2"]] == [
        "baseline",
        "teacher",
        "posaug",
        "mix",
        "itcl",
    ]
    recipes = {
        arm.name: SemiMedRefRecipe().override(*arm.settings)
        for arm in spec.ablation_tables["table2"]
    }
    assert [recipes[name].mix for name in ("teacher", "posaug", "mix", "itcl")] == [
        "none",
        "none",
        "position",
        "position",
    ]
    assert recipes["baseline"].stages[1].weights["cons"] == 0
    assert {arm.name for arm in spec.ablation_tables["table3"]} >= {"text-strong", "cutmix", "v3"}
    for study in spec.ablation_tables.values():
        for arm in study:
            preset_recipe(arm.method or "semi_medref", "lite").override(*arm.settings)


def test_the_arms_of_few_labels_see_as_many_labelled_images():
    arms = get_method("semi_medref").ablation_tables["few_labels"]
    recipes = [
        preset_recipe(arm.method or "semi_medref", "lite").override(*arm.settings) for arm in arms
    ]
    names = ["mmi_unet", "mean_teacher", "semi_medref", "statement_unet", "unet", "text_prior"]
    assert [recipe.method for recipe in recipes] == names
    del recipes[-1]  # averages masks, without steps
    assert [
        sum(s.epochs * s.steps_per_epoch * s.batch_size for s in recipe.stages)
        for recipe in recipes
    ] == [4160] * 5
    assert {recipe.image_size for recipe in recipes} == {(128, 128)}
