"""HTS-AT on Transformers' CLAP audio encoder (see `modeling_htsat`). Names are imported when they are first used."""

from typing import TYPE_CHECKING

from hf_audio_mamba._lazy import attach

if TYPE_CHECKING:
    from hf_audio_mamba.models.htsat.configuration_htsat import HTSATConfig
    from hf_audio_mamba.models.htsat.modeling_htsat import (
        HTSATForAudioClassification,
        HTSATModel,
        HTSATModelOutput,
        HTSATPreTrainedModel,
    )

__all__ = ["HTSATConfig", "HTSATForAudioClassification", "HTSATModel", "HTSATModelOutput", "HTSATPreTrainedModel"]

__getattr__ = attach(
    __name__,
    {
        "HTSATConfig": ".configuration_htsat",
        "HTSATForAudioClassification": ".modeling_htsat",
        "HTSATModel": ".modeling_htsat",
        "HTSATModelOutput": ".modeling_htsat",
        "HTSATPreTrainedModel": ".modeling_htsat",
    },
)
