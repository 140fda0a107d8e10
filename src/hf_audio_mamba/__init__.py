"""State-space models for audio and music in Hugging Face Transformers.

Importing this package makes its models known to the Auto classes and to `pipeline("audio-classification")`. Names are
imported when they are first used, so the import itself is light.
"""

from typing import TYPE_CHECKING

from hf_audio_mamba import _registration
from hf_audio_mamba._lazy import attach
from hf_audio_mamba.models import MODEL_TYPES

if TYPE_CHECKING:
    from hf_audio_mamba.fast_mamba import use_fast_mamba, use_stock_mamba
    from hf_audio_mamba.models.audio_mamba import (
        AudioMambaClassifierOutput,
        AudioMambaConfig,
        AudioMambaFeatureExtractor,
        AudioMambaForAudioClassification,
        AudioMambaModel,
        AudioMambaModelOutput,
        AudioMambaPreTrainedModel,
    )
    from hf_audio_mamba.models.aum import (
        AuMConfig,
        AuMFeatureExtractor,
        AuMForAudioClassification,
        AuMModel,
        AuMPreTrainedModel,
    )
    from hf_audio_mamba.models.htsat import (
        HTSATConfig,
        HTSATForAudioClassification,
        HTSATModel,
        HTSATModelOutput,
        HTSATPreTrainedModel,
    )
    from hf_audio_mamba.models.momamba import (
        MoMambaConfig,
        MoMambaFeatureExtractor,
        MoMambaForAudioClassification,
        MoMambaModel,
        MoMambaPreTrainedModel,
    )
    from hf_audio_mamba.ops.backends import available_backends, scan_backend
    from hf_audio_mamba.ops.selective_scan import selective_scan

__version__ = "0.1.0"

__all__ = [
    "AuMConfig",
    "AuMFeatureExtractor",
    "AuMForAudioClassification",
    "AuMModel",
    "AuMPreTrainedModel",
    "AudioMambaClassifierOutput",
    "AudioMambaConfig",
    "AudioMambaFeatureExtractor",
    "AudioMambaForAudioClassification",
    "AudioMambaModel",
    "AudioMambaModelOutput",
    "AudioMambaPreTrainedModel",
    "HTSATConfig",
    "HTSATForAudioClassification",
    "HTSATModel",
    "HTSATModelOutput",
    "HTSATPreTrainedModel",
    "MoMambaConfig",
    "MoMambaFeatureExtractor",
    "MoMambaForAudioClassification",
    "MoMambaModel",
    "MoMambaPreTrainedModel",
    "available_backends",
    "scan_backend",
    "selective_scan",
    "use_fast_mamba",
    "use_stock_mamba",
]

__getattr__ = attach(
    __name__,
    {
        name: f".models.{model_type}"
        for model_type, prefix in MODEL_TYPES.items()
        for name in __all__
        if name.startswith(prefix)
    }
    | dict.fromkeys(("available_backends", "scan_backend", "selective_scan"), ".ops")
    | dict.fromkeys(("use_fast_mamba", "use_stock_mamba"), ".fast_mamba"),
)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


_registration.install()
