"""A GPU never waits for Python: nothing is read from it in a step, and copies to it start from pinned memory.

The steps run on torch's meta device, which has no numbers to read, as in `tests/runs/test_other_device.py`; `NoWaiting`
adds copies from the CPU for which the host would wait.
"""

from contextlib import nullcontext

import pytest
import torch
from test_contract import gradient_stages, make_batch, observed, smoke
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from textmask.errors import TextMaskError
from textmask.methods.registry import list_methods
from textmask.training.averaging import MovingAverage
from textmask.training.readings import READ_EVERY, Readings
from textmask.training.steps import GradientStep

META = torch.device("meta")
aten = torch.ops.aten
# methods whose losses still decide by values: see tests/runs/test_other_device.py, which names the part that reads
STILL_READS = {"semi_medref"}


class NoWaiting(TorchDispatchMode):
    """Raises for a copy from the CPU that the host would wait for."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is aten._to_copy.default:
            target = torch.device(kwargs.get("device") or args[0].device)
            crosses = args[0].device.type == "cpu" and target == META
            waits = not kwargs.get("non_blocking", False)
        elif function is aten.copy_.default:
            crosses = args[1].device.type == "cpu" and args[0].device == META
            waits = not (len(args) > 2 and args[2]) and not kwargs.get("non_blocking", False)
        else:
            return function(*args, **kwargs)
        if crosses and waits:
            raise RuntimeError(f"{function} copies from the CPU and waits")
        return function(*args, **kwargs)


class NoNewTensors(TorchFunctionMode):
    """Raises for a tensor that is made of Python numbers on the device, which waits like any copy."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        made = function in (torch.tensor, torch.as_tensor) and not isinstance(args[0], torch.Tensor)
        if made and torch.device(kwargs.get("device") or "cpu") == META:
            raise RuntimeError(f"{function.__name__} copies from the CPU and waits")
        return function(*args, **kwargs)


class OnMeta:
    """What a training step needs of Fabric, on one device without numbers."""

    class strategy:
        precision = None

    def setup(self, module, optimizer):
        optimizer.optimizer = optimizer
        return module, optimizer

    def no_backward_sync(self, module, enabled):
        return nullcontext()

    def backward(self, loss):
        loss.backward()

    def clip_gradients(self, module, optimizer, max_norm, error_if_nonfinite):
        torch.nn.utils.clip_grad_norm_(module.parameters(), max_norm)


@pytest.fixture(autouse=True)
def autocast(monkeypatch):
    """The meta device has no autocast; fp32 is what runs here."""
    real, enabled = torch.autocast, torch.is_autocast_enabled

    def off(kind, *arguments, **options):
        return nullcontext() if kind == "meta" else real(kind, *arguments, **options)

    monkeypatch.setattr(torch, "autocast", off)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: kind != "meta" and enabled(kind))


def two_steps_of_every_stage(name):
    recipe, method = smoke(name)
    observed(recipe, method)
    place = dict(method.named_buffers()).get("text_encoder._place")
    method.to(META).train()
    if place is not None:  # a new prompt is encoded once, on the CPU here
        method.text_encoder._place = place

    for stage_name in gradient_stages(recipe):
        stage = recipe.stage(stage_name).model_copy(update={"ema_decay": 0.9})
        step = GradientStep(OnMeta(), method, stage, stage.optim, 2, {})
        readings = Readings(META, {}, 0)
        batch = make_batch(recipe, stage_name)
        with NoWaiting(), NoNewTensors():
            for i in range(2):
                step.start_step(0, i)
                values = step.run(batch.to(META), 0, i)
                assert not readings.add(i, values)
        assert {value.device for value in values.values()} == {META}


@pytest.mark.parametrize("name", sorted(set(list_methods()) - STILL_READS))
def test_no_step_reads_from_the_device(name):
    two_steps_of_every_stage(name)


@pytest.mark.parametrize("name", sorted(STILL_READS))
def test_only_the_losses_of_these_methods_read(name):
    with pytest.raises((RuntimeError, NotImplementedError), match=r"meta|nonzero|waits") as found:
        two_steps_of_every_stage(name)
    files = [str(entry.path) for entry in found.traceback if "src/textmask" in str(entry.path)]
    assert "/training/" not in files[-1]


def test_the_check_finds_what_it_is_for():
    cpu, device = torch.ones(3), torch.ones(3, device=META)
    with NoWaiting(), NoNewTensors():
        cpu.to(META, non_blocking=True)
        for waiting in (
            lambda: cpu.to(META),
            lambda: torch.tensor([1.0, 2.0], device=META),
            lambda: device.copy_(cpu),
        ):
            with pytest.raises(RuntimeError, match="waits"):
                waiting()


def values(*losses):
    return [{"loss": torch.tensor(loss), "loss/seg": torch.tensor(2 * loss)} for loss in losses]


@pytest.mark.parametrize("every", [1, 3, 100])
def test_sums_do_not_depend_on_when_they_are_read(every):
    readings = Readings(torch.device("cpu"), {"loss": 1.0}, 0)
    readings.every = every
    read = [readings.add(i, one) for i, one in enumerate(values(0.1, 0.2, 0.3, 0.4))]
    assert read == [(i + 1) % every == 0 for i in range(4)]
    expected = 1.0
    for loss in (0.1, 0.2, 0.3, 0.4):
        expected += float(torch.tensor(loss))
    assert readings.read()["loss"] == expected
    assert readings.last["loss/seg"] == float(torch.tensor(0.8))


def test_a_late_reading_names_the_step_that_was_not_finite():
    readings = Readings(torch.device("cpu"), {}, 4)
    readings.every = READ_EVERY
    for i, one in enumerate(values(0.1, float("inf"), float("nan"))):
        readings.add(i, one)
    with pytest.raises(TextMaskError, match=r"epoch 5, step 2: \{'loss': inf"):
        readings.read()


def test_the_moving_average_is_that_of_torch():
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    theirs = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    ours = MovingAverage(net, 0.9)
    for step in range(4):
        if step == 2:  # a resumed training
            ours, stored = MovingAverage(net, 0.9), ours.state_dict()
            ours.load_state_dict(stored)
        with torch.no_grad():
            for p in net.parameters():
                p.add_(torch.randn(p.shape))
        net(torch.rand(2, 1, 8, 8))
        theirs.update_parameters(net)
        ours.update_parameters(net)
    expected = theirs.state_dict()
    assert expected.keys() == ours.state_dict().keys()
    assert all(torch.equal(expected[key], value) for key, value in ours.state_dict().items())
