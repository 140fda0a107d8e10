"""Audio as arrays, tensors, lists, dicts and decoders: what is accepted, how it is scaled, what is refused."""

import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hf_audio_mamba.errors import AudioError
from hf_audio_mamba.features import as_waveform, check_sampling_rate, resample
from tests.features.clips import RATE, tone


def waveform(audio: Any, **options: Any) -> Any:
    return as_waveform(audio, sampling_rate=RATE, **options)


def test_float_samples_stay_as_they_are() -> None:
    clip = tone(0.1)
    assert np.array_equal(waveform(clip), clip)
    assert waveform(clip.astype(np.float64)).dtype == np.float32
    np.testing.assert_allclose(waveform(clip.astype(np.float16)), clip, atol=1e-3)


@pytest.mark.parametrize(("dtype", "subtype"), [("int16", "PCM_16"), ("int32", "PCM_32")])
def test_integers_are_scaled_as_soundfile_scales_them(dtype: str, subtype: str, tmp_path: Path) -> None:
    limits = np.iinfo(dtype)
    pcm = np.random.default_rng(0).integers(limits.min, limits.max, 1000, dtype=dtype, endpoint=True)
    soundfile.write(tmp_path / "pcm.wav", pcm, RATE, subtype=subtype)
    expected, _ = soundfile.read(tmp_path / "pcm.wav", dtype="float32")
    np.testing.assert_allclose(waveform(pcm), expected, atol=1e-7)


def test_eight_bit_samples_are_scaled_around_their_silence(tmp_path: Path) -> None:
    pcm = np.arange(256, dtype=np.uint8)
    soundfile.write(tmp_path / "pcm.wav", (pcm.astype(np.float32) - 128) / 128, RATE, subtype="PCM_U8")
    expected, _ = soundfile.read(tmp_path / "pcm.wav", dtype="float32")
    np.testing.assert_allclose(waveform(pcm), expected, atol=1e-7)
    assert waveform(np.array([-128, 0, 127], np.int8)).tolist() == [-1, 0, 127 / 128]


