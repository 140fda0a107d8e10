import pytest

from hf_audio_mamba.errors import DataError
from hf_audio_mamba.plots.loss_by_position import draw_loss_by_position


def test_each_model_is_a_curve_through_its_bins() -> None:
    figure = draw_loss_by_position({"a": [(1, 16, 3.0), (16, 32, 2.5)], "b": [(1, 16, 4.0)]})
    (axes,) = figure.axes
    first, second = axes.get_lines()
    assert first.get_xdata().tolist() == [1, 16, 32]
    assert first.get_ydata().tolist() == [3.0, 2.5, 2.5]
    assert second.get_ydata().tolist() == [4.0, 4.0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b"]


@pytest.mark.parametrize("curves", [{}, {"a": []}])
def test_without_losses_there_is_nothing_to_draw(curves) -> None:
    with pytest.raises(DataError, match="no losses to draw"):
        draw_loss_by_position(curves)
