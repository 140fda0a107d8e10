"""How time and memory of models grow with the length of a clip."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hf_audio_mamba.errors import DataError
from hf_audio_mamba.plots.figure import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_cost_by_length(
    lengths_s: Sequence[float],
    cpu_s: Mapping[str, Sequence[float]],
    memory_mib: Mapping[str, Sequence[float | None]],
) -> "Figure":
    """Draw time and memory over length on logarithmic axes, where a straight line of slope 1 is linear growth.

    Args:
        lengths_s: Lengths of the clips in seconds.
        cpu_s: For each model its CPU time for each length, in seconds.
        memory_mib: For each model the memory of a forward pass for each length in MiB; None where it is not known.

    Raises:
        DataError: If a model does not have one value for each length.
        MissingExtraError: If matplotlib is not installed.
    """
    for name, values in (*cpu_s.items(), *memory_mib.items()):
        if len(values) != len(lengths_s):
            raise DataError(f"{name} has {len(values)} values for {len(lengths_s)} lengths")
    figure = new_figure(10.4, 4.4, purpose="drawing cost by length")
    time, memory = figure.subplots(1, 2)
    for axes, series in ((time, cpu_s), (memory, memory_mib)):
        for name, values in series.items():
            points = [(x, y) for x, y in zip(lengths_s, values, strict=True) if y is not None and y > 0]
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", markersize=4, label=name)
        axes.set(xscale="log", yscale="log", xlabel="length of the clip (s)")
        axes.set_xticks(list(lengths_s), [f"{length:g}" for length in lengths_s], minor=False)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    time.set(title="Forward pass, one thread", ylabel="CPU time (s)")
    memory.set(title="Memory beyond model and input", ylabel="MiB")
    time.legend(frameon=False, fontsize=8)
    return figure


__all__ = ["draw_cost_by_length"]
