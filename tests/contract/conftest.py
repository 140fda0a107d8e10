"""The matrix of the contract tests: every test here runs once for every registered model."""

import pytest
from transformers import AutoModelForAudioClassification, PreTrainedModel

from tests.contract.model_cases import CASES, ModelCase


@pytest.fixture(params=CASES, ids=lambda case: case.model_type)
def case(request: pytest.FixtureRequest) -> ModelCase:
    return request.param


@pytest.fixture
def model(case: ModelCase) -> PreTrainedModel:
    import torch

    torch.manual_seed(0)
    return AutoModelForAudioClassification.from_config(case.config()).eval()
