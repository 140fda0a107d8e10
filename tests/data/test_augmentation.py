import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_audio_mamba.data import AugmentationConfig
from hf_audio_mamba.data.augmentation import FeatureLayout, augment
from hf_audio_mamba.errors import UsageError

NORMALIZED = FeatureLayout(num_mel_bins=32, feature_size=44)
RAW = FeatureLayout(32, 44, floor=-80.0, ceiling=0.0, units_per_db=1.0, chroma_floor=0.0)
# dB as such, in steps of 1/2: the floor is 100 dB below a full scale that clips may pass.
ABSOLUTE = FeatureLayout(32, 32, floor=-50.0, ceiling=math.inf, units_per_db=0.5)
OFF = {name: value for name, value in asdict(AugmentationConfig.off()).items() if not isinstance(value, bool)}
seeds = st.integers(0, 2**32)


def make_features(frames: int = 50, layout: FeatureLayout = NORMALIZED, seed: int = 0) -> np.ndarray:
    """A clip with all levels from floor to ceiling, silent cells among them, and chroma in [-1, 1]."""
    generator = np.random.default_rng(seed)
    level_db = np.clip(generator.uniform(-110, 0, (frames, layout.num_mel_bins)), -80, 0)
    level_db.flat[generator.integers(level_db.size)] = 0.0
    chroma = generator.random((frames, layout.feature_size - layout.num_mel_bins))
    if layout is NORMALIZED:
        return np.hstack([level_db / 40 + 1, 2 * chroma - 1]).astype(np.float32)
    return np.hstack([level_db, chroma]).astype(np.float32)


def change(
    seed: int, frames: int = 50, layout: FeatureLayout = NORMALIZED, **strengths
) -> tuple[np.ndarray, np.ndarray]:
    features = make_features(frames, layout)
    return features, augment(features, layout, AugmentationConfig(**{**OFF, **strengths}), np.random.default_rng(seed))


ALL = {
    "spec_augment_time_masks": 2,
    "spec_augment_frequency_masks": 2,
    "time_shift": 0.3,
    "gain_db": 10.0,
    "filter_db": 10.0,
    "noise_db": 40.0,
}


@given(seed=seeds, frames=st.integers(1, 60))
def test_everything_at_once_stays_within_the_range_of_features(seed, frames):
    features, changed = change(seed, frames, **ALL)
    np.testing.assert_array_equal(features, make_features(frames))
    assert changed.shape == features.shape
    assert changed.dtype == np.float32
    assert np.isfinite(changed).all()
    assert changed.min() >= -1
    assert changed.max() <= 1


@given(seed=seeds)
def test_raw_and_normalized_features_are_changed_alike(seed):
    _, normalized = change(seed, layout=NORMALIZED, **ALL)
    _, raw = change(seed, layout=RAW, **ALL)
    np.testing.assert_allclose(raw[:, :32] / 40 + 1, normalized[:, :32], atol=2e-6)
    np.testing.assert_allclose(2 * raw[:, 32:] - 1, normalized[:, 32:], atol=2e-6)


def test_nothing_on_changes_nothing():
    features, changed = change(0)
    np.testing.assert_array_equal(changed, features)


@given(seed=seeds)
def test_gain_adds_one_level_to_all_but_silence(seed):
    features, changed = change(seed, gain_db=6.0)
    np.testing.assert_array_equal(changed[:, 32:], features[:, 32:])
    before, after = features[:, :32], changed[:, :32]
    np.testing.assert_array_equal(after[before == -1], -1)
    inside = (after > -1) & (after < 1) & (before > -1)
    gains = (after - before)[inside]
    assert np.ptp(gains) < 1e-6
    assert abs(gains[0]) <= 6 / 40 + 1e-6


def test_gains_fill_their_range():
    gains = []
    for seed in range(200):
        features, changed = change(seed, gain_db=8.0, layout=RAW)
        moved = (features > -60) & (features < -20)
        moved[:, 32:] = False
        gains.append(np.median((changed - features)[moved]))
    assert -8 <= min(gains) < -7
    assert 7 < max(gains) <= 8


