"""Inputs, options and results of our audio classification pipeline."""

import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
import torch
from transformers.pipelines.pt_utils import KeyDataset

from hf_audio_mamba.errors import CheckpointError, UsageError
from hf_audio_mamba.pipelines import AudioClassificationPipeline

Same = Callable[..., None]


@pytest.fixture(scope="module")
def expected(momamba: AudioClassificationPipeline, noise: np.ndarray) -> list[dict[str, Any]]:
    """Scores calculated with model and feature extractor alone."""
    inputs = momamba.feature_extractor(noise, sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        scores = momamba.model(**inputs).logits.softmax(dim=-1)[0]
    names = momamba.model.config.id2label
    order = scores.argsort(descending=True).tolist()
    return [{"score": scores[index].item(), "label": names[index]} for index in order][:5]


class Decoder:
    """Offers what torchcodec's AudioDecoder offers."""

    def __init__(self, samples: np.ndarray, rate: int) -> None:
        self._samples = SimpleNamespace(data=torch.from_numpy(samples), sample_rate=rate)

    def get_all_samples(self) -> SimpleNamespace:
        return self._samples


def file_bytes(samples: np.ndarray, rate: int = 16000, **options: str) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, **{"format": "WAV", "subtype": "FLOAT", **options})
    return buffer.getvalue()


INPUTS: dict[str, Callable[[np.ndarray, Path], Any]] = {
    "path": lambda noise, wav: wav,
    "string": lambda noise, wav: str(wav),
    "bytes": lambda noise, wav: wav.read_bytes(),
    "bytearray": lambda noise, wav: bytearray(wav.read_bytes()),
    "float32 array": lambda noise, wav: noise,
    "float64 array": lambda noise, wav: noise.astype(np.float64),
    "reversed view": lambda noise, wav: noise[::-1].copy()[::-1],
    "read-only array": lambda noise, wav: np.frombuffer(noise.tobytes(), dtype=np.float32),
    "tensor": lambda noise, wav: torch.from_numpy(noise.copy()).requires_grad_(),
    "list": lambda noise, wav: noise.tolist(),
    "stereo": lambda noise, wav: np.stack((0.5 * noise, 1.5 * noise)),
    "stereo, channels last": lambda noise, wav: np.stack((0.5 * noise, 1.5 * noise), axis=1),
    "dict with array": lambda noise, wav: {"array": noise, "sampling_rate": 16000},
    "dict with raw": lambda noise, wav: {"raw": torch.from_numpy(noise.copy()), "sampling_rate": 16000},
    "dict with list": lambda noise, wav: {"array": noise.tolist(), "sampling_rate": 16000, "path": "gone.wav"},
    "dict with bytes": lambda noise, wav: {"bytes": wav.read_bytes(), "path": "gone.wav"},
    "dict with path": lambda noise, wav: {"bytes": None, "path": str(wav)},
    "decoder": lambda noise, wav: Decoder(noise[None], 16000),
    "stereo decoder": lambda noise, wav: Decoder(np.stack((0.5 * noise, 1.5 * noise)), 16000),
}


@pytest.mark.parametrize("kind", INPUTS)
def test_every_kind_of_clip_gives_the_model_s_own_scores(
    kind: str, momamba: AudioClassificationPipeline, noise: np.ndarray, wav: Path, expected: Any, same_labels: Same
) -> None:
    same_labels(momamba(INPUTS[kind](noise, wav)), expected)


@pytest.mark.parametrize(
    ("format_", "subtype", "tolerance"),
    [("WAV", "PCM_16", 1e-3), ("FLAC", "PCM_24", 1e-3), ("OGG", "VORBIS", 0.1), ("MP3", "MPEG_LAYER_III", 0.1)],
)
def test_file_formats(
    format_: str,
    subtype: str,
    tolerance: float,
    momamba: AudioClassificationPipeline,
    noise: np.ndarray,
    tmp_path: Path,
    expected: Any,
) -> None:
    path = tmp_path / f"clip.{format_.lower()}"
    path.write_bytes(file_bytes(noise, format=format_, subtype=subtype))
    scores = {entry["label"]: entry["score"] for entry in momamba(path, top_k=None)}
    for entry in expected:
        assert scores[entry["label"]] == pytest.approx(entry["score"], abs=tolerance)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 96000, 192000])
