"""The semi-supervised baselines: each loss on unlabelled images against a slow transcription of its paper."""

import math
from dataclasses import replace

import pytest
import torch

from textmask.data.loaders import build_text
from textmask.methods.registry import build_method, get_method, preset_recipe
from textmask.text.grammar import parse
from textmask.types import Batch

PROMPTS = (
    "unilateral pulmonary infection, one infected areas, lower left lung.",
    "unilateral pulmonary infection, one infected areas, upper right lung.",
    "bilateral pulmonary infection, two infected areas, lower left lung and lower right lung.",
)
BASELINES = ("mean_teacher", "cps", "fixmatch", "unimatch", "ua_mt")
SIZE = 16


def stream(seed, masked=False):
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(3, 3, SIZE, SIZE, generator=generator)
    mask = (torch.rand(3, 1, SIZE, SIZE, generator=generator) > 0.7).float()
    text = build_text(PROMPTS, [parse(prompt) for prompt in PROMPTS])
    views = {"strong_blur": image * 0.9, "strong": image * 0.8}
    return Batch(image, text, mask if masked else None, PROMPTS, views)


def batch():
    return replace(stream(3, masked=True), unlabelled=stream(4))


def spread(head, logits):
    """Rescale the last layer of a head, so that its probabilities are not all alike."""
    std, mean = torch.std_mean(logits)
    with torch.no_grad():
        head.out.weight.mul_(1.5 / std)
        head.out.bias.sub_(mean).mul_(1.5 / std)


def smoke(name, *overrides):
    """A method in eval mode, without dropout and with fixed statistics; all its networks differ."""
    method = build_method(preset_recipe(name, "smoke").override(*overrides))
    method.prepare(PROMPTS)
    method.eval()
    text = method.features(stream(3).text)
    nets = [method.net, getattr(method, "other", None), method.teacher and method.teacher.net]
    for i, net in enumerate(net for net in nets if net is not None):
        generator = torch.Generator().manual_seed(i)
        with torch.no_grad():
            for value in net.state_dict().values():
                if value.is_floating_point():
                    value.add_(0.05 * torch.rand(value.shape, generator=generator))
        if method.text_encoder is not None:
            spread(net.head, net(stream(3).image, text).logits.detach())
    return method


def predicted(method, net, image, text=None):
    """Probabilities of a network, as nested lists of one image each: pixels in reading order."""
    features = method.text_encoder(build_text(PROMPTS, [parse(prompt) for prompt in PROMPTS]))
    with torch.no_grad():
        logits = net(image, features).logits.double()
    return torch.sigmoid(logits).flatten(1).tolist()


def cross_entropy(p, y):
    return -math.log(p) if y else -math.log(1 - p)


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def pixels(*maps):
    """Pixel by pixel over images, one value of each map."""
    for images in zip(*maps, strict=True):
        yield from zip(*images, strict=True)


# --- what all of them share


@pytest.mark.parametrize("name", BASELINES)
def test_budgets_are_equal_in_every_preset(name):
    """Only the loss on unlabelled images, and what it needs, may differ from Mean Teacher."""
    for preset in ("paper", "lite", "smoke"):
        ours, theirs = preset_recipe(name, preset), preset_recipe("mean_teacher", preset)
        for field in ("backbone", "text_encoder", "unet", "network", "image_size", "precision"):
            assert getattr(ours, field) == getattr(theirs, field)
        for a, b in zip(ours.stages, theirs.stages, strict=True):
            skipped = {"weights", "views", "lr_scale"}
            assert a.model_dump(exclude=skipped) == b.model_dump(exclude=skipped)
            assert {k: a.weights[k] for k in ("dice", "bce")} == {"dice": 1.0, "bce": 1.0}
            assert "strong_blur" in a.views or a.name == "burn_in"


