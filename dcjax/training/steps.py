"""One step of learning (P21 section 3, method of one cluster batch) and one of embedding."""

import operator
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dcjax.division import masks
from dcjax.losses import Loss, Params, memory
from dcjax.losses.memory import Memory
from dcjax.models.masked_embedder import MaskedEmbedder, join_variables
from dcjax.training import averages, rates
from dcjax.training.state import TrainState

Metrics = dict[str, jax.Array]


def train_step(
    state: TrainState,
    batch: dict[str, jax.Array],
    controls: dict[str, Any],
    key: jax.Array,
    *,
    model: MaskedEmbedder,
    loss: Loss,
    optimizer: optax.GradientTransformationExtraArgs,
    orthogonality_weight: float,
    schedule: rates.Schedule | None = None,
    average_decay: float = 0.0,
) -> tuple[TrainState, Metrics]:
    """Learns from C batches, each of one cluster, in the subspace of that cluster.

    Written as if the whole batch lay on one device; the shardings of its arguments distribute it.

    Args:
      state: current state.
      batch: "image" uint8 [C, B, h, w, 3], "label" int32 [C, B], "cluster" int32 [C].
      controls: traced scalars: "learning_rates" by group and "epoch", see `rates.of_step`;
        "full_embedding": whether to train the combined embedding in place of the subspaces (P21
        section 3.4); "memory": whether batches are compared with the memory too.
      key: of the run; the step number is folded in.
      model: the embedder.
      loss: the metric-learning loss.
      optimizer: from `optimizers.create`.
      orthogonality_weight: lambda of P21 eq. 7.
      schedule: of the learning rates; None: they are those of the epoch.
      average_decay: of the average over the steps, see `averages`; 0: there is none.

    Returns:
      The next state, and the metrics "loss", "orthogonality", those of the loss, and with a
      schedule "learning_rate", that of the embedding.
    """
    dropout_key, loss_key = jax.random.split(jax.random.fold_in(key, state.step))
    loss_keys = jax.random.split(loss_key, batch["cluster"].shape[0])

    def objective(trainable: dict[str, Any]) -> tuple[jax.Array, tuple[Any, Memory, Metrics]]:
        params = state.params_with(trainable)
        outputs, updated = model.apply(
            join_variables(params, trainable["masks"], state.batch_stats),
            batch["image"],
            batch["cluster"],
            controls["full_embedding"],
            train=True,
            rngs={"dropout": dropout_key},
            mutable=["batch_stats"],
        )
        # In the full embedding, images of all clusters are compared; -1 stands for all of them.
        compared_clusters = jnp.where(controls["full_embedding"], -1, batch["cluster"])
        compared = jax.vmap(memory.references, in_axes=(None, 0, 0, None))(
            state.memory, outputs["mask"], compared_clusters, controls["memory"]
        )
        more = {"mask": outputs["mask"], "memory": compared}
        metric_loss, metrics = _losses_of_batches(
            loss,
            trainable["loss"],
            outputs["embedding"],
            batch["label"],
            loss_keys,
            {name: more[name] for name in loss.takes},
        )
        similarity = masks.orthogonality(trainable["masks"], state.num_clusters)
        weight = jnp.where(controls["full_embedding"], 0.0, orthogonality_weight)
        metrics = {name: jnp.mean(value) for name, value in metrics.items()}
        metrics |= {"loss": jnp.mean(metric_loss), "orthogonality": similarity}
        kept = memory.enqueue(state.memory, outputs["unmasked"], batch["label"], batch["cluster"])
        return metrics["loss"] + weight * similarity, (updated, kept, metrics)

    gradients, (updated, kept, metrics) = jax.grad(objective, has_aux=True)(state.trainable)
    learning_rates = rates.of_step(controls, state.step, schedule)
    if schedule is not None:
        metrics["learning_rate"] = learning_rates["embedding"]
    updates, opt_state = optimizer.update(
        gradients, state.opt_state, state.trainable, learning_rates=learning_rates
    )
    trained = optax.apply_updates(state.trainable, updates)
    after = state.replace(
        step=state.step + 1,
        params=state.params_with(trained),
        masks=trained["masks"],
        loss_params=trained["loss"],
        memory=kept,
        batch_stats=updated.get("batch_stats", {}),
        opt_state=opt_state,
    )
    if average_decay:
        average = averages.update(
            state.average, after.network, step=state.step, decay=average_decay
        )
        after = after.replace(average=average)
    return after, metrics


def _losses_of_batches(loss: Loss, params: Params, *batches: Any) -> tuple[jax.Array, Metrics]:
    """Returns the loss and metrics [C] of C batches: embeddings, labels, keys and what it takes."""

    def apply_to(*batch: Any) -> tuple[jax.Array, Metrics]:
        *arguments, more = batch
        return loss.apply(params, *arguments, **more)

    if "mask" not in loss.takes:
        return jax.vmap(apply_to)(*batches)
    # Proxies, which are masked, may be sharded over the devices; `vmap` would gather their masked
    # copies for all batches. So the batches are taken one after the other.
    each = (jax.tree.map(operator.itemgetter(c), batches) for c in range(len(batches[0])))
    outputs = [apply_to(*batch) for batch in each]
    return jax.tree.map(lambda *x: jnp.stack(x), *outputs)


def is_finite(state: TrainState) -> jax.Array:
    """Returns whether the model's variables and the loss's arrays are all finite, bool []."""
    leaves = jax.tree.leaves((state.variables, state.loss_params, state.memory))
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in leaves]))


def embed_step(
    model_variables: dict[str, Any], images: jax.Array, *, model: MaskedEmbedder
) -> dict[str, jax.Array]:
    """Embeds uint8 images [batch, h, w, 3] with the combined masks; see `models.MaskedEmbedder`."""
    outputs: Any = model.apply(model_variables, images)
    return outputs


def pool_step(
    model_variables: dict[str, Any], images: jax.Array, *, model: MaskedEmbedder
) -> dict[str, jax.Array]:
    """Returns the pooled features "backbone" [batch, F] of uint8 images, not normalised."""
    pooled: Any = model.apply(model_variables, images, method="pool")
    return {"backbone": pooled}
