"""AuM against a plain transcription of its formulas, its parameter counts, its options, and clips of any length."""

import math
from typing import Any

import peft
import pytest
import torch

from hf_audio_mamba import AuMConfig, AuMForAudioClassification, AuMModel
from tests.models.aum.models import BANDS, FRAMES, clips, randomised, tiny
from tests.models.aum.transcription import logits

VARIANTS = ["fo-fo", "fo-bi", "bi-bi"]
POSITIONS = ["middle", "front", "end", "double", "none"]


def assert_equals_the_formulas(**options: Any) -> None:
    model = randomised(AuMForAudioClassification(tiny(**options)))
    inputs = clips()
    expected = torch.stack([logits(model, clip) for clip in inputs])
    torch.testing.assert_close(model(inputs).logits.double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("bimamba_type", VARIANTS)
@pytest.mark.parametrize("cls_position", POSITIONS)
def test_equals_the_formulas(bimamba_type: str, cls_position: str) -> None:
    assert_equals_the_formulas(bimamba_type=bimamba_type, cls_position=cls_position)


@pytest.mark.parametrize(
    "options",
    [
        {"bimamba_type": "bi-bi", "divide_output": False},
        {"transpose_token_sequence": True},
        {"transpose_token_sequence": True, "cls_position": "double"},
        {"residual_in_fp32": False},
        {"num_mel_bins": BANDS, "patch_size": 2, "conv_kernel": 3, "expand": 3},
    ],
    ids=str,
)
def test_options_equal_the_formulas(options: dict[str, Any]) -> None:
    assert_equals_the_formulas(**options)


# --- sizes ------------------------------------------------------------------------------------------------------------


def count(hidden_size: int, bimamba_type: str, **sizes: Any) -> int:
    config = AuMConfig(hidden_size=hidden_size, bimamba_type=bimamba_type, **{"num_labels": 527, **sizes})
    with torch.device("meta"):
        model = AuMForAudioClassification(config)
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("hidden_size", "bimamba_type", "parameters"),
    [
        (192, "fo-bi", 6_438_479),
        (192, "bi-bi", 7_019_087),
        (384, "fo-bi", 23_935_631),
        (384, "bi-bi", 25_539_215),
        (768, "fo-fo", 91_517_711),
        (768, "fo-bi", 92_107_535),
        (768, "bi-bi", 97_084_175),
    ],
)
def test_parameters(hidden_size: int, bimamba_type: str, parameters: int) -> None:
    assert count(hidden_size, bimamba_type) == parameters


def test_parameters_of_clips_of_30_seconds() -> None:
    assert round(count(768, "fo-bi", max_length=2992, num_labels=10) / 1e6, 2) == 92.47


@pytest.mark.parametrize(
    ("cls_position", "expected"),
    [
        ("middle", {"cls_token": (1, 1, 8), "pos_embed.pos_embed": (1, 7, 8)}),
        ("none", {"pos_embed.pos_embed": (1, 6, 8)}),
        (
            "double",
            {"cls_token_head": (1, 1, 8), "cls_token_tail": (1, 1, 8), "pos_embed.pos_embed": (1, 8, 8)},
        ),
    ],
)
def test_tensors_are_those_of_the_published_weights(cls_position: str, expected: dict[str, tuple[int, ...]]) -> None:
    mixer = ["in_proj.weight", "conv1d.weight", "conv1d.bias", "x_proj.weight", "dt_proj.weight", "dt_proj.bias"]
    mixer += ["A_log", "D", "out_proj.weight", "A_b_log"]
    mixer += ["conv1d_b.weight", "conv1d_b.bias", "x_proj_b.weight", "dt_proj_b.weight", "dt_proj_b.bias", "D_b"]
    names = {f"layers.{n}.mixer.{name}" for n in range(2) for name in mixer}
    names |= {"layers.0.norm.weight", "layers.1.norm.weight", "norm_f.weight"}
    names |= {"patch_embed.proj.weight", "patch_embed.proj.bias"} | expected.keys()
    model = AuMForAudioClassification(tiny(bimamba_type="bi-bi", cls_position=cls_position))
    assert set(model.state_dict()) == {f"aum.{name}" for name in names} | {"head.weight", "head.bias"}
    for name, shape in expected.items():
        assert model.aum.state_dict()[name].shape == shape


