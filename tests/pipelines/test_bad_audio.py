"""Bad audio through the pipeline: a typed error that names the clip, or finite scores; never a hang.

The numbers in the test ids are the rows of the project's list of bad audio inputs. Downloads (row 23) are in
`test_remote.py`, recordings of hours (row 21) in `test_long_audio.py` too.
"""

import io
import os
import stat
import struct
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from hf_audio_mamba.errors import AudioError
from hf_audio_mamba.pipelines import AudioClassificationPipeline

RATE = 16000
Make = Callable[[Path], Any]


def tone(seconds: float = 1.0, rate: int = RATE) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def hiss(seconds: float) -> np.ndarray:
    return (0.1 * np.random.default_rng(0).standard_normal(round(seconds * RATE))).astype(np.float32)


def encoded(samples: np.ndarray, format_: str, subtype: str | None = None) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, RATE, format=format_, subtype=subtype)
    return buffer.getvalue()


def with_value(value: float, index: int | slice) -> np.ndarray:
    samples = tone()
    samples[index] = value
    return samples


def decoder(data: Any, rate: Any = RATE) -> SimpleNamespace:
    return SimpleNamespace(get_all_samples=lambda: SimpleNamespace(data=data, sample_rate=rate))


def broken_decoder() -> SimpleNamespace:
    def fail() -> None:
        raise RuntimeError("Could not load libtorchcodec")

    return SimpleNamespace(get_all_samples=fail)


def lying_header() -> bytes:
    """A wav whose header promises 4 GiB."""
    data = bytearray(encoded(tone(), "WAV", "PCM_16"))
    start = data.index(b"data") + 4
    data[start : start + 4] = struct.pack("<I", 2**32 - 1)
    return bytes(data)


def damaged(data: bytes, at: float) -> bytes:
    position = round(len(data) * at)
    return data[:position] + bytes(byte ^ 0xFF for byte in data[position : position + 40]) + data[position + 40 :]


def png() -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0\0")) + chunk(b"IEND", b"")


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("clip.txt", "not audio")
    return buffer.getvalue()


