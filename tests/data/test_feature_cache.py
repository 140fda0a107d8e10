import errno
import logging
import math
import resource
from pathlib import Path

import numpy as np
import pytest
import torch

from hf_audio_mamba.data import Clip, compute_features
from hf_audio_mamba.data.feature_cache import feature_layout
from hf_audio_mamba.errors import DataError, OutputError, UsageError
from hf_audio_mamba.features import load_audio
from hf_audio_mamba.models.audio_feature_extraction import AudioFeatureExtractor
from hf_audio_mamba.models.momamba import MoMambaFeatureExtractor


@pytest.fixture
def clips(tmp_path, write_tone):
    files = [
        write_tone(tmp_path / "audio" / f"{number}.wav", 200 + 30 * number, 0.2 + 0.05 * number) for number in range(6)
    ]
    return [Clip(path.name, "x", path=path) for path in files]


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def cache_files(cache: Path) -> list[Path]:
    return sorted(cache.rglob("*.npy"))


class TestFeatures:
    @pytest.mark.parametrize("cached", [True, False])
    @pytest.mark.parametrize("num_workers", [1, 3])
    def test_equal_those_of_the_extractor(self, clips, cache, extractor, cached, num_workers):
        table = compute_features(clips, extractor, cache_dir=cache if cached else None, num_workers=num_workers)
        assert table.kept == list(range(6))
        assert table.skipped == []
        for index, clip in enumerate(clips):
            samples, rate = load_audio(clip.path)
            expected = extractor(samples, sampling_rate=rate)["input_values"][0]
            np.testing.assert_array_equal(table.load(index), expected)
            assert table.load(index).dtype == np.float32
            assert table.lengths[index] == len(expected)

    def test_audio_of_every_kind_is_resampled(self, clips, extractor):
        samples, _ = load_audio(clips[0].path, sampling_rate=16000)
        encoded = clips[0].path.read_bytes()
        kinds = [
            clips[0],
            Clip("bytes", "x", audio=encoded),
            Clip("late bytes", "x", audio=lambda: encoded),
            Clip("samples", "x", audio=samples, sampling_rate=16000),
            Clip("late samples", "x", audio=lambda: samples, sampling_rate=16000),
        ]
        table = compute_features(kinds, extractor, cache_dir=None)
        for index in (1, 2):
            np.testing.assert_array_equal(table.load(index), table.load(0))
        for index in (3, 4):
            # Up and down again: equal but for what resampling does to the top bands.
            np.testing.assert_allclose(table.load(index)[:, :12], table.load(0)[:, :12], atol=0.05)

    def test_torch_keeps_its_threads(self, clips, extractor):
        before = torch.get_num_threads()
        compute_features(clips, extractor, cache_dir=None, num_workers=2)
        assert torch.get_num_threads() == before

    def test_no_bar_without_a_terminal(self, clips, extractor, capfd):
        compute_features(clips, extractor, cache_dir=None)
        assert capfd.readouterr() == ("", "")

    def test_layouts(self):
        plain = MoMambaFeatureExtractor(chroma=True)
        raw = MoMambaFeatureExtractor(chroma=True, do_normalize=False, top_db=60)
        noise = np.random.default_rng(0).standard_normal(44100) * np.geomspace(1, 1e-6, 44100)
        for extractor in (plain, raw):
            layout = feature_layout(extractor)
            features = extractor(noise, sampling_rate=44100)["input_values"][0]
            mel = features[:, : layout.num_mel_bins]
            assert features.shape[1] == layout.feature_size == 140
            assert mel.max() == pytest.approx(layout.ceiling)
            assert mel.min() == pytest.approx(layout.floor)
            silence = np.concatenate([noise[:22050], np.zeros(22050)])
            frame = extractor(silence, sampling_rate=44100)["input_values"][0][-5]
            np.testing.assert_allclose(layout.silence(), frame, atol=1e-5)
        assert feature_layout(plain).units_per_db * 80 == pytest.approx(2)
        assert feature_layout(raw).units_per_db == 1

    def test_layout_is_what_the_extractor_says(self):
        class Absolute(AudioFeatureExtractor):
            num_mel_bins = 3
            floor, ceiling, units_per_db = -100.0, math.inf, 1.0

        extractor = Absolute(
            feature_size=3,
            sampling_rate=8000,
            hop_length=80,
            padding_side="left",
            padding_value=0.0,
            return_attention_mask=True,
        )
        layout = feature_layout(extractor)
        assert (layout.floor, layout.ceiling, layout.units_per_db) == (-100.0, math.inf, 1.0)
        np.testing.assert_array_equal(layout.silence(), [-100.0] * 3)


