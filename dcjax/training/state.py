"""The training state: one immutable pytree of arrays."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from dcjax.distributed import devices
from dcjax.division.division import Division
from dcjax.division.masks import inherit
from dcjax.losses import Loss, memory
from dcjax.losses.memory import Memory
from dcjax.models.masked_embedder import (
    MaskedEmbedder,
    blank_image,
    join_variables,
    split_variables,
)
from dcjax.training import optimizers

Tree = dict[str, Any]


class TrainState(struct.PyTreeNode):
    """Everything that a step changes, and the number of clusters.

    Attributes:
      step: int32 [], steps done.
      params: {"backbone": ..., "embedding": ...}.
      masks: float [K_max, D]; rows from `num_clusters` on are exactly 0.
      loss_params: the loss's own parameters, {} if it has none.
      memory: of `memory.empty`, {} if there is none.
      batch_stats: BatchNorm's running statistics.
      opt_state: state of `optimizers.create`.
      num_clusters: int32 [], K.
      average: of `network` over the steps, see `averages`; {} if there is none.
      trained_modules: names of the backbone's modules that are trained; None: all of them. The
        others have no gradient and no state of the optimizer.
    """

    step: jax.Array
    params: Tree
    masks: jax.Array
    loss_params: Tree
    memory: Memory
    batch_stats: Tree
    opt_state: Any
    num_clusters: jax.Array
    trained_modules: frozenset[str] | None = struct.field(pytree_node=False, default=None)
    average: Tree = struct.field(default_factory=dict)

    @property
    def network(self) -> Tree:
        """What an average is taken of: all arrays that embedding an image needs."""
        return {
            "params": self.params,
            "masks": self.masks,
            "batch_stats": self.batch_stats,
        }

    @property
    def trainable(self) -> Tree:
        """The trained arrays by parameter group."""
        params = dict(self.params)
        if self.trained_modules is not None:
            backbone = params.get("backbone", {})
            params["backbone"] = {x: backbone[x] for x in backbone if x in self.trained_modules}
        return {**params, "masks": self.masks, "loss": self.loss_params}

    def params_with(self, trained: Tree) -> Tree:
        """Returns the model's parameters, the trained ones from a tree like `trainable`."""
        return {group: {**params, **trained[group]} for group, params in self.params.items()}

    @property
    def variables(self) -> Tree:
        """The model's variables, as they are trained."""
        return join_variables(**self.network)

    @property
    def evaluated_variables(self) -> Tree:
        """The variables that are evaluated: of the average, or as trained if there is none."""
        return join_variables(**(self.average or self.network))


def create(
    model: MaskedEmbedder,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    key: jax.Array,
    image_size: int,
    memory_size: int,
    trained_modules: frozenset[str] | None = None,
) -> TrainState:
    """Draws a fresh state with one cluster, and a cross-batch memory of this size."""
    model_key, loss_key = jax.random.split(key)
    initial = jax.jit(model.init)(model_key, blank_image(model, image_size))
    # Flax keeps BatchNorm's statistics in float32 whatever the model's type.
    initial = jax.tree.map(lambda x: x.astype(model.dtype), initial)
    params, masks, batch_stats = split_variables(initial)
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        masks=masks,
        loss_params=jax.tree.map(_with_strong_type, loss.init(loss_key)),
        memory=memory.empty(
            memory_size, model.embedding_dim, jnp.promote_types(model.dtype, jnp.float32)
        ),
        batch_stats=batch_stats,
        opt_state=None,
        num_clusters=jnp.ones((), jnp.int32),
        trained_modules=trained_modules,
    )
    return state.replace(opt_state=optimizer.init(state.trainable))


def _with_strong_type(x: Any) -> jax.Array:
    """Returns an array without a weak type, which an update would change and so recompile."""
    array = jnp.asarray(x)
    return jax.lax.convert_element_type(array, array.dtype)


def shardings(abstract_state: TrainState, mesh: jax.sharding.Mesh) -> TrainState:
    """Returns the sharding of each array: large ones of the loss by rows, all others replicated.

    The optimizer's moments are sharded as their parameters.

    Args:
      abstract_state: the shapes.
      mesh: the devices.
    """

    def place(path: Any, leaf: Any) -> jax.sharding.NamedSharding:
        names = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
        is_of_loss = "loss_params" in names or "loss" in names
        return devices.table_sharding(mesh, leaf.shape if is_of_loss else ())

    return jax.tree_util.tree_map_with_path(place, abstract_state)


def rebuild_masks(
    state: TrainState,
    optimizer: optax.GradientTransformation,
    *,
    parents: jax.Array | np.ndarray,
    kind: str,
) -> TrainState:
    """Gives each cluster of a new division the mask of its parent, or its share of it.

    So do the averages of the masks. The masks' optimizer state starts anew, as P21's does (moments
    and step count).

    Args:
      state: the state of the previous division.
      optimizer: the one that made `state.opt_state`.
      parents: int32 [K_max], `Division.padded_parents`.
      kind: "learned", "fixed" or "none", see `masks.inherit`.
    """
    parents = jnp.asarray(parents)
    average = dict(state.average)
    if average:
        average["masks"] = inherit(average["masks"], parents, kind)
    state = state.replace(
        masks=inherit(state.masks, parents, kind),
        num_clusters=jnp.sum(parents >= 0, dtype=state.num_clusters.dtype),
        average=average,
    )
    return state.replace(
        opt_state=optimizers.renew(optimizer, state.opt_state, state.trainable, "masks")
    )


def create_enter(
    optimizer: optax.GradientTransformation, shardings: TrainState, *, max_clusters: int, kind: str
) -> Callable[[TrainState, Division], TrainState]:
    """Returns the function (state, division) -> state that puts a new division into force.

    The buffers of the state are donated. If there are more clusters now, the masks are rebuilt. The
    memory is emptied in any case.

    Args:
      optimizer: the one that made the state.
      shardings: of the state.
      max_clusters: K_max.
      kind: as in `rebuild_masks`.
    """
    jit = functools.partial(jax.jit, out_shardings=shardings, donate_argnums=0)

    @jit
    def rebuild(state: TrainState, parents: jax.Array) -> TrainState:
        return rebuild_masks(state, optimizer, parents=parents, kind=kind)

    @jit
    def forget(state: TrainState) -> TrainState:
        return state.replace(memory=memory.forget(state.memory))

    def enter(state: TrainState, division: Division) -> TrainState:
        if division.num_clusters > int(state.num_clusters):
            state = rebuild(state, division.padded_parents(max_clusters))
        return forget(state)

    return enter
