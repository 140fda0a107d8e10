"""Invariants of every model's forward pass."""

import inspect

import pytest
import torch
from transformers import AutoModel, AutoModelForAudioClassification, PreTrainedModel

from hf_audio_mamba.errors import ShapeError
from tests.contract.model_cases import ModelCase


def test_signature_and_main_input(model: PreTrainedModel) -> None:
    assert next(iter(inspect.signature(model.forward).parameters)) == model.main_input_name == "input_values"


def test_logits_embedding_and_hidden_states(case: ModelCase, model: PreTrainedModel) -> None:
    inputs = case.inputs()
    out = model(inputs, output_hidden_states=True)
    assert out.logits.shape == (2, 3)
    assert len(out.hidden_states) == case.num_blocks + 1
    base = AutoModel.from_config(case.config()).eval()
    embedding = base(inputs)
    assert embedding.pooler_output.shape == (2, case.config().hidden_size)
    assert embedding.last_hidden_state.shape[0] == 2


def test_hidden_states_can_be_asked_for_in_the_config(case: ModelCase) -> None:
    model = AutoModelForAudioClassification.from_config(case.config(output_hidden_states=True)).eval()
    assert len(model(case.inputs()).hidden_states) == case.num_blocks + 1
    assert model(case.inputs(), output_hidden_states=False).hidden_states is None


def test_hidden_states_keep_gradients(case: ModelCase, model: PreTrainedModel) -> None:
    out = model(case.inputs(), output_hidden_states=True)
    for state in out.hidden_states:
        state.retain_grad()
    out.logits.sum().backward()
    # The last block alone feeds the head; every earlier state must feed it too.
    assert all(state.grad is not None and state.grad.abs().sum() > 0 for state in out.hidden_states)


def test_tuple_equals_named_output(case: ModelCase, model: PreTrainedModel) -> None:
    inputs, labels = case.inputs(), torch.tensor([0, 2])
    named = model(inputs, labels=labels)
    as_tuple = model(inputs, labels=labels, return_dict=False)
    torch.testing.assert_close(as_tuple[0], named.loss)
    torch.testing.assert_close(as_tuple[1], named.logits)


def test_evaluation_is_deterministic(case: ModelCase, model: PreTrainedModel) -> None:
    assert torch.equal(model(case.inputs()).logits, model(case.inputs()).logits)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_clip_scores_the_same_alone_and_in_any_batch(case: ModelCase, model: PreTrainedModel, side: str) -> None:
    lengths = [case.frames, 1, 7, case.frames - 2]
    clips = [case.inputs(1, frames=n, seed=n)[0] for n in lengths]
    longest = case.frames + 3
    batch = torch.full((len(clips), longest, case.bands), 1e3)  # padding that must never be read
    mask = torch.zeros(len(clips), longest, dtype=torch.int32)
    for row, clip in enumerate(clips):
        place = slice(longest - len(clip), None) if side == "left" else slice(0, len(clip))
        batch[row, place], mask[row, place] = clip, 1
    with torch.no_grad():
        together = model(batch, attention_mask=mask).logits
        alone = torch.cat([model(clip[None]).logits for clip in clips])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_a_full_mask_changes_nothing(case: ModelCase, model: PreTrainedModel) -> None:
    inputs = case.inputs()
    masked = model(inputs, attention_mask=torch.ones(inputs.shape[:2])).logits
    torch.testing.assert_close(masked, model(inputs).logits, atol=1e-6, rtol=0)


@pytest.mark.parametrize("shape", [(2, 5), (2, 5, 99), (2, 0, 6)])
def test_wrong_input_shapes_are_named(model: PreTrainedModel, shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="input_values"):
        model(torch.zeros(shape))


def test_a_mask_of_another_shape_is_named(case: ModelCase, model: PreTrainedModel) -> None:
    with pytest.raises(ShapeError, match="attention_mask"):
        model(case.inputs(), attention_mask=torch.ones(2, case.frames + 1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_close(case: ModelCase, model: PreTrainedModel, dtype: torch.dtype) -> None:
    inputs = case.inputs()
    with torch.no_grad():
        full = model(inputs).logits
        half = model.to(dtype)(inputs.to(dtype)).logits
    assert half.dtype == dtype
    torch.testing.assert_close(half.float(), full, atol=5e-2, rtol=5e-2)


def test_autocast_stays_close(case: ModelCase, model: PreTrainedModel) -> None:
    inputs = case.inputs()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        half = model(inputs).logits
    torch.testing.assert_close(half.float(), model(inputs).logits, atol=5e-2, rtol=5e-2)


def test_compiles_without_graph_breaks(case: ModelCase, model: PreTrainedModel) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    inputs, mask = case.inputs(), torch.ones(2, case.frames)
    mask[0, :4] = 0
    with torch.no_grad():
        torch.testing.assert_close(
            compiled(inputs, attention_mask=mask).logits,
            model(inputs, attention_mask=mask).logits,
            atol=1e-5,
            rtol=0,
        )
