"""MoMamba against a plain transcription of the paper, its parameter counts, and its ablations."""

import math
from typing import Any

import peft
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hf_audio_mamba import MoMambaConfig, MoMambaForAudioClassification, MoMambaModel
from hf_audio_mamba.errors import ShapeError
from hf_audio_mamba.models.momamba.modeling_momamba import sinusoidal_positions


def tiny(**overrides: Any) -> MoMambaConfig:
    sizes = {
        "hidden_size": 8,
        "num_hidden_layers": 2,
        "state_size": 4,
        "num_mel_bins": 5,
        "hidden_dropout": 0.0,
    }
    return MoMambaConfig(**{**sizes, "num_labels": 3, **overrides})


def randomised(model: torch.nn.Module, seed: int = 0) -> Any:
    """Give every tensor, norms and biases too, values that matter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


# --- the paper, transcribed step by step in float64 -------------------------------------------------------------------


def mixer(w: dict[str, Tensor], prefix: str, u: Tensor) -> Tensor:
    """One sequence `(length, width)` through Mamba (Gu & Dao 2024, algorithm 2), one step of time after another."""
    x, z = (u @ w[prefix + "in_proj.weight"].T).chunk(2, dim=-1)
    kernel, bias = w[prefix + "conv1d.weight"][:, 0], w[prefix + "conv1d.bias"]
    padded = torch.cat([x.new_zeros(kernel.shape[1] - 1, x.shape[1]), x])
    x = F.silu(torch.stack([(padded[t : t + kernel.shape[1]] * kernel.T).sum(0) + bias for t in range(len(u))]))
    a = -w[prefix + "A_log"].exp()
    rank, states = w[prefix + "dt_proj.weight"].shape[1], a.shape[1]
    h, outputs = torch.zeros_like(a), []
    for t in range(len(u)):
        low, b, c = (w[prefix + "x_proj.weight"] @ x[t]).split([rank, states, states])
        dt = F.softplus(w[prefix + "dt_proj.weight"] @ low + w[prefix + "dt_proj.bias"])
        h = torch.exp(dt[:, None] * a) * h + dt[:, None] * b[None] * x[t][:, None]
        outputs.append((h @ c + w[prefix + "D"] * x[t]) * F.silu(z[t]))
    return torch.stack(outputs) @ w[prefix + "out_proj.weight"].T


def paper(model: MoMambaForAudioClassification, frames: Tensor) -> Tensor:
    """Logits of one clip `(frames, bands)` by sections 3.2.1 to 3.2.4 of the paper."""
    w = {name: tensor.double() for name, tensor in model.state_dict().items()}
    u = frames.double() @ w["momamba.embeddings.projection.weight"].T + w["momamba.embeddings.projection.bias"]
    length = len(u)
    where = {"end": length, "middle": length // 2, "front": 0}[model.config.cls_position]
    h = torch.cat([u[:where], w["momamba.embeddings.cls_token"][0], u[where:]])
    others = [t for t in range(length + 1) if t != where]
    backward = others[::-1]
    backward.insert(where, where)
    for n in range(model.config.num_hidden_layers):
        prefix = f"momamba.layers.{n}."
        forwards = mixer(w, prefix + "mixer.forward_mixer.", h)
        backwards = mixer(w, prefix + "mixer.backward_mixer.", h[backward])[backward]
        out = torch.cat([forwards, backwards], -1) @ w[prefix + "mixer.combine.weight"].T
        out = out + w[prefix + "mixer.combine.bias"] + (h if model.config.residual else 0)
        h = F.layer_norm(out, out.shape[-1:], w[prefix + "norm.weight"], w[prefix + "norm.bias"])
    return h[where] @ w["classifier.weight"].T + w["classifier.bias"]


@pytest.mark.parametrize("cls_position", ["end", "middle", "front"])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("frames", [1, 6, 9])
def test_equals_the_paper(cls_position: str, residual: bool, frames: int) -> None:
    model = randomised(MoMambaForAudioClassification(tiny(cls_position=cls_position, residual=residual)))
    clips = torch.randn(2, frames, 5, generator=torch.Generator().manual_seed(1))
    expected = torch.stack([paper(model, clip) for clip in clips])
    torch.testing.assert_close(model(clips).logits.double(), expected, atol=1e-5, rtol=1e-5)


# --- sizes ------------------------------------------------------------------------------------------------------------


def count(**sizes: Any) -> int:
    with torch.device("meta"):
        model = MoMambaForAudioClassification(MoMambaConfig(**sizes))
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("labels", "parameters"),
    [(4, 46_435_332), (10, 46_441_482), (11, 46_442_507), (24, 46_455_832), (128, 46_562_432)],
)
def test_parameters_of_the_base_size(labels: int, parameters: int) -> None:
    assert count(hidden_size=1024, num_hidden_layers=3, num_labels=labels) == parameters


def test_parameters_of_the_regression_model_with_chroma() -> None:
    sizes = {"hidden_size": 1024, "num_hidden_layers": 3, "num_mel_bins": 140, "num_labels": 1}
    assert count(**sizes, regression_hidden_size=512) == count(**sizes) == 46_968_833


@pytest.mark.parametrize(("blocks", "millions"), [(3, 11.82), (4, 15.73), (5, 19.65), (6, 23.56)])
def test_parameters_of_the_small_width(blocks: int, millions: float) -> None:
    sizes = {"hidden_size": 512, "num_hidden_layers": blocks, "num_labels": 10}
    assert round(count(**sizes) / 1e6, 2) == millions


def test_parameters_without_the_second_direction() -> None:
    assert round(count(hidden_size=1024, num_hidden_layers=6, num_labels=10, bidirectional=False) / 1e6, 2) == 40.15


# --- what each option does --------------------------------------------------------------------------------------------


def influence(config: MoMambaConfig, frames: int = 12) -> Tensor:
    """Per frame, how strongly it moves the logits: `(frames,)`."""
    model = randomised(MoMambaForAudioClassification(config))
    clip = torch.randn(1, frames, 5, generator=torch.Generator().manual_seed(2)).requires_grad_()
    model(clip).logits.pow(2).sum().backward()
    assert clip.grad is not None
    return clip.grad[0].abs().sum(-1)


def test_a_token_at_the_end_or_in_the_middle_sees_every_frame() -> None:
    assert (influence(tiny(cls_position="end")) > 0).all()
    assert (influence(tiny(cls_position="middle")) > 0).all()


def test_a_token_at_the_front_sees_nothing() -> None:
    """Why the paper's front row scores like a constant: the token precedes all frames in both directions."""
    assert (influence(tiny(cls_position="front")) == 0).all()


