"""Exact retrieval scores of embeddings, on one device or many.

Imports core, distributed, division and data.
"""

from dcjax.core import lazy

__getattr__ = lazy.exports(__name__, {"score": "dcjax.retrieval.metrics:score"})