def test_lists_of_numbers() -> None:
    assert waveform([0.5, -0.25, 0]).tolist() == [0.5, -0.25, 0]
    assert waveform([0, 1, -1]).tolist() == [0, 1, -1]
    assert waveform((0.5, 0.25)).tolist() == [0.5, 0.25]


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_channels_are_averaged_in_either_layout(channels: int) -> None:
    stack = np.stack([tone(0.1, seed=seed) for seed in range(channels)])
    np.testing.assert_allclose(waveform(stack), stack.mean(axis=0), atol=1e-7)
    np.testing.assert_allclose(waveform(stack.T), stack.mean(axis=0), atol=1e-7)
    np.testing.assert_allclose(waveform(stack.tolist()), stack.mean(axis=0), atol=1e-7)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor([0.5, -0.25]),
        torch.tensor([0.5, -0.25], dtype=torch.float64),
        torch.tensor([0.5, -0.25], dtype=torch.bfloat16),
        torch.tensor([0.5, -0.25], dtype=torch.float16),
        torch.tensor([0.5, -0.25], requires_grad=True),
        torch.tensor([16384, -8192], dtype=torch.int16),
        torch.tensor([0.5, 9.0, -0.25, 9.0])[::2],
        torch.tensor([[0.5, -0.25]]),
    ],
    ids=str,
)
def test_tensors_of_any_kind(tensor: torch.Tensor) -> None:
    assert waveform(tensor).tolist() == [0.5, -0.25]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_tensors_on_a_gpu() -> None:
    assert waveform(torch.tensor([0.5, -0.25], device="cuda")).tolist() == [0.5, -0.25]


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 96000, 192000])
def test_other_rates_are_resampled(rate: int) -> None:
    clip = tone(0.25, rate=rate)
    expected = soxr.resample(clip, rate, RATE)
    for audio in ({"array": clip, "sampling_rate": rate}, {"raw": clip.tolist(), "sampling_rate": rate}):
        np.testing.assert_allclose(waveform(audio), expected, atol=1e-6)
    np.testing.assert_allclose(waveform(clip, source_rate=rate), expected, atol=1e-6)
    assert abs(len(waveform(clip, source_rate=rate)) - RATE // 4) <= 1


def test_a_dict_may_hold_a_file_as_datasets_keeps_it(tmp_path: Path, encoded: Callable[..., bytes]) -> None:
    clip = tone(0.1, rate=22050)
    content = encoded(clip, rate=22050, subtype="FLOAT")
    path = tmp_path / "clip.wav"
    path.write_bytes(content)
    expected = soxr.resample(clip, 22050, RATE)
    for audio in (
        {"bytes": content, "path": None},
        {"bytes": None, "path": str(path)},
        {"bytes": content, "path": "long/gone.wav"},
        {"array": clip, "sampling_rate": 22050, "path": "long/gone.wav"},
        content,
        str(path),
        path,
    ):
        np.testing.assert_allclose(waveform(audio), expected, atol=1e-6)


class Decoder:
    """Stands in for torchcodec's AudioDecoder: samples (channels, samples) and their rate."""

    def __init__(self, data: torch.Tensor, sample_rate: int) -> None:
        self.samples = SimpleNamespace(data=data, sample_rate=sample_rate)

    def get_all_samples(self) -> SimpleNamespace:
        return self.samples


def test_decoders_of_torchcodec() -> None:
    stereo = torch.stack([torch.from_numpy(tone(0.1, rate=48000, seed=seed)) for seed in range(2)])
    expected = soxr.resample(stereo.mean(dim=0).numpy(), 48000, RATE)
    np.testing.assert_allclose(waveform(Decoder(stereo, 48000)), expected, atol=1e-6)
    # More channels than samples: the layout is known, not guessed.
    assert waveform(Decoder(torch.tensor([[0.5], [0.25]]), RATE)).tolist() == [0.375]


def test_a_decoder_that_fails_is_an_audio_error() -> None:
    class Broken:
        def get_all_samples(self) -> None:
            raise RuntimeError("Could not push packet to decoder: Invalid data found")

    with pytest.raises(AudioError, match=r"clip 3.*Broken.*Invalid data"):
        waveform(Broken(), name="clip 3")


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (np.zeros(0), "empty"),
        (np.zeros((2, 0)), "empty"),
        ([], "empty"),
        (np.float32(0.5), "0 axes"),
        (np.zeros((2, 3, 4)), "3 axes"),
        (np.zeros((100, 100)), "no axis of at most 32 channels"),
        (np.full(10, np.nan), r"10 samples that are NaN.*sample 0"),
        (np.array([0, 0, np.inf]), r"1 samples that are NaN or infinite.*sample 2"),
        (np.array([0, -np.inf]), "infinite"),
        (np.array([1e30, -1e30]), r"1e\+30.*divide"),
        (np.array([1e300]), "infinite"),
        (np.array([True, False]), "bool"),
        (np.array([1 + 2j]), "complex"),
        (np.array(["a", "b"]), "dtype"),
        (np.array([object()]), "object"),
        (np.array([1, 2], np.uint16), "uint16"),
        ([[0.1, 0.2], [0.3]], "not a regular array"),
        ([0.1, None], "dtype object"),
        ([0.1, "x"], "dtype"),
        ([2**70], "dtype object"),
        (torch.zeros(3, device="meta"), "tensor"),
        (torch.zeros(3).to_sparse(), "tensor"),
        (torch.zeros(3, dtype=torch.complex64), "complex"),
        (None, "NoneType"),
        (7, "int"),
        (object(), "object"),
        ({}, "nothing"),
        ({"samples": [0.1]}, "'samples'"),
        ({"array": None, "path": None}, "'array', 'path'"),
        ({"path": 7}, "int"),
        ({"bytes": b""}, "empty"),
        ({"array": [0.1]}, "no 'sampling_rate'"),
        ("no/such/file.wav", "does not exist"),
    ],
)
def test_what_is_no_audio_is_refused(audio: Any, message: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(AudioError, match=message):
            waveform(audio)


@pytest.mark.parametrize("rate", [0, -1, None, "44100", 1e9, 44100.5, True, float("nan"), float("inf")])
def test_senseless_rates_are_refused(rate: Any) -> None:
    with pytest.raises(AudioError, match="'sampling_rate' of clip 3"):
        waveform({"array": [0.1], "sampling_rate": rate}, name="clip 3")
    with pytest.raises(AudioError, match="sampling_rate"):
        as_waveform([0.1], sampling_rate=rate)


def test_whole_numbers_of_any_type_are_rates() -> None:
    for rate in (44100, 44100.0, np.int64(44100), np.float32(44100)):
        assert check_sampling_rate(rate) == 44100


def test_a_contradicting_rate_is_refused() -> None:
    with pytest.raises(AudioError, match=r"22050 Hz.*16000 Hz"):
        waveform({"array": [0.1], "sampling_rate": 22050}, source_rate=16000)
    assert len(waveform({"array": [0.1] * 100}, source_rate=22050)) == 200


def test_a_message_names_the_clip() -> None:
    with pytest.raises(AudioError, match="clip 3 is empty"):
        waveform([], name="clip 3")


def test_clipping_and_offset_are_left_alone() -> None:
    clip = (np.clip(3 * tone(0.1), -1, 1) + 0.5).astype(np.float32)
    assert np.array_equal(waveform(clip), clip)


def test_inaudible_samples_become_silence() -> None:
    clip = np.array([1e-45, -1e-40, 1e-13, 1e-11, 0.5], np.float32)
    assert waveform(clip).tolist() == [0, 0, 0, np.float32(1e-11), 0.5]
    assert clip[0] > 0  # the caller's array is not written to


def test_resampling_never_loses_a_clip() -> None:
    for samples in range(1, 8):
        assert resample(np.ones(samples, np.float32), 192000, 8000).size > 0


def test_a_tone_keeps_its_pitch_when_resampled() -> None:
    spectrum = np.abs(np.fft.rfft(waveform(tone(1.0, rate=96000, frequency=1000), source_rate=96000)))
    assert np.argmax(spectrum) == 1000


@settings(max_examples=300, deadline=None)
@given(
    hnp.arrays(
        st.one_of(hnp.floating_dtypes(), hnp.integer_dtypes(), hnp.boolean_dtypes(), hnp.complex_number_dtypes()),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=40),
    )
)
def test_any_array_is_a_finite_waveform_or_an_audio_error(array: Any) -> None:
    try:
        result = waveform(array)
    except AudioError:
        return
    assert result.dtype == np.float32
    assert result.ndim == 1
    assert result.size in array.shape
    assert np.isfinite(result).all()
