"""TGANet: labels from the prompt, and what they do to the decoder."""

import math

import pytest
import torch

from textmask.data.loaders import build_text
from textmask.methods.registry import build_method
from textmask.methods.tganet import TGANetRecipe
from textmask.methods.tganet.method import cross_entropy_of_named, stated_labels
from textmask.statement import Statement
from textmask.text.grammar import parse
from textmask.types import Batch, Text

PROMPTS = (
    "one small polyp in the upper left",
    "two large polyps in the center",
    "one medium polyp",
    "lower left lung.",
)


def batch_of(prompts) -> Batch:
    image = torch.rand(len(prompts), 3, 32, 32, generator=torch.Generator().manual_seed(0))
    text = build_text(tuple(prompts), [parse(prompt) for prompt in prompts])
    return Batch(image, text, torch.ones(len(prompts), 1, 32, 32))


def test_number_and_size_are_those_of_the_prompt():
    found = stated_labels([parse(prompt) for prompt in PROMPTS]).tolist()
    assert found == [[0, 0], [1, 2], [0, 1], [-1, -1]]
    assert stated_labels([Statement(count=7), Statement(count=0)]).tolist() == [[1, -1], [-1, -1]]


def test_the_classification_learns_only_from_prompts_that_name_a_class():
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [5.0, -5.0]], requires_grad=True)
    loss = cross_entropy_of_named(logits, torch.tensor([0, 1, -1]))
    literal = (
        -math.log(math.exp(2) / (math.exp(2) + 1)) - math.log(math.exp(1) / (math.exp(1) + 1))
    ) / 2
    assert loss.item() == pytest.approx(literal, rel=1e-5)
    loss.backward()
    assert torch.equal(logits.grad[2], torch.zeros(2))
    assert cross_entropy_of_named(logits, torch.tensor([-1, -1, -1])) == 0


def test_prompts_that_were_not_parsed_have_no_classes():
    method = build_method(TGANetRecipe().smoke())
    batch = batch_of(PROMPTS)
    losses = method.losses("segment", batch)
    assert losses["number"] > 0
    assert losses["size"] > 0
    plain = Batch(batch.image, Text(batch.text.prompts, batch.text.zones), batch.mask)
    losses = method.losses("segment", plain)
    assert losses["number"] == losses["size"] == 0


def test_label_vectors_count_as_much_as_they_are_probable_and_weight_the_decoder():
    method = build_method(TGANetRecipe().smoke()).eval()
    batch = batch_of(PROMPTS)
    seen = []
    method.label_attention[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    out = method(batch.image, batch.text)
    for i in range(len(batch)):
        number, size = out.aux["number"][i].softmax(0), out.aux["size"][i].softmax(0)
        literal = [sum(number[k] * method.labels[k] for k in range(2))]
        literal.append(sum(size[k] * method.labels[2 + k] for k in range(3)))
        torch.testing.assert_close(seen[0][i], torch.cat(literal))

    with torch.no_grad():
        method.labels.neg_()
    assert not torch.equal(method(batch.image, batch.text).logits, out.logits)
