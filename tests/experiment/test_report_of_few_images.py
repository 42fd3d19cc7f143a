"""Reports of very few images have what there is, and a page can be made of it."""

from collections.abc import Sequence

import numpy as np
import pytest

from configs import digits
from dcjax.core.console import Console
from dcjax.data.datasets import ImageSet
from dcjax.experiment.report import embedding_map, failures
from dcjax.experiment.report.retrieval import Retrieval
from dcjax.pages import content, report
from dcjax.retrieval import metrics


def _images(labels: Sequence[int]) -> ImageSet:
    pixels = np.random.default_rng(0).integers(0, 256, (len(labels), 8, 8, 1)).astype(np.uint8)
    return ImageSet(pixels, np.array(labels, np.int32), tuple("abcdef"))


def _retrieval(query_labels: Sequence[int], gallery_labels: Sequence[int]) -> Retrieval:
    """Returns embeddings at random; without a gallery, queries search one another."""
    query, is_same = _images(query_labels), not gallery_labels
    gallery = query if is_same else _images(gallery_labels)
    generator = np.random.default_rng(1)
    queries = generator.normal(size=(len(query), 8)).astype(np.float32)
    searched = queries if is_same else generator.normal(size=(len(gallery), 8)).astype(np.float32)
    others = () if is_same else (searched, gallery.labels)
    by_query = metrics.score_queries(queries, query.labels, *others, ks=(1,))
    return Retrieval(query, gallery, is_same, queries, searched, metrics.mean(by_query), by_query)


@pytest.mark.parametrize(
    ("queries", "gallery", "num_queries", "has_tsne"),
    [
        ((0, 0, 1, 1, 2, 2, 2, 0, 1, 2), (), [8, 8, 8], True),
        ((0,) * 10, (), [8, 8, 8], True),  # one class
        ((0, 1), (), [2, 0, 0], False),  # nothing to find
        ((0, 1, 2), (1, 1, 3), [3, 1, 1], False),
        ((0, 0), (0,), [2, 2, 2], False),
    ],
)
def test_what_there_is_of_few_images_is_shown(
    queries: tuple[int, ...], gallery: tuple[int, ...], num_queries: list[int], has_tsne: bool
) -> None:
    found, config, console = _retrieval(queries, gallery), digits.get_config(), Console(quiet=True)
    where, *_ = failures.collect(found, config, console)
    assert [len(kind.rankings) for kind in where.rankings] == num_queries
    num_searched = len(gallery) or len(queries) - 1
    for kind in where.rankings:
        for ranking in kind.rankings:
            assert len(ranking.neighbors["embedding"]) == min(num_searched, 10)
    assert isinstance(where.pairs, str) == (len({*queries, *gallery}) == 1)
    shown = embedding_map.collect(found, config, console)
    assert len(shown.projections) == 1 + has_tsne
    assert len(shown.notes) == 1 - has_tsne
    page = report.render(
        content.Report(
            title="few",
            state="finished",
            summary=content.Summary([], {"run": found.scores}, "recall_at_1", [], []),
            failures=where,
            divisions="none",
            training="none",
            map=shown,
        )
    )
    assert "Where is everything?" in page
