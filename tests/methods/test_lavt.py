"""LAVT: Eq. 1-5 against a literal transcription, and where the words enter."""

import math

import torch

from textmask.data.loaders import build_text
from textmask.methods.lavt import LAVTRecipe
from textmask.methods.lavt.method import PWAM, LanguageGate, instance_normed
from textmask.methods.registry import build_method
from textmask.text.grammar import parse

PROMPTS = ("one infected areas, lower left lung.", "two infected areas, upper right lung.")


def literal_normed(x: torch.Tensor) -> torch.Tensor:
    """C P: each row to zero mean and unit variance."""
    rows = []
    for row in x:
        mean = sum(row) / len(row)
        variance = sum((v - mean) ** 2 for v in row) / len(row)
        rows.append((row - mean) / torch.sqrt(variance + 1e-5))
    return torch.stack(rows)


def test_pixel_word_attention_is_equations_1_to_4():
    torch.manual_seed(0)
    module = PWAM(4, 6)
    v, words = torch.randn(1, 4, 2, 3), torch.randn(1, 5, 6)
    real = torch.tensor([[True, True, True, False, False]])
    weight = {name: value.detach() for name, value in module.named_parameters()}

    def mapped(name: str, x: torch.Tensor) -> torch.Tensor:
        """A 1x1 convolution or linear map: I P -> C P."""
        return weight[f"{name}.weight"].flatten(1) @ x + weight[f"{name}.bias"][:, None]

    flat, said = v[0].flatten(1), words[0, :3].T  # C P, C_t T
    query = literal_normed(mapped("query", flat))
    key, value = mapped("key", said), mapped("value", said)
    found = torch.zeros(4, 6)
    for place in range(6):
        scores = [float(query[:, place] @ key[:, t]) / math.sqrt(4) for t in range(3)]
        total = sum(math.exp(s) for s in scores)
        for t in range(3):
            found[:, place] += math.exp(scores[t]) / total * value[:, t]
    language = literal_normed(mapped("found", found))
    expected = torch.relu(mapped("out", torch.relu(mapped("image", flat)) * language))
    torch.testing.assert_close(module(v, words, real)[0].flatten(1), expected, atol=1e-5, rtol=1e-4)

    # padding does not take part
    words[0, 3:] = 1e3
    torch.testing.assert_close(module(v, words, real)[0].flatten(1), expected, atol=1e-5, rtol=1e-4)


def test_the_language_gate_is_equation_5():
    torch.manual_seed(0)
    gate = LanguageGate(3)
    f = torch.randn(1, 3, 2, 2)
    first, second = (weight.flatten(1) for weight in gate.parameters())
    expected = torch.tanh(second @ torch.relu(first @ f[0].flatten(1)))
    torch.testing.assert_close(gate(f)[0].flatten(1), expected)
    assert gate(f * 100).abs().max() <= 1


def test_a_map_of_one_place_is_no_nan():
    assert torch.equal(instance_normed(torch.ones(2, 3, 1, 1)), torch.zeros(2, 3, 1, 1))


def test_words_change_every_map_that_the_next_stage_reads():
    method = build_method(LAVTRecipe().smoke()).eval()
    assert len(method.attention) == 4
    assert len(method.gates) == 3
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    seen: list[torch.Tensor] = []
    for attention in method.attention:
        attention.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    for prompts in (PROMPTS, PROMPTS[::-1]):
        method(image, build_text(prompts, [parse(prompt) for prompt in prompts]))
    first, second = seen[:4], seen[4:]
    assert torch.equal(first[0], second[0])
    assert not any(torch.equal(a, b) for a, b in zip(first[1:], second[1:], strict=True))
