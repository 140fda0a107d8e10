"""Clips of any length through a model of one fixed length: windows that cover a clip, and averages over them."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class WindowSize:
    """Length of a window.

    Attributes:
        frames: Frames of a window, a multiple of `frames_per_step`.
        frames_per_step: Input frames for each time step of the model's output.
    """

    frames: int
    frames_per_step: int

    @property
    def steps(self) -> int:
        """Time steps of a window."""
        return self.frames // self.frames_per_step


@dataclass(frozen=True)
class ClipWindows:
    """The windows of a batch of clips; made by `place_windows`.

    Attributes:
        size: Length of each window.
        lengths: Frames of each clip, `(clips,)`.
        order: Row of `input_values` that holds frame `t` of a clip, `(clips, frames)`; None where it is row `t`.
        clips: Clip that each window belongs to, `(windows,)`.
        first_steps: Time step of its clip that each window begins with, `(windows,)`.
        used: 1 for windows that count, `(windows,)`; a window of 0 only fills up a fixed number of windows.
        num_steps: Time steps of the longest clip that fits into the batch, at least those of one window.
    """

    size: WindowSize
    lengths: Tensor
    order: Tensor | None
    clips: Tensor
    first_steps: Tensor
    used: Tensor
    num_steps: int

    @property
    def is_single(self) -> bool:
        """Whether there is one window for each clip, in their order."""
        return self.num_steps == self.size.steps

    def cut(self, input_values: Tensor, *, silence: float, repeat: bool) -> Tensor:
        """Cut the windows out of the clips.

        Args:
            input_values: `(clips, frames, bands)`.
            silence: Value that fills a window where its clip has ended.
            repeat: Whether a clip that fits into a window more than once is repeated before that, as often as it fits.

        Returns:
            `(windows, frames of a window, bands)`.
        """
        frames = torch.arange(self.size.frames, device=input_values.device)
        frames = self.first_steps[:, None] * self.size.frames_per_step + frames
        lengths = self.lengths[self.clips, None]
        end = lengths * (self.size.frames // lengths.clamp(min=1)).clamp(min=1) if repeat else lengths
        source = frames % lengths.clamp(min=1)
        if self.order is not None:
            source = self.order[self.clips].gather(1, source)
        windows = input_values[self.clips[:, None], source]
        return torch.where((frames < end)[..., None], windows, silence)

    def average(self, values: Tensor) -> Tensor:
        """Average `(windows, channels)` over the windows of each clip: `(clips, channels)`."""
        if self.is_single:
            return values
        used = self.used.to(values.dtype)
        total = values.new_zeros(len(self.lengths), values.shape[1]).index_add(0, self.clips, values * used[:, None])
        count = used.new_zeros(len(self.lengths)).index_add(0, self.clips, used)
        return total / count[:, None]

    def merge(self, values: Tensor, *, outside: float) -> Tensor:
        """Put the time steps of windows together, averaged where windows overlap.

        Args:
            values: `(windows, steps of a window, channels)`.
            outside: Value of time steps after the end of a clip that is shorter than the longest one.

        Returns:
            `(clips, num_steps, channels)`.
        """
        if self.is_single:
            return values
        rows = len(self.lengths) * self.num_steps
        steps = torch.arange(self.size.steps, device=values.device)
        target = ((self.clips * self.num_steps + self.first_steps)[:, None] + steps).flatten()
        used = self.used.to(values.dtype)[:, None, None].expand(-1, self.size.steps, 1)
        total = values.new_zeros(rows, values.shape[2]).index_add(0, target, (values * used).flatten(0, 1))
        count = values.new_zeros(rows, 1).index_add(0, target, used.flatten(0, 1))
        merged = torch.where(count > 0, total / count.clamp(min=1), outside)
        return merged.view(len(self.lengths), self.num_steps, -1)


def place_windows(batch: int, frames: int, size: WindowSize, device: torch.device, mask: Tensor | None) -> ClipWindows:
    """Place as few windows as cover each clip, evenly spaced, on a grid of time steps.

    A clip that fits into a window has one. The last window of a longer clip ends with the clip, or less than one time
    step after it. Windows of a clip depend on its own length alone, not on the batch that it comes in.

    Args:
        batch: Clips.
        frames: Frames of the longest clip, padding included.
        size: Length of a window.
        device: Of the result.
        mask: `(batch, frames)`, 1 at frames and 0 at padding, which may stand anywhere; None where nothing is padded.
    """
    order = None
    if mask is None:
        lengths = torch.full((batch,), frames, device=device)
    else:
        order = mask.logical_not().long().argsort(dim=1, stable=True)
        lengths = mask.bool().sum(dim=1)
    num_steps = max(-(-frames // size.frames_per_step), size.steps)
    most = -(-num_steps // size.steps)
    numbers = torch.arange(most, device=device)
    steps = ((lengths + size.frames_per_step - 1) // size.frames_per_step).clamp(min=size.steps)[:, None]
    counts = (steps + size.steps - 1) // size.steps
    used = (numbers < counts).flatten()
    first_steps = (numbers * (steps - size.steps) // (counts - 1).clamp(min=1)).flatten() * used
    clips = torch.arange(batch, device=device).repeat_interleave(most)
    # Their number is not known while torch.compile traces: there, windows that count for nothing are computed too.
    if most > 1 and mask is not None and not torch.compiler.is_compiling():
        clips, first_steps, used = clips[used], first_steps[used], used[used]
    return ClipWindows(size, lengths, order, clips, first_steps, used, num_steps)
