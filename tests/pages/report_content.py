"""Content of reports: real pictures of digits, and everything else as a small run would give."""

import functools
import io
from collections.abc import Sequence

import numpy as np
import PIL.Image
import sklearn.datasets

from dcjax.pages import content
from dcjax.pages.content import Curve, Image, Neighbor, Ranking, Rankings

HOSTILE_NAMES = (
    "<img src=x onerror=alert(1)>",
    "\"&;'",
    "</script><script>alert(2)</script>",
    "]]><!-- {{ 7 * 7 }} -->",
    "🐦‍⬛🌈 emoji",
    "שלום/עולם‏.jpg",
    "a" * 300,
)


@functools.cache
def digit_images(count: int, size: int = 96) -> tuple[Image, ...]:
    """Returns pictures of handwritten digits, of classes "0" to "9", at most 1,797."""
    digits = sklearn.datasets.load_digits()
    return tuple(
        Image(f"digits/{label}/{number:04d}.png", str(label), webp(pixels, size))
        for number, (pixels, label) in enumerate(
            zip(digits.images[:count], digits.target[:count], strict=True)
        )
    )


def webp(pixels: np.ndarray, size: int) -> bytes:
    """Encodes pixels from 0 to 16 [h, w], enlarged."""
    picture = PIL.Image.fromarray((255 - pixels * 15.9).astype(np.uint8))
    encoded = io.BytesIO()
    picture.resize((size, size), PIL.Image.Resampling.BICUBIC).save(encoded, "WEBP", quality=70)
    return encoded.getvalue()


def named(images: Sequence[Image], names: Sequence[str]) -> list[Image]:
    """Returns images whose own names and classes are those given, in turn."""
    return [
        Image(names[i % len(names)], names[i % len(names)], image.picture)
        for i, image in enumerate(images)
    ]


def create_report(
    images: Sequence[Image],
    *,
    num_clusters: int = 4,
    dimension: int = 32,
    num_queries: int = 3,
    num_neighbors: int = 8,
    num_class_rows: int = 20,
    num_on_map: int = 400,
    num_epochs: int = 12,
) -> content.Report:
    """Returns a report whose neighbours are those of random embeddings around class centres.

    Args:
      images: of the test set.
      num_clusters: of the last division; with one there are no masks.
      dimension: of the embedding.
      num_queries: of each kind.
      num_neighbors: of each query.
      num_class_rows: rows of the table of classes; their names are repeated with a number.
      num_on_map: images on the map.
      num_epochs: of training.
    """
    rng = np.random.default_rng(3)
    vectors = _embed(images, dimension, rng)
    spaces = {"embedding": vectors}
    masks = np.maximum(rng.normal(0.2, 0.5, (num_clusters, dimension)), 0)
    for number in range(num_clusters):
        spaces[f"cluster {number}"] = vectors * masks[number]
    kinds = {
        "At random": "Queries drawn at random.",
        "The worst": "Queries whose first image of their class comes last.",
        "The best": "Queries with most images of their class among the nearest.",
    }
    rankings = [
        Rankings(
            title,
            explanation,
            [
                _rank(images, {"embedding": vectors}, query, num_neighbors)
                for query in rng.integers(0, len(images), num_queries)
            ],
        )
        for title, explanation in kinds.items()
    ]
    subspaces = [
        _rank(images, spaces, query, num_neighbors)
        for query in rng.integers(0, len(images), num_queries)
    ]
    return content.Report(
        title="runs/digits_k4",
        state="finished",
        summary=_summary(),
        failures=content.Failures(
            rankings, _classes(images, num_class_rows, rng), num_class_rows, _pairs(images)
        ),
        divisions=_divisions(images, num_clusters, masks, subspaces, num_epochs, rng),
        training=create_training(num_epochs, rng),
        map=_map(images, vectors, num_on_map, rng),
    )


