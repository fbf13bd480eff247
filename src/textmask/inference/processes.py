"""Call a function in several processes of this machine, which share its CPU threads."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, as_completed
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")


def run_in_processes(
    function: Callable[..., Result], tasks: Sequence[tuple[Any, ...]], processes: int
) -> Generator[tuple[int, Result | None, str], None, None]:
    """Like `cluster.run_tasks`, in processes of this machine.

    Ctrl-C is for the caller: the processes finish the task that they have begun. They end with the caller, however
    it ends. If one of them dies, its task and those that wait are yielded with the error.
    """
    threads = max(1, torch.get_num_threads() // processes)
    pool = ProcessPoolExecutor(
        processes,
        multiprocessing.get_context("spawn"),
        initializer=start_worker,
        initargs=(threads,),
    )
    try:
        waiting = {pool.submit(function, *task): i for i, task in enumerate(tasks)}
        for future in as_completed(waiting):
            error = future.exception()
            if error is None:
                yield waiting[future], future.result(), ""
            elif isinstance(error, BrokenExecutor):
                died = "a process was ended by the system, perhaps for want of memory; use fewer --processes"
                yield waiting[future], None, died
            else:
                raise error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def start_worker(threads: int) -> None:
    """Prepare a process of `run_in_processes` that uses that many CPU threads."""
    # the caller stops the processes; one whose caller was killed has nobody to work for
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    caller = multiprocessing.parent_process()
    if caller is not None:
        threading.Thread(target=_end_with, args=(caller,), daemon=True).start()
    torch.set_num_threads(threads)


def _end_with(caller: BaseProcess) -> None:
    caller.join()
    os._exit(1)
