"""AuM (see `modeling_aum`). Names are imported when they are first used."""

from typing import TYPE_CHECKING

from hf_audio_mamba._lazy import attach

if TYPE_CHECKING:
    from hf_audio_mamba.models.aum.configuration_aum import AuMConfig
    from hf_audio_mamba.models.aum.feature_extraction_aum import AuMFeatureExtractor
    from hf_audio_mamba.models.aum.modeling_aum import (
        AuMForAudioClassification,
        AuMModel,
        AuMPreTrainedModel,
    )

__all__ = [
    "AuMConfig",
    "AuMFeatureExtractor",
    "AuMForAudioClassification",
    "AuMModel",
    "AuMPreTrainedModel",
]

__getattr__ = attach(
    __name__,
    {
        "AuMConfig": ".configuration_aum",
        "AuMFeatureExtractor": ".feature_extraction_aum",
        "AuMForAudioClassification": ".modeling_aum",
        "AuMModel": ".modeling_aum",
        "AuMPreTrainedModel": ".modeling_aum",
    },
)