# --- initialisation ---------------------------------------------------------------------------------------------------


def test_weights_start_as_the_published_code_draws_them() -> None:
    torch.manual_seed(0)
    config = AuMConfig(hidden_size=64, num_hidden_layers=4, bimamba_type="bi-bi", num_labels=50)
    model = AuMForAudioClassification(config)
    mixer = model.aum.layers[1].mixer
    inner = 128
    for weight, bound in (
        (mixer.in_proj.weight, 64**-0.5),
        (mixer.x_proj_b.weight, inner**-0.5),
        (mixer.out_proj.weight, inner**-0.5 / math.sqrt(4)),
        (mixer.dt_proj_b.weight, 4**-0.5),
        (mixer.conv1d_b.bias, 4**-0.5),
    ):
        assert 0.9 * bound < weight.abs().max() <= bound
    # timm's rule for a normal distribution cut at two deviations, which at this width cuts nothing.
    assert model.aum.patch_embed.proj.weight.std().item() == pytest.approx(1 / 16 / 0.8796, rel=0.03)
    for weight in (model.aum.pos_embed.pos_embed, model.aum.cls_token, model.head.weight):
        assert weight.std().item() == pytest.approx(0.02, rel=0.3)
    assert model.head.weight.abs().max() > 0.05  # a normal distribution's tails
    for tensor in (mixer.dt_proj_b.bias, model.head.bias, model.aum.patch_embed.proj.bias):
        assert (tensor == 0).all()
    for tensor in (mixer.D, mixer.D_b, model.aum.norm_f.weight):
        assert (tensor == 1).all()
    steps = torch.nn.functional.softplus(mixer.dt_proj.bias)
    assert 0.9e-3 < steps.min() < steps.max() < 0.11
    for a_log in (mixer.A_log, mixer.A_b_log):
        torch.testing.assert_close(a_log.exp(), torch.arange(1.0, 17).expand(inner, -1))


def test_what_no_weight_decay_may_touch_is_marked() -> None:
    model = AuMModel(tiny(bimamba_type="bi-bi", cls_position="double"))
    marked = {name for name, parameter in model.named_parameters() if getattr(parameter, "_no_weight_decay", False)}
    mixers = {f"layers.{n}.mixer.{name}" for n in range(2) for name in ("A_log", "A_b_log", "D", "D_b")}
    assert marked == mixers | {"cls_token_head", "cls_token_tail", "pos_embed.pos_embed"}


# --- what each option does --------------------------------------------------------------------------------------------


def heard(**options: Any) -> torch.Tensor:
    """Per frame, whether it moves the logits: `(frames,)`."""
    model = randomised(AuMForAudioClassification(tiny(**options)))
    clip = clips(1).requires_grad_()
    model(clip).logits.pow(2).sum().backward()
    assert clip.grad is not None
    return clip.grad[0].abs().sum(-1) > 0


def test_forwards_alone_a_token_hears_what_precedes_it() -> None:
    assert not heard(bimamba_type="fo-fo", cls_position="front").any()
    assert heard(bimamba_type="fo-fo", cls_position="end").all()
    # In time-major order the token stands after the patches of the first half of the clip.
    half = heard(bimamba_type="fo-fo", cls_position="middle", transpose_token_sequence=True, max_length=16)
    assert half.tolist() == [True] * 8 + [False] * 4


@pytest.mark.parametrize("bimamba_type", ["fo-bi", "bi-bi"])
@pytest.mark.parametrize("cls_position", ["front", "middle", "end"])
def test_both_ways_a_token_hears_everything_wherever_it_stands(bimamba_type: str, cls_position: str) -> None:
    assert heard(bimamba_type=bimamba_type, cls_position=cls_position).all()


