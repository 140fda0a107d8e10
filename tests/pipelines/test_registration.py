"""The stock `pipeline()` call: ours for our models, untouched for all others."""

import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification, pipeline
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.pipelines.audio_classification import AudioClassificationPipeline as StockPipeline

from hf_audio_mamba import MoMambaFeatureExtractor, MoMambaForAudioClassification
from hf_audio_mamba.pipelines import AudioClassificationPipeline, register_pipelines


@pytest.fixture(scope="module")
def ast_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ast")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = ASTConfig(**sizes, max_length=64, num_mel_bins=32, num_labels=8)
    ASTForAudioClassification(config).save_pretrained(folder)
    ASTFeatureExtractor(max_length=64, num_mel_bins=32).save_pretrained(folder)
    return folder


@pytest.fixture
def clip() -> np.ndarray:
    return np.random.default_rng(0).standard_normal(16000).astype(np.float32)


def test_a_folder_of_ours_gives_our_pipeline(momamba_folder: Path) -> None:
    for model in (str(momamba_folder), momamba_folder):
        pipe = pipeline("audio-classification", model=model, device="cpu")
        assert type(pipe) is AudioClassificationPipeline
        assert isinstance(pipe, StockPipeline)
        assert isinstance(pipe.model, MoMambaForAudioClassification)
        assert isinstance(pipe.feature_extractor, MoMambaFeatureExtractor)


def test_a_model_object_of_ours_gives_our_pipeline(
    momamba_folder: Path, clip: np.ndarray, same_labels: Callable[..., None]
) -> None:
    model = MoMambaForAudioClassification.from_pretrained(momamba_folder)
    extractor = MoMambaFeatureExtractor.from_pretrained(momamba_folder)
    pipe = pipeline("audio-classification", model=model, feature_extractor=extractor, batch_size=2, device="cpu")
    assert type(pipe) is AudioClassificationPipeline
    same_labels(pipe([clip] * 3), [pipe(clip)] * 3)


def test_dtype_reaches_model_and_features(momamba_folder: Path, clip: np.ndarray) -> None:
    full = pipeline("audio-classification", model=str(momamba_folder), device="cpu", top_k=None)
    half = pipeline("audio-classification", model=str(momamba_folder), device="cpu", top_k=None, dtype=torch.bfloat16)
    assert half.model.dtype == torch.bfloat16
    expected = {entry["label"]: entry["score"] for entry in full(clip)}
    for entry in half(clip):
        assert entry["score"] == pytest.approx(expected[entry["label"]], abs=0.02)


def test_a_feature_extractor_is_needed(momamba_folder: Path) -> None:
    model = MoMambaForAudioClassification.from_pretrained(momamba_folder)
    with pytest.raises(Exception, match="feature extractor"):
        pipeline("audio-classification", model=model)
    with pytest.raises(ValueError, match="feature_extractor="):
        AudioClassificationPipeline(model=model)


def test_a_foreign_model_gets_the_stock_class_scores_and_errors(ast_folder: Path, clip: np.ndarray) -> None:
    ours = pipeline("audio-classification", model=str(ast_folder), device="cpu")
    assert type(ours) is StockPipeline
    stock = StockPipeline(
        model=ASTForAudioClassification.from_pretrained(ast_folder),
        feature_extractor=ASTFeatureExtractor.from_pretrained(ast_folder),
        task="audio-classification",
        device="cpu",
    )
    for arguments in ({}, {"top_k": 3}, {"top_k": None}, {"function_to_apply": "sigmoid"}, {"chunk_length_s": 5}):
        assert ours(clip, **arguments) == stock(clip, **arguments)
        assert ours([clip, clip], **arguments) == stock([clip, clip], **arguments)
    for wrong in ([0.1, 0.2], np.zeros((2, 100)), {"array": clip}, {"array": clip, "sampling_rate": 44100}, "no.wav"):
        with pytest.raises(Exception) as expected:  # noqa: PT011  # whatever the stock pipeline raises
            stock(wrong)
        with pytest.raises(type(expected.value)) as raised:
            ours(wrong)
        assert str(raised.value) == str(expected.value)


def test_an_explicit_pipeline_class_wins(ast_folder: Path, clip: np.ndarray) -> None:
    pipe = pipeline(
        "audio-classification", model=str(ast_folder), pipeline_class=AudioClassificationPipeline, device="cpu"
    )
    assert type(pipe) is AudioClassificationPipeline
    stock = pipeline("audio-classification", model=str(ast_folder), device="cpu")
    assert pipe(clip, top_k=None) == stock(clip, top_k=None)


def test_registering_again_changes_nothing_and_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    before = PIPELINE_REGISTRY.supported_tasks["audio-classification"]["impl"]
    with caplog.at_level(logging.DEBUG):
        register_pipelines()
        register_pipelines()
    assert PIPELINE_REGISTRY.supported_tasks["audio-classification"]["impl"] is before
    assert caplog.records == []


def test_the_rest_of_the_task_is_untouched() -> None:
    entry = PIPELINE_REGISTRY.check_task("audio-classification")[1]
    assert entry["default"]["model"][0] == "superb/wav2vec2-base-superb-ks"
    assert entry["type"] == "audio"
    for flag in ("tokenizer", "image_processor", "video_processor", "feature_extractor", "processor"):
        assert getattr(entry["impl"], f"_load_{flag}") == getattr(StockPipeline, f"_load_{flag}")
    with pytest.raises(AttributeError):
        entry["impl"].something_else  # noqa: B018  # the access is what is tested


def test_what_another_package_registered_before_stays_the_fallback(
    ast_folder: Path, momamba_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Theirs(StockPipeline):
        pass

    monkeypatch.setitem(PIPELINE_REGISTRY.supported_tasks["audio-classification"], "impl", Theirs)
    register_pipelines()
    assert type(pipeline("audio-classification", model=str(ast_folder), device="cpu")) is Theirs
    ours = pipeline("audio-classification", model=str(momamba_folder), device="cpu")
    assert type(ours) is AudioClassificationPipeline


def test_registration_does_not_import_pipeline_classes() -> None:
    script = """
import sys
import transformers.pipelines
from hf_audio_mamba.pipelines import register_pipelines
register_pipelines()
loaded = [name for name in sys.modules if name.endswith("pipelines.audio_classification")]
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, timeout=300)


def test_a_saved_pipeline_is_a_plain_model_folder(momamba_folder: Path, tmp_path: Path) -> None:
    pipeline("audio-classification", model=str(momamba_folder), device="cpu").save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.py"))
    assert "custom_pipelines" not in (tmp_path / "config.json").read_text()
    assert type(pipeline("audio-classification", model=str(tmp_path), device="cpu")) is AudioClassificationPipeline
