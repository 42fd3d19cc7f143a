"""Metric-learning losses as pairs of pure functions: those of both papers, and recent ones."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from jax.typing import ArrayLike

from dcjax.core import options, plugins
from dcjax.core.arrays import require_integers
from dcjax.core.errors import InputError
from dcjax.core.ranges import require_whole
from dcjax.losses import (
    contrasts,
    mining,
    pairwise,
    proxies,
    ranks,
    soft_triple,
    sub_centers,
    triplets,
)
from dcjax.losses.loss import Loss, Params, with_argument_checks, with_output_checks
from dcjax.losses.matryoshka import nest
from dcjax.losses.pairs import pairwise_distances
from dcjax.losses.pairwise import margin_loss

__all__ = ["KNOWN", "LOSSES", "Loss", "Params", "create", "margin_loss", "pairwise_distances"]

# Each makes a loss from num_classes, embedding_dim and, if it has such an argument, class_sizes;
# its other arguments are options with their defaults.
LOSSES: dict[str, Callable[..., Loss]] = {
    "arcface": proxies.arcface,
    "circle": pairwise.circle,
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
    "sub_center_arcface": sub_centers.sub_center_arcface,
    "supervised_contrastive": contrasts.supervised_contrastive,
    "triplet": triplets.triplet,
}
KNOWN = tuple(sorted(LOSSES))


def create(
    name: str,
    *,
    num_classes: int,
    embedding_dim: int,
    class_sizes: ArrayLike | None = None,
    matryoshka: Sequence[int] = (),
    **given: Any,
) -> Loss:
    """Returns the loss called name.

    Args:
      name: one of `KNOWN`, or "package.module:function", a function of your own that takes the
        other arguments and returns a `Loss`; class_sizes only if it has such an argument.
      num_classes: number of training classes; labels are below it.
      embedding_dim: size D of the embedding.
      class_sizes: number of training images of each class [num_classes], for losses that use it.
      matryoshka: numbers of first coordinates, ascending, which are to be embeddings too, beside
        all D: the loss is the mean of theirs, see `matryoshka.nest`. (): no others.
      **given: options of that loss, which are the arguments of its function in `LOSSES`; those left
        out have their defaults. A miner may be given by its name.

    Raises:
      InputError: unknown name, or an option that is unknown or out of its range.
    """
    num_classes = require_whole("num_classes", num_classes, 1)
    embedding_dim = require_whole("embedding_dim", embedding_dim, 1)
    make = _custom if plugins.is_custom(name) else _known
    if class_sizes is not None:
        class_sizes = require_integers("class_sizes", class_sizes, num_classes, 0)

    def of_dim(dim: int) -> Loss:
        loss = make(name, num_classes, dim, class_sizes, given)
        return with_argument_checks(loss, num_classes, dim)

    return nest(of_dim, embedding_dim, matryoshka) if matryoshka else of_dim(embedding_dim)


def _known(name: str, num_classes: int, dim: int, class_sizes: Any, given: dict[str, Any]) -> Loss:
    if name not in KNOWN:
        raise InputError(
            f"Unknown loss {name!r}; known losses are {', '.join(KNOWN)}, and "
            "package.module:function of your own."
        )
    make = LOSSES[name]
    options.require(f"loss {name!r}", given, options.of(make))
    return make(num_classes, dim, **_sizes_for(make, class_sizes), **given)


def _custom(name: str, num_classes: int, dim: int, class_sizes: Any, given: dict[str, Any]) -> Loss:
    make = plugins.load(name, Loss)
    arguments = {"num_classes": num_classes, "embedding_dim": dim} | _sizes_for(make, class_sizes)
    if "miner" in given:
        given = given | {"miner": mining.as_miner(given["miner"])}
    return with_output_checks(name, make(**arguments, **given))


def _sizes_for(make: Callable[..., Loss], class_sizes: Any) -> dict[str, Any]:
    """Returns the argument class_sizes for functions that have it."""
    has_it = "class_sizes" in inspect.signature(make).parameters
    return {"class_sizes": class_sizes} if has_it else {}