@pytest.mark.parametrize("name", BASELINES)
def test_with_all_labels_and_in_the_burn_in_nothing_is_unlabelled(name):
    method = smoke(name)
    labelled = replace(batch(), unlabelled=None)
    burn_in = method.losses("burn_in", batch())
    found = method.losses("semi", labelled)
    assert set(burn_in) == {"dice", "bce"}
    for key, loss in burn_in.items():
        torch.testing.assert_close(found.pop(key), loss)
    assert found
    assert all(loss == 0 for loss in found.values())


@pytest.mark.parametrize("name", BASELINES)
def test_an_image_only_network_never_reads_the_prompt(name):
    method = smoke(name, "network=unet")
    assert method.text_encoder is None
    assert method.image_features(torch.rand(1, 3, 20, 13)) is not None
    sum(method.losses("semi", batch()).values()).backward()
    assert method(torch.rand(2, 3, 20, 13), batch().text.take(slice(0, 2))).logits.shape == (
        *(2, 1, 20, 13),
    )


def test_the_cpu_preset_of_an_image_only_network_trains_all_of_it():
    from textmask.training.optim import parameter_groups

    for name in BASELINES:
        settings = ("network=unet", "stages.*.lr_scale={}")
        recipe = preset_recipe(name, "lite").override(*settings)
        method = build_method(recipe)
        for stage in recipe.stages:
            parameter_groups(method, stage)
        assert all(p.requires_grad for p in method.parameters())


# --- each its own loss


def test_cps_is_the_cross_entropy_of_each_network_with_the_labels_of_the_other():
    """Chen et al., section 3: mean over pixels of l(p_1, y_2) + l(p_2, y_1), on labelled and on unlabelled images."""
    method = smoke("cps")
    b = batch()
    expected, dice_of_both = 0.0, 0.0
    for image in (b.image, b.unlabelled.views["strong_blur"]):
        p1, p2 = predicted(method, method.net, image), predicted(method, method.other, image)
        expected += mean(
            cross_entropy(a, c > 0.5) + cross_entropy(c, a > 0.5) for a, c in pixels(p1, p2)
        )
    for net in (method.net, method.other):
        p = predicted(method, net, b.image)
        truth = b.mask.flatten(1).tolist()
        dice_of_both += mean(cross_entropy(a, y) for a, y in pixels(p, truth))
    losses = method.losses("semi", b)
    assert losses["cons"].item() == pytest.approx(expected, rel=1e-4)
    assert losses["bce"].item() == pytest.approx(dice_of_both, rel=1e-4)


def test_cps_starts_with_two_networks_and_trains_both_by_each_other():
    method = smoke("cps")
    pairs = zip(method.net.named_parameters(), method.other.parameters(), strict=True)
    assert any(not torch.equal(a, c) for (_, a), c in pairs)
    method.losses("semi", batch())["cons"].backward()
    for net in (method.net, method.other):
        assert all(p.grad is not None for p in net.parameters())


def test_fixmatch_counts_confident_pixels_alone():
    """Sohn et al., Eq. 4: mean of 1(max(q) >= tau) H(argmax q, p(strong view))."""
    tau = 0.6
    method = smoke("fixmatch", f"tau={tau}")
    b = batch()
    weak = predicted(method, method.net, b.unlabelled.image)
    strong = predicted(method, method.net, b.unlabelled.views["strong_blur"])
    confident = [max(q, 1 - q) >= tau for (q,) in pixels(weak)]
    assert 0.02 < mean(confident) < 0.98
    expected = mean(
        (max(q, 1 - q) >= tau) * cross_entropy(p, q > 0.5) for q, p in pixels(weak, strong)
    )
    assert method.losses("semi", b)["cons"].item() == pytest.approx(expected, rel=1e-4)


def test_fixmatch_labels_in_eval_mode_and_trains_afterwards():
    method = smoke("fixmatch").train()
    state = {key: value.clone() for key, value in method.state_dict().items()}
    label = method.guess(stream(4))
    assert torch.equal(label, method.guess(stream(4)))
    assert all(torch.equal(value, state[key]) for key, value in method.state_dict().items())
    assert method.net.training
    assert not label.requires_grad


