"""Batched Sinkhorn compared with POT, ott-jax, geomloss and an unrolled log-domain iteration; eps 0.03, tolerance 1e-2.

Costs are 1 - cosine of seeded random tokens of width 64 with a common part, as frozen encoders give them. All peers
solve the same costs in one process on one thread, turn by turn, each from a tensor in its best memory layout. Times are
median CPU time of the process, because wall-clock time also depends on other work on the machine. The last column is
the distance of each plan's marginals from their targets (L1, worst of the batch). POT checks its stopping rule only
every tenth iteration, so it is also run with our number of iterations; the faster of the two counts.
"""

import math
import os
import statistics
import time
from collections.abc import Callable, Mapping

os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

import torch
from timing import Goals

from textmask.losses.transport import cosine_cost, sinkhorn, transport_loss
from textmask.runs.environment import prepare_cpu

EPS, TOLERANCE, MAX = 0.03, 1e-2, 100
SIZES = [(b, n, length) for b in (16, 32) for n in (196, 784) for length in (24, 77)]


def cpu_seconds(candidates: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median CPU seconds of the process for each candidate, in turns.

    An untimed call precedes each timed one; otherwise the candidate after the largest would pay for evicted caches.
    """
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(repeats):
        for name, run in candidates.items():
            run()
            begin = time.process_time()
            run()
            times[name].append(time.process_time() - begin)
    return {name: statistics.median(values) for name, values in times.items()}


def tokens(b: int, n: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(b + n + length)
    shared = torch.randn(b, 1, 64, generator=generator)
    return (torch.randn(b, k, 64, generator=generator) + shared for k in (n, length))


def unrolled(cost: torch.Tensor) -> torch.Tensor:
    """The text-book loop on potentials with autograd through every iteration.

    It stops where the potentials of the image tokens change by less than the tolerance in sum, mean over the batch.
    """
    n, length = cost.shape[1:]
    f, g = cost.new_zeros(len(cost), n), cost.new_zeros(len(cost), length)
    for _ in range(MAX):
        before = f
        f = EPS * (-math.log(n) - torch.logsumexp((f[:, :, None] + g[:, None] - cost) / EPS, 2)) + f
        g = (
            EPS
            * (-math.log(length) - torch.logsumexp((f[:, :, None] + g[:, None] - cost) / EPS, 1))
            + g
        )
        if float((f - before).detach().abs().sum(1).mean()) < TOLERANCE:
            break
    plan = ((f[:, :, None] + g[:, None] - cost) / EPS).exp()
    return (plan * cost).sum((1, 2)).mean()


def violation(plan: torch.Tensor) -> float:
    rows = (plan.sum(2) - 1 / plan.shape[1]).abs().sum(1)
    columns = (plan.sum(1) - 1 / plan.shape[2]).abs().sum(1)
    return float((rows + columns).max())


def peers(cost: torch.Tensor, iterations: int) -> dict[str, Callable[[], object]]:
    """Forward passes of the libraries that are installed; missing ones are left out."""
    found = {}
    try:
        from ot.batch import bregman_projection_batch, solve_batch

        def pot() -> torch.Tensor:
            return solve_batch(
                cost, EPS, max_iter=MAX, tol=TOLERANCE, method="sinkhorn", grad="detach"
            ).plan

        def pot_as_long() -> torch.Tensor:
            b, n, length = cost.shape
            marginals = torch.full((b, n), 1 / n), torch.full((b, length), 1 / length)
            return bregman_projection_batch(
                torch.exp(-cost / EPS), *marginals, max_iter=iterations, tol=0.0
            )["T"]

        found |= {"POT ot.batch": pot, "POT, as many its": pot_as_long}
    except ImportError:
        print("POT is not installed: pip install POT")
    try:
        import jax
        from ott.geometry import geometry
        from ott.problems.linear import linear_problem
        from ott.solvers.linear import sinkhorn as ott_sinkhorn

        solver = ott_sinkhorn.Sinkhorn(
            lse_mode=False,
            threshold=TOLERANCE,
            max_iterations=MAX,
            inner_iterations=1,
            norm_error=1,
        )

        @jax.jit
        @jax.vmap
        def solve(matrix):
            problem = linear_problem.LinearProblem(
                geometry.Geometry(cost_matrix=matrix, epsilon=EPS)
            )
            return solver(problem).matrix

        as_jax = jax.numpy.asarray(cost.numpy())
        found["ott-jax"] = lambda: solve(as_jax).block_until_ready()
    except ImportError:
        print("ott-jax is not installed: pip install ott-jax")
    return found


def geomloss_of(image: torch.Tensor, text: torch.Tensor) -> object | None:
    try:
        from geomloss import SamplesLoss
    except ImportError:
        print("geomloss is not installed: pip install geomloss")
        return None
    normal = torch.nn.functional.normalize
    image, text = normal(image, dim=2), normal(text, dim=2)
    loss = SamplesLoss(
        "sinkhorn",
        p=1,
        blur=EPS,
        debias=False,
        backend="tensorized",
        cost=lambda x, y: 1 - x @ y.transpose(1, 2),
    )
    return lambda: loss(image, text)


def main() -> int:
    torch.set_num_threads(1)
    prepare_cpu()
    goals = Goals()
    worst: dict[str, float] = {}
    for b, n, length in SIZES:
        image, text = tokens(b, n, length)
        laid_out = cosine_cost(image, text)
        cost = laid_out.contiguous()
        leaf, own_leaf = cost.clone().requires_grad_(), laid_out.detach().requires_grad_()
        settings = {"eps": EPS, "max_iterations": MAX, "tolerance": TOLERANCE}
        iterations = int(sinkhorn(cost, **settings).iterations.max())
        forward = {"ours": lambda cost=laid_out, s=settings: sinkhorn(cost, **s).plan} | peers(
            cost, iterations
        )
        samples = geomloss_of(image, text)
        exact = sinkhorn(cost, eps=EPS, tolerance=1e-6, max_iterations=5000).plan
        off = {}
        for name, run in forward.items():
            plan = torch.as_tensor(run().tolist()) if name == "ott-jax" else run()
            off[name] = violation(plan)
            if (plan - exact).abs().sum((1, 2)).max() > 0.3:
                raise SystemExit(f"{name} gives another plan")
        if samples is not None:
            forward["geomloss"] = samples
        both = {
            "unrolled": lambda leaf=leaf: torch.autograd.grad(unrolled(leaf), leaf),
            "ours, detached": lambda leaf=own_leaf, s=settings: torch.autograd.grad(
                transport_loss(leaf, **s), leaf
            ),
            "ours, implicit": lambda leaf=own_leaf, s=settings: torch.autograd.grad(
                transport_loss(leaf, grad="implicit", **s), leaf
            ),
        }
        slow = torch.autograd.grad(unrolled(leaf), leaf)[0]
        ours = torch.autograd.grad(transport_loss(leaf, grad="implicit", **settings), leaf)[0]
        if (slow - ours).norm() / slow.norm() > 0.1:
            raise SystemExit("the implicit gradient is not that of the unrolled iteration")
        times = cpu_seconds(forward, 15) | cpu_seconds(both, 9)
        print(f"B {b}, N {n}, L {length}: iterations {iterations}")
        for name, seconds in times.items():
            base = times["ours"] if name in forward else times["ours, detached"]
            left = f", marginals off by {off[name]:.1e}" if name in off else ""
            print(f"  {name:17} {1e3 * seconds:8.2f} ms  {seconds / base:6.2f}x{left}")
        ratios: dict[str, float] = {}
        for name in forward.keys() - {"ours"}:
            peer = f"forward_over_{name.split()[0].rstrip(',')}"
            ratios[peer] = min(times[name] / times["ours"], ratios.get(peer, math.inf))
        ratios["detached_over_unrolled"] = times["unrolled"] / times["ours, detached"]
        ratios["implicit_over_unrolled"] = times["unrolled"] / times["ours, implicit"]
        worst = {name: min(ratio, worst.get(name, math.inf)) for name, ratio in ratios.items()}
    wanted = {"POT": 1, "ott-jax": 4, "geomloss": 9}
    for name, goal in wanted.items():
        goals.at_least(
            f"sinkhorn_forward_over_{name}", worst.get(f"forward_over_{name}", 0.0), goal
        )
    goals.at_least("sinkhorn_detached_over_unrolled", worst["detached_over_unrolled"], 15)
    goals.at_least("sinkhorn_implicit_over_unrolled", worst["implicit_over_unrolled"], 10)
    return goals.finish()


if __name__ == "__main__":
    raise SystemExit(main())