def test_one_block_with_the_token_in_the_middle_hears_each_half_from_its_side() -> None:
    """Appendix A.1: the first half by the forward pass, the second half by the backward pass."""
    config = tiny(cls_position="middle", num_hidden_layers=1)
    model = randomised(MoMambaForAudioClassification(config))
    with torch.no_grad():
        model.momamba.layers[0].mixer.backward_mixer.out_proj.weight.zero_()
    clip = torch.randn(1, 12, 5).requires_grad_()
    model(clip).logits.sum().backward()
    heard = clip.grad[0].abs().sum(-1) > 0
    assert heard[:6].all()
    assert not heard[6:].any()


def test_a_unidirectional_model_hears_forwards_only() -> None:
    model = randomised(MoMambaForAudioClassification(tiny(bidirectional=False, use_cls_token=False)))
    clip = torch.randn(1, 10, 5).requires_grad_()
    model(clip, output_hidden_states=True).hidden_states[-1][0, 4].sum().backward()
    heard = clip.grad[0].abs().sum(-1) > 0
    assert heard[:5].all()
    assert not heard[5:].any()


def test_order_matters_to_the_model() -> None:
    model = randomised(MoMambaForAudioClassification(tiny()))
    clip = torch.randn(1, 10, 5)
    assert (model(clip).logits - model(clip.flip(1)).logits).abs().max() > 1e-3