@given(seed=seeds)
def test_filter_adds_one_response_to_all_frames(seed):
    features, changed = change(seed, filter_db=9.0, layout=RAW)
    np.testing.assert_array_equal(changed[:, 32:], features[:, 32:])
    before, after = features[:, :32], changed[:, :32]
    assert after.max() == 0, "relative to its own maximum again"
    np.testing.assert_array_equal(after[before == -80], -80)
    difference = np.where((before > -80) & (after > -80) & (after < 0), after - before, np.nan)
    response = np.nanmedian(difference, axis=0)
    assert np.nanmax(np.abs(difference - response)) < 1e-4
    assert np.ptp(response) <= 18 + 1e-4


def test_filters_are_smooth_and_differ():
    flat = np.full((4, 32), -30.0, np.float32)
    layout = FeatureLayout(32, 32, floor=-80.0, ceiling=0.0, units_per_db=1.0)
    config = AugmentationConfig(**{**OFF, "filter_db": 9.0})
    responses = np.array([augment(flat, layout, config, np.random.default_rng(seed))[0] for seed in range(20)])
    bends = np.abs(np.diff(responses, 2, axis=1)) > 1e-3
    # Straight lines between at most six nodes: each inner node bends two neighbouring second differences.
    assert bends.sum(axis=1).max() <= 8
    assert len(np.unique(responses.round(3), axis=0)) == 20


@given(seed=seeds, frames=st.integers(1, 60))
def test_shift_moves_all_frames_alike_and_lets_silence_in(seed, frames):
    features, changed = change(seed, frames, time_shift=0.5)
    limit = frames // 2
    silence = NORMALIZED.silence()
    candidates = []
    for shift in range(-limit, limit + 1):
        padded = np.vstack([np.tile(silence, (limit, 1)), features, np.tile(silence, (limit, 1))])
        candidates.append(padded[limit - shift : limit - shift + frames])
    assert any(np.array_equal(changed, candidate) for candidate in candidates)


@given(seed=seeds, frames=st.integers(1, 60))
def test_time_masks_are_stretches_of_silence(seed, frames):
    features, changed = change(seed, frames, spec_augment_time_masks=2, spec_augment_time_fraction=0.2)
    touched = (changed != features).any(axis=1)
    assert touched.sum() <= 2 * int(0.2 * frames)
    assert np.count_nonzero(np.diff(np.concatenate([[0], touched, [0]])) == 1) <= 2
    np.testing.assert_array_equal(changed[touched], np.tile(NORMALIZED.silence(), (touched.sum(), 1)))


@given(seed=seeds)
def test_frequency_masks_silence_mel_bands_only(seed):
    features, changed = change(seed, spec_augment_frequency_masks=2, spec_augment_frequency_bands=5)
    touched = (changed != features).any(axis=0)
    assert touched.sum() <= 10
    assert not touched[32:].any()
    assert (changed[:, touched] == -1).all()


@given(seed=seeds, frames=st.integers(1, 60))
def test_time_masks_of_absolute_width(seed, frames):
    longest = 7
    features, changed = change(
        seed, frames, spec_augment_time_masks=1, spec_augment_time_frames=longest, spec_augment_time_fraction=0.9
    )
    assert (changed != features).any(axis=1).sum() <= longest


def test_absolute_widths_are_reached():
    widths = {"time": set(), "frequency": set()}
    for seed in range(300):
        features, changed = change(seed, spec_augment_time_masks=1, spec_augment_time_frames=7)
        widths["time"].add(int((changed != features).any(axis=1).sum()))
        features, changed = change(seed, spec_augment_frequency_masks=1, spec_augment_frequency_bands=5)
        widths["frequency"].add(int((changed != features).any(axis=0).sum()))
    assert widths == {"time": set(range(8)), "frequency": set(range(6))}


@given(seed=seeds)
def test_masks_may_hold_the_mean_of_each_band(seed):
    strengths = {"spec_augment_time_masks": 2, "spec_augment_frequency_masks": 2}
    features, silent = change(seed, **strengths)
    _, changed = change(seed, spec_augment_mean=True, **strengths)
    hidden = silent != features
    mean = np.broadcast_to(features.astype(np.float64).mean(axis=0), features.shape)
    np.testing.assert_allclose(changed[hidden], mean[hidden], atol=1e-5)
    # Cells that were silent look untouched in the one and hold the mean in the other.
    np.testing.assert_array_equal(changed[~hidden & (features != -1)], features[~hidden & (features != -1)])


