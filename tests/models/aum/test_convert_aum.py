"""Published AuM and Vision Mamba checkpoints, in their layout and with random weights, as models of this package."""

from typing import Any

import pytest
import torch
from transformers import set_seed

from hf_audio_mamba.errors import CheckpointError
from hf_audio_mamba.models.aum import AuMConfig, AuMForAudioClassification
from hf_audio_mamba.models.aum.convert_aum import convert_aum, convert_vim

Tensors = dict[str, torch.Tensor]
BANDS, FRAMES, PATCH, WIDTH, DEPTH, STATE = 8, 24, 4, 32, 2, 4
INNER, RANK = 2 * WIDTH, 2


def official_checkpoint(variant: str, *, tokens: int = 1, colours: int = 1, labels: int = 5) -> Tensors:
    """Tensors as the published code saves them; every one of them random, norms and biases too."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * 0.3

    names = {0: [], 1: ["cls_token"], 2: ["cls_token_head", "cls_token_tail"]}[tokens]
    tensors = {name: draw(1, 1, WIDTH) for name in names}
    tensors |= {
        "patch_embed.proj.weight": draw(WIDTH, colours, PATCH, PATCH),
        "patch_embed.proj.bias": draw(WIDTH),
        "pos_embed.pos_embed": draw(1, tokens + BANDS * FRAMES // PATCH**2, WIDTH),
        "norm_f.weight": draw(WIDTH),
        "head.weight": draw(labels, WIDTH),
        "head.bias": draw(labels),
    }
    for layer in range(DEPTH):
        prefix = f"layers.{layer}."
        mixer = {
            "in_proj.weight": draw(2 * INNER, WIDTH),
            "out_proj.weight": draw(WIDTH, INNER),
            "A_log": draw(INNER, STATE),
        }
        for suffix in ("", "_b") if variant == "bi-bi" else ("",):
            mixer |= {
                f"conv1d{suffix}.weight": draw(INNER, 1, 4),
                f"conv1d{suffix}.bias": draw(INNER),
                f"x_proj{suffix}.weight": draw(RANK + 2 * STATE, INNER),
                f"dt_proj{suffix}.weight": draw(INNER, RANK),
                f"dt_proj{suffix}.bias": draw(INNER),
                f"D{suffix}": draw(INNER),
            }
        if variant != "fo-fo":
            mixer["A_b_log"] = draw(INNER, STATE)
        tensors[prefix + "norm.weight"] = draw(WIDTH)
        tensors |= {f"{prefix}mixer.{name}": tensor for name, tensor in mixer.items()}
    return tensors


def loaded(converted: Any) -> AuMForAudioClassification:
    set_seed(1)
    model = AuMForAudioClassification(converted.config).double().eval()
    model.load_state_dict({name: tensor.double() for name, tensor in converted.tensors.items()}, strict=False)
    return model


def rms_norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weight


def ssm(w: Tensors, x: torch.Tensor, a_log: torch.Tensor, suffix: str = "") -> torch.Tensor:
    """One selective scan over `(length, channels)`, step by step."""
    dt, b, c = (x @ w[f"x_proj{suffix}.weight"].T).split([RANK, STATE, STATE], dim=-1)
    step = torch.nn.functional.softplus(dt @ w[f"dt_proj{suffix}.weight"].T + w[f"dt_proj{suffix}.bias"])
    state, outputs = torch.zeros(INNER, STATE, dtype=x.dtype), []
    for t in range(len(x)):
        state = torch.exp(-step[t, :, None] * a_log.exp()) * state + step[t, :, None] * b[t] * x[t, :, None]
        outputs.append(state @ c[t] + w[f"D{suffix}"] * x[t])
    return torch.stack(outputs)


def conv(w: Tensors, x: torch.Tensor, suffix: str = "") -> torch.Tensor:
    kernel = w[f"conv1d{suffix}.weight"][:, 0]
    padded = torch.cat([x.new_zeros(3, INNER), x])
    rows = [(padded[t : t + 4] * kernel.T).sum(0) + w[f"conv1d{suffix}.bias"] for t in range(len(x))]
    return torch.nn.functional.silu(torch.stack(rows))


def mixer(w: Tensors, hidden: torch.Tensor, variant: str) -> torch.Tensor:
    """The three kinds of mixers as their papers and the published forward passes have them."""
    x, z = (hidden @ w["in_proj.weight"].T).chunk(2, dim=-1)
    gate = torch.nn.functional.silu(z)
    convolved = conv(w, x)
    y = ssm(w, convolved, w["A_log"]) * gate
    if variant == "fo-bi":
        y = y + (ssm(w, convolved.flip(0), w["A_b_log"]) * gate.flip(0)).flip(0)
    elif variant == "bi-bi":
        backward = ssm(w, conv(w, x.flip(0), "_b"), w["A_b_log"], "_b") * gate.flip(0)
        y = (y + backward.flip(0)) / 2
    return y @ w["out_proj.weight"].T


def official_logits(tensors: Tensors, spectrogram: torch.Tensor, variant: str, position: str) -> torch.Tensor:
    """The published forward pass for one clip `(frames, bands)`, in float64."""
    w = {name: tensor.double() for name, tensor in tensors.items()}
    image = spectrogram.double().T[None, None]
    kernels = w["patch_embed.proj.weight"].mean(1, keepdim=True)
    patches = torch.nn.functional.conv2d(image, kernels, w["patch_embed.proj.bias"], stride=PATCH)
    tokens = patches[0].flatten(1).T
    leading = w["pos_embed.pos_embed"].shape[1] - len(tokens)
    tokens = tokens + w["pos_embed.pos_embed"][0, leading:]
    at: list[int]
    if position == "double":
        ends = [w[f"cls_token_{end}"][0] + w["pos_embed.pos_embed"][0, [i]] for i, end in enumerate(("head", "tail"))]
        tokens, at = torch.cat([ends[0], tokens, ends[1]]), [0, len(tokens) + 1]
    elif position == "none":
        at = list(range(len(tokens)))
    else:
        place = {"front": 0, "middle": len(tokens) // 2, "end": len(tokens)}[position]
        token = w["cls_token"][0] + w["pos_embed.pos_embed"][0, :1]
        tokens, at = torch.cat([tokens[:place], token, tokens[place:]]), [place]
    residual = tokens
    for layer in range(DEPTH):
        prefix = f"layers.{layer}."
        block = {name.removeprefix(prefix + "mixer."): tensor for name, tensor in w.items()}
        residual = residual + mixer(block, rms_norm(residual, w[prefix + "norm.weight"]), variant)
    embedding = rms_norm(residual, w["norm_f.weight"])[at].mean(0)
    return embedding @ w["head.weight"].T + w["head.bias"]


@pytest.mark.parametrize("variant", ["fo-fo", "fo-bi", "bi-bi"])
@pytest.mark.parametrize("position", ["front", "middle", "end", "double", "none"])
def test_a_converted_checkpoint_gives_the_published_logits(variant: str, position: str) -> None:
    tokens = {"double": 2, "none": 0}.get(position, 1)
    checkpoint = official_checkpoint(variant, tokens=tokens)
    told_by_tensors = position in ("double", "none")
    converted = convert_aum(checkpoint, num_mel_bins=BANDS, **({} if told_by_tensors else {"cls_position": position}))
    config = converted.config
    assert (config.hidden_size, config.num_hidden_layers, config.state_size) == (WIDTH, DEPTH, STATE)
    assert (config.bimamba_type, config.cls_position, config.num_labels) == (variant, position, 5)
    assert (config.patch_size, config.max_length) == (PATCH, FRAMES)
    model = loaded(converted)
    assert set(converted.tensors) == set(model.state_dict())
    spectrogram = torch.randn(FRAMES, BANDS, generator=torch.Generator().manual_seed(3))
    expected = official_logits(checkpoint, spectrogram, variant, position)
    with torch.no_grad():
        torch.testing.assert_close(model(spectrogram[None].double()).logits[0], expected, atol=1e-6, rtol=1e-6)


def vim_checkpoint(side: int) -> Tensors:
    """Vision Mamba: three colours, a square of patches, rows of positions in the order of the sequence."""
    tensors = official_checkpoint("bi-bi", colours=3, labels=10)
    table = tensors.pop("pos_embed.pos_embed")
    generator = torch.Generator().manual_seed(5)
    tensors["pos_embed"] = torch.randn(1, side * side + 1, table.shape[2], generator=generator) * 0.3
    return tensors


def test_vision_mamba_on_its_own_grid_gives_its_own_embedding() -> None:
    checkpoint = vim_checkpoint(side=4)
    converted = convert_vim(checkpoint, num_mel_bins=16, max_length=16, num_labels=3)
    assert set(converted.dropped) == {"head.weight", "head.bias"}
    model = loaded(converted)
    assert {name for name in model.state_dict() if name not in converted.tensors} == {"head.weight", "head.bias"}
    table = checkpoint.pop("pos_embed")[0]
    # In the middle of sixteen patches stands row 8, the class token's.
    as_aum = checkpoint | {"pos_embed.pos_embed": torch.cat([table[8:9], table[:8], table[9:]])[None]}
    as_aum |= {name: tensor.float() for name, tensor in model.head.state_dict(prefix="head.").items()}
    spectrogram = torch.randn(16, 16, generator=torch.Generator().manual_seed(3))
    expected = official_logits(as_aum, spectrogram, "bi-bi", "middle")
    with torch.no_grad():
        torch.testing.assert_close(model(spectrogram[None].double()).logits[0], expected, atol=1e-6, rtol=1e-6)


def test_vision_mamba_is_interpolated_for_a_spectrogram() -> None:
    converted = convert_vim(vim_checkpoint(side=4), num_mel_bins=8, max_length=24, num_labels=3)
    assert converted.config.patch_grid == (2, 6)
    assert loaded(converted)(torch.zeros(1, 24, 8, dtype=torch.float64)).logits.shape == (1, 3)
    assert any("interpolated" in note for note in converted.notes)


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (lambda tensors: tensors.pop("head.weight"), "head.weight"),
        (lambda tensors: tensors.pop("layers.0.mixer.A_log"), "A_log"),
        (lambda tensors: tensors.pop("norm_f.weight"), "norm_f"),
        (lambda tensors: tensors.update({"layers.3.norm.weight": torch.ones(WIDTH)}), "numbered"),
        (lambda tensors: tensors.update({"pos_embed.pos_embed": torch.zeros(1, 8, WIDTH)}), "mel bands"),
        (lambda tensors: tensors.update({"patch_embed.proj.weight": torch.zeros(WIDTH, 2, 4, 4)}), "convolution"),
    ],
    ids=["no head", "no mixer", "no norm", "gap", "odd positions", "two colours"],
)
def test_what_is_not_an_aum_checkpoint_is_refused_by_the_tensor_that_tells(edit: Any, named: str) -> None:
    tensors = official_checkpoint("fo-bi")
    edit(tensors)
    with pytest.raises(CheckpointError, match=named):
        convert_aum(tensors, num_mel_bins=BANDS)


def test_a_token_position_that_the_tensors_contradict_is_refused() -> None:
    with pytest.raises(CheckpointError, match="double"):
        convert_aum(official_checkpoint("fo-bi"), num_mel_bins=BANDS, cls_position="double")


def test_published_sizes_are_recognised() -> None:
    with torch.device("meta"):
        state = AuMForAudioClassification(AuMConfig(num_labels=527)).state_dict()
    checkpoint = {name.removeprefix("aum."): tensor for name, tensor in state.items()}
    config = convert_aum(checkpoint).config
    assert (config.hidden_size, config.max_length, config.bimamba_type) == (768, 1024, "fo-bi")
