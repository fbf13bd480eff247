"""The machine a run happens on: memory allocation for training on CPUs, and the record of the environment."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # <malloc.h>
PACKAGES = (
    "textmask",
    "torch",
    "numpy",
    "transformers",
    "lightning-fabric",
    "opencv-python-headless",
    "safetensors",
)


def prepare_cpu() -> bool:
    """Keep freed memory in the process instead of handing it back to the kernel after every step.

    glibc maps and unmaps large tensors each time, which costs a third of a training step on a CPU. Returns whether
    it could be set (glibc only); calling it twice does no harm.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


@contextmanager
def limited_threads(threads: int | None) -> Iterator[None]:
    """Let torch use so many threads meanwhile; None leaves it as it is."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(before if threads is None else threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def environment() -> dict[str, Any]:
    """What a reader needs to repeat a run: versions, machine, git commit and the command line."""
    import torch

    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu_cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "packages": {name: _version(name) for name in PACKAGES},
        "git_commit": git_commit(),
    }


def git_commit() -> str:
    """Commit of the source checkout, "+changes" when a tracked file under src differs; "" outside a checkout."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    try:
        commit = git("rev-parse", "--short=12", "HEAD")
        return commit + (
            "+changes"
            if commit and git("status", "--porcelain", "-uno", "--", str(folder.parent))
            else ""
        )
    except OSError:
        return ""


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
