"""The feature extractor: values, shapes, padding, every kind of input, saving and loading."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import librosa
import numpy as np
import pytest
import soundfile
import torch
from transformers import AutoFeatureExtractor
from transformers.utils import logging as transformers_logging

from hf_audio_mamba.errors import AudioError, UsageError
from hf_audio_mamba.features import load_audio
from hf_audio_mamba.features.samples import Float32Array
from hf_audio_mamba.models.momamba.feature_extraction_momamba import MoMambaFeatureExtractor
from tests.features.clips import RATE, tone


@pytest.fixture
def extractor() -> MoMambaFeatureExtractor:
    return MoMambaFeatureExtractor()


@pytest.fixture
def warnings_of_transformers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Messages that the extractor logs; warnings that are shown once are shown again."""
    messages: list[str] = []
    logger = transformers_logging.get_logger("hf_audio_mamba.models.audio_feature_extraction")
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]  # shorter than a class
    logger.addHandler(handler)
    type(logger).warning_once.cache_clear()  # type: ignore[attr-defined]  # added by transformers
    yield messages
    logger.removeHandler(handler)


def values(extractor: MoMambaFeatureExtractor, audio: Any, **options: Any) -> Any:
    return extractor(audio, sampling_rate=RATE, **options)["input_values"]


def in_decibels(clip: Float32Array) -> Any:
    mel = librosa.feature.melspectrogram(y=clip, sr=RATE, n_fft=2646, hop_length=441, n_mels=128)
    return librosa.power_to_db(mel, ref=np.max).T


def test_raw_values_are_librosas_decibels() -> None:
    clip = tone(1.0)
    result = values(MoMambaFeatureExtractor(do_normalize=False), clip)
    assert result.shape == (1, 101, 128)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result[0], in_decibels(clip), atol=0.01)


def test_normalised_values_are_scaled_decibels(extractor: MoMambaFeatureExtractor) -> None:
    clip = tone(1.0)
    np.testing.assert_allclose(values(extractor, clip)[0], (in_decibels(clip) + 40) / 40, atol=0.01 / 40)
    narrow = values(MoMambaFeatureExtractor(top_db=30.0), np.concatenate([clip, np.zeros(RATE, np.float32)]))
    assert (narrow.min(), narrow.max()) == (-1, 1)


def test_chroma_is_appended() -> None:
    clip = tone(1.0)
    chroma = librosa.feature.chroma_stft(y=clip, sr=RATE, n_fft=2646, hop_length=441).T
    raw = MoMambaFeatureExtractor(chroma=True, do_normalize=False)
    assert raw.feature_size == 140
    result = values(raw, clip)[0]
    np.testing.assert_allclose(result[:, :128], in_decibels(clip), atol=0.01)
    np.testing.assert_allclose(result[:, 128:], chroma, atol=1e-3)
    normalised = values(MoMambaFeatureExtractor(chroma=True), clip)[0]
    np.testing.assert_allclose(normalised[:, 128:], 2 * chroma - 1, atol=2e-3)
    assert np.abs(normalised).max() <= 1


def test_real_clips_equal_librosa(shared_data: Path) -> None:
    raw = MoMambaFeatureExtractor(do_normalize=False)
    paths = sorted((shared_data / "philharmonia" / "test").glob("*.mp3"))[::150]
    batch = [load_audio(path, sampling_rate=RATE)[0] for path in paths]
    result = raw(batch, sampling_rate=RATE, padding=False)["input_values"]
    for clip, features in zip(batch, result, strict=True):
        np.testing.assert_allclose(features, in_decibels(clip), atol=0.01)


@pytest.mark.parametrize(("seconds", "frames"), [(4, 401), (30, 3001), (0.5, 51)])
def test_frames_follow_from_the_length(extractor: MoMambaFeatureExtractor, seconds: float, frames: int) -> None:
    assert values(extractor, np.zeros(round(seconds * RATE), np.float32)).shape == (1, frames, 128)
    assert extractor.frames_per_second == 100


CLIP = (16384 * tone(0.2)).astype(np.int16)


