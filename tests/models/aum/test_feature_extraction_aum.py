"""AuM's feature extractor: values against transformers' AST extractor, padding, statistics, saving."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from transformers import ASTFeatureExtractor, AutoFeatureExtractor
from transformers.models.audio_spectrogram_transformer import feature_extraction_audio_spectrogram_transformer

from hf_audio_mamba import AuMFeatureExtractor
from hf_audio_mamba.errors import AudioError, UsageError
from hf_audio_mamba.features import load_audio
from hf_audio_mamba.features.samples import Float32Array
from tests.features.clips import tone

RATE = 16000
ZERO = 4.2677393 / (2 * 4.5689974)
SETTINGS = {
    "feature_size": 128,
    "sampling_rate": RATE,
    "win_length": 400,
    "hop_length": 160,
    "num_mel_bins": 128,
    "max_length": None,
    "do_normalize": True,
    "mean": -4.2677393,
    "std": 4.5689974,
    "padding_side": "right",
    "return_attention_mask": True,
}


@pytest.fixture
def ast(monkeypatch: pytest.MonkeyPatch) -> ASTFeatureExtractor:
    """Transformers' extractor by its numpy path, wherever torchaudio is installed."""
    monkeypatch.setattr(feature_extraction_audio_spectrogram_transformer, "is_speech_available", lambda: False)
    return ASTFeatureExtractor()


def clip(seconds: float = 1.0) -> Float32Array:
    return tone(seconds, rate=RATE)


def values(audio: Any, **settings: Any) -> Any:
    return AuMFeatureExtractor(**settings)(audio, sampling_rate=RATE)["input_values"]


def without_mean(samples: Float32Array) -> Float32Array:
    return (samples - samples.mean(dtype=np.float64)).astype(np.float32)


@pytest.mark.filterwarnings("ignore:At least one mel filter:UserWarning")
@pytest.mark.parametrize("seconds", [1.0, 11.0])
def test_equals_the_ast_extractor_once_the_mean_is_removed(ast: ASTFeatureExtractor, seconds: float) -> None:
    samples = clip(seconds) + np.float32(0.1)
    expected = ast(without_mean(samples), sampling_rate=RATE, return_tensors="np")["input_values"]
    result = values(samples, max_length=1024)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, atol=1e-3)


@pytest.mark.filterwarnings("ignore:At least one mel filter:UserWarning")
def test_real_clips_equal_the_ast_extractor(ast: ASTFeatureExtractor, shared_data: Path) -> None:
    for path in sorted((shared_data / "esc10" / "audio").glob("*.ogg"))[::80]:
        samples = load_audio(path, sampling_rate=RATE)[0]
        expected = ast(without_mean(samples), sampling_rate=RATE, return_tensors="np")["input_values"]
        np.testing.assert_allclose(values(samples, max_length=1024), expected, atol=1e-3)


def test_a_constant_offset_of_the_wave_changes_nothing() -> None:
    np.testing.assert_allclose(values(clip() + np.float32(0.25)), values(clip()), atol=1e-4)


def test_clips_keep_their_length_unless_it_is_set() -> None:
    assert AuMFeatureExtractor().frames_per_second == 100
    assert values(clip(10.0)).shape == (1, 998, 128)
    whole = values(clip(0.5))[0]
    cut, padded = values(clip(0.5), max_length=30)[0], values(clip(0.5), max_length=60)[0]
    np.testing.assert_array_equal(cut, whole[:30])
    np.testing.assert_array_equal(padded[:48], whole)
    np.testing.assert_allclose(padded[48:], ZERO, rtol=1e-6)


@pytest.mark.parametrize("samples", [1, 100, 399])
def test_less_than_a_window_is_one_frame(samples: int) -> None:
    result = values(np.linspace(-1, 1, samples, dtype=np.float32))
    assert result.shape == (1, 1, 128)
    assert np.isfinite(result).all()


@pytest.mark.parametrize(("side", "mask"), [("right", [1] * 18 + [0] * 20), ("left", [0] * 20 + [1] * 18)])
def test_padding_is_zero_before_normalisation(side: str, mask: list[int]) -> None:
    batch = AuMFeatureExtractor(padding_side=side)([clip(0.2), clip(0.4)], sampling_rate=RATE)
    assert batch["attention_mask"].tolist() == [mask, [1] * 38]
    short = batch["input_values"][0]
    np.testing.assert_allclose(short[np.array(mask) == 0], 0.46703, atol=1e-5)
    np.testing.assert_array_equal(short[np.array(mask) == 1], values(clip(0.2))[0])


