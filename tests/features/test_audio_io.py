"""Reading files: every format, every way in which a file can be broken, and never a traceback of libsndfile."""

import os
import socket
import struct
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_audio_mamba.errors import AudioError
from hf_audio_mamba.features import audio_info, audio_io, load_audio
from tests.features.clips import RATE, tone

Encode = Callable[..., bytes]
WriteFile = Callable[[str, bytes], Path]


@pytest.mark.parametrize(("format", "tolerance"), [("WAV", 1e-4), ("FLAC", 1e-4), ("OGG", 0.1), ("MP3", 0.1)])
def test_path_and_bytes_give_the_samples_that_were_encoded(
    format: str, tolerance: float, encoded: Encode, write_file: WriteFile
) -> None:
    clip = tone(0.5)
    content = encoded(clip, format=format)
    from_bytes, rate = load_audio(content)
    from_path, _ = load_audio(write_file(f"clip.{format.lower()}", content))
    assert rate == RATE
    assert from_bytes.dtype == np.float32
    assert np.array_equal(from_bytes, from_path)
    assert len(from_bytes) == len(clip)
    inner = slice(2000, -2000)  # lossy codecs blur the ends
    assert np.abs(from_bytes - clip)[inner].max() < tolerance


def test_the_name_does_not_have_to_tell_the_format(encoded: Encode, write_file: WriteFile) -> None:
    content = encoded(tone(0.1), format="FLAC")
    assert np.array_equal(load_audio(write_file("clip.bin", content))[0], load_audio(content)[0])


@pytest.mark.parametrize("channels", [2, 6])
def test_channels_are_averaged(channels: int, encoded: Encode) -> None:
    stack = np.stack([tone(0.1, seed=seed) for seed in range(channels)], axis=1)
    mono, _ = load_audio(encoded(stack, subtype="FLOAT"))
    np.testing.assert_allclose(mono, stack.mean(axis=1), atol=1e-7)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 96000, 192000])
def test_resampling_equals_soxr_on_the_whole_clip(rate: int, encoded: Encode) -> None:
    clip = tone(0.3, rate=rate)
    loaded, new_rate = load_audio(encoded(clip, rate=rate, subtype="FLOAT"), sampling_rate=RATE)
    assert new_rate == RATE
    np.testing.assert_allclose(loaded, soxr.resample(clip, rate, RATE), atol=1e-6)


def test_a_file_longer_than_a_block_is_complete(encoded: Encode) -> None:
    clip = np.random.default_rng(0).uniform(-0.5, 0.5, (600_000, 2)).astype(np.float32)
    np.testing.assert_allclose(load_audio(encoded(clip, subtype="FLOAT"))[0], clip.mean(axis=1), atol=1e-7)


def test_info_tells_rate_channels_and_length(encoded: Encode, write_file: WriteFile) -> None:
    content = encoded(np.zeros((4410, 2), np.float32), rate=22050)
    for source in (content, write_file("clip.wav", content)):
        info = audio_info(source)
        assert (info.sampling_rate, info.channels, info.frames, info.duration_s) == (22050, 2, 4410, 0.2)


def test_too_long_a_file_is_refused_with_the_way_out(encoded: Encode) -> None:
    content = encoded(tone(1.0))
    assert len(load_audio(content, max_seconds=1.0)[0]) == RATE
    with pytest.raises(AudioError, match=r"longer than 0\.5 s.*iter_windows"):
        load_audio(content, max_seconds=0.5)


