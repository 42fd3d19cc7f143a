"""Scores embeddings as the settings `eval` say."""

from collections.abc import Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from dcjax.retrieval import evaluation


def score(
    embeddings: Sequence[jax.Array],
    labels: Sequence[np.ndarray],
    settings: ConfigDict,
    *,
    with_nmi: bool,
    dims: Sequence[int] = (),
    cameras: Sequence[np.ndarray] | None,
    receive: evaluation.ScoresReceiver | None = None,
) -> dict[str, float]:
    """Returns the scores of embeddings by the settings `eval`, see `evaluation.evaluate`.

    Args:
      embeddings: of the queries and, if there is one, the gallery.
      labels: of each.
      settings: the group `eval`.
      with_nmi: whether to cluster them.
      dims: numbers of first coordinates, see `evaluation.score_dims`.
      cameras: of each, see `cameras.compared`.
      receive: see `evaluation.evaluate`.
    """
    scores = evaluation.evaluate(
        embeddings,
        labels,
        ks=settings.ks,
        nmi_runs=settings.nmi_runs if with_nmi else 0,
        gallery_draws=settings.gallery_draws if settings.protocol == "gallery" else 0,
        kmeans=settings.kmeans,
        dims=dims,
        cameras=cameras,
        receive=receive,
    )
    return scores | score_on_host(embeddings, labels, settings, cameras=cameras)


def score_on_host(
    embeddings: Sequence[jax.Array],
    labels: Sequence[np.ndarray],
    settings: ConfigDict,
    *,
    cameras: Sequence[np.ndarray] | None,
) -> dict[str, float]:
    """Returns the scores after re-ranking and at FMRs, if `eval` wants them; as in `score`."""
    return evaluation.score_on_host(
        embeddings,
        labels,
        ks=settings.ks,
        cameras=cameras,
        reranks=settings.reranking.to_dict() if settings.rerank else None,
        rates=settings.fmr,
    )


def scored_dims(config: ConfigDict) -> tuple[int, ...]:
    """Returns the numbers of first coordinates below D that an evaluation scores too."""
    dims = config.eval.dims or config.loss.matryoshka
    return tuple(dim for dim in dims if dim < config.model.embedding_dim)
