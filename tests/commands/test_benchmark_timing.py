"""How samples become rows and figures, and where contestants' inputs and results come from."""

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_audio_mamba.commands import _benchmark_child, _benchmark_report, _benchmark_timing
from hf_audio_mamba.commands._benchmark_child import extra_mebibytes, first_call_seconds
from hf_audio_mamba.commands._benchmark_contestants import (
    BACKENDS,
    MAMBAPY,
    TRANSFORMERS,
    Shape,
    backward_alone,
    copy_floor,
    draw_operands,
    exponential_floor,
    into_given_memory,
    scan_call,
)
from hf_audio_mamba.commands._benchmark_report import Report, Settings, describe, show
from hf_audio_mamba.commands._benchmark_timing import Case, Contestant, Quantity, Samples, measure_case, quartiles
from hf_audio_mamba.errors import HFAudioMambaError, OutputError
from tests.ops import naive

SHAPE = Shape(2, 7, 32, 4)


def samples(*cpu_s: float, result: Any = None) -> Samples:
    return Samples(list(cpu_s), [2 * value for value in cpu_s], 3, result)


def test_a_ratio_is_the_median_over_the_rounds() -> None:
    case = Case("c", {"slow": samples(8.0, 30.0, 12.0), "fast": samples(4.0, 3.0, 2.0), "once": samples(60.0)})
    assert case.ratio("slow", "fast") == Quantity(6.0, 4.0, 8.0)  # rounds: 2, 10, 6
    assert case.ratio("once", "fast") == Quantity(60 / 3, None, None)
    assert case.ratio("slow", "absent") is None


def test_quartiles_are_those_of_the_samples_alone() -> None:
    assert quartiles([1.0, 2.0, 3.0, 4.0, 5.0]) == (2.0, 4.0)
    assert quartiles([1.0]) == (None, None)


def test_differences_are_relative_and_keep_nan() -> None:
    ones = torch.ones(3)
    case = Case(
        "c",
        {
            "reference": samples(1.0, result=[ones, 4 * ones]),
            "close": samples(1.0, result=[ones, 4 * ones - torch.tensor([0, 0, 0.4])]),
            "broken": samples(1.0, result=[ones * torch.nan, 4 * ones]),
            "silent": samples(1.0),
        },
    )
    assert case.difference("close", "reference") == pytest.approx(0.1)
    assert math.isnan(case.difference("broken", "reference") or 0.0)
    assert case.difference("silent", "reference") is None
    assert case.difference("reference", "reference") is None


