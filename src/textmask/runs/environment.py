"""The machine of a run: CPU memory allocation, threads, and the record of the environment."""

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
    """Keep freed memory in the process instead of returning it to the kernel after every step.

    glibc maps and unmaps large tensors each time, which costs a third of a training step on a CPU. Calling it again
    changes nothing.

    Returns:
        Whether it could be set; only glibc can.
    """
    if sys.platform != "linux":
        return False

    # musl and others have no mallopt
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


@contextmanager
def limited_threads(threads: int | None) -> Iterator[None]:
    """Limit the threads of torch inside the block; None changes nothing."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(before if threads is None else threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Inside the block one thread and deterministic kernels, so that the numbers do not depend on the threads.

    Args:
        wanted: False changes nothing.
    """
    import torch

    if not wanted:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    with limited_threads(1):
        # kernels without a deterministic form only warn
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before)


def environment() -> dict[str, Any]:
    """What a reader needs to repeat a run: versions, machine, git commit and the command line."""
    import torch

    # an optional package that is not installed is recorded as such
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = ""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu_cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "packages": packages,
        "git_commit": git_commit(),
    }


def git_commit() -> str:
    """Commit of the source checkout, "+changes" if a tracked file under src differs; "" outside a checkout."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    try:
        commit = git("rev-parse", "--short=12", "HEAD")
        if commit and git("status", "--porcelain", "-uno", "--", str(folder.parent)):
            return f"{commit}+changes"
        return commit
    except OSError:  # git is not installed
        return ""
