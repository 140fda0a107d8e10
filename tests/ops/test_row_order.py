"""`order` and `lengths` of both operations: each sequence as it would be alone, its rows taken in order beforehand."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hf_audio_mamba.errors import ShapeError, UsageError
from hf_audio_mamba.ops import available_backends, causal_conv1d_silu, selective_scan
from tests.ops.numba_cases import assert_close, relative_error

BATCH, CHANNELS, STATE, GROUPS, WIDTH = 3, 20, 5, 2, 4
BACKENDS = available_backends()
TOLERANCES = {"numba": {"values": 6e-7, "gradients": 5e-6}}
ROWWISE = ("x", "dt", "B", "C", "z")


def operands(length: int, dtype: torch.dtype) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(length)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw).to(dtype)

    return {
        "x": normal(BATCH, length, CHANNELS),
        "dt": normal(BATCH, length, CHANNELS) - 2,
        "A": -normal(CHANNELS, STATE).abs() - 0.1,
        "B": normal(BATCH, length, GROUPS, STATE),
        "C": normal(BATCH, length, GROUPS, STATE),
        "D": normal(CHANNELS),
        "z": normal(BATCH, length, CHANNELS),
        "dt_bias": normal(CHANNELS),
        "initial_state": normal(BATCH, CHANNELS, STATE),
    }


def conv_operands(length: int, dtype: torch.dtype) -> dict[str, Tensor]:
    values = operands(length, dtype)
    draw = torch.Generator().manual_seed(0)
    past = torch.randn(BATCH, WIDTH - 1, CHANNELS, generator=draw).to(dtype)
    weight = torch.randn(CHANNELS, WIDTH, generator=draw).to(dtype)
    return {"x": values["x"], "weight": weight, "bias": values["D"], "initial_state": past}


def tables(length: int, kind: str) -> dict[str, Tensor | None]:
    """Orders and lengths of one kind; the lengths include none, one and all of the rows."""
    draw = torch.Generator().manual_seed(7)
    permutations = torch.stack([torch.randperm(length, generator=draw) for _ in range(BATCH)])
    lengths = torch.tensor([length, 0, max(1, length - 5)])
    return {
        "shared order": {"order": permutations[0]},
        "order": {"order": permutations},
        "lengths": {"lengths": lengths},
        "both": {"order": permutations, "lengths": lengths},
    }[kind]


def visited(length: int, sample: int, reverse: bool, order: Tensor | None, lengths: Tensor | None) -> list[int]:
    """Rows of one sample in the order of the visit."""
    rows = list(range(length)) if order is None else (order if order.ndim == 1 else order[sample]).tolist()
    rows = rows if lengths is None else rows[: lengths[sample]]
    return rows[::-1] if reverse else rows


def alone(values: dict[str, Tensor], reverse: bool, table: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Scan each sample alone, its rows taken in the order of the visit."""
    length = values["x"].shape[1]
    outputs, states = [], []
    for sample in range(BATCH):
        rows = visited(length, sample, reverse, table.get("order"), table.get("lengths"))
        y = values["x"].new_zeros(1, length, CHANNELS)
        state = values["initial_state"][sample : sample + 1]
        if rows:
            own = {name: value[sample : sample + 1, rows] for name, value in values.items() if name in ROWWISE}
            own |= {name: value for name, value in values.items() if name not in (*ROWWISE, "initial_state")}
            found, state = selective_scan(**own, initial_state=state, return_last_state=True, backend="reference")
            y = y.index_copy(1, torch.tensor(rows), found)
        outputs.append(y)
        states.append(state)
    return torch.cat(outputs), torch.cat(states)


def conv_alone(values: dict[str, Tensor], reverse: bool, table: dict[str, Tensor]) -> Tensor:
    """Convolve each sample alone, with torch's convolution."""
    x, length = values["x"], values["x"].shape[1]
    outputs = []
    for sample in range(BATCH):
        rows = visited(length, sample, reverse, table.get("order"), table.get("lengths"))
        if not rows:  # too short for torch
            outputs.append(x.new_zeros(length, CHANNELS))
            continue
        frames = torch.cat([values["initial_state"][sample], x[sample, rows]]).t()[None]
        y = F.silu(F.conv1d(frames, values["weight"][:, None], values["bias"], groups=CHANNELS))[0].t()
        outputs.append(x.new_zeros(length, CHANNELS).index_copy(0, torch.tensor(rows), y))
    return torch.stack(outputs)


