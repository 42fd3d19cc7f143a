"""What the report of a run shows, as plain values; `report.render` makes a page of it.

A part that a run lacks is a text that says why, in place of the values: "the run has one cluster".
Lists are short: they hold what is shown, not all images.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Image:
    """An image of the data set.

    Attributes:
      name: its path, or its number if it has none.
      class_name: its class.
      picture: a thumbnail, encoded as WebP; None if its file cannot be read now.
    """

    name: str
    class_name: str
    picture: bytes | None


@dataclasses.dataclass(frozen=True)
class Neighbor:
    """An image that a query finds.

    Attributes:
      image: the image.
      distance: Euclidean, from 0 to 2 for embeddings of length 1.
      is_hit: whether it is of the query's class.
    """

    image: Image
    distance: float
    is_hit: bool


@dataclasses.dataclass(frozen=True)
class Ranking:
    """The nearest images to a query.

    Attributes:
      query: the image that searches.
      neighbors: by name of the space that is searched: "embedding", or "cluster 3", or a run in a
        report that compares runs. The nearest is first.
    """

    query: Image
    neighbors: Mapping[str, Sequence[Neighbor]]


@dataclasses.dataclass(frozen=True)
class Rankings:
    """Queries of one kind, as the worst ones.

    Attributes:
      title: of the kind.
      explanation: a sentence: how the queries are chosen.
      rankings: the queries.
    """

    title: str
    explanation: str
    rankings: Sequence[Ranking]


@dataclasses.dataclass(frozen=True)
class Setting:
    """A setting of the run.

    Attributes:
      name: as "division.max_clusters".
      value: its value.
      default: that of configs/default.py; None where it has no such setting.
    """

    name: str
    value: str
    default: str | None


@dataclasses.dataclass(frozen=True)
class Summary:
    """Is it good?

    Attributes:
      sentences: what the scores mean, in words.
      scores: score by name, by row: "last epoch (12)", "best epoch (9), ...", the same "on
        validation classes", "untrained features", "the paper"; scores that a row lacks are absent.
      best_by: name of the score that selects the best epoch.
      facts: name and value: data, devices, duration, versions, the command.
      settings: all, those that differ from their default first.
    """

    sentences: Sequence[str]
    scores: Mapping[str, Mapping[str, float]]
    best_by: str
    facts: Sequence[tuple[str, str]]
    settings: Sequence[Setting]


@dataclasses.dataclass(frozen=True)
class ClassScore:
    """Retrieval of one class.

    Attributes:
      name: of the class.
      num_queries: its images that search.
      recall_at_1: share of them whose nearest image is of the class.
      confused_with: the class of most wrong nearest images; None if there are none.
      share_confused: share of its queries whose nearest image is of that class.
    """

    name: str
    num_queries: int
    recall_at_1: float
    confused_with: str | None
    share_confused: float


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two images of different classes that nearly coincide: a wrong label, or a duplicate."""

    first: Image
    second: Image
    distance: float


@dataclasses.dataclass(frozen=True)
class Failures:
    """Where does it fail?

    Attributes:
      rankings: random queries, the worst and the best ones.
      classes: the worst first.
      num_classes: of all, of which `classes` may be the worst few.
      pairs: the nearest first; or why there are none.
      notes: as how these lists differ from the scores.
    """

    rankings: Sequence[Rankings]
    classes: Sequence[ClassScore]
    num_classes: int
    pairs: Sequence[Pair] | str
    notes: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Cluster:
    """A cluster of the last division.

    Attributes:
      number: from 0.
      size: training images in it.
      num_classes: classes that have images in it; None if that is not known.
      nearest: the images nearest to its centre.
      effective_dimension: of its subspace, see `Masks.effective_dimension`.
    """

    number: int
    size: int
    num_classes: int | None
    nearest: Sequence[Image]
    effective_dimension: float | None


@dataclasses.dataclass(frozen=True)
class Modes:
    """Images of one class in different clusters.

    Attributes:
      class_name: of the class.
      images: some, by cluster.
    """

    class_name: str
    images: Mapping[int, Sequence[Image]]


@dataclasses.dataclass(frozen=True)
class Masks:
    """The masks and their subspaces.

    Attributes:
      values: relu of the masks, [K, D].
      cosines: of all pairs of masks, [K, K].
      effective_dimension: number of equal eigenvalues with the same entropy as those of the
        covariance of the embeddings, exp(-sum p log p); None if that is not known.
    """

    values: np.ndarray
    cosines: np.ndarray
    effective_dimension: float | None