def create_comparison(images: Sequence[Image], runs: Sequence[str]) -> content.Comparison:
    """Returns a comparison of runs on the same images."""
    rng = np.random.default_rng(4)
    spaces = {run: _embed(images, 16, rng) for run in runs}
    rankings = [_rank(images, spaces, query, 8) for query in rng.integers(0, len(images), 3)]
    scores = {
        run: {"recall_at_1": 0.64 + 0.02 * i, "map_at_r": 0.31 + 0.015 * i, "nmi": 0.71 + 0.01 * i}
        for i, run in enumerate(runs)
    }
    differences = {
        run: {
            name: content.Difference(value, value - 0.015, value + 0.015)
            for name, value in [("recall_at_1", 0.02 * i), ("map_at_r", 0.015 * i - 0.02)]
        }
        for i, run in enumerate(runs)
        if i
    }
    return content.Comparison(
        title=f"{len(runs)} runs on digits",
        scores=scores,
        best_by="recall_at_1",
        differences=differences,
        rankings=[Rankings("Where the runs differ most", "The same queries.", rankings)],
        training={run: create_training(12, rng) for run in runs},
        settings={
            "division.max_clusters": {run: str(2**i) for i, run in enumerate(runs)},
            "loss.name": {run: "margin" if i else "proxy_anchor" for i, run in enumerate(runs)},
        },
        reports={run: f"../{i}/report/index.html" for i, run in enumerate(runs) if i},
    )


def create_training(num_epochs: int, rng: np.random.Generator) -> content.Training:
    """Returns curves of so many epochs."""
    epochs = np.arange(num_epochs + 1, dtype=float)
    steps = np.linspace(0.05, num_epochs, 400)
    rise = 1 - np.exp(-epochs / 4)
    scores = {"recall_at_1": 0.44, "recall_at_2": 0.55, "map_at_r": 0.18, "nmi": 0.52}
    return content.Training(
        loss=Curve(steps, np.exp(-steps / 5) + rng.normal(0, 0.02, len(steps))),
        scores={
            name: Curve(epochs, start + 0.2 * rise + rng.normal(0, 0.006, len(epochs)))
            for name, start in scores.items()
        },
        images_per_second=Curve(epochs[1:], rng.normal(2100, 40, num_epochs)),
        division_epochs=epochs[1::2],
        seconds={"training": 512.0, "evaluation": 61.0, "division": 38.5, "checkpoints": 4.2},
    )


def _summary() -> content.Summary:
    rows = {
        "last epoch (12)": 0.6412,
        "best epoch (9), chosen on these images": 0.6489,
        "untrained features": 0.4401,
    }
    scores = {
        name: {
            "recall_at_1": first,
            "recall_at_2": first + 0.09,
            "recall_at_4": first + 0.17,
            "recall_at_8": first + 0.24,
            "map_at_r": first / 2.1,
            "nmi": first + 0.05,
        }
        for name, first in rows.items()
    }
    scores["the paper"] = {"recall_at_1": 0.659, "nmi": 0.696}
    return content.Summary(
        sentences=[
            "Of 100 queries, 64 find an image of their class first; with untrained features, 44.",
            "With the best epoch it would be 65, but that epoch was chosen on these very images.",
            "The paper reports 66.",
        ],
        scores=scores,
        best_by="recall_at_1",
        facts=[
            ("data", "digits, 1,797 images of 10 classes, 898 to test"),
            ("devices", "1 CPU"),
            ("duration", "10 min 16 s"),
            ("versions", "dcjax 0.9, jax 0.12.0, Python 3.13.1"),
            ("command", "python launch.py --config=configs/digits.py --workdir=runs/digits_k4"),
        ],
        settings=[
            content.Setting("division.max_clusters", "4", "1"),
            content.Setting("train.num_epochs", "12", "80"),
            content.Setting("user.note", "my own setting", None),
            *(content.Setting(f"loss.option_{i}", str(i / 10), str(i / 10)) for i in range(40)),
        ],
    )


def _embed(images: Sequence[Image], dimension: int, rng: np.random.Generator) -> np.ndarray:
    classes = [image.class_name for image in images]
    names = sorted(set(classes))
    centers = rng.normal(size=(len(names), dimension))
    which = [names.index(name) for name in classes]
    vectors = centers[which] + rng.normal(0, 1.1, (len(images), dimension))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _rank(
    images: Sequence[Image], spaces: dict[str, np.ndarray], query: int, count: int
) -> Ranking:
    neighbors = {}
    for space, vectors in spaces.items():
        distances = np.linalg.norm(vectors - vectors[query], axis=1)
        nearest = [i for i in np.argsort(distances, kind="stable") if i != query][:count]
        neighbors[space] = [
            Neighbor(
                images[i],
                float(distances[i]),
                images[i].class_name == images[query].class_name,
            )
            for i in nearest
        ]
    return Ranking(images[query], neighbors)


