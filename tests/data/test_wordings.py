"""Other wordings of training prompts: which change nothing, which empty the mask, and that they are repeatable."""

import numpy as np
import pytest
import torch

from textmask.config import Augment, Stage, TextAugment
from textmask.data.cache import open_split
from textmask.data.loaders import Loader
from textmask.data.wordings import AS_IT_IS, KINDS, VARIANTS, draw_kinds, reworded
from textmask.errors import ConfigError
from textmask.methods.registry import get_method
from textmask.text.grammar import parse

PROMPT = "bilateral pulmonary infection, two infected areas, lower left lung and upper right lung."
POLYP = "One colonic polyp.One small colonic polyp on the top left."


def variants(prompt, kind, is_name=False):
    return [reworded(prompt, KINDS.index(kind), i, is_name) for i in range(VARIANTS)]


@pytest.mark.parametrize("prompt", [PROMPT, POLYP])
@pytest.mark.parametrize("kind", ["abbreviation", "paraphrase", "report"])
def test_the_same_zones_are_claimed_in_other_words(kind, prompt):
    found = variants(prompt, kind)
    assert all(parse(each.prompt).zones == parse(prompt).zones for each in found)
    assert not any(each.is_empty for each in found)
    if prompt == PROMPT:
        assert any(each.prompt != prompt for each in found)


def test_typos_change_a_word_and_not_the_mask():
    found = variants(PROMPT, "typo")
    assert not any(each.is_empty for each in found)
    assert len({each.prompt for each in found} - {PROMPT}) > 3


@pytest.mark.parametrize("prompt", [PROMPT, POLYP])
def test_a_denied_finding_has_an_empty_mask(prompt):
    for each in variants(prompt, "absent"):
        assert each.is_empty
        assert each.prompt.lower().startswith("no ")
        assert not parse(each.prompt).zones


def test_a_prompt_without_a_denial_stays_with_its_mask():
    (found,) = set(variants("xyzzy", "absent"))
    assert (found.prompt, found.is_empty) == ("xyzzy", False)


@pytest.mark.parametrize("kind", ["abbreviation", "paraphrase", "report", "absent"])
def test_the_name_of_a_structure_is_never_read_as_a_finding(kind):
    assert {each.prompt for each in variants("right lung", kind, True)} == {"right lung"}
    assert not any(each.is_empty for each in variants("right lung", kind, True))


def test_each_kind_has_its_share():
    augment = TextAugment(typo=0.3, absent=0.2)
    kinds = draw_kinds(augment, 20_000, np.random.default_rng(0))[:, 0]
    assert np.mean(kinds == KINDS.index("typo")) == pytest.approx(0.3, abs=0.02)
    assert np.mean(kinds == KINDS.index("absent")) == pytest.approx(0.2, abs=0.02)
    assert np.mean(kinds == AS_IT_IS) == pytest.approx(0.5, abs=0.02)
    always = draw_kinds(TextAugment(report=1.0), 1000, np.random.default_rng(0))
    assert set(always[:, 0]) == {KINDS.index("report")}
    assert set(always[:, 1]) == set(range(VARIANTS))


@pytest.mark.parametrize("wrong", ["typo=1.5", "typo=-0.1", "shout=0.1"])
def test_a_wrong_share_is_refused(wrong):
    with pytest.raises(ConfigError):
        get_method("unet").recipe().override(f"stages.*.text.{wrong}")


def test_shares_above_one_together_are_refused():
    with pytest.raises(ConfigError, match=r"sum to 1\.2, expected at most 1"):
        get_method("unet").recipe().override("stages.*.text.typo=0.6", "stages.*.text.report=0.6")


@pytest.fixture(scope="module")
def data(phantom_manifest, tmp_path_factory):
    return open_split(phantom_manifest, "train", (32, 32), tmp_path_factory.mktemp("cache"))


def epoch(data, **changes):
    stage = Stage(name="s", batch_size=6, augment=Augment(flip=0.5), weights={"a": 1.0})
    return list(Loader(data, stage.model_copy(update=changes), seed=0, train=True).epoch(0))


def test_it_is_off_by_default_and_changes_neither_images_nor_order(data):
    plain = epoch(data)
    augmented = epoch(data, text=TextAugment(typo=1.0))
    assert all(a.keys == b.keys for a, b in zip(plain, augmented, strict=True))
    assert all(torch.equal(a.image, b.image) for a, b in zip(plain, augmented, strict=True))
    assert all(torch.equal(a.mask, b.mask) for a, b in zip(plain, augmented, strict=True))
    assert any(a.text.prompts != b.text.prompts for a, b in zip(plain, augmented, strict=True))


def test_the_loader_empties_the_masks_of_denied_findings_and_parses_the_new_words(data):
    batches = epoch(data, prompts=4, text=TextAugment(absent=0.5, report=0.5))
    denied = 0
    for batch in batches:
        for each in batch.by_prompt():
            for i, prompt in enumerate(each.text.prompts):
                statement = parse(prompt, "auto", each.text.statements[i].laterality)
                assert tuple(each.text.zones[i].int().tolist()) == statement.bits()
                if not statement.zones:
                    denied += 1
                    assert not each.mask[i].any()
                else:
                    assert each.mask[i].any()
    assert denied > 10


def test_an_epoch_can_be_entered_at_any_step(data):
    changes = {"prompts": 3, "text": TextAugment(typo=0.4, absent=0.3)}
    stage = Stage(name="s", batch_size=6, augment=Augment(flip=0.5), weights={"a": 1.0})
    loader = Loader(data, stage.model_copy(update=changes), seed=0, train=True)
    whole, late = list(loader.epoch(3)), list(loader.epoch(3, start=2))
    for a, b in zip(whole[2:], late, strict=True):
        for one, other in zip(a.by_prompt(), b.by_prompt(), strict=True):
            assert one.text.prompts == other.text.prompts
            assert torch.equal(one.mask, other.mask)
