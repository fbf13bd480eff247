"""C2Seg: every equation against a literal transcription, and what the paper leaves to trip over."""

import json
import math

import pytest
import torch
from torch import nn

from textmask.errors import ConfigError
from textmask.methods.c2seg import C2SegRecipe
from textmask.methods.c2seg.model import BCAM, MLP, DualA, Fusion, KGate, Normed
from textmask.methods.registry import build_method, get_method, load_recipe, preset_recipe
from textmask.nn.kan import KANLinear
from textmask.text.grammar import parse
from textmask.types import Batch, Text

PROMPTS = (
    "unilateral pulmonary infection, one infected areas, lower left lung.",
    "bilateral pulmonary infection, two infected areas, lower left lung and upper right lung.",
    "unilateral pulmonary infection, one infected areas, upper right lung.",
)


def text_of(prompts) -> Text:
    return Text(
        tuple(prompts), torch.tensor([parse(p).bits() for p in prompts], dtype=torch.float32)
    )


def batch_of(prompts, size=(32, 32)) -> Batch:
    image = torch.rand(len(prompts), 3, *size, generator=torch.Generator().manual_seed(3))
    mask = torch.zeros(len(prompts), 1, *size)
    mask[..., : size[1] // 2] = 1
    return Batch(image, text_of(prompts), mask)


def smoke(**changes):
    recipe = C2SegRecipe().smoke().model_copy(update=changes)
    method = build_method(recipe)
    method.prepare(PROMPTS)
    return method


def literal_bcam(
    module: BCAM,
    v: torch.Tensor,
    l: torch.Tensor,  # noqa: E741
    n: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Eq. 4-6 of one image with loops; `n` real tokens."""
    vk, vv, lk, lv = (
        module.vision_key(v),
        module.vision_value(v),
        module.language_key(l),
        module.language_value(l),
    )
    places, channels = v.shape
    a = torch.zeros(places, n)
    for p in range(places):
        for t in range(n):
            a[p, t] = (vk[p] @ lk[t]) / math.sqrt(channels)
    f_v, f_l = torch.zeros(places, channels), torch.zeros(places, channels)
    for p in range(places):
        weights = a[p].exp() / a[p].exp().sum()
        for t in range(n):
            f_v[p] += weights[t] * lv[t]
            f_l[p] += a[p, t].exp() / a[:, t].exp().sum() * vv[p] / n
    return f_v, f_l


@pytest.mark.parametrize("scale", ["none", "P"])
def test_bcam_is_equations_4_to_6_and_padding_takes_no_part(scale):
    torch.manual_seed(0)
    module = BCAM(8, KANLinear, scale=scale)
    v, l = torch.randn(2, 6, 8), torch.randn(2, 5, 8)  # noqa: E741
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    streams = module(v, l, mask)
    for b, n in enumerate((5, 3)):
        f_v, f_l = literal_bcam(module, v[b], l[b], n)
        assert torch.allclose(streams.vision[b], f_v, atol=1e-5)
        assert torch.allclose(streams.language[b], f_l * (6 if scale == "P" else 1), atol=1e-5)
    l[1, 3:] = 1e3
    again = module(v, l, mask)
    assert torch.equal(again.vision, streams.vision)
    assert torch.equal(again.language, streams.language)


def test_uniform_attention_times_p_returns_the_visual_value():
    module = BCAM(8, KANLinear, scale="P")
    for parameter in module.vision_key.parameters():
        nn.init.zeros_(parameter)  # A = 0
    v = torch.randn(2, 6, 8)
    streams = module(v, torch.randn(2, 4, 8), torch.ones(2, 4, dtype=torch.bool))
    assert torch.allclose(streams.language, module.vision_value(v), atol=1e-5)
    module.scale = "none"
    as_printed = module(v, torch.randn(2, 4, 8), torch.ones(2, 4, dtype=torch.bool)).language
    assert torch.allclose(as_printed * 6, module.vision_value(v), atol=1e-5)


def test_dual_a_updates_the_text_tokens_and_places_read_them_back():
    """Its language path "updates only the text tokens"; the KANs belong to BCAM."""
    torch.manual_seed(0)
    module = DualA(8)
    weight = {name: value.detach() for name, value in module.named_parameters()}
    v, l = torch.randn(1, 6, 8), torch.randn(1, 4, 8)  # noqa: E741

    def linear(name, x):
        return x @ weight[f"{name}.weight"].T + weight[f"{name}.bias"]

    streams = module(v, l, torch.ones(1, 4, dtype=torch.bool))
    a = linear("vision_key", v[0]) @ linear("language_key", l[0]).T / math.sqrt(8)
    assert torch.allclose(
        streams.vision[0], a.softmax(1) @ linear("language_value", l[0]), atol=1e-5
    )
    tokens = a.T.softmax(1) @ linear("vision_value", v[0])
    assert torch.allclose(streams.language[0], a.softmax(1) @ tokens, atol=1e-5)
    assert not any(isinstance(part, KANLinear) for part in module.modules())


# --- the maps of BCAM and K-Gate, written out from the paper alone


def edge_sums(parameters, prefix, x):
    """KAN(x), ... I -> ... O: a sum over edges of silu and cubic B-splines on five intervals of [-1, 1]."""
    base, spline, scale = (
        parameters[f"{prefix}.{name}"] for name in ("base_weight", "spline_weight", "spline_scale")
    )
    knots = [-1 + 0.4 * i for i in range(-3, 9)]
    level = [((x >= a) & (x < a + 0.4)).float() for a in knots[:-1]]
    for p in range(1, 4):
        level = [
            (x - knots[i]) / (0.4 * p) * level[i]
            + (knots[i] + 0.4 * (p + 1) - x) / (0.4 * p) * level[i + 1]
            for i in range(len(level) - 1)
        ]
    curves = torch.einsum("...ik,oki,oi->...o", torch.stack(level, -1), spline, scale)
    return curves + (x * torch.sigmoid(x)) @ base.T


def test_eq_7_is_two_kans_and_nothing_else():
    """g = tanh(KAN2(ReLU(KAN1(F)))): no norm is printed, so a gate sees how strong its stream is."""
    method = smoke(kan_norm=False)
    gate = method.fusion["1"].vision_gate
    parameters = {name: value.detach() for name, value in gate.named_parameters()}
    f = torch.rand(1, 5, 8, generator=torch.Generator().manual_seed(0)) - 0.5
    for strength in (1.0, 10.0):
        hidden = torch.relu(edge_sums(parameters, "map1", strength * f))
        expected = strength * f * torch.tanh(edge_sums(parameters, "map2", hidden))
        torch.testing.assert_close(gate(strength * f), expected, atol=1e-5, rtol=1e-4)
    assert C2SegRecipe().kan_norm is False
    assert C2SegRecipe().lite().kan_norm is False


def test_a_norm_in_front_blinds_the_gate_to_the_strength_of_its_stream():
    f = torch.rand(1, 5, 8, generator=torch.Generator().manual_seed(0)) - 0.5
    difference = {}
    for norm in (False, True):
        gate = smoke(kan_norm=norm).fusion["1"].vision_gate
        difference[norm] = (gate(10 * f) / 10 - gate(f)).abs().max().item()
    assert difference[True] < 1e-4 < 1e-2 < difference[False]


@pytest.mark.parametrize("value", ["bcam_map=linear", "gate=mlp", "bcam_map=kan"])
def test_the_norm_is_in_front_of_all_kinds_of_maps_or_of_none(value):
    for norm in (False, True):
        recipe = C2SegRecipe().smoke().override(value, f"kan_norm={norm}".lower())
        norms = [m for m in build_method(recipe).fusion.modules() if isinstance(m, nn.LayerNorm)]
        assert len(norms) == (8 * 2 if norm else 0)  # four maps and two gates of two, two levels


def test_the_mlp_of_table_4_is_not_a_linear_map():
    """The KAN layers of K-Gate are replaced by "standard MLPs": each has a hidden layer."""
    torch.manual_seed(0)
    for module in (MLP(6, 4), Normed(MLP, 6, 4)):
        x, y = torch.randn(2, 6), torch.randn(2, 6)
        assert module(x).shape == (2, 4)
        curved = module(x + y) - module(x) - module(y) + module(torch.zeros(2, 6))
        assert curved.abs().max() > 1e-3
    mlp = MLP(6, 4)
    first, last = mlp[0], mlp[-1]
    hidden = torch.relu(x @ first.weight.T + first.bias)
    torch.testing.assert_close(mlp(x), hidden @ last.weight.T + last.bias)


def test_the_language_stream_is_not_lost_beside_the_visual_one():
    """Eq. 6 as printed is about V_value / P: at the finest scale of the paper, 112 x 112, its share is nothing."""
    v = torch.randn(1, 112 * 112, 16, generator=torch.Generator().manual_seed(0))
    l = torch.randn(1, 6, 16, generator=torch.Generator().manual_seed(1))  # noqa: E741
    token_mask = torch.ones(1, 6, dtype=torch.bool)
    ratio = {}
    for scale in ("none", "P"):
        torch.manual_seed(0)
        streams = BCAM(16, nn.Linear, scale)(v, l, token_mask)
        ratio[scale] = (streams.language.std() / streams.vision.std()).item()
    assert ratio["none"] < 1e-3
    assert 0.2 < ratio["P"] < 20
    assert C2SegRecipe().language_path_scale == "P"
    assert C2SegRecipe().lite().language_path_scale == "P"
    printed = next(
        arm for arm in get_method("c2seg").ablation_tables["table3"] if arm.name == "printed"
    )
    assert C2SegRecipe().override(*printed.settings).language_path_scale == "none"


def test_a_recipe_of_an_earlier_version_keeps_its_norm_and_its_scale():
    tree = json.loads(C2SegRecipe().to_json())
    del tree["kan_norm"]
    tree["language_path_scale"] = "none"
    old = load_recipe(json.dumps(tree))
    assert old.kan_norm is True
    assert old.language_path_scale == "none"
    assert load_recipe(C2SegRecipe().to_json()) == C2SegRecipe()


@pytest.mark.parametrize(
    ("data_set", "lr"),
    [("qata-cov19", 1e-3), ("cvc-clinicdb", 1e-3), ("mosmeddata+", 3e-4), ("kvasir", 3e-4)],
)
def test_the_initial_learning_rate_is_the_printed_one(data_set, lr):
    """Printed: 1e-3 for QaTa-COV19 and CVC-ClinicDB, 3e-4 for MosMedData+ and Kvasir, Adam, cosine."""
    settings = get_method("c2seg").card.printed_for.get(data_set, ())
    for stage in C2SegRecipe().override(*settings).stages:
        assert stage.optim.lr == pytest.approx(lr)
        assert stage.optim.name == "adam"
        assert stage.schedule.name == "cosine"


def test_a_sentence_without_tokens_gives_zero_and_no_nan():
    module = BCAM(8, KANLinear)
    v = torch.randn(1, 6, 8, requires_grad=True)
    streams = module(v, torch.zeros(1, 3, 8), torch.zeros(1, 3, dtype=torch.bool))
    (streams.vision + streams.language).sum().backward()
    assert not streams.vision.any()
    assert not streams.language.any()
    assert torch.isfinite(v.grad).all()


def test_one_token_is_everything_to_the_vision_path():
    module = BCAM(8, KANLinear)
    l = torch.randn(1, 1, 8)  # noqa: E741
    streams = module(torch.randn(1, 6, 8), l, torch.ones(1, 1, dtype=torch.bool))
    assert torch.allclose(streams.vision, module.language_value(l).expand(1, 6, 8), atol=1e-6)


def test_k_gate_is_equation_7():
    gate, f = KGate(8, KANLinear), torch.randn(2, 5, 8)
    assert torch.allclose(gate(f), f * torch.tanh(gate.map2(torch.relu(gate.map1(f)))))
    assert (gate(f).abs() <= f.abs() + 1e-6).all()


def test_fusion_mixes_both_gated_streams():
    torch.manual_seed(0)
    fusion = Fusion(8, 10, BCAM(8, KANLinear), KANLinear)
    v, l = torch.randn(2, 8, 3, 4), torch.randn(2, 5, 10)  # noqa: E741
    mask = torch.ones(2, 5, dtype=torch.bool)
    out, weight = fusion(v, l, mask)
    tokens = v.flatten(2).transpose(1, 2)
    f_v, f_l, _ = fusion.attention(tokens, l @ fusion.text.weight.T, mask)
    both = torch.cat([fusion.vision_gate(f_v), fusion.language_gate(f_l)], 2)
    expected = both @ fusion.mix.weight.T + fusion.mix.bias
    assert torch.allclose(out, expected.transpose(1, 2).reshape(2, 8, 3, 4), atol=1e-6)
    # Eq. 6: a softmax over the 12 places, times their number
    assert torch.allclose(weight.sum(dim=(1, 2, 3)), torch.full((2,), 12.0), atol=1e-4)


def test_segment_loss_is_half_bce_half_dice():
    recipe = C2SegRecipe()
    assert recipe.stage("segment").weights == {"bce": 0.5, "dice": 0.5}
    method, batch = smoke(), batch_of(PROMPTS)
    p, y = method(batch.image, batch.text).probability, batch.mask
    losses = method.losses("segment", batch)
    literal_bce = -(y * p.log() + (1 - y) * (1 - p).log()).mean()
    dice = [
        1 - (2 * (p[i] * y[i]).sum() + 1e-5) / (p[i].sum() + y[i].sum() + 1e-5) for i in range(3)
    ]
    assert losses["bce"].item() == pytest.approx(literal_bce.item(), rel=1e-4)
    assert losses["dice"].item() == pytest.approx(sum(dice).item() / 3, rel=1e-4)


def test_pretraining_logs_entropy_and_diagonal_and_leaves_the_decoder_alone():
    from textmask.training.optim import parameter_groups

    method, batch = smoke(), batch_of(PROMPTS)
    loss = method.losses("pretrain", batch)["contrast"]
    monitors = method.monitors()
    assert 0 < monitors["target_diagonal"] <= 1
    assert 0 <= monitors["target_entropy"] <= math.log(3) + 1e-6
    parameter_groups(method, method.recipe.stage("pretrain"))
    loss.backward()
    trained = {name.split(".")[0] for name, p in method.named_parameters() if p.requires_grad}
    assert trained == {"encoder", "image_head"}


def test_hard_contrast_is_another_target():
    batch = batch_of(PROMPTS)
    losses = {
        name: smoke(contrast=name).losses("pretrain", batch)["contrast"].item()
        for name in ("hard", "cacl")
    }
    assert losses["hard"] != losses["cacl"]
    hard = smoke(contrast="hard", rho=0.5)
    hard.losses("pretrain", batch)
    assert hard.monitors()["target_diagonal"] == 1


@pytest.mark.parametrize("prompts", [PROMPTS[:1], (PROMPTS[0],) * 3, ("a",) * 2, ("",) * 2])
@pytest.mark.parametrize("stage", ["pretrain", "segment"])
def test_one_sample_equal_sentences_and_short_ones_train(prompts, stage):
    method = smoke()
    losses = method.losses(stage, batch_of(prompts))
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)


@pytest.mark.parametrize("size", [(32, 32), (33, 45), (17, 70)])
@pytest.mark.parametrize(
    "changes", [{}, {"stem_stride": 4}, {"encoder": "conv"}, {"encoder": "kan"}]
)
def test_sizes_that_no_power_of_two_divides(size, changes):
    method = smoke(**changes).eval()
    batch = batch_of(PROMPTS, size)
    assert method(batch.image, batch.text).logits.shape == (3, 1, *size)


def test_extreme_logits_and_autocast_give_finite_losses():
    method, batch = smoke(), batch_of(PROMPTS)
    head = method.head.out
    nn.init.constant_(head.bias, 1e4)
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype):
            losses = method.losses("segment", batch) | method.losses("pretrain", batch)
        assert all(torch.isfinite(loss) for loss in losses.values())


@pytest.mark.parametrize(
    "changes",
    [
        {"fusion": "none"},
        {"fusion": "dual_a", "gate": "none"},
        {"gate": "mlp"},
        {"bcam_map": "linear"},
        {"encoder": "conv"},
        {"encoder": "kan"},
        {"residual": True},
        {"kan_norm": True},
        {"kan_norm": True, "gate": "mlp", "bcam_map": "linear"},
        {"language_path_scale": "none"},
    ],
)
def test_every_ablation_is_a_field_and_trains(changes):
    method, batch = smoke(**changes), batch_of(PROMPTS)
    losses = method.losses("segment", batch)
    sum(losses.values()).backward()
    trained = {n for n, p in method.named_parameters() if not n.startswith("image_head")}
    assert trained == {n for n, p in method.named_parameters() if p.grad is not None}


def test_image_only_does_not_read_the_sentence():
    method, batch = smoke(fusion="none").eval(), batch_of(PROMPTS)
    other = method(batch.image, text_of(PROMPTS[::-1])).logits
    assert torch.equal(method(batch.image, batch.text).logits, other)


def test_the_named_studies_are_valid_recipes():
    studies = get_method("c2seg").ablation_tables
    assert [arm.name for arm in studies["table3"]] == [*"abcdefgh", "printed"]
    for arms in studies.values():
        for arm in arms:
            recipe = preset_recipe(arm.method or "c2seg", "lite").override(*arm.settings)
            assert recipe.method == (arm.method or "c2seg")


@pytest.mark.parametrize(
    "setting",
    [
        "fuse_levels=[0, 7]",
        "fuse_levels=[1, 1]",
        "contrast=none",
        "widths=[4, 8]",
        "tau=0",
        "rho=2",
    ],
)
def test_settings_that_cannot_be_are_refused(setting):
    with pytest.raises(ConfigError):
        C2SegRecipe().override(setting)


def test_parameter_count_of_the_parity_preset_is_the_papers():
    from textmask.methods.registry import count_parameters

    assert count_parameters(C2SegRecipe()) / 1e6 == pytest.approx(18.92, rel=0.05)
