"""`compose`: its formulas written out, programs over logits, refusal, synonyms, sides, and what is published."""

import math

import numpy as np
import pytest
import torch
from test_contract import make_batch

from textmask.data.loaders import build_text
from textmask.errors import ConfigError
from textmask.inference.predictor import Predictor
from textmask.methods.compose.model import (
    REGIONS,
    Existence,
    PixelEmbedding,
    QueryHead,
    Regions,
    scaled_products,
)
from textmask.methods.registry import build_method, get_method
from textmask.nn.sentence_head import SentenceHead
from textmask.nn.soft_program import EMPTY, ProgramExecutor, soft_and, soft_or
from textmask.statement import Laterality, Level, Side
from textmask.text.grammar import parse
from textmask.text.program_grammar import parse_program
from textmask.text.structures import structure_list
from textmask.training.loop import train
from textmask.types import TextFeatures

SIZE = (32, 32)
LUNG = "unilateral pulmonary infection, one infected areas, lower left lung."


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---- the formulas -------------------------------------------------------------------------------------------


def test_a_logit_is_the_scaled_product_of_query_and_pixel_plus_the_bias():
    queries, embedding = drawn(2, 3, 5), drawn(2, 4, 6, 7, seed=1)
    found = scaled_products(queries, embedding)
    for b in range(2):
        for q in range(3):
            for y in range(6):
                for x in range(7):
                    product = sum(float(queries[b, q, d] * embedding[b, d, y, x]) for d in range(4))
                    expected = product / math.sqrt(4) + float(queries[b, q, 4])
                    assert float(found[b, q, y, x]) == pytest.approx(expected, abs=1e-5)


def test_soft_or_and_and_are_log_sums_with_the_complement_as_minus():
    a, b = drawn(50) * 3, drawn(50, seed=1) * 3
    for x, y, either, both in zip(a, b, soft_or(a, b), soft_and(a, b), strict=True):
        x, y = float(x), float(y)
        assert float(either) == pytest.approx(math.log(math.exp(x) + math.exp(y)), abs=1e-5)
        assert float(both) == pytest.approx(-math.log(math.exp(-x) + math.exp(-y)), abs=1e-5)
    # never further from the hard operations than log 2
    assert (soft_or(a, b) - torch.maximum(a, b)).max() <= math.log(2) + 1e-5
    assert (torch.minimum(a, b) - soft_and(a, b)).max() <= math.log(2) + 1e-5
    assert torch.equal(soft_or(a), a)


def test_both_operands_of_a_soft_and_learn():
    a, b = (drawn(5) + 2).requires_grad_(), (drawn(5, seed=1) - 2).requires_grad_()
    soft_and(a, b).sum().backward()
    assert (a.grad > 0).all()
    assert (b.grad > 0).all()


def test_existence_is_a_weighted_sum_of_the_pooled_embedding_and_the_pooled_logit():
    layer, logits, embedding = Existence(4), drawn(2, 1, 3, 5), drawn(2, 4, 3, 5, seed=1)
    with torch.no_grad():
        layer.peak.fill_(0.7)
        found = layer(logits, embedding)
    for b in range(2):
        weights = [math.exp(float(x)) for x in logits[b].flatten()]
        weights = [w / sum(weights) for w in weights]
        pooled = [
            sum(w * float(e) for w, e in zip(weights, embedding[b, d].flatten(), strict=True))
            for d in range(4)
        ]
        peak = sum(w * float(x) for w, x in zip(weights, logits[b].flatten(), strict=True))
        w = layer.pooled.weight[0].tolist()
        expected = sum(a * p for a, p in zip(w, pooled, strict=True))
        expected += 0.7 * peak + layer.pooled.bias.item()
        assert float(found[b]) == pytest.approx(expected, abs=1e-4)


