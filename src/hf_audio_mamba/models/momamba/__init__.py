"""MoMamba (see `modeling_momamba`). Names are imported when they are first used."""

from typing import TYPE_CHECKING

from hf_audio_mamba._lazy import attach

if TYPE_CHECKING:
    from hf_audio_mamba.models.momamba.configuration_momamba import MoMambaConfig
    from hf_audio_mamba.models.momamba.feature_extraction_momamba import MoMambaFeatureExtractor
    from hf_audio_mamba.models.momamba.modeling_momamba import (
        MoMambaForAudioClassification,
        MoMambaModel,
        MoMambaPreTrainedModel,
    )

__all__ = [
    "MoMambaConfig",
    "MoMambaFeatureExtractor",
    "MoMambaForAudioClassification",
    "MoMambaModel",
    "MoMambaPreTrainedModel",
]

__getattr__ = attach(
    __name__,
    {
        "MoMambaConfig": ".configuration_momamba",
        "MoMambaFeatureExtractor": ".feature_extraction_momamba",
        "MoMambaForAudioClassification": ".modeling_momamba",
        "MoMambaModel": ".modeling_momamba",
        "MoMambaPreTrainedModel": ".modeling_momamba",
    },
)
