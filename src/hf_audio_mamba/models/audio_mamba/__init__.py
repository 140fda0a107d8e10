"""AudioMamba of Lin & Hu (see `modeling_audio_mamba`). Names are imported when they are first used."""

from typing import TYPE_CHECKING

from hf_audio_mamba._lazy import attach

if TYPE_CHECKING:
    from hf_audio_mamba.models.audio_mamba.configuration_audio_mamba import AudioMambaConfig
    from hf_audio_mamba.models.audio_mamba.feature_extraction_audio_mamba import AudioMambaFeatureExtractor
    from hf_audio_mamba.models.audio_mamba.modeling_audio_mamba import (
        AudioMambaClassifierOutput,
        AudioMambaForAudioClassification,
        AudioMambaModel,
        AudioMambaModelOutput,
        AudioMambaPreTrainedModel,
    )

__all__ = [
    "AudioMambaClassifierOutput",
    "AudioMambaConfig",
    "AudioMambaFeatureExtractor",
    "AudioMambaForAudioClassification",
    "AudioMambaModel",
    "AudioMambaModelOutput",
    "AudioMambaPreTrainedModel",
]

__getattr__ = attach(
    __name__,
    {
        "AudioMambaClassifierOutput": ".modeling_audio_mamba",
        "AudioMambaConfig": ".configuration_audio_mamba",
        "AudioMambaFeatureExtractor": ".feature_extraction_audio_mamba",
        "AudioMambaForAudioClassification": ".modeling_audio_mamba",
        "AudioMambaModel": ".modeling_audio_mamba",
        "AudioMambaModelOutput": ".modeling_audio_mamba",
        "AudioMambaPreTrainedModel": ".modeling_audio_mamba",
    },
)
