"""Times a step of proxies, on one device and on eight virtual ones: loss, gradients and Adam.

By default 128 embeddings meet 100,000 proxies of 512 numbers by the normalised soft-max: about two
minutes on two cores. The peer is the same soft-max as jax.nn writes it. Results are of each device:
MiB of proxies and their moments, and of what a step needs besides, as XLA has planned it. Virtual
devices share this machine's cores and memory: they show what each would hold, not a speed.
"""

import argparse
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from compare import Job, compare

from dcjax import losses
from dcjax.distributed import devices
from dcjax.division import masks
from dcjax.training import optimizers

_TEMPERATURE = 0.05
_LEARNING_RATES = dict.fromkeys(optimizers.GROUPS, 1e-3)


def main() -> None:
    """Times what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--classes", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 8], help="how many")
    parser.add_argument("--no_peer", action="store_true", help="ours alone, in less memory")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    step = functools.partial(_step, options.classes, options.dim, options.batch_size)
    contestants = {
        f"dcjax, devices: {number}": functools.partial(step, num_devices=number, plain=False)
        for number in options.devices
    }
    if not options.no_peer:
        contestants["jax.nn.log_softmax"] = functools.partial(step, num_devices=1, plain=True)
    compare(
        f"A step of {options.batch_size} x {options.classes:,} proxies x {options.dim}",
        contestants,
        rounds=options.rounds,
    )


def _step(num_classes: int, dim: int, batch_size: int, *, num_devices: int, plain: bool) -> Job:
    jax.config.update("jax_num_cpu_devices", num_devices)  # before anything computes
    mesh = devices.create_mesh()
    loss = losses.create(
        "normalized_softmax",
        num_classes=num_classes,
        embedding_dim=dim,
        temperature=_TEMPERATURE,
    )
    apply = functools.partial(_plain, num_classes) if plain else loss.apply
    optimizer = optimizers.create(
        decay="coupled", weight_decays=dict.fromkeys(optimizers.GROUPS, 0.0)
    )

    def groups(proxies: Any) -> dict[str, Any]:
        return {group: proxies if group == "loss" else {} for group in optimizers.GROUPS}

    def draw() -> Any:
        params = loss.init(jax.random.key(0))
        return params, optimizer.init(groups(params))

    def step(state: Any, raw: jax.Array, labels: jax.Array) -> Any:
        params, moments = state

        def value(params: Any, raw: jax.Array) -> Any:
            return apply(params, masks.l2_normalize(raw), labels, None)

        (found, _), (to_params, to_raw) = jax.value_and_grad(value, argnums=(0, 1), has_aux=True)(
            params, raw
        )
        updates, moments = optimizer.update(
            groups(to_params), moments, groups(params), learning_rates=_LEARNING_RATES
        )
        return (optax.apply_updates(params, updates["loss"]), moments), found, to_raw

    places = jax.tree.map(lambda x: devices.table_sharding(mesh, x.shape), jax.eval_shape(draw))
    replicated, rows = devices.replicated(mesh), devices.rows_sharding(mesh)
    rng = np.random.default_rng(0)
    raw = jax.device_put(rng.standard_normal((batch_size, dim), np.float32), rows)
    labels = jax.device_put(rng.integers(num_classes, size=batch_size, dtype=np.int32), rows)
    state = jax.jit(draw, out_shardings=places)()
    compiled = (
        jax.jit(
            step,
            in_shardings=(places, rows, rows),
            out_shardings=(places, replicated, rows),
            donate_argnums=0,
        )
        .lower(state, raw, labels)
        .compile()
    )
    memory: Any = compiled.memory_analysis()
    planned = {
        "state MiB": memory.alias_size_in_bytes / 2**20,
        "besides MiB": memory.temp_size_in_bytes / 2**20,
    }

    def job() -> dict[str, float]:
        nonlocal state
        state, found, to_raw = compiled(state, raw, labels)
        jax.block_until_ready((state, found, to_raw))
        return planned | {"loss": float(found)}

    return job


def _plain(num_classes: int, params: Any, x: jax.Array, labels: jax.Array, _: None) -> Any:
    """Returns the loss as it is usually written."""
    proxies = masks.l2_normalize(params["proxies"][:num_classes])
    logits = jnp.matmul(x, proxies.T, precision=jax.lax.Precision.HIGHEST) / _TEMPERATURE
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)
    return -jnp.mean(chosen), {}


if __name__ == "__main__":
    main()
