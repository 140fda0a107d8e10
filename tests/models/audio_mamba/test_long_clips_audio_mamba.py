"""Clips of any length through AudioMamba: windows, averages, short clips, padding, files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import pipeline

from hf_audio_mamba import AudioMambaConfig, AudioMambaFeatureExtractor, AudioMambaForAudioClassification
from hf_audio_mamba.errors import CheckpointError
from hf_audio_mamba.hub.safe_loading import load_classifier
from tests.features.clips import tone

WINDOW = 128


def tiny(**overrides: Any) -> Any:
    torch.manual_seed(0)
    sizes = {"embed_dim": 8, "depths": [1, 1], "num_mel_bins": 8, "spec_size": 32, "num_labels": 3}
    return AudioMambaForAudioClassification(AudioMambaConfig(**{**sizes, **overrides})).eval()


def scores(model: Any, clips: torch.Tensor, **inputs: Any) -> Any:
    with torch.no_grad():
        return model(clips, **inputs)


def test_a_long_clips_logits_are_the_mean_of_its_windows() -> None:
    model = tiny()
    clip = torch.randn(1, 3 * WINDOW, 8)
    parts = [scores(model, part) for part in clip.split(WINDOW, dim=1)]
    whole = scores(model, clip)
    torch.testing.assert_close(whole.logits, torch.stack([part.logits for part in parts]).mean(0))
    torch.testing.assert_close(whole.framewise_logits, torch.cat([part.framewise_logits for part in parts], dim=1))


def test_overlapping_windows_share_their_time_steps() -> None:
    model = tiny()
    clip = torch.randn(1, WINDOW + 64, 8)
    first, second = scores(model, clip[:, :WINDOW]), scores(model, clip[:, 64:])
    whole = scores(model, clip)
    torch.testing.assert_close(whole.logits, (first.logits + second.logits) / 2)
    both = (first.framewise_logits[:, 8:] + second.framewise_logits[:, :8]) / 2
    expected = torch.cat([first.framewise_logits[:, :8], both, second.framewise_logits[:, 8:]], dim=1)
    torch.testing.assert_close(whole.framewise_logits, expected)


def test_every_frame_of_a_long_clip_is_heard() -> None:
    model = tiny()
    clip = torch.randn(1, 2 * WINDOW + 37, 8).requires_grad_()
    model(clip).logits.square().sum().backward()
    assert (clip.grad.abs().sum(-1) > 0).all()


def test_short_clips_are_followed_by_silence_or_by_themselves() -> None:
    clip = torch.randn(1, 50, 8)
    padded = torch.cat([clip, torch.full((1, 78, 8), -100.0)], dim=1)
    repeated = torch.cat([clip, clip, torch.full((1, 28, 8), -100.0)], dim=1)
    assert torch.equal(scores(tiny(), clip).logits, scores(tiny(), padded).logits)
    assert torch.equal(scores(tiny(short_clips="repeat"), clip).logits, scores(tiny(), repeated).logits)


def test_frame_wise_scores_average_to_the_clips_within_a_window() -> None:
    out = scores(tiny(), torch.randn(2, 100, 8))
    assert out.framewise_logits.shape == (2, 16, 3)
    torch.testing.assert_close(out.framewise_logits.mean(1), out.logits)


@pytest.mark.parametrize("problem_type", ["multi_label_classification", "regression"])
def test_frame_wise_scores_in_a_batch(problem_type: str) -> None:
    model = tiny(problem_type=problem_type)
    clips, mask = torch.randn(2, 300, 8), torch.ones(2, 300)
    mask[0, 140:] = 0
    together = scores(model, clips, attention_mask=mask).framewise_logits
    alone = scores(model, clips[:1, :140]).framewise_logits
    assert (together.shape[1], alone.shape[1]) == (38, 18)
    torch.testing.assert_close(together[:1, :18], alone, atol=1e-5, rtol=0)
    # After the clip's end nothing sounds.
    activity = together if problem_type == "regression" else together.sigmoid()
    assert (activity[0, 18:] == 0).all()
    assert torch.isfinite(together).all()


def test_features_of_a_batch() -> None:
    model = tiny().audio_mamba
    clips, mask = torch.randn(2, 300, 8), torch.ones(2, 300)
    mask[0, 140:] = 0
    together, alone = scores(model, clips, attention_mask=mask), scores(model, clips[:1, :140])
    assert together.last_hidden_state.shape == (2, 38, 1, 16)
    torch.testing.assert_close(together.last_hidden_state[:1, :18], alone.last_hidden_state, atol=1e-5, rtol=0)
    assert (together.last_hidden_state[0, 18:] == 0).all()
    torch.testing.assert_close(together.pooler_output[:1], alone.pooler_output, atol=1e-5, rtol=0)
    assert together.window_features.shape == (2 + 3, 16, 1, 16)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    extractor = AudioMambaFeatureExtractor(num_mel_bins=8, num_frames=WINDOW, clip_seconds=1.0)
    model = tiny(id2label={0: "bark", 1: "rain", 2: "song"})
    model.save_pretrained(tmp_path)
    extractor.save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("seconds", [0.3, 1.0, 4.0])
def test_the_pipeline_classifies_clips_of_any_length(saved: Path, seconds: float) -> None:
    classify = pipeline("audio-classification", model=str(saved))
    clip = tone(seconds, rate=32000)
    result = classify(clip, top_k=None)
    model, extractor = load_classifier(saved)
    inputs = extractor(clip, sampling_rate=32000, return_tensors="pt")
    with torch.no_grad():
        expected = model(**inputs).logits.softmax(-1)[0]
    assert {item["label"]: pytest.approx(item["score"], abs=1e-5) for item in result} == {
        name: expected[index].item() for index, name in model.config.id2label.items()
    }


def test_the_pipeline_scores_a_batch_of_clips_as_one_by_one(saved: Path) -> None:
    classify = pipeline("audio-classification", model=str(saved))
    clips = [tone(seconds, rate=32000, frequency=300 * seconds) for seconds in (0.5, 3.0, 1.5)]
    together, alone = classify(clips, batch_size=3, top_k=None), [classify(clip, top_k=None) for clip in clips]
    for batch, single in zip(together, alone, strict=True):
        expected = {item["label"]: item["score"] for item in single}
        np.testing.assert_allclose([item["score"] for item in batch], [expected[i["label"]] for i in batch], atol=1e-5)


def test_a_counter_of_another_type_is_refused(saved: Path) -> None:
    name = "audio_mamba.bn0.num_batches_tracked"
    tensors = load_file(saved / "model.safetensors")
    save_file({**tensors, name: torch.tensor(1.0)}, saved / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=f"not of an integer type: {name}"):
        load_classifier(saved)
