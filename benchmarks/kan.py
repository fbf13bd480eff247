"""The KAN layer, forward and backward, against the formulation of the public layers: Cox-de Boor step by step.

One process, one thread; tokens x channels as in U-KAN and BCAM. The floor is the matrix product alone, a plain
`Linear(9C, C)` on an input that already holds the basis. Memory is what the forward pass keeps, parameters left out.
"""

import numba
import torch
from timing import Goals, interleave
from torch import nn

from textmask.nn.kan import KANLinear

SHAPES = ((1568, 320), (6272, 160), (25088, 128))


class Recursion(nn.Module):
    """The same function and weights, as it is usually written: recursion over a T I K tensor, two products."""

    def __init__(self, layer: KANLinear) -> None:
        super().__init__()
        self.layer = layer
        low, high = layer.span
        step = (high - low) / layer.grid
        self.knots = torch.arange(-layer.order, layer.grid + layer.order + 1) * step + low

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        layer, t, x_ = self.layer, self.knots, x[..., None]
        bases = ((x_ >= t[:-1]) & (x_ < t[1:])).to(x.dtype)
        for k in range(1, layer.order + 1):
            left = (x_ - t[: -(k + 1)]) / (t[k:-1] - t[: -(k + 1)]) * bases[..., :-1]
            bases = left + (t[k + 1 :] - x_) / (t[k + 1 :] - t[1:-k]) * bases[..., 1:]
        splines = (layer.spline_weight * layer.spline_scale[:, None]).transpose(1, 2).flatten(1)
        base = nn.functional.linear(nn.functional.silu(x), layer.base_weight)
        return base + nn.functional.linear(bases.flatten(-2), splines)


def train_step(module: nn.Module, x: torch.Tensor, low: bool = False):
    """Forward and backward of a sum of squares."""

    def run() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            y = module(x)
        y.float().square().sum().backward()

    return run


def kept(module: nn.Module, x: torch.Tensor) -> int:
    """Bytes kept for the backward pass."""
    seen: dict[int, int] = {}
    shared = {p.untyped_storage().data_ptr() for p in module.parameters()}

    def pack(y: torch.Tensor) -> torch.Tensor:
        storage = y.untyped_storage()
        # what has no token dimension is weights, or made of weights
        if storage.data_ptr() not in shared and x.shape[0] in y.shape:
            seen[storage.data_ptr()] = storage.nbytes()
        return y

    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda y: y),
        torch.autocast("cpu", torch.bfloat16, enabled=low),
    ):
        out = module(x)
    del out
    return sum(seen.values())


def main() -> int:
    torch.set_num_threads(1)
    numba.set_num_threads(1)
    torch.manual_seed(0)
    goals = Goals()
    for tokens, channels in SHAPES:
        layer = KANLinear(channels, channels, norm=False)
        peer, floor = Recursion(layer), nn.Linear(9 * channels, channels, bias=False)
        x = torch.randn(tokens, channels, requires_grad=True)
        basis = torch.randn(tokens, 9 * channels, requires_grad=True)
        ours, theirs = layer(x), peer(x)
        difference = ((ours - theirs).norm() / theirs.norm()).item()
        times = interleave(
            {
                "recursion": train_step(peer, x),
                "fp32": train_step(layer, x),
                "floor": train_step(floor, basis),
                "bf16": train_step(layer, x, low=True),
            },
            repeats=5 if tokens < 20_000 else 3,
        )
        memory = {"recursion": kept(peer, x), "fp32": kept(layer, x)}
        print(
            f"{tokens} x {channels}: "
            + ", ".join(f"{name} {1e3 * seconds:.1f} ms" for name, seconds in times.items())
            + f"; kept {memory['recursion'] / 2**20:.1f} and {memory['fp32'] / 2**20:.2f} MiB; "
            f"relative difference {difference:.1e}"
        )
        size = f"{tokens}x{channels}"
        goals.at_least(f"kan_fp32_over_recursion_{size}", times["recursion"] / times["fp32"], 2)
        goals.at_least(f"kan_bf16_over_recursion_{size}", times["recursion"] / times["bf16"], 6)
        goals.at_least(f"kan_memory_recursion_over_ours_{size}", memory["recursion"] / memory["fp32"], 20)
        goals.at_least(f"kan_fp32_speed_over_floor_{size}", times["floor"] / times["fp32"], 0.9)
        goals.at_least(f"kan_equal_to_1e-5_{size}", 1e-5 / max(difference, 1e-12), 1)
    return goals.finish()


if __name__ == "__main__":
    raise SystemExit(main())
