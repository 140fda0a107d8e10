"""A tiny model, tiny features and a trainer for both."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import set_seed
from transformers.utils import logging

from hf_audio_mamba import MoMambaConfig, MoMambaFeatureExtractor, MoMambaForAudioClassification
from hf_audio_mamba.data import AudioCollator, AugmentationConfig, FeatureDataset, FeatureTable
from hf_audio_mamba.data.augmentation import FeatureLayout
from hf_audio_mamba.training import AudioTrainer, AudioTrainingArguments

BANDS = 6
LABELS = 3


def make_table(clips: int, *, seed: int = 0, fixed_frames: int | None = None) -> FeatureTable:
    """Random features `(8 to 16 frames, 6 bands)` in memory."""
    generator = np.random.default_rng(seed)
    sources: list[Any] = [
        generator.uniform(-1, 1, (fixed_frames or int(generator.integers(8, 17)), BANDS)).astype(np.float32)
        for _ in range(clips)
    ]
    return FeatureTable(
        sources=sources,
        lengths=[len(source) for source in sources],
        kept=list(range(clips)),
        skipped=[],
        layout=FeatureLayout(num_mel_bins=BANDS, feature_size=BANDS),
        num_cached=0,
    )


def make_model(problem_type: str = "single_label_classification", **config: Any) -> MoMambaForAudioClassification:
    """A MoMamba with a few hundred parameters and dropout, the same at each call."""
    set_seed(3)
    settings = {"hidden_size": 8, "num_hidden_layers": 1, "state_size": 2, "num_mel_bins": BANDS, **config}
    names = {index: f"class {index}" for index in range(LABELS)}
    return MoMambaForAudioClassification(MoMambaConfig(**settings, problem_type=problem_type, id2label=names))


@pytest.fixture(autouse=True)
def quick_and_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """No compiled kernels, which take longer to load than these tests to run, and no progress bars."""
    monkeypatch.setenv("HF_AUDIO_MAMBA_SCAN", "torch")
    logging.disable_progress_bar()


@pytest.fixture
def make_trainer(tmp_path: Path) -> Callable[..., AudioTrainer]:
    """Build a trainer over 22 training and 6 validation clips, three steps of 8 clips an epoch, all of it seeded."""

    def build(
        output_dir: Path | None = None,
        *,
        model: Any = None,
        problem_type: str = "single_label_classification",
        augmentation: AugmentationConfig | None = None,
        fixed_frames: int | None = None,
        **arguments: Any,
    ) -> AudioTrainer:
        torch.set_num_threads(1)
        args = AudioTrainingArguments(
            output_dir=str(output_dir or tmp_path / "run"),
            use_cpu=True,
            disable_tqdm=True,
            **{"num_train_epochs": 3, "per_device_train_batch_size": 8, **arguments},
        )
        labels: list[Any] = [index % LABELS for index in range(22)]
        if problem_type != "single_label_classification":
            labels = [[float(index % 2), 1.0, 0.0] for index in labels]
        extractor = MoMambaFeatureExtractor(num_mel_bins=BANDS)
        return AudioTrainer(
            model or make_model(problem_type),
            args,
            data_collator=AudioCollator(extractor),
            train_dataset=FeatureDataset(
                make_table(22, fixed_frames=fixed_frames),
                labels,
                augmentation=augmentation,
                seed=args.seed,
                num_labels=LABELS,
            ),
            eval_dataset=FeatureDataset(make_table(6, seed=1, fixed_frames=fixed_frames), labels[:6]),
            feature_extractor=extractor,
            train_labels=labels,
        )

    return build