def gradients_of(function, values: dict[str, Tensor]) -> dict[str, Tensor]:
    leaves = {name: value.detach().clone().requires_grad_() for name, value in values.items()}
    outputs = function(leaves)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    draw = torch.Generator().manual_seed(1)
    weights = [torch.randn(output.shape, generator=draw).to(output.dtype) for output in outputs]
    torch.autograd.backward(outputs, weights)
    results = {f"output {index}": output.detach() for index, output in enumerate(outputs)}
    return results | {f"d{name}": leaf.grad for name, leaf in leaves.items()}


def errors(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, float]:
    return {name: relative_error(actual[name], expected[name]) for name in expected}


def dtype_of(backend: str) -> torch.dtype:
    return torch.float32 if backend == "numba" else torch.float64


def tolerances(backend: str) -> dict[str, float]:
    return TOLERANCES.get(backend, {"values": 1e-12, "gradients": 1e-11})


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("kind", ["shared order", "order", "lengths", "both"])
@pytest.mark.parametrize("length", [1, 16, 37])
def test_scan_visits_rows_in_order(length, kind, reverse, backend):
    table = tables(length, kind)
    values = {name: value.to(dtype_of(backend)) for name, value in operands(length, torch.float32).items()}
    exact = {name: value.double() for name, value in values.items()}
    expected = gradients_of(lambda leaves: alone(leaves, reverse, table), exact)
    options = {"reverse": reverse, "return_last_state": True, "backend": backend}
    actual = gradients_of(lambda leaves: selective_scan(**leaves, **table, **options), values)
    assert_close(errors(actual, expected), **tolerances(backend))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("kind", ["shared order", "order", "lengths", "both"])
@pytest.mark.parametrize("length", [2, 16, 37])
def test_convolution_visits_rows_in_order(length, kind, reverse, backend):
    table = tables(length, kind)
    values = {name: value.to(dtype_of(backend)) for name, value in conv_operands(length, torch.float32).items()}
    exact = {name: value.double() for name, value in values.items()}
    expected = gradients_of(lambda leaves: conv_alone(leaves, reverse, table), exact)
    actual = gradients_of(
        lambda leaves: causal_conv1d_silu(**leaves, **table, reverse=reverse, backend=backend), values
    )
    assert_close(errors(actual, expected), **tolerances(backend))


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_left_out_are_not_read(backend):
    lengths = torch.tensor([30, 12, 0])
    values = operands(30, dtype_of(backend))
    poisoned = {name: value.clone() for name, value in values.items()}
    for name in ROWWISE:
        for sample, steps in enumerate(lengths):
            poisoned[name][sample, steps:] = torch.nan
    clean = gradients_of(lambda leaves: selective_scan(**leaves, lengths=lengths, backend=backend), values)
    dirty = gradients_of(lambda leaves: selective_scan(**leaves, lengths=lengths, backend=backend), poisoned)
    for name, expected in clean.items():
        assert torch.equal(dirty[name], expected), name
    x = poisoned["x"]
    y = causal_conv1d_silu(x, torch.ones(CHANNELS, WIDTH, dtype=x.dtype), lengths=lengths, backend=backend)
    assert y.isfinite().all()
    assert (y[2] == 0).all()


def test_gradients_do_not_depend_on_threads():
    length = 1000  # long enough for the kernels to use threads
    table = tables(length, "both")
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            values = operands(length, torch.float32)
            found.append(gradients_of(lambda leaves: selective_scan(**leaves, **table), values))
    finally:
        torch.set_num_threads(before)
    for name, expected in found[0].items():
        assert torch.equal(found[1][name], expected), name


@pytest.mark.skipif("numba" not in BACKENDS, reason="numba is not installed")
def test_compiled_with_tables():
    torch.compiler.reset()
    compiled = torch.compile(selective_scan, fullgraph=True, backend="aot_eager")
    values, table = operands(20, torch.float32), tables(20, "both")
    assert torch.equal(compiled(**values, **table), selective_scan(**values, **table))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("strided", [False, True])
