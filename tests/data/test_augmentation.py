import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_audio_mamba.data import AugmentationConfig
from hf_audio_mamba.data.augmentation import FeatureLayout, augment, mix
from hf_audio_mamba.errors import UsageError

NORMALIZED = FeatureLayout(num_mel_bins=32, feature_size=44)
RAW = FeatureLayout(32, 44, floor=-80.0, ceiling=0.0, units_per_db=1.0, chroma_floor=0.0)
OFF = dict.fromkeys(
    (
        "spec_augment_time_masks",
        "spec_augment_frequency_masks",
        "time_shift",
        "gain_db",
        "filter_db",
        "noise_db",
        "mixup_alpha",
    ),
    0,
)
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


class TestMix:
    first, second = make_features(30), make_features(30, seed=1)

    def test_weights(self):
        generator = np.random.default_rng(0)
        np.testing.assert_array_equal(mix(self.first, self.second, 1.0, NORMALIZED, generator), self.first)
        np.testing.assert_array_equal(mix(self.first, self.second, 0.0, NORMALIZED, generator), self.second)
        mixed = mix(self.first, self.second, 0.75, NORMALIZED, generator)
        np.testing.assert_allclose(mixed, 0.75 * self.first + 0.25 * self.second, atol=1e-6)
        assert mixed.dtype == np.float32

    @settings(max_examples=30)
    @given(seed=seeds, frames=st.integers(1, 60))
    def test_other_lengths_are_cut_or_set_in_silence(self, seed, frames):
        other = make_features(frames, seed=2)
        partner = mix(self.first, other, 0.0, NORMALIZED, np.random.default_rng(seed))
        assert partner.shape == self.first.shape
        slack = abs(frames - 30)
        if frames >= 30:
            candidates = [other[start : start + 30] for start in range(slack + 1)]
        else:
            silence = np.tile(NORMALIZED.silence(), (slack, 1))
            candidates = [np.vstack([silence[:start], other, silence[start:]]) for start in range(slack + 1)]
        assert any(np.array_equal(partner, candidate) for candidate in candidates)


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
        ],
    )
    def test_bad_values_are_named(self, name, value, message):
        with pytest.raises(UsageError, match=f"{name} is .*{message}"):
            AugmentationConfig(**{name: value})

    def test_mixing_needs_both_settings(self):
        assert AugmentationConfig(mixup_alpha=0.3).mixes
        assert not AugmentationConfig(mixup_alpha=0.3, mixup_probability=0).mixes
        assert not AugmentationConfig().mixes


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
