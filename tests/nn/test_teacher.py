"""The teacher: starts as the student, follows by Eq. (theta_t = alpha theta_t + (1 - alpha) theta_s), never trains."""

import copy

import pytest
import torch
from torch import nn

from textmask.config import EMA
from textmask.errors import ConfigError
from textmask.methods.base import Method
from textmask.nn.teacher import Teacher


def student():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Conv2d(4, 1, 1))


def changed(net, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn(p.shape, generator=generator))
        net[1].running_mean.add_(torch.randn(4, generator=generator))
        net[1].num_batches_tracked.add_(3)


def test_it_starts_as_the_student_and_is_no_parameter():
    net = student()
    teacher = Teacher(net, EMA())
    assert list(teacher.parameters()) == []
    assert {f"net.{key}" for key in net.state_dict()} < set(teacher.state_dict())
    x = torch.rand(2, 3, 8, 8)
    assert torch.equal(teacher(x), net.eval()(x))
    with torch.no_grad():
        net[0].weight.zero_()
    assert teacher.net[0].weight.any()  # a copy, not the same tensors


@pytest.mark.parametrize("buffers", ["average", "copy"])
def test_it_follows_by_the_moving_average(buffers):
    net = student()
    teacher = Teacher(net, EMA(start=0.5, end=0.9, ramp_steps=4, buffers=buffers))
    expected = {key: value.clone() for key, value in net.state_dict().items()}
    for step in range(6):
        changed(net, step)
        teacher.follow(net)
        alpha = min(1 - 1 / (step + 1), 0.5 + min(step / 4, 1) * 0.4)
        for key, new in net.state_dict().items():
            running = "running" in key
            if key.endswith("num_batches_tracked") or (running and buffers == "copy"):
                expected[key] = new.clone()
            else:
                expected[key] = alpha * expected[key] + (1 - alpha) * new
    for key, value in expected.items():
        torch.testing.assert_close(teacher.net.state_dict()[key], value, atol=1e-5, rtol=1e-5)


def test_the_first_step_takes_the_student_whole():
    net = student()
    teacher = Teacher(net, EMA())
    changed(net, 1)
    teacher.follow(net)
    assert torch.equal(teacher.net[0].weight, net[0].weight)


def test_it_stays_in_eval_mode_and_makes_no_gradient():
    teacher = Teacher(student(), EMA())
    teacher.train()
    assert not any(module.training for module in teacher.modules())
    x = torch.rand(1, 3, 8, 8, requires_grad=True)
    assert not teacher(x).requires_grad
    assert torch.equal(teacher(x), teacher(x))  # no dropout


def test_its_state_survives_a_checkpoint():
    net = student()
    teacher = Teacher(net, EMA())
    for step in range(3):
        changed(net, step)
        teacher.follow(net)
    again = Teacher(student(), EMA())
    again.load_state_dict(copy.deepcopy(teacher.state_dict()))
    changed(net, 9)
    teacher.follow(net)
    again.follow(net)
    assert int(again.steps) == 4
    assert all(torch.equal(a, b) for a, b in zip(teacher.buffers(), again.buffers(), strict=True))


class Pair(Method):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(1, 1)
        self.teacher = Teacher(self.net, EMA())


def test_the_choice_of_who_answers_is_part_of_the_state():
    method = Pair().eval()
    assert method.weights_to_use == ("student", "teacher")
    assert method.answering(method.net) is method.net
    method.use("teacher")
    assert method.answering(method.net) is method.teacher.net
    assert method.train().answering(method.net) is method.net
    again = Pair().eval()
    again.load_state_dict(method.state_dict())
    assert again.answering(again.net) is again.teacher.net
    with pytest.raises(ConfigError, match="has no weights 'pupil'; it has: student, teacher"):
        method.use("pupil")
    with pytest.raises(ConfigError, match="has no weights"):
        Method().use("student")
