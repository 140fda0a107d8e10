"""Work items over threads."""

import threading

import pytest
import torch

from hf_audio_mamba.ops.numba_threads import run_items


@pytest.fixture
def threads():
    """Set torch's number of threads for a test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("items", [0, 1, 3, 8, 100])
def test_every_item_is_worked_on_once(items, count, threads):
    threads(count)
    done: list[int] = []
    run_items(lambda first, last: done.extend(range(first, last)), items, serial=False)
    assert sorted(done) == list(range(items))


def test_threads_work_at_the_same_time(threads):
    threads(3)
    meeting = threading.Barrier(3, timeout=30)

    run_items(lambda first, last: meeting.wait(), 3, serial=False)  # one after the other, they would time out


def test_small_work_stays_on_the_calling_thread(threads):
    threads(3)
    names = []
    run_items(lambda first, last: names.append(threading.current_thread()), 10, serial=True)
    assert names == [threading.current_thread()]


def test_errors_reach_the_caller(threads):
    threads(2)

    def task(first: int, last: int) -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        run_items(task, 10, serial=False)
