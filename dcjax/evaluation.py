"""Embeds an image set and scores it by its protocol."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from dcjax import clustering, devices, pipeline, retrieval
from dcjax.datasets import ImageSet, Splits

Embed = Callable[[ImageSet], np.ndarray]


def embed(
    images: ImageSet,
    step: Callable[[Any, jax.Array], dict[str, jax.Array]],
    variables: Any,
    *,
    output: str,
    sharding: jax.sharding.Sharding,
    batch_size: int,
    resize: int,
    crop: int,
    num_threads: int | None,
) -> np.ndarray:
    """Embeds every image, in order.

    Args:
      images: N images.
      step: jitted `steps.embed_step`.
      variables: the model's.
      output: "embedding" or "backbone", the features that are wanted.
      sharding: of a batch of images.
      batch_size: images embedded at a time.
      resize: shorter side in pixels before the centre crop.
      crop: side of the crop in pixels.
      num_threads: decoding threads, None for tf.data's choice.

    Returns:
      float32 [N, D or F], rows L2-normalised.

    Raises:
      FloatingPointError: if a value is not finite.
    """
    batches = pipeline.eval_batches(
        images, batch_size=batch_size, resize=resize, crop=crop, num_threads=num_threads
    )
    on_device = devices.prefetch((batch["image"] for batch in batches), sharding)
    rows = list(_fetched(step(variables, batch)[output] for batch in on_device))
    embeddings = np.concatenate(rows)[: len(images)].astype(np.float32)
    if not np.all(np.isfinite(embeddings)):
        raise FloatingPointError(
            f"The {output} of some images is not finite: training has diverged. Go back to an "
            "earlier checkpoint, and lower optimizer.learning_rate."
        )
    return embeddings


def _fetched(outputs: Iterator[jax.Array]) -> Iterator[np.ndarray]:
    """Yields arrays on the host, each after the next one has been dispatched."""
    waiting = next(outputs)
    for output in outputs:
        yield np.asarray(waiting)
        waiting = output
    yield np.asarray(waiting)


def pixels(images: ImageSet, *, batch_size: int, resize: int, crop: int) -> np.ndarray:
    """Returns the test images' own pixels as float32 [N, crop * crop * 3], a floor for scores."""
    batches = pipeline.eval_batches(
        images, batch_size=batch_size, resize=resize, crop=crop, num_threads=None
    )
    rows = [batch["image"].reshape(batch_size, -1) for batch in batches]
    return np.concatenate(rows)[: len(images)].astype(np.float32) / 255


def evaluate(
    embed_images: Embed, splits: Splits, *, ks: Sequence[int], nmi_runs: int
) -> dict[str, float]:
    """Scores the retrieval of classes that were not trained on (method: `retrieval.score`).

    Args:
      embed_images: function from an image set to its embeddings [N, D].
      splits: whose query searches its gallery, or itself.
      ks: of recall at k.
      nmi_runs: K-means runs, with as many clusters as classes, whose mean NMI is "nmi"; 0: none.

    Returns:
      Score by name.
    """
    query = embed_images(splits.query)
    labels, everything = splits.query.labels, query
    if splits.gallery is None:
        scores = retrieval.score(query, labels, ks=ks)
    else:
        gallery = embed_images(splits.gallery)
        scores = retrieval.score(query, labels, gallery, splits.gallery.labels, ks=ks)
        labels = np.concatenate([labels, splits.gallery.labels])
        everything = np.concatenate([query, gallery])
    if nmi_runs:
        num_classes = len(np.unique(labels))
        runs = [
            clustering.nmi(labels, clustering.kmeans(everything, num_classes, seed=seed)[0])
            for seed in range(nmi_runs)
        ]
        scores["nmi"] = float(np.mean(runs))
    return scores
