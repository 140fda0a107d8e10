from collections import Counter

import librosa
import numpy as np
import pytest

from hf_audio_mamba.data import AudioDataset, compute_features, synthetic_notes
from hf_audio_mamba.data.audio_dataset import content_digest
from hf_audio_mamba.data.synthetic_notes import CONTOURS, SAMPLING_RATE, render_motif
from hf_audio_mamba.data.timbres import FAMILIES, draw_timbre, play
from hf_audio_mamba.errors import UsageError
from hf_audio_mamba.models.momamba import MoMambaFeatureExtractor


@pytest.fixture(scope="module")
def dataset() -> AudioDataset:
    return synthetic_notes(num_clips=80, seed=1)


def hear_contour(samples: np.ndarray) -> str:
    """Contour by ear, so to speak: track the pitch, see in which order low, middle and high sound."""
    pitch = librosa.hz_to_midi(librosa.yin(samples, fmin=75, fmax=1200, sr=SAMPLING_RATE, frame_length=4096))
    level = librosa.power_to_db(librosa.feature.rms(y=samples, frame_length=4096)[0] ** 2)
    frames = np.flatnonzero(level[: len(pitch)] > level.max() - 20)
    register = np.digitize(pitch[frames], [56, 72])
    times = [frames[register == which].mean() if (register == which).any() else np.nan for which in range(3)]
    order = tuple(int(which) for which in np.argsort(times))
    return next(name for name, orders in CONTOURS.items() if order in orders)


class TestDataset:
    def test_splits_and_balance(self, dataset):
        assert {split: len(clips) for split, clips in dataset.splits.items()} == {
            "train": 56,
            "validation": 12,
            "test": 12,
        }
        assert len(dataset.label_names) == 8
        assert set(Counter(clip.label for clip in dataset.splits["train"]).values()) == {7}
        assert {clip.label for clip in dataset.splits["test"]} == set(dataset.label_names)

    def test_all_clips_differ_and_are_proper_audio(self, dataset):
        digests = set()
        for clips in dataset.splits.values():
            for clip in clips:
                samples = clip.content()
                assert samples.dtype == np.float32
                assert samples.shape == (SAMPLING_RATE,)
                assert clip.sampling_rate == SAMPLING_RATE
                assert np.isfinite(samples).all()
                assert 0.2 < np.abs(samples).max() < 1
                digests.add(content_digest(samples))
        assert len(digests) == 80

    def test_a_clip_depends_on_seed_split_and_index_alone(self, dataset):
        larger = synthetic_notes(num_clips=120, seed=1)
        other = synthetic_notes(num_clips=80, seed=2)
        for split, clips in dataset.splits.items():
            for index in (11, 3):
                np.testing.assert_array_equal(clips[index].content(), larger.splits[split][index].content())
                assert not np.array_equal(clips[index].content(), other.splits[split][index].content())

    def test_seconds(self):
        clip = synthetic_notes(num_clips=60, seconds=2.0).splits["train"][0]
        assert clip.content().shape == (2 * SAMPLING_RATE,)

    @pytest.mark.parametrize(
        "options", [{"num_clips": 59}, {"seconds": 0.4}, {"seconds": 11}, {"seconds": float("nan")}]
    )
    def test_bad_arguments(self, options):
        with pytest.raises(UsageError, match=next(iter(options))):
            synthetic_notes(**options)


class TestTask:
    def test_the_contour_can_be_heard(self):
        heard = 0
        contours = list(CONTOURS)
        for index in range(40):
            contour = contours[index % 4]
            samples = render_motif(contour, "blown", seconds=1.0, seed=(9, index))
            heard += hear_contour(samples) == contour
        assert heard >= 30, "a pitch tracker hears most; chance is 10 of 40"

    def test_contours_are_the_same_notes_in_another_order(self):
        """With the same draws, the same pitches are played: the average spectra agree, the waveforms do not."""
        rising, falling = (render_motif(name, "blown", seconds=1.0, seed=(5,)) for name in ("rising", "falling"))
        spectra = [np.log10(np.abs(np.fft.rfft(samples))[100:4000] + 1e-3) for samples in (rising, falling)]
        assert np.corrcoef(*spectra)[0, 1] > 0.8
        assert not np.allclose(rising, falling, atol=0.05)

    @pytest.mark.slow
    def test_averages_over_time_do_not_tell_the_contour(self):
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        dataset = synthetic_notes(num_clips=1000)
        extractor = MoMambaFeatureExtractor()
        pooled, labels = {}, {}
        for split in ("train", "test"):
            table = compute_features(dataset.splits[split], extractor, cache_dir=None)
            features = [table.load(index) for index in range(len(table))]
            pooled[split] = [np.concatenate([x.mean(0), x.std(0), x.max(0)]) for x in features]
            labels[split] = [dataset.encode(clip) for clip in dataset.splits[split]]
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
        model.fit(pooled["train"], labels["train"])
        assert 0.125 < model.score(pooled["test"], labels["test"]) < 0.45


class TestTimbres:
    @pytest.mark.parametrize("family", FAMILIES)
    def test_pitch_and_length_of_a_note(self, family):
        for seed in range(8):
            generator = np.random.default_rng(seed)
            timbre = draw_timbre(family, generator)
            note = play(timbre, 330.0, 0.4, 22050, generator)
            assert len(note) == int((0.4 + timbre.release_s) * 22050)
            assert np.isfinite(note).all()
            assert abs(note[-1]) < 0.05, "no click at the end"
            spectrum = np.abs(np.fft.rfft(note * np.hanning(len(note)), 1 << 16))
            frequencies = np.fft.rfftfreq(1 << 16, 1 / 22050)
            near = spectrum[np.abs(frequencies - timbre.ratios[0] * 330) < 15].max()
            between = spectrum[np.abs(frequencies - 0.5 * 330) < 30].max()
            assert near > 3 * between

    def test_struck_notes_decay_and_blown_notes_do_not(self):
        def fall_db(family, seed):
            generator = np.random.default_rng(seed)
            note = play(draw_timbre(family, generator), 220.0, 0.5, 22050, generator)
            early, late = (np.sqrt(np.mean(note[int(t * 22050) : int((t + 0.1) * 22050)] ** 2)) for t in (0.06, 0.38))
            return 20 * np.log10(early / late)

        for seed in range(20):
            assert fall_db("struck", seed) > 3
            assert abs(fall_db("blown", seed)) < 2

    def test_no_partial_above_half_the_sampling_rate(self):
        generator = np.random.default_rng(0)
        for _ in range(10):
            timbre = draw_timbre("blown", generator)
            note = play(timbre, 1500.0, 0.3, 8000, generator)
            spectrum = np.abs(np.fft.rfft(note * np.hanning(len(note))))
            frequencies = np.fft.rfftfreq(len(note), 1 / 8000)
            # Aliases of 4500 Hz would be at 3500 Hz, of 6000 Hz at 2000 Hz.
            for alias in (2000, 3500):
                assert spectrum[np.abs(frequencies - alias) < 20].max() < 0.15 * spectrum.max()
