"""Embeds an image set and scores it by its protocol."""

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.sharding import NamedSharding

from dcjax.core.errors import DivergedError, InputError
from dcjax.data import readers
from dcjax.distributed import devices, processes, sharded_rows
from dcjax.division import device_kmeans, host_kmeans, masks
from dcjax.retrieval import metrics, reranking, thresholds

RERANKED = "reranked_"  # begins the names of scores after re-ranking
ScoresReceiver = Callable[[Mapping[str, npt.NDArray]], None]  # of each query [Q], by name


def embed(
    reader: readers.EvalReader,
    step: Callable[[Any, jax.Array], dict[str, jax.Array]],
    variables: Any,
    *,
    output: str,
    sharding: NamedSharding,
    batch_size: int,
) -> jax.Array:
    """Embeds every image, in order; a process reads those whose rows its devices hold.

    Args:
      reader: of N images.
      step: jitted `steps.embed_step`.
      variables: the model's.
      output: "embedding" or "backbone", the features that are wanted.
      sharding: of a batch of images, `devices.rows_sharding`.
      batch_size: images of a batch, rounded up to a multiple of the number of devices.

    Returns:
      float32 [N', D or F], rows L2-normalised, sharded by rows in order. N' >= N, since the last
      batch is padded; rows beyond N are zeros.

    Raises:
      DivergedError: if a value is not finite.
    """
    batch_size = devices.round_up(batch_size, sharding.num_devices)
    num_images = len(reader.images)
    rows = readers.rows_to_embed(num_images, batch_size, sharding.num_devices)
    batches = reader.eval_batches(rows[:, _local_places(sharding, batch_size)])
    outputs = (step(variables, batch)[output] for batch in devices.prefetch(batches, sharding))
    embeddings = _concatenate(outputs, sharding, num_rows=num_images, num_batches=len(rows))
    if not jax.device_get(_all_finite(embeddings)):
        raise DivergedError(
            f"The {output} of some images is not finite: training has diverged. Go back to an "
            "earlier checkpoint, and lower optimizer.learning_rate."
        )
    return embeddings


def fetch(embeddings: jax.Array, num_rows: int, *, is_receiver: bool = True) -> np.ndarray:
    """Returns the embeddings of N images on the host, [N, F]; all processes call it together.

    Args:
      embeddings: [N', F], as `embed` returns them.
      num_rows: N.
      is_receiver: see `sharded_rows.fetch`.
    """
    return sharded_rows.fetch(sharded_rows.Rows(embeddings, num_rows), is_receiver=is_receiver)


def pixels(reader: readers.Reader, *, sharding: NamedSharding, batch_size: int) -> jax.Array:
    """Returns the pixels of the images as `embed` does, [N', crop * crop * 3]: a baseline."""
    return embed(
        reader,
        _pixels,
        None,
        output="pixels",
        sharding=sharding,
        batch_size=batch_size,
    )


def evaluate(
    embeddings: Sequence[jax.Array],
    labels: Sequence[npt.NDArray],
    *,
    ks: Sequence[int],
    nmi_runs: int,
    gallery_draws: int,
    kmeans: str = "host",
    dims: Sequence[int] = (),
    cameras: Sequence[npt.NDArray] | None = None,
    receive: ScoresReceiver | None = None,
) -> dict[str, float]:
    """Scores the retrieval of classes that were not trained on (method: `retrieval.score`).

    Args:
      embeddings: of the query images, as `embed` returns them, and of the gallery if there is one;
        without one, each query searches all others.
      labels: of each, [N].
      ks: of recall at k.
      nmi_runs: K-means runs, with as many clusters as classes and the seeds 0, 1, ..., whose mean
        NMI is "nmi"; 0: none.
      gallery_draws: without a gallery, the number of random galleries of one image per class, see
        `metrics.score_one_per_class`; 0: each image searches all others.
      kmeans: where images are clustered for "nmi": on the "host" of the first process, which then
        holds all embeddings, or on the "devices", each of which keeps its share.
      dims: numbers of first coordinates, see `score_dims`.
      cameras: of each, [N]: a query finds no image of its class that its camera took, see
        `metrics.score`; None: no matter.
      receive: gets the scores of each query, unless galleries are drawn.

    Returns:
      Score by name.
    """
    protocol: Any = {"gallery_draws": gallery_draws, "cameras": cameras}
    scores = _mean_scores(embeddings, labels, ks=ks, **protocol, receive=receive)
    if nmi_runs:
        scores["nmi"] = nmi(embeddings, labels, num_runs=nmi_runs, kmeans=kmeans)
    return scores | score_dims(embeddings, labels, dims=dims, **protocol)