@given(seed=seeds, frames=st.integers(1, 60))
def test_roll_is_circular(seed, frames):
    features, changed = change(seed, frames, time_roll_frames=10)
    candidates = {shift: np.roll(features, shift, axis=0) for shift in range(-10, 11)}
    assert any(np.array_equal(changed, candidate) for candidate in candidates.values())


def test_rolls_reach_both_ends():
    shifts = set()
    for seed in range(200):
        features, changed = change(seed, time_roll_frames=3)
        shifts |= {s for s in range(-5, 6) if np.array_equal(changed, np.roll(features, s, axis=0))}
    assert shifts == set(range(-3, 4))


def test_feature_noise_is_uniform_up_to_a_strength_of_each_clip():
    flat = np.zeros((200, 32), np.float32)
    config = AugmentationConfig(**{**OFF, "feature_noise": 0.1})
    clips = [augment(flat, ABSOLUTE, config, np.random.default_rng(seed)) for seed in range(100)]
    strengths = np.array([clip.max() for clip in clips])
    assert all(clip.min() >= 0 for clip in clips)
    assert strengths.max() <= 0.1
    np.testing.assert_allclose(np.sort(strengths), np.linspace(0, 0.1, 100), atol=0.015)
    np.testing.assert_allclose([clip.mean() for clip in clips], strengths / 2, rtol=0.05)
    np.testing.assert_allclose([clip.std() for clip in clips], strengths / math.sqrt(12), rtol=0.05)


class TestAbsoluteLevels:
    @staticmethod
    def clip() -> np.ndarray:
        """Levels up to 20 dB above full scale, silent cells among them, in steps of half a dB."""
        levels = np.random.default_rng(0).uniform(-130, 20, (50, 32)) / 2
        return np.maximum(levels, -50).astype(np.float32)

    def changes(self, **strengths) -> list[np.ndarray]:
        config = AugmentationConfig(**{**OFF, **strengths})
        return [augment(self.clip(), ABSOLUTE, config, np.random.default_rng(seed)) for seed in range(60)]

    def test_gain_has_no_upper_end(self):
        clip, gains = self.clip(), []
        for changed in self.changes(gain_db=8.0):
            np.testing.assert_array_equal(changed[clip == -50], -50)
            difference = (changed - clip)[changed > -50]
            assert np.ptp(difference) < 1e-4
            gains.append(difference[0])
        assert -4 <= min(gains) < -3.5
        assert 3.5 < max(gains) <= 4

    def test_filter_does_not_refer_to_the_maximum(self):
        clip, middles = self.clip(), []
        for changed in self.changes(filter_db=9.0):
            difference = np.where(changed > -50, changed - clip, np.nan)
            response = np.nanmedian(difference, axis=0)
            assert np.nanmax(np.abs(difference - response)) < 1e-4
            assert np.abs(response).max() <= 4.5 + 1e-4
            middles.append(response.mean())
        # Drawn around 0 dB, and not pushed to one side.
        assert abs(np.mean(middles)) < 1

    def test_noise_adds_its_power(self):
        clip = self.clip()
        silence = np.tile(ABSOLUTE.silence(), (50, 1))
        config = AugmentationConfig(**{**OFF, "noise_db": 60.0})
        noise = augment(silence, ABSOLUTE, config, np.random.default_rng(1))
        noisy = augment(clip, ABSOLUTE, config, np.random.default_rng(1))

        def power(features: np.ndarray) -> np.ndarray:
            return 10 ** (2 * features.astype(np.float64) / 10)

        expected = 10 * np.log10(power(clip) + power(noise) - 1e-10) / 2
        np.testing.assert_allclose(noisy, expected, atol=0.01)
        assert noisy.max() > 0


def test_masks_reach_both_ends():
    ends = np.zeros(4, dtype=bool)
    for seed in range(300):
        features, changed = change(seed, spec_augment_time_masks=1, spec_augment_time_fraction=0.3)
        ends[:2] |= (changed != features).any(axis=1)[[0, -1]]
        features, changed = change(seed, spec_augment_frequency_masks=1, spec_augment_frequency_bands=8)
        ends[2:] |= (changed != features).any(axis=0)[[0, 31]]
    assert ends.all()


