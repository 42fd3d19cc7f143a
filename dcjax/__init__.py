"""Deep metric learning by divide and conquer, in JAX."""

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Restoring a model needs TensorFlow, whose import takes seconds that losses and scores save.
    if name in ("Embedder", "load"):
        from dcjax import embedder

        return getattr(embedder, name)
    raise AttributeError(f"module 'dcjax' has no attribute {name!r}")
