"""Each benchmark from end to end on tiny shapes: rows, figures and JSON; how fast anything is, is not tested."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers.models.mamba import modeling_mamba

from hf_audio_mamba.commands import _benchmark_contestants, _benchmark_length, _benchmark_scan, benchmark

ROW = {
    "case": str,
    "contestant": str,
    "cpu_ms": float,
    "cpu_ms_low": type(None),  # one round has no quartiles
    "cpu_ms_high": type(None),
    "wall_ms": float,
    "cpu_ms_samples": list,
    "calls": int,
    "difference": (float, type(None)),
}
SETTINGS = {"repeats": 1, "threads": 1, "quick": True}


@pytest.fixture(autouse=True)
def no_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes that a scan's benchmark starts are tested by themselves."""
    memory = {"transformers": 600.0, "mambapy": 900.0, "numba": 12.0, "torch": 60.0}
    monkeypatch.setattr(_benchmark_scan, "extra_mebibytes", lambda name, *_: memory[name])
    monkeypatch.setattr(_benchmark_length, "_extra_mebibytes", lambda name, *_: float(len(name)))
    monkeypatch.setattr(_benchmark_scan, "first_call_seconds", lambda *_: ((3.0, 4.0), (1.0, 2.0)))


def measured(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], str]:
    """The JSON object and the text of a quick run."""
    path = tmp_path / "result.json"
    assert benchmark.run([verb, "--quick", "--json", str(path)]) == 0
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return result, capsys.readouterr().out


def check(result: dict[str, Any], text: str, verb: str) -> None:
    """The schema, the figures' arithmetic, and that everything is in the text too."""
    assert (result["benchmark"], result["settings"], result["agrees"]) == (verb, SETTINGS, True)
    times = {}
    for row in result["rows"]:
        assert row.keys() == ROW.keys()
        assert all(isinstance(row[name], kind) for name, kind in ROW.items()), row
        assert row["cpu_ms_samples"] == [row["cpu_ms"]]
        times[row["case"], row["contestant"]] = row["cpu_ms"]
        assert row["case"] in text
        assert row["contestant"] in text
    assert len(times) == len(result["rows"])
    for figure in result["figures"]:
        assert figure["name"] in text
        dividend, _, divisor = figure["formula"].partition(" / ")
        if (figure["case"], dividend) in times and (figure["case"], divisor) in times:
            factor = {"x": 1, "%": 100}[figure["unit"]]
            ratio = times[figure["case"], dividend] / times[figure["case"], divisor]
            assert figure["value"] == pytest.approx(factor * ratio)
        else:
            assert figure["value"] is None or "memory" in figure["name"] or "first call" in figure["name"]


def differences(result: dict[str, Any]) -> dict[tuple[str, str], float]:
    return {
        (row["case"], row["contestant"]): row["difference"] for row in result["rows"] if row["difference"] is not None
    }


def test_scan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result, text = measured("scan", tmp_path, capsys)
    check(result, text, "scan")
    assert {"numba", "torch"} <= {name for _, name in differences(result)}
    assert max(differences(result).values()) < 1e-5
    figures = {figure["name"]: figure for figure in result["figures"]}
    assert figures["extra memory of transformers' forward over ours, L=24"]["value"] == 50.0
    assert figures["first call after import, cold cache"]["value"] == 3.0
    assert figures["first call after import, warm cache"]["unit"] == "s"
    assert [f for f in figures if f.startswith("kernel over the larger floor")] == [
        "kernel over the larger floor, N=16",
        "kernel over the larger floor, N=16, fastest exponential",
        "kernel over the larger floor, N=1",
        "kernel over the larger floor, N=1, fastest exponential",
    ]


def test_scan_without_mambapy_says_how_to_install_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mambapy.pscan", None)
    monkeypatch.setattr(modeling_mamba, "is_mambapy_available", lambda: False)
    result, text = measured("scan", tmp_path, capsys)
    assert all(row["contestant"] != "mambapy" for row in result["rows"] + result["memory"])
    (note,) = result["notes"]
    assert "pip install 'hf_audio_mamba[bench]'" in note
    assert note in text
    (figure,) = (f for f in result["figures"] if f["formula"] == "mambapy / numba")
    assert figure["value"] is None


def test_a_scan_that_computes_something_else_fails(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = _benchmark_contestants.selective_scan

    def wrong(*operands: Any, backend: str, **options: Any) -> Any:
        return scan(*operands, backend=backend, **options) * (1.01 if backend == "numba" else 1)

    monkeypatch.setattr(_benchmark_contestants, "selective_scan", wrong)
    assert benchmark.run(["scan", "--quick", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["agrees"] is False


def test_mixer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result, text = measured("mixer", tmp_path, capsys)
    check(result, text, "mixer")
    found = differences(result)
    assert len(found) == 3  # two convolutions and the whole layer
    assert max(found.values()) < 1e-5
    assert sum(figure["unit"] == "%" for figure in result["figures"]) == 1


def test_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result, text = measured("model", tmp_path, capsys)
    check(result, text, "model")
    assert max(differences(result).values()) < 1e-5
    assert {row["case"].split()[0] for row in result["rows"]} == {"float32", "bfloat16"}
    assert len(result["figures"]) == 2


def test_train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result, text = measured("train", tmp_path, capsys)
    check(result, text, "train")
    assert len(differences(result)) == 2
    assert max(differences(result).values()) < 1e-4


def test_decode(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result, text = measured("decode", tmp_path, capsys)
    check(result, text, "decode")
    step, prompt = differences(result).values()
    assert 0 < step < 1e-4  # another computation, the same logits
    assert 0 < prompt < 1e-4
    assert len(result["figures"]) == 3


def test_length(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, plot = tmp_path / "result.json", tmp_path / "plot.png"
    assert benchmark.run(["length", "--quick", "--json", str(path), "--plot", str(plot)]) == 0
    result = json.loads(path.read_text(encoding="utf-8"))
    check(result, capsys.readouterr().out, "length")
    assert [row["contestant"] for row in result["rows"]] == list(_benchmark_length.NAMES)
    assert [row["extra_mib"] for row in result["memory"]] == [len(name) for name in _benchmark_length.NAMES]
    assert plot.read_bytes().startswith(b"\x89PNG")
