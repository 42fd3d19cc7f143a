"""Embeds an image set and scores it by its protocol."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from dcjax import clustering, devices, pipeline, ranking, retrieval
from dcjax.datasets import ImageSet, Splits

Embed = Callable[[ImageSet], np.ndarray]


def embed(
    images: ImageSet,
    step: Callable[[Any, jax.Array], dict[str, jax.Array]],
    variables: Any,
    *,
    output: str,
    read: Callable[[ImageSet], pipeline.Reader],
    sharding: jax.sharding.Sharding,
    batch_size: int,
) -> np.ndarray:
    """Embeds every image, in order.

    Args:
      images: N images.
      step: jitted `steps.embed_step`.
      variables: the model's.
      output: "embedding" or "backbone", the features that are wanted.
      read: gives the reader of the images.
      sharding: of a batch of images.
      batch_size: images embedded at a time.

    Returns:
      float32 [N, D or F], rows L2-normalised.

    Raises:
      FloatingPointError: if a value is not finite.
    """
    batches = devices.prefetch(read(images).eval_batches(batch_size), sharding)
    rows = list(ranking.fetched(step(variables, batch)[output] for batch in batches))
    embeddings = np.concatenate(rows)[: len(images)].astype(np.float32)
    if not np.all(np.isfinite(embeddings)):
        raise FloatingPointError(
            f"The {output} of some images is not finite: training has diverged. Go back to an "
            "earlier checkpoint, and lower optimizer.learning_rate."
        )
    return embeddings


def pixels(
    images: ImageSet, *, read: Callable[[ImageSet], pipeline.Reader], batch_size: int
) -> np.ndarray:
    """Returns the test images' own pixels as float32 [N, crop * crop * 3], a floor for scores."""
    batches = read(images).eval_batches(batch_size)
    rows = [np.asarray(batch).reshape(batch_size, -1) for batch in batches]
    return np.concatenate(rows)[: len(images)].astype(np.float32) / 255


def evaluate(
    embed_images: Embed,
    splits: Splits,
    *,
    ks: Sequence[int],
    nmi_runs: int,
    gallery_draws: int,
) -> dict[str, float]:
    """Scores the retrieval of classes that were not trained on (method: `retrieval.score`).

    Args:
      embed_images: function from an image set to its embeddings [N, D].
      splits: whose query searches its gallery, or itself if there is none.
      ks: of recall at k.
      nmi_runs: K-means runs, with as many clusters as classes, whose mean NMI is "nmi"; 0: none.
      gallery_draws: for a query that searches itself, how often a random image of each class is the
        gallery of all others (`retrieval.score_one_per_class`); 0: each image searches all others.

    Returns:
      Score by name.
    """
    query = embed_images(splits.query)
    labels, everything = splits.query.labels, query
    mesh = devices.create_mesh()
    if splits.gallery is None and gallery_draws:
        scores = retrieval.score_one_per_class(
            query, labels, ks=ks, num_draws=gallery_draws, mesh=mesh
        )
    elif splits.gallery is None:
        scores = retrieval.score(query, labels, ks=ks, mesh=mesh)
    else:
        gallery = embed_images(splits.gallery)
        scores = retrieval.score(query, labels, gallery, splits.gallery.labels, ks=ks, mesh=mesh)
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