def test_pooling_takes_the_last_frame_or_the_mean_of_valid_frames() -> None:
    clip = torch.randn(1, 7, 5)
    padded = torch.cat([torch.full((1, 3, 5), 9.0), clip], dim=1)
    mask = torch.tensor([[0] * 3 + [1] * 7])
    for pooling in ("last", "mean"):
        model = randomised(MoMambaModel(tiny(use_cls_token=False, pooling=pooling)))
        out = model(clip)
        expected = out.last_hidden_state[:, -1] if pooling == "last" else out.last_hidden_state.mean(1)
        torch.testing.assert_close(out.pooler_output, expected)
        torch.testing.assert_close(
            model(padded, attention_mask=mask).pooler_output, out.pooler_output, atol=1e-5, rtol=0
        )


@pytest.mark.parametrize("encoding", ["learned", "sinusoidal"])
@pytest.mark.parametrize("cls_position", ["end", "middle"])
def test_positions_start_at_the_first_valid_frame(encoding: str, cls_position: str) -> None:
    config = tiny(position_encoding=encoding, cls_position=cls_position, max_position_embeddings=16)
    model = randomised(MoMambaForAudioClassification(config))
    clip = torch.randn(1, 7, 5)
    padded = torch.cat([torch.zeros(1, 3, 5), clip], dim=1)
    mask = torch.tensor([[0] * 3 + [1] * 7])
    torch.testing.assert_close(model(padded, attention_mask=mask).logits, model(clip).logits, atol=1e-5, rtol=0)
    plain = randomised(MoMambaForAudioClassification(tiny(cls_position=cls_position)))
    plain.load_state_dict(model.state_dict(), strict=False)
    assert (plain(clip).logits - model(clip).logits).abs().max() > 1e-3


def test_sinusoids_follow_their_formula() -> None:
    table = sinusoidal_positions(torch.tensor([[0, 3]]), 6)[0]
    for i in range(3):
        angle = 3 / 10_000 ** (2 * i / 6)
        assert table[1, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-6)
        assert table[1, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-6)
    assert sinusoidal_positions(torch.tensor([[1]]), 5).shape == (1, 1, 5)


def test_a_clip_longer_than_the_learned_positions_is_named() -> None:
    model = MoMambaModel(tiny(position_encoding="learned", max_position_embeddings=8))
    model(torch.zeros(1, 7, 5))
    with pytest.raises(ShapeError, match="max_position_embeddings"):
        model(torch.zeros(1, 8, 5))


def test_regression_stays_between_0_and_1_and_drops_inside_its_head() -> None:
    model = MoMambaForAudioClassification(tiny(num_labels=2, problem_type="regression", hidden_dropout=0.5))
    out = model.eval()(100 * torch.randn(4, 6, 5)).logits
    assert out.shape == (4, 2)
    assert ((out > 0) & (out < 1)).all()
    assert model.classifier.dense.out_features == 4
    head = model.classifier.train()
    torch.manual_seed(0)
    embedding = torch.randn(64, 8)
    assert not torch.equal(head(embedding), head(embedding))


def test_deep_models_without_residual_are_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    from transformers.utils import logging

    logging.enable_propagation()
    MoMambaConfig(num_hidden_layers=6, residual=False)
    logging.disable_propagation()
    assert "residual=True" in caplog.text


def test_lora_reaches_every_projection() -> None:
    targets = ["in_proj", "x_proj", "dt_proj", "out_proj"]
    model = peft.get_peft_model(
        randomised(MoMambaForAudioClassification(tiny())), peft.LoraConfig(target_modules=targets, r=2)
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)  # starts at zero, where lora_A would get no gradient
    model(torch.randn(2, 6, 5), labels=torch.tensor([0, 1])).loss.backward()
    adapters = {name: p for name, p in model.named_parameters() if "lora_" in name}
    assert len(adapters) == 2 * len(targets) * 4
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in adapters.values())
