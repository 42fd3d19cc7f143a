"""What did division do? Clusters, their classes and images, masks and subspaces."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from dcjax.analysis import clusters, subspaces
from dcjax.core.console import Console
from dcjax.core.errors import DcjaxError
from dcjax.data.datasets import ImageSet
from dcjax.division.division import Division
from dcjax.experiment import embedding
from dcjax.experiment.embedder import Embedder
from dcjax.experiment.report import draws, failures
from dcjax.experiment.report.draws import Part
from dcjax.experiment.report.pictures import Pictures
from dcjax.experiment.report.retrieval import Retrieval
from dcjax.experiment.report.saved import Saved
from dcjax.pages import content

# Figures of `effects` that the page shows over time.
_EFFECTS = (
    "nearest_negative_ratio",
    "separated_pairs",
    "variance_within",
    "mask_cosine",
    "classes_per_cluster",
)
_NUM_SAMPLED = 2048  # training images that are embedded
_NUM_NEAREST = 10  # images shown of a cluster
_NUM_CLUSTERS = 64  # shown
_NUM_CLASSES = 6  # whose modes are shown
_NUM_PARTS, _NUM_OF_PART = 3, 4  # clusters shown of such a class, and images of each
_NUM_QUERIES, _NUM_SUBSPACES, _NUM_NEIGHBORS = 4, 8, 6


def collect(
    run: Embedder,
    saved: Saved,
    found: Retrieval | str,
    pictures: tuple[Pictures, Pictures] | None,
    console: Console,
) -> content.Divisions | str:
    """Returns what division did; a text if the run has one cluster.

    Args:
      run: restored.
      saved: what it has saved.
      found: its test images, or why they are missing.
      pictures: of queries and gallery, if these are there.
      console: for the bar of what is embedded.
    """
    division = saved.division
    if division.num_clusters == 1:
        if saved.config.division.max_clusters == 1:
            return "The run has one cluster (division.max_clusters=1): nothing is divided."
        return "The run still has one cluster; it is divided later."
    points = saved.points("division")
    history = content.Divisions(
        epochs=saved.epochs(points),
        num_clusters=np.array([x["division/num_clusters"] for x in points], int),
        sizes=[np.array(x.get("division/sizes", []), int) for x in points],
        agreement=_values(points, "division/agreement"),
        agreement_with_labels=_values(points, "division/agreement_with_labels"),
        clusters=[],
        negatives=(np.nan, np.nan),
        share_separated=np.nan,
        modes=[],
        masks=_masks(run, found),
        subspaces=_subspaces(run, division, found, pictures),
        effects={name: _values(points, f"division/{name}") for name in _EFFECTS},
    )
    dimensions = _dimensions(run, division, found)
    try:
        train = run.load_train()
    except DcjaxError as error:
        return dataclasses.replace(
            history,
            clusters=_without_images(division, dimensions),
            notes=[f"What needs the training images is missing: {error}"],
        )
    return _with_images(history, run, division, train, dimensions, console)


def _values(points: Sequence, name: str) -> np.ndarray:
    return np.array([np.nan if x.get(name) is None else x[name] for x in points], float)


def _with_images(
    history: content.Divisions,
    run: Embedder,
    division: Division,
    train: ImageSet,
    dimensions: Sequence[float | None],
    console: Console,
) -> content.Divisions:
    """Adds what needs the training images; a sample of them is embedded."""
    generator = draws.generator(Part.CLUSTERS)
    rows = clusters.sample(division.cluster, _NUM_SAMPLED, generator)
    with embedding.show_progress(console, total=len(rows)) as advance:
        embeddings = run.embed(train.select(rows), advance)
    sampled = division.cluster[rows]
    counts = clusters.count(train.labels, division.cluster)
    num_classes = clusters.num_classes(counts, division.num_clusters)
    pictures = Pictures(train, run.config.dataset)
    nearest = clusters.nearest_to_centers(embeddings, sampled, division.num_clusters, _NUM_NEAREST)
    shown = _largest(division, _NUM_CLUSTERS)
    pictures.load(rows[np.concatenate([nearest[number] for number in shown])])
    notes = []
    if len(rows) < np.sum(division.cluster >= 0):
        notes.append(
            f"Centres and distances are those of a sample: {len(rows):,} of {len(train):,} "
            "training images, as many of each cluster, embedded by the network as it is now."
        )
    if len(shown) < division.num_clusters:
        notes.append(f"The {len(shown)} largest of {division.num_clusters:,} clusters are shown.")
    return dataclasses.replace(
        history,
        clusters=[
            content.Cluster(
                number=int(number),
                size=int(division.sizes[number]),
                num_classes=int(num_classes[number]),
                nearest=pictures.get(rows[nearest[number]]),
                effective_dimension=dimensions[number],
            )
            for number in shown
        ],
        negatives=clusters.negative_distances(
            embeddings, train.labels[rows], sampled, division.sizes
        ),
        share_separated=clusters.share_separated(counts),
        modes=_modes(division, train, counts, pictures),
        notes=notes,
    )


def _without_images(
    division: Division, dimensions: Sequence[float | None]
) -> list[content.Cluster]:
    return [
        content.Cluster(int(number), int(division.sizes[number]), None, [], dimensions[number])
        for number in _largest(division, _NUM_CLUSTERS)
    ]


def _largest(division: Division, count: int) -> np.ndarray:
    """Returns the numbers of the largest clusters, ascending."""
    return np.sort(np.argsort(-division.sizes, kind="stable")[:count])


def _modes(
    division: Division, train: ImageSet, counts: clusters.Counts, pictures: Pictures
) -> list[content.Modes]:
    """Returns the classes whose images are in several clusters, with some images of each."""
    parts: dict[int, dict[int, np.ndarray]] = {}
    for label in clusters.classes_with_modes(counts, _NUM_CLASSES).tolist():
        entries = np.flatnonzero((counts.labels == label) & (counts.clusters >= 0))
        largest = entries[np.argsort(-counts.images[entries], kind="stable")[:_NUM_PARTS]]
        parts[label] = {
            int(number): np.flatnonzero((train.labels == label) & (division.cluster == number))[
                :_NUM_OF_PART
            ]
            for number in counts.clusters[largest]
        }
    pictures.load([row for part in parts.values() for rows in part.values() for row in rows])
    return [
        content.Modes(train.class_names[label], {k: pictures.get(rows) for k, rows in part.items()})
        for label, part in parts.items()
    ]


def _masks(run: Embedder, found: Retrieval | str) -> content.Masks | str:
    if run.config.model.masks == "none":
        return "The run has no masks (model.masks=none): all clusters train the whole embedding."
    active = np.maximum(run.masks, 0)
    active = active[(active > 0).any(axis=1)]
    return content.Masks(
        values=active,
        cosines=subspaces.cosines(active),
        effective_dimension=None
        if isinstance(found, str)
        else subspaces.effective_dimension(found.covariance_sample()),
    )


def _dimensions(run: Embedder, division: Division, found: Retrieval | str) -> list[float | None]:
    """Returns the effective dimension of each cluster's subspace, None where it is not known."""
    if isinstance(found, str) or run.config.model.masks == "none":
        return [None] * division.num_clusters
    sample = found.covariance_sample()
    return [
        subspaces.effective_dimension(_to_subspace(run, sample, number))
        for number in range(division.num_clusters)
    ]


