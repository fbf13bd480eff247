"""Chunked embedding has the gradient of the whole batch, less memory, and counts statistics once."""

import pytest
import torch
from torch import nn

from textmask.losses.contrastive import cosine_similarity_matrix, soft_contrastive
from textmask.nn.gradient_cache import in_chunks
from textmask.nn.image_encoders import ConvBlock


class Tower(nn.Module):
    def __init__(self, norm: str) -> None:
        super().__init__()
        self.block, self.out = ConvBlock(3, 8, norm), nn.Linear(8, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.out(self.block(image).mean(dim=(2, 3)))


def run(norm: str, chunk: int | None, n: int = 7) -> tuple[torch.Tensor, Tower, int]:
    """Loss after backward, the tower, and the bytes kept between the passes."""
    torch.manual_seed(0)
    tower = Tower(norm).train()
    image = torch.rand(n, 3, 16, 16)
    text = torch.randn(n, 5)
    kept = [0]

    def pack(x: torch.Tensor) -> torch.Tensor:
        kept[0] += x.numel() * x.element_size()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        v = in_chunks(tower, tower, image, chunk)
    loss = soft_contrastive(cosine_similarity_matrix(v, text), torch.eye(n), 0.1)
    loss.backward()
    return loss.detach(), tower, kept[0]


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 100])
def test_gradient_equals_that_of_the_whole_batch(chunk):
    whole, tower, _ = run("group", None)
    loss, chunked, _ = run("group", chunk)
    assert torch.allclose(loss, whole, atol=1e-6)
    for a, b in zip(tower.parameters(), chunked.parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, atol=1e-6)


def test_memory_does_not_grow_with_the_batch():
    assert run("group", None, 16)[2] > 5 * run("group", 2, 16)[2]


def test_running_statistics_count_every_chunk_once():
    _, tower, _ = run("batch", 4, n=8)
    torch.manual_seed(0)
    literal = Tower("batch").train()
    image = torch.rand(8, 3, 16, 16)
    for part in image.split(4):
        literal(part)
    assert torch.allclose(tower.block.norm1.running_mean, literal.block.norm1.running_mean)
    assert torch.allclose(tower.block.norm2.running_var, literal.block.norm2.running_var)
    assert tower.block.norm1.momentum == 0.1


def test_without_gradient_nothing_is_cut():
    tower = Tower("batch").eval()
    image = torch.rand(5, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(in_chunks(tower, tower, image, 2), tower(image))