def score_dims(
    embeddings: Sequence[jax.Array],
    labels: Sequence[npt.NDArray],
    *,
    dims: Sequence[int],
    gallery_draws: int,
    cameras: Sequence[npt.NDArray] | None = None,
) -> dict[str, float]:
    """Returns recall at 1 of the first coordinates of embeddings, L2-normalised again.

    The other arguments are those of `evaluate`.

    Args:
      embeddings: [N', D] each.
      labels: [N] each.
      dims: numbers of coordinates; those from D on, which all embeddings have, are left out.
      gallery_draws: number of random galleries.
      cameras: of each, [N], or None.

    Returns:
      "recall_at_1@64" for 64 coordinates, and so on.
    """
    scores = {}
    for dim in dims:
        if dim < embeddings[0].shape[1]:
            short = [_first_coordinates(rows, dim, rows.sharding) for rows in embeddings]
            found = _mean_scores(
                short, labels, ks=(1,), gallery_draws=gallery_draws, cameras=cameras
            )
            scores[score_of_dim(dim)] = found["recall_at_1"]
    return scores


def score_of_dim(dim: int) -> str:
    """Returns the name of the score of so many first coordinates."""
    return f"recall_at_1@{dim}"


def _mean_scores(
    embeddings: Sequence[jax.Array],
    labels: Sequence[npt.NDArray],
    *,
    ks: Sequence[int],
    gallery_draws: int,
    cameras: Sequence[npt.NDArray] | None,
    receive: ScoresReceiver | None = None,
) -> dict[str, float]:
    if not gallery_draws or len(embeddings) == 2:
        by_query = score_queries(embeddings, labels, ks=ks, cameras=cameras)
        if receive is not None:
            receive(by_query)
        return metrics.mean(by_query)
    (images,) = _as_rows(embeddings, labels)
    mesh = sharded_rows.mesh_of(images.values)
    return metrics.score_one_per_class(images, labels[0], ks=ks, num_draws=gallery_draws, mesh=mesh)


@partial(jax.jit, static_argnames=("dim", "sharding"))
def _first_coordinates(embeddings: jax.Array, dim: int, sharding: NamedSharding) -> jax.Array:
    short = masks.l2_normalize(embeddings[:, :dim])
    return jax.lax.with_sharding_constraint(short, sharding)


def score_queries(
    embeddings: Sequence[jax.Array],
    labels: Sequence[npt.NDArray],
    *,
    ks: Sequence[int],
    cameras: Sequence[npt.NDArray] | None = None,
) -> dict[str, npt.NDArray]:
    """Returns the scores of each query in the gallery or, without one, in all other images.

    The arguments are those of `evaluate`; see `metrics.score_queries`.
    """
    sets = _as_rows(embeddings, labels)
    gallery = (sets[1], labels[1]) if len(sets) == 2 else (None, None)
    mesh = sharded_rows.mesh_of(sets[0].values)
    return metrics.score_queries(sets[0], labels[0], *gallery, ks=ks, mesh=mesh, cameras=cameras)


def score_on_host(
    embeddings: Sequence[jax.Array],
    labels: Sequence[npt.NDArray],
    *,
    ks: Sequence[int],
    cameras: Sequence[npt.NDArray] | None = None,
    reranks: Mapping[str, Any] | None = None,
    rates: Sequence[float] = (),
) -> dict[str, float]:
    """Returns scores that the host of the first process computes, which holds all embeddings.

    Args:
      embeddings: as in `evaluate`.
      labels: as in `evaluate`.
      ks: as in `evaluate`.
      cameras: as in `evaluate`.
      reranks: options of `reranking.score_queries`, whose scores are named "reranked_..."; None:
        without them. Requires a gallery.
      rates: FMRs of `thresholds.score`; none: without these.

    Returns:
      Score by name, on all processes.
    """
    if reranks is None and not rates:
        return {}
    is_first = processes.is_first()
    parts = [
        sharded_rows.fetch(rows, is_receiver=is_first) for rows in _as_rows(embeddings, labels)
    ]
    scores: dict[str, float] = {}

    def compute() -> None:
        if reranks is not None:
            by_query = reranking.score_queries(
                parts[0], labels[0], parts[1], labels[1], ks=ks, cameras=cameras, **reranks
            )
            reranked = metrics.mean(by_query)
            scores.update({f"{RERANKED}{name}": value for name, value in reranked.items()})
        if rates:
            gallery = (parts[1], labels[1]) if len(parts) == 2 else (None, None)
            scores.update(
                thresholds.score(parts[0], labels[0], *gallery, rates=rates, cameras=cameras)
            )

    error = ""
    if is_first:
        try:
            compute()
        except InputError as wrong:
            error = str(wrong)
    if error := processes.first_message(error):
        raise InputError(error)
    return _send_scores(scores)


