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
BASELINES += ("cct", "bcp", "mc_net", "ucmt", "spc")
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


def decoded(method, decoder, image, change=lambda maps: maps):
    """Probabilities of a further decoder, as `predicted`."""
    with torch.no_grad():
        found = method.net(image, method.features(stream(3).text))
        logits = decoder(change(found.maps), image)
    return torch.sigmoid(logits.double()).flatten(1).tolist()


def test_cct_is_the_mean_squared_distance_of_each_further_decoder_from_the_main_one():
    """Ouali et al., Eq. 2, with the two perturbations that draw nothing: z of the objects, and z of the rest."""
    method = smoke("cct", 'perturbations=["context","objects"]')
    b = batch()
    image = b.unlabelled.views["strong_blur"]
    main = predicted(method, method.net, image)
    seen = torch.tensor(main).reshape(3, 1, SIZE, SIZE) > 0.5

    def kept(inside):
        def change(maps):
            found = []
            for x in maps:
                y, step = x.clone(), SIZE // x.shape[2]
                for i in range(3):
                    for row in range(x.shape[2]):
                        for column in range(x.shape[3]):
                            if bool(seen[i, 0, row * step, column * step]) is not inside:
                                y[i, :, row, column] = 0
                found.append(y)
            return found

        return change

    total = 0.0
    for decoder, inside in zip(method.decoders, (True, False), strict=True):
        other = decoded(method, decoder, image, kept(inside))
        total += mean((p - q) ** 2 for p, q in pixels(main, other))
    assert method.losses("semi", b)["cons"].item() == pytest.approx(total / 2, rel=1e-3)


def test_cct_teaches_its_further_decoders_and_the_maps_but_not_the_main_decoder():
    method = smoke("cct")
    method.losses("semi", batch())["cons"].backward()
    assert all(p.grad is not None for p in method.decoders.parameters())
    assert all(p.grad is None for p in method.net.head.parameters())
    assert any(p.grad is not None for p in method.net.encoder.parameters())


def test_ccts_perturbations():
    """Section 3.3: N uniform in [-0.3, 0.3]; the most active 10 to 40 % of the highest activity are cleared."""
    from textmask.nn.perturbations import perturbed_maps

    torch.manual_seed(0)
    x = torch.rand(4, 5, 6, 6)
    probability = torch.rand(4, 1, 6, 6)
    (noisy,) = perturbed_maps([x], "noise", probability)
    assert ((noisy - x).abs() <= 0.3 * x + 1e-6).all()
    assert (noisy != x).any()
    (dropped,) = perturbed_maps([x], "drop", probability)
    activity = x.mean(dim=1)
    for i in range(4):
        highest = activity[i].max()
        cleared = ~dropped[i].any(dim=0)
        assert cleared[activity[i] >= 0.9 * highest].all()
        assert not cleared[activity[i] < 0.6 * highest].any()
        assert torch.equal(dropped[i][:, ~cleared], x[i][:, ~cleared])