def test_unimatch_teaches_three_streams():
    """Yang et al., Eq. 1, 3, 4: the same confident labels for p^fp, p^s1 and p^s2."""
    tau = 0.6
    method = smoke("unimatch", f"tau={tau}", "feature_drop=0.0")
    b = batch()
    weak = predicted(method, method.net, b.unlabelled.image)
    losses = method.losses("semi", b)
    streams = {
        "fp": b.unlabelled.image,  # nothing is dropped here
        "s1": b.unlabelled.views["strong_blur"],
        "s2": b.unlabelled.views["strong"],
    }
    for key, image in streams.items():
        found = predicted(method, method.net, image)
        expected = mean(
            (max(q, 1 - q) >= tau) * cross_entropy(p, q > 0.5) for q, p in pixels(weak, found)
        )
        assert losses[key].item() == pytest.approx(expected, rel=1e-4), key
    weights = preset_recipe("unimatch", "smoke").stage("semi").weights
    assert (weights["fp"], weights["s1"], weights["s2"]) == (0.5, 0.25, 0.25)


def test_unimatch_drops_half_of_the_channels_of_the_weak_view():
    from textmask.nn.perturbations import channels_dropped

    torch.manual_seed(0)
    (x,) = channels_dropped((torch.ones(40, 50, 2, 3),), 0.5)
    assert set(x.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(x, x[:, :, :1, :1].expand_as(x))  # whole channels
    assert 0.9 < x.mean() < 1.1
    method = smoke("unimatch", "tau=0.5")
    a, c = (method.losses("semi", batch()) for _ in range(2))
    assert a["fp"] != c["fp"]
    assert a["s1"] == c["s1"]


def test_ua_mt_is_the_mean_squared_distance_over_certain_pixels():
    """Yu et al., Eq. 2 and 3, with T passes that are all alike: u is the entropy of the teacher's prediction."""
    method = smoke("ua_mt", "dropout=0.0", "noise=0.0", "passes=3", "ramp_steps=10")
    b = batch()
    taught = predicted(method, method.teacher.net, b.unlabelled.image)
    student = predicted(method, method.net, b.unlabelled.views["strong_blur"])
    for step in (0, 4, 10, 12):
        method.semi_steps.fill_(step)
        t = min(step / 10, 1)
        limit = math.log(2) * (3 / 4 + 1 / 4 * math.exp(-5 * (1 - t) ** 2))
        distances = []
        for f_teacher, f_student in pixels(taught, student):
            u = -sum(q * math.log(q) for q in (f_teacher, 1 - f_teacher))
            if u < limit:
                distances.append((f_teacher - f_student) ** 2)
        assert len(distances) > 0
        assert len(distances) < 3 * SIZE**2 or step >= 10
        found = method.losses("semi", b)["cons"].item()
        assert found == pytest.approx(mean(distances), rel=1e-3)
        assert method.monitors()["certain"].item() == pytest.approx(
            len(distances) / (3 * SIZE**2), abs=2e-3
        )


def test_ua_mt_is_uncertain_where_its_passes_disagree():
    """Eq. 2: the entropy of the mean of T passes, which draw other channels and other noise each."""
    method = smoke("ua_mt", "passes=4")
    torch.manual_seed(0)
    u = method.uncertainty(stream(4))
    assert not torch.equal(u, method.uncertainty(stream(4)))
    assert u.min() >= 0
    assert u.max() <= math.log(2) + 1e-6
    state = method.teacher.state_dict()
    assert all(not value.requires_grad for value in state.values())


def test_ua_mt_counts_steps_of_its_second_stage_in_its_checkpoint():
    method = smoke("ua_mt")
    method.after_step("burn_in", 0)
    assert method.semi_steps == 0
    method.after_step("semi", 0)
    method.after_step("semi", 1)
    again = build_method(get_method("ua_mt").recipe().smoke())
    again.load_state_dict(method.state_dict())
    assert again.semi_steps == 2
    assert again.threshold() == method.threshold()
