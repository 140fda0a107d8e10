"""Windows over clips: what they cover, what they hold, and how their results are averaged."""

import itertools

import pytest
import torch

from hf_audio_mamba.layers import WindowSize, place_windows

SIZE = WindowSize(frames=12, frames_per_step=3)
CPU = torch.device("cpu")


def mask_of(lengths: list[int], frames: int, side: str = "right") -> torch.Tensor:
    steps = torch.arange(frames)
    if side == "left":
        steps = steps.flip(0)
    return (steps < torch.tensor(lengths)[:, None]).long()


@pytest.mark.parametrize("frames", range(1, 80))
def test_as_few_windows_as_possible_leave_no_frame_out(frames: int) -> None:
    windows = place_windows(1, frames, SIZE, CPU, None)
    starts = [3 * step for step in windows.first_steps.tolist()]
    heard = {frame for start in starts for frame in range(start, start + 12)}
    assert heard >= set(range(frames))
    steps = -(-frames // 3)
    assert len(starts) == max(1, -(-steps // 4))
    assert starts[0] == 0
    # The last window ends with the clip, but for the rest of a time step.
    assert max(frames, 12) <= starts[-1] + 12 < max(frames, 12) + 3
    gaps = [second - first for first, second in itertools.pairwise(starts)]
    assert not gaps or max(gaps) - min(gaps) <= 3


def test_windows_depend_on_the_clip_alone() -> None:
    lengths = [1, 12, 13, 25, 40]
    batch = place_windows(5, 43, SIZE, CPU, mask_of(lengths, 43))
    for clip, length in enumerate(lengths):
        alone = place_windows(1, length, SIZE, CPU, None)
        assert batch.first_steps[batch.clips == clip].tolist() == alone.first_steps.tolist()


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_window_holds_its_frames_then_silence(side: str) -> None:
    lengths, frames = [5, 17], 20
    mask = mask_of(lengths, frames, side)
    clips = torch.where(mask.bool(), torch.cumsum(mask, 1), 999).float()[..., None]  # frames count from 1
    windows = place_windows(2, frames, SIZE, CPU, mask)
    assert windows.clips.tolist() == [0, 1, 1]
    cut = windows.cut(clips, silence=-7.0, repeat=False)[..., 0]
    assert cut[0].tolist() == [1, 2, 3, 4, 5] + 7 * [-7]
    assert cut[1].tolist() == list(range(1, 13))
    assert cut[2].tolist() == [*range(7, 18), -7]


@pytest.mark.parametrize(("length", "times"), [(1, 12), (4, 3), (5, 2), (7, 1), (12, 1)])
def test_short_clips_repeat_as_often_as_they_fit(length: int, times: int) -> None:
    clip = torch.arange(1.0, length + 1).view(1, length, 1)
    windows = place_windows(1, length, SIZE, CPU, None)
    expected = list(range(1, length + 1)) * times
    assert windows.cut(clip, silence=0.0, repeat=True)[0, :, 0].tolist() == expected + [0] * (12 - len(expected))


def test_a_long_clip_does_not_repeat() -> None:
    clip = torch.arange(1.0, 15).view(1, 14, 1)
    windows = place_windows(1, 14, SIZE, CPU, None)
    assert windows.cut(clip, silence=0.0, repeat=True)[1, :, 0].tolist() == [*range(4, 15), 0]


def test_a_clip_without_a_frame_is_silence() -> None:
    mask = torch.zeros(1, 4)
    for repeat in (False, True):
        windows = place_windows(1, 4, SIZE, CPU, mask)
        assert (windows.cut(torch.ones(1, 4, 2), silence=-7.0, repeat=repeat) == -7).all()


def test_values_average_over_a_clips_windows() -> None:
    windows = place_windows(2, 27, SIZE, CPU, mask_of([12, 27], 27))
    assert windows.clips.tolist() == [0, 1, 1, 1]
    values = torch.tensor([[1.0, 2], [4, 0], [5, 0], [9, 6]])
    assert windows.average(values).tolist() == [[1, 2], [6, 2]]


def test_time_steps_average_where_windows_overlap() -> None:
    windows = place_windows(2, 18, SIZE, CPU, mask_of([9, 18], 18))
    assert windows.first_steps.tolist() == [0, 0, 2]
    values = torch.arange(12.0).view(3, 4, 1)
    merged = windows.merge(values, outside=-1.0)[..., 0]
    assert merged.tolist() == [[0, 1, 2, 3, -1, -1], [4, 5, (6 + 8) / 2, (7 + 9) / 2, 10, 11]]


def test_one_window_a_clip_is_left_as_it_is() -> None:
    windows = place_windows(3, 12, SIZE, CPU, mask_of([3, 12, 7], 12))
    assert windows.is_single
    values = torch.randn(3, 4, 2)
    assert windows.merge(values, outside=0.0) is values
    assert windows.average(values[:, 0]).equal(values[:, 0])


def test_while_tracing_the_same_comes_from_a_fixed_number_of_windows() -> None:
    mask = mask_of([5, 30, 13], 30)
    clips = torch.randn(3, 30, 2)

    def run(clips: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        windows = place_windows(3, 30, SIZE, CPU, mask)
        cut = windows.cut(clips, silence=0.0, repeat=False)
        return windows.average(cut.sum(1)), windows.merge(cut.unflatten(1, (4, 3)).sum(2), outside=-5.0)

    torch.compiler.reset()
    for traced, plain in zip(
        torch.compile(run, backend="eager", fullgraph=True)(clips, mask), run(clips, mask), strict=True
    ):
        torch.testing.assert_close(traced, plain)
