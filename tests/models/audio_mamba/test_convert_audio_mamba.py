"""VMamba checkpoints in their three layouts, with random weights, as AudioMamba models."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_audio_mamba import AudioMambaConfig, AudioMambaForAudioClassification
from hf_audio_mamba.commands.convert import load_converted, run
from hf_audio_mamba.errors import CheckpointError
from hf_audio_mamba.models.audio_mamba.convert_audio_mamba import convert_vmamba
from tests.models.audio_mamba import formulas

Tensors = dict[str, torch.Tensor]
WIDTH, DEPTHS = 6, [1, 2]
LAYOUTS = ("training", "single file", "first version")
# What the tensors cannot tell: the geometry of the spectrogram.
FIELDS: dict[str, Any] = {"num_mel_bins": 8, "spec_size": 16, "num_labels": 3}


def vmamba(layout: str, *, stages: int = len(DEPTHS), state: int = 1) -> Tensors:
    """Tensors under the names of VMamba's training code; every one of them random, norms and biases too."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * 0.3

    def norm(name: str, width: int) -> Tensors:
        return {f"{name}.weight": draw(width), f"{name}.bias": draw(width)}

    first = layout == "first version"
    tensors = {"classifier.head.weight": draw(10, 12), "classifier.head.bias": draw(10)}
    tensors |= norm("classifier.norm", WIDTH * 2 ** (stages - 1))
    if first:
        tensors |= {"patch_embed.0.weight": draw(WIDTH, 3, 4, 4), "patch_embed.0.bias": draw(WIDTH)}
        tensors |= norm("patch_embed.2", WIDTH)
    else:
        tensors |= {"patch_embed.0.weight": draw(WIDTH // 2, 3, 3, 3), "patch_embed.0.bias": draw(WIDTH // 2)}
        tensors |= {"patch_embed.5.weight": draw(WIDTH, WIDTH // 2, 3, 3), "patch_embed.5.bias": draw(WIDTH)}
        tensors |= norm("patch_embed.2", WIDTH // 2) | norm("patch_embed.7", WIDTH)
    for stage in range(stages):
        width = WIDTH * 2**stage
        inner, rank = 2 * width, -(-width // 16)
        for block in range(DEPTHS[stage]):
            prefix = f"layers.{stage}.blocks.{block}."
            tensors |= norm(prefix + "norm", width) | norm(prefix + "op.out_norm", inner)
            tensors |= {
                prefix + "op.in_proj.weight": draw(2 * inner if first else inner, width),
                prefix + "op.conv2d.weight": draw(inner, 1, 3, 3),
                prefix + "op.x_proj_weight": draw(4, rank + 2 * state, inner),
                prefix + "op.dt_projs_weight": draw(4, inner, rank),
                prefix + "op.dt_projs_bias": draw(4, inner),
                prefix + "op.A_logs": draw(4 * inner, state),
                prefix + "op.Ds": draw(4 * inner),
                prefix + "op.out_proj.weight": draw(width, inner),
            }
            if first:
                tensors[prefix + "op.conv2d.bias"] = draw(inner)
                continue
            tensors |= norm(prefix + "norm2", width)
            tensors |= {prefix + "mlp.fc1.weight": draw(4 * width, width), prefix + "mlp.fc1.bias": draw(4 * width)}
            tensors |= {prefix + "mlp.fc2.weight": draw(width, 4 * width), prefix + "mlp.fc2.bias": draw(width)}
        down = f"layers.{stage}.downsample."
        if stage < stages - 1 and first:
            tensors |= norm(down + "norm", 4 * width) | {down + "reduction.weight": draw(2 * width, 4 * width)}
        elif stage < stages - 1:
            tensors |= {down + "1.weight": draw(2 * width, width, 3, 3), down + "1.bias": draw(2 * width)}
            tensors |= norm(down + "3", 2 * width)
    return tensors


def as_saved(tensors: Tensors, layout: str) -> Tensors:
    """The same tensors as another program of VMamba's saves them."""
    saved: Tensors = {}
    for name, tensor in tensors.items():
        if layout == "single file":
            stacked = re.sub(r"(x_proj|dt_projs)_weight$", r"\1.weight", name)
            linear = name.endswith((".in_proj.weight", ".out_proj.weight", ".fc1.weight", ".fc2.weight"))
            saved[stacked] = tensor.flatten(0, 1) if stacked != name else tensor[..., None, None] if linear else tensor
        elif layout == "first version":
            name = name.replace("patch_embed.0.", "patch_embed.proj.").replace("patch_embed.2.", "patch_embed.norm.")
            name = name.replace("classifier.", "").replace(".op.", ".self_attention.")
            saved[re.sub(r"(blocks\.\d+)\.norm\.", r"\1.ln_1.", name)] = tensor
        else:
            saved[name] = tensor
    return saved


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_converted_checkpoint_gives_the_published_features(layout: str) -> None:
    state = 3 if layout == "first version" else 1
    tensors = vmamba(layout, state=state)
    converted = convert_vmamba(as_saved(tensors, layout), **FIELDS)
    config = converted.config
    assert isinstance(config, AudioMambaConfig)
    assert (config.embed_dim, list(config.depths), config.state_size) == (WIDTH, DEPTHS, state)
    assert config.gated is config.conv_bias is (layout == "first version")
    model, report = load_converted(converted)
    assert {name.split(".")[0] for name in report.new if not name.startswith("audio_mamba.bn0.")} == {"classifier"}
    assert all("head." in name for name in report.dropped)
    assert len(report.dropped) == 2
    # A grey picture of three equal colours gives what the mean of the kernels gives for one.
    expected_weights = {name.removeprefix("classifier."): tensor.double() for name, tensor in tensors.items()}
    expected_weights["patch_embed.0.weight"] = expected_weights["patch_embed.0.weight"].mean(1, keepdim=True)
    for size in ((16, 16), (16, 24)):
        image = torch.randn(*size, generator=torch.Generator().manual_seed(1))
        expected = formulas.features(expected_weights, config, image.double())
        with torch.no_grad():
            found = model.base_model.encode(image[None])[0]
        torch.testing.assert_close(found.double(), expected, atol=5e-5, rtol=1e-4)


def test_a_deeper_model_keeps_new_blocks_where_the_file_ends() -> None:
    target = AudioMambaConfig(embed_dim=WIDTH, depths=[2, 2], **FIELDS)
    torch.manual_seed(0)
    converted = convert_vmamba(vmamba("training"), target=target)
    model, report = load_converted(converted, partial=True)
    new_blocks = {name for name in report.new if ".blocks." in name}
    assert new_blocks == {name for name in model.state_dict() if ".layers.0.blocks.1." in name}
    with pytest.raises(CheckpointError, match=r"layers\.0\.blocks\.1"):
        load_converted(converted)


def test_a_shallower_model_drops_blocks_and_says_so() -> None:
    target = AudioMambaConfig(embed_dim=WIDTH, depths=[1, 1], **FIELDS)
    converted = convert_vmamba(vmamba("training"), target=target)
    dropped = {name for name, reason in converted.dropped.items() if "fewer blocks" in reason}
    assert dropped == {name for name in vmamba("training") if name.startswith("layers.1.blocks.1.")}
    load_converted(converted)


@pytest.mark.parametrize(
    ("fields", "named"),
    [({"embed_dim": 8}, "embed_dim"), ({"depths": [1, 2, 1]}, "depths"), ({"gated": True}, "gated")],
    ids=str,
)
def test_a_model_of_another_size_is_refused_by_the_field(fields: dict[str, Any], named: str) -> None:
    sizes = {"embed_dim": WIDTH, "depths": DEPTHS, "num_mel_bins": 16, "spec_size": 16, "num_labels": 3}
    with pytest.raises(CheckpointError, match=named):
        convert_vmamba(vmamba("training"), target=AudioMambaConfig(**{**sizes, **fields}))


def test_a_tensor_of_another_size_is_refused_by_name() -> None:
    tensors = vmamba("training")
    tensors["layers.1.blocks.0.op.Ds"] = torch.ones(7)
    with pytest.raises(CheckpointError, match=r"layers\.1\.blocks\.0\.op\.Ds"):
        load_converted(convert_vmamba(tensors, **FIELDS))


def test_tiny_s2l5_has_as_many_tensors_as_the_published_file() -> None:
    config = AudioMambaConfig(depths=[2, 2, 5, 2], num_labels=527)
    with torch.device("meta"):
        state = AudioMambaForAudioClassification(config).state_dict()
    ours = {
        name.removeprefix("audio_mamba."): tuple(tensor.shape)
        for name, tensor in state.items()
        if not name.startswith(("classifier.", "audio_mamba.bn0."))
    }
    assert ours["layers.2.blocks.4.op.x_proj_weight"] == (4, 26, 768)
    assert ours["layers.0.downsample.1.weight"] == (192, 96, 3, 3)
    assert ours["layers.0.blocks.0.op.A_logs"] == (768, 1)
    # 222 tensors less the head of 1000 classes; there the final norm is called classifier.norm.
    assert len(ours) == 220


# --- the command ------------------------------------------------------------------------------------------------------


def published(tmp_path: Path) -> Path:
    """A file as VMamba's training code saves it; the command's model has 4 stages, for 64 mel bands."""
    tensors = vmamba("training", stages=2)
    path = tmp_path / "vssm.pth"
    torch.save({"model": tensors, "epoch": 3}, path)
    return path


def test_the_command_makes_a_folder_that_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from hf_audio_mamba.hub import load_classifier

    folder = tmp_path / "converted"
    assert run([str(published(tmp_path)), str(folder), "--source", "vmamba", "--num_labels", "4"]) == 0
    printed = capsys.readouterr().out
    assert "dropped: 2 tensors: classifier.head.bias, classifier.head.weight" in printed
    assert "left new" in printed
    model, extractor = load_classifier(folder)
    assert model.config.depths == DEPTHS
    assert model.config.num_labels == 4
    assert extractor.num_frames == model.config.window_frames
    card = (folder / "README.md").read_text()
    assert "vssm.pth" in card
    assert "`classifier.head.weight`: its labels are ImageNet's" in card
    assert str(tmp_path) not in card


def test_the_command_writes_nothing_where_something_is(tmp_path: Path) -> None:
    from hf_audio_mamba.errors import OutputError

    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_text("mine")
    with pytest.raises(OutputError, match="not empty"):
        run([str(published(tmp_path)), str(tmp_path / "kept"), "--source", "vmamba"])
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["file"]


def test_the_command_names_the_file_of_another_model(tmp_path: Path) -> None:
    path = published(tmp_path)
    with pytest.raises(CheckpointError, match=re.escape(str(path))):
        run([str(path), str(tmp_path / "out"), "--source", "aum"])
    assert {entry.name for entry in tmp_path.iterdir()} == {path.name}
