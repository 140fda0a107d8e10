"""What a longer context is worth to a language model: its loss against the position of a token."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hf_audio_mamba.errors import DataError
from hf_audio_mamba.plots.figure import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_loss_by_position(curves: Mapping[str, Sequence[tuple[int, int, float]]]) -> "Figure":
    """Draw mean losses as steps over a logarithmic axis of positions.

    Args:
        curves: For each model its bins: first position, first position beyond, nats per token.

    Raises:
        DataError: If there is no model, or one has no bins.
        MissingExtraError: If matplotlib is not installed.
    """
    if not curves or not all(curves.values()):
        raise DataError("there are no losses to draw; each model needs at least one range of positions")
    figure = new_figure(6.4, 4.0, purpose="drawing loss against position")
    axes = figure.subplots()
    for name, bins in curves.items():
        edges = [start for start, _, _ in bins] + [bins[-1][1]]
        losses = [loss for _, _, loss in bins]
        axes.step(edges, [*losses, losses[-1]], where="post", label=name)
    axes.set(xscale="log", xlabel="tokens before", ylabel="nats per token")
    axes.set_xscale("log", base=2)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    return figure


__all__ = ["draw_loss_by_position"]