def test_a_pixel_embedding_is_the_shuffled_feature_plus_the_filtered_gray_image():
    layer, image = PixelEmbedding("tiny", 4).eval(), torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        embedding, feature = layer(image)
        coarse = layer.expand(feature)[0]
        detail = layer.detail(((image - 0.5) / 0.25).mean(1, keepdim=True))[0]
    s = layer.stride
    for d in range(4):
        for y in range(8):
            for x in range(8):
                sub = coarse[d * s * s + (y % s) * s + x % s, y // s, x // s]
                expected = max(float(sub + detail[d, y, x]), 0.0)
                assert float(embedding[0, d, y, x]) == pytest.approx(expected, abs=1e-5)


def test_regions_are_products_plus_a_learned_map():
    layer, embedding = Regions(4), drawn(2, 4, 14, 14)
    with torch.no_grad():
        plain = layer(embedding)
        layer.maps[0, REGIONS.index(Level.UPPER)] = 3.0
        found = layer(embedding)
    queries = layer.queries.expand(2, -1, -1)
    torch.testing.assert_close(plain, scaled_products(queries, embedding))
    changed = (found - plain).abs().amax(dim=(0, 2, 3))
    expected = [3.0 if place is Level.UPPER else 0.0 for place in REGIONS]
    torch.testing.assert_close(changed, torch.tensor(expected))


def test_a_query_starts_at_the_prior_and_the_neural_path_at_nothing():
    head = QueryHead(16, 8, 4)
    with torch.no_grad():
        head.layers[-1].weight.zero_()
        assert head(drawn(3, 16))[:, -1].tolist() == [-2.5] * 3
    path = SentenceHead(6, 2, 16, 8, 2)
    text = TextFeatures(drawn(2, 5, 16), drawn(2, 16), torch.ones(2, 5, dtype=torch.bool))
    out = path(drawn(2, 6, 4, 4), text, (7, 8))
    assert out.shape == (2, 1, 7, 8)
    assert not out.any()


# ---- programs over logits -----------------------------------------------------------------------------------

EXECUTOR = ProgramExecutor(structure_list())


def plane(rows, columns):
    """Logits that are 20 inside a box of the image and -20 outside."""
    logits = torch.full(SIZE, -20.0)
    logits[rows[0] : rows[1], columns[0] : columns[1]] = 20.0
    return logits


# a chest film as it is displayed: the right lung is on the left of the image, the heart in front of the left one
MAPS = {
    "lung": soft_or(plane((4, 24), (2, 12)), plane((4, 24), (18, 30))),
    "heart": plane((14, 26), (14, 24)),
    "clavicle": soft_or(plane((0, 3), (2, 12)), plane((0, 3), (18, 30))),
    "opacity": plane((2, 30), (0, 32)),
}
PLACES = {
    Side.LEFT: plane((0, 32), (0, 16)),
    Side.RIGHT: plane((0, 32), (16, 32)),
    Side.CENTER: plane((0, 32), (12, 20)),
    Level.UPPER: plane((0, 11), (0, 32)),
    Level.MIDDLE: plane((11, 21), (0, 32)),
    Level.LOWER: plane((21, 32), (0, 32)),
}


def box(rows, columns):
    mask = np.zeros(SIZE, bool)
    mask[rows[0] : rows[1], columns[0] : columns[1]] = True
    return mask


RIGHT_LUNG, LEFT_LUNG = box((4, 24), (2, 12)), box((4, 24), (18, 30))
HEART = box((14, 26), (14, 24))
SOFT = {
    "the heart": HEART,
    "the lungs": RIGHT_LUNG | LEFT_LUNG,
    "the left lung": LEFT_LUNG,
    "the right lung": RIGHT_LUNG,
    "the lung on the left side of the image": RIGHT_LUNG,
    "the left lung and the heart": LEFT_LUNG | HEART,
    "the lungs except the heart": (RIGHT_LUNG | LEFT_LUNG) & ~HEART,
    "no heart": np.zeros(SIZE, bool),
}


@pytest.mark.parametrize("prompt", SOFT)
def test_soft_steps_give_the_mask_that_the_prompt_means(prompt):
    program = parse_program(prompt, Laterality.PATIENT)
    assert EXECUTOR.is_soft(program)
    logits = {name: MAPS[name] for name in EXECUTOR.names(program)}
    found = EXECUTOR.soft(program, logits, PLACES.__getitem__)
    np.testing.assert_array_equal(found.numpy() > 0, SOFT[prompt])


PIECES = {
    "the larger of the two lungs": LEFT_LUNG,
    "the smallest lung": RIGHT_LUNG,
    "the clavicle above the right lung": box((0, 3), (2, 12)),
    "the lung opposite to the left clavicle": RIGHT_LUNG,
}


@pytest.mark.parametrize("prompt", PIECES)
def test_pieces_are_chosen_on_the_thresholded_maps(prompt):
    program = parse_program(prompt, Laterality.PATIENT)
    assert not EXECUTOR.is_soft(program)
    logits = {name: MAPS[name] for name in EXECUTOR.names(program)}
    found = EXECUTOR.pieces(program, logits, PLACES.__getitem__)
    np.testing.assert_array_equal(found.numpy() > 0, PIECES[prompt])
    assert not found.requires_grad


@pytest.mark.parametrize(
    ("prompt", "rows", "columns"),
    [
        (LUNG, (21, 30), (0, 16)),
        (LUNG.replace("left", "right"), (21, 30), (16, 32)),
        (LUNG.replace("lower", "upper"), (2, 11), (0, 16)),
        ("Opacity in the left lung.", (2, 30), (0, 16)),
    ],
)
def test_zones_are_opacity_by_side_and_level(prompt, rows, columns):
    program = parse_program(prompt, Laterality.IMAGE)
    assert EXECUTOR.is_soft(program)
    found = EXECUTOR.soft(program, {"opacity": MAPS["opacity"]}, PLACES.__getitem__)
    np.testing.assert_array_equal(found.numpy() > 0, box(rows, columns))


def test_everything_is_what_the_region_of_the_named_structures_has():
    program = parse_program("every structure except the heart", Laterality.PATIENT)
    names = set(EXECUTOR.names(program))
    assert {"lung", "clavicle", "heart"} <= names
    assert not names & {"liver", "myocardium", "L3 vertebra"}


def test_a_range_needs_its_members_and_a_group_all_of_them():
    assert set(EXECUTOR.names(parse_program("L2 to L4"))) == {
        "L2 vertebra",
        "L3 vertebra",
        "L4 vertebra",
    }
    assert set(EXECUTOR.names(parse_program("the white blood cell"))) == {"nucleus", "cytoplasm"}


# ---- the method ---------------------------------------------------------------------------------------------


def recipe_of(*settings):
    return get_method("compose").recipe().smoke().override("precision=fp32", *settings)


def built(*settings):
    """A method whose parameters are all random, so that nothing is 0 by its start."""
    method = build_method(recipe_of(*settings))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return method


def logits_of(method, *prompts, laterality=Laterality.PATIENT, image=None):
    if image is None:
        image = torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(2))
    text = build_text(prompts, [parse(prompt, "auto", laterality) for prompt in prompts])
    with torch.no_grad():
        return method(image.expand(len(prompts), -1, -1, -1), text).logits


