"""Optimizers with a learning rate per parameter group (P21 section 4.2)."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dcjax.core import options
from dcjax.core.errors import InputError
from dcjax.core.ranges import Bounds, require_known, require_range

GROUPS = ("backbone", "embedding", "masks", "loss")
DECAYS = ("coupled", "decoupled")
MOMENTUM = Bounds(0, 0.999_999)  # of averages of gradients too
EPSILON = Bounds(1e-16, 1)
_CLIPPED = ("backbone", "embedding")


def adam(
    *, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8
) -> optax.GradientTransformation:
    """Creates Adam (Kingma & Ba 2015, Algorithm 1), with the values of its section 2.

    Args:
      beta1: decay of the mean of gradients.
      beta2: decay of the mean of squared gradients.
      epsilon: added to the root of the latter; larger values damp parameters of small gradients.
    """
    require_range("beta1", beta1, *MOMENTUM)
    require_range("beta2", beta2, *MOMENTUM)
    require_range("epsilon", epsilon, *EPSILON)
    return optax.scale_by_adam(b1=beta1, b2=beta2, eps=epsilon)


def adamw(
    *, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8
) -> optax.GradientTransformation:
    """Creates AdamW (Loshchilov & Hutter 2019): `adam`, whose weight decay is decoupled."""
    return adam(beta1=beta1, beta2=beta2, epsilon=epsilon)


def lion(*, beta1: float = 0.9, beta2: float = 0.99) -> optax.GradientTransformation:
    """Creates Lion (Chen et al. 2023, Algorithm 2); its rates are 3 to 10 times below Adam's.

    Args:
      beta1: weight of the mean of gradients in the update, whose sign is taken.
      beta2: decay of the mean of gradients.
    """
    require_range("beta1", beta1, *MOMENTUM)
    require_range("beta2", beta2, *MOMENTUM)
    return optax.scale_by_lion(b1=beta1, b2=beta2)


def sgd(*, momentum: float = 0.9, nesterov: bool = False) -> optax.GradientTransformation:
    """Creates gradient descent with momentum, v <- momentum v + g, as PyTorch's and optax's.

    Args:
      momentum: decay of the sum of gradients; 0: plain gradient descent.
      nesterov: whether the update is momentum v + g, Nesterov's, in place of v.
    """
    require_range("momentum", momentum, *MOMENTUM)
    return optax.trace(decay=momentum, nesterov=nesterov)


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adam": adam,
    "adamw": adamw,
    "lion": lion,
    "sgd": sgd,
}
_ALWAYS_DECOUPLED = ("adamw", "lion")


def create(
    *,
    weight_decays: Mapping[str, float],
    name: str = "adam",
    decay: str = "coupled",
    clip_norm: float = 0.0,
    layer_factors: Mapping[str, float] = MappingProxyType({}),
    **chosen: Any,
) -> optax.GradientTransformationExtraArgs:
    """Builds one optimizer per group of `GROUPS`, each with its own moments and step count.

    `update` takes the extra argument `learning_rates`, one traced scalar per group, so that
    freezing a group never recompiles. At rate 0 a group is frozen, but its moments are updated.

    Args:
      weight_decays: factor per group.
      name: one of `OPTIMIZERS`.
      decay: "coupled" adds weight_decay * parameter to the gradient before the optimizer, as both
        papers' code does; "decoupled" adds it to the update. "adamw" and "lion" are defined with
        the latter.
      clip_norm: largest norm of the gradient of backbone and embedding together, which is scaled
        down to it; 0: any.
      layer_factors: factors of the backbone's rate by the first name of its parameters; {}: all 1.
      **chosen: options of the optimizer's function; those left out have its defaults.

    Raises:
      InputError: if a name or an option is unknown or out of range, or `decay` contradicts `name`.
    """
    require_known("optimizer.name", name, sorted(OPTIMIZERS))
    require_known("optimizer.decay", decay, DECAYS)
    require_range("optimizer.clip_norm", clip_norm, 0)
    if name in _ALWAYS_DECOUPLED and decay != "decoupled":
        other = " (adam may have either)" if name == "adamw" else ""
        raise InputError(
            f"optimizer.name={name} is defined with decoupled weight decay{other}: require "
            f"optimizer.decay=decoupled, got {decay}."
        )
    options.require(f"optimizer {name!r}", chosen, options.of(OPTIMIZERS[name]))
    rule = OPTIMIZERS[name](**chosen)

    def with_decay(weight_decay: float) -> optax.GradientTransformation:
        parts = [optax.add_decayed_weights(weight_decay), rule]
        return optax.chain(*(parts if decay == "coupled" else reversed(parts)))

    def descend(
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
        if layer_factors:
            scaled["backbone"] = {
                layer: _scale(tree, layer_factors[layer])
                for layer, tree in scaled["backbone"].items()
            }
        return scaled, state

    optimizer = optax.chain(
        optax.partition(
            {group: with_decay(weight_decays[group]) for group in GROUPS},
            {group: group for group in GROUPS},
        ),
        optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), descend),
    )
    if not clip_norm:
        return optimizer

    def update_clipped(
        gradients: dict[str, Any], state: optax.OptState, params: Any = None, **more: Any
    ) -> tuple[dict[str, Any], optax.OptState]:
        return optimizer.update(_clip(gradients, clip_norm), state, params, **more)

    return optax.GradientTransformationExtraArgs(optimizer.init, update_clipped)


def _scale(tree: Any, factor: jax.Array | float) -> Any:
    return jax.tree.map(lambda x: factor * x, tree)


def _clip(gradients: dict[str, Any], clip_norm: float) -> dict[str, Any]:
    """Scales the gradients of backbone and embedding, if their norm is larger, down to it."""
    together = {group: gradients[group] for group in _CLIPPED}
    factor = jnp.minimum(1.0, clip_norm / optax.tree.norm(together))
    return {**gradients, **_scale(together, factor)}


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
