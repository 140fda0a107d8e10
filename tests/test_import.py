"""`import hf_audio_mamba` is light, and makes the models known whenever and however often it is imported."""

import subprocess
import sys
import textwrap

import pytest

from hf_audio_mamba.models import FEATURE_EXTRACTORS, MODEL_TYPES


def run_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Overwriting" not in done.stderr
    return done.stdout


def test_import_does_no_heavy_work() -> None:
    code = """
        import sys
        import hf_audio_mamba
        heavy = {"torch", "transformers", "numba", "librosa", "datasets", "sklearn", "matplotlib", "soundfile", "numpy"}
        print(sorted(heavy & set(sys.modules)))
    """
    assert run_python(code).strip() == "[]"


CHECK = """
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification
from transformers.models.auto.feature_extraction_auto import FEATURE_EXTRACTOR_MAPPING
from transformers.pipelines import PIPELINE_REGISTRY
SIZES = {
    "audio_mamba": {"embed_dim": 8, "depths": [1], "num_mel_bins": 4, "spec_size": 4},
    "aum": {"hidden_size": 8, "num_hidden_layers": 1, "num_mel_bins": 4, "patch_size": 4, "max_length": 8},
    "htsat": {"embed_dim": 4, "depths": [1], "num_attention_heads": [1], "num_mel_bins": 4, "spec_size": 4},
    "momamba": {"hidden_size": 8, "num_hidden_layers": 1, "num_mel_bins": 4},
}
for model_type, sizes in SIZES.items():
    config = AutoConfig.for_model(model_type, **sizes)
    print(
        type(config).__name__,
        type(AutoModel.from_config(config)).__name__,
        type(AutoModelForAudioClassification.from_config(config)).__name__,
        FEATURE_EXTRACTOR_MAPPING[type(config)].__name__,
    )
print(type(PIPELINE_REGISTRY.supported_tasks["audio-classification"]["impl"]).__name__)
"""
CLASSES = ("Config", "Model", "ForAudioClassification")

# Each takes a fresh process of some seconds, so the default run has one of every kind.
ORDERS = [
    "import hf_audio_mamba\nimport transformers",
    "from transformers import pipeline, AutoModelForAudioClassification\nimport hf_audio_mamba",
    "import hf_audio_mamba\nfrom transformers import ASTModel, MambaModel",
    "from hf_audio_mamba.models.momamba.modeling_momamba import MoMambaModel",
    # Its base is being imported when transformers' part is ready for the other models.
    "from hf_audio_mamba.models.aum.feature_extraction_aum import AuMFeatureExtractor",
    "from hf_audio_mamba import AudioMambaFeatureExtractor",
]
MORE_ORDERS = [
    "from hf_audio_mamba.models.htsat.modeling_htsat import HTSATModel",
    "import transformers\nimport hf_audio_mamba",
    "from transformers import PreTrainedModel\nimport hf_audio_mamba",
    "import hf_audio_mamba\nfrom transformers import PreTrainedModel, Trainer",
    "import hf_audio_mamba, importlib\nimportlib.reload(hf_audio_mamba)\nfrom transformers import pipeline",
    "from transformers import pipeline\nimport hf_audio_mamba, importlib\nimportlib.reload(hf_audio_mamba)",
    "import hf_audio_mamba.ops\nfrom transformers.modeling_layers import GradientCheckpointingLayer",
    "from hf_audio_mamba import MoMambaForAudioClassification, MoMambaConfig",
    "from hf_audio_mamba import AudioMambaForAudioClassification, MoMambaConfig",
    "from hf_audio_mamba.models.audio_mamba import AudioMambaConfig",
    "from hf_audio_mamba.pipelines import AudioClassificationPipeline",
]


@pytest.mark.parametrize("order", [*ORDERS, *(pytest.param(order, marks=pytest.mark.slow) for order in MORE_ORDERS)])
def test_models_are_known_in_any_order_of_imports(order: str) -> None:
    models = []
    for model_type, prefix in MODEL_TYPES.items():
        features = MODEL_TYPES[FEATURE_EXTRACTORS.get(model_type, model_type)]
        models.append(" ".join([*(prefix + name for name in CLASSES), f"{features}FeatureExtractor"]))
    assert run_python(order + "\n" + CHECK).splitlines() == [*models, "AudioClassificationFactory"]


def test_importing_does_not_hide_the_loaders_of_transformers() -> None:
    code = """
        import hf_audio_mamba
        import transformers.models.auto.modeling_auto as module
        print(type(module.__loader__).__name__, type(module.__spec__.loader).__name__, module.__file__.endswith(".py"))
    """
    assert run_python(code).strip() == "SourceFileLoader SourceFileLoader True"


def test_unknown_names_are_attribute_errors() -> None:
    import hf_audio_mamba

    with pytest.raises(AttributeError, match="MoMambaForEverything"):
        _ = hf_audio_mamba.MoMambaForEverything
    assert set(hf_audio_mamba.__all__) <= set(dir(hf_audio_mamba))
    for name in hf_audio_mamba.__all__:
        assert getattr(hf_audio_mamba, name) is not None