def test_synonyms_and_other_wordings_of_a_program_have_the_same_mask():
    method = built("mode=program").eval()
    for prompts in (
        ("the left clavicle", "left collarbone", "Outline the left collar bone."),
        (LUNG, "Patchy opacity in the lower left lung."),
        ("the heart and the left lung", "heart, left lung"),
    ):
        first, *others = logits_of(method, *prompts)
        for other in others:
            torch.testing.assert_close(other, first)
    assert not torch.equal(*logits_of(method, "the left lung", "the right lung"))


def test_the_patients_left_is_the_right_of_the_image():
    method = built("mode=program").eval()
    (patient,) = logits_of(method, "the left lung", laterality=Laterality.PATIENT)
    (image,) = logits_of(method, "the right lung", laterality=Laterality.IMAGE)
    torch.testing.assert_close(patient, image)


def test_the_neural_path_alone_reads_all_words():
    method = built("mode=neural").eval()
    assert method.query_head is None
    one, other = logits_of(method, "the left clavicle", "left collarbone")
    assert not torch.equal(one, other)


def test_in_training_a_name_is_worded_in_ways_that_are_not_kept_for_tests():
    method = built("mode=program")
    structure = structure_list().structures["clavicle"]
    drawn_words = {method._wording("clavicle", seed) for seed in range(200)}
    assert drawn_words >= {"clavicle", "collarbone", "collar bone"}
    assert not drawn_words & set(structure.phrases["unseen"])
    assert method._wording("clavicle", None) == "clavicle"
    assert method._wording("optic disc", 7) == "optic disc"


@pytest.mark.filterwarnings("ignore::textmask.errors.PromptWarning")
@pytest.mark.parametrize("prompt", ["optic disc", "the spleen and the heart", "spleen " * 1500])
def test_an_unknown_name_is_refused_with_the_nearest_ones(prompt):
    method = built("near=1.0").eval()
    assert (logits_of(method, prompt) == EMPTY).all()
    text = build_text([prompt], [parse(prompt)])
    (reading,) = method.reading(text)
    assert len(reading.refused) >= 1
    assert all(len(set(names)) == 3 for names in reading.refused.values())
    assert {name for names in reading.refused.values() for name in names} <= set(reading.vocabulary)


def test_a_name_that_is_near_to_a_known_one_is_segmented_and_training_refuses_nothing():
    method = built("near=-1.0").eval()
    assert (logits_of(method, "optic disc") != EMPTY).any()
    (reading,) = method.reading(build_text(["optic disc"], [parse("optic disc")]))
    assert not reading.refused
    assert (logits_of(built("near=1.0").train(), "optic disc") != EMPTY).any()


@pytest.mark.parametrize("mode", ["program", "neural", "both"])
def test_nothing_is_nothing(mode):
    method = built(f"mode={mode}").eval()
    image = torch.rand(1, 3, *SIZE)
    text = build_text(["No heart is to be marked."], [parse("No heart is to be marked.")])
    with torch.no_grad():
        out = method(image, text)
    assert (out.logits == EMPTY).all()
    assert float(out.aux["existence"]) < 1e-4