def _classes(
    images: Sequence[Image], count: int, rng: np.random.Generator
) -> list[content.ClassScore]:
    names = list(dict.fromkeys(image.class_name for image in images))
    shares = np.sort(rng.uniform(0.2, 1, count))
    return [
        content.ClassScore(
            name=f"{names[i % len(names)]}{i // len(names) or ''}",
            num_queries=int(rng.integers(4, 60)),
            recall_at_1=float(share),
            confused_with=names[(i + 3) % len(names)] if share < 0.9 else None,
            share_confused=float((1 - share) / 2) if share < 0.9 else 0.0,
        )
        for i, share in enumerate(shares)
    ]


def _pairs(images: Sequence[Image]) -> list[content.Pair]:
    return [
        content.Pair(images[i], images[i + 1], 0.001 * (i + 1))
        for i in range(0, min(8, len(images) - 1), 2)
    ]


def _divisions(
    images: Sequence[Image],
    num_clusters: int,
    masks: np.ndarray,
    subspaces: Sequence[Ranking],
    num_epochs: int,
    rng: np.random.Generator,
) -> content.Divisions:
    epochs = np.arange(1, max(num_epochs, 2), 2)
    counts = np.minimum(num_clusters, 2 ** np.arange(1, len(epochs) + 1))
    unit = masks / np.maximum(np.linalg.norm(masks, axis=1, keepdims=True), 1e-9)
    agreement = np.where(epochs == epochs[0], np.nan, 1 - np.exp(-epochs / 3))
    one = "The run has one cluster, so that its mask selects all dimensions."
    return content.Divisions(
        epochs=epochs,
        num_clusters=counts,
        sizes=[rng.multinomial(899, np.full(count, 1 / count)) for count in counts],
        agreement=agreement,
        agreement_with_labels=0.6 - 0.3 * np.exp(-epochs / 4),
        clusters=[
            content.Cluster(
                number,
                int(rng.integers(100, 400)),
                int(rng.integers(2, 10)),
                [images[i] for i in rng.integers(0, len(images), 8)],
                float(rng.uniform(3, 9)) if num_clusters > 1 else None,
            )
            for number in range(num_clusters)
        ],
        negatives=(0.87, 1.16),
        share_separated=0.137,
        effects={
            "nearest_negative_ratio": 1 - 0.1 * np.log2(counts) / 3,
            "separated_pairs": 0.137 * np.log2(counts) / 3,
            "classes_per_cluster": 20 / np.array(counts),
        },
        modes=[
            content.Modes(
                images[query].class_name,
                {
                    number: [images[i] for i in rng.integers(0, len(images), 5)]
                    for number in range(min(3, num_clusters))
                },
            )
            for query in range(min(2, len(images)))
        ],
        masks=content.Masks(masks, unit @ unit.T, 11.3) if num_clusters > 1 else one,
        subspaces=subspaces if num_clusters > 1 else one,
    )


def _map(
    images: Sequence[Image], vectors: np.ndarray, count: int, rng: np.random.Generator
) -> content.Map:
    rows = rng.permutation(len(images))[:count]
    chosen = vectors[rows]
    classes = np.array([images[i].class_name for i in rows])
    first, second = rng.integers(0, len(rows), (2, 4000))
    distances = np.linalg.norm(chosen[first] - chosen[second], axis=1)
    same = (classes[first] == classes[second]) & (first != second)
    projection = np.linalg.svd(chosen - chosen.mean(0), full_matrices=False)[2][:2]
    other = rng.normal(size=(vectors.shape[1], 2))
    return content.Map(
        projections=[
            content.Projection("PCA", chosen @ projection.T),
            content.Projection("t-SNE", np.tanh(chosen @ other) * 40),
        ],
        images=[images[i] for i in rows],
        num_images=len(images),
        notes=["t-SNE is made of at most 2,000 images; these are a random sample."],
        distances_within=distances[same],
        distances_between=distances[~same],
    )
