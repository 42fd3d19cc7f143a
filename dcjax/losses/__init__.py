"""Metric-learning losses as pairs of pure functions: those of both papers, and of today."""

from typing import Any

from dcjax.core import plugins
from dcjax.core.errors import InputError
from dcjax.core.ranges import require_options, require_whole
from dcjax.losses import contrasts, pairwise, proxies, ranks, soft_triple, triplets
from dcjax.losses.loss import Loss, Params, checked, with_argument_checks
from dcjax.losses.pairs import pairwise_distances
from dcjax.losses.pairwise import margin

__all__ = ["KNOWN", "Loss", "Params", "create", "margin", "pairwise_distances"]

_LOSSES = {
    **pairwise.LOSSES,
    **contrasts.LOSSES,
    **proxies.LOSSES,
    **ranks.LOSSES,
    **soft_triple.LOSSES,
    **triplets.LOSSES,
}
KNOWN = tuple(sorted(_LOSSES))


def create(name: str, *, num_classes: int, embedding_dim: int, **options: Any) -> Loss:
    """Returns the loss called name.

    Args:
      name: one of `KNOWN`, or "package.module:function", a function of your own that takes the
        other arguments and returns a `Loss`.
      num_classes: number of training classes; labels are below it.
      embedding_dim: size D of the embedding.
      **options: every option of that loss: the fields of its class of options, as
        `pairwise.MarginOptions`.

    Raises:
      InputError: unknown name, or an option that is unknown, missing or out of its range.
    """
    num_classes = require_whole("num_classes", num_classes, 1)
    embedding_dim = require_whole("embedding_dim", embedding_dim, 1)
    if "miner" in options and not callable(options["miner"]):
        raise InputError(f"Require a miner of mining.create, got {options['miner']!r}.")
    if plugins.is_own(name):
        make = plugins.load(name, Loss)
        own = checked(name, make(num_classes=num_classes, embedding_dim=embedding_dim, **options))
        return with_argument_checks(own, num_classes, embedding_dim)
    if name not in KNOWN:
        raise InputError(
            f"Unknown loss {name!r}; known losses are {', '.join(KNOWN)}, and "
            "package.module:function of your own."
        )
    options_type, build = _LOSSES[name]
    require_options(f"Loss {name!r}", options, options_type._fields)
    loss = build(num_classes, embedding_dim, options_type(**options))
    return with_argument_checks(loss, num_classes, embedding_dim)
