"""Attributes of a package that are imported when they are first used (PEP 562)."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def attach(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Build a module-level `__getattr__`.

    Args:
        package: Name of the package that offers the attributes.
        modules: For each attribute the relative name of the module that defines it, for example `".ops"`.

    Returns:
        A function for `__getattr__`; it raises AttributeError for names it does not know.
    """

    def load(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(modules[name], package), name)

    return load
