"""selective_scan: the reference against a loop of its own kind, every backend against the reference, and invariants."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils import deterministic

from hf_audio_mamba.ops import available_backends, chunked, selective_scan
from tests.ops import naive
from tests.ops.numba_cases import Case, assert_close, converted, relative_error, scan_case, with_gradients

EXACT = ("reference", "torch")  # backends that compute in float64 when asked to
DOUBLE_NOISE = {"values": 1e-12, "gradients": 1e-11}


def scan(case: Case, backend: str) -> tuple[Tensor, Tensor]:
    """Output and last state of a case by the public function."""
    return selective_scan(
        **case.operands, dt_softplus=case.dt_softplus, reverse=case.reverse, return_last_state=True, backend=backend
    )


def errors(case: Case, backend: str, oracle: Case) -> dict[str, float]:
    """Errors of all results and gradients against the reference on another form of the same operands."""
    actual, expected = with_gradients(case, scan, backend), with_gradients(oracle, scan, "reference")
    assert actual.keys() == expected.keys()
    return {name: relative_error(actual[name], expected[name]) for name in actual}


def double(case: Case) -> Case:
    return converted(case, Tensor.double)


@pytest.fixture
def poisoned_memory():
    """Everything that torch allocates without a value is NaN."""
    torch.use_deterministic_algorithms(True)
    deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("backend", EXACT)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("channels", "groups"), [(8, 1), (8, 8), (24, 1), (24, 3)])
@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 63])
@pytest.mark.parametrize("state", [1, 4, 16])
def test_matches_the_definition(state, length, channels, groups, reverse, backend):
    case = double(scan_case(2, length, channels, state, groups=groups, reverse=reverse))
    y, last_state = scan(case, backend)
    expected_y, expected_state = naive.scan(**case.operands, reverse=reverse)
    found = {
        "y": relative_error(y, torch.from_numpy(expected_y)),
        "last_state": relative_error(last_state, torch.from_numpy(expected_state)),
    }
    assert_close(found, values=1e-12)


@pytest.mark.parametrize("backend", EXACT)
@pytest.mark.parametrize("dt_softplus", [False, True])
def test_matches_the_definition_without_the_optional_arguments(dt_softplus, backend):
    case = double(scan_case(2, 35, 8, 4, optional=False, dt_softplus=dt_softplus))
    y, _ = scan(case, backend)
    expected, _ = naive.scan(**case.operands, dt_softplus=dt_softplus)
    assert_close({"y": relative_error(y, torch.from_numpy(expected))}, values=1e-12)


@pytest.mark.parametrize("backend", available_backends())
def test_matches_the_scan_of_transformers(backend):
    from transformers.models.mamba.modeling_mamba import mamba_selective_scan

    case = scan_case(2, 50, 24, 16)
    operands = {name: tensor for name, tensor in case.operands.items() if name != "initial_state"}
    x, dt, A, B, C, D, z, bias = operands.values()
    B, C = B.squeeze(2), C.squeeze(2)
    expected = mamba_selective_scan(
        *(tensor.mT for tensor in (x, dt)), A, B.mT, C.mT, D, z.mT, delta_bias=bias, delta_softplus=True
    )
    y = selective_scan(x, dt, A, B, C, D, z, bias, backend=backend)
    assert_close({"y": relative_error(y, expected.mT)}, values=5e-6)


@pytest.mark.parametrize("backend", EXACT)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("optional", "dt_softplus", "groups"), [(True, True, 2), (False, False, 1), (True, False, 1)])
def test_gradcheck(optional, dt_softplus, groups, reverse, backend):
    case = double(scan_case(1, 19, 4, 2, groups=groups, optional=optional, dt_softplus=dt_softplus, reverse=reverse))
    names = [name for name, tensor in case.operands.items() if tensor is not None]

    def run(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        return scan(Case(dict(zip(names, tensors, strict=True)), dt_softplus, reverse), backend)

    leaves = [case.operands[name].detach().requires_grad_() for name in names]
    assert torch.autograd.gradcheck(run, leaves, fast_mode=True)


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("optional", [False, True])
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 63])
@pytest.mark.parametrize("state", [1, 4, 16])
def test_chunked_gradients_are_those_of_autograd_through_the_loop(state, length, groups, optional, reverse):
    case = double(scan_case(2, length, 8, state, groups=groups, optional=optional, reverse=reverse))
    assert_close(errors(case, "torch", case), **DOUBLE_NOISE)


@pytest.mark.parametrize("backend", available_backends())
@pytest.mark.parametrize("reverse", [False, True])
def test_float32_stays_close_to_float64(reverse, backend):
    case = scan_case(2, 300, 24, 16, reverse=reverse)
    assert_close(errors(case, backend, double(case)), values=1e-6, gradients=1e-5)


@pytest.mark.parametrize("backend", available_backends())
def test_reverse_is_flip_scan_flip(backend):
    case = scan_case(2, 41, 24, 4)
    flipped = {
        name: tensor.flip(1) if name in {"x", "dt", "B", "C", "z"} else tensor for name, tensor in case.operands.items()
    }
    y, last_state = scan(Case(flipped), backend)
    backward_y, backward_state = scan(Case(case.operands, reverse=True), backend)
    found = {"y": relative_error(backward_y, y.flip(1)), "last_state": relative_error(backward_state, last_state)}
    assert_close(found, values=1e-6)


@pytest.mark.parametrize("backend", available_backends())
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("cut", [1, 16, 33])
def test_a_sequence_in_two_parts_joined_by_the_state_is_the_whole(cut, reverse, backend):
    case = scan_case(2, 50, 24, 4, reverse=reverse)
    y, last_state = scan(case, backend)

    def part(rows: slice, initial_state: Tensor) -> tuple[Tensor, Tensor]:
        operands = {
            name: tensor[:, rows] if name in {"x", "dt", "B", "C", "z"} else tensor
            for name, tensor in case.operands.items()
        }
        return scan(Case(operands | {"initial_state": initial_state}, reverse=reverse), backend)

    parts = [slice(cut, None), slice(None, cut)] if reverse else [slice(None, cut), slice(cut, None)]
    first_y, between = part(parts[0], case.operands["initial_state"])
    second_y, end = part(parts[1], between)
    joined = torch.cat([second_y, first_y] if reverse else [first_y, second_y], dim=1)
    assert_close({"y": relative_error(joined, y), "last_state": relative_error(end, last_state)}, values=1e-6)


@pytest.mark.parametrize("backend", available_backends())
def test_ungrouped_projections_are_one_group(backend):
    case = scan_case(2, 20, 24, 4)
    operands = case.operands | {name: case.operands[name].squeeze(2) for name in ("B", "C")}
    assert torch.equal(scan(Case(operands), backend)[0], scan(case, backend)[0])


@pytest.mark.parametrize("backend", available_backends())
def test_views_of_one_projection_give_the_same_as_copies(backend):
    case = scan_case(2, 30, 24, 4)
    x, z, B, C = (case.operands[name] for name in ("x", "z", "B", "C"))
    xz, projections = torch.cat([x, z], dim=-1), torch.cat([B, C], dim=-1)
    views = {
        "x": xz[..., :24],
        "z": xz[..., 24:],
        "B": projections[..., :4],
        "C": projections[..., 4:],
        "dt": case.operands["dt"].transpose(1, 2).contiguous().transpose(1, 2),
        "A": case.operands["A"].t().contiguous().t(),
    }
    assert not any(view.is_contiguous() for view in views.values())
    assert_close(errors(Case(case.operands | views), backend, double(case)), values=1e-6, gradients=1e-5)


@pytest.mark.parametrize("backend", available_backends())
def test_the_last_state_alone_can_be_trained(backend):
    case = scan_case(2, 40, 24, 4)
    grads = {}
    for name, tensors in (("actual", case), ("expected", double(case))):
        leaves = converted(tensors, lambda tensor: tensor.detach().requires_grad_())
        _, last_state = scan(leaves, backend if name == "actual" else "reference")
        last_state.square().sum().backward()
        grads[name] = leaves.operands
    for name in ("C", "D", "z"):  # the state does not depend on what reads it
        gradient = grads["actual"][name].grad
        assert gradient is None or not gradient.any(), name
    found = {
        f"d{name}": relative_error(grads["actual"][name].grad, grads["expected"][name].grad)
        for name in ("x", "dt", "A", "B", "dt_bias", "initial_state")
    }
    assert_close(found, gradients=1e-5)


@pytest.mark.parametrize("backend", available_backends())
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_keep_a_float32_state(dtype, backend):
    case = converted(scan_case(2, 100, 24, 16), lambda tensor: tensor.to(dtype))
    y, last_state = scan(case, backend)
    assert (y.dtype, last_state.dtype) == (dtype, torch.float32)
    in_float32 = converted(case, Tensor.float)
    expected_y, expected_state = scan(in_float32, "reference")
    rounding = torch.finfo(dtype).eps
    assert_close({"y": relative_error(y, expected_y)}, values=rounding)
    assert_close({"last_state": relative_error(last_state, expected_state)}, values=1e-6)
    gradients = with_gradients(case, scan, backend)
    assert all(gradients[f"d{name}"].dtype == dtype for name in case.operands)
    # The incoming gradient is rounded to the dtype of y as well.
    assert_close(errors(case, backend, in_float32), values=rounding, gradients=4 * rounding)


@pytest.mark.parametrize("backend", available_backends())
def test_autocast_does_not_reach_into_the_scan(backend):
    case = scan_case(2, 60, 24, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = errors(case, backend, double(case))
    assert_close(found, values=1e-6, gradients=1e-5)


@pytest.mark.parametrize("backend", available_backends())
@pytest.mark.parametrize("reverse", [False, True])
def test_huge_steps_forget_the_past_exactly(reverse, backend):
    case = scan_case(1, 40, 16, 4, reverse=reverse)
    case.operands["dt"][:, 20] = 1e6
    case.operands["dt_bias"] = None
    results = with_gradients(case, scan, backend)
    for name, tensor in results.items():
        assert tensor.isfinite().all(), name
    before = slice(21, None) if reverse else slice(None, 20)
    changed = case.operands | {"x": case.operands["x"].clone()}
    changed["x"][:, before] += 1
    after = slice(None, 21) if reverse else slice(20, None)
    y, changed_y = scan(case, backend)[0], scan(Case(changed, reverse=reverse), backend)[0]
    assert torch.equal(changed_y[:, after], y[:, after])
    assert not torch.equal(changed_y[:, before], y[:, before])


def test_growing_states_are_kept():
    case = double(scan_case(1, 20, 8, 4, dt_softplus=False))
    case.operands["A"] = case.operands["A"].abs()
    expected, _ = naive.scan(**case.operands, dt_softplus=False)
    assert_close({"y": relative_error(scan(case, "torch")[0], torch.from_numpy(expected))}, values=1e-12)


@pytest.mark.parametrize("backend", EXACT)
def test_later_frames_do_not_reach_back(backend):
    case = scan_case(1, 40, 8, 4)
    later = {name: case.operands[name].clone() for name in ("x", "dt", "B", "C", "z")}
    for tensor in later.values():
        tensor[:, 20] = math.nan
    y = scan(Case(case.operands | later), backend)[0]
    assert torch.equal(y[:, :20], scan(case, backend)[0][:, :20])
    assert y[:, 20].isnan().all()


def largest_tensor(function) -> int:
    """Elements of the largest tensor that any operation of torch reads or writes in a call."""
    with torch.profiler.profile(record_shapes=True) as profile:
        function()
    return max(math.prod(shape) for event in profile.events() for shape in event.input_shapes if shape)


def test_chunked_never_holds_all_states():
    case = scan_case(2, 320, 24, 16)
    all_states = 2 * 320 * 24 * 16
    assert largest_tensor(lambda: with_gradients(case, scan, "torch")) <= all_states // 10
    x, dt, A, B, C = (case.operands[name] for name in ("x", "dt", "A", "B", "C"))

    def everything_at_once() -> Tensor:
        decay = torch.exp(F.softplus(dt)[..., None] * A)
        return (decay.cumprod(1) * (B * C) * x[..., None]).sum(-1)

    assert largest_tensor(everything_at_once) >= all_states  # the measurement sees what it should


def test_chunk_starts_are_kept_only_for_a_backward_pass():
    *tensors, initial_state = scan_case(1, 100, 8, 4).operands.values()
    for keep_starts, chunks in ((True, math.ceil(100 / chunked.CHUNK)), (False, 0)):
        _, _, starts = chunked.scan(*tensors, initial_state, True, False, keep_starts)
        assert starts.shape == (chunks, 1, 1, 4, 8)
    shapes = {}
    for trained in (True, False):
        case = converted(scan_case(1, 100, 8, 4), lambda tensor, trained=trained: tensor.requires_grad_(trained))
        with torch.profiler.profile(record_shapes=True) as profile:
            scan(case, "torch")
        shapes[trained] = [shape for event in profile.events() for shape in event.input_shapes]
    starts_shape = [math.ceil(100 / chunked.CHUNK), 1, 1, 4, 8]
    assert starts_shape in shapes[True]
    assert starts_shape not in shapes[False]


def test_inference_mode_gives_the_same():
    case = scan_case(2, 40, 24, 4)
    expected = scan(case, "torch")[0]
    with torch.inference_mode():
        assert torch.equal(scan(case, "torch")[0], expected)


def test_a_second_derivative_is_refused():
    case = double(scan_case(1, 5, 4, 2))
    x = case.operands["x"].requires_grad_()
    (gradient,) = torch.autograd.grad(scan(case, "torch")[0].square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="chunked_scan_backward"):
        gradient.sum().backward()


def test_the_operator_keeps_the_contract_of_torch_library():
    for keep_starts in (False, True):
        case = scan_case(2, 20, 8, 4, groups=2)
        *tensors, initial_state = (tensor.requires_grad_(keep_starts) for tensor in case.operands.values())
        torch.library.opcheck(chunked.scan, (*tensors, initial_state, True, False, keep_starts))
    *tensors, initial_state = (tensor.detach() for tensor in case.operands.values())
    y, last_state, starts = chunked.scan(*tensors, initial_state, True, False, True)
    torch.library.opcheck(chunked._scan_backward, (y, last_state, *tensors, starts, True, False))


def test_meta_tensors_have_the_right_shapes():
    case = converted(scan_case(2, 20, 8, 4), lambda tensor: tensor.to("meta").bfloat16())
    y, last_state = scan(case, "auto")
    assert (y.shape, y.dtype, y.device.type) == ((2, 20, 8), torch.bfloat16, "meta")
    assert (last_state.shape, last_state.dtype) == ((2, 8, 4), torch.float32)
