"""BCAM at all five scales of C2Seg compared with Eq. 6 as printed, which needs a tensor of tokens x places x channels.

Batch 8 at 224 x 224 (12544, 3136, 784, 196 and 49 places), 24 tokens, fp32, forward and backward. Both sides share maps
and weights and give the same streams; memory is the growth of the process during one forward and backward pass.
"""

import ctypes
import gc
import os
import re
from pathlib import Path

import torch
from timing import Goals, interleave

from textmask.nn.c2seg import BCAM
from textmask.nn.fields import UKAN_WIDTHS
from textmask.nn.kan import KANLinear

BATCH, TOKENS, PLACES = 8, 24, tuple((112 // 2**i) ** 2 for i in range(5))


def literal(
    module: BCAM, vision: torch.Tensor, language: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Eq. 4-6 term by term."""
    vision_value, language_value = module.vision_value(vision), module.language_value(language)
    a = module.vision_key(vision) @ module.language_key(language).mT / vision.shape[2] ** 0.5
    f_v = a.softmax(2) @ language_value
    weighted = a.mT.softmax(2)[..., None] * vision_value[:, None]  # B N P C
    return f_v, weighted.mean(1)


def peak_bytes(run) -> int:
    """Growth of the resident memory while `run` runs (Linux)."""

    def status(name: str) -> int:
        return 1024 * int(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[1])

    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again
    before = status("VmRSS")
    run()
    return status("VmHWM") - before


def main() -> int:
    torch.set_num_threads(os.cpu_count() or 1)
    torch.manual_seed(0)
    goals, modules, inputs = Goals(), [], []
    for channels, places in zip(UKAN_WIDTHS, PLACES, strict=True):
        modules.append(BCAM(channels, KANLinear, "none"))
        vision = torch.randn(BATCH, places, channels, requires_grad=True)
        inputs.append((vision, torch.randn(BATCH, TOKENS, channels, requires_grad=True)))
    mask = torch.ones(BATCH, TOKENS, dtype=torch.bool)

    def ours() -> torch.Tensor:
        return sum(
            (s.vision + s.language).sum()
            for s in (m(*i, mask) for m, i in zip(modules, inputs, strict=True))
        )

    def printed() -> torch.Tensor:
        streams = (literal(module, *pair) for module, pair in zip(modules, inputs, strict=True))
        return sum((f_v + f_l).sum() for f_v, f_l in streams)

    for module, pair in zip(modules, inputs, strict=True):
        a, b = module(*pair, mask), literal(module, *pair)
        assert torch.allclose(a.vision, b[0], rtol=1e-4, atol=1e-6)
        assert torch.allclose(a.language, b[1], rtol=1e-4, atol=1e-6)
    times = interleave(
        {"ours": lambda: ours().backward(), "as printed": lambda: printed().backward()}, repeats=5
    )
    memory = {
        "ours": peak_bytes(lambda: ours().backward()),
        "as printed": peak_bytes(lambda: printed().backward()),
    }
    for name, seconds in times.items():
        print(
            f"{name}: {1e3 * seconds:.0f} ms forward+backward, {memory[name] / 2**20:.0f} MiB at the peak"
        )
    goals.at_least("bcam_memory_over_printed", memory["as printed"] / memory["ours"], 2)
    goals.at_least("bcam_speed_over_printed", times["as printed"] / times["ours"], 1)
    return goals.finish()


if __name__ == "__main__":
    raise SystemExit(main())
