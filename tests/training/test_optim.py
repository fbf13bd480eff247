"""Schedules, parameter groups and weighted sums."""

import math

import pytest
import torch

from textmask.config import Optim, Ramp, Schedule, Stage
from textmask.errors import ConfigError
from textmask.methods.registry import build_method, get_method
from textmask.training.optim import (
    build_optimizer,
    learning_rate,
    parameter_groups,
    set_learning_rate,
    weighted_sum,
)


def test_cosine_falls_from_lr_to_lr_min():
    s = Schedule(name="cosine", lr_min=1e-5)
    assert learning_rate(s, 1e-3, 0, 100, 10) == pytest.approx(1e-3)
    assert learning_rate(s, 1e-3, 50, 100, 10) == pytest.approx(1e-5 + (1e-3 - 1e-5) / 2)
    assert learning_rate(s, 1e-3, 100, 100, 10) == pytest.approx(1e-5)


def test_one_cycle_rises_then_falls():
    s = Schedule(name="one_cycle", warmup=0.2, lr_min=0.0)
    rates = [learning_rate(s, 1.0, step, 100, 10) for step in range(101)]
    assert rates[0] == pytest.approx(1 / 25)
    assert max(rates) == rates[20] == 1.0
    assert rates[:21] == sorted(rates[:21])
    assert rates[20:] == sorted(rates[20:], reverse=True)


def test_warm_restarts_start_over_every_period():
    s = Schedule(name="warm_restarts", period_epochs=2, lr_min=0.0)
    for step in range(40):
        expected = 0.5 * (1 + math.cos(math.pi * (step % 20) / 20))
        assert learning_rate(s, 1.0, step, 40, 10) == pytest.approx(expected)


def test_constant_is_constant():
    assert {learning_rate(Schedule(name="constant"), 0.3, step, 9, 3) for step in range(9)} == {0.3}


def test_lr_scale_freezes_and_scales_by_name():
    method = build_method(get_method("unet").recipe().smoke())
    stage = Stage(name="s", lr_scale={"unet.encoder.*": 0.0, "unet.decoder.*": 0.1})
    groups = parameter_groups(method, stage)
    assert sorted({group["factor"] for group in groups}) == [0.1, 1.0]
    assert not any(p.requires_grad for p in method.unet.encoder.parameters())
    assert all(p.ndim > 1 for group in groups if group["weight_decay"] for p in group["params"])
    optimizer = torch.optim.AdamW(groups, lr=1.0)
    set_learning_rate(optimizer, 0.5)
    assert sorted({group["lr"] for group in optimizer.param_groups}) == [0.05, 0.5]
    parameter_groups(method, Stage(name="next"))
    assert all(p.requires_grad for p in method.parameters())
    with pytest.raises(ConfigError, match="match no parameter"):
        parameter_groups(method, Stage(name="s", lr_scale={"text_encoder.*": 0.0}, optim=Optim()))


def test_weighted_sum_is_the_sum_and_a_zero_weight_costs_nothing():
    losses = {"a": torch.tensor(2.0), "b": torch.tensor(float("nan")), "c": torch.tensor(3.0)}
    weights = {"a": 0.5, "b": 0.0, "c": Ramp(to=2.0, end_epoch=10)}
    assert float(weighted_sum(losses, weights, 5.0)) == pytest.approx(0.5 * 2 + 1.0 * 3)


def test_poly_falls_with_the_power_of_nine_tenths():
    s = Schedule(name="poly", lr_min=0.0)
    for step in range(101):
        expected = 0.01 * (1 - step / 100) ** 0.9
        assert learning_rate(s, 0.01, step, 100, 10) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["sgd", "nesterov"])
def test_momentum_is_the_first_beta_and_nesterov_looks_ahead(name):
    """v <- mu v + g; then p <- p - lr v, or p - lr (g + mu v) by Nesterov."""
    p = torch.tensor([2.0], requires_grad=True)
    optim = Optim(name=name, lr=0.1, betas=(0.9, 0.999), weight_decay=0.0)
    optimizer = build_optimizer(optim, [{"params": [p], "factor": 1.0, "weight_decay": 0.0}])
    expected, v = 2.0, 0.0
    for _ in range(4):
        optimizer.zero_grad()
        (p**2).sum().backward()
        optimizer.step()
        g = 2 * expected
        v = 0.9 * v + g
        expected -= 0.1 * (v if name == "sgd" else g + 0.9 * v)
        assert p.item() == pytest.approx(expected, rel=1e-5)