class TestCache:
    def test_is_used_the_second_time(self, clips, cache, extractor):
        first = compute_features(clips, extractor, cache_dir=cache)
        stamps = [path.stat().st_mtime_ns for path in cache_files(cache)]
        second = compute_features(clips, extractor, cache_dir=cache)
        assert (first.num_cached, second.num_cached) == (0, 6)
        assert second.lengths == first.lengths
        assert [path.stat().st_mtime_ns for path in cache_files(cache)] == stamps

    def test_follows_content_not_names(self, clips, cache, extractor, write_tone):
        compute_features(clips, extractor, cache_dir=cache)
        moved = clips[0].path.rename(clips[0].path.with_name("renamed.wav"))
        write_tone(clips[1].path, 999.0, 0.25)
        changed = [Clip("renamed", "x", path=moved), clips[1]]
        table = compute_features(changed, extractor, cache_dir=cache)
        assert table.num_cached == 1
        expected = extractor(load_audio(clips[1].path)[0], sampling_rate=8000)["input_values"][0]
        np.testing.assert_array_equal(table.load(1), expected)

    def test_settings_have_their_own_files(self, clips, cache, extractor):
        compute_features(clips, extractor, cache_dir=cache)
        settings = extractor.to_dict() | {"do_normalize": False}
        other = MoMambaFeatureExtractor.from_dict(settings)
        table = compute_features(clips, other, cache_dir=cache)
        assert table.num_cached == 0
        assert table.load(0).min() < -1
        padded = MoMambaFeatureExtractor.from_dict(extractor.to_dict() | {"padding_side": "right"})
        assert compute_features(clips, padded, cache_dir=cache).num_cached == 6

    @pytest.mark.parametrize("part", [0.0, 0.01, 0.5, 0.99])
    def test_cut_files_are_computed_again(self, clips, cache, extractor, part):
        whole = compute_features(clips, extractor, cache_dir=cache)
        expected = whole.load(2)
        content = whole.sources[2].read_bytes()
        whole.sources[2].write_bytes(content[: int(part * len(content))])
        table = compute_features(clips, extractor, cache_dir=cache)
        assert table.num_cached == 5
        np.testing.assert_array_equal(table.load(2), expected)

    @pytest.mark.parametrize(
        "array", [np.zeros((5, 16)), np.zeros((5, 3), np.float32), np.zeros((0, 16), np.float32), np.array([{"a": 1}])]
    )
    def test_foreign_arrays_are_computed_again(self, clips, cache, extractor, array):
        source = compute_features(clips, extractor, cache_dir=cache).sources[0]
        np.save(source, array)
        table = compute_features(clips, extractor, cache_dir=cache)
        assert table.num_cached == 5
        assert table.load(0).shape == (table.lengths[0], 16)

    def test_a_file_that_goes_later_is_an_error(self, clips, cache, extractor):
        table = compute_features(clips, extractor, cache_dir=cache)
        table.sources[0].unlink()
        with pytest.raises(DataError, match="start again"):
            table.load(0)


class TestCorruptClips:
    def test_are_skipped_counted_and_named(self, clips, cache, extractor, caplog):
        clips[2].path.write_bytes(b"RIFF but no audio")
        clips[4].path.unlink()
        with caplog.at_level(logging.WARNING):
            table = compute_features(clips, extractor, cache_dir=cache, max_corrupt_fraction=0.4)
        assert table.kept == [0, 1, 3, 5]
        assert len(table) == len(table.lengths) == 4
        assert [name for name, _ in table.skipped] == ["2.wav", "4.wav"]
        assert all(reason for _, reason in table.skipped)
        assert "2 of 6 clips cannot be read (2.wav: " in caplog.text
        expected = extractor(load_audio(clips[3].path)[0], sampling_rate=8000)["input_values"][0]
        np.testing.assert_array_equal(table.load(2), expected)

    def test_one_in_a_hundred_is_allowed_and_two_are_not(self, clips, extractor):
        broken = Clip("broken", "x", audio=b"no audio")
        many = [clips[0]] * 98
        assert len(compute_features([*many, clips[1], broken], extractor, cache_dir=None)) == 99
        with pytest.raises(DataError, match=r"2 of 100 clips cannot be read \(broken: .*At most 0.01 of all"):
            compute_features([*many, broken, broken], extractor, cache_dir=None)

    def test_a_long_list_is_cut(self, extractor):
        broken = [Clip(f"broken{number}", "x", audio=b"no audio") for number in range(9)]
        with pytest.raises(DataError, match=r"broken4.*; and 4 more") as caught:
            compute_features(broken, extractor, cache_dir=None, max_corrupt_fraction=1.0)
        assert "broken5" not in str(caught.value)

    @pytest.mark.parametrize("samples", [np.full(800, np.nan), np.zeros(0), np.zeros((2, 3, 4))])
    def test_unusable_samples_count_as_corrupt(self, clips, extractor, samples):
        bad = Clip("bad", "x", audio=samples.astype(np.float32), sampling_rate=8000)
        table = compute_features([bad, clips[0]], extractor, cache_dir=None, max_corrupt_fraction=0.5)
        assert table.kept == [1]
        assert table.skipped[0][0] == "bad"

    def test_wrong_arguments(self, clips, extractor):
        with pytest.raises(DataError, match="no clips"):
            compute_features([], extractor, cache_dir=None)
        with pytest.raises(UsageError, match="max_corrupt_fraction"):
            compute_features(clips, extractor, cache_dir=None, max_corrupt_fraction=1.5)


class TestDisk:
    def test_a_file_that_cannot_be_finished_leaves_nothing(self, clips, cache, extractor):
        compute_features(clips[:1], extractor, cache_dir=cache)
        before = cache_files(cache)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        # The kernel now refuses to let any file grow past 1000 bytes, as a full quota would.
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        try:
            with pytest.raises(OutputError, match=r"cannot write \d+ bytes of features to .*\.npy: File too large"):
                compute_features(clips, extractor, cache_dir=cache)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert cache_files(cache) == before
        assert list(cache.rglob(".*")) == []
        assert compute_features(clips, extractor, cache_dir=cache).num_cached == 1

    def test_a_full_disk_says_how_much_is_needed(self, clips, cache, extractor, monkeypatch):
        def full(*_args, **_kwargs):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(np, "save", full)
        with pytest.raises(OutputError, match=r"No space left on device\. All 6 clips need about \d+ MB"):
            compute_features(clips, extractor, cache_dir=cache)

    def test_a_cache_that_is_a_file(self, clips, tmp_path, extractor):
        (tmp_path / "occupied").write_text("")
        with pytest.raises(OutputError, match="cannot make the feature cache"):
            compute_features(clips, extractor, cache_dir=tmp_path / "occupied")