@pytest.mark.parametrize(
    "audio",
    [
        CLIP,
        CLIP.astype(np.float32) / 2**15,
        CLIP.astype(np.float64) / 2**15,
        CLIP.astype(np.int32) * 2**16,
        (CLIP / 2**15).tolist(),
        tuple((CLIP / 2**15).tolist()),
        torch.from_numpy(CLIP),
        torch.from_numpy(CLIP.astype(np.float32) / 2**15).requires_grad_(),
        [CLIP],
        CLIP[None],
        torch.from_numpy(CLIP)[None],
        [(CLIP / 2**15).tolist()],
        [np.stack([CLIP, CLIP])],
        [np.stack([CLIP, CLIP], axis=1)],
        {"array": CLIP, "sampling_rate": RATE},
        [{"raw": CLIP, "sampling_rate": RATE}],
        SimpleNamespace(
            get_all_samples=lambda: SimpleNamespace(data=torch.from_numpy(CLIP)[None], sample_rate=RATE),
        ),
    ],
    ids=lambda audio: f"{type(audio).__name__} {getattr(audio, 'dtype', '')} {getattr(audio, 'shape', '')}",
)
def test_inputs_of_all_kinds_give_the_same_features(extractor: MoMambaFeatureExtractor, audio: Any) -> None:
    expected = values(extractor, CLIP.astype(np.float32) / 2**15)
    np.testing.assert_allclose(values(extractor, audio), expected, atol=1e-5)


def test_files_are_read_and_resampled(extractor: MoMambaFeatureExtractor, tmp_path: Path) -> None:
    path = tmp_path / "clip.wav"
    soundfile.write(path, tone(0.5, rate=22050), 22050)
    expected = values(extractor, load_audio(path, sampling_rate=RATE)[0])
    for audio in (str(path), path, path.read_bytes(), [path, path.read_bytes()], {"path": str(path)}):
        np.testing.assert_array_equal(values(extractor, audio)[0], expected[0])


def test_a_batch_equals_its_clips_one_by_one(extractor: MoMambaFeatureExtractor) -> None:
    batch = [tone(seconds, frequency=100 + 300 * seconds) for seconds in (0.31, 0.8, 0.05)]
    together = extractor(batch, sampling_rate=RATE)
    assert together["input_values"].shape == (3, 81, 128)
    assert together["attention_mask"].tolist() == [[0] * (81 - n) + [1] * n for n in (32, 81, 6)]
    for index, clip in enumerate(batch):
        alone = values(extractor, clip)[0]
        np.testing.assert_allclose(together["input_values"][index, -len(alone) :], alone, atol=1e-6)
        assert (together["input_values"][index, : -len(alone)] == 0).all()
    again = extractor(batch, sampling_rate=RATE)
    np.testing.assert_array_equal(again["input_values"], together["input_values"])


def test_padding_on_the_right_with_another_value() -> None:
    extractor = MoMambaFeatureExtractor(padding_side="right", padding_value=-1.0)
    result = extractor([tone(0.1), tone(0.2)], sampling_rate=RATE)
    assert result["attention_mask"].tolist() == [[1] * 11 + [0] * 10, [1] * 21]
    assert (result["input_values"][0, 11:] == -1).all()


def test_padding_and_truncation_options(extractor: MoMambaFeatureExtractor) -> None:
    batch = [tone(0.1), tone(0.3)]
    whole = values(extractor, batch[1])[0]

    def shapes(**options: Any) -> list[tuple[int, ...]]:
        return [np.shape(clip) for clip in values(extractor, batch, **options)]

    assert shapes() == shapes(padding="longest") == [(31, 128)] * 2
    assert shapes(padding=False) == shapes(padding="do_not_pad") == [(11, 128), (31, 128)]
    assert shapes(padding="max_length", max_length=50) == [(50, 128)] * 2
    assert shapes(padding="max_length", max_length=20, truncation=True) == [(20, 128)] * 2
    assert shapes(max_length=20, truncation=True) == [(20, 128)] * 2
    assert shapes(max_length=20, truncation=True, padding=False) == [(11, 128), (20, 128)]
    cut = values(extractor, batch, max_length=20, truncation=True)
    np.testing.assert_array_equal(cut[1], whole[:20])


