"""Methods never mix devices and never read a value: each runs on torch's meta device, where nothing can be read.

The meta device has shapes but no numbers: reading one (`item`, `bool`, `numpy`, `tolist`, `cpu`) raises, as would be a
wait for the GPU. `OneDevice` adds what the meta device does not check: operands on two devices.
"""

from contextlib import nullcontext

import pytest
import torch
from test_contract import gradient_stages, make_batch, observed, smoke
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from textmask.methods.registry import list_methods

META = torch.device("meta")
aten = torch.ops.aten
# what a method reads on purpose stays on the CPU in these tests: the attribute and the reason
READ = {
    "text_encoder._place": "a new prompt is encoded once; its features are cached on the CPU",
}
# losses that decide by values: the method and the reason; the rest of the losses is tested without that part
VALUE_DEPENDENT = {
    "semi_medref": "T-PatchMix rewrites each prompt by the blocks that were mixed into its image",
}
COPIES = {aten._to_copy.default, aten.copy_.default, aten.copy.default}
# CUDA too takes numbers of rows on the CPU, but no rows of a CPU tensor numbered on CUDA
INDEXED = {
    aten.index.Tensor,
    aten.index_put_.default,
    aten.index_put.default,
    aten._index_put_impl_.default,
}


class OneDevice(TorchDispatchMode):
    """Raises as CUDA does: operands on two devices, unless one is a single number, or a generator of another device."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        first = args[0] if args else None
        checked = [args[0], *args[2:]] if function in INDEXED and first.device == META else args
        leaves = tree_leaves((checked, kwargs))
        devices = {x.device.type for x in leaves if isinstance(x, torch.Tensor) and x.dim()}
        devices |= {x.device.type for x in leaves if isinstance(x, torch.Generator)}
        if len(devices) > 1 and function not in COPIES:
            raise RuntimeError(f"{function} got operands on {sorted(devices)}")
        return function(*args, **kwargs)


@pytest.fixture(autouse=True)
def autocast(monkeypatch):
    """The meta device has no autocast; fp32 is what runs here."""
    real, enabled = torch.autocast, torch.is_autocast_enabled

    def off(kind, *arguments, **options):
        return nullcontext() if kind == "meta" else real(kind, *arguments, **options)

    monkeypatch.setattr(torch, "autocast", off)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: kind != "meta" and enabled(kind))


@pytest.fixture(params=list_methods())
def name(request):
    return request.param


def on_meta(name):
    """A method that has seen its prompts, moved to the meta device."""
    recipe, method = smoke(name)
    observed(recipe, method)
    buffers = dict(method.named_buffers())
    method.to(META)
    for path in READ:
        if path in buffers:
            owner, _, attribute = path.rpartition(".")
            setattr(method.get_submodule(owner), attribute, buffers[path])
    return recipe, method


def without_the_part_that_reads(name, method, monkeypatch):
    if name == "semi_medref":
        plain = method.recipe.model_copy(update={"mix": "none"})
        monkeypatch.setattr(method, "recipe", plain)


def test_prediction(name):
    recipe, method = on_meta(name)
    method.eval()
    batch = make_batch(recipe, recipe.stages[0].name).to(META)
    with OneDevice(), torch.inference_mode():
        assert method(batch.image, batch.text).logits.device == META
        features = method.image_features(batch.image)
        assert method.decode(features, batch.image, batch.text).logits.device == META


def one_step_per_stage(recipe, method):
    for stage in gradient_stages(recipe):
        batch = make_batch(recipe, stage).to(META)
        with OneDevice():
            losses = method.losses(stage, batch)
            sum(losses.values()).backward()
            method.after_step(stage, 0)
        assert {loss.device for loss in losses.values()} == {META}


def test_losses_of_every_stage(name, monkeypatch):
    recipe, method = on_meta(name)
    method.train()
    if name in VALUE_DEPENDENT:
        with pytest.raises((RuntimeError, NotImplementedError), match=r"meta|nonzero"):
            one_step_per_stage(recipe, method)
        without_the_part_that_reads(name, method, monkeypatch)
    one_step_per_stage(recipe, method)


def test_the_check_finds_what_it_is_for():
    x, cpu = torch.ones(2, 3, device=META), torch.ones(3, 3)
    with OneDevice():
        assert (x * torch.tensor(2.0)).device == META
        assert x[torch.tensor([0, 0, 1])].shape == (3, 3)
        for mixed in (
            lambda: x @ cpu,
            lambda: torch.cat([x, cpu]),
            lambda: cpu[torch.ones(2, dtype=torch.long, device=META)],
            lambda: torch.nn.functional.conv1d(x[None], torch.ones(1, 2, 1)),
            lambda: torch.empty(3, device=META).uniform_(generator=torch.Generator()),
        ):
            with pytest.raises(RuntimeError, match="operands on"):
                mixed()
    for read in (x.sum().item, x.numpy, x.tolist, x.cpu, lambda: bool(x.sum()), lambda: x[x > 0]):
        with pytest.raises((RuntimeError, NotImplementedError, TypeError)):
            read()
