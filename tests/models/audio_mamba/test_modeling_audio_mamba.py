"""AudioMamba against its formulas, its parameter counts, its head and its options."""

from collections.abc import Iterator
from typing import Any

import peft
import pytest
import torch

from hf_audio_mamba import AudioMambaConfig, AudioMambaForAudioClassification, AudioMambaModel
from tests.models.audio_mamba import formulas

SIZES = {"embed_dim": 8, "depths": [1, 1], "num_mel_bins": 8, "spec_size": 16, "num_labels": 3}


def tiny(**overrides: Any) -> AudioMambaConfig:
    return AudioMambaConfig(**{**SIZES, **overrides})


def randomised(model: Any, seed: int = 0) -> Any:
    """Give every tensor, norms, biases and running statistics too, values that matter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.add_(0.3 * torch.randn(tensor.shape, generator=generator))
        for name, tensor in model.named_buffers():
            if name.endswith("running_var"):
                tensor.abs_().add_(0.5)
    return model.eval()


def doubles(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.double() for name, tensor in model.state_dict().items()}


OPTIONS: list[dict[str, Any]] = [
    {},
    {"stem": "v1", "downsample": "v1", "state_size": 3},
    {"downsample": "v2", "gated": True, "conv_bias": True},
    {"head": "linear"},
    {"mlp_ratio": 0},
    {"num_mel_bins": 16},
    {"depths": [2], "num_mel_bins": 4},
    {"transformer_block": "global"},
    {"transformer_block": "windowed", "depths": [1], "num_mel_bins": 12, "spec_size": 48},
]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """The kernels of inference take maps as small as these on one thread alone."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_equals_the_formulas(options: dict[str, Any], gradients: bool) -> None:
    config = tiny(**options)
    model = randomised(AudioMambaForAudioClassification(config))
    clips = torch.randn(2, config.window_frames, config.num_mel_bins, generator=torch.Generator().manual_seed(1))
    with torch.set_grad_enabled(gradients):
        found = model(clips)
    # The windowed map is 12 x 12: windows of 6 x 6.
    expected = torch.stack([formulas.framewise(doubles(model), config, clip.double(), side=6) for clip in clips])
    torch.testing.assert_close(found.framewise_logits.double(), expected, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(found.logits.double(), expected.mean(1), atol=1e-5, rtol=1e-5)


def test_several_attention_heads_equal_the_formulas() -> None:
    config = tiny(embed_dim=64, depths=[1], transformer_block="windowed", num_mel_bins=4)
    model = randomised(AudioMambaModel(config))
    images = torch.randn(1, 16, 16)
    with torch.no_grad():
        found = model.encode(images)
    expected = formulas.features(doubles(model), config, images[0].double(), heads=2, side=4)
    torch.testing.assert_close(found[0].double(), expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("side", [(16, 24), (32, 8)], ids=str)
def test_images_need_not_be_square(side: tuple[int, int]) -> None:
    model = randomised(AudioMambaModel(tiny()))
    images = torch.randn(2, *side)
    with torch.no_grad():
        found = model.encode(images)
    expected = torch.stack([formulas.features(doubles(model), model.config, image.double()) for image in images])
    torch.testing.assert_close(found.double(), expected, atol=2e-5, rtol=1e-5)


def test_the_fold_of_the_paper() -> None:
    with torch.device("meta"):
        model = AudioMambaModel(AudioMambaConfig(embed_dim=4, depths=[1, 1, 1, 1]))
    frames = torch.arange(1024 * 64.0).view(1, 1024, 64)
    image = model.fold(frames)[0]
    assert image.shape == (256, 256)
    for r, c in ((0, 0), (63, 255), (64, 0), (200, 17), (255, 255)):
        assert image[r, c] == frames[0, (r // 64) * 256 + c, r % 64]
    # The last map: row 2 w + f of window w and frequency row f, column t of the window's eight steps.
    maps = torch.arange(64.0).view(1, 8, 8, 1)
    unfolded = model.unfold(maps)[0, ..., 0]
    assert unfolded.shape == (32, 2)
    assert all(unfolded[8 * w + t, f] == maps[0, 2 * w + f, t, 0] for w in range(4) for f in range(2) for t in range(8))


# --- sizes ------------------------------------------------------------------------------------------------------------


def count(**sizes: Any) -> int:
    with torch.device("meta"):
        model = AudioMambaForAudioClassification(AudioMambaConfig(**{"num_labels": 527, **sizes}))
    return sum(p.numel() for p in model.parameters())


TINY_GATED = {"gated": True, "depths": [2, 2, 6, 2]}


@pytest.mark.parametrize(
    ("sizes", "parameters"),
    [
        ({}, 40_141_807),
        ({"embed_dim": 64, "depths": [2, 2, 2, 2]}, 12_379_087),
        ({"embed_dim": 40, "depths": [2, 2, 2, 2]}, 5_249_015),
        ({"depths": [2, 2, 5, 2]}, 32_365_039),
        ({"embed_dim": 56, "depths": [2, 2, 6, 2]}, 12_344_007),
        ({"embed_dim": 36, "depths": [2, 2, 5, 2]}, 5_191_675),
        ({"state_size": 16, **TINY_GATED}, 40_212_079),
        ({"state_size": 16, "stem": "v1", "downsample": "v1"}, 40_171_759),
    ],
    ids=str,
)
def test_parameters(sizes: dict[str, Any], parameters: int) -> None:
    assert count(**sizes) == parameters


@pytest.mark.parametrize(
    ("sizes", "millions"),
    [
        ({"num_labels": 50}, 37.94),
        ({"num_labels": 50, "embed_dim": 64, "depths": [2, 2, 2, 2]}, 10.91),
        ({"num_labels": 50, "embed_dim": 40, "depths": [2, 2, 2, 2]}, 4.33),
        ({"num_labels": 50, "transformer_block": "windowed"}, 69.20),
        ({"num_labels": 50, "transformer_block": "global"}, 69.20),
        ({"state_size": 16, "conv_bias": True, **TINY_GATED}, 40.22),
        ({"state_size": 16, "conv_bias": True, "stem": "v1", "downsample": "v1"}, 40.18),
        (TINY_GATED, 38.62),
    ],
    ids=str,
)
def test_rounded_parameters(sizes: dict[str, Any], millions: float) -> None:
    assert round(count(**sizes) / 1e6, 2) == millions


def test_tensors_are_named_as_in_vmamba() -> None:
    with torch.device("meta"):
        shapes = {
            n: tuple(t.shape) for n, t in AudioMambaModel(AudioMambaConfig(depths=[2, 2, 5, 2])).named_parameters()
        }
    # One of each kind, of the published list for depths 2, 2, 5, 2; the stem there has three channels.
    expected = {
        "patch_embed.0.weight": (48, 1, 3, 3),
        "patch_embed.2.bias": (48,),
        "patch_embed.5.weight": (96, 48, 3, 3),
        "patch_embed.7.weight": (96,),
        "layers.0.blocks.0.norm.weight": (96,),
        "layers.0.blocks.0.op.x_proj_weight": (4, 8, 192),
        "layers.0.blocks.0.op.dt_projs_weight": (4, 192, 6),
        "layers.0.blocks.0.op.dt_projs_bias": (4, 192),
        "layers.1.blocks.0.op.A_logs": (1536, 1),
        "layers.1.blocks.0.op.Ds": (1536,),
        "layers.1.blocks.0.op.in_proj.weight": (384, 192),
        "layers.2.blocks.4.op.conv2d.weight": (768, 1, 3, 3),
        "layers.2.blocks.4.op.out_norm.weight": (768,),
        "layers.2.blocks.4.op.out_proj.weight": (384, 768),
        "layers.3.blocks.1.norm2.bias": (768,),
        "layers.3.blocks.1.mlp.fc1.weight": (3072, 768),
        "layers.3.blocks.1.mlp.fc2.bias": (768,),
        "layers.2.downsample.1.weight": (768, 384, 3, 3),
        "layers.2.downsample.3.bias": (768,),
        "norm.weight": (768,),
    }
    assert expected.items() <= shapes.items()
    # The list's 222 tensors but the two of its classification head, and the batch norm's two.
    assert len(shapes) == 222 - 2 + 2


# --- adapters and hooks -----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("one_thread")
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
def test_lora_adapters_take_part_in_inference_too() -> None:
    names = ["in_proj", "out_proj", "fc1", "fc2"]
    clips = torch.randn(2, 32, 8)
    for name in names:
        model = randomised(AudioMambaForAudioClassification(tiny()))
        with torch.no_grad():
            plain = model(clips).logits
            adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=[name], r=2)).eval()
            torch.testing.assert_close(adapted(clips).logits, plain, atol=1e-5, rtol=1e-5)
            for tensor_name, tensor in adapted.named_parameters():
                if "lora_B" in tensor_name:
                    tensor.normal_()
            assert not torch.allclose(adapted(clips).logits, plain, atol=1e-3), name


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    "name",
    ["patch_embed.0", "patch_embed.4", "layers.0.downsample.3", "layers.0.blocks.0.norm2", "layers.0.blocks.0.op"],
)
def test_hooks_are_called_in_inference_too(name: str) -> None:
    model = randomised(AudioMambaForAudioClassification(tiny()))
    called = []
    model.audio_mamba.get_submodule(name).register_forward_hook(lambda module, inputs, output: called.append(module))
    clips = torch.randn(2, 32, 8)
    with torch.no_grad():
        model(clips)
    assert len(called) == 1


# --- what each option does --------------------------------------------------------------------------------------------


def test_drop_path_grows_over_the_blocks_and_acts_in_training_alone() -> None:
    model = AudioMambaForAudioClassification(tiny(depths=[2, 3], drop_path_rate=0.4, transformer_block="windowed"))
    rates = [block.drop_path.probability for layer in model.audio_mamba.layers for block in layer.blocks]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert model.audio_mamba.layers[1].blocks[2].transformer.drop_path.probability == pytest.approx(0.4)
    clips = torch.randn(4, 32, 8)
    model.eval()
    assert torch.equal(model(clips).logits, model(clips).logits)
    model.train()
    assert not torch.equal(model(clips).logits, model(clips).logits)


def test_regression_gives_values_between_0_and_1() -> None:
    model = randomised(AudioMambaForAudioClassification(tiny(num_labels=2, problem_type="regression")))
    with torch.no_grad():
        out = model(10 * torch.randn(3, 80, 8))
    for values in (out.logits, out.framewise_logits):
        assert values.min() >= 0
        assert values.max() <= 1


def test_weights_start_as_in_vmamba() -> None:
    torch.manual_seed(0)
    model = AudioMambaForAudioClassification(tiny(embed_dim=64, depths=[1, 1], conv_bias=True))
    linear = model.audio_mamba.layers[0].blocks[0].mlp.fc1
    assert linear.weight.std().item() == pytest.approx(0.88 * 0.02, rel=0.05)  # truncated at two deviations
    assert linear.weight.abs().max() <= 0.04
    assert linear.bias.abs().max() == 0
    op = model.audio_mamba.layers[0].blocks[0].op
    assert op.conv2d.weight.std().item() == pytest.approx(1 / 3 / 3**0.5, rel=0.1)  # uniform within 1 / sqrt(9)
    assert op.dt_projs_bias.std() > 0
