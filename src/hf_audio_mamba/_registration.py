"""Makes the models of this package known to the Auto classes and to `pipeline()` of Transformers.

Registering needs the Auto classes, and importing those imports torch: three times the cost of `import transformers`.
So nothing is imported here: each registration waits until the user's program imports the module it belongs to, and
runs right after it. Where that module is there already, registration is immediate.
"""

import importlib
import importlib.abc
import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from hf_audio_mamba.models import FEATURE_EXTRACTORS, MODEL_TYPES

KINDS = ("configuration", "feature_extraction", "modeling")
# They build on each other, also across models: while one of them is being imported, none may be asked for its classes.
OUR_MODULES = (
    "hf_audio_mamba.models.audio_config",
    "hf_audio_mamba.models.audio_feature_extraction",
    *(f"hf_audio_mamba.models.{model_type}.{kind}_{model_type}" for model_type in MODEL_TYPES for kind in KINDS),
)


def _model_class(model_type: str, suffix: str) -> Any:
    """The class of a model whose name ends in `suffix`, from the model's folder."""
    module = importlib.import_module(f"hf_audio_mamba.models.{model_type}")
    return getattr(module, MODEL_TYPES[model_type] + suffix)


def _register_config(model_type: str) -> None:
    from transformers import AutoConfig

    AutoConfig.register(model_type, _model_class(model_type, "Config"), exist_ok=True)


def _register_extractor(model_type: str) -> None:
    from transformers import AutoFeatureExtractor

    extractor = _model_class(FEATURE_EXTRACTORS.get(model_type, model_type), "FeatureExtractor")
    AutoFeatureExtractor.register(_model_class(model_type, "Config"), extractor, exist_ok=True)


def _register_model(model_type: str) -> None:
    from transformers import AutoModel, AutoModelForAudioClassification

    config = _model_class(model_type, "Config")
    AutoModel.register(config, _model_class(model_type, "Model"), exist_ok=True)
    classifier = _model_class(model_type, "ForAudioClassification")
    AutoModelForAudioClassification.register(config, classifier, exist_ok=True)


def _register_midi_tokenizer() -> None:
    """Make AutoTokenizer find `MidiTokenizer` by its name in tokenizer_config.json, and by nothing else.

    `AutoTokenizer.register` would tie it to a configuration class, so to every Mamba model, whatever its tokenizer.
    """
    from transformers.models.auto import tokenization_auto

    from hf_audio_mamba.midi.tokenizer import MidiTokenizer

    tokenization_auto.REGISTERED_TOKENIZER_CLASSES[MidiTokenizer.__name__] = MidiTokenizer


def _register_pipelines() -> None:
    from hf_audio_mamba.pipelines import register_pipelines

    register_pipelines()


@dataclass(frozen=True)
class _Registration:
    """What `register` makes known belongs to the module `theirs`, stands in `ours`, and these build on `base`."""

    theirs: str
    ours: tuple[str, ...]
    base: str
    register: Callable[[], None]

    @property
    def modules(self) -> tuple[str, ...]:
        """The modules whose end of import may make the registration possible."""
        return (self.theirs, *self.ours, self.base)

    def run_if_ready(self) -> None:
        """Register where their module is there, unless one is still being imported: its end comes here again.

        They import each other: our models need `modeling_layers`, which imports the Auto classes.
        """
        if self.theirs in sys.modules and not any(map(_is_being_imported, self.modules)):
            self.register()


def _registrations_of(model_type: str) -> Iterator[_Registration]:
    """Configuration, feature extractor and models of one model type."""
    auto = "transformers.models.auto."
    yield _Registration(
        theirs=auto + "configuration_auto",
        ours=OUR_MODULES,
        base="transformers.configuration_utils",
        register=partial(_register_config, model_type),
    )
    yield _Registration(
        theirs=auto + "feature_extraction_auto",
        ours=OUR_MODULES,
        base="transformers.feature_extraction_sequence_utils",
        register=partial(_register_extractor, model_type),
    )
    yield _Registration(
        theirs=auto + "modeling_auto",
        ours=OUR_MODULES,
        base="transformers.modeling_layers",
        register=partial(_register_model, model_type),
    )


REGISTRATIONS = (
    *(registration for model_type in MODEL_TYPES for registration in _registrations_of(model_type)),
    _Registration(
        theirs="transformers.models.auto.tokenization_auto",
        ours=("hf_audio_mamba.midi.tokenizer",),
        base="transformers.tokenization_utils_tokenizers",
        register=_register_midi_tokenizer,
    ),
    _Registration(
        theirs="transformers.pipelines",
        ours=("hf_audio_mamba.pipelines",),
        base="transformers.pipelines.base",
        register=_register_pipelines,
    ),
)


def _is_being_imported(name: str) -> bool:
    """Whether the import of a module has been started but not finished."""
    spec = getattr(sys.modules.get(name), "__spec__", None)
    return bool(getattr(spec, "_initializing", False))


class _RegisteringLoader(importlib.abc.Loader):
    """Loads a module as its own loader would, then registers what waited for it."""

    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # The module and its spec must show the real loader, as if this one had never been here.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        if module.__spec__ is not None:
            module.__spec__._initializing = False  # type: ignore[attr-defined]  # its own code has run to the end
        for registration in REGISTRATIONS:
            if module.__name__ in registration.modules:
                registration.run_if_ready()


class _RegistrationFinder(importlib.abc.MetaPathFinder):
    """Puts a `_RegisteringLoader` in front of the modules that a registration waits for."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not any(fullname in registration.modules for registration in REGISTRATIONS):
            return None
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)
            if finder is self or find is None:
                continue
            spec: ModuleSpec | None = find(fullname, path, target)
            if spec is not None and spec.loader is not None:
                spec.loader = _RegisteringLoader(spec.loader)
                return spec
        return None


def install() -> None:
    """Register now what can be registered without a new import, and the rest as soon as its module is imported.

    Calling it again changes nothing.
    """
    if not any(isinstance(finder, _RegistrationFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _RegistrationFinder())
    for registration in REGISTRATIONS:
        registration.run_if_ready()