def test_a_small_file_that_unpacks_to_hours_is_refused(
    encoded: Encode, write_file: WriteFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert audio_io.MAX_SAMPLES * 4 < 512e6
    monkeypatch.setattr(audio_io, "MAX_SAMPLES", 2_000_000)
    content = encoded(np.zeros(10_000_000, np.float32), format="FLAC", rate=200_000)
    assert len(content) < 100_000
    tracemalloc.start()
    try:
        with pytest.raises(AudioError, match=r"bomb\.flac.*longer than 10 s"):
            load_audio(write_file("bomb.flac", content))
        assert tracemalloc.get_traced_memory()[1] < 64e6  # all of it would be 40 MB and a copy
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("max_seconds", [0, -1.0, float("nan"), "30", True])
def test_a_senseless_limit_is_refused(max_seconds: object, encoded: Encode) -> None:
    with pytest.raises(AudioError, match="max_seconds"):
        load_audio(encoded(tone(0.1)), max_seconds=max_seconds)  # type: ignore[arg-type]  # the point of the test


@pytest.mark.parametrize("rate", [0, -1, "44100", 1e9, 44100.5, True, float("nan")])
def test_a_senseless_rate_is_refused(rate: object, encoded: Encode) -> None:
    with pytest.raises(AudioError, match="sampling_rate"):
        load_audio(encoded(tone(0.1)), sampling_rate=rate)  # type: ignore[arg-type]  # the point of the test


@pytest.mark.parametrize("rate", [0, 1, 10**9])
def test_a_senseless_rate_in_the_header_is_refused(rate: int, encoded: Encode, write_file: WriteFile) -> None:
    content = bytearray(encoded(tone(0.1)))
    content[24:28] = struct.pack("<I", rate)
    with pytest.raises(AudioError, match=r"lied\.wav"):
        load_audio(write_file("lied.wav", bytes(content)), sampling_rate=RATE)


BROKEN = {
    "empty.wav": b"",
    "one_byte.wav": b"R",
    "text.wav": b"this is no audio\n" * 100,
    "image.wav": b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8,
    "archive.wav": b"PK\x03\x04" + bytes(range(256)) * 8,
    "tag_only.mp3": b"ID3\x04\x00\x00\x00\x00\x0f\x76" + bytes(2038),
    "noise.mp3": bytes(np.random.default_rng(0).integers(0, 256, 4000, dtype=np.uint8)),
    "noise.raw": bytes(range(256)) * 4,
    "header_only.flac": b"fLaC\x00\x00\x00\x22",
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_audio_is_an_error_that_names_the_file(name: str, write_file: WriteFile) -> None:
    with pytest.raises(AudioError, match=name):
        load_audio(write_file(name, BROKEN[name]))
    with pytest.raises(AudioError, match="bytes"):
        load_audio(BROKEN[name])


def test_a_header_without_samples_is_an_error(encoded: Encode) -> None:
    with pytest.raises(AudioError, match="no audio samples"):
        load_audio(encoded(np.zeros(0, np.float32)))


def test_a_real_archive_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "clips.wav"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "a")
    with pytest.raises(AudioError, match=r"clips\.wav"):
        load_audio(path)


@pytest.mark.parametrize("format", ["WAV", "OGG", "MP3"])
def test_a_file_that_was_cut_off_yields_what_comes_before_the_cut(format: str, encoded: Encode) -> None:
    whole = encoded(tone(2.0), format=format)
    complete, _ = load_audio(whole)
    partial, _ = load_audio(whole[: len(whole) // 2])
    assert 0.2 * len(complete) < len(partial) < 0.6 * len(complete)
    common = len(partial) - 4000
    assert np.array_equal(partial[:common], complete[:common])


def test_a_damaged_flac_file_is_an_error(encoded: Encode, write_file: WriteFile) -> None:
    content = bytearray(encoded(tone(2.0), format="FLAC"))
    content[len(content) // 2 : len(content) // 2 + 200] = bytes(200)
    with pytest.raises(AudioError, match=r"damaged\.flac.*cannot be decoded"):
        load_audio(write_file("damaged.flac", bytes(content)))
    with pytest.raises(AudioError, match="cannot be decoded"):
        load_audio(bytes(content[: len(content) // 2]))


def test_a_header_that_claims_four_gigabytes_allocates_what_is_there(encoded: Encode) -> None:
    clip = tone(0.5)
    content = bytearray(encoded(clip))
    start = content.index(b"data") + 4
    content[start : start + 4] = b"\xff\xff\xff\xff"
    content[4:8] = b"\xff\xff\xff\xff"
    tracemalloc.start()
    try:
        samples, _ = load_audio(bytes(content))
        assert tracemalloc.get_traced_memory()[1] < 32e6
    finally:
        tracemalloc.stop()
    assert len(samples) == len(clip)


def test_a_flac_header_that_claims_too_many_samples_does_not_hang(encoded: Encode) -> None:
    content = bytearray(encoded(tone(0.5), format="FLAC"))
    content[21] |= 0x0F
    content[22:26] = b"\xff\xff\xff\xff"
    with pytest.raises(AudioError, match="cannot be decoded"):
        load_audio(bytes(content))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_not_finite_are_an_error_that_names_the_file(
    value: float, encoded: Encode, write_file: WriteFile
) -> None:
    clip = tone(0.1)
    clip[100] = value
    with pytest.raises(AudioError, match=r"bad\.wav.*first at sample 100"):
        load_audio(write_file("bad.wav", encoded(clip, subtype="FLOAT")))


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.wav"
    os.mkfifo(pipe)
    door = tmp_path / "door.wav"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(door))
        for path in (pipe, door, Path("/dev/zero"), Path("/dev/null")):
            with pytest.raises(AudioError, match=f"{path.name}.*only regular files"):
                load_audio(path)
    with pytest.raises(AudioError, match="folder"):
        load_audio(tmp_path)


def test_missing_paths_and_links_say_what_is_missing(tmp_path: Path, encoded: Encode) -> None:
    with pytest.raises(AudioError, match=r"missing\.wav.*does not exist"):
        load_audio(tmp_path / "missing.wav")
    link = tmp_path / "link.wav"
    link.symlink_to(tmp_path / "missing.wav")
    with pytest.raises(AudioError, match=r"link\.wav.*link to a file that does not exist"):
        load_audio(link)
    (tmp_path / "missing.wav").write_bytes(encoded(tone(0.1)))
    assert len(load_audio(link)[0]) == RATE // 10


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_says_so(encoded: Encode, write_file: WriteFile) -> None:
    path = write_file("secret.wav", encoded(tone(0.1)))
    path.chmod(0)
    with pytest.raises(AudioError, match=r"secret\.wav"):
        load_audio(path)


@pytest.mark.parametrize("name", ["", "a\0b.wav", "x" * 4096, "dir/" * 1500 + "x.wav"])
def test_impossible_names_are_errors_of_bounded_length(name: str) -> None:
    with pytest.raises(AudioError) as caught:
        load_audio(name)
    assert len(str(caught.value)) < 600


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_name_that_is_not_utf8_can_be_read_and_printed(tmp_path: Path, encoded: Encode) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav")
    Path(path).write_bytes(encoded(tone(0.1)))
    assert len(load_audio(path)[0]) == RATE // 10
    Path(path).write_bytes(b"no audio")
    with pytest.raises(AudioError) as caught:
        load_audio(path)
    assert r"caf\udce9.wav" in str(caught.value)
    str(caught.value).encode("utf-8")


def test_urls_are_not_opened() -> None:
    for url in ("http://localhost/clip.wav", "file:///etc/passwd"):
        with pytest.raises(AudioError, match="is a URL"):
            load_audio(url)


def test_every_cut_of_a_small_file_is_read_or_refused(encoded: Encode) -> None:
    for format in ("WAV", "FLAC", "OGG"):
        content = encoded(tone(0.02), format=format)
        for length in range(0, len(content), 1 + len(content) // 150):
            try:
                samples, _ = load_audio(content[:length])
            except AudioError:
                continue
            assert samples.size > 0
            assert np.isfinite(samples).all()


FORMATS = ("WAV", "FLAC", "OGG", "MP3")
DAMAGE = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=8)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(FORMATS), DAMAGE)
def test_any_damage_to_the_head_of_a_file_is_read_or_refused(
    encoded: Encode, format: str, damage: list[tuple[int, int]]
) -> None:
    content = bytearray(encoded(tone(0.02), format=format))
    for position, value in damage:
        content[position % len(content)] = value
    try:
        samples, rate = load_audio(bytes(content), sampling_rate=16000)
    except AudioError:
        return
    assert rate == 16000
    assert samples.size > 0
    assert np.isfinite(samples).all()


def test_real_recordings_decode_like_soundfile(shared_data: Path) -> None:
    paths = sorted((shared_data / "philharmonia" / "test").glob("*.mp3"))[:5]
    paths += (
        sorted((shared_data / "esc10" / "audio").glob("*.ogg"))[:3] + sorted((shared_data / "fsdd").rglob("*.wav"))[:3]
    )
    for path in paths:
        expected, rate = soundfile.read(path, dtype="float32")
        samples, loaded_rate = load_audio(path)
        assert loaded_rate == rate
        np.testing.assert_allclose(samples, expected, atol=1e-9)