@pytest.mark.parametrize("residual_in_fp32", [True, False])
def test_the_residual_stream_has_its_precision(residual_in_fp32: bool) -> None:
    model = AuMModel(tiny(residual_in_fp32=residual_in_fp32)).to(torch.bfloat16).eval()
    out = model(clips(), output_hidden_states=True)
    assert {state.dtype for state in out.hidden_states} == {torch.float32 if residual_in_fp32 else torch.bfloat16}
    assert out.last_hidden_state.dtype == out.pooler_output.dtype == torch.bfloat16


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_lora_reaches_every_projection() -> None:
    targets = ["in_proj", "x_proj", "dt_proj", "x_proj_b", "dt_proj_b", "out_proj"]
    model = peft.get_peft_model(
        randomised(AuMForAudioClassification(tiny(bimamba_type="bi-bi"))), peft.LoraConfig(target_modules=targets, r=2)
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)  # starts at zero, where lora_A would get no gradient
    model(clips(), labels=torch.tensor([0, 1])).loss.backward()
    adapters = {name: p for name, p in model.named_parameters() if "lora_" in name}
    assert len(adapters) == 2 * len(targets) * 2
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in adapters.values())


# --- clips of any length ----------------------------------------------------------------------------------------------


def test_a_short_clip_is_padded_with_the_extractors_silence() -> None:
    model = randomised(AuMForAudioClassification(tiny()))
    short = clips(2, frames=5)
    padded = torch.full((2, FRAMES, BANDS), 4.2677393 / (2 * 4.5689974))
    padded[:, :5] = short
    torch.testing.assert_close(model(short).logits, model(padded).logits)
    other = randomised(AuMForAudioClassification(tiny(padding_value=-1.0)))
    assert (other(short).logits - model(short).logits).abs().max() > 1e-3


@pytest.mark.parametrize(("frames", "starts"), [(13, [0, 1]), (24, [0, 12]), (25, [0, 7, 13]), (40, [0, 9, 19, 28])])
def test_a_long_clip_has_the_mean_logits_of_evenly_placed_windows(frames: int, starts: list[int]) -> None:
    model = randomised(AuMForAudioClassification(tiny()))
    long = clips(2, frames=frames)
    expected = torch.stack([model(long[:, start : start + FRAMES]).logits for start in starts]).mean(0)
    torch.testing.assert_close(model(long).logits, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("frames", [1, 11, 12, 13, 23, 24, 25, 50])
def test_every_frame_is_heard(frames: int) -> None:
    model = randomised(AuMForAudioClassification(tiny()))
    clip = clips(1, frames=frames).requires_grad_()
    model(clip).logits.pow(2).sum().backward()
    assert (clip.grad[0].abs().sum(-1) > 0).all()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("cls_position", ["middle", "none"])
def test_clips_of_one_to_five_windows_score_the_same_in_one_batch(side: str, cls_position: str) -> None:
    model = randomised(AuMForAudioClassification(tiny(cls_position=cls_position)))
    lengths, longest = [3, 12, 13, 30, 49], 61
    batch, mask = torch.full((5, longest, BANDS), float("nan")), torch.zeros(5, longest)
    alone = []
    for row, length in enumerate(lengths):
        clip = clips(1, frames=length, seed=length)
        place = slice(longest - length, None) if side == "left" else slice(0, length)
        batch[row, place], mask[row, place] = clip[0], 1
        alone.append(model(clip).logits)
    together = model(batch, attention_mask=mask).logits
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=0)


def test_hidden_states_of_windows_follow_each_other() -> None:
    model = randomised(AuMModel(tiny()))
    out = model(clips(2, frames=30), output_hidden_states=True)
    assert out.last_hidden_state.shape == (2, 3 * 7, 8)
    assert [state.shape for state in out.hidden_states] == [(2 * 3, 7, 8)] * 3
    first = model(clips(2, frames=30)[:, :FRAMES]).last_hidden_state
    torch.testing.assert_close(out.last_hidden_state[:, :7], first, atol=1e-5, rtol=0)
