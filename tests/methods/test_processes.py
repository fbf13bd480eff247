"""Two processes with half of a batch each give the loss and the gradients of one process with the whole batch."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import distributed, nn

from textmask.config import Recipe
from textmask.data.loaders import build_text
from textmask.methods.base import Method
from textmask.methods.registry import build_method, get_method, list_methods
from textmask.nn.batch_norm import BatchNorm2d
from textmask.nn.decoders import SubPixelHead
from textmask.processes import counted_mean, gathered
from textmask.text.grammar import parse
from textmask.types import Batch

PROMPTS = (
    "unilateral pulmonary infection, one infected areas, lower left lung.",
    "unilateral pulmonary infection, one infected areas, upper right lung.",
    "bilateral pulmonary infection, two infected areas, lower left lung and lower right lung.",
    "Hello World",  # names no place and gives no guide
)
# what each process draws for itself, next to dropout
NOT_RANDOM = {
    "biclip": ("warp=input", "strong=weak"),
    "c2seg": ("chunk=null",),
    "semi_medref": ("text_view=none", "mix=none"),
    "unimatch": ("feature_drop=0.0",),
    "ua_mt": ("dropout=0.0", "noise=0.0"),
    "cct": ('perturbations=["context","objects"]',),
    "bcp": ("beta=1.0",),
    "spc": ("flip=0.0",),
    # embedded again while going backward; batch norm would see one chunk
    "c2seg in chunks": ("chunk=1", "norm=group"),
    # batch norm over these small maps would move the gradients by more than the rounding of other layers
    "c2seg clip": ("chunk=null", "contrast=clip", "norm=group"),
    "c2seg convirt": ("chunk=null", "contrast=convirt", "norm=group"),
    # prompts of different lengths in the two processes
    "c2seg gloria": ("chunk=null", "contrast=gloria", "norm=group"),
}
CASES = (*list_methods(), *(name for name in NOT_RANDOM if " " in name))


def recipe_of(name: str) -> Recipe:
    return get_method(name.split()[0]).recipe().smoke().override(*NOT_RANDOM.get(name, ()))


def batch_of(recipe: Recipe, stage: str, rank: int, world: int) -> Batch:
    """The part of one process of a labelled batch of 4, and of other images if there is an unlabelled stream."""

    def part(seed: int) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        own = slice(rank * 4 // world, (rank + 1) * 4 // world)
        image = torch.rand(4, 3, 32, 32, generator=generator)[own]
        mask = (torch.rand(4, 1, 32, 32, generator=generator) > 0.8).float()[own]
        prompts = PROMPTS[own]
        text = build_text(prompts, [parse(prompt) for prompt in prompts])
        views = {name: image.clone() for name in recipe.stage(stage).views}
        return Batch(image, text, mask, prompts, views)

    batch = part(7)
    if recipe.stage(stage).unlabelled_batch_size:
        return replace(batch, unlabelled=replace(part(8), mask=None))
    return batch


def built(recipe: Recipe) -> Method:
    method = build_method(recipe)
    method.prepare(PROMPTS)
    for layer in method.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
        if isinstance(layer, SubPixelHead) and layer.stride > 1:  # pseudo-masks that are not empty
            layer.out.bias.data.fill_(0.5)
    # gates that start at zero would hide what is behind them
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return method


def one_step(name: str, rank: int, world: int) -> dict[str, torch.Tensor]:
    """Losses, gradients and buffers of each stage of a method, as data-parallel training averages them."""
    recipe = recipe_of(name)
    found = {}
    for stage in recipe.stages:
        if stage.optim is None:
            continue
        method = built(recipe).train()
        torch.manual_seed(0)  # all processes draw the same words for a name (compose)
        losses = method.losses(stage.name, batch_of(recipe, stage.name, rank, world))
        sum(losses.values()).backward()
        values = {f"loss/{key}": loss.detach().clone() for key, loss in losses.items()}
        for key, parameter in method.named_parameters():
            if parameter.grad is not None:
                values[f"gradient/{key}"] = parameter.grad
        for key, value in values.items():
            if world > 1:
                distributed.all_reduce(value)
            found[f"{stage.name}/{key}"] = value / world
        for key, value in method.named_buffers():
            if key.endswith(("running_mean", "running_var")):
                found[f"{stage.name}/{key}"] = value.clone()
    return found


def work(rank: int, world: int, folder: Path) -> None:
    """All methods in one of several processes."""
    import textmask.methods.dusss.method as dusss

    dusss.meaning_kept = lambda prompt, _: prompt  # each process words its prompts anew
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world
    )
    found = {name: one_step(name, rank, world) for name in CASES}

    # the parts of the package that this rests on
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(world * 2, 3, 4, 5, generator=generator)[2 * rank : 2 * rank + 2]
    x.requires_grad_()
    norm = BatchNorm2d(3)
    y = gathered(norm(x))
    (y * torch.arange(y.numel()).reshape(y.shape)).sum().backward()
    mean = counted_mean(torch.tensor(3.0 + rank), torch.tensor(1 - rank))
    distributed.all_reduce(mean)
    parts = {"y": y.detach(), "x.grad": x.grad, "var": norm.running_var, "mean": mean / world}
    torch.save({**found, "parts": parts}, folder / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> tuple[dict, dict]:
    folder = tmp_path_factory.mktemp("processes")
    command = [sys.executable, __file__, str(folder)]
    running = [subprocess.Popen([*command, str(rank)]) for rank in range(2)]
    assert [process.wait(timeout=600) for process in running] == [0, 0]
    return torch.load(folder / "0.pt"), torch.load(folder / "1.pt")


def test_batch_norm_and_gathering_are_those_of_the_whole_batch(two):
    x = torch.randn(4, 3, 4, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    norm = nn.BatchNorm2d(3)
    y = norm(x)
    (y * torch.arange(y.numel()).reshape(y.shape)).sum().backward()
    for rank, found in enumerate(two):
        parts = found["parts"]
        torch.testing.assert_close(parts["y"], y.detach())
        # each process has the same loss: the sum over the two is twice its gradient
        torch.testing.assert_close(
            parts["x.grad"], 2 * x.grad[2 * rank : 2 * rank + 2], atol=1e-3, rtol=1e-4
        )
        torch.testing.assert_close(parts["var"], norm.running_var)
        assert float(parts["mean"]) == pytest.approx((3 + 4) / 1)


@pytest.mark.parametrize("name", CASES)
def test_two_processes_give_the_loss_and_the_gradients_of_one(name, two, monkeypatch):
    import textmask.methods.dusss.method as dusss

    monkeypatch.setattr(dusss, "meaning_kept", lambda prompt, _: prompt)
    one = one_step(name, 0, 1)
    for found in two:
        assert found[name].keys() == one.keys()
        for key, value in one.items():
            # in norm: single entries of a gradient are differences of large numbers in fp32
            error = (found[name][key] - value).norm()
            # the number of threads alone moves gradients of c2seg by 2 %, a contrast per process by 30 % and more
            share = 3e-2 if "/gradient/" in key else 5e-3
            assert error <= share * value.norm() + 1e-4, (key, float(error), float(value.norm()))


if __name__ == "__main__":
    torch.set_num_threads(1)
    work(int(sys.argv[2]), 2, Path(sys.argv[1]))
