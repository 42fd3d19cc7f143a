"""The moving average of a network, against a plain loop."""

import jax
import jax.numpy as jnp
import numpy as np

from dcjax.training import averages


def test_average_equals_that_of_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    networks = rng.normal(size=(40, 3))
    average, expected = {"masks": jnp.asarray(networks[0])}, networks[0]
    update = jax.jit(averages.update, static_argnames="decay")
    for t, network in enumerate(networks[1:]):
        average = update(average, {"masks": jnp.asarray(network)}, step=jnp.asarray(t), decay=0.7)
        decay = min(0.7, (1 + t) / (10 + t))  # 0.7 from t = 20 on
        expected = decay * expected + (1 - decay) * network
        np.testing.assert_allclose(average["masks"], expected, rtol=1e-5)


def test_average_of_a_constant_is_that_constant_bit_for_bit() -> None:
    constant = {"params": jnp.asarray([0.1, 1 / 3, 1e-30, 0.0]), "batch_stats": {}}
    average = constant
    for t in range(30):
        average = averages.update(average, constant, step=jnp.asarray(t), decay=0.999)
    jax.tree.map(np.testing.assert_array_equal, average, constant)