def test_silent_clips_stay_silent():
    silent = np.full((20, 44), -1.0, np.float32)
    quiet = AugmentationConfig(**{**ALL, "noise_db": 0.0})
    np.testing.assert_array_equal(augment(silent, NORMALIZED, quiet, np.random.default_rng(0)), silent)


class TestConfig:
    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("gain_db", -1, "at least 0"),
            ("gain_db", float("nan"), "finite"),
            ("filter_db", float("inf"), "finite"),
            ("spec_augment_time_masks", 1.5, "whole number"),
            ("spec_augment_time_fraction", 1.1, "at most 1"),
            ("mixup_probability", 2, "at most 1"),
            ("time_shift", 1.0, "below 1"),
            ("spec_augment_time_frames", 6.5, "whole number"),
            ("time_roll_frames", True, "must be a number"),
            ("feature_noise", -0.1, "at least 0"),
            ("spec_augment_mean", 1, "true or false"),
            ("mixup_labels", "no", "true or false"),
            ("cutmix_probability", 1.5, "at most 1"),
            ("cutmix_alpha", float("nan"), "finite"),
        ],
    )
    def test_bad_values_are_named(self, name, value, message):
        with pytest.raises(UsageError, match=f"{name} is .*{message}"):
            AugmentationConfig(**{name: value})

    def test_mixing_needs_both_settings(self):
        assert AugmentationConfig(mixup_alpha=0.3).mixes
        assert not AugmentationConfig(mixup_alpha=0.3, mixup_probability=0).mixes
        assert not AugmentationConfig().mixes

    @pytest.mark.parametrize("settings", [{"mixup_labels": False}, {"mixup_power": True}])
    def test_ways_to_mix_need_mixup(self, settings):
        with pytest.raises(UsageError, match="set mixup_alpha above 0"):
            AugmentationConfig(**settings)
        AugmentationConfig(mixup_alpha=0.5, **settings)

    def test_a_clip_is_mixed_or_cut(self):
        with pytest.raises(UsageError, match="come to more than 1"):
            AugmentationConfig(mixup_alpha=0.5, mixup_probability=0.7, cutmix_alpha=1.0)
        AugmentationConfig(mixup_probability=0.7, cutmix_alpha=1.0)

    def test_labels_soften_where_they_are_mixed(self):
        assert AugmentationConfig(mixup_alpha=0.5).softens_labels
        assert AugmentationConfig(cutmix_alpha=1.0).softens_labels
        assert not AugmentationConfig(mixup_alpha=0.5, mixup_labels=False).softens_labels
        assert not AugmentationConfig().softens_labels


@pytest.mark.parametrize("layout", [NORMALIZED, RAW])
def test_noise_adds_its_power(layout):
    silent = np.tile(layout.silence(), (400, 1))
    config, seed = AugmentationConfig(**{**OFF, "noise_db": 50.0}), 5
    noise = augment(silent, layout, config, np.random.default_rng(seed))
    features = make_features(400, layout)
    noisy = augment(features, layout, config, np.random.default_rng(seed))

    def decibels(values: np.ndarray) -> np.ndarray:
        return (values[:, :32].astype(np.float64) - layout.floor) / layout.units_per_db

    # The same draws in both: what is added to silence is added, as power, to everything else.
    floor_power = 1.0
    expected = 10 * np.log10(10 ** (decibels(features) / 10) + 10 ** (decibels(noise) / 10) - floor_power)
    np.testing.assert_allclose(decibels(noisy), np.clip(expected, 0, 80), atol=0.05)
    np.testing.assert_array_equal(noisy[:, 32:], features[:, 32:])
    assert 0 < decibels(noise).mean() < 50 + 10


def test_levels_of_foreign_features_are_left_alone():
    foreign = FeatureLayout(32, 32, floor=-1.3, ceiling=float("inf"), units_per_db=0.0)
    features = np.random.default_rng(0).normal(size=(20, 32)).astype(np.float32)
    config = AugmentationConfig(**{**OFF, "gain_db": 6.0, "filter_db": 6.0, "noise_db": 30.0})
    np.testing.assert_array_equal(augment(features, foreign, config, np.random.default_rng(0)), features)
