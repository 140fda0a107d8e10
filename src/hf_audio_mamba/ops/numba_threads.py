"""A pool of Python threads for kernels that release the interpreter lock.

numba's own `parallel=True` is not used: its OpenMP layer kills forked DataLoader workers, its work-queue layer aborts
when two Python threads enter it, and it compiles ten times as long.
"""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

_TASKS_PER_THREAD = 4  # evens out threads that the machine slows down
_lock = threading.Lock()
_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}


def _pool(threads: int) -> ThreadPoolExecutor:
    """The pool of this process; a forked child makes its own, as threads do not survive a fork."""
    key = (os.getpid(), threads)
    with _lock:
        if key not in _pools:
            _pools[key] = ThreadPoolExecutor(threads, thread_name_prefix="hf_audio_mamba")
        return _pools[key]


def run_items(task: Callable[[int, int], None], items: int, *, serial: bool) -> None:
    """Call `task(first, last)` over the ranges of `items`, with as many threads as torch uses.

    Args:
        task: Works on the items from first up to but not including last, without the interpreter lock.
        items: Number of work items.
        serial: Whether the work is too small to be worth other threads.
    """
    threads = min(torch.get_num_threads(), items)
    if serial or threads <= 1:
        task(0, items)
        return
    tasks = min(items, _TASKS_PER_THREAD * threads)
    bounds = [items * index // tasks for index in range(tasks + 1)]
    for _ in _pool(threads).map(task, bounds[:-1], bounds[1:]):
        pass


def _forget_pools() -> None:
    """In a forked child: another thread of the parent may have held the lock, and its pools have no threads."""
    global _lock
    _lock = threading.Lock()
    _pools.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pools)