@dataclasses.dataclass(frozen=True)
class Divisions:
    """What did division do?

    Attributes:
      epochs: trained before each division, [P].
      num_clusters: [P].
      sizes: of the clusters of each division: K numbers, or none where they were not recorded.
      agreement: NMI with the division before, NaN where there is none, [P].
      agreement_with_labels: NMI with the classes, NaN where it was not recorded, [P].
      clusters: of the last division.
      negatives: mean distance to a batch's negatives within clusters, and at random.
      share_separated: of positive pairs, those in different clusters.
      modes: classes with several visual modes.
      masks: or why there are none.
      subspaces: some queries in the embedding and in each subspace; or why there are none.
      notes: as of how many images a sample is.
      effects: figures of each division when it was made, by name, NaN where they were not recorded,
        [P].
    """

    epochs: np.ndarray
    num_clusters: np.ndarray
    sizes: Sequence[np.ndarray]
    agreement: np.ndarray
    agreement_with_labels: np.ndarray
    clusters: Sequence[Cluster]
    negatives: tuple[float, float]
    share_separated: float
    modes: Sequence[Modes]
    masks: Masks | str
    subspaces: Sequence[Ranking] | str
    notes: Sequence[str] = ()
    effects: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Curve:
    """A quantity over epochs.

    Attributes:
      epochs: epochs trained, [P]; may be fractions.
      values: [P].
    """

    epochs: np.ndarray
    values: np.ndarray


@dataclasses.dataclass(frozen=True)
class Training:
    """How did it train?

    Attributes:
      loss: or why there is none.
      scores: curve by name of the score; "validation/NAME" on validation classes.
      images_per_second: by epoch.
      division_epochs: epochs trained before each division of the training set.
      seconds: time spent, by activity.
    """

    loss: Curve | str
    scores: Mapping[str, Curve]
    images_per_second: Curve | str
    division_epochs: np.ndarray
    seconds: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Projection:
    """A map of embeddings.

    Attributes:
      name: "PCA", "t-SNE".
      points: [M, 2].
    """

    name: str
    points: np.ndarray


@dataclasses.dataclass(frozen=True)
class Map:
    """Where is everything?

    Attributes:
      projections: of the same M images; the first is shown first.
      images: the M images.
      num_images: of all, of which the M may be a sample.
      notes: as why t-SNE is missing.
      distances_within: of pairs of one class, a sample.
      distances_between: of pairs of two classes, a sample.
    """

    projections: Sequence[Projection]
    images: Sequence[Image]
    num_images: int
    notes: Sequence[str]
    distances_within: np.ndarray
    distances_between: np.ndarray


@dataclasses.dataclass(frozen=True)
class Report:
    """The report of one run.

    Attributes:
      title: of the run.
      state: "finished", or why it is not: "stopped after epoch 3 of 20".
      summary: is it good?
      failures: where does it fail? Or why that is not known.
      divisions: what did division do? Or why that is not known.
      training: how did it train?
      map: where is everything? Or why that is not known.
    """

    title: str
    state: str
    summary: Summary
    failures: Failures | str
    divisions: Divisions | str
    training: Training | str
    map: Map | str


@dataclasses.dataclass(frozen=True)
class Difference:
    """The difference of a score between a run and the first one, over the same queries.

    Attributes:
      mean: of the differences.
      low: end of the 95 % interval of the mean.
      high: its other end.
    """

    mean: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Several runs on the same test images.

    Attributes:
      title: of the page.
      scores: score by name, by run; "validation/NAME" on validation classes.
      best_by: name of the score that selects the best epoch.
      differences: of runs but the first, by name of the score, by run; or why there are none.
      rankings: the same queries through each run.
      training: of each run.
      settings: that differ: their name, and the value by run.
      reports: where the page of each run is, relative to this page, by run; only those that exist.
    """

    title: str
    scores: Mapping[str, Mapping[str, float]]
    best_by: str
    differences: Mapping[str, Mapping[str, Difference]] | str
    rankings: Sequence[Rankings]
    training: Mapping[str, Training | str]
    settings: Mapping[str, Mapping[str, str]]
    reports: Mapping[str, str]
