"""`hf-audio-mamba benchmark features`: what it prints and returns. How fast anything is, is not tested here."""

import json
from typing import Any

import pytest

from hf_audio_mamba.commands import _benchmark_features, benchmark
from hf_audio_mamba.commands.main import run_command

QUICK = ["features", "--clips", "2", "--seconds", "0.5", "--repeats", "1"]


def test_features_prints_times_ratio_and_parity(capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark.run(QUICK) == 0
    printed = capsys.readouterr().out
    for text in ("2 clips of 0.5 s, 1 thread", "librosa", "LogMel", "MoMambaFeatureExtractor", "parity: equal"):
        assert text in printed


def test_features_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark.run([*QUICK, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["speedup"] == pytest.approx(result["librosa_seconds"] / result["log_mel_seconds"])
    assert result["extractor_speedup"] == pytest.approx(result["librosa_seconds"] / result["extractor_seconds"])
    assert 0 < result["largest_difference_db"] < 0.01
    assert (result["clips"], result["clip_seconds"], result["threads"]) == (2, 0.5, 1)


def test_values_that_differ_from_librosa_are_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_benchmark_features, "PARITY_DB", 0.0)
    assert benchmark.run(QUICK) == 1
    assert "DIFFERENT" in capsys.readouterr().out


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["nothing"],
        ["features", "--clips", "0"],
        ["features", "--seconds", "inf"],
        ["features", "--x"],
        ["scan", "--repeats", "0"],
    ],
)
def test_wrong_usage_exits_with_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        benchmark.run(argv)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_a_machine_without_librosa_is_told_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "librosa", None)
    assert run_command(benchmark.run, QUICK) == 1
    assert "pip install 'hf_audio_mamba[dev]'" in capsys.readouterr().err


def test_contestants_take_turns_and_are_warmed_up() -> None:
    calls: list[tuple[str, Any]] = []
    medians = _benchmark_features.interleaved_medians(
        {"a": lambda item: calls.append(("a", item)), "b": lambda item: calls.append(("b", item))}, [1, 2], repeats=2
    )
    warm_up = [("a", 1), ("b", 1)]
    assert calls == warm_up + [("a", 1), ("b", 1), ("a", 2), ("b", 2)] * 2
    assert set(medians) == {"a", "b"}
    assert all(seconds >= 0 for seconds in medians.values())
