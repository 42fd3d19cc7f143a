"""Where does it fail? Queries with what they find, classes, and suspected wrong labels."""

from collections.abc import Mapping, Sequence

import numpy as np
from ml_collections import ConfigDict

from dcjax.analysis import outcomes, subspaces
from dcjax.core.console import Console
from dcjax.experiment.report import draws
from dcjax.experiment.report.draws import Part
from dcjax.experiment.report.pictures import Pictures
from dcjax.experiment.report.retrieval import Retrieval
from dcjax.pages import content

NUM_NEIGHBORS = 10  # shown of a query

_NUM_QUERIES = 8  # of a kind
_NUM_CLASSES = 200
_NUM_PAIRS = 40
_NUM_NEAREST = 2000  # queries whose nearest distance is the measure of what is near


def collect(
    found: Retrieval, config: ConfigDict, console: Console
) -> tuple[content.Failures, Pictures, Pictures]:
    """Returns where retrieval fails, and the pictures of queries and gallery made for it."""
    rows, distances = found.nearest_of_other_classes(console)
    labels = found.query.labels
    is_found = _nearest_is_hit(found)
    counted = found.is_counted
    recalls = outcomes.recall_by_class(
        labels[counted], is_found[counted], found.gallery.labels[rows[counted]]
    )
    names = found.query.class_names
    query_pictures = Pictures(found.query, config.dataset)
    gallery_pictures = (
        query_pictures if found.is_same_set else Pictures(found.gallery, config.dataset)
    )
    precisions = found.by_query["map_at_r"]
    kinds = {
        ("Random queries", "Drawn at random."): random_queries(found, _NUM_QUERIES),
        (
            "The worst queries",
            "Those of the lowest average precision among their first R, the number of images of "
            "their class that could be found; of equal ones, those that are nearest to an image "
            "of another class. One of each class, if there are enough.",
        ): outcomes.worst_queries(precisions, distances, labels, _NUM_QUERIES),
        (
            "The best queries",
            "Those of the highest average precision among their first R; of equal ones, those "
            "that are farthest from all images of other classes.",
        ): outcomes.best_queries(precisions, distances, labels, _NUM_QUERIES),
    }
    failures = content.Failures(
        rankings=[
            content.Rankings(
                title,
                explanation,
                rank({"embedding": found}, queries, query_pictures, gallery_pictures),
            )
            for (title, explanation), queries in kinds.items()
        ],
        classes=[
            content.ClassScore(
                name=names[x.label],
                num_queries=x.num_queries,
                recall_at_1=x.recall_at_1,
                confused_with=None if x.confused_with < 0 else names[x.confused_with],
                share_confused=x.share_confused,
            )
            for x in recalls[:_NUM_CLASSES]
        ],
        num_classes=len(recalls),
        pairs=_pairs(found, rows, distances, query_pictures, gallery_pictures),
        notes=_notes(config),
    )
    return failures, query_pictures, gallery_pictures


def random_queries(found: Retrieval, count: int) -> np.ndarray:
    """Returns queries drawn at random, the same in all reports on these images."""
    generator = draws.generator(Part.QUERIES)
    return generator.permutation(len(found.query))[:count]


def rank(
    spaces: Mapping[str, Retrieval],
    queries: np.ndarray,
    query_pictures: Pictures,
    gallery_pictures: Pictures,
    *,
    num_neighbors: int = NUM_NEIGHBORS,
) -> list[content.Ranking]:
    """Returns what these queries find in each of several spaces, by name."""
    if not len(queries):
        return []
    lists = {name: found.nearest(queries, num_neighbors) for name, found in spaces.items()}
    gallery_pictures.load(np.unique(np.concatenate([rows.ravel() for rows, _ in lists.values()])))
    any_space = next(iter(spaces.values()))
    return [
        content.Ranking(
            query=image,
            neighbors={
                name: _neighbors(
                    any_space,
                    any_space.query.labels[query],
                    rows[place],
                    distances[place],
                    gallery_pictures,
                )
                for name, (rows, distances) in lists.items()
            },
        )
        for place, (query, image) in enumerate(
            zip(queries, query_pictures.get(queries), strict=True)
        )
    ]


def _neighbors(
    found: Retrieval,
    label: int,
    rows: np.ndarray,
    distances: np.ndarray,
    pictures: Pictures,
) -> Sequence[content.Neighbor]:
    is_there = rows >= 0
    return [
        content.Neighbor(image, float(distance), bool(found.gallery.labels[row] == label))
        for image, row, distance in zip(
            pictures.get(rows[is_there]), rows[is_there], distances[is_there], strict=True
        )
    ]


def _nearest_is_hit(found: Retrieval) -> np.ndarray:
    """Returns whether the nearest image of each query is of its class [Q]."""
    if "recall_at_1" in found.by_query:
        return found.by_query["recall_at_1"] == 1
    rows, _ = found.nearest(np.arange(len(found.query)), 1)
    return (rows[:, 0] >= 0) & (found.gallery.labels[rows[:, 0]] == found.query.labels)


def _pairs(
    found: Retrieval,
    rows: np.ndarray,
    distances: np.ndarray,
    query_pictures: Pictures,
    gallery_pictures: Pictures,
) -> list[content.Pair] | str:
    if not (rows >= 0).any():
        return "All images are of one class."
    generator = draws.generator(Part.NEAREST)
    sample = np.sort(generator.permutation(len(found.query))[:_NUM_NEAREST])
    _, nearest = found.nearest(sample, 1)
    farthest = outcomes.suspect_distance(
        nearest[:, 0], len(found.query), subspaces.effective_dimension(found.covariance_sample())
    )
    pairs = outcomes.suspects(rows, distances, farthest=farthest, is_same_set=found.is_same_set)[
        :_NUM_PAIRS
    ]
    return [
        content.Pair(first, second, float(distances[query]))
        for first, second, (query, _) in zip(
            query_pictures.get(pairs[:, 0]), gallery_pictures.get(pairs[:, 1]), pairs, strict=True
        )
    ]


def _notes(config: ConfigDict) -> list[str]:
    if config.eval.protocol == "all_vs_all":
        return []
    if config.eval.protocol == "cross_camera":
        return [
            "Images of a query's class that its own camera took are left out of its list "
            "(eval.protocol=cross_camera); queries of a class that no other camera took are in no "
            "score."
        ]
    return [
        "Here each image searches all others; the scores are those of galleries of one random "
        "image of each class (eval.protocol=gallery)."
    ]
