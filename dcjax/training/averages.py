"""An exponential moving average of the network over the steps (Polyak & Juditsky 1992).

It is evaluated and saved in place of the network, whose training it does not touch.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp


def update(
    average: Mapping[str, Any], current: Mapping[str, Any], *, step: jax.Array, decay: float
) -> dict[str, Any]:
    """Returns the average after one more step, a <- a + (1 - d) (x - a).

    Its decay d is the given one, but not above (1 + t) / (10 + t) after t steps: an average of all
    steps would long keep the random weights that a run starts from. A value that does not change,
    such as a mask of zeros, is its own average, bit for bit.

    Args:
      average: arrays, as of the step before.
      current: arrays of the same tree.
      step: t, int32 [], steps that `average` holds already.
      decay: d, below 1.
    """
    share = 1 - jnp.minimum(decay, (1 + step) / (10 + step))
    return jax.tree.map(
        lambda a, x: a + share.astype(a.dtype) * (x - a), dict(average), dict(current)
    )