def test_statistics_are_settings() -> None:
    raw = values(clip(), do_normalize=False)
    np.testing.assert_allclose(values(clip(), mean=-6.845978, std=5.5654526), (raw + 6.845978) / 11.1309052, atol=1e-5)
    assert AuMFeatureExtractor(mean=-5.0767093, std=4.4533687).padding_value == pytest.approx(0.56999, abs=1e-5)
    assert AuMFeatureExtractor(do_normalize=False).padding_value == 0


@pytest.mark.parametrize("do_normalize", [True, False])
def test_levels_for_augmentation(do_normalize: bool) -> None:
    extractor = AuMFeatureExtractor(do_normalize=do_normalize)
    silence = values(np.zeros(RATE, np.float32), do_normalize=do_normalize)
    np.testing.assert_allclose(silence, extractor.floor, rtol=1e-6)
    # Ten times the amplitude are 20 dB, wherever a band is above the floor.
    quiet, loud = (values(level * clip(), do_normalize=do_normalize) for level in (np.float32(0.1), np.float32(1)))
    heard = quiet > extractor.floor + 0.1
    assert heard.mean() > 0.5
    np.testing.assert_allclose((loud - quiet)[heard], 20 * extractor.units_per_db, atol=1e-3)
    assert extractor.ceiling == math.inf


def test_inputs_of_all_kinds_give_the_same_features(tmp_path: Path) -> None:
    path = tmp_path / "clip.wav"
    samples = clip(0.3)
    soundfile.write(path, samples, RATE, subtype="FLOAT")
    read_only = np.frombuffer(samples.tobytes(), dtype=np.float32)
    pcm = {"array": (samples * 2**15).round().astype(np.int16), "sampling_rate": RATE}
    others = (samples[::-1].copy()[::-1], read_only, samples.tolist(), torch.from_numpy(samples), str(path), [samples])
    for same in others:
        np.testing.assert_allclose(values(same), values(samples), atol=1e-6)
    np.testing.assert_allclose(values(pcm), values(pcm["array"].astype(np.float32) / 2**15), atol=1e-6)


def test_another_sampling_rate_is_an_error() -> None:
    with pytest.raises(AudioError, match=r"44100 Hz.*16000 Hz"):
        AuMFeatureExtractor()(clip(), sampling_rate=44100)


# --- settings and files -----------------------------------------------------------------------------------------------


def test_saving_and_loading_keep_every_setting(tmp_path: Path) -> None:
    saved = AuMFeatureExtractor(num_mel_bins=64, max_length=50, mean=-3.7614744, std=4.2011642, padding_side="left")
    saved.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert stored.keys() == SETTINGS.keys() | {"feature_extractor_type"}
    loaded = AutoFeatureExtractor.from_pretrained(tmp_path)
    assert type(loaded) is AuMFeatureExtractor
    assert loaded.to_dict() == saved.to_dict()
    np.testing.assert_array_equal(
        loaded(clip(), sampling_rate=RATE).input_values, saved(clip(), sampling_rate=RATE).input_values
    )


def test_padding_follows_statistics_that_are_changed_on_loading(tmp_path: Path) -> None:
    AuMFeatureExtractor().save_pretrained(tmp_path)
    loaded = AutoFeatureExtractor.from_pretrained(tmp_path, mean=-2.0, std=1.0)
    assert loaded.padding_value == 1.0


def test_every_default_is_as_documented() -> None:
    settings = AuMFeatureExtractor().to_dict()
    assert {name: settings[name] for name in SETTINGS} == SETTINGS


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(
            ({name: 0}, name)
            for name in ("sampling_rate", "win_length", "hop_length", "num_mel_bins", "max_length", "std")
        ),
        *(({name: "7"}, name) for name in SETTINGS if name != "padding_side"),
        *(({name: None}, name) for name in SETTINGS if name not in ("max_length", "feature_size")),
        ({"num_mel_bins": 1}, "num_mel_bins"),
        ({"feature_size": 64}, "feature_size 64 contradicts"),
        ({"padding_side": "middle"}, "'left' or 'right'"),
        ({"mean": float("nan")}, "mean"),
        ({"std": -1.0}, "std"),
        ({"std": float("inf")}, "std"),
        ({"max_length": 10**12}, "max_length"),
        ({"hop_length": 10**12}, "hop_length"),
        ({"n_fft": 512}, "no setting n_fft"),
    ],
    ids=str,
)
def test_senseless_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        AuMFeatureExtractor(**options)


def test_padding_is_no_setting_of_its_own() -> None:
    with pytest.raises((UsageError, TypeError), match="padding_value"):
        AuMFeatureExtractor(padding_value=0.0)
