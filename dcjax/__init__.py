"""Deep metric learning by divide and conquer, in JAX."""

from dcjax.core import lazy

__version__ = "0.1.0"

# To restore a model needs Flax and Orbax, whose import takes seconds that a use of losses saves.
__getattr__ = lazy.exports(
    __name__,
    {
        "Embedder": "dcjax.experiment.embedder:Embedder",
        "load": "dcjax.experiment.embedder:load",
        "losses": "dcjax.losses",
        "mining": "dcjax.losses.mining",
        "pairs": "dcjax.losses.pairs",
        "division": "dcjax.division",
        "masks": "dcjax.division.masks",
        "sampling": "dcjax.division.sampling",
        "retrieval": "dcjax.retrieval",
    },
)