def test_bcp_pastes_both_ways_and_weighs_each_region_on_its_own(monkeypatch):
    """Bai et al., Eq. 1 to 8: X_in = X_l M + X_u (1 - M), X_out = X_u M + X_l (1 - M), targets alike, M 0 in a box."""
    method = smoke("bcp", "beta=0.5")
    b = batch()
    torch.manual_seed(1)
    top, left = (int(torch.randint(SIZE // 2 + 1, ())) for _ in range(2))
    taught = predicted(method, method.teacher.net, b.unlabelled.image)
    truth = b.mask.flatten(1).tolist()
    seen = []
    original = method.outputs
    monkeypatch.setattr(method, "outputs", lambda *found: seen.append(found) or original(*found))
    torch.manual_seed(1)
    losses = method.losses("semi", b)
    ((image, text),) = seen

    inside = [
        top <= row < top + SIZE // 2 and left <= column < left + SIZE // 2
        for row in range(SIZE)
        for column in range(SIZE)
    ]
    own, other = b.image, b.unlabelled.views["strong_blur"]
    with torch.no_grad():
        logits = method.net(image, method.text_encoder(text)).logits.double()
    p = torch.sigmoid(logits).flatten(1).tolist()
    dice, entropy, rest = [], [], []
    for k in range(6):
        i, turned = k % 3, k >= 3
        target, labelled = [], []
        for at, boxed in enumerate(inside):
            from_labelled = boxed is turned  # around the box of X_in, inside the box of X_out
            source = own if from_labelled else other
            row, column = divmod(at, SIZE)
            assert torch.equal(image[k, :, row, column], source[i, :, row, column])
            target.append(truth[i][at] if from_labelled else float(taught[i][at] > 0.5))
            labelled.append(from_labelled)
        for wanted in (True, False):
            part = [at for at in range(SIZE**2) if labelled[at] is wanted]
            overlap = sum(p[k][at] * target[at] for at in part)
            both = sum(p[k][at] + target[at] for at in part)
            of_dice = 1 - (2 * overlap + 1e-5) / (both + 1e-5)
            of_entropy = mean(cross_entropy(p[k][at], target[at]) for at in part)
            if wanted:
                dice.append(of_dice)
                entropy.append(of_entropy)
            else:
                rest.append(of_dice + of_entropy)
    assert losses["dice"].item() == pytest.approx(mean(dice), rel=1e-3)
    assert losses["bce"].item() == pytest.approx(mean(entropy), rel=1e-3)
    assert losses["cons"].item() == pytest.approx(mean(rest), rel=1e-3)
    assert preset_recipe("bcp", "smoke").stage("semi").weights["cons"] == 0.5  # alpha


def test_the_prompt_of_a_pasted_image_names_the_places_of_both():
    method = smoke("bcp")
    places = [parse(prompt).zones for prompt in PROMPTS]
    turned = build_text(PROMPTS[1:] + PROMPTS[:1], [parse(p) for p in PROMPTS[1:] + PROMPTS[:1]])
    found = method._prompts(stream(3).text, turned, 3)
    for k in range(6):
        i = k % 3
        both = places[i] | places[(i + 1) % 3]
        assert found.statements[k].zones == parse(found.prompts[k]).zones == both
    same = method._prompts(stream(3).text, stream(4).text, 3)
    assert same.prompts == PROMPTS * 2
    nowhere = build_text(["one small polyp"] * 3, [parse("one small polyp")] * 3)
    assert method._prompts(stream(3).text, nowhere, 3).prompts == (*PROMPTS, *nowhere.prompts)


def test_mc_net_is_the_squared_distance_from_the_sharpened_predictions_of_the_others():
    """Wu et al. (2022): sum over i != j of the mean of (p_i - sPL_j)^2, sPL = p^(1/T) / (p^(1/T) + (1 - p)^(1/T))."""
    method = smoke("mc_net", "temperature=0.5")
    b = batch()
    image = torch.cat([b.image, b.unlabelled.views["strong_blur"]])
    outputs = [[], [], []]
    for part in (b.image, b.unlabelled.views["strong_blur"]):
        outputs[0] += predicted(method, method.net, part)
        for k, decoder in enumerate(method.decoders, start=1):
            outputs[k] += decoded(method, decoder, part)
    assert len(outputs[0]) == len(image)

    expected = 0.0
    for i in range(3):
        for j in range(3):
            if i == j:
                continue
            distances = []
            for p, q in pixels(outputs[i], outputs[j]):
                sharp = q ** (1 / 0.5) / (q ** (1 / 0.5) + (1 - q) ** (1 / 0.5))
                distances.append((p - sharp) ** 2)
            expected += mean(distances)
    losses = method.losses("semi", b)
    assert losses["cons"].item() == pytest.approx(expected, rel=1e-3)
    truth = b.mask.flatten(1).tolist()
    of_all = sum(
        mean(cross_entropy(p, y) for p, y in pixels(output[:3], truth)) for output in outputs
    )
    assert losses["bce"].item() == pytest.approx(of_all, rel=1e-4)


def dice_loss(p, y):
    """Mean over images of 1 - Dice, of nested lists of probabilities and hard labels."""
    each = []
    for a, c in zip(p, y, strict=True):
        overlap = sum(u * v for u, v in zip(a, c, strict=True))
        each.append(1 - (2 * overlap + 1e-5) / (sum(a) + sum(c) + 1e-5))
    return mean(each)


def hard(p):
    return [[float(u > 0.5) for u in image] for image in p]


def test_ucmt_teaches_on_plain_images_and_on_those_without_their_most_uncertain_blocks():
    """Shen et al.: entropies of the mean of student and teacher choose k blocks; L_cps and L_mts on both images."""
    method = smoke("ucmt", "side=4", "top=2")
    b = batch()
    plain = b.unlabelled.views["strong_blur"]
    nets = (method.net, method.other)
    students = [predicted(method, net, plain) for net in nets]
    taught = predicted(method, method.teacher.net, b.unlabelled.image)
    label = torch.tensor(hard(taught)).reshape(3, 1, SIZE, SIZE)

    # the order of the blocks of each image by uncertainty, for each student
    size, mixed, mixed_label = SIZE // 4, plain.clone(), label.clone()
    for i in range(3):
        order = []
        for p in students:
            means = []
            for block in range(16):
                top, left = size * (block // 4), size * (block % 4)
                found = []
                for row in range(top, top + size):
                    for column in range(left, left + size):
                        m = (p[i][row * SIZE + column] + taught[i][row * SIZE + column]) / 2
                        found.append(-m * math.log(m) - (1 - m) * math.log(1 - m))
                means.append(mean(found))
            order.append(sorted(range(16), key=lambda block, means=means: -means[block]))
        for first, second in (order, order[::-1]):
            values = [
                (x.clone(), y.clone())
                for x, y in (
                    (block_of(mixed[i], k, size), block_of(mixed_label[i], k, size))
                    for k in (second[-1], second[-2])
                )
            ]
            for k, (x, y) in zip(first[:2], values, strict=True):
                block_of(mixed[i], k, size)[:] = x
                block_of(mixed_label[i], k, size)[:] = y

    cps, mts = 0.0, 0.0
    for image, target in ((plain, label), (mixed, mixed_label)):
        a, c = (predicted(method, net, image) for net in nets)
        y = target.flatten(1).tolist()
        cps += (dice_loss(a, hard(c)) + dice_loss(c, hard(a))) / 2
        mts += (dice_loss(a, y) + dice_loss(c, y)) / 2
    losses = method.losses("semi", b)
    assert not torch.equal(mixed, plain)
    assert losses["cps"].item() == pytest.approx(cps / 2, rel=1e-3)
    assert losses["mts"].item() == pytest.approx(mts / 2, rel=1e-3)


def block_of(x, block, size):
    """A view of one of 4 x 4 blocks of C H W."""
    top, left = size * (block // 4), size * (block % 4)
    return x[:, top : top + size, left : left + size]


@pytest.mark.parametrize("size", [(33, 47), (7, 5), (16, 16)])
def test_blocks_move_in_images_of_any_size(size):
    from textmask.methods.ucmt.method import with_blocks_moved

    x = torch.rand(2, 3, *size)
    one = torch.zeros(2, 1, dtype=torch.long)
    assert torch.equal(with_blocks_moved(x, ((one, one),), 16), x)
    moved = with_blocks_moved(x, ((one, one + 1),), 16)
    rows, columns = max(size[0] // 16, 1), max(size[1] // 16, 1)
    corner = x[..., :rows, columns : 2 * columns]
    assert torch.equal(moved[..., :rows, :columns], corner)
    assert torch.equal(moved[..., rows:, :], x[..., rows:, :])


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_spc_mirrors_image_label_and_prompt_together(flip, monkeypatch):
    """Semi-MedRef on RESMatch: "swapping left/right words under horizontal flips"; the rest is its baseline."""
    method = smoke("spc", f"flip={flip}")
    b = batch()
    taught = predicted(method, method.teacher.net, b.unlabelled.image)
    label = (torch.tensor(taught).reshape(3, 1, SIZE, SIZE) >= 0.55).float()
    image, prompts = b.unlabelled.views["strong_blur"], list(PROMPTS)
    if flip:
        label, image = label.flip(3), image.flip(3)
        swap = {"left": "right", "right": "left"}
        prompts = [
            " ".join(swap.get(word, word) for word in prompt.split(" ")) for prompt in PROMPTS
        ]
    with torch.no_grad():
        text = build_text(prompts, [parse(prompt) for prompt in prompts])
        found = method.net(image, method.text_encoder(text)).logits.double()
    p = torch.sigmoid(found).flatten(1).tolist()
    y = label.flatten(1).tolist()
    expected = dice_loss(p, y) + mean(cross_entropy(u, v) for u, v in pixels(p, y))
    assert method.losses("semi", b)["cons"].item() == pytest.approx(expected, rel=1e-3)
    assert method.monitors()["mirrored"] == flip


def test_spc_leaves_images_whose_prompt_cannot_be_mirrored():
    method = smoke("spc", "flip=1.0")
    prompts = ("opacity in the right middle lobe", PROMPTS[0])
    text, chosen = method._mirrored_prompts(build_text(prompts, [parse(p) for p in prompts]))
    assert chosen.tolist() == [False, True]
    assert text.prompts[0] == prompts[0]
    assert parse(text.prompts[1]).zones == parse(prompts[1]).mirrored().zones
