"""The KAN layer, forward and backward, compared with the formulation of the public layers: Cox-de Boor step by step.

One process, one thread; tokens x channels as in U-KAN and BCAM. The floor is the matrix product alone, a plain
`Linear(9C, C)` on an input that already holds the basis, in the same precision. Memory is what the forward pass keeps
for the backward pass, without parameters. Recursion, layer and floor take turns. CPU time of the thread is measured,
because wall-clock time also depends on other work on the machine.
"""

import statistics
import time
from collections.abc import Callable, Mapping

import torch
from timing import Goals
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


def cpu_seconds(candidates: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median CPU seconds of this thread for each candidate; one warm-up each, then they take turns."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for run in candidates.values():
        run()
    for _ in range(repeats):
        for name, run in candidates.items():
            begin = time.thread_time()
            run()
            times[name].append(time.thread_time() - begin)
    return {name: statistics.median(values) for name, values in times.items()}


def observed(
    module: nn.Module, x: torch.Tensor, low: bool = False
) -> tuple[list[torch.Tensor], int]:
    """Output, gradient of x and of each parameter; bytes kept for the backward pass."""
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
    direction = torch.sin(torch.arange(out.numel())).view_as(out)
    return [
        out,
        *torch.autograd.grad(out, [x, *module.parameters()], direction.to(out.dtype)),
    ], sum(seen.values())


def difference(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> float:
    """Largest relative difference among outputs and gradients."""
    return max(((a - b).norm() / b.norm()).item() for a, b in zip(ours, theirs, strict=True))


def main() -> int:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    goals = Goals()
    print(
        f"{'CPU ms, fwd + bwd':<24}{'recursion':>11}{'fp32':>9}{'Linear':>9}{'bf16':>9}{'Linear':>9}   MiB kept"
    )
    for tokens, channels in SHAPES:
        layer = KANLinear(channels, channels, norm=False)
        peer, floor = Recursion(layer), nn.Linear(9 * channels, channels)
        x = torch.randn(tokens, channels, requires_grad=True)
        basis = torch.randn(tokens, 9 * channels, requires_grad=True)
        theirs, peer_kept = observed(peer, x)
        ours, our_kept = observed(layer, x)
        rounded, low_kept = observed(layer, x, low=True)
        exact, close = difference(ours, theirs), difference(rounded, theirs)
        del theirs, ours, rounded
        near = cpu_seconds(
            {
                "fp32": train_step(layer, x),
                "fp32 floor": train_step(floor, basis),
                "bf16": train_step(layer, x, low=True),
                "bf16 floor": train_step(floor, basis, low=True),
            },
            repeats=9,
        )
        far = cpu_seconds(
            {
                "recursion": train_step(peer, x),
                "fp32": train_step(layer, x),
                "bf16": train_step(layer, x, low=True),
            },
            repeats=5 if tokens < 20_000 else 3,
        )
        size = f"{tokens}x{channels}"
        print(
            f"{size:<24}{1e3 * far['recursion']:>11.1f}"
            + "".join(f"{1e3 * seconds:>9.1f}" for seconds in near.values())
            + f"   {' '.join(f'{kept / 2**20:.2f}' for kept in (peer_kept, our_kept, low_kept))}; "
            f"relative difference {exact:.1e}, bf16 {close:.1e}"
        )
        goals.at_least(f"kan_fp32_over_recursion_{size}", far["recursion"] / far["fp32"], 2)
        goals.at_least(f"kan_bf16_over_recursion_{size}", far["recursion"] / far["bf16"], 6)
        goals.at_least(f"kan_memory_recursion_over_ours_{size}", peer_kept / our_kept, 20)
        goals.at_least(f"kan_fp32_speed_over_floor_{size}", near["fp32 floor"] / near["fp32"], 0.9)
        goals.at_least(f"kan_equal_to_1e-5_{size}", 1e-5 / max(exact, 1e-12), 1)
        goals.at_least(f"kan_bf16_close_to_2e-2_{size}", 2e-2 / max(close, 1e-12), 1)
    return goals.finish()


if __name__ == "__main__":
    raise SystemExit(main())
