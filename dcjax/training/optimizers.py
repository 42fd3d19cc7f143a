"""Adam with a learning rate per parameter group (P21 section 4.2)."""

from collections.abc import Mapping
from typing import Any

import jax
import optax

from dcjax.core.ranges import require_known

GROUPS = ("backbone", "embedding", "masks", "loss")
DECAYS = ("coupled", "decoupled")


def create(
    *, weight_decays: Mapping[str, float], decay: str = "coupled"
) -> optax.GradientTransformationExtraArgs:
    """Builds one Adam per group of `GROUPS`, each with its own moments and step count.

    `update` takes the extra argument `learning_rates`, one traced scalar per group, so that
    freezing a group never recompiles. At rate 0 a group is frozen, but its moments are updated.

    Args:
      weight_decays: factor per group.
      decay: "coupled" adds weight_decay * parameter to the gradient before Adam, as both papers'
        code does; "decoupled" adds it to Adam's update.

    Raises:
      InputError: if `decay` is unknown.
    """
    require_known("optimizer.decay", decay, DECAYS)

    def adam(weight_decay: float) -> optax.GradientTransformation:
        parts = [optax.add_decayed_weights(weight_decay), optax.scale_by_adam()]
        return optax.chain(*(parts if decay == "coupled" else reversed(parts)))

    return optax.chain(
        optax.partition(
            {group: adam(weight_decays[group]) for group in GROUPS},
            {group: group for group in GROUPS},
        ),
        optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), _descend),
    )


def _descend(
    updates: dict[str, Any],
    state: optax.OptState,
    params: Any = None,
    *,
    learning_rates: Mapping[str, jax.Array],
    **_: Any,
) -> tuple[dict[str, Any], optax.OptState]:
    del params
    scaled = {
        group: jax.tree.map(lambda u, rate=learning_rates[group]: -rate * u, tree)
        for group, tree in updates.items()
    }
    return scaled, state


def renew(
    optimizer: optax.GradientTransformation,
    opt_state: Any,
    params: dict[str, Any],
    group: str,
) -> Any:
    """Gives one group a fresh state: zero moments and, as important, a zero step count."""
    partition, *rest = opt_state
    fresh = jax.jit(lambda tree: optimizer.init(tree)[0].inner_states[group])(params)
    inner = {**partition.inner_states, group: fresh}
    return (partition._replace(inner_states=inner), *rest)