@pytest.mark.filterwarnings("ignore::textmask.errors.PromptWarning")
@pytest.mark.parametrize("prompt", ["", "???", "the left right lung", "left " * 2000, "右肺"])
def test_odd_prompts_give_finite_logits(prompt):
    for mode in ("program", "both"):
        assert torch.isfinite(logits_of(built(f"mode={mode}").eval(), prompt)).all()


def test_prompts_about_pieces_teach_the_program_nothing_and_the_neural_path_something():
    recipe = recipe_of("mode=program")
    batch = make_batch(recipe, "segment", n=2)
    prompts = ("the largest vein", "the larger of the two lungs")
    text = build_text(prompts, [parse(prompt) for prompt in prompts])
    for mode in ("program", "both"):
        method = built(f"mode={mode}")
        losses = method.losses("segment", type(batch)(batch.image, text, batch.mask))
        assert bool(losses["bce"] == 0) == (mode == "program")
        assert torch.isfinite(sum(losses.values()))


def test_paraphrases_are_compared_when_their_term_has_a_weight():
    recipe = recipe_of("mode=program", "stages.segment.weights.paraphrase=1.0")
    method = build_method(recipe)
    batch = make_batch(recipe, "segment")
    torch.manual_seed(0)
    found = [float(method.losses("segment", batch)["paraphrase"].detach()) for _ in range(8)]
    assert max(found) > 0
    assert float(built().losses("segment", batch)["paraphrase"].detach()) == 0


def test_it_learns_the_zones_of_captions():
    """One image with an opacity in each of four zones: only the prompt tells which one is meant."""
    recipe = recipe_of("mode=program")
    method = build_method(recipe)
    places = [("upper", "left"), ("upper", "right"), ("lower", "left"), ("lower", "right")]
    prompts = [f"one infected areas, {level} {side} lung." for level, side in places]
    masks = torch.zeros(4, 1, *SIZE)
    for i in range(4):
        top, left = 4 + 16 * (i // 2), 4 + 16 * (i % 2)
        masks[i, :, top : top + 8, left : left + 8] = 1
    image = (0.2 + 0.6 * masks.sum(0, keepdim=True)).expand(4, 3, -1, -1)
    text = build_text(prompts, [parse(p, "auto", Laterality.IMAGE) for p in prompts])
    batch = type(make_batch(recipe, "segment"))(image, text, masks)
    optimizer = torch.optim.Adam(method.parameters(), 0.03)
    for _ in range(60):
        losses = method.losses("segment", batch)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    method.eval()
    # an unseen wording of each zone
    others = [f"Patchy opacity in the {level} {side} lung." for level, side in places]
    found = logits_of(method, *others, laterality=Laterality.IMAGE, image=image[:1]) > 0
    for mask, own in zip(found, masks, strict=True):
        overlap = 2 * float((mask * own).sum()) / float(mask.sum() + own.sum())
        assert overlap > 0.6


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("mode=words", "mode"),
        ("near=1.5", "near"),
        ("hidden=10", "multiple of 4"),
        ("width=0", "width"),
        ("hidden=1", "hidden"),
    ],
)
def test_a_wrong_setting_is_named(setting, words):
    with pytest.raises(ConfigError, match=words):
        recipe_of(setting)


def test_an_unknown_encoder_and_heads_that_do_not_fit_are_named():
    with pytest.raises(ConfigError, match="8 channels cannot be split over 3 heads"):
        build_method(recipe_of("heads=3"))
    with pytest.raises(ConfigError, match="image encoder"):
        build_method(recipe_of("image_encoder=resnet"))


def test_a_predictor_says_what_it_understood(phantom_manifest, tmp_path):
    run = tmp_path / "run"
    recipe = recipe_of("near=1.0", "stages.segment.prompts=2")
    train(recipe, phantom_manifest, run, cache_dir=tmp_path, progress=False)
    opened = Predictor(run).open(np.random.default_rng(0).integers(0, 255, (40, 30), np.uint8))
    found = opened.segment("opacity in the lower left lung", "image")
    assert "opacity" in found.vocabulary
    assert found.program["step"]["step"] == "AtLevel"
    assert 0 <= found.existence <= 1
    assert found.to_dict()["program"] == found.program
    assert "refused_name" not in found.warnings

    refused = opened.segment("the optic disc", "image")
    assert "refused_name" in refused.warnings
    assert not refused.mask.any()
    assert refused.to_dict()["refused"] == dict(refused.reading.refused)
