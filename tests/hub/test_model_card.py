"""The model card, whole, and its metadata as the Hub reads it."""

import dataclasses
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from hf_audio_mamba.errors import MissingExtraError, UsageError
from hf_audio_mamba.hub import CardData, MetricValue, SplitSize, command_line, render_model_card

EXPECTED = Path(__file__).with_name("expected_model_card.md")


def test_whole_card_is_as_stored(card: CardData) -> None:
    assert render_model_card(card) == EXPECTED.read_text(encoding="utf-8")


def test_metadata_reads_back(card: CardData, tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text(render_model_card(card), encoding="utf-8")
    data = ModelCard.load(path).data
    assert data.pipeline_tag == "audio-classification"
    assert data.library_name == "transformers"
    assert data.license == "apache-2.0"
    assert data.base_model == "owner/momamba-base"
    assert {"mamba", "music", "sound-events"} <= set(data.tags)
    results = {(result.dataset_split, result.metric_type): result.metric_value for result in data.eval_results}
    assert results == {("validation", "accuracy"): 0.9, ("test", "accuracy"): 0.8875, ("test", "f1"): 0.8812}
    assert {result.dataset_type for result in data.eval_results} == {"owner/esc10"}


def test_minimal_card_names_no_hub_ids_and_leaves_out_empty_parts(card: CardData, tmp_path: Path) -> None:
    folder = tmp_path / "owner" / "model"
    folder.mkdir(parents=True)
    minimal = dataclasses.replace(
        card,
        data=dataclasses.replace(card.data, hub_id=None),
        metrics={"test": [MetricValue("accuracy", 0.5)]},
        floors={},
        skipped_files=(),
        figures=(),
        limitations=(),
        base_model=str(folder),
        repo_id=None,
        tags=(),
        seeds=[7],
    )
    text = render_model_card(minimal)
    metadata = ModelCard(text).data
    assert metadata.base_model is None
    assert metadata.datasets is None
    assert metadata.eval_results[0].dataset_type == "esc-10"
    assert "brackets" not in text
    assert "simple methods" not in text
    assert "left out" not in text
    assert "![" not in text
    assert "**Seed:** 7" in text
    assert 'model="path/to/momamba-tiny-esc10"' in text
    assert "unknown" in text.split("## Limits")[1]


def test_markdown_in_names_cannot_break_the_tables(card: CardData) -> None:
    text = render_model_card(
        dataclasses.replace(card, skipped_files=[("a|b`c`.wav", "x|y\nz")], training_arguments={"a": "b|c"})
    )
    assert "| ``a\\|b`c`.wav`` | x\\|y z |" in text
    assert "| `a` | `b\\|c` |" in text


def test_a_name_is_never_run_as_a_template(card: CardData) -> None:
    text = render_model_card(dataclasses.replace(card, labels=["{{ 7 * 7 }}", "{% raise %}"]))
    assert "`{{ 7 * 7 }}`" in text


@pytest.mark.parametrize(
    ("seconds", "words"), [(47.4, "47 s"), (59.6, "1 min 0 s"), (725.4, "12 min 5 s"), (12_000, "3 h 20 min")]
)
def test_durations_read_well(card: CardData, seconds: float, words: str) -> None:
    assert f"**Time:** {words}\n" in render_model_card(dataclasses.replace(card, training_time_s=seconds))


def test_regression_card_speaks_of_outputs(card: CardData) -> None:
    text = render_model_card(
        dataclasses.replace(
            card,
            problem_type="regression",
            labels=["valence", "arousal"],
            metrics={"test": [MetricValue("r2", 0.43, 0.4, 0.46)]},
            floors={"mean of the training targets": [MetricValue("r2", 0.0)]},
        )
    )
    assert "Outputs (2): `valence`, `arousal`" in text
    assert "| test | R² | 0.430 (0.400 to 0.460) |" in text
    assert ModelCard(text).data.metrics == ["r_squared"]


@pytest.mark.parametrize(
    "figures",
    [(float("nan"), None, None), (0.5, float("inf"), 0.6), (0.5, 0.4, None), (0.5, 0.7, 0.6)],
)
def test_impossible_figures_are_refused(figures: tuple[float, float | None, float | None]) -> None:
    with pytest.raises(UsageError, match="accuracy"):
        MetricValue("accuracy", *figures)


def test_contradictory_cards_are_refused(card: CardData) -> None:
    with pytest.raises(UsageError, match="at least one metric"):
        dataclasses.replace(card, metrics={"test": []})
    with pytest.raises(UsageError, match="floor_split 'fold 3'"):
        dataclasses.replace(card, floor_split="fold 3")


def test_split_without_hours_is_unknown(card: CardData) -> None:
    data = dataclasses.replace(card.data, splits={"test": SplitSize(1234)})
    assert "| test | 1,234 | unknown |" in render_model_card(dataclasses.replace(card, data=data))


def test_missing_jinja_names_the_extra(card: CardData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingExtraError, match=r"hf_audio_mamba\[train\]"):
        render_model_card(card)


def test_command_line_can_be_pasted() -> None:
    arguments = ["python", "train.py", "--data_dir", "my sounds", "--name", "it's", "--flag"]
    assert command_line(arguments) == (
        "python train.py \\\n  --data_dir 'my sounds' \\\n  --name 'it'\"'\"'s' \\\n  --flag"
    )