@pytest.mark.parametrize("kind", ["np", "pt"])
def test_tensors_on_request(extractor: MoMambaFeatureExtractor, kind: str) -> None:
    result = extractor([tone(0.1), tone(0.2)], sampling_rate=RATE, return_tensors=kind)
    for key in ("input_values", "attention_mask"):
        assert isinstance(result[key], torch.Tensor if kind == "pt" else np.ndarray)
    np.testing.assert_array_equal(result["input_values"], values(extractor, [tone(0.1), tone(0.2)]))


def test_the_mask_can_be_left_out(extractor: MoMambaFeatureExtractor) -> None:
    assert "attention_mask" not in extractor(tone(0.1), sampling_rate=RATE, return_attention_mask=False)
    without = MoMambaFeatureExtractor(return_attention_mask=False)
    assert "attention_mask" not in without(tone(0.1), sampling_rate=RATE)
    assert "attention_mask" in without(tone(0.1), sampling_rate=RATE, return_attention_mask=True)


def test_another_sampling_rate_is_an_error_with_the_way_out(extractor: MoMambaFeatureExtractor) -> None:
    with pytest.raises(AudioError, match=r"16000 Hz.*44100 Hz.*resample\(waveform, 16000, 44100\)"):
        extractor(tone(0.1), sampling_rate=16000)
    with pytest.raises(ValueError, match="whole number"):
        extractor(tone(0.1), sampling_rate="44100")