def file(content: bytes, name: str = "clip.wav") -> Make:
    def make(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(content)
        return path

    return make


def fifo(folder: Path) -> Path:
    os.mkfifo(folder / "clip.wav")
    return folder / "clip.wav"


def dangling(folder: Path) -> Path:
    (folder / "clip.wav").symlink_to(folder / "gone.wav")
    return folder / "clip.wav"


def not_utf8(folder: Path) -> str:
    path = os.fsencode(folder) + b"/kl\xe4ng.wav"
    with open(path, "wb") as handle:
        handle.write(encoded(tone(), "WAV"))
    return os.fsdecode(path)


ERRORS: dict[str, tuple[Make, str]] = {
    "1 empty array": (lambda _: np.zeros(0), "empty"),
    "1 empty tensor": (lambda _: torch.zeros(0), "empty"),
    "1 empty channels": (lambda _: np.zeros((2, 0)), "empty"),
    "1 empty array in a dict": (lambda _: {"array": [], "sampling_rate": RATE}, "empty"),
    "2 zero-byte file": (file(b""), r"clip\.wav.*empty"),
    "2 zero bytes": (lambda _: b"", "empty"),
    "2 file without samples": (file(encoded(np.zeros(0), "WAV")), r"clip\.wav.*no audio samples"),
    "6 all NaN": (lambda _: np.full(RATE, np.nan), "NaN"),
    "6 file of NaN": (file(encoded(np.full(RATE, np.nan), "WAV", "FLOAT")), r"clip\.wav.*NaN"),
    "7 one Inf": (lambda _: with_value(np.inf, 77), "infinite.*sample 77"),
    "7 one minus Inf": (lambda _: with_value(-np.inf, 0), "infinite"),
    "8 huge floats": (lambda _: 1e30 * tone(), "full scale"),
    "8 floats beyond float32": (lambda _: 1e300 * tone().astype(np.float64), "infinite"),
    "9 bool": (lambda _: tone() > 0, "bool"),
    "9 complex": (lambda _: tone().astype(np.complex64), "complex64"),
    "9 objects": (lambda _: np.array([None, 1.0]), "object"),
    "9 text": (lambda _: np.array(["a", "b"]), "dtype"),
    "10 square of many channels": (lambda _: np.zeros((400, 400)), r"\(400, 400\)"),
    "11 three axes": (lambda _: np.zeros((2, 3, 400)), "3 axes"),
    "11 no axis": (lambda _: np.float32(0.5), "inputs"),
    "12 ragged channels": (lambda _: {"array": [[0.1, 0.2], [0.3]], "sampling_rate": RATE}, "one length"),
    "12 number": (lambda _: 5, "type int"),
    "12 None": (lambda _: None, "NoneType"),
    "12 object": (lambda _: object(), "type object"),
    "13 meta tensor": (lambda _: torch.zeros(RATE, device="meta"), "tensor"),
    **{
        f"14 rate {rate!r}": (lambda _, rate=rate: {"array": tone(), "sampling_rate": rate}, "sampling_rate")
        for rate in (0, -1, None, "44100", 1e9, 44100.5, float("nan"), True, [RATE])
    },
    "14 no rate": (lambda _: {"array": tone()}, "no 'sampling_rate'"),
    "14 empty dict": (lambda _: {}, "'array' or 'raw'"),
    "14 nothing but None": (lambda _: {"bytes": None, "path": None}, "'bytes'"),
    "16 decoder that fails": (lambda _: broken_decoder(), "libtorchcodec"),
    "16 decoder without samples": (lambda _: decoder(torch.zeros(1, 0)), "empty"),
    "16 decoder without rate": (lambda _: decoder(torch.zeros(1, 100), None), "sample_rate"),
    "16 bytes that are text": (lambda _: {"bytes": "RIFF", "path": 5}, "RIFF"),
    "16 path that is a number": (lambda _: {"bytes": None, "path": 5}, "'path' of inputs.*int"),
    "17 only a header": (file(encoded(tone(), "WAV")[:44]), r"clip\.wav"),
    "17 half a header": (file(encoded(tone(), "WAV")[:20]), r"clip\.wav"),
    "18 mp3 of nothing but ID3": (file(b"ID3\x04\x00\x00\x00\x00\x07\x76" + bytes(1014), "clip.mp3"), r"clip\.mp3"),
    "18 flac with a bad frame": (file(damaged(encoded(tone(5), "FLAC"), 0.5), "clip.flac"), r"clip\.flac"),
    "19 text": (file(b"This is not audio. " * 100), r"clip\.wav.*cannot be decoded"),
    "19 png": (file(png()), r"clip\.wav.*cannot be decoded"),
    "19 zip": (file(zipped()), r"clip\.wav.*cannot be decoded"),
    "19 raw": (file(bytes(1000), "clip.raw"), r"clip\.raw.*cannot be decoded"),
    "20 missing": (lambda folder: folder / "clip.wav", r"clip\.wav.*does not exist"),
    "20 folder": (lambda folder: folder, "is a folder"),
    "20 fifo": (fifo, r"clip\.wav.*pipe"),
    "20 device": (lambda _: Path(os.devnull).with_name("zero"), "device"),
    "20 dangling link": (dangling, r"clip\.wav.*link"),
    "20 name of 4096 characters": (lambda folder: folder / ("a" * 4096), "too long"),
    "20 NUL in the name": (lambda folder: f"{folder}/a\0b.wav", "null"),
    "20 empty name": (lambda _: "", "does not exist"),
}

RESULTS: dict[str, Make] = {
    "3 one sample": lambda _: np.full(1, 0.5),
    "3 one sample in a file": file(encoded(np.full(1, 0.5), "WAV")),
    "4 shorter than a window": lambda _: tone(0.01),
    "5 all zeros": lambda _: np.zeros(RATE),
    "5 file of zeros": file(encoded(np.zeros(RATE), "WAV")),
    "9 int16": lambda _: (tone() * 2**15).astype(np.int16),
    "9 int32": lambda _: (tone() * 2.0**31).astype(np.int32),
    "9 uint8": lambda _: (tone() * 128 + 128).astype(np.uint8),
    "9 float64": lambda _: tone().astype(np.float64),
    "9 float16": lambda _: tone().astype(np.float16),
    "10 (2, N)": lambda _: np.stack((tone(), tone())),
    "10 (N, 2)": lambda _: np.stack((tone(), tone()), axis=1),
    "10 5.1": lambda _: np.stack([tone()] * 6),
    "10 file of 6 channels": file(encoded(np.stack([tone()] * 6, axis=1), "WAV")),
    "12 list": lambda _: tone().tolist(),
    "13 requires_grad": lambda _: torch.from_numpy(tone()).requires_grad_(),
    "13 bf16": lambda _: torch.from_numpy(tone()).bfloat16(),
    "16 decoder": lambda _: decoder(torch.from_numpy(tone())[None]),
    "16 dict with bytes": lambda _: {"bytes": encoded(tone(), "FLAC"), "path": None},
    "17 truncated": file(encoded(tone(), "WAV")[:20000]),
    "17 lying header": file(lying_header()),
    "18 ogg cut in a page": file(encoded(hiss(5), "OGG", "VORBIS")[:-3000], "clip.ogg"),
    "20 name that is not UTF-8": not_utf8,
    "22 clipped": lambda _: np.clip(100 * tone(), -1, 1),
    "22 constant offset": lambda _: tone() + 0.9,
    "22 offset alone": lambda _: np.full(RATE, 0.9),
    "22 beyond full scale": lambda _: 1000 * tone(),
    "24 denormals": lambda _: np.full(RATE, 1e-40, dtype=np.float32),
}


@pytest.mark.parametrize("chunk_length_s", [None, 0.5], ids=["whole", "windows"])
@pytest.mark.parametrize("row", ERRORS)
def test_row_is_a_typed_error(
    row: str, chunk_length_s: float | None, momamba: AudioClassificationPipeline, tmp_path: Path
) -> None:
    make, message = ERRORS[row]
    clip = make(tmp_path)
    for inputs in (clip, iter_of(tone(), clip)):
        start = time.process_time()
        with pytest.raises(AudioError, match=message):
            list(momamba(inputs, chunk_length_s=chunk_length_s))
        assert time.process_time() - start < 2


@pytest.mark.parametrize("chunk_length_s", [None, 0.5], ids=["whole", "windows"])
@pytest.mark.parametrize("row", RESULTS)
def test_row_gives_finite_scores(
    row: str, chunk_length_s: float | None, momamba: AudioClassificationPipeline, tmp_path: Path
) -> None:
    clip = RESULTS[row](tmp_path)
    labels = momamba(clip, chunk_length_s=chunk_length_s, top_k=None)
    scores = [entry["score"] for entry in labels]
    assert len(labels) == 7
    assert np.isfinite(scores).all()
    assert sum(scores) == pytest.approx(1, abs=1e-5)


def iter_of(*clips: Any) -> Any:
    yield from clips


@pytest.mark.parametrize("row", ["9 int16", "9 int32", "9 float64", "10 (2, N)", "10 (N, 2)", "10 5.1", "12 list"])
def test_row_scores_as_the_float_clip_does(
    row: str, momamba: AudioClassificationPipeline, tmp_path: Path, same_labels: Callable[..., None]
) -> None:
    same_labels(momamba(RESULTS[row](tmp_path)), momamba(tone()), tolerance=1e-3)


def test_20_no_permission(momamba: AudioClassificationPipeline, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    path = file(encoded(tone(), "WAV"))(tmp_path)
    path.chmod(0)
    with pytest.raises(AudioError, match="ermission"):
        momamba(path)


def test_20_a_pipe_is_not_opened(momamba: AudioClassificationPipeline, tmp_path: Path) -> None:
    path = fifo(tmp_path)
    with pytest.raises(AudioError):
        momamba(str(path))
    assert stat.S_ISFIFO(path.stat().st_mode)


def test_13_tensor_on_a_gpu(momamba: AudioClassificationPipeline, same_labels: Callable[..., None]) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    same_labels(momamba(torch.from_numpy(tone()).cuda()), momamba(tone()))


def test_21_two_hours_are_refused_at_once_without_windows(momamba: AudioClassificationPipeline, tmp_path: Path) -> None:
    path = file(encoded(np.zeros(0), "WAV"))(tmp_path)
    size = 2 * 3600 * RATE * 2
    with path.open("r+b") as handle:
        data = bytearray(handle.read())
        data[4:8] = struct.pack("<I", size + 36)
        start = data.index(b"data") + 4
        data[start : start + 4] = struct.pack("<I", size)
        handle.seek(0)
        handle.write(data)
        handle.truncate(len(data) + size)
    start_time = time.process_time()
    with pytest.raises(AudioError, match=r"7200 s long.*chunk_length_s"):
        momamba(path)
    assert time.process_time() - start_time < 1


def test_24_denormals_do_not_slow_down(momamba: AudioClassificationPipeline) -> None:
    def seconds(clip: np.ndarray) -> float:
        times = []
        for _ in range(5):
            start = time.process_time()
            momamba(clip)
            times.append(time.process_time() - start)
        return min(times)

    usual = seconds(tone(10))
    assert seconds(np.full(10 * RATE, 1e-40, dtype=np.float32)) < 2 * usual


def test_an_error_in_a_list_names_the_clip(momamba: AudioClassificationPipeline) -> None:
    with pytest.raises(AudioError, match=r"inputs\[2\]"):
        momamba([tone(), tone(), np.zeros(0), tone()])
