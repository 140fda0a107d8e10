"""Makes the models of this package known to the Auto classes and to `pipeline()` of Transformers.

Registering needs the Auto classes, and importing those imports torch: three times the cost of `import transformers`.
So nothing is imported here: each registration waits until the user's program imports the module it belongs to, and
runs right after it. Where that module is there already, registration is immediate.
"""

import importlib.abc
import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType


def _register_configs() -> None:
    from transformers import AutoConfig

    from hf_audio_mamba.models.momamba import MoMambaConfig

    AutoConfig.register("momamba", MoMambaConfig, exist_ok=True)


def _register_feature_extractors() -> None:
    from transformers import AutoFeatureExtractor

    from hf_audio_mamba.models.momamba import MoMambaConfig, MoMambaFeatureExtractor

    AutoFeatureExtractor.register(MoMambaConfig, MoMambaFeatureExtractor, exist_ok=True)


def _register_models() -> None:
    from transformers import AutoModel, AutoModelForAudioClassification

    from hf_audio_mamba.models.momamba import MoMambaConfig, MoMambaForAudioClassification, MoMambaModel

    AutoModel.register(MoMambaConfig, MoMambaModel, exist_ok=True)
    AutoModelForAudioClassification.register(MoMambaConfig, MoMambaForAudioClassification, exist_ok=True)


def _register_pipelines() -> None:
    from hf_audio_mamba.pipelines import register_pipelines

    register_pipelines()


REGISTRATIONS: dict[str, Callable[[], None]] = {
    "transformers.models.auto.configuration_auto": _register_configs,
    "transformers.models.auto.feature_extraction_auto": _register_feature_extractors,
    "transformers.models.auto.modeling_auto": _register_models,
    "transformers.pipelines": _register_pipelines,
}


class _RegisteringLoader(importlib.abc.Loader):
    """Loads a module as its own loader would, then registers what belongs to it."""

    def __init__(self, loader: importlib.abc.Loader, register: Callable[[], None]) -> None:
        self._loader = loader
        self._register = register

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # The module and its spec must show the real loader, as if this one had never been here.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._register()


class _RegistrationFinder(importlib.abc.MetaPathFinder):
    """Puts a `_RegisteringLoader` in front of the modules that have something to register."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        register = REGISTRATIONS.get(fullname)
        if register is None:
            return None
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)
            if finder is self or find is None:
                continue
            spec: ModuleSpec | None = find(fullname, path, target)
            if spec is not None and spec.loader is not None:
                spec.loader = _RegisteringLoader(spec.loader, register)
                return spec
        return None


def install() -> None:
    """Register now what can be registered without a new import, and the rest as soon as its module is imported.

    Calling it again changes nothing.
    """
    if not any(isinstance(finder, _RegistrationFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _RegistrationFinder())
    for module, register in REGISTRATIONS.items():
        if module in sys.modules:
            register()