def test_no_sampling_rate_is_one_warning(
    extractor: MoMambaFeatureExtractor, warnings_of_transformers: list[str]
) -> None:
    extractor({"array": tone(0.1), "sampling_rate": RATE})
    assert warnings_of_transformers == []
    for _ in range(3):
        extractor(tone(0.1))
    (message,) = warnings_of_transformers
    assert "`sampling_rate`" in message
    assert "44100" in message


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        ([], "raw_speech is empty"),
        (np.zeros(0), "raw_speech is empty"),
        (np.zeros((2, 0)), "empty"),
        ([tone(0.1), np.zeros(0)], r"raw_speech\[1\] is empty"),
        ([tone(0.1), np.full(5, np.nan)], r"raw_speech\[1\] holds 5 samples that are NaN"),
        ([tone(0.1), [0.5, None]], r"raw_speech\[1\]"),
        ([tone(0.1), {"array": tone(0.1)}], r"raw_speech\[1\].*'sampling_rate'"),
        (np.zeros((2, 3, 4)), "3 axes"),
        (np.zeros((44100, 2)), r"pass \[clip\]"),
        (torch.zeros(44100, 2), r"pass \[clip\]"),
        (np.array([1 + 2j]), "complex"),
        ([["a", "b"]], r"raw_speech\[0\] has dtype"),
        (None, "NoneType"),
        ("missing.wav", r"missing\.wav.*does not exist"),
    ],
)
def test_what_is_no_audio_is_refused(extractor: MoMambaFeatureExtractor, audio: Any, message: str) -> None:
    with pytest.raises(AudioError, match=message):
        extractor(audio, sampling_rate=RATE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"padding": "sideways"}, "padding"),
        ({"padding": "max_length"}, "max_length"),
        ({"truncation": True}, "max_length"),
        ({"max_length": 0}, "max_length"),
        ({"max_length": -3, "truncation": True}, "max_length"),
        ({"max_length": 2.5}, "max_length"),
        ({"max_length": True}, "max_length"),
    ],
)
def test_contradictory_padding_options_are_refused(
    extractor: MoMambaFeatureExtractor, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        extractor(tone(0.1), sampling_rate=RATE, **options)


@pytest.mark.parametrize("samples", [1, 100, 2645])
def test_short_clips_and_silence_are_finite(samples: int) -> None:
    extractor = MoMambaFeatureExtractor(chroma=True)
    for clip in (tone(0.1)[:samples], np.zeros(samples, np.float32)):
        result = values(extractor, clip)
        assert result.shape == (1, 1 + samples // 441, 140)
        assert np.isfinite(result).all()
    assert (values(extractor, np.zeros(samples))[..., :128] == 1).all()


SETTINGS = {
    "sampling_rate": 22050,
    "n_fft": 1024,
    "win_length": 800,
    "hop_length": 256,
    "num_mel_bins": 64,
    "chroma": True,
    "do_normalize": False,
    "top_db": 60.0,
    "padding_side": "right",
    "padding_value": -1.5,
    "return_attention_mask": False,
}


@pytest.mark.parametrize("loader", [MoMambaFeatureExtractor, AutoFeatureExtractor])
def test_saving_and_loading_lose_nothing(loader: Any, tmp_path: Path) -> None:
    import hf_audio_mamba  # noqa: F401  # registers the extractor

    saved = MoMambaFeatureExtractor(**SETTINGS)
    saved.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert content == {**SETTINGS, "feature_size": 76, "feature_extractor_type": "MoMambaFeatureExtractor"}
    loaded = loader.from_pretrained(tmp_path)
    assert type(loaded) is MoMambaFeatureExtractor
    assert loaded.to_dict() == saved.to_dict()
    clips = [tone(0.1, rate=22050), tone(0.2, rate=22050)]
    for key, value in saved(clips, sampling_rate=22050, return_attention_mask=True).items():
        np.testing.assert_array_equal(loaded(clips, sampling_rate=22050, return_attention_mask=True)[key], value)


def test_every_default_is_in_the_saved_file(extractor: MoMambaFeatureExtractor, tmp_path: Path) -> None:
    extractor.to_json_file(tmp_path / "settings.json")
    assert json.loads((tmp_path / "settings.json").read_text()).keys() >= SETTINGS.keys()
    assert MoMambaFeatureExtractor.from_json_file(tmp_path / "settings.json").to_dict() == extractor.to_dict()


def test_a_setting_can_be_changed_on_loading(extractor: MoMambaFeatureExtractor, tmp_path: Path) -> None:
    extractor.save_pretrained(tmp_path)
    assert MoMambaFeatureExtractor.from_pretrained(tmp_path, hop_length=882).hop_length == 882
    with pytest.raises(UsageError, match="hop_length"):
        MoMambaFeatureExtractor.from_pretrained(tmp_path, hop_length=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(
            ({name: 0}, name)
            for name in ("sampling_rate", "n_fft", "win_length", "hop_length", "num_mel_bins", "top_db")
        ),
        *(({name: "7"}, name) for name in SETTINGS if name != "padding_side"),
        *(({name: None}, name) for name in SETTINGS),
        ({"num_mel_bins": 1}, "num_mel_bins"),
        ({"n_fft": 2647}, "even"),
        ({"win_length": 3000}, "win_length"),
        ({"padding_side": "middle"}, "'left' or 'right'"),
        ({"padding_value": float("nan")}, "padding_value"),
        ({"feature_size": 128, "chroma": True}, "feature_size 128 contradicts"),
        ({"num_mels": 64}, "no setting num_mels"),
    ],
    ids=str,
)
def test_senseless_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        MoMambaFeatureExtractor(**options)


def test_reversed_and_read_only_arrays_are_taken() -> None:
    noise = np.random.default_rng(0).standard_normal(4000).astype(np.float32)
    extractor = MoMambaFeatureExtractor()
    expected = extractor(noise, sampling_rate=44_100)["input_values"]
    read_only = np.frombuffer(noise.tobytes(), dtype=np.float32)
    for same in (noise[::-1].copy()[::-1], read_only):
        np.testing.assert_array_equal(extractor(same, sampling_rate=44_100)["input_values"], expected)


def test_settings_beyond_any_audio_are_refused_before_memory_is_asked_for() -> None:
    with pytest.raises(UsageError, match="n_fft"):
        MoMambaFeatureExtractor(n_fft=10**12)
