"""A masked embedder that takes milliseconds."""

from typing import Any

from dcjax.models import masked_embedder
from dcjax.models.masked_embedder import MaskedEmbedder


def create(**changes: Any) -> MaskedEmbedder:
    """Returns a tiny embedder for images of a few pixels, with other options if given."""
    tiny = {"num_stages": 1, "width": 4, "batch_norm": "train", "convolution": "auto"}
    tiny |= {"embedding_dim": 8, "max_clusters": 4, "pooling": "average", "dropout": 0.0}
    tiny |= {"custom": {}, "test_masks": "sum"}
    return masked_embedder.create("resnet_small", **tiny | changes)