def test_out_receives_the_output(strided, backend):
    values = operands(37, dtype_of(backend))
    whole = torch.full((BATCH, 37, 2 * CHANNELS), torch.nan, dtype=values["x"].dtype)
    out = whole[..., CHANNELS:] if strided else whole[..., :CHANNELS].clone()
    lengths = torch.tensor([37, 12, 0])
    expected, state = selective_scan(**values, lengths=lengths, return_last_state=True, backend=backend)
    y, last_state = selective_scan(**values, lengths=lengths, return_last_state=True, backend=backend, out=out)
    assert y is out
    assert torch.equal(out, expected)
    assert torch.equal(last_state, state)
    if strided:
        assert whole[..., :CHANNELS].isnan().all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_autograd_notices_an_output_that_it_still_needs(backend):
    values, out = operands(8, dtype_of(backend)), torch.zeros(BATCH, 8, CHANNELS, dtype=dtype_of(backend))
    scale = torch.ones((), dtype=out.dtype, requires_grad=True)
    loss = (scale * out).sum()
    selective_scan(**values, out=out, backend=backend)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.fixture
def _poisoned_memory():
    torch.use_deterministic_algorithms(True)  # fills fresh memory with NaN
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("_poisoned_memory")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["order", "lengths", "both"])
def test_no_memory_is_read_before_it_is_written(kind, backend):
    assert torch.isnan(torch.empty(3)).all()
    table, options = tables(19, kind), {"return_last_state": True, "backend": backend}
    values = operands(19, dtype_of(backend))
    found = gradients_of(lambda leaves: selective_scan(**leaves, **table, **options), values)
    convolved = gradients_of(
        lambda leaves: causal_conv1d_silu(**leaves, **table, backend=backend), conv_operands(19, dtype_of(backend))
    )
    for name, tensor in (*found.items(), *convolved.items()):
        assert tensor.isfinite().all(), name


def test_wrong_tables_are_named():
    values = operands(8, torch.float32)
    natural = torch.arange(8)
    for order, message in (
        (natural[:7], r"order must be \(length,\) or \(batch, length\)"),
        (natural.int(), r"order must be int64, got torch.int32; convert it with order.long\(\)"),
        (natural.clone().fill_(3), "order must name each row from 0 to 7 once"),
        (natural + 1, "order must name each row from 0 to 7 once"),
        (natural - 1, "order must name each row from 0 to 7 once"),
        (natural.to("meta"), "order is on meta but x is on cpu"),
    ):
        for backend in BACKENDS:
            with pytest.raises(ShapeError, match=message):
                selective_scan(**values, order=order, backend=backend)
            with pytest.raises(ShapeError, match=message):
                causal_conv1d_silu(values["x"], torch.ones(CHANNELS, 4), order=order, backend=backend)
    for lengths, message in (
        (torch.tensor([8, 8]), r"lengths must be \(batch,\), here \(3,\), got \(2,\)"),
        (torch.tensor([8, 9, 8]), r"lengths must lie in 0 to 8, got \[8, 9, 8\]"),
        (torch.tensor([8, -1, 8]), r"lengths must lie in 0 to 8"),
        (torch.tensor([8.0, 8.0, 8.0]), r"lengths must be int64, got torch.float32"),
        (torch.tensor([8, 8, 8], device="meta"), r"lengths is on meta but x is on cpu"),
    ):
        for backend in BACKENDS:
            with pytest.raises(ShapeError, match=message):
                selective_scan(**values, lengths=lengths, backend=backend)


def test_wrong_out_is_named():
    values = operands(8, torch.float32)
    with pytest.raises(ShapeError, match=r"out must be \(batch, length, channels\)"):
        selective_scan(**values, out=torch.empty(BATCH, 8, 1))
    with pytest.raises(ShapeError, match="out must have the dtype of x"):
        selective_scan(**values, out=torch.empty(BATCH, 8, CHANNELS, dtype=torch.float16))
    with pytest.raises(ShapeError, match="out is written to, but its elements share memory"):
        selective_scan(**values, out=torch.empty(1, 8, CHANNELS).expand(BATCH, -1, -1))
    with pytest.raises(UsageError, match="out cannot be used where a gradient is needed"):
        selective_scan(**values, out=torch.empty(BATCH, 8, CHANNELS, requires_grad=True))
    values["A"].requires_grad_()
    with pytest.raises(UsageError, match="out cannot be used where a gradient is needed"):
        selective_scan(**values, out=torch.empty(BATCH, 8, CHANNELS))