def _send_scores(scores: Mapping[str, float]) -> dict[str, float]:
    """Returns the scores of the first process on all processes."""
    # As text: JAX would send a float64 as float32.
    text = np.frombuffer(json.dumps(scores).encode(), np.uint8)
    size = int(processes.broadcast(np.int32(len(text))))
    return dict(json.loads(bytes(processes.broadcast(np.resize(text, size)))))


def nmi(
    embeddings: Sequence[jax.Array],
    labels: Sequence[npt.NDArray],
    *,
    num_runs: int,
    kmeans: str = "host",
) -> float:
    """Returns the NMI of K-means clusters and classes, see `evaluate`."""
    sets = _as_rows(embeddings, labels)
    on = _nmi_on_devices if kmeans == "devices" else _nmi_on_host
    return on(sets, np.concatenate(labels), num_runs)


def _as_rows(
    embeddings: Sequence[jax.Array], labels: Sequence[npt.NDArray]
) -> list[sharded_rows.Rows]:
    return [
        sharded_rows.Rows(values, len(of)) for values, of in zip(embeddings, labels, strict=True)
    ]


def _nmi_on_host(
    embeddings: Sequence[sharded_rows.Rows], labels: npt.NDArray, num_runs: int
) -> float:
    """Returns the mean NMI of K-means runs on the host of the first process, on all processes."""
    is_first = processes.is_first()
    parts = [sharded_rows.fetch(rows, is_receiver=is_first) for rows in embeddings]
    mean = np.zeros(1)
    if is_first:
        points = np.concatenate(parts) if parts[1:] else parts[0]
        num_clusters = len(np.unique(labels))
        runs = (host_kmeans.kmeans(points, num_clusters, seed=i)[0] for i in range(num_runs))
        mean[0] = np.mean([host_kmeans.nmi(labels, clusters) for clusters in runs])
    processes.wait_for_all("clusters of the test images")
    # Sent as integers: JAX would send a float64 as float32.
    received = processes.broadcast(mean.view(np.uint32))
    return float(received.view(np.float64)[0])


def _nmi_on_devices(
    embeddings: Sequence[sharded_rows.Rows], labels: npt.NDArray, num_runs: int
) -> float:
    """Returns the mean NMI of K-means runs on all devices."""
    points, places = sharded_rows.concatenate(embeddings)
    order = np.argsort(places)
    cluster = partial(device_kmeans.kmeans, points, len(np.unique(labels)), rows=places[order])
    runs = (cluster(seed=i)[0] for i in range(num_runs))
    return float(np.mean([host_kmeans.nmi(labels[order], clusters) for clusters in runs]))


def _local_places(sharding: NamedSharding, batch_size: int) -> npt.NDArray:
    """Returns the places in a batch whose images lie on this process's devices."""
    parts = sharding.addressable_devices_indices_map((batch_size,)).values()
    return np.unique([np.arange(batch_size)[index] for index in parts])


def _concatenate(
    outputs: Iterator[jax.Array], sharding: NamedSharding, *, num_rows: int, num_batches: int
) -> jax.Array:
    """Returns the outputs [B, F] of all batches as sharded rows; nothing moves between devices."""
    before = next(outputs)
    shape = (num_batches * len(before), before.shape[1])
    embeddings = jnp.zeros(shape, jnp.float32, device=sharding)
    for i, output in enumerate(itertools.chain([before], outputs)):
        embeddings = _put(embeddings, output, i, num_rows, sharding=sharding)
        # The host is one batch ahead; more batches would fill the devices' memory.
        jax.block_until_ready(before)
        before = output
    return embeddings


@partial(jax.jit, static_argnames="sharding", donate_argnames="embeddings")
def _put(
    embeddings: jax.Array,
    output: jax.Array,
    batch: jax.Array,
    num_rows: jax.Array,
    *,
    sharding: NamedSharding,
) -> jax.Array:
    """Puts the output [B, F] of a batch in its place; rows from num_rows on stay zeros."""
    mesh, rows, replicated = sharding.mesh, sharding.spec, jax.sharding.PartitionSpec()

    def put(share: jax.Array, output: jax.Array, batch: jax.Array, num_rows: jax.Array) -> Any:
        start = batch * len(output)
        row = jax.lax.axis_index(mesh.axis_names) * len(share) + start + jnp.arange(len(output))
        kept = jnp.where(row[:, None] < num_rows, output, 0).astype(share.dtype)
        return jax.lax.dynamic_update_slice(share, kept, (start, 0))

    specs = (rows, rows, replicated, replicated)
    placed = jax.shard_map(put, mesh=mesh, in_specs=specs, out_specs=rows)
    return placed(embeddings, output, batch, num_rows)


@jax.jit
def _all_finite(embeddings: jax.Array) -> jax.Array:
    return jnp.all(jnp.isfinite(embeddings))


@jax.jit
def _pixels(_: Any, batch: jax.Array) -> dict[str, jax.Array]:
    return {"pixels": batch.reshape(len(batch), -1) / 255}
