"""Fixtures of the hub tests."""

import pytest

from hf_audio_mamba.hub import CardData, DataDescription, MetricValue, SplitSize


@pytest.fixture
def card() -> CardData:
    """A card that uses every field, with text that Markdown could misread."""
    return CardData(
        model_name="momamba-tiny-esc10",
        summary="A MoMamba model that names ten everyday sounds.",
        task="environmental sound classification",
        problem_type="single_label_classification",
        data=DataDescription(
            name="ESC-10",
            source="https://github.com/karolpiczak/ESC-50",
            license="CC BY 3.0",
            splits={"train": SplitSize(1240, 1.7222), "validation": SplitSize(80), "test": SplitSize(80, 0.1111)},
            hub_id="owner/esc10",
        ),
        labels=["crying_baby", "dog", "back`tick", "a|b"],
        metrics={
            "validation": [MetricValue("accuracy", 0.9, 0.8375, 0.9625)],
            "test": [MetricValue("accuracy", 0.8875, 0.8125, 0.95), MetricValue("f1_macro", 0.88123456)],
        },
        floors={
            "majority class": [MetricValue("accuracy", 0.1), MetricValue("f1_macro", 0.018)],
            "logistic regression": [MetricValue("f1_macro", 0.77), MetricValue("accuracy", 0.7875, 0.7, 0.87)],
        },
        training_arguments={"learning_rate": 3e-4, "num_train_epochs": 30, "mixup_alpha": None},
        command=("python scripts/train_audio_classification.py \\\n  --data_dir 'my sounds' \\\n  --metadata meta.csv"),
        seeds=[0, 1],
        num_parameters=2_881_290,
        training_time_s=725.4,
        hardware="2 CPU cores (x86_64), 8 GiB",
        package_versions={"hf_audio_mamba": "0.1.0", "torch": "2.13.0"},
        license="apache-2.0",
        limitations=["Trained on clips of 5 s.", "Knows ten sounds; anything else is taken for one of them."],
        skipped_files=[("odd|name.wav", "not audio: Format not recognised.\nSecond line")],
        figures=[("Learning curves", "learning_curves.png"), ("Confusion matrix", "confusion matrix.png")],
        base_model="owner/momamba-base",
        repo_id="owner/momamba-tiny-esc10",
        tags=["sound-events"],
    )