def _to_subspace(run: Embedder, embeddings: np.ndarray, number: int) -> np.ndarray:
    """Returns embeddings [N, D] in the subspace of a cluster."""
    return subspaces.project(embeddings, run.masks, number, run.config.model.test_masks)


def _subspaces(
    run: Embedder,
    division: Division,
    found: Retrieval | str,
    pictures: tuple[Pictures, Pictures] | None,
) -> list[content.Ranking] | str:
    """Returns what some queries find in the embedding and in the subspaces of large clusters."""
    if run.config.model.masks == "none":
        return "The run has no masks, and so no subspaces."
    if isinstance(found, str) or pictures is None:
        return str(found)
    queries = failures.random_queries(found, _NUM_QUERIES)
    rankings = failures.rank({"embedding": found}, queries, *pictures, num_neighbors=_NUM_NEIGHBORS)
    for number in _largest(division, _NUM_SUBSPACES):
        # One at a time: each is as large as the gallery.
        gallery = _to_subspace(run, found.gallery_embeddings, number)
        space = dataclasses.replace(
            found,
            query_embeddings=gallery
            if found.is_same_set
            else _to_subspace(run, found.query_embeddings, number),
            gallery_embeddings=gallery,
        )
        inside = failures.rank(
            {f"cluster {number}": space}, queries, *pictures, num_neighbors=_NUM_NEIGHBORS
        )
        rankings = [
            dataclasses.replace(x, neighbors={**x.neighbors, **y.neighbors})
            for x, y in zip(rankings, inside, strict=True)
        ]
    return rankings
