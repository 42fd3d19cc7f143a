"""A step that takes its batch in chunks learns the same as from all of it, with less memory."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from dcjax import losses
from dcjax.distributed import devices
from dcjax.losses import mining
from dcjax.models import masked_embedder, vit
from dcjax.training import state, steps

_NETWORKS = {
    "resnet_small": {"num_stages": 1, "width": 4},
    "vit_small": {
        "vit": {"patch_size": 4, "layer_scale": False},
        "pixels": "half",
        "pooling": "class_and_average",
    },
}
# Adds the gradients to what they train, so that they can be compared.
_ADD = optax.GradientTransformationExtraArgs(
    lambda params: (), lambda gradients, run, params=None, **more: (gradients, run)
)


@pytest.fixture(autouse=True)
def small_vit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes vit_small small."""
    monkeypatch.setitem(vit.SIZES, "vit_small", (8, 1, 2))


def _model(name: str, **changes: Any) -> masked_embedder.MaskedEmbedder:
    options = {"custom": {}, "embedding_dim": 8, "max_clusters": 4, "test_masks": "sum"}
    options |= _NETWORKS.get(name, {}) | {"dropout": 0.3}
    return masked_embedder.create(name, **options | changes)


def _start(model: masked_embedder.MaskedEmbedder) -> tuple[losses.Loss, state.TrainState]:
    """Returns a loss, and a state after a division into clusters with different masks."""
    loss = losses.create(
        "margin",
        num_classes=6,
        embedding_dim=8,
        learn_beta="per_class",
        miner=mining.create("distance_weighted"),
    )
    run = state.create(model, loss, _ADD, key=jax.random.key(0), image_size=8, memory_size=64)
    noise = jax.random.normal(jax.random.key(1), run.masks.shape, run.masks.dtype)
    return loss, run.replace(masks=1 + 0.3 * noise, num_clusters=jnp.asarray(4, jnp.int32))


def _jitted(model: Any, loss: losses.Loss, mesh: jax.sharding.Mesh) -> Callable[..., Any]:
    step = functools.partial(
        steps.train_step, model=model, loss=loss, optimizer=_ADD, orthogonality_weight=0.1
    )
    replicated = devices.replicated(mesh)
    shardings = (replicated, devices.batch_shardings(mesh), replicated, replicated)
    return jax.jit(step, in_shardings=shardings, out_shardings=replicated)


def _batch(step: int, size: int = 16, side: int = 8) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(step)
    return {
        "image": rng.integers(0, 256, (2, size, side, side, 3), np.uint8),
        "label": rng.integers(0, 6, (2, size), np.int32),
        "cluster": np.array([step, 3], np.int32),
    }


def _controls() -> dict[str, Any]:
    return {
        "learning_rates": {},
        "full_embedding": jnp.asarray(False),
        "memory": jnp.asarray(True),
    }


def _two_states(name: str, chunk_size: int, num_devices: int = 1) -> list[state.TrainState]:
    parallel = min(num_devices, 2)
    mesh = devices.create_mesh(jax.devices()[:num_devices], cluster_parallel=parallel)
    model = _model(name, chunk_size=chunk_size, cluster_parallel=parallel, dtype=jnp.float64)
    loss, run = _start(model)
    step = _jitted(model, loss, mesh)
    run = jax.device_put(run, devices.replicated(mesh))
    states = [jax.device_get(run)]
    for number in range(2):
        run, _ = step(run, _batch(number), _controls(), jax.random.key(2))
        states.append(jax.device_get(run))
    assert step._cache_size() == 1
    return states


@pytest.mark.parametrize("name", _NETWORKS)
def test_gradients_and_memory_equal_those_of_the_whole_batch(name: str) -> None:
    with jax.enable_x64(True):
        whole = _two_states(name, 0)
        for chunk_size, num_devices in ((4, 1), (8, 8)):
            chunked = _two_states(name, chunk_size, num_devices)
            compare = functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-12)
            jax.tree.map(compare, chunked, whole)
    gradients = jax.tree.map(lambda new, old: new - old, whole[1].trainable, whole[0].trainable)
    assert min(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(gradients)) > 1e-6
    assert whole[2].memory["count"] == 64


def test_activations_of_one_chunk_alone_take_memory() -> None:
    planned = {}
    for chunk_size in (0, 8):
        model = _model("resnet_small", chunk_size=chunk_size)
        loss, run = _start(model)
        step = _jitted(model, loss, devices.create_mesh(jax.devices()[:1]))
        lowered = step.lower(run, _batch(0, 32, side=24), _controls(), jax.random.key(0))
        planned[chunk_size] = lowered.compile().memory_analysis().temp_size_in_bytes
    assert planned[8] < planned[0] / 4


class _OfOnesOwn(nn.Module):
    """A backbone with a layer that differs between training and test."""

    layer: str
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = nn.Dense(16, dtype=self.dtype)(x)
        if self.layer == "dropout":
            return nn.Dropout(0.5, deterministic=not train)(x)
        return nn.BatchNorm(use_running_average=not train, dtype=self.dtype)(x)


def _pooled(layer: str) -> jax.Array:
    """Returns the pooled features of eight equal images in chunks of four, in training."""
    name = f"{__name__}:{_OfOnesOwn.__name__}"
    model = _model(name, custom={"layer": layer}, chunk_size=4)
    images = np.full((1, 8, 4, 4, 3), 200, np.uint8)
    variables = jax.jit(model.init)(jax.random.key(0), images[0])
    apply = jax.jit(functools.partial(model.apply, train=True, mutable=["batch_stats"]))
    rngs = {"dropout": jax.random.key(1)}
    outputs, _ = apply(variables, images, np.zeros(1, np.int32), rngs=rngs)
    return outputs["backbone"][0]


def test_each_chunk_has_its_own_dropout_in_a_backbone_of_ones_own() -> None:
    assert len(np.unique(np.asarray(_pooled("dropout")), axis=0)) == 8


def test_statistics_of_a_chunk_are_not_taken_for_those_of_the_batch() -> None:
    with pytest.raises(ValueError, match=r"whose training leaves batch_stats .*chunk_size to 0"):
        _pooled("batch_norm")
    with pytest.raises(ValueError, match=r"require model.batch_norm=frozen, .*batch_norm=train an"):
        _model("resnet_small", batch_norm="train", chunk_size=4)


def test_chunks_that_do_not_divide_the_images_are_refused() -> None:
    model = _model("resnet_small", chunk_size=5)
    images = np.zeros((1, 8, 8, 8, 3), np.uint8)
    variables = jax.eval_shape(model.init, jax.random.key(0), images[0])
    train = functools.partial(model.apply, train=True, rngs={"dropout": jax.random.key(1)})
    with pytest.raises(ValueError, match=r"chunk_size that divides the 8 images of a step, got 5"):
        jax.eval_shape(train, variables, images, np.zeros(1, np.int32))
