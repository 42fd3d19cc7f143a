"""Deep metric learning by divide and conquer, in JAX."""

import importlib
from typing import Any

__version__ = "0.1.0"

_CONCEPTS = {"clustering", "division", "losses", "masks", "mining", "retrieval", "sampling"}


def __getattr__(name: str) -> Any:
    # On demand: restoring a model needs TensorFlow, whose import takes seconds that losses save.
    if name in _CONCEPTS:
        return importlib.import_module(f"dcjax.{name}")
    if name in ("Embedder", "load"):
        return getattr(importlib.import_module("dcjax.embedder"), name)
    raise AttributeError(f"module 'dcjax' has no attribute {name!r}")
