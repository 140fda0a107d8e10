"""Figures hold the right data, labels and units, and arrive on disk whole or not at all."""

import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_audio_mamba.errors import DataError, MissingExtraError, OutputError
from hf_audio_mamba.plots import (
    ScoredSegment,
    draw_confusion_matrix,
    draw_learning_curves,
    draw_regression_scatter,
    draw_spectrogram_scores,
    save_confusion_matrix,
    save_learning_curves,
    save_regression_scatter,
    save_spectrogram_scores,
)
from hf_audio_mamba.plots.figure import save_figure

LOG = [
    {"loss": 2.0, "learning_rate": 1e-3, "epoch": 0.5, "step": 5},
    {"loss": 1.5, "learning_rate": 1e-3, "epoch": 1.0, "step": 10},
    {"eval_loss": 1.7, "eval_accuracy": 0.4, "eval_runtime": 1.0, "eval_samples_per_second": 9.0, "epoch": 1.0},
    {"loss": 1.0, "epoch": 2.0, "step": 20},
    {"eval_loss": 1.4, "eval_accuracy": 0.7, "eval_f1_macro": 0.6, "eval_steps_per_second": 9.0, "epoch": 2.0},
    {"eval_loss": 1.6, "eval_accuracy": 0.6, "eval_f1_macro": 0.65, "epoch": 3.0},
    {"train_runtime": 3.0, "train_loss": 1.2, "epoch": 3.0},
]
LEVEL = np.random.default_rng(0).uniform(-80, 0, size=(50, 16)).astype(np.float32)


def png_size(path: Path) -> tuple[int, int]:
    """Width and height in pixels from the header chunk of a PNG."""
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert content.endswith(b"IEND\xaeB`\x82")
    width, height = struct.unpack(">II", content[16:24])
    return width, height


def data_axes(figure: Any) -> list[Any]:
    """Panels of a figure without its colour bars."""
    return [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]


def test_confusion_matrix_shows_shares_of_true_classes_and_counts() -> None:
    y_true, y_pred = [0, 0, 0, 0, 1, 1, 2], [0, 0, 0, 1, 1, 2, 2]
    (axes,) = data_axes(draw_confusion_matrix(y_true, y_pred, ["a", "b", "c", "$x_1$ never heard"]))
    shares = axes.images[0].get_array()
    np.testing.assert_allclose(shares[:3], [[0.75, 0.25, 0, 0], [0, 0.5, 0.5, 0], [0, 0, 1, 0]])
    assert shares.mask.tolist() == [[False] * 4] * 3 + [[True] * 4]
    texts = {(text.get_position()[1], text.get_position()[0]): text.get_text() for text in axes.texts}
    assert texts == {(0, 0): "3", (0, 1): "1", (1, 1): "1", (1, 2): "1", (2, 2): "1"}
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "c", "$x_1$ never heard"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b", "c", "$x_1$ never heard"]
    assert axes.get_xlabel() == "predicted class"
    assert axes.get_ylabel() == "true class (grey: no clips)"
    assert axes.get_title() == "Confusion matrix: 7 clips, accuracy 0.714"


@pytest.mark.parametrize("classes", [2, 20, 128])
def test_confusion_matrix_names_every_class_legibly(classes: int, tmp_path: Path) -> None:
    names = [f"class {index}" for index in range(classes)]
    figure = draw_confusion_matrix(range(classes), range(classes), names)
    (axes,) = data_axes(figure)
    assert [label.get_text() for label in axes.get_yticklabels()] == names
    assert bool(axes.texts) == (classes <= 20)
    width, height = png_size(save_figure(figure, tmp_path / "cm.png"))
    assert 400 < width < 3200
    assert 400 < height < 3200
    # Rows must be farther apart than the height of their labels, or the labels run into each other.
    row_pitch = abs(np.diff(axes.transData.transform([(0, 0), (0, 1)])[:, 1])[0]) * 72 / figure.dpi
    assert row_pitch > axes.get_yticklabels()[0].get_fontsize()