def test_dicts_files_and_decoders_of_any_rate_agree(
    rate: int, momamba: AudioClassificationPipeline, noise: np.ndarray, same_labels: Same
) -> None:
    samples = soxr.resample(noise, 16000, rate)
    by_hand = momamba(soxr.resample(samples, rate, 16000), top_k=None)
    for clip in ({"array": samples, "sampling_rate": rate}, file_bytes(samples, rate), Decoder(samples[None], rate)):
        same_labels(momamba(clip, top_k=None), by_hand, tolerance=2e-3)


def test_lists_generators_and_data_sets_in_batches(
    momamba: AudioClassificationPipeline, noise: np.ndarray, wav: Path, same_labels: Same
) -> None:
    clips = [noise, str(wav), noise[:16000], {"array": noise[::2], "sampling_rate": 8000}, noise[8000:30000]]
    one_by_one = [momamba(clip) for clip in clips]
    for batch_size in (1, 2, 8):
        same_labels(momamba(clips, batch_size=batch_size), one_by_one)
        same_labels(momamba(tuple(clips), batch_size=batch_size), one_by_one)
        same_labels(list(momamba((clip for clip in clips), batch_size=batch_size)), one_by_one)
        rows = [{"audio": clip} for clip in clips]
        same_labels(list(momamba(KeyDataset(rows, "audio"), batch_size=batch_size)), one_by_one)


def test_columns_of_datasets(
    momamba: AudioClassificationPipeline, noise: np.ndarray, wav: Path, same_labels: Same
) -> None:
    import datasets  # takes seconds: only where it is needed

    rows = {"audio": [{"bytes": wav.read_bytes(), "path": None}, {"bytes": None, "path": str(wav)}]}
    dataset = datasets.Dataset.from_dict(rows)
    expected = [momamba(noise)] * 2
    same_labels(momamba(dataset["audio"]), expected)
    same_labels(list(momamba(KeyDataset(dataset, "audio"), batch_size=2)), expected)


def test_a_batch_of_lists_and_a_worker_process(
    momamba: AudioClassificationPipeline, noise: np.ndarray, same_labels: Same
) -> None:
    ragged = [noise[:16000].tolist(), noise[:20000].tolist()]
    expected = [momamba(noise[:16000]), momamba(noise[:20000])]
    same_labels(momamba(ragged), expected)
    same_labels(momamba(ragged, num_workers=1, batch_size=2), expected)


