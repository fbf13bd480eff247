"""Losses do not read tensors back: on a GPU the host would wait for all that was queued before."""

import traceback
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from textmask.data.loaders import build_text
from textmask.methods.registry import build_method, get_method, list_methods
from textmask.text.grammar import parse
from textmask.types import Batch

PROMPTS = (
    "unilateral pulmonary infection, one infected areas, lower left lung.",
    "unilateral pulmonary infection, one infected areas, upper right lung.",
    "bilateral pulmonary infection, two infected areas, lower left lung and lower right lung.",
)
# Sinkhorn stops when it has converged, which the host must know
MAY_READ = {"transport.py"}


class HostReads(TorchDispatchMode):
    """Collects the lines that turn a tensor into a number; numbers drawn by a generator of the host are free."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn: list[torch.Tensor] = []
        self.lines: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket is torch.ops.aten.randint:
            self.drawn.append(out)
        if func is torch.ops.aten._local_scalar_dense.default:
            frames = [f for f in traceback.extract_stack() if "torch" not in Path(f.filename).parts]
            drawn = any(args[0].data_ptr() == tensor.data_ptr() for tensor in self.drawn)
            if not drawn and not any(Path(f.filename).name in MAY_READ for f in frames):
                self.lines.append(f"{frames[-2].filename}:{frames[-2].lineno} {frames[-2].line}")
        return out


def batch_of(views: tuple[str, ...]) -> Batch:
    generator = torch.Generator().manual_seed(7)
    image = torch.rand(3, 3, 32, 32, generator=generator)
    mask = (torch.rand(3, 1, 32, 32, generator=generator) > 0.7).float()
    text = build_text(PROMPTS, [parse(prompt) for prompt in PROMPTS])
    other = Batch(image, text, None, PROMPTS, {name: image.clone() for name in views})
    return Batch(image, text, mask, PROMPTS, other.views, other)


@pytest.mark.parametrize("name", list_methods())
def test_no_loss_of_any_stage_reads_a_tensor_back(name):
    recipe = get_method(name).recipe().smoke()
    method = build_method(recipe)
    method.prepare(PROMPTS)
    for stage in recipe.stages:
        if stage.optim is None:
            continue
        batch = batch_of(stage.views)
        for mode in (HostReads(), HostReads()):  # the first time new wordings are encoded
            torch.manual_seed(0)
            with mode:
                method.losses(stage.name, batch)
                method.monitors()
        assert mode.lines == []


def test_a_read_is_found():
    with HostReads() as mode:
        float(torch.ones(2).sum())
    assert len(mode.lines) == 1
