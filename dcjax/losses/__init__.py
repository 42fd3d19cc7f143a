"""Metric-learning losses as pairs of pure functions: those of both papers, and recent ones."""

from collections.abc import Callable
from typing import Any

from dcjax.core import options, plugins
from dcjax.core.errors import InputError
from dcjax.core.ranges import require_whole
from dcjax.losses import contrasts, mining, pairwise, proxies, ranks, soft_triple, triplets
from dcjax.losses.loss import Loss, Params, with_argument_checks, with_output_checks
from dcjax.losses.pairs import pairwise_distances
from dcjax.losses.pairwise import margin_loss

__all__ = ["KNOWN", "LOSSES", "Loss", "Params", "create", "margin_loss", "pairwise_distances"]

# Each makes a loss from (num_classes, embedding_dim, *, options with their defaults).
LOSSES: dict[str, Callable[..., Loss]] = {
    "arcface": proxies.arcface,
    "contrastive": pairwise.contrastive,
    "cosface": proxies.cosface,
    "margin": pairwise.margin,
    "multi_similarity": pairwise.multi_similarity,
    "n_pairs": contrasts.n_pairs,
    "normalized_softmax": proxies.normalized_softmax,
    "proxy_anchor": proxies.proxy_anchor,
    "proxy_nca": proxies.proxy_nca,
    "recall_at_k": ranks.recall_at_k,
    "smooth_ap": ranks.smooth_ap,
    "soft_triple": soft_triple.soft_triple,
    "soft_triplet": triplets.soft_triplet,
    "supervised_contrastive": contrasts.supervised_contrastive,
    "triplet": triplets.triplet,
}
KNOWN = tuple(sorted(LOSSES))


def create(name: str, *, num_classes: int, embedding_dim: int, **given: Any) -> Loss:
    """Returns the loss called name.

    Args:
      name: one of `KNOWN`, or "package.module:function", a function of your own that takes the
        other arguments and returns a `Loss`.
      num_classes: number of training classes; labels are below it.
      embedding_dim: size D of the embedding.
      **given: options of that loss, which are the arguments of its function in `LOSSES`; those left
        out have their defaults. A miner may be given by its name.

    Raises:
      InputError: unknown name, or an option that is unknown or out of its range.
    """
    num_classes = require_whole("num_classes", num_classes, 1)
    embedding_dim = require_whole("embedding_dim", embedding_dim, 1)
    if plugins.is_custom(name):
        if "miner" in given:
            given["miner"] = mining.as_miner(given["miner"])
        make = plugins.load(name, Loss)
        loss = make(num_classes=num_classes, embedding_dim=embedding_dim, **given)
        loss = with_output_checks(name, loss)
        return with_argument_checks(loss, num_classes, embedding_dim)
    if name not in KNOWN:
        raise InputError(
            f"Unknown loss {name!r}; known losses are {', '.join(KNOWN)}, and "
            "package.module:function of your own."
        )
    options.require(f"loss {name!r}", given, options.of(LOSSES[name]))
    loss = LOSSES[name](num_classes, embedding_dim, **given)
    return with_argument_checks(loss, num_classes, embedding_dim)