def test_contestants_take_turns_and_slow_ones_have_one(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    clock = [0.0]
    monkeypatch.setattr(_benchmark_timing.time, "process_time", lambda: clock[0])

    def work(name: str, seconds: float) -> Contestant:
        def call() -> torch.Tensor:
            calls.append(name)
            clock[0] += seconds
            return torch.tensor(len(calls))

        return Contestant(name, call, slow=name == "s")

    contestants = [work("a", 0.5), work("b", 0.25), work("long", 20.0), work("s", 9.0)]
    case = measure_case("c", contestants, repeats=2, shortest_s=0.5)
    warm_up = ["a", "a", "b", "b", "long"]
    assert calls == [*warm_up, "a", "b", "b", "long", "s", "a", "b", "b", "long"]
    assert {name: (s.cpu_s, s.calls) for name, s in case.samples.items()} == {
        "a": ([0.5, 0.5], 1),
        "b": ([0.25, 0.25], 2),
        "long": ([20.0, 20.0], 1),
        "s": ([9.0], 1),
    }
    assert case.samples["long"].result == len(calls)


def report_of(case: Case, reference: str | None = None) -> Report:
    report = Report("name", Settings(2, 1, False), {"python": "3"})
    report.add_case(case, reference=reference)
    return report


def test_rows_hold_medians_in_milliseconds() -> None:
    report = report_of(Case("c", {"a": samples(0.001, 0.004, 0.003), "b": samples(0.5)}))
    first, second = report.rows
    assert (first.cpu_ms, first.cpu_ms_low, first.cpu_ms_high, first.wall_ms) == pytest.approx((3.0, 2.0, 3.5, 6.0))
    assert first.cpu_ms_samples == pytest.approx([1.0, 4.0, 3.0])
    assert (first.calls, first.difference) == (3, None)
    assert (second.cpu_ms, second.cpu_ms_low) == (500.0, None)
    assert "500" in describe(report)


def test_figures_have_units() -> None:
    case = Case("c", {"a": samples(1.0, 1.0), "b": samples(4.0, 8.0)})
    report = report_of(case)
    report.add_ratio("share", case, "a", "b", unit="%")
    report.add_ratio("absent", case, "a", "x")
    share, absent = report.figures
    assert (share.value, share.low, share.high) == pytest.approx((18.75, 15.625, 21.875))
    assert (share.case, share.formula, absent.value) == ("c", "a / b", None)
    text = describe(report)
    assert "18.8 % (15.6 to 21.9)" in text
    assert "no value" in text


@pytest.mark.parametrize("value", [1.5, torch.nan])
def test_results_that_differ_are_said(value: float) -> None:
    case = Case("c", {"a": samples(1.0, result=torch.ones(2)), "b": samples(1.0, result=torch.tensor([1.0, value]))})
    report = report_of(case, reference="a")
    assert not report.agrees
    assert "RESULTS DIFFER" in describe(report)
    assert report_of(case).agrees


def test_a_result_that_cannot_be_written_is_printed_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(OutputError, match="cannot write the result"):
        show("text", {}, str(tmp_path / "no" / "file"))
    assert capsys.readouterr().out == "text\n"
    show("text", {"a": 1}, "-")
    assert json.loads(capsys.readouterr().out) == {"a": 1}


def expected_output() -> torch.Tensor:
    o = draw_operands(SHAPE)
    B, C = (projection.unsqueeze(2) for projection in o.B_and_C)
    return torch.from_numpy(naive.scan(o.x, o.dt, o.A, B, C, o.D, o.z, o.dt_bias)[0])


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("name", [*BACKENDS, TRANSFORMERS, MAMBAPY])
def test_every_contestant_computes_the_scan(name: str, train: bool) -> None:
    if name == MAMBAPY:
        pytest.importorskip("mambapy", reason="needs the extra bench")
    call = scan_call(name, draw_operands(SHAPE), train=train)
    for _ in range(2):  # gradients must not add up
        y, *gradients = call()
        torch.testing.assert_close(y.double(), expected_output(), rtol=1e-5, atol=1e-5)
    first = scan_call("torch", draw_operands(SHAPE), train=train)()[1:]
    assert len(gradients) == len(first) == (3 if train else 0)
    for found, expected in zip(gradients, first, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_output_given_and_backward_alone_compute_the_same_again() -> None:
    call = into_given_memory(draw_operands(SHAPE))
    (first,), (second,) = call(), call()
    torch.testing.assert_close(first.double(), expected_output(), rtol=1e-5, atol=1e-5)
    assert first.data_ptr() == second.data_ptr()
    backward = backward_alone(draw_operands(SHAPE))
    gradient_of_A = scan_call("torch", draw_operands(SHAPE), train=True)()[1]
    for _ in range(2):
        torch.testing.assert_close(backward()[2], gradient_of_A, rtol=1e-4, atol=1e-4)


def test_floors_do_the_work_that_a_scan_cannot_avoid() -> None:
    copied = copy_floor(SHAPE)()
    assert isinstance(copied, torch.Tensor)
    assert 2 * copied.numel() * copied.element_size() == 16 * SHAPE.elements  # read and written
    counted = []

    def counting(values: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
        counted.append(values.numel())
        return torch.exp(values, out=out)

    shape = Shape(1, 100, 64, 16)
    exponential_floor(shape, counting)()
    assert 0 <= sum(counted) - shape.elements * shape.state < counted[0]


def test_extra_memory_counts_the_output_at_least() -> None:
    shape = Shape(1, 1024, 1024, 4)
    found = extra_mebibytes("torch", shape, threads=1)
    if found is None:
        pytest.skip("this system does not tell")
    assert 4.0 <= found < 200
    theirs = extra_mebibytes(TRANSFORMERS, shape, threads=1)
    assert theirs is not None
    assert theirs > 2 * 4 * shape.state  # it keeps two tensors of (elements, state)


def test_a_child_that_fails_says_why() -> None:
    with pytest.raises(HFAudioMambaError, match="measuring memory of nobody failed"):
        extra_mebibytes("nobody", SHAPE, threads=1)


def test_first_calls_are_made_in_a_fresh_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    folders: list[str] = []

    def child(*arguments: Any) -> dict[str, float]:
        folders.append(arguments[-1]["NUMBA_CACHE_DIR"])
        assert len(os.listdir(folders[-1])) == len(folders) - 1
        (Path(folders[-1]) / "kernel").touch()
        return {"cpu_s": float(len(folders)), "wall_s": 5.0}

    monkeypatch.setattr(_benchmark_child, "_run_child", child)
    assert first_call_seconds(SHAPE, 1) == ((1.0, 5.0), (2.0, 5.0))
    assert folders[0] == folders[1]
    assert not Path(folders[0]).exists()


@pytest.mark.slow
def test_first_calls_are_measured() -> None:
    assert all(seconds > 0 for pair in first_call_seconds(SHAPE, 1) for seconds in pair)


def test_the_machine_is_described() -> None:
    environment = _benchmark_report.new_report("name", Settings(1, 1, True)).environment
    assert environment["torch"] == torch.__version__
    assert environment["numba_vector_bits"] in (128, 256, 512)
