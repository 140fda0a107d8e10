import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_audio_mamba.data.augmentation import FeatureLayout
from hf_audio_mamba.data.mixing import cutmix, mix, mix_powers
from tests.data.test_augmentation import ABSOLUTE, NORMALIZED, RAW, make_features

seeds = st.integers(0, 2**32)


class TestFeatures:
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


class TestPowers:
    def test_equals_the_spectrum_of_mixed_waveforms_on_average(self):
        # Two independent noises of different colour, 20,000 frames: interference averages out.
        generator = np.random.default_rng(0)
        spectra = [
            (generator.normal(size=(20_000, 4)) + 1j * generator.normal(size=(20_000, 4))) * scale
            for scale in ([1.0, 0.1, 0.01, 1.0], [0.1, 0.1, 1.0, 10.0])
        ]
        layout = FeatureLayout(4, 4, floor=-100.0, ceiling=math.inf, units_per_db=1.0)
        powers = [np.abs(spectrum) ** 2 for spectrum in spectra]
        first, second = (10 * np.log10(power).astype(np.float32) for power in powers)
        mixed = mix_powers(first, second, 0.7, layout, generator)
        waveforms = np.abs(0.7 * spectra[0] + 0.3 * spectra[1]) ** 2
        np.testing.assert_allclose((10 ** (mixed / 10)).mean(axis=0), waveforms.mean(axis=0), rtol=0.03)
        # Cell by cell it is the weighted sum of powers.
        np.testing.assert_allclose(mixed, 10 * np.log10(0.49 * powers[0] + 0.09 * powers[1]), atol=1e-3)

    @pytest.mark.parametrize("layout", [NORMALIZED, RAW])
    def test_relative_levels_refer_to_the_new_maximum(self, layout):
        first, second = make_features(30, layout), make_features(30, layout, seed=1)
        mixed = mix_powers(first, second, 0.6, layout, np.random.default_rng(0))
        decibels = [
            (clip[:, :32].astype(np.float64) - layout.ceiling) / layout.units_per_db for clip in (first, second)
        ]
        power = 0.36 * np.where(decibels[0] > -79.999, 10 ** (decibels[0] / 10), 0)
        power += 0.16 * np.where(decibels[1] > -79.999, 10 ** (decibels[1] / 10), 0)
        with np.errstate(divide="ignore"):
            expected = np.maximum(10 * np.log10(power / power.max()), -80)
        np.testing.assert_allclose((mixed[:, :32] - layout.ceiling) / layout.units_per_db, expected, atol=1e-3)
        np.testing.assert_allclose(mixed[:, 32:], 0.6 * first[:, 32:] + 0.4 * second[:, 32:], atol=1e-6)
        assert mixed.dtype == np.float32

    def test_silence_adds_nothing_but_the_weight(self):
        clip = np.full((20, 32), -10.0, np.float32)
        silence = np.tile(ABSOLUTE.silence(), (20, 1))
        generator = np.random.default_rng(0)
        np.testing.assert_allclose(
            mix_powers(clip, silence, 0.5, ABSOLUTE, generator), -10 + 10 * np.log10(0.5), atol=1e-4
        )
        np.testing.assert_array_equal(mix_powers(silence, silence, 0.5, ABSOLUTE, generator), silence)
        np.testing.assert_allclose(mix_powers(clip, silence, 1.0, ABSOLUTE, generator), clip, atol=1e-4)
        quiet = np.tile(NORMALIZED.silence(), (20, 1))
        np.testing.assert_array_equal(mix_powers(quiet, quiet, 0.5, NORMALIZED, generator), quiet)


class TestCutMix:
    first, second = make_features(30), make_features(30, seed=1)

    @given(seed=seeds, kept=st.floats(0, 1), frames=st.integers(1, 60))
    def test_weight_is_the_area_that_is_left(self, seed, kept, frames):
        other = make_features(frames, seed=2)
        pasted, weight = cutmix(self.first, other, kept, NORMALIZED, np.random.default_rng(seed))
        partner = mix(self.first, other, 0.0, NORMALIZED, np.random.default_rng(seed))
        own, others = pasted == self.first, pasted == partner
        assert (own | others).all()
        # Cells that are equal in both clips (silence) belong to either.
        assert (~others).sum() <= weight * own.size + 1e-9 <= own.sum() + 1e-9
        rows, columns = np.flatnonzero((~own).any(axis=1)), np.flatnonzero((~own).any(axis=0))
        if len(rows):
            assert others[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
            assert len(rows) * len(columns) <= (1 - weight) * own.size + 1e-9
        assert weight >= kept - 1e-9

    def test_extremes(self):
        generator = np.random.default_rng(0)
        pasted, weight = cutmix(self.first, self.second, 1.0, NORMALIZED, generator)
        assert weight == 1
        np.testing.assert_array_equal(pasted, self.first)
        weights = [cutmix(self.first, self.second, 0.0, NORMALIZED, generator)[1] for _ in range(300)]
        # The whole plane where the centre is in the middle, a quarter where it is in a corner.
        assert min(weights) < 0.1
        assert max(weights) > 0.6

    def test_mean_area_over_the_beta_distribution(self):
        # Without the border: E[1 - lambda] = 1/2; the border takes (1 - side / 4) of each side on average.
        generator = np.random.default_rng(0)
        large = np.zeros((400, 300), np.float32), np.ones((400, 300), np.float32)
        layout = FeatureLayout(300, 300)
        weights = [cutmix(*large, generator.beta(1, 1), layout, generator)[1] for _ in range(3000)]
        side = np.sqrt(1 - (np.arange(100_000) + 0.5) / 100_000)
        expected = 1 - np.mean((side * (1 - side / 4)) ** 2)
        assert np.mean(weights) == pytest.approx(expected, abs=0.02)