@pytest.mark.parametrize(
    ("y_true", "y_pred", "words"),
    [
        ([], [], "at least one clip"),
        ([0, 1], [0], "one class index per clip"),
        ([[0, 1]], [[0, 1]], "one class index per clip"),
        ([0.5], [0.0], "integers"),
        ([0], [2], "2 label names"),
        ([-1], [0], "2 label names"),
    ],
)
def test_confusion_matrix_refuses_what_it_cannot_count(y_true: Any, y_pred: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        draw_confusion_matrix(y_true, y_pred, ["a", "b"])


def test_regression_scatter_shows_points_and_r2() -> None:
    generator = np.random.default_rng(1)
    true = generator.uniform(size=(40, 2))
    predicted = true + generator.normal(scale=0.1, size=true.shape)
    panels = data_axes(draw_regression_scatter(true, predicted, ["valence", "arousal"]))
    for column, (axes, name) in enumerate(zip(panels, ["valence", "arousal"], strict=True)):
        points = axes.collections[0].get_offsets()
        np.testing.assert_allclose(points, np.stack([true[:, column], predicted[:, column]], axis=1))
        # Independent of the code: R² is 1 - MSE / variance.
        r2 = 1 - np.mean((true - predicted)[:, column] ** 2) / np.var(true[:, column])
        assert axes.get_title() == f"{name}: R² = {r2:.3f}, 40 clips"
        assert axes.get_xlabel() == f"true {name}"
        assert axes.get_ylabel() == f"predicted {name}"
        assert axes.get_xlim() == axes.get_ylim()


def test_regression_scatter_takes_one_output_many_outputs_and_constants(tmp_path: Path) -> None:
    (axes,) = data_axes(draw_regression_scatter([0.5, 0.5], [0.4, 0.6], ["tempo (BPM)"]))
    assert "R² undefined" in axes.get_title()
    values = np.random.default_rng(0).uniform(size=(9, 5))
    width, height = png_size(save_regression_scatter(values, values, list("abcde"), tmp_path / "scatter.png"))
    assert width > height > 600


@pytest.mark.parametrize(
    ("y_true", "y_pred", "names"),
    [([], [], ["a"]), ([1.0], [float("nan")], ["a"]), ([1.0, 2.0], [1.0], ["a"]), ([[1.0, 2.0]], [[1.0, 2.0]], ["a"])],
)
def test_regression_scatter_refuses_what_it_cannot_draw(y_true: Any, y_pred: Any, names: list[str]) -> None:
    with pytest.raises(DataError, match=r"y_true|y_pred"):
        draw_regression_scatter(y_true, y_pred, names)


def test_learning_curves_show_losses_and_metrics() -> None:
    loss, metric = data_axes(draw_learning_curves(LOG))
    curves = {line.get_label(): line.get_xydata().tolist() for line in loss.lines}
    assert curves == {
        "training": [[0.5, 2.0], [1.0, 1.5], [2.0, 1.0]],
        "validation": [[1.0, 1.7], [2.0, 1.4], [3.0, 1.6]],
    }
    named = {line.get_label(): line.get_xydata().tolist() for line in metric.lines if "best" in str(line.get_label())}
    assert named == {
        "accuracy (best 0.700 at epoch 2)": [[1.0, 0.4], [2.0, 0.7], [3.0, 0.6]],
        "f1 macro (best 0.650 at epoch 3)": [[2.0, 0.6], [3.0, 0.65]],
    }
    assert (loss.get_xlabel(), loss.get_ylabel()) == ("epoch", "loss")
    assert metric.get_xlabel() == "epoch"


def test_learning_curves_draw_one_metric_or_none() -> None:
    _, metric = data_axes(draw_learning_curves(LOG, metrics=["accuracy"]))
    assert metric.get_ylabel() == "accuracy"
    assert len(data_axes(draw_learning_curves(LOG[:2]))) == 1


def test_learning_curves_of_a_resumed_run_keep_the_later_value() -> None:
    log = [{"loss": 3.0, "epoch": 1.0}, {"loss": 2.0, "epoch": 1.0}, {"loss": 1.0, "epoch": 2.0}]
    (loss,) = data_axes(draw_learning_curves(log))
    assert loss.lines[0].get_xydata().tolist() == [[1.0, 2.0], [2.0, 1.0]]


def test_learning_curves_refuse_empty_logs_and_unknown_metrics() -> None:
    with pytest.raises(DataError, match="no 'loss'"):
        draw_learning_curves([{"train_runtime": 1.0}])
    with pytest.raises(DataError, match=r"eval_r2.*accuracy"):
        draw_learning_curves(LOG, metrics=["r2"])


def test_spectrogram_has_units_and_bars_are_sorted() -> None:
    scores = {f"label {index}": index / 100 for index in range(14)}
    frequencies = np.linspace(50, 3000, 16).tolist()
    top, bottom = data_axes(
        draw_spectrogram_scores(LEVEL, 100, scores, title="a_$1_$2.wav", band_frequencies=frequencies)
    )
    np.testing.assert_array_equal(top.images[0].get_array(), LEVEL.T)
    assert top.images[0].get_extent() == [0.0, 0.5, -0.5, 15.5]
    assert (top.get_xlabel(), top.get_ylabel()) == ("time (s)", "frequency (Hz)")
    assert [label.get_text() for label in top.get_yticklabels()] == ["250", "500", "1000", "2000"]
    # 50 Hz is band 0 and 3000 Hz band 15, so 1000 Hz lies at 15 * 950 / 2950.
    assert top.get_yticks()[2] == pytest.approx(15 * 950 / 2950)
    assert top.get_title() == "a_$1_$2.wav"
    assert [label.get_text() for label in bottom.get_yticklabels()] == [f"label {index}" for index in range(13, 3, -1)]
    np.testing.assert_allclose([bar.get_width() for bar in bottom.patches], np.arange(13, 3, -1) / 100)
    assert bottom.get_xlabel() == "score"


def test_spectrogram_without_frequencies_counts_bands() -> None:
    figure = draw_spectrogram_scores(LEVEL, 100, {"valence": -1.5, "arousal": 2.0})
    top, bottom = data_axes(figure)
    assert top.get_ylabel() == "mel band"
    assert "level (dB)" in {axes.get_ylabel() for axes in figure.axes}
    low, high = bottom.get_xlim()
    assert low < -1.5
    assert high > 2.0


def test_timeline_shows_scores_of_every_segment_on_one_time_axis() -> None:
    segments = [
        ScoredSegment(0.0, 0.2, {"dog": 0.9, "cat": 0.1}),
        ScoredSegment(0.1, 0.3, {"dog": 0.6, "cat": 0.4}),
        ScoredSegment(0.3, 0.5, {"dog": 0.2, "cat": 0.7}),
    ]
    top, bottom = data_axes(draw_spectrogram_scores(LEVEL, 100, segments))
    mesh = bottom.collections[0]
    np.testing.assert_allclose(mesh.get_array(), [[0.9, 0.6, 0.2], [0.1, 0.4, 0.7]])
    np.testing.assert_allclose(mesh.get_coordinates()[0, :, 0], [0.0, 0.15, 0.3, 0.5])
    assert [label.get_text() for label in bottom.get_yticklabels()] == ["dog", "cat"]
    assert top.get_xlim() == bottom.get_xlim() == (0.0, 0.5)
    assert bottom.get_xlabel() == "time (s)"


def test_an_hour_of_frames_becomes_a_small_picture_that_keeps_its_peaks(tmp_path: Path) -> None:
    level = np.full((360_000, 8), -80.0, dtype=np.float32)
    level[123_456, 5] = 0.0
    figure = draw_spectrogram_scores(level, 100, {"dog": 1.0})
    image = data_axes(figure)[0].images[0]
    assert image.get_array().shape == (8, 4000)
    assert image.get_array()[5, 123_456 * 4000 // 360_000] == 0.0
    assert image.get_extent()[:2] == [0.0, 3600.0]
    assert png_size(save_spectrogram_scores(level, 100, {"dog": 1.0}, tmp_path / "hour.png"))[0] < 2000


@pytest.mark.parametrize(
    ("level", "rate", "scores", "words"),
    [
        (np.zeros((0, 8)), 100, {"a": 1.0}, "log_mel"),
        (np.zeros(8), 100, {"a": 1.0}, "log_mel"),
        (np.full((3, 3), np.nan), 100, {"a": 1.0}, "not finite"),
        (LEVEL, 0, {"a": 1.0}, "frames_per_second"),
        (LEVEL, 100, {}, "scores is empty"),
        (LEVEL, 100, [], "scores is empty"),
        (LEVEL, 100, {"a": float("nan")}, "not finite"),
        (LEVEL, 100, [ScoredSegment(1.0, 1.0, {"a": 1.0})], "end after it starts"),
        (LEVEL, 100, [ScoredSegment(1.0, 2.0, {"a": 1.0}), ScoredSegment(0.0, 1.0, {"a": 1.0})], "order of time"),
    ],
)
def test_spectrogram_refuses_what_it_cannot_draw(level: Any, rate: float, scores: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        draw_spectrogram_scores(level, rate, scores)
    with pytest.raises(DataError, match="band_frequencies"):
        draw_spectrogram_scores(LEVEL, 100, {"a": 1.0}, band_frequencies=[1.0, 2.0])


SAVERS: list[Callable[[Path], Path]] = [
    lambda path: save_confusion_matrix([0, 1], [0, 1], ["a", "b"], path),
    lambda path: save_regression_scatter([0.0, 1.0], [0.1, 0.9], ["a"], path),
    lambda path: save_learning_curves(LOG, path),
    lambda path: save_spectrogram_scores(LEVEL, 100, {"a": 1.0}, path),
]


@pytest.mark.parametrize("save", SAVERS)
def test_figures_are_written_whole_and_leave_nothing_behind(save: Callable[[Path], Path], tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "figure.png"
    assert save(path) == path
    width, height = png_size(path)
    assert 300 < height <= 1500
    assert 300 < width <= 1500
    assert [entry.name for entry in path.parent.iterdir()] == ["figure.png"]


@pytest.mark.parametrize("save", SAVERS)
def test_a_figure_that_cannot_be_written_is_an_error_of_ours(save: Callable[[Path], Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=r"figure\.png"):
        save(tmp_path / "file" / "figure.png")
    (tmp_path / "figure.png").mkdir()
    with pytest.raises(OutputError, match=r"figure\.png"):
        save(tmp_path / "figure.png")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["figure.png", "file"]


def test_a_full_disk_leaves_the_earlier_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    path = save_learning_curves(LOG, tmp_path / "curves.png")
    before = path.read_bytes()

    def fail_half_way(_: Figure, stream: Any, **__: Any) -> None:
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", fail_half_way)
    with pytest.raises(OutputError, match="No space left"):
        save_learning_curves(LOG, path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["curves.png"]


def test_drawing_leaves_pyplot_alone() -> None:
    draw_learning_curves(LOG)
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []


def test_missing_matplotlib_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"hf_audio_mamba\[viz\]"):
        draw_confusion_matrix([0], [0], ["a"])


def test_cost_by_length_draws_what_is_known_and_refuses_gaps() -> None:
    from hf_audio_mamba.plots.cost_by_length import draw_cost_by_length

    figure = draw_cost_by_length([10, 30], {"a": [1.0, 3.0], "b": [2.0, 18.0]}, {"a": [5.0, None], "b": [7.0, 9.0]})
    time, memory = figure.axes
    assert {line.get_label(): list(line.get_ydata()) for line in time.lines} == {"a": [1.0, 3.0], "b": [2.0, 18.0]}
    assert {line.get_label(): list(line.get_xdata()) for line in memory.lines} == {"a": [10], "b": [10, 30]}
    assert (time.get_xscale(), time.get_yscale()) == ("log", "log")
    with pytest.raises(DataError, match="2 lengths"):
        draw_cost_by_length([10, 30], {"a": [1.0]}, {})
