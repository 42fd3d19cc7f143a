"""The test images of a run, embedded once: scores, and what each query finds."""

import dataclasses
import functools

import jax
import numpy as np

from dcjax.analysis import outcomes
from dcjax.core.console import Console
from dcjax.data.datasets import ImageSet, Splits
from dcjax.experiment import cameras, embedding, scoring
from dcjax.experiment.embedder import Embedder
from dcjax.experiment.report import draws
from dcjax.experiment.report.draws import Part
from dcjax.retrieval import evaluation, metrics
from dcjax.retrieval.neighbors import Gallery

_QUERIES_AT_A_TIME = 1024  # that move the bar
_NUM_IN_COVARIANCE = 10_000


@dataclasses.dataclass(frozen=True, eq=False)
class Retrieval:
    """What a run makes of its test images.

    Attributes:
      query: the images that search.
      gallery: the images that are searched.
      is_same_set: whether these are the same, and each searches all others.
      query_embeddings: float32 [Q, D].
      gallery_embeddings: float32 [G, D].
      scores: as an evaluation gives them.
      by_query: the scores of each query [Q] in the whole gallery, see `metrics.score_queries`;
        their means are `scores`, unless the protocol draws galleries.
      is_cross_camera: whether images of a query's class and camera are left out for it.
    """

    query: ImageSet
    gallery: ImageSet
    is_same_set: bool
    query_embeddings: np.ndarray
    gallery_embeddings: np.ndarray
    scores: dict[str, float]
    by_query: dict[str, np.ndarray]
    is_cross_camera: bool = False

    @functools.cached_property
    def index(self) -> Gallery:
        """The gallery, to search it."""
        return Gallery(self.gallery_embeddings, self.gallery.labels)

    def nearest(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns what these queries find, see `Gallery.nearest`."""
        embeddings, self_rows = self.query_embeddings[queries], self.self_rows(queries)
        if not self.is_cross_camera:
            return self.index.nearest(embeddings, k, self_rows=self_rows)
        of_queries, by_view = self._by_view
        return by_view.nearest(embeddings, k, self_rows=self_rows, other_than=of_queries[queries])

    @functools.cached_property
    def _by_view(self) -> tuple[np.ndarray, Gallery]:
        """The view of each query, its class and camera as one number, and a gallery of views."""
        sets = (self.query, self.gallery)
        _, numbers = np.unique(np.concatenate([x.cameras for x in sets]), return_inverse=True)
        views = np.concatenate([x.labels for x in sets]) * (numbers.max() + 1) + numbers
        of_queries, of_gallery = np.split(views, [len(self.query)])
        return of_queries, Gallery(self.gallery_embeddings, of_gallery)

    @property
    def is_counted(self) -> np.ndarray:
        """Whether each query is in the recalls, bool [Q]."""
        recall = next(values for name, values in self.by_query.items() if "recall" in name)
        return ~np.isnan(recall)

    def self_rows(self, queries: np.ndarray) -> np.ndarray | None:
        """Returns the rows of queries in the gallery, None where they are not in it."""
        return queries if self.is_same_set else None

    def covariance_sample(self) -> np.ndarray:
        """Returns embeddings of the gallery, of which the covariance is taken; a sample of many."""
        generator = draws.generator(Part.COVARIANCE)
        rows = generator.permutation(len(self.gallery))[:_NUM_IN_COVARIANCE]
        return self.gallery_embeddings[np.sort(rows)]

    def nearest_of_other_classes(self, console: Console) -> tuple[np.ndarray, np.ndarray]:
        """Returns the nearest image of another class to each query, see `outcomes`."""
        num_queries = len(self.query)
        parts = []
        with console.progress("searching", total=num_queries, done=0) as move:
            for start in range(0, num_queries, _QUERIES_AT_A_TIME):
                block = slice(start, start + _QUERIES_AT_A_TIME)
                parts.append(
                    outcomes.nearest_of_other_classes(
                        self.index, self.query_embeddings[block], self.query.labels[block]
                    )
                )
                move("queries", steps=len(parts[-1][0]))
        rows, distances = (np.concatenate(column) for column in zip(*parts, strict=True))
        return rows, distances


def retrieve(run: Embedder, splits: Splits, console: Console) -> Retrieval:
    """Embeds the test images of a run, and scores them as an evaluation does."""
    sets = splits.test_sets
    with embedding.show_progress(console, total=sum(map(len, sets))) as advance:
        embeddings = run.embed_test(splits, advance)
    labels = [images.labels for images in sets]
    settings = run.config.eval
    compared = cameras.compared([images.cameras for images in sets], settings)
    by_query = evaluation.score_queries(embeddings, labels, ks=settings.ks, cameras=compared)
    is_drawn = settings.protocol == "gallery" and len(sets) == 1
    scores = (
        scoring.score(embeddings, labels, settings, with_nmi=False, cameras=compared)
        if is_drawn
        else metrics.mean(by_query)
        | scoring.score_on_host(embeddings, labels, settings, cameras=compared)
    )
    scores |= evaluation.score_dims(
        embeddings,
        labels,
        dims=scoring.scored_dims(run.config),
        gallery_draws=settings.gallery_draws if is_drawn else 0,
        cameras=compared,
    )
    if settings.nmi != "never":
        scores["nmi"] = _nmi(run, embeddings, labels, scores)
    fetched = [
        evaluation.fetch(values, len(images))
        for values, images in zip(embeddings, sets, strict=True)
    ]
    return Retrieval(
        query=sets[0],
        gallery=sets[-1],
        is_same_set=len(sets) == 1,
        query_embeddings=fetched[0],
        gallery_embeddings=fetched[-1],
        scores=scores,
        by_query=by_query,
        is_cross_camera=compared is not None,
    )


def _nmi(
    run: Embedder,
    embeddings: list[jax.Array],
    labels: list[np.ndarray],
    scores: dict[str, float],
) -> float:
    """Returns the NMI of K-means clusters and classes.

    It takes longer than all other scores where there are many classes. So the recorded one is
    taken, if that was made with the same settings and all other scores are the recorded ones, to
    the last digit: then it is of the same embeddings, and K-means is a function of these.
    """
    recorded = run.nmi
    if recorded is not None and all(run.scores.get(x) == value for x, value in scores.items()):
        return recorded
    settings = run.config.eval
    return evaluation.nmi(embeddings, labels, num_runs=settings.nmi_runs, kmeans=settings.kmeans)