def test_data_sets_of_torch_need_no_end(momamba: AudioClassificationPipeline, same_labels: Same) -> None:
    class Tones(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> np.ndarray:
            return np.sin(np.arange(8000) * (index + 1) / 10)

    tones = Tones()
    same_labels(list(momamba(tones, batch_size=2)), [momamba(tones[index]) for index in range(3)])


def test_nothing_in_nothing_out(momamba: AudioClassificationPipeline) -> None:
    assert momamba([]) == []
    assert momamba(()) == []
    assert list(momamba(clip for clip in ())) == []
    assert list(momamba(KeyDataset([], "audio"))) == []


def test_generators_are_read_as_results_are_asked_for(level: AudioClassificationPipeline) -> None:
    read = []

    def clips() -> Any:
        for value in range(100):
            read.append(value)
            yield np.full(800, 0.5, dtype=np.float32)

    results = level(clips())
    next(iter(results))
    assert len(read) < 5


def test_top_k(momamba: AudioClassificationPipeline, noise: np.ndarray) -> None:
    everything = momamba(noise, top_k=None)
    assert len(everything) == 7
    assert sum(entry["score"] for entry in everything) == pytest.approx(1, abs=1e-5)
    assert [entry["score"] for entry in everything] == sorted((e["score"] for e in everything), reverse=True)
    assert momamba(noise) == everything[:5]
    assert momamba(noise, top_k=2) == everything[:2]
    assert momamba(noise, top_k=100) == everything


def test_constructor_arguments_are_defaults_of_calls(level: AudioClassificationPipeline) -> None:
    pipe = AudioClassificationPipeline(
        model=level.model, feature_extractor=level.feature_extractor, device="cpu",
        top_k=1, function_to_apply="none", chunk_length_s=1.0, return_timestamps=True,
    )  # fmt: skip
    clip = np.full(24000, 2, dtype=np.float32)
    assert len(pipe(clip)["timeline"]) == 3
    assert pipe(clip, return_timestamps=False) == [{"score": 2.0, "label": "high"}]
    assert pipe(clip, return_timestamps=None, chunk_length_s=None) == [{"score": 2.0, "label": "high"}]
    assert len(pipe(clip, top_k=None)["labels"]) == 3
    assert len(pipe(clip)["labels"]) == 1


@pytest.mark.parametrize(
    ("problem_type", "expected"),
    [
        (None, "softmax"),
        ("single_label_classification", "softmax"),
        ("multi_label_classification", "sigmoid"),
        ("regression", "none"),
    ],
)
def test_function_to_apply_follows_the_problem_type(
    level: AudioClassificationPipeline, problem_type: str | None, expected: str
) -> None:
    level.model.config.problem_type = problem_type
    clip = np.full(800, 0.75, dtype=np.float32)
    logits = torch.tensor([0.75, 0.25, 0.0])
    functions = {"softmax": logits.softmax(-1), "sigmoid": logits.sigmoid(), "none": logits}
    names = ["high", "low", "zero"]
    for argument, function in {None: expected, "softmax": "softmax", "sigmoid": "sigmoid", "none": "none"}.items():
        scores = {entry["label"]: entry["score"] for entry in level(clip, function_to_apply=argument)}
        assert scores == pytest.approx(dict(zip(names, functions[function].tolist(), strict=True)), abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"topk": 3}, "'topk'; did you mean top_k"),
        ({"chunk_length": 3}, "'chunk_length'; did you mean chunk_length_s"),
        ({"frobnicate": 1}, "'frobnicate'; known are"),
        *(({"top_k": value}, "top_k") for value in (0, -1, 2.5, True, "3")),
        *(({"function_to_apply": value}, "function_to_apply") for value in ("relu", 1, "")),
        *(({"batch_size": value}, "batch_size") for value in (0, -1, 1.5, True, "2")),
        *(({"num_workers": value}, "num_workers") for value in (-1, 1.5, True)),
        *(({"timeout": value}, "timeout") for value in (0, -1, float("nan"), float("inf"), "5", True)),
        ({"return_timestamps": "word", "chunk_length_s": 1}, "return_timestamps"),
        ({"return_timestamps": True}, "return_timestamps needs chunk_length_s"),
        ({"stride_length_s": 1}, "stride_length_s needs chunk_length_s"),
        ({"chunk_length_s": 0}, "chunk_length_s"),
        ({"chunk_length_s": 1, "stride_length_s": 0.5}, "give 0.25"),
    ],
    ids=repr,
)
def test_wrong_arguments_are_refused_by_name(
    level: AudioClassificationPipeline, arguments: dict[str, Any], named: str
) -> None:
    clip = np.zeros(800, dtype=np.float32)
    for inputs in (clip, [clip], (item for item in [clip])):
        with pytest.raises(UsageError, match=named):
            level(inputs, **arguments)


def test_wrong_arguments_of_the_constructor_are_refused(level: AudioClassificationPipeline) -> None:
    with pytest.raises(UsageError, match="'topk'; did you mean top_k"):
        AudioClassificationPipeline(model=level.model, feature_extractor=level.feature_extractor, topk=3)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_are_an_error(level: AudioClassificationPipeline, value: float, wav: Path) -> None:
    with torch.no_grad():
        level.model.scale.fill_(value)
    with pytest.raises(CheckpointError, match=r"NaN.*noise\.wav.*weights"):
        level(wav)
