"""What can be said of the Triton kernels on a GPU without one: that they compile for it, and how work is cut for it."""

from types import SimpleNamespace

import pytest
import torch

triton = pytest.importorskip("triton", reason="needs triton (Linux)")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.runtime import driver  # noqa: E402
from triton.runtime.jit import JITFunction  # noqa: E402

from hf_audio_mamba.ops import (  # noqa: E402
    triton_conv,
    triton_conv_kernels,
    triton_gpu,
    triton_scan,
    triton_scan_backward,
    triton_scan_forward,
    triton_tuning,
)
from tests.ops.numba_cases import conv_case, scan_case  # noqa: E402

if triton_gpu.is_interpreted():
    pytest.skip("the interpreter compiles and tunes nothing", allow_module_level=True)

TUNED_KERNELS = (
    triton_scan_forward.scan_kernel,
    triton_scan_forward.segment_states_kernel,
    triton_scan_backward.gradients_kernel,
    triton_scan_backward.segment_gradients_kernel,
    triton_conv_kernels.conv_kernel,
    triton_conv_kernels.conv_sums_kernel,
    triton_conv_kernels.conv_frames_kernel,
)
GPU = torch.device("cuda", 0)


@pytest.fixture
def compile_for(monkeypatch, tmp_path):
    """Have launches compile their first configuration for a GPU that need not be there, and compute nothing."""
    compiled = {}
    launch = JITFunction.run

    def compile_only(self, *args, grid, warmup, **options):
        grid(options)
        compiled[self.__name__] = launch(self, *args, grid=grid, warmup=True, **options)

    def begin(capability: int) -> dict[str, object]:
        target = GPUTarget("cuda", capability, 32)
        absent = SimpleNamespace(
            get_current_device=lambda: 0, get_current_stream=lambda _: 0, get_current_target=lambda: target
        )
        monkeypatch.setattr(driver, "_active", absent)
        return compiled

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(JITFunction, "run", compile_only)
    monkeypatch.setattr(triton_tuning, "choose_segments", lambda *_: 2)
    for kernel in TUNED_KERNELS:
        monkeypatch.setattr(kernel, "configs", kernel.configs[:1])
        kernel.fn.device_caches.clear()
    triton_scan_forward.carry_kernel.device_caches.clear()
    yield begin
    for kernel in (*(tuned.fn for tuned in TUNED_KERNELS), triton_scan_forward.carry_kernel):
        kernel.device_caches.clear()


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [
        (80, torch.bfloat16),
        pytest.param(75, torch.float16, marks=pytest.mark.slow),
        pytest.param(90, torch.float32, marks=pytest.mark.slow),
        pytest.param(120, torch.bfloat16, marks=pytest.mark.slow),
    ],
)
def test_all_kernels_compile_for_a_gpu(capability, dtype, compile_for):
    compiled = compile_for(capability)
    operands = [tensor.to(dtype) for tensor in scan_case(1, 32, 64, 16).operands.values()]
    last_state, checkpoints, *ys = triton_scan.scan(operands * 2, True, False, True)
    triton_scan.scan_gradients(ys, last_state, operands * 2, checkpoints, True, False)
    operands = [tensor.to(dtype) for tensor in conv_case(1, 32, 64, 4).operands.values()]
    triton_conv.conv_gradients(triton_conv.conv(*operands, True), *operands, True)
    assert set(compiled) == {kernel.fn.__name__ for kernel in TUNED_KERNELS} | {"carry_kernel"}
    for kernel in compiled.values():
        assert len(kernel.asm["cubin"]) > 1000
        assert f".target sm_{capability}" in kernel.asm["ptx"]


@pytest.mark.parametrize("states", [1, 2, 4, 8, 16, 32, 64])
def test_every_number_of_states_has_block_sizes_to_choose_from(states):
    configs = triton_tuning._suitable(TUNED_KERNELS[0].configs, {}, STATES=states)
    assert 2 <= len(configs) <= 4
    per_thread = [states * config.kwargs["BLOCK"] / (32 * config.num_warps) for config in configs]
    assert max(per_thread) <= 16
    assert all(config.num_warps >= 1 for config in configs)


@pytest.mark.parametrize(
    ("programs", "length", "segments"),
    [
        (64, 3001, 16),  # a short batch: 8 warps on each of 132 processors
        (400, 3001, 1),  # two segments would gain nothing
        (4096, 3001, 1),
        (1, 100_000, 64),
        (1, 96, 3),  # four tiles of 8 steps each
        (1, 95, 1),
    ],
)
def test_the_length_is_cut_where_a_gpu_would_idle(programs, length, segments, monkeypatch):
    properties = SimpleNamespace(multi_processor_count=132)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    assert triton_tuning.choose_segments(programs, length, GPU) == segments
    assert triton_tuning.choose_segments(programs, length, torch.device("cpu")) == 1


def test_warps_are_counted_for_channels_of_each_group():
    x = torch.empty(3, 10, 100)
    assert triton_tuning.count_warps(x, groups=1, directions=1) == 3 * 4
    assert triton_tuning.count_warps(x, groups=2, directions=2) == 3 * 2 * 2 * 2


def test_calls_of_like_scale_share_a_measurement():
    assert triton_tuning.tuning_key(8, 520, 1024) == triton_tuning.tuning_key(9, 1000, 1024)
    assert len({triton_tuning.tuning_key(*sizes) for sizes in ((8, 512, 64), (16, 512, 64), (8, 1024, 64))}) == 3
